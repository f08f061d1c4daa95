"""Talking to a tiny run: turns, prompts, commands and mistakes."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from espl_jax import chat, finished
from espl_jax.evolution.render import layout_messages
from espl_jax.structs import Genome
from tests import tiny_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workdir(tiny_qwen3, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "one"
    tiny_run.run(tiny_qwen3, workdir, num_steps=1, **{"evaluation.every": 0})
    return workdir


@pytest.fixture(scope="module")
def partner(workdir) -> chat.Partner:
    return chat.start(str(workdir), "0", None)[0]


def talk(partner, *lines: str) -> tuple[list[str], str, bool]:
    out, notes = io.StringIO(), io.StringIO()
    well = chat.converse(partner, finished.choose(partner.run, "0"), lines, out, notes)
    return out.getvalue().removesuffix("\n").split("\n"), notes.getvalue(), well


def test_a_conversation_goes_on_and_is_the_same_each_time(partner):
    first, _, well = talk(partner, "Add 1 and 2.\n", "", "And 3?")
    assert well and talk(partner, "Add 1 and 2.", "And 3?")[0] == first
    opened = chat.Talk(finished.choose(partner.run, "0"))
    one, reply = partner.answer(opened, "Add 1 and 2.")
    two, _ = partner.answer(one, "And 3?")
    assert [turn.role for turn in two.turns] == ["user", "assistant", "user", "assistant"] and two.drawn == 2
    assert two.turns[:2] == one.turns and reply.startswith(one.turns[1].content)


def test_the_prompt_opens_the_conversation_once_in_either_layout(partner):
    rules = Genome("principles", ("Be brief.",))
    prompt = finished.choose(partner.run, "none")
    fresh = chat.Talk(chat.dataclasses.replace(prompt, genome=rules))
    for layout in ("system", "user"):
        turns = chat.opened(fresh, "Hi", layout)
        assert turns == layout_messages("Hi", rules, layout)
        later = chat.opened(chat.dataclasses.replace(fresh, turns=turns), "More", layout)
        assert later[:-1] == turns and later[-1].content == "More"


def test_commands_and_mistakes(partner):
    replies, notes, well = talk(partner, "/system", "/prompt none", "/help", "/new", "/prompt 77", "/sing", "/quit", "never")
    assert replies == [""] and not well
    assert "prompt 0:\n(empty)" in notes and f"prompt {finished.NO_PROMPT.id}; a new conversation" in notes
    assert "error: the prompt is '77'; use best" in notes and "error: there is no command /sing; use /system" in notes
    assert notes.count("/new: a new conversation under the same prompt") == 1
    replies, notes, well = talk(partner, "word " * 2000, "Hi")
    assert len(replies) == 1 and not well and "model.max_length" in notes, "a question that is too long is dropped"


def test_questions_through_a_pipe(workdir, partner):
    line = [sys.executable, "-m", "espl_jax.chat", f"--workdir={workdir}", "--prompt=0"]
    done = subprocess.run(line, cwd=ROOT, input="Add 1 and 2.\nAnd 3?\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n".join(talk(partner, "Add 1 and 2.", "And 3?")[0]) + "\n"
    line[-1] = "--prompt=worst"
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: the prompt is 'worst'") and not done.stdout


def test_an_old_configuration_is_completed(partner):
    saved = {"seed": 7, "rl": {"lora_rank": 3, "lora_targets": ["q"]}, "gone": 1, "task": {"lost": 2}}
    config = finished.completed(saved)
    assert (config.seed, config.rl.lora_rank, config.rl.lora_targets) == (7, 3, ("q",))
    assert config.model == tiny_run.base.get_config().model and "gone" not in config and "lost" not in config.task
