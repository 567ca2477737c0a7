"""Comparisons: `bigger than a shoe box`, `over 2 kg`, `invented before 1900`, by the table of measures."""

import re
from functools import cache
from typing import NamedTuple

from envs.twenty_questions.language import Tokens, listed, read_number, singular, stems
from envs.twenty_questions.tables import NOW, OBJECTS, Range, load_measures

LENGTHS = ("size", "height", "length")
OPPOSITE = {"more": "less", "less": "more", "like": "like", "within": "within", "least": "least"}


class Reading(NamedTuple):
    """What a question means: the objects for which its answer is yes, for which it is no (the others leave it open),
    and the object that it guesses or -1."""

    yes: int
    no: int
    guess: int = -1

    @property
    def understood(self) -> bool:
        return bool(self.yes | self.no)

    def opposite(self) -> "Reading":
        return Reading(self.no, self.yes)


class Found(NamedTuple):
    """A comparison in a sentence, and the words that it takes."""

    reading: Reading
    start: int
    end: int


@cache
def phrases() -> dict[Tokens, tuple[str, str]]:
    """{stems: (quantity or "", direction)} of words that compare."""
    found = {}
    for kind, listed_phrases in load_measures().phrases.items():
        direction, _, quantity = kind.partition(" ")
        if direction in OPPOSITE:
            found |= {stems(phrase.split()): (quantity, direction) for phrase in listed_phrases}
    return found


@cache
def units() -> dict[str, dict[str, float]]:
    """{unit: {quantity: factor}}; a pound is a weight and a price."""
    found: dict[str, dict[str, float]] = {}
    for kind, lines in load_measures().phrases.items():
        direction, _, quantity = kind.partition(" ")
        for line in lines if direction == "unit" else ():
            *names, factor = line.split(" ")
            for name in names:
                found.setdefault(singular(name), {})[quantity] = float(factor)
    return found


@cache
def dimensions() -> dict[str, str]:
    """{`tall`: height, …}, the words after a length."""
    lines = load_measures().phrases.items()
    return {word: kind.split()[1] for kind, words in lines if kind.startswith("dimension") for word in words}


def find_comparison(words: list[str]) -> Found | None:
    """The first comparison whose two sides are both known."""
    stemmed = stems(words)
    for start in range(len(words)):
        for length in range(min(6, len(words) - start), 0, -1):
            if compared := phrases().get(stemmed[start : start + length]):
                end = start + length
                if reading_end := read_target(words[end:], *compared):
                    reading, used = reading_end
                    return Found(reading, start, end + used)
        # `Did it exist 200 years ago?`, `Is it a 20th century invention?`
        direction = "like" if "ago" in words else "within"
        measure = {"ago", "century"} & set(words) and read_measure(words[start:], "", direction)
        if measure and measure[0] == "year":
            return Found(compare(*measure[:3]), start, start + measure[3])
        for length in (3, 2, 1):
            quantity, limits = limits_of(" ".join(words[start : start + length]), "time")
            if limits:  # `Did the Romans use it?`
                return Found(compare(quantity, "less", limits), start, start + length)
    return None


def read_target(words: list[str], quantity: str, direction: str) -> tuple[Reading, int] | None:
    """What the words compare with: a measure or a thing; and how many they are."""
    for place, word in enumerate(words):
        if measure := read_measure(words[place:], quantity.replace("time", "year"), direction):
            known, direction, limits, used = measure
            return compare(known, direction, limits), place + used
        for length in range(min(5, len(words) - place), 0, -1):
            name = " ".join(words[place : place + length])
            number = int(name[1:]) if re.fullmatch(r"#\d+", name) else -1
            known, limits = limits_of(name if number < 0 else OBJECTS[number].names[0].lower(), quantity)
            if limits:
                return compare(known, direction, limits, number), place + length
        if word not in listed("determiner") and not word.endswith("'s"):
            break
    return None


def limits_of(name: str, quantity: str) -> tuple[str, Range | None]:
    """The thing's value of the quantity; what has a year only is a time."""
    values = load_measures().values
    known = values.get(name) or values.get(" ".join(map(singular, name.split())), {})
    if quantity == "time" and set(known) == {"year"}:
        quantity = "year"
    return quantity, known.get(quantity)


def read_measure(words: list[str], quantity: str, direction: str) -> tuple[str, str, Range, int] | None:
    """(quantity, direction, limits, number of words): `100 years ago`, `the 19th century`, `2 kilos`, `1900`."""
    value, used = read_number(words)
    if not used:
        return None
    rest = [*words[used:], "", "", ""]
    century = rest[0] if rest[0] == "century" else rest[1] * (rest[0] in ("st", "nd", "rd", "th"))
    if century == "century" and value > 1:
        return "year", direction, (value * 100 - 99, value * 100), used + 1 + (rest[0] != "century")
    if quantity == "year" and 1000 <= value <= NOW and singular(rest[0]) not in units():
        return "year", direction, (value, value), used
    if singular(rest[0]) not in units():
        return None
    quantities = units()[singular(rest[0])]
    unit = quantity if quantity in quantities else next(iter(quantities))
    factor = quantities[unit]
    after = next((n for n in (1, 2) if " ".join(rest[1 : 1 + n]) in dimensions()), 0)
    dimension = dimensions().get(" ".join(rest[1 : 1 + after]), "")
    is_date = "year" in (dimension, quantity) or not quantity and direction != "within"
    if unit == "life" and is_date:  # more years ago is an earlier year
        year = NOW - value * factor
        if not quantity:  # `more than 100 years ago`, not `in the last 100 years`; `around 100 years ago` it was there
            direction = OPPOSITE[direction].replace("like", "less")
        return "year", direction, (year, year), used + 1 + after
    known = quantity or dimension or unit
    if unit != known and not (unit == "size" and known in LENGTHS):
        return None
    known = dimension or known
    return known, direction, (value * factor, value * factor), used + 1 + after


def compare(quantity: str, direction: str, limits: Range, number: int = -1) -> Reading:
    """For which objects the quantity is surely more than the limits, less, about the same or between them, and for
    which it surely is not; nothing is bigger than itself."""
    low, high = limits
    if direction in ("like", "least") and quantity != "year":
        low, high = low / 1.4, high * 1.4
    if direction == "least":
        direction, high = "more", low
    yes = no = 0
    for index, thing in enumerate(OBJECTS):
        known = load_measures().values["default"] | load_measures().values[thing.names[0].lower()]
        value = known.get(quantity, "unknown")
        if value == "unknown":
            continue
        least, most = value or (0, 0)
        more, less = least > high, most < low
        fits = {"more": more, "less": less}.get(direction, low <= (least + most) / 2 <= high)
        fails = {"more": most <= high, "less": least >= low}.get(direction, more or less)
        fails = fails or index == number and direction in ("more", "less")
        yes |= (fits and not fails and value is not None) << index
        no |= (fails or value is None) << index
    return Reading(yes, no)
