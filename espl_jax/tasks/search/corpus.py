"""The embedded corpus: a passage for each of 149 countries and 1431 of their cities, whose facts chain (city, country, money).

Made from the facts in places.tsv, a table derived from GeoNames (CC BY 4.0, https://www.geonames.org) and Unicode CLDR (Unicode
License v3) by harvest.py, which names the packages that they came in. The sentences are ours. A passage says what the sources
said at one time: it is a small world to search in, no reference.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from espl_jax.policy.embedded import cache_dir
from espl_jax.tasks.search import index
from espl_jax.tasks.search.passages import Passage

NAME = "places"
# Names that English puts "the" before.
WITH_ARTICLE = frozenset(
    "Central African Republic|Democratic Republic of the Congo|Dominican Republic|Gambia|Netherlands|Philippines|"
    "Republic of the Congo|United Arab Emirates|United Kingdom|United States".split("|")
)


@dataclass(frozen=True)
class Country:
    """A line of places.tsv."""

    code: str
    name: str
    capital: str
    continent: str
    currency: str
    language: str
    calling_code: str
    domain: str

    @property
    def spoken(self) -> str:
        """The name as it stands in a sentence."""
        return f"the {self.name}" if self.name in WITH_ARTICLE else self.name

    @property
    def id(self) -> str:
        """Of its passage."""
        return f"country/{self.code}"


@dataclass(frozen=True)
class City:
    """A line of places.tsv; city names are unique, and no country or capital has one of them."""

    code: str
    name: str
    people: int

    @property
    def id(self) -> str:
        """Of its passage."""
        return f"city/{self.name}"


@cache
def places() -> tuple[dict[str, Country], tuple[City, ...]]:
    """The countries by code, and the cities."""
    text = files(__package__).joinpath("places.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    countries = {row[0]: Country(*row) for row in rows if len(row) == 8}
    return countries, tuple(City(row[0], row[1], int(row[2])) for row in rows if len(row) == 3)


def embedded_passages() -> Iterator[Passage]:
    """The passages: the countries', then the cities'."""
    countries, cities = places()
    for country in countries.values():
        yield Passage(country.id, country.name, " ".join(country_facts(country).values()))
    for city in cities:
        yield Passage(city.id, city.name, " ".join(city_facts(city, countries[city.code]).values()))


def country_facts(country: Country) -> dict[str, str]:
    """What the corpus says of a country, a sentence for each of its fields."""
    name = country.spoken
    return {
        "continent": f"{name[0].upper()}{name[1:]} is a country in {country.continent}.",
        "capital": f"The capital of {name} is {country.capital}.",
        "currency": f"The currency is the {country.currency}.",
        "language": f"The main language is {country.language}.",
        "calling_code": f"The calling code is {country.calling_code}.",
        "domain": f"The internet domain is {country.domain}.",
    }


def city_facts(city: City, country: Country) -> dict[str, str]:
    """What the corpus says of a city."""
    return {
        "country": f"{city.name} is a city in {country.spoken}.",
        "people": f"About {rounded(city.people)} people live there.",
    }


def rounded(people: int) -> str:
    """A number of people in few words: 3.8 million, 265 thousand."""
    return f"{people / 1e6:.1f} million" if people >= 1e6 else f"{max(1, round(people / 1e3))} thousand"


def embedded_index() -> Path:
    """The folder of the index of the embedded passages, below embedded.cache_dir(), built the first time (a second)."""
    from espl_jax.tasks.search.build import build  # here, because it is a command too

    passages = tuple(embedded_passages())
    digest = hashlib.sha256(repr(passages).encode()).hexdigest()[:12]
    folder = cache_dir() / "search" / f"{NAME}-{digest}-{index.FORMAT}"
    return build(passages, folder, folder.name)
