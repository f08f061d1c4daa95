"""google-tunix: its vanilla sampler (tunix.generate.sampler.Sampler) and its GRPO step (tunix.rl.trainer.Trainer).

Runs in tunix's own environment: `python -m benchmarks.contestants.tunix_peer MODEL_DIRECTORY DTYPE`. Compilation is left out
of every time. Two things are mended or helped, neither of which changes speed: tunix 0.1.7's Llama calls its rope with a fixed
base of 1e6 whatever the config says, so the right base is put in; and the tokenizer is a table, so that prompts are token ids.
"""

import contextlib
import dataclasses
import functools
import json
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.rl import algo_core, common
from tunix.rl.grpo import grpo_learner
from tunix.rl.trainer import Trainer
from tunix.sft.peft_trainer import TrainingConfig

from benchmarks import protocol

PAD_ID = 0  # masked wherever it stands, so no prompt holds it
NO_TOKEN = -1  # the end-of-sequence id that is never drawn
WARM_STEPS = 2
# tunix's name of a size -> that of config.json
SIZES = {
    "num_layers": "num_hidden_layers", "vocab_size": "vocab_size", "embed_dim": "hidden_size",
    "hidden_dim": "intermediate_size", "num_heads": "num_attention_heads", "head_dim": "head_dim",
    "num_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps",
}  # fmt: skip


class TokenTable:
    """A tokenizer whose texts are names of token lists."""

    def __init__(self):
        self.prompts: list[list[int]] = []

    def encode(self, text: str) -> list[int]:
        return self.prompts[int(text)]

    def decode(self, ids: list[int]) -> str:
        return ""

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return NO_TOKEN

    def pad_id(self) -> int:
        return PAD_ID


def load_llama(directory: Path, sizes: dict, config: dict, dtype) -> tuple:
    """tunix's configuration and model of a Llama directory."""
    llama.apply_rope = functools.partial(llama.apply_rope, rope_theta=sizes["rope_theta"])
    made = llama.ModelConfig(**sizes, weight_tying=config["tie_word_embeddings"])
    return made, llama_params.create_model_from_safe_tensors(str(directory), made, dtype=dtype)


def load_qwen2(directory: Path, sizes: dict, config: dict, dtype) -> tuple:
    """tunix's configuration and model of a Qwen2 or Qwen2.5 directory."""
    made = qwen2.ModelConfig(
        **sizes, use_tied_embedding=config["tie_word_embeddings"], dtype=dtype, param_dtype=dtype
    )
    return made, qwen2_params.create_model_from_safe_tensors(str(directory), made, dtype=dtype)


FAMILIES = {"llama": load_llama, "qwen2": load_qwen2}


def load(directory: Path, dtype) -> tuple:
    """tunix's configuration and model of a Hugging Face directory."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    sizes = {ours: config[theirs] for ours, theirs in SIZES.items()} | {"rope_theta": config["rope_parameters"]["rope_theta"]}
    return FAMILIES[config["model_type"]](directory, sizes, config, dtype)


class Tunix:
    """The methods that the driver calls."""

    def __init__(self, directory: Path, dtype: str):
        self.config, self.model = load(directory, jnp.dtype(dtype))
        self.table = TokenTable()
        self.batches: list[list[dict]] = []

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("google-tunix", "jax", "flax")}

    # -- sampling ------------------------------------------------------------------------------------------------------

    def prepare_sampling(self, requests: list[dict], temperature: float, top_p: float, batch_size: int) -> None:
        """Fixes the workload, in batches of `batch_size` in the order of the requests, and compiles what it needs."""
        self.batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
        self.decoding = {"temperature": temperature, "top_p": top_p}
        self.prompt_length = max(len(request["tokens"]) for request in requests)
        longest = max(request["length"] for request in requests)
        self.sampler = self.new_sampler(self.prompt_length + longest)
        shapes = {(len(batch), self.steps(batch)): batch for batch in self.batches}
        with self.few_steps():
            for batch in shapes.values():
                self.sample_batch(batch)

    def new_sampler(self, cache_size: int) -> sampler_lib.Sampler:
        config = self.config
        cache = sampler_lib.CacheConfig(cache_size, config.num_layers, config.num_kv_heads, config.head_dim)
        return sampler_lib.Sampler(self.model, self.table, cache)

    @contextlib.contextmanager
    def few_steps(self):
        """Lets the sampler begin just before its last token: the same programs, without the time of a repetition."""
        whole = self.sampler.init_sample_state

        def late(*args, **kwargs):
            state = whole(*args, **kwargs)
            return dataclasses.replace(state, decoding_step=state.total_sampling_steps - 1 - WARM_STEPS)

        self.sampler.init_sample_state = late
        yield
        del self.sampler.init_sample_state

    def steps(self, batch: list[dict]) -> int:
        """New tokens of a batch: all its members go on until the longest has ended."""
        return max(request["length"] for request in batch)

    def sample_batch(self, batch: list[dict]) -> list[np.ndarray]:
        self.table.prompts = [request["tokens"] for request in batch]
        output = self.sampler(
            [str(i) for i in range(len(batch))], self.steps(batch), self.prompt_length, eos_tokens=[NO_TOKEN], seed=1,
            **self.decoding,
        )
        return output.tokens

    def sample(self) -> dict:
        """One repetition: seconds, and the tokens that were drawn for each request as far as it wanted them."""
        drawn = []
        seconds = protocol.timed(lambda: drawn.extend(map(self.sample_batch, self.batches)))
        wanted = [request["length"] for batch in self.batches for request in batch]
        useful = sum(min(len(tokens), length) for tokens, length in zip((t for b in drawn for t in b), wanted))
        return {"seconds": seconds, "useful_tokens": useful}

    def greedy(self, tokens: list[int], length: int) -> list[int]:
        """The most likely continuation."""
        self.table.prompts = [tokens]
        sampler = self.new_sampler(len(tokens) + length)
        output = sampler(["0"], length, len(tokens), eos_tokens=[NO_TOKEN])
        return [int(token) for token in output.tokens[0]]

    # -- learning ------------------------------------------------------------------------------------------------------

    def prepare_learning(
        self, contexts: list, completions: list, advantages: list, micro_batch: int, remat: str
    ) -> None:
        """Fixes the trajectories as padded micro-batches and compiles by one step over two of them; all weights are trained.

        The trainer is told to accumulate gradients as many times as there are micro-batches; the last one is filled up
        with repeated rows.
        """
        flat = [context for row in contexts for context in row]
        G = len(completions) // len(flat)
        rows = [(flat[i // G], tokens, advantages[i]) for i, tokens in enumerate(completions)]
        rows += rows[: -len(rows) % micro_batch]
        sizes = max(map(len, flat)), max(map(len, completions))
        examples = [self.example(rows[i : i + micro_batch], sizes) for i in range(0, len(rows), micro_batch)]
        self.examples = [jax.tree.map(jnp.asarray, example) for example in examples]
        self.step = None  # the last workload's optimizer goes first
        model = nnx.merge(*nnx.split(self.model))
        if remat == "layer":
            for layer in model.layers:
                layer.config = dataclasses.replace(layer.config, remat_config=type(layer.config.remat_config).DECODER)
        self.step = self.train_step(model, len(examples))
        for example in self.examples[:2]:
            jax.block_until_ready(self.step(example))

    def example(self, rows: list[tuple], sizes: tuple[int, int]) -> common.TrainExample:
        """One micro-batch as tunix pads it: prompts on the left, completions on the right."""
        prompt, completion = sizes
        pad = functools.partial(np.full, fill_value=PAD_ID, dtype=np.int32)
        prompts, completions = pad((len(rows), prompt)), pad((len(rows), completion))
        for b, (context, tokens, _) in enumerate(rows):
            prompts[b, prompt - len(context) :], completions[b, : len(tokens)] = context, tokens
        even = -np.log(self.config.vocab_size).astype(np.float32)
        return grpo_learner.TrainExample(
            prompt_ids=prompts, prompt_mask=prompts != PAD_ID, completion_ids=completions,
            completion_mask=(completions != PAD_ID).astype(np.float32), ref_per_token_logps=None,
            advantages=np.asarray([advantage for _, _, advantage in rows], np.float32),
            old_per_token_logps=np.full(completions.shape, even, np.float32),
        )  # fmt: skip

    def train_step(self, model, accumulate: int):
        """The trainer's own jitted step, with the loss and input function that tunix's GRPO learner gives it."""
        algorithm = grpo_learner.GRPOConfig(beta=0.0)
        algorithm.temperature = 1.0
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(4e-5, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0)
        )
        settings = TrainingConfig(
            eval_every_n_steps=10**9, gradient_accumulation_steps=accumulate if accumulate > 1 else None
        )
        trainer = Trainer(model, optimizer, settings, custom_checkpoint_metadata_fn=dict)
        trainer.with_loss_fn(
            lambda model, train_example, algo_config: algo_core.grpo_loss_fn(
                model, train_example, algo_config=algorithm, pad_id=PAD_ID, eos_id=NO_TOKEN
            ),
            has_aux=True,
        )
        trainer.with_gen_model_input_fn(lambda example: {"train_example": example, "algo_config": algorithm})
        return trainer.jit_train_and_eval_step(cache_nnx_graph=True)[0]

    def learn(self) -> dict:
        """One optimizer step over all trajectories: seconds."""

        def step():
            for example in self.examples:
                jax.block_until_ready(self.step(example))

        return {"seconds": protocol.timed(step)}


def main() -> None:
    protocol.serve(Tunix(Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
