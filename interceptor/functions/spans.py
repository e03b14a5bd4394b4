"""Spans of the application's functions, each in the trace of the record that the function gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span

from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan
from kaspan.interceptor.tracing.tracing import Tracing
from kaspan.interceptor.tracing.zipkin_json import annotations_part, parent_part, quote
from kaspan.wire.context import TraceContext

if TYPE_CHECKING:
    from kaspan.interceptor.functions.traced_function import TracedFunction

MAX_OTHER_TRACES = 10
"""How many other traces a batch names in a tag: Zipkin has no links between traces."""

_BATCH_SIZE = "messaging.batch.message_count"
_OTHER_TRACES = "kafka.batch.trace_ids"


def is_record(value: Any) -> bool:
    """Whether a value is a record of a traced consumer. Runs none of the application's code."""
    return issubclass(type(value), tuple) and hasattr(type(value), "kaspan_span")


def records_in(value: Any) -> list[list[Any]]:
    """Return the lists of records in a value: itself, or those in a dict as poll() returns it; else none.

    Does not use the loop or index of a RecordList, which would open the records' spans.
    """
    if issubclass(type(value), dict):
        lists = dict.values(value)
        if not _starts_with_record(next(iter(lists), None)):
            return []
        return [records for records in lists if _starts_with_record(records)]
    return [value] if _starts_with_record(value) else []


def _starts_with_record(records: Any) -> bool:
    return issubclass(type(records), (list, tuple)) and is_record(next(_plain_iter(records), None))


def _plain_iter(records: Any) -> Iterator[Any]:
    return list.__iter__(records) if issubclass(type(records), list) else tuple.__iter__(records)


def first_of(lists: list[list[Any]]) -> Any:
    """Return the first record of what `records_in` has returned, which must not be empty."""
    return next(_plain_iter(lists[0]))


class FunctionSpans:
    """Makes the spans of calls. Nothing here raises."""

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing
        self._endpoint = b'"localEndpoint":{"serviceName":' + quote(tracing.service) + b"}"

    def begin(
        self, traced_function: TracedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> FunctionSpan | None:
        """Start the span of a call with these arguments; None if the call gets no span."""
        traced_function.is_called = True
        try:
            record, batch, inputs = self._subject((*args, *kwargs.values()))
            if record is not None:
                return self._of_record(traced_function, record, batch, inputs)
            current = self.tracing.scope.current_span()
            if current is not None and not _is_recorded(current):
                return None
            return FunctionSpan(self, traced_function, self._child(self.tracing.current(), None, current))
        except Exception as error:  # noqa: BLE001
            record_failure("tracing a call", error)
            return None

    def next_span(self, record: object, traced_function: TracedFunction) -> Span:
        """Start a span that ends when its `end()` is called."""
        call = self.begin(traced_function, (record,), {})
        if call is None:
            current = self.tracing.scope.current_span() or INVALID_SPAN
            return NonRecordingSpan(current.get_span_context())
        return OpenSpan(call) if isinstance(call.span, RecordSpan) else call.span

    @staticmethod
    def name_of(record: Any) -> str:
        """Return the default name of a span for a record or batch."""
        lists = records_in(record)
        first = first_of(lists) if lists else record
        return f"process {first.topic}" if is_record(first) else "process"

    def _subject(self, values: Iterable[Any]) -> tuple[Any, list[list[Any]], list[list[Any]]]:
        """Return the record that a call is about, the batch that starts with it, if any, and all records
        among the arguments, in lists.

        Of several records, as in a join, it is the one in work, else the first.
        """
        inputs: list[list[Any]] = []
        found: tuple[Any, list[list[Any]]] | None = None
        is_in_work = False
        current = self.tracing.scope.current_span()
        for value in values:
            if is_record(value):
                candidate: tuple[Any, list[list[Any]]] = (value, [])
                inputs.append([value])
            elif batch := records_in(value):
                candidate = (first_of(batch), batch)
                inputs.extend(batch)
            else:
                continue
            span = candidate[0].kaspan_span
            if not is_in_work and span is not None and current is not None:
                is_in_work = _belongs(current, span, span.trace_id)
                found = candidate if is_in_work else found
            found = found or candidate
        return *(found or (None, [])), inputs

    def _of_record(
        self, traced_function: TracedFunction, record: Any, batch: list[list[Any]], inputs: list[list[Any]]
    ) -> FunctionSpan | None:
        tracing = self.tracing
        current = tracing.scope.current_span()
        if record.topic in tracing.excluded_topics:
            if isinstance(current, ForwardedSpan) or not record.headers:
                return None
            return FunctionSpan(
                self, traced_function, ForwardedSpan(tracing.propagation.extract, record.headers)
            )
        span = record.kaspan_span
        parent = _context(span) if span is not None else self._sender_context(record)
        if current is not None and (parent is None or _belongs(current, span, parent[0])):
            if not _is_recorded(current):
                return None
            parent = tracing.current() or parent
        child = self._child(parent, record, span if span is not None else current)
        child.record = span
        call = FunctionSpan(self, traced_function, child)
        if child.sampled and (batch or len(inputs) > 1):
            if batch:
                call.tags[_BATCH_SIZE] = str(sum(map(len, batch)))
            others = self._other_traces(child.trace_id, inputs)
            if others:
                call.tags[_OTHER_TRACES] = ",".join(others)
        return call

    def _child(self, parent: TraceContext | None, record: Any, other: Any) -> RecordSpan:
        """Make a span under `parent` that has the trace state of `other`."""
        if record is None:
            span = self.tracing.child_of(parent, None, "")
        else:
            span = self.tracing.child_of(parent, "receive", record.topic)
        span.carry_state(other)
        return span

    def _sender_context(self, record: Any) -> TraceContext | None:
        """Return the sender's context of a record without a span, such as one from another process."""
        return self.tracing.propagation.extract(record.headers) if record.headers else None

    def _other_traces(self, trace_id: bytes, batch: list[list[Any]]) -> list[str]:
        others: dict[bytes, None] = {}
        for records in batch:
            for record in _plain_iter(records):
                if not is_record(record):
                    continue
                span = record.kaspan_span
                other = span.trace_id if span is not None else (self._sender_context(record) or (None,))[0]
                if other is not None and other != trace_id:
                    others[other] = None
                    if len(others) == MAX_OTHER_TRACES:
                        return [one.decode() for one in others]
        return [one.decode() for one in others]

    def report(self, call: FunctionSpan, span: RecordSpan, duration_us: int) -> None:
        """Report the span of a call."""
        name, tags = call.traced_function.literals or self._literals(call.traced_function)
        extras = span.extras
        annotations = b""
        if extras is not None:
            if extras.name is not None:
                name = quote(extras.name)
            if extras.annotations:
                annotations = annotations_part(extras.annotations)
        if call.tags or (extras is not None and extras.tags):
            function_tags = (
                {"code.function.name": call.traced_function.code_name}
                if call.traced_function.code_name
                else {}
            )
            merged = {**function_tags, **call.tags, **(extras.tags if extras is not None else {})}
            tags = b",".join([quote(key) + b":" + quote(value) for key, value in merged.items()])
        self.tracing.reporter.report(
            b'{"traceId":"%b","id":"%b"%b,"name":%b,"timestamp":%d,"duration":%d,%b%b,"tags":{%b}}'
            % (
                span.trace_id,
                span.span_id,
                parent_part(span.parent_id, span.debug),
                name,
                call.timestamp_ns // 1000,
                duration_us,
                self._endpoint,
                annotations,
                tags,
            )
        )

    @staticmethod
    def _literals(traced_function: TracedFunction) -> tuple[bytes, bytes]:
        tags = (
            b'"code.function.name":' + quote(traced_function.code_name) if traced_function.code_name else b""
        )
        traced_function.literals = quote(traced_function.name), tags
        return traced_function.literals


class FunctionSpan:
    """One call of a function and its open span. A generator enters and leaves it at each step."""

    __slots__ = (
        "_before",
        "_calls",
        "_during",
        "_started_ns",
        "span",
        "tags",
        "timestamp_ns",
        "traced_function",
    )

    def __init__(
        self, calls: FunctionSpans, traced_function: TracedFunction, span: RecordSpan | ForwardedSpan
    ) -> None:
        self._calls = calls
        self.traced_function = traced_function
        self.span = span
        self.tags: dict[str, str] = {}
        self._during: Any = None
        self.timestamp_ns = time_ns()
        self._started_ns = perf_counter_ns()
        if isinstance(span, RecordSpan):
            span.title, span.service, span.timestamp_ns = (
                traced_function.name,
                calls.tracing.service,
                self.timestamp_ns,
            )

    def enter(self) -> None:
        """Make the span current. Never raises."""
        try:
            self._before, self._during = self._calls.tracing.scope.enter(self.span)
        except Exception as error:  # noqa: BLE001
            record_failure("entering a call's span", error)

    def leave(self) -> None:
        """Make the outer span current again. Never raises."""
        try:
            if self._during is not None:
                self._calls.tracing.scope.leave(self._before, self._during, self.span)
                self._during = None
        except Exception as error:  # noqa: BLE001
            record_failure("leaving a call's span", error)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function within the span, which ends with it; returns and raises what it does."""
        self.enter()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self.leave()
            self.end()

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed, unless the application has done that. Never raises."""
        try:
            if isinstance(self.span, RecordSpan):
                self.span.fail(error)
        except Exception as failure:  # noqa: BLE001
            record_failure("recording a call's error", failure)

    def end(self, ended_us: int | None = None) -> None:
        """Report the span. It ends now or at `ended_us` (us since the epoch). Never raises."""
        span = self.span
        if not isinstance(span, RecordSpan) or span.ended:
            return
        span.ended = True
        if not span.sampled or self._started_ns < self._calls.tracing.reporter.process_start_ns:
            return
        try:
            if ended_us is None:
                duration_us = (perf_counter_ns() - self._started_ns) // 1000
            else:
                duration_us = ended_us - self.timestamp_ns // 1000
            self._calls.report(self, span, max(duration_us, 1))
        except Exception as error:  # noqa: BLE001
            record_failure("recording a call", error)


class OpenSpan(RecordSpan):
    """A span of `next_span`, which the application ends."""

    def __init__(self, call: FunctionSpan) -> None:
        inner: Any = call.span
        super().__init__(inner.trace_id, inner.span_id, inner.parent_id, inner.sampled)
        for name in ("_state", "extras", "headers", "record", "service", "timestamp_ns", "title"):
            setattr(self, name, getattr(inner, name))
        call.span = self
        self._call = call

    def end(self, end_time: int | None = None) -> None:
        """Report the span, once. It ends now or at `end_time` (ns since the epoch)."""
        self._call.end(None if end_time is None else end_time // 1000)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception):
            self._call.fail(error)
        self.end()


def _context(span: RecordSpan) -> TraceContext:
    return span.trace_id, span.span_id, span.sampled, span.debug


def _belongs(current: Span, record_span: RecordSpan | None, trace_id: bytes | None) -> bool:
    """Whether the current span is the record's span or in its trace, so that the call is its child."""
    if record_span is not None and isinstance(current, RecordSpan):
        return current is record_span or current.record is record_span
    found = current.get_span_context().trace_id
    return trace_id is not None and found == int(trace_id, 16)


def _is_recorded(span: Span) -> bool:
    """Whether spans under this one are recorded. OpenTelemetry's invalid span means: no current span."""
    if isinstance(span, RecordSpan):
        return span.sampled
    context = span.get_span_context()
    return not isinstance(span, ForwardedSpan) and (context.trace_flags.sampled or not context.is_valid)
