"""Write values as YAML on one line, for messages and for `kaspan config`; secrets are never written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

SECRET_WORDS = ("password", "secret", "token")
MASK = "***"


def is_secret(key: str) -> bool:
    """Whether a dotted key holds something that must not be seen: its last name says so, or it is a header.

    What a sender's headers are for is not known, but often it is to let it in.
    """
    name = key.rpartition(".")[2].lower()
    return ".headers." in key or any(word in name for word in SECRET_WORDS)


def mask(key: str, text: str) -> str:
    """Return a key's text as it may be shown: a secret, or the password or query of an address, as ***."""
    if is_secret(key):
        return MASK if text else ""
    user, at, host = text.rpartition("@")
    scheme, separator, user = user.rpartition("://")
    name, colon, _password = user.partition(":")
    shown = f"{scheme}{separator}{name}:{MASK}@{host}" if at and colon else text
    address, _, query = shown.partition("?")
    return f"{address}?{MASK}" if query and "://" in address else shown


def write(key: str, value: Any) -> str:
    """Write a setting's value as YAML on one line, masked; nothing for a key that is not set."""
    return "" if value is None else _write(key, msgspec.to_builtins(value))


def _write(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        entries = [f"{quote(k)}: {_write(f'{key}.{k}', v)}" for k, v in value.items() if v is not None]
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_write(key, item) for item in value) + "]"
    if is_secret(key) and value:
        return quote(MASK)
    if isinstance(value, str):
        return quote(mask(key, value))
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def quote(text: str) -> str:
    """Write text as a YAML scalar: bare where every reader takes it for the same text, else quoted."""
    letters = text.translate(_PLAIN_MARKS)
    starts_plain = text[:1].isalpha() or text[:1] == "/"
    if starts_plain and letters.isascii() and letters.isalnum() and text.lower() not in _TAKEN:
        return text
    return '"' + "".join(map(_escape, text)) + '"'


_PLAIN_MARKS = str.maketrans("", "", "/_-.")
_TAKEN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
