"""A small world: SmolLM2-135M-Instruct, taught to reflect, finds out what invented words mean, and learns to work with them.

  python -m espl_jax.sft --config=experiments/smallworld_sft.py --workdir=runs/smallworld_sft      (teaches it, once)
  python -m espl_jax.main --config=experiments/smallworld.py --workdir=runs/smallworld             (from it)

Hardware: 2 CPU cores, 16 GiB of memory.
What to expect: docs/smallworld.md.
What the words mean is stated nowhere: a prompt can learn it (evolution/rules_known), and so can the weights (the same test
without a prompt). An adapter that lies elsewhere is named by --config.model.adapter=DIR.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.num_steps = 48

    config.model.adapter = "smallworld"
    config.model.max_length = 2048
    config.model.dtype = "float32"
    config.model.weight_dtype = "float32"
    config.model.remat = "none"
    config.model.scan_layers = False  # on a CPU a loop copies what it keeps; compiles longer

    config.task.name = "smallworld"
    config.task.num_train = 120
    config.task.num_validation = 12
    config.task.num_test = 12
    config.task.num_problems = 2  # so that two prompts can win one each, which crossover takes
    config.task.num_samples = 2
    config.task.question_suffix = '\nEnd with a line "Answer:" and the results in order.'
    config.task.world.operations = 5
    config.task.world.depth = 2
    config.task.world.examples = 3

    config.sampling.temperature = 1.0
    config.sampling.top_p = 1.0
    config.sampling.max_new_tokens = 224  # the longest reply without a mistake that was seen has 219
    config.sampling.batch_size = 32  # a step's 8 trajectories take 8 of them, an evaluation all
    config.sampling.single_slot = True  # most calls of the editor are one or two requests
    config.sampling.prefill_tokens = 512
    config.sampling.prefill_chunk = 64
    config.sampling.merge_weights = True

    config.rl.learning_rate = 2e-4
    config.rl.lora_rank = 16
    config.rl.micro_batch_tokens = 512  # a step has few trajectories: rows of 1,024 tokens were half empty
    config.rl.head_chunk = 256
    config.rl.gap_warning = 1e-3

    config.evolution.num_prompts = 2
    config.evolution.crossover_probability = 1.0  # few steps: whenever two prompts have won
    config.evolution.max_problems = 4
    config.evolution.max_trajectories = 2
    config.evolution.max_new_tokens = 448
    config.evolution.temperature = 0.2
    config.evolution.top_p = 1.0
    config.evolution.max_trajectory_words = 120
    config.evolution.summarize_above = 120

    config.evaluation.every = 24
    config.evaluation.rated = 8
    config.evaluation.num_samples = 1
    config.evaluation.temperature = 1.0
    config.evaluation.top_p = 1.0
    config.evaluation.max_new_tokens = 224
    return config
