"""Where texts become tokens and tokens become replies: contexts, the root, and an editor's replies."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from espl_jax import rollout
from espl_jax.policy.chat import Tokenizer
from espl_jax.structs import Chat, Completion, Genome, Grade, Message, Prompt, Rating, Rollouts
from espl_jax.tasks import toy
from espl_jax.tasks.grading import Inline
from experiments import base


def completion(finish: str = "length") -> Completion:
    zeros = np.zeros(3, np.float32)
    return Completion("x", np.arange(3, dtype=np.int32), zeros, zeros, zeros, finish)


def chat(prefix: str = "", stop: str = "") -> Chat:
    return Chat("x", (Message("user", "Say it."),), prefix, stop)


def test_a_reply_begins_with_its_prefix_and_ends_with_its_stop_text():
    reply = rollout.reply_to(chat("Advice:", "\n"), 7, " count on.\nAnd more", completion())
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.generated_tokens) == ("Advice: count on.\n", "stop", 7, 3)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_reply_without_the_stop_text_keeps_its_finish(finish):
    reply = rollout.reply_to(chat(stop="\n"), 7, " count on", completion(finish))
    assert (reply.text, reply.finish) == (" count on", finish)


def test_the_root_is_empty_or_what_its_file_says(tmp_path):
    config, task = base.get_config().evolution, toy.build(base.get_config().task, 0, base.tools())
    task = replace(task, root="Count.\n")
    assert rollout.root_genome(config, task) == Genome("principles")
    with config.unlocked():
        config.genome = "document"
    assert rollout.root_genome(config, task) == Genome("document", document="Count.")
    (tmp_path / "root.txt").write_text("- Count on.\n\n2. Check twice.\n", encoding="utf-8")
    with config.unlocked():
        config.root = str(tmp_path / "root.txt")
    assert rollout.root_genome(config, task).document == "- Count on.\n\n2. Check twice."
    with config.unlocked():
        config.genome = "principles"
    assert rollout.root_genome(config, task).principles == ("Count on.", "Check twice.")


@pytest.mark.parametrize("genome", ["principles", "document"])
def test_a_root_may_be_all_that_the_task_could_say(genome):
    config, task = base.get_config().evolution, toy.build(base.get_config().task, 0, base.tools())
    with config.unlocked():
        config.genome, config.root = genome, "rulebook"
    with pytest.raises(ValueError, match="evolution.root is 'rulebook', but the task toy has none"):
        rollout.root_genome(config, task)
    task = replace(task, rulebooks={"validation": Genome("principles", ("kafux: add.", "bemoz: subtract."))})
    wanted = {"principles": ["kafux: add.", "bemoz: subtract."], "document": ["- kafux: add.", "- bemoz: subtract."]}
    found = rollout.root_genome(config, task)
    assert (list(found.principles) or found.document.splitlines()) == wanted[genome]


@pytest.mark.parametrize("layout", ["system", "user"])
def test_principles_stand_where_the_layout_puts_them_and_stay_text(layout, tiny_qwen3):
    tokenizer = Tokenizer(tiny_qwen3, {})
    task_config = base.get_config().task
    task = toy.build(task_config, 0, base.tools())
    genome = Genome("principles", ("Mind the <|im_end|> sign.",))
    tokens = rollout.context_tokens(tokenizer, genome, task.train[0], task, layout)
    bare = rollout.context_tokens(tokenizer, Genome("principles"), task.train[0], task, layout)
    turns = {"system": 2, "user": 1}[layout]
    assert tokens.tolist().count(2) == turns and bare.tolist().count(2) == 1  # <|im_end|> is 2: one a turn, none from the text
    text = tokenizer.decode(tokens)
    assert (text.index("Mind the") < text.index("reply with the word")) == (layout == "system")
    assert "[G0]" in text and "[G0]" not in tokenizer.decode(bare)


class Numbers:
    """A policy that answers request i with the number i, the odd ones first; `watch` is called after each."""

    def __init__(self, directory, watch=lambda: None):
        self.tokenizer, self.watch = Tokenizer(directory, {}), watch

    def sampler(self, variables, requests, on_done):
        done = [self.completion(str(i)) for i in range(len(requests))]
        for i in (*range(1, len(requests), 2), *range(0, len(requests), 2)):
            on_done(i, done[i])
            self.watch()
        return done

    def completion(self, text: str) -> Completion:
        tokens = np.append(self.tokenizer.encode(text), self.tokenizer.stop_ids[0]).astype(np.int32)
        return Completion("x", tokens, *[np.zeros(len(tokens), np.float32)] * 3, "stop")


def plan(policy, task, num_samples):
    prompts = [Prompt(i, Genome("principles"), Rating(25.0, 8.0), (), "root", 0) for i in range(2)]
    config = base.get_config()
    return rollout.plan_groups(
        policy.tokenizer, prompts, task.train[:3], num_samples, config.sampling, "rollout", 7, task, "system", config.tools
    )


def test_each_reply_is_graded_when_it_ends_and_every_plan_gets_its_own(tiny_qwen3):
    graded, seen = [], []
    policy = Numbers(tiny_qwen3, watch=lambda: seen.append(len(graded)))
    task = toy.build(base.get_config().task, 0, base.tools())
    plans = [plan(policy, task, 2), plan(policy, task, 1)]
    grader = Inline(lambda problem, text: graded.append((problem, text)) or Grade(int(text) / 100))
    first, second = rollout.sample(policy, {}, plans, grader)
    assert seen == list(range(1, 2 * 3 * 3 + 1))
    assert first.texts == tuple(str(i) for i in range(12)) and second.texts == tuple(str(i) for i in range(12, 18))
    np.testing.assert_allclose(100 * second.rewards_PQG[:, :, 0], [[12, 13, 14], [15, 16, 17]], atol=1e-4)
    assert {int(text): problem for problem, text in graded}[13] == second.problems[1] == task.train[1]
    assert {request.counter[:3] for request in plans[0].requests} == {(1, 7, 0), (1, 7, 1)}


def test_what_grading_raises_is_raised(tiny_qwen3):
    policy, task = Numbers(tiny_qwen3), toy.build(base.get_config().task, 0, base.tools())
    with pytest.raises(ZeroDivisionError):
        rollout.sample(policy, {}, [plan(policy, task, 1)], Inline(lambda problem, text: Grade(1 / 0)))


def test_a_chat_that_leaves_no_room_counts_as_cut_off_and_the_others_are_answered(tiny_qwen3):
    decoding = SimpleNamespace(max_new_tokens=5, temperature=1.0, top_p=1.0)
    chats = [Chat(f"call/{i}", (Message("user", "word " * size),)) for i, size in enumerate((3, 500, 4))]
    editor = rollout.make_editor(Numbers(tiny_qwen3), {}, decoding, 1, 100)
    replies = editor(chats)
    assert [(reply.text, reply.finish) for reply in replies] == [("0", "stop"), ("", "length"), ("1", "stop")]
    assert replies[1].prompt_tokens > 100 and replies[1].generated_tokens == 0
    assert [reply.finish for reply in editor(chats[1:2])] == ["length"]


def test_an_editor_answers_in_the_order_of_its_chats(tiny_qwen3):
    decoding = SimpleNamespace(max_new_tokens=5, temperature=1.0, top_p=1.0)
    chats = [Chat(f"call/{i}", (Message("user", "Say it."),)) for i in range(5)]
    replies = rollout.make_editor(Numbers(tiny_qwen3), {}, decoding, 1, 1024)(chats)
    assert [(reply.id, reply.text) for reply in replies] == [(f"call/{i}", str(i)) for i in range(5)]


@pytest.mark.parametrize("talks", [False, True])
def test_the_trajectories_under_some_of_the_prompts(talks):
    """3 prompts x 2 problems x 2 samples, each trajectory known by its number."""
    numbers = tuple(str(i) for i in range(12))
    problems = toy.build(base.get_config().task, 0, base.tools()).train[:2]
    whole = Rollouts(
        prompt_ids=(7, 8, 9),
        problems=problems,
        context_tokens=tuple(tuple(np.int32([p, q]) for q in range(2)) for p in range(3)),
        completions=tuple(replace(completion(), id=number) for number in numbers),
        texts=numbers,
        grades=tuple(Grade(float(number), number) for number in numbers),
        rewards_PQG=np.arange(12, dtype=np.float32).reshape(3, 2, 2),
        conversations=tuple((Message("user", number),) for number in numbers) if talks else None,
    )
    found = rollout.under(whole, [2, 0])
    order = [8, 9, 10, 11, 0, 1, 2, 3]
    assert found.prompt_ids == (9, 7) and found.problems == problems and found.texts == tuple(map(str, order))
    assert [one.id for one in found.completions] == [one.extracted for one in found.grades] == list(found.texts)
    assert found.rewards_PQG.ravel().tolist() == order
    assert [[context.tolist() for context in row] for row in found.context_tokens] == [[[2, 0], [2, 1]], [[0, 0], [0, 1]]]
    assert found.conversations == (tuple((Message("user", str(i)),) for i in order) if talks else None)
    assert rollout.under(whole, []).rewards_PQG.shape == (0, 2, 2)
