"""Applications that report numbered spans as fast as they are let, and remember which they were promised."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.raw_http import RawHttpClient
from support.ring_writer import RingWriter, span

RECONNECT_S = 0.02
LOST_ANSWER = (OSError, EOFError)
MakeSpan = Callable[[int], bytes]


class RingApplication:
    """A process's ring and a thread that writes spans into it, numbered from `first` on.

    Between two spans it waits for `pause_s`. `written` are the ids of those for which there was room, and
    `dropped` is the number of the others.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        first: int,
        pause_s: float = 0.0005,
        make: MakeSpan = span,
        ring_bytes: int = 1 << 20,
    ) -> None:
        self._writer = RingWriter(directory, name, data_bytes=ring_bytes)
        self._ending = threading.Event()
        self._first = first
        self._pause_s = pause_s
        self._make = make
        self.written: set[str] = set()
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        number = self._first
        while not self._ending.wait(self._pause_s):
            if self._writer.put(self._make(number)):
                self.written.add(f"{number:016x}")
            else:
                self.dropped += 1
            number += 1

    def end(self) -> set[str]:
        """Die as a process does, and give the ids of what had been written."""
        self._ending.set()
        self._thread.join()
        self._writer.die()
        return self.written


class HttpApplication:
    """A thread that posts bodies of spans numbered from `first` on, and connects again while it runs.

    `address` is what `RawHttpClient` wants. `acknowledged` are the ids of those answered 202.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        first: int,
        in_body: int = 5,
        pause_s: float = 0.0,
        make: MakeSpan = span,
    ) -> None:
        self._address = address
        self._first = first
        self._in_body = in_body
        self._pause_s = pause_s
        self._make = make
        self._ending = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.acknowledged: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            # A connection that the agent's death has closed, or none because it is not up again yet.
            with contextlib.suppress(*LOST_ANSWER):
                client = RawHttpClient(self._address)
                try:
                    self._post(client)
                finally:
                    client.close()
            self._ending.wait(RECONNECT_S)

    def _post(self, client: RawHttpClient) -> None:
        while not self._ending.wait(self._pause_s):
            numbers = range(self._first, self._first + self._in_body)
            self._first += self._in_body
            answer = client.post(b"[" + b",".join(map(self._make, numbers)) + b"]")
            self.statuses[answer.status] += 1
            if answer.status == 202:
                self.acknowledged.update(f"{number:016x}" for number in numbers)

    def end(self) -> set[str]:
        """Stop, and give the ids of what the agent has answered for."""
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.acknowledged


class Applications:
    """Several of both kinds on one agent: rings come and go, and clients stay. `end` gives all promised ids.

    `make` writes the span of a number.
    """

    def __init__(
        self,
        ring_dir: Path,
        address: tuple[str, int] | str,
        rings: int = 3,
        clients: int = 3,
        make: MakeSpan = span,
        pause_s: float = 0.002,
    ) -> None:
        self._ring_dir = ring_dir
        self._make = make
        self._pause_s = pause_s
        self._made = 0
        self._promised: set[str] = set()
        self._rings = [self._open_ring() for _ in range(rings)]
        self.clients = [
            HttpApplication(address, self._next_first(), make=make, pause_s=pause_s) for _ in range(clients)
        ]

    def _next_first(self) -> int:
        self._made += 1
        return self._made << 32

    def _open_ring(self) -> RingApplication:
        first = self._next_first()
        return RingApplication(self._ring_dir, f"{self._made}-a.ring", first, self._pause_s, self._make)

    def replace_one(self, rng: random.Random) -> None:
        """Let one of the applications with rings die, if there are any, and another one start."""
        if not self._rings:
            return
        self._promised |= self._rings.pop(rng.randrange(len(self._rings))).end()
        self._rings.append(self._open_ring())

    def written(self) -> set[str]:
        """Give the ids of the spans that are in the rings of those that run, or were."""
        return self._promised.union(*(ring.written.copy() for ring in self._rings))

    def end(self) -> set[str]:
        """End all of them, and give the ids of every span written to a ring or answered 202."""
        for ring in self._rings:
            self._promised |= ring.end()
        for client in self.clients:
            self._promised |= client.end()
        return self._promised
