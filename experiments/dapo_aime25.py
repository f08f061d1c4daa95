"""E-SPL on competition mathematics: 100 problems of DAPO for training, AIME 2025 for test.

  python -m espl_jax.main --config=experiments/dapo_aime25.py --workdir=DIR

Data: BytedTsinghua-SIA/DAPO-Math-17k (100 distinct problems drawn by the seed, 16 more for validation) and
yentinglin/aime_2025.
Hardware: Qwen3-8B in bfloat16 with a rank-32 adapter needs about 17 GB for the weights; 128 slots of up to 16,384 tokens need
144 KiB of cache a token, 300 GB in all, split over the mesh. So a slice of eight accelerators with 80 GB or more, or
sampling.batch_size lowered in proportion.
Expected: nobody has run this with this model; only two steps with a tiny random model on a CPU are tested. The paper, with
DeepSeek-V3.1, reports 56.3 (base, read off a figure, and RL), 57.3 (evolution), 60.6 (E-SPL).
For comparison in the same setting: --config.method=rl | evolution | reflection.
"""

from ml_collections import ConfigDict

from experiments import authors


def get_config() -> ConfigDict:
    config = authors.get_config()
    config.task.train = "dapo"
    config.task.num_train = 100
    config.task.test = "aime_2025"
    return config
