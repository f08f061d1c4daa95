"""The search engine of espl_jax/tasks/search: what building an index costs, and how long a batch of queries takes.

  python -m benchmarks.search [--passages=1000000] [--queries=64] [--topk=3] [--directory=runs/benchmarks/search]

Makes a corpus (once), builds its index with the command that users have, and searches it from a process of its own: `cold` is
the first batch, opening included, after the kernel was told to forget the files; `warm` is the median of those behind it. The
words are drawn by Zipf's law, stop words first as in English (a third of all), 100 a passage; a query is 8 words of a passage.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import report

HEADER = ("passages", "what", "seconds", "peak MB", "disk MB")
WORDS = 500_000
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
BLOCK = 10_000  # passages drawn at a time


# -- the corpus --------------------------------------------------------------------------------------------------------


def vocabulary() -> np.ndarray:
    """Stop words, then invented words of one to four syllables, frequent ones first."""
    from espl_jax.tasks.search.terms import STOP_WORDS

    spelled = ("".join(word) for length in range(1, 5) for word in itertools.product(SYLLABLES, repeat=length))
    invented = (word for word in spelled if word not in STOP_WORDS)
    return np.array([*sorted(STOP_WORDS), *itertools.islice(invented, WORDS - len(STOP_WORDS))], object)


def write_corpus(path: Path, passages: int) -> None:
    """A file of {id, title, text}; the same for the same number."""
    words, rng = vocabulary(), np.random.default_rng(0)
    chances = np.cumsum(1 / np.arange(1, WORDS + 1))
    making = path.with_suffix(".making")
    with open(making, "w", encoding="ascii") as file:
        for begin in range(0, passages, BLOCK):
            lengths = rng.integers(60, 141, min(BLOCK, passages - begin))
            drawn = words[np.searchsorted(chances, rng.random(lengths.sum()) * chances[-1], side="right")]
            for number, row in enumerate(np.split(drawn, np.cumsum(lengths)[:-1]), start=begin):
                file.write(json.dumps({"id": str(number), "title": " ".join(row[:3]), "text": " ".join(row)}) + "\n")
    making.rename(path)


def draw_queries(index: object, count: int) -> list[str]:
    """8 words of a passage each."""
    rng = np.random.default_rng(1)
    texts = [index.passage(int(place)).text.split() for place in rng.integers(len(index), size=count)]
    return [" ".join(rng.choice(text, 8, replace=False)) for text in texts]


# -- measuring ---------------------------------------------------------------------------------------------------------


def peak_mb(who: int) -> float:
    """Largest resident size so far of this process, or of one of those it has waited for."""
    return resource.getrusage(who).ru_maxrss * 1024 / 1e6


def build(corpus: Path, out: Path) -> float:
    """Seconds of the command."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "espl_jax.tasks.search.build", f"--corpus={corpus}", f"--out={out}"]
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def forget(folder: Path) -> None:
    """Asks the kernel to drop its copies of the files."""
    os.sync()
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def search(folder: Path, queries: int, topk: int, repetitions: int) -> dict:
    """Seconds of batches, in this process."""
    from espl_jax.tasks.search.index import Index

    asked = draw_queries(Index(folder), queries * (repetitions + 1))
    forget(folder)
    seconds = []
    start = time.perf_counter()
    index = Index(folder)
    for batch in range(repetitions + 1):
        found = index.search(asked[batch * queries : (batch + 1) * queries], topk)
        if not all(found):
            raise RuntimeError("a query made of a passage's words found nothing")
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {"cold": seconds[0], "warm": seconds[1:], "peak_mb": peak_mb(resource.RUSAGE_SELF)}


def search_alone(flags: argparse.Namespace, folder: Path) -> dict:
    """`search` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search", f"--search={folder}"]
    command += [f"--{name}={getattr(flags, name)}" for name in ("queries", "topk", "repetitions")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=64, help="of a batch")
    parser.add_argument("--topk", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5, help="warm batches, each of other queries")
    parser.add_argument("--directory", type=Path, default=Path("runs/benchmarks/search"), help="of corpora and indexes")
    parser.add_argument("--search", type=Path, help="only search this index, here, and print a JSON object")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/search.json"))
    flags = parser.parse_args(argv)
    if flags.search:
        print(json.dumps(search(flags.search, flags.queries, flags.topk, flags.repetitions)))
        return
    flags.directory.mkdir(parents=True, exist_ok=True)
    corpus, out = (flags.directory / f"{flags.passages}{suffix}" for suffix in (".jsonl", ""))
    if not corpus.exists():
        write_corpus(corpus, flags.passages)
    seconds = build(corpus, out)
    built_mb, disk_mb = peak_mb(resource.RUSAGE_CHILDREN), sum(path.stat().st_size for path in out.iterdir()) / 1e6
    found = search_alone(flags, out)
    times = {"build": seconds, f"{flags.queries} queries, cold": found["cold"]}
    times[f"{flags.queries} queries, warm"] = statistics.median(found["warm"])
    peaks = [built_mb, found["peak_mb"], found["peak_mb"]]
    cells = [
        (f"{flags.passages:,}", what, f"{taken:.2f}", f"{peak:,.0f}", f"{disk_mb:,.0f}" if what == "build" else "")
        for (what, taken), peak in zip(times.items(), peaks)
    ]
    print(report.table(HEADER, cells))
    facts = {"passages": flags.passages, "build_seconds": seconds, "build_peak_mb": built_mb, "disk_mb": disk_mb, **found}
    manifest = json.loads((out / "manifest.json").read_bytes())
    settings = {name: getattr(flags, name) for name in ("queries", "topk", "repetitions")}
    value = {"commit": report.commit(), "machine": report.machine(), **settings, **facts, "manifest": manifest}
    report.write_json(flags.output, value)


if __name__ == "__main__":
    main(sys.argv[1:])
