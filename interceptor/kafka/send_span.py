"""The span of a send, from the call to the broker's acknowledgement, and what `send` is replaced by.

Every record that is sent goes through here. Python runs this file as it is, and `compiled.pyx` includes it
(see `cython`). What is C there is Python in `primitives`. This file does all for an ordinary send, one whose
caller passes no headers, and leaves the others to ProducerState and SendTemplates.
"""
# Nothing is imported from __future__: in an included file it would be too late for that.

from kaspan.interceptor import cython
from kaspan.interceptor.failures import record_failure

if not cython.compiled:
    from typing import TYPE_CHECKING, Any

    from kaspan.interceptor.kafka.primitives import (
        Current,
        b3_header,
        call,
        fill_send,
        list_open,
        low_64_bits,
        new_id,
        new_trace_id,
        pass_on_from_finalizer,
        performance_clock_ns,
        plain_key,
        unlist,
        wall_clock_ns,
    )

    if TYPE_CHECKING:
        from kaspan.interceptor.tracing.tracing import Tracing

_TOO_LARGE = "MessageSizeTooLargeError"


# In C nothing that it refers to refers to it, and a garbage collector would walk all that are open.
@cython.no_gc
@cython.freelist(512)
@cython.cclass
class SendSpan:
    """The open span of one send: its future calls it with the record's metadata, or with the error.

    When the future goes away without either, the producer gave the record up: the span ends as a timeout.
    `templates` is None once the span has ended. `enqueued_ns` is when send() returned to its caller, on the
    performance counter.
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

    if cython.compiled:
        _newer = cython.declare(cython.p_void)
        _older = cython.declare(cython.p_void)
        _is_listed = cython.declare(cython.bint)
        templates = cython.declare(object, visibility="public")
        trace_id = cython.declare(bytes, visibility="readonly")
        span_id = cython.declare(bytes, visibility="readonly")
        parent_id = cython.declare(object, visibility="readonly")
        extras = cython.declare(object, visibility="readonly")
        key = cython.declare(object, visibility="readonly")
        is_tombstone = cython.declare(cython.bint, visibility="readonly")
        timestamp_ns = cython.declare(cython.longlong, visibility="readonly")
        started_ns = cython.declare(cython.longlong, visibility="readonly")
        enqueued_ns = cython.declare(cython.longlong, visibility="public")

    def __init__(
        self,
        templates: Any,
        trace_id: bytes,
        span_id: bytes,
        parent_id: Any,
        extras: Any,
        key: Any,
        is_tombstone: cython.bint,
    ) -> None:
        self.trace_id, self.span_id, self.parent_id = trace_id, span_id, parent_id
        self.extras, self.key, self.is_tombstone = extras, plain_key(key), is_tombstone
        self._begin(templates)

    @cython.cfunc
    @cython.exceptval(-1)
    def _begin(self, templates: Any) -> cython.bint:
        list_open(self)
        self.enqueued_ns = 0
        self.timestamp_ns = wall_clock_ns()
        self.started_ns = performance_clock_ns()
        self.templates = templates  # last: a signal handler can end this at any line
        return False

    def __dealloc__(self) -> None:
        unlist(self)

    def __call__(self, outcome: Any) -> None:
        """End the span, if it is open. Never raises."""
        ended_ns: cython.longlong = performance_clock_ns()
        templates, self.templates = self.templates, None
        if templates is None:
            return
        unlist(self)
        if isinstance(outcome, BaseException):
            templates.end(self, None, outcome, ended_ns)
            return
        try:
            offset_or_none, template, reporter = outcome.offset, templates.ordinary, templates.reporter
            offset: cython.longlong = -1 if offset_or_none is None else offset_or_none
            process_start_ns: cython.longlong = reporter.process_start_ns
            if (
                template is None
                or self.is_tombstone
                or self.extras is not None
                or offset < 0
                or self.started_ns < process_start_ns
            ):
                templates.end(self, outcome, None, ended_ns)
                return
            duration_us: cython.longlong = (ended_ns - self.started_ns) // 1000
            reporter.report(
                fill_send(
                    template,
                    self.trace_id,
                    self.span_id,
                    self.parent_id,
                    self.timestamp_ns // 1000,
                    duration_us if duration_us else 1,
                    (self.timestamp_ns + self.enqueued_ns - self.started_ns) // 1000,
                    self.key,
                    outcome.partition,
                    offset,
                )
            )
        except Exception as failure:  # noqa: BLE001
            record_failure("recording a send", failure)

    def settle(self, future: Any) -> None:
        """End the span if the future is done: before 2.2 its callbacks, unlocked, can miss that moment."""
        if future.is_done:
            self(future.value if future.exception is None else future.exception)

    def give_up(self) -> None:
        """End the span, if it is open, as that of a send to which no answer will come. Never raises."""
        templates, self.templates = self.templates, None
        if templates is not None:
            unlist(self)
            templates.end(self, None, None, performance_clock_ns())

    def __del__(self) -> None:
        try:
            if cython.compiled:
                if self.templates is not None:
                    self.give_up()
            elif getattr(self, "templates", None) is not None:  # __init__ may have been interrupted
                self.give_up()
        except BaseException as error:  # noqa: BLE001 (Python would ignore it)
            pass_on_from_finalizer("recording a send", error)


@cython.cclass
class OrdinarySends:
    """Does what ProducerState.begin does, for the ordinary sends of one producer."""

    __slots__ = (
        "_bound",
        "_current",
        "_is_sampled",
        "_is_simple",
        "_known",
        "_samples_all",
        "_templates",
        "_tracing",
    )

    _tracing: Any
    _is_sampled: Any
    _current: Current
    _known: dict[Any, Any]
    """The results of ExcludedTopics: whether a topic is excluded, if that was looked up before."""
    _templates: dict[Any, Any]
    _samples_all: cython.bint
    _is_simple: cython.bint
    """Whether the sampler has neither rules nor a limit: then `_bound` alone decides."""
    _bound: cython.ulonglong

    def __init__(self, tracing: "Tracing", templates: dict[Any, Any]) -> None:
        sampler = tracing.sampler
        self._tracing, self._templates = tracing, templates
        self._known = tracing.excluded_topics.known
        self._current = Current(tracing.scope)
        self._is_sampled, self._samples_all = sampler.is_sampled, sampler.samples_all
        self._is_simple = sampler.is_simple
        self._bound = sampler.bound if sampler.is_simple and not sampler.samples_all else 0

    @cython.cfunc
    def begin(  # noqa: PLR0911 (each is a kind of send)
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Begin a send; returns its span, None if it gets none, NotImplemented if it is not ordinary."""
        positional: cython.Py_ssize_t = len(args)
        if positional > 3 or kwargs.get("headers") is not None:
            return NotImplemented
        topic = args[0] if positional else kwargs.get("topic")
        if type(topic) is not str:
            return NotImplemented
        is_excluded = self._known.get(topic)
        if is_excluded is not False:
            return None if is_excluded and not self._current.get() else NotImplemented
        templates = self._templates.get(topic)
        if templates is None:
            return NotImplemented
        parent_id = None
        parent = self._tracing.current() if self._current.get() else None
        if parent is None:
            span_id, trace_id = new_id(), new_trace_id()
            if self._samples_all:
                sampled = True
            elif self._is_simple:
                sampled = low_64_bits(trace_id) < self._bound
            else:
                sampled = self._is_sampled(trace_id, "send", topic)
        else:
            known_id, parent_id, decision, debug = parent
            if debug or known_id is None or decision is None:
                return NotImplemented
            span_id, trace_id, sampled = new_id(), known_id, decision
        kwargs["headers"] = [("b3", b3_header(trace_id, span_id, sampled))]
        if not sampled:
            return None
        send_span: SendSpan = SendSpan.__new__(SendSpan)
        send_span.trace_id, send_span.span_id, send_span.parent_id = trace_id, span_id, parent_id
        send_span.extras = None
        send_span.key = plain_key(args[2] if positional > 2 else kwargs.get("key"))
        send_span.is_tombstone = (args[1] if positional > 1 else kwargs.get("value")) is None
        send_span._begin(templates)
        return send_span


@cython.cclass
class Sends:
    """What KafkaProducer.send is replaced by, but for the function around it."""

    __slots__ = ("_follow", "_make_state", "_must_settle", "_original", "_state_class")

    _state_class: Any
    _make_state: Any
    _original: Any
    _follow: Any
    _must_settle: cython.bint

    def __init__(
        self, state_class: Any, make_state: Any, original: Any, follow: Any, must_settle: cython.bint
    ) -> None:
        self._state_class, self._make_state = state_class, make_state
        self._original, self._follow, self._must_settle = original, follow, must_settle

    def send(  # noqa: PLR0912 (calls cost more than they tell here)
        self, producer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the original `send`, with a span around it. Raises what that raises."""
        is_injected = True
        send_span = NotImplemented
        try:
            # By getattr: `producer.__dict__` would create that dict, and make its attributes slower.
            state: Any = getattr(producer, "_kaspan", None)
            if type(state) is not self._state_class:
                state = self._make_state(producer)
            ordinary = state.ordinary
            if ordinary is not None:
                send_span = cython.cast(OrdinarySends, ordinary).begin(args, kwargs)
            if send_span is NotImplemented:
                args, send_span, is_injected = state.begin(args, kwargs)
        except Exception as error:  # noqa: BLE001
            record_failure("tracing a send", error)
            return self._original(producer, *args, **kwargs)
        try:
            if cython.compiled:
                future = call(self._original, producer, args, kwargs)
            else:
                future = self._original(producer, *args, **kwargs)
        except BaseException as error:
            is_too_large = type(error).__name__ == _TOO_LARGE and is_injected and has_headers(args, kwargs)
            if not is_too_large:
                if send_span is not None:
                    send_span(error)
                raise
        else:
            # kafka-python 2 returns a future that has failed, where 3 raises.
            is_too_large = (
                is_injected
                and getattr(future, "is_done", False)
                and type(future.exception).__name__ == _TOO_LARGE
                and has_headers(args, kwargs)
            )
        if is_too_large:
            # Perhaps only kaspan's header makes it too large. Without it, kafka-python decides.
            future = state.send_without_context(self._original, producer, args, kwargs, send_span)
        if send_span is None:
            return future
        try:
            cython.cast(SendSpan, send_span).enqueued_ns = performance_clock_ns()
            self._follow(future, send_span, send_span)
            if self._must_settle:
                send_span.settle(future)
        except Exception as error:  # noqa: BLE001
            record_failure("following a send", error)
        return future


@cython.cfunc
def has_headers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Whether headers are passed: a topic that is excluded, and no record's, gets none."""
    return len(args) > 3 or kwargs.get("headers") is not None
