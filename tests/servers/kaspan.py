"""`kaspan server`, as a test's server."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

from servers.process import ServerProcess, free_port
from servers.zipkin import DEFAULT_STORAGE, StorageSettings
from support.deployment import KASPAN, Deployment
from support.waiting import wait_until

ANSWER_TIMEOUT_S = 30
_BEHIND = re.compile(r"^kaspan_agent_sender_lag_batches\{.*\} (\S+)$", re.MULTILINE)


class KaspanServer(ServerProcess):
    """`kaspan server` on a free port of the loopback interface; its spans survive `kill` and `restart`.

    `url` is its base, http://HOST:PORT; `store` the directory with its spans. `variables` are added to its
    environment.
    """

    def __init__(self, directory: Path, storage: StorageSettings = DEFAULT_STORAGE, **variables: str) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = directory / "store"
        self._environment = Deployment(directory).environment | {
            "KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S": "0.01",
            "KASPAN_AGENT__STORE__STRICT_TRACE_ID": json.dumps(storage.strict_trace_id),
            "KASPAN_AGENT__STORE__SEARCH_ENABLED": json.dumps(storage.search_enabled),
            "KASPAN_AGENT__STORE__AUTOCOMPLETE_KEYS": json.dumps(storage.autocomplete_keys),
        }
        del self._environment["KASPAN_AGENT__LISTEN"]
        self._environment |= variables

    def command(self) -> list[str]:
        listen = f"127.0.0.1:{self.port}"
        return [str(KASPAN), "server", "--listen", listen, "--store", str(self.store)]

    def environment(self) -> dict[str, str]:
        return self._environment

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
                return bool(answer.status == http.HTTPStatus.OK)
        except (OSError, http.client.HTTPException):
            return False

    def wait_until_stored(self, every_s: float = 0.01) -> None:
        """Block until every span that was answered 202 is in the store, where queries find it."""
        wait_until(lambda: self._behind_batches() == 0, "all spans are in the store", every_s=every_s)

    def _behind_batches(self) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
            behind = _BEHIND.findall(answer.read().decode())
        assert behind, "no sender in /metrics"
        return sum(map(float, behind))
