"""The servers' jars: fetched once by Maven for each version of pom.xml, then reused."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MIN_JAVA = 17
"""Kafka 4.1's broker and Zipkin 3.5 both refuse anything older."""
FETCH_TIMEOUT_S = 600


class ServersMissingError(Exception):
    """The servers cannot be run on this machine; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Jars:
    """What Java needs: Kafka's class path, Zipkin's one jar, and the class path of Brave."""

    java: str
    kafka_class_path: str
    zipkin_jar: Path
    brave_class_path: str


def find_java() -> str:
    """Return the path of a Java that can run the servers.

    Raises:
        ServersMissingError: there is none on PATH, or it is older than MIN_JAVA.
    """
    java = shutil.which("java")
    if java is None:
        raise ServersMissingError("no `java` on PATH (Debian: apt install openjdk-17-jre-headless)")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < MIN_JAVA:
        first = said.strip().partition("\n")[0]
        raise ServersMissingError(f"{java} is not Java {MIN_JAVA} or newer, it says: {first}")
    return java


def fetch_jars() -> Jars:
    """Return the jars that pom.xml names; see `fetch`."""
    java = find_java()
    target = fetch(HERE, "kafka", "zipkin", "brave")
    (zipkin_jar,) = (target / "zipkin").glob("*.jar")
    return Jars(java, f"{target / 'kafka'}/*", zipkin_jar, f"{target / 'brave'}/*")


def fetch(project: Path, *folders: str) -> Path:
    """Return a Maven project's folder target, with the jars that its pom.xml names in these folders.

    Fetches them by Maven the first time, and after a change of pom.xml. Blocks while another run in the same
    checkout fetches.

    Raises:
        ServersMissingError: Maven is missing.
        RuntimeError: Maven failed; the message has its output.
    """
    target = project / "target"
    target.mkdir(exist_ok=True)
    with open(target / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _fetch_if_changed(project, target, folders)
    return target


def _fetch_if_changed(project: Path, target: Path, folders: tuple[str, ...]) -> None:
    stamp = target / "fetched"
    wanted = hashlib.sha256((project / "pom.xml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise ServersMissingError("no `mvn` on PATH to fetch them with (Debian: apt install maven)")
    for folder in folders:
        shutil.rmtree(target / folder, ignore_errors=True)
    done = subprocess.run(
        [maven, "--batch-mode", "--quiet", "package"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=FETCH_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch the jars of {project / 'pom.xml'}:\n{done.stdout}")
    stamp.write_text(wanted)
