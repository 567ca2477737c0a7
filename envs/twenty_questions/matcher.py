"""How twenty_questions reads a question: as a property, a category, a comparison, a guess, or a combination of them.

A question is normalised (case, accents, contractions, misspelled words), freed of what says nothing (`I think …`,
`…, right?`), and read as a guess if beside the name of an object nothing is left but words of guessing. Otherwise
the words that matter are compared with the phrases of the properties: the largest phrase whose words are all in the
question is taken, then the largest of those that fit the words left. Together they must explain MIN_COVERED of the
question's words and leave an object of which all of it is true: two readings that exclude each other are a mistake.
Where no sentence is understood, the objects count that are known for most of its words.
The tables are text files that a person can read and correct; this module holds no knowledge of the objects.
"""

import re
from functools import cache, lru_cache
from math import log
from operator import itemgetter

from envs.twenty_questions.comparisons import Reading, find_comparison
from envs.twenty_questions.language import SENTENCES, Phrases, listed, normalise, rewrite, singular, stem, stems
from envs.twenty_questions.spelling import correct, read_spelling
from envs.twenty_questions.tables import EVERYTHING, OBJECTS, load_measures, load_properties, pairs

MAX_LENGTH = 300  # characters of a question; longer ones are not read
MIN_COVERED = 0.5  # share of a question's words that the properties found in it must explain
FEW = 2  # objects that have a property in common; what is said of them they are known for
TELLING = 5.0  # nats that words must tell about an object: one that is known for a single object tells log(158) = 5.1
CLEARLY = 0.65  # of what tells most for an object is as good for others
MATERIALS = "Orange", "Rock"  # `Is it orange?` asks for the colour, `Is it stone?` for the material
OPEN = {"what", "where", "how", "why", "who", "whose", "which", "whom"}  # no yes/no question begins with these
MORE_NAMES = r"(?:.*\b(?:or|and|not|but) )?(?:(?:a|an|the) )*#"
GUESS = re.compile(r"(?P<before>(?:[^# ]+ )*)(?P<names>(?:#\d+ )*)#(?P<number>\d+)(?P<after>.*)")
LIST = re.compile(r"(#\d+) (?:(?:(?:or|and|a) )+#\d+|(?:(?:a|the) )?\1)\b")
NOT_UNDERSTOOD = Reading(0, 0)


def all_of(readings: list[Reading]) -> Reading:
    """Yes where all say yes, no where one says no."""
    yes, no = EVERYTHING, 0
    for reading in readings:
        yes, no = yes & reading.yes, no | reading.no
    return Reading(yes, no)


def any_of(readings: list[Reading]) -> Reading:
    """Yes where one says yes, no where all say no."""
    return all_of([reading.opposite() for reading in readings]).opposite()


def numbers_of(words: list[str]) -> tuple[list[int], list[int]]:
    """Of the names that are asked for, and of those that are denied."""
    asked, denied = [], []
    for word in words:
        if word == "not":
            asked, denied = denied, asked
        elif word.startswith("#"):
            asked.append(int(word[1:]))
    return (denied, asked) if words.count("not") % 2 else (asked, denied)


def mask_of(numbers: list[int]) -> int:
    """The bits of the objects among them."""
    return sum({1 << number for number in numbers if number < len(OBJECTS)})


def spellings(name: str) -> set[str]:
    """`tennis racket` and `tennisracket`, in the singular."""
    nouns = [singular(word) for word in normalise(rewrite(name))]
    return {" ".join(nouns), "".join(nouns)}


class Matcher:
    """Reads questions, by the tables of objects, properties, measures and words."""

    def __init__(self) -> None:
        self.objects = {spelled: number for number, thing in enumerate(OBJECTS)
                        for name in thing.names + thing.other_names for spelled in spellings(name)}
        things = enumerate(sorted(load_measures().things), len(OBJECTS))
        self.names = {spelled: number for number, name in things for spelled in spellings(name)}
        no_names = listed("one") | listed("quantity") | listed("material") | listed("no name")
        self.names |= dict.fromkeys(no_names, -1) | self.objects
        self.names |= {spelled: number for number, thing in enumerate(OBJECTS)
                       for kind in thing.kinds for spelled in spellings(kind)}
        # `A shoe box` is no shoe.
        self.objects = {name: -1 for name in load_measures().values if " " in name} | self.objects
        self.longest: dict[str, int] = {}  # the number of words of the longest name that begins with this one
        for first, *others in map(str.split, self.names | self.objects):
            self.longest[first] = max(self.longest.get(first, 1), 1 + len(others))
        self.materials = {number for number, thing in enumerate(OBJECTS) if thing.names[0] in MATERIALS}
        self.beside = Phrases({tuple(phrase.split()): () for phrase in listed("beside a guess")})
        self.before, self.after = ({tuple(phrase.split()) for phrase in listed(kind)} for kind in ("before", "after"))
        allowed = "|".join(listed("one") | listed("quantity") | listed("material"))
        self.between = re.compile(rf"\b(?:(?:{allowed}|\w+'s) )+(?=#)")
        names, denies, articles = ("|".join(listed(kind)) for kind in ("leads to a name", "leads elsewhere", "article"))
        self.leading = re.compile(rf"(?!.*\b(?:{denies})\b)(?:.* )?(?:{names})(?: (?:{articles}))*|(?:{articles})")
        self.described = re.compile(rf"[,:(]+| [-–—]+ | (?=(?:{'|'.join(listed('describes'))})\b)", re.IGNORECASE)
        self.aside = Phrases({tuple(phrase.split()): () for phrase in listed("aside")})
        self.negate = Phrases({tuple(phrase.split()): ("not",) for phrase in listed("not")})
        same = {stems(self.named(old.split())): stems(self.named(new.split())) for old, new in pairs("same").items()}
        self.same = Phrases({old: new for old, new in same.items() if old != new})
        self.light, self.weak = ({stem(word) for word in listed(kind)} for kind in ("light", "weak"))
        self.drop = Phrases({stems(phrase.split()): () for phrase in listed("drop")})
        self.asked: dict[tuple[str, ...], Reading] = {}  # the players' own questions
        self.patterns: dict[frozenset[str], Reading] = {}  # by the words that matter, of all phrases
        self.known_for: dict[str, int] = {}  # the objects that are known for a word
        self.note_wordings()
        self.rank = {pattern: number for number, pattern in enumerate(self.patterns)}
        self.starting: dict[str, list[frozenset[str]]] = {}  # patterns by one of their words
        for pattern in self.patterns:
            self.starting.setdefault(min(pattern), []).append(pattern)

    def note_wordings(self) -> None:
        """All wordings of the properties. Of two that are the same without what does not count, the one that loses the
        fewest words by it holds: `cold` is what feels cold, not what is worn `when it is cold`."""
        found = []
        for thing in load_properties():
            reading = Reading(thing.mask, EVERYTHING & ~thing.mask & ~thing.maybe)
            for words in map(normalise, map(rewrite, thing.questions)):
                self.asked[tuple(self.strip(words))] = reading
            for phrase in map(normalise, (*thing.questions, *thing.also)):
                pattern = frozenset(self.content(self.negate(self.named(phrase))))
                if pattern and "not" not in pattern and (len(phrase) == 1 or not pattern <= self.light):
                    lost = len([word for word in phrase if word not in listed("frame word")]) - len(pattern)
                    found.append((lost, len(found), pattern, reading))
            if thing.mask.bit_count() <= FEW:
                for phrase in map(normalise, (*thing.questions, *thing.also, *thing.known)):
                    for word in self.content(self.negate(self.named(phrase))):
                        self.known_for[word] = self.known_for.get(word, 0) | thing.mask
        for _, _, pattern, reading in sorted(found, key=itemgetter(0, 1)):
            self.patterns.setdefault(pattern, reading)

    def named(self, words: list[str], names: dict[str, int] | None = None) -> list[str]:
        """With `#12` for each name of object 12, also one of two words that is written in one, or of one in two."""
        names = self.objects if names is None else names
        found, place, nouns = [], 0, [singular(word) for word in words]
        while place < len(words):
            number, used = self.name_at(nouns[place : place + 6], names)
            found += words[place : place + used] if number in (None, -1) else [f"#{number}"]
            place += used
        return found

    def name_at(self, nouns: list[str], names: dict[str, int]) -> tuple[int | None, int]:
        """The number of the longest name that these words begin with, and how many of them it takes."""
        for length in range(min(self.longest.get(nouns[0], 0), len(nouns)), 1, -1):
            if (number := names.get(" ".join(nouns[:length]))) is not None:
                return number, length
        if len(nouns) > 1 and min(len(nouns[0]), len(nouns[1])) > 2 and (number := names.get(nouns[0] + nouns[1])):
            return number, 2
        return names.get(nouns[0]), 1

    def content(self, words: list[str]) -> list[str]:
        """The words that matter, as stems, synonyms replaced."""
        return self.drop(self.same(list(stems(words))))

    def strip(self, words: list[str]) -> list[str]:
        """Without what says nothing before the question, after it and in it."""
        words = self.aside(words)
        for place, pair in enumerate(zip(words, words[1:-1], strict=False), 2):
            if pair[1] == "whether" or pair[1] == "if" and pair[0] in listed("ask whether"):
                return self.strip(words[place:])
        lengths = range(9, 0, -1)
        while length := next((n for n in lengths if n < len(words) and tuple(words[:n]) in self.before), 0):
            words = words[length:]
        while length := next((n for n in lengths if n < len(words) and tuple(words[-n:]) in self.after), 0):
            words = words[:-length]
        return words

    def read_guess(self, words: list[str]) -> Reading | None:
        """A sentence that asks for the thing itself, or whether it is one of several; None if it asks otherwise.

        Of `a football helmet` it is known only that it is nothing but a helmet.
        """
        if not any(word.startswith("#") for word in words):
            return None
        asked, denied = numbers_of(words)
        sentence = " ".join([word for word in words if word != "not"])
        while (shorter := LIST.sub(r"\1", sentence)) != sentence:  # `a cat, a dog or a horse`: the first is enough
            sentence = shorter
        found = GUESS.fullmatch(self.between.sub("", sentence))
        before, after, number = found["before"].split(), found["after"].split(), int(found["number"])
        if not self.names_it(before, after):
            return None
        if number >= len(OBJECTS) and (denied or self.beside(before) or not self.leads_to_name(before)):
            return None
        made = number < len(OBJECTS) and OBJECTS[number].category in listed("model") and listed("material")
        if found["names"] or made and made & set(sentence.split()):  # `a football helmet`, `a wooden horse`
            return None if denied else Reading(0, EVERYTHING & ~(1 << number))
        bare = before and before[-1] not in listed("article")
        if "#" in found["after"] or bare and number in self.materials:
            return None
        positive, negative = mask_of(asked), mask_of(denied)
        yes = (positive if asked else EVERYTHING) & ~negative
        return Reading(yes, EVERYTHING & ~yes, asked[0] if positive.bit_count() == 1 and not denied else -1)

    def leads_to_name(self, before: list[str]) -> bool:
        """Whether a name is said to be the answer after these words: `OMG, is it a`, `my money is on the`."""
        return not before or bool(self.leading.fullmatch(" ".join(before)))

    def names_it(self, before: list[str], after: list[str]) -> bool:
        """Whether a name between these words is said to be the answer, not as in `Does a … eat it?`."""
        if self.beside(after):
            return False
        if self.leads_to_name(before):
            return True
        return not self.beside(before) and bool(set(before + after) & listed("says what it is"))

    def cover(self, words: set[str]) -> tuple[Reading, int, int]:
        """(what the properties found in the words say, how many words these explain, how many not)."""
        found, left = [], set(words)
        while fitting := [pattern for word in left for pattern in self.starting.get(word, ()) if pattern <= left]:
            # The longest; of equal ones the first in the table. Weak words say something only by themselves.
            pattern = min(fitting, key=lambda pattern: (pattern <= self.weak, -len(pattern), self.rank[pattern]))
            if found and pattern <= self.weak:
                break
            found.append(pattern)
            left -= pattern
        if "than" in left:  # compared with something unknown
            return NOT_UNDERSTOOD, 0, len(words)
        reading = all_of([self.patterns[pattern] for pattern in found])
        if len(found) > 1 and not reading.yes:  # they exclude each other
            if len(found[0]) == len(found[1]):
                return NOT_UNDERSTOOD, 0, len(words)
            reading, left = self.patterns[found[0]], words - found[0]  # the others are part of what the longest says
        return reading, len(words) - len(left), len(left - self.light - self.weak)

    def read_properties(self, words: list[str]) -> Reading | None:
        """The properties in the words, without those after a negation; None if not understood."""
        readings, explained = [], 0
        while found := find_comparison(words):
            readings.append(found.reading.opposite() if "not" in words[: found.start] else found.reading)
            words = words[: found.start] + words[found.end :]
            explained += 2
        positive, negative, negated = set(), set(), False
        for word in self.content(words):
            if word == "not":
                negated = not negated
            else:
                (negative if negated else positive).add(word)
        (said, num_positive, left), (denied, num_negative, num_left) = self.cover(positive), self.cover(negative)
        explained, left = explained + num_positive + num_negative, left + num_left
        if not explained or explained < MIN_COVERED * (explained + left):
            return None
        readings += [said] if num_positive else []
        readings += [denied.opposite()] if num_negative else []
        return all_of(readings)

    def read_alternatives(self, words: list[str]) -> Reading | None:
        """As `read_properties`, with `or` between some of them."""
        whole = [word for word in words if word != "or"]
        parts = [[]]
        for word in words:
            parts.append([]) if word == "or" else parts[-1].append(word)
        if len(parts) == 1:
            return self.read_properties(whole)
        inverted = "not" in parts[0] and not any("not" in part for part in parts[1:])  # not (a or b)
        parts = [[word for word in part if not inverted or word != "not"] for part in parts]
        readings = [self.read_properties(part) for part in parts]
        if None in readings:
            return self.read_properties(whole)
        return any_of(readings).opposite() if inverted else any_of(readings)

    def read_sentence(self, text: str) -> Reading | None:
        """One sentence; None if it is not understood."""
        words = self.words(text)
        stripped = self.strip(words)
        if reading := self.asked.get(tuple(stripped)):
            return reading
        if reading := read_spelling(stripped) or self.find_guess(text):
            return reading
        words = self.named(self.negate(stripped))
        if not words or words[0] in OPEN:
            return None
        ends = [len(words)] + [n for n in range(len(words) - 1, 2, -1) if words[n] in listed("clause")]
        readings = (self.read_alternatives(words[:end]) for end in ends)
        said = next((reading for reading in readings if reading and reading.understood), None)
        known = None if find_comparison(words) else self.read_associations(words)
        if said and known:  # whatever properties the words resemble
            return Reading(said.yes | known.yes, said.no & ~known.yes)
        return said or known

    def read_associations(self, words: list[str]) -> Reading | None:
        """Yes for the objects that are known for most of the words, no for those that are known for none; None if the
        words tell too little."""
        content = set(self.content(words)) - self.light - self.weak
        known = [self.known_for[word] for word in content if word in self.known_for]
        told = [sum(log(len(OBJECTS) / mask.bit_count()) for mask in known if mask >> number & 1)
                for number in range(len(OBJECTS))]
        if {"not", "than"} & content or max(told) < TELLING:
            return None
        yes = sum(1 << number for number, much in enumerate(told) if much >= CLEARLY * max(told))
        return Reading(yes, sum(1 << number for number, much in enumerate(told) if not much))

    def read(self, text: str) -> Reading:
        """A whole text: the object that its sentences name, if that is one; else what its last question that is
        understood says."""
        readings = [reading for piece in SENTENCES.split(text) if (reading := self.read_sentence(piece))]
        guesses = [reading for reading in readings if reading.guess >= 0]
        if len({reading.guess for reading in guesses}) == 1:
            return guesses[0]
        return readings[-1]._replace(guess=-1) if readings else NOT_UNDERSTOOD

    def find_guess(self, text: str) -> Reading | None:
        """The guess in a sentence, with a description after or before it, which may name other things: `Is it a fork,
        the thing next to the knife?`, `That thing with wings, the airplane?`; not in `Is it a cat, a dog, a cow?`."""
        if not self.names_in(text):
            return None
        parts = set().union(*map(self.names_in, text.split(",")))  # `a dress, belt` are two things
        guess = self.read_guess(self.prepare(text))
        if guess and (guess.guess < 0 or len([name for name in parts if name < len(OBJECTS)]) < 2):
            return guess
        for boundary in self.described.finditer(text):
            before, after = text[: boundary.start()], text[boundary.end() :]
            more = re.match(MORE_NAMES, " ".join(self.prepare(after)))
            guess = None if more else self.read_guess(self.prepare(before))
            if guess and (guess.guess >= 0 or not guess.yes):  # an object or another thing, not one of several
                return guess
            alone = boundary[0].strip() and not self.names_in(before)
            guess = self.read_guess(self.prepare(after)) if alone else None
            if guess and guess.guess >= 0:
                return guess
        return None

    def prepare(self, text: str) -> list[str]:
        """Its words without those that say nothing, with `not` for all negations and a number for each name."""
        return self.named(self.negate(self.strip(self.words(text))), self.names)

    def names_in(self, text: str) -> set[int]:
        """The numbers of the objects and other things that are named."""
        return {int(word[1:]) for word in self.named(self.words(text), self.names) if word.startswith("#")}

    def words(self, text: str) -> list[str]:
        """The words of a text, spelled as the tables spell them."""
        return [correct(word) for word in normalise(rewrite(text))]


@cache
def matcher() -> Matcher:
    """One object for all games."""
    return Matcher()


def as_heard(action: str) -> str:
    """The first line of an action: what stands after it would be another turn."""
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
