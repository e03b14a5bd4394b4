"""The `kaspan` command, except `kaspan run`: a shell script does that without starting Python."""

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
  kaspan server     run a small Zipkin: take spans, keep them, and answer Zipkin's queries
  kaspan traces     list traces, the newest first, from the span store or from any Zipkin
  kaspan trace      draw one trace in the terminal
  kaspan demo       run three small applications and print their traces
  kaspan config     print the settings in effect and where each value came from
  kaspan doctor     print whether this Python is traced, what is in its rings, and what is wrong
  kaspan install    trace every program of this Python, without `kaspan run`
  kaspan uninstall  undo `kaspan install`

`kaspan COMMAND --help` describes a command, `kaspan --version` prints the versions of kaspan and Python.
"""
COMMANDS = ("agent", "server", "traces", "trace", "demo", "config", "doctor", "install", "uninstall")
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def main() -> int:
    """Run one subcommand and return its exit code; 2 for a wrong command line.

    If the reader of the output has ended (`| head`), the exit code is that of SIGPIPE, without a message.
    If the output cannot be written for another reason, a message says so.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process has closed it, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        is_unread = isinstance(error, BrokenPipeError)
        if not is_unread and error.errno not in _OUTPUT_ERRORS:
            raise
        # Else Python prints another message when it flushes at its end.
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
        message = f"kaspan: there is no command {arguments[0]!r}\n" if arguments else ""
        sys.stderr.write(message + USAGE)
        return 2
    command = import_module(f"kaspan.cli.{arguments[0]}")
    try:
        code: int = command.main(arguments[1:])
    except SystemExit as end:  # argparse, after --help or a wrong command line
        return end.code if isinstance(end.code, int) else 0
    return code


if __name__ == "__main__":
    sys.exit(main())
