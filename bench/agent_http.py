"""The cost of the HTTP path in the agent: CPU microseconds a span, with a spool that flushes every commit.

Client processes post bodies of spans of a usual size and wait for each 202. A null Zipkin, another process,
reads each report and answers 202. Each run starts a new agent; the result is the median of the runs. It
depends on the disk of the spool, which --spool-dir names.

    python bench/agent_http.py [--runs 5] [--spans 300000] [--rate 20000] [--body 100] [--clients 4]

--rate 0 posts without a pause.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from agent_ring import SPAN, cpu_s, rss_mb, start_null_zipkin

HEAD = (
    "POST /api/v2/spans HTTP/1.1\r\nHost: agent\r\nContent-Type: {type}\r\n{more}"
    "Content-Length: {size}\r\n\r\n"
)


def report(first: int, spans: int, encoding: str) -> bytes:
    """Make one request with so many spans in it."""
    content, kind, more = (
        b"[%b]" % b",".join(SPAN % (i, i, i + 1) for i in range(first, first + spans)),
        "json",
        "",
    )
    if encoding == "gzip":
        content, more = gzip.compress(content, 1), "Content-Encoding: gzip\r\n"
    elif encoding == "proto3":
        content, kind = b"".join(map(proto3, json.loads(content))), "x-protobuf"
    return HEAD.format(type=f"application/{kind}", more=more, size=len(content)).encode() + content


def proto3(span: dict[str, object]) -> bytes:
    """Encode the benchmark's span, with the fields that it has."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(value)) + value

    def varint(number: int) -> bytes:
        return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)

    def text(number: int, value: object) -> bytes:
        return field(number, str(value).encode())

    ids = [
        field(n, bytes.fromhex(str(span[name]))) for n, name in ((1, "traceId"), (2, "parentId"), (3, "id"))
    ]
    times = b"\x20\x04" + text(5, span["name"]) + b"\x31" + int(str(span["timestamp"])).to_bytes(8, "little")
    ends = [
        field(n, text(1, span[name]["serviceName"]))  # type: ignore[index]
        for n, name in ((8, "localEndpoint"), (9, "remoteEndpoint"))
    ]
    tags = [field(11, text(1, key) + text(2, value)) for key, value in span["tags"].items()]  # type: ignore[attr-defined]
    return field(1, b"".join([*ids, times, b"\x38", varint(int(str(span["duration"]))), *ends, *tags]))


def post(port: int, spans: int, rate: float, body: int, encoding: str) -> None:
    """Post spans over one connection at a rate; each body waits for the answer to the one before."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    prepared = [report(os.getpid() * 10_000_000 + n * body + 1, body, encoding) for n in range(16)]
    started_s = time.monotonic()
    for number in range(spans // body):
        client.sendall(prepared[number % len(prepared)])
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 202"), answer
        if rate:
            time.sleep(max(0.0, started_s + (number + 1) * body / rate - time.monotonic()))


def run(zipkin_port: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """One run: CPU microseconds a span, peak RSS in MB, spans a second."""
    with (
        tempfile.TemporaryDirectory(dir=options.spool_dir) as spool,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "kaspan.cli.main", "agent", "--ring-dir", f"{spool}/rings"]
        command += ["--spool", f"{spool}/spool.db", "--zipkin", f"http://127.0.0.1:{zipkin_port}"]
        command += ["--listen", f"127.0.0.1:{port}"]
        environment = os.environ | {"KASPAN_AGENT__SOCKET": ""}
        agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert agent.stderr is not None
        agent.stderr.readline()
        time.sleep(0.5)
        spans = options.spans // options.clients // options.body * options.body
        before_s, started_s = cpu_s(agent.pid), time.monotonic()
        clients = []
        for _ in range(options.clients):
            client = os.fork()
            if not client:
                post(port, spans, options.rate / options.clients, options.body, options.encoding)
                os._exit(0)
            clients.append(client)
        for client in clients:
            assert os.waitpid(client, 0)[1] == 0, "a client failed"
        elapsed_s = time.monotonic() - started_s
        time.sleep(1.5)
        used_s, peak_mb = cpu_s(agent.pid) - before_s, rss_mb(agent.pid, "VmHWM")
        agent.send_signal(signal.SIGTERM)
        said = agent.communicate(timeout=30)[1]
        spans *= options.clients
        assert f"sent {spans} to" in said, said
        return used_s / spans * 1e6, peak_mb, spans / elapsed_s


def main() -> None:
    """Print a line for each run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--spans", type=int, default=300_000)
    parser.add_argument("--rate", type=int, default=20_000, help="spans a second, of all clients")
    parser.add_argument("--body", type=int, default=100, help="spans in a body")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--encoding", choices=("json", "gzip", "proto3"), default="json")
    parser.add_argument("--spool-dir", help="where the spool is made (default: the temporary directory)")
    options = parser.parse_args()
    pid, port = start_null_zipkin()
    try:
        results = [run(port, options) for _ in range(options.runs)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for cpu_us, peak_mb, rate in results:
        print(f"{cpu_us:6.2f} us/span  {peak_mb:6.1f} MB peak  {rate:8.0f} spans/s")
    median = [statistics.median(column) for column in zip(*results, strict=True)]
    print(
        f"median {median[0]:.2f} us/span, {median[1]:.1f} MB, {median[2]:.0f} spans/s; "
        f"{options.encoding}, {options.body} spans a body, {options.clients} clients"
    )


if __name__ == "__main__":
    main()
