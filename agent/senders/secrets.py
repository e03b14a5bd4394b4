"""Secrets of senders: reads them from the environment where settings say so, and masks them in logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kaspan.agent.environment import VariableError, expand
from kaspan.config.display import MASK, is_secret

_SHORTEST = 4  # masking shorter texts would put *** into ordinary words


class Secrets:
    """Texts that must not appear in messages."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        self._texts = sorted(
            {text for text in texts if text and len(text) >= _SHORTEST}, key=len, reverse=True
        )

    def masked(self, text: str) -> str:
        """Return a text in which *** replaces each secret."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text


def with_secrets(value: Any, key: str, environ: Mapping[str, str], errors: list[str]) -> Any:
    """Return settings with variables expanded in their secrets; a key's name tells that it is a secret.

    Wrong references are added to `errors`, a line each, without values.
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
