"""Whose fault a refusal is: the spans', or that of a target which refuses everything.

A span that is refused alone is given up only when it breaks Zipkin's rules, or when the target takes another
span and then refuses this one again. As long as it takes none at all it is broken, or not what the settings
take it for, and spans wait.
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
"""Of the same message, at random: each attempt tries others."""

_decode_spans = msgspec.json.Decoder(list[msgspec.Raw]).decode

Send = Callable[[bytes], Outcome]


def find_problem(spans: bytes) -> str | None:
    """Say what is wrong with joined spans by Zipkin's rules, None if nothing is."""
    message = b"[" + spans + b"]"
    try:
        # Zipkin itself reads up to the list's end, and does not miss what stands behind it.
        _decode_spans(message)
        for _ in json_batches(message, len(message)):
            pass
    except (InvalidSpansError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


class RefusalJudge:
    """Spans that show whether a target takes any: of what it took last, of what waits, of the same message.

    What it takes of them it has twice, which a kill does as well. `pick` gives joined spans that wait, None
    if there are none: 0 is for the oldest, 1 for the newest.
    """

    def __init__(self, pick: Callable[[float], bytes | None], rng: random.Random | None = None) -> None:
        self.last_delivered: bytes | None = None
        self._pick = pick
        self._rng = rng or random.Random()  # noqa: S311 (chooses, and keeps no secret)

    def judge(self, span: bytes, others: Sequence[bytes], send: Send) -> Outcome:
        """Send one span, and others where it is refused: Refused if it is to blame, Failed if not."""
        refusal = send(span)
        if not isinstance(refusal, Refused) or find_problem(span) is not None:
            return refusal
        tried = 0
        for witness in self._candidates(span, others):
            answer = send(witness)
            if isinstance(answer, Delivered):
                # Once more: the target may have been broken until a moment ago.
                return send(span)
            if isinstance(answer, Failed):
                return answer
            tried += 1
        if tried:
            return Failed(f"{refusal.reason}; it takes no other span either, so the spans are not to blame")
        return Failed(f"{refusal.reason}; there is no other span to see whether it takes any")

    def _candidates(self, span: bytes, others: Sequence[bytes]) -> Iterator[bytes]:
        seen = {span}
        for candidate in self._spans(others):
            if candidate not in seen and find_problem(candidate) is None:
                seen.add(candidate)
                yield candidate

    def _spans(self, others: Sequence[bytes]) -> Iterator[bytes]:
        # The newest are of whoever works now; any of them, lest all that come now are refused.
        for joined in (self.last_delivered, self._pick(1.0), self._pick(self._rng.random())):
            if joined:
                yield self._rng.choice(split(joined))
        yield from self._rng.sample(others, min(len(others), _OTHERS_TRIED))


def split_by_rules(spans: Sequence[bytes]) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    """Sort spans by Zipkin's rules: those that are right, and those that are not, each with what is wrong."""
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
