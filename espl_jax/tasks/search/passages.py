"""What a search gives: passages, and the seam between whoever searches and whoever asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Passage:
    """A piece of a corpus. score: how well it fits the query, higher is better; only scores of one query compare."""

    id: str
    title: str
    text: str
    score: float = 0.0


class RetrieverError(RuntimeError):
    """A search that cannot be done now; the message is short and may be shown to the model."""


class Retriever(Protocol):
    """Searches a corpus: an index on this machine or a server. Called from many threads at once."""

    def search(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """For each query at most topk passages, best first. Raises RetrieverError after its own time-outs and retries."""

    def close(self) -> None:
        """Ends what the retriever has started."""
