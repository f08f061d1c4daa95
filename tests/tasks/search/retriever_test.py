"""Which retriever a config names, and the mistakes that are told before a run begins."""

import pytest

from espl_jax.tasks.search import corpus
from espl_jax.tasks.search import retriever as retrievers
from espl_jax.tasks.search.retriever import check, open_retriever
from experiments import base


@pytest.fixture
def tools():
    tools = base.get_config().tools
    tools.retries = 0
    tools.timeout = 5.0
    return tools


def test_an_index_and_its_server_answer_alike(tools, index_folder, url):
    tools.index = str(index_folder)
    local = open_retriever(tools)
    tools.retriever = url
    server = open_retriever(tools)
    assert local.search(["jane austen", "?"], 2) == server.search(["jane austen", "?"], 2)
    local.close()
    server.close()


def test_a_folder_that_is_none_is_named(tools, tmp_path):
    tools.index = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="tools.index is .* holds no index; build one with .* or use 'embedded'"):
        open_retriever(tools)


@pytest.mark.parametrize("value", ["remote", "", "127.0.0.1:8000", "http://", "http://host:port"])
def test_a_retriever_that_is_none_is_named(tools, value):
    tools.retriever = value
    with pytest.raises(ValueError, match="tools.retriever is .*; use 'local', or http://host:port"):
        check(tools)


def test_a_server_that_is_not_there_is_told_before_the_run(tools, monkeypatch):
    tools.retriever = "http://127.0.0.1:9"
    with pytest.raises(ValueError, match="tools.retriever is 'http://127.0.0.1:9', but the search server is not available"):
        open_retriever(tools)


def test_the_default_is_the_embedded_corpus(tools, index_folder, monkeypatch):
    monkeypatch.setattr(corpus, "embedded_index", lambda: index_folder)
    check(tools)
    assert open_retriever(tools).folder == index_folder == retrievers.open_index("--index", "embedded").folder
