"""Makes the senders that the settings name; all wrong settings are reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kaspan.agent.senders.base import Sender, SettingError
from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.agent.senders.secrets import with_secrets
from kaspan.config import ConfigError, schema

_QUIET_AFTER_FLUSH_S = 0.5


def build(
    settings: Sequence[msgspec.Struct], batch: schema.Batch, environ: Mapping[str, str]
) -> list[Sender]:
    """Make a sender for each entry of `agent.senders`, with the variables of `environ` in their secrets.

    The same entry twice gives one sender. Raises ConfigError with a line for each wrong setting.
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
