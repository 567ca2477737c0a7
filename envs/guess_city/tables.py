"""The tables of guess_city: what can be asked, what is true of the countries, what is true of the cities.

`topics.txt` holds the topics with the patterns by which they are recognised and the sentences that are said,
`countries.txt` and `cities.txt` the facts, `particulars.txt` what is true of a few cities only, `places.txt` the cities
that are not of the hundred, and `words.txt` how people frame a question, exclude a city or compare it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import acos, cos, radians, sin
from pathlib import Path

TOPICS_FILE, COUNTRIES_FILE, CITIES_FILE, PARTICULARS_FILE, PLACES_FILE, WORDS_FILE = (
    Path(__file__).with_name(f"{name}.txt")
    for name in ("topics", "countries", "cities", "particulars", "places", "words"))


@dataclass(frozen=True)
class Topic:
    """Something that can be asked: how to recognise it, how to ask it, how it is answered."""

    match: re.Pattern[str] | None
    wh: set[str]  # of `when`, `how far`, …: those that it answers
    flags: set[str]
    hides: set[str]  # topics that are not meant when this one is
    ask: list[str]
    test: list[str]
    say: list[str]
    no: str
    usual: str  # the value of a city of which nothing else is said
    units: list[tuple[float, re.Pattern[str]]]  # of a number: (factor to the unit of the table, what names the unit)
    codes: dict[str, tuple[str, re.Pattern[str]]]  # code -> (phrase, what asks for it)
    classes: list[tuple[str, re.Pattern[str]]]  # of plain words: (phrase or *, what it stands for)
    vocabulary: frozenset[str]  # the words of which the topic makes something

    def uses(self, word: str) -> bool:
        """Whether the topic makes something of a word, which may have another ending there."""
        if word[0].isdigit():
            return bool(self.units) or word in self.vocabulary
        beginnings = [word, word[:-1], *(word[:end] for end in range(4, len(word)))]
        return not self.vocabulary.isdisjoint(beginnings)

    def code(self, value: str) -> str:
        """The code of a value: of a number the greatest one that is not above it."""
        if not self.units or not self.codes:
            return value
        return max((low for low in self.codes if float(low) <= float(value)), key=float)

    def phrase(self, value: str) -> str:
        """What an open question about the topic is told, for a value of the tables; raises KeyError."""
        if not self.classes:
            codes = [value] if value in self.codes else value.split(", ")
            *others, last = [self.codes[code][0] for code in codes]
            return f"{', '.join(others)} and {last}" if others else last
        for phrase, pattern in self.classes:
            if found := pattern.search(value):
                return found.group() if phrase == "*" else phrase
        raise KeyError(value)


@dataclass(frozen=True)
class Country:
    """A country: what it is called, words that give it away, and what holds for its cities."""

    names: list[str]
    stems: list[str]
    leaks: list[str]
    values: dict[str, str]


@dataclass(frozen=True)
class City:
    """A city: its names, its country, and its value for each topic."""

    name: str
    names: list[str]
    country: Country
    values: dict[str, str]
    number: int
    told: dict[str, str] = field(default_factory=dict)  # topic -> phrase

    def distance(self, other: "City") -> float:
        """Kilometres along the surface of the earth."""
        a, b, c, d = (radians(float(city.values[key])) for city in (self, other) for key in ("latitude", "longitude"))
        return 6371 * acos(min(1.0, sin(a) * sin(c) + cos(a) * cos(c) * cos(b - d)))


def read_sections(path: Path, mark: str) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of the sections that start with `mark`; comments and empty lines are left out."""
    for section in re.split(rf"^{re.escape(mark)} ?", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        yield title.strip(), [line for line in lines if line.strip() and not line.startswith("# ")]


@cache
def topics() -> dict[str, Topic]:
    """The topics in the order in which a question is compared with them."""
    return {name: read_topic(lines) for name, lines in read_sections(TOPICS_FILE, "##")}


def read_topic(lines: list[str]) -> Topic:
    """The topic that the lines of a section describe."""
    keys = {key: "" for key in ("match", "wh", "flags", "hides", "ask", "test", "say", "no", "usual", "words")}
    units, codes, classes = [], {}, []
    for line in lines:
        key, colon, rest = line.partition(": ")
        if colon and key in keys:
            keys[key] += ("|" if keys[key] and key == "match" else "") + rest
        elif colon and key == "unit":
            factor, _, pattern = rest.partition(" ~ ")
            units.append((float(factor), re.compile(pattern)))
        elif " <- " in line:
            phrase, _, pattern = line.partition(" <- ")
            classes.append((phrase, re.compile(pattern)))
        else:
            code, phrase, pattern = re.fullmatch(r"(.+?) = (.+) ~ (.+)", line).groups()
            codes[code] = phrase, re.compile(rf"\b(?:{pattern})")
    split = {key: [text for text in keys[key].split(" | ") if text] for key in ("ask", "test", "say")}
    match = re.compile(rf"\b(?:{keys['match']})") if keys["match"] else None
    wh, flags, hides = set(keys["wh"].split(", ")), set(keys["flags"].split()), set(keys["hides"].split(", "))
    vocabulary = literals(*(line for line in lines if not line.startswith(("wh: ", "flags: ", "hides: ", "no: "))))
    return Topic(match, wh, flags, hides, **split, no=keys["no"] or "No,", usual=keys["usual"], units=units,
                 codes=codes, classes=classes, vocabulary=vocabulary)


def literals(*patterns: str) -> frozenset[str]:
    """The words, or beginnings of words, that stand in regular expressions."""
    return frozenset(re.sub(r"\\\w|\(\?.|[^a-z0-9]", " ", " ".join(patterns)).split())


def pairs(text: str) -> dict[str, str]:
    """`key: value; key: value` as a dictionary."""
    return dict(pair.strip().split(": ", 1) for pair in text.split("; ") if ": " in pair)


@cache
def countries() -> dict[str, Country]:
    """Countries by name; those without a city of the list have no values."""
    found = {}
    for title, lines in read_sections(COUNTRIES_FILE, "["):
        names, _, stems = title.partition("] ")
        if names == "others":
            found.update({name: Country([name], [], [], {}) for name in stems.split(", ") if name not in found})
            continue
        values = {key: value for line in lines for key, value in pairs(line).items()}
        stems, names = stems.split(", "), names.split("; ")
        found[values.pop("key", names[0])] = Country(names, [stem for stem in stems if stem[0] != "!"],
                                                     [stem.strip("!") for stem in stems], values)
    return found


@cache
def cities() -> tuple[City, ...]:
    """The hundred cities, in the order of the file."""
    (_, rows), *tables = read_sections(CITIES_FILE, "##")
    usual = {name: topic.usual for name, topic in topics().items() if topic.usual}
    found = []
    for number, row in enumerate(rows):
        name, others, country, *own = row.split(" | ")
        names = [name, *(other for other in others.split(", ") if other != "-")]
        values = usual | countries()[country].values | {"country": country}
        for title, lines in tables:
            first, *cells = lines[number].split(" | ")
            if first != name:
                raise ValueError(f"{CITIES_FILE}: {first} stands where {name} should")
            values.update(zip(title.split(" | ")[1:], cells, strict=True))
        values = complete(values | pairs(" ".join(own)))
        told = {topic: about.phrase(about.code(values[topic])) for topic, about in topics().items()
                if (about.codes or about.classes) and values[topic] != "-"}
        found.append(City(name, names, countries()[country], values, number, told))
    return tuple(found)


def complete(values: dict[str, str]) -> dict[str, str]:
    """The values of a city with those that follow from others, and those of most cities."""
    latitude, longitude = float(values["latitude"]), float(values["longitude"])
    nature = {"beach": "beaches", "park": "park", "garden": "garden", "lake": "lakes", "mountain": "mountains",
              "forest": "forest", "hot springs": "hot springs"}
    green = [nature[sight] for sight in values["sight also"].split(", ") if sight in nature]
    water = [sight for sight in values["sight also"].split(", ") if sight in ("canals", "river", "lake", "lagoon")]
    borders = [] if values["borders"] == "none" else values["borders"].split(", ")
    return {"neighbours": ", ".join(borders) or "no other country"} | values | {
        "hemisphere": f"{'north' if latitude > 0 else 'south'} and {'east' if longitude > 0 else 'west'}",
        "equator": str(abs(latitude)), "daylight": str(abs(latitude)), "borders": str(len(borders)),
        "warmth": values["hot"], "frost": values["cold"], "clothes": values["cold"], "month": values["hottest"],
        "chill": values["hottest"], "festdate": values["festival"], "wages": values["wealth"],
        "culture also": "university, college", "green also": ", ".join(green), "water also": ", ".join(water),
        "terrain also": ", ".join([values.get("terrain also", "-"), *["island"] * (values["shores"] == "island")]),
        "food also": values["dishes"], "mean": str((float(values["hot"]) + float(values["cold"])) / 2)}


@cache
def other_cities() -> dict[str, City]:
    """Large cities that are not of the hundred, by name: where they lie, how many live there."""
    (_, rows), *_ = read_sections(PLACES_FILE, "##")
    found = {}
    for row in rows:
        names, latitude, longitude, millions = row.split(" | ")
        values = {"latitude": latitude, "longitude": longitude, "equator": str(abs(float(latitude))),
                  "millions": millions}
        name, *others = names.split(", ")
        found |= {each: City(name, [name, *others], Country([], [], [], {}), values, -1) for each in (name, *others)}
    return found


@cache
def particulars() -> list[tuple[set[str], re.Pattern[str]]]:
    """(cities, countries and religions of which something is true; what asks for it)."""
    lines = [line.partition(" ~ ") for _, some in read_sections(PARTICULARS_FILE, "##") for line in some]
    return [(set(places.split(", ")), re.compile(rf"\b(?:{pattern})")) for places, _, pattern in lines]


@cache
def words() -> dict[str, list[str]]:
    """The sections of the file of words."""
    return dict(read_sections(WORDS_FILE, "##"))
