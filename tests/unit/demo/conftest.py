from __future__ import annotations

from pathlib import Path

import pytest

FAKE_KASPAN = """\
#!/bin/sh
# A fake `kaspan` command: the applications run untraced, the agent sleeps until it is ended.
case $1 in
    agent) shift; {agent} ;;
    run) name=$3; shift 4; {run} ;;
esac
"""


@pytest.fixture
def fake_kaspan(tmp_path: Path) -> object:
    """Make a `kaspan` command of a line of shell for each of its subcommands, and return its path."""

    def make(agent: str = "exec sleep 60", run: str = 'exec "$@"') -> str:
        path = tmp_path / "kaspan"
        path.write_text(FAKE_KASPAN.format(agent=agent, run=run))
        path.chmod(0o755)
        return str(path)

    return make
