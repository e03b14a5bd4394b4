"""kaspan.agent.http.listener: where the agent listens, and where it refuses to."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.http.errors import ListenError
from kaspan.agent.http.listener import Listener, open_listeners
from kaspan.config import schema

TOKEN = "correct-horse-battery"
NOBODY_UID = 65534


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """Give a list whose listeners are closed at the end."""
    listeners: list[Listener] = []
    yield listeners
    for listener in listeners:
        listener.close()


def open_these(opened: list[Listener], **settings: object) -> list[Listener]:
    given = {"listen": "", "socket": "", **settings}
    opened += open_listeners(schema.Agent(**given))  # type: ignore[arg-type]
    return opened


def refusal_of(**settings: object) -> str:
    with pytest.raises(ListenError) as refused:
        open_these([], **settings)
    return str(refused.value)


def test_default_is_the_loopback_and_nothing_else() -> None:
    """The agent is not reachable from the network unless the settings say so."""
    assert schema.Agent().listen == "127.0.0.1:9412"


@pytest.mark.parametrize(
    ("euid", "runtime", "path"),
    [(0, None, "/run/kaspan/agent.sock"), (1000, "{}", "{}/kaspan/agent.sock"), (1000, None, "")],
)
def test_default_socket_is_where_this_user_may_make_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, euid: int, runtime: str | None, path: str
) -> None:
    """Root has /run, others their own runtime directory, and who has none gets no socket and no error."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime.format(tmp_path))
    assert schema.default_socket() == path.format(tmp_path)


def test_empty_settings_open_nothing(opened: list[Listener]) -> None:
    """Both ways in can be closed."""
    assert open_these(opened) == []


def test_port_in_use_is_named(opened: list[Listener]) -> None:
    """An agent does not start on an address that is in use, and says what to do."""
    (listener,) = open_these(opened, listen="127.0.0.1:0")
    taken = listener.name.removeprefix("http://")
    said = refusal_of(listen=taken)
    assert said.startswith(f"agent.listen: {taken} cannot be listened on: Address already in use; stop")


@pytest.mark.parametrize("address", ["192.0.2.1:9412", "no-such-host.invalid:9412"])
def test_address_of_another_machine_is_named(address: str) -> None:
    """An address that is not this machine's is an error that names the setting."""
    assert refusal_of(listen=address).startswith(f"agent.listen: {address} cannot be ")


def test_nothing_stays_open_when_one_of_them_fails(opened: list[Listener], tmp_path: Path) -> None:
    """When the socket cannot be had, the port is free again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    refusal_of(listen=address, socket=f"{tmp_path}/{'x' * 200}.sock")
    assert len(open_these(opened, listen=address)) == 1


@pytest.mark.parametrize(
    ("listen", "token", "said"),
    [
        ("127.0.0.1:0", "", ""),
        ("[::1]:0", "", ""),
        ("0.0.0.0:0", "", "ANYBODY who reaches 0.0.0.0:0 can report spans, since agent.token is not set"),
        ("0.0.0.0:0", TOKEN, "agent.token crosses the network unencrypted"),
    ],
)
def test_open_door_is_said_loudly(
    opened: list[Listener], caplog: pytest.LogCaptureFixture, listen: str, token: str, said: str
) -> None:
    """What can be reached from outside without a token, or with one that can be read, is a warning."""
    try:
        open_these(opened, listen=listen, token=token)
    except ListenError:
        pytest.skip("no IPv6 here")
    assert [record.levelno for record in caplog.records] == ([logging.WARNING] if said else [])
    assert said in caplog.text
    assert TOKEN not in caplog.text


def test_open_door_to_a_store_is_said_louder(
    opened: list[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    """Spans of a whole site can be read there."""
    open_these(opened, listen="0.0.0.0:0", store=schema.Store(path="/store"))
    assert "can report spans and read all that are in the store, since agent.token is not set" in caplog.text


def test_socket_is_for_owner_and_group(opened: list[Listener], tmp_path: Path) -> None:
    """The socket has mode 0660, whatever the umask, and its directory is made if need be."""
    path = tmp_path / "run" / "agent.sock"
    before = os.umask(0)
    try:
        open_these(opened, socket=str(path))
    finally:
        os.umask(before)
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


def test_socket_of_a_dead_agent_is_replaced(opened: list[Listener], tmp_path: Path) -> None:
    """A socket file without a listener does not keep the next agent from starting."""
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    assert len(open_these(opened, socket=path)) == 1


def test_socket_of_a_living_process_is_left_alone(opened: list[Listener], tmp_path: Path) -> None:
    """A second agent on the same socket does not start, and the first one keeps it."""
    path = str(tmp_path / "agent.sock")
    open_these(opened, socket=path)
    assert refusal_of(socket=path) == (
        f"agent.socket: {path} is in use by another process; stop it or set another path"
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    """An agent that ends leaves no socket behind."""
    path = tmp_path / "agent.sock"
    (listener,) = open_these([], socket=str(path))
    listener.close()
    assert not path.exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """A file that is not a socket is not removed to make room for one."""
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    assert "exists and is not a socket" in refusal_of(socket=str(path))
    assert path.read_text() == "precious"


def test_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    """Linux takes 107 bytes, and the error says so."""
    path = f"{tmp_path}/{'x' * 108}"
    assert refusal_of(socket=path) == (f"agent.socket: {path} is longer than the 107 bytes that Linux allows")


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_directory_in_which_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Where other users could replace the agent's socket, none is made."""
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    assert f"{directory} has mode {mode:04o}, so others may replace" in refusal_of(
        socket=str(directory / "agent.sock")
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["directory", "socket"])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, what: str) -> None:
    """Neither a socket in somebody else's directory nor somebody else's socket is used."""
    path = tmp_path / "theirs" / "agent.sock"
    path.parent.mkdir()
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(str(path))
    os.chown(path.parent if what == "directory" else path, NOBODY_UID, NOBODY_UID)
    assert f"belongs to uid {NOBODY_UID}" in refusal_of(socket=str(path))


def test_directory_that_cannot_be_made_is_named() -> None:
    """A path that cannot be used is an error that says what to do."""
    assert 'or to "" for none' in refusal_of(socket="/proc/kaspan/agent.sock")


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"cert": "{}/cert.pem"}, "agent.tls.key is missing"),
        ({"key": "{}/key.pem"}, "agent.tls.cert is missing"),
        ({"cert": "{}/nowhere", "key": "{}/key.pem"}, "agent.tls.cert: {}/nowhere does not exist"),
        ({"cert": "{}/cert.pem", "key": "{}/nowhere"}, "agent.tls.key: {}/nowhere does not exist"),
        (
            {"cert": "{}/cert.pem", "key": "{}/key.pem"},
            "agent.tls: {}/cert.pem and {}/key.pem cannot be used together",
        ),
    ],
)
def test_certificate_that_is_none_is_named(tmp_path: Path, tls: dict[str, str], said: str) -> None:
    """Every mistake in the files of TLS names the setting and the file, and nothing of a key's content."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN SECRET-----")
    files = schema.Tls(**{name: path.format(tmp_path) for name, path in tls.items()})
    refused = refusal_of(listen="127.0.0.1:0", tls=files)
    assert refused.startswith(said.format(tmp_path, tmp_path))
    assert "SECRET" not in refused
