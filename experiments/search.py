"""E-SPL on agentic search: Natural Questions and HotpotQA, a search tool, and a prompt that is a document.

  python -m espl_jax.tasks.search.server --index=DIR --port=8000      (or any server with Search-R1's /retrieve)
  python -m espl_jax.main --config=experiments/search.py --workdir=DIR --config.tools.retriever=http://HOST:8000

Settings: Zhang, Chen, Stadie (arXiv 2602.14697v3): 196 questions for training and 64 for test, B = 10, N = 5, M = 3, K = 10,
LoRA rank 32, learning rate 4e-5. What we change, and why:

  model        Qwen3-8B instead of gpt-oss-120b, which this code does not have; figures of the paper cannot be expected from it.
  validation   16 questions of the training data are held out, for what the paper chose by test.
  root         our own document, espl_jax/tasks/search/root_full.md: role, steps, syntax of the tool, example, answer line.

Data: PeterJinGo/nq_hotpotqa_train (`pip install 'espl_jax[data]'`), or a local file in its columns by --config.task.train=FILE.
Index: docs/search.md says how one is built of a JSONL of passages; these questions want all of Wikipedia (wiki-18, 21 million
passages).
Hardware: as experiments/beyondaime.py, and a machine for the search server.
Expected: nobody has run this with this model; only two steps with a tiny random model on a CPU are tested. The paper, with
gpt-oss-120b, reports 6.6 (base, read off a figure), 34.0 (evolution), 44.2 (RL), 48.6 (E-SPL).
"""

from importlib.resources import files

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.path = "Qwen/Qwen3-8B"
    config.model.chat_template_arguments = '{"enable_thinking": true}'

    config.task.name = "search"
    config.task.train = "nq_hotpotqa"
    config.task.num_train = 196
    config.task.num_validation = 16
    config.task.num_test = 64

    config.tools.retriever = "http://127.0.0.1:8000"
    config.tools.topk = 3

    config.evolution.genome = "document"
    config.evolution.root = str(files("espl_jax.tasks.search").joinpath("root_full.md"))
    return config
