"""What takes a process's finished spans: a ring in shared memory, else one on disk, else HTTP."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kaspan.config.schema import (
    DEFAULT_LISTEN,
    Interceptor,
    default_fallback_dir,
    default_ring_dir,
    default_socket,
)
from kaspan.interceptor.reporters.ring import SpanRing
from kaspan.interceptor.reporters.room import NoRoomError, warn_of_shortage

if TYPE_CHECKING:
    from kaspan.interceptor.reporters.http import HttpReporter
    from kaspan.interceptor.reporters.http_client import ReportClient


class Reporters:
    """Makes the reporter of a process under `settings`, and those of its forks."""

    def __init__(self, settings: Interceptor) -> None:
        self._settings = settings
        self._default_ring_dir = default_ring_dir()
        self._endpoint: ReportClient | None = None
        if settings.agent != "ring":
            from kaspan.interceptor.reporters.http_client import ReportClient

            # At once: the process may have another root or user by the first span.
            self._endpoint = ReportClient(settings.agent, settings.token)

    def make(self, process: dict[str, object]) -> SpanRing | HttpReporter:
        """Make a reporter for the process that `process` describes; the caller closes it when that ends.

        Raises OSError where there can be none.
        """
        if self._endpoint is not None:
            return self._http(self._endpoint)
        path, fallback = self._directories()
        try:
            return SpanRing(path, self._settings.ring_bytes, process, fallback)
        except NoRoomError as error:
            address = local_agent()
            # Loaded here: few processes ever need it.
            from kaspan.interceptor.reporters.http_client import ReportClient

            reporter = self._http(ReportClient(address, self._settings.token))
            warn_of_shortage(str(error), f"in its own memory and reports them to {address}")
            return reporter

    def _http(self, endpoint: ReportClient) -> HttpReporter:
        from kaspan.interceptor.reporters.http import HttpReporter

        return HttpReporter(endpoint, self._settings.ring_bytes)

    def _directories(self) -> tuple[str, str | None]:
        """Return the ring directory, and another where rings go if it has no room.

        There is none for a directory that was set, since only the agent's settings say where else it looks.
        """
        if self._settings.ring_dir != self._default_ring_dir:
            return self._settings.ring_dir, None
        # Servers load applications as root and change the user in their workers.
        return default_ring_dir(), default_fallback_dir()


def local_agent() -> str:
    """Return the address of an agent of this user's, or else of this machine's, where nothing is set."""
    socket = default_socket()
    return f"unix://{socket}" if socket and os.path.exists(socket) else f"http://{DEFAULT_LISTEN}"
