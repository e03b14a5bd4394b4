"""Write values as YAML on one line, for messages and for `kaspan config`, without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

SECRET_WORDS = ("password", "secret", "token")
MASK = "***"
_after_secret_word = re.compile(
    rf"((?:{'|'.join(SECRET_WORDS)}|authorization)\w*['\"]?[\s:=]|private key-----).*",
    re.IGNORECASE | re.DOTALL,
).sub


def is_secret(key: str) -> bool:
    """Whether the value of a dotted key must not be shown: its last name says so, or it is an HTTP header.

    A sender's headers often hold credentials.
    """
    name = key.rpartition(".")[2].lower()
    return ".headers." in f"{key}." or any(word in name for word in SECRET_WORDS)


def mask(key: str, text: str) -> str:
    """Return a key's text as it may be shown: secrets, and an address's credentials and query, become ***.

    The user name of an address is shown only if a password follows it: without one, it may be a token.
    """
    if is_secret(key):
        return MASK if text else ""
    user, at, host = text.rpartition("@")
    scheme, separator, user = user.rpartition("://")
    name, colon, password = user.partition(":")
    if at and (colon or separator or key.endswith(("url", "interceptor.agent"))):
        shown = f"{scheme}{separator}{f'{name}:' if password else ''}{MASK}@{host}"
    else:
        shown = text
    address, _, query = shown.partition("?")
    return f"{address}?{MASK}" if query and "://" in address else shown


def mask_name(name: str) -> str:
    """Return a key's name as it may be shown. YAML reads `{password:hunter2}`, without a space after the
    colon, and `{password=hunter2}` as one name.
    """
    name, colon, rest = name.partition(":")
    return f"{name}:{MASK}" if rest else mask_misplaced(name) + colon


def mask_misplaced(text: str) -> str:
    """Return any text as it may be shown: what follows the name of a secret becomes ***."""
    return _after_secret_word(rf"\1{MASK}", text)


def write(key: str, value: Any) -> str:
    """Write a setting's value as YAML on one line, without secrets; "" for a key that is not set."""
    return "" if value is None else _write(key, msgspec.to_builtins(value))


def _write(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        shown = mask_name if is_secret(f"{key}.") else str
        entries = [f"{quote(shown(k))}: {_write(f'{key}.{k}', v)}" for k, v in value.items() if v is not None]
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_write(key, item) for item in value) + "]"
    if is_secret(key) and value:
        return quote(MASK)
    if isinstance(value, str):
        return quote(mask(key, value))
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def quote(text: str) -> str:
    """Write text as a YAML scalar, in quotes unless every YAML reader reads the same text without them."""
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
