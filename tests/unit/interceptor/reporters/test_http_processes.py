"""Spans by HTTP from whole processes: forks and ends of every kind, each span reported once."""

from __future__ import annotations

import socket
import subprocess
from collections import Counter

import pytest

from support.programs import SEND, ProgramRunner, outcome
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

MORE = "producer.send('orders', b'value'); producer.last.acknowledge()\n"
OPEN = "producer.send('orders', b'value')\n"
AT_EXIT = """
import atexit
from support.kafka_clients import UnconnectedProducer
producer = UnconnectedProducer()
producer.send("orders", b"value")
atexit.register(producer.last.acknowledge)
"""


def reporting_to(zipkin_stub: ZipkinStub) -> dict[str, str]:
    # Python 3.12 warns of every fork while there are threads, as there are with any real client of Kafka's.
    return {"KASPAN_INTERCEPTOR__AGENT": zipkin_stub.url, "PYTHONWARNINGS": "ignore::DeprecationWarning"}


def assert_stored_once(zipkin_stub: ZipkinStub, spans: int) -> None:
    assert len(zipkin_stub.stored) == spans
    assert set(zipkin_stub.stored.values()) <= {1}


ENDS = {
    "by itself": (SEND, 0, 1),
    "sys.exit": (f"{SEND}\nraise SystemExit(3)", 3, 1),
    "an exception nobody caught": (f"import sys; sys.excepthook = lambda *e: None\n{SEND}\n1 / 0", 1, 1),
    "many spans": (SEND + f"for _ in range(2999):\n    {MORE}", 0, 3000),
    # A producer's own hook flushes, so most spans of a short program end there.
    "acknowledged while the interpreter ends": (AT_EXIT, 0, 1),
    "both": (AT_EXIT + MORE, 0, 2),
    "a send that is not acknowledged": (f"import builtins\n{SEND}{OPEN}builtins.producer = producer", 0, 2),
    "a thread that outlives the main one": (
        f"import threading, time\n{SEND}\n"
        "def late():\n    threading.main_thread().join(); [send() for _ in range(5)]\n"
        f"def send():\n    {MORE}threading.Thread(target=late).start()",
        0,
        6,
    ),
}


@pytest.mark.parametrize(("code", "exit_code", "spans"), ENDS.values(), ids=ENDS.keys())
def test_process_that_ends_has_reported_everything(
    code: str, exit_code: int, spans: int, programs: ProgramRunner, zipkin_stub: ZipkinStub
) -> None:
    """When the process is gone, each span that was finished is with the agent, and nothing was said."""
    done = programs.traced(code, **reporting_to(zipkin_stub))

    assert outcome(done) == (exit_code, "", "")
    assert_stored_once(zipkin_stub, spans)


def test_process_without_a_span_reports_nothing(programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """Importing kafka and making clients starts no thread and opens no connection."""
    code = (
        "import threading; from support.kafka_clients import UnconnectedProducer; UnconnectedProducer();"
        "print(threading.active_count())"
    )
    assert outcome(programs.traced(code, **reporting_to(zipkin_stub))) == (0, "1\n", "")
    assert zipkin_stub.reports == []


FORK = f"""
import os
{SEND}
pid = os.fork()
{MORE}
if pid == 0:
    {MORE}
    {{end}}
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    "end", ["raise SystemExit", "import sys; sys.exit()", "import time; time.sleep(3); os._exit(0)"]
)
def test_fork_reports_its_own_spans_and_none_of_its_parents(
    end: str, programs: ProgramRunner, zipkin_stub: ZipkinStub
) -> None:
    """What is queued when a process forks is reported by the parent alone; the child starts a thread anew."""
    done = programs.traced(FORK.format(end=end), **reporting_to(zipkin_stub))

    assert outcome(done) == (0, "", "")
    assert_stored_once(zipkin_stub, 4)


def test_fork_that_makes_no_span_reports_nothing(programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """A child that ends without a span of its own does not repeat the parent's, nor wait for anything."""
    code = f"import os\n{SEND}\npid = os.fork()\nif pid: os.waitpid(pid, 0)\n"
    assert outcome(programs.traced(code, **reporting_to(zipkin_stub))) == (0, "", "")
    assert_stored_once(zipkin_stub, 1)


POOL = """
import multiprocessing, sys
def work(number):
    from support.kafka_clients import UnconnectedProducer
    producer = UnconnectedProducer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
if __name__ == "__main__":
    import kafka
    context = multiprocessing.get_context(sys.argv[1])
    children = [context.Process(target=work, args=(number,)) for number in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    print(*(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_of_multiprocessing_reports_before_it_ends(
    method: str, programs: ProgramRunner, zipkin_stub: ZipkinStub
) -> None:
    """Though such children end without atexit, what they finished is reported."""
    script = programs.module("pool.py", POOL)
    done = programs.run(*programs.kaspan_run(), script, method, **reporting_to(zipkin_stub))

    assert outcome(done) == (0, "0 0 0\n", "")
    assert_stored_once(zipkin_stub, 3)


def test_end_does_not_wait_long_for_an_agent_that_hangs(programs: ProgramRunner) -> None:
    """The process ends with its own exit code, and a warning counts what was not reported."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = programs.traced(
            f"{SEND}{MORE}raise SystemExit(3)", KASPAN_INTERCEPTOR__AGENT=f"http://127.0.0.1:{port}"
        )

    assert (done.returncode, done.stdout) == (3, "")
    # Before it, on a slow machine, comes the warning that reporting fails.
    assert done.stderr.splitlines()[-1] == (
        f"kaspan: spans not reported to http://127.0.0.1:{port}: 2 were not sent before the process ended"
    )


def test_agent_that_is_away_is_named_with_what_was_lost(programs: ProgramRunner) -> None:
    """Without an agent, the log says once which address failed, and at the end how many spans were lost."""
    gone = ZipkinStub()
    gone.close()
    done = programs.traced(f"import time\n{SEND}\ntime.sleep(2)\n{MORE}", **reporting_to(gone))

    failing, lost = done.stderr.splitlines()
    assert done.returncode == 0
    assert gone.url in failing
    assert "Connection refused" in failing
    assert lost.endswith("2 were not sent before the process ended")


def test_agent_that_refuses_is_quoted(programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """The answer to a report that is refused is in the log, and so are the spans that are lost by it."""
    zipkin_stub.answer = lambda report: Response(400, "no such thing")
    done = programs.traced(SEND, **reporting_to(zipkin_stub))

    refused, lost = done.stderr.splitlines()
    assert "HTTP 400 Bad Request no such thing" in refused
    assert lost == f"kaspan: spans not reported to {zipkin_stub.url}: 1 were refused"


def test_killed_process_loses_a_flush_interval_at_most(
    programs: ProgramRunner, zipkin_stub: ZipkinStub
) -> None:
    """What was reported before a SIGKILL is with the agent, once."""
    code = f"import os, sys\n{SEND}\nprint(flush=True); sys.stdin.readline()\n{MORE}os.kill(os.getpid(), 9)"
    process = subprocess.Popen(
        [*map(str, programs.kaspan_run()), "-c", code],
        env={**programs.environment, **reporting_to(zipkin_stub)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=programs.directory,
    )
    assert process.stdin is not None
    wait_until(lambda: len(zipkin_stub.stored) == 1, "the first span is reported")
    process.stdin.write(b"\n")
    process.stdin.close()

    assert process.wait(30) == -9
    assert zipkin_stub.stored == Counter(dict.fromkeys(zipkin_stub.stored, 1))


def test_report_is_not_traced_by_kaspan_itself(programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """Reporting makes no spans: after the one that there was, nothing more is ever reported."""
    assert outcome(programs.traced(f"import time\n{SEND}\ntime.sleep(2.5)", **reporting_to(zipkin_stub))) == (
        0,
        "",
        "",
    )

    assert len(zipkin_stub.reports) == 1
    assert zipkin_stub.reports[0].headers["b3"] == "0"


CLOSE_ALL = """
import os, time
os.closerange(3, 1024)
others = [open(f"other-{number}", "w") for number in range(20)]
"""


@pytest.mark.parametrize("when", ["before the first report", "after it"])
def test_daemon_that_closed_all_descriptors_still_reports(
    when: str, programs: ProgramRunner, zipkin_stub: ZipkinStub
) -> None:
    """os.closerange loses no span, and no report ever goes into a file of the application's."""
    pause = "" if when == "before the first report" else "import time; time.sleep(1.5)\n"
    code = f"{SEND}{pause}{CLOSE_ALL}{MORE}time.sleep(1.5)\n{MORE}"
    assert outcome(programs.traced(code, **reporting_to(zipkin_stub))) == (0, "", "")

    assert_stored_once(zipkin_stub, 3)
    assert {path.read_text() for path in programs.directory.glob("other-*")} == {""}


@pytest.mark.parametrize("before", ["", "import kafka\n"], ids=["patched first", "kafka imported first"])
def test_reporter_works_under_gevent(before: str, programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """With its thread a greenlet every span is reported."""
    pytest.importorskip("gevent")
    code = (
        f"{before}from gevent import monkey; monkey.patch_all()\n{SEND}\nimport gevent\n"
        f"for _ in range(9):\n    gevent.sleep(0.2); {MORE}"
    )
    assert outcome(programs.traced(code, **reporting_to(zipkin_stub))) == (0, "", "")

    assert_stored_once(zipkin_stub, 10)


def test_settings_choose_the_way(programs: ProgramRunner, zipkin_stub: ZipkinStub) -> None:
    """With an HTTP address no ring is made."""
    programs.traced(SEND, **reporting_to(zipkin_stub))

    assert not programs.ring_dir.exists()
    assert_stored_once(zipkin_stub, 1)
