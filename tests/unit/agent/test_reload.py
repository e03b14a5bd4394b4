"""kaspan.agent.reload: what of new settings a running agent takes over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kaspan.agent.reload import changes
from kaspan.config import schema

OLD = schema.Agent(
    listen="127.0.0.1:9412",
    token="first-token",
    ring_dirs=("/rings",),
    spool=schema.Spool(path="/spool.db"),
)


def changed(**values: Any) -> schema.Agent:
    return msgspec.structs.replace(OLD, **values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"log": schema.Log(level="debug")}, "agent.log.level"),
        ({"batch": schema.Batch(flush_interval_s=0.1)}, "agent.batch.flush_interval_s"),
        ({"processors": (schema.RenameRemote(),)}, "agent.processors"),
        ({"ring_dirs": ("/rings", "/more")}, "agent.ring_dirs"),
        ({"spool": schema.Spool(path="/spool.db", max_bytes=1 << 20)}, "agent.spool.max_bytes"),
        ({"token": "second-token"}, "agent.token"),
        ({"shutdown_timeout_s": 3.0}, "agent.shutdown_timeout_s"),
    ],
)
def test_setting_that_no_open_thing_depends_on_is_taken_over(values: dict[str, Any], key: str) -> None:
    """It is named, and in force."""
    found = changes(OLD, changed(**values))
    assert (found.applied, found.pending) == ((key,), ())
    assert found.in_force == changed(**values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"listen": "127.0.0.1:1"}, "agent.listen"),
        ({"socket": "/agent.sock"}, "agent.socket"),
        ({"tls": schema.Tls(cert="/cert.pem")}, "agent.tls.cert"),
        ({"spool": schema.Spool(path="/other.db")}, "agent.spool.path"),
        ({"senders": (schema.ConsoleSender(),)}, "agent.senders"),
        ({"token": ""}, "agent.token"),
    ],
)
def test_setting_that_is_built_upon_needs_a_restart(values: dict[str, Any], key: str) -> None:
    """It is named each time until then, and what was is in force."""
    found = changes(OLD, changed(**values))
    assert (found.applied, found.pending) == ((), (key,))
    assert found.in_force == OLD
    assert changes(found.in_force, changed(**values)).pending == (key,)


def test_same_settings_are_no_change() -> None:
    """A SIGHUP for nothing does nothing."""
    found = changes(OLD, changed())
    assert (found.applied, found.pending) == ((), ())
