"""The JSON that the span of a send becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaspan.interceptor.failures import finish
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

if TYPE_CHECKING:
    from kaspan.interceptor.kafka.send_span import SendSpan

_ENQUEUED = b',"annotations":[{"timestamp":%d,"value":"kafka.enqueued"}]'
_PARTITION_AND_OFFSET = b',"messaging.destination.partition.id":"%d","messaging.kafka.offset":"%d"'


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
        ordinary = ordinary_template(self.general, b"%b", self.name, _ENQUEUED, _PARTITION_AND_OFFSET)
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
        _, _, tags = extras_parts(send_span.extras)
        if send_span.is_tombstone:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        if error is not None:
            return tags + error_part(error)
        if metadata is None:
            return tags + b',"error":"timeout","error.type":"timeout"'
        # With acks=0 there is no offset; kafka-python 3.0 calls it 0.
        if self.is_acknowledged and metadata.offset is not None and metadata.offset >= 0:
            return tags + _PARTITION_AND_OFFSET % (metadata.partition, metadata.offset)
        return tags + b',"messaging.destination.partition.id":"%d"' % metadata.partition
