"""Zipkin's own Java classes for traces, asked from Python."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from servers.jars import Jars

HERE = Path(__file__).parent


class ZipkinClasses:
    """A process that runs trace.groovy with classes of the server's jar, which are copied to `directory`."""

    def __init__(self, jars: Jars, directory: Path) -> None:
        with zipfile.ZipFile(jars.zipkin_jar) as server:
            classes = [name for name in server.namelist() if name.startswith("BOOT-INF/lib/zipkin-3")]
            copies = [server.extract(name, directory) for name in classes]
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-cp", ":".join([jars.brave_class_path, *copies])]
        self._process = subprocess.Popen(
            [jars.java, *options, "groovy.ui.GroovyMain", str(HERE / "trace.groovy")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, spans: list[dict[str, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return what a trace becomes: its spans cleaned up, its tree, its links; see trace.groovy."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(spans) + b"\n")
        self._process.stdin.flush()
        cleaned, tree, links = msgspec.json.decode(self._process.stdout.readline())
        return cleaned, tree, links

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()
