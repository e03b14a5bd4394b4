"""The contract of a sender: it sends messages of spans to one target, and returns the outcome of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import msgspec


@dataclass(frozen=True)
class Delivered:
    """The target has the message, or the sender holds it until `Sender.passed` gives it up."""


@dataclass(frozen=True)
class Refused:
    """The target will never accept this message; the agent splits it until the refused span is alone."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The target cannot accept anything now; the agent sends the same message again until it can.

    `retry_after_s` is how long the target asked to wait, 0 if it did not ask.
    """

    reason: str
    retry_after_s: float = 0.0


Outcome = Delivered | Refused | Failed


class SettingError(ValueError):
    """A sender cannot work with its settings; the agent does not start.

    `key` names the setting, "" if no single setting is wrong. `problem` follows the key in the message: what
    is wrong, the rule, and what to do.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


class NoSettings(msgspec.Struct, frozen=True):
    """The settings of a sender that has no key but `type`."""


class Sender(ABC):
    """Sends spans to one target.

    At its start the agent calls the class of a sender of another package with one argument, an instance of
    `Settings`; the class raises SettingError if it cannot work with them. `name` is the key of the sender's
    cursor in the spool, and logs show it: it names the target, without secrets. A sender with a new name
    starts at the oldest span.

    All methods are called from one thread, the sender's own. An exception counts as a failure.
    """

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    """The keys that agent.senders allows with this `type`."""

    name: str
    idle_s: float = 1.0
    """How often `idle` is called while there is nothing to send, in seconds."""

    @abstractmethod
    def send(self, spans: bytes, last_id: int) -> Outcome:
        """Send JSON spans joined by commas, without the list's brackets; `last_id` is the id of the last row.

        May block for seconds. Does not raise for anything that a target or a network does.
        """

    def passed(self, last_id: int) -> int:
        """Return up to which id rows may be deleted: `last_id`, up to which all are sent, or less."""
        return last_id

    def idle(self) -> Delivered | Failed | None:  # noqa: B027 (optional: most senders have nothing to do)
        """Called when there is nothing to send, every `idle_s` and after every message.

        A sender that sends here what it has held back returns the outcome, else None.
        """

    def close(self) -> Delivered | Failed | None:  # noqa: B027 (optional)
        """Send what is held back, and close connections. Called once, after the last message.

        Returns the outcome as `idle` does.
        """
