"""The open span of a send, and the JSON that it becomes."""

from __future__ import annotations

import gc
from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import finish, pass_on, record_failure
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.tracing import Tracing
from kaspan.interceptor.tracing.zipkin_json import (
    error_part,
    extras_parts,
    key_part,
    ordinary_template,
    parent_part,
    quote,
    span_template,
)

_ENQUEUED = b',"annotations":[{"timestamp":%d,"value":"kafka.enqueued"}]'
_PLACE = b',"messaging.destination.partition.id":"%d","messaging.kafka.offset":"%d"'


class SendTemplates:
    """Templates of the JSON of the spans of one producer's sends to one topic.

    `ordinary` is for most sends, which are acknowledged with an offset; None with acks=0, where the broker
    tells no offset. `general`, for all others, is filled in from parts. `injects_context` says whether the
    topic's records get a context.
    """

    __slots__ = ("general", "injects_context", "is_acknowledged", "name", "ordinary", "reporter")

    def __init__(self, tracing: Tracing, topic: str, client_id: str | None, is_acknowledged: bool) -> None:
        tags = [
            ("kafka.topic", topic),
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.destination.name", topic),
        ]
        if client_id:
            tags.append(("messaging.client.id", str(client_id)))
        self.reporter = tracing.reporter
        self.is_acknowledged = is_acknowledged
        self.injects_context = True
        self.name = quote(f"send {topic}")
        self.general = span_template(
            "PRODUCER", tracing.service, tracing.remote_service, topic, tags, varying=b"%b"
        )
        ordinary = ordinary_template(self.general, b"%b", self.name, _ENQUEUED, _PLACE)
        self.ordinary = ordinary if is_acknowledged else None

    def end(self, send_span: SendSpan, metadata: Any, error: BaseException | None, ended_ns: int) -> None:
        """Report a span. `metadata` and `error` are None if no answer will come. Never raises."""
        if send_span.started_ns < self.reporter.process_start_ns:
            return
        try:
            self._write(send_span, metadata, error, ended_ns)
        except BaseException as failure:  # noqa: BLE001 (an interrupted step is repeated)
            finish("recording a send", failure, self._write, send_span, metadata, error, ended_ns)

    def _write(self, send_span: SendSpan, metadata: Any, error: BaseException | None, ended_ns: int) -> None:
        started_ns, annotations = send_span.started_ns, b""
        if send_span.enqueued_ns:
            annotations = _ENQUEUED % ((send_span.timestamp_ns + send_span.enqueued_ns - started_ns) // 1000)
        extras = send_span.extras
        self.reporter.report(
            self.general
            % (
                send_span.trace_id,
                send_span.span_id,
                parent_part(send_span.parent_id, extras is not None and extras.debug),
                self.name,
                send_span.timestamp_ns // 1000,
                (ended_ns - started_ns) // 1000 or 1,
                annotations,
                key_part(send_span.key),
                self._outcome(send_span, metadata, error),
            )
        )

    def _outcome(self, send_span: SendSpan, metadata: Any, error: BaseException | None) -> bytes:
        tags = extras_parts(send_span.extras)[2]
        if send_span.is_tombstone:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        if error is not None:
            return tags + error_part(error)
        if metadata is None:
            return tags + b',"error":"timeout","error.type":"timeout"'
        # With acks=0 there is no offset; kafka-python 3.0 calls it 0.
        if self.is_acknowledged and metadata.offset is not None and metadata.offset >= 0:
            return tags + _PLACE % (metadata.partition, metadata.offset)
        return tags + b',"messaging.destination.partition.id":"%d"' % metadata.partition


class SendSpan:
    """The open span of one send. Its future calls it with the record's metadata, or with the error.

    If the future is freed without either, the producer has given the record up: the span ends as a timeout.
    `templates` is None once the span has ended.
    """

    __slots__ = (
        "enqueued_ns",
        "extras",
        "is_tombstone",
        "key",
        "parent_id",
        "span_id",
        "started_ns",
        "templates",
        "timestamp_ns",
        "trace_id",
    )

    def __init__(
        self,
        templates: SendTemplates,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes | None,
        extras: Extras | None,
        key: object,
        is_tombstone: bool,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.extras = extras
        self.key = key
        self.is_tombstone = is_tombstone
        self.enqueued_ns = 0
        """When send() returned to its caller, by the performance counter."""
        self.timestamp_ns = time_ns()
        self.started_ns = perf_counter_ns()
        self.templates: SendTemplates | None = (
            templates  # last, since a signal handler can end this at any line
        )

    def __call__(self, outcome: Any) -> None:
        """End the span, if it is open. Never raises."""
        ended_ns = perf_counter_ns()
        templates, self.templates = self.templates, None
        if templates is None:
            return
        if isinstance(outcome, BaseException):
            templates.end(self, None, outcome, ended_ns)
            return
        try:
            offset, template, started_ns = outcome.offset, templates.ordinary, self.started_ns
            if (
                template is None
                or self.is_tombstone
                or self.extras is not None
                or offset is None
                or offset < 0
                or started_ns < templates.reporter.process_start_ns
            ):
                templates.end(self, outcome, None, ended_ns)
                return
            parent_id, timestamp_ns = self.parent_id, self.timestamp_ns
            templates.reporter.report(
                template
                % (
                    self.trace_id,
                    self.span_id,
                    b"" if parent_id is None else b',"parentId":"' + parent_id + b'"',
                    timestamp_ns // 1000,
                    (ended_ns - started_ns) // 1000 or 1,
                    (timestamp_ns + self.enqueued_ns - started_ns) // 1000,
                    key_part(self.key),
                    outcome.partition,
                    offset,
                )
            )
        except Exception as failure:  # noqa: BLE001
            record_failure("recording a send", failure)

    def settle(self, future: Any) -> None:
        """End the span if the future is done. Before 2.2 a future has no lock, and may miss a callback."""
        if future.is_done:
            self(future.value if future.exception is None else future.exception)

    def give_up(self) -> None:
        """End the span, if it is open, as a timeout: no answer will come. Never raises."""
        templates, self.templates = self.templates, None
        if templates is not None:
            templates.end(self, None, None, perf_counter_ns())

    def __del__(self) -> None:
        try:
            if getattr(self, "templates", None) is not None:
                self.give_up()
        except BaseException as error:  # noqa: BLE001 (Python would ignore it)
            pass_on("recording a send", error)


def open_sends() -> list[SendSpan]:
    """Find the open spans of all sends in this process."""
    return [found for found in gc.get_objects() if type(found) is SendSpan and found.templates is not None]
