"""The index of terms: which blocks may have a tag, a word, a name."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from kaspan.store import terms

Block = dict[str, set[bytes]]

SERVICES = ["", "orders", "shipping", "mailer"]
TERMS = st.sets(st.binary(max_size=2) | st.binary(max_size=12), max_size=30)
BLOCKS = st.lists(st.dictionaries(st.sampled_from(SERVICES), TERMS, max_size=4), min_size=1, max_size=12)


def stored(blocks: list[Block], groups: list[int]) -> sqlite3.Connection:
    """Store blocks 1, 2 and so on, then make groups with so many of them."""
    connection = sqlite3.connect(":memory:")
    for statement in terms.TABLES:
        connection.execute(statement)
    connection.execute("create table service_names (id integer primary key, name text)")
    connection.executemany("insert into service_names values (?, ?)", list(enumerate(SERVICES))[1:])
    for number, block in enumerate(blocks, 1):
        entries = terms.block_entries({SERVICES.index(service): found for service, found in block.items()})
        connection.execute("insert into block_terms values (?, ?)", (number, entries))
    numbers = list(range(1, len(blocks) + 1))
    for count in groups:
        group, numbers = numbers[:count], numbers[count:]
        if group:
            terms.store_group(connection, group)
    return connection


@given(BLOCKS, st.lists(st.integers(1, 5), max_size=4))
def test_block_with_a_term_is_always_found(blocks: list[Block], groups: list[int]) -> None:
    """There is no false negative, with a service and without, in groups and outside."""
    with closing(stored(blocks, groups)) as connection:
        for number, block in enumerate(blocks, 1):
            for service, found in block.items():
                for term in found:
                    assert number in terms.find_blocks(connection, term)
                    assert number in terms.find_blocks(connection, term, service)


def random_terms(source: random.Random, count: int) -> set[bytes]:
    return {terms.tag_term("key", str(source.random())) for _ in range(count)}


def test_few_blocks_without_a_term_are_found() -> None:
    """Of blocks with 5,000 terms, less than one in 1,000 is found for a term that it does not have."""
    source = random.Random(1)
    blocks: list[Block] = [{"orders": random_terms(source, 5000)} for _ in range(40)]
    lookups = 500
    with closing(stored(blocks, [32])) as connection:
        found = sum(
            len(terms.find_blocks(connection, term, service))
            for term in random_terms(source, lookups)
            for service in (None, "orders")
        )
    assert found / (2 * lookups * len(blocks)) < 0.001


def test_other_services_with_the_term_are_left_out() -> None:
    """With a service, a block in which only another service has the term is not found."""
    blocks: list[Block] = [
        {"orders": {b"x"}, "mailer": {b"y"}},
        {"orders": {b"y"}, "mailer": {b"x"}},
    ]
    for groups in ([], [2]):
        with closing(stored(blocks, groups)) as connection:
            assert terms.find_blocks(connection, b"x") == {1, 2}
            assert terms.find_blocks(connection, b"x", "orders") == {1}
            assert terms.find_blocks(connection, b"x", "mailer") == {2}


def test_group_takes_the_place_of_its_blocks_entries() -> None:
    """A block is in the index once."""
    with closing(stored([{"": {b"x"}}] * 5, [3])) as connection:
        assert connection.execute("select block from block_terms").fetchall() == [(4,), (5,)]
        assert connection.execute("select count(*) from term_groups").fetchone() == (1,)
        assert connection.execute("select count(*) from term_shards").fetchone() == (terms.SHARDS,)
