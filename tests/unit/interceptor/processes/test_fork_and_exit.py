"""Each process has a ring of its own: after fork and spawn, at any kind of exit, no span twice, none lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.programs import SEND, ProgramRunner, outcome
from support.ring_reader import RingReader, Span, offsets, read_header, rings


def spans_by_pid(programs: ProgramRunner) -> dict[int, list[Span]]:
    """Return the spans of each process; one process has one ring."""
    reader = RingReader(programs.ring_dir)
    found: dict[int, list[Span]] = {}
    for path in rings(programs.ring_dir):
        pid = int(json.loads(read_header(path).process_json)["pid"])
        assert pid not in found
        found[pid] = reader.take_from(path)
    return found


FORK = f"""
import os, sys
{SEND}
print(os.getpid(), flush=True)
pid = os.fork()
for _ in range(3 if pid else 2):
    producer.send("children" if pid == 0 else "orders", b"value")
    producer.last.acknowledge()
if pid == 0:
    os._exit(0)
print(pid, os.waitpid(pid, 0)[1])
"""


def test_child_of_fork_has_a_ring_of_its_own(programs: ProgramRunner) -> None:
    """Parent and child write each into its own ring, and the child's first span makes it."""
    done = programs.traced(FORK)
    assert done.stderr == ""
    parent, child, status = map(int, done.stdout.split())

    spans = spans_by_pid(programs)

    assert status == 0
    assert [span.name for span in spans[parent]] == ["send orders"] * 4
    assert [span.name for span in spans[child]] == ["send children"] * 2


def test_ids_after_fork_are_different(programs: ProgramRunner) -> None:
    """Parent and child, who had the same ids at hand when they parted, use none of them twice."""
    programs.traced(FORK)

    spans = [span for each in spans_by_pid(programs).values() for span in each]

    assert len(spans) == 6
    assert len({span.id for span in spans}) == len({span.trace_id for span in spans}) == 6


def test_child_that_never_uses_kafka_makes_no_ring(programs: ProgramRunner) -> None:
    """A forked child without a span leaves the parent's ring alone and makes none."""
    code = f"{SEND}\nimport os\npid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)\n" + (
        "producer.send('orders', b'value'); producer.last.acknowledge()"
    )

    assert outcome(programs.traced(code)) == (0, "", "")
    (spans,) = spans_by_pid(programs).values()
    assert len(spans) == 2


OPEN_AT_FORK = """
import os
from support.kafka_clients import UnconnectedConsumer, UnconnectedProducer, make_record
from kafka.consumer import fetcher
producer = UnconnectedProducer()
consumer = UnconnectedConsumer([make_record(fetcher.ConsumerRecord, at) for at in range(2)])
future = producer.send("orders", b"value")
pid = None
for record in consumer:
    if record.offset == 0:
        pid = os.fork()
        if pid == 0:
            producer.last.acknowledge()
            break
producer.last.acknowledge() if pid else None
if pid == 0:
    del consumer, producer, future
    import gc; gc.collect()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_span_open_at_fork_is_the_parents_alone(programs: ProgramRunner) -> None:
    """A record in work and a send under way when a process forks are reported once, by the parent."""
    assert outcome(programs.traced(OPEN_AT_FORK)) == (0, "", "")

    (spans,) = spans_by_pid(programs).values()
    assert sorted(span.name or "" for span in spans) == ["process orders", "process orders", "send orders"]


POOL = """
import multiprocessing, os, sys
def work(number):
    from support.kafka_clients import UnconnectedProducer
    producer = UnconnectedProducer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    return os.getpid()
if __name__ == "__main__":
    import kafka
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        pids = pool.map(work, range(6), chunksize=1)
    print(*pids)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool_are_traced(programs: ProgramRunner, method: str) -> None:
    """However multiprocessing starts a worker, and however the pool ends it, its spans are in its ring."""
    script = programs.module("pool.py", POOL)
    done = programs.run(*programs.kaspan_run(), script, method)
    assert (done.returncode, done.stderr) == (0, "")
    pids = [int(pid) for pid in done.stdout.split()]

    spans = spans_by_pid(programs)

    assert {pid: len(each) for pid, each in spans.items()} == {pid: pids.count(pid) for pid in set(pids)}


CHILDREN = {
    "subprocess": "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)",
    "a shell": "import os, sys, shlex; os.system(f'{sys.executable} -c {shlex.quote(sys.argv[1])}')",
    "exec": "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])",
    "posix_spawn": (
        "import os, sys; os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', sys.argv[1]],"
        " os.environ), 0)"
    ),
}


@pytest.mark.parametrize("start", CHILDREN.values(), ids=CHILDREN.keys())
def test_python_started_by_an_application_is_traced(programs: ProgramRunner, start: str) -> None:
    """What a traced process starts is traced too, as the same service."""
    assert outcome(programs.traced(start, SEND)) == (0, "", "")

    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "shop"


ENDS = {
    "by itself": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise SystemExit(4)", 4),
    "os._exit": ("os._exit(5)", 5),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -15),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    "SIGSEGV": ("signal.signal(11, signal.SIG_DFL); os.kill(os.getpid(), 11)", -11),
}


@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=ENDS.keys())
def test_spans_are_there_however_a_process_ends(programs: ProgramRunner, end: str, code: int) -> None:
    """Nothing is flushed at exit, so nothing is lost by an exit that leaves no time for it."""
    done = programs.run(*programs.kaspan_run(), "-c", f"import os, signal, sys\n{SEND}\n{end}")

    assert done.returncode == code
    (spans,) = spans_by_pid(programs).values()
    assert len(spans) == 1


UNANSWERED = """
import gc, threading
from support.kafka_clients import UnconnectedProducer
producer = UnconnectedProducer()
producer.send("orders", b"value")
producer.send("orders", b"value")
producer.last.acknowledge()
# As kafka-python's own thread, which keeps what it has not sent.
threading.Thread(target=lambda kept: threading.Event().wait(), args=(producer,), daemon=True).start()
del producer
gc.collect()  # moves the sends that wait into the oldest generation
"""


def test_send_that_is_not_answered_when_the_process_ends_is_a_timeout(programs: ProgramRunner) -> None:
    """Of two sends, one is answered before the process ends; the other's span is there too, as an error."""
    assert outcome(programs.traced(UNANSWERED)) == (0, "", "")

    spans = RingReader(programs.ring_dir).take()

    assert [span.tags.get("error") for span in spans] == [None, "timeout"]


def test_fork_does_not_report_what_its_parent_has_under_way(programs: ProgramRunner) -> None:
    """A send that is open in the parent is open in its fork as well, and has still one span, the parent's."""
    programs.traced(f"import os\n{UNANSWERED}\nif os.fork(): os.wait()")

    spans = RingReader(programs.ring_dir).take()

    assert [span.tags.get("error") for span in spans] == [None, "timeout"]


def test_end_with_no_send_under_way_is_not_slowed(programs: ProgramRunner) -> None:
    """Where every send was answered, no objects are looked through when the process ends."""
    code = f"{SEND}\nimport gc; gc.get_objects = lambda *generation: print('looked')"

    assert outcome(programs.traced(code)) == (0, "", "")


SHUTDOWN = {
    "a consumer in the middle of next()": ("next(consumer)", 1),
    "a loop that is still open": ("loop = iter(consumer); next(loop)", 1),
    "a list that nobody has read": ("polled = consumer.poll()", 3),
    "a list in the middle of its loop": ("loop = iter(*consumer.poll().values()); next(loop)", 3),
    "a generator around a loop": ("values = (record.value for record in consumer); next(values)", 1),
    "a send under way": (
        "from support import kafka_clients as c; p = c.UnconnectedProducer(); p.send('orders', b'value')",
        0,
    ),
    "a daemon thread in its loop": (
        "import threading\nready = threading.Event()\n"
        "def work():\n    for record in consumer:\n        ready.set(); threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start(); ready.wait()",
        1,
    ),
    "a list in a daemon thread": (
        "import threading\nready = threading.Event()\n"
        "def work(records):\n    for record in records:\n        ready.set(); threading.Event().wait()\n"
        "for records in consumer.poll().values():\n"
        "    threading.Thread(target=work, args=(records,), daemon=True).start(); ready.wait()\n"
        "del records",
        3,
    ),
    "a list of a consumer that is gone": (
        "loop = iter(*consumer.poll().values()); next(loop); del consumer",
        3,
    ),
    "a loop that another one is in": (
        "loop = iter(consumer); next(loop); more = iter(consumer); next(more)",
        2,
    ),
    "a consumer that is closed late": (
        "class Worker:\n    def __del__(self): consumer.close()\nworker = Worker(); next(consumer)",
        1,
    ),
    "an atexit handler that loops": ("import atexit; atexit.register(lambda: [*consumer])", 3),
}


@pytest.mark.parametrize(("use", "delivered"), SHUTDOWN.values(), ids=SHUTDOWN.keys())
def test_interpreter_ends_without_a_word(programs: ProgramRunner, use: str, delivered: int) -> None:
    """Whatever is open when the interpreter shuts down: exit code 0, not a word, each record its span."""
    code = (
        "from support.kafka_clients import UnconnectedConsumer, make_record\n"
        "from kafka.consumer import fetcher\n"
        "consumer = UnconnectedConsumer([make_record(fetcher.ConsumerRecord, at) for at in range(3)])\n"
    )

    assert outcome(programs.traced(code + use)) == (0, "", "")
    received = [span for span in RingReader(programs.ring_dir).take() if span.kind == "CONSUMER"]
    assert sorted(offsets(received)) == [*range(delivered)]


PICKLE = """
import copy, pickle, sys
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher
records = [make_record(fetcher.ConsumerRecord, at, timestamp=1) for at in range(2)]
delivered = [*UnconnectedConsumer(records)]
(polled,) = UnconnectedConsumer(records).poll().values()
for one in (delivered, polled, delivered[0]):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(one, protocol)) == one
    assert copy.copy(one) == one and copy.deepcopy(one) == one
sys.stdout.buffer.write(pickle.dumps((delivered, polled)))
"""


def test_records_can_be_pickled_to_a_process_without_kaspan(programs: ProgramRunner) -> None:
    """What is pickled under kaspan is read by a process without it, as the plain records in plain lists."""
    code = PICKLE.replace("sys.stdout.buffer.write", "open(sys.argv[1], 'wb').write")
    path = programs.directory / "records.pickle"
    assert outcome(programs.traced(code, str(path))) == (0, "", "")
    read = (
        "import pickle, sys; found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from support.kafka_clients import plain_record\n"
        "expected = [plain_record(at, timestamp=1) for at in range(2)]\n"
        "print(found == (expected, expected), {type(one) for one in found},"
        " {type(r) is type(expected[0]) for one in found for r in one})"
    )

    assert programs.plain(read, str(path)).stdout == "True {<class 'list'>} {True}\n"


def test_records_of_a_process_without_kaspan_can_be_read_under_it(programs: ProgramRunner) -> None:
    """What was pickled without kaspan is read under it, and equals what was written."""
    path = programs.directory / "records.pickle"
    write = (
        "import pickle, sys; from support.kafka_clients import plain_record\n"
        "pickle.dump([plain_record(at, timestamp=1) for at in range(2)], open(sys.argv[1], 'wb'))"
    )
    read = (
        "import pickle, sys; from support.kafka_clients import plain_record\n"
        "print(pickle.load(open(sys.argv[1], 'rb')) == [plain_record(at, timestamp=1) for at in range(2)])"
    )
    assert outcome(programs.plain(write, str(path))) == (0, "", "")

    assert outcome(programs.traced(read, str(path))) == (0, "True\n", "")


def test_process_without_a_ring_runs_on_with_one_warning(programs: ProgramRunner) -> None:
    """Where no ring can be made, every send does what it does, and one warning says why."""
    Path(programs.ring_dir).touch()
    done = programs.traced(
        SEND + 'for _ in range(100):\n    producer.send("orders", b"v"); producer.last.acknowledge()'
    )

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1
    assert "interceptor.ring_dir" in done.stderr
    assert str(programs.ring_dir) in done.stderr
