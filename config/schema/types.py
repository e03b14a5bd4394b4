"""What a value in the file may be: types that several keys share, each with its rule in words."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

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
        description="text such as kafka/{topic}, in which {topic} is replaced by the topic, or empty text",
    ),
]
Glob = Annotated[str, Meta(min_length=1, description="text, with * for any text and ? for any letter")]
TagKey = Annotated[str, Meta(min_length=1, description="the key of a tag, such as http.method")]
Pattern = Annotated[str, Meta(min_length=1, description="a regular expression of RE2")]


class SchemaSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A map of the file. Unknown keys are refused: a misspelt key would do nothing."""
