"""`kaspan uninstall`: remove the file that `kaspan install` made."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from kaspan.cli import pip_record
from kaspan.cli.install import InstallError, installed, usage_marker


def main(arguments: Sequence[str]) -> int:
    """Run `kaspan uninstall`: 0 on success, also if there was nothing to remove; 1 if a file stays."""
    argparse.ArgumentParser(
        prog="kaspan uninstall",
        description="Undo `kaspan install`: programs of this Python that start from now on are traced only "
        "under `kaspan run`. kaspan itself stays installed.",
    ).parse_args(arguments)
    paths = installed()
    if not paths:
        sys.stdout.write(f"`kaspan install` was not used for {sys.prefix}\n")
    code = 0
    for path in paths:
        try:
            path.unlink()
            pip_record.remove(path)
        except OSError as error:
            sys.stderr.write(f"kaspan uninstall: {path} cannot be removed: {error.strerror}\n")
            code = 1
        else:
            sys.stdout.write(f"removed {path}\n")
    with contextlib.suppress(InstallError, OSError):
        usage_marker().unlink()
    return code
