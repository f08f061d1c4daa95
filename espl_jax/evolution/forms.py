"""The two forms in which an editor may be asked for edits.

json: a list of operations (of a document: search/replace blocks), for models that can write it. sentence: one line of advice,
begun for the model and ended at the line's end, for models that cannot (SmolLM2-135M-Instruct wrote 2 parseable JSON lists in
24 replies); the line is a new principle, or the wording into which several are merged, or a hint of a document (hints.py).
Whose words they are is the same in both.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from espl_jax.evolution import hints
from espl_jax.evolution.apply import clean
from espl_jax.evolution.edits import CUT_OFF, parse_edits, strip_thinking
from espl_jax.evolution.render import bulleted, fill, guidance, placeholders
from espl_jax.evolution.words import count_words
from espl_jax.structs import Chat, Genome, Message, Operation

ADVICE = "Advice:"
MIN_WORDS = 3  # of a sentence; less is an empty line, or the label of a principle ("G2")
_NO_WORD = re.compile(r"\bG\d+\b|[^\w\s]")  # labels and punctuation
# (reply text, allowed ops, finish, ids that a merge would be of) -> operations, error
Parser = Callable[[str, Sequence[str], str, tuple[int, ...]], tuple[tuple[Operation, ...], str]]


def parse_sentence(
    text: str, allowed_ops: Sequence[str], finish: str, targets: tuple[int, ...]
) -> tuple[tuple[Operation, ...], str]:
    """The first line behind "Advice:" as one operation: a merge of `targets` if there are any, else an addition."""
    if finish == "length":
        return (), CUT_OFF
    lines = strip_thinking(text).rpartition(ADVICE)[2].strip().splitlines()
    advice = clean(lines[0]).strip("\"'*_ ") if lines else ""
    if count_words(_NO_WORD.sub(" ", advice)) < MIN_WORDS:
        return (), f"the advice {advice!r} has fewer than {MIN_WORDS} words"
    return (Operation("merge" if targets else "add", targets, advice),), ""


@dataclass(frozen=True)
class Form:
    """How edits are asked for and read. suffix: of the templates' names; reply_prefix, stop: of the chats.

    document: what of a document the editor is shown.
    """

    suffix: str
    reply_prefix: str
    stop: str
    parse: Parser
    document: Callable[[Genome], str]


FORMS = {
    "json": Form("", "", "", lambda text, allowed_ops, finish, targets: parse_edits(text, allowed_ops, finish), guidance),
    "sentence": Form("_sentence", ADVICE, "\n", parse_sentence, hints.listed),
}


def edit_chat(chat_id: str, name: str, config, **values: str) -> Chat:
    """The chat that asks for edits with template `name` in the config's form; values without a place are left out."""
    form = FORMS[config.edit_form]
    return Chat(chat_id, (Message("user", form_text(name, config, **values)),), form.reply_prefix, form.stop)


def shown(genome: Genome, config) -> str:
    """What an editor reads of a genome that it must not refer to by id."""
    return FORMS[config.edit_form].document(genome) if genome.kind == "document" else bulleted(genome)


def form_text(name: str, config, **values: str) -> str:
    """Template `name` in the form of `config`, filled."""
    name += FORMS[config.edit_form].suffix
    return fill(name, **{key: value for key, value in values.items() if key in placeholders(name)})
