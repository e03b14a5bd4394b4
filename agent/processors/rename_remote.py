"""The processor `rename_remote`: draws each topic by itself in Zipkin's dependencies."""

from __future__ import annotations

import msgspec

from kaspan.agent.processors.base import Processor, Verdict, topic_of
from kaspan.wire.span import Span


class RenameRemote(Processor):
    """Names the remote endpoint `service` by a template in which {topic} stands for the span's topic.

    Spans with another remote endpoint, or without a topic, are left as they are.
    """

    type = "rename_remote"

    def __init__(self, service: str, template: str) -> None:
        self._service = service.lower()
        self._template = template

    def process(self, span: Span) -> Verdict:
        """Rename the remote endpoint if it is the one."""
        remote = span.remote_endpoint
        # Zipkin takes service names in lower case, however they are written.
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
