"""Zipkin's own page, from its jar: a user fetches it by its Maven coordinates, io.zipkin:zipkin-lens.

Source: ZipkinUiConfiguration of Zipkin 3.
"""

from __future__ import annotations

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kaspan.agent.http.encoding import accepts_gzip
from kaspan.agent.http.messages import Handler, Request, Response
from kaspan.agent.http.server import VARIABLE, HttpServer
from kaspan.config.errors import ConfigError, escaped

SAFE = (("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin"))
"""Headers of all that is here: a browser takes it for what it is, and for the agent's own pages only."""
_PAGE = (
    *SAFE,
    (
        "Content-Security-Policy",
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
        "form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
MAX_FILES = 256
MAX_BYTES = 32 * 1024 * 1024
"""What the page may have in all; that of Zipkin 3.5.1 has 4 files of 2.6 MB."""
_ROOT = "zipkin-lens/"
_INDEX = "index.html"
_PAGES = (
    "/zipkin/",
    "/zipkin/index.html",
    f"/zipkin/traces{VARIABLE}",
    "/zipkin/dependency",
    "/zipkin/traceViewer",
)
"""Where the page is: its script looks at the address to know what to show."""
_REDIRECTS = {"/": "/zipkin/", "/zipkin": "/zipkin/", "/favicon.ico": "/zipkin/favicon.ico"}
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises for a damaged jar, one that needs a password, and one that is packed in another way."""
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "map": "application/json; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "woff": "font/woff",
    "woff2": "font/woff2",
}
_PACKED_TYPES = ("css", "html", "js", "json", "map", "svg", "txt")
_MIN_GZIP_BYTES = 2048


class File(NamedTuple):
    """A file of the page; `packed` is it in gzip, empty where that saves nothing."""

    kind: str
    plain: bytes
    packed: bytes

    @classmethod
    def of(cls, name: str, plain: bytes) -> File:
        """Make a file from its content."""
        extension = name.rpartition(".")[2].lower()
        kind = _TYPES.get(extension, "application/octet-stream")
        is_packed = extension in _PACKED_TYPES and len(plain) >= _MIN_GZIP_BYTES
        return cls(kind, plain, gzip.compress(plain, mtime=0) if is_packed else b"")

    def response(self, request: Request, headers: tuple[tuple[str, str], ...]) -> Response:
        """Make the response with this file."""
        if not self.packed:
            return Response(200, self.plain, self.kind, headers)
        headers += (("Vary", "Accept-Encoding"),)
        if accepts_gzip(request.headers):
            return Response(200, self.packed, self.kind, (*headers, ("Content-Encoding", "gzip")))
        return Response(200, self.plain, self.kind, headers)


class Lens:
    """The page's files by name, which `open` has read into memory: nothing else of the disk can be served."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files

    @classmethod
    def open(cls, path: str) -> Lens:
        """Read the jar at `path`. Raises ConfigError if it is not Zipkin's page."""
        if not os.path.isfile(path):
            raise _refused(path, "is not a file")
        try:
            with zipfile.ZipFile(path) as jar:
                files = dict(_read(jar))
        except OSError as error:
            raise _refused(path, f"cannot be read: {error.strerror}") from error
        except _BROKEN as error:
            raise _refused(path, f"cannot be read: {error}") from error
        if _INDEX not in files:
            raise _refused(path, f"has no {_ROOT}{_INDEX}")
        return cls(files)

    def add_to(self, server: HttpServer) -> None:
        """Add a route for each file, and for each address of the page."""
        for name, file in self._files.items():
            server.add("GET", f"/zipkin/{name}", _serve(file, (*SAFE, ("Cache-Control", "max-age=31536000"))))
        page = _serve(self._files[_INDEX], (*_PAGE, ("Cache-Control", "max-age=60")))
        for path in _PAGES:
            server.add("GET", path, page)
        for path, target in _REDIRECTS.items():
            server.add("GET", path, _redirect(target))


def _serve(file: File, headers: tuple[tuple[str, str], ...]) -> Handler:
    async def serve(request: Request) -> Response:
        return file.response(request, headers)

    return serve


def _redirect(target: str) -> Handler:
    async def redirect(request: Request) -> Response:
        location = f"{target}?{request.query}" if request.query else target
        return Response(302, headers=(*SAFE, ("Location", location)))

    return redirect


def _read(jar: zipfile.ZipFile) -> Iterator[tuple[str, File]]:
    """Yield the page's files by their names. Raises BadZipFile for names and sizes that no such page has."""
    infos = [info for info in jar.infolist() if info.filename.startswith(_ROOT) and not info.is_dir()]
    if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
        raise zipfile.BadZipFile(f"its page has more than {MAX_FILES} files or {MAX_BYTES} bytes")
    for info in infos:
        name = info.filename.removeprefix(_ROOT)
        if not _NAME.fullmatch(name) or name.startswith("api/"):
            raise zipfile.BadZipFile(f"{escaped(info.filename)[:200]} is not a name of the page's files")
        yield name, File.of(name, jar.read(info))


def _refused(path: str, what: str) -> ConfigError:
    return ConfigError(
        [
            f"agent.web.lens: {path} {what}; it must be Zipkin's page, zipkin-lens-VERSION.jar of Maven's "
            "io.zipkin:zipkin-lens"
        ]
    )
