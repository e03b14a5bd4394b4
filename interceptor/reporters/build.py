"""Make the reporter of a process: a ring in shared memory, else a ring on disk, else HTTP."""

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
    """Makes the reporters of a process and of its forked children under `settings`."""

    def __init__(self, settings: Interceptor) -> None:
        self._settings = settings
        self._default_ring_dir = default_ring_dir()
        self._client: ReportClient | None = None
        if settings.agent != "ring":
            from kaspan.interceptor.reporters.http_client import ReportClient

            # Made now: before its first span the process may change its root or user.
            self._client = ReportClient(settings.agent, settings.token)

    def make(self, process: dict[str, object]) -> SpanRing | HttpReporter:
        """Make a reporter for the process that `process` describes; the caller closes it when that ends.

        Raises OSError if it can make none.
        """
        if self._client is not None:
            return self._http(self._client)
        path, fallback = self._directories()
        try:
            return SpanRing(path, self._settings.ring_bytes, process, fallback)
        except NoRoomError as error:
            address = local_agent()
            # Imported here: few processes need it.
            from kaspan.interceptor.reporters.http_client import ReportClient

            reporter = self._http(ReportClient(address, self._settings.token))
            warn_of_shortage(str(error), f"in its own memory and reports them to {address}")
            return reporter

    def _http(self, client: ReportClient) -> HttpReporter:
        from kaspan.interceptor.reporters.http import HttpReporter

        return HttpReporter(client, self._settings.ring_bytes)

    def _directories(self) -> tuple[str, str | None]:
        """Return the ring directory, and the fallback for rings if that has no room.

        A directory from the settings has no fallback: only the agent's settings say what else it reads.
        """
        if self._settings.ring_dir != self._default_ring_dir:
            return self._settings.ring_dir, None
        # Computed again: some servers load applications as root and change the user in their workers.
        return default_ring_dir(), default_fallback_dir()


def local_agent() -> str:
    """Return the default address of this user's agent, or else of this machine's."""
    socket = default_socket()
    return f"unix://{socket}" if socket and os.path.exists(socket) else f"http://{DEFAULT_LISTEN}"
