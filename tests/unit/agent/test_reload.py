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
    store=schema.Store(path="/store"),
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
        ({"store": schema.Store(path="/store", max_bytes=1 << 30)}, "agent.store.max_bytes"),
        ({"store": schema.Store(path="/store", max_age_s=60.0)}, "agent.store.max_age_s"),
        ({"web": schema.Web(allowed_origins=("https://grafana",))}, "agent.web.allowed_origins"),
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
        ({"store": None}, "agent.store"),
        ({"store": schema.Store(path="/other")}, "agent.store.path"),
        ({"store": schema.Store(path="/store", strict_trace_id=False)}, "agent.store.strict_trace_id"),
        ({"store": schema.Store(path="/store", search_enabled=False)}, "agent.store.search_enabled"),
        ({"store": schema.Store(path="/store", autocomplete_keys=("a",))}, "agent.store.autocomplete_keys"),
        ({"web": schema.Web(lens="/lens.jar")}, "agent.web.lens"),
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


def test_store_cannot_be_added_to_a_running_agent() -> None:
    """Its sender has a cursor in the spool from the start."""
    without = changed(store=None)
    found = changes(without, OLD)
    assert (found.pending, found.in_force) == (("agent.store",), without)
