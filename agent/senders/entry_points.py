"""Senders that other packages bring: the entry points of the group kaspan.senders."""

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
"""Names that mean kaspan's own senders, whatever is installed."""


class InstalledSenders:
    """The senders of other packages by name; one is loaded when it is asked for, and no other."""

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP) if point.name not in OWN}

    def names(self) -> Iterable[str]:
        """Name all there are, without loading any."""
        return self._entry_points.keys()

    def settings(self, name: str) -> type[msgspec.Struct]:
        """Return the struct of a sender's settings. Raises ValueError, which says why it cannot be had."""
        return self.sender(name).Settings

    def sender(self, name: str) -> type[Sender]:
        """Load a sender's class. Raises ValueError, which says why it cannot be had."""
        point = self._entry_points[name]
        try:
            loaded = point.load()
        except Exception as error:
            raise ValueError(
                f"{point.value} of {_package(point)} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, Sender)):
            raise ValueError(
                f"{point.value} of {_package(point)} is no sender; the rule is a subclass of "
                f"{Sender.__module__}.{Sender.__name__}"
            )
        return loaded


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
