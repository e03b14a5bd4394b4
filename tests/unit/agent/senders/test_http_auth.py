"""kaspan.agent.senders.zipkin: credentials, headers, TLS, gzip and proto3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaspan.agent.codec.proto3_decode import proto3_batches
from kaspan.agent.senders.base import Delivered, Failed, Refused, SettingError
from kaspan.agent.senders.zipkin import ZipkinSender
from kaspan.config.schema import ZipkinSender as Settings
from support.certificates import CA, CLIENT, CLIENT_KEY, server_context
from support.ring_writer import span
from support.zipkin_stub import Response, ZipkinStub

SPANS = span(1) + b",\n" + span(2)


def post(zipkin_stub: ZipkinStub, **settings: Any) -> object:
    """Post two spans to the stub and return what became of them."""
    sender = ZipkinSender(Settings(**{"url": zipkin_stub.url, "timeout_s": 5.0} | settings))
    try:
        return sender.send(SPANS, 1)
    finally:
        sender.close()


def refusal(**settings: Any) -> tuple[str, str]:
    """Make a sender that cannot be made: the key and the problem."""
    with pytest.raises(SettingError) as refused:
        ZipkinSender(Settings(**settings))
    return refused.value.key, refused.value.problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"username": "me", "password": "pass word"}, "Basic bWU6cGFzcyB3b3Jk"),
        ({"username": "me"}, "Basic bWU6"),
        ({"username": "ich", "password": "größer"}, "Basic aWNoOmdyw7bDn2Vy"),
        ({"token": "abc.def"}, "Bearer abc.def"),
        ({"headers": {"authorization": "Own abc"}}, None),
    ],
)
def test_credentials_are_sent(
    zipkin_stub: ZipkinStub, settings: dict[str, Any], expected: str | None
) -> None:
    """Basic authentication in UTF-8, or a bearer's token, or whatever a header of one's own says."""
    assert post(zipkin_stub, **settings) == Delivered()
    assert zipkin_stub.reports[0].headers.get("Authorization") == expected


def test_headers_of_ones_own_are_sent(zipkin_stub: ZipkinStub) -> None:
    """Headers from the settings are added to the sender's own, and may replace its User-Agent."""
    post(zipkin_stub, headers={"X-Scope-OrgID": "tenant 1", "user-agent": "mine"})
    headers = zipkin_stub.reports[0].headers
    assert (headers["X-Scope-OrgID"], headers["user-agent"], headers["b3"]) == ("tenant 1", "mine", "0")
    assert "User-Agent" not in headers


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"username": "me", "token": "abc"}, ""),
        ({"token": "abc", "url": "http://me:pass@zipkin:9411"}, ""),
        ({"token": "abc", "headers": {"AUTHORIZATION": "x"}}, "headers"),
        ({"password": "abc"}, "password"),
        ({"username": "a:b", "password": "abc"}, "username"),
        ({"token": "ab c"}, "token"),
        ({"headers": {"B3": "1"}}, "headers"),
        ({"headers": {"Content-Type": "x"}}, "headers"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
        ({"headers": {"X A": "1"}}, "headers"),
        ({"headers": {"X-A": "secret\r\nb3: 1"}}, "headers.X-A"),
        ({"ca_file": str(CA)}, "ca_file"),
        ({"url": "https://z", "ca_file": "/nowhere"}, "ca_file"),
        ({"url": "https://z", "ca_file": __file__}, "ca_file"),
        ({"url": "https://z", "client_key_file": str(CLIENT_KEY)}, "client_key_file"),
        ({"url": "https://z", "client_cert_file": str(CLIENT)}, "client_cert_file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], key: str) -> None:
    """At the start, with the key's name, and without a secret."""
    named, problem = refusal(**settings)
    assert named == key
    assert problem
    assert not any(secret in problem for secret in ("abc", "ab c", "secret"))


@pytest.mark.parametrize("status", [400, 401, 503])
def test_secrets_are_not_in_reasons(zipkin_stub: ZipkinStub, status: int) -> None:
    """A server that quotes what it was shown does not bring it into logs or dead letters."""
    zipkin_stub.answer = lambda report: Response(status, "you sent " + report.headers["Authorization"])
    for settings in ({"username": "me", "password": "hunter22"}, {"token": "hunter22"}):
        outcome = post(zipkin_stub, **settings)
        assert isinstance(outcome, Failed | Refused)
        assert "you sent" in outcome.reason
        assert "***" in outcome.reason
        assert not any(secret in outcome.reason for secret in ("hunter22", "bWU6aHVudGVyMjI="))


def test_redirect_and_name_show_no_secret(zipkin_stub: ZipkinStub) -> None:
    """Passwords and queries of addresses may hold what must not be seen."""
    zipkin_stub.answer = lambda report: Response(
        302, "", (("Location", "https://a:b1c2@other/?key=hunter22"),)
    )
    outcome = post(zipkin_stub)
    assert isinstance(outcome, Failed)
    assert "https://a:***@other/?***" in outcome.reason
    names = {ZipkinSender(Settings(url=f"http://me:pw@z/?key={key}")).name for key in ("hunter22", "other")}
    assert len(names) == 2
    assert not any("hunter22" in name or "pw" in name for name in names)


def test_gzip_is_off_on_the_loopback_unless_it_is_asked_for(zipkin_stub: ZipkinStub) -> None:
    """Packing costs CPU and saves network, of which the loopback has none."""
    post(zipkin_stub)
    post(zipkin_stub, gzip=True)
    plain, packed = zipkin_stub.reports
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.body)
    assert packed.content == plain.body == b"[" + SPANS + b"]"


@pytest.mark.parametrize(
    ("url", "gzip", "expected"),
    [
        ("http://zipkin:9411", None, True),
        ("http://zipkin:9411", False, False),
        ("http://localhost:9411", None, False),
        ("http://[::1]:9411", None, False),
        ("https://127.0.0.2", None, False),
        ("http://10.0.0.1", None, True),
    ],
)
def test_gzip_is_on_over_a_network(url: str, gzip: bool | None, expected: bool) -> None:
    """The host decides where the settings do not."""
    sender = ZipkinSender(Settings(url=url, gzip=gzip))
    assert ("Content-Encoding" in sender._encode_body(SPANS)[1]) is expected


@pytest.mark.parametrize("gzip", [False, True])
def test_proto3_is_sent_as_such(zipkin_stub: ZipkinStub, gzip: bool) -> None:
    """The content type is the one by which Zipkin knows proto3, packed or not."""
    post(zipkin_stub, format="proto3", gzip=gzip)
    (report,) = zipkin_stub.reports
    assert report.headers["Content-Type"] == "application/x-protobuf"
    (batch,) = proto3_batches(report.content, 1 << 20)
    assert json.loads(b"[" + batch.body + b"]") == json.loads(b"[" + SPANS + b"]")


def test_span_that_proto3_cannot_say_goes_as_json(zipkin_stub: ZipkinStub) -> None:
    """The agent does not lose a span because of its format: Zipkin decides."""
    sender = ZipkinSender(Settings(url=zipkin_stub.url, format="proto3"))
    assert sender.send(b'{"traceId":"1","id":"2","tags":{"":"nameless"}}', 1) == Delivered()
    assert zipkin_stub.reports[0].headers["Content-Type"] == "application/json"
    sender.close()


class TestTls:
    @pytest.fixture
    def zipkin_stub(self) -> Iterator[ZipkinStub]:
        zipkin_stub = ZipkinStub(tls=server_context())
        yield zipkin_stub
        zipkin_stub.close()

    def test_server_of_ones_own_ca_is_trusted(self, zipkin_stub: ZipkinStub) -> None:
        """The CA's certificate is all that is needed; the connection is kept as any other."""
        sender = ZipkinSender(Settings(url=zipkin_stub.url, ca_file=str(CA), token="abc"))
        for number in range(3):
            assert sender.send(span(number), number) == Delivered()
        assert [report.headers["Authorization"] for report in zipkin_stub.reports] == ["Bearer abc"] * 3
        sender.close()

    def test_server_that_nobody_vouches_for_is_shown_nothing(self, zipkin_stub: ZipkinStub) -> None:
        """Neither spans nor credentials go out, the spans stay, and the reason says what to set."""
        outcome = post(zipkin_stub, token="abc")
        assert isinstance(outcome, Failed)
        assert "certificate verify failed" in outcome.reason
        assert "ca_file" in outcome.reason
        assert zipkin_stub.reports == []

    def test_certificate_is_for_the_host_that_was_asked(self, zipkin_stub: ZipkinStub) -> None:
        """A valid certificate of another host is none."""
        outcome = post(zipkin_stub, url=zipkin_stub.url.replace("127.0.0.1", "127.0.0.2"), ca_file=str(CA))
        assert isinstance(outcome, Failed)
        assert zipkin_stub.reports == []

    def test_client_shows_its_certificate(self, tmp_path: Path) -> None:
        """A server that asks for one gets it, from one file with the key or from two."""
        zipkin_stub = ZipkinStub(tls=server_context(wants_client=True))
        both = tmp_path / "both.pem"
        both.write_bytes(CLIENT.read_bytes() + CLIENT_KEY.read_bytes())
        try:
            for files in (
                {"client_cert_file": str(CLIENT), "client_key_file": str(CLIENT_KEY)},
                {"client_cert_file": str(both)},
            ):
                assert post(zipkin_stub, ca_file=str(CA), **files) == Delivered()
            assert isinstance(post(zipkin_stub, ca_file=str(CA)), Failed)
        finally:
            zipkin_stub.close()
