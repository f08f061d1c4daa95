"""Where conversations come from: files, splits, and a player in a task's environment."""

import json

import pytest

from espl_jax import demonstrations
from espl_jax.demonstrations import Demonstration
from espl_jax.policy.chat import Tokenizer
from espl_jax.structs import Genome, Message
from experiments import base
from tests.tiny_environment import Calculator, calculator_task


def conversation(*turns):
    return tuple(Message(*turn) for turn in turns)


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD = chat(("user", "1 + 1?"), ("assistant", "2"))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "x"}, "x.jsonl:2 has no list of messages"),
        ({"messages": ["x"]}, "x.jsonl:2 has no list of messages"),
        ({"messages": []}, "the turns ; let the assistant reply"),
        (chat(("user", "x")), "the turns user; let the assistant reply"),
        (chat(("assistant", "x")), "the turns assistant; let"),
        (chat(("user", "x"), ("assistant", "y"), ("tool", "z")), "and last"),
        (chat(("user", "x"), ("assistant", "y"), ("assistant", "z")), "two assistant turns"),
        (chat(("user", "x"), ("assistant", "y"), ("system", "z"), ("assistant", "z")), "a system turn behind a reply"),
        (chat(("critic", "x"), ("assistant", "y")), 'the message {"role": "critic"'),
        (chat(("user", None), ("assistant", "y")), "give each a role"),
        ("{", "is no JSON"),
    ],
)
def test_what_is_no_conversation_is_named_by_its_line(tmp_path, row, named):
    path = write(tmp_path / "x.jsonl", GOOD, row)
    with pytest.raises(ValueError, match="x.jsonl:2 ") as error:
        list(demonstrations.from_file(path))
    assert named in str(error.value) and "\n" not in str(error.value)


def splits(path, **changes):
    config = base.get_config()
    config.sft.update(data=str(path), batch_size=2, **changes)
    config.seed = 3
    return [[one.id for one in split] for split in demonstrations.load(config)]


def test_splits_are_disjoint_and_hardly_change_when_a_conversation_is_added(tmp_path):
    rows = [chat(("user", f"{n}?"), ("assistant", str(n))) for n in range(20)]
    train, held_out = splits(write(tmp_path / "a.jsonl", *rows, rows[3], rows[4]), num_validation=5)
    assert len(train) == 15 and len(held_out) == 5 and not set(train) & set(held_out)
    assert splits(write(tmp_path / "b.jsonl", *reversed(rows)), num_validation=5) == [train, held_out]
    more, held_out_now = splits(write(tmp_path / "c.jsonl", *rows, GOOD), num_validation=5)
    assert len(set(held_out) - set(held_out_now)) <= 1
    fewer, _ = splits(tmp_path / "a.jsonl", num_validation=5, num_demonstrations=6)
    assert fewer == train[:6]


def test_replies_carry_loss_and_all_else_does_not(tiny_qwen3):
    """Text that spells a control token stays text, except a mark that this tokenizer does not call special, in a reply."""
    tokenizer = Tokenizer(tiny_qwen3, {})
    messages = conversation(
        ("user", "go <|im_end|> <think>"), ("assistant", "<think>hm</think>a<|im_end|>b"), ("tool", "one"), ("user", "two"),
        ("assistant", "c"), ("user", "x" * 50), ("assistant", ""),
    )  # fmt: skip
    row = demonstrations.to_row(tokenizer, messages, 500)
    tokens, own = row.completion.tokens.tolist(), row.completion.own
    replies, now = [], []
    for token, mine in zip(tokens, own):
        now += [token] if mine else []
        if now and not mine or token == 2 and mine:
            replies.append(now)
            now = []
    assert [tokenizer.decode(reply) for reply in replies] == ["<think>hm</think>a<|im_end|>b", "c", ""]
    assert all(reply[-1] == 2 for reply in replies) and replies[0][0] == 3 and replies[0].count(2) == 1
    assert tokenizer.decode([*row.context, *tokens]) == (
        "<|im_start|>user\ngo <|im_end|> <think><|im_end|>\n<|im_start|>assistant\n<think>hm</think>a<|im_end|>b<|im_end|>\n"
        "<|im_start|>tool\none<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"
        f"<|im_start|>user\n{'x' * 50}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(row.context).count(2) == 1, "the user's spelling of it is text"
    assert row.completion.tempered.sum() == 0 and row.advantage == 1


def test_a_tool_is_cut_as_in_a_rollout_and_a_user_is_not(tiny_qwen3):
    tokenizer = Tokenizer(tiny_qwen3, {})
    long = "z" * 50
    messages = conversation(("user", "go"), ("assistant", "a"), ("tool", long), ("user", long), ("assistant", "b"))
    text = tokenizer.decode(demonstrations.to_row(tokenizer, messages, 10).completion.tokens)
    assert text.count("z") == 60 and "(The rest is cut off.)" in text


def test_a_player_converses_with_the_tasks_own_environment():
    """Replies of 5 characters are sums, of 4 the end; a problem that the player declines is left out."""
    config = base.get_config()
    config.task.num_validation = 2
    task = calculator_task(Calculator())(config.task, 0, config.tools)
    declined = task.train[1].id

    def player(problem, messages):
        if problem.id == declined:
            return None
        return "1 + 2" if messages[-1].role == "user" else "done"

    played = list(demonstrations.play(task, task.train[:3], Genome("document", document="Add."), "system", player))
    assert len(played) == 2
    assert [(turn.role, turn.content) for turn in played[0]] == [
        ("system", "Add."), ("user", f"{task.train[0].question} You may use a calculator."), ("assistant", "1 + 2"),
        ("tool", "The sum is 3."), ("assistant", "done"),
    ]  # fmt: skip
    assert Demonstration(played[0]).id != Demonstration(played[1]).id
