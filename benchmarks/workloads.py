"""The work that all contestants are given: token ids and lengths, made once from a seed.

A sampler's workload is a list of requests, each with the number of tokens that it wants; nothing else ends a completion, so
everybody draws for the same lengths. A learner's is a set of finished trajectories.
"""

from dataclasses import asdict, dataclass

import numpy as np

FIRST_TOKEN = 32  # ids below are control tokens in the families that the benchmarks load
MEDIAN_LENGTH, LENGTH_SPREAD, LONGEST = 64, 1.0, 256  # of a log-normal: 1 in 12 completions would be longer than LONGEST


@dataclass(frozen=True)
class Wanted:
    """One request: the prompt's token ids, and how many new tokens are drawn."""

    tokens: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class SamplerWorkload:
    """Requests that are handed over at once. Useful tokens are those that were wanted, however many a contestant draws."""

    name: str
    requests: tuple[Wanted, ...]
    temperature: float
    top_p: float

    @property
    def useful_tokens(self) -> int:
        return sum(request.length for request in self.requests)

    @property
    def arguments(self) -> dict:
        """What a contestant's prepare_sampling is called with."""
        requests = [asdict(request) for request in self.requests]
        return {"requests": requests, "temperature": self.temperature, "top_p": self.top_p}


@dataclass(frozen=True)
class LearnerWorkload:
    """Trajectories of P prompts x Q problems x G samples: contexts[p][q], and completions in C order of (p, q, g).

    Every completion has an advantage that is not zero, and log-probabilities as if its tokens had been drawn evenly from all.
    """

    name: str
    contexts: tuple[tuple[tuple[int, ...], ...], ...]
    completions: tuple[tuple[int, ...], ...]
    advantages: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(P, Q, G)"""
        P, Q = len(self.contexts), len(self.contexts[0])
        return P, Q, len(self.completions) // (P * Q)

    @property
    def useful_tokens(self) -> int:
        """Tokens of all trajectories, the prompt of each counted: the same for everybody, shared or not."""
        G = self.shape[2]
        return G * sum(len(context) for row in self.contexts for context in row) + sum(map(len, self.completions))

    @property
    def arguments(self) -> dict:
        """What a contestant's prepare_learning is called with."""
        return {"contexts": self.contexts, "completions": self.completions, "advantages": self.advantages}


def draw_tokens(rng: np.random.Generator, count: int, vocab_size: int) -> tuple[int, ...]:
    """`count` token ids that are not control tokens."""
    return tuple(int(token) for token in rng.integers(FIRST_TOKEN, vocab_size, count))


def heavy_tailed_lengths(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    """Log-normal lengths, cut to 1..LONGEST as a token limit cuts them."""
    drawn = rng.lognormal(np.log(MEDIAN_LENGTH), LENGTH_SPREAD, count)
    return tuple(int(length) for length in np.clip(np.rint(drawn), 1, LONGEST))


def espl_contexts(rng: np.random.Generator, vocab_size: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """3 prompts of 400 tokens, each followed by the same 10 problems of 100."""
    prompts = [draw_tokens(rng, 400, vocab_size) for _ in range(3)]
    problems = [draw_tokens(rng, 100, vocab_size) for _ in range(10)]
    return tuple(tuple(prompt + problem for problem in problems) for prompt in prompts)


def uniform(batch: int, top_p: float, vocab_size: int, seed: int) -> SamplerWorkload:
    """(a): `batch` prompts of 64 tokens, no two alike, 128 new tokens each."""
    rng = np.random.default_rng((seed, 1, batch))
    requests = tuple(Wanted(draw_tokens(rng, 64, vocab_size), 128) for _ in range(batch))
    return SamplerWorkload(f"uniform-{batch}/{top_p:g}", requests, 1.0, top_p)


def espl_rollouts(top_p: float, vocab_size: int, seed: int) -> SamplerWorkload:
    """(b): one step of E-SPL: 3 prompts x 10 problems x 5 samples of heavy-tailed lengths."""
    rng = np.random.default_rng((seed, 2))
    contexts = [context for row in espl_contexts(rng, vocab_size) for context in row for _ in range(5)]
    lengths = heavy_tailed_lengths(rng, len(contexts))
    requests = tuple(Wanted(context, length) for context, length in zip(contexts, lengths))
    return SamplerWorkload(f"espl/{top_p:g}", requests, 1.0, top_p)


def reflection_burst(top_p: float, vocab_size: int, seed: int) -> SamplerWorkload:
    """(c): 40 requests of 600 to 1,500 tokens, all different, 200 new tokens each."""
    rng = np.random.default_rng((seed, 3))
    prompts = [draw_tokens(rng, int(length), vocab_size) for length in rng.integers(600, 1501, 40)]
    return SamplerWorkload(f"burst/{top_p:g}", tuple(Wanted(prompt, 200) for prompt in prompts), 1.0, top_p)


def decode(batch: int, top_p: float, vocab_size: int, seed: int) -> SamplerWorkload:
    """For accelerators: `batch` prompts of 512 tokens, 512 new tokens each."""
    rng = np.random.default_rng((seed, 4, batch))
    requests = tuple(Wanted(draw_tokens(rng, 512, vocab_size), 512) for _ in range(batch))
    return SamplerWorkload(f"decode-{batch}/{top_p:g}", requests, 1.0, top_p)


def sampler_workload(name: str, vocab_size: int, seed: int) -> SamplerWorkload:
    """The workload that a name such as "uniform-32/0.95", "espl/1" or "burst/1" stands for. ValueError for another one."""
    kind, _, top_p = name.partition("/")
    kind, _, batch = kind.partition("-")
    try:
        if batch:
            return {"uniform": uniform, "decode": decode}[kind](int(batch), float(top_p), vocab_size, seed)
        return {"espl": espl_rollouts, "burst": reflection_burst}[kind](float(top_p), vocab_size, seed)
    except (KeyError, ValueError):
        raise ValueError(
            f"unknown workload {name!r}; use uniform-BATCH/TOP_P, decode-BATCH/TOP_P, espl/TOP_P or burst/TOP_P"
        ) from None


def trajectories(name: str, vocab_size: int, seed: int) -> LearnerWorkload:
    """The finished trajectories that a name stands for.

    "uniform": 16 trajectories of 64 prompt and 128 completion tokens, nothing shared. "espl": those of (b). "long-ROWS": ROWS
    trajectories of 1,024 and 1,024 tokens, for accelerators.
    """
    rng = np.random.default_rng((seed, 5))
    kind, _, rows = name.partition("-")
    if name == "espl":
        contexts, G = espl_contexts(rng, vocab_size), 5
        lengths = heavy_tailed_lengths(rng, 150)
    elif name == "uniform" or (kind == "long" and rows.isdigit()):
        Q, prompt, completion = (16, 64, 128) if name == "uniform" else (int(rows), 1024, 1024)
        contexts, G = (tuple(draw_tokens(rng, prompt, vocab_size) for _ in range(Q)),), 1
        lengths = (completion,) * Q
    else:
        raise ValueError(f"unknown trajectories {name!r}; use uniform, espl or long-ROWS")
    completions = tuple(draw_tokens(rng, length, vocab_size) for length in lengths)
    advantages = tuple(0.5 if (i // G + i) % 2 else -0.5 for i in range(len(completions)))
    return LearnerWorkload(name, contexts, completions, advantages)
