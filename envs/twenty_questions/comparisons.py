"""Comparisons: `bigger than a shoe box`, `over 2 kg`, `invented before 1900`, by the table of measures."""

import re
from functools import cache
from typing import NamedTuple

from envs.twenty_questions.language import Tokens, read_number, singular, stems
from envs.twenty_questions.tables import NOW, OBJECTS, Range, load_measures

MEASURES_ALONE = {"ago", "century", "letter", "word", "syllable"}  # `a word of three letters` is a comparison, too
OPPOSITE = {"more": "less", "less": "more", "like": "like", "within": "within"}


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
    kinds = [(kind.partition(" "), some) for kind, some in load_measures().phrases.items()]
    return {stems(phrase.split()): (quantity, direction) for (direction, _, quantity), some in kinds
            if direction in OPPOSITE for phrase in some}


@cache
def units() -> dict[str, tuple[str, float]]:
    """{unit: (quantity, factor)}."""
    found = {}
    for kind, lines in load_measures().phrases.items():
        if kind.startswith("unit "):
            for name, factor in map(str.split, lines):
                found[singular(name)] = kind.split()[1], float(factor)
    return found


@cache
def dimensions() -> dict[str, str]:
    """{`tall`: height, …}, the words after a length."""
    lines = load_measures().phrases.items()
    return {word: kind.split()[1] for kind, words in lines if kind.startswith("dimension") for word in words}


def find_comparison(words: list[str]) -> Found | None:
    """The first comparison whose two sides are both known."""
    stemmed = stems(words)
    has_measure = MEASURES_ALONE & set(map(singular, words))
    for start in range(len(words)):
        for length in range(min(6, len(words) - start), 0, -1):
            if compared := phrases().get(stemmed[start : start + length]):
                end = start + length
                if reading_end := read_target(words[end:], *compared):
                    reading, used = reading_end
                    return Found(reading, start, end + used)
        # `Did it exist 200 years ago?`, `Is it a 20th century invention?`, `Is it a word of three letters?`
        direction = "more" if "ago" in words else "within"
        if has_measure and (measure := read_measure(words[start:], "", direction)):
            return Found(compare(*measure[:3]), start, start + measure[3])
        for length in (3, 2, 1):
            quantity, limits = limits_of(" ".join(words[start : start + length]), "time")
            if limits:  # `Did the Romans use it?`
                return Found(compare(quantity, "less", limits), start, start + length)
    return None


def read_target(words: list[str], quantity: str, direction: str) -> tuple[Reading, int] | None:
    """What the words compare with: the first measure or thing; and how many words lead to its end."""
    for place in range(len(words)):
        if measure := read_measure(words[place:], quantity.replace("time", "year"), direction):
            known, direction, limits, used = measure
            return compare(known, direction, limits), place + used
        for length in range(min(5, len(words) - place), 0, -1):
            name = " ".join(words[place : place + length])
            number = int(name[1:]) if re.fullmatch(r"#\d+", name) else -1
            known, limits = limits_of(name if number < 0 else OBJECTS[number].names[0].lower(), quantity)
            if limits:
                return compare(known, direction, limits, number), place + length
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
    unit, factor = units().get(singular(rest[0]), ("", 1))
    if not unit:  # `before 1900`
        return ("year", direction, (value, value), used) if quantity == "year" and value >= 1000 else None
    dimension = dimensions().get(rest[1], "")
    used += 2 if dimension else 1
    if unit == "life" and "year" in (dimension, quantity):
        year = NOW - value * factor
        # `More than 100 years ago` is an earlier year, `in the last 100 years` a later one.
        return "year", direction if quantity else OPPOSITE[direction], (year, year), used
    if unit == "size":
        unit = dimension or quantity or unit
    return unit, direction, (value * factor, value * factor), used


def compare(quantity: str, direction: str, limits: Range, number: int = -1) -> Reading:
    """For which objects the quantity is surely more than the limits, less, about the same or between them, and for
    which it surely is not: with what has none, or with the thing `number` itself, no comparison is true."""
    low, high = limits
    if direction == "like" and quantity != "year":
        low, high = low / 1.4, high * 1.4
    yes = no = 0
    for index, thing in enumerate(OBJECTS):
        known = load_measures().values["default"] | load_measures().values[thing.names[0].lower()]
        if quantity not in known:
            continue
        least, most = known[quantity]
        if direction == "more":
            fits, may_fit = least > high, most > high and index != number
        elif direction == "less":
            fits, may_fit = most < low, least < low and index != number
        else:
            fits, may_fit = low <= (least + most) / 2 <= high, least <= high and most >= low
        yes |= fits << index
        no |= (not may_fit) << index
    return Reading(yes, no)
