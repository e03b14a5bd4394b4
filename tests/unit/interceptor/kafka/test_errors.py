"""An exception that leaves a loop's body is on its record's span; what else ends a loop is not an error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kaspan.interceptor.kafka.logged_errors import follow_logs
from support.ring_reader import current, offsets


class Refused(Exception):
    """What goes wrong in a body."""


Loop = Any
"""What is looped over: a consumer, or a list that poll() returned. In it are the records 0, 1 and 2."""

LEFT_BY_EXCEPTION: dict[str, Callable[[Loop], None]] = {}
LEFT_OTHERWISE: dict[str, Callable[[Loop], None]] = {}


def failing(function: Callable[[Loop], None]) -> Callable[[Loop], None]:
    """A loop that Refused("record 1") leaves while record 1 is in work."""
    LEFT_BY_EXCEPTION[function.__name__] = function
    return function


def passing(function: Callable[[Loop], None]) -> Callable[[Loop], None]:
    """A loop that is left while record 1 is in work, and not by a failure of its body."""
    LEFT_OTHERWISE[function.__name__] = function
    return function


def work(record: Any) -> None:
    if record.offset == 1:
        raise Refused("record 1")


async def work_later(record: Any) -> None:
    await asyncio.sleep(0)
    work(record)


@failing
def raised_by_a_function(loop: Loop) -> None:
    for record in loop:
        work(record)


@failing
def raised_in_the_body(loop: Loop) -> None:
    for record in loop:
        if record.offset == 1:
            raise Refused("record 1")


@failing
def raised_by_c_code(loop: Loop) -> None:
    def values(record: Any) -> Iterator[int]:
        work(record)
        yield 1

    for record in loop:
        sum(values(record))


@failing
def caught_right_around_the_loop(loop: Loop) -> None:
    try:
        for record in loop:
            work(record)
    except Refused:
        assert current() is None


@failing
def caught_by_a_context_manager(loop: Loop) -> None:
    with contextlib.suppress(Refused):
        for record in loop:
            work(record)


@failing
def raised_through_finally(loop: Loop) -> None:
    done = []
    for record in loop:
        try:
            work(record)
        finally:
            done.append(record)


@failing
def raised_through_a_context_manager(loop: Loop) -> None:
    for record in loop:
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: None)
            work(record)


@failing
def raised_again(loop: Loop) -> None:
    for record in loop:
        try:
            work(record)
        except Refused:
            raise


@failing
def raised_from_another(loop: Loop) -> None:
    for record in loop:
        try:
            if record.offset == 1:
                raise KeyError("something else")
        except KeyError as error:
            raise Refused("record 1") from error


@failing
def raised_in_an_inner_loop(loop: Loop) -> None:
    for record in loop:
        for _ in range(3):
            work(record)


@failing
def raised_in_the_second_of_two_bodies(loop: Loop) -> None:
    for _, record in enumerate(loop):
        work(record)


@failing
def raised_over_zip(loop: Loop) -> None:
    for record, _ in zip(loop, "abc", strict=False):
        work(record)


@failing
def raised_in_map(loop: Loop) -> None:
    list(map(work, loop))


@failing
def raised_in_a_generator_with_the_loop(loop: Loop) -> None:
    def values() -> Iterator[int]:
        for record in loop:
            work(record)
            yield record.offset

    list(values())


@failing
def raised_in_a_coroutine(loop: Loop) -> None:
    async def main() -> None:
        for record in loop:
            await work_later(record)

    asyncio.run(main())


@failing
def raised_in_a_task(loop: Loop) -> None:
    async def main() -> None:
        for record in loop:
            await asyncio.gather(work_later(record))

    asyncio.run(main())


@failing
def timed_out_in_a_coroutine(loop: Loop) -> None:
    async def wait_for(record: Any) -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(60 if record.offset == 1 else 0), 0.001)
        except asyncio.TimeoutError:
            raise Refused("record 1") from None

    async def main() -> None:
        for record in loop:
            await wait_for(record)

    asyncio.run(main())


@failing
def raised_with_the_error_kept(loop: Loop) -> None:
    kept = None
    try:
        for record in loop:
            work(record)
    except Refused as error:
        kept = error
    assert kept is not None


@failing
def raised_in_a_method_called_by_a_loop_outside(loop: Loop) -> None:
    class Worker:
        def run(self) -> None:
            for record in loop:
                work(record)

    for _ in range(1):
        Worker().run()


@passing
def by_break(loop: Loop) -> None:
    for record in loop:
        if record.offset == 1:
            break


@passing
def by_break_from_an_inner_loop(loop: Loop) -> None:
    for record in loop:
        for _ in range(2):
            if record.offset == 1:
                break
        if record.offset == 1:
            break


@passing
def by_return(loop: Loop) -> None:
    def first() -> Any:
        for record in loop:
            if record.offset == 1:
                return record
        return None

    assert first().offset == 1


@passing
def by_return_of_a_call(loop: Loop) -> None:
    def first() -> Any:
        for record in loop:
            if record.offset == 1:
                return str(record.offset)
        return None

    assert first() == "1"


@passing
def by_return_of_nothing(loop: Loop) -> None:
    def first() -> None:
        for record in loop:
            if record.offset == 1:
                return

    first()


@passing
def by_return_in_except(loop: Loop) -> None:
    def first() -> str:
        for record in loop:
            try:
                work(record)
            except Refused as error:
                return str(error)
        return ""

    assert first() == "record 1"


@passing
def by_return_in_finally(loop: Loop) -> None:
    def first() -> Any:
        for record in loop:
            try:
                work(record)
            finally:
                if record.offset == 1:
                    return record  # noqa: B012
        return None

    assert first().offset == 1


@passing
def by_break_in_except(loop: Loop) -> None:
    for record in loop:
        try:
            work(record)
        except Refused:
            break


@passing
def by_break_with_an_exception_in_work_outside(loop: Loop) -> None:
    try:
        raise KeyError("another")
    except KeyError:
        for record in loop:
            if record.offset == 1:
                break


@passing
def by_return_in_a_context_manager(loop: Loop) -> None:
    def first() -> None:
        for record in loop:
            with contextlib.suppress(Refused):
                if record.offset == 1:
                    return

    first()


@passing
def by_next_of_a_new_iterator(loop: Loop) -> None:
    iterator = iter(loop)
    assert [next(iterator).offset, next(iterator).offset] == [0, 1]
    del iterator


@passing
def by_a_temporary_iterator(loop: Loop) -> None:
    for _ in range(1):
        assert [*itertools.islice(loop, 2)][1].offset == 1


@passing
def by_zip_with_a_shorter_one(loop: Loop) -> None:
    assert len([*zip(loop, "a", strict=False)]) == 1


@passing
def by_any(loop: Loop) -> None:
    assert any(record.offset == 1 for record in loop)


@passing
def by_closing_a_generator(loop: Loop) -> None:
    def values() -> Iterator[int]:
        for record in loop:
            yield record.offset

    generator = values()
    assert [next(generator), next(generator)] == [0, 1]
    generator.close()


@passing
def by_closing_a_generator_with_finally(loop: Loop) -> None:
    def values() -> Iterator[int]:
        for record in loop:
            try:
                yield record.offset
            finally:
                record.count(0)

    generator = values()
    assert [next(generator), next(generator)] == [0, 1]
    generator.close()


@passing
def by_dropping_a_generator(loop: Loop) -> None:
    for offset in (record.offset for record in loop):
        if offset == 1:
            break


@passing
def by_breaking_out_of_a_pipeline(loop: Loop) -> None:
    def values() -> Iterator[Any]:
        for record in loop:  # noqa: UP028 (it is a for statement that is to be left)
            yield record

    def even() -> Iterator[Any]:
        for record in values():
            if record.offset == 1:
                yield record

    for _ in even():
        break


@passing
def by_cancelling_a_task(loop: Loop) -> None:
    async def consume() -> None:
        for record in loop:
            await asyncio.sleep(60 if record.offset == 1 else 0)

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


@passing
def by_cancelling_a_task_in_try(loop: Loop) -> None:
    async def consume() -> None:
        for record in loop:
            try:
                await asyncio.sleep(60 if record.offset == 1 else 0)
            finally:
                record.count(0)

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def exhausted(loop: Loop) -> None:
    for _ in loop:
        pass


def all_caught_inside(loop: Loop) -> None:
    for record in loop:
        try:
            work(record)
        except Refused:
            continue


def exhausted_in_a_frame_that_raises_afterwards(loop: Loop) -> None:
    for _ in loop:
        pass
    raise Refused("afterwards")


def collected(loop: Loop) -> None:
    assert len(list(loop)) == 3


def spread(loop: Loop) -> None:
    assert len([*loop, *()]) == 3


COMPLETE = [
    exhausted,
    all_caught_inside,
    exhausted_in_a_frame_that_raises_afterwards,
    collected,
    spread,
]


def consumer(application: Any) -> Loop:
    return application.consumer(application.records(3))


def polled_list(application: Any) -> Loop:
    (records,) = application.consumer(application.records(3)).poll().values()
    return records


def tags(spans: list[Any]) -> list[tuple[str | None, str | None]]:
    return [(span.tags.get("error"), span.tags.get("error.type")) for span in spans]


def processed(spans: list[Any]) -> list[Any]:
    return [span for span in spans if span.name == "process orders"]


@pytest.mark.parametrize("source", [consumer, polled_list])
@pytest.mark.parametrize("leave", LEFT_BY_EXCEPTION.values(), ids=LEFT_BY_EXCEPTION.keys())
def test_exception_that_leaves_the_body_is_on_the_span_of_its_record(
    application: Any, is_compiled: bool, source: Any, leave: Any
) -> None:
    """With its message and its class; the record before has none."""
    with contextlib.suppress(Refused):
        leave(source(application))

    spans = processed(application.take())
    assert current() is None
    assert offsets(spans) == [0, 1]
    if is_compiled:
        assert tags(spans) == [(None, None), ("record 1", "Refused")]
    else:
        # That there was one can be told, not which; in a coroutine or by map() not even that.
        unseen = leave.__name__ in ("raised_in_map", "raised_in_a_coroutine", "raised_in_a_task")
        unseen = unseen or leave.__name__ == "timed_out_in_a_coroutine"
        assert tags(spans) == [(None, None), (None if unseen else "true", None)]
    # A list that is in a cycle with its traceback: the spans of its other records are not for a later test.
    gc.collect()


@pytest.mark.parametrize("source", [consumer, polled_list])
@pytest.mark.parametrize("leave", LEFT_OTHERWISE.values(), ids=LEFT_OTHERWISE.keys())
def test_loop_that_is_left_otherwise_has_no_error(application: Any, source: Any, leave: Any) -> None:
    """A span without a failure is never marked: not by break or return, closing or cancelling."""
    leave(source(application))

    assert current() is None
    assert {*tags(application.take())} == {(None, None)}


@pytest.mark.parametrize("source", [consumer, polled_list])
@pytest.mark.parametrize("use", COMPLETE)
def test_loop_that_comes_to_its_end_has_no_error(application: Any, source: Any, use: Any) -> None:
    """Whatever the body has caught, and whatever is raised after the loop."""
    with contextlib.suppress(Refused):
        use(source(application))

    assert tags(application.take()) == [(None, None)] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("source", [consumer, polled_list])
def test_what_asks_a_worker_to_end_is_no_error(
    application: Any, is_compiled: bool, source: Any, error: type[BaseException]
) -> None:
    """Only what derives from Exception is a failure of the record's processing."""
    if not is_compiled:
        pytest.skip("in plain Python it cannot be seen which exception it is")

    def consume() -> None:
        for record in source(application):
            if record.offset == 1:
                raise error

    with pytest.raises(error):
        consume()

    assert {*tags(application.take())} == {(None, None)}


def test_both_records_of_nested_loops_that_an_exception_leaves_are_marked(
    application: Any, is_compiled: bool
) -> None:
    """It has left the bodies of both."""
    orders = application.consumer(application.records(1))
    rates = application.consumer(application.records(1, topic="rates"))

    def consume() -> None:
        for _ in orders:
            for _ in rates:
                raise Refused("both")

    with pytest.raises(Refused):
        consume()

    marked = [(span.name, span.tags["error"]) for span in application.take()]
    assert marked == [("process rates", "both" if is_compiled else "true"), ("process orders", marked[1][1])]


def test_exception_caught_in_the_outer_body_marks_the_inner_record_only(application: Any) -> None:
    """The outer record's processing has gone well."""
    orders = application.consumer(application.records(1))
    rates = application.consumer(application.records(1, topic="rates"))
    for _ in orders:
        with contextlib.suppress(Refused):
            for _ in rates:
                raise Refused("inner")

    inner, outer = application.take()
    assert "error" in inner.tags
    assert "error" not in outer.tags


def test_mark_of_the_applications_own_stays(application: Any) -> None:
    """What the application has said of the record's failure is better than what can be seen of it."""
    from opentelemetry import trace

    def consume() -> None:
        for _ in application.consumer(application.records(1)):
            trace.get_current_span().set_attribute("error", "out of stock")
            raise Refused("record 0")

    with pytest.raises(Refused):
        consume()

    assert application.take()[0].tags["error"] == "out of stock"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a comprehension is a function of its own before")
def test_exception_in_a_comprehension_is_on_the_span(application: Any) -> None:
    """From Python 3.12 on a comprehension is a loop of the function that it is in."""
    with contextlib.suppress(Refused):
        _ = [work(record) for record in application.consumer(application.records(3))]

    assert "error" in application.take()[1].tags


class Unprintable(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_exception_that_cannot_be_printed_loses_no_span(application: Any, is_compiled: bool) -> None:
    """The application's exception goes on, and its class is said in place of its message."""

    def consume() -> None:
        for _ in application.consumer(application.records(1)):
            raise Unprintable

    with pytest.raises(Unprintable):
        consume()

    assert tags(application.take()) == [("Unprintable",) * 2 if is_compiled else ("true", None)]


def test_unsampled_record_costs_nothing_when_it_fails(configured: Any) -> None:
    """Nothing is kept of an error on a span that is not recorded."""
    application = configured(sampling__rate=0.0)
    with contextlib.suppress(Refused):
        raised_by_a_function(consumer(application))

    assert application.take() == []


class Logger(logging.Logger):
    """A class of loggers that is patched for a test."""


@pytest.fixture
def logger() -> Logger:
    """Give a logger of a class of its own, whose records are not printed."""
    logger = type("PatchedLogger", (Logger,), {})("shop")
    logger.addHandler(logging.NullHandler())
    return logger


def log_each(loop: Loop, log: Callable[[], None]) -> None:
    for record in loop:
        try:
            work(record)
        except Refused:
            log()


LOGGED: dict[str, tuple[Callable[[Logger], None], bool]] = {
    "exception": (lambda logger: logger.exception("failed"), True),
    "error with exc_info": (lambda logger: logger.error("failed", exc_info=True), True),
    "critical with exc_info": (lambda logger: logger.critical("failed", exc_info=True), True),
    "error without exc_info": (lambda logger: logger.error("failed"), False),
    "warning with exc_info": (lambda logger: logger.warning("failed", exc_info=True), False),
}


@pytest.mark.parametrize(("log", "is_marked"), LOGGED.values(), ids=LOGGED.keys())
def test_error_that_the_body_logs_is_on_the_span(
    application: Any, logger: Logger, log: Callable[[Logger], None], is_marked: bool
) -> None:
    """With errors_from_logs an exception that is caught and logged marks the record's span."""
    follow_logs(application.tracing, type(logger))
    log_each(consumer(application), lambda: log(logger))

    assert tags(application.take())[1] == (("record 1", "Refused") if is_marked else (None, None))


def test_error_that_is_logged_outside_of_any_record_is_nobodys(application: Any, logger: Logger) -> None:
    """What is logged before and after a loop has no span to mark, and is logged as before."""
    seen: list[logging.LogRecord] = []
    logger.addFilter(lambda record: seen.append(record) or True)
    follow_logs(application.tracing, type(logger))
    try:
        raise Refused
    except Refused:
        logger.exception("before")
    exhausted(consumer(application))

    assert [record.getMessage() for record in seen] == ["before"]
    assert {*tags(application.take())} == {(None, None)}
