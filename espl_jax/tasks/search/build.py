"""Builds a search index: `python -m espl_jax.tasks.search.build --corpus=passages.jsonl --out=DIR`.

The corpus has one JSON object a line, {"id", "title", "text"} or, as Search-R1's wiki-18, {"id", "contents"} whose first line
is the title in quotes; a name that ends in .gz is unpacked on the way. It is read once, in pieces of bounded size whose counts
go to disk; then every count is put, as a score, where bm25s's arrays have it (bm25s's own indexing holds the whole corpus as
Python lists). In memory at a time: a piece, the words of the corpus, and some twenty bytes a passage. A build that dies leaves
nothing that could be opened.
"""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import app, flags, logging
from numpy.lib.format import open_memmap

from espl_jax.tasks.search import index
from espl_jax.tasks.search.contents import clean, split_contents
from espl_jax.tasks.search.passages import Passage
from espl_jax.tasks.search.terms import STOP_WORDS, terms

K1, B = 0.9, 0.4  # for passages of about 100 words, as Anserini has them
PIECE_PASSAGES, PIECE_TERMS = 1 << 16, 1 << 23  # a piece ends at the first of the two
MAX_LINE = 1 << 22  # bytes of a corpus's line; a passage is some hundred words
SPILL = "counts.bin"  # (term << 16 | passage of the piece) int64, then occurrences int32, piece after piece


class CorpusError(ValueError):
    """A corpus that cannot be indexed; the message names file and line, and the remedy."""


# -- reading a corpus --------------------------------------------------------------------------------------------------


def read_corpus(path: Path) -> Iterator[Passage]:
    """The passages of a file, one at a time. Raises CorpusError for the first line that is none."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    with opened as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise CorpusError(f"{path}:{number} is longer than {MAX_LINE} bytes; split it into passages")
            if line.strip():
                yield read_row(f"{path}:{number}", line)


def read_row(where: str, line: bytes) -> Passage:
    """The passage of a line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is no JSON ({error}); write one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
        raise CorpusError(f"{where} is no JSON object with an id; write {{'id', 'title', 'text'}} or {{'id', 'contents'}}")
    if isinstance(row.get("text"), str) and isinstance(row.get("title", ""), str):
        return Passage(str(row["id"]), row.get("title", ""), row["text"])
    if isinstance(row.get("contents"), str):
        return Passage(str(row["id"]), *split_contents(row["contents"]))
    raise CorpusError(f"{where} has the columns {sorted(row)}; it needs id, title and text, or id and contents, as text")


# -- counting ----------------------------------------------------------------------------------------------------------


class Vocabulary(dict[str, int]):
    """Numbers words in the order in which they are first asked for; stop words are -1."""

    def __init__(self):
        super().__init__(dict.fromkeys(STOP_WORDS, -1))

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self) - len(STOP_WORDS)
        return number


@dataclass
class Piece:
    """Some passages of the corpus: their lines' bytes, and their terms' numbers one after the other."""

    lines: list[bytes]
    terms: array
    lengths: list[int]  # terms of each passage, stop words included


@dataclass(frozen=True)
class Counts:
    """What the first pass over a corpus leaves besides the spilled counts.

    frequencies_V: in how many passages each word is. lengths_N: words of each passage, stop words not counted. sizes: counts
    in each piece, and passages before it. sha256: of the passages' file.
    """

    vocabulary: Vocabulary
    frequencies_V: np.ndarray
    lengths_N: np.ndarray
    sizes: list[tuple[int, int]]
    sha256: str


def pieces(passages: Iterable[Passage], vocabulary: Vocabulary) -> Iterator[Piece]:
    """The corpus in pieces of bounded size."""
    piece = Piece([], array("i"), [])
    for passage in passages:
        row = [clean(text) for text in (passage.id, passage.title, passage.text)]
        numbers = [vocabulary[term] for term in terms(f"{row[1]}\n{row[2]}")]
        piece.lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        piece.terms.extend(numbers)
        piece.lengths.append(len(numbers))
        if len(piece.lines) == PIECE_PASSAGES or len(piece.terms) >= PIECE_TERMS:
            yield piece
            piece = Piece([], array("i"), [])
    if piece.lines:
        yield piece


def count(passages: Iterable[Passage], folder: Path) -> Counts:
    """First pass: writes the passages and the spilled counts."""
    vocabulary, frequencies_V, sizes, all_lengths, sha256 = Vocabulary(), np.zeros(0, np.int64), [], [], hashlib.sha256()
    offsets, before = [np.zeros(1, np.int64)], 0
    with open(folder / index.PASSAGES, "wb") as texts, open(folder / SPILL, "wb") as spill:
        for piece in pieces(passages, vocabulary):
            keys, times, lengths = counted(piece)
            keys.tofile(spill)
            times.tofile(spill)
            words = len(vocabulary) - len(STOP_WORDS)
            frequencies_V = np.pad(frequencies_V, (0, words - len(frequencies_V))) + np.bincount(keys >> 16, minlength=words)
            offsets.append(offsets[-1][-1] + np.cumsum([len(line) for line in piece.lines]))
            all_lengths.append(lengths)
            sizes.append((len(keys), before))
            before += len(lengths)
            block = b"".join(piece.lines)
            texts.write(block)
            sha256.update(block)
            logging.info("%d passages, %d words", before, words)
    np.save(folder / index.PASSAGE_OFFSETS, np.concatenate(offsets))
    lengths_N = np.concatenate(all_lengths) if all_lengths else np.zeros(0, np.int32)
    return Counts(vocabulary, frequencies_V, lengths_N, sizes, sha256.hexdigest())


def counted(piece: Piece) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keys, times, lengths): each (term, passage) that occurs, sorted, how often it does, and terms without stop words."""
    numbers = np.frombuffer(piece.terms, np.int32) if piece.terms else np.zeros(0, np.int32)
    places = np.repeat(np.arange(len(piece.lengths)), piece.lengths)
    kept = numbers >= 0
    keys, times = np.unique(numbers[kept].astype(np.int64) << 16 | places[kept], return_counts=True)
    lengths = np.bincount(places[kept], minlength=len(piece.lengths))
    return keys, times.astype(np.int32), lengths.astype(np.int32)


# -- writing the arrays ------------------------------------------------------------------------------------------------


def write_words(counts: Counts, folder: Path) -> np.ndarray:
    """Writes the sorted words; returns where each word's number in the vocabulary has its place among them."""
    words = sorted(word for word, number in counts.vocabulary.items() if number >= 0)  # by code points, as UTF-8 sorts
    encoded = [word.encode() for word in words]
    (folder / index.WORDS).write_bytes(b"".join(encoded))
    np.save(folder / index.WORD_OFFSETS, np.cumsum([0, *map(len, encoded)], dtype=np.int64))
    places_V = np.empty(len(words), np.int64)
    places_V[[counts.vocabulary[word] for word in words]] = np.arange(len(words))
    return places_V


def write_scores(counts: Counts, places_V: np.ndarray, folder: Path, k1: float, b: float) -> None:
    """Second pass: each spilled count becomes a score in its word's column, columns in the order of the words."""
    frequencies_V = np.empty_like(counts.frequencies_V)
    frequencies_V[places_V] = counts.frequencies_V
    N = len(counts.lengths_N)
    weights_V = np.log1p((N - frequencies_V + 0.5) / (frequencies_V + 0.5))
    norms_N = k1 * (1 - b + b * counts.lengths_N / counts.lengths_N.mean())
    starts = np.concatenate([[0], np.cumsum(frequencies_V)])
    np.save(folder / index.STARTS, starts)
    scores = open_memmap(folder / index.SCORES, "w+", np.float32, (int(starts[-1]),))
    documents = open_memmap(folder / index.DOCUMENTS, "w+", np.int32, (int(starts[-1]),))
    free_V = starts[:-1].copy()  # where each column's next count goes
    with open(folder / SPILL, "rb") as spill:
        for size, before in counts.sizes:
            keys, times = read_spilled(spill, size)
            words, places = places_V[keys >> 16], (keys & 0xFFFF) + before
            targets = free_V[words] + within_runs(words)
            scores[targets] = weights_V[words] * times / (times + norms_N[places])
            documents[targets] = places
            free_V += np.bincount(words, minlength=len(free_V))
    scores.flush()
    documents.flush()


def read_spilled(spill: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The next piece's (keys, times)."""
    return np.fromfile(spill, np.int64, size), np.fromfile(spill, np.int32, size)


def within_runs(values: np.ndarray) -> np.ndarray:
    """For each element how many equal ones stand directly before it: [5, 5, 2, 2, 2] gives [0, 1, 0, 1, 2]."""
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return np.arange(len(values)) - np.repeat(begins, np.diff(np.append(begins, len(values))))


# -- the folder --------------------------------------------------------------------------------------------------------


def build(passages: Iterable[Passage], out: str | Path, name: str, k1: float = K1, b: float = B) -> Path:
    """The folder `out` with an index of the passages, made unless an index of the same `name` is there.

    name: of the corpus and its version. Processes that build at once wait for one another. Raises CorpusError for a corpus
    without words, and for a folder that holds anything else.
    """
    out = Path(out).expanduser()
    making = out.with_name(f".{out.name}.building")
    with locked(out.with_name(f".{out.name}.lock")):
        if out.exists():
            return require_same(out, name)
        shutil.rmtree(making, ignore_errors=True)  # of a build that died
        making.mkdir()
        try:
            write(passages, making, name, k1, b)
            making.rename(out)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return out


def require_same(out: Path, name: str) -> Path:
    """`out` if its index has this name; CorpusError if it has another, or is none that can be opened."""
    try:
        found = index.read_manifest(out)["corpus"]
    except index.NoIndexError as error:
        raise CorpusError(f"{out} is there already but is no index ({error}); remove it or give another folder") from None
    if found != name:
        raise CorpusError(f"{out} has the index of {found} already, not of {name}; remove it or give another folder")
    logging.info("%s is there already", out)
    return out


def write(passages: Iterable[Passage], folder: Path, name: str, k1: float, b: float) -> None:
    """All files of an index, its manifest last."""
    counts = count(passages, folder)
    if not len(counts.frequencies_V):
        raise CorpusError(f"{name} has no words in {len(counts.lengths_N)} passages; give a corpus with at least one")
    write_scores(counts, write_words(counts, folder), folder, k1, b)
    (folder / SPILL).unlink()
    parameters = {
        "k1": k1, "b": b, "delta": 0.5, "method": "lucene", "idf_method": "lucene", "dtype": "float32", "int_dtype": "int32",
        "num_docs": len(counts.lengths_N), "version": version("bm25s"), "backend": "numpy",
    }  # fmt: skip
    write_json(folder / index.PARAMETERS, parameters)
    manifest = {
        "format": index.FORMAT, "corpus": name, "passages": len(counts.lengths_N), "words": len(counts.frequencies_V),
        "counts": int(counts.frequencies_V.sum()), "mean_words": float(counts.lengths_N.mean()), "k1": k1, "b": b,
        "sha256": counts.sha256, "bytes": {name: sync(folder / name) for name in index.FILES},
    }  # fmt: skip
    write_json(folder / index.MANIFEST, manifest)
    sync(folder / index.MANIFEST)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def sync(path: Path) -> int:
    """Waits until the file is on the disk; returns its bytes."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the operating system frees the lock of one that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(_) -> None:
    flag = flags.FLAGS
    corpus = Path(flag.corpus).expanduser()
    try:
        if not corpus.is_file():
            raise CorpusError(f"--corpus is {flag.corpus!r}, which is not a file; give the path of a .jsonl or .jsonl.gz file")
        with open(corpus, "rb") as file:
            name = f"{corpus.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]} k1={flag.k1:g} b={flag.b:g}"
        out = build(read_corpus(corpus), flag.out, name, flag.k1, flag.b)
    except (CorpusError, OSError) as error:
        sys.exit(str(error))
    manifest = index.read_manifest(out)
    print(f"{out}: {manifest['passages']:,} passages, {manifest['words']:,} words, {sum(manifest['bytes'].values()):,} bytes")


if __name__ == "__main__":
    flags.DEFINE_string("corpus", None, "JSONL of {id, title, text} or {id, contents}; .gz is unpacked.", required=True)
    flags.DEFINE_string("out", None, "The folder that is made.", required=True)
    flags.DEFINE_float("k1", K1, "BM25: how fast a word's repetitions lose weight.", lower_bound=0.0)
    flags.DEFINE_float("b", B, "BM25: how much long passages count for less, 0 to 1.", lower_bound=0.0, upper_bound=1.0)
    app.run(main)
