"""Every key of the YAML file, its type, its default and its rule.

A key here is a key in the file. Joined to its sections by two underscores it is an environment variable:
`interceptor.sampling.rate` is `KASPAN_INTERCEPTOR__SAMPLING__RATE`.
"""

from __future__ import annotations

import msgspec

from kaspan.config.schema.agent import (
    DEFAULT_LISTEN,
    AddTags,
    Agent,
    Batch,
    ConsoleSender,
    Drop,
    KafkaSender,
    Log,
    Processor,
    Redact,
    RenameRemote,
    Sender,
    Spool,
    Store,
    Tls,
    Web,
    ZipkinSender,
)
from kaspan.config.schema.interceptor import Function, Interceptor, Propagation, Sampling, SamplingRule
from kaspan.config.schema.machine_defaults import (
    default_fallback_dir,
    default_ring_dir,
    default_ring_dirs,
    default_socket,
    default_spool_path,
    default_store_path,
)
from kaspan.config.schema.types import Operation, SchemaSection

__all__ = [
    "DEFAULT_LISTEN",
    "AddTags",
    "Agent",
    "Batch",
    "ConsoleSender",
    "Drop",
    "Function",
    "Interceptor",
    "KafkaSender",
    "Log",
    "Operation",
    "Processor",
    "Propagation",
    "Redact",
    "RenameRemote",
    "Sampling",
    "SamplingRule",
    "Sender",
    "Settings",
    "Spool",
    "Store",
    "Tls",
    "Web",
    "ZipkinSender",
    "default_fallback_dir",
    "default_ring_dir",
    "default_ring_dirs",
    "default_socket",
    "default_spool_path",
    "default_store_path",
]


class Settings(SchemaSection, frozen=True):
    """The whole file."""

    service: str = ""
    interceptor: Interceptor = msgspec.field(default_factory=Interceptor)
    agent: Agent = msgspec.field(default_factory=Agent)
