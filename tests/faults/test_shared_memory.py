"""What a container with 64 MiB of shared memory has for its application: as much as without kaspan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import SEND, ProgramRunner

WORKERS = 15
WORKER = f"""{SEND}
import sys
print("sent", flush=True)
sys.stdin.read()
"""
APPLICATION = """
import subprocess, sys
from multiprocessing.shared_memory import SharedMemory
workers = []
pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
for _ in range(int(sys.argv[1])):
    workers.append(subprocess.Popen(sys.argv[2:], stdin=pipe, stdout=pipe, stderr=nothing))
for worker in workers:
    assert worker.stdout.readline() == b"sent\\n"
mine = SharedMemory(create=True, size=30 << 20)
mine.buf[:] = b"x" * mine.size
print("written", flush=True)
mine.close()
mine.unlink()
for worker in workers:
    worker.communicate()
"""
IN_CONTAINER = """
mount -t tmpfs -o size=64m none /dev/shm && mount --bind "$1" /var/tmp && shift && exec "$@"
"""


def run_in_container(
    programs: ProgramRunner, disk: Path, *command: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command with 64 MiB at /dev/shm, as a container has, and `disk` for its /var/tmp."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can make namespaces, with unshare of util-linux")
    disk.mkdir()
    unshare = ("unshare", "--mount", "--propagation", "private")
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")
    return programs.run(
        *(*unshare, "sh", "-c", IN_CONTAINER, "sh", disk, *command), KASPAN_INTERCEPTOR__RING_DIR=None
    )


def test_fifteen_workers_leave_the_application_its_shared_memory(tmp_path: Path) -> None:
    """An application uses 30 of 64 MiB next to fifteen traced workers, and all their spans are in rings."""
    programs = ProgramRunner(tmp_path)
    worker = [*programs.kaspan_run(), "-c", WORKER]
    done = run_in_container(
        programs, tmp_path / "var-tmp", sys.executable, "-c", APPLICATION, str(WORKERS), *worker
    )

    assert (done.returncode, done.stdout) == (0, "written\n"), done.stderr
    on_disk = list((tmp_path / "var-tmp" / f"kaspan-{os.geteuid()}").iterdir())
    assert len(on_disk) >= WORKERS - 9  # seven of 4 MiB, one of 2 and one of 1 fit into half of 64
