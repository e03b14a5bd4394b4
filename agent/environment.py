"""Expands environment variables in the values of settings: ${NAME} and ${NAME:-default}."""

from __future__ import annotations

import re
from collections.abc import Mapping

_reference = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|(?P<broken>\$\{[^}]*\}?)"
)


class VariableError(ValueError):
    """A reference to a variable cannot be expanded; the message names it and says what to do."""


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace each reference to a variable by its value; $${ becomes the text ${.

    An empty variable counts as not set, as in the settings. Raises VariableError for a variable that is not
    set and has no default, and for an incomplete reference; its message never contains a value.
    """

    def value_of(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "${"
        if found["broken"]:
            raise VariableError(
                f"{found['broken']} is not a reference to a variable; the rule is ${{NAME}} or "
                "${NAME:-default}, and $${ for the text ${ itself"
            )
        name: str = found["name"]
        value = environ.get(name) or found["default"]
        if value is None:
            raise VariableError(
                f"the environment variable {name} is not set or empty; set it for the agent, or write "
                f"${{{name}:-default}}"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise VariableError(f"the environment variable {name} is not UTF-8; correct it") from error
        return value

    return _reference.sub(value_of, text)
