"""Until a client is made, importing kafka costs next to nothing of kaspan and changes nothing that shows."""

from __future__ import annotations

import sys

import pytest

from support.programs import FIRST_CLIENT, SEND, ProgramRunner, outcome
from support.ring_reader import RingReader

LOADED = "sorted({name.partition('.')[0] for name in sys.modules} & {'msgspec', 'opentelemetry', 'yaml'})"


def test_import_of_kafka_loads_what_tracing_needs_only_at_the_first_client(programs: ProgramRunner) -> None:
    """A process that imports kafka and makes no client loads neither the settings nor OpenTelemetry's API."""
    code = f"import sys, kafka; print({LOADED}); {FIRST_CLIENT}; print({LOADED})"

    assert outcome(programs.traced(code)) == (0, "[]\n['msgspec', 'opentelemetry']\n", "")


def test_process_without_a_client_is_not_told_of_bad_settings(programs: ProgramRunner) -> None:
    """What is wrong with the settings is said when they are needed."""
    code = "import kafka; print('done')"

    assert outcome(programs.traced(code, KASPAN_INTERCEPTOR__COLOUR="red")) == (0, "done\n", "")


def test_environment_at_the_import_of_kafka_is_what_counts(programs: ProgramRunner) -> None:
    """An application that changes or clears its environment afterwards is traced as it was started."""
    code = f"import kafka, os; os.environ.clear(); os.environ['KASPAN_SERVICE'] = 'late'\n{SEND}"

    assert outcome(programs.traced(code)) == (0, "", "")

    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "shop"


def test_record_class_that_was_imported_before_the_first_client_is_that_of_the_records(
    programs: ProgramRunner,
) -> None:
    """The application's own records, and its comparisons of types, are of the class that consumers use."""
    code = (
        "import kafka, pickle\nfrom kafka.consumer.fetcher import ConsumerRecord as Record\n"
        f"{FIRST_CLIENT}\n"
        "import kafka.consumer.fetcher as f\n"
        "mine = Record(*range(len(Record._fields)))\n"
        "print(Record is f.ConsumerRecord, pickle.loads(pickle.dumps(mine)) == mine)"
    )

    assert outcome(programs.traced(code)) == (0, "True True\n", "")


def test_yaml_file_is_read_at_the_import_and_counts_at_the_first_client(programs: ProgramRunner) -> None:
    """Its settings are in force though it cannot be read any more, and nothing is loaded before."""
    path = programs.directory / "kaspan.yaml"
    path.write_text("service: yaml\ninterceptor: {remote_service: 'kafka/{topic}'}\n")
    code = f"import kafka, os, sys; print({LOADED}); os.remove({str(path)!r}); os.chdir('/')\n{SEND}"
    done = programs.run(
        *programs.kaspan_run()[:2], "--", sys.executable, "-c", code, KASPAN_CONFIG="kaspan.yaml"
    )

    assert outcome(done) == (0, "[]\n", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.remote_endpoint is not None
    assert (span.local_endpoint.service_name, span.remote_endpoint.service_name) == ("yaml", "kafka/orders")


FILES = {
    "functions": "interceptor: {functions: []}",
    "disabled": "interceptor: {enabled: false}",
    "functions in escapes": '"interceptor": {"\\x66unctions": []}',
    "empty": "",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_file_that_may_name_functions_or_disable_is_read_at_once(programs: ProgramRunner, text: str) -> None:
    """What has to be known when modules are imported is known then."""
    path = programs.directory / "kaspan.yaml"
    path.write_text(text)
    code = "import kafka, sys; print('msgspec' in sys.modules)"

    assert outcome(programs.traced(code, KASPAN_CONFIG=str(path))) == (0, "True\n", "")


AT_ONCE = {
    "disabled by the whole section's variable": {"KASPAN_INTERCEPTOR": "{enabled: false}"},
    "disabled": {"KASPAN_INTERCEPTOR__ENABLED": "false"},
    "disabled by OpenTelemetry's variable": {"OTEL_SDK_DISABLED": "true"},
}


@pytest.mark.parametrize("variables", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_kafka_is_left_as_it_is_where_tracing_is_disabled(
    programs: ProgramRunner, variables: dict[str, str]
) -> None:
    """Neither the classes nor the record know of kaspan, before or after the first client."""
    look = (
        "print(hasattr(kafka.KafkaProducer.__init__, '__wrapped__'),"
        " hasattr(kafka.consumer.fetcher.ConsumerRecord, 'kaspan_span'));"
    )
    code = f"import kafka, kafka.consumer.fetcher; {look}{FIRST_CLIENT}; {look}"

    assert outcome(programs.traced(code, **variables)) == (0, "False False\n" * 2, "")


def test_first_client_is_made_as_without_kaspan(programs: ProgramRunner) -> None:
    """A class of the application's gets its arguments, and kafka-python's error comes with its own text."""
    code = (
        "import inspect, kafka\n"
        "class Orders(kafka.KafkaConsumer):\n"
        "    def __init__(self, url, *topics, **config):\n"
        "        self.url = url; super().__init__(*topics, **config)\n"
        "for client in (kafka.KafkaProducer, kafka.KafkaConsumer, Orders):\n"
        "    print(inspect.signature(client), client.__init__.__qualname__)\n"
        "for make in (lambda: Orders('here', 'orders', colour=1), lambda: kafka.KafkaProducer(colour=1)):\n"
        "    try: make()\n"
        "    except Exception as error: print(repr(error))\n"
    )
    after = (
        "print([hasattr(getattr(kafka.KafkaConsumer, name), '__wrapped__') for name in ('poll', '__init__')])"
    )
    plain, traced = programs.plain(code), programs.traced(code + after)

    assert "colour" in plain.stdout
    assert outcome(traced) == (0, f"{plain.stdout}[True, False]\n", "")


def test_client_whose_init_others_have_wrapped_is_traced(programs: ProgramRunner) -> None:
    """What somebody puts around __init__ before the first client stays there."""
    code = (
        "import kafka\nplain = kafka.KafkaProducer.__init__\n"
        "def theirs(self, **config): print('theirs'); plain(self, **config)\n"
        "kafka.KafkaProducer.__init__ = theirs\n"
        f"{FIRST_CLIENT}; {FIRST_CLIENT}\n"
        "print(kafka.KafkaProducer.__init__ is theirs, hasattr(kafka.KafkaProducer.send, '__wrapped__'))"
    )

    assert outcome(programs.traced(code)) == (0, "theirs\ntheirs\nTrue True\n", "")


def test_init_can_be_mocked_before_the_first_client(programs: ProgramRunner) -> None:
    """What lies in the class's __dict__ is a function to mock and inspect, and starts no tracing by that."""
    code = (
        "import inspect, kafka\nfrom unittest import mock\n"
        "kafka.KafkaProducer.__del__ = lambda self: None\n"  # it looks for what __init__ has made
        "for client in (kafka.KafkaProducer, kafka.KafkaConsumer):\n"
        "    own = vars(client)['__init__']\n"
        "    print(inspect.isfunction(own), inspect.signature(own), own.__code__.co_name, own.__qualname__)\n"
        "    with mock.patch.object(client, '__init__', autospec=True, return_value=None) as init:\n"
        "        made = client(client_id='till')\n"
        "    print(init.call_args == mock.call(made, client_id='till'), inspect.signature(init))\n"
        "    with mock.patch.object(client, '__init__', return_value=None) as init: client(id='till')\n"
        "    print(init.call_args, vars(client)['__init__'] is own)\n"
        "    try: own(client.__new__(client), colour=1)\n"
        "    except Exception as error: print(repr(error))\n"
    )
    loads = "import sys; print('msgspec' in sys.modules)"
    plain, traced = programs.plain(code + loads), programs.traced(code + loads)

    assert plain.returncode == 0
    assert traced.stderr == ""
    assert traced.stdout.splitlines()[:-1] == plain.stdout.splitlines()[:-1]
    assert traced.stdout.splitlines()[-1] == "True"  # by the last client, which is a real one


def test_span_of_opentelemetry_before_the_first_client_is_recorded(programs: ProgramRunner) -> None:
    """A span that the application makes by OpenTelemetry's API once kafka is imported goes into the ring."""
    code = (
        "import kafka\nfrom opentelemetry import trace\n"
        "with trace.get_tracer('hand').start_as_current_span('early'): pass\n"
    )

    assert outcome(programs.traced(code)) == (0, "", "")

    assert [span.name for span in RingReader(programs.ring_dir).take()] == ["early"]


MAKE = "kafka.KafkaProducer(value_serializer=lambda value: value, nonsense=True)"


@pytest.mark.parametrize(
    "make", [f"make = lambda: {MAKE}", f"def make(): return {MAKE}"], ids=["lambda", "def"]
)
def test_warnings_of_kafka_python_name_the_same_line(programs: ProgramRunner, make: str) -> None:
    """kafka-python 3 counts frames to find a warning's line: kaspan adds no frame."""
    tries = "for _ in range(2):\n    try: make()\n    except Exception as error: print(repr(error))\n"
    code = f"import kafka\n{make}\n{tries}"
    for filters in ("always", "error::DeprecationWarning:__main__"):
        plain, traced = (run(code, PYTHONWARNINGS=filters) for run in (programs.plain, programs.traced))

        assert outcome(traced) == outcome(plain)


def test_send_at_exit_is_recorded_though_no_answer_comes(programs: ProgramRunner) -> None:
    """What an application sends by a handler that it registers before its first client has a span."""
    code = (
        "import atexit, kafka, threading, time\nfrom support.kafka_clients import UnconnectedProducer\n"
        "kept = []\n"  # by a daemon, as futures are by kafka-python's own
        "threading.Thread(target=lambda held: time.sleep(1000), args=(kept,), daemon=True).start()\n"
        "@atexit.register\ndef goodbye():\n"
        "    kept.append(UnconnectedProducer()); kept[0].send('orders', b'bye')\n"
    )

    assert outcome(programs.traced(code)) == (0, "", "")

    (span,) = RingReader(programs.ring_dir).take()
    assert span.tags["error"] == "timeout"


def test_service_is_named_after_the_program_as_it_was_started(programs: ProgramRunner) -> None:
    """An application that takes its arguments apart before its first client keeps its name."""
    path = programs.module("till.py", f"import kafka, sys\nsys.argv[:] = ['--queue']\n{SEND}")
    words = programs.kaspan_run()

    assert outcome(programs.run(words[0], "run", "--", words[-1], path)) == (0, "", "")

    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "till"


SLOW = f"""
import kafka, os, threading
from kaspan.interceptor.bootstrap import activation
real, calls, inside, go_on = activation._activate, [], threading.Event(), threading.Event()
def slow(*arguments):
    calls.append(1); inside.set(); go_on.wait(); real(*arguments)
activation._activate = slow
def make(): {FIRST_CLIENT}
def is_traced(): return hasattr(kafka.KafkaProducer.send, "__wrapped__")
first = threading.Thread(target=make); first.start(); inside.wait()
"""
"""One thread is in the middle of switching tracing on, until `go_on` is set."""


def test_threads_that_make_the_first_clients_at_once_switch_tracing_on_once(programs: ProgramRunner) -> None:
    """Who comes second neither waits for the first nor patches again."""
    code = f"{SLOW}make(); print(is_traced()); go_on.set(); first.join(); print(len(calls), is_traced())"

    assert outcome(programs.traced(code)) == (0, "False\n1 True\n", "")


def test_child_forked_while_tracing_is_being_switched_on_is_traced(programs: ProgramRunner) -> None:
    """The thread that was at it is not in the child, which starts anew at its own first client."""
    code = SLOW + (
        "child = os.fork()\nif not child:\n"
        "    activation._activate = real; make(); print(is_traced(), flush=True); os._exit(0)\n"
        "os.waitpid(child, 0); go_on.set(); first.join(); print(is_traced())"
    )
    done = programs.traced(code)

    assert (done.returncode, done.stdout) == (0, "True\nTrue\n")
