"""Sends that are open when the process ends: nobody knows what became of their records."""

from __future__ import annotations

import gc
import weakref
from typing import Protocol

from kaspan.interceptor import at_exit
from kaspan.interceptor.accelerate import compiled
from kaspan.interceptor.failures import finish
from kaspan.interceptor.kafka import send_span as python_send_span


def find_open_sends() -> list[python_send_span.SendSpan]:
    """Find every open span of a send in this process."""
    objects = gc.get_objects()
    return [one for one in objects if type(one) is python_send_span.SendSpan and one.templates is not None]


open_sends = compiled.open_sends if compiled else find_open_sends

_MANY_PRODUCERS = 64


class Producer(Protocol):
    """What is asked of a producer's state."""

    def has_open_sends(self) -> bool:
        """Whether spans of its sends are open."""


# Not a WeakSet: its callbacks are Python code, and an exception that a signal handler raises in one is lost.
_producers: dict[int, weakref.ref[Producer]] = {}


def remember(producer: Producer) -> None:
    """Look for open sends of this producer when the process ends."""
    if len(_producers) >= _MANY_PRODUCERS:
        for key, reference in list(_producers.items()):
            if reference() is None:
                _producers.pop(key, None)
    _producers[id(producer)] = weakref.ref(producer)


def end_open_sends() -> None:
    """Report the span of every open send as a timeout. Never raises."""
    # They are never collected: kafka-python's thread is a daemon, and holds their futures to the end. Where
    # nothing is compiled there is no list of them: to find them among a million objects takes up to 0.2 s, so
    # only an application that ends with open sends does that.
    try:
        producers = [reference() for reference in list(_producers.values())]
        if any(producer is not None and producer.has_open_sends() for producer in producers):
            for send_span in open_sends():
                send_span.give_up()
    except BaseException as error:  # noqa: BLE001 (what is interrupted is done all the same)
        finish("ending open sends", error, end_open_sends)


at_exit.add(at_exit.SENDS, end_open_sends)
