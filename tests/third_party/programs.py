"""The programs of others that are run, and the traces that kaspan owes their users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Program:
    """A folder beside this file: requirements.txt says what is installed, run.sh what its user does with it.

    `paths` are the ways from a trace's root to its leaves, each `SERVICE: SPAN > SERVICE: SPAN`, and how
    often each is there after one run; in place of the prefix of all topics stands nothing. `environment` is
    what the run with kaspan has in addition. Of values that are random in part only the length is
    compared.
    """

    folder: str
    what: str
    paths: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    has_random_values: bool = False


PROGRAMS = (
    Program(
        "kq",
        "a job queue: next(consumer), and jobs that send",
        {"enqueue: send jobs > work: process jobs > work: send results": 3},
        has_random_values=True,
    ),
    Program(
        "nameko",
        "microservices whose workers are green threads of eventlet",
        {
            "order: send orders > nameko: process orders > nameko: servicecontainer._run_worker"
            " > nameko: send shipments > receive: process shipments": 3
        },
    ),
    Program(
        "singer",
        "a Singer target that sends what it reads from standard input",
        {"target-kafka: send users": 3},
    ),
    Program(
        "sinetstream",
        "sensors' readings on kafka-python-ng",
        {"write: send sensors > read: process sensors": 3},
        has_random_values=True,
    ),
    Program(
        "collector",
        "a collector on kafka-python-ng that breaks where a record has a header",
        {"send: send events": 6, "kafka-collector: process events": 4},
        {"KASPAN_INTERCEPTOR__PROPAGATION__EXCLUDE_TOPICS": '["*-events"]'},
    ),
    Program(
        "robot",
        "a test suite in Robot Framework that sends and polls",
        {"robot: send orders > robot: process orders": 2},
    ),
    Program(
        "superstream",
        "another agent that patches kafka-python when it is imported",
        {"send: send orders": 3},
    ),
    Program(
        "parsedmarc",
        "reports of e-mail servers, sent as they are parsed",
        {"parsedmarc: send aggregate": 1},
    ),
)
