"""Reports the agent's state to the service manager by systemd's protocol: datagrams of NAME=VALUE lines.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

_log = logging.getLogger("kaspan.agent")


class ServiceManager:
    """The service manager that started the agent, as the environment says. Never raises, never blocks.

    Without one, all methods do nothing. `watchdog_s` is how often it expects `watchdog`, None if never.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # An address that begins with @ is in Linux's abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environ) if path else None

    def ready(self, status: str) -> None:
        """Report that the agent accepts spans, or uses its new settings."""
        self._notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that the agent reads its settings again; `ready` follows."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the agent stops."""
        self._notify("STOPPING=1")

    def watchdog(self) -> None:
        """Report that all parts work."""
        self._notify("WATCHDOG=1")

    def _notify(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                sender.send(message.encode())
        except OSError as error:
            _log.debug("NOTIFY_SOCKET: %s", error)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    interval_us, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or int(interval_us) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(interval_us) / 1e6
