from __future__ import annotations

from pathlib import Path

import pytest

STAND_IN = """\
#!/bin/sh
# Stands in for the `kaspan` command: the applications run untraced, the agent waits to be ended.
case $1 in
    agent) shift; {agent} ;;
    run) name=$3; shift 4; {run} ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> object:
    """Make a `kaspan` command of a line of shell for each of its subcommands, and return its path."""

    def make(agent: str = "exec sleep 60", run: str = 'exec "$@"') -> str:
        path = tmp_path / "kaspan"
        path.write_text(STAND_IN.format(agent=agent, run=run))
        path.chmod(0o755)
        return str(path)

    return make
