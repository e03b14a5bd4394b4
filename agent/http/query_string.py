"""Reads the parameters of a request's query string, as Zipkin's server does."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_MALFORMED = re.compile("%(?![0-9A-Fa-f]{2})|%00")


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters by name. Of a repeated one the first value counts; without `=` it is empty.

    A plus sign is a space. Escaped bytes that are not UTF-8 become U+FFFD, other characters stay. Raises
    ValueError for a % that escapes no byte, or the byte 0.
    """
    if _MALFORMED.search(query):
        raise ValueError("The query string has a % without two hexadecimal digits behind it, or %00")
    parameters: dict[str, str] = {}
    for parameter in filter(None, query.split("&")):
        name, _, value = parameter.partition("=")
        parameters.setdefault(unquote_plus(name), unquote_plus(value))
    return parameters
