"""Decides whether a refusal is caused by the spans, or by a target that refuses everything.

A span that is refused alone is the cause only if it breaks Zipkin's rules, or if the target accepts another
span and then refuses this one again: `Delivery` makes it a dead letter. A target that accepts no span at all
is broken, or is not Zipkin: then spans wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kaspan.agent.batch import SEPARATOR, split
from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.codec.json_strict import json_batches
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused

_OTHERS_TRIED = 6
"""How many other spans of the same message an attempt tries, chosen at random."""

_decode_spans = msgspec.json.Decoder(list[msgspec.Raw]).decode

Send = Callable[[bytes], Outcome]


def find_problem(spans: bytes) -> str | None:
    """Return what is wrong with joined spans by Zipkin's rules, None if they are valid."""
    message = b"[" + spans + b"]"
    try:
        # Zipkin itself reads to the end of the list, and ignores what follows it.
        _decode_spans(message)
        for _ in json_batches(message, len(message)):
            pass
    except (InvalidSpansError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


class RefusalJudge:
    """Tests with other spans whether a target accepts any: delivered, waiting, or of the same message.

    A span that is accepted in a test is delivered twice, as after a kill. `pick(place)` returns joined spans
    that wait, from 0, the oldest, to 1, the newest; None if no spans wait.
    """

    def __init__(self, pick: Callable[[float], bytes | None], rng: random.Random | None = None) -> None:
        self.last_delivered: bytes | None = None
        self._pick = pick
        self._rng = rng or random.Random()  # noqa: S311 (not for a secret)

    def judge(self, span: bytes, others: Sequence[bytes], send: Send) -> Outcome:
        """Send one span, and others if it is refused; Refused if the span is the cause, Failed if not."""
        refusal = send(span)
        if not isinstance(refusal, Refused) or find_problem(span) is not None:
            return refusal
        tried = 0
        for witness in self._candidates(span, others):
            answer = send(witness)
            if isinstance(answer, Delivered):
                # Again: the target may have worked only since a moment ago.
                return send(span)
            if isinstance(answer, Failed):
                return answer
            tried += 1
        if tried:
            return Failed(f"{refusal.reason}; it refuses all other spans too, so the spans are not the cause")
        return Failed(f"{refusal.reason}; no other span is there to test whether it accepts any")

    def _candidates(self, span: bytes, others: Sequence[bytes]) -> Iterator[bytes]:
        seen = {span}
        for candidate in self._spans(others):
            if candidate not in seen and find_problem(candidate) is None:
                seen.add(candidate)
                yield candidate

    def _spans(self, others: Sequence[bytes]) -> Iterator[bytes]:
        # The newest spans are likely to be valid; a random one too, in case all new ones are refused.
        for joined in (self.last_delivered, self._pick(1.0), self._pick(self._rng.random())):
            if joined:
                yield self._rng.choice(split(joined))
        yield from self._rng.sample(others, min(len(others), _OTHERS_TRIED))


def split_by_rules(spans: Sequence[bytes]) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    """Split spans by Zipkin's rules: return the valid ones, and the invalid ones, each after its problem."""
    if find_problem(SEPARATOR.join(spans)) is None:
        return list(spans), []
    valid: list[bytes] = []
    invalid: list[tuple[str, bytes]] = []
    for span in spans:
        wrong = find_problem(span)
        if wrong is None:
            valid.append(span)
        else:
            invalid.append((wrong, span))
    return valid, invalid
