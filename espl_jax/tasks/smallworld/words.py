"""Invented words: "temix", "vorak". Half of them are for worlds that runs live in, the other half for demonstrations."""

import hashlib
import random
from collections.abc import Iterator

# A word is a beginning and an end. SmolLM2 reads each of them as one token, whether the word begins a line or follows a
# space, a quotation mark or a bracket. Where that is not so ("gurox" is g-uro-x in one place, gu-rox in another), a small model
# that copies the word from one place to another misspells it.
BEGINNINGS = (
    "bel", "ben", "ber", "bol", "bon", "bor", "dag", "dam", "deb", "def", "del", "dem", "det", "fam", "fel", "fem", "fen",
    "fer", "fet", "fol", "gam", "gar", "gel", "ger", "gon", "kan", "kar", "kel", "ker", "ket", "kil", "kin", "lam", "lan",
    "lav", "lem", "len", "lev", "lig", "lon", "lum", "mel", "mem", "mig", "mol", "mom", "mor", "mun", "mut", "nam", "nan",
    "nar", "nav", "nom", "nov", "ped", "pel", "pol", "por", "rab", "rav", "raz", "reb", "rom", "tel", "tem", "ter", "tor",
    "tum", "tun", "vel", "ven", "ver", "vig", "vit", "viz", "vol", "von", "vor", "zen", "zig", "zip",
)  # fmt: skip
ENDS = "aj", "ak", "av", "az", "ik", "iv", "ix", "iz", "ok", "ov", "uk", "ux"
LETTERS = len({word[0] for word in BEGINNINGS})
OWNERS = ("run", "demonstration")


def owner(word: str) -> str:
    """Who may use a word; a property of the word alone, so that no seed makes a world of a run from a demonstrated word."""
    return OWNERS[hashlib.sha256(f"smallworld/{word}".encode()).digest()[0] % 2]


def words(user: str, rng: random.Random) -> Iterator[str]:
    """Words of one owner, in any order, each once; there are some hundreds."""
    all_words = [begin + end for begin in BEGINNINGS for end in ENDS]
    for word in rng.sample(all_words, len(all_words)):
        if owner(word) == user:
            yield word


def unlike(stream: Iterator[str], count: int) -> list[str]:
    """The first so many of a stream that are not easily taken for each other: no two begin with the same letter.

    Where there are more words than letters, no two of the rest begin with the same two letters.
    """
    found: list[str] = []
    while len(found) < count:
        begin = 1 if len(found) < LETTERS else 2
        word = next(stream)
        if all(word[:begin] != other[:begin] for other in found):
            found.append(word)
    return found
