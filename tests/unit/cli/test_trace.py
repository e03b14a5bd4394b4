"""`kaspan trace` and `kaspan traces` on a span store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from kaspan.cli import trace, traces
from kaspan.store.span_store import SpanStore
from support.programs import ProgramRunner, outcome
from support.stored_spans import settings, span

NOW_US = time.time_ns() // 1000
SHOP, REFUSED, OLD, SHORT = 0x3ED5B5B6D271081B6765E9BC7E99C925, 0x992C << 96 | 2, 0xABC << 96 | 3, 0xABCDEF
HOUR_US = 3_600_000_000


class Done(NamedTuple):
    code: int
    out: str
    err: str


def sent(number: int, trace_id: int, **more: object) -> bytes:
    members = {"kind": "PRODUCER", "name": "send orders", "tags": {"kafka.topic": "orders"}, **more}
    return span(number, trace_id, **members)


def processed(number: int, trace_id: int, timestamp_us: int, **more: object) -> bytes:
    return span(
        *(number, trace_id),
        parentId=f"{number - 1:016x}",
        kind="CONSUMER",
        name="process orders",
        timestamp=timestamp_us,
        localEndpoint={"serviceName": "shipping"},
        **more,
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of four traces: of an hour ago, with an error; just now; of three days ago; with a short id."""
    path = tmp_path / "store"
    written = SpanStore(settings(path))
    hour_ago_us = NOW_US - HOUR_US
    written.accept(
        b",".join(
            [
                sent(1, SHOP, timestamp=NOW_US, duration=2_000),
                processed(2, SHOP, NOW_US + 9_000, duration=4_000),
                sent(3, REFUSED, timestamp=hour_ago_us, duration=1_000),
                processed(4, REFUSED, hour_ago_us + 1_000, duration=9_000, tags={"error": "no \x1b[31mroom"}),
                sent(5, OLD, timestamp=NOW_US - 72 * HOUR_US, duration=50_000),
                sent(6, SHORT, timestamp=NOW_US - 2 * HOUR_US, duration=1_000, tags={"shop.customer": "ada"}),
            ]
        )
    )
    written.close()
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the caller, and a home without a store."""
    for name in [name for name in os.environ if name.startswith("KASPAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("COLUMNS", "140")


class Commands:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def trace(self, *arguments: object) -> Done:
        return self._run(trace.main, arguments)

    def traces(self, *arguments: object) -> Done:
        return self._run(traces.main, arguments)

    def _run(self, main: object, arguments: tuple[object, ...]) -> Done:
        try:
            code = main([str(argument) for argument in arguments])  # type: ignore[operator]
        except SystemExit as end:
            code = end.code
        return Done(code, *self._capsys.readouterr())


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


def ids(done: Done) -> list[int]:
    """Return the trace ids in a table."""
    assert done.code == 0, done.err
    return [int(line.split()[-1], 16) for line in done.out.splitlines()[1:]]


def test_trace_is_drawn(commands: Commands, store: Path) -> None:
    """With what waited between send and processing; the id may be in upper case."""
    done = commands.trace(f"{SHOP:032X}", "--store", store)

    assert (done.code, done.err) == (0, "")
    head, titles, send, process = done.out.splitlines()
    assert head == f"trace {SHOP:032x}  2 spans  13.0 ms"
    assert titles.split()[3:6] == ["waited", "took", "╷0"]
    assert send.split()[:5] == ["orders", "send", "orders", "2.0", "ms"]
    assert process.split()[:8] == ["shipping", "└─", "process", "orders", "7.0", "ms", "4.0", "ms"]
    assert "┄━" in process or "┄╺" in process


def test_short_id_is_filled_up_as_in_zipkin(commands: Commands, store: Path) -> None:
    """Zeros at the front may be left out."""
    assert commands.trace("abcdef", "--store", store).out.startswith("trace 0000000000abcdef  1 span")


def test_json_of_a_trace_is_a_list_that_zipkin_takes(commands: Commands, store: Path) -> None:
    """Its spans in Zipkin's form, and no character that controls the terminal."""
    done = commands.trace(f"{REFUSED:x}", "--json", "--store", store)

    assert done.out.replace("\n", "").isprintable()
    spans = json.loads(done.out)
    assert [one["id"] for one in spans] == [f"{3:016x}", f"{4:016x}"]
    assert spans[1]["tags"] == {"error": "no \x1b[31mroom"}


def test_span_that_was_reported_in_pieces_is_one_line(commands: Commands, tmp_path: Path) -> None:
    """As in Zipkin's page: traces are cleaned up before they are drawn."""
    written = SpanStore(settings(tmp_path / "pieces"))
    written.accept(span(1, SHOP, name=None, kind="CLIENT", duration=None) + b"," + span(1, SHOP, name="get"))
    written.close()

    assert len(commands.trace(f"{SHOP:x}", "--store", tmp_path / "pieces").out.splitlines()) == 3


def test_unknown_trace_is_1(commands: Commands, store: Path) -> None:
    """Nothing on standard output, and what to try on standard error."""
    done = commands.trace("12ab", "--store", store)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"kaspan trace: the store {store} has no trace 12ab; `kaspan traces` lists")


@pytest.mark.parametrize("text", ["", "xyz", "0", "1" * 33, "\x1b[2J"])
def test_id_that_cannot_be_one_is_refused(commands: Commands, store: Path, text: str) -> None:
    """With 2 and the rule, without control characters."""
    done = commands.trace(text, "--store", store)

    assert done.code == 2
    assert "is not a trace id; the rule is 1 to 32 hexadecimal digits" in done.err
    assert "\x1b" not in done.err


def test_traces_are_listed_newest_first(commands: Commands, store: Path) -> None:
    """Time, duration, spans, a mark for errors, services, the first span, and the id; a day by default."""
    done = commands.traces("--store", store)

    assert ids(done) == [SHOP, REFUSED, SHORT]
    (shop,) = [line for line in done.out.splitlines() if f"{SHOP:x}" in line]
    assert shop.split()[-9:-1] == ["13.0", "ms", "2", "orders,", "shipping", "orders:", "send", "orders"]
    (refused,) = [line for line in done.out.splitlines() if f"{REFUSED:x}" in line]
    assert " 2  !  orders, shipping" in refused


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--service", "Shipping"], [SHOP, REFUSED]),
        (["--topic", "orders"], [SHOP, REFUSED]),
        (["--errors"], [REFUSED]),
        (["--tag", "shop.customer"], [SHORT]),
        (["--tag", "shop.customer=ada"], [SHORT]),
        (["--tag", "kafka.topic", "--tag", "kafka.topic=orders", "--errors"], [REFUSED]),
        (["--since", "30m"], [SHOP]),
        (["--since", "4d"], [SHOP, REFUSED, SHORT, OLD]),
        (["--since", "2020-01-01"], [SHOP, REFUSED, SHORT, OLD]),
        (["--since", "4d", "--limit", "2"], [SHOP, REFUSED]),
        (["--since", "4d", "--longest"], [OLD, REFUSED, SHOP, SHORT]),
    ],
)
def test_conditions_select_traces(
    commands: Commands, store: Path, arguments: list[str], found: list[int]
) -> None:
    """All of them have to be met."""
    assert ids(commands.traces("--store", store, *arguments)) == found


def test_json_of_traces_is_a_line_for_each(commands: Commands, store: Path) -> None:
    """What programs read one by one."""
    done = commands.traces("--store", store, "--json")

    assert [int(json.loads(line)[0]["traceId"], 16) for line in done.out.splitlines()] == [
        SHOP,
        REFUSED,
        SHORT,
    ]
    assert "\x1b" not in done.out


def test_nothing_found_is_1_with_what_to_try(commands: Commands, store: Path) -> None:
    """What was asked for is repeated: a wrong word is seen."""
    done = commands.traces("--store", store, "--topic", "order", "--errors")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"kaspan traces: the store {store} has no trace since 1d ago that matches tag kafka.topic=order, "
        "tag error; try an earlier --since or fewer conditions\n"
    )


def test_misspelt_service_is_named(commands: Commands, store: Path) -> None:
    """With the one that was meant."""
    done = commands.traces("--store", store, "--service", "order")

    assert done.code == 1
    assert "there is no such service: did you mean orders?" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "3w"], "3w is not a time before now"),
        (["--since", "9999-01-01"], "is not a time before now"),
        (["--limit", "0"], "0 is not a number of traces; the rule is 1 to 10000"),
        (["--tag", "=x"], "the rule is KEY or KEY=VALUE"),
        (["--tag", "a=1", "--tag", "a=2"], "a is asked for with two values"),
        (["--topic", "a", "--tag", "kafka.topic=b"], "kafka.topic is asked for with two values"),
        (["--zipkin", "zipkin:9411"], "--zipkin is zipkin:9411; the rule is an address such as"),
        (["--zipkin", "http://a", "--store", "/b"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_2(commands: Commands, arguments: list[str], said: str) -> None:
    """With the value and the rule."""
    done = commands.traces(*arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_absent_store_is_3_with_what_to_do(commands: Commands, tmp_path: Path) -> None:
    """The default one is looked for where an agent would keep it."""
    done = commands.traces()

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(
        f"kaspan traces: there is no span store in {tmp_path}/state/kaspan/store; `kaspan"
    )


def test_store_of_the_settings_is_read(
    commands: Commands, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By file and by variable, as the agent reads them."""
    file = tmp_path / "kaspan.yaml"
    file.write_text(f"agent: {{store: {{path: {store}}}}}")
    assert ids(commands.traces("--config", file)) == [SHOP, REFUSED, SHORT]
    monkeypatch.setenv("KASPAN_AGENT__STORE__PATH", str(store))
    assert ids(commands.traces()) == [SHOP, REFUSED, SHORT]


def test_store_without_an_index_says_so(commands: Commands, store: Path, tmp_path: Path) -> None:
    """Nothing found would be wrong: nothing can be found."""
    file = tmp_path / "kaspan.yaml"
    file.write_text(f"agent: {{store: {{path: {store}, search_enabled: false}}}}")
    done = commands.traces("--config", file)

    assert done.code == 3
    assert "agent.store.search_enabled is false" in done.err


def test_store_is_read_while_it_is_written(commands: Commands, tmp_path: Path) -> None:
    """What was committed is found, whoever holds the store."""
    written = SpanStore(settings(tmp_path / "open"))
    written.accept(sent(1, SHOP, timestamp=NOW_US))
    written.commit()
    assert ids(commands.traces("--store", tmp_path / "open")) == [SHOP]
    written.close()


def run(programs: ProgramRunner, code: str, *arguments: str | Path, **variables: str) -> tuple[int, str, str]:
    """Run a command in a Python of its own, after some code."""
    call = f"{code}; from kaspan.cli.main import main; sys.exit(main())"
    return outcome(programs.run(sys.executable, "-c", f"import sys; {call}", *arguments, **variables))


@pytest.mark.processes
@pytest.mark.parametrize("package", ["rich", "zstandard"])
def test_missing_package_is_named_with_the_extra(programs: ProgramRunner, store: Path, package: str) -> None:
    """An application's environment has none of them; --help is there all the same."""
    without = f"sys.modules[{package!r}] = None"
    code, out, err = run(programs, without, "traces", "--store", store)

    assert (code, out) == (2, "")
    assert err.startswith(
        f"kaspan traces: {package} is not installed for {sys.executable}: install kaspan[agent]"
    )
    assert run(programs, without, "trace", "--help")[0] == 0


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_suits_an_old_encoding(programs: ProgramRunner, tmp_path: Path, encoding: str) -> None:
    """Signs become ASCII in the drawing; JSON is UTF-8 everywhere."""
    written = SpanStore(settings(tmp_path / "names"))
    written.accept(sent(1, SHOP, timestamp=NOW_US, name="send 注文"))
    written.close()
    arguments = ["trace", f"{SHOP:x}", "--store", str(tmp_path / "names")]
    _, out, err = run(programs, "pass", *arguments, PYTHONIOENCODING=encoding)
    command = [sys.executable, "-m", "kaspan.cli.main", *arguments, "--json"]
    json_text = subprocess.run(
        command, env={**programs.environment, "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    ).stdout

    assert "send ??" in out
    assert err == ""
    assert json.loads(json_text)[0]["name"] == "send 注文"
