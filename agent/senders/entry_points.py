"""Senders of other packages: the entry points of the group kaspan.senders."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

import msgspec

from kaspan.agent.senders.base import Sender
from kaspan.config import schema

GROUP = "kaspan.senders"
OWN = tuple(str(settings.__struct_config__.tag) for settings in get_args(schema.Sender))
"""The names of kaspan's own senders, which no other package can replace."""


class InstalledSenders:
    """The senders of other packages, by name. Each is loaded only when it is used."""

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP) if point.name not in OWN}

    def names(self) -> Iterable[str]:
        """Return all names, without loading any sender."""
        return self._entry_points.keys()

    def settings(self, name: str) -> type[msgspec.Struct]:
        """Return the struct of a sender's settings. Raises ValueError if the sender cannot be loaded."""
        return self.sender(name).Settings

    def sender(self, name: str) -> type[Sender]:
        """Load a sender's class. Raises ValueError, with the reason, if it cannot be loaded."""
        point = self._entry_points[name]
        try:
            loaded = point.load()
        except Exception as error:
            raise ValueError(
                f"{point.value} of {_package(point)} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, Sender)):
            raise ValueError(
                f"{point.value} of {_package(point)} is not a sender; the rule is a subclass of "
                f"{Sender.__module__}.{Sender.__name__}"
            )
        return loaded


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
