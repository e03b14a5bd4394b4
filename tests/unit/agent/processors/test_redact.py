"""kaspan.agent.processors.redact and patterns: what must not be stored."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.processors.base import Verdict
from kaspan.agent.processors.patterns import (
    MAX_MATCHES,
    MAX_VALUE_BYTES,
    PatternError,
    Patterns,
    compile_pattern,
)
from kaspan.agent.processors.redact import Redact, Replacement, hashed_with, masked
from kaspan.wire.span import Annotation, Span

CARD = r"\b[0-9]{4}(?:[ -]?[0-9]{4}){3}\b"
MAIL = r"[\w.+-]+@[\w-]+\.[\w.]+"
SECRET = b"s3cret"


def span(**tags: str) -> Span:
    return Span(trace_id="1", id="2", name="get /pay", tags=tags)


def redact(*patterns: str, tags: tuple[str, ...] = (), replacement: Replacement | None = masked) -> Redact:
    return Redact(tags, Patterns(patterns) if patterns else None, replacement)


def replaced(value: str, *patterns: str) -> str:
    return Patterns(patterns).replace(value.encode(), masked).decode()


def test_tags_are_masked_by_name() -> None:
    """The whole value of a tag whose name fits, in any case, is masked; others stay."""
    secret = span(**{"db.Password": "a", "http.path": "/b"})
    assert redact(tags=("*password*",)).process(secret) is Verdict.CHANGED
    assert secret.tags == {"db.Password": "***", "http.path": "/b"}


def test_tags_are_dropped_by_name() -> None:
    """Action drop removes the tag."""
    secret = span(**{"password": "a", "b": "c"})
    redact(tags=("password",), replacement=None).process(secret)
    assert secret.tags == {"b": "c"}


def test_hash_is_the_same_for_the_same_value_and_secret_only() -> None:
    """A hashed value is 16 digits of HMAC-SHA-256 under the secret."""
    hashed = span(user="ann", other="ann", third="bob")
    redact(tags=("*",), replacement=hashed_with(SECRET)).process(hashed)
    assert hashed.tags["user"] == hashed.tags["other"] == hmac.digest(SECRET, b"ann", "sha256").hex()[:16]
    assert hashed.tags["third"] not in ("bob", hashed.tags["user"])
    assert hashed_with(b"other")(b"ann").decode() != hashed.tags["user"]


def test_values_are_looked_into_wherever_text_is() -> None:
    """Patterns without names hide what they match in tags, annotations and the span's name, and no more."""
    secret = span(a="card 4111 1111 1111 1111.", b="no card")
    secret.annotations = [Annotation(1, "paid by 4111111111111111"), Annotation(2, "done")]
    secret.name = "pay 4111-1111-1111-1111"
    assert redact(CARD).process(secret) is Verdict.CHANGED
    assert secret.tags == {"a": "card ***.", "b": "no card"}
    assert secret.annotations == [Annotation(1, "paid by ***"), Annotation(2, "done")]
    assert secret.name == "pay ***"


def test_values_that_match_are_dropped_whole() -> None:
    """With action drop a tag, annotation or name in which a pattern matches is removed."""
    secret = span(a="me@example.com", b="c")
    secret.annotations = [Annotation(1, "to me@example.com"), Annotation(2, "done")]
    redact(MAIL, replacement=None).process(secret)
    assert secret.tags == {"b": "c"}
    assert secret.annotations == [Annotation(2, "done")]


def test_names_and_patterns_together_are_both_required() -> None:
    """Patterns with tag names are looked for in those tags only."""
    secret = span(**{"http.url": "/?q=me@example.com", "from": "me@example.com"})
    secret.annotations = [Annotation(1, "me@example.com")]
    redact(MAIL, tags=("http.*",)).process(secret)
    assert secret.tags == {"http.url": "/?q=***", "from": "me@example.com"}
    assert secret.annotations == [Annotation(1, "me@example.com")]


def test_span_with_nothing_to_hide_is_kept() -> None:
    """Neither a name nor a value fits."""
    assert redact(CARD).process(span(a="b")) is Verdict.KEPT
    assert redact(tags=("password",)).process(span(a="b")) is Verdict.KEPT


def test_overlapping_matches_are_hidden_together() -> None:
    """What any of the patterns matches is hidden, also where another has taken a part of it."""
    assert replaced("xabcdx", "abc", "cd") == replaced("xabcdx", "cd", "abc") == "x***x"


@pytest.mark.parametrize(
    "pattern", ["^secret$", r"\Asecret\z", "(?i)^SECRET", r"[^a]*\bsecret\b", r"\Qsecret"]
)
def test_anchors_mean_the_ends_of_each_value(pattern: str) -> None:
    """^ and $ are the ends of one value, though many values are looked at together."""
    secret = span(a="b", c="secret", d="e")
    assert redact(pattern, "never").process(secret) is Verdict.CHANGED
    assert secret.tags == {"a": "b", "c": "***", "d": "e"}


def test_pattern_that_matches_nothing_in_particular_hides_nothing() -> None:
    """An empty match has nothing to hide."""
    assert replaced("abc", "x*") == "abc"


def test_letters_of_any_script_are_one_character() -> None:
    """Patterns match characters, not bytes, and what is left is text."""
    assert replaced("für Ännchen von Łódź", r"\p{Lu}.") == "für ***nchen von ***dź"


def test_expression_that_would_backtrack_takes_linear_time() -> None:
    """What makes Python's own expressions run for hours is over at once."""
    assert Patterns([r"(a+)+$"]).find_in(["a" * 60_000 + "!"]) == []


def test_long_value_is_hidden_unseen() -> None:
    """A value longer than is worth looking at counts as matching: time is bounded, and nothing leaks."""
    secret = span(a="x" * (MAX_VALUE_BYTES + 1), b="x")
    redact(CARD).process(secret)
    assert secret.tags == {"a": "***", "b": "x"}


def test_value_with_very_many_matches_is_hidden_whole() -> None:
    """Replacing match by match has a bound; beyond it all goes."""
    assert replaced("1 " * MAX_MATCHES, "[0-9]") == "*** " * MAX_MATCHES
    assert replaced("1 " * (MAX_MATCHES + 1), "[0-9]") == "***"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"RE2 does not accept it: missing \): \("),
        ("(?<=a)b", "RE2 does not accept it: invalid perl operator"),
        (r"(a)\1", "RE2 does not accept it: invalid escape sequence"),
        (r"(\p{L}.{0,300}){3}", "it compiles to [0-9]+ instructions, and the limit is 4000"),
    ],
)
def test_expression_that_cannot_be_used_is_refused(pattern: str, reason: str) -> None:
    """What RE2 does not take, and what would make it slow, is an error with the reason."""
    with pytest.raises(PatternError, match=reason):
        compile_pattern(pattern)


TEXTS = st.text("ab1 @.é4-", max_size=12)


@given(tags=st.dictionaries(TEXTS, TEXTS, max_size=4), annotations=st.lists(TEXTS, max_size=3), name=TEXTS)
def test_no_value_that_matches_is_left(tags: dict[str, str], annotations: list[str], name: str) -> None:
    """After redaction no pattern matches anywhere, whatever the span says."""
    patterns = ("[0-9]+", "b+ ?", "^a", "é$")
    span = Span("1", "2", name=name, tags=tags, annotations=[Annotation(1, text) for text in annotations])
    redact(*patterns).process(span)
    texts = [*span.tags.values(), *(annotation.value for annotation in span.annotations), span.name or ""]
    assert set(span.tags) == set(tags)
    for pattern in patterns:
        assert not any(compile_pattern(pattern).search(text) for text in texts)


@given(
    texts=st.lists(TEXTS, max_size=5),
    pattern=st.sampled_from(["a1", "1 a", "[^b]4", r"\b1", r"\B4", "(?s)a.*b", r"\s?4", "^1", "a*"]),
)
def test_looking_at_texts_together_misses_none(texts: list[str], pattern: str) -> None:
    """Every text in which a pattern matches by itself is found when all are looked at together."""
    matching = {place for place, text in enumerate(texts) if compile_pattern(pattern).search(text)}
    assert matching <= set(Patterns([pattern, "zz"]).find_in(texts))
