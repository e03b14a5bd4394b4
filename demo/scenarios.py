"""What `kaspan demo` shows: the shop's three applications, traced, with one Kafka and one agent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kaspan.agent.terminal.screen import Screen
from kaspan.agent.terminal.waterfall import draw
from kaspan.demo.harness import DemoError
from kaspan.demo.harness.children import Child, Children
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span

if TYPE_CHECKING:
    from kaspan.demo.harness.cluster import MockCluster, RealCluster
    from kaspan.demo.harness.zipkin_query import ZipkinQuery

MAX_STORE_BYTES = 64 * 1024 * 1024
ORDER_INTERVAL_S = 0.3
READY_TIMEOUT_S = 45.0
RUN_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 15.0
ZIPKIN_TIMEOUT_S = 20.0


class ShopScenario:
    """Orders are taken, shipped, and mailed about; the last of several orders is too large to be shipped.

    `kaspan` is the path of the command, `directory` an empty directory for everything that the run writes.
    `store` is the span store in it, if no Zipkin is given.
    """

    def __init__(
        self,
        kaspan: str,
        directory: Path,
        cluster: MockCluster | RealCluster,
        children: Children,
        orders: int,
    ) -> None:
        self._orders = orders
        # With one order, the order can be shipped.
        self._shipped = orders - 1 if orders > 1 else 1
        # A shipped order has 4 spans. The other one has 3: no mail is sent.
        self._spans = 4 * self._shipped + 3 * (orders - self._shipped)
        self._kaspan = kaspan
        self._cluster = cluster
        self._children = children
        self._environment = environment(directory)
        self.store = directory / "store"

    def run(self, zipkin: ZipkinQuery | None) -> str | None:
        """Run the applications and print their traces; with a Zipkin, links to them.

        Without one the traces are in `store`, and the id of one of them is returned. Blocks until all
        processes have ended. Raises DemoError if one fails or is too slow, or if an application was not
        traced; Interrupted after a signal.
        """
        self._print_introduction(zipkin)
        agent = self._start_agent(zipkin)
        since_ms = time.time_ns() // 1_000_000
        self._run_applications()
        agent.process.terminate()
        self._children.wait_for_exit([agent], DRAIN_TIMEOUT_S)
        # An application continues when tracing fails in it; then the demo of tracing has failed.
        complaints = self._children.stderr_lines("kaspan:")
        if complaints:
            raise DemoError("not everything was traced:\n" + "\n".join(complaints))
        if zipkin is None:
            return self._print_traces(since_ms)
        self._print_links(zipkin, since_ms)
        return None

    def _start_agent(self, zipkin: ZipkinQuery | None) -> Child:
        sink, settings = ["--zipkin", zipkin.base] if zipkin else ["--store", str(self.store)], {}
        if zipkin is None:
            settings = {"KASPAN_AGENT__STORE__MAX_BYTES": str(MAX_STORE_BYTES)}
        command = [self._kaspan, "agent", *sink]
        return self._children.start("agent", command, self._environment | settings)

    def _print_introduction(self, zipkin: ZipkinQuery | None) -> None:
        names = self._cluster.names
        what = "a mock of Kafka" if self._cluster.mock else "Kafka"
        print(f"{what} on {self._cluster.bootstrap_servers}, and three applications on it:")
        print(f"  orders -> [{names.orders}] -> shipping -> [{names.shipments}] -> mailer")
        print("Their code knows nothing of tracing. `kaspan run --service NAME -- ...` starts each of them,")
        sink = f"--zipkin {zipkin.base}" if zipkin else "--store"
        print(f"and `kaspan agent {sink}` takes their spans.\n", flush=True)

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
        module = f"kaspan.demo.shop.{name}"
        application = [sys.executable, "-m", module, "--kafka", self._cluster.bootstrap_servers]
        mock = ["--mock"] if self._cluster.mock else []
        command = [self._kaspan, "run", "--service", name, "--", *application, *mock, *arguments]
        return self._children.start(name, command, self._environment, prints=True)

    def _print_traces(self, since_ms: int) -> str:
        """Draw the traces of the run, and return the id of the largest one, the last of several."""
        settings = StoreSettings(str(self.store), MAX_STORE_BYTES, max_age_s=float("inf"))
        until_ms = time.time_ns() // 1_000_000 + 1
        request = QueryRequest(until_ms, lookback_ms=until_ms - since_ms, limit=2 * self._orders)
        traces = sorted(StoreReader(settings).get_traces(request), key=_start_us)
        screen = Screen()
        print("\nThe traces:")
        for trace in traces:
            print()
            screen.print(draw(trace[0].trace_id, trace, screen.width))
        spans = sum(map(len, traces))
        if spans != self._spans:
            raise DemoError(f"{spans} spans came into the store in place of {self._spans}")
        return max(reversed(traces), key=len)[0].trace_id

    def _print_links(self, zipkin: ZipkinQuery, since_ms: int) -> None:
        spans = self._spans
        found: list[str] = []

        def arrived() -> bool:
            until_ms = time.time_ns() // 1_000_000
            found[:] = zipkin.trace_ids(self._cluster.names.orders, since_ms, until_ms, spans)
            return bool(found)

        self._children.wait(arrived, f"{spans} spans are in Zipkin at {zipkin.base}", ZIPKIN_TIMEOUT_S)
        print("\nThe traces:\n")
        for trace_id in found:
            print(f"  {zipkin.link(trace_id)}")
        print(f"\nThe services and who calls whom: {zipkin.base}/zipkin/dependency", flush=True)


def _start_us(trace: Sequence[Span]) -> int:
    return min(span.timestamp or 0 for span in trace)


def environment(directory: Path) -> dict[str, str]:
    """Make the environment of all processes of a run: its own ring directory and spool, in `directory`.

    Variables of kaspan and OpenTelemetry are left out: they are meant for real services.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KASPAN_", "OTEL_"))}
    kept["KASPAN_INTERCEPTOR__RING_DIR"] = f"{directory}/rings"
    kept["KASPAN_AGENT__RING_DIRS"] = f'["{directory}/rings"]'
    kept["KASPAN_AGENT__SPOOL__PATH"] = f"{directory}/spool.db"
    # Another agent on this machine may use the default port and socket.
    kept["KASPAN_AGENT__LISTEN"] = kept["KASPAN_AGENT__SOCKET"] = ""
    return kept
