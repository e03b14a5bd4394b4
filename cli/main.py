"""The `kaspan` command, all but `kaspan run`, which the shell script beside it does without Python."""

from __future__ import annotations

import sys
from importlib import import_module

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

`kaspan COMMAND --help` says more.
"""
COMMANDS = ("agent", "demo", "config", "doctor", "install", "uninstall")


def main() -> int:
    """Run one subcommand and return the exit code; 2 for a command line that is not understood."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--help"], ["-h"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        said = f"kaspan: no command {arguments[0]!r}\n" if arguments else ""
        sys.stderr.write(said + USAGE)
        return 2
    command = import_module(f"kaspan.cli.{arguments[0]}")
    try:
        code: int = command.main(arguments[1:])
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
