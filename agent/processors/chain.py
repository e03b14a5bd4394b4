"""All processors of an agent, one after the other, over the spans of a batch."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.processors.base import Processor, Verdict
from kaspan.agent.processors.decode import decode

UNREADABLE = "unreadable"
"""The name, in place of a processor's type, under which bytes are counted that are not a span."""

_log = logging.getLogger("kaspan.agent")
_take_apart = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass
class Tally:
    """What processors did to spans that are not stored yet: numbers of spans by processor type.

    `dropped`: by a rule. `refused`: dropped because a guard failed on them. `failed`: passed on unchanged
    because a processor failed on them.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def removed_spans(self) -> int:
        """How many spans were dropped, by a rule or because a guard failed."""
        return self.dropped.total() + self.refused.total()

    def add(self, other: Tally) -> None:
        """Add the numbers of another tally."""
        self.dropped.update(other.dropped)
        self.refused.update(other.refused)
        self.failed.update(other.failed)


class Chain:
    """Runs `processors` in their order. Any thread may call it; it never blocks and never raises for a span.

    If a processor fails on a span, the span goes on unchanged, or is dropped if the processor is a guard.
    Bytes that are not a span are dropped if there is a guard, since it cannot check them. `total` counts what
    was done to spans that are stored.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = tuple(processors)
        self._has_guard = any(processor.is_guard for processor in processors)
        self._lock = threading.Lock()
        self._seen_failures: set[tuple[str, str]] = set()
        self.total = Tally()

    def process(self, spans: Iterable[bytes], tally: Tally) -> list[bytes]:
        """Return the remaining spans, each unchanged unless a processor changed it; counts into `tally`.

        With a guard every span is encoded anew: the bytes may have a repeated key, or one that Zipkin does
        not know, which the guard does not see.
        """
        processed = (self._process(span, tally) for span in spans)
        return [span for span in processed if span is not None]

    def process_batch(self, batch: Batch, tally: Tally) -> list[Batch]:
        """Process a batch, whose body is a JSON list without brackets; return no batch if no span is left."""
        spans = self.process(map(bytes, _take_apart(b"[" + batch.body + b"]")), tally)
        return [Batch(len(spans), SEPARATOR.join(spans))] if spans else []

    def count(self, tally: Tally) -> None:
        """Add a tally to `total`, once its spans are stored or dropped."""
        with self._lock:
            self.total.add(tally)

    def _process(self, payload: bytes, tally: Tally) -> bytes | None:
        try:
            span = decode(payload)
        except ValueError as error:
            self._warn(UNREADABLE, self._has_guard, f"it {error}")
            (tally.refused if self._has_guard else tally.failed)[UNREADABLE] += 1
            return None if self._has_guard else payload
        is_changed = self._has_guard
        for processor in self._processors:
            try:
                verdict = processor.process(span)
            except Exception as error:  # noqa: BLE001 (counted, logged, and the span passes or is dropped)
                # Not the error's text: it may quote what must not be stored.
                self._warn(processor.type, processor.is_guard, type(error).__name__)
                (tally.refused if processor.is_guard else tally.failed)[processor.type] += 1
                if processor.is_guard:
                    return None
                continue
            if verdict is Verdict.DROPPED:
                tally.dropped[processor.type] += 1
                return None
            is_changed = is_changed or verdict is Verdict.CHANGED
        return _encode(span) if is_changed else payload

    def _warn(self, processor_type: str, is_refused: bool, why: str) -> None:
        """Log the first failure of each kind; all are counted."""
        if (processor_type, why) in self._seen_failures:
            return
        self._seen_failures.add((processor_type, why))
        became = "dropped, since it cannot be redacted" if is_refused else "passed on unchanged"
        _log.warning(
            "agent.processors: a span is %s: %s (%s); later ones are only counted",
            became,
            processor_type,
            why,
        )
