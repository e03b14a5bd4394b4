"""Makes the senders that the settings name; all wrong settings are reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from kaspan.agent.senders.base import Sender, SettingError
from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.agent.senders.secrets import with_secrets
from kaspan.config import ConfigError, schema

if TYPE_CHECKING:
    from kaspan.agent.senders.store import StoreSender

_QUIET_AFTER_FLUSH_S = 0.5
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (compared only)


def build(
    settings: Sequence[msgspec.Struct], batch: schema.Batch, environ: Mapping[str, str], listen: str = ""
) -> list[Sender]:
    """Make a sender for each entry of `agent.senders`, with the variables of `environ` in their secrets.

    `listen` is agent.listen: no sender may post there. The same entry twice gives one sender. Raises
    ConfigError with a line for each wrong setting.
    """
    errors: list[str] = []
    senders: dict[str, tuple[str, Sender]] = {}
    for index, entry in enumerate(settings):
        if entry in settings[:index]:
            continue
        key = f"agent.senders[{index}]"
        before = len(errors)
        expanded = with_secrets(entry, key, environ, errors)
        if len(errors) > before:
            continue
        try:
            sender = make(expanded, batch)
        except SettingError as error:
            errors.append(f"{key}.{error.key} {error.problem}" if error.key else f"{key} {error.problem}")
            continue
        if isinstance(expanded, schema.ZipkinSender) and _is_at(expanded.url, listen):
            errors.append(
                f"{key}.url is the address of this agent's own agent.listen, {listen}: every span would come "
                "back, again and again; set the address of another server, or remove the sender"
            )
        first, _ = senders.setdefault(sender.name, (key, sender))
        if first != key:
            errors.append(
                f"{key} sends to {sender.name}, as {first} does; the rule is one sender for each target"
            )
    if errors:
        for _, sender in senders.values():
            sender.close()
        raise ConfigError(errors)
    return [sender for _, sender in senders.values()]


def make(settings: msgspec.Struct, batch: schema.Batch) -> Sender:
    """Make one sender. Raises SettingError."""
    if isinstance(settings, schema.ZipkinSender):
        from kaspan.agent.senders.zipkin import ZipkinSender

        return ZipkinSender(settings)
    if isinstance(settings, schema.KafkaSender):
        from kaspan.agent.senders.kafka import KafkaSender

        return KafkaSender(settings)
    if isinstance(settings, schema.ConsoleSender):
        from kaspan.agent.senders.console import ConsoleSender

        # The spans of one trace come from several rings, with several flushes: wait for the next flush.
        return ConsoleSender(batch.flush_interval_s + _QUIET_AFTER_FLUSH_S)
    return _make_installed(settings)


def _is_at(url: str, listen: str) -> bool:
    """Whether a server that listens at `listen` answers at `url`."""
    target = urlsplit(url)
    host, _, port = listen.rpartition(":")
    if str(target.port or {"http": 80, "https": 443}[target.scheme]) != port:
        return False
    name, host = target.hostname or "", host.strip("[]").lower()
    return name == host or (_is_local(name) and (_is_local(host) or host in _ANY_ADDRESS))


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_store(settings: schema.Store) -> StoreSender:
    """Open the span store for writing, and make its sender. Raises StoreError."""
    from kaspan.agent.senders.store import StoreSender
    from kaspan.store.span_store import SpanStore, StoreSettings

    found = StoreSettings(**msgspec.structs.asdict(settings))
    return StoreSender(found, SpanStore(found))


def _make_installed(settings: msgspec.Struct) -> Sender:
    name = str(settings.__struct_config__.tag)
    try:
        # mypy sees the constructor of Sender, without arguments; Sender's docstring has the contract.
        sender: Sender = InstalledSenders().sender(name)(settings)  # type: ignore[call-arg]
        sender_name = sender.name
    except SettingError:
        raise
    except Exception as error:
        raise SettingError("", f"({name}) cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(sender_name, str) or not sender_name:
        raise SettingError(
            "", f"({name}) has an empty name; the rule is a text, always the same for the same target"
        )
    return sender
