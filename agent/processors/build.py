"""Makes the processors that the settings name; all wrong settings are reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kaspan.agent.environment import VariableError, expand
from kaspan.agent.processors.add_tags import AddTags
from kaspan.agent.processors.base import Processor
from kaspan.agent.processors.chain import Chain
from kaspan.agent.processors.drop import Drop
from kaspan.agent.processors.redact import Redact, Replacement, hashed_with, masked
from kaspan.agent.processors.rename_remote import RenameRemote
from kaspan.config import ConfigError, schema
from kaspan.config.errors import shorten

if TYPE_CHECKING:
    from kaspan.agent.processors.patterns import Patterns


def build(settings: Sequence[schema.Processor], environ: Mapping[str, str]) -> Chain:
    """Make the chain that `agent.processors` asks for, with the variables of `environ` in its values.

    Raises ConfigError with a line for each wrong setting.
    """
    builder = _Builder(environ)
    processors = [builder.make(entry, f"agent.processors[{index}]") for index, entry in enumerate(settings)]
    if builder.errors:
        raise ConfigError(builder.errors)
    return Chain(processors)


class _Builder:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.errors: list[str] = []
        self._environ = environ

    def make(self, settings: schema.Processor, key: str) -> Processor:
        if isinstance(settings, schema.AddTags):
            tags = {name: self._expand(value, f"{key}.tags.{name}") for name, value in settings.tags.items()}
            return AddTags(tags, settings.overwrite)
        if isinstance(settings, schema.RenameRemote):
            return RenameRemote(settings.from_, settings.to)
        if isinstance(settings, schema.Drop):
            if not (settings.services or settings.topics or settings.names):
                self.errors.append(
                    f"{key} would drop every span; the rule is at least one of services, topics, names"
                )
            return Drop(settings.services, settings.topics, settings.names)
        if not (settings.tags or settings.values):
            self.errors.append(f"{key} would redact nothing; the rule is tags, values, or both")
        return Redact(settings.tags, self._patterns(settings, key), self._replacement(settings, key))

    def _expand(self, text: str, key: str) -> str:
        try:
            return expand(text, self._environ)
        except VariableError as error:
            self.errors.append(f"{key}: {error}")
            return ""

    def _replacement(self, settings: schema.Redact, key: str) -> Replacement | None:
        if settings.action == "drop":
            return None
        if settings.action == "mask":
            return masked
        secret = self._expand(settings.hash_secret or "", f"{key}.hash_secret")
        if settings.hash_secret is None or settings.hash_secret == "":
            self.errors.append(
                f"{key}.hash_secret is missing; the rule is a secret text for action hash, without which "
                "anybody could hash guesses and compare; best from a variable: ${NAME}"
            )
        return hashed_with(secret.encode())

    def _patterns(self, settings: schema.Redact, key: str) -> Patterns | None:
        if not settings.values:
            return None
        try:
            from kaspan.agent.processors.patterns import PatternError, Patterns, compile_pattern
        except ModuleNotFoundError as error:
            if error.name != "re2":
                raise
            self.errors.append(f"{key}.values needs google-re2, which is missing: install kaspan[redact]")
            return None
        before = len(self.errors)
        for index, pattern in enumerate(settings.values):
            try:
                compile_pattern(pattern)
            except PatternError as error:
                self.errors.append(f"{key}.values[{index}] is {shorten(pattern)}; {error}")
        return Patterns(settings.values) if len(self.errors) == before else None
