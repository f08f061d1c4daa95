"""Agentic search on a laptop: SmolLM2-135M-Instruct learns to search a small real index, and writes hints for itself.

  python -m espl_jax.sft --config=experiments/search_sft.py --workdir=runs/search_sft                 (the warm start, once)
  python -m espl_jax.main --config=experiments/search_quickstart.py --workdir=runs/search_quickstart  (from it; 8 steps)

Hardware: 2 CPU cores, 16 GiB of memory. What to expect: docs/search.md, section "Learning", has the measured figures.
The model has never seen a tool, and would wait long for a first reward; the warm start shows it the form of a search. A warm
start that lies elsewhere is named by --config.model.adapter=DIR. With a search server instead of the index in this process:
--config.tools.retriever=http://127.0.0.1:8000 (start it with `python -m espl_jax.tasks.search.server --index=embedded`).
What differs from the paper's settings (experiments/search.py), and why: a model of 135M parameters, so questions over 1,580
short passages about countries and cities; short budgets; and, because it can write no search/replace block, it is asked for its
edits as sentences of advice, which become lines of the document's part of hints.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.num_steps = 8

    config.model.adapter = "runs/search_sft"
    config.model.max_length = 1024
    config.model.dtype = "float32"
    config.model.weight_dtype = "float32"
    config.model.remat = "none"
    config.model.scan_layers = True

    config.task.name = "search"
    config.task.train = "embedded"
    config.task.two_hop = 0.0  # one search answers each; raise it here and in search_sft.py for questions that take two
    config.task.num_train = 120
    config.task.num_validation = 32
    config.task.num_problems = 3
    config.task.num_samples = 6

    config.tools.topk = 1
    config.tools.max_turns = 3
    config.tools.max_calls = 2
    config.tools.max_turn_tokens = 48
    config.tools.max_result_tokens = 120

    config.sampling.temperature = 1.0
    config.sampling.top_p = 1.0
    config.sampling.max_new_tokens = 224
    config.sampling.batch_size = 36
    config.sampling.prefill_tokens = 128
    config.sampling.prefill_chunk = 32
    config.sampling.merge_weights = True

    config.rl.learning_rate = 1.5e-4
    config.rl.lora_rank = 16
    config.rl.micro_batch_tokens = 1024
    config.rl.head_chunk = 256
    config.rl.gap_warning = 1e-3

    config.evolution.genome = "document"
    config.evolution.edit_form = "sentence"
    config.evolution.num_prompts = 2
    config.evolution.max_problems = 2
    config.evolution.max_trajectories = 2
    config.evolution.max_new_tokens = 64
    config.evolution.temperature = 0.8
    config.evolution.max_trajectory_words = 90
    config.evolution.summarize_above = 90
    config.evolution.max_hints = 6

    config.evaluation.every = 8
    config.evaluation.num_samples = 1
    config.evaluation.test = False
    config.evaluation.without_prompt = False
    config.evaluation.temperature = 1.0
    config.evaluation.top_p = 1.0
    config.evaluation.max_new_tokens = 224
    return config
