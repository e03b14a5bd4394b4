"""Record headers that become tags of the record's spans (`capture_headers`)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from kaspan.wire.context import Headers

MAX_HEADER_BYTES = 256
"""A longer header value is cut off in its tag."""


class CapturedHeaders:
    """Makes tags of record headers whose names match a glob."""

    def __init__(self, globs: Iterable[str]) -> None:
        self._globs = tuple(globs)

    def tags(self, headers: Headers) -> list[tuple[str, str]]:
        """Return the tags `messaging.header.NAME` of these headers. Leaves out values that are not UTF-8."""
        tags = []
        for name, value in headers:
            if value is None or not any(fnmatchcase(name, glob) for glob in self._globs):
                continue
            try:
                tags.append((f"messaging.header.{name}", value[:MAX_HEADER_BYTES].decode()))
            except UnicodeDecodeError:
                continue
        return tags
