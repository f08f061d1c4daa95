"""E-SPL on competition mathematics: AIME 2022 to 2024 for training, BeyondAIME for test.

  python -m espl_jax.main --config=experiments/beyondaime.py --workdir=DIR

Data: AI-MO/aimo-validation-aime (90 problems, 16 of them held out for validation) and ByteDance-Seed/BeyondAIME.
Hardware: Qwen3-8B in bfloat16 with a rank-32 adapter needs about 17 GB for the weights; 128 slots of up to 16,384 tokens need
144 KiB of cache a token, 300 GB in all, split over the mesh. So a slice of eight accelerators with 80 GB or more, or
sampling.batch_size lowered in proportion.
Expected: nobody has run this with this model; only two steps with a tiny random model on a CPU are tested. The paper, with
DeepSeek-V3.1, reports 36.5 (base, read off a figure), 38.8 (RL), 40.0 (evolution), 45.1 (E-SPL).
For comparison in the same setting: --config.method=rl | evolution | reflection.
"""

from ml_collections import ConfigDict

from experiments import authors


def get_config() -> ConfigDict:
    config = authors.get_config()
    config.task.train = "aime_2022_2024"
    config.task.test = "beyondaime"
    return config
