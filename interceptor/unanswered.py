"""Sends that were under way when the process ended: what became of them nobody knows."""

from __future__ import annotations

import atexit
import gc

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.producer import Sending


def end_at_exit() -> None:
    """Have the spans of sends that were open for a moment when the process ends reported then, as timeouts.

    To be called before a producer is made: kafka-python closes its producers at exit as well, and what is
    answered meanwhile has ended by then.
    """
    atexit.register(_end_open_spans)


def _end_open_spans() -> None:
    # Else they would never be collected: kafka-python's thread is a daemon, and holds their futures for good.
    # To look for them once costs less than to keep a list of them at every send. Among the young objects
    # only: to look at a million old ones takes 0.2 s, and the end of an application is not to be slowed.
    try:
        for generation in (0, 1):
            for found in gc.get_objects(generation=generation):
                if type(found) is Sending:
                    found.give_up()
    except Exception as error:  # noqa: BLE001
        suppress("ending the sends that were not answered", error)
