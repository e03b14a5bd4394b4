"""Functions that the settings name are traced without a change to the application."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kaspan.config import ConfigError, load
from kaspan.config.schema import Function
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.settings import NamedFunctions
from kaspan.interceptor.functions.spans import FunctionSpans
from kaspan.interceptor.import_hooks import Imports
from support.programs import SEND, ProgramRunner, outcome
from support.ring_reader import RingReader

HANDLERS = """
import functools

def handle(order):
    return order

async def ahandle(order):
    return order

class Orders:
    total = 0
    def add(self, order):
        return order
    @staticmethod
    def price(order):
        return order
    @classmethod
    def make(cls, order):
        return cls, order
    class Archive:
        def keep(self, order):
            return order

class Late(Orders):
    pass

shipped = handle
TABLE = {"orders": handle, "other": len}
LIST = [len, handle]
"""


@pytest.fixture
def name(application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Give a way to name functions, and a package `shop` to name them in."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    follow_calls(FunctionSpans(application.tracing))

    def watch(*calls: str, names: tuple[str, ...] = ()) -> NamedFunctions:
        functions = [
            Function(call=call, name=given)
            for call, given in zip(calls, names or ("",) * len(calls), strict=True)
        ]
        made = NamedFunctions(functions, Imports())
        made.watch()
        return made

    yield watch
    follow_calls(None)
    for module in [one for one in sys.modules if one.partition(".")[0] == "shop"]:
        del sys.modules[module]


def handlers() -> Any:
    return importlib.import_module("shop.handlers")


def test_function_is_traced_when_its_module_is_imported_later(application: Any, name: Any) -> None:
    """The function is replaced when its module comes, and the module is like any other."""
    name("shop.handlers:handle", names=("pack",))
    module = handlers()

    assert module.handle(7) == 7
    (span,) = application.take()
    assert (span.name, span.tags["code.function.name"]) == ("pack", "shop.handlers.handle")
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


def test_function_is_traced_when_its_module_is_there_already(application: Any, name: Any) -> None:
    """A module that was imported before tracing began is patched at once."""
    module = handlers()
    name("shop.handlers:handle")

    module.handle(7)
    assert [span.name for span in application.take()] == ["handle"]


def test_function_of_a_module_in_the_middle_of_its_import_is_traced_when_that_is_over(
    application: Any, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module that imports kafka first is not complete then; who imports from it gets the traced one."""
    started: list[Any] = []
    monkeypatch.setattr(sys, "started", started, raising=False)
    (tmp_path / "shop" / "first.py").write_text("import sys; sys.started[0]()\ndef handle(): pass\n")
    started.append(lambda: name("shop.first:handle"))

    first: Any = importlib.import_module("shop.first")
    first.handle()

    assert [span.name for span in application.take()] == ["handle"]
    assert type(first.__spec__).__name__ == "ModuleSpec"


def test_module_that_fails_while_it_is_imported_fails_as_before(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """An import error is the application's, and kaspan says nothing of it."""
    started: list[Any] = [lambda: name("shop.broken:handle")]
    monkeypatch.setattr(sys, "started", started, raising=False)
    (tmp_path / "shop" / "broken.py").write_text("import sys; sys.started[0]()\nraise LookupError('no')")

    for _ in range(2):
        with pytest.raises(LookupError, match="no"):
            importlib.import_module("shop.broken")

    assert caplog.records == []


def test_reloaded_module_is_traced_again(application: Any, name: Any) -> None:
    """A development server's reload makes new functions, and they are traced, once each."""
    name("shop.handlers:handle")
    module = importlib.reload(handlers())

    module.handle(7)
    assert len(application.take()) == 1


METHODS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "method": ("Orders.add", lambda module: module.Orders().add(7), "Orders.add"),
    "static": ("Orders.price", lambda module: module.Orders().price(7), "Orders.price"),
    "static on the class": ("Orders.price", lambda module: module.Orders.price(7), "Orders.price"),
    "class": ("Orders.make", lambda module: module.Late.make(7)[1], "Orders.make"),
    "nested": ("Orders.Archive.keep", lambda module: module.Orders.Archive().keep(7), "Orders.Archive.keep"),
    "inherited": ("Late.add", lambda module: module.Late().add(7), "Late.add"),
}


@pytest.mark.parametrize(("path", "call", "expected"), METHODS.values(), ids=METHODS.keys())
def test_method_is_traced(application: Any, name: Any, path: str, call: Any, expected: str) -> None:
    """Methods of every kind can be named, and are called as before."""
    name(f"shop.handlers:{path}")

    assert call(handlers()) == 7
    assert [span.name for span in application.take()] == [expected]


def test_inherited_method_is_traced_only_where_it_was_named(application: Any, name: Any) -> None:
    """Naming a subclass's method leaves its base class alone."""
    name("shop.handlers:Late.add")
    handlers().Orders().add(7)

    assert application.take() == []


def test_function_is_traced_under_its_other_names_as_well(application: Any, name: Any) -> None:
    """A module's own tables of handlers hold the traced function, for they are how it is called."""
    name("shop.handlers:handle")
    module = handlers()

    assert module.shipped is module.TABLE["orders"] is module.LIST[1] is module.handle
    assert module.TABLE["other"] is module.LIST[0] is len


MISTAKES: dict[str, tuple[str, str]] = {
    "a letter": (
        "shop.handlers:handel",
        "module shop.handlers ({file}) has no handel; did you mean handle?; it is not traced",
    ),
    "no likeness": (
        "shop.handlers:xyz",
        "module shop.handlers ({file}) has no xyz; it has Late, Orders, ahandle, handle, shipped; "
        "it is not traced",
    ),
    "a method": (
        "shop.handlers:Orders.prise",
        "class Orders has no prise; did you mean price?; it is not traced",
    ),
    "a class": (
        "shop.handlers:Order.price",
        "module shop.handlers ({file}) has no Order; did you mean Orders?; it is not traced",
    ),
    "not a function": (
        "shop.handlers:Orders",
        "Orders in module shop.handlers ({file}) is a class, not a function; it is not traced",
    ),
    "a value": (
        "shop.handlers:Orders.total",
        "total in class Orders is a int, not a function; it is not traced",
    ),
}


@pytest.mark.parametrize(("call", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_misspelt_function_is_one_warning(name: Any, caplog: Any, call: str, said: str) -> None:
    """A function that is not there is one warning with the setting and what was found, and no harm."""
    named = name("shop.handlers:handle", call)
    module = handlers()
    named.settle()
    named.settle()

    assert module.handle(7) == 7
    assert [(record.name, record.levelno) for record in caplog.records] == [("kaspan", logging.WARNING)]
    assert caplog.messages == [
        f"kaspan: interceptor.functions[1].call is {call}, but {said.format(file=module.__file__)}"
    ]


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("shopp.handlers:handle", "shopp"),
        ("shop.handler:handle", "shop.handler"),
        ("shop.handlers.more:handle", "shop.handlers.more"),
    ],
)
def test_misspelt_module_is_one_warning(name: Any, caplog: Any, call: str, missing: str) -> None:
    """A module that cannot be found when the first client is used is one warning."""
    named = name(call)
    handlers()
    assert caplog.messages == []
    named.settle()
    named.settle()

    assert caplog.messages == [
        f"kaspan: interceptor.functions[0].call is {call}, but module {missing} is not found"
    ]


def test_module_that_may_still_be_imported_is_no_mistake(application: Any, name: Any, caplog: Any) -> None:
    """A module that can be found, and has not been imported when the first client is used, is waited for."""
    named = name("shop.handlers:handle")
    named.settle()
    handlers().handle(7)

    assert caplog.messages == []
    assert len(application.take()) == 1


def test_first_use_of_a_client_settles_what_is_left(application: Any, monkeypatch: Any) -> None:
    """A producer's first send and a consumer's first poll are when the program is complete."""
    settled: list[str] = []
    monkeypatch.setattr(application.tracing, "on_client", lambda: settled.append("now"))
    producer, consumer = application.producer(), application.consumer()
    assert settled == []
    producer.send("orders", b"value")
    producer.send("orders", b"value")
    assert settled == ["now"]
    consumer.poll()
    consumer.poll()
    assert settled == ["now", "now"]


@pytest.mark.parametrize(
    "call",
    [
        "handle",
        "shop.handlers",
        "shop.handlers:",
        ":handle",
        "shop-handlers:handle",
        "shop:a b",
        "shop:handle()",
    ],
)
def test_call_of_another_form_is_refused(call: str) -> None:
    """What cannot be a module and a function is a mistake in the settings."""
    with pytest.raises(ConfigError, match="the rule is a module and a function in it, such as"):
        load(environ={}, arguments={"interceptor.functions": f'[{{call: "{call}"}}]'})


SCRIPT = """
import sys
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher

def parse(record):
    return int(record.value)

class Shelf:
    @staticmethod
    def put(number):
        return number

if __name__ == "__main__":
    record = make_record(fetcher.ConsumerRecord, value=b"7")
    for record in UnconnectedConsumer([record]):
        print(Shelf.put(parse(record)))
"""
PROGRAMS: dict[str, tuple[str, list[str], str]] = {
    "a script by its name": ("worker.py", ["modules/worker.py"], "worker"),
    "a script as __main__": ("worker.py", ["modules/worker.py"], "__main__"),
    "a script in a package": ("depot/worker.py", ["modules/depot/worker.py"], "depot.worker"),
    "a module": ("depot/worker.py", ["-m", "depot.worker"], "depot.worker"),
    "a package": ("depot/__main__.py", ["-m", "depot"], "depot.__main__"),
}


@pytest.mark.parametrize(("file", "command", "module"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_functions_of_the_program_itself_are_traced(
    programs: ProgramRunner, file: str, command: list[str], module: str
) -> None:
    """Functions in the file that is run are found, as __main__ or as the module that the file is."""
    programs.module(file, SCRIPT)
    done = programs.run(
        *programs.kaspan_run(),
        *command,
        KASPAN_INTERCEPTOR__FUNCTIONS=(
            f'[{{call: "{module}:parse"}}, {{call: "{module}:Shelf.put", name: put}}]'
        ),
    )

    assert outcome(done) == (0, "7\n", "")
    parsed, put, processed = RingReader(programs.ring_dir).take()
    assert [span.name for span in (parsed, put, processed)] == ["parse", "put", "process orders"]
    assert parsed.parent_id == put.parent_id == processed.id


def test_misspelt_function_of_the_program_is_one_warning(programs: ProgramRunner) -> None:
    """The application runs as it would, with one line that says what is wrong."""
    programs.module("worker.py", SCRIPT)
    done = programs.run(
        *(*programs.kaspan_run(), "modules/worker.py"),
        KASPAN_INTERCEPTOR__FUNCTIONS='[{call: "worker:pars"}, {call: "wroker:parse"}]',
    )

    assert (done.returncode, done.stdout) == (0, "7\n")
    assert done.stderr.splitlines() == [
        "kaspan: interceptor.functions[0].call is worker:pars, but module __main__ "
        f"({programs.directory}/modules/worker.py) has no pars; did you mean parse?; it is not traced",
        "kaspan: interceptor.functions[1].call is wroker:parse, but module wroker is not found",
    ]


SPAWN = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher
import shop.handlers

if __name__ == "__main__":
    headers = [("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]
    for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord, headers=headers)]):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("%s")) as pool:
            print(pool.submit(shop.handlers.handle, record).result().offset)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_function_in_a_pool_of_processes_is_in_its_records_trace(
    programs: ProgramRunner, method: str
) -> None:
    """A traced function goes to another process by its name, and the record takes its trace along."""
    programs.module("shop/__init__.py", "")
    programs.module("shop/handlers.py", "import kafka\n" + HANDLERS)
    programs.module("worker.py", SPAWN % method)
    done = programs.run(
        *(*programs.kaspan_run(), "modules/worker.py"),
        KASPAN_INTERCEPTOR__FUNCTIONS='[{call: "shop.handlers:handle"}]',
    )

    assert outcome(done) == (0, "0\n", "")
    spans = {span.name: span for span in RingReader(programs.ring_dir).take()}
    assert spans.keys() == {"handle", "process orders"}
    assert {span.trace_id for span in spans.values()} == {"463ac35c9f6413ad48485a3953bb6124"}


CHILDREN = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher

def parse(record):
    return record.offset

def work(record):
    return parse(record)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    headers = [("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]
    for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord, headers=headers)]):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            print(pool.submit(parse, record).result(), pool.submit(work, record).result())
        for target in (parse, work):
            process = context.Process(target=target, args=(record,))
            process.start()
            process.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_function_of_the_program_is_traced_from_a_childs_first_call_on(
    programs: ProgramRunner, method: str
) -> None:
    """A child that has no client of its own traces the functions of the file that is run, called by others
    in it as well.
    """
    programs.module("worker.py", CHILDREN)
    done = programs.run(
        *(*programs.kaspan_run(), "modules/worker.py", method),
        KASPAN_INTERCEPTOR__FUNCTIONS='[{call: "worker:parse"}]',
    )

    assert outcome(done) == (0, "0 0\n", "")
    assert [span.name for span in RingReader(programs.ring_dir).take()].count("parse") == 4


BEFORE = """
import shop.handlers
from shop.handlers import handle
from shop.other import dispatch
HELD = type("Registry", (), {})()
HELD.handlers = [handle] if %r else []
from support.kafka_clients import UnconnectedConsumer, make_record
import kafka
from kafka.consumer import fetcher

for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord)]):
    handle(record)
    dispatch(record)
"""
OTHER = """
from shop.handlers import handle
TABLE = {"orders": handle}
def dispatch(record):
    handle(record)
    TABLE["orders"](record)
"""


@pytest.mark.parametrize("is_held", [False, True])
def test_function_that_was_imported_before_kafka_is_traced(programs: ProgramRunner, is_held: bool) -> None:
    """Modules that have imported a named function before kafka was, as in the order of the alphabet, call
    the traced one; who keeps it elsewhere is told of.
    """
    programs.module("shop/__init__.py", "")
    programs.module("shop/handlers.py", HANDLERS)
    programs.module("shop/other.py", OTHER)
    programs.module("worker.py", BEFORE % is_held)
    done = programs.run(
        *(*programs.kaspan_run(), "modules/worker.py"),
        KASPAN_INTERCEPTOR__FUNCTIONS='[{call: "shop.handlers:handle"}]',
    )

    told = (
        "kaspan: interceptor.functions[0].call is shop.handlers:handle, but a list got it before kafka "
        "was imported; calls from there are not traced (put @traced of kaspan.interceptor on the function)\n"
    )
    assert outcome(done) == (0, "", told if is_held else "")
    assert [span.name for span in RingReader(programs.ring_dir).take()] == ["handle"] * 3 + ["process orders"]


def test_named_function_that_is_never_called_is_told_of(programs: ProgramRunner) -> None:
    """At the end of a process that uses Kafka one line names the functions that it has not called."""
    programs.module("shop/__init__.py", "")
    programs.module("shop/handlers.py", HANDLERS)
    programs.module("worker.py", "import kafka\nimport shop.handlers\n" + SEND + "shop.handlers.handle(7)\n")
    done = programs.run(
        *(*programs.kaspan_run(), "modules/worker.py"),
        KASPAN_INTERCEPTOR__FUNCTIONS='[{call: "shop.handlers:handle"}, {call: "shop.handlers:Orders.add"}]',
    )

    said = "kaspan: these functions have no span, since they were never called by their names: "
    assert outcome(done) == (0, "", said + "shop.handlers:Orders.add\n")


def test_names_of_other_modules_are_not_looked_at(name: Any) -> None:
    """Modules that nobody named are found by the other finders as if ours were not there."""
    name("shop.handlers:handle")
    finder: Any = sys.meta_path[0]

    assert isinstance(finder, Imports)
    assert finder.find_spec("json") is None
    assert isinstance(importlib.import_module("shop"), ModuleType)
