"""The sender `store` keeps the contract of a sender, on a real store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kaspan.agent.senders import conformance
from kaspan.agent.senders.build import open_store
from kaspan.agent.senders.store import StoreSender
from kaspan.config import schema
from kaspan.store.blocks import decompress_spans


class TestStoreSender(conformance.SenderConformance):
    type = "store"

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "store"

    def settings(self) -> Mapping[str, object]:
        return {"path": str(self.directory)}

    @contextmanager
    def made(self, **settings: object) -> Iterator[StoreSender]:
        """As the agent does: it is no entry of agent.senders."""
        sender = open_store(msgspec.convert({**self.settings(), **settings}, schema.Store))
        try:
            yield sender
        finally:
            sender.close()
            sender.store.close()

    def received(self) -> Sequence[dict[str, Any]]:
        """The JSON of all spans in the store, as it came."""
        found: list[dict[str, Any]] = []
        for partition in self.directory.glob("*.spans"):
            with closing(sqlite3.connect(partition)) as connection:
                for (body,) in connection.execute("select body from bodies"):
                    found += msgspec.json.decode(b"[" + decompress_spans(body) + b"]")
        return found

    # What agent.store may hold is tested in tests/unit/config.
    test_entry_point_names_a_sender = None  # type: ignore[assignment]
    test_settings_are_of_kinds_that_users_can_set = None  # type: ignore[assignment]
    test_key_that_does_not_exist_is_refused = None  # type: ignore[assignment]
