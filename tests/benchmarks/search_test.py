"""The benchmark of the search engine: its corpus, and one small run."""

import json

from benchmarks import search
from espl_jax.tasks.search.build import build, read_corpus
from espl_jax.tasks.search.terms import STOP_WORDS


def test_the_corpus_is_the_same_each_time_and_a_third_of_it_stop_words(tmp_path):
    for name in ("one", "two"):
        search.write_corpus(tmp_path / f"{name}.jsonl", 300)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text(encoding="ascii").splitlines()]
    words = [word for row in rows for word in row["text"].split()]
    assert [row["id"] for row in rows] == [str(number) for number in range(300)]
    assert 95 < len(words) / 300 < 105
    assert 0.30 < sum(word in STOP_WORDS for word in words) / len(words) < 0.38


def test_batches_are_asked_of_an_index(tmp_path):
    search.write_corpus(tmp_path / "corpus.jsonl", 300)
    folder = build(read_corpus(tmp_path / "corpus.jsonl"), tmp_path / "i", "small")
    found = search.search(folder, queries=4, topk=2, repetitions=2)
    assert len(found["warm"]) == 2
    assert found["cold"] > 0
