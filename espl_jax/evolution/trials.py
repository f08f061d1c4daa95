"""How prompts did problem by problem, of late: the memory behind distances in behaviour and choices by problem.

Whole batches are ranked as matches (rating.py); this keeps what ranks forget. Rewards of different steps are compared only
within config.max_age steps, for the weights move on meanwhile.
"""

from dataclasses import replace

from espl_jax.structs import Population, Rollouts, Trial


def add_trial(population: Population, rollouts: Rollouts, step: int, max_age: int) -> Population:
    """The population that remembers this step's mean rewards, and of earlier steps those less than `max_age` steps ago."""
    trial = Trial(
        step=step,
        prompt_ids=rollouts.prompt_ids,
        problem_ids=tuple(problem.id for problem in rollouts.problems),
        values=tuple(tuple(float(value) for value in row) for row in rollouts.values_PQ),
    )
    kept = tuple(old for old in population.trials if old.step > step - max_age)
    return replace(population, trials=(*kept, trial))


def newest_values(population: Population) -> dict[int, dict[str, float]]:
    """Prompt id -> problem id -> its latest mean reward there; prompts that were not tried of late are absent."""
    found: dict[int, dict[str, float]] = {}
    for trial in population.trials:
        for prompt_id, row in zip(trial.prompt_ids, trial.values, strict=True):
            found.setdefault(prompt_id, {}).update(zip(trial.problem_ids, row, strict=True))
    return found
