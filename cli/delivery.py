"""Whether what an agent takes reaches its targets, as it says itself, for `kaspan doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from kaspan.agent.status import SENDER_FAILING, Status
from kaspan.cli.ask import NoAnswerError
from kaspan.cli.status import duration, fetch, printable
from kaspan.config import schema
from kaspan.wire import VERSION

_ASKED_FOR = "processor_drop"


class Findings(msgspec.Struct, frozen=True):
    """Lines of the report, and what is wrong; `is_known` is false where no agent could be asked."""

    said: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    is_known: bool = True


def delivery(settings: schema.Agent) -> Findings:
    """Ask the agent of these settings. Blocks as `ask` does; raises nothing."""
    try:
        _, status = fetch(settings)
    except NoAnswerError as error:
        said = f"whether its spans reach their targets is not known: {error}"
        return Findings((said,), is_known=False)
    return Findings(tuple(_said(status)), tuple(_wrong(status)))


def at(address: str, token: str, settings: schema.Agent) -> schema.Agent | None:
    """Return the settings by which the agent at `address`, a value of interceptor.agent, can be asked.

    None where Zipkin is there and no agent, or where only a certificate's names tell who is.
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
    if count := status.dropped_spans.get(_ASKED_FOR):
        yield f"the agent has dropped {count} spans, as agent.processors say"


def _wrong(status: Status) -> Iterator[str]:
    for sender in status.senders:
        if sender.failing_s is not None:
            yield (
                f"the agent does not reach {printable(sender.name)}, for {duration(sender.failing_s)}: "
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
        reason: count for reason, count in status.dropped_spans.items() if count and reason != _ASKED_FOR
    }
    if dropped:
        counts = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        yield f"the agent has dropped spans that it had taken: {counts} (docs/operation.md says what that is)"
    if status.version != VERSION:
        yield f"the agent is kaspan {printable(status.version)}, and this is {VERSION}"
