"""The oracle of guess_city: what is true of the cities, what a question means, and how it is answered without a leak.

Everything that is said stands in text files beside this module: `guess_city_cities.txt` and `guess_city_countries.txt`
hold the facts, `guess_city_topics.txt` the topics, the patterns by which they are recognised, and the sentences.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import acos, cos, radians, sin
from pathlib import Path
from typing import Any
from zlib import crc32

CITIES_FILE, COUNTRIES_FILE, TOPICS_FILE = FILES = tuple(
    Path(__file__).with_name(f"guess_city_{name}.txt") for name in ("cities", "countries", "topics"))
MAX_CHARS = 400  # of a question: what is behind them is not read
NUMBERS = ("altitude", "millions", "equator", "borders")  # their codes are lower bounds
COLUMNS = {
    "where": ("latitude", "longitude", "altitude", "millions", "capital", "rank", "coast", "water", "terrain"),
    "weather": ("climate", "hottest", "snow", "rain", "quakes", "metro", "port", "airport", "green"),
    "past": ("founded", "renamed", "history", "architecture", "industry", "known"),
    "culture": ("sight", "food", "culture"),
}

# --- Text ---

SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
WORD_NUMBERS = dict(zip(SMALL, range(16), strict=True)) | {"twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100}
JOINED = re.compile(r"\b(pacific|atlantic|indian|arctic|arabian|black|red|yellow|pearl|java|north|dead|caspian) "
                    r"(ocean|sea|river)\b")  # `yellow river` is not any river, nor `Indian Ocean` in India
NO_COUNTRY = re.compile(r"\b(north|south|latin|central) americ\w*|\bnew mexico\b|\bthe americas\b|\bindianocean\b|"
                        r"\bchina ?towns?\b|\bbay of bengal\b|\bfrench (fries|colonial)\b|\bturkey (meat|sandwich)\b")
NO_CITY = re.compile(r"\b(el|san) salvador\b|\brio (grande|de la plata)\b|\bsantiago de (cuba|compostela|los cabal\w+)")
YES_NO = re.compile(r"(so |and |but |then |also |well |ok |now )*(is|isn|are|aren|was|wasn|were|does|doesn|don|did|"
                    r"do(?! you know (what|which|where|when|how))|has|hasn|have|can(?! you)|could(?! you)|will|it s|"
                    r"would (it|that|you (call|say|describe))|"
                    r"its country|am i (right|correct)|the city is|it is|it has|people)\b")
# How cities are compared: the column, the sign of the difference that makes it true, what says so.
COMPARISONS = tuple((column, sign, re.compile(rf"\b(?:{words})\b")) for column, sign, words in (
    ("latitude", 1, "north (of|than)"), ("latitude", -1, "south (of|than)"), ("longitude", 1, "east (of|than)"),
    ("longitude", -1, "west (of|than)"), ("equator", -1, "(closer|nearer) to the equator"),
    ("equator", 1, "(farther|further) from the equator"), ("altitude", 1, "higher"), ("altitude", -1, "lower"),
    ("millions", 1, "bigger|larger|(more|greater) (people|inhabitants|populat\\w+|populous)"),
    ("millions", -1, "smaller|(fewer|less|lower) (people|inhabitants|populat\\w+|populous)")))
SAME = {"size": "millions", "part": "region", "weather": "climate", "faith": "religion", "money": "currency"}
CLOSE = re.compile(r"\b(near|close to|far from)\b")
COMPARED = re.compile(r"\b(near|close to|far from|same \w+ as|neighbo\w+)\b")


@lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """Lower-case words with one space between, without accents and marks; points stay within numbers."""
    text = unicodedata.normalize("NFKD", text.replace("ı", "i")).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"(?<=\d)[, ](?=\d{3}(?!\d))", "", text)
    return re.sub(r"[^a-z0-9.]+|(?<!\d)\.|\.(?!\d)", " ", text).strip()


# --- Tables ---


@dataclass(frozen=True)
class Topic:
    """Something that can be asked: how to recognise it, how to ask it, how it is answered."""

    match: re.Pattern[str] | None
    ask: list[str]
    test: list[str]
    say: list[str]
    no: str
    codes: dict[str, tuple[str, re.Pattern[str]]]  # code -> (phrase, what asks for it)
    classes: list[tuple[str, re.Pattern[str]]]  # of plain words: (phrase or *, what it stands for)

    def phrase(self, value: str) -> str:
        """What an open question about the topic is told, for a value of the tables; raises KeyError."""
        if not self.classes:
            return " and ".join(self.codes[code][0] for code in ([value] if value in self.codes else value.split(", ")))
        for phrase, pattern in self.classes:
            if found := pattern.search(value):
                return found.group() if phrase == "*" else phrase
        raise KeyError(value)


@dataclass(frozen=True)
class Country:
    """A country: what it is called, words that give it away, and what holds for its cities."""

    names: list[str]
    stems: list[str]
    leaks: list[str]
    values: dict[str, str]


@dataclass(frozen=True)
class City:
    """A city: its names, its country, and its value for each topic."""

    name: str
    names: list[str]
    country: Country
    values: dict[str, str]
    number: int
    told: dict[str, str] = field(default_factory=dict)  # topic -> phrase

    def distance(self, other: "City") -> float:
        """Kilometres along the surface of the earth."""
        a, b, c, d = (radians(float(city.values[key])) for city in (self, other) for key in ("latitude", "longitude"))
        return 6371 * acos(min(1.0, sin(a) * sin(c) + cos(a) * cos(c) * cos(b - d)))


def read_sections(path: Path, mark: str) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of the sections that start with `mark`; comments and empty lines are left out."""
    for section in re.split(rf"^{re.escape(mark)} ?", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        yield title.strip(), [line for line in lines if line.strip() and not line.startswith("# ")]


@cache
def topics() -> dict[str, Topic]:
    """The topics in the order in which a question is compared with them."""
    found = {}
    for name, lines in read_sections(TOPICS_FILE, "##"):
        keys, codes, classes = {"match": "", "ask": "", "test": "", "say": "", "no": ""}, {}, []
        for line in lines:
            key, colon, rest = line.partition(": ")
            if colon and key in keys:
                keys[key] += ("|" if keys[key] and key == "match" else "") + rest
            elif " <- " in line:
                phrase, _, pattern = line.partition(" <- ")
                classes.append((phrase, re.compile(pattern)))
            else:
                code, phrase, pattern = re.fullmatch(r"(.+?) = (.+) ~ (.+)", line).groups()
                codes[code] = phrase, re.compile(rf"\b(?:{pattern})")
        split = {key: [text for text in keys[key].split(" | ") if text] for key in ("ask", "test", "say")}
        match = re.compile(rf"\b(?:{keys['match']})") if keys["match"] else None
        found[name] = Topic(match, **split, no=keys["no"] or "No,", codes=codes, classes=classes)
    return found


def pairs(text: str) -> dict[str, str]:
    """`key: value; key: value` as a dictionary."""
    return dict(pair.strip().split(": ", 1) for pair in text.split("; ") if ": " in pair)


@cache
def countries() -> dict[str, Country]:
    """Countries by name; those without a city of the list have no values."""
    found = {}
    for title, lines in read_sections(COUNTRIES_FILE, "["):
        names, _, stems = title.partition("] ")
        if names == "others":
            found.update({name: Country([name], [], [], {}) for name in stems.split(", ") if name not in found})
            continue
        values = {key: value for line in lines for key, value in pairs(line).items()}
        stems, names = stems.split(", "), names.split("; ")
        found[values.pop("key", names[0])] = Country(names, [stem for stem in stems if stem[0] != "!"],
                                                     [stem.strip("!") for stem in stems], values)
    return found


@cache
def cities() -> tuple[City, ...]:
    """The hundred cities, in the order of the file."""
    (_, rows), *tables = read_sections(CITIES_FILE, "##")
    found = []
    for number, row in enumerate(rows):
        name, others, country, *own = row.split(" | ")
        names = [name, *(other for other in others.split(", ") if other != "-")]
        home = countries()[country]
        values = dict(home.values)
        for title, lines in tables:
            first, *cells = lines[number].split(" | ")
            if first != name:
                raise ValueError(f"{CITIES_FILE}: {first} stands where {name} should")
            values.update(zip(COLUMNS[title.partition(":")[0]], cells, strict=True))
        latitude, longitude = float(values["latitude"]), float(values["longitude"])
        values["hemisphere"] = f"{'north' if latitude > 0 else 'south'} and {'east' if longitude > 0 else 'west'}"
        values["equator"] = str(abs(latitude))
        values["borders"] = str(0 if values["borders"] == "none" else len(values["borders"].split(", ")))
        values = {"olympics": "no"} | values | pairs(" ".join(own))
        city = City(name, names, home, values, number)
        for topic, about in topics().items():
            if about.codes or about.classes:
                if topic in NUMBERS:
                    code = max(filter(lambda low: float(low) <= float(values[topic]), about.codes), key=float)
                    values[topic + " code"] = code
                city.told[topic] = about.phrase(values.get(topic + " code", values[topic]))
        found.append(city)
    return tuple(found)


def alternatives(words: list[str], end: str = r"\b") -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))}){end}")


@cache
def name_patterns() -> tuple[dict[str, Any], re.Pattern[str], dict[str, Any], re.Pattern[str]]:
    """What finds cities and countries in folded text, and whom each word stands for: names longest first."""
    cities_of = {fold(name): city for city in cities() for name in city.names if not is_short(name)}
    words: dict[str, set[str]] = {}
    for name, country in countries().items():
        for word in [*country.names, *country.stems]:
            if not is_short(word):
                words.setdefault(fold(word), set()).add(name)
    adjective = r"(?:n|an|ian|ean|ese|i|s|ish)?\b"
    return cities_of, alternatives(list(cities_of)), words, alternatives(list(words), adjective)


def is_short(name: str) -> bool:
    """Whether a name is one like `LA`, which is a name in capitals only."""
    return len(name) < 5 and name.isupper()


# --- Understanding ---


@dataclass(frozen=True)
class Question:
    """What a question is understood as."""

    kind: str  # topic, guess, several, countries, compare, refuse, unknown; nothing: it is no line
    folded: str
    topic: str = ""
    cities: frozenset[str] = frozenset()  # that it names, of the list
    countries: frozenset[str] = frozenset()
    yes_no: bool = False

    key: int = field(init=False)  # chooses the form of the answer, together with the game's seed

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", crc32(self.folded.encode()))

    @property
    def understood(self) -> bool:
        return self.kind not in ("unknown", "nothing")

    @property
    def free(self) -> bool:
        """Whether a language model may answer it: it names no city and does not ask for secrets."""
        return self.kind in ("topic", "countries", "unknown") and not self.cities

    def names(self, city: "City") -> bool:
        """Whether it wins: it names the city, and no other one of the list."""
        return self.cities == {city.name}


def named_cities(text: str, folded: str) -> list[City]:
    """The listed cities that are named, as whole words and each once."""
    by_name, pattern, _, _ = name_patterns()
    found = {by_name[name].number for name in pattern.findall(NO_CITY.sub(" ", folded))}
    if found and text.isupper():  # `LA HABANA` is not in Los Angeles
        return [cities()[number] for number in sorted(found)]
    found |= {city.number for city in cities() for name in city.names
              if is_short(name) and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}
    return [cities()[number] for number in sorted(found)]


def named_countries(text: str, folded: str) -> frozenset[str]:
    """The countries that are named, by their names or by adjectives."""
    _, _, by_word, pattern = name_patterns()
    found: set[str] = set()
    for match in pattern.finditer(NO_COUNTRY.sub(" ", folded)):
        word = match.group()
        while word not in by_word:
            word = word[:-1]
        found |= by_word[word]
    for name, country in countries().items():
        if any(is_short(short) and re.search(rf"\b{short}\b", text) for short in country.names):
            found.add(name)
    return frozenset(found)


@lru_cache(maxsize=100_000)
def understand(action: str) -> Question:
    """What the question is about. Cities come first, then secrets, countries and topics in their order."""
    line, newline, _ = action.partition("\n")
    text = line[:MAX_CHARS]
    folded = JOINED.sub(r"\1\2", fold(text))
    yes_no = bool(YES_NO.match(folded))
    if not newline or line.endswith("…") or not folded:  # `…` marks what was cut off
        return Question("nothing", folded)
    names = frozenset(city.name for city in named_cities(text, folded))
    if len(names) > 1:
        return Question("several", folded, cities=names)
    compared = COMPARED.search(folded) or any(words.search(folded) for _, _, words in COMPARISONS)
    if names and (compared or " than " in folded):
        return Question("compare" if compared else "unknown", folded, cities=names)
    topic = next((name for name, about in topics().items() if about.match and about.match.search(folded)), "")
    if names and not re.match(r"(what|which|when|how|who|where|why)\b(?! about)", folded):
        return Question("guess", folded, cities=names)
    if names:
        return Question("topic" if topic else "unknown", folded, topic, cities=names)
    if topic != "renamed" and topics()["refuse"].match.search(folded):
        return Question("refuse", folded)
    named = named_countries(text, folded)
    if named and topic not in ("language", "currency", "colony", "borders", "food", "music", "festival", "script"):
        kind = "unknown" if CLOSE.search(folded) else "countries"  # near a country is not in it
        return Question(kind, folded, countries=named)
    if topic:
        return Question("topic", folded, topic, countries=named, yes_no=yes_no)
    if re.match(r"(?i:is it|is this|is the city|are you( thinking of)?|could it be|i guess|my guess( is)?|it is|it's)"
                r"(?i: the city of| perhaps| maybe| called)? [A-Z]", text):
        return Question("guess", folded)  # a city that is not of the list, most likely
    return Question("unknown", folded)


# --- Answers ---


def compare(city: City, question: Question) -> bool | None:
    """Whether the city is to the one that is named as the question says; None if the tables do not hold that."""
    other = next(other for other in cities() if other.name in question.cities)
    said = question.folded
    for column, sign, words in COMPARISONS:
        if words.search(said):
            return sign * (float(city.values[column]) - float(other.values[column])) > 0
    if match := re.search(r"\bsame (\w+) as\b", said):
        topic = SAME.get(match.group(1), match.group(1))
        if topic in ("country", "nation", "state"):
            return city.country is other.country
        return city.told[topic] == other.told[topic] if topic in city.told else None
    return (city.distance(other) < 300) != ("far from" in said)


def numeric_truth(topic: str, value: float, folded: str) -> bool | None:
    """Whether a number is as a question says, `more than five million`; None if it names no number."""
    if topic not in ("millions", "altitude"):
        return None
    found = re.search(rf"\b(\d+(?:\.\d+)?|{'|'.join(WORD_NUMBERS)}|a|half a)\b ?(million|m\b|thousand|k\b|hundred)?",
                      folded)
    if not found or found.group(1) == "a" and not found.group(2):
        found = re.search(r"\b(\d+(?:\.\d+)?)()", folded)
    if not found:
        return None
    word = found.group(1)
    number = 0.5 if word == "half a" else 1.0 if word == "a" else float(WORD_NUMBERS.get(word, 0) or word)
    number *= {"million": 1e6, "m": 1e6, "thousand": 1e3, "k": 1e3, "hundred": 1e2}.get(found.group(2) or "", 1)
    if topic == "millions":
        value *= 1e6
    elif "feet" in folded or "foot" in folded:
        value *= 3.281
    if "m" == found.group(2) and topic == "altitude":
        number /= 1e6
    if re.search(r"\b(less|fewer|under|below|smaller|lower|at most)\b", folded):
        return value < number
    if re.search(r"\b(more|over|above|bigger|larger|greater|higher|at least|exceed\w*|than)\b", folded):
        return value > number
    return 0.75 * number <= value <= 1.35 * number


@cache
def all_tongues() -> re.Pattern[str]:
    """Names of languages."""
    words = {tongue for city in cities() for tongue in city.values["tongues"].split(", ")}
    return alternatives([*sorted(words), "dutch", "swahili", "greek", "hebrew", "polish", "swedish", "mongolian"])


def truth(city: City, question: Question) -> bool | None:
    """Whether what a yes-or-no question says holds for the city; None if that cannot be told."""
    topic, about = question.topic, topics()[question.topic]
    if not question.yes_no:
        return None
    if topic == "language" and (tongues := all_tongues().findall(question.folded)):
        return any(tongue in city.values["tongues"].split(", ") for tongue in tongues)
    if topic in NUMBERS and (known := numeric_truth(topic, float(city.values[topic]), question.folded)) is not None:
        return known
    if about.classes:
        words = {word[:5] for word in question.folded.split() if word not in PLAIN and len(word) > 2}
        fine = fold(f"{city.values[topic]} {city.told[topic]}").split()
        return any(word.startswith(said) if len(said) > 3 else word == said for said in words for word in fine
                   ) if words else None
    # `A king or a queen` asks one thing, `wine or beer` two, and to that yes or no is no answer.
    sides = [{code for code, (_, pattern) in about.codes.items() if pattern.search(side)}
             for side in question.folded.split(" or ")]
    asked = sides[0]
    if not asked or any(side != asked for side in sides):
        return None
    value = city.values.get(topic + " code", city.values[topic])
    return bool(asked & ({value} if value in about.codes else set(value.split(", "))))


# Words that say nothing of what a yes-or-no question asks for.
PLAIN = frozenset(
    "tourist tourists tourism destination attraction visitors rich poor wealthy strong worth "
    "is are was were does did has have can the and its any there that this they them city famous known for with "
    "from many much most big large great important main very really people people's local typical popular best "
    "good well food foods dish sight sights landmark building buildings history industry economy culture nature "
    "lot lots eat see visit called produce produced based place country some one like often nice beautiful "
    "special been ever used use two red green golden white old new giant huge tall small modern who what when "
    "where which how also near nearby all first other between".split())


def forms(city: City, question: Question) -> tuple[str, ...]:
    """The answers among which a game chooses; they differ in form only."""
    kind = "unknown" if question.kind == "nothing" else question.kind
    if question.names(city):
        kind = "win"
    elif kind == "compare":
        holds = compare(city, question)
        kind = "unknown" if holds is None else "so" if holds else "not so"
    elif kind == "guess":
        kind = "wrong"
    elif kind == "countries":
        right = any(countries()[name] is city.country for name in question.countries)
        kind = "right country" if right else "wrong country"
    elif kind == "topic":
        about = topics()[question.topic]
        if question.topic == "borders" and question.countries:
            borders = city.country.values["borders"].split(", ")
            kind = "so" if question.countries & set(borders) else "not so"
            return tuple(topics()[kind].say)
        holds = truth(city, question)
        if about.classes and holds is False:
            return tuple(topics()["not first"].say)
        phrase = city.values[question.topic] if about.classes and holds else city.told.get(question.topic)
        sentences = [form.format(phrase) for form in about.say]
        if holds is None:
            return tuple(sentences)
        before = "Yes," if holds else about.no
        return tuple(f"{before} {sentence[0].lower()}{sentence[1:]}" for sentence in sentences)
    return tuple(topics()[kind].say)


@lru_cache(maxsize=200_000)
def answers(number: int, action: str) -> tuple[str, ...]:
    """The lines with which city `number` may answer an action, behind the filter; they differ in form only."""
    city, question = cities()[number], understand(action)
    return tuple([guard(city, text, question) for text in forms(city, question)])


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
    folded = " / ".join(NO_COUNTRY.sub(" ", JOINED.sub(r"\1\2", fold(each))) for each in (text, joined))
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
    """The answer as a line, or a friendly refusal in the place of one that gives the city away."""
    text = "".join(char for char in text if char.isprintable() or char.isspace())
    text = " ".join(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().split())[:MAX_CHARS]
    if not text or leaks(city, text, question.folded):
        text = topics()["refuse"].say[question.key % 3]
    return text + "\n"
