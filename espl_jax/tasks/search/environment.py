"""A conversation in which the model searches before it answers.

    user       a question
    assistant  ... <tool_call>{"name": "search", "arguments": {"query_list": [...]}}</tool_call>
    tool       Doc 1 (Title): text ...                        one turn a call; a malformed call is told what is wrong with it
    assistant  ... Answer: ...                                ends it

A reply that calls is not read for an answer, so that guessing along with a search gains nothing. One that neither calls nor
answers is reminded of both. Whatever comes from outside becomes one line of printable text a passage, of bounded length.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from espl_jax.structs import Ended, Grade, Message, Problem
from espl_jax.tasks.search.calls import CLOSING, OPENING, Call, one_line, read_calls
from espl_jax.tasks.search.passages import Passage, Retriever, RetrieverError
from espl_jax.tasks.search.reward import golden_answers, matches, read_answer, score

REMINDER = f'Please search with {OPENING}...{CLOSING}, or write the final answer on a line that begins with "Answer:".'
MAX_TITLE_CHARACTERS, MAX_TEXT_CHARACTERS = 200, 8000  # of a passage, at the most that is looked at


class SearchEnvironment:
    """An Environment around a Retriever, which it owns; also the Grader of a reply that is a whole conversation.

    topk: passages a query gives. max_calls: of a conversation, malformed ones counted. penalty: what breaking the form costs.
    """

    def __init__(self, retriever: Retriever, topk: int, max_calls: int, penalty: float, question_suffix: str):
        self.retriever, self.topk, self.max_calls = retriever, topk, max_calls
        self.penalty, self.question_suffix = penalty, question_suffix

    # -- Environment -----------------------------------------------------------------------------------------------------

    def reset(self, problem: Problem) -> tuple[Message, ...]:
        """The question."""
        return (Message("user", problem.question + self.question_suffix),)

    def step(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...] | Ended:
        """What each call of the last reply finds, or the end, or a reminder."""
        reply = messages[-1].content
        calls = read_calls(reply)
        if not calls:
            return Ended(self.grade(problem, messages)) if read_answer(reply) else (Message("user", REMINDER),)
        if len(calls_of(messages)) > self.max_calls:
            return Ended(self.grade(problem, messages, "no call was left"), "calls")
        return tuple(Message("tool", self.result(call)) for call in calls)

    def cut(self, problem: Problem, messages: tuple[Message, ...], finish: str) -> Grade:
        """The last reply may have come as far as its answer."""
        return self.grade(problem, messages, f"cut off by the budget of {'turns' if finish == 'turns' else 'tokens'}")

    def metrics(self, messages: tuple[Message, ...]) -> Mapping[str, float]:
        """calls: their number; calls_well_formed: the share of them; answered: whether the last reply has an answer."""
        calls = calls_of(messages)
        counts = {"calls": float(len(calls)), "answered": float(bool(answer_of(messages)))}
        if calls:
            counts["calls_well_formed"] = sum(not call.error for call in calls) / len(calls)
        return counts

    # -- Grader ----------------------------------------------------------------------------------------------------------

    def submit(self, problem: Problem, text: str) -> Future[Grade]:
        """The grade of a reply to the question, already there."""
        future: Future[Grade] = Future()
        future.set_result(self.grade(problem, (*self.reset(problem), Message("assistant", text))))
        return future

    def close(self) -> None:
        """Closes the retriever."""
        self.retriever.close()

    # --------------------------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, messages: tuple[Message, ...], why: str = "") -> Grade:
        """The grade of a conversation that is over. why: it is, if not for its answer."""
        answer = answer_of(messages)
        if not answer:
            return Grade(0.0, note=f"no answer line, {why}" if why else "no answer line")
        well_formed = not any(call.error for call in calls_of(messages))
        return Grade(score(matches(answer, golden_answers(problem)), well_formed, self.penalty), answer)

    def result(self, call: Call) -> str:
        """What the model reads in answer to a call."""
        if call.error:
            return f"Error: {call.error}"
        try:
            found = self.retriever.search(call.queries, self.topk)
        except RetrieverError as error:
            return f"Error: the search failed ({one_line(str(error)[:300])}). Try again, or answer without it."
        return as_text(call.queries, found)


def calls_of(messages: Sequence[Message]) -> list[Call]:
    """All calls of a conversation."""
    return [call for message in messages if message.role == "assistant" for call in read_calls(message.content)]


def answer_of(messages: Sequence[Message]) -> str:
    """The answer that the last reply gives; "" if it gives none, or calls."""
    reply = messages[-1]
    return "" if reply.role != "assistant" or read_calls(reply.content) else read_answer(reply.content)


def as_text(queries: Sequence[str], found: Sequence[Sequence[Passage]]) -> str:
    """Passages as the model reads them, under their query where there are several."""
    blocks = ["\n".join(doc(n, one) for n, one in enumerate(passages, 1)) or "No passage was found." for passages in found]
    if len(queries) == 1:
        return blocks[0]
    return "\n\n".join(f"{query}:\n{block}" for query, block in zip(queries, blocks, strict=True))


def doc(number: int, passage: Passage) -> str:
    """A passage on one line."""
    title, text = one_line(passage.title[:MAX_TITLE_CHARACTERS]), one_line(passage.text[:MAX_TEXT_CHARACTERS])
    return f"Doc {number} ({title}): {text}" if title else f"Doc {number}: {text}"
