"""Paths on the command line, which may begin with ~."""

from __future__ import annotations

import argparse
import os


def absolute(path: str) -> str:
    """Make a path absolute and replace ~ at its start by the home directory. For an argument's `type`.

    A shell does not expand ~ in --spool=~/spool.db. Raises ArgumentTypeError if the home directory is
    unknown.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"no home directory is known for {path}; write the whole path")
    return expanded and os.path.abspath(expanded)
