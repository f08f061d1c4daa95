"""The words that passages and queries are known by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.tasks.search.terms import WordList, terms

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # control characters and lone surrogates too


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Who wrote Emma?", ["who", "wrote", "emma"]),
        ("vitamin C, 42%", ["vitamin", "c", "42"]),
        ("Zürich's Straße", ["zurich", "s", "strasse"]),
        ("ﬁne\u00a0É", ["fine", "e"]),
        ("東京 tower", ["東京", "tower"]),
        ("\x00 \ud800 ...", []),
        ("", []),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


@given(ANY_TEXT)
def test_terms_of_terms_are_the_same(text):
    assert terms(" ".join(terms(text))) == terms(text)


@given(st.sets(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1), ANY_TEXT)
def test_a_word_list_numbers_its_words_and_no_others(tmp_path_factory, words, other):
    path = tmp_path_factory.mktemp("words") / "words.txt"
    encoded = [word.encode() for word in sorted(words)]
    path.write_bytes(b"".join(encoded))
    found = WordList(path, np.cumsum([0, *map(len, encoded)]))
    assert [found.number(word) for word in sorted(words)] == list(range(len(words)))
    assert other in words or found.number(other) is None
    found.close()
