"""Run programs of others, which use kafka-python and know nothing of kaspan, without and with it.

    python tests/third_party/compare.py [FOLDER ...]

Each FOLDER (all, without one) is a program of programs.py. It gets an environment of its own from its
requirements, runs once before kaspan is installed there and once under `kaspan run`, on a real Kafka and a
real Zipkin. Exit code 1 if kaspan changes what is printed, what is in the topics, or which packages were
there before; or if the traces in Zipkin are not those that programs.py names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from kafka import KafkaConsumer, TopicPartition  # noqa: E402

from servers import Servers, fetch_jars  # noqa: E402
from support.deployment import Deployment  # noqa: E402
from support.process import RunningProcess  # noqa: E402
from support.waiting import TooLateError, wait_until  # noqa: E402
from third_party.programs import PROGRAMS, Program  # noqa: E402

RUN_DEADLINE_S = 120.0
DELIVERY_DEADLINE_S = 30.0
PYTHON = "3.11"
"""What most of them want: some are too old for a newer one."""


def uv(*arguments: str | Path) -> str:
    """Run uv, and return what it prints."""
    command = [sys.executable, "-m", "uv", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout


class Trial:
    """One program on the servers: in an environment under `directory`, its output, records and traces."""

    def __init__(self, program: Program, servers: Servers, wheel: Path, directory: Path) -> None:
        self._program = program
        self._servers = servers
        self._wheel = wheel
        self._directory = directory
        self._python = directory / "venv" / "bin" / "python"

    def differences(self) -> Iterator[str]:
        """Run it in both ways; yields a line for each thing that is not as it has to be."""
        uv("venv", "--quiet", "--python", PYTHON, self._directory / "venv")
        requirements = HERE / self._program.folder / "requirements.txt"
        uv("pip", "install", "--quiet", "--python", self._python, "--requirements", requirements)
        packages = self._packages()
        plain = self._run("plain")
        if plain[0] != 0:
            yield f"without kaspan it ends with {plain[0]}:\n{plain[2]}"
            return
        uv("pip", "install", "--quiet", "--python", self._python, self._wheel)
        yield from self._changed("a package", packages, self._packages() & packages)
        deployment = self._deployment("trace")
        agent = deployment.start_agent("--zipkin", self._servers.zipkin().url)
        try:
            traced = self._run("trace", deployment)
            yield from self._changed("exit code or what is printed", plain[:2], traced[:2])
            yield from self._changed("a topic", self._records("plain"), self._records("trace"))
            yield from self._other_paths()
            agent.terminate()
        finally:
            deployment.close()

    def _packages(self) -> set[str]:
        return set(uv("pip", "freeze", "--python", self._python).splitlines())

    def _deployment(self, run: str) -> Deployment:
        directory = self._directory / run
        shutil.copytree(HERE / self._program.folder, directory)
        deployment = Deployment(directory)
        deployment.environment |= {
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ['PATH']}",
            "KAFKA": self._servers.kafka().bootstrap_servers,
            "RUN": self._prefix(run),
        }
        return deployment

    def _prefix(self, run: str) -> str:
        """Of one length for both runs, so that what they send has one length as well."""
        return f"{self._program.folder}-{run}"

    def _run(self, run: str, traced: Deployment | None = None) -> tuple[int | None, str, str]:
        """Run run.sh to its end; returns its exit code (None: it never ended), output and stderr."""
        deployment = traced or self._deployment(run)
        command = ["sh", "-e", "run.sh"]
        variables: Mapping[str, str] = {}
        if traced is not None:
            command = [str(self._python.with_name("kaspan")), "run", "--", *command]
            variables = self._program.environment
        running: RunningProcess = deployment.start("program", *command, **variables)
        code = None
        try:
            code = running.wait(RUN_DEADLINE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            running.kill()
        return code, running.stdout.replace(self._prefix(run), ""), running.stderr

    def _records(self, run: str) -> dict[str, list[Any]]:
        """What lies in the topics of a run: partition, key, value, and headers but for kaspan's."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers.kafka().bootstrap_servers, consumer_timeout_ms=1000
        )
        prefix = self._prefix(run) + "-"
        found = {}
        for topic in sorted(consumer.topics()):
            if not topic.startswith(prefix):
                continue
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            wanted = sum(consumer.end_offsets(places).values())
            records = [next(consumer) for _ in range(wanted)]
            found[topic.removeprefix(prefix)] = [self._content(record) for record in records]
        consumer.close()
        return found

    def _content(self, record: Any) -> tuple[Any, ...]:
        headers = [(key, value) for key, value in record.headers if key != "b3"]
        if self._program.has_random_values:
            return record.partition, record.key is None, len(record.value), headers
        return record.partition, record.key, record.value, headers

    def _other_paths(self) -> Iterator[str]:
        """Yields what is wrong with the traces, once all that are expected are there or time is up."""
        expected = Counter(self._program.paths)
        found: Counter[str] = Counter()

        def all_there() -> bool:
            found.clear()
            found.update(self._paths())
            return found == expected

        try:
            wait_until(all_there, "the traces are in Zipkin", DELIVERY_DEADLINE_S, every_s=0.5)
        except TooLateError:
            yield from (f"not in Zipkin: {count} times {path}" for path, count in (expected - found).items())
            yield from (
                f"too much in Zipkin: {count} times {path}" for path, count in (found - expected).items()
            )

    def _paths(self) -> Iterator[str]:
        """The ways from root to leaf of every trace of this run."""
        prefix = self._prefix("trace") + "-"
        for trace in self._servers.zipkin().all_traces():
            spans = {span["id"]: span for span in trace}
            if not any(prefix in span["name"] for span in trace):
                continue
            parents = {span.get("parentId") for span in trace}
            for span in trace:
                if span["id"] not in parents:
                    yield " > ".join(reversed(list(self._way(span, spans)))).replace(prefix, "")

    @staticmethod
    def _way(span: dict[str, Any] | None, spans: Mapping[str, dict[str, Any]]) -> Iterator[str]:
        while span is not None:
            yield f"{span['localEndpoint']['serviceName']}: {span['name']}"
            span = spans.get(span.get("parentId", ""))

    @staticmethod
    def _changed(what: str, before: object, after: object) -> Iterator[str]:
        if before != after:
            yield f"{what} changes: {before!r} without kaspan, {after!r} with it"


def main() -> int:
    """Try each program that is asked for."""
    asked = sys.argv[1:] or [program.folder for program in PROGRAMS]
    unknown = set(asked) - {program.folder for program in PROGRAMS}
    if unknown:
        print(f"compare.py: no such program: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        uv("build", "--quiet", "--wheel", "--python", PYTHON, "--out-dir", directory / "dist")
        (wheel,) = (directory / "dist").glob("*.whl")
        (directory / "servers").mkdir()
        servers = Servers(fetch_jars(), directory / "servers")
        servers.start({"kafka", "zipkin"})
        try:
            for program in PROGRAMS:
                if program.folder in asked:
                    place = directory / program.folder
                    place.mkdir()
                    said = list(Trial(program, servers, wheel, place).differences())
                    failed += bool(said)
                    print(
                        f"{program.folder}: {program.what}: {'differs' if said else 'the same, and traced'}"
                    )
                    print("".join(f"  {line}\n" for line in said), end="", flush=True)
        finally:
            servers.stop()
    print(f"{len(asked) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
