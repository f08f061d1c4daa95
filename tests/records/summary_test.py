"""What a step's metrics say of its conversations, by hand."""

from types import SimpleNamespace

from espl_jax.records.summary import conversation_metrics


def test_counts_of_conversations_are_means_over_those_that_have_them():
    counts = {"a": {"calls": 2.0, "calls_well_formed": 0.5}, "b": {"calls": 0.0}, "c": {"calls": 1.0, "calls_well_formed": 1.0}}
    rollouts = SimpleNamespace(conversations=("a", "b", "c"))
    assert conversation_metrics(rollouts, SimpleNamespace(metrics=counts.get), "test") == {
        "test/calls": 1.0, "test/calls_well_formed": 0.75,
    }  # fmt: skip
    assert conversation_metrics(SimpleNamespace(conversations=None), None, "test") == {}
