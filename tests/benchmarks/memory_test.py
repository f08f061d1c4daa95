"""The cases of which memory is measured are those that the formula predicts."""

import numpy as np

from benchmarks import memory
from espl_jax.policy import packing
from experiments import quickstart


def test_the_learners_case_fills_a_micro_batch_of_the_quickstart():
    """A row is made no wider than what is in it: fewer trajectories would need less than is predicted for a full one."""
    rl = quickstart.get_config().rl
    workload = memory.quickstart_trajectories()
    samples = len(workload.completions) // sum(map(len, workload.contexts))
    contexts = [np.asarray(context) for row in workload.contexts for context in row for _ in range(samples)]
    lengths = [len(completion) for completion in workload.completions]
    widths = packing.widths_up_to(rl.micro_batch_tokens, rl.row_widths)
    [tree] = packing.pack_evenly(contexts, lengths, widths, devices=1)
    assert tree.fits(widths[-1]) and not any(tree.fits(width) for width in widths[:-1])
