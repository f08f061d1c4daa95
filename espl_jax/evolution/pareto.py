"""Who is best at something: prompts that lead a problem, as GEPA keeps its candidates (Agrawal et al., arXiv 2507.19457,
algorithm 2)."""

from espl_jax.evolution.trials import newest_values
from espl_jax.structs import Population


def problems_led(population: Population, tie_margin: float) -> dict[int, int]:
    """Living prompt id -> how many problems it leads, by the latest mean rewards of the last evolution.max_age steps.

    A problem is led by all whose reward is less than `tie_margin` below the best; where nobody is below, or one alone was
    tried, it has no leader. A prompt that leads nothing but some of the problems of another that leads more has 0 too.
    """
    alive = [prompt.id for prompt in population.alive]
    known = newest_values(population)
    rewards: dict[str, dict[int, float]] = {}
    for prompt_id in alive:
        for problem_id, value in known.get(prompt_id, {}).items():
            rewards.setdefault(problem_id, {})[prompt_id] = value
    led: dict[int, set[str]] = {prompt_id: set() for prompt_id in alive}
    for problem_id, by_prompt in rewards.items():
        leaders = _leaders(by_prompt, tie_margin)
        for prompt_id in leaders if len(leaders) < len(by_prompt) else ():
            led[prompt_id].add(problem_id)
    beaten = {prompt_id for prompt_id in alive if any(led[prompt_id] < other for other in led.values())}
    return {prompt_id: 0 if prompt_id in beaten else len(led[prompt_id]) for prompt_id in alive}


def _leaders(by_prompt: dict[int, float], tie_margin: float) -> list[int]:
    best = max(by_prompt.values())
    return [prompt_id for prompt_id, value in by_prompt.items() if value == best or best - value < tie_margin]
