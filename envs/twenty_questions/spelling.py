"""Questions about the object's name: its letters, words and syllables."""

import re

from envs.twenty_questions.comparisons import Reading
from envs.twenty_questions.language import read_number
from envs.twenty_questions.tables import OBJECTS, pairs

NAMES = [thing.names[0].lower() for thing in OBJECTS]
LETTERS = {"vowel": "aeiou", "consonant": "bcdfghjklmnpqrstvwxyz"}
LETTER = r"(?:(?:a |an |the )?(?:capital )?letter |an? |the )?(vowel|consonant|[a-z])(?: or .*| then| in .*)?"
# Which part of the name a question is about: `Does it start with a B?`
PLACES = {"first": rf".*\b(?:start|begin)\w* (?:off )?(?:with|in|by) {LETTER}|.*first letter (?:\w+ )*?{LETTER}",
          "last": rf".*\bend\w* (?:with|in|on|by) {LETTER}|.*last letter (?:\w+ )*?{LETTER}",
          "any": rf".*letter {LETTER}|(?:is|are) there (?:any )?{LETTER}"
                 rf"|.*\b(?:contain|include|have|has|got)\w* (?:any )?{LETTER}"}
ABOUT = r"\b(?:letters?|words?|spell\w*|spelt|name|syllables?|alphabet\w*)\b"
TWICE = r"\b(?:double|repeat\w*|same) (?:\w+ )?letters?\b|\bletters? (?:twice|doubled|repeat)"
NUMBER = "|".join([*pairs("number"), "an?", r"\d+"])
COUNTED = (rf"(?: (\w+ than|over|under|at least|at most|exactly))?((?: (?:{NUMBER}))+)(?: or \w+)? "
           r"(letter|word|syllable)s?\b")


def syllables(word: str) -> int:
    """Groups of vowels, without a silent e."""
    groups = re.findall(r"[aeiouy]+", re.sub(r"(?<=[^l])e\b|(?<=[aeiou]l)e\b|(?<=[^sx])es\b", "", word))
    return max(len(groups) + len(re.findall("io|ia", word)), 1)


def holds(matches: list[bool]) -> Reading:
    """Yes for the objects of which it is true, no for the others."""
    yes = sum(1 << number for number, true in enumerate(matches) if true)
    return Reading(yes, sum(1 << number for number, true in enumerate(matches) if not true))


def read_spelling(words: list[str]) -> Reading | None:
    """A question about the letters of the name; None if it is not one."""
    sentence = " ".join(words)
    for place, pattern in PLACES.items():
        if match := re.fullmatch(pattern, sentence):
            letter = match[match.lastindex]
            parts = {"first": [name[0] for name in NAMES], "last": [name[-1] for name in NAMES], "any": NAMES}[place]
            return holds([bool(set(LETTERS.get(letter, letter)) & set(part)) for part in parts])
    if not re.search(ABOUT, sentence):
        return None
    if re.search(TWICE, sentence):
        return holds([bool(re.search(r"(\w)\1", name)) for name in NAMES])
    return read_count(f" {sentence}")


def read_count(sentence: str) -> Reading | None:
    """`Is it one word?`, `Does it have more than five letters?`"""
    match = re.search(COUNTED, sentence.replace("single", "one").replace("compound", "two"))
    number, used = read_number(match[2].split()) if match else (0, 0)
    if not used:
        return None
    counts = {"word": [len(name.split()) for name in NAMES], "letter": [len(name.replace(" ", "")) for name in NAMES],
              "syllable": [sum(map(syllables, name.split())) for name in NAMES]}[match[3]]
    how = match[1] or ""
    if how in ("more than", "longer than", "over", "at least") or re.search(r"\bor (?:more|longer)\b", sentence):
        return holds([count > number or how in ("at least", "") and count == number for count in counts])
    fewer = re.search(r"\bor (?:fewer|less|shorter)\b", sentence)
    if fewer or how in ("less than", "fewer than", "shorter than", "under", "at most"):
        return holds([count < number or (fewer or how == "at most") and count == number for count in counts])
    return holds([count == number for count in counts])
