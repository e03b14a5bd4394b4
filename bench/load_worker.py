"""Both ends for the agent's benchmarks: a Zipkin that only counts, and applications.

Each is a forked process; `end` ends it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent_ring import SPAN, unread_bytes

from kaspan.interceptor.reporters.ring import SpanRing

BODY_SPANS = 20
HEAD = (
    b"POST /api/v2/spans HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
RING_BYTES = 1 << 20
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


class Forked:
    """A process that runs a function and ends."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.pid = os.fork()
        if not self.pid:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)

    def wait(self) -> None:
        """Block until the process has ended; fails if its exit code is not 0."""
        assert os.waitpid(self.pid, 0)[1] == 0, "a process of the benchmark failed"

    def end(self) -> None:
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class CountingZipkin:
    """Reads reports from any number of connections, answers 202, and counts their spans."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port: int = self._listener.getsockname()[1]
        self._counts = mmap.mmap(-1, 16)
        self._lock = threading.Lock()
        self._process = Forked(self._serve)
        self._listener.close()

    @property
    def spans(self) -> int:
        """The number of spans answered with 202 so far."""
        count: int = struct.unpack_from("<q", self._counts)[0]
        return count

    @property
    def answered_s(self) -> float:
        """The time of the last answer, on the monotonic clock."""
        moment: float = struct.unpack_from("<d", self._counts, 8)[0]
        return moment

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError), connection:
            self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        body = bytearray(1 << 20)
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    raise ConnectionResetError
                head += received
            head, _, rest = head.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body[: len(rest)] = rest
            filled = len(rest)
            while filled < length:
                filled += connection.recv_into(memoryview(body)[filled:length])
            spans = body.count(b'"traceId"', 0, length)
            with self._lock:
                struct.pack_into("<qd", self._counts, 0, self.spans + spans, time.monotonic())
            connection.sendall(ACCEPTED)

    def end(self) -> None:
        """Kill the process; its port then refuses connections."""
        self._process.end()


def pace(started_s: float, spans: int, rate: float) -> None:
    """Sleep until `spans` spans are due, at `rate` a second since `started_s`."""
    time.sleep(max(0.0, started_s + spans / rate - time.monotonic()))


def write_rings(ring_dir: str, rings: int, spans: int, rate: float) -> None:
    """Write `spans` spans in all to `rings` rings in turn, at `rate` a second.

    Waits while a ring is nearly full, so that no span is dropped.
    """
    writers = []
    for _ in range(rings):
        before = set(Path(ring_dir).glob("*.ring"))
        writer = SpanRing(ring_dir, RING_BYTES, {"service": "bench"})
        (path,) = [
            path
            for path in set(Path(ring_dir).glob("*.ring")) - before
            if path.name.startswith(f"{os.getpid()}-")
        ]
        writers.append((writer, os.open(path, os.O_RDONLY)))
    started_s = time.monotonic()
    step = max(rings, int(rate) // 50)
    base = os.getpid() << 32
    for first in range(0, spans, step):
        for number in range(first, min(first + step, spans)):
            writers[number % rings][0].put(SPAN % (base + number, base + number, base + number + 1))
        while any(unread_bytes(ring) > RING_BYTES * 3 // 4 for _, ring in writers):
            time.sleep(0.002)
        pace(started_s, first + step, rate)
    while any(unread_bytes(ring) for _, ring in writers):
        time.sleep(0.01)


def post_bodies(port: int, connections: int, spans: int, rate: float) -> None:
    """Post bodies of BODY_SPANS spans on `connections` connections; each round waits for all answers."""
    base = os.getpid() << 32
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    reports = []
    for number in range(connections):
        first = base + number * BODY_SPANS
        body = b"[%b]" % b",".join(SPAN % (i, i, i + 1) for i in range(first, first + BODY_SPANS))
        reports.append(HEAD % len(body) + body)
    started_s = time.monotonic()
    step = connections * BODY_SPANS
    for done in range(0, spans, step):
        waiting = clients[: (min(step, spans - done)) // BODY_SPANS]
        for client, report in zip(waiting, reports, strict=False):
            client.sendall(report)
        for client in waiting:
            answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 202"), answer
        pace(started_s, done + step, rate)


def cpu_ns(pid: int) -> int:
    """The CPU nanoseconds of all live threads of a process."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    )
