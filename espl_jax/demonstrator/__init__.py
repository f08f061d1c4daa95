"""Ideal replies for every model call of E-SPL in the small world, for a model to learn them from (python -m espl_jax.sft).

A scene (scenes.py) is a step of a run in a world of its own: prompts, sheets, attempts and their grades. The operators of
espl_jax/evolution are run on it as in a run, so that every chat is the very text that an editor reads there, and an ideal
editor (ideal.py) answers; finding.py has the reasoning that it shows, answers.py how a solver works a sheet out, and chats.py
makes conversations of both. No world of a demonstration shares a word with any world that a run could live in
(tasks/smallworld/words.py).
"""
