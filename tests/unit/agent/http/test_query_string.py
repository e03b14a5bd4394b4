"""kaspan.agent.http.query_string and encoding: what a client asks for, as Zipkin's server reads it."""

from __future__ import annotations

from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.http.encoding import accepts_gzip
from kaspan.agent.http.query_string import parse_query

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.dictionaries(TEXTS.filter(bool), TEXTS), st.sampled_from([quote, quote_plus]))
def test_parameters_come_as_they_were_encoded(parameters: dict[str, str], how: object) -> None:
    """Any text may be the name or the value of a parameter, with spaces as + or as %20."""
    assert parse_query(urlencode(parameters, quote_via=how)) == parameters  # type: ignore[call-overload]


@given(st.text())
def test_any_text_is_read_or_refused(query: str) -> None:
    """A query string has parameters, or a text that says what is wrong with it; nothing else happens."""
    try:
        parameters = parse_query(query)
    except ValueError:
        assert "%" in query
    else:
        assert len(parameters) <= query.count("&") + 1


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("a=1&a=2", {"a": "1"}),
        ("a=&a=2", {"a": ""}),
        ("a", {"a": ""}),
        ("a==b=c", {"a": "=b=c"}),
        ("&&a=1&", {"a": "1"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("%61%3D=%26", {"a=": "&"}),
        ("a+b=c+d%2B", {"a b": "c d+"}),
        ("a=%C3%A9", {"a": "é"}),
        ("a=\xc3\xa9", {"a": "\xc3\xa9"}),
        ("a=%ff", {"a": "\ufffd"}),
        ("a=%0d%0A", {"a": "\r\n"}),
        ("a[]=1", {"a[]": "1"}),
    ],
)
def test_query_is_read_as_zipkin_reads_it(query: str, parameters: dict[str, str]) -> None:
    """The first of a repeated parameter counts, ; separates nothing, bytes that are no UTF-8 are replaced.

    Each was asked of Zipkin 3.5.1.
    """
    assert parse_query(query) == parameters


@pytest.mark.parametrize("query", ["a=%", "a=%4", "a=%zz", "a=%u0041", "%", "a=%00", "a=%+1"])
def test_broken_escape_is_refused(query: str) -> None:
    """Zipkin refuses a % that escapes no byte, and the byte 0."""
    with pytest.raises(ValueError, match="%"):
        parse_query(query)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.5, br", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("gzip;q=0.001", True),
        ("gzipped", False),
    ],
)
def test_gzip_is_sent_to_who_takes_it(header: str | None, expected: bool) -> None:
    """Accept-Encoding names what a client takes, with a weight; a weight of 0 means no."""
    assert accepts_gzip({} if header is None else {"accept-encoding": header}) is expected
