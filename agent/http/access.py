"""Access by TCP: a request must have the token or, where none is set, not come from another site's web page.

A browser sends requests for any page, to the loopback address too, and shows the page the answer if the
page's own name resolves to this machine (DNS rebinding). Two headers tell: `Origin` names the page, `Host`
the name that the request was sent to. A page of another site cannot have an address as `Host`, or a private
name. Where `Origin` is missing, as with images and scripts, `Sec-Fetch-Site` says that another site's page
asks. agent.allowed_origins are the pages that may report, agent.web.allowed_origins those that may read.
"""

from __future__ import annotations

import hmac
import logging
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from kaspan.agent.globs import Globs
from kaspan.agent.http.messages import Request, Response, make_refusal
from kaspan.config import schema
from kaspan.config.errors import escaped

_PRIVATE_DOMAINS = (".localhost", ".internal", ".svc", ".svc.cluster.local")
"""Domains that no public name server resolves: RFC 6761, ICANN's .internal, and Kubernetes' services."""
_RESOLVER = Path("/etc/resolv.conf")
_MAX_AGE_S = 600
_READING = ("GET", "HEAD")

_log = logging.getLogger("kaspan.agent")


class Access:
    """Decides by the settings which requests are answered. Only the constructor blocks: it reads a file."""

    def __init__(self, settings: schema.Agent, machine: str = "", resolver: Path = _RESOLVER) -> None:
        self._authorization = f"Bearer {settings.token}".encode() if settings.token else b""
        listen_host = settings.listen.rpartition(":")[0]
        self._names = {name.lower() for name in (listen_host, machine or socket.gethostname()) if name}
        self._domains = (*_PRIVATE_DOMAINS, *_service_domains(resolver))
        self._hosts = _globs(settings.allowed_hosts)
        self._reporting = _globs(settings.allowed_origins)
        self._reading = _globs(settings.web.allowed_origins)
        self._seen_hosts: dict[str, bool] = {}
        self._has_warned = False

    def refuse(self, request: Request) -> Response | None:
        """Return a refusal of a request to a route that is not public, None if it is allowed."""
        if request.is_trusted or self.is_preflight(request):
            return None
        if self._authorization:
            authorization = request.headers.get("authorization", "").encode("latin-1")
            if hmac.compare_digest(authorization, self._authorization):
                return None
            reason = "agent.token is set: send it as Authorization: Bearer TOKEN"
            return make_refusal(401, "unauthorized", reason, ("WWW-Authenticate", "Bearer"))
        return self._refuse_host(request.headers.get("host", "")) or self._refuse_origin(request)

    def is_preflight(self, request: Request) -> bool:
        """Whether a request is the CORS preflight of an allowed page."""
        headers = request.headers
        wanted = headers.get("access-control-request-method", "")
        return request.method == "OPTIONS" and bool(wanted) and self._is_origin(headers, wanted)

    def preflight(self, request: Request, methods: Iterable[str]) -> Response:
        """Allow what the preflight asks for."""
        wanted = request.headers.get("access-control-request-headers", "")
        headers = [("Access-Control-Allow-Methods", ", ".join(methods))]
        if wanted:
            headers.append(("Access-Control-Allow-Headers", wanted))
        return Response(204, headers=(*headers, ("Access-Control-Max-Age", str(_MAX_AGE_S))))

    def with_cors_headers(self, request: Request, answer: Response) -> Response:
        """Add headers that let an allowed page read the response."""
        origin = request.headers.get("origin", "")
        wanted = request.headers.get("access-control-request-method", "")
        if not self._is_origin(request.headers, wanted if request.method == "OPTIONS" else request.method):
            return answer
        shared = (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
        return answer._replace(headers=(*answer.headers, *shared))

    def _refuse_host(self, host: str) -> Response | None:
        is_known = self._seen_hosts.get(host)
        if is_known is None:
            if len(self._seen_hosts) >= 100:  # clients could send endlessly many
                self._seen_hosts.clear()
            is_known = self._seen_hosts[host] = self._is_host(host)
        if is_known:
            return None
        return self._forbid("host", f"Host {escaped(host)[:200]} is not in agent.allowed_hosts")

    def _is_host(self, host: str) -> bool:
        """Whether a host is an address, an allowed name, or a name that another site's page cannot have."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") < 2:
            name = name.partition(":")[0]
        name = name.removesuffix(".")
        with suppress(ValueError):
            ip_address(name)
            return True
        if "." not in name or name in self._names or name.endswith(self._domains):
            return True
        return self._hosts is not None and self._hosts.matches(name)

    def _refuse_origin(self, request: Request) -> Response | None:
        """Refuse a web page that is not allowed: browsers name its origin, or say that it is another site."""
        headers, is_reading = request.headers, request.method in _READING
        origin = headers.get("origin", "")
        if not origin:
            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return None
            if is_reading and _is_followed_link(headers):
                return None
        elif self._is_origin(headers, request.method) or origin.partition("://")[2] == headers.get("host"):
            return None  # allowed, or the agent's own page: the host was checked
        page = escaped(origin)[:200] or "of another site"
        key = "agent.web.allowed_origins" if is_reading else "agent.allowed_origins"
        return self._forbid("origin", f"Origin {page} is not in {key}")

    def _is_origin(self, headers: Mapping[str, str], method: str) -> bool:
        """Whether a request comes from a page that is allowed to send requests of this method."""
        origin = headers.get("origin", "")
        allowed = self._reading if method in _READING else self._reporting
        return bool(origin) and allowed is not None and allowed.matches(origin)

    def _forbid(self, refusal: str, reason: str) -> Response:
        if not self._has_warned:
            self._has_warned = True
            _log.warning("a request got the answer 403: %s; later ones are only counted", reason)
        return make_refusal(
            403,
            refusal,
            f"{reason}; add it there, or set agent.token and send it with each request",
        )


def _globs(globs: tuple[str, ...]) -> Globs | None:
    """Return what matches one of the globs, None for none: no globs together would match everything."""
    return Globs(globs, ignore_case=True) if globs else None


def _is_followed_link(headers: Mapping[str, str]) -> bool:
    """Whether a user followed a link from another site's page, which then sees nothing of the answer."""
    destination = headers.get("sec-fetch-dest", "document")
    return headers.get("sec-fetch-mode") == "navigate" and destination == "document"


def _service_domains(resolver: Path) -> list[str]:
    """Return the service domains of a Kubernetes pod from its resolver file; empty elsewhere.

    With `search monitoring.svc.cluster.local ...` kaspan-agent.monitoring is a name of this agent.
    """
    try:
        lines = resolver.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    names = [name for line in lines if line.startswith("search") for name in line.split()[1:]]
    searched = [name.lower().rstrip(".") for name in names]
    pods = [name.partition(".svc.") for name in searched if ".svc." in name]
    return [domain for namespace, _, cluster in pods for domain in (f".{namespace}", f".svc.{cluster}")]
