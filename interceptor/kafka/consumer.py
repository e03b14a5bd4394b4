"""Patch KafkaConsumer where it returns records: the loop, `next()` and `poll()`."""

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
_MAX_INTERVAL_MS = 2**31 - 1  # a broker's largest
_UPDATE_OFFSETS = 2  # position in poll(timeout_ms, max_records, update_offsets)


def max_poll_interval_ns(config: Mapping[str, Any]) -> int:
    """Return how long a consumer may not poll (ns): after that Kafka gives its partitions to another one."""
    interval_ms: Any = config.get("max_poll_interval_ms")
    if type(interval_ms) not in (int, float) or not 0 < interval_ms <= _MAX_INTERVAL_MS:
        interval_ms = _DEFAULT_MAX_POLL_INTERVAL_MS
    return int(interval_ms * 1_000_000)


class ConsumerState:
    """The open records of one consumer. Weak references, where the application owns the object."""

    def __init__(self, consumer: Any, record_class: type, tracing: Tracing) -> None:
        self.consumer_spans = ConsumerSpans(consumer, record_class, tracing)
        self.next_scope = NextScope(self.consumer_spans, max_poll_interval_ns(consumer.config))
        """The scope of the record that `next(consumer)` returned last."""
        self.loops: list[weakref.ref[record_scope.RecordScope]] = []
        self.polled: list[weakref.ref[RecordList]] = []
        _remember(self)
        if tracing.on_client is not None:
            tracing.on_client()
        if tracing.on_consumer is not None:
            tracing.on_consumer(record_class)

    @classmethod
    def of(cls, consumer: Any, record_class: type, tracing: Tracing) -> ConsumerState:
        """Return a consumer's state; make it the first time."""
        # By getattr: `consumer.__dict__` would create that dict, and make its attributes slower.
        state = getattr(consumer, _STATE, None)
        if isinstance(state, cls):
            return state
        made = cls(consumer, record_class, tracing)
        object.__setattr__(consumer, _STATE, made)
        return made

    def settle(self) -> None:
        """End the open records, since the application calls the consumer again.

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
        """Remember a loop over the consumer that begins."""
        self.loops = [reference for reference in self.loops if reference() is not None]
        self.loops.append(weakref.ref(loop))

    def close_loops(self) -> None:
        """End the record that each loop handed out last."""
        for reference in self.loops:
            loop = reference()
            if loop is not None:
                loop.close()

    def close(self) -> None:
        """End the open records, since the consumer is closed."""
        self.close_loops()
        self.settle()

    def end(self) -> None:
        """End the open records, those of running loops too, since the process ends."""
        self.close()
        for reference in self.polled:
            records = reference()
            if records is not None:
                records.end()


# Not a WeakSet: its callbacks are Python code, and an exception that a signal handler raises in one is lost.
_states: dict[int, weakref.ref[ConsumerState]] = {}
fork.after_in_child(fork.RECORDS, _states.clear)


def _remember(state: ConsumerState) -> None:
    if len(_states) >= _MANY_CONSUMERS:
        for key, reference in list(_states.items()):
            if reference() is None:
                _states.pop(key, None)
    _states[id(state)] = weakref.ref(state)


def end_open_records() -> None:
    """End every record in work, when the process ends. Never raises."""
    # Python finalizes neither daemon threads nor objects that modules hold: their spans would be lost.
    for reference in list(_states.values()):
        state = reference()
        if state is None:
            continue
        try:
            state.end()
        except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
            finish("ending the records in work", error, state.end)


at_exit.add(at_exit.RECORDS, end_open_records)


def instrument(consumer_class: type, fetcher: Any, tracing: Tracing) -> None:
    """Patch kafka-python's KafkaConsumer, and the record class in its module `fetcher`.

    Calling it again does nothing.
    """
    patched: Any = consumer_class
    original_iter, original_next, original_poll, original_close = (
        patched.__iter__,
        patched.__next__,
        patched.poll,
        patched.close,
    )
    if getattr(original_next, _PATCHED, None) is True:  # a mock has every attribute
        return
    patched._kaspan = None  # so that a subclass's __getattr__ is not called for it
    # kafka-python makes records of this class at once: to copy each record would cost more than all the rest.
    record_class = fetcher.ConsumerRecord = with_span_attribute(fetcher.ConsumerRecord)
    state_of = functools.partial(ConsumerState.of, record_class=record_class, tracing=tracing)

    @functools.wraps(original_iter)
    def traced_iter(self: Any) -> Any:
        # A subclass with its own __next__ is looped over by that one, which calls traced_next.
        if type(self).__next__ is traced_next:
            try:
                state = state_of(self)
                loop = ConsumerLoop(state.consumer_spans, self, original_next, state.next_scope)
                state.begin_loop(loop)
            except Exception as error:  # noqa: BLE001
                record_failure("tracing a consumer's loop", error)
            else:
                return loop
        return original_iter(self)

    @functools.wraps(original_next)
    def traced_next(self: Any) -> Any:
        try:
            state = state_of(self)
            state.close_loops()
            next_scope = state.next_scope
        except Exception as error:  # noqa: BLE001
            record_failure("tracing next(consumer)", error)
            return original_next(self)
        next_scope.close()
        return next_scope.open(state.consumer_spans.fetch(original_next, self))

    @functools.wraps(original_poll)
    def traced_poll(self: Any, *args: Any, **kwargs: Any) -> Any:
        internal = not kwargs.get("update_offsets", True) or (
            len(args) > _UPDATE_OFFSETS and not args[_UPDATE_OFFSETS]
        )
        if internal:  # called by kafka-python's own iterator: the records are the loop's
            return original_poll(self, *args, **kwargs)
        try:
            state = state_of(self)
            state.settle()
        except Exception as error:  # noqa: BLE001
            record_failure("tracing a poll", error)
            return original_poll(self, *args, **kwargs)
        polled = state.consumer_spans.fetch(original_poll, self, *args, **kwargs)
        try:
            for partition, records in polled.items():
                state.consumer_spans.count_polled(partition.topic, len(records))
                traced = polled[partition] = RecordList.of(records, state.consumer_spans)
                traced.owner = state
                state.polled.append(weakref.ref(traced))
        except BaseException as error:  # noqa: BLE001 (the records must reach the application)
            pass_on("tracing polled records", error)
        return polled

    @functools.wraps(original_close)
    def traced_close(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if type(state := getattr(self, _STATE, None)) is ConsumerState:
                state.close()
        except Exception as error:  # noqa: BLE001
            record_failure("ending a consumer's spans", error)
        return original_close(self, *args, **kwargs)

    setattr(traced_next, _PATCHED, True)
    patched.__iter__, patched.__next__ = traced_iter, traced_next
    patched.poll, patched.close = traced_poll, traced_close
