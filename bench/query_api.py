"""`kaspan server` beside Zipkin 3.5.1 with in-memory storage: what spans and queries cost.

Both take the same spans by HTTP, then answer the same queries, one after the other in turns. Measured: CPU
microseconds of the server's process for each span, from the request until the span can be found; the time of
each query as its client sees it, median and 95th percentile; resident memory after all that. Zipkin keeps its
spans in memory and loses them at its end; its heap is large enough for them.

    python bench/query_api.py [--spans 200000] [--rounds 200] [--zipkin-heap 2g] [--directory DIR]

Needs Java 17, and Maven for the first time: `make test` fetches Zipkin.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent_ring import cpu_s, rss_mb
from store_spans import SERVICES, TOPICS, arrivals

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers.jars import fetch_jars
from servers.kaspan import KaspanServer
from servers.process import ServerProcess
from servers.zipkin import ZipkinServer

LOOKBACK_MS = 7 * 86_400_000
TURNS = 10
JSON = {"Content-Type": "application/json"}


class Server(NamedTuple):
    """One of the two, and the connection to it."""

    name: str
    process: ServerProcess
    connection: http.client.HTTPConnection

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process.pid is not None
        return self.process.pid

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request and return the body of the answer."""
        self.connection.request(method, path, body, JSON)
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status < 300, (self.name, path, answer.status, content[:200])
        return content


class HeapZipkin(ZipkinServer):
    """Zipkin with room for the spans of this bench: `heap` is the size of Java's heap."""

    heap = "2g"

    def command(self) -> list[str]:
        """As it is for tests, with a larger heap."""
        return [f"-Xmx{self.heap}" if word.startswith("-Xmx") else word for word in super().command()]

    def environment(self) -> dict[str, str]:
        """As it is for tests, with more spans kept than the bench sends."""
        return {**super().environment(), "MEM_MAX_SPANS": "20000000"}


def main(spans: int, rounds: int, directory: Path) -> None:
    for name in ("zipkin", "kaspan"):
        (directory / name).mkdir()
    processes = {
        "Zipkin": HeapZipkin(fetch_jars(), directory / "zipkin"),
        "kaspan": KaspanServer(directory / "kaspan", KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S="1"),
    }
    try:
        for process in processes.values():
            process.start()
        servers = []
        for name, process in processes.items():
            process.wait_until_ready()
            servers.append(Server(name, process, http.client.HTTPConnection("127.0.0.1", process.port)))
        ingest(servers, spans)
        ask_all(servers, spans, rounds)
        for server in servers:
            print(f"{server.name:8} resident memory {rss_mb(server.pid, 'VmRSS:'):7.0f} MB")
    finally:
        for process in processes.values():
            process.stop()


def ingest(servers: list[Server], spans: int) -> None:
    """Post the spans to both in turns; the first turn, in which Java compiles, is told apart."""
    cpu: dict[str, list[float]] = {server.name: [] for server in servers}
    bodies = [b"[%b]" % batch for batch in arrivals(spans)]
    a_turn = -(-len(bodies) // TURNS)
    for at in range(0, len(bodies), a_turn):
        turn = bodies[at : at + a_turn]
        for server in servers:
            began_s = cpu_s(server.pid)
            for body in turn:
                server.ask("POST", "/api/v2/spans", body)
            if isinstance(server.process, KaspanServer):
                server.process.wait_until_stored(every_s=0.25)
            cpu[server.name].append((cpu_s(server.pid) - began_s) * 1e6 / (len(turn) * 100))
    for name, each in cpu.items():
        later = statistics.median(each[1:])
        print(f"{name:8} ingest {later:6.1f} us of CPU a span (first tenth {each[0]:.1f})")


def ask_all(servers: list[Server], spans: int, rounds: int) -> None:
    """Ask both the same, in turns, and print the times of each kind of query."""
    rng = random.Random(7)
    stored = [span for body in arrivals(spans) for span in json.loads(b"[%b]" % body)]
    end_ms = max(span["timestamp"] for span in stored) // 1000 + 1
    trace_ids = [rng.choice(stored)["traceId"] for _ in range(rounds)]
    keys = [rng.choice(stored)["tags"]["kafka.key"] for _ in range(rounds)]

    def search(**conditions: object) -> str:
        query = {**conditions, "endTs": end_ms, "lookback": LOOKBACK_MS, "limit": 10}
        return f"/api/v2/traces?{urllib.parse.urlencode(query)}"

    kinds: dict[str, Callable[[int], str]] = {
        "trace by id": lambda n: f"/api/v2/trace/{trace_ids[n]}",
        "by service": lambda n: search(serviceName=SERVICES[n % len(SERVICES)]),
        "by topic": lambda n: search(annotationQuery=f"kafka.topic={TOPICS[n % len(TOPICS)]}"),
        "by a rare tag": lambda n: search(annotationQuery=f"kafka.key={keys[n]}"),
        "by error": lambda n: search(serviceName=SERVICES[n % len(SERVICES)], annotationQuery="error"),
        "by duration": lambda n: search(serviceName=SERVICES[n % len(SERVICES)], minDuration=100_000),
    }
    print(f"{'':14}" + "".join(f"{server.name:>20}" for server in servers) + "   (ms: median, 95th)")
    for kind, path in kinds.items():
        times_ms: dict[str, list[float]] = {server.name: [] for server in servers}
        for number in range(rounds):
            answers = set()
            for server in servers:
                began_s = time.perf_counter()
                answers.add(len(json.loads(server.ask("GET", path(number)))))
                times_ms[server.name].append((time.perf_counter() - began_s) * 1000)
            assert len(answers) == 1, (kind, path(number), answers)
        cells = (
            f"{statistics.median(each):9.2f} {statistics.quantiles(each, n=20)[-1]:9.2f}"
            for each in times_ms.values()
        )
        print(f"{kind:14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--zipkin-heap", default="2g")
    parser.add_argument("--directory", help="where the store is made (default: the system's)")
    options = parser.parse_args()
    HeapZipkin.heap = options.zipkin_heap
    with tempfile.TemporaryDirectory(dir=options.directory) as made:
        main(options.spans, options.rounds, Path(made))
