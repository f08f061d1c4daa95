"""The warm start of experiments/search_quickstart.py: SmolLM2-135M-Instruct sees how a search is done, a few dozen times.

  python -m espl_jax.sft --config=experiments/search_sft.py --workdir=runs/search_sft

Hardware: 2 CPU cores, 12 GiB of memory. What to expect: docs/sft.md has the measured figures.
It learns the form of a search, and part of the skill: it is stopped early, so that there is something left to learn by reward.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.num_steps = 7

    config.model.max_length = 1024
    config.model.dtype = "float32"
    config.model.weight_dtype = "float32"
    config.model.remat = "none"
    config.model.scan_layers = True

    config.task.name = "search"
    config.task.train = "embedded"
    config.task.two_hop = 0.0
    config.tools.topk = 1
    config.tools.max_result_tokens = 120

    config.sft.data = "search"
    config.sft.num_demonstrations = 96
    config.sft.num_validation = 16
    config.sft.batch_size = 8
    config.evaluation.every = 4

    config.sampling.max_new_tokens = 384  # these three are not used, but have to fit in the context
    config.evaluation.max_new_tokens = 384
    config.evolution.max_new_tokens = 384

    config.rl.learning_rate = 5e-4
    config.rl.lora_rank = 16
    config.rl.micro_batch_tokens = 1024
    config.rl.head_chunk = 256
    config.records.checkpoint_every = 4
    config.records.tensorboard = False
    return config
