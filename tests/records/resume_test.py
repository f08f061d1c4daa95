"""Which config may a resumed run have."""

import pytest

from espl_jax.records import artifacts, resume
from experiments import base


def config(**changes):
    """The base config as JSON with dotted fields changed."""
    changed = base.get_config()
    changed.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return artifacts.config_json(changed)


def test_the_same_config_goes_on_without_a_word():
    assert resume.check_config(config(), config(), 5) == []


def test_a_contradiction_names_every_field_with_both_values():
    with pytest.raises(ValueError) as error:
        resume.check_config(config(), config(rl__learning_rate=1e-3, seed=4, records__keep_last=9), 5)
    message = str(error.value)
    assert "seed was 0 and is now 4" in message and "rl.learning_rate was 4e-05 and is now 0.001" in message
    assert "keep_last" not in message and "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"method": "rl"},
        {"model__path": "elsewhere"},
        {"sampling__temperature": 1.0},
        {"rl__lora_targets": ("q",)},
        {"evolution__window": 3},
        {"task__grading_timeout": 1.0},
        {"evaluation__every": 2},
    ],
)
def test_what_changes_results_is_refused(change):
    with pytest.raises(ValueError, match="another config"):
        resume.check_config(config(), config(**change), 0)


def test_what_only_operates_may_change_silently():
    now = config(records__keep_last=7, records__wandb_project="x", task__grading_workers=9, rl__gap_warning=0.5)
    assert resume.check_config(config(), now, 5) == []


def test_layout_may_change_with_a_note():
    notes = resume.check_config(config(), config(mesh__fsdp=8, rl__micro_batch_tokens=1), 5)
    assert len(notes) == 1 and "mesh.fsdp was 1 and is now 8" in notes[0] and "last bits" in notes[0]


@pytest.mark.parametrize(("num_steps", "done", "fine"), [(100, 60, True), (30, 30, True), (30, 31, False)])
def test_num_steps_may_not_be_less_than_done(num_steps, done, fine):
    if fine:
        assert resume.check_config(config(), config(num_steps=num_steps), done) == []
        return
    with pytest.raises(ValueError, match="num_steps is 30, but this run has done 31 steps"):
        resume.check_config(config(), config(num_steps=num_steps), done)


def test_extending_a_schedule_is_noted():
    notes = resume.check_config(config(rl__schedule="linear"), config(rl__schedule="linear", num_steps=99), 5)
    assert notes == ["num_steps was 60 and is now 99: the linear schedule ends at another step"]


def test_a_field_of_another_version_is_a_difference():
    older = config()
    del older["rl"]["max_grad_norm"]
    with pytest.raises(ValueError, match=r"rl.max_grad_norm was '\(absent\)' and is now 1.0"):
        resume.check_config(older, config(), 5)


def test_every_pattern_names_a_field():
    """A renamed field must not silently become one that may not change."""
    names = list(resume.differences({}, config()))
    for pattern in resume.OPERATIONAL + resume.LAYOUT:
        assert any(resume.fnmatchcase(name, pattern) for name in names), pattern
