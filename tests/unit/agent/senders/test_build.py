"""kaspan.agent.senders.build: what of the settings cannot be made."""

from __future__ import annotations

import pytest

from kaspan.agent.senders.build import build
from kaspan.config import ConfigError, schema


def names(url: str, listen: str) -> list[str]:
    senders = build((schema.ZipkinSender(url=url),), schema.Batch(), {}, listen)
    return [sender.name for sender in senders]


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:9411", "127.0.0.1:9411"),
        ("http://127.0.0.1:9411/api/v2/spans", "127.0.0.1:9411"),
        ("http://localhost:9411", "127.0.0.1:9411"),
        ("http://[::1]:9411", "0.0.0.0:9411"),
        ("http://localhost:9411", "[::]:9411"),
        ("http://Zipkin:9411", "zipkin:9411"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("https://localhost", "0.0.0.0:443"),
    ],
)
def test_agent_that_would_send_to_itself_is_refused(url: str, listen: str) -> None:
    """Each span would go round for ever."""
    with pytest.raises(ConfigError) as refused:
        names(url, listen)
    (error,) = refused.value.errors
    assert error.startswith(f"agent.senders[0].url is the address of this agent's own agent.listen, {listen}")


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:9411", "127.0.0.1:9412"),
        ("http://127.0.0.1:9411", ""),
        ("http://zipkin:9411", "0.0.0.0:9411"),
        ("http://10.0.0.2:9411", "10.0.0.1:9411"),
        ("http://localhost:9411", "10.0.0.1:9411"),
    ],
)
def test_other_server_may_have_the_same_port_or_machine(url: str, listen: str) -> None:
    """An agent beside a Zipkin, or in front of one."""
    assert len(names(url, listen)) == 1
