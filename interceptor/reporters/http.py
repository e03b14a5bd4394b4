"""The way of spans where application and agent share no directory: a bounded queue and a thread that posts.

Spans wait in the process's own memory here and go when it is killed, so the ring is the better way wherever
there can be one. Source of the idea: AsyncReporter of zipkin-reporter-java.
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
"""How long a span may wait for others to share its message."""
TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
_AGAIN_LATER = (408, 425, 429)


class HttpReporter:
    """Reports one process's spans to `endpoint`, holding `max_bytes` of them and MAX_SPANS at most.

    One daemon thread posts, started here. While the agent is away it tries again and again, ever more
    slowly; meanwhile the queue fills up, and then the newest spans are dropped. A batch that is refused
    (HTTP 400, 413 and the like) is dropped as well. Both are counted, told in the log when the agent is
    back, and in total by `close`.
    """

    def __init__(self, endpoint: ReportClient, max_bytes: int) -> None:
        self._endpoint = endpoint
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        # Pairs of numbers that only grow, each written by one side alone: no lock is held between the two.
        self._taken_spans = self._taken_bytes = 0
        self._settled_spans = self._settled_bytes = 0
        self.dropped_full = 0
        self.dropped_refused = 0
        self.dropped_unsent = 0
        self._told_drops = 0
        self._suppressed = 0
        self._is_failing = self._has_warned = self._has_warned_refusal = False
        self._is_closing = False
        # Locks as signals: what else there is to wake a thread takes locks of its own, and whoever is
        # interrupted while holding one by a finalizer that puts a span would wait for ever.
        self._wake, self._closing, self._done = (_locked() for _ in range(3))
        self.put = self._taker()
        """put(payload: bytes): take one Zipkin v2 JSON span. Never blocks; drops the span and counts it
        when the queue is full. Safe from any thread, a signal handler and a finalizer."""
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="kaspan reporter", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending; `close` will post
            self._thread = None
        self._close_with_child_process()

    def _close_with_child_process(self) -> None:
        """A child of multiprocessing ends without atexit, and has finalizers of its own instead."""
        process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, self.close, exitpriority=0)

    def _taker(self) -> Callable[[bytes], None]:
        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release
        pending: deque[bytes] = deque()

        def put(payload: bytes) -> None:
            # Whoever holds the lock also takes what others had to leave in `pending` meanwhile.
            pending.append(payload)
            while pending and acquire(False):
                try:
                    while pending:
                        self._take(pending.popleft())
                finally:
                    release()

        return put

    def _take(self, payload: bytes) -> None:
        size = len(payload) + 1
        queued_bytes = self._taken_bytes - self._settled_bytes + size
        if self._is_closing:
            return
        if queued_bytes > self._max_bytes or self._taken_spans - self._settled_spans >= MAX_SPANS:
            self.dropped_full += 1
            return
        self._queue.append(payload)
        self._taken_spans += 1
        self._taken_bytes += size
        if len(self._queue) <= 1 or queued_bytes - size < BATCH_BYTES <= queued_bytes:
            _release(self._wake)

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.acquire()  # something has come
            if not self._is_closing:
                self._wake.acquire(timeout=FLUSH_INTERVAL_S)  # until there is a message full of it
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
            self._settled_spans += len(batch)
            self._settled_bytes += size
            if not is_answered:
                self.dropped_unsent += len(batch) + len(self._queue)
                return

    def _post(self, batch: list[bytes]) -> bool:
        """Post until there is a final answer; False when the process ends without one."""
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
            # Spread, since all that report to one agent notice at the same time that it is gone.
            retry_s *= 0.5 + random.random()  # noqa: S311
            self._closing.acquire(timeout=max(retry_s, min(answer.retry_after_s, _MAX_RETRY_AFTER_S)))

    def _try(self, batch: list[bytes]) -> Response:
        try:
            return self._endpoint.post(batch, CLOSE_TIMEOUT_S if self._is_closing else TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 (whatever it is, the spans are not delivered)
            return Response(0, f"{type(error).__name__}: {error}", 0.0)

    def _failing(self, answer: Response) -> None:
        if self._is_failing:
            return
        self._is_failing = True
        say = log.debug if self._has_warned else log.warning
        self._has_warned = True
        say(
            "kaspan: spans cannot be reported to %s: %s; trying on, and keeping up to %d bytes of them",
            self._endpoint.address,
            answer.text,
            self._max_bytes,
        )

    def _recovered(self) -> None:
        if not self._is_failing:
            return
        self._is_failing = False
        if self.dropped_full > self._told_drops:
            log.warning(
                "kaspan: %s takes spans again; %d were dropped meanwhile",
                self._endpoint.address,
                self.dropped_full - self._told_drops,
            )
            self._told_drops = self.dropped_full

    def _refused(self, answer: Response, spans: int) -> None:
        self.dropped_refused += spans
        say = log.debug if self._has_warned_refusal else log.warning
        self._has_warned_refusal = True
        say("kaspan: %s refuses %d spans: %s", self._endpoint.address, spans, answer.text)

    def note_suppressed(self, errors: int) -> None:
        """Remember how many failures the application has not seen, for `close` to tell."""
        self._suppressed = errors

    def close(self) -> None:
        """Post what is queued, for at most CLOSE_TIMEOUT_S, and tell in the log what was lost.

        What comes afterwards is dropped: the process is ending.
        """
        if self._is_closing:
            return
        self._is_closing = True
        if self._thread is None:
            # No thread may be started any more, so this one posts; `_try` knows that there is little time.
            self._post_queued()
        else:
            _release(self._wake)
            _release(self._closing)
            if not self._done.acquire(timeout=CLOSE_TIMEOUT_S):
                self.dropped_unsent += self._taken_spans - self._settled_spans
        reasons = {
            "found the queue full": self.dropped_full,
            "were refused": self.dropped_refused,
            "were not sent before the process ended": self.dropped_unsent,
        }
        lost = ", ".join(f"{spans} {reason}" for reason, spans in reasons.items() if spans)
        if lost:
            log.warning("kaspan: spans not reported to %s: %s", self._endpoint.address, lost)
        if self._suppressed:
            log.info("kaspan: %d failures of its own were kept from the application", self._suppressed)

    def abandon(self) -> None:
        """Forget everything: the spans are the parent's to report, and this is its fork."""
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
        return  # it is free already: the signal stands
