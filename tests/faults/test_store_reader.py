"""The span store is read while another process writes and deletes, and where files are damaged."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from kaspan.store import span_store
from kaspan.store.partitions import list_partitions
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import SpanStore, StoreSettings
from support.written_store import write_partition

NOW_MS = 1_700_000_000_000
MAX_BYTES = 1_000_000


def span(trace: int, span_id: int) -> bytes:
    name = os.urandom(100).hex()  # which does not compress
    return (
        b'{"traceId":"%016x","id":"%016x","name":"%s","timestamp":%d,"localEndpoint":{"serviceName":"orders"}}'
        % (trace, span_id, name.encode(), NOW_MS * 1000 + trace)
    )


def settings(path: Path) -> StoreSettings:
    return StoreSettings(str(path), MAX_BYTES, 1e9)


def write(path: Path) -> None:
    """Write traces of four spans, 50 in each commit, and print the last one that is on disk, until killed."""
    span_store.MIN_PARTITION_BYTES = 200_000
    store = SpanStore(settings(path))
    for first in itertools.count(1, 50):
        traces = range(first, first + 50)
        store.accept(b",".join(span(trace, number) for trace in traces for number in range(1, 5)))
        store.commit()
        print(traces[-1], flush=True)


@pytest.mark.processes
def test_a_store_is_read_while_another_process_writes_and_deletes(tmp_path: Path) -> None:
    """What was just committed is found, whole and first; nothing of what retention deletes is an error."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            with closing(StoreReader(settings(tmp_path))) as reader:
                while not (line := process.stdout.readline()) or list_partitions(str(tmp_path))[0].number < 3:
                    assert line, "the writer has ended"
                    newest = int(line)
                    assert [len(portion) for portion in reader.get_trace(f"{newest:x}")] == [4]
                    request = QueryRequest(NOW_MS + 3_600_000, 7_200_000, service_name="orders")
                    found = reader.get_traces(request)
                    assert int(found[0][0].trace_id, 16) >= newest
                    assert {len(trace) for trace in found} == {4}
                    assert reader.get_service_names() == ["orders"]
                assert reader.damaged == frozenset()
        finally:
            process.kill()


def test_a_damaged_partition_is_left_out_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer has what the other partitions have; the log names the damaged one once."""
    for number in range(1, 4):
        write_partition(str(tmp_path), number, [[span(number, 1)]], seal=True)
    damaged = list_partitions(str(tmp_path))[1].path
    with open(damaged, "r+b") as file:
        file.write(os.urandom(4096))
    request = QueryRequest(NOW_MS + 3_600_000, 7_200_000)
    with closing(StoreReader(settings(tmp_path))) as reader, caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert [int(trace[0].trace_id, 16) for trace in reader.get_traces(request)] == [3, 1]
            assert list(reader.get_trace("2")) == []
            assert len(list(reader.get_trace("3"))) == 1
        assert reader.damaged == {damaged}
    assert [damaged in record.getMessage() for record in caplog.records] == [True]


def test_a_damaged_block_is_left_out_and_the_rest_of_its_partition_is_not(tmp_path: Path) -> None:
    """Of a partition with a block that cannot be decompressed, the other blocks are in answers."""
    hours = [
        span(1, 1),
        span(2, 1).replace(b"%d" % (NOW_MS * 1000 + 2), b"%d" % (NOW_MS * 1000 - 7200 * 10**6)),
    ]
    write_partition(str(tmp_path), 1, [[one] for one in hours], seal=True)
    (partition,) = list_partitions(str(tmp_path))
    with closing(sqlite3.connect(partition.path)) as connection, connection:
        connection.execute("update bodies set body = substr(body, 1, 20) where id < 128")
    with closing(StoreReader(settings(tmp_path))) as reader:
        found = reader.get_traces(QueryRequest(NOW_MS + 3_600_000, 8 * 3_600_000))
        assert [int(trace[0].trace_id, 16) for trace in found] == [2]
        assert reader.damaged == {f"{partition.path}, block 1"}


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_partition_that_was_cut_off_does_not_end_a_search(tmp_path: Path, cut: int) -> None:
    """Wherever a file ends too early, the others are read."""
    for number in range(1, 3):
        spans = [[span(number, index) for index in range(1, 200)]]
        write_partition(str(tmp_path), number, spans, seal=True)
    os.truncate(list_partitions(str(tmp_path))[0].path, cut)
    with closing(StoreReader(settings(tmp_path))) as reader:
        found = reader.get_traces(QueryRequest(NOW_MS + 3_600_000, 7_200_000))
        assert [int(trace[0].trace_id, 16) for trace in found] == [2]
        assert len(reader.damaged) == 1


def test_files_are_closed_when_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that retention deletes gives its disk space back, also after a query has read it."""
    fired: list[Timer] = []
    monkeypatch.setattr(threading, "Timer", partial(Timer, fired))
    for number in range(1, 4):
        write_partition(str(tmp_path), number, [[span(number, 1)]], seal=True)
    now_s = 0.0
    with closing(StoreReader(settings(tmp_path), clock_s=lambda: now_s)) as reader:
        assert len(list(reader.get_trace("1"))) == 1
        assert len(open_files(tmp_path)) == 3
        now_s += 5
        fired.pop().function()
        assert len(open_files(tmp_path)) == 3
        now_s += 10
        fired.pop().function()
        assert open_files(tmp_path) == []
        assert fired == []
        assert len(list(reader.get_trace("2"))) == 1
    assert open_files(tmp_path) == []


class Timer:
    """A timer that a test fires."""

    def __init__(self, started: list[Timer], interval_s: float, function: Callable[[], None]) -> None:
        self._started = started
        self.function = function

    def start(self) -> None:
        self._started.append(self)

    def cancel(self) -> None:
        if self in self._started:
            self._started.remove(self)


def open_files(directory: Path) -> list[str]:
    """Return the partitions that this process has open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    paths = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [path for path in paths if path.startswith(str(directory)) and path.endswith(".spans")]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
