"""Attribution of a tiny run: prompts that say the same fare the same, sums come out, records alone need no model."""

import json
from unittest import mock

import pytest

from espl_jax import tasks
from espl_jax.attribution import pages, study
from espl_jax.attribution.study import NONE, UNTRAINED
from espl_jax.finished import FinishedError
from tests import tiny_run

CHANGES = {"num_steps": 2, "records.keep_last": 3, "evaluation.every": 0, "seed": 1}


@pytest.fixture(scope="module")
def workdir(tiny_qwen3, tmp_path_factory):
    root = tmp_path_factory.mktemp("attribution") / "root.txt"
    root.write_text("Count the letters.\nAdd one more.\n", encoding="utf-8")
    path = root.parent / "run"
    tiny_run.run(tiny_qwen3, path, **CHANGES | {"evolution.root": str(root), "evolution.mutation_probability": 0.0})
    return path


@pytest.fixture(scope="module")
def found(workdir):
    with mock.patch.dict(tasks.TASKS, parity=tiny_run.parity_task):
        return study.attribute(workdir, "0", samples=3, step=None)


def test_the_matrix_has_every_kept_checkpoint_and_the_untrained_weights(found):
    assert set(found.matrix) == {UNTRAINED, "step 0", "step 1", "step 2"}
    for row in found.matrix.values():
        assert {"0", NONE} <= set(row) and len(row) <= 4


def test_the_first_checkpoint_fares_as_the_untrained_weights_do(found):
    """Its adapter adds nothing yet: the same tokens, drawn with the same random numbers, and so the same rewards."""
    assert found.matrix["step 0"] == found.matrix[UNTRAINED]


def test_the_two_parts_of_the_gain_add_up(found):
    moved = found.moved
    assert moved.weights.difference.mean + moved.prompt.difference.mean == pytest.approx(moved.total.difference.mean)
    assert moved.end - moved.start == pytest.approx(moved.total.difference.mean)
    assert moved.start == found.matrix[UNTRAINED][NONE].mean and moved.end == found.whole.mean


def test_every_principle_is_left_out_once(found):
    assert [(part.name, part.text) for part in found.parts] == [("G0", "Count the letters."), ("G1", "Add one more.")]
    for part in found.parts:
        assert part.effect.difference.mean == pytest.approx(found.whole.mean - part.without)
    assert found.measured == (3, 4)


def test_the_page_and_the_file_have_the_figures(found, workdir):
    written = pages.write(found, workdir)
    saved = json.loads(written[0].read_text(encoding="utf-8"))
    assert saved["matrix"]["step 2"]["0"]["mean"] == found.whole.mean
    page = written[1].read_text(encoding="utf-8")
    for name in ("moved", "matrix", "parts", "calibration"):
        assert f'<section id="{name}">' in page
    assert "Count the letters." in page


def test_the_records_alone_need_no_model(workdir):
    with mock.patch.object(study.finished, "load", side_effect=AssertionError("a model was loaded")):
        found = study.attribute(workdir, "best", samples=0, step=None)
    assert (found.measured, found.parts, found.moved, found.whole) == ((0, 0), (), None, None)
    assert '<section id="moved">' not in pages.html(found)


def test_an_unknown_prompt_is_refused_before_a_model_is_loaded(workdir):
    with pytest.raises(FinishedError, match="the prompt is '99'"):
        study.attribute(workdir, "99", samples=1, step=None)
