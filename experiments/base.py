"""Every field of a run, once, with its meaning and default: the only place where a default lives.

An experiment imports this, changes what differs and returns the config:

  from experiments import base
  def get_config():
      config = base.get_config()
      config.rl.learning_rate = 1e-4
      return config

The values are the authors' (Zhang, Chen, Stadie, arXiv 2602.14697v3, section 4 and appendix) where they state one.
Any field can be set on the command line: `--config.rl.learning_rate=1e-4`. Unknown fields are errors.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # decides everything random: data order, selection, every sampled token
    config.num_steps = 60  # iterations of SPEC: select, sample, update, rate, mutate, cross over
    config.budget_tokens = 0  # ends the run after the step in which it has asked and drawn so many tokens (ledger); 0: none
    config.budget_flops = 0.0  # the same in floating-point operations by formula
    config.budget_rollouts = 0  # the same in trajectories; evaluation counts in none of the three
    config.method = "espl"  # espl (both) | rl (weights) | evolution (prompts) | reflection (one prompt, mutation only) | gepa
    config.model = model()
    config.mesh = mesh()
    config.hosts = hosts()
    config.runtime = runtime()
    config.sampling = sampling()
    config.rl = rl()
    config.evolution = evolution()
    config.gepa = gepa()
    config.task = task()
    config.tools = tools()
    config.sft = sft()
    config.evaluation = evaluation()
    config.records = records()
    return config.lock()


def model() -> ConfigDict:
    """The policy: a Hugging Face directory (config.json, safetensors, tokenizer) of the dense Llama/Qwen family."""
    model = ConfigDict()
    model.path = "embedded"  # a directory, a hub name ("Qwen/Qwen3-8B"), or "embedded": SmolLM2-135M-Instruct
    model.revision = "main"  # branch, tag or commit when path is a hub name
    model.adapter = ""  # added to the weights at load: a supervised run's work directory, a PEFT adapter, a shipped one's name
    model.max_length = 16384  # context limit in tokens, prompt and completion together
    model.dtype = "bfloat16"  # of activations, matrix products and the cache; norms, softmax and logits are float32
    model.weight_dtype = "bfloat16"  # of frozen weights; whatever is trained is kept in float32
    model.attention = "auto"  # auto | xla | cudnn (NVIDIA, 16-bit types) | splash (TPU): how the learner attends
    model.remat = "layer"  # kept for backward: none (everything) | dots (products) | attention (its output) | layer (input)
    model.scan_layers = False  # compile one layer and loop: starts much sooner, holds the layers' weights twice meanwhile
    model.chat_template_arguments = "{}"  # JSON object given to the chat template, e.g. '{"enable_thinking": true}'
    return model


def mesh() -> ConfigDict:
    """How many devices lie along each axis; their product is the number of devices, -1 (once) means the rest."""
    mesh = ConfigDict()
    mesh.data = -1  # rows of a batch; weights are replicated
    mesh.fsdp = 1  # rows of a batch too; weights and optimizer state are split
    mesh.tensor = 1  # heads, feed-forward units and vocabulary are split
    mesh.sequence = 1  # tokens of a long row are split while learning; weights as by fsdp; while sampling, more slots
    return mesh


def hosts() -> ConfigDict:
    """The processes of a run; each is started with the same command, and has devices of its own (docs/hosts.md)."""
    hosts = ConfigDict()
    hosts.coordinator = ""  # "": one process | auto: as SLURM, Open MPI, GKE or the TPU says | host:port of process 0
    hosts.num_processes = -1  # -1: as the cluster says
    hosts.process_id = -1  # -1: as the cluster says; 0 writes the records
    hosts.start_seconds = 300  # within which all processes must have come
    hosts.heartbeat_seconds = 30  # without a sign of life after which a process counts as gone, and the others end
    return hosts


def runtime() -> ConfigDict:
    """What is set up before the first device is touched."""
    runtime = ConfigDict()
    runtime.gpu_memory_fraction = 0.0  # of a GPU's memory that JAX takes, in (0, 1]; 0: its default, 0.75
    runtime.gpu_preallocate = True  # takes it at the start; False: as needed, for a GPU that others use too
    runtime.cpu_devices = 0  # virtual devices of a CPU process; 0: one
    runtime.keep_memory = True  # what a CPU process frees stays with it, so that its pages are not cleared again for each call
    runtime.xla_flags = ""  # behind those of the environment variable XLA_FLAGS, e.g. "--xla_gpu_autotune_level=2"
    return runtime


def sampling() -> ConfigDict:
    """How training rollouts are drawn."""
    sampling = ConfigDict()
    sampling.temperature = 0.6  # 0 is greedy (useless for training: groups would not differ)
    sampling.top_p = 0.95
    sampling.max_new_tokens = 15000
    sampling.batch_size = 128  # sequences decoded together at the most, all devices counted
    sampling.single_slot = False  # a call of one or two requests has one slot: less time on a CPU, for further programs
    sampling.prefill_tokens = 2048  # tokens of one prefill call, all devices counted; decoding goes on between two of them
    sampling.prefill_chunk = 256  # tokens of one prompt in it: a power of 2
    sampling.share_prefixes = True  # prefill, store and attend to what prompts have in common once
    sampling.cache_dtype = "model"  # of keys and values: model (model.dtype) | bfloat16 | float32 | int8 (half the memory)
    sampling.weights_layout = "same"  # same (as learned with) | gathered over fsdp and sequence for each call (docs/meshes.md)
    sampling.merge_weights = False  # decode with a second copy of the weights, adapter merged: faster on CPU; for float32
    return sampling


def rl() -> ConfigDict:
    """The weights' half: advantages, loss, adapter, optimizer."""
    rl = ConfigDict()
    rl.loss = "importance_sampling"  # importance_sampling | ppo | cispo | log_likelihood (REINFORCE; supervised training)
    rl.clip_low = 0.2  # ppo: the ratio is clipped to [1 - clip_low, 1 + clip_high]
    rl.clip_high = 0.2
    rl.cispo_max = 4.0  # cispo: the ratio is clipped to [0, cispo_max] and carries no gradient
    rl.ratio = "tempered"  # what both sides of the ratio are: tempered | untempered | behavior (corrects for top-p)
    rl.baseline = "prompt"  # prompt: the mean of a (prompt, problem) group | marginal: the mean over all prompts
    rl.normalize_std = False  # divide advantages by the standard deviation of what the baseline averages
    rl.aggregation = "token"  # token: mean over tokens | sequence: mean of sequence means | constant: / max_new_tokens
    rl.kl_coef = 0.0  # weight of KL(policy || reference), estimator k3 (Schulman 2020); needs a reference
    rl.lora_rank = 32  # 0 trains all weights
    rl.lora_alpha = 32.0  # the adapter's product is multiplied by alpha / rank
    rl.lora_targets = ("q", "k", "v", "o", "gate", "up", "down")  # which projections have an adapter
    rl.learning_rate = 4e-5
    rl.schedule = "constant"  # constant | linear | cosine: to zero at num_steps
    rl.warmup_steps = 0
    rl.adam_b1 = 0.9
    rl.adam_b2 = 0.95
    rl.adam_eps = 1e-8
    rl.weight_decay = 0.0
    rl.max_grad_norm = 1.0  # 0 does not clip
    rl.num_minibatches = 1  # optimizer steps an iteration, each over its share of the trajectories
    rl.micro_batch_tokens = 32768  # tokens per gradient accumulation step, what is shared counted once, all devices counted
    rl.row_widths = 2  # lengths that a device's share of it may have; more: less padding, more programs to compile
    rl.head_chunk = 512  # completion tokens whose logits exist at one time, on each device that rows are split over
    rl.gap_warning = 1e-2  # warn when sampler and trainer differ by more than this (natural log; bfloat16 is coarse)
    return rl


def evolution() -> ConfigDict:
    """The prompts' half: population, selection, rating, genetic operators."""
    evolution = ConfigDict()
    evolution.num_prompts = 3  # M: prompts that compete in a step; fewer while the window holds fewer
    evolution.window = 10  # K: only the newest K prompts are selected from
    evolution.max_population = 200  # beyond it the oldest retire
    evolution.selection = "champion"  # champion | newest | softmax | ucb | lucb | uniform
    evolution.optimism = 2.0  # lambda in mu + lambda * sigma
    evolution.selection_temperature = 1.0  # of softmax, and of fitness other than rating; in rating points
    evolution.fitness = "rating"  # what selection goes by: rating | shared (less in a crowd) | pareto (problems led)
    evolution.distance = "text"  # between prompts: text (words) | behaviour (rewards on the problems that both have tried)
    evolution.niche_radius = 0.5  # in [0, 1]; nearer prompts share a niche, and are one species
    evolution.islands = 1  # populations that take turns, a step each; a child lives where it was born
    evolution.migration_every = 5  # turns of an island between two in which its neighbour's best is its guest; 0: never
    evolution.mating = "any"  # whom the best prompt crosses with: any | similar (within niche_radius) | different (beyond it)
    evolution.parent = "best"  # whom mutation revises: best (mean reward) | pareto (one that leads a problem)
    evolution.max_age = 20  # steps after which a prompt's reward on a problem counts no more: the weights have moved on
    evolution.acceptance = "none"  # of children: none (all) | paired (not worse than the parent, same problems and randomness)
    evolution.genome = "principles"  # principles | document
    evolution.root = ""  # path of a text file the root starts from; "rulebook": the task's; "": no principles, or its document
    evolution.layout = "system"  # system: principles in the system turn | user: after the problem, as the authors' code
    evolution.editor = "reference"  # who writes children: reference (frozen weights) | current (policy as trained) | server
    evolution.server_url = ""  # server: of the OpenAI-compatible interface, e.g. "http://localhost:8000/v1" (docs/editors.md)
    evolution.server_model = ""  # server: the model's name there
    evolution.server_key = ""  # server: NAME of the environment variable that holds the key, never the key; "": none
    evolution.server_parameters = "{}"  # server: JSON object added to each request; null takes a field out
    evolution.server_timeout = 300.0  # seconds that one try may take
    evolution.server_retries = 6  # tries after the first that failed, with pauses of 1, 2, 4, ... seconds
    evolution.server_concurrency = 16  # requests under way at the same time
    evolution.grammar = "none"  # none | json: replies are held to the edits' JSON schema while they are sampled
    evolution.mutation_probability = 1.0
    evolution.crossover_probability = 0.2
    evolution.sigma_inflation = 1.0  # d sigma: a child's sigma is sqrt(sigma^2 + d sigma^2)
    evolution.tie_margin = 0.01  # mean rewards closer than this are a draw
    evolution.trueskill_mu = 25.0
    evolution.trueskill_sigma = 25.0 / 3
    evolution.trueskill_beta = 25.0 / 6
    evolution.trueskill_tau = 25.0 / 300
    evolution.trueskill_draw_probability = 0.10
    evolution.max_edits = 2  # K_ops: edits that one critique may propose
    evolution.max_problems = 0  # problems reflected on per mutation, 0: all that count
    evolution.max_trajectories = 0  # trajectories summarised per problem, 0: all; successes and failures alternate
    evolution.max_principle_words = 32
    evolution.max_principles = 50
    evolution.max_document_words = 1500
    evolution.max_document_growth = 200  # words by which a child's document may be longer than its parent's
    evolution.max_hints = 12  # lines of a document's part of hints, where edit_form=sentence puts advice; then one is replaced
    evolution.duplicate_similarity = 0.9  # token-set similarity in [0, 1] above which a principle or line repeats another
    evolution.temperature = 0.6  # of the editor
    evolution.top_p = 0.95
    evolution.max_new_tokens = 4096  # of one reflection; a reply cut off by it is rejected
    evolution.max_trajectory_words = 3000  # a longer trajectory is shown to the editor with its middle left out
    evolution.summarize_above = 0  # words; shorter trajectories are shown to the critic as they are; 0: all are summarized
    evolution.edit_form = "json"  # json | sentence (one begun line of advice: for editors too weak to write JSON)
    return evolution


def gepa() -> ConfigDict:
    """method=gepa: prompts by the package of that name, with the editor of `evolution` (docs/compare.md)."""
    gepa = ConfigDict()
    gepa.minibatch = 3  # training problems that a candidate is reflected on by, and its child tried on
    gepa.num_pareto = 0  # training problems set apart, by the seed, that candidates are chosen by; 0: half of them
    return gepa


def task() -> ConfigDict:
    """Problems and rewards. Splits never share a problem; no choice ever looks at test."""
    task = ConfigDict()
    task.name = "math"  # math (competition maths) | reasoning_gym | jsonl | search (agentic search) | smallworld | toy
    task.num_problems = 10  # B: problems of a step
    task.num_samples = 5  # N: samples of each (prompt, problem)
    # a named source (tasks/sources.py), several joined by "+", or a local .jsonl/.parquet path in the same columns;
    # search: also "embedded", questions made of the embedded corpus, which have splits of their own
    task.train = "aime_2022_2024"
    task.validation = ""  # the same; "": num_validation problems are held out from train by the seed
    task.test = ""  # the same; "": no test set (reasoning_gym: its own split)
    task.num_train = 0  # keep this many problems, drawn by the seed; 0: all (reasoning_gym and smallworld need a number)
    task.num_validation = 16  # 0: none held out, or all of a named source
    task.num_test = 0  # 0: all (reasoning_gym, toy, search, smallworld: none held out)
    task.gym_dataset = ""  # reasoning_gym: name of the data set, e.g. "chain_sum"
    task.gym_parameters = "{}"  # reasoning_gym: its parameters, a JSON object
    task.extraction = "boxed"  # how the answer is read off a reply: boxed | last_number | answer_line | whole
    task.question_suffix = ""  # appended to every question as it is (begin with a space or newline)
    task.format_penalty = 0.1  # search: what a malformed tool call takes off the reward of a right answer
    task.two_hop = 0.5  # search over the embedded corpus: share of questions that take two searches, not one
    task.world = world()
    task.grading_timeout = 10.0  # seconds an answer may take before its worker is killed and it scores 0
    task.grading_workers = 2
    return task


def world() -> ConfigDict:
    """task.name=smallworld: invented operations, their meanings drawn by the seed (docs/smallworld.md)."""
    world = ConfigDict()
    world.operations = 6  # invented words
    world.min_depth = 1  # operations of an expression: "7 kafux 4" has 1
    world.depth = 1  # the most; depths from min_depth on are equally frequent
    world.examples = 3  # expressions of a question, alike but for their numbers; the reward is the share of right results
    world.largest = 9  # numbers are 1 to this
    world.drift = 0.0  # share of the operations that mean something else from drift_step on
    world.drift_step = 0  # 0: meanings never change
    return world


def tools() -> ConfigDict:
    """Conversations with tools: their budgets, and who answers a call. Tasks of one reply use none of it."""
    tools = ConfigDict()
    tools.max_turns = 8  # replies of a conversation; sampling.max_new_tokens is for all of it, what tools answer included
    tools.max_turn_tokens = 0  # of one reply; 0: what is left of the conversation's
    tools.max_calls = 8  # tool calls of a conversation
    tools.max_result_tokens = 500  # of one tool's answer; the rest is cut off
    tools.workers = 16  # conversations whose tools answer at the same time
    tools.ahead = 1  # decode calls until an answer joins, waited for if need be: exact to the last bit; 0: joins when it comes
    tools.timeout = 30.0  # seconds that one try of a call may take
    tools.retries = 5  # tries after the first that failed, with pauses of 1, 2, 4, ... seconds: 5 outlast a gap of 30 s
    tools.retriever = "local"  # local (an index on this machine) | http://host:port of a server with Search-R1's /retrieve
    tools.index = "embedded"  # local: a folder that espl_jax.tasks.search.build made, or the small corpus that is shipped
    tools.topk = 3  # passages that a query gives
    return tools


def sft() -> ConfigDict:
    """Supervised training (python -m espl_jax.sft): num_steps optimizer steps of `rl` on conversations (docs/sft.md)."""
    sft = ConfigDict()
    sft.data = "search"  # a name of demonstrations (espl_jax/demonstrations.py), or a .jsonl path of {"messages": [...]}
    sft.num_demonstrations = 0  # drawn by the seed for training; 0: all that are there
    sft.num_validation = 8  # held out by the seed, every evaluation.every steps; 0: none
    sft.batch_size = 16  # conversations of a step
    sft.crossings = 2  # data=smallworld: scenes beside each scene of which the crossovers alone are shown
    sft.adapter_dtype = "float32"  # of the adapter that is saved at the end: float32 | bfloat16 (half the size, rounded)
    return sft


def evaluation() -> ConfigDict:
    """Held-out evaluation with n samples a problem; reports pass@1..n (unbiased estimator, Chen et al. 2021)."""
    evaluation = ConfigDict()
    evaluation.every = 1  # steps between evaluations (also before the first and after the last); 0: never
    evaluation.num_samples = 10
    evaluation.test = True  # also evaluate test (nothing is ever chosen by it)
    evaluation.prompt = "best"  # best (highest mu) | newest | the id of a prompt | none
    evaluation.rated = 0  # at the end, so many of the prompts that competed most are measured on test: ratings.jsonl
    evaluation.without_prompt = True  # also evaluate with no prompt at all: what has moved into the weights
    evaluation.temperature = 0.6
    evaluation.top_p = 0.95
    evaluation.max_new_tokens = 15000
    return evaluation


def records() -> ConfigDict:
    """What is written to the work directory."""
    records = ConfigDict()
    records.checkpoint_every = 1  # steps between checkpoints (also after the last)
    records.keep_last = 2  # 2 or more leaves one to fall back to when the newest is damaged
    records.keep_best = 1  # by validation/pass@1
    records.tensorboard = True
    records.report = True  # at the end write report.html, a page that shows the run (docs/report.md)
    records.grace = 20.0  # seconds after SIGTERM in which the step under way may end; then it is dropped
    records.wandb_project = ""  # "": Weights & Biases is not used
    records.compilation_cache = "~/.cache/espl_jax/xla"  # compiled programs, kept between runs; "": not kept
    return records
