"""The `kaspan` command, all but `kaspan run`, which the shell script beside it does without Python."""

from __future__ import annotations

import errno
import os
import platform
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from kaspan.wire import VERSION

USAGE = """\
usage: kaspan COMMAND ...

  kaspan run [--service NAME] [--config FILE] -- COMMAND ...
                    run a kafka-python application traced, without a change to its code
  kaspan agent      take the applications' spans and deliver them to Zipkin
  kaspan demo       run three small applications and print their traces
  kaspan config     print the settings in effect and where each came from
  kaspan doctor     say whether this Python is traced, what its rings hold, and what is wrong
  kaspan install    trace every program of this Python, without `kaspan run`
  kaspan uninstall  undo that

`kaspan COMMAND --help` says more, `kaspan --version` which kaspan and which Python this is.
"""
COMMANDS = ("agent", "demo", "config", "doctor", "install", "uninstall")
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def main() -> int:
    """Run one subcommand and return the exit code; 2 for a command line that is not understood.

    Output that cannot be written is told as other commands do: by silence and the code of SIGPIPE where
    nobody reads on (`| head`), else by a line.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started it, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the end)
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        is_unread = isinstance(error, BrokenPipeError)
        if not is_unread and error.errno not in _OUTPUT_ERRORS:
            raise
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if is_unread:
            return 128 + signal.SIGPIPE
        sys.stderr.write(f"kaspan: the output cannot be written: {error.strerror}\n")
        return 1
    return code


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] in (["--help"], ["-h"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    if arguments[:1] in (["--version"], ["-V"], ["version"]):
        sys.stdout.write(f"kaspan {VERSION}, Python {platform.python_version()} at {sys.executable}\n")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        said = f"kaspan: no command {arguments[0]!r}\n" if arguments else ""
        sys.stderr.write(said + USAGE)
        return 2
    command = import_module(f"kaspan.cli.{arguments[0]}")
    try:
        code: int = command.main(arguments[1:])
    except SystemExit as end:  # argparse, after --help or a wrong command line
        return end.code if isinstance(end.code, int) else 0
    return code


if __name__ == "__main__":
    sys.exit(main())
