"""Searching an index: scores by hand and by bm25s's own indexing, ties, and what is no index."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.tasks.search import build as building
from espl_jax.tasks.search import index as indexing
from espl_jax.tasks.search.build import build
from espl_jax.tasks.search.index import MANIFEST, MAX_TERMS, SCORES, Index, NoIndexError, top
from espl_jax.tasks.search.passages import Passage
from tests.tasks.search.conftest import PASSAGES


def make(folder, *texts, k1=1.0, b=0.5) -> Index:
    """An index of passages with these texts, whose ids are their places."""
    return Index(build([Passage(str(i), "", text) for i, text in enumerate(texts)], folder, "texts", k1, b))


def found(index, query, topk=10):
    return [(passage.id, passage.score) for passage in index.search([query], topk)[0]]


def test_scores_by_hand(tmp_path):
    """N = 3, lengths 3, 2, 1 (mean 2), k1 = 1, b = 1/2: the norms are 1.25, 1 and 0.75.

    cat: df 1, ln(1 + 2.5 / 1.5) = 0.980829; tf 2 in the first: x 2 / 3.25 = 0.603587.
    dog: df 2, ln(1 + 1.5 / 2.5) = 0.470004; x 1 / 2.25 = 0.208890 in the first, x 1 / 2 = 0.235002 in the second.
    """
    index = make(tmp_path / "i", "Cat, the cat: dog", "dog bird", "fish")
    assert found(index, "CAT?") == [("0", pytest.approx(0.603587, abs=1e-6))]
    assert found(index, "a dog") == [("1", pytest.approx(0.235002, abs=1e-6)), ("0", pytest.approx(0.208890, abs=1e-6))]
    assert found(index, "dog cat") == [("0", pytest.approx(0.812477, abs=1e-6)), ("1", pytest.approx(0.235002, abs=1e-6))]
    assert found(index, "dog dog") == [("1", pytest.approx(0.470004, abs=1e-6)), ("0", pytest.approx(0.417781, abs=1e-6))]
    assert found(index, "cat dog") == found(index, "dog cat")


def test_scores_are_those_of_bm25s_own_indexing(tmp_path, monkeypatch):
    """Random passages in pieces of 7; b and k1 are not the defaults."""
    monkeypatch.setattr(building, "PIECE_PASSAGES", 7)
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(40)])
    corpus = [list(words[np.minimum(rng.geometric(0.1, rng.integers(1, 30)), 39)]) for _ in range(60)]
    index = make(tmp_path / "i", *map(" ".join, corpus), k1=1.2, b=0.75)
    reference = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    reference.index(corpus, show_progress=False)
    for query in (["w1"], ["w0", "w5", "w30"], ["w2", "w2", "w7"]):
        expected = reference.get_scores(query)
        ours = dict(found(index, " ".join(query), 60))
        assert sorted(ours, key=int) == [str(place) for place in np.flatnonzero(expected)]
        np.testing.assert_allclose([ours[id] for id in sorted(ours, key=int)], expected[expected > 0], rtol=1e-5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 40), st.sampled_from([1, 2, 7, 1024]))
def test_the_best_come_first_and_of_equal_ones_the_first(values, count, block):
    expected = sorted((-value, place) for place, value in enumerate(values) if value)[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "BLOCK", block)
        assert top(np.array(values, np.float32), count).tolist() == [place for _, place in expected]


def test_passages_come_back_as_they_were(index):
    assert [index.passage(place) for place in range(len(index))] == list(PASSAGES)
    (passages,) = index.search(["zurich limmat"], 3)
    assert [(passage.id, passage.title, passage.text) for passage in passages] == [("p4", "Zürich", PASSAGES[3].text)]


@pytest.mark.parametrize("query", ["", "   ", "xyzzy", "the of is", "\x00\x1b[0m", "\ud800", "?!"])
def test_a_query_without_a_known_word_finds_nothing(index, query):
    assert index.search([query, "emma"], 2) == [[], index.search(["emma"], 2)[0]]


def test_of_a_long_query_the_first_words_count(index):
    assert found(index, "xyzzy " * (MAX_TERMS - 1) + "emma steventon") == found(index, "emma")


@given(st.text(st.characters(exclude_categories=())))
def test_any_query_gives_passages(index, query):
    (passages,) = index.search([query], 3)
    assert len(passages) <= 3
    assert all(passage.score > 0 for passage in passages)


def test_threads_share_an_index(index):
    queries = ["emma", "jane austen", "hampshire county", "steventon village", "nothing"] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: index.search([query], 3)[0], queries)) == index.search(queries, 3)


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(NoIndexError, match="holds no index; build one with"):
        Index(tmp_path)


def test_a_damaged_index_is_not_opened(index_folder, tmp_path):
    cut = shutil.copytree(index_folder, tmp_path / "cut")
    (cut / SCORES).write_bytes((cut / SCORES).read_bytes()[:-4])
    with pytest.raises(NoIndexError, match="bytes instead of"):
        Index(cut)
    (cut / SCORES).unlink()
    with pytest.raises(NoIndexError, match="has None bytes"):
        Index(cut)
    (cut / MANIFEST).write_text('{"format"', encoding="utf-8")
    with pytest.raises(NoIndexError, match="cannot be read"):
        Index(cut)


def test_an_index_of_another_version_is_not_opened(index_folder, tmp_path):
    other = shutil.copytree(index_folder, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_bytes())
    (other / MANIFEST).write_text(json.dumps(manifest | {"format": 0}), encoding="utf-8")
    with pytest.raises(NoIndexError, match="another version"):
        Index(other)
