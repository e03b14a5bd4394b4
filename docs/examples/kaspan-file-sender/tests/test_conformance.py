import json
from pathlib import Path

import pytest

from kaspan.agent.senders.conformance import SenderConformance


class TestFileSender(SenderConformance):
    type = "file"

    @pytest.fixture(autouse=True)
    def target(self, tmp_path):
        self.directory = tmp_path / "there"
        self.directory.mkdir()
        self.path = self.directory / "spans.jsonl"

    def settings(self):
        return {"path": str(self.path), "sync": False}

    def received(self):
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def stop_target(self):
        self.directory.rename(f"{self.directory}.away")

    def start_target(self):
        Path(f"{self.directory}.away").rename(self.directory)
