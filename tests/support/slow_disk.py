"""Disks on which each flush takes its time, by a library that is loaded before the C library's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FLUSH_MS = 10
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int slowly(const char *name, int descriptor) {
    struct timespec flush = {0, FLUSH_MS * 1000000L};
    nanosleep(&flush, 0);
    return ((int (*)(int)) dlsym(RTLD_NEXT, name))(descriptor);
}

int fsync(int descriptor) { return slowly("fsync", descriptor); }
int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
"""


def slow_disk(directory: Path) -> dict[str, str]:
    """Return variables with which each flush of a process takes 10 ms; skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a slow disk is not tested: there is no C compiler")
    source, library = directory / "slow_disk.c", directory / "slow_disk.so"
    source.write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", f"-DFLUSH_MS={FLUSH_MS}", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library)}
