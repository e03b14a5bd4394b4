"""How the agent authenticates to an HTTP server: credentials, custom headers, TLS."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from urllib.parse import unquote, urlsplit

from kaspan.agent.senders.base import SettingError
from kaspan.config.display import mask_name
from kaspan.config.schema import ZipkinSender

_OURS = frozenset(
    {
        "b3",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "upgrade",
    }
)
_header_name = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_header_value = re.compile(r"[\t -~]*").fullmatch


def headers_of(settings: ZipkinSender) -> dict[str, str]:
    """Return the headers of the settings, with the credentials. Raises SettingError."""
    headers: dict[str, str] = {}
    for name, value in (settings.headers or {}).items():
        _check_header(name, value, headers)
        headers[name] = value
    authorization = _authorization(settings)
    if authorization:
        if any(name.lower() == "authorization" for name in headers):
            raise SettingError(
                "headers", "has Authorization, and username, token or url set it too; the rule is one of them"
            )
        headers["Authorization"] = authorization
    return headers


def _check_header(name: str, value: str, others: dict[str, str]) -> None:
    if not _header_name(name):
        raise SettingError("headers", f"has {mask_name(name)!a}, which cannot be a header's name")
    if name.lower() in _OURS:
        raise SettingError("headers", f"has {name}, which only the sender itself may set; remove it")
    if name.lower() in map(str.lower, others):
        raise SettingError("headers", f"has {name} twice; names that differ only in case are the same header")
    if not _header_value(value):
        raise SettingError(
            f"headers.{name}", "has a value that is not allowed; the rule is printable ASCII on one line"
        )


def _authorization(settings: ZipkinSender) -> str:
    user, password = settings.username, settings.password
    in_url = urlsplit(settings.url).netloc.rpartition("@")[0]
    sources = [
        name for name, value in (("username", user), ("token", settings.token), ("url", in_url)) if value
    ]
    if len(sources) > 1:
        raise SettingError("", f"has credentials in {' and in '.join(sources)}; the rule is one of them")
    if password and not user:
        raise SettingError("password", "comes without username; the rule is both or none")
    if in_url:
        name, _, secret = in_url.partition(":")
        user, password = unquote(name), unquote(secret)
    if user:
        if ":" in user:
            raise SettingError("username", "has a colon, which HTTP's basic authentication cannot carry")
        return "Basic " + b64encode(f"{user}:{password or ''}".encode()).decode()
    if settings.token and not re.fullmatch("[!-~]+", settings.token):
        raise SettingError(
            "token", "has a value that is not allowed; the rule is printable ASCII without spaces"
        )
    return f"Bearer {settings.token}" if settings.token else ""


def tls_of(settings: ZipkinSender) -> ssl.SSLContext | None:
    """Return the TLS context, which verifies the server and may have a client certificate; None for http.

    Raises SettingError.
    """
    files = {
        "ca_file": settings.ca_file,
        "client_cert_file": settings.client_cert_file,
        "client_key_file": settings.client_key_file,
    }
    if urlsplit(settings.url).scheme != "https":
        for key, value in files.items():
            if value:
                raise SettingError(key, "is for TLS; the rule is a url that begins with https://")
        return None
    for key, path in files.items():
        _check_readable(key, path)
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (ssl.SSLError, OSError) as error:
        raise SettingError(
            "ca_file", f"is {settings.ca_file}, which does not contain certificates in PEM format"
        ) from error
    if settings.client_key_file and not settings.client_cert_file:
        raise SettingError("client_key_file", "comes without client_cert_file; the rule is both or none")
    if settings.client_cert_file:
        try:
            # password="": OpenSSL would ask for the passphrase of a key on the terminal.
            context.load_cert_chain(settings.client_cert_file, settings.client_key_file, password="")
        except (ssl.SSLError, OSError) as error:
            raise SettingError(
                "client_cert_file",
                f"is {settings.client_cert_file}, which cannot be used with its key ({error}); the rule is a "
                "certificate and its key in PEM format, the key without a passphrase",
            ) from error
    return context


def _check_readable(key: str, path: str | None) -> None:
    if path:
        try:
            open(path, "rb").close()
        except OSError as error:
            raise SettingError(key, f"is {path}, which cannot be read: {error.strerror}") from error
