"""The delivery loop of every sender: read the spool, send, split what is refused, advance the cursor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.senders.backoff import Backoff
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.agent.senders.refusals import RefusalJudge, split_by_rules
from kaspan.agent.senders.stats import SenderStats
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters
from kaspan.agent.spool.spool import Message, Spool

SAVE_S = 0.05
"""How long an advanced cursor is kept in memory only, while there is more to deliver.

Saving it costs a flush of the disk, unless a transaction that stores spans saves it on the way."""

PUT_BACK_S = 0.25
"""How long splitting a refused message may delay other messages, once a refused span is found.

For as long again, other refused messages go behind all messages that were not tried yet, without being split.
Otherwise a thousand refused messages delay the next one by a thousand times this."""
DEAD_LETTERS_LOG_S = 60.0
"""How often the log reports new dead letters as a warning."""

_log = logging.getLogger("kaspan.agent")


class Delivery:
    """Delivers what is in the spool through one sender, in messages of at most `max_bytes`.

    After a kill the message being sent, and messages since the last save, are sent again: a save is at most
    SAVE_S ago while there is more to deliver, otherwise `idle_s` of the sender. `run` returns after `drain`,
    when everything is delivered or the target fails once more. `pause(seconds)` waits, or returns earlier
    when the agent stops. After an idle time the first batch waits `linger_s` for more. `stats` has the
    numbers.
    """

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        max_bytes: int,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
        linger_s: float = 0.0,
        stats: SenderStats | None = None,
    ) -> None:
        self.sender = sender
        self.stats = stats or SenderStats()
        self._spool = spool
        self._max_bytes = max_bytes
        self._backoff = backoff or Backoff()
        self._draining = threading.Event()
        self._pause = pause or self._draining.wait
        self._linger_s = linger_s
        self._letters = DeadLetters(spool)
        self._refusal_judge = RefusalJudge(partial(spool.pick, sender.name))
        self._sent_id = spool.cursor(sender.name)
        self._is_failing = False
        self._is_unsaved = False
        self._sort_again_at_s = 0.0
        self._save_at_s = self._log_at_s = 0.0

    def adjust(self, max_bytes: int, linger_s: float) -> None:
        """Use other settings from the next message on. Any thread may call it."""
        self._max_bytes, self._linger_s = max_bytes, linger_s

    def drain(self) -> None:
        """Make `run` return as soon as everything is delivered, or an attempt fails."""
        self._draining.set()
        self._spool.wake()

    def run(self) -> None:
        """Deliver until `drain` is called and nothing is left to deliver."""
        while True:
            message = self._read()
            if message is not None:
                if self.stats.clock_s() >= self._save_at_s:
                    self._save()
                if message.spans and not self._deliver(message):
                    break
                self._sent_id = message.last_id
            self._advance(self.sender.idle)
            if message is None:
                if self._draining.is_set():
                    break
                if not self._spool.wait(self._sent_id, self.sender.idle_s):
                    self._save()
                elif self._linger_s:
                    # HTTP clients send small bodies one by one, and a message costs as much CPU as 50 spans.
                    self._draining.wait(self._linger_s)
        self._advance(self.sender.close)
        self._save()

    def _read(self) -> Message | None:
        """Read the next message. If the spool is damaged and the disk is full, wait until there is space."""
        while True:
            try:
                return self._spool.read(self._sent_id, self._max_bytes, self.sender.name)
            except SpoolFull as full:
                _log.debug("%s waits: %s", self.sender.name, full)
                if self._draining.is_set():
                    return None
                self._pause(self._backoff.next_s())

    def _advance(self, after: Callable[[], Outcome | None]) -> None:
        """Call one of the sender's methods, note its outcome, then advance its cursor."""
        began_s = self.stats.clock_s()
        try:
            outcome = after()
            passed = min(self._sent_id, self.sender.passed(self._sent_id))
        except Exception as error:  # noqa: BLE001 (logged, and the rows stay)
            reason = f"{type(error).__name__}: {error}"
            self.stats.failed(reason, began_s)
            self._failed(reason, is_bug=True)
            return
        if isinstance(outcome, Failed):
            self.stats.failed(outcome.reason, began_s)
            self._failed(outcome.reason)
        elif isinstance(outcome, Delivered):
            self.stats.delivered(began_s)
            self._recovered()
        self._spool.advance(self.sender.name, passed)

    def _deliver(self, message: Message) -> bool:
        """Send one message, in parts if it is refused. False if the agent stops before it is sent."""
        outcome = self._send(lambda: self._attempt(message.body, message.last_id))
        if isinstance(outcome, Failed):
            return False
        not_sent = 0 if isinstance(outcome, Delivered) else self._sort_out(message)
        if not_sent is None:
            return False
        self.stats.passed(message.spans - not_sent, message.spans, len(message.body))
        return True

    def _sort_out(self, message: Message) -> int | None:
        """Deliver what the target accepts of a refused message; return how many spans it did not accept.

        If this takes too long while other messages wait, the rest of the spans goes behind them in the spool.
        Returns None if the agent stops before it is done.
        """
        valid, invalid = split_by_rules(split(message.body))
        dead: list[tuple[str, bytes]] = []
        if invalid:
            # One attempt for all: there may be many, and only a target with other rules accepts them.
            outcome = self._send_part([span for _, span in invalid], [], message.last_id)
            if isinstance(outcome, Failed):
                return None
            if isinstance(outcome, Refused):
                # The target's reason is about the first span.
                dead += [(outcome.reason, invalid[0][1]), *invalid[1:]]
        parts = [valid] if invalid and valid else _halves(valid)
        put_back = 0
        if not invalid and self.stats.clock_s() < self._sort_again_at_s:
            put_back = self._put_back(parts, message.last_id, self._spool.has_untried)
        if not put_back:
            found = self._bisect(parts, message.last_id, dead)
            if found is None:
                return None
            put_back = found
        return len(dead) + put_back if self._add_dead_letters(dead) else None

    def _bisect(self, parts: list[list[bytes]], last_id: int, dead: list[tuple[str, bytes]]) -> int | None:
        """Send parts, halve those that are refused, and add spans that are refused alone to `dead`.

        Return how many spans are put behind others because it takes too long; None if the agent stops.
        """
        began_s = self.stats.clock_s()
        while parts:
            now_s = self.stats.clock_s()
            # Only once a refused span is found: otherwise the same spans would be put back for ever.
            if dead and now_s >= began_s + PUT_BACK_S:
                put_back = self._put_back(parts, last_id, self._spool.has_more)
                if put_back:
                    self._sort_again_at_s = now_s + (now_s - began_s)
                    return put_back
            part = parts.pop()
            others = [span for other in parts for span in other]
            outcome = self._send_part(part, others, last_id)
            if isinstance(outcome, Failed):
                return None
            if isinstance(outcome, Refused):
                if len(part) > 1:
                    parts += _halves(part)
                else:
                    dead.append((outcome.reason, part[0]))
        return 0

    def _send_part(self, spans: Sequence[bytes], others: Sequence[bytes], last_id: int) -> Outcome:
        """Send spans until the target answers; a single span until it is clear what causes a refusal."""

        def attempt(body: bytes) -> Outcome:
            return self._attempt(body, last_id)

        if len(spans) > 1:
            return self._send(partial(attempt, SEPARATOR.join(spans)))
        return self._send(lambda: self._refusal_judge.judge(spans[0], others, attempt))

    def _put_back(
        self, parts: Sequence[Sequence[bytes]], last_id: int, is_behind: Callable[[int], bool]
    ) -> int:
        """Store the remaining parts behind all waiting spans; return how many spans.

        0 if nothing `is_behind` the message, or the spool is full.
        """
        if not is_behind(last_id):
            return 0
        batches = [Batch(len(part), SEPARATOR.join(part)) for part in parts]
        try:
            self._spool.put_back(batches, self.sender.name)
        except SpoolFull as full:
            _log.debug("spans that %s refuses keep their place: %s", self.sender.name, full)
            return 0
        return sum(batch.spans for batch in batches)

    def _send(self, attempt: Callable[[], Outcome]) -> Outcome:
        """Call `attempt` until the target answers; Failed if the agent stops before that."""
        while True:
            began_s = self.stats.clock_s()
            outcome = attempt()
            if not isinstance(outcome, Failed):
                return outcome
            self.stats.failed(outcome.reason, began_s)
            self._failed(outcome.reason)
            if self._draining.is_set():
                return outcome
            self._save()  # this may take long
            self._pause(self._backoff.next_s(outcome.retry_after_s))

    def _attempt(self, spans: bytes, last_id: int) -> Outcome:
        """Send once. A sender that breaks its contract fails; the agent and other senders go on."""
        began_s = self.stats.clock_s()
        try:
            outcome = self.sender.send(spans, last_id)
        except Exception as error:  # noqa: BLE001 (logged, and the spans stay)
            reason = f"{type(error).__name__}: {error}"
            self._failed(reason, is_bug=True)
            return Failed(reason)
        if isinstance(outcome, Delivered):
            self._refusal_judge.last_delivered = spans
            self.stats.delivered(began_s)
            self._recovered()
        elif isinstance(outcome, Refused):
            self.stats.refused(outcome.reason, began_s)
        elif not isinstance(outcome, Failed):
            return Failed(
                f"send() returned {type(outcome).__name__}; the rule is Delivered, Refused or Failed"
            )
        return outcome

    def _failed(self, reason: str, is_bug: bool = False) -> None:
        if not self._is_failing:
            self._is_failing = True
            fields = {"sender": self.sender.name, "reason": reason}
            text = "%(sender)s: %(reason)s; spans wait in the spool"
            _log.warning(text, fields, exc_info=is_bug, extra=fields)

    def _recovered(self) -> None:
        self._backoff.reset()
        if self._is_failing:
            self._is_failing = False
            _log.info("%s: works again", self.sender.name, extra={"sender": self.sender.name})

    def _add_dead_letters(self, dead: Sequence[tuple[str, bytes]]) -> bool:
        """Add refused spans, each after the reason, to the dead letters. False if the agent stops first."""
        portion = len(dead)
        kept = done = 0
        while done < len(dead):
            try:
                kept += self._letters.add(self.sender.name, dead[done : done + portion])
            except SpoolFull as full:
                _log.debug("dead letters wait: %s", full)
                if portion > 1:
                    portion //= 2
                elif self._draining.is_set():
                    return False
                else:
                    self._pause(self._backoff.next_s())
                continue
            done += portion
        if dead:
            self.stats.dead_lettered(kept, len(dead) - kept)
            self._log_dead_letters(dead, kept)
        return True

    def _log_dead_letters(self, dead: Sequence[tuple[str, bytes]], kept: int) -> None:
        """Log new dead letters, at most every DEAD_LETTERS_LOG_S as a warning: there may be very many."""
        now_s = self.stats.clock_s()
        level = logging.WARNING if now_s >= self._log_at_s else logging.DEBUG
        if level == logging.WARNING:
            self._log_at_s = now_s + DEAD_LETTERS_LOG_S
        reason, span = dead[0]
        dropped = len(dead) - kept
        what = f"{kept} are kept as dead letters" + (
            f", {dropped} dropped, since dead letters fill a tenth of the spool" if dropped else ""
        )
        _log.log(
            level,
            "%s refuses %d spans (%s): %s; the first begins %.200r",
            *(self.sender.name, len(dead), reason, what, span),
            extra={"sender": self.sender.name, "reason": reason, "kept": kept, "dropped_spans": dropped},
        )

    def _save(self) -> None:
        self._save_at_s = self.stats.clock_s() + SAVE_S
        try:
            self._spool.save()
            self._is_unsaved = False
        except SpoolFull as full:
            if not self._is_unsaved:
                _log.warning("what %s has delivered is kept in memory only: %s", self.sender.name, full)
            self._is_unsaved = True


def _halves(spans: list[bytes]) -> list[list[bytes]]:
    """Return the second and the first half of spans; of a single span only that."""
    half = len(spans) // 2
    return [part for part in (spans[half:], spans[:half]) if part]
