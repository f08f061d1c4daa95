"""A small world: invented operations whose meaning nobody states, so that a prompt has something to say.

"What is 7 kafux 4?" can be answered by one who knows what kafux means (declarative: it can be said in a principle) and can work
it out (procedural: it has to be practised). rules.py is the family that meanings are drawn from, world.py draws them and asks
questions, reading.py reads meanings off principles, task.py is the Task, with the sets and measures that tell what sits in the
prompt and what in the weights. The demonstrations that teach a small model to reflect here are in espl_jax/demonstrator.
"""
