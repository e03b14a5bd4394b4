"""Paths on the command line, as people write them."""

from __future__ import annotations

import argparse
import os


def absolute(path: str) -> str:
    """Return a path from the root on; ~ at its start is a home directory. Meant as an argument's `type`.

    Shells leave that as it is in --spool=~/spool.db, as they do in a container's settings. Raises
    ArgumentTypeError where no home directory is known for it.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"no home directory is known for {path}; write the whole path")
    return expanded and os.path.abspath(expanded)
