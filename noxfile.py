"""Run the interceptor's tests with every kafka-python and every Python that kaspan is for.

    nox                                   all of it (`make matrix`)
    nox --list                            what there is
    nox -s "kafka_python(2.0.2)"          one; what follows `--` goes to pytest
    nox -s ci                             what .ci/run takes the time for

    nox -s pure                           with nothing compiled
    nox -s sanitized                      with what is compiled watched by AddressSanitizer and UBSan

Each in a virtual environment of its own, with what users get instead of the checkout.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nox

TESTS = ("tests/unit/wire", "tests/unit/interceptor")
# No tests that start programs, but for those of what depends on kafka-python or on what is compiled.
RINGS = "test_ring_writer or test_room or span_open_over_a_fork"
FEW = f"not processes or test_activation or test_first_client or {RINGS}"
# `~=2.1.0` is the newest 2.1.x.
NEWEST = nox.param("kafka-python", id="newest")
# A fork that is imported by the same name.
NG = nox.param("kafka-python-ng", id="ng")
OLD = {
    "2.0.2": nox.param("kafka-python==2.0.2", id="2.0.2"),
    "2.0.6": nox.param("kafka-python==2.0.6", id="2.0.6"),
    "2.1": nox.param("kafka-python~=2.1.0", id="2.1"),
    "2.2": nox.param("kafka-python~=2.2.0", id="2.2"),
    "2.3": nox.param("kafka-python~=2.3.0", id="2.3"),
}

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"  # makes an environment in seconds, pip in minutes
nox.options.error_on_missing_interpreters = False

# uv reads nothing that is meant for pip; a mirror or folder of wheels that is set for pip holds here as well.
for name, pip_name in {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
}.items():
    if pip_name in os.environ:
        os.environ.setdefault(name, os.environ[pip_name])


@functools.cache
def built_sdist(directory: Path) -> str:
    """Build the source distribution, once in a run, of which each session's Python compiles its own wheel."""
    shutil.rmtree(directory, ignore_errors=True)
    command = [sys.executable, "-m", "uv", "build", "--quiet", "--sdist", "--out-dir", directory]
    subprocess.run(command, check=True)
    (sdist,) = directory.glob("*.tar.gz")
    return sdist.as_uri()


def run_tests(
    session: nox.Session, kafka_python: str, *selection: str, installing: Mapping[str, str] = {}
) -> None:
    """Install kaspan beside the required kafka-python, and run the tests or those selected."""
    sdist = built_sdist(Path(session.cache_dir, "dist").absolute())
    session.install(f"kaspan[test] @ {sdist}", kafka_python, env=installing)
    session.run("pytest", "-q", *TESTS, *selection, *session.posargs, env=installing)


# Programs that tests start write no bytecode, and take twice as long where there is none.
COMPILED = {"UV_COMPILE_BYTECODE": "1"}


@nox.session(python="3.11")
@nox.parametrize("required", [*OLD.values(), NG, NEWEST])
def kafka_python(session: nox.Session, required: str) -> None:
    """Test with a version of kafka-python; its 2.0.2 cannot be imported by a Python after 3.11."""
    run_tests(session, required, installing=COMPILED)


@nox.session(python=["3.10", "3.12", "3.13", "3.14"], download_python="never")
def python(session: nox.Session) -> None:
    """Test with a version of Python, where it is installed."""
    run_tests(session, "kafka-python", installing=COMPILED)


# What is compiled is left out; uv keeps what it has built of a source, so this must be another one to it.
PURE = {"PURE_PYTHON": "1", "UV_NO_CACHE": "1"}


@nox.session(python="3.11", default=False)
def pure(session: nox.Session) -> None:
    """Test what depends on it where nothing was compiled."""
    run_tests(session, "kafka-python", "-k", FEW, installing=PURE)


COMPILED_TESTS = [
    f"tests/unit/interceptor/{name}.py"
    for name in (
        *("test_compiled", "kafka/test_asyncio", "handover/test_handover"),
        *("reporters/test_ring_writer", "reporters/test_removed_ring"),
        *("kafka/test_producer", "kafka/test_consumer_loop", "kafka/test_consumer_poll"),
        *("kafka/test_record_headers", "kafka/test_errors"),
    )
]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"


@nox.session(python="3.11", default=False)
def sanitized(session: nox.Session) -> None:
    """Test what is compiled under AddressSanitizer and UBSan, which end the run where it goes wrong."""
    building = {"CFLAGS": SANITIZERS, "LDFLAGS": SANITIZERS, "UV_NO_CACHE": "1"}
    sdist = built_sdist(Path(session.cache_dir, "dist").absolute())
    session.install(f"kaspan[demo,test] @ {sdist}", "kafka-python", env=building)
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    if not Path(found.stdout.strip()).is_absolute():  # what gcc says of a file that it has not
        session.error("gcc has no AddressSanitizer here (Fedora: dnf install libasan libubsan)")
    running = {
        # Python itself is not built with it, so it has to be there before all else.
        "LD_PRELOAD": found.stdout.strip(),
        # What Python never frees is not ours to find.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Python's own allocator hands out parts of larger blocks, in which the sanitizer sees no borders.
        "PYTHONMALLOC": "malloc",
        "CI": "true",  # nothing compiled is a failure, and no reason to skip
    }
    session.run(
        "pytest", "-q", *COMPILED_TESTS, "-k", f"not processes or {RINGS}", *session.posargs, env=running
    )


@nox.session(python="3.11", default=False)
@nox.parametrize("required", [OLD["2.0.2"], OLD["2.2"], OLD["2.3"], NG])
def ci(session: nox.Session, required: str) -> None:
    """Test with old versions and the fork what depends on them; `make test` tests all, with the newest."""
    run_tests(session, required, "-k", FEW)


@nox.session(python="3.11", default=False)
def wheels(session: nox.Session) -> None:
    """Build and check what an index serves; see deploy/wheels.py."""
    session.install("auditwheel >=6.2", "twine >=6", "uv", "ziglang >=0.13")
    session.run("python", "deploy/wheels.py", *session.posargs)
