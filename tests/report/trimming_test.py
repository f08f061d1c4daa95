"""Texts within a budget: as long as they can be, and never more."""

from hypothesis import given
from hypothesis import strategies as st

from espl_jax.report.trimming import limit_within, size, trim


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 300))
def test_the_limit_is_the_highest_that_fits(sizes, budget):
    def taken(limit):
        return sum(min(length, limit) for length in sizes)

    limit = limit_within(sizes, budget)
    assert taken(limit) <= budget or not sizes
    assert limit >= max(sizes, default=0) or taken(limit + 1) > budget


def test_only_the_longest_are_cut_and_counted():
    found = trim(["a" * 10, "b" * 1000, "c" * 3000], 2010)
    assert found.texts[0] == "a" * 10 and found.cut == 1 and found.limit == 1000
    assert found.texts[1] == "b" * 1000 and "2,000 characters are left out" in found.texts[2]
    assert found.texts[2].startswith("c" * 600) and found.texts[2].endswith("c" * 300)


def test_size_counts_bytes_and_escapes():
    assert size("ab") == 2 and size("\u4e2d") == 3 and size("<") == 6 and size("\n") == 2 and size("\ud800") == 3
