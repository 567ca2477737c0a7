"""What the oracle of guess_city says: whether a question holds for a city, and in which words it is told.

An answer begins with yes or no only if every word of the question was used; otherwise the fact is told without them.
"""

import re
from functools import cache, lru_cache
from math import atan2, cos, degrees, radians

from envs.guess_city.guard import guard
from envs.guess_city.tables import City, cities, countries, literals, other_cities, particulars, topics, words
from envs.guess_city.understanding import Question, alternatives, fold, pattern, understand

SMALL = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: float(value) for value, word in enumerate(SMALL.split())} | {
    "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "hundred": 1e2, "half": 0.5}
SIZES = {"hundred thousand": 1e5, "hundred million": 1e8, "hundred": 1e2, "thousand": 1e3, "million": 1e6,
         "billion": 1e9, "k": 1e3, "lakh": 1e5, "crore": 1e7}
NUMBER = re.compile(
    rf"\b(?:(\d+(?:\.\d+)?(?!\d)|(?:{'|'.join(NUMBERS)})\b)|an?\b(?= (?:half|hundred|thousand|million|billion)))"
    rf" ?(?:an? )?(?:({'|'.join(SIZES)})s?\b)?")
DIRECTIONS = "east northeast north northwest west southwest south southeast".split()
YEAR = 2025  # of the tables
EXTREME = {"warmth": 8.0, "frost": -10.0}  # how far the hottest and coldest days are from the usual ones
LEAST = {"mean": 2.0, "hot": 2.0, "cold": 2.0}  # smaller differences are not told
SAME = {"time zone": "zone", "size": "millions", "part": "region", "weather": "climate", "faith": "religion",
        "money": "currency"}


# --- Whether it holds ---


@cache
def comparisons() -> list[tuple[str, int, re.Pattern[str]]]:
    """How cities are compared: the column, the sign of the difference that makes it true, what says so."""
    lines = [line.split(" ", 2) for line in words()["comparison"]]
    return [(column, int(sign), re.compile(rf"\b(?:{text})\b")) for column, sign, text in lines]


def named(question: Question) -> City:
    """The city that a question names."""
    return other_cities().get(question.other) or next(city for city in cities() if city.name in question.cities)


def amount(city: City, column: str) -> float:
    """A number for the value of the city: of a code its place in the order of the topic's codes."""
    about, value = topics().get(column), city.values[column]
    return float(value) if not about or about.units else list(about.codes).index(value)


def compare(city: City, question: Question) -> bool | None:
    """Whether the city is to the one that is named as the question says; None if the tables do not hold that."""
    other, said = named(question), question.bare
    if match := re.search(r"\bsame (time zone|\w+) (?:as|like)\b", said):
        topic = SAME.get(match.group(1), match.group(1))
        if topic in ("country", "nation", "state"):
            return city.country is other.country
        return city.told[topic] == other.told[topic] if topic in city.told and other.told else None
    if re.search(pattern("not the city"), said):
        return None
    turned = -1 if re.search(pattern("the other way round"), said) else 1
    found = [(column, turned * sign) for column, sign, says in comparisons() if says.search(said)]
    if len(found) > 1 or any("-" in (city.values[column], other.values.get(column, "-")) for column, _ in found):
        return None
    if found:
        (column, sign), = found
        same_age = column == "age" and city.values["founded"] == other.values["founded"]
        if same_age or column == "zone" and " hour" in said:
            return None
        difference = sign * (amount(city, column) - amount(other, column))
        return " as " in said or None if abs(difference) < LEAST.get(column, 1e-9) else difference > 0
    if re.search(r"\bhours?\b", said) and re.search(r"\b(fl[yi]\w*|planes?)\b", said):
        return numeric_truth("flight", hours_by_plane(city.distance(other)), said)
    if re.search(r"\b(km|kilomet\w+|miles?)\b", said):
        return numeric_truth("sea", city.distance(other), said)
    if re.search(r"\b(near|nearby|close|far)\b", said):
        return (city.distance(other) < 300) != ("far" in said.split())
    return None


def quantities(topic: str, folded: str) -> list[float]:
    """The numbers that a question names, in the unit of the topic's table."""
    (usual, _), *units = topics()[topic].units
    found = []
    for match in NUMBER.finditer(folded):
        digits, size = match.groups()
        before, after = folded[: match.start()], folded[match.end() :]
        amount = 1.0 if digits is None else NUMBERS[digits] if digits in NUMBERS else float(digits)
        if before.endswith(("minus ", "below zero ")):
            amount = -amount
        if topic == "age" and 500 < amount < YEAR and not after.startswith(" years"):
            amount = YEAR - amount  # `before 1500`
        factor = next((factor for factor, unit in units if unit.match(after)), usual)
        found.append((amount, SIZES.get(size, 1.0), factor))
    if len(found) == 2 and found[0][1] == 1:  # `between five and ten million`
        found[0] = (found[0][0], *found[1][1:])
    return [amount * size * factor for amount, size, factor in found]


def numeric_truth(topic: str, value: float, folded: str) -> bool | None:
    """Whether a number is as a question says, `more than five million`; None if it names no number."""
    numbers = quantities(topic, folded)
    if len(numbers) == 2 and " or " not in folded:
        return min(numbers) <= value <= max(numbers)
    if len(numbers) != 1:
        return None
    less, more = [re.search(pattern(said), folded) for said in ("less", "more")]
    if less and more and " or " in folded:  # `older than a thousand years or younger`
        return None
    if less or more:
        return value < numbers[0] if less else value > numbers[0]
    return 0.75 * numbers[0] <= value <= 1.35 * numbers[0]


@cache
def all_tongues() -> re.Pattern[str]:
    """Names of languages."""
    return alternatives([*{tongue for city in cities() for tongue in city.values["tongues"].split(", ")},
                         *words()["tongues"][0].split()])


def words_agree(folded: str, told: str) -> bool | None:
    """Whether a word of the question is among those that are told; None if the question has no telling word."""
    plain = words()["plain"][0].split()
    said = {word[:5] for word in folded.split() if word not in plain and len(word) > 2}
    fine = fold(told).split()
    return any(word.startswith(each) or len(word) > 3 and each.startswith(word) if len(each) > 3 else word == each
               for each in said for word in fine) if said else None


@cache
def quantity_words() -> frozenset[str]:
    """Words of numbers and of comparisons with them."""
    return literals(*words()["less"], *words()["more"], *NUMBERS, *SIZES)


def understood_in_full(city: City, topic: str, question: Question) -> bool:
    """Whether the topic makes something of every word that says something, as a yes or no must."""
    if question.of_players or topic not in topics() or "brief" in topics()[topic].flags:
        return True
    about = [topics()[topic], *(topics()[other] for other in question.topics if "joins" in topics()[other].flags)]
    told = fold(f"{city.values.get(topic)} {city.values.get(f'{topic} also')}")
    left = question.content - quantity_words() if about[0].units else question.content
    return all(word[:5] in told or any(each.uses(word) for each in about) for word in left)


def truth(city: City, topic: str, question: Question) -> bool | None:
    """Whether what a yes-or-no question says holds, or is there beside what is told; None if that cannot be told."""
    holds, also = first_truth(city, topic, question), city.values.get(f"{topic} also")
    told_first = not question.yes_no or question.of_players or re.search(pattern("not besides"), question.bare)
    if holds or told_first or not also:
        return holds
    asked = {code for code, (_, asks) in topics()[topic].codes.items() if asks.search(question.bare)}
    return True if asked & set(also.split(", ")) or words_agree(question.bare, also) else holds


def first_truth(city: City, topic: str, question: Question) -> bool | None:
    """Whether it holds by what an open question about the topic is told."""
    about, folded, value = topics()[topic], question.bare, city.values.get(topic, "-")
    if topic == "particular":
        own = {"everywhere", city.name, *(city.values[key] for key in ("country", "continent", "religion"))}
        told = {bool(places & own) for places, asks in particulars() if asks.search(folded)}
        return told.pop() if len(told) == 1 else None  # several lines may be about several things
    if not question.yes_no or "open" in about.flags or value == "-":
        return None
    if topic == "language" and (tongues := all_tongues().findall(folded)):
        return any(tongue in city.values["tongues"].split(", ") for tongue in tongues)
    if topic == "borders" and question.countries:
        return bool(question.countries & set(city.country.values["borders"].split(", ")))
    if about.units:
        extreme = EXTREME.get(topic, 0.0) if re.search(pattern("at times"), folded) else 0.0
        known = numeric_truth(topic, float(value) + extreme, folded)
        if known is not None:
            return known
    choice = " or " in folded and not question.of_players and not re.search(pattern("not a choice"), folded)
    if about.classes and not about.codes:
        return None if choice or about.units else words_agree(folded, f"{value} {city.told[topic]}")
    # `A king or a queen` asks one thing, `wine or beer` two, and to that yes or no is no answer.
    sides = [{code for code, (_, asks) in about.codes.items() if asks.search(side)} for side in folded.split(" or ")]
    if not choice and not question.of_players:
        sides = [set().union(*sides)]
    if not sides[0] or any(side != sides[0] for side in sides):
        return None
    code = about.code(value)
    values = {code} if code in about.codes else set(re.split(", | and ", value))
    if "all" in about.flags:  # `red and white`: each of them
        said = [match.group() for code in sides[0] for match in about.codes[code][1].finditer(folded)]
        # `Is the flag red and white?` asks for all colours.
        alone = topic == "flag" and re.match("(is|are) the (?!.*(mostly|mainly|partly))", folded)
        return (not alone or len(said) >= len(values)) and all(
            any(about.codes[code][1].search(word) for code in values) for word in said)
    return bool(sides[0] & values)


# --- What is said ---


def forms(city: City, question: Question) -> tuple[str, ...]:
    """The answers among which a game chooses; they differ in form only."""
    kind = {"nothing": "unknown", "guess": "wrong"}.get(question.kind, question.kind)
    if question.names(city):
        kind = "win"
    elif kind in ("compare", "excluded"):
        holds = compare(city, question) if kind == "compare" else city.name not in question.cities
        if holds is None and question.topics:
            return about_topics(city, question)
        kind = "unknown" if holds is None else "so" if holds else "not so"
    elif kind == "distance":
        return distance(city, question)
    elif kind in ("topic", "countries"):
        return about_topics(city, question)
    return tuple(topics()[kind].say)


def distance(city: City, question: Question) -> tuple[str, ...]:
    """Hours in a plane, or kilometres in round numbers and the direction, from the city that is named."""
    other = named(question)
    kilometres = city.distance(other)
    north, east = [float(city.values[key]) - float(other.values[key]) for key in ("latitude", "longitude")]
    shorter = cos(radians(float(city.values["latitude"])))  # than at the equator: a degree of longitude
    angle = degrees(atan2(north, ((east + 180) % 360 - 180) * shorter))
    rounded = int(round(kilometres, -2 if kilometres > 1000 else -1))
    if not rounded:
        return tuple(topics()["unknown"].say)
    if kilometres > 1000 and re.search(pattern("by plane"), question.bare):
        return tuple(form.format(round(hours_by_plane(kilometres))) for form in topics()["flight"].say)
    direction = DIRECTIONS[round(angle / 45) % 8]
    return tuple(form.format(f"{rounded} kilometres to the {direction}") for form in topics()["distance"].say)


def hours_by_plane(kilometres: float) -> float:
    return kilometres / 850 + 0.5


def choose_claim(city: City, question: Question) -> tuple[str, bool | None]:
    """The topic that is answered, and whether what is said of it holds, if every word of the question was used."""
    is_there = any(countries()[name] is city.country for name in question.countries)
    told = [topic for topic in question.topics if city.values.get(topic, "-") != "-"] or question.topics[:1]
    claims = [("country", is_there)] * question.placed + [(name, truth(city, name, question)) for name in told]
    in_full = [claim for claim in claims if understood_in_full(city, claim[0], question)]
    claim = first_settled(in_full if any(map(settles, in_full)) else claims, question)
    if claim not in in_full:
        return claim[0], None
    joined = [claim, *(other for other in in_full if question.placed or "joins" in topics()[other[0]].flags)]
    return next((other for other in joined if other[1] is False), claim) if claim[1] else claim


def first_settled(claims: list[tuple[str, bool | None]], question: Question) -> tuple[str, bool | None]:
    """The first claim that is known to be true or false; the first of all if it is to be told rather than judged."""
    first = claims[0]
    if first[0] in topics() and "open" in topics()[first[0]].flags or first[1] is None and " or " in question.bare:
        return first
    return next(filter(settles, claims), first)


def settles(claim: tuple[str, bool | None]) -> bool:
    """Whether a claim is known to be true or false; what plain words do not name may be there all the same."""
    return claim[1] is True or claim[1] is False and not told_by_words(claim[0])


def told_by_words(topic: str) -> bool:
    """Whether the tables tell of the topic in plain words."""
    about = topics().get(topic)
    return bool(about and about.classes and not about.codes and not about.units)


def about_topics(city: City, question: Question) -> tuple[str, ...]:
    """The answer about the topics of a question."""
    topic, holds = choose_claim(city, question)
    if question.negated and holds is not None:
        return tuple(topics()["not so" if holds else "so"].say)
    if topic == "country":
        return tuple(topics()["right country" if holds else "wrong country"].say)
    about = topics()[topic]
    brief = "brief" in about.flags or topic == "borders" and question.countries
    if holds is False and (told_by_words(topic) or brief and about.no != "No,"):
        return tuple(topics()["not first"].say)
    if holds is not None and (brief or holds and not first_truth(city, topic, question)):
        return tuple(topics()["so" if holds else "not so"].say)
    if topic not in city.told and "{}" in about.say[0]:
        return tuple(topics()["unknown"].say)
    in_full = about.classes and (holds or not question.of_players)
    phrase = city.values[topic] if in_full else city.told.get(topic)
    sentences = [form.format(phrase) for form in about.say]
    if holds is None:
        return tuple(sentences)
    before = "Yes," if holds else about.no
    return tuple(f"{before} {sentence[0].lower()}{sentence[1:]}" for sentence in sentences)


@lru_cache(maxsize=200_000)
def answers(number: int, action: str) -> tuple[str, ...]:
    """The lines with which city `number` may answer an action, checked for leaks; they differ in wording only."""
    city, question = cities()[number], understand(action)
    return tuple([guard(city, text, question) for text in forms(city, question)])
