"""What the tests of the search engine share: a tiny corpus, its index, and a server of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from espl_jax.tasks.search.build import build
from espl_jax.tasks.search.index import Index
from espl_jax.tasks.search.passages import Passage
from espl_jax.tasks.search.server import Server

PASSAGES = (
    Passage("p1", "Emma", "Emma is a novel by Jane Austen, published in 1815."),
    Passage("p2", "Jane Austen", 'Jane Austen was born in Steventon.\nShe wrote "Emma".'),
    Passage("p3", "Steventon", "Steventon is a village in Hampshire."),
    Passage("p4", "Zürich", "Zürich is the largest city of Switzerland — on the Limmat\x0b."),
    Passage("p5", "", "Hampshire is a county."),
)


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory) -> Path:
    return build(PASSAGES, tmp_path_factory.mktemp("search") / "index", "tiny")


@pytest.fixture(scope="session")
def index(index_folder) -> Index:
    return Index(index_folder)


@pytest.fixture(scope="session")
def url(index) -> Iterator[str]:
    """Of a server of the index, in this process."""
    server = Server(index, len(index), "127.0.0.1", 0, topk=2)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
