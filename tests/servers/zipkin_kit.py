"""Zipkin's own tests of a span store, run over HTTP against servers that `ServerFactory` starts for them."""

from __future__ import annotations

import subprocess
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

from servers.jars import fetch, find_java
from servers.zipkin import StorageSettings

PROJECT = Path(__file__).parents[1] / "zipkin_kit"
RUN_TIMEOUT_S = 900
COMPILE_TIMEOUT_S = 120
CLASSES_AT_ONCE = 4


class StoreServer(Protocol):
    """What the kit needs of a server with Zipkin's API."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def wait_until_ready(self) -> None: ...

    def wait_until_stored(self) -> None: ...

    def stop(self) -> None: ...


class ServerFactory:
    """Starts and ends servers for tests in another process that ask for them by HTTP, at `url`.

    POST starts one with the settings of the query and answers with its URL; PUT waits until all spans of
    ?server= can be found; DELETE ends it. `make` makes one that is not started; `close` ends those left.
    """

    def __init__(self, make: Callable[[StorageSettings], StoreServer]) -> None:
        self._make = make
        self._running: dict[str, StoreServer] = {}
        self._lock = threading.Lock()
        factory = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer(factory._start(self._query()))

            def do_PUT(self) -> None:
                factory._running[self._query()["server"]].wait_until_stored()
                self._answer("")

            def do_DELETE(self) -> None:
                factory._stop(self._query()["server"])
                self._answer("")

            def _query(self) -> dict[str, str]:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

            def _answer(self, text: str) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End every server that still runs, and listen no more."""
        self._http.shutdown()
        self._http.server_close()
        for url in list(self._running):
            self._stop(url)

    def _start(self, query: dict[str, str]) -> str:
        with self._lock:
            server = self._make(
                StorageSettings(
                    strict_trace_id=query["strictTraceId"] == "true",
                    search_enabled=query["searchEnabled"] == "true",
                    autocomplete_keys=tuple(filter(None, query.get("autocompleteKeys", "").split(","))),
                )
            )
        server.start()
        server.wait_until_ready()
        self._running[server.url] = server
        return server.url

    def _stop(self, url: str) -> None:
        self._running.pop(url).stop()


def run_kit(servers_url: str, reports: Path) -> dict[str, dict[str, str]]:
    """Run the kit, and return what became of each test of each class: "" or the text of its failure.

    `reports` is an empty directory. Fetches and compiles the kit first, when it has changed.
    """
    java = find_java()
    target = fetch(PROJECT, "lib", "compiler")
    (compiler,) = (target / "compiler").glob("*.jar")
    class_path = ":".join(map(str, sorted((target / "lib").glob("*.jar"))))
    classes = reports / "classes"
    subprocess.run(
        [java, "-jar", compiler, "-17", "-nowarn", "-proc:none", "-d", classes, "-cp", class_path, "java"],
        cwd=PROJECT,
        check=True,
        timeout=COMPILE_TIMEOUT_S,
    )
    parallel = "junit.jupiter.execution.parallel"
    (launcher,) = (target / "lib").glob("junit-platform-console-*.jar")
    with open(reports / "log", "wb") as log:
        subprocess.run(
            [
                *(java, "-XX:+UseSerialGC", f"-Dservers={servers_url}", "-jar", launcher, "execute"),
                *("--class-path", f"{classes}:{class_path}", "--select-class", "kaspan.ITHttpStorage"),
                *("--reports-dir", reports, "--details", "none", "--disable-banner"),
                *("--config", f"{parallel}.enabled=true"),
                *("--config", f"{parallel}.mode.classes.default=concurrent"),
                *("--config", f"{parallel}.config.strategy=fixed"),
                *("--config", f"{parallel}.config.fixed.parallelism={CLASSES_AT_ONCE}"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,  # 1 when a test fails: the report says which
            timeout=RUN_TIMEOUT_S,
        )
    return _read_report(reports / "TEST-junit-jupiter.xml")


def _read_report(path: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 (of the kit's own making)
        name = str(case.get("name")).partition("(")[0]
        wrong = [said for kind in ("failure", "error", "skipped") for said in case.iter(kind)]
        text = "\n".join(f"{said.get('message') or ''}\n{said.text or ''}" for said in wrong)
        found[str(case.get("classname")).rpartition("$")[2]][name] = text
    return dict(found)
