"""Tracing starts when the application imports kafka, in whatever way, and costs nothing before."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from support.programs import FIRST_CLIENT, INJECT, SEND, TRACED, ProgramRunner, outcome
from support.ring_reader import RingReader, rings

ALL_MODULES = "import sys; print(*sorted(sys.modules))"


def test_send_of_an_unchanged_application_is_a_span(programs: ProgramRunner) -> None:
    """Under kaspan run an application that never heard of kaspan leaves its spans in a ring."""
    done = programs.traced(SEND)

    assert outcome(done) == (0, "", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert (span.name, span.kind) == ("send orders", "PRODUCER")
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "shop"


def test_interpreter_without_kafka_loads_nothing_of_kaspans(programs: ProgramRunner) -> None:
    """Until kafka is imported nothing but our sitecustomize is there: no package, not even of the library."""
    plain, traced = programs.plain(ALL_MODULES), programs.traced(ALL_MODULES)

    assert set(traced.stdout.split()) - set(plain.stdout.split()) <= {"sitecustomize"}
    assert traced.stderr == ""


def test_interpreter_that_imports_others_loads_nothing_of_kaspans(programs: ProgramRunner) -> None:
    """Other packages, and names that only look like kafka, do not start tracing."""
    programs.module("kafkaesque.py", "")
    code = (
        "import json, logging, kafkaesque, importlib.util; importlib.util.find_spec('kafka');" + ALL_MODULES
    )
    modules = programs.traced(code).stdout.split()

    assert "kafkaesque" in modules
    assert not {name.partition(".")[0] for name in modules} & {"kaspan", "msgspec", "opentelemetry", "yaml"}


IMPORTS = {
    "import kafka": "import kafka",
    "from kafka": "from kafka import KafkaProducer, KafkaConsumer",
    "a submodule first": "import kafka.producer",
    "a deep submodule first": "from kafka.consumer.group import KafkaConsumer",
    "errors first": "import kafka.errors",
    "by name": "import importlib; importlib.import_module('kafka.admin')",
    "by __import__": "__import__('kafka.structs')",
    "twice": "import kafka, kafka.producer\nimport kafka",
    "in a thread": (
        "import threading\nt = threading.Thread(target=__import__, args=('kafka',)); t.start(); t.join()"
    ),
    "reloaded": "import importlib, kafka; importlib.reload(kafka)",
    "a spec asked for first": "import importlib.util; importlib.util.find_spec('kafka.producer')",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS.keys())
def test_every_way_of_importing_kafka_starts_tracing_once(programs: ProgramRunner, statement: str) -> None:
    """However kafka is imported its classes are patched, once, when a client is made; and nobody is told."""
    code = f"{statement}\nimport kafka; {FIRST_CLIENT}\nP, C = kafka.KafkaProducer, kafka.KafkaConsumer\n" + (
        "print([hasattr(m, '__wrapped__') and not hasattr(m.__wrapped__, '__wrapped__')"
        " for m in (P.send, C.poll, C.__next__, C.__iter__, C.close)])"
    )

    assert outcome(programs.traced(code)) == (0, f"{[True] * 5}\n", "")


def test_kafka_that_was_imported_before_is_traced(programs: ProgramRunner) -> None:
    """Where kafka came in before our hook, as from a .pth file, the clients made after it are traced."""
    code = f"import runpy, kafka; runpy.run_path({str(INJECT / 'sitecustomize.py')!r}); {TRACED}"

    assert outcome(programs.plain(code)) == (0, "True\n", "")


def test_hook_that_runs_twice_starts_tracing_once(programs: ProgramRunner) -> None:
    """In a venv of a venv sitecustomize runs twice; one finder is there, and one patch."""
    code = (
        f"import runpy, sys; runpy.run_path({str(INJECT / 'sitecustomize.py')!r});"
        "print(sum(getattr(f, '__name__', '') == 'KafkaFinder' for f in sys.meta_path));"
        f"import kafka; {FIRST_CLIENT}; print(hasattr(kafka.KafkaProducer.send.__wrapped__, '__wrapped__'))"
    )

    assert outcome(programs.traced(code)) == (0, "1\nFalse\n", "")


def test_kafka_looks_as_if_no_hook_had_been_there(programs: ProgramRunner) -> None:
    """Loader, spec, file, source and resources of kafka are its own."""
    code = (
        "import kafka, inspect, importlib.resources as r, pkgutil\n"
        "print(type(kafka.__loader__).__name__, type(kafka.__spec__.loader).__name__, kafka.__file__)\n"
        "print(len(inspect.getsource(kafka)), kafka.__spec__.origin, kafka.__path__)\n"
        "print((r.files('kafka') / '__init__.py').is_file())\n"
        "print(len(list(pkgutil.iter_modules(kafka.__path__))))\n"
        "print(pkgutil.get_data('kafka', '__init__.py') is not None)"
    )

    assert outcome(programs.traced(code)) == outcome(programs.plain(code))


SITECUSTOMIZE = {
    "that prints": "import sys; print('theirs', __name__, __file__.endswith('modules/sitecustomize.py'))",
    "that imports kafka": "import kafka; print('theirs')",
    "that raises": "raise ValueError('theirs')",
    "that misses a module": "import no_such_module",
    "that is no Python": "def :",
    "that exits": "import sys; print('bye'); sys.exit(3)",
    "that changes the path": "import sys; sys.path.append('/added'); print('theirs')",
    "that is looked at later": "MARK = 7",
}


@pytest.mark.parametrize("theirs", SITECUSTOMIZE.values(), ids=SITECUSTOMIZE.keys())
def test_sitecustomize_of_others_runs_as_if_ours_were_not_there(programs: ProgramRunner, theirs: str) -> None:
    """The next sitecustomize on the path runs, is the module of that name, and its errors are its own."""
    programs.module("sitecustomize.py", theirs)
    code = "import sys, sitecustomize as s; print(getattr(s, 'MARK', 0), s.__file__, '/added' in sys.path)"

    plain, traced = programs.plain(code), programs.traced(code)

    assert traced.returncode == plain.returncode
    assert traced.stdout.replace(str(INJECT), "") == plain.stdout
    assert traced.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "theirs", [text for text in SITECUSTOMIZE.values() if "exit" not in text], ids=lambda text: text[:20]
)
def test_sitecustomize_of_others_does_not_stop_tracing(programs: ProgramRunner, theirs: str) -> None:
    """Whatever it does, kafka is traced."""
    programs.module("sitecustomize.py", theirs)

    assert programs.traced(TRACED).stdout.splitlines()[-1] == "True"


KAFKAS = {
    "a package that raises": ("kafka/__init__.py", "raise ImportError('no librdkafka')"),
    "a package that raises later": ("kafka/__init__.py", "import kafka.gone"),
    "a package with a syntax error": ("kafka/__init__.py", "def :"),
    "a module of the application's own": ("kafka.py", "KafkaProducer = None; print('mine')"),
    "an empty package": ("kafka/__init__.py", ""),
    "a namespace": ("kafka/producer.py", "print('mine')"),
    "a package that has a producer": ("kafka/producer/kafka.py", "print('mine')"),
}


@pytest.mark.parametrize(("name", "content"), KAFKAS.values(), ids=KAFKAS.keys())
def test_another_kafka_is_imported_as_without_kaspan(
    programs: ProgramRunner, name: str, content: str
) -> None:
    """What is called kafka and is not kafka-python works or fails as it does, with one warning at most."""
    programs.module(name, content)
    code = (
        "import sys\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        import kafka\n"
        "        print(kafka.__name__, kafka.__spec__.loader.__class__.__name__)\n"
        "    except Exception as error:\n"
        "        print(type(error), error, 'kafka' in sys.modules)\n"
        "from concurrent import futures; print(futures.__name__)"
    )

    plain, traced = programs.plain(code), programs.traced(code)

    assert outcome(traced)[:2] == outcome(plain)[:2]
    assert traced.stderr.count("kaspan:") <= 1
    assert "Traceback" not in traced.stderr


OWN = {
    "a producer that is no package": ("kafka/producer.py",),
    "all of the clients": ("kafka/producer/kafka.py", "kafka/consumer/group.py", "kafka/consumer/fetcher.py"),
}


@pytest.mark.parametrize("files", OWN.values(), ids=OWN.keys())
@pytest.mark.parametrize("variables", [{}, {"KASPAN_INTERCEPTOR__ENABLED": "true"}], ids=["", "at once"])
@pytest.mark.parametrize("statement", ["from kafka import settings", "import kafka.settings"])
def test_applications_own_package_called_kafka_has_no_code_run(
    programs: ProgramRunner, files: tuple[str, ...], variables: dict[str, str], statement: str
) -> None:
    """Of a package called kafka only that is executed which the application imports; and nobody is told."""
    for name in files:
        programs.module(name, "print('executed')\nclass KafkaProducer: pass\nclass KafkaConsumer: pass")
    programs.module("kafka/__init__.py", "")
    programs.module("kafka/settings.py", "BROKERS = 'here'")
    loaded = "sorted(name for name in sys.modules if name.startswith('kafka'))"
    code = f"{statement}\nimport sys; print(*{loaded})"

    assert outcome(programs.traced(code, **variables)) == (0, "kafka kafka.settings\n", "")


def test_applications_own_client_called_kafkas_is_left_alone(programs: ProgramRunner) -> None:
    """A class of the application's own is not patched, whatever its name and its module's."""
    for name in ("kafka/__init__.py", "kafka/producer/__init__.py"):
        programs.module(name, "from kafka.producer.kafka import KafkaProducer")
    programs.module("kafka/producer/kafka.py", "class KafkaProducer:\n    def send(self): pass")
    code = "import kafka; kafka.KafkaProducer(); print(*sorted(vars(kafka.KafkaProducer)))"
    plain, traced = programs.plain(code), programs.traced(code)

    assert "send" in plain.stdout
    assert outcome(traced) == outcome(plain)


def test_missing_kafka_is_missed_as_without_kaspan(programs: ProgramRunner) -> None:
    """Without kafka installed, the application gets the usual ModuleNotFoundError."""
    code = (
        "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"
        "try:\n    import kafka\n"
        "except ModuleNotFoundError as error:\n    print(error, error.name, error.path)"
    )

    plain, traced = programs.plain(code), programs.traced(code)

    assert outcome(traced) == outcome(plain)
    assert "No module named 'kafka'" in plain.stdout


def test_interpreter_without_kaspan_says_so_and_runs_on(programs: ProgramRunner) -> None:
    """Where kaspan is not installed for the command's Python, one line says what to do."""
    programs.module("kaspan/__init__.py", "")
    done = programs.traced(TRACED)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kaspan: this process is not traced")
    assert sys.executable in done.stderr
    assert "install it there as well" in done.stderr


def old_pythons() -> set[str]:
    """Name the Pythons on this machine that are too old for kaspan: usually none, with pyenv some.

    Their names say so: to start them would take every run of any test a second.
    """
    on_path = (shutil.which(f"python{version}") for version in ("2.7", "3.6", "3.7", "3.8", "3.9"))
    of_pyenv = Path.home().glob(".pyenv/versions/*/bin/python")
    return {
        *filter(None, on_path),
        *(str(python) for python in of_pyenv if re.search(r"(?<![\d.])(2\.|3\.\d(?!\d))", python.parts[-3])),
    }


@pytest.mark.parametrize("old", sorted(old_pythons()))
def test_python_that_is_too_old_runs_as_without_kaspan(programs: ProgramRunner, old: str) -> None:
    """Its next sitecustomize runs, and one line says that a newer one is needed once kafka is imported."""
    if programs.run(old, "-c", "import sys; sys.exit(sys.version_info >= (3, 10))").returncode:
        pytest.skip(f"{old} does not start, or is new enough")
    programs.module("sitecustomize.py", "print('theirs')")
    programs.module("kafka/__init__.py", "print('mine')")
    path = f"{INJECT}:{programs.environment['PYTHONPATH']}"
    done = programs.run(old, "-c", "import json, kafka; import kafka; print('done')", PYTHONPATH=path)

    assert (done.returncode, done.stdout) == (0, "theirs\nmine\ndone\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"kaspan: this process is not traced: {old} is Python ")
    assert done.stderr.endswith(", and kaspan needs 3.10 or newer\n")


def test_python_that_calls_itself_old_is_not_told_to_install_kaspan(programs: ProgramRunner) -> None:
    """A Python that is too old for kaspan is not told to install it."""
    hook = str(INJECT / "sitecustomize.py")
    code = f"import runpy, sys; sys.version_info = (3, 9, 18); runpy.run_path({hook!r}); {TRACED}"
    done = programs.plain(code)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert "install it" not in done.stderr
    assert "needs 3.10 or newer" in done.stderr


OFF = {
    "interceptor.enabled": {"KASPAN_INTERCEPTOR__ENABLED": "false"},
    "OTEL_SDK_DISABLED": {"OTEL_SDK_DISABLED": "true"},
}


@pytest.mark.parametrize("variables", OFF.values(), ids=OFF.keys())
def test_tracing_that_is_switched_off_is_off_without_a_word(
    programs: ProgramRunner, variables: dict[str, str]
) -> None:
    """Switched off, kafka-python is not patched, and no ring is made."""
    assert outcome(programs.traced(TRACED, **variables)) == (0, "False\n", "")
    assert outcome(programs.traced(SEND, **variables)) == (0, "", "")
    assert rings(programs.ring_dir) == []


def test_bad_configuration_is_one_warning_and_no_tracing(programs: ProgramRunner) -> None:
    """An application never fails for a setting: it is told once, and runs untraced."""
    done = programs.traced(
        f"{TRACED}\nimport kafka.producer, importlib; importlib.reload(kafka)",
        KASPAN_INTERCEPTOR__SAMPLING__RATE="7",
    )

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("kaspan:") == 1
    assert "KASPAN_INTERCEPTOR__SAMPLING__RATE" in done.stderr
    assert "Traceback" not in done.stderr


FOREIGN = {
    "a Dockerfile's variable": {"KASPAN_VERSION": "0.1.0"},
    "propagators of another tracer": {"OTEL_PROPAGATORS": "jaeger,b3"},
    "a sampler of another tracer": {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
    "a setting of a newer agent": {"KASPAN_AGENT__NEW": "1"},
    "a setting of a newer interceptor": {"KASPAN_INTERCEPTOR__NEW": "1"},
}


@pytest.mark.parametrize("variables", FOREIGN.values(), ids=FOREIGN.keys())
def test_setting_that_is_not_the_interceptors_is_one_warning(
    programs: ProgramRunner, variables: dict[str, str]
) -> None:
    """What was set for somebody else does not cost the traces: one warning names it."""
    done = programs.traced(
        f"{TRACED}\nimport kafka.producer, importlib; importlib.reload(kafka)", **variables
    )

    assert (done.returncode, done.stdout) == (0, "True\n")
    assert done.stderr.count("kaspan:") == 1
    assert next(iter(variables)) in done.stderr


def test_service_without_a_name_is_the_programs(programs: ProgramRunner) -> None:
    """Without --service the service is called like the program."""
    script = programs.module("till.py", SEND)
    done = programs.run(sys.executable, script, PYTHONPATH=f"{INJECT}:{programs.environment['PYTHONPATH']}")

    assert outcome(done) == (0, "", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "till"
