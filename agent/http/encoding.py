"""Whether a client takes gzip."""

from __future__ import annotations

from collections.abc import Mapping


def accepts_gzip(headers: Mapping[str, str]) -> bool:
    """Whether Accept-Encoding names gzip, or everything, with a weight above 0. Source: RFC 9110."""
    weights: dict[str, bool] = {}
    for item in headers.get("accept-encoding", "").lower().split(","):
        coding, _, parameters = item.partition(";")
        name, _, weight = parameters.partition("=")
        is_wanted = name.strip() != "q" or bool(weight.strip("0. \t"))
        weights.setdefault(coding.strip(), is_wanted)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))
