"""A provider of OpenTelemetry's SDK whose spans are reported like kaspan's. Imported at the first of them."""

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
"""Attributes that name the remote service, best first. Source: OpenTelemetry's specification for Zipkin."""
_DEPRECATED = ("otel.library.name", "otel.library.version")


def make_provider(tracing: Tracing) -> TracerProvider:
    """Make a provider that uses kaspan's ids, sampling and reporter."""
    provider = Provider(
        sampler=ParentBased(RootSampler(tracing)),
        # Not Resource.create(): it starts threads, and kaspan's spans show nothing of what it detects.
        resource=Resource({SERVICE_NAME: tracing.service}),
        id_generator=Ids(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(RingProcessor(tracing))
    return provider


class Provider(TracerProvider):
    """TracerProvider without its after-fork hook, which detects the resource again in a thread pool. That
    deadlocks if the module of the pool was loaded after the provider was made (SDK 1.45).
    """

    def _handle_fork(self) -> None:
        self._tracers_lock = threading.Lock()


class Ids(IdGenerator):
    """Makes ids as kaspan does: an application that seeds `random` repeats none."""

    def generate_span_id(self) -> int:
        """Make a span id."""
        return int(new_span_id(), 16)

    def generate_trace_id(self) -> int:
        """Make a trace id of 128 bits."""
        return int(new_trace_id(), 16)


class RootSampler(Sampler):
    """Samples traces that begin with a span of OpenTelemetry's API by kaspan's rate."""

    def __init__(self, tracing: Tracing) -> None:
        self._sampler = tracing.sampler

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        """Decide whether the trace is recorded."""
        is_sampled = self._sampler.samples_all or self._sampler.is_sampled(b"%032x" % trace_id)
        chosen: Any = ALWAYS_ON if is_sampled else ALWAYS_OFF
        result: SamplingResult = chosen.should_sample(parent_context, trace_id, name, *args, **kwargs)
        return result

    def get_description(self) -> str:
        """Return the sampler's name."""
        return "kaspan"


class RingProcessor(SpanProcessor):
    """Reports each span when it ends, in the thread that ends it."""

    def __init__(self, tracing: Tracing) -> None:
        self._reporter = tracing.reporter
        self._encoder = SpanEncoder(tracing.service)
        self._forked_ns = 0
        fork.after_in_child(fork.OTEL_SPANS, self._after_fork)

    def _after_fork(self) -> None:
        self._forked_ns = time.time_ns()

    def on_end(self, span: ReadableSpan) -> None:
        """Report the span, unless it began before a fork: then the parent does. Never raises."""
        try:
            context = span.get_span_context()
            if context is None or not context.trace_flags.sampled or (span.start_time or 0) < self._forked_ns:
                return
            self._reporter.report(self._encoder.encode(span))
        except Exception as error:  # noqa: BLE001
            record_failure("recording an OpenTelemetry span", error)


class SpanEncoder(JsonEncoder):
    """Encodes a span as opentelemetry-exporter-zipkin-json does, without its mistakes.

    A subclass of the exporter's base class: importing its encoder for Zipkin v2 imports requests, which takes
    100 ms more.
    """

    def __init__(self, service: str) -> None:
        super().__init__(MAX_TAG_CHARACTERS)
        self._local = {"serviceName": service}

    def encode(self, span: Any) -> bytes:
        """Return the Zipkin v2 JSON of a span, at most MAX_SPAN_BYTES: else without annotations, or tags."""
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
            # kaspan's own spans write a trace id of 64 bits with 16 digits.
            "traceId": trace_id[16:] if trace_id.startswith("0" * 16) else trace_id,
            "id": self._encode_span_id(context.span_id),
            "name": span.name[:MAX_TAG_CHARACTERS],
            "timestamp": self._nsec_to_usec_round(span.start_time),
            # Zipkin reads 0 as unknown.
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
        # The resource's attributes describe the service, which is the local endpoint.
        unwanted = {*span.resource.attributes, *_DEPRECATED} - {*(span.attributes or ())}
        if not tags.get("otel.scope.version"):
            unwanted.add("otel.scope.version")
        kept = {key: value for key, value in tags.items() if value is not None and key not in unwanted}
        if span.status.status_code is StatusCode.ERROR and not kept.get("error"):
            kept["error"] = "true"
        return kept
