"""The cost of `follow_handovers` for a call that hands over no record: ns a call, compared with the plain
call.

Plain and patched calls take turns. The smallest of the rounds counts, since other work on the machine only
adds time. `submit` and `Thread` measure the side that runs the function, since the patch is there.

    python bench/handover.py [--rounds 500]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import thread as executors
from pathlib import Path
from typing import Any

from kafka.consumer import fetcher

from kaspan.config.schema import Interceptor
from kaspan.interceptor.handover.points import follow_records
from kaspan.interceptor.import_hooks import imports
from kaspan.interceptor.kafka.record_class import with_span_attribute
from kaspan.interceptor.tracing.tracing import Tracing

CALLS = 200
RESULTS = Path(__file__).parent / "results"


def handle(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


async def ahandle(order: Any, number: int = 7) -> None:
    """Do nothing."""


def run_items(run: Any, *args: Any, **kwargs: Any) -> float:
    """Run submitted functions as an executor's thread does."""
    if hasattr(executors, "WorkerContext"):  # from Python 3.14 on
        context = [executors.WorkerContext(None, ())]
        items = [executors._WorkItem(Future(), (handle, args, kwargs)) for _ in range(CALLS)]
    else:
        context, items = [], [executors._WorkItem(Future(), handle, args, kwargs) for _ in range(CALLS)]
    began = time.perf_counter()
    for item in items:
        run(item, *context)
    return time.perf_counter() - began


def run_threads(run: Any) -> float:
    """Run functions as a started Thread does."""
    threads = [threading.Thread(target=handle, args=(7, "order")) for _ in range(CALLS)]
    began = time.perf_counter()
    for thread in threads:
        run(thread)
    return time.perf_counter() - began


def take_from_queue(get: Any) -> float:
    """Take items that are in the queue already."""
    waiting: queue.Queue[Any] = queue.Queue()
    for _ in range(CALLS):
        waiting.put("order")
    began = time.perf_counter()
    for _ in range(CALLS):
        get(waiting)
    return time.perf_counter() - began


def create_tasks(create_task: Any) -> float:
    """Create tasks of coroutines. The coroutines are made before the clock starts, and run after it stops."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        coroutines = [ahandle("order") for _ in range(CALLS)]
        began = time.perf_counter()
        tasks = [create_task(loop, coroutine) for coroutine in coroutines]
        took_s = time.perf_counter() - began
        await asyncio.wait(tasks)
        return took_s

    return asyncio.run(main())


POINTS: dict[str, tuple[Any, str, Callable[[Any], float]]] = {
    "submit(handle, 7, 'order')": (executors._WorkItem, "run", lambda run: run_items(run, 7, "order")),
    "submit(handle, order=7)": (executors._WorkItem, "run", lambda run: run_items(run, order=7)),
    "submit(handle, {'order': 7})": (executors._WorkItem, "run", lambda run: run_items(run, {"order": 7})),
    "Thread(target=handle, args=...)": (threading.Thread, "run", run_threads),
    "queue.Queue.get()": (queue.Queue, "get", take_from_queue),
    "create_task(handle('order'))": (asyncio.BaseEventLoop, "create_task", create_tasks),
}


def main() -> None:
    """Measure, print the table and write it to a file."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=500)
    rounds = arguments.parse_args().rounds
    plain = {name: getattr(owner, method) for name, (owner, method, _) in POINTS.items()}
    with tempfile.TemporaryDirectory() as ring_dir:
        tracing = Tracing("bench", Interceptor(ring_dir=ring_dir))
        follow_records(tracing, with_span_attribute(fetcher.ConsumerRecord), imports)
        durations_s: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in POINTS}
        for _ in range(rounds):
            for name, (owner, method, measure) in POINTS.items():
                durations_s[name][0].append(measure(plain[name]))
                durations_s[name][1].append(measure(getattr(owner, method)))
    print("handover: ns a call without a record; plain, followed, difference")
    found = {}
    for name, both in durations_s.items():
        plain_ns, followed_ns = (min(values) / CALLS * 1e9 for values in both)
        found[name] = {"plain_ns": plain_ns, "followed_ns": followed_ns}
        print(f"  {name:34} {plain_ns:8.0f} {followed_ns:8.0f} {followed_ns - plain_ns:8.0f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "handover.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
