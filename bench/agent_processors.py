"""The cost of processors in the agent: CPU microseconds a span, for batches of spans of a usual size.

The chains take turns, in several rounds of one process; the result is the median of the rounds. `none` is the
work of the ring receiver without processors: it joins the spans of a batch.

    python bench/agent_processors.py [--rounds 9] [--spans 5000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from agent_ring import SPAN

from kaspan.agent.batch import SEPARATOR
from kaspan.agent.processors.build import build
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.config.schema import AddTags, Drop, Processor, Redact, RenameRemote

CARD = r"\b[0-9]{4}(?:[ -]?[0-9]{4}){3}\b"
MAIL = r"[\w.+-]+@[\w-]+\.[\w.]+"
BEARER = r"(?i)\bbearer\s+\S+"
ADD_TAGS = AddTags(tags={"deployment": "prod", "host": "host-1", "pod": "shipping-7f"})
BY_NAME = Redact(tags=("*password*", "*token*", "*authorization*"))
BY_VALUE = Redact(values=(CARD, MAIL, BEARER))
CHAINS: dict[str, Sequence[Processor]] = {
    "none": (),
    "drop (no match)": (Drop(topics=("audit.*",)),),
    "rename_remote": (RenameRemote(),),
    "add_tags (3)": (ADD_TAGS,),
    "redact by name (no match)": (BY_NAME,),
    "redact by name, hash 1 tag": (
        Redact(tags=("kafka.key",), action="hash", hash_secret="bench"),  # noqa: S106 (only for the bench)
    ),
    "redact by 1 pattern (no match)": (Redact(values=(CARD,)),),
    "redact by 3 patterns (no match)": (BY_VALUE,),
    "redact by 1 pattern, 1 match": (Redact(values=("order-[0-9]+",)),),
    "all of drop, rename, add, redact x 2": (
        Drop(topics=("audit.*",)),
        RenameRemote(),
        ADD_TAGS,
        BY_NAME,
        BY_VALUE,
    ),
}


def cost_us(chain: Chain | None, spans: Sequence[bytes]) -> float:
    """CPU microseconds a span for one batch, joined as the receiver joins it."""
    started_s = time.process_time()
    SEPARATOR.join(spans if chain is None else chain.process(spans, Tally()))
    return (time.process_time() - started_s) / len(spans) * 1e6


def main() -> None:
    """Print a line for each chain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--spans", type=int, default=5000)
    options = parser.parse_args()
    spans = [SPAN % (number, number, number + 1) for number in range(1, options.spans + 1)]
    chains = {name: build(settings, {}) if settings else None for name, settings in CHAINS.items()}
    rounds = [{name: cost_us(chain, spans) for name, chain in chains.items()} for _ in range(options.rounds)]
    print(f"us/span   {len(spans[0])} bytes a span, 9 tags")
    for name in chains:
        print(f"{statistics.median(costs[name] for costs in rounds):7.2f}   {name}")


if __name__ == "__main__":
    main()
