"""Blocks that a query has read. Their spans stay JSON, and are found in it by bytes that they must have."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

import msgspec

from kaspan.store.normal_form import decode_span, take_apart
from kaspan.store.partition_reader import PartitionReader
from kaspan.wire.span import Span

_MAX_BYTES = 8 * 1024 * 1024
_FIRST = b'{"traceId":"'
_BETWEEN = b"}," + _FIRST
_ESCAPE = b"\\u"
_ASCII_IN_LOWER_CASE = ("\u212a".encode(), "\u0130".encode())


class ServiceName(msgspec.Struct, gc=False, rename="camel"):
    """The field of an endpoint that a search reads."""

    service_name: str | None = None


class AnnotationValue(msgspec.Struct, gc=False):
    """The field of an annotation that a search reads."""

    value: str


class Ids(msgspec.Struct, gc=False, rename="camel"):
    """The field that says to which trace a span belongs, not in normal form."""

    trace_id: str


class Times(Ids, gc=False, rename="camel"):
    """The fields of a span that each search reads, not in normal form."""

    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: ServiceName | None = None


class Fields(Times, rename="camel"):
    """The fields of a span that a search by terms reads, not in normal form."""

    name: str | None = None
    remote_endpoint: ServiceName | None = None
    annotations: list[AnnotationValue] = []
    tags: dict[str, str] = {}


_Times = TypeVar("_Times", bound=Times)

_decode_times = msgspec.json.Decoder(Times).decode
_decode_all_times = msgspec.json.Decoder(list[Times]).decode
_decode_fields = msgspec.json.Decoder(Fields).decode


def low_id(trace_id: str) -> str:
    """Return the lower 64 bits of a trace id, as 16 digits."""
    return trace_id.rjust(16, "0")[-16:]


class Part:
    """Some JSON spans of a block, by their place in it; those of a trace stand together.

    `starts` is where each begins in `text`; between two spans there is one byte.
    """

    def __init__(self, text: bytes, starts: Sequence[int]) -> None:
        self.text = text
        self._starts = [*starts, len(text) + 1]
        self._known: dict[str, range] = {}
        self._all: list[Times] = []

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> bytes:
        return self.text[self._starts[place] : self._starts[place + 1] - 1]

    def with_text(self, needle: bytes, ignore_case: bool = False) -> Iterable[int]:
        """Return the places of the spans that may have a text: letters and digits, lower case to ignore case.

        Letters may be written as escapes, so spans with escapes may have any text.
        """
        text = self.text.lower() if ignore_case else self.text
        places = self._places(text, needle)
        escapes = [*self._escapes, *(self._escapes_of_case if ignore_case else ())]
        if not escapes:
            return places
        return sorted(set(places).union(*(self._places(self.text, escape) for escape in escapes)))

    @cached_property
    def _escapes(self) -> list[bytes]:
        # One byte is found twenty times as fast as two.
        return [_ESCAPE] if b"\\" in self.text and _ESCAPE in self.text else []

    @cached_property
    def _escapes_of_case(self) -> list[bytes]:
        return (
            [] if self.text.isascii() else [letter for letter in _ASCII_IN_LOWER_CASE if letter in self.text]
        )

    def with_pattern(self, pattern: re.Pattern[bytes]) -> Iterable[int]:
        """Return the places of the spans that may have a text, and of those with escapes, in order."""
        starts = self._starts
        places = {bisect_right(starts, found.start()) - 1 for found in pattern.finditer(self.text)}
        return sorted(places.union(*(self._places(self.text, escape) for escape in self._escapes)))

    def _places(self, text: bytes, needle: bytes) -> Iterator[int]:
        at = text.find(needle)
        while 0 <= at < len(text):
            place = bisect_right(self._starts, at) - 1
            yield place
            at = text.find(needle, self._starts[place + 1])

    def of_trace(self, low: str) -> list[bytes]:
        """Return the spans of a trace, by the lower 64 bits of its id."""
        if low not in self._known:
            for place in self.with_text(low.lstrip("0").encode()):
                if self.low_id_at(place) == low:
                    self.around(place)
                    break
        return [self[place] for place in self._known.get(low, ())]

    def around(self, place: int) -> range:
        """Return the places of all spans of the trace that has the one at a place."""
        low = self.low_id_at(place)
        if low in self._known:
            return self._known[low]
        first, end = place, place + 1
        while first and self.low_id_at(first - 1) == low:
            first -= 1
        while end < len(self) and self.low_id_at(end) == low:
            end += 1
        places = self._known[low] = range(first, end)
        return places

    def low_id_at(self, place: int) -> str:
        """Return the lower 64 bits of a span's trace id, "" if it is not a span that Zipkin takes."""
        if self._all:
            return low_id(self._all[place].trace_id)
        start = self._starts[place]
        if self.text.startswith(_FIRST, start):  # most spans begin so
            start += len(_FIRST)
            return low_id(self.text[start : self.text.find(b'"', start)].decode("latin-1"))
        times = self.times_at(place)
        return low_id(times.trace_id) if times else ""

    def times_at(self, place: int) -> Times | Span | None:
        """Return a span as far as each search reads it, None if it is not one that Zipkin takes."""
        return self._all[place] if self._all else self._decoded(_decode_times, place)

    def all_places(self) -> range:
        """Return all places, for a caller that will read all spans: together they take half the time."""
        if not self._all:
            with suppress(msgspec.MsgspecError):
                self._all = _decode_all_times(b"[%b]" % self.text)
        return range(len(self))

    def fields_at(self, place: int) -> Fields | Span | None:
        """Return a span as far as a search by terms reads it, None if it is not one that Zipkin takes."""
        return self._decoded(_decode_fields, place)

    def _decoded(self, decode: Callable[[bytes], _Times], place: int) -> _Times | Span | None:
        try:
            return decode(self[place])
        except msgspec.MsgspecError:
            try:
                return decode_span(self[place])
            except ValueError:
                return None


class BlockCache:
    """The blocks that a query has read last."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], list[Part]] = OrderedDict()
        self._bytes = 0

    def get(self, partition: PartitionReader, block: int) -> list[Part]:
        """Return the parts of a block that can be read."""
        key = (partition.path, block)
        parts = self._blocks.get(key)
        if parts is None:
            parts = self._blocks[key] = list(_read(partition, block))
            self._bytes += sum(len(part.text) for part in parts)
            while self._bytes > _MAX_BYTES and len(self._blocks) > 1:
                _, oldest = self._blocks.popitem(last=False)
                self._bytes -= sum(len(part.text) for part in oldest)
        self._blocks.move_to_end(key)
        return parts


def _read(partition: PartitionReader, block: int) -> Iterator[Part]:
    count, texts = partition.counted_spans(block)
    # If the bytes that stand between most spans are found once for each two spans, they are nowhere else, and
    # no parser is needed.
    starts = list(map(_starts, texts))
    if sum(map(len, starts)) == count:
        yield from map(Part, texts, starts)
        return
    for text in texts:
        try:
            payloads = take_apart(text)
        except ValueError as error:
            partition.report_block(block, error)
        else:
            ends = accumulate(len(payload) + 1 for payload in payloads)
            yield Part(b",".join(payloads), [0, *ends][:-1])


def _starts(text: bytes) -> list[int]:
    """Return where spans begin, if what stands between most spans stands between all of them."""
    sizes = map(len(_BETWEEN).__add__, map(len, text.split(_BETWEEN)))
    # What stands between two spans ends with the beginning of the second one.
    starts = list(accumulate(sizes, initial=-len(_FIRST)))
    starts[0] = 0
    return starts[:-1]
