"""The section `agent`: what the agent receives, changes, keeps and sends."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kaspan.config.schema.machine_defaults import (
    default_ring_dirs,
    default_socket,
    default_spool_path,
    default_store_path,
)
from kaspan.config.schema.types import (
    AbsolutePath,
    Glob,
    HostPort,
    HttpUrl,
    ListenAddress,
    OptionalPath,
    Pattern,
    SchemaSection,
    Seconds,
    TagKey,
    Token,
    Topic,
)

DEFAULT_LISTEN = "127.0.0.1:9412"
"""Where the agent listens for HTTP. An application without a ring looks for it there."""


class Spool(SchemaSection, frozen=True):
    """Where spans wait until every sender has delivered them."""

    path: AbsolutePath = msgspec.field(default_factory=default_spool_path)
    max_bytes: Annotated[int, Meta(ge=1024 * 1024, le=1 << 50)] = 1024 * 1024 * 1024
    max_age_s: Annotated[float, Meta(gt=0, le=1e9, description="a number of seconds, more than 0")] | None = (
        None
    )


class Store(SchemaSection, frozen=True):
    """The span store, which keeps all spans and answers Zipkin's queries. Absent: there is none.

    `strict_trace_id`, `search_enabled` and `autocomplete_keys` are Zipkin's STRICT_TRACE_ID, SEARCH_ENABLED
    and AUTOCOMPLETE_KEYS.
    """

    path: AbsolutePath = msgspec.field(default_factory=default_store_path)
    max_bytes: Annotated[int, Meta(ge=16 * 1024 * 1024, le=1 << 50)] = 4 * 1024 * 1024 * 1024
    max_age_s: Annotated[float, Meta(gt=0, le=1e9, description="a number of seconds, more than 0")] = (
        7 * 86_400.0
    )
    strict_trace_id: bool = True
    search_enabled: bool = True
    autocomplete_keys: tuple[TagKey, ...] = ()


class Web(SchemaSection, frozen=True):
    """What the agent serves to browsers from its span store: queries, and Zipkin's page."""

    lens: OptionalPath = ""
    allowed_origins: tuple[Glob, ...] = ()


class Batch(SchemaSection, frozen=True):
    """The size of a message to a sender, and how long spans may wait until it is full."""

    max_bytes: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 500_000
    flush_interval_s: Seconds = 1.0


class ZipkinSender(SchemaSection, frozen=True, tag="zipkin", tag_field="type"):
    """Posts to Zipkin's HTTP collector; `url` is http://zipkin:9411, or the full address."""

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


class KafkaSender(SchemaSection, frozen=True, tag="kafka", tag_field="type"):
    """Sends to a topic that Zipkin's Kafka collector reads. Keys that begin with `security_`, `sasl_` and
    `ssl_` are settings of kafka-python, and are passed to it.
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


class ConsoleSender(SchemaSection, frozen=True, tag="console", tag_field="type"):
    """Prints each trace as a waterfall on standard output."""


# The settings of another package's sender (an entry point of kaspan.senders) are a struct of the package's
# own class, tagged by the sender's name: see Checker.
Sender = ZipkinSender | KafkaSender | ConsoleSender


class AddTags(SchemaSection, frozen=True, tag="add_tags", tag_field="type"):
    """Adds tags to every span; ${NAME} in a value becomes the agent's environment variable NAME."""

    tags: Annotated[
        dict[str, str],
        Meta(min_length=1, description="a map of at least one tag, such as {deployment: prod}"),
    ]
    overwrite: bool = False


class Redact(SchemaSection, frozen=True, tag="redact", tag_field="type"):
    """Hides the values of tags by name, or the parts of values that match a pattern, or both."""

    tags: tuple[Glob, ...] = ()
    values: tuple[Pattern, ...] = ()
    action: Literal["mask", "hash", "drop"] = "mask"
    hash_secret: str | None = None


class RenameRemote(SchemaSection, frozen=True, tag="rename_remote", tag_field="type"):
    """Names the remote endpoint `from` after the record's topic."""

    from_: str = msgspec.field(name="from", default="kafka")
    to: Annotated[
        str,
        Meta(
            pattern=r"^([^{}]|\{topic\})+\Z",
            description="text such as kafka/{topic}, in which {topic} is replaced by the topic",
        ),
    ] = "kafka/{topic}"


class Drop(SchemaSection, frozen=True, tag="drop", tag_field="type"):
    """Drops spans that match a glob of each given kind."""

    services: tuple[Glob, ...] = ()
    topics: tuple[Glob, ...] = ()
    names: tuple[Glob, ...] = ()


Processor = AddTags | Redact | RenameRemote | Drop


class Tls(SchemaSection, frozen=True):
    """Certificate and key for agent.listen, PEM files."""

    cert: OptionalPath = ""
    key: OptionalPath = ""


class Log(SchemaSection, frozen=True):
    """The agent's log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Agent(SchemaSection, frozen=True):
    """What the agent does, in its own process."""

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
    store: Store | None = None
    web: Web = Web()
    batch: Batch = Batch()
    senders: Annotated[
        tuple[Sender, ...],
        # With a store the list may be empty, and is by default: config/merge.py.
        Meta(description="a list of senders, each with its type, at least one unless there is agent.store"),
    ] = (ZipkinSender(),)
    processors: Annotated[
        tuple[Processor, ...], Meta(description="a list of processors, each with its type")
    ] = ()
    shutdown_timeout_s: Seconds = 10.0
    log: Log = Log()
