"""Where an application reports to: the ring, an agent or Zipkin, by addresses that can be dialled."""

from __future__ import annotations

import pytest

from kaspan.config import ConfigError, load


@pytest.mark.parametrize(
    "address",
    [
        "ring",
        "http://127.0.0.1:9412",
        "http://[::1]:9412/",
        "https://agent",
        "unix:///run/kaspan/agent.sock",
        "zipkin+http://zipkin:9411/api/v2/spans",
        "zipkin+https://zipkin/api/v2/spans?tenant=7",
    ],
)
def test_agent_may_be_the_ring_or_an_address(address: str) -> None:
    """Every form of address that the reference names is accepted unchanged."""
    assert load(environ={"KASPAN_INTERCEPTOR__AGENT": address}).settings.interceptor.agent == address


@pytest.mark.parametrize(
    "address",
    [
        "rings",
        "127.0.0.1:9412",
        "http://",
        "unix://run/agent.sock",
        "zipkin+unix:///run/agent.sock",
        "ftp://agent",
        "http://user:secret@agent",
        "http://agent/a path",
    ],
)
def test_agent_that_is_no_address_is_refused(address: str) -> None:
    """Anything else is an error with the rule in it, and a password in it is not shown."""
    with pytest.raises(ConfigError, match=r"interceptor.agent is .*the rule is ring, or an address") as said:
        load(environ={"KASPAN_INTERCEPTOR__AGENT": address})
    assert ":secret@" not in str(said.value)
