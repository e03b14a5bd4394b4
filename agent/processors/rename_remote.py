"""The processor `rename_remote`: gives each topic its own node in Zipkin's dependencies."""

from __future__ import annotations

import msgspec

from kaspan.agent.processors.base import Processor, Verdict, topic_of
from kaspan.wire.span import Span


class RenameRemote(Processor):
    """Renames the remote endpoint `service` by a template, in which {topic} is replaced by the span's topic.

    A span with another remote endpoint, or without a topic, is kept unchanged.
    """

    type = "rename_remote"

    def __init__(self, service: str, template: str) -> None:
        self._service = service.lower()
        self._template = template

    def process(self, span: Span) -> Verdict:
        """Rename the remote endpoint if its service matches."""
        remote = span.remote_endpoint
        # Zipkin converts service names to lower case.
        if remote is None or (remote.service_name or "").lower() != self._service:
            return Verdict.KEPT
        topic = topic_of(span.tags)
        if topic is None:
            return Verdict.KEPT
        name = self._template.replace("{topic}", topic)
        if name == remote.service_name:
            return Verdict.KEPT
        span.remote_endpoint = msgspec.structs.replace(remote, service_name=name)
        return Verdict.CHANGED
