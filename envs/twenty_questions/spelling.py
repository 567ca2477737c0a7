"""How words are spelled: misspelled ones, and questions about the letters of the object's name."""

import re
from functools import cache
from itertools import groupby
from operator import itemgetter

from rapidfuzz import process
from rapidfuzz.distance import OSA

from envs.twenty_questions.comparisons import Reading, find_comparison
from envs.twenty_questions.language import normalise, singular, sound, stem
from envs.twenty_questions.tables import OBJECTS, all_phrases, load_known

NAMES = [thing.names[0].lower() for thing in OBJECTS]
LETTERS = {"vowel": "aeiou", "consonant": "bcdfghjklmnpqrstvwxyz"}
LETTER = r"(?:(?:a |an |the )?(?:capital )?letter |an? |the )?(vowel|consonant|[a-z])(?: or .*| then| in .*)?"
# Which part of the name a question is about: `Does it start with a B?`
PLACES = {"first": rf".*\b(?:start|begin)\w* (?:off )?(?:with|in|by) {LETTER}|.*first letter (?:\w+ )*?{LETTER}",
          "last": rf".*\bend\w* (?:with|in|on|by) {LETTER}|.*last letter (?:\w+ )*?{LETTER}",
          "any": rf".*letter {LETTER}|(?:is|are) there (?:any )?{LETTER}"
                 rf"|.*\b(?:contain|include|have|has|got)\w* (?:any )?{LETTER}"}
TWICE = r"\b(?:double|repeat\w*|same) (?:\w+ )?letters?\b|\bletters? (?:twice|doubled|repeat)"


@cache
def vocabulary() -> list[str]:
    """The words of the tables."""
    return sorted({word for text in all_phrases() for word in normalise(text) if word.isalpha()})


@cache
def known() -> set[str]:
    """The words that are spelled right, and their stems."""
    words = load_known().union(vocabulary())
    return words | set(map(stem, words))


@cache
def words_by_letter() -> dict[str, list[str]]:
    return {letter: list(words) for letter, words in groupby(vocabulary(), itemgetter(0))}


@cache
def words_by_sound() -> dict[str, str]:
    return {sound(word): word for word in vocabulary()}


def correct(word: str) -> str:
    """The word that a misspelled one is: one that sounds the same, or differs in one letter after the first."""
    if len(word) < 4 or not word.isalpha() or {word, singular(word), stem(word)} & known():
        return word
    if heard := words_by_sound().get(sound(word)):
        return heard
    choices = words_by_letter().get(word[0], [])
    found = process.extractOne(singular(word), choices, scorer=OSA.distance, score_cutoff=1)
    return found[0] if found else word


def holds(matches: list[bool]) -> Reading:
    """Yes for the objects of which it is true, no for the others."""
    yes = sum(1 << number for number, true in enumerate(matches) if true)
    return Reading(yes, sum(1 << number for number, true in enumerate(matches) if not true))


def read_spelling(words: list[str]) -> Reading | None:
    """A question about the letters of the name or their number, its words or syllables; None if it is not one."""
    sentence = " ".join(words)
    for place, pattern in PLACES.items():
        if match := re.fullmatch(pattern, sentence):
            letter = match[match.lastindex]
            parts = {"first": [name[0] for name in NAMES], "last": [name[-1] for name in NAMES], "any": NAMES}[place]
            return holds([bool(set(LETTERS.get(letter, letter)) & set(part)) for part in parts])
    if re.search(TWICE, sentence):
        return holds([bool(re.search(r"(\w)\1", name)) for name in NAMES])
    counted = re.search(r"\b(?:letter|word|syllable)s?\b", sentence) and find_comparison(words)
    return counted.reading if counted else None
