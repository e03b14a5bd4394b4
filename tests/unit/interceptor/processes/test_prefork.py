"""Servers that fork their workers, and greenlets in threads' place, each as its users start it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.programs import SEND, ProgramRunner, outcome
from support.ring_reader import RingReader, Span, read_header, rings
from support.waiting import wait_until

pytest.importorskip("gunicorn")
pytest.importorskip("celery")
pytest.importorskip("gevent")

BIN = Path(sys.executable).parent

WEB = """
import os
from support.kafka_clients import UnconnectedProducer
PRELOADED = UnconnectedProducer()
if "SPAN_AT_IMPORT" in os.environ:
    PRELOADED.send("imports", b"value"); PRELOADED.last.acknowledge()
def application(environ, start_response):
    producer = UnconnectedProducer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture
def start(programs: ProgramRunner) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a way to start a traced server, and end each with all its workers."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str | Path, **variables: str) -> subprocess.Popen[bytes]:
        with open(programs.directory / "log", "wb") as log:
            started.append(
                subprocess.Popen(
                    [*map(str, programs.kaspan_run()[:-1]), *map(str, command)],
                    # gunicorn keeps a control socket in the home directory.
                    env={**programs.environment, "HOME": str(programs.directory), **variables},
                    cwd=programs.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    except OSError:
        return ""  # it does not listen yet
    finally:
        connection.close()


def spans_by_pid(programs: ProgramRunner) -> dict[int, list[Span]]:
    reader = RingReader(programs.ring_dir)
    found: dict[int, list[Span]] = {}
    for path in rings(programs.ring_dir):
        found[int(json.loads(read_header(path).process_json)["pid"])] = reader.take_from(path)
    return found


def assert_each_once(spans: list[Span], count: int) -> None:
    assert len(spans) == len({span.id for span in spans}) == len({span.trace_id for span in spans}) == count


@pytest.mark.parametrize(
    ("worker", "options"),
    # Not gevent preloaded: gunicorn 27 does not end by SIGTERM then, traced or not.
    [("sync", []), ("sync", ["--preload"]), ("gthread", ["--preload"]), ("gevent", [])],
    ids=["sync", "sync preloaded", "gthread preloaded", "gevent"],
)
def test_every_request_to_gunicorn_is_traced(
    worker: str, options: list[str], programs: ProgramRunner, start: Callable[..., Any]
) -> None:
    """Each worker has its own ring, also where the application was loaded, and has sent, before the fork."""
    programs.module("web.py", WEB)
    port = free_port()
    gunicorn = start(
        *(BIN / "gunicorn", "web:application", "--workers", "2", "--bind", f"127.0.0.1:{port}"),
        # A worker of gevent's that has just been started may miss SIGTERM, traced or not.
        *("--worker-class", worker, "--graceful-timeout", "3"),
        *("--worker-tmp-dir", programs.directory, *options),
        **({"SPAN_AT_IMPORT": "yes"} if options else {}),
    )
    served = [wait_until(lambda: get(port), "gunicorn answers")]
    served += [get(port) for _ in range(20)]
    gunicorn.terminate()
    assert gunicorn.wait(30) == 0

    spans = spans_by_pid(programs)
    at_import = spans.pop(gunicorn.pid, [])
    assert {pid: len(each) for pid, each in spans.items()} == {
        int(pid): served.count(pid) for pid in set(served)
    }
    assert [span.name for span in at_import] == ["send imports"] * len(options)
    assert_each_once([*sum(spans.values(), []), *at_import], 21 + len(options))  # noqa: RUF017


def test_killed_gunicorn_worker_leaves_its_spans(programs: ProgramRunner, start: Callable[..., Any]) -> None:
    """A worker that was killed, as after a timeout, has lost nothing, and the next one is traced too."""
    programs.module("web.py", WEB)
    port = free_port()
    start(BIN / "gunicorn", "web:application", "--bind", f"127.0.0.1:{port}")
    first = int(wait_until(lambda: get(port), "gunicorn answers"))
    os.kill(first, signal.SIGKILL)
    second = int(wait_until(lambda: get(port), "the next worker answers"))

    assert {pid: len(spans) for pid, spans in spans_by_pid(programs).items()} == {first: 1, second: 1}


CELERY = """
import os
from celery import Celery
from celery.signals import worker_ready
app = Celery(broker="memory://", backend="cache+memory://")
app.conf.worker_hijack_root_logger = False
@app.task
def work(number):
    from support.kafka_clients import UnconnectedProducer
    producer = UnconnectedProducer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    with open("done", "a") as done:
        done.write(f"{os.getpid()}\\n")
@worker_ready.connect
def ready(**_):
    for number in range(20):
        work.delay(number)
"""


def test_every_task_of_celery_is_traced(programs: ProgramRunner, start: Callable[..., Any]) -> None:
    """With Celery's prefork pool each process has its own ring, and a warm shutdown loses no span."""
    programs.module("tasks.py", CELERY)
    worker = start(BIN / "celery", "--app", "tasks", "worker", "--pool", "prefork", "--concurrency", "2")
    done = programs.directory / "done"
    wait_until(lambda: done.exists() and len(done.read_text().split()) == 20, "all tasks are done")
    worker.terminate()
    worker.wait(30)
    pids = done.read_text().split()

    spans = spans_by_pid(programs)
    assert {pid: len(each) for pid, each in spans.items()} == {int(pid): pids.count(pid) for pid in set(pids)}
    assert_each_once(sum(spans.values(), []), 20)  # noqa: RUF017


PATCHED = "from gevent import monkey; monkey.patch_all()\n"
GREENLETS = """
import gevent
from opentelemetry import trace
from support.kafka_clients import UnconnectedConsumer, UnconnectedProducer, make_record
from kafka.consumer import fetcher
def work(topic):
    producer = UnconnectedProducer()
    records = [make_record(fetcher.ConsumerRecord, at, topic=topic) for at in range(5)]
    for record in UnconnectedConsumer(records):
        gevent.sleep(0)
        producer.send(topic + "-out", record.value)
        producer.last.acknowledge()
        gevent.sleep(0)
gevent.joinall([gevent.spawn(work, f"topic-{number}") for number in range(4)], raise_error=True)
"""


@pytest.mark.parametrize(
    "code",
    [PATCHED + GREENLETS, "import kafka\n" + PATCHED + GREENLETS, SEND + PATCHED + GREENLETS],
    ids=["patched first", "kafka imported first", "a span first"],
)
def test_greenlets_are_traced_like_threads(code: str, programs: ProgramRunner) -> None:
    """Loops that gevent interleaves in one thread have their own current spans, in any order of start."""
    assert outcome(programs.traced(code)) == (0, "", "")

    spans = RingReader(programs.ring_dir).take()
    processed = {span.id: span for span in spans if span.kind == "CONSUMER"}
    sent = [span for span in spans if span.kind == "PRODUCER" and span.name != "send orders"]
    assert (len(processed), len(sent)) == (20, 20)
    for span in sent:
        assert span.parent_id is not None
        parent = processed[span.parent_id]
        assert f"{parent.name}-out".removeprefix("process ") == (span.name or "").removeprefix("send ")


def test_gevent_may_fork(programs: ProgramRunner) -> None:
    """A child that gevent forks has its own ring."""
    # Not gevent's waitpid: it waits for ever for a child that has ended before it was called, kaspan or not.
    code = (
        f"{PATCHED}{SEND}\nimport gevent.os, os\npid = gevent.os.fork()\n"
        'if pid == 0:\n    producer.send("children", b"v"); producer.last.acknowledge(); os._exit(0)\n'
        'monkey.get_original("os", "waitpid")(pid, 0)'
    )
    assert outcome(programs.traced(code)) == (0, "", "")

    names = [[span.name for span in spans] for spans in spans_by_pid(programs).values()]
    assert sorted(names) == [["send children"], ["send orders"]]
