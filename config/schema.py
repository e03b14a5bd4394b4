"""Every key of the YAML file, its type, its default and its rule.

A key here is a key in the file, and with sections joined by two underscores a variable in the environment:
`interceptor.sampling.rate` is `KASPAN_INTERCEPTOR__SAMPLING__RATE`.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

DEFAULT_LISTEN = "127.0.0.1:9412"

Propagator = Literal["b3", "b3multi", "tracecontext"]
Operation = Literal["send", "receive"]
Rate = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Seconds = Annotated[
    float, Meta(gt=0, le=86_400, description="a number of seconds, more than 0 and at most 86400")
]
AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\x00]*\Z", description="an absolute path")]
HttpUrl = Annotated[
    str,
    Meta(
        # Scheme, perhaps user:password@, a host (IPv6 in brackets), perhaps a port, perhaps a path.
        pattern=r"^https?://([^\s/?#@]+@)?(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?([/?#]\S*)?\Z",
        description="an address such as http://zipkin:9411",
    ),
]
HostPort = Annotated[
    str,
    Meta(
        # A host (IPv6 in brackets) and a port.
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s/?#@:,\[\]]+):[0-9]{1,5}\Z",
        description="an address and port such as kafka:9092",
    ),
]
Topic = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]{1,249}\Z",
        description="a topic's name, at most 249 letters, digits, dots, hyphens and underscores",
    ),
]
ListenAddress = Annotated[
    str,
    Meta(
        # A host (IPv6 in brackets) and a port, or nothing.
        pattern=r"^((\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+):[0-9]{1,5})?\Z",
        description="an address and port such as 127.0.0.1:9412, or empty",
    ),
]
AgentAddress = Annotated[
    str,
    Meta(
        # The ring; or scheme, a host (IPv6 in brackets), perhaps a port, perhaps a path; or a unix socket.
        pattern=r"^(ring|(zipkin\+)?https?://(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?(/[!-~]*)?"
        r"|unix:///[^\x00]+)\Z",
        description="ring, or an address such as http://127.0.0.1:9412, unix:///run/kaspan/agent.sock or "
        "zipkin+http://zipkin:9411/api/v2/spans",
    ),
]
OptionalPath = Annotated[
    str, Meta(pattern=r"^(/[^\x00]*)?\Z", description="an absolute path, or empty for none")
]
Token = Annotated[
    str,
    Meta(
        pattern=r"^([!-~]{8,})?\Z",
        description="8 or more letters, digits and signs of ASCII without spaces, or empty for none",
    ),
]
TopicTemplate = Annotated[
    str,
    Meta(
        pattern=r"^([^{}]|\{topic\})*\Z",
        description="text in which {topic} may stand for the topic, such as kafka/{topic}, or empty text",
    ),
]
Glob = Annotated[str, Meta(min_length=1, description="text in which * and ? stand for any text or letter")]
Pattern = Annotated[str, Meta(min_length=1, description="a regular expression of RE2")]


def default_ring_dir() -> str:
    """Where an application and an agent of the same user meet when nothing is set."""
    root = "/dev/shm"  # noqa: S108
    if not os.path.isdir(root):
        # Imported here because it brings in half the standard library, and applications load this module.
        from tempfile import gettempdir

        root = gettempdir()
    return f"{root}/kaspan-{os.geteuid()}"


def default_fallback_dir() -> str:
    """Where rings are when nothing is set and shared memory has no room for them: on disk."""
    return f"/var/tmp/kaspan-{os.geteuid()}"  # noqa: S108


def default_ring_dirs() -> tuple[str, ...]:
    """Where an agent looks for the rings of its user when nothing is set."""
    fallback = default_fallback_dir()
    is_possible = os.access(os.path.dirname(fallback), os.W_OK)
    return tuple(dict.fromkeys([default_ring_dir(), *([fallback] if is_possible else [])]))


def default_spool_path() -> str:
    """Where the agent keeps spans when nothing is set: the user's place, or the system's for root.

    That is for users without a home directory as well, to whom somebody may have given it.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # its specification: to be ignored then
        state = os.path.expanduser("~/.local/state")
    if os.geteuid() == 0 or not os.path.isabs(state):
        return "/var/lib/kaspan/spool.db"
    return f"{state}/kaspan/spool.db"


def default_socket() -> str:
    """Where the agent's unix socket is when nothing is set: where this user may make one, else nowhere."""
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/kaspan/agent.sock" if os.path.isabs(runtime) and os.access(runtime, os.W_OK) else ""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A map in the file: unknown keys are refused, since a misspelt key would silently do nothing."""


class SamplingRule(_Section, frozen=True, kw_only=True):
    """Another rate for the traces that start with records of some topics."""

    topic: Glob = "*"
    operation: Operation | None = None
    rate: Rate


class Sampling(_Section, frozen=True):
    """Which new traces are recorded; a decision that came with a record is kept.

    The first rule that matches decides, `rate` where none does; of what they let through, at most
    `max_traces_per_s` are recorded.
    """

    rate: Rate = 1.0
    rules: tuple[SamplingRule, ...] = ()
    max_traces_per_s: (
        Annotated[float, Meta(gt=0, le=1e9, description="a number of traces a second, more than 0")] | None
    ) = None


class Propagation(_Section, frozen=True):
    """Header formats: all of `inject` are written, but into no record of `exclude_topics`; the first of
    `extract` that parses is read.
    """

    inject: tuple[Propagator, ...] = ("b3",)
    extract: tuple[Propagator, ...] = ("b3", "b3multi", "tracecontext")
    exclude_topics: tuple[Glob, ...] = ()


class Function(_Section, frozen=True):
    """A function of the application whose calls are spans; `name` is the spans', else the function's own."""

    call: Annotated[
        str,
        Meta(
            pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z",
            description="a module and a function in it, such as shop.handlers:handle or shop:Orders.handle",
        ),
    ]
    name: str = ""


class Interceptor(_Section, frozen=True):
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


class Spool(_Section, frozen=True):
    """Where spans wait until every sender has delivered them."""

    path: AbsolutePath = msgspec.field(default_factory=default_spool_path)
    max_bytes: Annotated[int, Meta(ge=1024 * 1024, le=1 << 50)] = 1024 * 1024 * 1024
    max_age_s: Annotated[float, Meta(gt=0, le=1e9, description="a number of seconds, more than 0")] | None = (
        None
    )


class Batch(_Section, frozen=True):
    """How much goes into one message to a sender, and how long spans may wait for company."""

    max_bytes: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 500_000
    flush_interval_s: Seconds = 1.0


class ZipkinSender(_Section, frozen=True, tag="zipkin", tag_field="type"):
    """Posts to Zipkin's HTTP collector; `url` is a base (http://zipkin:9411) or the full path."""

    url: HttpUrl = "http://127.0.0.1:9411/api/v2/spans"
    format: Literal["json", "proto3"] = "json"
    gzip: bool | None = None
    username: str | None = None
    password: str | None = None
    token: str | None = None
    headers: dict[str, str] | None = None
    ca_file: AbsolutePath | None = None
    client_cert_file: AbsolutePath | None = None
    client_key_file: AbsolutePath | None = None
    timeout_s: Seconds = 10.0


class KafkaSender(_Section, frozen=True, tag="kafka", tag_field="type"):
    """Sends to a topic that Zipkin's Kafka collector reads. `security_`, `sasl_` and `ssl_` keys are
    kafka-python's own, and go to it as they are.
    """

    bootstrap_servers: Annotated[
        tuple[HostPort, ...],
        Meta(min_length=1, description="a list of at least one address and port, such as [kafka:9092]"),
    ] = ("127.0.0.1:9092",)
    topic: Topic = "zipkin"
    max_message_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 1_000_000
    timeout_s: Seconds = 30.0
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = None
    sasl_kerberos_service_name: str | None = None
    sasl_kerberos_domain_name: str | None = None
    ssl_check_hostname: bool = True
    ssl_cafile: AbsolutePath | None = None
    ssl_certfile: AbsolutePath | None = None
    ssl_keyfile: AbsolutePath | None = None
    ssl_password: str | None = None
    ssl_crlfile: AbsolutePath | None = None
    ssl_ciphers: str | None = None


class ConsoleSender(_Section, frozen=True, tag="console", tag_field="type"):
    """Prints each trace as a tree on standard output."""


# What is installed from elsewhere (the entry points of kaspan.senders) stands in agent.senders as a struct
# of its own class, tagged by its name: see Checker.
Sender = ZipkinSender | KafkaSender | ConsoleSender


class AddTags(_Section, frozen=True, tag="add_tags", tag_field="type"):
    """Adds tags to every span; ${NAME} in a value is the agent's environment variable of that name."""

    tags: Annotated[
        dict[str, str],
        Meta(min_length=1, description="a map of at least one tag, such as {deployment: prod}"),
    ]
    overwrite: bool = False


class Redact(_Section, frozen=True, tag="redact", tag_field="type"):
    """Hides whole values by the tag's name, or what in values matches a pattern, or both."""

    tags: tuple[Glob, ...] = ()
    values: tuple[Pattern, ...] = ()
    action: Literal["mask", "hash", "drop"] = "mask"
    hash_secret: str | None = None


class RenameRemote(_Section, frozen=True, tag="rename_remote", tag_field="type"):
    """Names the remote endpoint `from` after the record's topic."""

    from_: str = msgspec.field(name="from", default="kafka")
    to: Annotated[
        str,
        Meta(
            pattern=r"^([^{}]|\{topic\})+\Z",
            description="text in which {topic} may stand for the topic, such as kafka/{topic}",
        ),
    ] = "kafka/{topic}"


class Drop(_Section, frozen=True, tag="drop", tag_field="type"):
    """Drops spans that fit every kind of glob given."""

    services: tuple[Glob, ...] = ()
    topics: tuple[Glob, ...] = ()
    names: tuple[Glob, ...] = ()


Processor = AddTags | Redact | RenameRemote | Drop


class Tls(_Section, frozen=True):
    """Certificate and key for agent.listen, files in PEM."""

    cert: OptionalPath = ""
    key: OptionalPath = ""


class Log(_Section, frozen=True):
    """What the agent writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Agent(_Section, frozen=True):
    """What the agent beside the application does."""

    listen: ListenAddress = DEFAULT_LISTEN
    socket: OptionalPath = msgspec.field(default_factory=default_socket)
    token: Token = ""
    tls: Tls = Tls()
    allowed_hosts: tuple[Glob, ...] = ()
    allowed_origins: tuple[Glob, ...] = ()
    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 256
    ring_dirs: tuple[AbsolutePath, ...] = msgspec.field(default_factory=default_ring_dirs)
    spool: Spool = msgspec.field(default_factory=Spool)
    batch: Batch = Batch()
    senders: Annotated[
        tuple[Sender, ...],
        Meta(min_length=1, description="a list of at least one sender, each with its type"),
    ] = (ZipkinSender(),)
    processors: Annotated[
        tuple[Processor, ...], Meta(description="a list of processors, each with its type")
    ] = ()
    shutdown_timeout_s: Seconds = 10.0
    log: Log = Log()


class Settings(_Section, frozen=True):
    """The whole file."""

    service: str = ""
    interceptor: Interceptor = msgspec.field(default_factory=Interceptor)
    agent: Agent = msgspec.field(default_factory=Agent)
