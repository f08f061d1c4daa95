"""espl_jax itself, through its public path: a config, runtime.prepare, open_model, make_policy, policy.sampler, make_updater.

`python -m benchmarks.contestants.ours MODEL_DIRECTORY DTYPE FIELDS`, in espl_jax's own environment. FIELDS: a JSON object of
config fields that differ from experiments/base.py, such as {"sampling.merge_weights": true}.
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from espl_jax.hosts import runtime
from espl_jax.policy.state import make_policy, open_model
from espl_jax.policy.update import make_updater
from espl_jax.structs import Chat, Completion, Grade, Message, Problem, Request, Rollouts
from experiments import base

GREEDY_QUESTION = "Name three rivers of Europe."
# What a machine's rates are measured with: sides of square matrices, and bytes of a buffer
CPU_SIZES, CPU_BYTES = (1024, 2048, 4096), 2**28
ACCELERATOR_SIZES, ACCELERATOR_BYTES = (4096, 8192, 16384), 2**32


class Ours:
    """The methods that the driver calls."""

    def __init__(self, directory: Path, dtype: str, fields: dict):
        self.directory, self.dtype, self.fields = directory, dtype, fields
        runtime.prepare(self.config(1024, {}).runtime)

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("jax", "flax")} | {"device": jax.devices()[0].device_kind}

    def rates(self) -> dict[str, float]:
        """The machine's own speed: operations a second of the best matrix product, bytes a second read and written in place."""
        cpu = jax.devices()[0].platform == "cpu"
        sizes, size = (CPU_SIZES, CPU_BYTES) if cpu else (ACCELERATOR_SIZES, ACCELERATOR_BYTES)
        return {"flops": max(map(self.product_rate, sizes)), "bytes": copy_rate(size)}

    def product_rate(self, size: int) -> float:
        a = jax.random.normal(jax.random.key(size), (size, size), self.dtype)  # a GPU is faster with ones
        multiply = jax.jit(jnp.matmul)
        return 2 * size**3 / best_of(5, lambda: multiply(a, a).block_until_ready())

    def config(self, max_length: int, fields: dict):
        """The defaults of experiments/base.py for this model, with the workload's fields and those of the command line."""
        config = base.get_config()
        fixed = {
            "model.path": str(self.directory), "model.dtype": self.dtype, "model.weight_dtype": self.dtype,
            "model.max_length": max_length, "sampling.temperature": 1.0,
        }  # fmt: skip
        config.update_from_flattened_dict(fixed | fields | self.fields)
        return config

    def policy(self, config):
        directory, spec, tokenizer = open_model(config)
        tokenizer.stop_ids = ()  # lengths are the workload's: no token ends a completion
        return make_policy(config, directory, spec, tokenizer)

    # -- sampling ------------------------------------------------------------------------------------------------------

    def prepare_sampling(self, requests: list[dict], temperature: float, top_p: float, batch_size: int) -> None:
        """Fixes the workload and compiles by running it once; batch_size: slots."""
        longest = max(len(request["tokens"]) + request["length"] for request in requests)
        config = self.config(longest, {"sampling.batch_size": batch_size, "rl.lora_rank": 1})
        self.sampling_policy = None  # the last workload's weights go first
        self.sampling_policy, _ = self.policy(config)
        self.requests = [
            Request(i, np.asarray(r["tokens"], np.int32), (0, 0, 0, 0, i), r["length"], temperature, top_p)
            for i, r in enumerate(requests)
        ]
        self.draw(self.requests)

    def draw(self, requests: list[Request]) -> list[Completion]:
        return self.sampling_policy.sampler(self.sampling_policy.plain_reference, requests)

    def sample(self) -> dict:
        """One repetition: seconds and useful tokens."""
        completions = []
        seconds = protocol.timed(lambda: completions.extend(self.draw(self.requests)))
        return {"seconds": seconds, "useful_tokens": sum(len(completion.tokens) for completion in completions)}

    def greedy_prompt(self) -> list[int]:
        """Tokens of a question, for the check that all compute the same."""
        _, _, tokenizer = open_model(self.config(256, {}))
        return tokenizer.render(Chat("greedy", (Message("user", GREEDY_QUESTION),))).tolist()

    def greedy(self, tokens: list[int], length: int) -> list[int]:
        """The most likely continuation."""
        policy, _ = self.policy(self.config(len(tokens) + length, {"sampling.batch_size": 4, "rl.lora_rank": 1}))
        request = Request(0, np.asarray(tokens, np.int32), (0, 0, 0, 0, 0), length, 0.0, 1.0)
        return policy.sampler(policy.plain_reference, [request])[0].tokens.tolist()

    # -- learning ------------------------------------------------------------------------------------------------------

    def prepare_learning(
        self, contexts: list, completions: list, advantages: list, micro_batch: int, remat: str
    ) -> None:
        """Fixes the trajectories and compiles by taking one step; all weights are trained. micro_batch: tokens."""
        P, Q = len(contexts), len(contexts[0])
        shape = (P, Q, len(completions) // (P * Q))
        longest = max(len(context) for row in contexts for context in row) + max(map(len, completions))
        fields = {"rl.lora_rank": 0, "rl.micro_batch_tokens": micro_batch, "rl.gap_warning": np.inf, "model.remat": remat}
        config = self.config(longest, fields)
        self.learning_policy = self.state = self.update = None  # the last workload's weights go first
        self.learning_policy, self.state = self.policy(config)
        self.update = make_updater(self.learning_policy, self.state, config)
        even = -float(np.log(self.learning_policy.spec.vocab_size))
        rows = [finished(i, tokens, even) for i, tokens in enumerate(completions)]
        self.rollouts = Rollouts(
            prompt_ids=tuple(range(P)),
            problems=tuple(Problem(str(q), str(q), "") for q in range(Q)),
            context_tokens=tuple(tuple(np.asarray(context, np.int32) for context in row) for row in contexts),
            completions=tuple(rows),
            texts=("",) * len(rows),
            grades=(Grade(0.0),) * len(rows),
            rewards_PQG=np.zeros(shape, np.float32),
        )
        self.advantages_PQG = np.asarray(advantages, np.float32).reshape(shape)
        self.keep_PQ = np.ones((P, Q), bool)
        self.learn()

    def learn(self) -> dict:
        """One optimizer step over all trajectories: seconds."""

        def step():
            self.state, _ = self.update(
                self.state, self.rollouts, self.advantages_PQG, self.keep_PQ, np.random.default_rng(0)
            )
            jax.block_until_ready(self.state)

        return {"seconds": protocol.timed(step)}


def finished(number: int, tokens: list[int], logprob: float) -> Completion:
    """A completion that is taken as drawn with the same log-probability for each token."""
    logprobs = np.full(len(tokens), logprob, np.float32)
    return Completion(number, np.asarray(tokens, np.int32), logprobs, logprobs, logprobs, "length")


def best_of(times: int, work) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    work()
    return min(protocol.timed(work) for _ in range(times))


def copy_rate(size: int) -> float:
    """Bytes a second, read and written, of a pass over a buffer of `size` bytes that is updated in place (no page is touched
    first)."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    buffer = step(jnp.zeros(size // 4, jnp.float32)).block_until_ready()
    seconds = []
    for _ in range(8):
        box = [buffer]
        seconds.append(protocol.timed(lambda box=box: box.append(step(box.pop()).block_until_ready())))
        buffer = box.pop()
    return 2 * size / min(seconds)


def main() -> None:
    directory, dtype, fields = sys.argv[1:]
    protocol.serve(Ours(Path(directory), dtype, json.loads(fields)))


if __name__ == "__main__":
    main()
