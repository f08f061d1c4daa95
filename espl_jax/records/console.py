"""What a run shows while it runs: one line a step, and on a terminal a live status below them.

Text that a model wrote is shown as it is: rich markup in it is not interpreted, control characters are escaped.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import rich.console
from absl import logging
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from espl_jax.structs import Genome, Prompt

SPEED = "time/tokens_per_second"
SHOWN = {  # metric -> its short name
    "train/reward": "reward", "validation/pass@1": "validation", "test/pass@1": "test", "sft/loss": "loss",
    "sft/validation_loss": "validation loss",
}  # fmt: skip


class Console:
    """Progress of a run of num_steps steps, of which `done` were done before (resume). A context manager.

    num_steps 0: nobody knows how many, because a budget ends the run.
    """

    def __init__(
        self, num_steps: int, done: int = 0, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """file: where to write, standard output if None. clock: seconds."""
        self._console = rich.console.Console(file=file or sys.stdout, highlight=False, emoji=False, markup=False)
        self._num_steps, self._done, self._clock = num_steps, done, clock
        self._phase, self._phase_start, self._step_start = "starting", clock(), clock()
        self._durations: list[float] = []
        self._live = None
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._status, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Console":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def phase(self, name: str) -> None:
        """Says what the run does now: "sample", "update", ... Not on the terminal: in the log, at level info."""
        self._phase, self._phase_start = name, self._clock()
        logging.info("step %d: %s", self._done + 1, name)

    def step_done(self, step: int, metrics: Mapping[str, float], best: Prompt | None = None) -> None:
        """Writes the line of a step. best: the highest-rated prompt. Step 0 is the evaluation before training."""
        now = self._clock()
        if step > self._done:
            self._durations.append(now - self._step_start)
        self._step_start, self._done = now, step
        facts = [f"{name} {metrics[metric]:.3f}" for metric, name in SHOWN.items() if metric in metrics]
        facts += [f"{metrics[SPEED]:.0f} tokens/s"] if SPEED in metrics else []
        facts += [f"{duration(self.seconds_left())} left"] if self._durations and step < self._num_steps else []
        facts += [described(best)] if best is not None else []
        self._write("  ".join([f"step {self._of(step)}", *facts]))

    def _of(self, step: int) -> str:
        return f"{step}/{self._num_steps}" if self._num_steps else str(step)

    def seconds_left(self) -> float:
        """Remaining steps times the median step; the first, which compiles, counts only while it is alone."""
        usual = self._durations[1:] or self._durations
        return statistics.median(usual) * (self._num_steps - self._done) if usual else 0.0

    def finish(
        self, first: Mapping[str, float], last: Mapping[str, float], best_prompt_text: str | None, seconds: float
    ) -> None:
        """A table of every pass@1 before and after, and the best prompt, if there is one; ends the live display."""
        self.__exit__()
        names = [name for name in dict.fromkeys((*first, *last)) if name.endswith("pass@1")]
        self._write(f"{self._done} steps in {duration(seconds)}")  # fewer than num_steps where a budget ended it
        if names:
            self._console.print(_table(names, first, last))
        if best_prompt_text is not None:
            self._write("best prompt:")
            self._write(best_prompt_text or "(empty: no principles)")

    def _write(self, text: str) -> None:
        self._console.print(Text(visible(text, self._console.encoding)), soft_wrap=True)

    def _status(self) -> Text:
        """The live line: how far, what now, since when."""
        elapsed = duration(self._clock() - self._phase_start)
        facts = [self._of(self._done), f"{self._phase} {elapsed}"]
        if self._num_steps:
            facts.insert(0, f"[{'#' * (24 * self._done // self._num_steps):.<24}]")
            facts += [f"{duration(self.seconds_left())} left"] if self._durations else []
        line = "  ".join(facts)
        return Text(visible(line, self._console.encoding), no_wrap=True, overflow="ellipsis")


def visible(text: str, encoding: str = "utf-8") -> str:
    """The text with control characters, and what the encoding lacks, as backslash escapes; newlines stay."""
    shown = "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode(encoding, errors="backslashreplace").decode(encoding)


def described(prompt: Prompt, words: int = 8) -> str:
    """A prompt in a few words: best #3 (25.1 ± 7.2) "Check the sign of ..."."""
    found = first_text(prompt.genome).split()
    text = " ".join(found[:words]) + (" ..." if len(found) > words else "")
    return f'best #{prompt.id} ({prompt.rating.mu:.1f} ± {prompt.rating.sigma:.1f}) "{text}"'


def first_text(genome: Genome) -> str:
    """The document, or the first principle; "" when there is none."""
    return genome.document or next(iter(genome.principles), "")


def duration(seconds: float) -> str:
    """Seconds as 1:02:03, 2:03 or 3 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _table(names: list[str], first: Mapping[str, float], last: Mapping[str, float]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right")
    for name in names:
        both = name in first and name in last
        change = f"{100 * (last[name] - first[name]):+.1f}" if both else "-"
        table.add_row(Text(name), _percent(first, name), _percent(last, name), change)
    return table


def _percent(metrics: Mapping[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.1f}%" if name in metrics else "-"
