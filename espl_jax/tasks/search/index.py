"""A BM25 index on disk, opened without loading it: bm25s's arrays, a sorted list of words, and the passages themselves.

The formula is Lucene's (Kamphuis et al. 2020, "Which BM25 do you mean?"): a passage's score is the sum, over the words of the
query, of ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length)), a word that comes twice
counted twice. build.py writes the folder; the file names of the arrays are those of bm25s.BM25.save, so that bm25s reads them.
"""

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espl_jax.tasks.search.passages import Passage
from espl_jax.tasks.search.terms import STOP_WORDS, WordList, terms

FORMAT = 1  # of the folder; another one is built anew
MANIFEST = "manifest.json"  # counts, settings and sizes of the other files; written last
PASSAGES, PASSAGE_OFFSETS = "passages.jsonl", "passages.offsets.npy"  # [id, title, text] a line; int64 [N + 1]
WORDS, WORD_OFFSETS = "words.txt", "words.offsets.npy"  # UTF-8, sorted; int64 [V + 1]
SCORES, DOCUMENTS, STARTS = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
PARAMETERS = "params.index.json"
FILES = (PASSAGES, PASSAGE_OFFSETS, WORDS, WORD_OFFSETS, SCORES, DOCUMENTS, STARTS, PARAMETERS)
BLOCK = 1024  # passages whose highest score is looked at first
MAX_TERMS = 256  # of a query; what comes behind them is not searched for
BUILD = "build one with `python -m espl_jax.tasks.search.build --corpus=passages.jsonl --out=DIR`"


class NoIndexError(ValueError):
    """A folder that cannot be opened as an index; the message says why and what to do."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole index of this version. Raises NoIndexError for anything else."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NoIndexError(f"{folder} holds no index; {BUILD}") from None
    except (OSError, ValueError) as error:
        raise NoIndexError(f"{path} cannot be read ({error}); {BUILD}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NoIndexError(f"{folder} was built by another version of this program; {BUILD}")
    for name in FILES:
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != manifest["bytes"][name]:
            raise NoIndexError(f"{folder / name} has {size} bytes instead of {manifest['bytes'][name]}; {BUILD}")
    return manifest


def top(scores_N: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` places of the highest scores above 0, best first; of equal ones the first place comes first.

    As many blocks as are wanted have a maximum that reaches the least of the highest maxima, so what is below it is not among
    the best: two passes over the scores, where a partition of all of them takes thirty times as long.
    """
    maxima = np.maximum.reduceat(scores_N, np.arange(0, len(scores_N), BLOCK))
    least = np.partition(maxima, -count)[-count] if count <= len(maxima) else 0
    places = np.flatnonzero(scores_N >= least) if least > 0 else np.flatnonzero(scores_N)
    return places[np.argsort(-scores_N[places], kind="stable")][:count]


class Index:
    """A Retriever over a folder that build.py made; searches of many threads share it."""

    def __init__(self, folder: str | Path):
        """Opens in moments whatever the size. Raises NoIndexError for what is no whole index of this version."""
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        self._scorer = open_scorer(self.folder)
        self._words = WordList(self.folder / WORDS, np.load(self.folder / WORD_OFFSETS, mmap_mode="r"))
        self._offsets = np.asarray(np.load(self.folder / PASSAGE_OFFSETS, mmap_mode="r"))
        with open(self.folder / PASSAGES, "rb") as file:
            self._passages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return self.manifest["passages"]

    def search(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """As Retriever; only passages that share a word with the query, of equal scores the first in the corpus first."""
        return [self._search(query, topk) for query in queries]

    def passage(self, place: int, score: float = 0.0) -> Passage:
        """The passage at a place of the corpus, counted from 0."""
        id, title, text = json.loads(self._passages[self._offsets[place] : self._offsets[place + 1]])
        return Passage(id, title, text, score)

    def close(self) -> None:
        """Unmaps what can be unmapped; the arrays go with the last who uses them."""
        self._passages.close()
        self._words.close()

    def _search(self, query: str, topk: int) -> list[Passage]:
        words = [word for word in terms(query) if word not in STOP_WORDS][:MAX_TERMS]
        numbers = sorted(number for word in words if (number := self._words.number(word)) is not None)
        if not numbers:
            return []
        scores_N = self._scorer.get_scores_from_ids(numbers)
        return [self.passage(place, float(scores_N[place])) for place in top(scores_N, topk)]


def open_scorer(folder: Path) -> Any:
    """bm25s's index over the arrays, memory-mapped.

    Imported here because bm25s runs a JAX operation when it is imported, which takes hold of the accelerator: a process that
    only searches sets JAX_PLATFORMS=cpu first, and a run has set up its devices before.
    """
    import bm25s

    scorer = bm25s.BM25.load(folder, mmap=True, load_vocab=False)
    for name in ("data", "indices", "indptr"):
        scorer.scores[name] = np.asarray(scorer.scores[name])  # a view: memmap's own slices are slow
    return scorer
