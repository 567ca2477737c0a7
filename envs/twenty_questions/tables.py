"""The tables of twenty_questions as they are read from their text files, which a person can read and correct.

    objects.txt      the 158 objects and their names
    properties.txt   yes/no properties, their wordings, and the objects that have them
    measures.txt     size, weight, price, age … of the objects and of other things, and words for comparing them
    words.txt        how free text is read
    known.txt        words that look like misspelled ones of ours and are none
"""

import re
from functools import cache
from math import nan
from pathlib import Path
from typing import NamedTuple

FILES = OBJECTS_FILE, PROPERTIES_FILE, MEASURES_FILE, WORDS_FILE, KNOWN_FILE = [
    Path(__file__).with_name(f"{name}.txt") for name in ("objects", "properties", "measures", "words", "known")]
NOW = 2025  # what was made first in 1925 is a hundred years old

Range = tuple[float, float]  # the lowest and the highest value that a person would accept


class Object(NamedTuple):
    """One line of the table of objects."""

    category: str
    names: tuple[str, ...]  # the paper's
    phrase: str  # "a pair of boots"
    meant: str
    other_names: tuple[str, ...]
    kinds: tuple[str, ...]


class Property(NamedTuple):
    """One paragraph of the table of properties: the objects whose bits are set have it, perhaps have it."""

    name: str
    questions: tuple[str, ...]
    also: tuple[str, ...]
    known: tuple[str, ...]
    mask: int
    maybe: int


class Measures(NamedTuple):
    """The table of measures."""

    values: dict[str, dict[str, Range]]  # of each thing, by quantity
    things: set[str]  # none of them is an object
    phrases: dict[str, list[str]]  # kind of line: its phrases


def lines_of(path: Path) -> list[str]:
    """The lines of a table, without comments and empty ones."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def split(text: str, separator: str = ";") -> tuple[str, ...]:
    return tuple([part.strip() for part in text.split(separator) if part.strip()])


@cache
def load_objects() -> tuple[Object, ...]:
    """The objects by number."""
    objects, category = [], ""
    for line in lines_of(OBJECTS_FILE):
        if line.startswith("@"):
            category = line[1:]
        elif line.startswith("+"):
            objects[-1] = objects[-1]._replace(other_names=objects[-1].other_names + split(line[1:]))
        elif line.startswith("/"):
            objects[-1] = objects[-1]._replace(kinds=objects[-1].kinds + split(line[1:]))
        else:
            names, phrase, meant = (part.strip() for part in (line + " | |").split("|")[:3])
            names = split(names)
            article = "an" if names[0][0] in "AEIOU" else "a"
            objects.append(Object(category, names, phrase or f"{article} {names[0].lower()}", meant, (), ()))
    return tuple(objects)


@cache
def load_words() -> dict[str, list[str]]:
    """{kind of line: phrases} of the table of words; of a line with `=`, each other phrase as `other = first`."""
    words: dict[str, list[str]] = {}
    for line in lines_of(WORDS_FILE):
        kind, _, text = line.partition(": ")
        first, equals, others = text.partition(" = ")
        phrases = [f"{other} = {first}" for other in split(others)] if equals else split(text)
        words.setdefault(kind, []).extend(phrases)
    return words


@cache
def load_known() -> set[str]:
    """The words that are not misspelled ones of the tables."""
    return {word for line in lines_of(KNOWN_FILE) for word in split(line, " ")}


@cache
def pairs(kind: str) -> dict[str, str]:
    """{other phrase: the first one, which it is read as} of the table's lines of this kind."""
    return dict(phrase.split(" = ") for phrase in load_words()[kind])


def counts_of(name: str) -> dict[str, Range]:
    """How many letters, words and syllables a name has; a syllable is a group of vowels that is no silent e."""
    spoken = re.sub(r"(?<=[^l])e\b|(?<=[aeiou]l)e\b|(?<=[^sx])es\b", "", name)
    syllables = len(re.findall(r"[aeiouy]+", spoken)) + len(re.findall("io|ia", name))
    counts = {"letter": len(name.replace(" ", "")), "word": len(name.split()), "syllable": syllables}
    return {unit: (count, count) for unit, count in counts.items()}


def read_range(quantity: str, text: str) -> Range:
    """`20` with the tolerance that is usual for the quantity, `10..30`, or `none`, with which no comparison is true."""
    if text == "none":
        return nan, nan
    low, dots, high = text.partition("..")
    if dots:
        return float(low), float(high)
    if quantity == "year":
        doubt = 0.15 * (NOW - float(text))
        return float(text) - doubt, float(text) + doubt
    return float(text) / TOLERANCE[quantity], float(text) * TOLERANCE[quantity]


TOLERANCE = {"size": 1.15, "height": 1.15, "length": 1.15, "weight": 1.25, "price": 1.4, "life": 1.5, "speed": 1.2}


@cache
def load_measures() -> Measures:
    """The table of measures; height and length are the size where no others are given."""
    measures = Measures({}, set(), {})
    section = ""
    for line in lines_of(MEASURES_FILE):
        kind, _, text = line.partition(": ")
        if line.startswith("@"):
            section = line
        elif section == "@phrases":
            measures.phrases.setdefault(kind, []).extend(split(text))
        else:
            pieces = [piece.split(" ") for piece in split(text, ",")]  # none of a thing that is a name only
            values = {quantity: read_range(quantity, value) for quantity, value in pieces}
            for quantity in ("height", "length"):
                if "size" in values:
                    values.setdefault(quantity, values["size"])
            names = split(kind.rstrip(":"))
            if section == "@things":
                measures.things.update(names)
            if section == "@objects":
                values |= counts_of(names[0])
            measures.values.update({name: values for name in names if values})
    return measures


@cache
def load_properties() -> tuple[Property, ...]:
    """The properties in their order in the table; raises ValueError for an object that there is not."""
    numbers = {thing.names[0].lower(): 1 << number for number, thing in enumerate(load_objects())}
    groups = {"@all": sum(numbers.values())}
    for thing in load_objects():
        group = f"@{thing.category}"
        groups[group] = groups.get(group, 0) | numbers[thing.names[0].lower()]
    properties, known = [], numbers | groups
    for line in lines_of(PROPERTIES_FILE):
        key, _, text = line.partition(": ")
        if line.startswith("["):
            known |= {f"[{other.name}]": other.mask for other in properties[-1:]}
            properties.append(Property(line[1:-1], (), (), (), 0, 0))
            continue
        name, questions, also, associated, mask, maybe = properties[-1]
        if key == "yes":
            mask = add_objects(mask, text, known)
        elif key == "maybe":
            maybe = add_objects(maybe, text, known)
        questions += tuple([f"{question}?" for question in split(text, "?")]) if key == "ask" else ()
        also += split(text) if key == "also" else ()
        associated += split(text) if key == "known" else ()
        properties[-1] = Property(name, questions, also, associated, mask, maybe)
    return tuple([thing._replace(maybe=thing.maybe & ~thing.mask) for thing in properties])


def add_objects(mask: int, text: str, known: dict[str, int]) -> int:
    """With the objects, groups and properties of a line, without those after a minus."""
    for item in split(text, ","):
        if compared := re.fullmatch(r"(\w+) ([<>]) ([\d.]+)", item):
            bits = objects_with(compared[1], compared[2], float(compared[3]))
        elif (bits := known.get(item.lstrip("-"))) is None:
            raise ValueError(f"{PROPERTIES_FILE}: there is no object {item!r}")
        mask = mask & ~bits if item.startswith("-") else mask | bits
    return mask


def objects_with(quantity: str, sign: str, limit: float) -> int:
    """The objects whose typical value, the middle of its range, is above or below the limit."""
    mask = 0
    for number, thing in enumerate(load_objects()):
        middle = sum(load_measures().values[thing.names[0].lower()].get(quantity, (nan, nan))) / 2
        mask |= (middle > limit if sign == ">" else middle <= limit) << number
    return mask


def all_phrases() -> list[str]:
    """What the tables have words for, phrase by phrase."""
    phrases = [phrase for some in (load_words(), load_measures().phrases) for kind in some.values() for phrase in kind]
    phrases += [phrase for thing in load_properties() for phrase in (*thing.questions, *thing.also, *thing.known)]
    phrases += [name for thing in load_objects() for name in thing.names + thing.other_names + thing.kinds]
    return [*phrases, *load_measures().values]


OBJECTS = load_objects()
PHRASES = [thing.phrase for thing in OBJECTS]
EVERYTHING = (1 << len(OBJECTS)) - 1
