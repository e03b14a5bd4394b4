"""KafkaConsumer's ways of handing out records: the loop, `next()` and `poll()`."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

from kaspan.interceptor import at_exit, fork
from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import finish, pass_on, record_failure
from kaspan.interceptor.kafka import record_scope
from kaspan.interceptor.kafka.process_span import ConsumerSpans
from kaspan.interceptor.kafka.record_class import with_span_attribute
from kaspan.interceptor.kafka.record_list import RecordList
from kaspan.interceptor.tracing.tracing import Tracing

ConsumerLoop, NextScope = accelerated(record_scope.ConsumerLoop), accelerated(record_scope.NextScope)

_STATE = "_kaspan"
_PATCHED = "_kaspan_patched"
_MANY_CONSUMERS = 64
_DEFAULT_MAX_POLL_INTERVAL_MS = 300_000
_MAX_INTERVAL_MS = 2**31 - 1  # as brokers have it
_UPDATE_OFFSETS = 2  # position in poll(timeout_ms, max_records, update_offsets)


def max_poll_interval_ns(config: Mapping[str, Any]) -> int:
    """How long after a poll Kafka takes a consumer for stalled, and gives its partitions to another one."""
    given_ms: Any = config.get("max_poll_interval_ms")
    if type(given_ms) not in (int, float) or not 0 < given_ms <= _MAX_INTERVAL_MS:
        given_ms = _DEFAULT_MAX_POLL_INTERVAL_MS
    return int(given_ms * 1_000_000)


class ConsumerState:
    """What kaspan knows of one consumer: what is open on it, weakly where the application holds it."""

    def __init__(self, consumer: Any, record_class: type, tracing: Tracing) -> None:
        self.consumer_spans = ConsumerSpans(consumer, record_class, tracing)
        self.next_scope = NextScope(self.consumer_spans, max_poll_interval_ns(consumer.config))
        """The record that `next(consumer)` returned last."""
        self.loops: list[weakref.ref[record_scope.RecordScope]] = []
        self.polled: list[weakref.ref[RecordList]] = []
        _know(self)
        if tracing.on_client is not None:
            tracing.on_client()
        if tracing.on_consumer is not None:
            tracing.on_consumer(record_class)

    @classmethod
    def of(cls, consumer: Any, record_class: type, tracing: Tracing) -> ConsumerState:
        """Return a consumer's state, made when it is wanted first."""
        # Not in its __dict__: who looks into that makes one, and all other attributes are slower.
        state = getattr(consumer, _STATE, None)
        if isinstance(state, cls):
            return state
        made = cls(consumer, record_class, tracing)
        object.__setattr__(consumer, _STATE, made)
        return made

    def settle(self) -> None:
        """End what is open because the application has gone back to the consumer.

        Not what it is still looping over: it may poll meanwhile only to stay in its group.
        """
        self.next_scope.close()
        polled, self.polled = self.polled, []
        for reference in polled:
            records = reference()
            if records is not None and records.is_looped_over():
                self.polled.append(reference)
            elif records is not None:
                records.settle()

    def begin_loop(self, loop: record_scope.RecordScope) -> None:
        """Note that a loop over the consumer begins."""
        self.loops = [reference for reference in self.loops if reference() is not None]
        self.loops.append(weakref.ref(loop))

    def close_loops(self) -> None:
        """End the record that each loop handed out last."""
        for reference in self.loops:
            loop = reference()
            if loop is not None:
                loop.close()

    def close(self) -> None:
        """End everything: the consumer is being closed."""
        self.close_loops()
        self.settle()

    def end(self) -> None:
        """End even what is looped over: the process ends."""
        self.close()
        for reference in self.polled:
            records = reference()
            if records is not None:
                records.end()


# Not a WeakSet, whose callbacks are Python's code: what a signal handler raises in one is lost.
_known: dict[int, weakref.ref[ConsumerState]] = {}
fork.after_in_child(fork.RECORDS, _known.clear)


def _know(state: ConsumerState) -> None:
    if len(_known) >= _MANY_CONSUMERS:
        for key, reference in list(_known.items()):
            if reference() is None:
                _known.pop(key, None)
    _known[id(state)] = weakref.ref(state)


def end_open_records() -> None:
    """End every record that is in work when the process ends. Never raises."""
    # Else their spans were lost with daemon threads and what modules hold: Python finalizes neither.
    for reference in list(_known.values()):
        state = reference()
        if state is None:
            continue
        try:
            state.end()
        except BaseException as error:  # noqa: BLE001 (what is interrupted is done all the same)
            finish("ending the records in work", error, state.end)


at_exit.add(at_exit.RECORDS, end_open_records)


def instrument(consumer_class: type, fetcher: Any, tracing: Tracing) -> None:
    """Patch kafka-python's KafkaConsumer, and the record that its module `fetcher` makes.

    Calling it again does nothing.
    """
    original: Any = consumer_class
    plain_iter, plain_next, plain_poll, plain_close = (
        original.__iter__,
        original.__next__,
        original.poll,
        original.close,
    )
    if getattr(plain_next, _PATCHED, None) is True:  # a mock has every attribute
        return
    original._kaspan = None  # so that nobody's __getattr__ is asked for a state
    # Records are made with a place for their span: making them over would cost more than all the rest.
    record_class = fetcher.ConsumerRecord = with_span_attribute(fetcher.ConsumerRecord)
    state_of = functools.partial(ConsumerState.of, record_class=record_class, tracing=tracing)

    @functools.wraps(plain_iter)
    def traced_iter(self: Any) -> Any:
        # A subclass with a __next__ of its own is looped over by that; it comes here by traced_next.
        if type(self).__next__ is traced_next:
            try:
                state = state_of(self)
                loop = ConsumerLoop(state.consumer_spans, self, plain_next, state.next_scope)
                state.begin_loop(loop)
            except Exception as error:  # noqa: BLE001
                record_failure("tracing a consumer's loop", error)
            else:
                return loop
        return plain_iter(self)

    @functools.wraps(plain_next)
    def traced_next(self: Any) -> Any:
        try:
            state = state_of(self)
            state.close_loops()
            next_scope = state.next_scope
        except Exception as error:  # noqa: BLE001
            record_failure("tracing next(consumer)", error)
            return plain_next(self)
        next_scope.close()
        return next_scope.open(state.consumer_spans.fetch(plain_next, self))

    @functools.wraps(plain_poll)
    def traced_poll(self: Any, *args: Any, **kwargs: Any) -> Any:
        internal = not kwargs.get("update_offsets", True) or (
            len(args) > _UPDATE_OFFSETS and not args[_UPDATE_OFFSETS]
        )
        if internal:  # kafka-python's own iterator asks; the records are the loop's
            return plain_poll(self, *args, **kwargs)
        try:
            state = state_of(self)
            state.settle()
        except Exception as error:  # noqa: BLE001
            record_failure("tracing a poll", error)
            return plain_poll(self, *args, **kwargs)
        polled = state.consumer_spans.fetch(plain_poll, self, *args, **kwargs)
        try:
            for partition, records in polled.items():
                traced = polled[partition] = RecordList.of(records, state.consumer_spans)
                traced.owner = state
                state.polled.append(weakref.ref(traced))
        except BaseException as error:  # noqa: BLE001 (records that kafka-python has given must arrive)
            pass_on("tracing polled records", error)
        return polled

    @functools.wraps(plain_close)
    def traced_close(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if type(state := getattr(self, _STATE, None)) is ConsumerState:
                state.close()
        except Exception as error:  # noqa: BLE001
            record_failure("ending a consumer's spans", error)
        return plain_close(self, *args, **kwargs)

    setattr(traced_next, _PATCHED, True)
    original.__iter__, original.__next__ = traced_iter, traced_next
    original.poll, original.close = traced_poll, traced_close
