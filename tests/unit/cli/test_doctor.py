"""`kaspan doctor` prints what it finds and, in words, what is wrong."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kaspan.cli import interpreter
from kaspan.cli.doctor import all_rings
from kaspan.config import schema
from kaspan.interceptor.reporters.ring_dir import MAX_UNREAD_ORPHANS
from kaspan.wire import VERSION
from kaspan.wire import ring as layout
from support.deployment import KASPAN, Deployment
from support.full_disk import fill, shared_memory
from support.programs import SEND, ProgramRunner
from support.ring_writer import DATA_BYTES, RingWriter, span
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

TESTS = str(Path(__file__).parents[2])
PROCESS = {"service": "shop", "pid": 77, "kaspan": VERSION, "kafka_python": "3.0.12", "python": "3.11.7"}


@pytest.fixture
def programs(tmp_path: Path) -> ProgramRunner:
    made = ProgramRunner(tmp_path)
    made.environment["KASPAN_AGENT__RING_DIRS"] = f"[{made.ring_dir}]"
    # No agent of the tests' user is asked.
    made.environment["KASPAN_AGENT__LISTEN"] = made.environment["KASPAN_AGENT__SOCKET"] = ""
    return made


@pytest.fixture
def reading(programs: ProgramRunner) -> Iterator[None]:
    """Hold the ring directory as an agent does that reads it."""
    programs.ring_dir.mkdir(mode=0o700)
    descriptor = os.open(programs.ring_dir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def without(*modules: str) -> str:
    """Return code after which these modules cannot be found."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"


def ring(programs: ProgramRunner, name: str = "1-a.ring", **process: Any) -> RingWriter:
    programs.ring_dir.mkdir(mode=0o700, exist_ok=True)
    return RingWriter(programs.ring_dir, name, process=json.dumps({**PROCESS, **process}).encode())


def doctor(programs: ProgramRunner, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return programs.run(sys.executable, *flags, "-m", "kaspan.cli.main", "doctor", **variables)


def wrong(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what is wrong, and check that the exit code fits."""
    assert done.stderr == ""
    _, _, said = done.stdout.partition("\nWhat is wrong:\n")
    lines = [line.removeprefix("- ") for line in said.splitlines()]
    assert done.returncode == (1 if lines else 0), done.stdout
    assert ("\nNothing that can be seen from here is wrong.\n" in done.stdout) == (not lines)
    return lines


def test_healthy_deployment_has_nothing_wrong(programs: ProgramRunner, reading: None) -> None:
    """With a traced program's ring and an agent at it, each is named and nothing else."""
    programs.traced(SEND)
    done = doctor(programs)

    assert wrong(done) == []
    assert f"spans go into rings in {programs.ring_dir}\nan agent reads it\n" in done.stdout
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("shop ")]
    assert (row[2:5], VERSION in row) == (["gone", "1", "spans"], True)
    assert "\n\nit is not known whether spans reach their targets" in done.stdout  # apart from the table


def test_doctor_says_when_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C compiler everything works at a higher cost, and the report says so."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        interpreter, "find_spec", lambda name: None if name.endswith(".compiled") else found(name)
    )
    said, _ = interpreter.this_python()

    assert any("not compiled" in line for line in said)


@pytest.mark.parametrize(("value", "is_said"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_doctor_says_when_the_compiled_part_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, value: str, is_said: bool
) -> None:
    """Who has switched it off, perhaps long ago, should know what it costs."""
    monkeypatch.setattr(interpreter, "find_spec", lambda name: name)
    monkeypatch.setattr(interpreter, "_kafka_clients", lambda owners: ([], []))
    monkeypatch.setenv("KASPAN_PURE_PYTHON", value)
    said, _ = interpreter.this_python()

    assert any("KASPAN_PURE_PYTHON is set" in line for line in said) is is_said


def test_machine_without_an_agent_is_told_to_start_one(programs: ProgramRunner) -> None:
    """Without an agent no trace is seen, before the first span as after it. Looking makes no directory."""
    said = f"no agent reads {programs.ring_dir}, so there are no traces: start `kaspan agent`"
    done = doctor(programs)

    assert wrong(done) == [said]
    assert "does not exist yet" in done.stdout
    assert not programs.ring_dir.exists()
    ring(programs)
    assert wrong(doctor(programs)) == [said]


def test_ring_says_whose_it_is_and_what_is_in_it(programs: ProgramRunner, reading: None) -> None:
    """Each ring is a line: service, pid, whether the process lives, and its counters and versions."""
    living, dead = ring(programs, "1-a.ring"), ring(programs, "2-b.ring", service="depot", pid=78)
    living.put(span(1))
    living.set_header(layout.WRITTEN_SPANS, 1)
    dead.die()
    lines = [line.split() for line in doctor(programs).stdout.splitlines()]

    unread = str(layout.frame_bytes(len(span(1))))
    versions = [VERSION, "3.0.12", "3.11.7"]
    assert ["shop", "77", "alive", "1", "spans", "0", unread, "B", "0", *versions] in lines
    assert ["depot", "78", "gone", "0", "spans", "0", "0", "B", "0", *versions] in lines


def test_spans_that_nobody_reads_are_wrong(programs: ProgramRunner) -> None:
    """Without an agent, waiting spans are pointed out with what to do."""
    ring(programs).put(span(1))

    assert wrong(doctor(programs)) == [
        f"spans wait in {programs.ring_dir} and no agent reads them: start `kaspan agent`"
    ]


def test_dropped_spans_are_wrong(programs: ProgramRunner, reading: None) -> None:
    """A ring that was full is named with how many spans it dropped."""
    ring(programs).set_header(layout.DROPPED_SPANS, 9)

    (said,) = wrong(doctor(programs))
    assert said.startswith("shop (pid 77) has dropped 9 spans because its ring was full")


def test_suppressed_failures_are_wrong(programs: ProgramRunner, reading: None) -> None:
    """Failures of kaspan's own that the application never saw are counted, and where to read of them."""
    ring(programs).set_header(layout.SUPPRESSED_ERRORS, 3)

    (said,) = wrong(doctor(programs))
    assert said.startswith("kaspan has failed 3 times in shop (pid 77)")
    assert "log" in said


def test_polled_records_without_a_length_are_wrong(programs: ProgramRunner, reading: None) -> None:
    """It says of which process's records the work is not seen, what share of them, and what to name."""
    writer = ring(programs)
    writer.set_header(layout.POLLED_RECORDS, 200)
    writer.set_header(layout.WITHOUT_LENGTH, 174)

    (said,) = wrong(doctor(programs))
    assert said.startswith(
        "of 200 records that poll() returned to shop (pid 77), 87% have a span of no length"
    )
    assert "interceptor.functions" in said


@pytest.mark.parametrize(("without_length", "functions"), [(10, ""), (174, "[{call: 'shop:handle'}]")])
def test_few_records_without_a_length_or_named_functions_are_not_wrong(
    programs: ProgramRunner, reading: None, without_length: int, functions: str
) -> None:
    """Some such records are usual, and where functions are named, the application's author knows."""
    writer = ring(programs)
    writer.set_header(layout.POLLED_RECORDS, 200)
    writer.set_header(layout.WITHOUT_LENGTH, without_length)
    done = doctor(programs, **({"KASPAN_INTERCEPTOR__FUNCTIONS": functions} if functions else {}))

    assert wrong(done) == []
    assert ("have a span of no length" in done.stdout) is bool(functions)


def test_ring_that_fills_up_under_an_agent_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """More than half full while an agent reads: it does not keep up."""
    writer = ring(programs)
    while writer.write_pos <= DATA_BYTES // 2:
        writer.put(span(1, 1000))

    assert wrong(doctor(programs)) == [
        "the ring of shop (pid 77) is more than half full: the agent does not keep up"
    ]


def test_limit_of_unread_rings_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """With as many unread rings as stop new ones from being made, it says that new processes are untraced."""
    for number in range(MAX_UNREAD_ORPHANS):
        ring(programs, f"{number}-a.ring").die()

    assert wrong(doctor(programs)) == [
        f"{MAX_UNREAD_ORPHANS} rings of ended processes were never read, so new processes are not traced: "
        "start `kaspan agent`"
    ]


def test_program_with_another_kaspan_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """A program that still runs with an older kaspan is named."""
    ring(programs, kaspan="0.0.9")

    assert wrong(doctor(programs)) == [f"shop (pid 77) runs kaspan 0.0.9, and this command is {VERSION}"]


def test_file_that_is_no_ring_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """Garbage, and headers with garbage in them, are named and stop nothing."""
    (programs.ring_dir / "1-\x1b\u202ea.ring").write_bytes(b"garbage")
    ring(programs, "2-b.ring", service="sh\x1b[2J\u202eop\n").put(span(1))
    done = doctor(programs)

    (said,) = wrong(done)
    assert said.startswith(f"{programs.ring_dir}/1-\\x1b\\u202ea.ring: ")
    assert done.stdout.replace("\n", "").isprintable()


def test_directory_that_programs_would_refuse_is_wrong(programs: ProgramRunner) -> None:
    """The same words that a program would log are said of a ring directory that it may not use."""
    programs.ring_dir.mkdir(mode=0o700)
    programs.ring_dir.chmod(0o777)

    (said,) = wrong(doctor(programs))
    assert "has mode 0777, so others may write there" in said


def test_directory_that_the_agent_does_not_read_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """Settings under which application and agent miss each other are pointed out."""
    (said,) = wrong(doctor(programs, KASPAN_AGENT__RING_DIRS="[/elsewhere]"))

    assert str(programs.ring_dir) in said
    assert "/elsewhere" in said


def test_directory_that_the_agent_of_another_container_reads_is_right(
    programs: ProgramRunner, reading: None
) -> None:
    """Where only the application's settings are known, that an agent reads its directory is enough."""
    del programs.environment["KASPAN_AGENT__RING_DIRS"]

    assert wrong(doctor(programs)) == []


def test_disabled_tracing_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """With interceptor.enabled false nothing is traced, and it says who said so."""
    (said,) = wrong(doctor(programs, OTEL_SDK_DISABLED="true"))

    assert said == "interceptor.enabled is false (environment OTEL_SDK_DISABLED): nothing is traced"


@pytest.fixture
def memory(programs: ProgramRunner, tmp_path: Path) -> Iterator[Path]:
    """Make 64 MiB of shared memory the place for rings; an agent reads them."""
    with shared_memory(tmp_path / "shm", "64m") as directory:
        programs.ring_dir = directory / "rings"
        programs.environment["KASPAN_INTERCEPTOR__RING_DIR"] = str(programs.ring_dir)
        programs.environment["KASPAN_AGENT__RING_DIRS"] = f"[{programs.ring_dir}]"
        programs.ring_dir.mkdir(mode=0o700)
        descriptor = os.open(programs.ring_dir, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
        os.close(descriptor)


def test_room_for_rings_is_told(programs: ProgramRunner, memory: Path) -> None:
    """While there is room, it says how much, and nothing is wrong."""
    done = doctor(programs)

    assert wrong(done) == []
    there = f"there is room for rings in {programs.ring_dir}"
    assert f"{there}: 64 of 64 MiB are free, and half stays free\n" in done.stdout


def test_shared_memory_that_is_short_is_wrong(programs: ProgramRunner, memory: Path) -> None:
    """It says what processes get that start now: smaller rings, or none."""
    (memory / "theirs").write_bytes(b"x" * (29 << 20))
    (said,) = wrong(doctor(programs))
    assert said.startswith(
        f"{programs.ring_dir} has no room for a span ring of 4.0 MiB: 35 of 64 MiB are free, "
    )
    assert "processes that start now keep their spans in smaller rings there, of 2.0 MiB" in said
    assert "--shm-size" in said

    fill(memory / "more")
    (said,) = wrong(doctor(programs))
    assert "0.0 of 64 MiB are free" in said
    assert "in their own memory and report them to " in said


def test_shared_memory_that_is_read_only_is_wrong(programs: ProgramRunner, memory: Path) -> None:
    """No ring can be made there, and the report says so."""
    subprocess.run(["mount", "-o", "remount,ro", str(memory)], check=True)
    (said,) = wrong(doctor(programs))

    assert said.startswith(f"the file system of {programs.ring_dir} is read-only: processes that start now")


def test_rings_on_disk_are_seen(
    programs: ProgramRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With default settings, rings on disk that did not fit into shared memory are examined too."""
    for name in ("default_ring_dir", "default_fallback_dir"):
        monkeypatch.setattr(schema, name, lambda name=name: str(tmp_path / name))
        (tmp_path / name).mkdir(mode=0o700)
    disk = tmp_path / "default_fallback_dir"
    RingWriter(disk, process=json.dumps(PROCESS).encode()).put(span(1))
    settings = schema.Interceptor(ring_dir=str(tmp_path / "default_ring_dir"))
    origins = {"agent.ring_dirs": "default"}
    loaded = SimpleNamespace(settings=schema.Settings(interceptor=settings), origins=origins)
    said, found = all_rings(loaded)  # type: ignore[arg-type]

    assert f"rings that did not fit there are in {disk}" in said
    assert [line.split()[0] for line in said if line.startswith("shop")] == ["shop"]
    assert f"spans wait in {disk} and no agent reads them: start `kaspan agent`" in found


def test_wrong_settings_are_said_with_exit_code_2(programs: ProgramRunner) -> None:
    """Settings that no application would run with are named as everywhere."""
    done = doctor(programs, KASPAN_INTERCEPTOR__SAMPLING__RATE="7")

    assert done.returncode == 2
    assert "interceptor.sampling.rate is 7" in done.stderr


def test_python_without_kafka_python_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """Where kafka cannot be imported there is nothing to trace."""
    programs.module("sitecustomize.py", without("kafka", "confluent_kafka", "aiokafka", "pykafka"))
    (said,) = wrong(doctor(programs))

    assert said == "kafka-python is not installed for this Python: there is nothing to trace"


@pytest.mark.parametrize(
    ("module", "client"),
    [("confluent_kafka", "confluent-kafka"), ("aiokafka", "aiokafka"), ("pykafka", "pykafka")],
)
def test_python_with_another_client_alone_is_wrong(
    programs: ProgramRunner, reading: None, module: str, client: str
) -> None:
    """Another client of Kafka is named as one that is not traced: without a word that is looked for long."""
    others = {"kafka", "confluent_kafka", "aiokafka", "pykafka"} - {module}
    programs.module(f"{module}.py", "")
    programs.module("sitecustomize.py", without(*others))
    (said,) = wrong(doctor(programs))

    assert f"only {client}, which kaspan does not trace" in said


def test_other_client_beside_kafka_python_is_said(programs: ProgramRunner, reading: None) -> None:
    """An application may use both, and half of its traffic is not seen then."""
    programs.module("aiokafka.py", "")
    done = doctor(programs)

    assert wrong(done) == []
    assert "aiokafka: installed too, and not traced by kaspan" in done.stdout


def test_module_that_is_called_kafka_and_no_package_is_wrong(programs: ProgramRunner, reading: None) -> None:
    """A folder of the application's own that hides kafka-python is named."""
    programs.module("kafka/__init__.py", "")
    programs.module(
        "sitecustomize.py",
        "import importlib.metadata as m; of = m.packages_distributions\n"
        "m.packages_distributions = lambda: {k: v for k, v in of().items() if k != 'kafka'}",
    )
    (said,) = wrong(doctor(programs))

    assert "belongs to no package that pip knows" in said


def test_two_packages_that_overwrite_each_other_are_wrong(
    monkeypatch: pytest.MonkeyPatch, programs: ProgramRunner
) -> None:
    """kafka-python and its fork in one Python are files of both under one name."""
    monkeypatch.setattr(
        interpreter, "packages_distributions", lambda: {"kafka": ["kafka-python", "kafka-python-ng"]}
    )
    monkeypatch.setattr(interpreter, "version", lambda name: "2.2.3")
    _, found = interpreter.this_python()

    assert any("kafka-python and kafka-python-ng are both imported as kafka" in line for line in found)


@pytest.mark.parametrize("is_there", [True, False])
def test_checksums_in_python_are_said(programs: ProgramRunner, reading: None, is_there: bool) -> None:
    """Without the package crc32c, kafka-python's own work is the larger part of a record's cost."""
    if is_there:
        programs.module("crc32c.py", "")
    else:
        programs.module("sitecustomize.py", without("crc32c"))

    assert ("each record's checksum" in doctor(programs).stdout) == (not is_there)


@pytest.mark.parametrize("missing", [[], ["opentelemetry.sdk"], ["opentelemetry.exporter"]])
def test_instrumentations_without_their_sdk_are_said(
    programs: ProgramRunner, reading: None, missing: list[str]
) -> None:
    """Where OpenTelemetry's instrumentations are installed and their spans not recorded, it says why."""
    programs.module("sitecustomize.py", without(*missing))

    assert ("that takes kaspan[opentelemetry]" in doctor(programs).stdout) == bool(missing)


SILENCE = {
    "no sampling": ({"OTEL_TRACES_SAMPLER": "always_off"}, "interceptor.sampling.rate is 0.0 (env"),
    "no sampling by rules": (
        {"KASPAN_INTERCEPTOR__SAMPLING__RULES": "[{topic: a, rate: 0}, {topic: '**', rate: 0}]"},
        "interceptor.sampling.rules is ",
    ),
    "every topic excluded": (
        {"KASPAN_INTERCEPTOR__EXCLUDE_TOPICS": "[a, '?*']"},
        'interceptor.exclude_topics is [a, "?*"] (env',
    ),
    "no header": ({"OTEL_PROPAGATORS": "none"}, "interceptor.propagation.inject is [] (env"),
    "headers that nobody reads": (
        {"KASPAN_INTERCEPTOR__PROPAGATION": "{inject: [tracecontext], extract: [b3]}"},
        "interceptor.propagation.extract is [b3] (env",
    ),
    "an unknown key": (
        {"KASPAN_INTERCEPTOR__NEW": "1"},
        "settings: environment KASPAN_INTERCEPTOR__NEW: there is no setting with this name",
    ),
    "a mistake in the agent's": (
        {"KASPAN_AGENT__BATCH__MAX_BYTES": "0"},
        "settings: environment KASPAN_AGENT__BATCH",
    ),
}


@pytest.mark.parametrize(("variables", "said"), SILENCE.values(), ids=SILENCE.keys())
def test_setting_under_which_no_trace_is_seen_is_wrong(
    programs: ProgramRunner, reading: None, variables: dict[str, str], said: str
) -> None:
    """A setting that prevents traces is named with its value and its origin."""
    (line,) = wrong(doctor(programs, **variables))

    assert line.startswith(said)


def test_variable_of_another_program_is_said_and_not_wrong(programs: ProgramRunner, reading: None) -> None:
    """A variable that may be a Dockerfile's does not make the exit code 1."""
    done = doctor(programs, KASPAN_VERSION="1", OTEL_PROPAGATORS="jaeger")

    assert wrong(done) == []
    assert "settings: environment KASPAN_VERSION: " in done.stdout
    assert "settings: environment OTEL_PROPAGATORS: " in done.stdout


HEARD = {
    "a rate below a rule": {
        "KASPAN_INTERCEPTOR__SAMPLING__RULES": "[{topic: '*', operation: send, rate: 0}]"
    },
    "a rule above a rate": {
        "KASPAN_INTERCEPTOR__SAMPLING": "{rate: 0, rules: [{topic: orders, rate: 0.1}]}",
    },
    "many topics excluded": {"KASPAN_INTERCEPTOR__EXCLUDE_TOPICS": "['a*', '??*']"},
    "one header of two is read": {
        "KASPAN_INTERCEPTOR__PROPAGATION": "{inject: [b3, tracecontext], extract: [b3]}"
    },
}


@pytest.mark.parametrize("variables", HEARD.values(), ids=HEARD.keys())
def test_setting_under_which_some_traces_are_seen_is_not_wrong(
    programs: ProgramRunner, reading: None, variables: dict[str, str]
) -> None:
    """A setting that leaves some traces is not reported."""
    assert wrong(doctor(programs, **variables)) == []


@pytest.fixture
def agent(deployment: Deployment) -> Iterator[tuple[Deployment, ZipkinStub]]:
    """Run an agent that listens on a unix socket and sends to a collector of the test's."""
    zipkin_stub = ZipkinStub()
    deployment.environment["KASPAN_AGENT__SOCKET"] = str(deployment.directory / "agent.sock")
    deployment.environment["KASPAN_AGENT__SENDERS"] = f"[{{type: zipkin, url: '{zipkin_stub.url}'}}]"
    deployment.start_agent()
    socket = deployment.directory / "agent.sock"
    wait_until(socket.exists, "the agent listens")
    yield deployment, zipkin_stub
    zipkin_stub.close()


def ask_doctor(deployment: Deployment, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kaspan.cli.main", "doctor"],
        env={**deployment.environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_agent_that_reaches_its_target_is_said(agent: tuple[Deployment, ZipkinStub]) -> None:
    """`Nothing is wrong.` is printed only if the agent was asked."""
    deployment, zipkin_stub = agent
    deployment.start("shop", KASPAN, "run", "--", sys.executable, "-c", SEND, PYTHONPATH=TESTS).finish()
    wait_until(lambda: zipkin_stub.stored, "the span is delivered")
    done = ask_doctor(deployment)

    assert "\nNothing is wrong.\n" in done.stdout
    assert f"the agent has sent to zipkin {zipkin_stub.url}" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("by", ["ring", "socket"])
def test_agent_that_does_not_reach_its_target_is_wrong(agent: tuple[Deployment, ZipkinStub], by: str) -> None:
    """From the first failure on the report names the target that is not reached and why, by ring and by
    HTTP.
    """
    deployment, zipkin_stub = agent
    zipkin_stub.answer = lambda report: Response(503, "out of order")
    deployment.start("shop", KASPAN, "run", "--", sys.executable, "-c", SEND, PYTHONPATH=TESTS).finish()
    wait_until(lambda: zipkin_stub.reports, "the agent tries")
    way = {} if by == "ring" else {"KASPAN_INTERCEPTOR__AGENT": f"unix://{deployment.directory}/agent.sock"}

    def found() -> str:
        done = ask_doctor(deployment, **way)
        return done.stdout if done.returncode == 1 else ""

    said = wait_until(found, "doctor sees it")
    (line,) = [line for line in said.splitlines() if line.startswith("- ")]
    assert line.startswith(f"- the agent has not reached zipkin {zipkin_stub.url}")
    assert "HTTP 503" in line
    assert "out of order" in line


def test_python_is_traced_under_kaspan_run_only(programs: ProgramRunner) -> None:
    """It says whether a program started here and now is traced, and by what."""
    assert "its programs are traced only under `kaspan run`" in doctor(programs).stdout

    run = programs.run(*programs.kaspan_run(), "-m", "kaspan.cli.main", "doctor")
    assert "its programs are traced here by `kaspan run`" in run.stdout


def test_agent_by_http_is_asked_whether_it_takes_spans(programs: ProgramRunner) -> None:
    """With an address in interceptor.agent an empty report goes there, and no ring is looked for."""
    zipkin_stub = ZipkinStub()
    try:
        done = doctor(programs, KASPAN_INTERCEPTOR__AGENT=zipkin_stub.url)
        # The stub answers as a collector does, and not as an agent.
        assert wrong(done) == []
        assert [report.body for report in zipkin_stub.reports] == [b"[]"]
        assert "into rings" not in done.stdout
        zipkin_stub.answer = lambda report: Response(401, "no token")
        (refused,) = wrong(doctor(programs, KASPAN_INTERCEPTOR__AGENT=zipkin_stub.url))
        assert "HTTP 401 Unauthorized no token" in refused
    finally:
        zipkin_stub.close()

    (gone,) = wrong(doctor(programs, KASPAN_INTERCEPTOR__AGENT=zipkin_stub.url))
    assert gone.startswith(f"{zipkin_stub.url} cannot be reached: ConnectionRefusedError")
