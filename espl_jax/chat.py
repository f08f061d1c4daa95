"""Talk to what a run has come to: python -m espl_jax.chat --workdir=DIR [--prompt=best] [--question="..."] [--step=N].

Replies are drawn by our sampler as in evaluation (config.evaluation), under the chosen prompt. A line is a question; lines that
begin with / are commands, which /help lists. Questions may also come through a pipe, one a line: then only replies are written
to standard output. What is drawn depends on the run's seed, the step, the prompt and the number of the turn alone.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import jax
from absl import app, flags, logging

from espl_jax import finished
from espl_jax.evolution.render import layout_messages, render_genome
from espl_jax.finished import Finished, FinishedError
from espl_jax.policy.state import Policy
from espl_jax.rollout import PURPOSES, visible
from espl_jax.structs import Chat, Message, Prompt, Request


@dataclasses.dataclass(frozen=True)
class Talk:
    """A conversation under a prompt: its turns so far, and how many replies were drawn in all."""

    prompt: Prompt
    turns: tuple[Message, ...] = ()
    drawn: int = 0


@dataclasses.dataclass(frozen=True)
class Partner:
    """Who answers."""

    run: Finished
    policy: Policy
    variables: Any

    def answer(self, talk: Talk, question: str) -> tuple[Talk, str]:
        """The conversation with the question and its reply, and the reply. Raises ValueError without room for it."""
        asked = opened(talk, question, self.run.config.evolution.layout)
        evaluation, tokenizer = self.run.config.evaluation, self.policy.tokenizer
        request = Request(
            id="chat",
            tokens=tokenizer.render(Chat("chat", asked)),
            counter=(PURPOSES["chat"], self.run.step, talk.prompt.id, talk.drawn, 0),
            max_new_tokens=evaluation.max_new_tokens,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
        )
        [completion] = self.policy.sampler(self.variables, [request])
        text = tokenizer.decode(visible(self.policy, completion))
        cut = " [cut off: evaluation.max_new_tokens or model.max_length]" if completion.finish == "length" else ""
        return Talk(talk.prompt, (*asked, Message("assistant", text)), talk.drawn + 1), text + cut


def opened(talk: Talk, question: str, layout: str) -> tuple[Message, ...]:
    """The conversation up to the question; the prompt stands in the first one, or before it."""
    if talk.turns:
        return (*talk.turns, Message("user", question))
    return layout_messages(question, talk.prompt.genome, layout)


def show_system(partner: Partner, talk: Talk, argument: str) -> tuple[Talk, str]:
    """/system: what the prompt says"""
    return talk, f"prompt {talk.prompt.id}:\n{render_genome(talk.prompt.genome) or '(empty)'}"


def switch(partner: Partner, talk: Talk, argument: str) -> tuple[Talk, str]:
    """/prompt ID: another prompt (a number, best, newest or none), and a new conversation"""
    prompt = finished.choose(partner.run, argument or "best")
    return Talk(prompt, drawn=talk.drawn), f"prompt {prompt.id}; a new conversation"


def start_again(partner: Partner, talk: Talk, argument: str) -> tuple[Talk, str]:
    """/new: a new conversation under the same prompt"""
    return Talk(talk.prompt, drawn=talk.drawn), "a new conversation"


def show_help(partner: Partner, talk: Talk, argument: str) -> tuple[Talk, str]:
    """/help: these lines"""
    return talk, "\n".join([*(str(command.__doc__) for command in COMMANDS.values()), "/quit: ends"])


Command = Callable[[Partner, Talk, str], tuple[Talk, str]]
COMMANDS: dict[str, Command] = {"/system": show_system, "/prompt": switch, "/new": start_again, "/help": show_help}


def converse(partner: Partner, prompt: Prompt, lines: Iterable[str], out: TextIO, notes: TextIO) -> bool:
    """Answers every line until there are no more, or /quit. Replies go to `out`, everything else to `notes`.

    Returns whether all went well; a mistake is one sentence, and the conversation goes on as if it had not been made.
    """
    talk, well = Talk(prompt), True
    for line in map(str.strip, lines):
        if line == "/quit":
            break
        try:
            talk = respond(partner, talk, line, out, notes)
        except ValueError as error:
            notes.write(f"error: {error}\n")
            well = False
        notes.flush()
    return well


def respond(partner: Partner, talk: Talk, line: str, out: TextIO, notes: TextIO) -> Talk:
    """What one line does."""
    if not line:
        return talk
    if line.startswith("/"):
        name, _, argument = line.partition(" ")
        if name not in COMMANDS:
            raise FinishedError(f"there is no command {name}; use {', '.join(COMMANDS)} or /quit")
        talk, said = COMMANDS[name](partner, talk, argument.strip())
        notes.write(said + "\n")
        return talk
    talk, reply = partner.answer(talk, line)
    out.write(reply + "\n")
    out.flush()
    return talk


def typed() -> Iterator[str]:
    """Lines that a person types, until the end of the input."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def lines_of(question: str) -> Iterable[str]:
    """The question alone, or what is typed or piped in."""
    if question:
        return [question]
    return typed() if sys.stdin.isatty() else sys.stdin


def start(workdir: str, prompt: str, step: int | None) -> tuple[Partner, Prompt]:
    """Opens the run; the cheap refusals come first."""
    run = finished.read(workdir, step)
    chosen = finished.choose(run, prompt)
    # Nothing is trained: no second copy of the weights as a reference.
    policy, trainable = finished.load(run, **{"evolution.editor": "current", "rl.kl_coef": 0.0})
    return Partner(run, policy, policy.variables(trainable)), chosen


def main(argv: list[str]) -> None:
    """Talks; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; a question is asked with --question=")
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    try:
        partner, prompt = start(values.workdir, values.prompt, None if values.step < 0 else values.step)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    sys.stderr.write(f"step {partner.run.step}, prompt {prompt.id}, on {devices}; /help lists commands\n")
    try:
        sys.exit(0 if converse(partner, prompt, lines_of(values.question), sys.stdout, sys.stderr) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory of the run.", required=True)
    flags.DEFINE_string("prompt", "best", "best (highest mu), newest, none or the id of a prompt.")
    flags.DEFINE_string("question", "", "Asks this and ends; '': questions are typed, or read from standard input.")
    flags.DEFINE_integer("step", -1, "Step of the checkpoint; -1: the newest.")
    app.run(main)
