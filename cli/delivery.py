"""Whether the agent's spans reach their targets, for `kaspan doctor`: it asks the agent."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from kaspan.agent.status import SENDER_FAILING, Status
from kaspan.cli.ask import NoAnswerError
from kaspan.cli.status import duration, fetch, printable
from kaspan.config import schema
from kaspan.wire import VERSION

_DROPPED_AS_TOLD = "processor_drop"


class Findings(msgspec.Struct, frozen=True):
    """Lines of the report, and what is wrong; `is_known` is false if no agent answered."""

    said: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    is_known: bool = True


def delivery(settings: schema.Agent) -> Findings:
    """Ask the agent with these settings. Blocks as `ask` does; raises nothing."""
    try:
        _, status = fetch(settings)
    except NoAnswerError as error:
        said = f"it is not known whether spans reach their targets: {error}"
        return Findings((said,), is_known=False)
    return Findings(tuple(_said(status)), tuple(_wrong(status)))


def agent_at(address: str, token: str, settings: schema.Agent) -> schema.Agent | None:
    """Return the settings to ask the agent at `address`, a value of interceptor.agent.

    None if Zipkin is there instead of an agent, and for https, where `ask` needs the agent's certificate
    file.
    """
    parts = urlsplit(address)
    if parts.scheme == "unix":
        return msgspec.structs.replace(settings, socket=parts.path, listen="", token=token)
    if parts.scheme != "http":
        return None
    listen = parts.netloc if parts.port else f"{parts.netloc}:80"
    return msgspec.structs.replace(settings, socket="", listen=listen, token=token, tls=schema.Tls())


def _said(status: Status) -> Iterator[str]:
    for sender in status.senders:
        last_s = sender.last_success_age_s
        when = (
            "nothing yet" if last_s is None else f"{sender.sent_spans} spans, the last {duration(last_s)} ago"
        )
        yield f"the agent has sent to {printable(sender.name)}: {when}"
    if count := status.dropped_spans.get(_DROPPED_AS_TOLD):
        yield f"the agent has dropped {count} spans because agent.processors says so"


def _wrong(status: Status) -> Iterator[str]:
    for sender in status.senders:
        if sender.failing_s is not None:
            yield (
                f"the agent has not reached {printable(sender.name)} for {duration(sender.failing_s)}: "
                f"{printable(sender.last_error)}; spans wait in its spool"
            )
        if sender.dead_spans:
            yield (
                f"{printable(sender.name)} has refused {sender.dead_spans} spans: "
                "`kaspan agent dead-letter list` says why"
            )
    for problem in status.problems:
        if problem.reason != SENDER_FAILING:
            yield f"the agent: {printable(problem.text)} ({problem.reason})"
    dropped = {
        reason: count
        for reason, count in status.dropped_spans.items()
        if count and reason != _DROPPED_AS_TOLD
    }
    if dropped:
        counts = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        yield f"the agent has dropped spans that it had accepted: {counts} (docs/operation.md explains them)"
    if status.version != VERSION:
        yield f"the agent runs kaspan {printable(status.version)}, and this command is {VERSION}"
