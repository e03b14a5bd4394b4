"""Report spans by HTTP where application and agent share no directory: a bounded queue and a thread.

Spans wait in the memory of the process, and are lost when it is killed. So a ring is better wherever one can
be made. Source of the idea: AsyncReporter of zipkin-reporter-java.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable

from kaspan.interceptor.failures import log
from kaspan.interceptor.reporters.http_client import ReportClient, Response

MAX_SPANS = 10_000
BATCH_BYTES = 500_000
FLUSH_INTERVAL_S = 1.0
"""How long a span may wait for others that go in the same message."""
TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
_AGAIN_LATER = (408, 425, 429)


class HttpReporter:
    """Reports the spans of one process by `client`. Holds at most `max_bytes` and MAX_SPANS of them.

    Starts a daemon thread that posts. While the agent cannot be reached, the thread tries again, at growing
    intervals, and the queue fills; when it is full, new spans are dropped. A batch that the agent refuses
    (HTTP 400, 413 and others) is dropped too. Both are counted. The log tells the counts when the agent
    answers again, and `close` logs the totals.
    """

    def __init__(self, client: ReportClient, max_bytes: int) -> None:
        self._client = client
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        # Totals: `put` writes the accepted ones, the thread the finished ones, so they need no lock.
        self._accepted_spans = self._accepted_bytes = 0
        self._finished_spans = self._finished_bytes = 0
        self.dropped_full = 0
        self.dropped_refused = 0
        self.dropped_unsent = 0
        self._logged_drops = 0
        self._suppressed = 0
        self._polled = (0, 0)
        self._is_failing = self._has_warned = self._has_warned_refusal = False
        self._is_closing = False
        # Locks are used as signals. An Event or a Condition has a lock inside: a finalizer that puts a span
        # while its thread holds that lock would wait for ever.
        self._wake, self._closing, self._done = (_locked() for _ in range(3))
        self.put = self._make_put()
        """put(payload: bytes): queue one Zipkin v2 JSON span. Never blocks. Drops and counts the span if the
        queue is full. Safe in any thread, in a signal handler and in a finalizer."""
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="kaspan reporter", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends; `close` posts
            self._thread = None
        self._close_with_child_process()

    def _close_with_child_process(self) -> None:
        """Close at the end of a child of multiprocessing: it does not run atexit, but its own finalizers."""
        process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, self.close, exitpriority=0)

    def _make_put(self) -> Callable[[bytes], None]:
        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release
        pending: deque[bytes] = deque()

        def put(payload: bytes) -> None:
            # The thread that holds the lock also accepts what the others leave in `pending`.
            pending.append(payload)
            while pending and acquire(False):
                try:
                    while pending:
                        self._accept(pending.popleft())
                finally:
                    release()

        return put

    def _accept(self, payload: bytes) -> None:
        size = len(payload) + 1
        queued_bytes = self._accepted_bytes - self._finished_bytes + size
        if self._is_closing:
            return
        if queued_bytes > self._max_bytes or self._accepted_spans - self._finished_spans >= MAX_SPANS:
            self.dropped_full += 1
            return
        self._queue.append(payload)
        self._accepted_spans += 1
        self._accepted_bytes += size
        if len(self._queue) <= 1 or queued_bytes - size < BATCH_BYTES <= queued_bytes:
            _release(self._wake)

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.acquire()  # until there is a span
            if not self._is_closing:
                self._wake.acquire(timeout=FLUSH_INTERVAL_S)  # until they fill a message
            self._post_queued()
        _release(self._done)

    def _post_queued(self) -> None:
        while self._queue:
            batch: list[bytes] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0]) + 1 <= BATCH_BYTES):
                batch.append(self._queue.popleft())
                size += len(batch[-1]) + 1
            is_answered = self._post(batch)
            self._finished_spans += len(batch)
            self._finished_bytes += size
            if not is_answered:
                self.dropped_unsent += len(batch) + len(self._queue)
                return

    def _post(self, batch: list[bytes]) -> bool:
        """Post until there is a final answer. False if the process ends without one."""
        failures = 0
        while True:
            answer = self._try(batch)
            if 200 <= answer.status < 300:
                self._recovered()
                return True
            if 400 <= answer.status < 500 and answer.status not in _AGAIN_LATER:
                self._refused(answer, len(batch))
                return True
            self._failing(answer)
            if self._is_closing:
                return False
            retry_s = min(FIRST_RETRY_S * 2**failures, MAX_RETRY_S)
            failures = min(failures + 1, 10)
            # Random: all processes that report to one agent lose it at the same moment.
            retry_s *= 0.5 + random.random()  # noqa: S311
            self._closing.acquire(timeout=max(retry_s, min(answer.retry_after_s, _MAX_RETRY_AFTER_S)))

    def _try(self, batch: list[bytes]) -> Response:
        try:
            return self._client.post(batch, CLOSE_TIMEOUT_S if self._is_closing else TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 (whatever failed, the spans are not delivered)
            return Response(0, f"{type(error).__name__}: {error}", 0.0)

    def _failing(self, answer: Response) -> None:
        if self._is_failing:
            return
        self._is_failing = True
        say = log.debug if self._has_warned else log.warning
        self._has_warned = True
        say(
            "kaspan: spans cannot be reported to %s: %s; kaspan keeps up to %d bytes of them and tries again",
            self._client.address,
            answer.text,
            self._max_bytes,
        )

    def _recovered(self) -> None:
        if not self._is_failing:
            return
        self._is_failing = False
        if self.dropped_full > self._logged_drops:
            log.warning(
                "kaspan: %s accepts spans again; %d were dropped meanwhile",
                self._client.address,
                self.dropped_full - self._logged_drops,
            )
            self._logged_drops = self.dropped_full

    def _refused(self, answer: Response, spans: int) -> None:
        self.dropped_refused += spans
        say = log.debug if self._has_warned_refusal else log.warning
        self._has_warned_refusal = True
        say("kaspan: %s refuses %d spans: %s", self._client.address, spans, answer.text)

    def note_suppressed(self, errors: int) -> None:
        """Remember how many failures were suppressed; `close` logs the number."""
        self._suppressed = errors

    def note_polled(self, records: int, without_length: int) -> None:
        """Remember the numbers of PolledRecords; `close` logs them."""
        self._polled = (records, without_length)

    def close(self) -> None:
        """Post the queue, for at most CLOSE_TIMEOUT_S, and log what was lost. Later spans are dropped."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._thread is None:
            # No thread can be started any more, so this one posts. `_try` uses the shorter timeout.
            self._post_queued()
        else:
            _release(self._wake)
            _release(self._closing)
            if not self._done.acquire(timeout=CLOSE_TIMEOUT_S):
                self.dropped_unsent += self._accepted_spans - self._finished_spans
        reasons = {
            "found the queue full": self.dropped_full,
            "were refused": self.dropped_refused,
            "were not sent before the process ended": self.dropped_unsent,
        }
        lost = ", ".join(f"{spans} {reason}" for reason, spans in reasons.items() if spans)
        if lost:
            log.warning("kaspan: spans not reported to %s: %s", self._client.address, lost)
        if self._suppressed:
            log.info("kaspan: %d errors in kaspan were suppressed", self._suppressed)
        records, without_length = self._polled
        if without_length:
            log.info(
                "kaspan: of %d records that poll() returned, %d have a span of no length",
                records,
                without_length,
            )

    def abandon(self) -> None:
        """Forget all spans, in a forked child: the parent reports them."""
        self._is_closing = True
        self._queue.clear()


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _release(lock: threading.Lock) -> None:
    try:
        lock.release()
    except RuntimeError:
        return  # the signal is set already
