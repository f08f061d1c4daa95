"""That transformers answers as we do: greedy replies to 20 chats, by our sampler from a checkpoint, by torch from its export.

  python -m espl_jax.export --workdir=DIR --out=OUT
  python tests/goldens/export_replies.py ours DIR REPLIES.json
  GOLDEN/bin/python tests/goldens/export_replies.py theirs OUT REPLIES.json      (GOLDEN: see make_goldens.py)

The tests themselves need no torch; what this said last is in docs/export.md.
"""

import json
import sys
from pathlib import Path

NEW_TOKENS = 48
QUESTIONS = [f"What is {a} + {b}?" for a, b in ((3, 4), (12, 30), (7, 9), (25, 17), (100, 1))]
QUESTIONS += ["Name a colour.", "Who wrote Hamlet?", "  Count from 1 to 5.\n", "Say hello in French.", "Is 7 a prime? {{ x }}"]
EARLIER = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello! How can I help you?"}]
OWN = [{"role": "system", "content": "Answer in one word."}]
CHATS = [[{"role": "user", "content": question}] for question in QUESTIONS]
CHATS += [[*EARLIER, {"role": "user", "content": question}] for question in QUESTIONS[:5]]
CHATS += [[*OWN, {"role": "user", "content": question}] for question in QUESTIONS[5:]]


def ours(workdir: str) -> list[str]:
    from espl_jax import finished
    from espl_jax.export.check import EXACT, opened
    from espl_jax.rollout import visible
    from espl_jax.structs import Chat, Message, Request

    run = finished.read(workdir)
    prompt, layout = finished.choose(run, "best"), run.config.evolution.layout
    policy, trainable = finished.load(run, **EXACT)
    requests = []
    for number, chat in enumerate(CHATS):
        turns = opened([Message(turn["role"], turn["content"]) for turn in chat], prompt.genome, layout)
        tokens = policy.tokenizer.render(Chat(str(number), turns))
        requests.append(Request(number, tokens, (6, 0, 0, number, 0), NEW_TOKENS, 0.0, 1.0))
    completions = policy.sampler(policy.variables(trainable), requests)
    return [policy.tokenizer.decode(visible(policy, completion)) for completion in completions]


def theirs(directory: str) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    replies = []
    for chat in CHATS:
        tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        drawn = model.generate(**tokens, do_sample=False, max_new_tokens=NEW_TOKENS, temperature=None, top_p=None, top_k=None)
        reply = drawn[0, tokens["input_ids"].shape[1] :]
        replies.append(tokenizer.decode(reply, skip_special_tokens=True))
    return replies


if __name__ == "__main__":
    who, where, file = sys.argv[1:]
    if who == "ours":
        Path(file).write_text(json.dumps(ours(where), indent=1), encoding="utf-8")
    else:
        expected, found = json.loads(Path(file).read_text(encoding="utf-8")), theirs(where)
        for one, other in zip(expected, found, strict=True):
            sys.stdout.write(f"same: {one!r}\n" if one == other else f"DIFFERENT: {one!r}\n  {other!r}\n")
        sys.stdout.write(f"{sum(map(str.__eq__, expected, found))} of {len(expected)} replies are the same\n")
        sys.exit(expected != found)
