"""Teaches SmolLM2-135M-Instruct to solve and to reflect in small worlds, for experiments/smallworld.py.

  python -m espl_jax.sft --config=experiments/smallworld_sft.py --workdir=runs/smallworld_sft

Hardware: 2 CPU cores, 16 GiB of memory, and 2 hours or more (11 to 14 s a step). The adapter that comes with the project
(espl_jax/adapters/smallworld, with its card) was made by 360 steps of an earlier mixture; nobody has run all 660 of this one.
All demonstrations are of other worlds than any that a run could live in: no word is the same.
"""

from ml_collections import ConfigDict

from experiments import smallworld


def get_config() -> ConfigDict:
    config = smallworld.get_config().unlock()
    config.num_steps = 400
    config.model.adapter = ""
    config.model.scan_layers = False  # half a minute of compiling, for a sixth of each step

    config.sft.data = "smallworld"
    config.sft.num_demonstrations = 4000
    config.sft.num_validation = 64
    config.sft.batch_size = 8
    config.sft.adapter_dtype = "bfloat16"
    config.evaluation.every = 100

    config.rl.learning_rate = 1e-3
    config.rl.schedule = "cosine"
    config.rl.warmup_steps = 10
    config.rl.lora_rank = 16
    config.rl.micro_batch_tokens = 1792  # of what was tried it leaves least room empty; docs/smallworld.md
    config.records.checkpoint_every = 20
    config.records.tensorboard = False
    return config.lock()
