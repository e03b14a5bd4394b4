"""What a sender is: something that takes messages of spans to one target and says what became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import msgspec


@dataclass(frozen=True)
class Delivered:
    """The target has the message, or the sender holds it until `Sender.passed` says otherwise."""


@dataclass(frozen=True)
class Refused:
    """The target will never take this message; it is split until the span that offends is alone."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The target cannot take anything now; the same message is sent again, for as long as it takes.

    `retry_after_s` is how long the target asked to be left alone, if it did.
    """

    reason: str
    retry_after_s: float = 0.0


Outcome = Delivered | Refused | Failed


class SettingError(ValueError):
    """A sender cannot work with its settings; the agent does not start.

    `key` names the setting, "" if it is none alone; `problem` is what follows the key in the message: what is
    wrong, the rule, and what to do.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


class NoSettings(msgspec.Struct, frozen=True):
    """Nothing but `type`."""


class Sender(ABC):
    """Takes spans to one target.

    A sender of another package is made by the agent at its start with one argument, its settings, an instance
    of `Settings`; raises SettingError if it cannot work with them. `name` is the key of its cursor in the
    spool and what logs call it: the target, and no secret. A new name starts at the oldest span.

    All methods are called from one thread, the sender's own. What they raise counts as a failure.
    """

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    """What may stand beside `type` in agent.senders."""

    name: str
    idle_s: float = 1.0
    """How often `idle` is called while nothing comes."""

    @abstractmethod
    def send(self, spans: bytes, last_id: int) -> Outcome:
        """Send JSON spans joined by commas, without the list's brackets; `last_id` is the last row's id.

        May block for seconds. Raises nothing for what a target or a network can do.
        """

    def passed(self, last_id: int) -> int:
        """How far the rows up to `last_id`, all sent, may be given up; less for one that holds spans back."""
        return last_id

    def idle(self) -> None:  # noqa: B027 (most senders have nothing to do)
        """Called when there is nothing to send, every `idle_s` and after every message."""

    def close(self) -> None:  # noqa: B027 (nor to let go of)
        """Let go of connections and of what is held back. Called once, after the last message."""
