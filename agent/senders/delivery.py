"""The delivery loop of every sender: take from the spool, send, split what is refused, move the cursor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec

from kaspan.agent.database import SpoolFull
from kaspan.agent.senders.account import Account
from kaspan.agent.senders.backoff import Backoff
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.agent.spool import SEPARATOR, Message, Spool

SAVE_S = 0.05
"""How long what was delivered is noted in memory only, while there is more to deliver.

A save of its own costs a flush of the disk, and the transactions that store spans save it on the way."""

_log = logging.getLogger("kaspan.agent")
_decode_spans = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NOT_JSON = (msgspec.MsgspecError, RecursionError)


class Delivery:
    """Delivers what is in the spool through one sender, in messages of at most `max_bytes`.

    A kill repeats the message under way and what was delivered since the last save: SAVE_S ago at most while
    there is more to deliver, the sender's `idle_s` after that. `run` returns after `drain`, when the spool is
    passed or the target fails once more. `pause(seconds)` waits, or returns sooner when the agent stops. What
    comes when there was nothing is given `linger_s` for company. `account` counts what becomes of it all.
    """

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        max_bytes: int,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
        linger_s: float = 0.0,
        account: Account | None = None,
    ) -> None:
        self.sender = sender
        self.account = account or Account()
        self._spool = spool
        self._max_bytes = max_bytes
        self._backoff = backoff or Backoff()
        self._draining = threading.Event()
        self._pause = pause or self._draining.wait
        self._linger_s = linger_s
        self._sent_id = spool.cursor(sender.name)
        self._is_failing = False
        self._is_unsaved = False
        self._save_at_s = 0.0

    def adjust(self, max_bytes: int, linger_s: float) -> None:
        """Work with other settings from the next message on. Any thread may call it."""
        self._max_bytes, self._linger_s = max_bytes, linger_s

    def drain(self) -> None:
        """Have `run` return as soon as everything is delivered, or cannot be."""
        self._draining.set()
        self._spool.wake()

    def run(self) -> None:
        """Deliver until `drain` is called and nothing is left."""
        while True:
            message = self._spool.read(self._sent_id, self._max_bytes, self.sender.name)
            if message is not None:
                if self.account.clock_s() >= self._save_at_s:
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
                    # By HTTP small bodies come one by one, and a message costs as much as 50 spans.
                    self._draining.wait(self._linger_s)
        self._advance(self.sender.close)
        self._save()

    def _advance(self, after: Callable[[], None]) -> None:
        """Call one of the sender's methods, and then note how far it has passed the spool."""
        try:
            after()
            passed = min(self._sent_id, self.sender.passed(self._sent_id))
        except Exception as error:  # noqa: BLE001 (said, and the rows stay)
            reason = f"{type(error).__name__}: {error}"
            self.account.failed(reason, self.account.clock_s())
            self._failed(reason, is_bug=True)
            return
        self._spool.advance(self.sender.name, passed)

    def _deliver(self, message: Message) -> bool:
        """Send one message, in parts where it is refused. False if it could not be before the agent stops."""
        parts = [message.body]
        while parts:
            part = parts.pop()
            refusal = self._send(part, message.last_id)
            if isinstance(refusal, Failed):
                return False
            if refusal is None:
                continue
            self.account.refused(refusal.reason)
            spans = split(part)
            if len(spans) > 1:
                half = len(spans) // 2
                parts += [SEPARATOR.join(spans[half:]), SEPARATOR.join(spans[:half])]
            elif not self._bury(part, refusal.reason):
                return False
        self.account.passed(message.spans, len(message.body))
        return True

    def _send(self, spans: bytes, last_id: int) -> Refused | Failed | None:
        """Send until the target answers: None if it has taken the spans, Failed if the agent stops first."""
        while True:
            began_s = self.account.clock_s()
            outcome = self._attempt(spans, last_id)
            if not isinstance(outcome, Failed):
                self.account.answered(began_s)
                self._recovered()
                return outcome if isinstance(outcome, Refused) else None
            self.account.failed(outcome.reason, began_s)
            self._failed(outcome.reason)
            if self._draining.is_set():
                return outcome
            self._save()  # this may take long
            self._pause(self._backoff.next_s(outcome.retry_after_s))

    def _attempt(self, spans: bytes, last_id: int) -> Outcome:
        """Send once. A sender that breaks its contract fails, and neither the agent nor other senders do."""
        try:
            outcome = self.sender.send(spans, last_id)
        except Exception as error:  # noqa: BLE001 (said, and the spans stay)
            reason = f"{type(error).__name__}: {error}"
            self._failed(reason, is_bug=True)
            return Failed(reason)
        if isinstance(outcome, Delivered | Refused | Failed):
            return outcome
        return Failed(f"send() returned {type(outcome).__name__}; the rule is Delivered, Refused or Failed")

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

    def _bury(self, span: bytes, reason: str) -> bool:
        """Make a dead letter of a span that is refused even alone. False if the agent stops before that."""
        while True:
            try:
                kept = self._spool.bury(self.sender.name, reason, span)
            except SpoolFull as full:
                _log.debug("dead letter waits: %s", full)
                if self._draining.is_set():
                    return False
                self._pause(self._backoff.next_s())
                continue
            self.account.buried(kept)
            what = (
                "kept as a dead letter" if kept else "dropped, since dead letters fill a tenth of the spool"
            )
            _log.warning(
                "%s refuses a span (%s): %s; it begins %.200r",
                *(self.sender.name, reason, what, span),
                extra={"sender": self.sender.name, "reason": reason, "kept": kept},
            )
            return True

    def _save(self) -> None:
        self._save_at_s = self.account.clock_s() + SAVE_S
        try:
            self._spool.save()
            self._is_unsaved = False
        except SpoolFull as full:
            if not self._is_unsaved:
                _log.warning("what %s delivered is noted in memory only: %s", self.sender.name, full)
            self._is_unsaved = True


def split(spans: bytes) -> list[bytes]:
    """Take joined spans apart; bytes that are no JSON come apart at SEPARATOR. Never raises."""
    try:
        return _spans_of(spans)
    except _NOT_JSON:
        pieces = spans.split(SEPARATOR)
    whole: list[bytes] = []
    for piece in pieces:
        try:
            whole += _spans_of(piece)  # what came in one HTTP body has commas only
        except _NOT_JSON:
            whole.append(piece)
    return whole


def _spans_of(joined: bytes) -> list[bytes]:
    return [bytes(span) for span in _decode_spans(b"[" + joined + b"]")]
