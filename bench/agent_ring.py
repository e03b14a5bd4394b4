"""The cost of the ring path in the agent: CPU microseconds a span, with a spool that flushes every commit.

A writer puts spans of a usual size into rings, and waits while a ring is nearly full. A null Zipkin, another
process, reads each report and answers 202. Each run starts a new agent; the result is the median of the
runs. It depends on the disk of the spool, which --spool-dir names.

    python bench/agent_ring.py [--runs 5] [--spans 300000] [--rate 20000] [--rings 1]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kaspan.interceptor.reporters.ring import SpanRing

SPAN = (
    b'{"traceId":"%032x","parentId":"%016x","id":"%016x","kind":"CONSUMER","name":"process orders",'
    b'"timestamp":1732459200000000,"duration":12345,"localEndpoint":{"serviceName":"shipping"},'
    b'"remoteEndpoint":{"serviceName":"kafka"},"tags":{"kafka.topic":"orders","kafka.key":"order-1234",'
    b'"messaging.system":"kafka","messaging.operation.name":"process","messaging.destination.name":"orders",'
    b'"messaging.destination.partition.id":"3","messaging.kafka.offset":"123456",'
    b'"messaging.consumer.group.name":"shipping","messaging.client.id":"kafka-python-3.0.12"}}'
)
TICKS_S = os.sysconf("SC_CLK_TCK")


def null_zipkin(listener: socket.socket) -> None:
    """Read reports for ever and answer 202 to each: one connection, bodies with Content-Length."""
    while True:
        connection, _ = listener.accept()
        buffer = memoryview(bytearray(1 << 20))
        with contextlib.suppress(ConnectionError), connection:
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    received = connection.recv(65536)
                    if not received:
                        raise ConnectionResetError
                    head += received
                head, _, body = head.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                left = length - len(body)
                while left:
                    left -= connection.recv_into(buffer, min(left, len(buffer)))
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


def start_null_zipkin() -> tuple[int, int]:
    """Fork the null Zipkin; returns its pid and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        null_zipkin(listener)
    port: int = listener.getsockname()[1]
    listener.close()
    return pid, port


def cpu_s(pid: int) -> float:
    """The CPU seconds of a process and its threads so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def rss_mb(pid: int, what: str) -> float:
    """Resident memory in MB: `what` is VmRSS or VmHWM."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)
    )
    return int(line.split()[1]) / 1024


def run(port: int, spans: int, rate: int, rings: int, spool_dir: str | None) -> tuple[float, float, float]:
    """One run: CPU microseconds a span, peak RSS in MB, spans a second."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as ring_dir,
        tempfile.TemporaryDirectory(dir=spool_dir) as spool,
    ):
        command = [sys.executable, "-m", "kaspan.cli.main", "agent", "--ring-dir", ring_dir]
        command += ["--spool", f"{spool}/spool.db", "--zipkin", f"http://127.0.0.1:{port}"]
        agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            return measure(agent, ring_dir, spans, rate, rings)
        finally:
            agent.kill()
            agent.wait()


def measure(
    agent: subprocess.Popen[str], ring_dir: str, spans: int, rate: int, rings: int
) -> tuple[float, float, float]:
    """Send spans to a running agent and end it; returns the same as `run`."""
    assert agent.stderr is not None
    agent.stderr.readline()
    writers = [SpanRing(ring_dir, 4 << 20, {"service": "bench"}) for _ in range(rings)]
    time.sleep(0.5)
    before_s, started_s = cpu_s(agent.pid), time.monotonic()
    files = [os.open(path, os.O_RDONLY) for path in Path(ring_dir).glob("*.ring")]
    assert len(files) == rings
    write(writers, files, spans, rate, started_s)
    wait_until_taken(files)
    elapsed_s = time.monotonic() - started_s
    time.sleep(1.5)
    used_s, peak_mb = cpu_s(agent.pid) - before_s, rss_mb(agent.pid, "VmHWM")
    agent.send_signal(signal.SIGTERM)
    report = agent.communicate(timeout=30)[1]
    assert f"sent {spans} to" in report, report
    return used_s / spans * 1e6, peak_mb, spans / elapsed_s


def write(writers: list[SpanRing], rings: list[int], spans: int, rate: int, started_s: float) -> None:
    """Put spans into the rings in turn at `rate` a second; wait while a ring is nearly full."""
    step = max(1, rate // 100)
    for first in range(0, spans, step):
        for index in range(first, min(first + step, spans)):
            writers[index % len(writers)].put(SPAN % (index + 1, index + 1, index + 2))
        while any(unread_bytes(ring) > 3 << 20 for ring in rings):
            time.sleep(0.001)
        time.sleep(max(0.0, started_s + (first + step) / rate - time.monotonic()))


def unread_bytes(ring: int) -> int:
    """The bytes of a ring, an open file, that the agent has not taken yet."""
    header = os.pread(ring, 32, 0)
    return int.from_bytes(header[16:24], "little") - int.from_bytes(header[24:32], "little")


def wait_until_taken(rings: list[int]) -> None:
    """Wait until the rings are empty."""
    deadline_s = time.monotonic() + 60
    while any(map(unread_bytes, rings)):
        assert time.monotonic() < deadline_s, "the agent does not take the spans"
        time.sleep(0.01)


def main() -> None:
    """Print a line for each run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--spans", type=int, default=300_000)
    parser.add_argument("--rate", type=int, default=20_000, help="spans a second")
    parser.add_argument("--rings", type=int, default=1)
    parser.add_argument("--spool-dir", help="where the spool is made (default: the temporary directory)")
    options = parser.parse_args()
    pid, port = start_null_zipkin()
    try:
        results = [
            run(port, options.spans, options.rate, options.rings, options.spool_dir)
            for _ in range(options.runs)
        ]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for cpu_us, peak_mb, rate in results:
        print(f"{cpu_us:6.2f} us/span  {peak_mb:6.1f} MB peak  {rate:8.0f} spans/s")
    median = [statistics.median(column) for column in zip(*results, strict=True)]
    size = len(SPAN % (1, 1, 1))
    print(f"median {median[0]:.2f} us/span, {median[1]:.1f} MB, {median[2]:.0f} spans/s; {size} bytes a span")


if __name__ == "__main__":
    main()
