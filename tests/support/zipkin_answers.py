"""What Zipkin 3.5.1 answers when it is asked: tests ask kaspan, and Zipkin itself, and compare."""

from __future__ import annotations

from typing import NamedTuple

AUTOCOMPLETE_KEYS = ("site", "env")
SPANS = (
    '[{"traceId":"463ac35c9f6413ad48485a3953bb6124","id":"a2fb4a1d1a96d312","kind":"SERVER","name":"get /a",'
    '"timestamp":1472470996199000,"duration":207000,"localEndpoint":{"serviceName":"frontend","ipv4":'
    '"127.0.0.1"},"remoteEndpoint":{"serviceName":"browser"},"tags":{"http.path":"/a","env":"prod"}},'
    '{"traceId":"463ac35c9f6413ad48485a3953bb6124","parentId":"a2fb4a1d1a96d312","id":"1","kind":"CLIENT",'
    '"name":"get /b","timestamp":1472470996238000,"duration":150000,"localEndpoint":{"serviceName":'
    '"frontend"},"remoteEndpoint":{"serviceName":"backend"},"annotations":[{"timestamp":1472470996238001,"value":"foo"}],'
    '"tags":{"env":"test"}},'
    '{"traceId":"463ac35c9f6413ad48485a3953bb6124","parentId":"a2fb4a1d1a96d312","id":"2","kind":"CLIENT",'
    '"name":"get /c","timestamp":1472470996250000,"localEndpoint":{"serviceName":"frontend"},"shared":true}]'
)
TRACE_ID = "463ac35c9f6413ad48485a3953bb6124"
WINDOW = "endTs=1472470997000&lookback=86400000"
CACHE = "max-age=300, must-revalidate"


class Answer(NamedTuple):
    """What is answered: `text` of an error, `json` otherwise; `cache` is Cache-Control."""

    status: int
    text: str = ""
    json: object = None
    cache: str = ""


def _bad(text: str) -> Answer:
    return Answer(400, text)


def _missing(name: str) -> Answer:
    return _bad(f"Mandatory parameter/header/attribute is missing: {name}")


def _null(name: str) -> Answer:
    return _bad(f"Cannot set null to primitive type parameter: {name}")


def _no_number(text: str) -> Answer:
    return _bad(f'For input string: "{text}"')


def _no_hex(text: str) -> Answer:
    return _bad(f"{text} should be lower-hex encoded with no prefix")


_EMPTY = Answer(200, json=[])

ANSWERS = {
    "services": Answer(200, json=["frontend"]),
    "spans": _missing("serviceName"),
    "spans?serviceName": _EMPTY,
    "spans?serviceName=": _EMPTY,
    "spans?serviceName=FrontEnd": Answer(200, json=["get /a", "get /b", "get /c"]),
    "spans?serviceName=nobody": _EMPTY,
    "spans?serviceName=frontend&serviceName=nobody": Answer(200, json=["get /a", "get /b", "get /c"]),
    "remoteServices": _missing("serviceName"),
    "remoteServices?serviceName=FRONTEND": Answer(200, json=["backend", "browser"]),
    "traces": _EMPTY,  # the spans are of 2016
    "traces?limit=abc": _no_number("abc"),
    "traces?limit=": _null("limit"),
    "traces?limit": _null("limit"),
    "traces?limit=+5": _no_number(" 5"),
    "traces?limit=%2B5": _EMPTY,
    "traces?limit=%2B": _no_number("+"),
    "traces?limit=-": _no_number("-"),
    "traces?limit=1_000": _no_number("1_000"),
    "traces?limit=2147483648": _no_number("2147483648"),
    "traces?limit=-2147483649": _no_number("-2147483649"),
    "traces?limit=-2147483648": _bad("limit <= 0"),
    "traces?limit=0": _bad("limit <= 0"),
    "traces?limit=0x5": _no_number("0x5"),
    "traces?limit=%D9%A5": _EMPTY,
    "traces?limit=%F0%9D%9F%93": _no_number("\U0001d7d3"),
    "traces?limit=9%20": _no_number("9 "),
    "traces?limit=5;limit=abc": _no_number("5;limit=abc"),
    "traces?limit=5&limit=abc": _EMPTY,
    "traces?limit=abc&limit=5": _no_number("abc"),
    "traces?%6Cimit=x%26y": _no_number("x&y"),
    "traces?limit==a": _no_number("=a"),
    "traces?limit=%ff": _no_number("\ufffd"),
    "traces?limit=<b>": _no_number("<b>"),
    "traces?endTs=abc": _no_number("abc"),
    "traces?endTs=": _EMPTY,
    "traces?endTs=0": _bad("endTs <= 0"),
    "traces?endTs=9223372036854775808": _no_number("9223372036854775808"),
    "traces?lookback=0": _bad("lookback <= 0"),
    "traces?lookback=": _EMPTY,
    "traces?lookback=x": _no_number("x"),
    "traces?minDuration=0": _bad("minDuration <= 0"),
    "traces?minDuration=": _EMPTY,
    "traces?minDuration=a": _no_number("a"),
    "traces?maxDuration=5": _bad("maxDuration is only valid with minDuration"),
    "traces?minDuration=10&maxDuration=5": _bad("maxDuration < minDuration"),
    "traces?limit=b&endTs=a&minDuration=c": _no_number("c"),
    "traces?limit=b&endTs=a&lookback=d": _no_number("a"),
    "traces?limit=b&lookback=d": _no_number("d"),
    "traces?limit=-1&endTs=-1&lookback=-1&minDuration=-1": _bad("endTs <= 0"),
    "traces?limit=-1&lookback=-1&minDuration=-1": _bad("limit <= 0"),
    "traces?lookback=-1&minDuration=-1": _bad("lookback <= 0"),
    "traces?LIMIT=abc&lengthOfLimit=x": _EMPTY,
    "trace/1": Answer(404, "0000000000000001 not found"),
    "trace/00000000000000000000000000000001": Answer(404, "0000000000000001 not found"),
    "trace/10000000000000001": Answer(404, "00000000000000010000000000000001 not found"),
    "trace/ABC": _no_hex("ABC"),
    "trace/xyz": _no_hex("xyz"),
    "trace/a%2Fb": _no_hex("a/b"),
    "trace/%20abc%09": Answer(404, "0000000000000abc not found"),
    "trace/%20": _bad("traceId is empty"),
    "trace/000000000000000000000000000000000000000000001": _bad("traceId.length > 32"),
    "trace/0": _bad("traceId is all zeros"),
    "traceMany": _missing("traceIds"),
    "traceMany?traceIds=": _bad("traceIds parameter is empty"),
    "traceMany?traceIds": _bad("traceIds parameter is empty"),
    "traceMany?traceIds=1": _bad("Use /api/v2/trace/{traceId} endpoint to retrieve a single trace"),
    "traceMany?traceIds=1,1": _bad("redundant traceId: 1"),
    "traceMany?traceIds=1,0000000000000001": _bad("redundant traceId: 0000000000000001"),
    "traceMany?traceIds=1,x": _no_hex("x"),
    "traceMany?traceIds=1,": _bad("traceId is empty"),
    "traceMany?traceIds=,": _bad("traceId is empty"),
    "traceMany?traceIds=1,%202": _no_hex(" 2"),
    "traceMany?traceIds=1,A": _no_hex("A"),
    "traceMany?traceIds=1,2": _EMPTY,
    "dependencies": _missing("endTs"),
    "dependencies?endTs=": _null("endTs"),
    "dependencies?endTs=0": _bad("endTs <= 0"),
    "dependencies?endTs=-5&lookback=0": _bad("endTs <= 0"),
    "dependencies?endTs=abc": _no_number("abc"),
    "dependencies?endTs=1&lookback=0": _bad("lookback <= 0"),
    "dependencies?endTs=1&lookback=abc": _no_number("abc"),
    "dependencies?endTs=a&lookback=b": _no_number("a"),
    "dependencies?endTs=1": _EMPTY,
    "autocompleteKeys": Answer(200, json=["env", "site"], cache=CACHE),
    "autocompleteValues": _missing("key"),
    "autocompleteValues?key=": _bad("key was empty"),
    "autocompleteValues?key=foo": _EMPTY,
    "autocompleteValues?key=env": Answer(200, json=["prod", "test"]),
}
"""By what follows /api/v2/; SPANS are there, and AUTOCOMPLETE_KEYS set."""

MATCHES = {
    "": True,
    "serviceName=FrontEnd": True,
    "serviceName=nobody": False,
    "serviceName=": True,
    "spanName=GET+/a": True,
    "spanName=all": True,
    "spanName=ALL": True,
    "spanName=x": False,
    "remoteServiceName=Backend": True,
    "remoteServiceName=nobody": False,
    "annotationQuery=env%3Dprod": True,
    "annotationQuery=env%3Dprod%20and%20foo": True,
    "annotationQuery=env=prod+and+env=test": True,
    "annotationQuery=env%3Ddev": False,
    "annotationQuery=FOO": False,
    "annotationQuery=": True,
    "minDuration=207000": True,
    "minDuration=207001": False,
    "minDuration=1&maxDuration=150000": True,
    "minDuration=1&maxDuration=1": False,
    "limit=1": True,
}
"""Whether traces?WINDOW& with these parameters has the trace of SPANS."""
