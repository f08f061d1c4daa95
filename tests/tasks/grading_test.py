"""Grading processes: hostile answers cost a moment and score 0; all others get their true grade, in order."""

import os
import subprocess
import sys
import threading
import time

import pytest

from espl_jax.structs import Grade, Problem
from espl_jax.tasks import grading
from espl_jax.tasks.grading import GradingPool, Inline, Once, grade_all
from tests.tasks import verifiers

PROBLEMS = [Problem(f"id{n}", f"q{n}", str(n)) for n in range(8)]
NOTES = {
    "spin": "timeout after 2 s",
    "count": "timeout after 2 s",
    "exit": "worker died",
    "allocate": "out of memory",
    "quit": "grader failed: SystemExit",
    "deep": "grader failed: RecursionError",
    "system": "an answer may not use os.system",
    "write": "an answer may not use open",
}


@pytest.fixture(scope="module")
def pool():
    pool = GradingPool(verifiers.obedient, workers=2, timeout=2.0)
    yield pool
    pool.close()


def running(pool) -> list[int]:
    return sorted(worker.process.pid for worker in pool._workers)


def test_hostile_answers_score_zero_and_the_others_what_they_are_worth(pool):
    pairs = [(PROBLEMS[n % 8], str(n % 8) if n % 3 else "wrong") for n in range(40)]
    for place, reply in enumerate(NOTES):
        pairs.insert(5 * place, (PROBLEMS[0], reply))
    grade_all(pool, pairs[1:2])  # the first worker's start is not timed
    started = time.monotonic()
    grades = grade_all(pool, pairs)
    assert time.monotonic() - started < 20
    assert [grade.extracted if grade.note == "" else None for grade in grades] == [
        None if reply in NOTES else reply for _, reply in pairs
    ]
    assert [grade.score for grade in grades] == [float(reply == problem.answer) for problem, reply in pairs]
    for (_, reply), grade in zip(pairs, grades, strict=True):
        assert NOTES.get(reply, "") in grade.note


def test_time_counts_from_the_start_of_an_answer(pool):
    """Six answers of one second each, two at a time, with 2 s an answer: none is late."""
    assert [grade.score for grade in grade_all(pool, [(problem, "sleep") for problem in PROBLEMS[:6]])] == [1.0] * 6


def test_workers_are_kept_and_equal_answers_graded_once(pool):
    grade_all(pool, [(problem, "x") for problem in PROBLEMS])
    before = running(pool)
    started = time.monotonic()
    grades = grade_all(pool, [(PROBLEMS[0], "sleep")] * 50)
    assert time.monotonic() - started < 2.0
    assert len(grades) == 50 and {grade.score for grade in grades} == {1.0}
    assert running(pool) == before


def test_grades_come_one_by_one_while_others_are_waited_for(pool):
    grade_all(pool, [(problem, "x") for problem in PROBLEMS])
    slow = pool.submit(PROBLEMS[0], "sleep")
    quick = [pool.submit(problem, problem.answer) for problem in PROBLEMS]
    assert [future.result(timeout=5).score for future in quick] == [1.0] * 8
    assert not slow.done()
    assert slow.result(timeout=5).score == 1.0


def test_many_threads_may_submit(pool):
    futures, threads = {}, []
    for n in range(8):
        submit = lambda n=n: futures.update({(n, m): pool.submit(PROBLEMS[n], str(m)) for m in range(40)})  # noqa: E731
        threads.append(threading.Thread(target=submit))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert {key for key, future in futures.items() if future.result(timeout=20).score} == {(n, n) for n in range(8)}


def test_output_of_a_verifier_disturbs_nothing(pool):
    assert [grade.score for grade in grade_all(pool, [(PROBLEMS[0], "print"), (PROBLEMS[1], "1")])] == [1.0, 1.0]


def test_an_answer_is_tried_again_when_its_worker_is_killed_from_outside(pool):
    grade_all(pool, [(problem, "x") for problem in PROBLEMS])
    victims = [worker.process for worker in pool._workers]
    timer = threading.Timer(0.3, lambda: [victim.kill() for victim in victims])
    timer.start()
    assert [grade.score for grade in grade_all(pool, [(PROBLEMS[0], "sleep"), (PROBLEMS[1], "1")])] == [1.0, 1.0]


def test_workers_that_died_while_idle_are_replaced(pool):
    grade_all(pool, [(PROBLEMS[0], "x")])
    for worker in pool._workers:
        worker.process.kill()
        worker.process.wait()
    assert grade_all(pool, [(PROBLEMS[2], "2")])[0].score == 1.0


def test_only_the_end_of_a_long_reply_is_graded(pool, monkeypatch):
    monkeypatch.setattr(grading, "REPLY_CHARACTERS", 3)
    assert grade_all(pool, [(PROBLEMS[0], "a long reply")])[0].extracted == "ply"


def test_a_worker_imports_neither_jax_nor_the_tests(pool):
    assert grade_all(pool, [(PROBLEMS[0], "modules")])[0].extracted == "numpy"


def test_nothing_is_started_for_nothing():
    pool = GradingPool(verifiers.obedient, workers=2, timeout=2.0)
    assert grade_all(pool, []) == []
    assert running(pool) == []


def test_close_ends_the_processes_and_may_be_repeated():
    pool = GradingPool(verifiers.obedient, workers=2, timeout=2.0)
    grade_all(pool, [(PROBLEMS[0], "x")])
    (pid,) = running(pool)
    pool.close()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_close_leaves_no_grade_open_and_a_later_answer_starts_anew():
    pool = GradingPool(verifiers.obedient, workers=1, timeout=20.0)
    grade_all(pool, [(PROBLEMS[0], "x")])
    futures = [pool.submit(PROBLEMS[0], "spin"), pool.submit(PROBLEMS[1], "1")]
    pool.close()
    for future in futures:
        with pytest.raises(RuntimeError, match="closed before the answer was graded"):
            future.result(timeout=0)
    assert running(pool) == []
    assert grade_all(pool, [(PROBLEMS[1], "1")])[0].score == 1.0
    pool.close()


def test_a_plain_function_is_a_grader_and_its_errors_are_raised():
    asked = []
    grader = Inline(lambda problem, text: asked.append(text) or Grade(float(problem.answer == text)))
    pairs = [(PROBLEMS[1], "1"), (PROBLEMS[2], "1"), (PROBLEMS[1], "1")]
    assert [grade.score for grade in grade_all(grader, pairs)] == [1.0, 0.0, 1.0]
    assert asked == ["1", "1"]
    with pytest.raises(ZeroDivisionError):
        Once(Inline(lambda problem, text: 1 / 0)).submit(PROBLEMS[0], "x")


@pytest.mark.parametrize("factory, said", [(verifiers.broken, "no module named nothing"), (verifiers.deadly, "ended")])
def test_workers_that_cannot_start_are_an_error(factory, said):
    pool = GradingPool(factory, workers=2, timeout=2.0)
    with pytest.raises(RuntimeError, match=said):
        grade_all(pool, [(PROBLEMS[0], "x")])
    assert running(pool) == []


def test_a_worker_ends_itself_when_nobody_kills_it(monkeypatch):
    """Here the alarm, meant for a parent that is gone, comes before the parent's limit."""
    monkeypatch.setattr(grading, "ORPHAN_SECONDS", -29.5)
    pool = GradingPool(verifiers.obedient, workers=1, timeout=30.0)
    started = time.monotonic()
    assert grade_all(pool, [(PROBLEMS[0], "count")])[0].note == "worker died"
    pool.close()
    assert time.monotonic() - started < 15


PROGRAM = """
import sys
sys.modules["jax"] = None  # a program that has imported it
from espl_jax.structs import Problem
from espl_jax.tasks.grading import GradingPool, grade_all
from tests.tasks import verifiers
pool = GradingPool(verifiers.obedient, 1, 5.0)
raise SystemExit(int(grade_all(pool, [(Problem("i", "q", "3"), "3")])[0].score) + 40)
"""


def test_a_program_without_a_main_guard_may_grade():
    assert subprocess.run([sys.executable, "-c", PROGRAM], check=False, timeout=60).returncode == 41


def test_tasks_do_not_import_jax():
    program = "import sys; import espl_jax.tasks; raise SystemExit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
