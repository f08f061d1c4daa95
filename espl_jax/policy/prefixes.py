"""Which tokens many sequences have in common, so that sampler and learner compute them once.

The N samples of a (prompt, problem) group share all of their context; the problems of one system prompt share its head. So the
plan has two levels: distinct *contexts*, and above them *heads* that several contexts begin with. Plain numpy, no device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SHORTEST_HEAD = 32  # tokens; a shorter head costs more in gathering keys than it saves


@dataclass(frozen=True)
class Context:
    """A distinct sequence: the head that it begins with (-1: none), and its own tokens behind it, int32, never empty."""

    head: int
    tail: np.ndarray


@dataclass(frozen=True)
class Forest:
    """A plan: heads (int32 each, two or more contexts under each), contexts in the order of their heads (those without one
    last), and for each given sequence the index of its context, int32."""

    heads: tuple[np.ndarray, ...]
    contexts: tuple[Context, ...]
    context_of: np.ndarray

    def head_length(self, context: int) -> int:
        """Tokens of the head that a context begins with; the position of its tail's first token."""
        head = self.contexts[context].head
        return 0 if head < 0 else len(self.heads[head])

    def tokens(self, context: int) -> np.ndarray:
        """The whole context."""
        head, tail = self.contexts[context].head, self.contexts[context].tail
        return tail if head < 0 else np.concatenate([self.heads[head], tail])

    @property
    def size(self) -> int:
        """Tokens that are computed: each head and each tail once."""
        return sum(map(len, self.heads)) + sum(len(context.tail) for context in self.contexts)


def plan(sequences: Sequence[np.ndarray], shortest_head: int = SHORTEST_HEAD) -> Forest:
    """The plan that computes the fewest tokens, among all that give each distinct sequence at most one head.

    sequences: integer arrays, none empty. A head has `shortest_head` tokens or more, two or more contexts, and never the last
    token of any of them: that one's hidden state belongs to the context. What is found does not depend on the order given.
    """
    given = [np.asarray(tokens, np.int32) for tokens in sequences]
    if any(len(tokens) == 0 for tokens in given):
        raise ValueError("a sequence has no tokens; each needs at least one")
    keys = [tokens.astype(">u4").tobytes() for tokens in given]  # bytes that sort as the tokens do
    distinct = dict(zip(keys, given))
    ordered = sorted(distinct, key=lambda key: (key[:-4], key))  # the last token is not for sharing
    length_of = choose_heads(shared_prefixes([distinct[key][:-1] for key in ordered]), shortest_head)
    head_of = [ordered[i][: 4 * length_of[i]] for i in range(len(ordered))]  # equal bytes, equal head
    rank = {head: number for number, head in enumerate(dict.fromkeys(filter(None, head_of)))}
    heads = tuple(np.frombuffer(head, ">u4").astype(np.int32) for head in rank)
    order = sorted(range(len(ordered)), key=lambda i: (rank.get(head_of[i], len(rank)), i))
    contexts = tuple(Context(rank.get(head_of[i], -1), distinct[ordered[i]][length_of[i] :]) for i in order)
    place = {ordered[i]: number for number, i in enumerate(order)}
    return Forest(heads, contexts, np.array([place[key] for key in keys], np.int32))


@dataclass
class Node:
    """A prefix of `depth` tokens that several sequences share: the longer prefixes, and the sequences, right under it."""

    depth: int
    children: list["Node"] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


def shared_prefixes(ordered: Sequence[np.ndarray]) -> list[Node]:
    """The tree of all prefixes at which sorted sequences part, each node behind its children; the last is the empty prefix."""
    path, closed = [Node(0)], []
    for i in range(len(ordered)):
        after = common(ordered[i], ordered[i + 1]) if i + 1 < len(ordered) else 0
        if path[-1].depth < after:
            path.append(Node(after))
        path[-1].leaves.append(i)
        while path[-1].depth > after:
            closed.append(path.pop())
            if path[-1].depth < after:
                path.append(Node(after))
            path[-1].children.append(closed[-1])
    return closed + path


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that two sequences begin with alike."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def choose_heads(nodes: Sequence[Node], shortest: int) -> dict[int, int]:
    """{sequence: length of its head}, for the choice that saves the most tokens; 0: no head.

    A node that becomes a head costs its depth, and each sequence saves the depth of the lowest head above it. So the best
    saving under a node depends on one thing alone, the depth of the lowest head above: `saved` has it for each choice.
    """
    choices = {id(nodes[-1]): np.zeros(1, np.int64)}  # depths of the heads that may lie above a node, the lowest last
    for node in reversed(nodes):
        above = choices[id(node)]
        below = np.append(above, node.depth) if node.depth >= shortest else above
        choices.update({id(child): below for child in node.children})
    saved: dict[int, np.ndarray] = {}
    better: dict[int, np.ndarray] = {}
    for node in nodes:
        above = choices[id(node)]
        below = np.append(above, node.depth) if node.depth >= shortest else above
        under = sum((saved.pop(id(child)) for child in node.children), len(node.leaves) * below)
        without, within = under[: len(above)], under[-1] - node.depth if node.depth >= shortest else -1
        better[id(node)] = within > without
        saved[id(node)] = np.maximum(without, within)
    length_of: dict[int, int] = {}
    lowest = {id(nodes[-1]): 0}  # which of its choices a node has above it
    for node in reversed(nodes):
        which = lowest[id(node)]
        if better[id(node)][which]:
            depth, which = node.depth, len(choices[id(node)])
        else:
            depth = int(choices[id(node)][which])
        lowest.update({id(child): which for child in node.children})
        length_of.update({leaf: depth for leaf in node.leaves})
    return length_of
