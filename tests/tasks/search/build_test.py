"""Building an index: the forms of a corpus, pieces, and builds that fail or die."""

import gzip
import json
import signal
import subprocess
import sys

import pytest

from espl_jax.tasks.search import build as building
from espl_jax.tasks.search.build import CorpusError, build, read_corpus
from espl_jax.tasks.search.contents import join_contents, split_contents
from espl_jax.tasks.search.index import FILES, MANIFEST, Index
from espl_jax.tasks.search.passages import Passage
from tests.tasks.search.conftest import PASSAGES

EMMA = Passage("7", "Emma", "A novel.\nBy Jane Austen.")
DIES = """
import sys
from espl_jax.tasks.search.build import build
from espl_jax.tasks.search.passages import Passage
def passages():
    yield Passage("1", "", "one")
    print("begun", flush=True)
    sys.stdin.read()
build(passages(), sys.argv[1], "name")
"""


@pytest.mark.parametrize(
    "row",
    [
        {"id": "7", "title": "Emma", "text": EMMA.text},
        {"id": 7, "contents": '"Emma"\nA novel.\nBy Jane Austen.'},
        {"id": "7", "contents": "Emma\nA novel.\nBy Jane Austen.", "title": None},
    ],
)
def test_forms_of_a_corpus(write, tmp_path, row):
    path = tmp_path / "rows.jsonl"
    write("rows.jsonl", [row, "", row])
    assert list(read_corpus(path)) == [EMMA, EMMA]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_corpus(tmp_path / "rows.jsonl.gz")) == [EMMA, EMMA]


@pytest.mark.parametrize(
    "row, message",
    [
        ('{"id": "1"', "rows.jsonl:2 is no JSON"),
        ("[" * 100_000, "rows.jsonl:2 is no JSON"),
        ("[]", "rows.jsonl:2 is no JSON object with an id"),
        ({"title": "a", "text": "b"}, "with an id"),
        ({"id": "1", "title": "a"}, "needs id, title and text"),
        ({"id": "1", "text": 3}, "needs id, title and text"),
        ({"id": "1", "text": "x" * building.MAX_LINE}, "rows.jsonl:2 is longer than"),
    ],
)
def test_a_line_that_is_no_passage_is_named(write, tmp_path, row, message):
    write("rows.jsonl", [{"id": "0", "text": "good"}, row])
    with pytest.raises(CorpusError, match=message):
        list(read_corpus(tmp_path / "rows.jsonl"))


def test_contents_are_title_and_text():
    assert split_contents(join_contents(EMMA)) == (EMMA.title, EMMA.text)
    assert split_contents("one line") == ("", "one line")
    assert split_contents('"\ntext') == ('"', "text")


def test_pieces_do_not_show(tmp_path, monkeypatch):
    """One passage a piece, three, or all, and pieces that end at a number of words: every file has the same bytes."""
    whole = build(PASSAGES, tmp_path / "whole", "tiny")
    for name, value in (("PIECE_PASSAGES", 1), ("PIECE_PASSAGES", 3), ("PIECE_TERMS", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(building, name, value)
            other = build(PASSAGES, tmp_path / f"{name}{value}", "tiny")
        for file in (*FILES, MANIFEST):
            assert (other / file).read_bytes() == (whole / file).read_bytes(), file


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    index = Index(build([Passage("\udfff", "a\ud800b", "ü\ud800")], tmp_path / "i", "odd"))
    assert index.passage(0) == Passage("?", "a?b", "ü?")


def test_an_index_is_made_once_for_each_name(tmp_path):
    folder = build(PASSAGES, tmp_path / "i", "one")
    assert build(iter(()), folder, "one") == folder
    with pytest.raises(CorpusError, match="has the index of one already, not of two; remove it"):
        build(PASSAGES, folder, "two")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text", encoding="utf-8")
    with pytest.raises(CorpusError, match="is no index"):
        build(PASSAGES, tmp_path / "mine", "tiny")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("passages", [(), (Passage("1", "", "the of?"),)])
def test_a_corpus_without_words_is_refused(tmp_path, passages):
    with pytest.raises(CorpusError, match=f"has no words in {len(passages)} passages"):
        build(passages, tmp_path / "i", "empty")
    assert not (tmp_path / "i").exists()


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    def passages():
        yield PASSAGES[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        build(passages(), tmp_path / "i", "tiny")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_build_that_is_killed_leaves_nothing_to_open_and_the_next_one_builds(tmp_path):
    out = tmp_path / "i"
    with subprocess.Popen([sys.executable, "-c", DIES, str(out)], stdin=-1, stdout=-1) as child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert Index(build(PASSAGES, out, "tiny")).search(["emma"], 1)[0][0].id == "p1"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["i"]


def test_the_command(write, tmp_path):
    rows = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in PASSAGES]
    corpus, out = write("corpus.jsonl", rows), tmp_path / "i"
    command = [sys.executable, "-m", "espl_jax.tasks.search.build", f"--corpus={corpus}", f"--out={out}", "--k1=1.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 passages" in done.stdout
    manifest = json.loads((out / MANIFEST).read_bytes())
    assert (manifest["k1"], manifest["b"], manifest["passages"]) == (1.5, 0.4, 5)
    done = subprocess.run([*command[:3], f"--corpus={corpus}x", f"--out={out}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "which is not a file" in done.stderr
    assert "Traceback" not in done.stderr
