"""A process that writes a store as fast as it can, and says what `commit` has returned for.

python -m support.killed_writer DIRECTORY FIRST_NUMBER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from kaspan.store.span_store import SpanStore
from support.stored_spans import settings, span

MAX_BYTES = 1 << 30
TEXT = "x" * 200


def main() -> None:
    number = int(sys.argv[2])
    source = random.Random(number)
    store = SpanStore(settings(Path(sys.argv[1]), max_bytes=MAX_BYTES))
    while True:
        last = number + source.randrange(1, 1500)
        store.accept(b",".join(span(each, tags={"x": TEXT}) for each in range(number, last)))
        store.commit()
        print(last - 1, flush=True)
        number = last


if __name__ == "__main__":
    main()
