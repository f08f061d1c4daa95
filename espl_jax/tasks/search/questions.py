"""Questions to search for: generated ones over the embedded corpus, and rows in the columns of Search-R1's data.

A generated question asks for a fact of a country (one search), or of the country that a city is in (two: the city's passage
names the country, whose passage has the fact). Countries are dealt to train, validation and test, and cities go with them: no
fact that training rewards is asked for in another split, in whatever words. Some countries are kept apart for demonstrations.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from espl_jax.structs import Problem, text_id
from espl_jax.tasks import sources
from espl_jax.tasks.search.corpus import City, Country, city_facts, country_facts, places
from espl_jax.tasks.splits import Splits, distinct, draw, separate

EMBEDDED = "embedded"  # in place of a source's name
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of the countries
NUM_DEMONSTRATED = 20  # countries that are in no split, whatever the seed: demonstrations.py shows searches about them


@dataclass(frozen=True)
class Relation:
    """What can be asked of a country. field: of Country; query: what finds its passage; phrasings: with {x} for the country."""

    field: str
    query: str
    phrasings: tuple[str, ...]


RELATIONS = (
    Relation("capital", "capital of {x}", (
        "What is the capital of {x}?", "Which city is the capital of {x}?", "Name the capital of {x}.",
    )),
    Relation("currency", "currency of {x}", (
        "What is the currency of {x}?", "Which currency is used in {x}?", "Name the currency of {x}.",
    )),
    Relation("continent", "continent of {x}", (
        "On which continent is {x}?", "What is the continent of {x}?", "Name the continent of {x}.",
    )),
    Relation("language", "main language of {x}", (
        "What is the main language of {x}?", "Which language is the main language in {x}?", "Name the main language of {x}.",
    )),
    Relation("calling_code", "calling code of {x}", (
        "What is the calling code of {x}?", "Which calling code does {x} have?", "Name the calling code of {x}.",
    )),
    Relation("domain", "internet domain of {x}", (
        "What is the internet domain of {x}?", "Which internet domain does {x} have?", "Name the internet domain of {x}.",
    )),
)  # fmt: skip
COUNTRY_OF_CAPITAL = (
    "Of which country is {x} the capital?", "Which country has the capital {x}?", "{x} is the capital of which country?",
)  # fmt: skip
COUNTRY_OF_CITY = ("In which country is {x}?", "Which country is {x} in?", "{x} is a city in which country?")
WITH_CITY = ("the country where {x} is", "the country that {x} is in", "the country with the city {x}")


def load(config: ConfigDict, seed: int) -> Splits:
    """The splits of config.train, which is "embedded", a source or a file; see sources.load_splits for the latter two.

    There, without config.test, num_test problems (0: none) are held out from train, as validation is. Raises ValueError in one
    sentence for what cannot be had.
    """
    if config.train == EMBEDDED:
        return embedded(config, seed)
    if config.test or not config.num_test:
        return sources.load_splits(config, seed)
    train = sources.load("task.train", config.train, seed)
    test = draw("task.num_test", train, config.num_test, seed, "test")
    validation = sources.load("task.validation", config.validation, seed) if config.validation else None
    sizes = {"num_train": config.num_train, "num_validation": config.num_validation, "num_test": 0}
    return separate(distinct(train, known=test), validation, test, **sizes, seed=seed)


# -- the embedded corpus -----------------------------------------------------------------------------------------------


def embedded(config: ConfigDict, seed: int) -> Splits:
    """Generated questions: the share config.two_hop of each split takes two searches; num_train 0: all, other 0: none."""
    for name in ("validation", "test"):
        if config[name]:
            raise ValueError(f"task.{name} is {config[name]!r}, but task.train is 'embedded', which has its own splits; use ''")
    dealt = deal(list(places()[0]), seed)
    numbers = {name: config[f"num_{name}"] for name in dealt}
    return Splits(**{name: chosen(name, codes, numbers[name], config.two_hop, seed) for name, codes in dealt.items()})


def deal(codes: Sequence[str], seed: int) -> dict[str, frozenset[str]]:
    """The countries of each split."""
    order = sorted(set(codes) - demonstrated_countries(codes), key=lambda code: number_of(seed, "split", code))
    ends = [round(len(order) * share) for share in (SHARES["train"], SHARES["train"] + SHARES["validation"])]
    parts = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    return {name: frozenset(part) for name, part in zip(SHARES, parts, strict=True)}


def demonstrated_countries(codes: Iterable[str]) -> frozenset[str]:
    """The countries that are kept for demonstrations."""
    return frozenset(sorted(codes, key=lambda code: number_of("demonstrated", code))[:NUM_DEMONSTRATED])


def demonstrated(two_hop: float, seed: int) -> tuple[Problem, ...]:
    """Questions about these countries: as many as there are with that share of two searches."""
    codes = demonstrated_countries(places()[0])
    one, two = len(tuple(one_hop(codes, seed))), len(tuple(two_hop_questions(codes, seed)))
    number = math.floor(min(one / max(1 - two_hop, 1e-9), two / max(two_hop, 1e-9)))
    return chosen("demonstrations", codes, number, two_hop, seed)


def chosen(split: str, codes: frozenset[str], number: int, two_hop: float, seed: int) -> tuple[Problem, ...]:
    """So many of the questions about a split's countries. Raises ValueError, naming task.num_<split>, if there are fewer."""
    field = f"task.num_{split}"
    if not number and split != "train":
        return ()
    one, two = tuple(one_hop(codes, seed)), tuple(two_hop_questions(codes, seed))
    if not number:
        return (one if two_hop < 1 else ()) + (two if two_hop > 0 else ())
    long = round(number * two_hop)
    return draw(field, one, number - long, seed, "one hop") + draw(field, two, long, seed, "two hops")


def one_hop(codes: frozenset[str], seed: int) -> Iterator[Problem]:
    """A question for each fact of these countries, and for the country of each capital and city."""
    countries, cities = places()
    for country in (countries[code] for code in sorted(codes)):
        for relation in RELATIONS:
            phrasing = pick(relation.phrasings, seed, country.id, relation.field)
            yield problem(phrasing.format(x=country.spoken), getattr(country, relation.field), [fact_hop(country, relation)])
        phrasing = pick(COUNTRY_OF_CAPITAL, seed, country.id, "capital's country")
        hop = new_hop(f"capital {country.capital}", country, country_facts(country)["capital"])
        yield problem(phrasing.format(x=country.capital), country.name, [hop])
    for city in (city for city in cities if city.code in codes):
        phrasing = pick(COUNTRY_OF_CITY, seed, city.id, "country")
        yield problem(phrasing.format(x=city.name), countries[city.code].name, [city_hop(city, countries[city.code])])


def two_hop_questions(codes: frozenset[str], seed: int) -> Iterator[Problem]:
    """A question for each fact of the country of each city."""
    countries, cities = places()
    for city in (city for city in cities if city.code in codes):
        country = countries[city.code]
        for relation in RELATIONS:
            phrasing = pick(relation.phrasings, seed, city.id, relation.field)
            where = pick(WITH_CITY, seed, city.id, relation.field, "where").format(x=city.name)
            hops = [city_hop(city, country), fact_hop(country, relation)]
            yield problem(phrasing.format(x=where), getattr(country, relation.field), hops)


def problem(question: str, answer: str, hops: list[dict[str, str]]) -> Problem:
    """hops: what an ideal searcher does, by turns: its query, the passage that it needs and the sentence in it that counts."""
    return Problem(text_id(question), question, answer, {"golden_answers": [answer], "hops": hops})


def fact_hop(country: Country, relation: Relation) -> dict[str, str]:
    return new_hop(relation.query.format(x=country.name), country, country_facts(country)[relation.field])


def city_hop(city: City, country: Country) -> dict[str, str]:
    return new_hop(city.name, city, city_facts(city, country)["country"])


def new_hop(query: str, place: Country | City, fact: str) -> dict[str, str]:
    return {"query": query, "passage_id": place.id, "title": place.name, "fact": fact}


def pick(phrasings: Sequence[str], *key: object) -> str:
    """One of the phrasings, drawn by the key."""
    return phrasings[number_of(*key) % len(phrasings)]


def number_of(*key: object) -> int:
    """A number drawn by the key."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big")
