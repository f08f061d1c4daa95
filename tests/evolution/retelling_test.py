from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.retelling import fair, retell
from espl_jax.evolution.words import count_words, head
from espl_jax.structs import Message

CALL = '<tool_call>{"name": "search", "arguments": {"query_list": ["capital of Peru", "Lima"]}}</tool_call>'
DOCS = (
    "Doc 1 (Peru (country)): Peru is a country in South America. The capital of Peru is Lima. It is old.\n"
    "Doc 2 (Lima): Lima is a city.\nDoc 3: Untold."
)
QUESTION = Message("user", "What is the capital of Peru?")


def said(text: str) -> Message:
    return Message("assistant", text)


SEARCHED = (QUESTION, said(f"I search for it.\n{CALL}"), Message("tool", DOCS), said("It says so.\nAnswer: Lima"))


def test_calls_and_results_are_a_line_each():
    assert retell(SEARCHED, 1000) == (
        "I search for it.\n"
        "[calls search: capital of Peru; Lima]\n"
        "[3 results: Peru (country) (Peru is a country in South America. The capital of Peru …), Lima (Lima is a city.), "
        "untitled (Untold.)]\n"
        "It says so.\nAnswer: Lima"
    )


def test_errors_reminders_and_malformed_calls_are_told():
    turns = (
        QUESTION, said('<tool_call>{"name": "search"'), Message("tool", "Error: The call is no valid JSON."),
        said("Hm."), Message("user", "Please search."), said(f"<think>well</think>Again: {CALL.replace('search', 'find')} ok"),
    )  # fmt: skip
    assert retell(turns, 1000) == (
        '[malformed call: {"name": "search"]\n[tool: Error: The call is no valid JSON.]\nHm.\n[told: Please search.]\n'
        "Again:\n[calls find: capital of Peru; Lima]\nok"
    )


def test_more_results_than_are_shown_are_counted():
    turns = (QUESTION, said(CALL), Message("tool", "\n".join(f"Doc {n} (T{n}): x" for n in range(1, 9))), said("Answer: x"))
    assert "[8 results: T1 (x), T2 (x), T3 (x), T4 (x), T5 (x), 3 more]" in retell(turns, 1000)


def test_the_longest_pieces_are_shortened_first_and_the_last_reply_stays_whole():
    turns = (QUESTION, said("one " * 50 + CALL), Message("tool", "nothing"), said("Answer: Lima"))
    # 2 words for the answer, 6 and 2 for call and result: 10 of 20 are left for what was said
    assert retell(turns, 20) == "one " * 9 + "…\n[calls search: capital of Peru; Lima]\n[tool: nothing]\nAnswer: Lima"
    assert retell(turns, 2) == "Answer: Lima"


def test_a_last_reply_beyond_the_limit_keeps_its_end():
    told = retell((QUESTION, said("one " * 50 + "Answer: Lima")), 6)
    assert told.startswith("one one one\n[...") and told.endswith("one Answer: Lima")


def test_without_a_reply_nothing_is_told():
    assert retell((QUESTION,), 5) == "" == retell((), 5)


def test_shares_are_fair():
    assert fair([10, 1, 10], 11) == 5 and fair([1, 2], 9) == 2 and fair([], 5) == 0 and fair([3, 3], 0) == 0


turns = st.lists(
    st.tuples(
        st.sampled_from(["assistant", "tool", "user"]),
        st.one_of(st.sampled_from([CALL, DOCS, "<tool_call>", "<tool_call>[[]]</tool_call>", "<think>"]), st.text(max_size=30)),
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(turns, st.integers(1, 40))
def test_whatever_was_said_the_retelling_is_bounded(pairs, limit):
    told = retell([QUESTION, *(Message(role, text * 3) for role, text in pairs)], limit)
    assert count_words(told) <= limit + 10  # the note of what is left out of a last reply has 6


@given(st.text("ab \n一二", max_size=60), st.integers(0, 20))
def test_a_beginning_has_so_many_words(text, count):
    begun = head(text, count)
    assert begun == text if count_words(text) <= count else count_words(begun) == count
