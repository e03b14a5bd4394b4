from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kaspan.demo.shop
from kaspan.demo.harness.cluster import MockCluster

FOLDER = Path(kaspan.demo.shop.__file__).parent
APPLICATIONS = ("orders", "shipping", "mailer")
DEADLINE_S = 60


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    cluster = MockCluster()
    yield cluster.bootstrap_servers
    cluster.close()


def start(name: str, broker: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(FOLDER / f"{name}.py"), "--kafka", broker, "--mock", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_all(broker: str, prefix: str, orders: list[str], shipped: int) -> dict[str, list[str]]:
    """Run the three applications with new topics and groups; returns the sorted lines of each."""
    count = orders[orders.index("--count") + 1]
    topics = ["--orders-topic", f"{prefix}orders", "--shipments-topic", f"{prefix}shipments"]
    processes = {
        "shipping": start("shipping", broker, *topics, "--group", f"{prefix}shipping", "--count", count),
        "mailer": start(
            "mailer",
            broker,
            *("--topic", f"{prefix}shipments", "--group", f"{prefix}mailer", "--count", str(shipped)),
        ),
        "orders": start("orders", broker, "--topic", f"{prefix}orders", *orders),
    }
    lines = {}
    try:
        for name, process in processes.items():
            out, err = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, err
            lines[name] = sorted(out.splitlines())
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return lines


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application_never_names_kaspan_in_its_code(name: str) -> None:
    """The demo's applications are plain kafka-python code: no import and no name of kaspan in them."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = {
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in (a.name for a in node.names)
    }
    imported |= {
        "." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not [module for module in imported if "kaspan" in module or module.startswith(".")]
    assert not [name for name in names if "kaspan" in name.lower()]


@pytest.mark.processes
def test_applications_print_the_same_for_the_same_orders(broker: str) -> None:
    """What the applications print depends on the orders alone, so that runs can be compared."""
    first = run_all(broker, "a-", ["--count", "2"], shipped=2)
    assert first == {
        "orders": ["order 1: ada wants 2 x teapot", "order 2: grace wants 3 x kettle"],
        "shipping": ["order 1: shipped 2 x teapot to ada", "order 2: shipped 3 x kettle to grace"],
        "mailer": [
            "order 1: dear ada, 2 x teapot on the way",
            "order 2: dear grace, 3 x kettle on the way",
        ],
    }
    assert run_all(broker, "b-", ["--count", "2"], shipped=2) == first


@pytest.mark.processes
def test_poison_order_is_refused_by_kafka_python_and_survived(broker: str) -> None:
    """With --poison the last order's shipment is larger than kafka-python sends, and shipping goes on."""
    lines = run_all(broker, "p-", ["--count", "2", "--poison"], shipped=1)
    assert lines["shipping"][1].startswith("order 2: NOT shipped")
    assert "MessageSizeTooLargeError" in lines["shipping"][1]
    assert lines["mailer"] == ["order 1: dear ada, 2 x teapot on the way"]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["shipping", "mailer"])
def test_consumer_that_gets_fewer_than_it_was_told_of_fails(broker: str, name: str) -> None:
    """A consumer that gets fewer records than --count ends with 1 and says how many came."""
    process = start(name, broker, "--group", f"idle-{name}", "--count", "1", "--idle-timeout-s", "0.1")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert f"{name}: only 0 of 1" in err
