"""Sends that were under way when the process ended: what became of them nobody knows."""

from __future__ import annotations

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import finish
from kaspan.interceptor.kafka import send_span as in_python
from kaspan.interceptor.kafka.producer import known_producers

open_sends = accelerated(in_python.open_sends)


def end_open_sends() -> None:
    """Report every span of a send that is open now, when the process ends, as a timeout. Never raises."""
    # Else they would never be collected: kafka-python's thread is a daemon, and holds their futures for good.
    # Where nothing is compiled no list of them is kept, and to look for them among a million objects takes up
    # to 0.2 s: only an application pays that which ends with sends under way.
    try:
        if any(producer.has_open_sends() for producer in known_producers()):
            for send_span in open_sends():
                send_span.give_up()
    except BaseException as error:  # noqa: BLE001 (what is interrupted is done all the same)
        finish("ending the sends that were not answered", error, end_open_sends)
