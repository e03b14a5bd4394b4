"""kaspan.agent.web.parameters: any query string is read, or refused with a text; nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.web.parameters import (
    Parameters,
    read_search,
    read_trace_id,
    read_trace_ids,
    read_window,
)
from kaspan.store.query_request import QueryRequest

NOW_MS = 1_800_000_000_000
NAMES = (
    *("serviceName", "remoteServiceName", "spanName", "annotationQuery", "minDuration", "maxDuration"),
    *("endTs", "lookback", "limit", "order", "traceIds", "x"),
)
NUMBERS = st.integers(-(2**70), 2**70).map(str)
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["", "0", "+1", "-0", " 1", "1 ", "longest", "all", "ALL", "a=b and c", "\u0665"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES)))
def test_any_search_is_read_or_refused(parameters: list[tuple[str, str]]) -> None:
    """What is read fits into 64 bits of microseconds, has names in lower case, and a limit over 0."""
    try:
        search = read_search(Parameters(urlencode(parameters)), NOW_MS)
    except ValueError as error:
        refusal = str(error)
        assert refusal
        return
    assert 0 <= search.first_us < search.last_us < 2**63
    assert 0 < search.limit < 2**31
    for name in (search.service_name, search.remote_service_name, search.span_name):
        assert name is None or (name and name == name.lower())
    assert search.order in ("newest", "longest")


@pytest.mark.parametrize("read", [lambda p: read_search(p, NOW_MS), read_window, read_trace_ids])
@given(query=st.text())
def test_text_of_any_kind_is_read_or_refused(read: Callable[[Parameters], object], query: str) -> None:
    """A query string that no client would write raises nothing but ValueError."""
    with suppress(ValueError):
        read(Parameters(query))


@given(st.text())
def test_any_path_is_a_trace_id_or_refused(text: str) -> None:
    """A trace id has 16 or 32 lower-case hexadecimal digits when it is read."""
    with suppress(ValueError):
        trace_id = read_trace_id(text)
        assert len(trace_id) in (16, 32)
        assert set(trace_id) <= set("0123456789abcdef")


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_have_64_bits(number: int) -> None:
    """Every number that Java's long has can be a parameter, and none beyond."""
    assert Parameters(f"x={number}").optional_number("x") == number
    for beyond in (number + 2**64, number - 2**64):
        with pytest.raises(ValueError, match=f'For input string: "{beyond}"'):
            Parameters(f"x={beyond}").optional_number("x")


def test_thousand_ids_are_split_as_zipkin_splits_them() -> None:
    """What follows the thousandth comma belongs to one id, which is none."""
    ids = ",".join(f"{number:x}" for number in range(1, 1001))
    assert len(read_trace_ids(Parameters(f"traceIds={ids}"))) == 1000
    with pytest.raises(ValueError, match="3e8,3e9 should be lower-hex encoded"):
        read_trace_ids(Parameters(f"traceIds={ids},3e9"))


def test_search_for_what_is_not_named_has_no_condition() -> None:
    """Empty names and `all` ask for nothing, and durations come in microseconds."""
    search = read_search(Parameters("serviceName=&spanName=All&remoteServiceName=&minDuration=5"), NOW_MS)
    assert search == QueryRequest(NOW_MS, 86_400_000, 10, min_duration_us=5)
