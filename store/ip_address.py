"""Reads IP addresses as Zipkin does: what is no address is dropped, and IPv6 has one spelling.

Source: Endpoint.Builder of Zipkin 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address

_WORD = (
    "(?:[0-9a-f]|[0-9a-f][0-9]|[01][0-9]{2}|2[0-4][0-9]|25[0-5])"  # Zipkin lets a letter begin a short one
)
_is_ipv4 = re.compile(rf"{_WORD}(?:\.{_WORD}){{3}}", re.IGNORECASE).fullmatch
_embedded_ipv4 = re.compile(r"(?:::|::[f0]{4}:)([0-9a-f.]+)", re.IGNORECASE).fullmatch


def read_ip(text: str) -> tuple[str | None, str | None]:
    """Return an address as (ipv4, ipv6): one of them, or None twice if the text is not an address."""
    if ":" not in text:
        return (text, None) if _is_ipv4(text) else (None, None)
    if "." in text:
        found = _embedded_ipv4(text)
        return (found[1], None) if found and _is_ipv4(found[1]) else (None, None)
    try:
        address = IPv6Address(text)
    except ValueError:
        return None, None
    return None, None if address.scope_id else _spelled(address.packed)


def _spelled(packed: bytes) -> str:
    """Write an IPv6 address: the longest run of zeros is `::`, one at the end only if it is the only one."""
    words = [f"{packed[index] << 8 | packed[index + 1]:x}" for index in range(0, 16, 2)]
    start, end = _run_of_zeros(words)
    if start == end:
        return ":".join(words)
    return f"{':'.join(words[:start])}::{':'.join(words[end:])}"


def _run_of_zeros(words: Sequence[str]) -> tuple[int, int]:
    best = (0, 0)
    start = None
    for index, word in enumerate(words):
        if word == "0":
            start = index if start is None else start
        elif start is not None:
            if index - start > best[1] - best[0]:
                best = (start, index)
            start = None
    if start is not None and best == (0, 0):
        best = (start, len(words))
    return best
