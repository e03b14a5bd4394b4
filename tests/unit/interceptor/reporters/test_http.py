"""Spans by HTTP: accepted spans arrive once, and the application never waits for the agent."""

from __future__ import annotations

import gc
import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kaspan.interceptor.reporters import http as reporting
from kaspan.interceptor.reporters.http import BATCH_BYTES, MAX_SPANS, HttpReporter
from kaspan.interceptor.reporters.http_client import ReportClient, Response
from support.waiting import wait_until
from support.zipkin_stub import Response as Reply
from support.zipkin_stub import ZipkinStub

MAX_BYTES = 4 * 1024 * 1024
TOKEN = "open-sesame"


def span(number: int, padding_bytes: int = 0) -> bytes:
    return b'{"id":"%016x","name":"%b"}' % (number, b"x" * padding_bytes)


def ids(*numbers: int) -> Counter[str]:
    return Counter(f"{number:016x}" for number in numbers)


class Asked:
    """An endpoint without a network: notes what it is asked to report, and answers when it is told to."""

    address = "http://agent"

    def __init__(self, *answers: int | Response | Exception) -> None:
        self.batches: list[list[bytes]] = []
        self.answers = list(answers)
        self.timeouts_s: list[float] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def post(self, spans: list[bytes], timeout_s: float) -> Response:
        self.batches.append(spans)
        self.timeouts_s.append(timeout_s)
        self.may_answer.wait()
        answer = self.answers.pop(0) if self.answers else 202
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Response) else Response(answer, f"HTTP {answer}", 0.0)


class Patience:
    """Replaces the signal that a retry waits on: records how long it would have waited."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.waits_s.append(timeout)
        return False

    def release(self) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "FLUSH_INTERVAL_S", 0.02)
    monkeypatch.setattr(reporting, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(reporting, "MAX_RETRY_S", 0.05)


@pytest.fixture
def reporting_to() -> Iterator[Callable[..., HttpReporter]]:
    """Give a way to make reporters; each is closed at the end."""
    made: list[HttpReporter] = []
    asked: list[Asked] = []

    def make(where: Any, max_bytes: int = MAX_BYTES, token: str = "") -> HttpReporter:
        if isinstance(where, Asked):
            asked.append(where)
        made.append(HttpReporter(ReportClient(where, token) if isinstance(where, str) else where, max_bytes))
        return made[-1]

    yield make
    for endpoint in asked:
        endpoint.may_answer.set()
    for reporter in made:
        reporter.close()


def wait_for_spans(zipkin_stub: ZipkinStub, *numbers: int) -> None:
    wait_until(lambda: zipkin_stub.stored == ids(*numbers), f"spans {numbers} are stored", every_s=0.01)


def batches_of(asked: Asked, count: int) -> list[list[bytes]]:
    wait_until(lambda: len(asked.batches) >= count, f"{count} reports", every_s=0.01)
    return asked.batches


def test_report_is_a_list_that_zipkin_takes_and_nobody_traces(
    zipkin_stub: ZipkinStub, reporting_to: Any
) -> None:
    """Spans come as a JSON list to /api/v2/spans, with `b3: 0` so that the report is not traced itself."""
    reporter = reporting_to(zipkin_stub.url)
    reporter.put(span(1))
    reporter.put(span(2))
    wait_for_spans(zipkin_stub, 1, 2)

    headers = zipkin_stub.reports[0].headers
    assert {report.path for report in zipkin_stub.reports} == {"/api/v2/spans"}
    assert (headers["Content-Type"], headers["b3"]) == ("application/json", "0")
    assert "Authorization" not in headers
    assert zipkin_stub.reports[0].body.startswith(b'[{"')


@pytest.mark.parametrize("path", ["", "/", "/api/v2/spans", "/collect/here?tenant=7"])
def test_address_may_name_the_path(path: str, zipkin_stub: ZipkinStub, reporting_to: Any) -> None:
    """A path in the address is kept as it is, and without one it is Zipkin's; `zipkin+` changes nothing."""
    reporting_to("zipkin+" + zipkin_stub.url + path).put(span(1))
    wait_for_spans(zipkin_stub, 1)

    assert zipkin_stub.reports[0].path == (path if path.strip("/") else "/api/v2/spans")


def test_token_is_sent_to_an_agent_that_wants_one(zipkin_stub: ZipkinStub, reporting_to: Any) -> None:
    """With interceptor.token each report says `Authorization: Bearer`."""
    reporting_to(zipkin_stub.url, token=TOKEN).put(span(1))
    wait_for_spans(zipkin_stub, 1)

    assert zipkin_stub.reports[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_spans_go_by_unix_socket(tmp_path: Path, reporting_to: Any) -> None:
    """An address unix:///path reports to the socket at that path."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        reporting_to(f"unix://{path}").put(span(1))
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as request:
            head = list(iter(request.readline, b"\r\n"))
            body = request.read(len(span(1)) + 2)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    assert head[0] == b"POST /api/v2/spans HTTP/1.1\r\n"
    assert body == b"[%b]" % span(1)


def test_connection_is_closed_after_each_report(zipkin_stub: ZipkinStub, reporting_to: Any) -> None:
    """No descriptor is kept between reports, that a process closing all of them could turn into another's."""
    reporter = reporting_to(zipkin_stub.url)
    reporter.put(span(1))
    wait_for_spans(zipkin_stub, 1)

    assert zipkin_stub.reports[0].headers["Connection"] == "close"


def test_report_is_no_larger_than_its_bound(reporting_to: Any) -> None:
    """A batch has at most 500,000 bytes; a larger span goes alone."""
    asked = Asked()
    asked.may_answer.clear()
    reporter = reporting_to(asked)
    for number, padding_bytes in enumerate((0, 300_000, 300_000, 600_000, 10)):
        reporter.put(span(number, padding_bytes))
    asked.may_answer.set()
    reporter.close()

    reported = [int(json.loads(one)["id"], 16) for batch in asked.batches for one in batch]
    assert reported == [0, 1, 2, 3, 4]
    assert all(sum(map(len, batch)) <= BATCH_BYTES or len(batch) == 1 for batch in asked.batches)
    assert reporter.dropped_full == 0


def test_full_queue_drops_the_newest_span_and_counts_it(reporting_to: Any) -> None:
    """With MAX_SPANS waiting, one more is dropped; those that wait are reported when the agent answers."""
    asked = Asked()
    asked.may_answer.clear()
    reporter = reporting_to(asked)
    for number in range(MAX_SPANS + 3):
        reporter.put(span(number))
    assert reporter.dropped_full == 3

    asked.may_answer.set()
    reporter.close()

    assert [one for batch in asked.batches for one in batch] == [span(n) for n in range(MAX_SPANS)]


def test_queue_is_bounded_in_bytes(reporting_to: Any) -> None:
    """Spans that would make it more than max_bytes are dropped, smaller ones still fit."""
    asked = Asked()
    asked.may_answer.clear()
    reporter = reporting_to(asked, max_bytes=10_000)
    for number in range(3):
        reporter.put(span(number, 4_000))
    reporter.put(span(3))
    assert reporter.dropped_full == 1

    asked.may_answer.set()
    reporter.close()

    assert [one for batch in asked.batches for one in batch] == [span(0, 4_000), span(1, 4_000), span(3)]


def test_room_is_free_again_when_spans_were_taken(reporting_to: Any) -> None:
    """What was answered does not count against the bound any more."""
    asked = Asked()
    reporter = reporting_to(asked, max_bytes=1_000)
    for number in range(20):
        reporter.put(span(number, 400))
        batches_of(asked, number + 1)
        wait_until(
            lambda expected=number + 1: reporter._finished_spans == expected, "it is settled", every_s=0.005
        )

    assert reporter.dropped_full == 0


@pytest.mark.parametrize("failure", [408, 425, 429, 500, 503, OSError("refused"), ValueError("odd")])
def test_spans_are_tried_again_until_they_are_taken(failure: Any, reporting_to: Any) -> None:
    """While the agent is away, or says later, the same spans are reported again, in order and once."""
    asked = Asked(failure, failure, failure)
    reporter = reporting_to(asked)
    reporter.put(span(1))
    batches_of(asked, 4)
    reporter.put(span(2))
    batches_of(asked, 5)

    assert asked.batches == [[span(1)]] * 4 + [[span(2)]]


def test_agent_that_comes_back_gets_what_waited(reporting_to: Any) -> None:
    """Spans made before the agent listens arrive once it does."""
    gone = ZipkinStub()
    gone.close()
    reporter = reporting_to(gone.url)
    reporter.put(span(1))
    wait_until(lambda: reporter._is_failing, "a report has failed", every_s=0.01)
    reporter.put(span(2))
    back = ZipkinStub(port=gone.port)
    try:
        wait_for_spans(back, 1, 2)
    finally:
        back.close()


def test_retries_are_ever_rarer(monkeypatch: pytest.MonkeyPatch, reporting_to: Any) -> None:
    """Each wait is about twice the last one, up to a bound; spread by half, so that clients do not march."""
    monkeypatch.setattr(reporting, "FIRST_RETRY_S", 0.5)
    monkeypatch.setattr(reporting, "MAX_RETRY_S", 10.0)
    asked = Asked(*[503] * 8)
    reporter = reporting_to(asked)
    reporter._closing = patience = Patience()
    reporter.put(span(1))
    batches_of(asked, 9)

    for wait_s, base_s in zip(patience.waits_s, (0.5, 1, 2, 4, 8, 10, 10, 10), strict=True):
        assert 0.5 * base_s <= wait_s <= 1.5 * base_s


@pytest.mark.parametrize(("asked_for_s", "waited_s"), [(7.0, 7.0), (86_400.0, 60.0)])
def test_retry_waits_as_long_as_it_is_asked_to(
    asked_for_s: float, waited_s: float, reporting_to: Any
) -> None:
    """Retry-After is followed, up to a minute."""
    asked = Asked(Response(429, "HTTP 429", asked_for_s))
    reporter = reporting_to(asked)
    reporter._closing = patience = Patience()
    reporter.put(span(1))
    batches_of(asked, 2)

    assert patience.waits_s == [waited_s]


@pytest.mark.parametrize(("value", "waited_s"), [("5", 5.0), (" 5 ", 5.0), ("soon", 0.0), ("-1", 0.0)])
def test_retry_after_is_read_from_the_answer(value: str, waited_s: float, zipkin_stub: ZipkinStub) -> None:
    """Seconds in the header are obeyed; a date or nonsense is ignored."""
    zipkin_stub.answer = lambda report: Reply(429, "full", (("Retry-After", value),))

    answer = ReportClient(zipkin_stub.url).post([span(1)], 5.0)

    assert answer == (429, "HTTP 429 Too Many Requests full", waited_s)


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_refused_spans_are_dropped_and_counted_and_later_ones_go_on(status: int, reporting_to: Any) -> None:
    """A report that is refused for good is not tried again."""
    asked = Asked(status)
    reporter = reporting_to(asked)
    reporter.put(span(1))
    batches_of(asked, 1)
    reporter.put(span(2))
    batches_of(asked, 2)
    reporter.close()

    assert asked.batches == [[span(1)], [span(2)]]
    assert reporter.dropped_refused == 1


def test_outage_is_one_warning_and_its_end_says_what_was_dropped(
    reporting_to: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried, one warning says where reports cannot go and why, one what was lost."""
    asked = Asked(*[503] * 4)
    reporter = reporting_to(asked, max_bytes=100)
    reporter.put(span(1))
    batches_of(asked, 2)
    for number in range(5):
        reporter.put(span(number))
    batches_of(asked, 5)
    wait_until(lambda: not reporter._is_failing, "it has recovered", every_s=0.01)
    dropped = reporter.dropped_full

    failing, back = (record.getMessage() for record in caplog.records)
    assert "http://agent" in failing
    assert "HTTP 503" in failing
    assert back == f"kaspan: http://agent accepts spans again; {dropped} were dropped meanwhile"


def test_refusal_is_one_warning_with_the_reason(reporting_to: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the agent says of a refused report is in the log once."""
    asked = Asked(*[Response(400, "HTTP 400 Bad Request: no", 0.0)] * 3)
    reporter = reporting_to(asked)
    for number in range(3):
        reporter.put(span(number))
        batches_of(asked, number + 1)
    wait_until(lambda: reporter.dropped_refused == 3, "all are refused", every_s=0.01)

    assert [record.getMessage() for record in caplog.records] == [
        "kaspan: http://agent refuses 1 spans: HTTP 400 Bad Request: no"
    ]


def test_put_never_waits_for_an_agent_that_hangs(reporting_to: Any) -> None:
    """With a server that takes connections and never answers, spans are taken until the queue is full."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reporter = reporting_to(f"http://127.0.0.1:{silent.getsockname()[1]}", max_bytes=10_000)
        for number in range(1_000):
            reporter.put(span(number))

    assert reporter.dropped_full > 0


def test_close_reports_what_is_queued(
    zipkin_stub: ZipkinStub, reporting_to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the process spans do not wait for others."""
    monkeypatch.setattr(reporting, "FLUSH_INTERVAL_S", 3_600.0)
    reporter = reporting_to(zipkin_stub.url)
    reporter.put(span(1))
    reporter.put(span(2))
    reporter.close()

    assert zipkin_stub.stored == ids(1, 2)


def test_close_gives_up_and_says_what_was_lost(
    reporting_to: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an agent that hangs, the end of the process waits its second, and a warning counts the spans."""
    monkeypatch.setattr(reporting, "CLOSE_TIMEOUT_S", 0.05)
    asked = Asked()
    asked.may_answer.clear()
    reporter = reporting_to(asked)
    reporter.put(span(1))
    batches_of(asked, 1)
    reporter.put(span(2))
    reporter.close()

    (record,) = caplog.records
    assert record.getMessage() == (
        "kaspan: spans not reported to http://agent: 2 were not sent before the process ended"
    )


def test_close_does_not_retry(reporting_to: Any) -> None:
    """With an agent that is away, one last report is tried, and the rest given up."""
    asked = Asked(*[OSError("refused")] * 100)
    reporter = reporting_to(asked)
    reporter.put(span(1, BATCH_BYTES))
    batches_of(asked, 1)
    reporter.put(span(2, BATCH_BYTES))
    reporter.close()

    assert not reporter._thread.is_alive() or reporter._done.locked()
    assert reporter.dropped_unsent == 2
    assert {tuple(batch) for batch in asked.batches} == {(span(1, BATCH_BYTES),)}


def test_reporter_without_a_thread_reports_when_it_closes(
    zipkin_stub: ZipkinStub, reporting_to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that come first when the interpreter starts no thread any more are reported by `close`."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        reporter = reporting_to(zipkin_stub.url)
    reporter.put(span(1))
    reporter.close()

    assert zipkin_stub.stored == ids(1)


def test_spans_of_many_threads_arrive_once(zipkin_stub: ZipkinStub, reporting_to: Any) -> None:
    """Threads that put at the same time lose nothing and repeat nothing."""
    reporter = reporting_to(zipkin_stub.url)
    threads = [
        threading.Thread(target=lambda first=first: [reporter.put(span(first + n)) for n in range(500)])
        for first in range(0, 4_000, 500)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_for_spans(zipkin_stub, *range(4_000))


def test_put_may_interrupt_itself(zipkin_stub: ZipkinStub, reporting_to: Any) -> None:
    """A finalizer and a signal handler that put while their thread is in put neither hang nor lose a span."""
    reporter = reporting_to(zipkin_stub.url)
    numbers = iter(range(1_000_000))
    put: list[int] = []

    def one_more(*_: object) -> None:
        put.append(next(numbers))
        reporter.put(span(put[-1]))

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            one_more()

    before, thresholds = signal.signal(signal.SIGALRM, one_more), gc.get_threshold()
    gc.set_threshold(1)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(1_000):
            Finalized()
            one_more()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.set_threshold(*thresholds)
    gc.collect()

    wait_for_spans(zipkin_stub, *put)


def test_abandoned_reporter_reports_nothing_more(reporting_to: Any) -> None:
    """In a fork the parent's spans are the parent's: the copy of its reporter sends none of them."""
    asked = Asked()
    asked.may_answer.clear()
    reporter = reporting_to(asked)
    reporter.put(span(1))
    batches_of(asked, 1)
    reporter.put(span(2))
    reporter.abandon()
    asked.may_answer.set()
    reporter.close()

    assert asked.batches == [[span(1)]]
