"""Questions to Zipkin's query API about the traces of a run."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from kaspan.demo.harness import DemoError
from kaspan.wire.span import SPANS_PATH

REQUEST_TIMEOUT_S = 5.0
CLOCK_SLACK_MS = 60_000


class ZipkinError(DemoError):
    """Zipkin cannot be reached, or gives a wrong answer; the message says where and why."""


class ZipkinQuery:
    """Asks the Zipkin at `url`: http://zipkin:9411, or the full address for spans.

    Each method blocks for at most REQUEST_TIMEOUT_S and raises ZipkinError.
    """

    def __init__(self, url: str) -> None:
        self.base = url.rstrip("/").removesuffix(SPANS_PATH)

    def check(self) -> None:
        """Check before the run that Zipkin is there."""
        if not isinstance(self._get("/api/v2/services"), list):
            raise ZipkinError(f"{self.base}/api/v2/services does not answer with a list: is that Zipkin?")

    def trace_ids(self, topic: str, since_ms: int, until_ms: int, spans: int) -> list[str]:
        """List the traces that began with `orders` sending to `topic` in that time, oldest first.

        `since_ms` and `until_ms` are milliseconds since the epoch. The list is empty until these traces
        have at least `spans` spans together: before that, some of them are incomplete.
        """
        query = {
            "serviceName": "orders",
            "spanName": f"send {topic}".lower(),
            # The end of the window and its length. The slack is for the clock of another machine.
            "endTs": until_ms + CLOCK_SLACK_MS,
            "lookback": until_ms - since_ms + CLOCK_SLACK_MS,
            "limit": 1000,
        }
        traces = self._get(f"/api/v2/traces?{urllib.parse.urlencode(query)}")
        begun = sorted(
            (root["timestamp"], root["traceId"], len(trace)) for trace in traces for root in _roots(trace)
        )
        of_this_run = [one for one in begun if one[0] >= since_ms * 1000]
        if sum(count for _, _, count in of_this_run) < spans:
            return []
        return [trace_id for _, trace_id, _ in of_this_run]

    def link(self, trace_id: str) -> str:
        """Return the address of a trace's page in Zipkin."""
        return f"{self.base}/zipkin/traces/{trace_id}"

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(self.base + path, headers={"b3": "0"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise ZipkinError(f"{self.base}{path} answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise ZipkinError(f"no Zipkin at {self.base}: {error.reason}; is it running?") from error
        except (OSError, http.client.HTTPException) as error:
            raise ZipkinError(f"no Zipkin at {self.base}: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ZipkinError(f"{self.base}{path} does not answer with JSON: is that Zipkin?") from error


def _roots(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [span for span in trace if "parentId" not in span and "timestamp" in span]
