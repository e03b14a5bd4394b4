"""Traces from a Zipkin, or from kaspan's own server, by Zipkin's query API."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from kaspan.agent.senders.base import SettingError
from kaspan.agent.senders.http_auth import headers_of, tls_of
from kaspan.agent.senders.secrets import with_secrets
from kaspan.agent.senders.zipkin import target
from kaspan.cli.trace_source import SourceError
from kaspan.config import ConfigError, schema
from kaspan.config.display import mask
from kaspan.config.errors import shorten
from kaspan.store.query_request import QueryRequest, parse_annotation_query
from kaspan.wire.span import SPANS_PATH, Span

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 1 << 30
LONGEST_OF = 1000
"""Zipkin does not sort by duration: the longest are looked for among so many of the newest traces."""
_OK, _NOT_FOUND = 200, 404
_ADVICE = {
    401: "; it wants credentials: give them to the sender with this address in agent.senders",
    403: "; it does not allow this",
    _NOT_FOUND: "; there is no Zipkin at this address",
}

T = TypeVar("T")


class ZipkinSource:
    """The Zipkin at `url`: http://zipkin:9411, or the full address for spans.

    Connecting, and each step of an answer, block for at most TIMEOUT_S. Raises ConfigError for an address
    that cannot be one, and for wrong credentials in the settings.
    """

    def __init__(self, url: str, agent: schema.Agent, environ: Mapping[str, str] = os.environ) -> None:
        shown = mask("url", url)
        self.name = f"the Zipkin at {shown}"
        settings = _settings(url, agent, environ)
        scheme, self._address, path = target(settings.url)
        self._is_tls = scheme == "https"
        self._base = path.partition("?")[0].removesuffix(SPANS_PATH)
        try:
            self._headers = {"b3": "0", **headers_of(settings)}
            self._tls = tls_of(settings)
        except SettingError as error:
            problem = f"{error.key} {error.problem}".strip()
            raise ConfigError([f"the credentials for --zipkin {shown}: {problem}"]) from error

    def trace(self, trace_id: str) -> list[Span]:
        """Ask for one trace."""
        status, body = self._get(f"/api/v2/trace/{trace_id}")
        # Zipkin answers with a text that names the id; a server that is no Zipkin with its own page.
        if status == _NOT_FOUND and trace_id.lstrip("0").encode() in body:
            return []
        return self._decoded(status, body, list[Span])

    def traces(self, request: QueryRequest) -> Iterator[list[Span]]:
        """Search. The longest are those of LONGEST_OF traces if the server cannot sort by duration."""
        parameters = _parameters(request)
        is_sorted_here = request.order == "longest" and not self._sorts()
        if is_sorted_here:
            parameters["limit"] = max(LONGEST_OF, request.limit)
        elif request.order != "newest":
            parameters["order"] = request.order
        found = self._decoded(*self._get("/api/v2/traces", parameters), list[list[Span]])
        if is_sorted_here:
            found.sort(key=_longest_us, reverse=True)
            del found[request.limit :]
        yield from found

    def services(self) -> list[str]:
        """Return the names of all services."""
        return self._decoded(*self._get("/api/v2/services"), list[str])

    def _sorts(self) -> bool:
        """Whether the server knows the parameter `order`, as kaspan's does, and so refuses an unknown one."""
        status, _ = self._get("/api/v2/traces", {"order": "unknown", "limit": 1, "lookback": 1})
        return status == http.HTTPStatus.BAD_REQUEST

    def _decoded(self, status: int, body: bytes, type_: type[T]) -> T:
        text = shorten(" ".join(body[:500].decode("utf-8", "replace").split()))
        if status != _OK:
            raise SourceError(f"{self.name} answers {status}: {text}{_ADVICE.get(status, '')}")
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.MsgspecError as error:
            raise SourceError(f"{self.name} does not answer as Zipkin does: {text}") from error

    def _get(self, path: str, parameters: Mapping[str, object] | None = None) -> tuple[int, bytes]:
        query = f"?{urlencode(parameters)}" if parameters else ""
        connection = (
            http.client.HTTPSConnection(self._address, timeout=TIMEOUT_S, context=self._tls)
            if self._is_tls
            else http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        )
        try:
            connection.request("GET", f"{self._base}{path}{query}", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            hint = " (see ca_file of the sender)" if isinstance(error, ssl.SSLCertVerificationError) else ""
            reason = str(error) or type(error).__name__
            raise SourceError(f"{self.name} does not answer: {reason}{hint}; is it running?") from error
        finally:
            connection.close()
        if len(body) > MAX_ANSWER_BYTES:
            raise SourceError(f"{self.name} answers with more than {MAX_ANSWER_BYTES} bytes; ask for less")
        return answer.status, body


def _longest_us(trace: list[Span]) -> int:
    return max((span.duration or 0 for span in trace), default=0)


def _parameters(request: QueryRequest) -> dict[str, object]:
    """Return the parameters of a search, without the order. Raises SourceError for what has none."""
    conditions = [f"{key}={value}" if value else key for key, value in request.annotation_query.items()]
    text = " and ".join(conditions)
    if parse_annotation_query(text) != request.annotation_query:
        raise SourceError(
            f"Zipkin cannot be asked for {shorten(text)}: in its queries ` and ` stands between conditions"
        )
    parameters: dict[str, object] = {
        "endTs": request.end_ts_ms,
        "lookback": request.lookback_ms,
        "limit": request.limit,
    }
    if request.service_name:
        parameters["serviceName"] = request.service_name
    if text:
        parameters["annotationQuery"] = text
    return parameters


def _settings(url: str, agent: schema.Agent, environ: Mapping[str, str]) -> schema.ZipkinSender:
    """Return the address with credentials: its own, else those of the sender or the agent at this address.

    A token goes to no other server than the one that it is set for. Raises ConfigError.
    """
    try:
        asked = msgspec.convert({"type": "zipkin", "url": url}, schema.ZipkinSender)
        port = urlsplit(url).port
    except (msgspec.ValidationError, ValueError) as error:
        rule = "the rule is an address such as http://127.0.0.1:9411"
        raise ConfigError([f"command line: --zipkin is {mask('url', url)}; {rule}"]) from error
    if "@" in urlsplit(url).netloc:
        return asked
    for index, sender in enumerate(agent.senders):
        if isinstance(sender, schema.ZipkinSender) and target(sender.url)[:2] == target(url)[:2]:
            errors: list[str] = []
            expanded: schema.ZipkinSender = with_secrets(sender, f"agent.senders[{index}]", environ, errors)
            if errors:
                raise ConfigError(errors)
            return expanded
    listen_host, _, listen_port = agent.listen.rpartition(":")
    if agent.listen and str(port) == listen_port and _is_here(urlsplit(url).hostname or "", listen_host):
        cert = agent.tls.cert if asked.url.startswith("https") else ""
        return msgspec.structs.replace(asked, token=agent.token or None, ca_file=cert or None)
    return asked


def _is_here(host: str, listen_host: str) -> bool:
    """Whether a host is the one that the agent listens at."""
    if host == listen_host.strip("[]"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
