"""Switching tracing on: by the settings in force, once, and never to the application's harm."""

from __future__ import annotations

import sys

import pytest

from kaspan.interceptor.bootstrap.program import program_name
from support.programs import SEND, TRACED, ProgramRunner, outcome
from support.ring_reader import RingReader

PROGRAMS = {
    "a script": ("/srv/shop/till.py", "till"),
    "a command": ("/usr/bin/gunicorn", "gunicorn"),
    "a package run by -m": ("/srv/shop/till/__main__.py", "till"),
    "-c": ("-c", "python"),
    "-m not yet resolved": ("-m", "python"),
    "a prompt": ("", "python"),
    "a name with points": ("/srv/till.v2.py", "till.v2"),
}


@pytest.mark.parametrize(("argument", "expected"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_service_is_called_like_the_program(
    monkeypatch: pytest.MonkeyPatch, argument: str, expected: str
) -> None:
    """Without a name for the service it is the program's, without folders and .py."""
    monkeypatch.setattr(sys, "argv", [argument, "--port", "80"])

    assert program_name() == expected


def test_service_has_a_name_where_there_is_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded interpreter has no sys.argv, and still a service."""
    monkeypatch.delattr(sys, "argv")

    assert program_name() == "python"


RARELY_NEEDED = (
    *("kaspan.interceptor." + name for name in ("calls", "functions", "named", "peer", "reporter", "sdk")),
    *("opentelemetry.sdk", "opentelemetry.instrumentation", "yaml"),
)


def test_import_of_kafka_does_not_bring_in_what_few_applications_need(programs: ProgramRunner) -> None:
    """Functions as spans, the peer, OpenTelemetry's SDK, the HTTP reporter and YAML come when wanted."""
    code = f"import kafka, sys; print([name for name in {RARELY_NEEDED!r} if name in sys.modules])"

    assert outcome(programs.traced(code)) == (0, "[]\n", "")


ORDERS = {
    "before kafka": "from kaspan.interceptor import traced\nimport kafka\n",
    "after kafka": "import kafka\nfrom kaspan.interceptor import traced\n",
}


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS.keys())
def test_decorated_function_is_traced_in_whatever_order_modules_come(
    programs: ProgramRunner, imports: str
) -> None:
    """A call of a decorated function is a span, wherever the application imports the decorator."""
    code = f"{imports}@traced('parse')\ndef parse(): pass\nparse()"

    assert outcome(programs.traced(code)) == (0, "", "")

    assert [span.name for span in RingReader(programs.ring_dir).take()] == ["parse"]


NAMES = {
    "ours": ({"KASPAN_SERVICE": "ours"}, "ours"),
    "OpenTelemetry's": ({"KASPAN_SERVICE": None, "OTEL_SERVICE_NAME": "theirs"}, "theirs"),
    "ours before OpenTelemetry's": ({"KASPAN_SERVICE": "ours", "OTEL_SERVICE_NAME": "theirs"}, "ours"),
}


@pytest.mark.parametrize(("variables", "expected"), NAMES.values(), ids=NAMES.keys())
def test_service_is_named_by_the_environment(
    programs: ProgramRunner, variables: dict[str, str | None], expected: str
) -> None:
    """KASPAN_SERVICE, else OTEL_SERVICE_NAME, is on every span."""
    words = programs.kaspan_run()
    done = programs.run(words[0], "run", words[-1], "-c", SEND, **variables)

    assert outcome(done) == (0, "", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == expected


def test_settings_of_the_file_are_in_force(programs: ProgramRunner) -> None:
    """What the YAML file says, read from where the user started, holds in the application."""
    (programs.directory / "kaspan.yaml").write_text("interceptor: {remote_service: 'kafka/{topic}'}\n")
    code = f"import os; os.chdir('/')\n{SEND}"

    assert outcome(programs.traced(code, KASPAN_CONFIG="kaspan.yaml")) == (0, "", "")

    (span,) = RingReader(programs.ring_dir).take()
    assert span.remote_endpoint is not None
    assert span.remote_endpoint.service_name == "kafka/orders"


BAD = {
    "a missing file": ({"KASPAN_CONFIG": "/no/such/file.yaml"}, "/no/such/file.yaml"),
    "a wrong value": ({"KASPAN_INTERCEPTOR__SAMPLING__RATE": "-1"}, "interceptor.sampling.rate"),
}


@pytest.mark.parametrize(("variables", "said"), BAD.values(), ids=BAD.keys())
def test_bad_settings_are_one_warning_and_no_tracing(
    programs: ProgramRunner, variables: dict[str, str], said: str
) -> None:
    """The application runs untraced, and one warning names the mistake."""
    done = programs.traced(TRACED, **variables)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("kaspan:") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


MISSING = {
    "KafkaProducer": "import kafka.producer.kafka as k; del k.KafkaProducer",
    "KafkaConsumer": "import kafka.consumer.group as g; del g.KafkaConsumer",
    "the record": "import kafka.consumer.fetcher as f; del f.ConsumerRecord",
}


@pytest.mark.parametrize("change", MISSING.values(), ids=MISSING.keys())
def test_kafka_python_of_another_shape_is_one_warning(programs: ProgramRunner, change: str) -> None:
    """A kafka-python in which a patch point is missing runs on, with one warning and no traceback."""
    twice = "from kaspan.interceptor.bootstrap.activation import activate; activate(); activate()"
    code = f"import kafka; {change}\n{twice}"
    done = programs.plain(code)

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kaspan: ")


@pytest.mark.parametrize("level", ["logging.ERROR", "logging.CRITICAL"])
def test_warnings_go_the_way_of_the_applications_logging(programs: ProgramRunner, level: str) -> None:
    """An application that logs errors only gets no warnings of kaspan's."""
    code = f"import logging; logging.basicConfig(level={level})\n{TRACED}"

    assert outcome(programs.traced(code, KASPAN_INTERCEPTOR__ENABLED="x")) == (0, "False\n", "")


MISSING = {
    "KafkaConsumer": ("import kafka.consumer.group as m; del m.KafkaConsumer", "True False"),
    "KafkaProducer": ("import kafka.producer.kafka as m; del m.KafkaProducer", "False True"),
    "ConsumerRecord": ("import kafka.consumer.fetcher as m; del m.ConsumerRecord", "True False"),
}


@pytest.mark.parametrize(("change", "expected"), MISSING.values(), ids=MISSING.keys())
def test_missing_patch_point_disables_only_its_feature(
    programs: ProgramRunner, change: str, expected: str
) -> None:
    """A kafka-python without a consumer that we know is traced as a producer, and the other way round."""
    code = (
        f"import kafka; {change}\nfrom kaspan.interceptor.bootstrap.activation import activate\nactivate()\n"
        "print(*(hasattr(m, '__wrapped__') for m in (kafka.KafkaProducer.send, kafka.KafkaConsumer.poll)))"
    )

    assert programs.plain(code).stdout == f"{expected}\n"


def test_class_that_another_agent_has_patched_is_traced_all_the_same(programs: ProgramRunner) -> None:
    """A wrapper of somebody else's around send() is not taken for ours, and stays below ours."""
    code = """
import functools, kafka
plain = kafka.KafkaProducer.send
@functools.wraps(plain)
def theirs(*args, **kwargs): return plain(*args, **kwargs)
kafka.KafkaProducer.send = theirs
from kaspan.interceptor.bootstrap.activation import activate
activate()
print(kafka.KafkaProducer.send is not theirs, kafka.KafkaProducer.send.__wrapped__ is theirs)
"""

    assert programs.plain(code).stdout == "True True\n"
