"""English as twenty_questions reads it: words, their stems, numbers, and phrases replaced by others."""

import re
import unicodedata
from functools import cache

from envs.twenty_questions.tables import load_words, pairs

Tokens = tuple[str, ...]


@cache
def listed(kind: str) -> frozenset[str]:
    """The phrases of the table of words under this kind."""
    return frozenset(load_words()[kind])


@cache
def singular(word: str) -> str:
    """A noun without the ending of its plural; the same for any form of it."""
    if (irregular := pairs("singular").get(word)) is not None:
        return irregular
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


@cache
def stem(word: str) -> str:
    """What the forms of a word have in common, roughly; names of objects (`#12`) stay as they are."""
    if word.startswith("#"):
        return word
    word = singular(word.removesuffix("'s").replace("'", ""))
    if word in listed("stem"):
        return word
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and re.search("[aeiouy]", base) and not word.endswith("eed"):
            word = base[:-1] if base[-1] == base[-2] and base[-1] not in "lsz" else base
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


@cache
def sound(word: str) -> str:
    """Roughly how a word is pronounced: the same for `elephant` and `elefant`, `knife` and `nife`."""
    for spelled, heard in pairs("sound").items():
        word = re.sub(spelled, heard, word)
    return word


def stems(words: list[str]) -> Tokens:
    return tuple([stem(word) for word in words])


# The commas of `a fruit, a vegetable or an animal`: a few words after each, then a comma or an `or`.
ITEM = r"(?! (?:is|are|does|do|can|could|would|it|yes|no|right|true|correct|not|but|and|or)\b)(?: [a-z0-9'-]+){1,4}?"
LISTED = rf",(?={ITEM}(?:,{ITEM})*,? or )"
COMPARATIVES = "more|less|fewer|(?:big+|small|larg|heav|hev|light|tall|long|short|fast|slow|old|new|cheap|wid)i?er"
REWRITTEN = ((LISTED, " or"), (r"\bits (?=(?:\w+ly )?(?:a|an|the|some|one|my|your)\b)", "it is "),
             (rf"\b({COMPARATIVES}) then\b", r"\1 than"),
             (r"\bwouldn'?t (?=(?:be|happen to be) (?:an?|the|hiding|thinking)\b.*\bwould (?:it|you|they)\W*$)",
              "would "),
             (r"(?<=\d),(?=\d{3})", ""), (r"[$£€] ?(\d[\d.]*\d|\d)", r"\1 dollars"),
             (r"\b(?:is|would|could|can|does) (an? \w+(?: \w+)?) (?:be |weigh )?(\w+er|less|more) than (?:it|this)\b",
              r"is it not \2 than \1"),
             (r"(?<=\w\w\w)[ ,]+(?:rather than|as opposed to|instead of)\b.*", ""),
             (r"\b(?:lost|(?:can|could)(?:n'?t|not| not) (?:do|live|cope|manage|get by)) without\b", "need"),
             (r"\b(\d{4})'?s\b", r"\1"), (r"(\d)-?([a-z])", r"\1 \2"),
             (r"\b((?:\d[\d.]*|a|one|ten|hundred|thousand) \w+) or (?:more|over|above|heavier|longer|taller|up)\b",
              r"upwards of \1"))
ENDINGS = {"s": "is", "re": "are", "m": "am", "ll": "will", "d": "would", "ve": "have"}


def normalise(text: str) -> list[str]:
    """The words of a sentence in lower case, without accents and contractions; negated auxiliaries in front of their
    subject (`Isn't it …`) lose the negation."""
    text = unicodedata.normalize("NFKD", text).casefold().replace("’", "'").replace("‘", "'")
    text = "".join([c for c in text if not unicodedata.combining(c)])
    for pattern, new in REWRITTEN:
        text = re.sub(pattern, new, text)
    words: list[str] = []
    for word in re.findall(r"\d+\.\d+|[a-z0-9]+(?:'[a-z]+)?", text):
        word = pairs("typed").get(word, word)
        if word.endswith("n't"):
            auxiliary = {"can't": "can", "won't": "will", "shan't": "shall"}.get(word, word[:-3])
            words += [auxiliary, "n't"]
        elif (parts := word.partition("'"))[2] in ENDINGS and (parts[2] != "s" or parts[0] in listed("subject")):
            words += [parts[0], ENDINGS[parts[2]]]
        else:
            words += word.split()
    for number, word in enumerate(words):
        if word == "n't":
            asks = words[number + 1 : number + 2] and words[number + 1] in listed("subject") | listed("asked")
            words[number] = "" if asks and (number < 2 or words[number - 2] not in listed("subject")) else "not"
    return [word for word in words if word]


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


def read_number(words: list[str]) -> tuple[float, int]:
    """A number in figures or words, and how many words it takes: none if it is no number."""
    units, powers = pairs("number"), pairs("power")
    value, used = 0.0, 0  # `a` alone is one, `a hundred` a hundred
    for word in words:
        if re.fullmatch(r"\d+(\.\d+)?", word):
            value += float(word)
        elif word in powers:
            value = (value or 1) * float(powers[word])
        elif word in units:
            value += float(units[word])
        elif word not in ("a", "an") and not (used and word == "of"):  # half a pound, a couple of pounds
            break
        used += 1
    return value or 1.0, used


# Also `It is not food, is it furniture?` and `a bangle, I mean a bracelet`, but not `…, is it?`.
ASKS = (r"(?:so |then )?(?:is|are|does|do|can|could|would|will|was|may|might|should|has) "
        r"(?:it|they|the|this|that|you|people|i|we|one|someone)\b[ \w'-]*\w{3}")
CONCLUDES = r",? \bso (?=(?:i|it|is|this|that|my)\b)"  # `It has wings, so it is an airplane.`
SENTENCES = re.compile(rf"[!;:\n]+|(?<=\?)(?!\?)| [-–—]+ |\.(?!\d)|\bi mean\b(?= \w)|{CONCLUDES}|, (?={ASKS})", re.I)
