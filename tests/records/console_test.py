"""The console: plain lines off the terminal, a live line on it, and text from models shown as it is."""

import io

import pytest

from espl_jax.records.console import Console, described, duration, visible
from espl_jax.structs import Genome, Prompt, Rating


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def prompt(text):
    return Prompt(3, Genome("principles", (text, "second")), Rating(25.04, 7.26), (0,), "mutation", 2)


def run(file, text="Check [bold]signs[/bold] of [G0] :smile: \x1b[2J first"):
    clock = Clock()
    with Console(4, done=0, file=file, clock=clock) as console:
        console.step_done(0, {"validation/pass@1": 0.25})
        for step, seconds in enumerate((50, 10, 10, 30), start=1):
            console.phase("sample")
            clock.now += seconds
            console.step_done(step, {"train/reward": step / 8, "time/tokens_per_second": 321.4}, prompt(text))
        first = {"validation/pass@1": 0.25, "validation_no_prompt/pass@1": 0.2, "validation/pass@4": 0.9}
        console.finish(first, {"validation/pass@1": 0.5, "test/pass@1": 0.125}, text + "\nline two", 3723)
    return file.getvalue() if isinstance(file, io.StringIO) else ""


def test_plain_lines_when_it_is_no_terminal(capsys):
    lines = run(io.StringIO()).splitlines()
    assert lines[0] == "step 0/4  validation 0.250"
    assert lines[1].startswith("step 1/4  reward 0.125  321 tokens/s  2:30 left  best #3 (25.0 ± 7.3)")
    assert "20 s left" in lines[2], "the first step, which compiles, must not count once there are others"
    assert " left" not in lines[4]
    assert "\x1b" not in "".join(lines) and capsys.readouterr().out == ""
    assert lines[5] == "4 steps in 1:02:03"


def test_a_run_that_a_budget_ends_has_no_number_of_steps_and_no_time_left():
    clock, file, terminal = Clock(), io.StringIO(), Terminal()
    for written in (file, terminal):
        with Console(0, file=written, clock=clock) as console:
            for step in (1, 2):
                clock.now += 10
                console.step_done(step, {"train/reward": 0.5})
            console.phase("sample")
            assert str(console._status()) == "2  sample 0 s"
    assert file.getvalue().splitlines() == ["step 1  reward 0.500", "step 2  reward 0.500"]


def test_a_long_line_is_one_line():
    output = run(io.StringIO(), text="word " * 200 + "end")
    assert sum(line.startswith("step 2/4") for line in output.splitlines()) == 1
    assert "word " * 200 + "end" in output


def test_text_of_a_model_is_shown_as_it_is():
    output = run(io.StringIO())
    assert '"Check [bold]signs[/bold] of [G0] :smile: \\x1b[2J first"' in output
    assert "Check [bold]signs[/bold] of [G0] :smile: \\x1b[2J first\nline two" in output


def test_the_table_shows_every_pass_at_1_before_and_after():
    rows = {line.split()[0]: line.split()[1:] for line in run(io.StringIO()).splitlines() if "pass@" in line}
    assert rows == {
        "validation/pass@1": ["25.0%", "50.0%", "+25.0"],
        "validation_no_prompt/pass@1": ["20.0%", "-", "-"],
        "test/pass@1": ["-", "12.5%", "-"],
    }


def test_without_evaluation_there_is_no_table():
    file = io.StringIO()
    Console(2, done=2, file=file).finish({}, {}, "", 2.2)
    assert file.getvalue().splitlines() == ["2 steps in 2 s", "best prompt:", "(empty: no principles)"]


def test_a_terminal_has_a_live_line_with_the_phase(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    output = run(Terminal())
    assert "step 2/4" in output and "\x1b[" in output
    assert "\x1b[2J" not in output, "a model's text must not clear the screen"


def test_the_live_line_after_a_step(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    console = Console(4, file=Terminal(), clock=clock)
    clock.now += 61
    console.step_done(1, {})
    console.phase("update [x]")
    clock.now += 5
    assert console._status().plain == "[######..................]  1/4  update [x] 5 s  3:03 left"


def test_a_narrow_encoding_does_not_break_the_run():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    run(file, text="π ± 1")
    assert b"\\u03c0 \\xb1 1" in raw.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (125, "2:05"), (3599.7, "1:00:00"), (90061, "25:01:01")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_prompt_in_a_few_words():
    assert described(prompt("a b c d e f g h i")) == 'best #3 (25.0 ± 7.3) "a b c d e f g h ..."'
    document = Prompt(0, Genome("document", document="one\ntwo"), Rating(25, 8), (), "root", 0)
    assert described(document).endswith('"one two"')
    assert described(prompt("")).endswith('""')


def test_control_characters_are_escaped():
    assert visible("a\x07\tb\u202e\nc é") == "a\\x07\\tb\\u202e\nc é"
