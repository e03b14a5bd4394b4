"""Secrets of senders: taken from the agent's environment where the settings say so, and kept out of logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kaspan.agent.environment import VariableError, expand
from kaspan.config.display import MASK, is_secret

_SHORTEST = 4  # to hide less would put *** into the middle of words


class Secrets:
    """Texts that must not be seen."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        self._texts = sorted(
            {text for text in texts if text and len(text) >= _SHORTEST}, key=len, reverse=True
        )

    def masked(self, text: str) -> str:
        """Return a text with *** in the place of each secret."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text


def with_secrets(value: Any, key: str, environ: Mapping[str, str], errors: list[str]) -> Any:
    """Return settings with variables of `environ` in their secrets, wherever a key is named like one.

    What is wrong with a reference is added to `errors`, a line each, and never a value.
    """
    if isinstance(value, msgspec.Struct):
        fields = {field.name: field.encode_name for field in msgspec.structs.fields(value)}
        changes = {
            name: with_secrets(getattr(value, name), f"{key}.{shown}", environ, errors)
            for name, shown in fields.items()
        }
        return msgspec.structs.replace(value, **changes)
    if isinstance(value, dict):
        return {name: with_secrets(item, f"{key}.{name}", environ, errors) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(
            with_secrets(item, f"{key}[{index}]", environ, errors) for index, item in enumerate(value)
        )
    if isinstance(value, str) and is_secret(key):
        try:
            return expand(value, environ)
        except VariableError as error:
            errors.append(f"{key}: {error}")
    return value
