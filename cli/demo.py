"""`kaspan demo`: run three small applications that know nothing of kaspan, and print their traces."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from kaspan.demo.harness import DemoError
from kaspan.demo.harness.children import Children
from kaspan.demo.harness.interrupts import Interrupted, Interrupts
from kaspan.demo.harness.zipkin_query import ZipkinQuery
from kaspan.demo.kept_store import NotKeptError, keep

REQUIRED = {
    "kafka": "kafka-python",
    "confluent_kafka": "confluent-kafka",
    "rich": "rich",
    "zstandard": "zstandard",
}
MAX_ORDERS = 1000


class NotInstalledError(Exception):
    """The Python that runs lacks what the demo needs; the message says what to install."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; a wrong one ends the process with 2 and a message."""
    parser = argparse.ArgumentParser(
        prog="kaspan demo",
        description="Run three small applications that know nothing of kaspan, and print their traces. "
        "Without options, Kafka is a mock inside the demo, and no server is needed. Without --zipkin the "
        "traces stay in a span store until the next demo, and the demo says how to look at them again.",
    )
    parser.add_argument(
        "--kafka", type=_host_port, metavar="HOST:PORT", help="use this Kafka (no TLS, no password)"
    )
    parser.add_argument(
        "--zipkin", type=_http_url, metavar="URL", help="send to this Zipkin, and print links to the traces"
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
    """Run the demo: 0 on success, 1 if something failed, 2 if something is not installed."""
    options = parse_arguments(arguments)
    try:
        kaspan = find_kaspan()
        check_installed()
        with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="kaspan-demo-") as directory:
            run(options, kaspan, Path(directory), interrupts)
    except NotInstalledError as error:
        return _fail(str(error), 2)
    except DemoError as error:
        return _fail(str(error), 1)
    except Interrupted as error:
        return _fail(f"{error}: all processes of the demo were ended", error.exit_code)
    return 0


def find_kaspan() -> str:
    """Find the `kaspan` command of this Python. Raises NotInstalledError."""
    beside = Path(sys.executable).with_name("kaspan")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("kaspan")
    if found is None:
        raise NotInstalledError(
            f"there is no `kaspan` command in {beside.parent} or on PATH: install kaspan again"
        )
    return os.path.abspath(found)


def check_installed() -> None:
    """Raise NotInstalledError if a package of the extras is missing."""
    missing = [package for module, package in REQUIRED.items() if find_spec(module) is None]
    if missing:
        raise NotInstalledError(
            f"{', '.join(missing)} missing in {sys.executable}: install kaspan[agent,demo]"
        )


def run(options: argparse.Namespace, kaspan: str, directory: Path, interrupts: Interrupts) -> None:
    """Run the scenario on a mock of Kafka or a real one, and leave no process and no topic behind."""
    # Imported here: packages may be missing, and `check_installed` says so first.
    from kaspan.demo.harness.cluster import ClusterError, MockCluster, RealCluster
    from kaspan.demo.scenarios import ShopScenario

    zipkin = ZipkinQuery(options.zipkin) if options.zipkin else None
    if zipkin is not None:
        zipkin.check()
    cluster = RealCluster(options.kafka) if options.kafka else MockCluster()
    try:
        with Children(directory, interrupts) as children:
            scenario = ShopScenario(kaspan, directory, cluster, children, options.orders)
            trace_id = scenario.run(zipkin)
        if trace_id is not None:
            _keep_store(scenario.store, trace_id, kaspan)
    finally:
        try:
            cluster.close()
        except ClusterError as error:
            sys.stderr.write(f"kaspan demo: {error}\n")


def _keep_store(store: Path, trace_id: str, kaspan: str) -> None:
    """Keep the store of a run, and print how to look at it."""
    try:
        kept = keep(store)
    except NotKeptError as error:
        sys.stderr.write(f"kaspan demo: the traces are not kept: {error}\n")
        return
    command = _as_typed(kaspan)
    print(f"\nThe traces are kept in {kept} until the next demo. To look at them again:\n")
    for arguments in (f"trace {trace_id}", "traces --errors", "server"):
        print(f"  {command} {arguments} --store {shlex.quote(str(kept))}")
    print("\nThe server answers Zipkin's API at http://127.0.0.1:9411, until Ctrl-C.", flush=True)


def _as_typed(kaspan: str) -> str:
    """Return the shortest way to call the command from here."""
    on_path = shutil.which("kaspan")
    if on_path is not None and os.path.samefile(on_path, kaspan):
        return "kaspan"
    return shlex.quote(min(os.path.relpath(kaspan), kaspan, key=len))


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


def _fail(message: str, exit_code: int) -> int:
    sys.stderr.write(f"kaspan demo: {message}\n")
    return exit_code
