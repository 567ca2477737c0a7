"""The language of the car dealer's dialogue: what a line says (prices, discounts, cars, questions), and how it is said.

`understand` reads any text, of which it hears the first 1,000 characters, by the regular expressions of
`words.txt`. `say` draws from the lists of `lines.txt`.
"""

import random
import re
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
FILES = tuple(sorted(path for path in FOLDER.iterdir() if path.suffix in (".py", ".txt")))  # the task's
HEARD = 1000  # characters of a line


def read_table(name: str) -> dict[str, list[str]]:
    """{section: rows} of a table; an indented line continues the row above it."""
    text = re.sub("\n +", "", (FOLDER / name).read_text(encoding="utf-8"))
    table: dict[str, list[str]] = {}
    for row in text.splitlines():
        if row.startswith("["):
            table[section := row[1:-1]] = []
        elif row and not row.startswith("#"):
            table[section].append(row)
    return table


def patterns(section: str, start: str = "") -> list[tuple[str, re.Pattern]]:
    """(name, pattern) of each row of words.txt in a section; what it finds begins with `start`."""
    rows = [row.split(" | ", 1) for row in WORDS[section]]
    return [(name, re.compile(f"{start}(?:{with_parts(pattern)})", re.ASCII)) for name, pattern in rows]


def with_parts(pattern: str) -> str:
    """The pattern with the parts that it names in braces."""
    return re.sub(r"\{([a-z]+)\}", lambda match: f"(?:{PARTS[match[1]]})", pattern)


LINES, WORDS = read_table("lines.txt"), read_table("words.txt")
CARS = {kind: [row.split(" | ", 2) for row in WORDS[kind]] for kind in ("brand", "type", "feature")}
BRANDS, TYPES, FEATURES = ([name for name, _, _ in rows] for rows in CARS.values())
BODIES = {"sedan", "convertible", "truck", "SUV"}  # a car is one of them, and may be luxury or electric besides
SAID = {name: said for rows in CARS.values() for name, said, _ in rows}
NAMES = list(SAID)
MENTION = re.compile(r"\b(?:" + "|".join(f"({row[2]})" for rows in CARS.values() for row in rows) + r")(?!\w)")

PARTS = {kind: "|".join(pattern for _, _, pattern in rows) for kind, rows in CARS.items()}
for row in WORDS["part"]:
    part, pattern = row.split(" | ", 1)
    PARTS[part] = with_parts(pattern)
CONTEXT, INTENTS = dict(patterns("context")), patterns("intent", r"\b")
REWRITES = {kind: patterns(kind) for kind in ("spelling", "rewrite", "rewrite numbers")}
ANY_OF = {kind: re.compile("|".join(pattern.pattern for _, pattern in rows), re.ASCII)
          for kind, rows in REWRITES.items()}
ROLES_IN_SENTENCE, ROLES_IN_CLAUSE = patterns("price in sentence"), patterns("price in clause")
CUTS_IN_CLAUSE, NO_ASKING_PRICE = patterns("cut in clause"), patterns("no asking price")
TYPOS, NO_TYPOS, PLAIN_WORDS, OFFER_WORDS, FEATURE_WORDS = (
    set(" ".join(WORDS[kind]).split()) for kind in ("typo", "no typo", "plain words", "offer words", "feature words"))
OFFER_WORDS |= PLAIN_WORDS
FEATURE_WORDS |= OFFER_WORDS | {*re.split("[|]", PARTS["adjective"])}
SLIP = 0.82  # how similar a word has to be to one that is meant

NUMBERS = {word: value for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split())} | {word: 10 * tens for tens, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
SHORT_SCALES = {"k": 1000, "grand": 1000, "mil": 1_000_000, "m": 1_000_000}
NUMBER = "(?:" + "|".join([*sorted(NUMBERS, key=len, reverse=True), *SCALES]) + ")"
IN_WORDS = re.compile(rf"(?<!\d )\b{NUMBER}(?:[ -](?:and )?{NUMBER})*\b")
AMOUNT = re.compile(  # sign, $, number, scale, dollars or percent
    r"(?:(?<![\w.,/:#'-])(-(?=[$\d])|negative )?|(?=\$))(us\$|\$|usd)? ?"
    r"(\d{1,3}(?:[,.']\d{3})+(?!\d)(?:\.\d\d?(?!\d))?|\d+(?:\.\d+)?)"
    r"(?: ?-?(k|grand|thousand|million|mil|m|hundred)(?!\w))?(?!\w)"
    r"(?: ?(%|percent\b|per cent\b|dollars?\b|bucks\b|usd\b|\$))?", re.ASCII)
LEAST_LIKELY = 5000  # in $: an amount that does not sound like a price is none below this
MOST_AMOUNTS = 20  # heard of a sentence
ASKING = ("ask", "maybe", "list")  # the roles of what may be an asking price, or one end of a range
OFF = ("off", "more", "cut", "below")  # the roles of what is taken off a price
OF_OTHERS = ("none other", "none part", "none theirs", "none trade", "none past")  # of what is not the car itself
NO_MONEY = ("none unit", "none each", "none currency")
CORRECTED = ("correct", 0.0)  # among the prices of a line: takes back those before it
IN_DOUBT = ("doubt", 0.0)
RANGE = re.compile(r" ?(?:to|and|or|-) ?")

# --- Understanding ---


class Line(NamedTuple):
    """What a line says; of names those that are offered, denied and asked about.

    Prices are (role, amount) in the order in which they are named. Roles: `ask`; `maybe`, an asking price if it is at
    least half of the last one; `list`; `was`, a list price of the past; `off` the list price, `more` off the last one,
    `below`, off the next one, all of them shares if less than 1; `cut`, an asking price or off the list price; `middle`
    of what was named; `correct`, which takes back those before it; `doubt`, which may be another price.
    """

    num_words: int = 0
    prices: tuple[tuple[str, float], ...] = ()
    amounts: tuple[int, ...] = ()  # all that are of money
    offered: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    asked_about: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()  # see words.txt; those of questions begin with `?`
    mentioned: frozenset[str] = frozenset()  # names that are neither offered nor denied nor asked about
    cars: tuple["Line", ...] = ()  # what it says of each of several cars


def digits(match: re.Match) -> str:
    """A number in words as digits, `forty-two five` as 42500; left as it is where it is none, such as `one two`."""
    words = [word for word in re.split("[ -]", match[0]) if word != "and"]
    if words == ["one"]:
        return match[0]  # a car, as a rule
    value = number_of(words)
    if value is None:
        value = spoken_price([word for word in words if word != "hundred"])
    return match[0] if value is None else str(value)


def number_of(words: list[str]) -> int | None:
    """The number that the words are; None if they are none."""
    total = current = 0
    last = 100  # the next word has to be less
    for word in words:
        if word == "hundred":
            current, last = (current or 1) * 100, 100
        elif word in SCALES:
            total, current, last = total + (current or 1) * SCALES[word], 0, 100
        elif NUMBERS[word] >= last or NUMBERS[word] >= 10 and last < 100:
            return None
        else:
            current, last = current + NUMBERS[word], 10 if NUMBERS[word] >= 20 else 1
    return total + current


def spoken_price(words: list[str]) -> int | None:
    """42500 for `forty-two five`, 42995 for `forty-two nine ninety-five`."""
    for cut in reversed(range(1, len(words))):
        if NUMBERS.get(words[cut - 1], 0) >= 20 and NUMBERS.get(words[cut], 10) < 10:
            continue  # `thirty-nine` is one number
        thousands = number_of(words[:cut])
        hundreds = number_of([words[cut], "hundred", *words[cut + 1 :]])
        if thousands and hundreds and 11 <= thousands < 100 <= hundreds < 1000:
            return 1000 * thousands + hundreds
    return None


class Amount(NamedTuple):
    """An amount of a sentence: where it stands, its value, and what it is about."""

    start: int
    end: int
    value: float
    role: str  # the name of a row `price in …` of words.txt


def rewrite(text: str, kind: str) -> str:
    """The text as the rows of a section of words.txt have it."""
    if ANY_OF[kind].search(text):  # in most texts nothing is found, and a single look is faster
        for instead, pattern in REWRITES[kind]:
            text = pattern.sub(instead, text)
    return text


@lru_cache(maxsize=32_768)
def amounts_in(masked: str) -> tuple[list[tuple[str, float]], list[int]]:
    """(prices, amounts) of a masked sentence, as in `Line`."""
    text = rewrite(IN_WORDS.sub(digits, rewrite(masked, "rewrite")), "rewrite numbers")
    prices, money_amounts, last = [], [], Amount(0, 0, 0.0, "none")
    numbers = (match for match in AMOUNT.finditer(text) if any(match.group(2, 4, 5)) or len(match[3]) > 1)
    matches = list(islice(numbers, MOST_AMOUNTS))
    for amount in filter(None, [read_amount(match, *around(text, match, matches)) for match in matches]):
        if CONTEXT["correction"].search(text, last.end, amount.start):
            prices.append(CORRECTED)
        if abs(amount.value) >= 1 and amount.role not in NO_MONEY:
            money_amounts.append(int(abs(amount.value)))
        if is_range(last, amount, text):
            prices = prices[:-1]  # a range is no price
        elif amount.role == "none" and amount.value >= LEAST_LIKELY:
            prices.append(("doubt", amount.value))
        elif not amount.role.startswith("none"):
            prices.append((amount.role, amount.value))
        last = amount
    if middle := CONTEXT["middle"].search(text):  # of what is named, if no amount follows
        prices = [CORRECTED, ("ask", last.value)] if last.start > middle.end() else [("middle", 0.0)]
    if CONTEXT["correction"].search(text, last.end):
        prices.append(CORRECTED)
    return prices, money_amounts


def is_range(first: Amount, second: Amount, text: str) -> bool:
    """Whether `from $20,000 to $25,000` is said, or the like."""
    if first.role not in (*ASKING, "none limit") or second.role not in (*ASKING, "none", "none limit"):
        return False
    return first.value <= second.value and bool(RANGE.fullmatch(text[first.end : second.start]))


def read_amount(match: re.Match, sentence: str, clause: str) -> Amount | None:
    """The amount that a match of AMOUNT is; None if it is a number of something else."""
    sign, dollars, number, scale, unit = match.groups()
    is_money = bool(dollars or unit or scale)
    value, role = value_of(number, scale), role_of(sentence, clause)
    if unit and unit[0] in "%p":
        value = 1 - value / 100 if role == "of" else value / 100  # 88 % of it is 12 % off
        return Amount(match.start(), match.end(), value, "off" if role == "of" else role if role in OFF else "none")
    is_thousands = CONTEXT["shorthand"].search(clause) or CONTEXT["car and number"].search(sentence)
    if not is_money and 10 <= value <= 150 and is_thousands:
        value *= 1000
    elif not is_money and not is_likely(number, value, role):
        return None
    value = -value if sign and role in ASKING else value
    return Amount(match.start(), match.end(), value, "none" if role == "of" else role)


def is_likely(number: str, value: float, role: str) -> bool:
    """Whether a number that nothing marks as money may be an amount: not a year, and not a small one."""
    is_year = 1900 <= value < 2100 and number.isdigit()
    return value >= 50 if role in OFF else value >= 1000 and not is_year


def value_of(number: str, scale: str | None) -> float:
    """The value of a number in digits, with points or commas between its thousands."""
    number = re.sub(r"[,.'](?=\d{3}(?!\d))", "", number)
    return min(1e9, float(number) * (SCALES | SHORT_SCALES).get(scale, 1))


def around(text: str, match: re.Match, matches: list[re.Match]) -> tuple[str, str]:
    """(sentence, clause) of an amount, in which it is # and others are ~; the clause without what is included."""
    sentence = text
    for other in reversed(matches):
        sentence = sentence[: other.start()] + ("#" if other is match else "~") + sentence[other.end() :]
    sentence = CONTEXT["for the car"].sub("", sentence)
    begin, end = clause_around(sentence, sentence.index("#"))
    clause = sentence[begin:end]
    return sentence, CONTEXT["included"].sub(without_features, clause)


def without_features(match: re.Match) -> str:
    """Nothing in place of what is included in a price if it is only features and the like, else as it stands."""
    return "" if "@" not in match[0] and FEATURE_WORDS.issuperset(words_of(match[0])) else match[0]


def role_of(sentence: str, clause: str) -> str:
    """What an amount is about: the first of the rows that fits, else a price if only words of offers stand there."""
    if CONTEXT["dangling"].match(clause) and role_after(sentence.split("#")[0]).startswith("none"):
        return "none"  # `I would never, ever, sell it, as it stands, for #`
    role = first_row(ROLES_IN_SENTENCE, sentence) or first_row(ROLES_IN_CLAUSE, clause)
    if role in ("", "maybe") and PLAIN_WORDS.issuperset(words_of(sentence)) and "&" not in sentence:
        role = "ask"
    elif not role:
        is_offer = OFFER_WORDS.issuperset(words_of(clause))
        role = first_row(CUTS_IN_CLAUSE, clause) or ("maybe" if is_offer else "none")
    doubt = first_row(NO_ASKING_PRICE, sentence) if role in ASKING else ""
    return doubt or role


def role_after(before: str) -> str:
    """What an amount is about that belongs to the words before it."""
    text = re.sub("[.,:;!?]", "", before).strip() + " #"
    return first_row([*ROLES_IN_SENTENCE, *ROLES_IN_CLAUSE, *NO_ASKING_PRICE], text)


def first_row(rows: list[tuple[str, re.Pattern]], text: str) -> str:
    """The role that the first of the rows that fits gives an amount, or none."""
    return next((name for name, pattern in rows if pattern.search(text)), "")


def words_of(text: str) -> list[str]:
    """The words of a clause, without `'s` and the like."""
    return re.findall("[a-z]+(?:'t)?", re.sub("'(?:s|d|ll|m|re|ve)(?!\\w)", "", text))


@lru_cache(maxsize=32_768)
def understand_sentence(sentence: str) -> Line:
    """What a sentence in lower case says; nothing where it puts words into the buyer's mouth."""
    num_words = len(sentence.split())
    masked, mentions = mask(sentence)
    if CONTEXT["claim"].search(masked):
        return Line(num_words, offered=frozenset(names_in(masked, mentions)["offered"]))
    asks = bool(CONTEXT["asks"].search(masked))
    prices, amounts = amounts_in(masked)
    asked = any(role not in ("correct", "doubt") for role, _ in prices)
    intents = intents_of(masked, asks, asked)
    probing = asks and not asked and CONTEXT["probe"].search(masked) and not CONTEXT["showing"].search(masked)
    found = names_in(masked, mentions)
    offered, none = frozenset(found["offered"]), frozenset()
    about = offered | found["mentioned"]
    for kind, names in (("?brand", BRANDS), ("?type", TYPES), ("?features", FEATURES)):
        if probing and " or " in sentence and len(about & {*names}) > 1:
            intents = intents - {"?needs"} | {kind}  # no question of yes or no
    return Line(num_words, tuple(prices), tuple(amounts), none if probing else offered, frozenset(found["denied"]),
                about if probing else none, frozenset(intents), none if probing else frozenset(found["mentioned"]))


@lru_cache(maxsize=32_768)
def intents_of(masked: str, asks: bool, asked: bool) -> frozenset[str]:
    """What a masked sentence does that `asks` something, or has `asked` a price."""
    intents = {name for name, pattern in INTENTS if (asks or name[0] != "?") and pattern.search(masked)}
    if intents & {"?brand", "?features", "?budget"}:
        intents -= {"?needs"}  # a question for one thing only
    elif "?needs" in intents:
        intents -= {"?type"}
    if CONTEXT["own car"].search(masked):
        intents -= {"?needs", "?brand", "?type"}  # small talk
    for name in ("wished car", "wished features") if "?" not in masked and (asked or not asks) else ():
        if found := CONTEXT[name].search(masked):
            clause = masked[clause_around(masked, found.start())[0] : found.end()]
            intents |= set() if CONTEXT["not wished"].search(clause) else {name}
    return frozenset(intents)


def names_in(masked: str, mentions: list[tuple[str, int]]) -> dict[str, set[str]]:
    """The names of a masked sentence that are offered, denied, or only mentioned."""
    found: dict[str, set[str]] = {"offered": set(), "denied": set(), "mentioned": set()}
    places: dict[str, int] = {}
    if not mentions:
        return found
    for name, place in mentions:
        for names in found.values():
            names.discard(name)  # the last word counts
        found[how_named(masked, place)].add(name)
        places[name] = place
    for correction in CONTEXT["correction"].finditer(masked):
        for kind in ({*BRANDS}, BODIES):
            earlier = {name for name in found["offered"] & kind if places[name] <= correction.start()}
            found["offered"] -= earlier if earlier != found["offered"] & kind else set()  # `this Audi, sorry, this BMW`
    beside_brand = {name for name in found["offered"] & BODIES if masked[places[name] - 3 : places[name]] == "@ @"}
    found["offered"] -= BODIES - beside_brand if beside_brand else set()  # not the trucks that he passes on the way
    return found


def mask(sentence: str) -> tuple[str, list[tuple[str, int]]]:
    """(the sentence with @ for a brand or type and & for a feature, where in it each name ends)."""
    sentence = re.sub("[#~@&]", " ", sentence)
    masked, mentions, end = "", [], 0
    for match in MENTION.finditer(sentence):
        name = NAMES[match.lastindex - 1]
        masked += sentence[end : match.start()] + ("&" if name in FEATURES else "@")
        mentions.append((name, len(masked)))
        end = match.end()
    return masked + sentence[end:], mentions


@lru_cache(maxsize=32_768)
def how_named(masked: str, place: int) -> str:
    """Whether the name that ends at `place` is `offered`, `denied` or, as a feature in doubt, `mentioned` only."""
    begin = max(masked.rfind(mark, 0, place - 1) for mark in ".;!?:") + 1
    before, clause = masked[begin : place - 1], masked[slice(*clause_around(masked, place - 1))]
    is_car = masked[place - 1] == "@"
    denied = CONTEXT["denied"].search(before)
    if not denied and CONTEXT["attached"].search(before):
        return "offered"
    if denied:
        return "denied"
    if CONTEXT["denied after"].match(masked, place):
        return "denied"
    aside = CONTEXT["aside"].search(clause)
    if is_car:
        return "mentioned" if aside else "offered"
    shown = CONTEXT["has"].search(before)
    shown = shown or CONTEXT["list ends"].match(masked, place) and CONTEXT["listed"].search(before)
    shown = shown or CONTEXT["there"].match(masked, place)
    in_doubt = aside or CONTEXT["doubt"].search(clause)
    if shown and not in_doubt:
        return "offered"
    if CONTEXT["negative"].search(clause):
        return "denied"
    in_doubt = in_doubt or CONTEXT["named only"].search(masked[begin : place + 1])
    return "mentioned" if in_doubt or not FEATURE_WORDS.issuperset(words_of(clause)) else "offered"


def clause_around(text: str, place: int) -> tuple[int, int]:
    """Where the clause of what stands at `place` begins and ends."""
    begin = max((found.end() for found in CONTEXT["separator"].finditer(text, 0, place)), default=0)
    stop = CONTEXT["separator"].search(text, place + 1)
    return begin, stop.start() if stop else len(text)


@lru_cache(maxsize=8192)
def respell(word: str) -> str:
    """The word of a car that is meant by one that is nearly the same."""
    if word in TYPOS or word in NO_TYPOS:
        return word
    near = get_close_matches(word, TYPOS, 1, SLIP)
    return near[0] if near and near[0][0] == word[0] and not word.startswith(near[0]) else word


def plain(text: str) -> str:
    """In lower case, with straight quotes and single spaces."""
    text = text[:HEARD].lower().replace("’", "'").replace("–", "-").replace("—", "-").replace("…", "...")
    return " ".join(text.split())


@lru_cache(maxsize=32_768)
def understand(text: str) -> Line:
    """What a line says."""
    text = rewrite(plain(text), "spelling")
    text = re.sub(r"[a-z]{5,}", lambda match: respell(match[0]), text)
    parts = [part for sentence in CONTEXT["sentence"].split(text) for part in parts_of(sentence)]
    lines = in_context(parts, [understand_sentence(part) for part in parts])
    cars: list[list[Line]] = [[]]
    for line in lines:
        if cars[-1] and is_another(joined(cars[-1]), line):
            cars.append([])
        cars[-1].append(line)
    return joined(lines)._replace(cars=tuple(map(joined, cars)) if cars[1:] else ())


def in_context(parts: list[str], lines: list[Line]) -> list[Line]:
    """What sentences say after those before them: some speak of other cars, some take back what was said."""
    kept: list[Line] = []
    other = False
    for part, line in zip(parts, lines, strict=True):
        named = [{*FEATURES} & (before.offered | before.mentioned | before.denied) for before in reversed(kept)]
        those = frozenset(next(filter(None, named), ()))
        if "retracted" in line.intents and not line.denied:  # `It doesn't have those.`
            line = line._replace(denied=those)
        elif "confirmed" in line.intents:  # `It has both.`
            line = line._replace(offered=line.offered | those)
        goes_on = other and (parts[len(kept) - 1].endswith("?") or CONTEXT["continued"].search(part))
        other = bool(goes_on and not line.offered - {*FEATURES} or CONTEXT["other topic"].search(part))
        bare = kept and not named[0] and CONTEXT["bare"].match(part)
        doubtful = other or bare and role_after(parts[len(kept) - 1]) in OF_OTHERS  # `The deposit? $5,000.`
        kept.append(line._replace(prices=(IN_DOUBT,)) if doubtful and line.amounts else line)
        asked = max((number for number, said in enumerate(kept) if said.amounts and said.prices), default=-1)
        if asked >= 0 and not line.amounts and CONTEXT["kidding"].search(part):  # `Thirty thousand? Not a chance.`
            kept[asked] = kept[asked]._replace(prices=(CORRECTED,))
    return kept


def parts_of(sentence: str) -> list[str]:
    """A sentence, or its parts where each has a car and a price: `the Audi is $20,000 and the BMW $30,000`."""
    parts = CONTEXT["next car"].split(sentence)
    priced = all(re.search(r"\d", part) and CONTEXT["brand"].search(part) for part in parts)
    return parts if priced and not CONTEXT["asks"].search(sentence) else [sentence]


def is_another(line: Line, other: Line) -> bool:
    """Whether the second line is about another car."""
    if line.prices and other.prices and (other.intents & {"other version", "with more"} or other.offered - {*FEATURES}):
        return True
    for kind in ({*BRANDS}, BODIES):
        before, after = line.offered & kind, other.offered & kind
        if len(before) == len(after) == 1 and before != after:
            return True
    return False


def joined(lines: list[Line]) -> Line:
    """What several lines say together."""
    num_words, prices, amounts, *sets, _ = zip(*lines, strict=True)
    line = Line(sum(num_words), sum(prices, ()), sum(amounts, ()), *(frozenset().union(*names) for names in sets))
    offered, denied = line.offered - {*FEATURES}, frozenset()
    for part in lines:  # the last word counts
        offered, denied = (offered - part.denied) | part.offered, (denied - part.offered) | part.denied
    line = line._replace(offered=offered, denied=denied)
    if "withdrawn" in line.intents and line.prices[-1:] == (CORRECTED,):
        return line._replace(prices=(CORRECTED,))  # the new price is not understood, and the old one is none
    return line


@lru_cache(maxsize=32_768)
def verdict(text: str) -> str:
    """`sale` where the buyer's line accepts, `leave` where it ends the dialogue, else nothing."""
    text = plain(text)
    if output := CONTEXT["output"].search(text):
        return "sale" if output[1] == "accept" else "leave"
    for sentence in CONTEXT["sentence"].split(text):
        if CONTEXT["reject"].search(sentence):
            return "leave"
        if CONTEXT["accept"].search(sentence) and not CONTEXT["unless"].search(sentence):
            return "sale"
    return ""


def as_dollars(value: float | str) -> float:
    """A number, or a price in a text; raises ValueError."""
    if isinstance(value, bool):
        raise ValueError(f"{value} instead of a price")
    if isinstance(value, str):
        found = understand(value).amounts
        value = found[0] if found else float(value)
    return float(value)


# --- Saying ---


def money(amount: float) -> str:
    return f"${amount:,.0f}"


def enumerate_names(names: list[str]) -> str:
    """`heated seats, a sunroof, and Apple CarPlay`."""
    said = [SAID[name] for name in names]
    return ", ".join([*said[:-1], f"and {said[-1]}"] if said[1:] else said)


def say(rng: random.Random, who: str, key: str, *others: str, **slots: str) -> str:
    """A line of the first of the lists `key`, `others`; for one persona where there is such a list."""
    line = rng.choice(next(LINES[f"{who} {name}"] for name in (key, *others) if f"{who} {name}" in LINES))
    line = line.format(**slots)
    return line[0].upper() + line[1:]


def as_heard(action: str) -> tuple[str, bool]:
    """(the line, whether it is valid)."""
    first, newline, _ = action.partition("\n")
    text = (first + ("" if newline or first.endswith("…") else "…"))[:HEARD]
    return text + "\n", bool(newline) and not first.endswith("…") and any(map(str.isalnum, text))
