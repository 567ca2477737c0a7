"""The guard of guess_city: no answer gives the city or its country away, whoever has said it."""

import re
import unicodedata
from functools import cache

from envs.guess_city.tables import City, cities, topics
from envs.guess_city.understanding import MAX_CHARS, Question, fold, is_short, pattern


@cache
def leak_pattern(number: int) -> re.Pattern[str]:
    """The words, in folded text, that give the city or its country away: names, and all that begins like them."""
    city = cities()[number]
    words = [fold(name) for name in [*city.names, *city.country.names] if not is_short(name)]
    words = [word for word in words if word != "america"] + [fold(stem) for stem in city.country.leaks]
    short = [name for name in [*city.names, *city.country.names] if is_short(name)]
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})|\x00(?:{'|'.join([*short, 'x00'])})\x00")


def leaks(city: City, text: str, allowed: str = "") -> bool:
    """Whether the text says what must not be said, though `allowed`, the question, does not: the name of the city or of
    its country, an adjective of it, either of them spelled, run together or backwards, or what its name begins with."""
    joined = re.sub(r"(?<=\w)[-._*'~|]+(?=\w)", "", text)  # `To-ky-o`
    folded = " / ".join(pattern("no country").sub(" ", fold(each)) for each in (text, joined))
    capitals = re.findall(r"\b[A-Z][A-Z.]*[A-Z]\b", text)
    marked = folded + "".join(f" \x00{word.replace('.', '')}\x00" for word in capitals)
    said = {match.group() for match in leak_pattern(city.number).finditer(marked)}
    if any(word.strip("\x00").lower() not in allowed for word in said):
        return True
    run = re.sub(r"[^a-z]", "", folded)
    spelled = "".join(re.findall(r"(?:\b\w\b ?){3,}", folded)).replace(" ", "")
    for name in {fold(name).replace(" ", "") for name in [*city.names, *city.country.names] if not is_short(name)}:
        hidden = name in spelled or name[::-1] in spelled
        if len(name) > 5:
            hidden = hidden or name in run or name[::-1] in run
        elif len(name) > 3:
            hidden = hidden or name[::-1] in folded.split()
        if hidden and name not in allowed.replace(" ", ""):
            return True
    return bool(re.search(r"\b(begins?|starts?|ends?|rhymes?) (with|in)\b|\bletters?\b(?= [a-z]\b)|\banagram", folded))


def guard(city: City, text: str, question: Question) -> str:
    """The answer as one line, or a polite refusal if it would give the city away."""
    text = "".join(char for char in text if char.isprintable() or char.isspace())
    text = " ".join(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().split())[:MAX_CHARS]
    if not text or leaks(city, text, question.folded):
        text = topics()["refuse"].say[question.key % 3]
    return text + "\n"
