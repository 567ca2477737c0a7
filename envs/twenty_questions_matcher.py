"""How twenty_questions reads a question: as a property, a category, a guess of an object, or a combination of them.

A question is normalised (case, accents, contractions), freed of what says nothing (`I think …`, `…, right?`), and read
as a guess if nothing is left but the name of an object in a frame like `is it a …`. Otherwise the words that matter are
compared with the phrases of the properties: the largest phrase whose words are all in the question is taken, then the
largest of those that fit the words left. Together they must explain MIN_COVERED of the question's words.
The tables are text files that a person can read and correct; this module holds no knowledge of the objects.
"""

import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

FILES = OBJECTS_FILE, PROPERTIES_FILE, WORDS_FILE = [
    Path(__file__).with_name(f"twenty_questions_{name}.txt") for name in ("objects", "properties", "words")]
MAX_LENGTH = 300  # characters of a question; longer ones are not read
MIN_COVERED = 0.6  # share of a question's words that the properties found in it must explain

Tokens = tuple[str, ...]


# --- Tables ---


class Object(NamedTuple):
    """One line of the table of objects."""

    category: str
    names: tuple[str, ...]  # the paper's
    phrase: str  # "a pair of boots"
    meant: str
    other_names: tuple[str, ...]


class Property(NamedTuple):
    """One paragraph of the table of properties; the answer is yes for the objects whose bits are set in `mask`."""

    name: str
    questions: tuple[str, ...]
    also: tuple[str, ...]
    mask: int


class Reading(NamedTuple):
    """What a question means: the objects for which its answer is yes, and the object that it guesses or -1."""

    mask: int
    guess: int
    understood: bool


def lines_of(path: Path) -> list[str]:
    """The lines of a table, without comments and empty ones."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def split(text: str, separator: str = ";") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


@cache
def load_objects() -> tuple[Object, ...]:
    """The objects by number."""
    objects, category = [], ""
    for line in lines_of(OBJECTS_FILE):
        if line.startswith("@"):
            category = line[1:]
            continue
        line, _, others = line.partition(" + ")
        names, phrase, meant = (part.strip() for part in (line + " | |").split("|")[:3])
        names = tuple(split(names))
        article = "an" if names[0][0] in "AEIOU" else "a"
        objects.append(Object(category, names, phrase or f"{article} {names[0].lower()}", meant, tuple(split(others))))
    return tuple(objects)


@cache
def load_properties() -> tuple[Property, ...]:
    """The properties in their order in the table; raises ValueError for an object that there is not."""
    numbers = {thing.names[0].lower(): 1 << number for number, thing in enumerate(load_objects())}
    groups = {"@all": sum(numbers.values())}
    for thing in load_objects():
        group = f"@{thing.category}"
        groups[group] = groups.get(group, 0) | numbers[thing.names[0].lower()]
    properties = []
    for line in lines_of(PROPERTIES_FILE):
        key, _, text = line.partition(": ")
        if line.startswith("["):
            properties.append(Property(line[1:-1], (), (), 0))
            continue
        name, questions, also, mask = properties[-1]
        if key == "yes":
            for item in split(text, ","):
                bits = (numbers | groups).get(item.lstrip("-"))
                if bits is None:
                    raise ValueError(f"{PROPERTIES_FILE}: [{name}] has no object {item!r}")
                mask = mask & ~bits if item.startswith("-") else mask | bits
        questions += tuple([f"{question}?" for question in split(text, "?")]) if key == "ask" else ()
        also += tuple(split(text)) if key == "also" else ()
        properties[-1] = Property(name, questions, also, mask)
    return tuple(properties)


# --- Reading questions ---


def singular(word: str) -> str:
    """A noun without the ending of its plural; the same for any form of it."""
    if word in SINGULARS:
        return SINGULARS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


SINGULARS = {"buses": "bus", "canvases": "canvas", "canvas": "canvas", "knives": "knife", "scarves": "scarf",
             "shoes": "shoe", "cacti": "cactus", "leaves": "leaf", "shelves": "shelf", "halves": "half", "toes": "toe",
             "does": "does", "goes": "go", "always": "always", "has": "has", "was": "was", "clothes": "clothing"}
STEMS = {word: word for word in ("clothing", "building", "huge", "note", "mane", "spine")}


def stem(word: str) -> str:
    """What the forms of a word have in common, roughly; names of objects (`#12`) stay as they are."""
    if word.startswith("#"):
        return word
    word = singular(word.removesuffix("'s").replace("'", ""))
    if word in STEMS:
        return STEMS[word]
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and re.search("[aeiouy]", base) and not word.endswith("eed"):
            word = base[:-1] if base[-1] == base[-2] and base[-1] not in "lsz" else base
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def normalise(text: str) -> list[str]:
    """The words of a sentence in lower case, without accents and contractions; negated auxiliaries in front of their
    subject (`Isn't it …`) lose the negation."""
    text = unicodedata.normalize("NFKD", text).casefold().replace("’", "'").replace("‘", "'")
    text = "".join([c for c in text if not unicodedata.combining(c)])
    words: list[str] = []
    for word in re.findall(r"[a-z0-9]+(?:'[a-z]+)?", LISTED.sub(" or", text)):
        word = WITHOUT_APOSTROPHE.get(word, DIGITS.get(word, word))
        if word.endswith("n't"):
            auxiliary = {"can't": "can", "won't": "will", "shan't": "shall"}.get(word, word[:-3])
            words += [auxiliary, "n't"]
        elif (parts := word.partition("'"))[2] in ENDINGS and (parts[2] != "s" or parts[0] in SUBJECTS):
            words += [parts[0], ENDINGS[parts[2]]]
        else:
            words.append(word)
    for number, word in enumerate(words):
        if word == "n't":
            asks = words[number + 1 : number + 2] and words[number + 1] in ASKED
            words[number] = "" if asks and (number < 2 or words[number - 2] not in SUBJECTS) else "not"
    return [word for word in words if word]


# The commas of `a fruit, a vegetable or an animal`: a few words behind each, then a comma or an `or`.
ITEM = r"(?! (?:is|are|does|do|can|could|would|it|yes|no|right|true|correct|not|but|and|or)\b)(?: [a-z0-9'-]+){1,4}?"
LISTED = re.compile(rf",(?={ITEM}(?:,{ITEM})*,? or )")
WITHOUT_APOSTROPHE = {f"{word}nt": f"{word}n't" for word in (
    "is", "are", "was", "were", "do", "does", "did", "ca", "could", "wo", "would", "should", "has", "have")}
WITHOUT_APOSTROPHE |= {"cannot": "can't", "aint": "isn't", "ain't": "isn't"}
DIGITS = dict(zip(map(str, range(1, 11)), "one two three four five six seven eight nine ten".split(), strict=True))
ENDINGS = {"s": "is", "re": "are", "m": "am", "ll": "will", "d": "would", "ve": "have"}
SUBJECTS = {"it", "that", "this", "what", "there", "he", "she", "who", "i", "you", "we", "they", "thing", "object",
            "answer", "which", "something", "people"}
ASKED = SUBJECTS | {"the", "a", "an", "your", "my", "these", "those", "most", "humans", "one", "someone", "children",
                    "kids", "many"}


class Phrases:
    """What `words` replaces in a list of words: phrases, the longest first."""

    def __init__(self, table: dict[Tokens, Tokens]) -> None:
        self.table, self.longest = table, max(map(len, table), default=0)

    def __call__(self, words: list[str]) -> list[str]:
        found, place = [], 0
        while place < len(words):
            for length in range(min(self.longest, len(words) - place), 0, -1):
                if (new := self.table.get(tuple(words[place : place + length]))) is not None:
                    found += new
                    place += length
                    break
            else:
                found.append(words[place])
                place += 1
        return found


IN_MIND = (r"(?:you are thinking (?:of|about)|in question|you have in mind|in your mind|you have chosen|you chose|"
           r"you have picked|you picked|in your head|you want)")
SUBJECT = (r"(?:it|this|that|they|these|those|the one|what you are thinking (?:of|about)|what you have in mind|"
           r"what it is|(?:the|your|this|that) (?:secret |mystery |hidden |right |correct |final )?(?:object|thing|"
           rf"item|answer|word|solution|secret|noun|one)(?: (?:that )?{IN_MIND})?)")
BE = r"(?:is|are|was|were|could|can|would|might|may|must|should|will)"
NAME = r"(?P<article>a )?#(?P<number>\d+)"
IDENTITY = [re.compile(pattern) for pattern in (
    rf"{BE} {SUBJECT} (?:be )?(?:called |named |known as )?{NAME}",
    rf"{SUBJECT} (?:is|are|has to be|(?:must|could|can|might|may|would|should|will|can only) be) {NAME}",
    rf"(?:do|does|did) {SUBJECT} (?:have to be|happen to be|need to be) {NAME}",
    rf"(?:{BE} )?you (?:are |were )?(?:be )?(?:thinking (?:of|about)|referring to|talking about) {NAME}",
    rf"(?:do|did|have|would|could|might) you (?:mean|pick|picked|choose|chosen|think of|thought of) {NAME}",
    rf"(?:do |did )?you (?:have|had) {NAME} (?:in mind|in your mind|on your mind)",
    rf"(?:(?:my|our|the) )?(?:final |last |next |best |first |new )?guess(?: is| would be| it is)? {NAME}",
    rf"(?:i|we) (?:guess|say|pick|choose|think of|bet on|think|go with|am going with|will go with|will say|"
    rf"am guessing|want to guess|would like to guess|would guess|will guess) (?:it is )?{NAME}",
    rf"{BE} {NAME} (?:be )?(?:{SUBJECT}|right|correct)",
    rf"{NAME} (?:is|must be) (?:{SUBJECT}|right|correct)",
    rf"(?:what about |how about )?{NAME}",
)]


ARTICLES = {"a", "an", "the", "some", "one", "any", "my", "your", "our", "his", "her"}
NAMES_THE_WORD = {"answer", "guess", "word", "thinking", "object"}
OPEN = {"what", "where", "how", "why", "who", "when", "whose", "which", "whom"}  # no yes/no question begins with these
LIST = re.compile(r"(#\d+)(?: or| and)?(?: is it| it is| are they)?(?: a)? #\d+")
MATERIALS = "Orange", "Rock"  # `Is it orange?` asks for the colour, `Is it stone?` for the material
LENGTHS = range(9, 0, -1)


class Matcher:
    """Reads questions, by the tables of objects, properties and words."""

    def __init__(self) -> None:
        words: dict[str, list[Tokens]] = {}
        same: list[tuple[str, str]] = []
        self.everything = (1 << len(load_objects())) - 1
        self.names = {tuple([singular(word) for word in normalise(name)]): f"#{number}"
                      for number, thing in enumerate(load_objects()) for name in thing.names + thing.other_names}
        self.longest_name = max(map(len, self.names))
        self.materials = {number for number, thing in enumerate(load_objects()) if thing.names[0] in MATERIALS}
        for line in lines_of(WORDS_FILE):
            kind, _, text = line.partition(": ")
            if kind == "same":
                first, _, others = text.partition(" = ")
                same += [(phrase, first) for phrase in split(others)]
            else:
                words.setdefault(kind, []).extend([tuple(phrase.split()) for phrase in split(text)])
        self.before, self.after, self.quantity = set(words["before"]), set(words["after"]), set(words["quantity"])
        self.one = {phrase[-1] for phrase in words["one"]}
        self.aside = Phrases(dict.fromkeys(words["aside"], ()))
        self.negate = Phrases(dict.fromkeys(words["not"], ("not",)))
        stems = {phrase: tuple([stem(word) for word in self.named(phrase.split())]) for pair in same for phrase in pair}
        self.same = Phrases({stems[old]: stems[new] for old, new in same if stems[old] != stems[new]})
        self.light = {stem(word) for phrase in words["light"] for word in phrase}
        self.drop = Phrases({tuple(map(stem, phrase)): () for phrase in words["drop"]})
        self.asked: dict[Tokens, int] = {}  # the players' own questions, stripped as well: {words: mask}
        self.patterns: dict[frozenset[str], int] = {}  # {words that matter: mask}, of all phrases
        for thing in load_properties():
            for words in map(normalise, thing.questions):
                self.asked |= {tuple(words): thing.mask, tuple(self.strip(words)): thing.mask}
            for phrase in (*thing.questions, *thing.also):
                self.add(normalise(phrase), thing.mask)
        self.rank = {pattern: number for number, pattern in enumerate(self.patterns)}
        self.starting: dict[str, list[frozenset[str]]] = {}  # patterns by one of their words
        for pattern in self.patterns:
            self.starting.setdefault(min(pattern), []).append(pattern)

    def add(self, words: list[str], mask: int) -> None:
        """Note that a question with these words asks for the objects of `mask`."""
        pattern = frozenset(self.content(self.negate(self.named(words))))
        if pattern and "not" not in pattern:
            self.patterns.setdefault(pattern, mask)

    def named(self, words: list[str]) -> list[str]:
        """With `#12` for each name of object 12."""
        found, place, nouns = [], 0, [singular(word) for word in words]
        while place < len(words):
            for length in range(min(self.longest_name, len(words) - place), 0, -1):
                if name := self.names.get(tuple(nouns[place : place + length])):
                    break
            found.append(name or words[place])
            place += length
        return found

    def content(self, words: list[str]) -> list[str]:
        """The words that matter, as stems, synonyms replaced."""
        return self.drop(self.same([stem(word) for word in words]))

    def strip(self, words: list[str]) -> list[str]:
        """Without what says nothing before the question, behind it and in it."""
        words = self.aside(words)
        while length := next((n for n in LENGTHS if n < len(words) and tuple(words[:n]) in self.before), 0):
            words = words[length:]
        while length := next((n for n in LENGTHS if n < len(words) and tuple(words[-n:]) in self.after), 0):
            words = words[:-length]
        return words

    def read_guess(self, words: list[str]) -> Reading | None:
        """A sentence that asks for the object itself, or whether it is one of several; None if it asks otherwise."""
        asked, numbers, negated = [], [[], []], False
        for word in words:
            if word == "not":
                negated = not negated
                continue
            if word.startswith("#"):
                numbers[negated].append(int(word[1:]))
                while asked[-1:] and (asked[-1] in self.one or tuple(asked[-2:]) in self.quantity):
                    del asked[-1 if asked[-1] in self.one else -2 :]
                if asked[-1:] and asked[-1] in ARTICLES:
                    asked[-1] = "a"
            asked.append(word)
        sentence = " ".join(asked)
        while (shorter := LIST.sub(r"\1", sentence)) != sentence:  # `a cat, a dog or a horse`: the first is enough
            sentence = shorter
        match = next((match for pattern in IDENTITY if (match := pattern.fullmatch(sentence))), None)
        if not match or not match["article"] and len(asked) > 1 and int(match["number"]) in self.materials and not (
                NAMES_THE_WORD & set(asked)):
            return None
        positive, negative = (sum({1 << number for number in some}) for some in numbers)
        mask = (positive or self.everything) & ~negative
        return Reading(mask, numbers[0][0] if positive and not negative else -1, True)

    def cover(self, words: set[str]) -> tuple[int, int, int]:
        """(objects that have all the properties found in the words, how many words these explain, how many not)."""
        mask, left = self.everything, set(words)
        while left:
            fitting = [pattern for word in left for pattern in self.starting.get(word, ()) if pattern <= left]
            if not fitting:
                break
            # The longest; of equal ones the first in the table.
            pattern = min(fitting, key=lambda pattern: (-len(pattern), self.rank[pattern]))
            mask &= self.patterns[pattern]
            left -= pattern
        if "than" in left:  # a comparison with something unknown
            return 0, 0, len(words)
        return mask, len(words) - len(left), len(left - self.light)

    def read_properties(self, words: list[str]) -> int | None:
        """The objects with the properties in the words and without those behind a negation; None if not understood."""
        positive, negative, negated = set(), set(), False
        for word in self.content(words):
            if word in ("not", "but"):
                negated = word == "not" and not negated
            else:
                (negative if negated else positive).add(word)
        (mask, explained, left), (without, num_negative, num_left) = self.cover(positive), self.cover(negative)
        explained, left = explained + num_negative, left + num_left
        if not explained or explained < MIN_COVERED * (explained + left):
            return None
        return mask & ~without if num_negative else mask

    def read_alternatives(self, words: list[str]) -> int | None:
        """As `read_properties`, with `or` between some of them."""
        whole = [word for word in words if word != "or"]
        parts = [[]]
        for word in words:
            parts.append([]) if word == "or" else parts[-1].append(word)
        if len(parts) == 1:
            return self.read_properties(whole)
        inverted = "not" in parts[0] and not any("not" in part for part in parts[1:])  # not (a or b)
        masks = [self.read_properties([word for word in part if not inverted or word != "not"]) for part in parts]
        if None in masks:
            return self.read_properties(whole)
        either = 0
        for mask in masks:
            either |= mask
        return self.everything & ~either if inverted else either

    def read_sentence(self, words: list[str]) -> Reading | None:
        """One sentence; None if it is not understood."""
        stripped = self.strip(words)
        mask = self.asked.get(tuple(words), self.asked.get(tuple(stripped)))
        if mask is not None:
            return Reading(mask, -1, True)
        words = ["or" if word == "nor" else word for word in self.negate(self.named(stripped))]
        if (reading := self.read_guess(words)) or not words or words[0] in OPEN:
            return reading
        mask = self.read_alternatives(words)
        return None if mask is None else Reading(mask, -1, True)

    def read(self, text: str) -> Reading:
        """A whole text: what its last sentence that is understood says. It guesses if it names a single object."""
        sentences = [normalise(sentence) for sentence in re.split(r"[.!?;:\n]+", text)]
        named = {word for words in sentences for word in self.named(words) if word.startswith("#")}
        readings = [reading for words in sentences if (reading := self.read_sentence(words))]
        if not readings:
            return NOT_UNDERSTOOD
        return readings[-1] if len(named) == 1 else readings[-1]._replace(guess=-1)


NOT_UNDERSTOOD = Reading(0, -1, False)


@cache
def matcher() -> Matcher:
    """One object for all games."""
    return Matcher()


def as_heard(action: str) -> str:
    """The first line of an action: what stands behind it would be another turn."""
    line, newline, _ = action.partition("\n")
    return line + newline


def was_cut_off(text: str) -> bool:
    """Whether a question is too long or was not finished, which a missing newline or a `…` at the end shows."""
    return len(text) > MAX_LENGTH or not text.endswith("\n") or text.rstrip().endswith("…")


@lru_cache(maxsize=65_536)
def read_question(text: str) -> Reading:
    """What the action `text` asks; not understood if it was cut off."""
    if was_cut_off(text):
        return NOT_UNDERSTOOD
    return matcher().read(text)
