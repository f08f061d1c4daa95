"""Invented words: whose they are, and how the embedded model's tokenizer cuts them."""

import random

import pytest
from tokenizers import Tokenizer

from espl_jax.tasks.smallworld.words import OWNERS, owner, words

# Where a word stands in a chat: begins a line, a JSON string or a bracket, or follows a space; and what follows it.
PLACES = ("\n{}: take", '"{}: take', "(7 {} 4)", "2 {} (3", "is {}.", "G0 {}, G1", "({} 4)")
BLANKS = str.maketrans("", "", "ĠĊ")


@pytest.fixture(scope="module")
def cut(embedded_directory):
    """text -> its tokens, without the marks for blanks."""
    tokenizer = Tokenizer.from_file(str(embedded_directory / "tokenizer.json"))
    return lambda text: [token.translate(BLANKS) for token in tokenizer.encode(text, add_special_tokens=False).tokens]


def has_run(tokens, wanted):
    return any(tuple(tokens[i : i + len(wanted)]) == wanted for i in range(len(tokens)))


@pytest.mark.parametrize("user", OWNERS)
def test_the_tokenizer_cuts_a_word_in_the_same_two_pieces_wherever_it_stands(user, cut):
    for word in words(user, random.Random(0)):
        pieces = word[:3], word[3:]
        assert all(has_run(cut(place.format(word)), pieces) for place in PLACES), word
    assert not has_run(cut("(7 gurox 4)"), tuple(cut("\ngurox: take")[1:-2]))  # a word that it does not


def test_each_word_belongs_to_one_and_comes_once():
    found = {user: list(words(user, random.Random(7))) for user in OWNERS}
    assert all({owner(word) for word in mine} == {user} and len(set(mine)) == len(mine) > 400 for user, mine in found.items())
    assert not set(found["run"]) & set(found["demonstration"])
    again, other = (list(words("run", random.Random(seed))) for seed in (7, 8))
    assert again == found["run"] != other and sorted(again) == sorted(other)
