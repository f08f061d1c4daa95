"""Who answers a search: `open_retriever(config.tools)`."""

from ml_collections import ConfigDict

from espl_jax.tasks.search.client import HttpRetriever
from espl_jax.tasks.search.index import Index, NoIndexError
from espl_jax.tasks.search.passages import Retriever, RetrieverError

PROBE = "test"  # a query of one word


def check(tools: ConfigDict) -> None:
    """Raises ValueError for a retriever that cannot be; nothing is opened."""
    if tools.retriever != "local":
        _http(tools)


def open_retriever(tools: ConfigDict) -> Retriever:
    """The retriever that `tools` (the section of a run's config) names, once it has answered.

    Raises ValueError, in one sentence, for an index that is not there and for a server that does not answer.
    """
    if tools.retriever == "local":
        return open_index("tools.index", tools.index)
    retriever = _http(tools)
    try:
        retriever.search([PROBE], 1)
    except RetrieverError as error:
        raise ValueError(
            f"tools.retriever is {tools.retriever!r}, but {error}; start it with `python -m espl_jax.tasks.search.server "
            "--index=DIR`, give the URL of a server with Search-R1's /retrieve, or set tools.retriever=local"
        ) from None
    return retriever


def open_index(field: str, value: str) -> Index:
    """The index in a folder, or the embedded one, which is built the first time. Raises NoIndexError, which names `field`."""
    if value == "embedded":
        from espl_jax.tasks.search.corpus import embedded_index

        return Index(embedded_index())
    try:
        return Index(value)
    except NoIndexError as error:
        raise NoIndexError(f"{field} is {value!r}, but {error}, or use 'embedded'") from None


def _http(tools: ConfigDict) -> HttpRetriever:
    try:
        return HttpRetriever(tools.retriever, tools.timeout, tools.retries)
    except ValueError:
        raise ValueError(
            f"tools.retriever is {tools.retriever!r}; use 'local', or http://host:port of a server with Search-R1's /retrieve"
        ) from None
