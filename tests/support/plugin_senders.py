"""Senders of another package, right and wrong ones, and how such a package is installed for a test."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from kaspan.agent.batch import split
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender, SettingError


def install(directory: Path, **senders: str) -> Path:
    """Make a package in `directory` whose entry points are these; it must come on sys.path to be found."""
    metadata = directory / "other_senders-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-senders\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in senders.items())
    (metadata / "entry_points.txt").write_text(f"[kaspan.senders]\n{lines}")
    return directory


class ListSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a ListSender is told."""

    names: tuple[str, ...] = ("list",)
    token: str | None = None


class ListSender(Sender):
    """Keeps spans in a list of its class; unreachable when the test says so."""

    Settings = ListSettings
    taken: ClassVar[list[bytes]] = []
    is_away: ClassVar[bool] = False

    def __init__(self, settings: ListSettings) -> None:
        if settings.names == ("wrong",):
            raise SettingError("names", "is [wrong]; the rule is another one")
        self.settings = settings
        self.name = f"list {','.join(settings.names)}"

    def send(self, spans: bytes, last_id: int) -> Outcome:
        if type(self).is_away:
            return Failed("it is away")
        try:
            msgspec.json.decode(b"[" + spans + b"]", type=list[dict[str, msgspec.Raw]])
        except msgspec.MsgspecError as error:
            return Refused(str(error))
        self.taken.extend(split(spans))
        return Delivered()


class Nameless(ListSender):
    """Its name is another one each time."""

    def __init__(self, settings: ListSettings) -> None:
        super().__init__(settings)
        self.name = f"list {id(self)} {len(ListSender.taken)}" + "x" * next(_LENGTHS)


_LENGTHS = iter(range(1_000_000))


class Leaking(ListSender):
    """Its name shows a secret."""

    def __init__(self, settings: ListSettings) -> None:
        super().__init__(settings)
        self.name = f"list {settings.token}"


class Silent(ListSender):
    """Forgets to say what became of the spans."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        super().send(spans, last_id)
        return None  # type: ignore[return-value]


class Rewriting(ListSender):
    """Does not leave spans as they are."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        return super().send(spans.replace(b"shipping", b"Shipping"), last_id)


class Losing(ListSender):
    """Says that it has what it has not."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        super().send(spans, last_id)
        return Delivered()


class Raising(ListSender):
    """Lets a target's absence out as an exception."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        if type(self).is_away:
            raise OSError("Connection refused")
        return super().send(spans, last_id)


class Repeating(ListSender):
    """Fails on what will never succeed."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        outcome = super().send(spans, last_id)
        return Failed("bad") if isinstance(outcome, Refused) else outcome


class Holding(ListSender):
    """Never gives its rows up."""

    def passed(self, last_id: int) -> int:
        return last_id - 1


class Overtaking(ListSender):
    """Gives up rows that it was never sent."""

    def passed(self, last_id: int) -> int:
        return last_id + 1


class UnsettableSettings(msgspec.Struct, frozen=True):
    """A list where a tuple belongs."""

    names: list[str] = []


class Unsettable(Sender):
    """Has settings that no file can hold."""

    Settings = UnsettableSettings
    name = "unsettable"

    def __init__(self, settings: UnsettableSettings) -> None:
        """Take anything."""

    def send(self, spans: bytes, last_id: int) -> Outcome:
        return Delivered()


class Broken(Sender):
    """Cannot be made."""

    name = "broken"

    def __init__(self, settings: msgspec.Struct) -> None:
        raise RuntimeError("no such thing")

    def send(self, spans: bytes, last_id: int) -> Outcome:
        raise NotImplementedError


def not_a_sender() -> None:
    """Stand where a class belongs."""
