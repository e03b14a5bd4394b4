"""Build the files for a package index: the sdist, a wheel for every Python, and wheels with the compiled
part.

    nox -s wheels          (make wheels; into dist/)

The compiled wheels are for CPython on x86-64 and aarch64 with glibc 2.17 or newer. zig compiles for both on
any machine, against that glibc, with the headers of each CPython. So a user without a C compiler, as in a
slim image, gets the fast path. auditwheel and twine check the files. Each wheel that this machine can run
is installed with a PATH without a compiler, and must trace with the compiled classes.

A CPython that is not on this machine and that uv cannot fetch is skipped, and named at the end.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 17)
"""The glibc of manylinux2014: older than any system with one of these Pythons."""

TRACED = """
import sys
from kafka import KafkaProducer
from kaspan.interceptor.accelerate import compiled
sys.exit(compiled is None)
"""


class CannotBuildError(Exception):
    """A step failed; the message has its output."""


def run(*command: str | Path, **variables: str) -> str:
    """Run a command with these additional variables; returns its output.

    Raises:
        CannotBuildError: it ended with another exit code than 0.
    """
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise CannotBuildError(f"{words}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def uv(*arguments: str | Path, **variables: str) -> str:
    """Run uv, which is installed together with nox."""
    return run(sys.executable, "-m", "uv", *arguments, **variables)


def find_python(version: str) -> str | None:
    """Return the path of a CPython, fetched by uv if it is not here; None if that fails."""
    for attempt in (("python", "find", version), ("python", "install", "--quiet", version)):
        try:
            uv(*attempt)
        except CannotBuildError:
            continue
        return uv("python", "find", version).strip()
    return None


def zig_variables(version: str, machine: str, directory: Path) -> Mapping[str, str]:
    """Return the variables that make setuptools compile with zig for a machine."""
    compiler = directory / f"zig-{machine}"
    target = f"{machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang cc -target {target} "$@"\n')
    compiler.chmod(0o755)
    suffix = f".cpython-{version.replace('.', '')}-{machine}-linux-gnu.so"
    return {
        "CC": str(compiler),
        "LDSHARED": f"{compiler} -shared",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "SETUPTOOLS_EXT_SUFFIX": suffix,
        "KASPAN_REQUIRE_COMPILED": "1",
    }


def build_compiled(version: str, machine: str, python: str, sdist: Path, dist: Path, directory: Path) -> Path:
    """Build the wheel for one CPython on one machine; returns its path.

    Raises:
        CannotBuildError: it does not compile, or needs a newer glibc than GLIBC.
    """
    platform_tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}"
    uv(
        *("build", "--quiet", "--wheel", "--python", python, "--out-dir", dist),
        f"--config-setting=--build-option=--plat-name={platform_tag}",
        sdist,
        **zig_variables(version, machine, directory),
    )
    tag = f"cp{version.replace('.', '')}"
    (wheel,) = dist.glob(f"*-{tag}-{tag}-{platform_tag}.whl")
    said = run(sys.executable, "-m", "auditwheel", "show", wheel)
    if f'"{platform_tag}"' not in said:
        raise CannotBuildError(f"{wheel.name} does not fit its name:\n{said}")
    return wheel


def try_without_compiler(wheel: Path, python: str, directory: Path) -> None:
    """Install a wheel without a compiler on PATH, and check that the compiled classes are used.

    Raises:
        CannotBuildError: it cannot be installed, or they are not.
    """
    venv = directory / wheel.stem
    uv("venv", "--quiet", "--python", python, venv)
    there = venv / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", there, wheel, "kafka-python", PATH=str(venv / "bin"))
    run(there, "-c", TRACED, PATH=str(venv / "bin"))


def build_all(dist: Path, directory: Path) -> list[str]:
    """Build everything into `dist`; returns the Pythons that were skipped."""
    uv("build", "--quiet", "--sdist", "--out-dir", dist)
    (sdist,) = dist.glob("*.tar.gz")
    uv("build", "--quiet", "--wheel", "--out-dir", dist, sdist, PURE_PYTHON="1")
    left_out = []
    for version in PYTHONS:
        python = find_python(version)
        if python is None:
            left_out.append(version)
            continue
        for machine in MACHINES:
            wheel = build_compiled(version, machine, python, sdist, dist, directory)
            if machine == platform.machine():
                try_without_compiler(wheel, python, directory)
            print(wheel.name, flush=True)
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.glob("kaspan-*"))
    return left_out


def main() -> int:
    """Build everything into dist/, which is emptied first."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        try:
            left_out = build_all(dist, Path(directory))
        except CannotBuildError as error:
            print(f"wheels.py: {error}", file=sys.stderr)
            return 1
    if left_out:
        print(f"skipped, because neither this machine nor uv has them: CPython {', '.join(left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
