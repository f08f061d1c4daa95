"""transformers and torch: `generate` and a plain training step with AdamW.

Runs in an environment of its own: `python -m benchmarks.contestants.torch_peer MODEL_DIRECTORY DTYPE DEVICE THREADS`.
"""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks import protocol

PAD_ID = 0  # masked wherever it stands


class Torch:
    """The methods that the driver calls."""

    def __init__(self, directory: Path, dtype: str, device: str, threads: int):
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).to(self.device)
        self.model.generation_config.eos_token_id = None  # lengths are the workload's

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("torch", "transformers")}

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # -- sampling ------------------------------------------------------------------------------------------------------

    def prepare_sampling(self, requests: list[dict], temperature: float, top_p: float, batch_size: int) -> None:
        """Fixes the workload, in batches of `batch_size` in the order of the requests, and warms up on two tokens a batch."""
        self.batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
        self.decoding = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        self.draw(self.batches[0], 2)

    def draw(self, batch: list[dict], steps: int) -> torch.Tensor:
        """`steps` new tokens for every row of a batch."""
        longest = max(len(request["tokens"]) for request in batch)
        tokens = torch.full((len(batch), longest), PAD_ID)
        for b, request in enumerate(batch):
            tokens[b, longest - len(request["tokens"]) :] = torch.tensor(request["tokens"])
        tokens = tokens.to(self.device)
        drawn = self.model.generate(
            tokens, attention_mask=(tokens != PAD_ID).long(), min_new_tokens=steps, max_new_tokens=steps,
            pad_token_id=PAD_ID, **self.decoding,
        )
        return drawn[:, longest:]

    def sample(self) -> dict:
        """One repetition: seconds and useful tokens; all members of a batch go on until the longest has ended."""

        def draw_all():
            for batch in self.batches:
                self.draw(batch, max(request["length"] for request in batch))
            self.synchronise()

        seconds = protocol.timed(draw_all)
        return {"seconds": seconds, "useful_tokens": sum(r["length"] for batch in self.batches for r in batch)}

    def greedy(self, tokens: list[int], length: int) -> list[int]:
        """The most likely continuation."""
        self.decoding = {"do_sample": False}
        return self.draw([{"tokens": tokens}], length)[0].tolist()

    # -- learning ------------------------------------------------------------------------------------------------------

    def prepare_learning(
        self, contexts: list, completions: list, advantages: list, micro_batch: int, remat: str
    ) -> None:
        """Fixes the trajectories as padded micro-batches and warms up on one of them; all weights are trained."""
        flat = [context for row in contexts for context in row]
        G = len(completions) // len(flat)
        rows = [(flat[i // G], tokens, advantages[i]) for i, tokens in enumerate(completions)]
        self.micro_batches = [rows[i : i + micro_batch] for i in range(0, len(rows), micro_batch)]
        self.total = sum(map(len, completions))
        self.even = -float(np.log(self.model.config.vocab_size))
        self.model.train()
        if remat == "layer":
            self.model.gradient_checkpointing_enable()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 4e-5, betas=(0.9, 0.95), weight_decay=0.0)
        self.accumulate(self.micro_batches[0])
        self.optimizer.step()

    def accumulate(self, rows: list[tuple]) -> None:
        """Adds one micro-batch's gradient: importance sampling over the completions' tokens."""
        prompt, completion = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        tokens = torch.full((len(rows), prompt + completion), PAD_ID)
        for b, (context, written, _) in enumerate(rows):
            tokens[b, prompt - len(context) : prompt] = torch.tensor(context)
            tokens[b, prompt : prompt + len(written)] = torch.tensor(written)
        tokens = tokens.to(self.device)
        real = tokens != PAD_ID
        positions = (real.long().cumsum(-1) - 1).clamp(min=0)
        logits = self.model(
            tokens, attention_mask=real.long(), position_ids=positions, use_cache=False, logits_to_keep=completion + 1
        ).logits[:, :-1]
        targets = tokens[:, prompt:]
        chosen = logits.gather(-1, targets[..., None])[..., 0].float() - logits.float().logsumexp(-1)
        advantages = torch.tensor([row[2] for row in rows], device=self.device)[:, None]
        loss = -(torch.exp(chosen - self.even) * advantages * real[:, prompt:]).sum() / self.total
        loss.backward()

    def learn(self) -> dict:
        """One optimizer step over all trajectories: seconds."""

        def step():
            self.optimizer.zero_grad()
            for rows in self.micro_batches:
                self.accumulate(rows)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.synchronise()

        return {"seconds": protocol.timed(step)}


def main() -> None:
    directory, dtype, device, threads = sys.argv[1:]
    protocol.serve(Torch(Path(directory), dtype, device, int(threads)))


if __name__ == "__main__":
    main()
