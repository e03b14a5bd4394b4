"""Compares settings: which have changed, and which of them a running agent can use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kaspan.config import schema

_NEED_RESTART = (
    *("agent.listen", "agent.socket", "agent.tls", "agent.spool.path", "agent.senders"),
    *("agent.store", "agent.web.lens"),
)
_STORE_LIMITS = ("agent.store.max_bytes", "agent.store.max_age_s")
_TOKEN = "agent.token"  # noqa: S105 (the name of a key)


class Changes(msgspec.Struct, frozen=True):
    """Dotted keys: `applied` ones change at once, `pending` ones need a restart. `in_force`: the result."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    in_force: schema.Agent


def changes(old: schema.Agent, new: schema.Agent) -> Changes:
    """Compare the settings in force with new ones.

    A token may be replaced by another one. Adding or removing it needs a restart: the agent warns at its
    start if it listens without one.
    """
    differing = tuple(_differing(old, new, "agent."))
    pending = tuple(
        key
        for key in differing
        if (key.startswith(_NEED_RESTART) and key not in _STORE_LIMITS)
        or (key == _TOKEN and not (old.token and new.token))
    )
    in_force = msgspec.structs.replace(
        new,
        listen=old.listen,
        socket=old.socket,
        tls=old.tls,
        senders=old.senders,
        store=_store_in_force(old.store, new.store),
        web=msgspec.structs.replace(new.web, lens=old.web.lens),
        spool=msgspec.structs.replace(new.spool, path=old.spool.path),
        token=old.token if _TOKEN in pending else new.token,
    )
    return Changes(tuple(key for key in differing if key not in pending), pending, in_force)


def _store_in_force(old: schema.Store | None, new: schema.Store | None) -> schema.Store | None:
    if old is None or new is None:
        return old
    return msgspec.structs.replace(old, max_bytes=new.max_bytes, max_age_s=new.max_age_s)


def _differing(old: Any, new: Any, prefix: str) -> Iterator[str]:
    """Yield the keys of a section whose values differ, in the schema's order; a list is one value."""
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from _differing(before, after, f"{prefix}{field.encode_name}.")
        elif before != after:
            yield prefix + field.encode_name
