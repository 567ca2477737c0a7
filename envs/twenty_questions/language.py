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


ENDINGS = {"s": "is", "re": "are", "m": "am", "ll": "will", "d": "would", "ve": "have"}


def plain(text: str) -> str:
    """In lower case, without accents and curly apostrophes."""
    text = unicodedata.normalize("NFKD", text).casefold().replace("’", "'").replace("‘", "'")
    return "".join([letter for letter in text if not unicodedata.combining(letter)])


def rewrite(text: str) -> str:
    """With what the table of words rewrites by patterns: `$5` as `5 dollars`, the commas of a list as `or`."""
    text = plain(text)
    for pattern, new in pairs("rewritten").items():
        text = re.sub(pattern, new, text)
    return text


def normalise(text: str) -> list[str]:
    """The words of a sentence in lower case, without accents and contractions; negated auxiliaries in front of their
    subject (`Isn't it …`) lose the negation."""
    text = plain(text)
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
            asks = words[number + 1 : number + 2] and words[number + 1] in listed("subject")
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
        elif word not in ("a", "an"):  # half a pound
            break
        used += 1
    return value or 1.0, used


# Also `It is not food, is it furniture?`, but not `…, is it?`.
ASKS = (r"(?:so |then )?(?:is|are|does|do|can|could|would|will|was|may|might|should|has) "
        r"(?:it|they|the|this|that|you|people|i|we|one|someone)\b[ \w'-]*\w{3}")
SENTENCES = re.compile(rf"[!;:\n]+|(?<=\?)(?!\?)|\.(?!\d)|, (?={ASKS})", re.I)
