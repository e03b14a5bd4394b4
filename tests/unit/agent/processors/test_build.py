"""kaspan.agent.processors.build: from the settings to processors, with every error said."""

from __future__ import annotations

import hmac
import json
import sys
from pathlib import Path

import pytest

from kaspan.agent.processors.build import build
from kaspan.agent.processors.chain import Tally
from kaspan.config import ConfigError, load
from kaspan.config.schema import AddTags, Drop, Processor, Redact

SPAN = (
    b'{"traceId":"1","id":"2","remoteEndpoint":{"serviceName":"kafka"},"tags":{"kafka.topic":"a","user":"b"}}'
)


def refusals(*settings: Processor, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        build(settings, environ)
    return refused.value.errors


def test_settings_file_becomes_processors(tmp_path: Path) -> None:
    """Each type of the YAML file does what it says, with the agent's variables in its values."""
    path = tmp_path / "kaspan.yaml"
    path.write_text(
        """
agent:
  processors:
    - type: add_tags
      tags: {deployment: prod, host: "${HOST}"}
    - {type: redact, tags: [user], action: hash, hash_secret: "${SALT}"}
    - {type: redact, values: ['pro.']}
    - {type: rename_remote, to: "{topic} at kafka"}
    - {type: drop, topics: [b]}
"""
    )
    chain = build(load(str(path), {}).settings.agent.processors, {"HOST": "h1", "SALT": "x"})
    (processed,) = chain.process([SPAN, SPAN.replace(b'"a"', b'"b"')], Tally())
    assert json.loads(processed) == {
        "traceId": "1",
        "id": "2",
        "remoteEndpoint": {"serviceName": "a at kafka"},
        "tags": {
            "kafka.topic": "a",
            "user": hmac.digest(b"x", b"b", "sha256").hex()[:16],
            "deployment": "***",
            "host": "h1",
        },
    }


def test_all_errors_are_said_at_once_with_their_keys() -> None:
    """Each variable and each pattern that is wrong has its line with key and reason."""
    lines = refusals(
        AddTags(tags={"a": "${A}", "b": "${B:-x}", "c": "${C"}), Redact(values=("ok", "(", "x{1001}"))
    )
    assert [line.partition(": ")[0].partition(" is ")[0] for line in lines] == [
        "agent.processors[0].tags.a",
        "agent.processors[0].tags.c",
        "agent.processors[1].values[1]",
        "agent.processors[1].values[2]",
    ]
    assert lines[2] == "agent.processors[1].values[1] is (; RE2 does not accept it: missing ): ("


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (Redact(), "agent.processors[0] would redact nothing; the rule is tags, values, or both"),
        (
            Drop(),
            "agent.processors[0] would drop every span; the rule is at least one of services, topics, names",
        ),
        (
            Redact(tags=("a",), action="hash"),
            "agent.processors[0].hash_secret is missing; the rule is a secret text for action hash, without "
            "which anybody could hash guesses and compare; best from a variable: ${NAME}",
        ),
        (
            Redact(tags=("a",), action="hash", hash_secret="${SALT}"),
            "agent.processors[0].hash_secret: the environment variable SALT is not set or empty; set it for "
            "the agent, or write ${SALT:-default}",
        ),
    ],
)
def test_processor_that_cannot_do_its_work_is_refused(settings: Processor, error: str) -> None:
    """What would protect nothing, drop everything or hash without a secret is an error, not a start."""
    assert refusals(settings) == (error,)


def test_patterns_without_their_library_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """google-re2 is only needed for patterns; without it they are an error, and names are not."""
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.delitem(sys.modules, "kaspan.agent.processors.patterns", raising=False)
    assert refusals(Redact(values=("a",))) == (
        "agent.processors[0].values needs google-re2, which is missing: install kaspan[redact]",
    )
    build([Redact(tags=("a",))], {})
