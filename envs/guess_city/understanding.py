"""What a question of guess_city means: which city, which country, which topics it is about.

Its patterns stand in `words.txt` and `topics.txt`. In the former `@` is the city that is named, `#` a country.
"""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from zlib import crc32

from rapidfuzz import process
from rapidfuzz.distance import OSA

from envs.guess_city.tables import City, cities, countries, other_cities, particulars, topics, words

MAX_CHARS = 400  # of a question: what comes after them is not read
JOINED = re.compile(r"\b(pacific|atlantic|indian|arctic|arabian|black|red|yellow|pearl|java|north|dead|caspian) "
                    r"(ocean|sea|river)\b")  # `yellow river` is not any river, nor `Indian Ocean` in India


@dataclass(frozen=True)
class Question:
    """What a question is understood as."""

    kind: str  # topic, countries, guess, several, compare, distance, excluded, refuse, unknown, nothing
    folded: str
    bare: str = ""  # without the frame around it, and spelled right
    content: frozenset[str] = frozenset()  # its words but for small ones, and for names of cities and countries
    topics: tuple[str, ...] = ()  # the first is the one that an open question is about
    cities: frozenset[str] = frozenset()  # that it names, of the list
    other: str = ""  # a city that it names, not of the list
    countries: frozenset[str] = frozenset()
    placed: bool = False  # whether it says that the city is in one of these countries
    yes_no: bool = False
    negated: bool = False
    aside: bool = False  # whether the city is named only to be excluded or compared with

    @property
    def key(self) -> int:
        """Chooses the form of the answer, together with the game's seed."""
        return crc32(self.folded.encode())

    @property
    def understood(self) -> bool:
        return self.kind not in ("unknown", "nothing")

    @property
    def free(self) -> bool:
        """Whether a language model may answer it: it names no city and does not ask for secrets."""
        return self.kind in ("topic", "countries", "unknown") and not self.cities

    def names(self, city: City) -> bool:
        """Whether it wins: it names the city, not to exclude it or to compare with it, and no other of the list."""
        return self.cities == {city.name} and not self.aside

    @property
    def of_players(self) -> bool:
        """Whether the data's players ask it, whose answers stay as they are."""
        return self.folded in asked_by_players()


# --- Text ---


@lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """Lower-case words with one space between, without accents and marks, points but in numbers; seas are one word."""
    text = unicodedata.normalize("NFKD", text.replace("ı", "i")).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"(?<=\d)[, ](?=\d{3}(?!\d))", "", text)
    return JOINED.sub(r"\1\2", re.sub(r"[^a-z0-9.]+|(?<!\d)\.|\.(?!\d)", " ", text).strip())


@cache
def pattern(section: str) -> re.Pattern[str]:
    """What matches any line of a section of words.txt, as whole words."""
    return re.compile(rf"(?:{'|'.join(words()[section])})")


@cache
def rewrites() -> list[tuple[re.Pattern[str], str]]:
    """(pattern, wording in its place), in their order."""
    pairs = [line.partition(" -> ") for line in words()["rewrite"]]
    return [(re.compile(rf"\b(?:{before})\b"), after) for before, _, after in pairs]


def simplify(folded: str) -> str:
    """The question without the frame around it, and with one wording for what has many."""
    folded = " ".join(folded.split())
    for before, after in rewrites():
        folded = before.sub(after, folded)
    bare = re.sub(pattern("frame end"), "", folded)
    while (shorter := re.sub(pattern("frame start"), "", bare)) != bare:
        bare = shorter
    return bare or folded


def content(bare: str) -> frozenset[str]:
    """The words that say something."""
    return frozenset(bare.split()) - small_words() - {"@", "#"}


@cache
def small_words() -> frozenset[str]:
    """Words that say nothing."""
    return frozenset(" ".join(words()["small"]).split())


@cache
def asked_by_players() -> dict[str, str]:
    """The questions of the data's players, folded, and the topic that each stands under."""
    return {fold(text): name for name, topic in topics().items() for text in topic.ask + topic.test}


@cache
def spelling() -> frozenset[str]:
    """Words that are spelled right: those of the tables."""
    lines = [*asked_by_players(), *words()["spelling"], *map(fold, countries()), *map(fold, other_cities())]
    return frozenset(" ".join(lines).split()).union(*(topic.vocabulary for topic in topics().values()))


def nearest(word: str, known: Collection[str]) -> list[str]:
    """The known words that differ from it least: by one letter, or by two if it is long."""
    most = 1 if len(word) < 8 else 2
    near = process.extract(word, known, scorer=OSA.distance, score_cutoff=most, limit=5)
    return [found for found, distance, _ in near if len(found) > 3 and distance == near[0][1]]


@lru_cache(maxsize=10_000)
def mend(word: str) -> str:
    """The word without a slip of the hand: the only known one that is near."""
    if len(word) < 4 or word in spelling() or not word.isalpha():
        return word
    near = nearest(word, spelling())
    return near[0] if len(near) == 1 else word


# --- Names ---


def alternatives(names: list[str], end: str = r"\b") -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))}){end}")


def is_short(name: str) -> bool:
    """Whether a name is one like `LA`, which is a name in capitals only."""
    return len(name) < 5 and name.isupper()


@cache
def short_names() -> list[tuple[re.Pattern[str], str]]:
    """(what finds a short name, the name of the city or the country in its place)."""
    named = [(city.name, city.names) for city in cities()]
    named += [(name, country.names) for name, country in countries().items()]
    return [(re.compile(rf"(?<!\w){re.escape(short)}(?!\w)"), name)
            for name, names in named for short in filter(is_short, names)]


def spell_out(text: str) -> str:
    """The text with the full names of cities and countries that it names like `LA`."""
    for short, name in short_names():
        text = short.sub(name, text)
    return text


@cache
def city_names() -> tuple[dict[str, str], re.Pattern[str]]:
    """The cities of the list by their folded names, and what finds these."""
    named = {fold(name): city.name for city in cities() for name in city.names if not is_short(name)}
    return named, alternatives(list(named))


@cache
def country_names() -> tuple[dict[str, set[str]], re.Pattern[str]]:
    """The countries by folded words that name them, and what finds these words and adjectives made from them."""
    named: dict[str, set[str]] = {}
    for name, country in countries().items():
        for word in [*country.names, *country.stems]:
            if not is_short(word):
                named.setdefault(fold(word), set()).add(name)
    return named, alternatives(list(named), r"(?:n|an|ian|ean|ese|i|s|ish)?\b")


@cache
def other_names() -> tuple[dict[str, str], re.Pattern[str]]:
    """The cities that are not of the list, by folded name, and what finds them."""
    named = {fold(name): name for name in other_cities()}
    return named, alternatives(list(named))


def named_cities(folded: str) -> tuple[frozenset[str], str]:
    """The listed cities that are named, as whole words and each once; and the question with `@` in their place."""
    by_name, names = city_names()
    kept = pattern("no city").sub(" ", folded)
    return frozenset(by_name[name] for name in names.findall(kept)), names.sub("@", kept)


def misspelled_city(bare: str) -> str:
    """The city that a guess means whose name has a slip of the hand; none if it may be another place."""
    guess = re.sub(pattern("guess frame"), "", bare)
    by_name, _ = city_names()
    if not 4 < len(guess) < 30 or guess in spelling() or re.search(pattern("other places"), guess):
        return ""
    found = {by_name[name] for name in nearest(guess, list(by_name)) if len(name) > 4}
    return found.pop() if len(found) == 1 else ""


def named_countries(folded: str) -> tuple[frozenset[str], str]:
    """The countries that are named, by their names or by adjectives; and the question with `#` in their place."""
    by_word, names = country_names()
    found: set[str] = set()
    kept = pattern("no country in questions").sub(" ", pattern("no country").sub(" ", folded))
    for match in names.finditer(kept):
        word = match.group()
        while word not in by_word:
            word = word[:-1]
        found |= by_word[word]
    return frozenset(found), names.sub("#", kept)


# --- Meaning ---


@lru_cache(maxsize=100_000)
def understand(action: str) -> Question:
    """What the question is about. Cities come first, then secrets, countries and topics in their order."""
    line, newline, _ = action.partition("\n")
    text = spell_out(line[:MAX_CHARS])
    folded = fold(text)
    if not newline or line.endswith("…") or not folded:  # `…` marks what was cut off
        return Question("nothing", folded)
    if folded in asked_by_players():
        return Question("topic", folded, folded, topics=(asked_by_players()[folded],), yes_no=is_yes_no(folded))
    bare = simplify(folded)
    names, masked = named_cities(bare)
    if len(names) > 1:
        return Question("several", folded, bare, cities=names)
    if names:
        return about_city(masked, folded, bare, names)
    if guess := misspelled_city(bare):
        return Question("guess", folded, cities=frozenset([guess]))
    asked = simplify(fold(re.sub(pattern("preamble"), "", text)))
    mended = simplify(" ".join(map(mend, bare.split())))
    readings = (read_question(text, wording, folded) for wording in (asked, bare, mended))
    return next((question for question in readings if question.understood), Question("unknown", folded, bare))


def is_yes_no(bare: str) -> bool:
    return not re.match(pattern("open question"), bare)


def about_city(masked: str, folded: str, bare: str, cities: frozenset[str] = frozenset(), other: str = "") -> Question:
    """A question that names one city, which stands as `@` in `masked`: of the list, or another one."""
    with_countries = named_countries(masked)[1]
    guessed, excluded, compared = [bool(re.search(pattern(said), with_countries))
                                   for said in ("guessed", "excluded", "compared")]
    aside = excluded or compared and not guessed
    is_long = len(masked.split()) > 7
    found = [topic for topic in matching_topics(masked) if topic != "untold"]
    if found and (not is_yes_no(masked) or " or " in masked or other and is_long):
        kind = "topic"  # `How many hours ahead of @ is it?`
    elif excluded:
        kind = "excluded" if cities and len(masked.split()) < 9 else "unknown"  # of a longer one it is not all
    elif aside:
        kind = "distance" if re.search(pattern("how far"), masked) else "compare"
    else:
        kind = "unknown" if other and is_long and not guessed else "guess"
    return Question(kind, folded, bare, content(with_countries), tuple(found), cities, other, aside=aside)


def read_question(text: str, bare: str, folded: str) -> Question:
    """A question that names no city of the list."""
    named, masked = named_countries(bare)
    found = matching_topics(f"{bare} | {masked}" if named else bare)
    if not (found and "named" in topics()[found[0]].flags) and topics()["refuse"].match.search(bare):
        return Question("refuse", folded, bare)
    if found[:1] == ["untold"]:
        return Question("unknown", folded, bare)
    others, other_pattern = other_names()
    if other := other_pattern.search(bare):
        return about_city(other_pattern.sub("@", bare), folded, bare, other=others[other.group()])
    own_sense = any("countries" in topics()[topic].flags for topic in found[:1])
    placed = bool(named and not own_sense and re.search(pattern("placed"), masked)
                  and not re.search(pattern("near"), masked))
    compared = named and not placed and not own_sense  # `Is it richer than #?` is told how rich it is
    if found or placed:
        yes_no = is_yes_no(bare) and not compared
        negated = bool(re.search(pattern("negated"), bare))
        kind = "topic" if found else "countries"
        return Question(kind, folded, bare, content(masked), tuple(found), countries=named, placed=placed,
                        yes_no=yes_no, negated=negated)
    is_guess = re.match(pattern("unlisted city"), text)  # of a city that is not of the list, most likely
    return Question("guess" if is_guess else "unknown", folded, bare)


def matching_topics(bare: str) -> list[str]:
    """The topics that a question may be about, in their order."""
    wh = re.search(pattern("wh"), bare)
    country, city = re.search(pattern("of the country"), bare), re.search(pattern("of the city"), bare)
    if is_yes_no(bare) and any(asks.search(bare) for _, asks in particulars()):
        return ["particular"]
    found = []
    for name, topic in topics().items():
        if not topic.match or name == "refuse" or not topic.match.search(bare):
            continue
        if wh and wh.group(1) not in topic.wh or country and "city" in topic.flags or city and "country" in topic.flags:
            continue
        found.append(name)
    hidden = {other for name in found for other in topics()[name].hides}
    return [name for name in found if name not in hidden]
