"""Until a client is made, importing kafka costs next to nothing of kaspan and changes nothing that shows."""

from __future__ import annotations

import pytest

from scripts import FIRST_CLIENT, SEND, TRACED, Desk, outcome
from spans import Reader

LOADED = "sorted({name.partition('.')[0] for name in sys.modules} & {'msgspec', 'opentelemetry', 'yaml'})"


def test_import_of_kafka_loads_what_tracing_needs_only_at_the_first_client(desk: Desk) -> None:
    """A process that imports kafka and makes no client loads neither the settings nor OpenTelemetry's API."""
    code = f"import sys, kafka; print({LOADED}); {FIRST_CLIENT}; print({LOADED})"

    assert outcome(desk.traced(code)) == (0, "[]\n['msgspec', 'opentelemetry']\n", "")


def test_process_without_a_client_is_not_told_of_bad_settings(desk: Desk) -> None:
    """What is wrong with the settings is said when they are needed."""
    code = "import kafka; print('done')"

    assert outcome(desk.traced(code, KASPAN_INTERCEPTOR__COLOUR="red")) == (0, "done\n", "")


def test_environment_at_the_import_of_kafka_is_what_counts(desk: Desk) -> None:
    """An application that changes or clears its environment afterwards is traced as it was started."""
    code = f"import kafka, os; os.environ.clear(); os.environ['KASPAN_SERVICE'] = 'late'\n{SEND}"

    assert outcome(desk.traced(code)) == (0, "", "")

    (span,) = Reader(desk.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "shop"


def test_record_class_that_was_imported_before_the_first_client_is_that_of_the_records(desk: Desk) -> None:
    """The application's own records, and its comparisons of types, are of the class that consumers use."""
    code = (
        "import kafka, pickle\nfrom kafka.consumer.fetcher import ConsumerRecord as Record\n"
        f"{FIRST_CLIENT}\n"
        "import kafka.consumer.fetcher as f\n"
        "mine = Record(*range(len(Record._fields)))\n"
        "print(Record is f.ConsumerRecord, pickle.loads(pickle.dumps(mine)) == mine)"
    )

    assert outcome(desk.traced(code)) == (0, "True True\n", "")


AT_ONCE = {
    "disabled": {"KASPAN_INTERCEPTOR__ENABLED": "false"},
    "disabled by OpenTelemetry's variable": {"OTEL_SDK_DISABLED": "true"},
}


@pytest.mark.parametrize("variables", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_kafka_is_left_as_it_is_where_tracing_is_disabled(desk: Desk, variables: dict[str, str]) -> None:
    """Neither the classes nor the record know of kaspan, before or after the first client."""
    look = (
        "print('__new__' in vars(kafka.KafkaProducer),"
        " hasattr(kafka.consumer.fetcher.ConsumerRecord, 'kaspan_span'));"
    )
    code = f"import kafka, kafka.consumer.fetcher; {look}{FIRST_CLIENT}; {look}"

    assert outcome(desk.traced(code, **variables)) == (0, "False False\n" * 2, "")


SUBCLASSES = {
    "that makes itself": (
        "class Producer(kafka.KafkaProducer):\n"
        "    def __new__(cls, topic, **config):\n"
        "        made = super().__new__(cls); made.topic = topic; return made\n"
    ),
    "with another base that makes itself": (
        "class Base:\n"
        "    def __new__(cls, topic, **config):\n"
        "        made = object.__new__(cls); made.topic = topic; return made\n"
        "class Producer(kafka.KafkaProducer, Base): pass\n"
    ),
    "with another base in front": (
        "class Base:\n"
        "    def __new__(cls, topic, **config):\n"
        "        made = super().__new__(cls); made.topic = topic; return made\n"
        "class Producer(Base, kafka.KafkaProducer): pass\n"
    ),
    "of its own metaclass": (
        "class Meta(type):\n"
        "    def __call__(cls, topic, **config):\n"
        "        made = cls.__new__(cls); made.topic = topic; made.__init__(topic, **config); return made\n"
        "class Producer(kafka.KafkaProducer, metaclass=Meta): pass\n"
    ),
}


@pytest.mark.parametrize("producer", SUBCLASSES.values(), ids=SUBCLASSES.keys())
def test_first_client_of_any_class_is_made_as_without_kaspan(desk: Desk, producer: str) -> None:
    """However a subclass is made, it gets its arguments, and tracing starts with it."""
    code = (
        f"import kafka\n{producer}"
        "Producer.__init__ = lambda self, topic, **config: self.__dict__.update(config)\n"
        "Producer.__del__ = lambda self: None\n"
        "for _ in range(2):\n"
        "    made = Producer('orders', acks=1); print(getattr(made, 'topic', None), made.acks)\n"
    )
    plain = desk.plain(code)
    traced = desk.traced(code + "print(hasattr(kafka.KafkaProducer.send, '__wrapped__'))")

    assert plain.returncode == 0
    assert outcome(traced) == (0, f"{plain.stdout}True\n", "")


def test_span_of_opentelemetry_before_the_first_client_is_recorded(desk: Desk) -> None:
    """A span that the application makes by OpenTelemetry's API once kafka is imported goes into the ring."""
    code = (
        "import kafka\nfrom opentelemetry import trace\n"
        "with trace.get_tracer('hand').start_as_current_span('early'): pass\n"
    )

    assert outcome(desk.traced(code)) == (0, "", "")

    assert [span.name for span in Reader(desk.ring_dir).take()] == ["early"]


def test_threads_that_make_the_first_clients_at_once_are_traced(desk: Desk) -> None:
    """Who comes second neither waits for the first nor patches again."""
    make = f"def make():\n    ready.wait(); {FIRST_CLIENT}\n"
    code = f"import kafka, threading\nready = threading.Barrier(8)\n{make}" + (
        "threads = [threading.Thread(target=make) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(hasattr(kafka.KafkaProducer.send.__wrapped__, '__wrapped__'))\n"
    )

    assert outcome(desk.traced(f"{TRACED}\n{code}")) == (0, "True\nFalse\n", "")
    assert outcome(desk.traced(code)) == (0, "False\n", "")
