"""The time from a span's end to Zipkin's 202 at low load: milliseconds, p50 and p99, by ring and by HTTP.

Sends one span at a time, at random moments, one or two a second, with the default settings and with
flush_interval_s 0.05. The clock stops when the benchmark's Zipkin has written its answer.

    python bench/agent_latency.py [--spans 100]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent_ring import SPAN
from load_worker import HEAD, CountingZipkin

from kaspan.interceptor.reporters.ring import SpanRing

SETTINGS = {"defaults": {}, "flush_interval_s: 0.05": {"KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S": "0.05"}}
MAX_PAUSE_S = 1.0  # the longest flush interval, so that spans come at any moment of it
RESULTS = Path(__file__).parent / "results"


def latencies_ms(zipkin: CountingZipkin, way: str, variables: dict[str, str], spans: int) -> list[float]:
    """Start an agent, report spans one by one, and return the latency of each."""
    rng = random.Random(1)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as ring_dir,
        tempfile.TemporaryDirectory() as directory,
    ):
        socket_path = f"{directory}/agent.sock"
        command = [sys.executable, "-m", "kaspan.cli.main", "agent", "--ring-dir", ring_dir]
        command += ["--spool", f"{directory}/spool.db", "--zipkin", f"http://127.0.0.1:{zipkin.port}"]
        environment = {**os.environ, "KASPAN_AGENT__SOCKET": socket_path, "KASPAN_AGENT__LISTEN": ""}
        agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment, **variables})
        assert agent.stderr is not None
        agent.stderr.readline()
        ring = SpanRing(ring_dir, 1 << 20, {"service": "bench"})
        client = socket.socket(socket.AF_UNIX)
        client.connect(socket_path)
        found = []
        for number in range(1, spans + 1):
            time.sleep(rng.uniform(0, MAX_PAUSE_S))
            before, span = zipkin.spans, SPAN % (number, number, number + 1)
            ended_s = time.monotonic()
            if way == "ring":
                ring.put(span)
            else:
                client.sendall(HEAD % (len(span) + 2) + b"[" + span + b"]")
                assert client.recv(4096).startswith(b"HTTP/1.1 202")
            while zipkin.spans == before:
                time.sleep(0.0005)
            found.append((zipkin.answered_s - ended_s) * 1000)
        client.close()
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)
    return found


def main() -> None:
    """Print a line for each way and setting, and write the results to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=100)
    options = parser.parse_args()
    zipkin = CountingZipkin()
    result = {}
    print(f"load average {os.getloadavg()[0]:.1f} at the start; milliseconds from a span's end to the 202")
    for name, variables in SETTINGS.items():
        for way in ("ring", "http"):
            found = latencies_ms(zipkin, way, variables, options.spans)
            p50, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
            result[f"{way}, {name}"] = {"p50_ms": p50, "p99_ms": p99}
            print(f"{way:5} {name:24} p50 {p50:7.1f}   p99 {p99:7.1f}", flush=True)
    zipkin.end()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "agent_latency.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
