"""OpenTelemetry's SDK, its spans going the way of kaspan's own. Imported when the first of them is made."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.zipkin.encoder import JsonEncoder
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from kaspan.interceptor import fork
from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.tracing.ids import new_span_id, new_trace_id
from kaspan.interceptor.tracing.span import MAX_TAG_CHARACTERS
from kaspan.wire.ring import MAX_SPAN_BYTES

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from kaspan.interceptor.tracing.tracing import Tracing

_KINDS = {
    SpanKind.SERVER: "SERVER",
    SpanKind.CLIENT: "CLIENT",
    SpanKind.PRODUCER: "PRODUCER",
    SpanKind.CONSUMER: "CONSUMER",
}
_REMOTE = ("peer.service", "server.address", "net.peer.name", "network.peer.address", "db.name")
"""What names the other side, best first. Source: OpenTelemetry's specification of its Zipkin exporter."""
_DEPRECATED = ("otel.library.name", "otel.library.version")


def make_provider(tracing: Tracing) -> TracerProvider:
    """Make the provider of a process: kaspan's ids, kaspan's decisions, into kaspan's ring."""
    provider = Provider(
        sampler=ParentBased(RootSampler(tracing)),
        # Not Resource.create(): it starts threads, and what it finds is on none of kaspan's spans.
        resource=Resource({SERVICE_NAME: tracing.service}),
        id_generator=Ids(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(RingProcessor(tracing))
    return provider


class Provider(TracerProvider):
    """The SDK's provider, but for what it does in a forked child: the first thing there would be to look at
    the process in a pool of threads, which deadlocks where that pool's module was loaded after the provider
    was made (SDK 1.45), and what it finds is on none of kaspan's spans.
    """

    def _handle_fork(self) -> None:
        self._tracers_lock = threading.Lock()


class Ids(IdGenerator):
    """Identifiers as kaspan makes them: an application that seeds `random` repeats none."""

    def generate_span_id(self) -> int:
        """Make a span id."""
        return int(new_span_id(), 16)

    def generate_trace_id(self) -> int:
        """Make a trace id of 128 bits."""
        return int(new_trace_id(), 16)


class RootSampler(Sampler):
    """Decides for traces that begin with such a span as kaspan does for its own."""

    def __init__(self, tracing: Tracing) -> None:
        self._sampler = tracing.sampler

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        """Take the trace or leave it."""
        taken = self._sampler.samples_all or self._sampler.is_sampled(b"%032x" % trace_id)
        chosen: Any = ALWAYS_ON if taken else ALWAYS_OFF
        result: SamplingResult = chosen.should_sample(parent_context, trace_id, name, *args, **kwargs)
        return result

    def get_description(self) -> str:
        """Name it."""
        return "kaspan"


class RingProcessor(SpanProcessor):
    """Writes each span into the ring as it ends, in the thread that ends it."""

    def __init__(self, tracing: Tracing) -> None:
        self._reporter = tracing.reporter
        self._encoder = SpanEncoder(tracing.service)
        self._forked_ns = 0
        fork.after_in_child(fork.OTEL_SPANS, self._after_fork)

    def _after_fork(self) -> None:
        self._forked_ns = time.time_ns()

    def on_end(self, span: ReadableSpan) -> None:
        """Report the span; one that was begun before a fork is the parent's to report. Never raises."""
        try:
            context = span.get_span_context()
            if context is None or not context.trace_flags.sampled or (span.start_time or 0) < self._forked_ns:
                return
            self._reporter.report(self._encoder.encode(span))
        except Exception as error:  # noqa: BLE001
            record_failure("recording an OpenTelemetry span", error)


class SpanEncoder(JsonEncoder):
    """Encodes a span as opentelemetry-exporter-zipkin-json does, but for what that gets wrong.

    Derived from what its encoder for version 2 is derived from, because importing that one imports requests,
    which takes 100 ms more.
    """

    def __init__(self, service: str) -> None:
        super().__init__(MAX_TAG_CHARACTERS)
        self._local = {"serviceName": service}

    def encode(self, span: Any) -> bytes:
        """Return the Zipkin v2 JSON of a span, of at most what the ring's reader takes."""
        encoded = self._encode_span(span, self._local)
        for part in ("annotations", "tags"):
            payload = json.dumps(encoded, separators=(",", ":")).encode()
            if len(payload) <= MAX_SPAN_BYTES:
                return payload
            encoded.pop(part, None)
        return json.dumps(encoded, separators=(",", ":")).encode()

    def _encode_span(self, span: Any, encoded_local_endpoint: Any) -> dict[str, Any]:
        context = span.get_span_context()
        trace_id = self._encode_trace_id(context.trace_id)
        encoded: dict[str, Any] = {
            # A trace of 64 bits is the same one that kaspan's spans call by 16 digits.
            "traceId": trace_id[16:] if trace_id.startswith("0" * 16) else trace_id,
            "id": self._encode_span_id(context.span_id),
            "name": span.name[:MAX_TAG_CHARACTERS],
            "timestamp": self._nsec_to_usec_round(span.start_time),
            # Zipkin takes 0 for unknown.
            "duration": max(1, self._nsec_to_usec_round(span.end_time - span.start_time)),
            "localEndpoint": encoded_local_endpoint,
        }
        if span.parent is not None:
            encoded["parentId"] = self._encode_span_id(span.parent.span_id)
        kind = _KINDS.get(span.kind)
        if kind is not None:
            encoded["kind"] = kind
        if span.kind in (SpanKind.CLIENT, SpanKind.PRODUCER):
            remote = next((span.attributes[key] for key in _REMOTE if span.attributes.get(key)), None)
            if remote is not None:
                encoded["remoteEndpoint"] = {"serviceName": str(remote)[:MAX_TAG_CHARACTERS]}
        if tags := self._tags(span):
            encoded["tags"] = tags
        if annotations := self._extract_annotations_from_events(span.events):
            encoded["annotations"] = annotations
        return encoded

    def _tags(self, span: Any) -> dict[str, str]:
        tags: dict[str, Any] = self._extract_tags_from_span(span)
        # The resource's attributes are the service's, which is in the endpoint.
        unwanted = {*span.resource.attributes, *_DEPRECATED} - {*(span.attributes or ())}
        if not tags.get("otel.scope.version"):
            unwanted.add("otel.scope.version")
        kept = {key: value for key, value in tags.items() if value is not None and key not in unwanted}
        if span.status.status_code is StatusCode.ERROR and not kept.get("error"):
            kept["error"] = "true"
        return kept
