"""kaspan.agent.http.access: who may ask by TCP, and which pages of a browser may."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaspan.agent.http.access import Access
from kaspan.agent.http.messages import Request, Response
from kaspan.config import schema

TOKEN = "correct-horse-battery"
POD = (
    "nameserver 10.0.0.10\nsearch monitoring.svc.cluster.corp.example svc.cluster.corp.example corp.example\n"
)
PAGE = "https://shop.example"


def access(tmp_path: Path, resolver: str = "", **settings: object) -> Access:
    (tmp_path / "resolv.conf").write_text(resolver)
    agent = schema.Agent(**{"socket": "", **settings})  # type: ignore[arg-type]
    return Access(agent, "web1.corp.example", tmp_path / "resolv.conf")


def request(method: str = "POST", is_trusted: bool = False, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, "/api/v2/spans", "", named, is_trusted)


def refusal(answer: Response | None) -> tuple[int, str] | None:
    return answer and (answer.status, answer.refusal)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "127.0.0.1",
            "127.0.0.1:9412",
            "[::1]:9412",
            "::1",
            "10.1.2.3:80",
            "[fe80::1%25eth0]",
        ),
        *("localhost", "LOCALHOST:9412", "localhost.", "a.localhost", "agent", "kaspan-agent:9412", "zipkin"),
        *("kaspan.monitoring.svc", "kaspan.monitoring.svc.cluster.local:9412", "host.docker.internal"),
        *("web1.corp.example", "WEB1.corp.example:1"),
    ],
)
def test_addresses_and_names_of_no_stranger_may_be_asked(tmp_path: Path, host: str) -> None:
    """What clients on the machine, in containers and in a cluster call an agent needs no setting."""
    assert access(tmp_path).refuse(request(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:9412",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "a.svc.evil.example",
        ),
        *(
            "evilweb1.corp.example",
            "x.local",
            "127.0.0.1x.evil",
            "evil.monitoring",
            "1.2.3",
            "[evil.example]",
        ),
    ],
)
def test_other_names_are_refused_with_the_setting(tmp_path: Path, host: str) -> None:
    """A page whose own name leads to this machine reads nothing, and an operator is told what to set."""
    answer = access(tmp_path).refuse(request("GET", host=host))
    assert refusal(answer) == (403, "host")
    assert b"agent.allowed_hosts" in answer.body  # type: ignore[union-attr]


def test_listen_name_and_allowed_hosts_may_be_asked(tmp_path: Path) -> None:
    """A host name in the settings is accepted as the agent's; a glob allows many."""
    named = access(
        tmp_path, listen="tracing.shop.example:9412", allowed_hosts=("*.lan.example", "Kaspan.example")
    )
    for host in ("tracing.shop.example:9412", "a.lan.example", "kaspan.EXAMPLE"):
        assert named.refuse(request(host=host)) is None
    assert refusal(named.refuse(request(host="lan.example"))) == (403, "host")
    assert access(tmp_path, allowed_hosts=("*",)).refuse(request(host="evil.example")) is None


def test_pod_is_known_by_the_names_of_its_services(tmp_path: Path) -> None:
    """In Kubernetes a service is called NAME.NAMESPACE too, and a cluster may have another domain."""
    pod = access(tmp_path, POD)
    for host in ("kaspan.monitoring:9412", "kaspan.monitoring.svc.cluster.corp.example"):
        assert pod.refuse(request(host=host)) is None
    for host in ("kaspan.elsewhere", "evil.corp.example"):
        assert refusal(pod.refuse(request(host=host))) == (403, "host")


def test_remembered_hosts_have_an_end(tmp_path: Path) -> None:
    """Strangers may invent names for ever, and each is refused."""
    asked = access(tmp_path)
    for number in range(1000):
        assert asked.refuse(request(host=f"evil{number}.example")) is not None
    assert len(asked._seen_hosts) <= 100


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": PAGE},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": PAGE, "content_type": "text/plain"},
    ],
)
def test_pages_may_not_report(tmp_path: Path, headers: dict[str, str]) -> None:
    """Browsers post what any page tells them to, to the loopback too, some types without asking."""
    answer = access(tmp_path).refuse(request(host="127.0.0.1:9412", **headers))
    assert refusal(answer) == (403, "origin")
    assert b"agent.allowed_origins" in answer.body  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {}),
        ("POST", {"sec_fetch_site": "none"}),
        ("POST", {"sec_fetch_site": "same-origin"}),
        ("GET", {"sec_fetch_site": "same-origin"}),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}),
    ],
)
def test_clients_that_are_no_pages_may(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    """Tracers send no Origin; and a link to /status may be followed from anywhere."""
    assert access(tmp_path).refuse(request(method, host="localhost", **headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": PAGE},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pages_may_not_read(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    """Another site's page gets no answer, also not as image, script or frame; pages that report neither."""
    reported = access(tmp_path, allowed_origins=("*",))
    answer = reported.refuse(request(method, host="127.0.0.1:9412", **headers))
    assert refusal(answer) == (403, "origin")
    assert b"agent.web.allowed_origins" in answer.body  # type: ignore[union-attr]


def test_page_of_the_agent_itself_may_read_and_report(tmp_path: Path) -> None:
    """A page that came from this very address is not another site's, in whatever a browser says of it."""
    for method in ("GET", "POST"):
        asked = request(method, host="localhost:9411", origin="http://localhost:9411")
        assert access(tmp_path).refuse(asked) is None
        other = request(method, host="localhost:9411", origin="http://localhost:9412")
        assert refusal(access(tmp_path).refuse(other)) == (403, "origin")


def test_web_origin_may_read_and_not_report(tmp_path: Path) -> None:
    """agent.web.allowed_origins lets a page read the store, and agent.allowed_origins lets one report."""
    grafana = access(tmp_path, web=schema.Web(allowed_origins=(PAGE,)))
    read = request("GET", host="localhost", origin=PAGE)
    assert grafana.refuse(read) is None
    assert ("Access-Control-Allow-Origin", PAGE) in grafana.with_cors_headers(read, Response(200)).headers
    assert refusal(grafana.refuse(request("POST", host="localhost", origin=PAGE))) == (403, "origin")
    for method, is_allowed in (("GET", True), ("POST", False), ("DELETE", False)):
        asked = request("OPTIONS", host="localhost", origin=PAGE, access_control_request_method=method)
        assert grafana.is_preflight(asked) is is_allowed
        assert bool(grafana.with_cors_headers(asked, Response(204)).headers) is is_allowed


def test_allowed_origin_may_report_and_is_shown_the_answer(tmp_path: Path) -> None:
    """A page that reports its own spans is allowed by its origin, by what a browser asks first included."""
    shop = access(tmp_path, allowed_origins=("https://*.example",))
    assert shop.refuse(request(host="localhost", origin=PAGE)) is None
    shared = dict(shop.with_cors_headers(request(origin=PAGE), Response(202)).headers)
    assert shared["Access-Control-Allow-Origin"] == PAGE
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "content-type, b3"}
    asked = request("OPTIONS", host="localhost", origin=PAGE, **asks)
    assert shop.refuse(asked) is None
    answered = dict(shop.preflight(asked, ["POST"]).headers)
    assert answered["Access-Control-Allow-Methods"] == "POST"
    assert answered["Access-Control-Allow-Headers"] == "content-type, b3"
    assert refusal(shop.refuse(request(host="localhost", origin="https://shop.example.evil"))) == (
        403,
        "origin",
    )
    other = request("OPTIONS", host="localhost", origin="https://evil.test", **asks)
    assert refusal(shop.refuse(other)) == (403, "origin")
    assert shop.with_cors_headers(other, Response(202)).headers == ()


def test_token_decides_alone_where_it_is_set(tmp_path: Path) -> None:
    """No page knows the token: with it names and origins do not matter, without it nothing helps."""
    closed = access(tmp_path, token=TOKEN, allowed_hosts=("*",))
    bearing = f"Bearer {TOKEN}"
    assert closed.refuse(request(host="evil.example", origin=PAGE, authorization=bearing)) is None
    assert refusal(closed.refuse(request(host="127.0.0.1"))) == (401, "unauthorized")


def test_unix_socket_is_no_way_for_a_page(tmp_path: Path) -> None:
    """A browser does not reach it, so nothing is asked for there."""
    assert access(tmp_path).refuse(request(is_trusted=True, host="evil.example", origin=PAGE)) is None


def test_first_refusal_is_logged_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An operator sees why reports are refused, and no stranger fills the log."""
    asked = access(tmp_path)
    for number in range(100):
        asked.refuse(request(host=f"evil{number}.example"))
    assert caplog.text.count("agent.allowed_hosts") == 1
