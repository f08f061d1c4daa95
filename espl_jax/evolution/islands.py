"""Islands: several populations that evolve by turns and now and then meet (island model with a ring, Cohoon et al. 1987).

Step t is island t mod n's, and a child lives where it was born, so that nothing has to be stored; the root lives on all of
them. Every config.migration_every-th turn of an island the best prompt of its neighbour competes there as a guest: what is
born of it belongs to the host.
"""

from espl_jax.structs import Population, Prompt


def residents(population: Population, step: int, islands: int) -> tuple[Prompt, ...]:
    """The living prompts of the island whose turn it is, oldest first; all of them where it has none."""
    found = tuple(prompt for prompt in population.alive if lives_on(prompt, step % islands, islands))
    return found or population.alive


def lives_on(prompt: Prompt, island: int, islands: int) -> bool:
    """Whether a prompt may be selected in that island's steps."""
    return prompt.operator == "root" or prompt.born % islands == island


def guests(population: Population, step: int, config) -> tuple[Prompt, ...]:
    """The prompt of the highest mu that was born on the neighbour island, in the turns that are for it; else none.

    A guest needs a second place: with one prompt a step there are none.
    """
    turn, island = divmod(step, config.islands)
    if config.islands < 2 or config.num_prompts < 2 or not config.migration_every or turn % config.migration_every:
        return ()
    neighbour = (island - 1) % config.islands
    there = [p for p in population.alive if p.operator != "root" and p.born % config.islands == neighbour]
    return (max(there, key=lambda prompt: (prompt.rating.mu, -prompt.id)),) if there else ()
