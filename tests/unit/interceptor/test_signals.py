"""What the application raises while kaspan's code runs reaches the application, with nothing lost on the way.

Time-outs by SIGALRM, a worker's orderly end on SIGTERM and Celery's soft time limits are exceptions that a
signal handler raises, in whatever Python code the main thread is in at that moment.
"""

from __future__ import annotations

import queue
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kaspan.interceptor import failures
from kaspan.interceptor.handover.hand_overs import HandOvers
from kaspan.interceptor.handover.points import follow_no_records, follow_records
from kaspan.interceptor.import_hooks import imports
from kaspan.interceptor.kafka import record_list, record_scope, send_span
from kaspan.interceptor.reporters import ring_file, room
from support import kafka_clients as unconnected
from support.programs import ProgramRunner
from support.ring_reader import current, offsets
from support.waiting import wait_until


class Shutdown(Exception):
    """What a worker's handler raises."""


def raise_in_handler(error: BaseException) -> Callable[..., None]:
    def handler(signum: int, frame: Any) -> None:
        raise error

    return handler


def raise_in_method(error: BaseException) -> Callable[..., None]:
    class Worker:
        def stop(self, *args: Any) -> None:
            raise error

    return Worker().stop


def raise_below_handler(error: BaseException) -> Callable[..., None]:
    def stop() -> None:
        raise error

    return lambda signum, frame: stop()


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give a way to have a signal arrive whenever a method of kaspan's is called, the first time only."""
    before = signal.getsignal(signal.SIGUSR1)

    def arrange(holder: Any, method: str, handler: Callable[..., None]) -> None:
        signal.signal(signal.SIGUSR1, handler)
        original, arrived = getattr(holder, method), []

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            if not arrived:
                arrived.append(True)
                signal.raise_signal(signal.SIGUSR1)
            return original(*args, **kwargs)

        monkeypatch.setattr(holder, method, interrupted)

    yield arrange
    signal.signal(signal.SIGUSR1, before)


def go_on() -> None:
    """Work until an exception comes."""
    wait_until(lambda: False, "the exception", deadline_s=10, every_s=0.001)


def send(application: Any) -> None:
    application.producer().send("orders", b"value")


def loop(application: Any) -> None:
    for _ in application.consumer(application.records(2)):
        go_on()


def take_next(application: Any) -> None:
    consumer = application.consumer(application.records(2))
    try:
        next(consumer)
        go_on()
    finally:
        consumer.close()


def take_by_index(application: Any) -> None:
    for records in application.consumer(application.records(2)).poll().values():
        assert records[0].offset == 0


def loop_over_list(application: Any) -> None:
    for records in application.consumer(application.records(2)).poll().values():
        for _ in records:
            go_on()


USES = [send, loop, take_next, take_by_index, loop_over_list]
HANDLERS = [raise_in_handler, raise_in_method, raise_below_handler]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("handler", HANDLERS)
def test_exception_of_a_signal_handler_reaches_the_application(
    configured: Any, interrupt: Any, caplog: pytest.LogCaptureFixture, use: Any, handler: Any
) -> None:
    """It is raised in the application, whatever kaspan was doing, and is not counted as kaspan's failure."""
    application = configured()
    interrupt(application.tracing, "child_of", handler(TimeoutError("too slow")))

    with pytest.raises(TimeoutError, match="too slow"):
        use(application)

    assert caplog.records == []


def test_record_during_whose_hand_over_a_signal_comes_is_not_lost(configured: Any, interrupt: Any) -> None:
    """kafka-python has moved on: the record arrives, and the exception is raised in the loop's body."""
    application = configured()
    interrupt(application.tracing, "child_of", raise_in_handler(Shutdown()))
    seen = []

    def work() -> None:
        for record in application.consumer(application.records(2)):
            seen.append(record.offset)
            go_on()

    with pytest.raises(Shutdown):
        work()

    assert current() is None
    assert (seen, offsets(application.take())) == ([0], [0])


@pytest.mark.parametrize("error", [Shutdown, KeyboardInterrupt])
def test_record_that_is_taken_from_a_queue_while_a_signal_comes_is_not_lost(
    application: Any, interrupt: Any, error: Any
) -> None:
    """What a handler raises then comes when get() has returned, so that it is not the record that is lost."""
    waiting: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record()])
    waiting.put(record)
    follow_records(application.tracing, application.fetcher.ConsumerRecord, imports)
    interrupt(HandOvers, "traced_function", raise_in_handler(error()))
    taken: list[Any] = []

    def work() -> None:
        taken.append(waiting.get())
        go_on()

    try:
        with pytest.raises(error):
            work()
    finally:
        follow_no_records()
    assert taken == [record]


@pytest.mark.parametrize("error", [Shutdown, KeyboardInterrupt, SystemExit])
def test_signal_during_a_finalizer_reaches_the_application(
    configured: Any, interrupt: Any, error: type[BaseException]
) -> None:
    """Python ignores what a finalizer raises; here it is raised where the list was dropped, or soon after."""
    application = configured()
    consumer = application.consumer(application.records(3))
    polled = consumer.poll()
    interrupt(application.tracing, "child_of", raise_in_handler(error()))

    def drop() -> None:
        polled.clear()
        go_on()

    with pytest.raises(error):
        drop()

    assert Counter(offsets(application.take())) == Counter(range(3))


def test_signal_while_a_span_is_reported_loses_no_span(configured: Any, interrupt: Any) -> None:
    """The span is reported all the same, before the exception goes on to the application."""
    application = configured()
    records = [application.record(), application.record(1, value=None)]  # a tombstone is not ordinary
    interrupt(application.tracing.reporter, "report", raise_in_handler(Shutdown()))

    def work() -> None:
        for _ in application.consumer(records):
            pass

    with pytest.raises(Shutdown):
        work()

    assert current() is None
    assert offsets(application.take()) == [0]


PASSING_ON = {(module.__file__, "__del__") for module in (record_list, record_scope, send_span)}
"""kaspan's finalizers where they are in Python: they pass on what comes in them."""


def test_no_code_that_ignores_exceptions_runs_where_a_client_is_let_go_of(configured: Any) -> None:
    """What a signal handler raises in the callback of a weak reference, as a WeakSet has them, is lost."""
    application = configured()
    clients = [application.producer_class(), application.consumer([application.record()])]
    clients[0].send("orders", b"value")
    clients[0].last.acknowledge()
    for _ in clients[1]:
        pass
    called: list[tuple[str, str]] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.append((frame.f_code.co_filename, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        clients.clear()
    finally:
        sys.setprofile(None)

    assert [one for one in called if one[0] != unconnected.__file__ and one not in PASSING_ON] == []


RING_STEPS = [(ring_file, "refuse_unread_orphans"), (ring_file, "sizes"), (room, "_read")]


@pytest.mark.parametrize("error", [Shutdown, TimeoutError])
@pytest.mark.parametrize(("module", "step"), RING_STEPS)
def test_signal_while_the_ring_is_made_loses_and_doubles_no_span(
    configured: Any, interrupt: Any, module: Any, step: str, error: type[Exception]
) -> None:
    """The ring is made all the same, and the first span is in it once."""
    application = configured()
    interrupt(module, step, raise_in_handler(error()))

    with pytest.raises(error):
        read_and_go_on(application, 1)

    assert offsets(application.take()) == [0]


@pytest.mark.parametrize("error", [Shutdown, TimeoutError])
def test_signal_while_the_ring_is_looked_after_doubles_no_span(
    configured: Any, interrupt: Any, error: type[Exception]
) -> None:
    """The span after which it is looked has been written by then."""
    application = configured()
    read(application, 1)
    ring = application.tracing.reporter._ring
    ring._check_at_s = 0.0
    handled: list[int] = []

    def handler(number: int, frame: Any) -> None:
        handled.append(number)
        raise error

    interrupt(ring_file, "_named", handler)

    with pytest.raises(error):
        read_until(application, handled)

    assert handled
    first, *more = offsets(application.take())
    assert first == 0
    assert more == list(range(len(more)))


def read(application: Any, count: int) -> None:
    for _ in application.consumer(application.records(count)):
        pass


def read_until(application: Any, handled: list[int]) -> None:
    """Work on records until a signal was handled, and then on one, so that its exception comes there."""
    for _ in application.consumer(application.records(60)):
        if handled:
            go_on()


def read_and_go_on(application: Any, count: int) -> None:
    read(application, count)
    go_on()


class Asked(Exception):
    """What an object of the application's raises when it is asked something."""


class Unaskable:
    """A key that refuses to be text."""

    def __getattribute__(self, name: str) -> Any:
        raise Asked(name)


def test_exception_of_an_object_that_kaspan_asked_is_kept_from_the_application() -> None:
    """Without kaspan nobody would have asked: the application never sees it."""
    with pytest.raises(Asked) as raised:
        assert Unaskable().key

    assert not failures.is_from_outside(raised.value)


def raised_in(module: str, error: BaseException) -> BaseException:
    """Return an exception that was raised in the code of a module, with nothing below it."""
    try:
        exec("raise error", {"__name__": module, "error": error})  # noqa: S102
    except BaseException as caught:  # noqa: BLE001
        return caught.with_traceback(caught.__traceback__ and caught.__traceback__.tb_next)
    raise AssertionError


def test_class_that_kaspan_cannot_know_is_the_applications() -> None:
    """What another thread has set (PyThreadState_SetAsyncExc) comes from no frame but kaspan's own."""
    assert failures.is_from_outside(raised_in("kaspan.interceptor.kafka.record_scope", Shutdown()))
    assert not failures.is_from_outside(raised_in("kaspan.interceptor.kafka.record_scope", KeyError("topic")))
    assert not failures.is_from_outside(raised_in("shop.keys", Shutdown()))


STORM = """
import itertools, random, signal, sys, tempfile
from pathlib import Path
import kafka
from support.kafka_clients import TracedClients, make_tracing

class Shutdown(Exception): pass

application = TracedClients(make_tracing(Path(tempfile.mkdtemp(dir=Path.cwd()))))
elsewhere = (str(Path(kafka.__file__).parent), "kafka_clients.py", "random.py")
producer = application.producer()
armed, raised, caught = False, 0, 0

def handler(signum, frame):
    global armed, raised
    at = frame
    while at is not None:
        if any(part in at.f_code.co_filename for part in elsewhere):
            return arm()  # kafka-python keeps some exceptions for itself
        at = at.f_back
    if armed:
        armed, raised = False, raised + 1
        raise Shutdown

def arm():
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0004))

def work(number):
    consumer = application.consumer(application.records(20))
    if number % 3 == 0:
        for record in consumer: pass
    elif number % 3 == 1:
        for records in consumer.poll().values():
            for record in records: pass
    else:
        consumer.poll()
    producer.send("orders", b"value")
    producer.forget()

def work_until_raised():
    global armed
    armed = True
    arm()
    for _ in range(2000):
        work(next(number))
        if not armed and caught == raised: break

signal.signal(signal.SIGALRM, handler)
number = itertools.count()
for _ in range(400):
    try:
        # No loop in here: what Python 3.13 raises where a loop jumps back is outside of the try.
        work_until_raised()
    except Shutdown:
        caught += 1
print(raised, caught)
"""


@pytest.mark.parametrize("pure_python", [None, "1"], ids=["compiled", "Python"])
def test_every_exception_of_a_storm_of_signals_reaches_the_application(
    programs: ProgramRunner, pure_python: str | None
) -> None:
    """Of signals that come at any moment of a busy application none is lost in kaspan's code."""
    done = programs.plain(STORM, KASPAN_PURE_PYTHON=pure_python)

    assert (done.returncode, done.stdout, done.stderr) == (0, "400 400\n", "")
