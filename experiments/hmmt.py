"""E-SPL on competition mathematics: HMMT February 2023 to 2025 for training, HMMT November 2025 for test.

  python -m espl_jax.main --config=experiments/hmmt.py --workdir=DIR

Data: MathArena/hmmt_feb_2023, _2024, _2025 (16 problems held out for validation) and MathArena/hmmt_nov_2025.
Hardware: Qwen3-8B in bfloat16 with a rank-32 adapter needs about 17 GB for the weights; 128 slots of up to 16,384 tokens need
144 KiB of cache a token, 300 GB in all, split over the mesh. So a slice of eight accelerators with 80 GB or more, or
sampling.batch_size lowered in proportion.
Expected: nobody has run this with this model; only two steps with a tiny random model on a CPU are tested. The paper, with
DeepSeek-V3.1, reports 47.0 (base, read off a figure), 50.0 (RL), 48.6 (evolution), 52.7 (E-SPL).
For comparison in the same setting: --config.method=rl | evolution | reflection.
"""

from ml_collections import ConfigDict

from experiments import authors


def get_config() -> ConfigDict:
    config = authors.get_config()
    config.task.train = "hmmt_feb_2023+hmmt_feb_2024+hmmt_feb_2025"
    config.task.test = "hmmt_nov_2025"
    return config
