"""kaspan.agent.systemd: what the service manager is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.systemd import ServiceManager


@pytest.fixture
def manager_socket() -> Iterator[socket.socket]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(10)
    yield listening
    listening.close()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_readiness_is_said_to_the_socket(
    manager_socket: socket.socket, tmp_path: Path, is_abstract: bool
) -> None:
    """The manager gives a path, or a name in the abstract namespace that begins with @."""
    name = f"{tmp_path}/notify"
    manager_socket.bind(f"\0{name}" if is_abstract else name)
    manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}" if is_abstract else name})
    manager.ready("reads rings")
    manager.watchdog()
    manager.stopping()
    assert manager_socket.recv(1000) == b"READY=1\nSTATUS=reads rings"
    assert manager_socket.recv(1000) == b"WATCHDOG=1"
    assert manager_socket.recv(1000) == b"STOPPING=1"


def test_reload_is_said_with_its_time(manager_socket: socket.socket, tmp_path: Path) -> None:
    """Type=notify-reload waits for RELOADING=1 with the monotonic time, and then READY=1."""
    manager_socket.bind(f"{tmp_path}/notify")
    ServiceManager({"NOTIFY_SOCKET": f"{tmp_path}/notify"}).reloading()
    said = dict(line.split("=") for line in manager_socket.recv(1000).decode().splitlines())
    assert said["RELOADING"] == "1"
    assert int(said["MONOTONIC_USEC"]) > 0


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_nobody_who_listens_is_no_error(environ: dict[str, str]) -> None:
    """An agent that was started by hand sends no notification."""
    ServiceManager(environ).ready("reads rings")


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_is_for_the_process_that_it_names(environ: dict[str, str], watchdog_s: float | None) -> None:
    """Its interval comes in microseconds; a child that inherited the environment is not meant."""
    assert ServiceManager({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_s == watchdog_s
