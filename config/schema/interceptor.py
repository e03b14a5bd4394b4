"""The section `interceptor`: what kaspan does inside the application."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kaspan.config.schema.machine_defaults import default_ring_dir
from kaspan.config.schema.types import (
    AbsolutePath,
    AgentAddress,
    Glob,
    Operation,
    Propagator,
    Rate,
    SchemaSection,
    Token,
    TopicTemplate,
)


class SamplingRule(SchemaSection, frozen=True, kw_only=True):
    """A sampling rate of its own for traces that start with a record of some topics."""

    topic: Glob = "*"
    operation: Operation | None = None
    rate: Rate


class Sampling(SchemaSection, frozen=True):
    """Which new traces are recorded. A record's own sampling decision is always kept.

    The first rule that matches gives the rate; without a match, `rate` does. Of the traces that pass, at most
    `max_traces_per_s` are recorded.
    """

    rate: Rate = 1.0
    rules: tuple[SamplingRule, ...] = ()
    max_traces_per_s: (
        Annotated[float, Meta(gt=0, le=1e9, description="a number of traces a second, more than 0")] | None
    ) = None


class Propagation(SchemaSection, frozen=True):
    """Header formats. Producers write every format of `inject`, but none into records of `exclude_topics`.
    Consumers read the first format of `extract` that parses.
    """

    inject: tuple[Propagator, ...] = ("b3",)
    extract: tuple[Propagator, ...] = ("b3", "b3multi", "tracecontext")
    exclude_topics: tuple[Glob, ...] = ()


class Function(SchemaSection, frozen=True):
    """A function of the application whose calls become spans, named `name` or like the function."""

    call: Annotated[
        str,
        Meta(
            pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z",
            description="a module and a function in it, such as shop.handlers:handle or shop:Orders.handle",
        ),
    ]
    name: str = ""


class Interceptor(SchemaSection, frozen=True):
    """What happens inside the application."""

    enabled: bool = True
    agent: AgentAddress = "ring"
    token: Token = ""
    ring_dir: AbsolutePath = msgspec.field(default_factory=default_ring_dir)
    ring_bytes: Annotated[int, Meta(ge=64 * 1024, le=1024 * 1024 * 1024)] = 4 * 1024 * 1024
    propagation: Propagation = Propagation()
    sampling: Sampling = Sampling()
    exclude_topics: tuple[Glob, ...] = ("__*",)
    capture_headers: tuple[Glob, ...] = ()
    errors_from_logs: bool = False
    remote_service: TopicTemplate = "kafka"
    functions: tuple[Function, ...] = ()
    follow_handovers: bool = True
