"""The table of the grammar's benchmark, on replies written by hand."""

from types import SimpleNamespace

from benchmarks import grammar
from espl_jax.evolution.guards import Library
from espl_jax.evolution.reflection import edit_call
from espl_jax.structs import Chat, Message, Reply
from tests.evolution.scripted import problem

SUM = problem("7 + 5", "12")


def call(text: str, finish: str = "stop"):
    config = grammar.settings(4, "json").evolution
    reply = Reply("mutation/critique/x", text, finish, 50, 10)
    return edit_call("critique", Chat(reply.id, (Message("user", "?"),)), reply, ("add", "modify"), config, SUM.id)


def test_each_reply_is_judged_by_itself_and_counted():
    add = '{"op": "add", "principle": "Carry the tens."}'
    calls = [
        call(f"[{add}]"), call(f"[{add}]"),  # the same twice: each would stand by itself
        call('[{"op": "add", "principle": "7 + 5 = 12"}, {"op": "modify", "id": "G0", "principle": "Read it twice, slowly."}]'),
        call(f"[{add}, {add[:-2]} or hundreds.\"}}, {add[:-2]} or more.\"}}]"),  # the third is beyond the limit
        call("[]"), call("no idea"), call(f"[{add}", "length"),
    ]  # fmt: skip
    bench = SimpleNamespace(rollouts=SimpleNamespace(problems=(SUM,)), library=Library([SUM]))
    config = grammar.settings(4, "json")
    edits = [grammar.Bench.judged(bench, one, config) for one in calls]
    fates = [[edit["fate"] for edit in reply] for reply in edits]
    assert fates[:2] == [["applied"]] * 2 and fates[4:] == [[], [], []]
    assert fates[2][0].startswith("gives away") and fates[2][1] == "applied"
    assert fates[3] == ["applied", "applied", "beyond the limit of 2 edits a reply"]
    assert grammar.row("json", calls, edits, 2.6) == ("json", "7", "5", "4", "7", "5 (71%)", "10", "3")
    assert len(grammar.HEADER) == 8
