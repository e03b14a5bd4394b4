"""`kaspan demo`: run three small applications that know nothing of kaspan, and show their traces."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kaspan.demo import DemoError
from kaspan.demo.children import Child, Children
from kaspan.demo.interrupts import Interrupted, Interrupts
from kaspan.demo.links import ZipkinQuery

if TYPE_CHECKING:
    from kaspan.demo.cluster import MockCluster, RealCluster

APPLICATIONS = ("orders", "shipping", "mailer")
REQUIRED = {"kafka": "kafka-python", "confluent_kafka": "confluent-kafka", "rich": "rich"}
MAX_ORDERS = 1000
ORDER_INTERVAL_S = 0.3
READY_TIMEOUT_S = 45.0
RUN_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 15.0
ZIPKIN_TIMEOUT_S = 20.0


class NotInstalledError(Exception):
    """The demo cannot be run with this Python; the message says what to install."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; exits with 2 and a message when it is not understood."""
    parser = argparse.ArgumentParser(
        prog="kaspan demo",
        description="Run three small applications that know nothing of kaspan, and show their traces. With "
        "no option nothing else is needed: Kafka is a mock inside the demo, and traces are printed.",
    )
    parser.add_argument(
        "--kafka", type=_host_port, metavar="HOST:PORT", help="a real Kafka instead (no TLS, no password)"
    )
    parser.add_argument(
        "--zipkin", type=_http_url, metavar="URL", help="send to this Zipkin, print links to the traces"
    )
    parser.add_argument(
        "--orders",
        type=_count,
        default=3,
        metavar="N",
        help=f"how many orders (1 to {MAX_ORDERS}, default 3); the last one is too large to be shipped",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the demo. 0 when all went well, 1 when something failed, 2 when something is missing to run it."""
    options = parse_arguments(arguments)
    try:
        kaspan = find_kaspan()
        check_installed()
        with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="kaspan-demo-") as directory:
            run(options, kaspan, Path(directory), interrupts)
    except NotInstalledError as error:
        return _say(f"kaspan demo: {error}", 2)
    except DemoError as error:
        return _say(f"kaspan demo: {error}", 1)
    except Interrupted as error:
        return _say(f"kaspan demo: {error}: everything it had started is ended", error.exit_code)
    return 0


def find_kaspan() -> str:
    """Find the `kaspan` command that belongs to this Python; NotInstalledError if there is none."""
    beside = Path(sys.executable).with_name("kaspan")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("kaspan")
    if found is None:
        raise NotInstalledError(
            f"no `kaspan` command beside {sys.executable} or on PATH: install kaspan again"
        )
    return os.path.abspath(found)


def check_installed() -> None:
    """Raise NotInstalledError when a package of the extras is missing."""
    missing = [package for module, package in REQUIRED.items() if find_spec(module) is None]
    if missing:
        raise NotInstalledError(
            f"{', '.join(missing)} missing in {sys.executable}: install kaspan[agent,demo]"
        )


def run(options: argparse.Namespace, kaspan: str, directory: Path, interrupts: Interrupts) -> None:
    """Start everything, let the orders through, show the traces, and leave nothing behind."""
    from kaspan.demo.cluster import ClusterError, MockCluster, RealCluster

    zipkin = ZipkinQuery(options.zipkin) if options.zipkin else None
    if zipkin is not None:
        zipkin.check()
    cluster = RealCluster(options.kafka) if options.kafka else MockCluster()
    try:
        with Children(directory, interrupts) as children:
            Run(options, kaspan, directory, cluster, children).show(zipkin)
    finally:
        try:
            cluster.close()
        except ClusterError as error:
            sys.stderr.write(f"kaspan demo: {error}\n")


class Run:
    """One run of the demo on a cluster that is there."""

    def __init__(
        self,
        options: argparse.Namespace,
        kaspan: str,
        directory: Path,
        cluster: MockCluster | RealCluster,
        children: Children,
    ) -> None:
        self._orders: int = options.orders
        # A demo of one order shows one that is shipped.
        self._shipped = self._orders - 1 if self._orders > 1 else 1
        self._kaspan = kaspan
        self._cluster = cluster
        self._children = children
        self._environment = environment(directory)

    def show(self, zipkin: ZipkinQuery | None) -> None:
        """Run the applications and show their traces, as links when there is a Zipkin."""
        names = self._cluster.names
        what = "a mock of Kafka" if self._cluster.mock else "Kafka"
        print(f"{what} on {self._cluster.bootstrap_servers}, and three applications on it:")
        print(f"  orders -> [{names.orders}] -> shipping -> [{names.shipments}] -> mailer")
        print("Not a line in them knows of tracing; each is started by `kaspan run --service NAME -- ...`,")
        sink = ["--zipkin", zipkin.base] if zipkin else ["--console"]
        print(f"and beside them runs `kaspan agent {' '.join(sink)}`.\n", flush=True)
        agent = self._children.start("agent", [self._kaspan, "agent", *sink], self._environment)
        since_ms = time.time_ns() // 1_000_000
        self._run_applications()
        agent.process.terminate()
        self._children.wait_for_exit([agent], DRAIN_TIMEOUT_S)
        if zipkin is None:
            print("\nThe traces:\n")
            sys.stdout.write(agent.output())
        else:
            self._print_links(zipkin, since_ms)
        # An application runs on when tracing fails in it; a demo of tracing has failed then.
        complaints = self._children.stderr_lines("kaspan:")
        if complaints:
            raise DemoError("not everything was traced:\n" + "\n".join(complaints))

    def _run_applications(self) -> None:
        names, count = self._cluster.names, str(self._orders)
        shipping = self._start(
            "shipping",
            *("--orders-topic", names.orders, "--shipments-topic", names.shipments),
            *("--group", names.shipping_group, "--count", count),
        )
        mailer = self._start(
            "mailer", "--topic", names.shipments, "--group", names.mailer_group, "--count", str(self._shipped)
        )
        consumers = [shipping, mailer]
        self._children.wait(
            lambda: all("waiting for" in child.stderr() for child in consumers),
            "shipping and mailer have joined their consumer groups",
            READY_TIMEOUT_S,
        )
        poison = ["--poison"] if self._shipped < self._orders else []
        interval = ["--interval-s", str(ORDER_INTERVAL_S if self._orders <= 10 else 0)]
        orders = self._start("orders", "--topic", names.orders, "--count", count, *interval, *poison)
        self._children.wait_for_exit([orders, *consumers], RUN_TIMEOUT_S)

    def _start(self, name: str, *arguments: str) -> Child:
        application = [
            sys.executable,
            "-m",
            f"kaspan.demo.{name}",
            "--kafka",
            self._cluster.bootstrap_servers,
        ]
        mock = ["--mock"] if self._cluster.mock else []
        command = [self._kaspan, "run", "--service", name, "--", *application, *mock, *arguments]
        return self._children.start(name, command, self._environment, prints=True)

    def _print_links(self, zipkin: ZipkinQuery, since_ms: int) -> None:
        # 4 spans for an order that is shipped, 3 for one that is not: nothing is mailed.
        spans = 4 * self._shipped + 3 * (self._orders - self._shipped)
        found: list[str] = []

        def arrived() -> bool:
            until_ms = time.time_ns() // 1_000_000
            found[:] = zipkin.trace_ids(self._cluster.names.orders, since_ms, until_ms, spans)
            return bool(found)

        self._children.wait(arrived, f"{spans} spans are in Zipkin at {zipkin.base}", ZIPKIN_TIMEOUT_S)
        print("\nThe traces:\n")
        for trace_id in found:
            print(f"  {zipkin.link(trace_id)}")
        print(f"\nand who talks to whom: {zipkin.base}/zipkin/dependency", flush=True)


def environment(directory: Path) -> dict[str, str]:
    """Make the environment of everything the demo starts: this run's own ring directory and spool.

    Nobody's settings for real services apply here, so what is set for kaspan and OpenTelemetry is left out.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KASPAN_", "OTEL_"))}
    kept["KASPAN_INTERCEPTOR__RING_DIR"] = f"{directory}/rings"
    kept["KASPAN_AGENT__RING_DIRS"] = f'["{directory}/rings"]'
    kept["KASPAN_AGENT__SPOOL__PATH"] = f"{directory}/spool.db"
    # Another agent on this machine, or another demo, keeps its port and its socket.
    kept["KASPAN_AGENT__LISTEN"] = kept["KASPAN_AGENT__SOCKET"] = ""
    # An agent of the user's own may listen where it does by default.
    kept["KASPAN_AGENT__LISTEN"] = kept["KASPAN_AGENT__SOCKET"] = ""
    if sys.stdout.isatty():
        # The agent prints into a file, which is shown when the run is over.
        kept.setdefault("FORCE_COLOR", "1")
        kept["COLUMNS"] = str(shutil.get_terminal_size().columns)
    return kept


def _host_port(text: str) -> str:
    if not re.fullmatch(r"[^\s:/,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9092")
    return text


def _http_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://127.0.0.1:9411")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_ORDERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_ORDERS}")
    return int(text)


def _say(message: str, exit_code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return exit_code
