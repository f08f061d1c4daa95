"""E-SPL on a laptop: SmolLM2-135M-Instruct learns one-digit sums, and writes its first principles, in minutes.

  ./launch/quickstart.sh runs/quickstart            (sets up everything and runs this)
  python -m espl_jax.main --config=experiments/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores, 12 GiB of memory. What to expect: docs/quickstart.md has the measured figures.
What differs from the authors' settings, and why: a model of 135M parameters instead of 671B, so a task it half knows; one
temperature for training and evaluation; and because it cannot write JSON, it is asked for its edits as sentences of advice.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.num_steps = 6

    config.model.max_length = 1024
    config.model.dtype = "float32"
    config.model.weight_dtype = "float32"
    config.model.remat = "none"
    config.model.scan_layers = True

    config.task.name = "reasoning_gym"
    config.task.gym_dataset = "basic_arithmetic"
    config.task.gym_parameters = (
        '{"operators": ["+"], "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, '
        '"allow_parentheses": false, "allow_negation": false}'
    )
    config.task.extraction = "last_number"
    config.task.num_train = 60
    config.task.num_validation = 32
    config.task.num_test = 20
    config.task.num_problems = 6
    config.task.num_samples = 8

    config.sampling.temperature = 1.0
    config.sampling.top_p = 1.0
    config.sampling.max_new_tokens = 16
    config.sampling.batch_size = 96
    config.sampling.prefill_tokens = 512
    config.sampling.prefill_chunk = 64
    config.sampling.merge_weights = True

    config.rl.learning_rate = 5e-4
    config.rl.lora_rank = 16
    config.rl.micro_batch_tokens = 2560
    config.rl.head_chunk = 256
    config.rl.gap_warning = 1e-3

    config.evolution.num_prompts = 2
    config.evolution.max_problems = 2
    config.evolution.max_trajectories = 2
    config.evolution.max_new_tokens = 64
    config.evolution.max_trajectory_words = 60
    config.evolution.summarize_above = 60
    config.evolution.edit_form = "sentence"

    config.evaluation.every = 3
    config.evaluation.num_samples = 3
    config.evaluation.test = False
    config.evaluation.temperature = 1.0
    config.evaluation.top_p = 1.0
    config.evaluation.max_new_tokens = 16
    return config
