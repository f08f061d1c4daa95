"""Teaches SmolLM2-135M-Instruct to solve and to reflect in small worlds, for experiments/smallworld.py.

  python -m espl_jax.sft --config=experiments/smallworld_sft.py --workdir=runs/smallworld_sft

Hardware: 2 CPU cores, 22 GiB of memory (rl.micro_batch_tokens=1024 takes less), one to two hours. The adapter that comes with
the project (espl_jax/adapters/smallworld) was made by it in two lessons, at earlier commits: see its card.
All demonstrations are of other worlds than any that a run could live in: no word is the same.
"""

from ml_collections import ConfigDict

from experiments import smallworld


def get_config() -> ConfigDict:
    config = smallworld.get_config().unlock()
    config.num_steps = 480
    config.model.adapter = ""
    config.runtime.cpu_devices = 2  # a device a core, each with rows of its own: two cores on one row wait for each other more

    config.task.num_problems = 6  # of a scene
    config.task.num_samples = 4
    config.evolution.max_problems = 3
    config.task.world.operations = 6  # at the most
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
    config.rl.micro_batch_tokens = 3584  # a step has 3,200
    config.rl.row_widths = 7  # of 256 tokens and more: fewer stay empty
    config.records.checkpoint_every = 20
    config.records.tensorboard = False
    return config.lock()
