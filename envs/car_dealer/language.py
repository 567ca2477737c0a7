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

WORDS_FILE, LINES_FILE = (Path(__file__).with_name(f"{name}.txt") for name in ("words", "lines"))
FILES = tuple(sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".txt")))  # the task's
HEARD = 1000  # characters of a line

# The words that end the dialogue, of scripted buyers and of language models.
ACCEPT = re.compile(r"\b(?:i accept|i(?:'ll| will) take it|it(?:'s| is) a deal|(?:you have|you've got|we have) a deal"
                    r")\b")
REJECT = re.compile(r"\b(?:goodbye|no deal|i(?:'m| am) leaving)\b")
OUTPUT = re.compile(r"\boutput: decision=(accept|reject) msrp=\$[1-9]")  # the original's buyer
UNLESS = re.compile(r"\b(?:if|unless|would|could|not|never)\b|n't\b|\?")  # no acceptance in such a sentence


def read_words() -> dict[str, list[tuple[str, str, str]]]:
    """{kind: [(name, how it is said, its regular expression), …]}."""
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for row in WORDS_FILE.read_text(encoding="utf-8").splitlines():
        if row and not row.startswith("#"):
            kind, name, said, pattern = (field.strip() for field in row.split(" | ", 3))
            rows.setdefault(kind, []).append((name, said, pattern))
    return rows


def read_lines() -> dict[str, list[str]]:
    """{`who key`: lines}."""
    lines: dict[str, list[str]] = {}
    for row in LINES_FILE.read_text(encoding="utf-8").splitlines():
        if row.startswith("["):
            lines[key := row[1:-1]] = []
        elif row and not row.startswith("#"):
            lines[key].append(row)
    return lines


ROWS, LINES = read_words(), read_lines()
WORDS = {kind: {name: (said, pattern) for name, said, pattern in rows} for kind, rows in ROWS.items()}
SAID = {name: said for kind in ("brand", "type", "feature") for name, (said, _) in WORDS[kind].items()}
NAMES = list(SAID)
BRANDS, TYPES, FEATURES = (list(WORDS[kind]) for kind in ("brand", "type", "feature"))
BODIES = {"sedan", "convertible", "truck", "SUV"}  # a car is one of them, and may be luxury or electric besides
NAMED = [pattern for kind in ("brand", "type", "feature") for _, pattern in WORDS[kind].values()]
MENTION = re.compile(r"\b(?:" + "|".join(f"(?P<n{i}>{pattern})" for i, pattern in enumerate(NAMED)) + r")(?!\w)")
BRAND = re.compile(r"\b(?:" + "|".join(pattern for _, pattern in WORDS["brand"].values()) + ")")
THE_CAR = rf"(?:the|a|an|this|that|our|my) (?:\w+ )?{BRAND.pattern}"
THERE_IS = r"(?:there(?:'s| is)|(?:i|we)(?:'ve got| have| also have)) "
OTHER_CAR = re.compile(rf",? (?:and|but|while|whereas|or) (?:for |{THERE_IS})?(?={THE_CAR}|(?:one )?{BRAND.pattern})"
                       rf"|, (?:{THERE_IS})?(?={THE_CAR})|,? (?:and |but )?(?=\$?\d[\w,.]*(?: \w+)? for {THE_CAR})")
INTENTS = {name: re.compile(rf"\b(?:{pattern})" if pattern[0] != "^" else pattern)
           for name, (_, pattern) in WORDS["intent"].items()}
OTHER_INTENTS = ("same price", "withdrawn", "retracted", "other version", "with more")
CONTEXT = {name: re.compile(pattern, re.ASCII) for name, (_, pattern) in WORDS["context"].items()}
REWRITES = {kind: [(re.compile(pattern, re.ASCII), instead) for instead, _, pattern in ROWS[kind]]
            for kind in ("spelling", "rewrite")}
ANY_OF = {kind: re.compile(edge + "(?:" + "|".join(pattern.pattern for pattern, _ in REWRITES[kind]) + ")", re.ASCII)
          for kind, edge in (("spelling", r"\b"), ("rewrite", ""))}
PRICES = [(role, where, re.compile(pattern, re.ASCII)) for role, where, pattern in ROWS["price"]]
FILLERS, TYPOS, NO_TYPOS = ({*pattern.split()} for _, _, pattern in ROWS["filler"] + ROWS["typo"])
SLIP = 0.82  # how similar a word has to be to one that is meant
NUMBERS = {word: value for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split())} | {word: 10 * tens for tens, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
NUMBER = "(?:" + "|".join([*sorted(NUMBERS, key=len, reverse=True), *SCALES]) + ")"
IN_WORDS = re.compile(rf"(?<!\d )\b{NUMBER}(?:[ -](?:and )?{NUMBER})*\b")
NUMERIC = re.compile(rf"\d|\b(?:{NUMBER}|half|third|quarter|fifth|tenth|grand|free|gift)\b"
                     rf"|{CONTEXT['correction'].pattern}")
AND_HUNDREDS = re.compile(r"\b(\d+) (?:thousand|grand|k) (?:and )?(\d{3}|\d hundred)\b(?! ?(?:off|less))", re.ASCII)
AND_A_HALF = re.compile(r"(\d) and a half (?:1000|grand|k)\b|\b([1-9]\d) and a half(?=\W*$)", re.ASCII)
AMOUNT = re.compile(  # sign, $, number, scale, dollars or percent
    r"(?:(?<![\w.,/:#'-])(-|minus |negative )?|(?=\$))(us\$|\$|usd)? ?"
    r"(\d{1,3}(?:[,.']\d{3})+(?!\d)(?:\.\d\d?(?!\d))?|\d+(?:\.\d+)?)"
    r"(?: ?-?(k|grand|thousand|million|mil|m|hundred)(?!\w))?(?!\w)"
    r"(?: ?(%|percent\b|per cent\b|dollars?\b|bucks\b|usd\b|\$))?", re.ASCII)
SCALE = {"k": 1000, "grand": 1000, "thousand": 1000, "million": 10**6, "mil": 10**6, "m": 10**6, "hundred": 100}
MOST_AMOUNTS = 20  # heard of a sentence
FREE = re.compile(  # the car, not what comes with it
    r"(?:\b(?:it|yours|this|(?:this|that) one|car|vehicle)|@)(?: is)?(?: yours| away| to you)? "
    r"(?:for free|free of charge|as a gift)\b|\b(?:(?:it|car|this one) is free|it's free)\b")
DOLLARS = ("dollars", "dollar", "bucks", "usd", "$")
RANGED = ("ask", "maybe", "list")
RANGE = re.compile(r" ?(?:to|and|or|-) ?")
# An answer to one's own question belongs to it: `$30,000? You must be joking.`, `A sunroof? Not on this one.`
SENTENCE = re.compile(rf"(?<=[.!;]) |(?<=\?) (?!(?<=\d\? ){CONTEXT['echo'].pattern}|{CONTEXT['not here'].pattern})")

# --- Understanding ---


class Line(NamedTuple):
    """What a line says; of names those that are offered, denied and asked about.

    Prices are (role, amount) in the order in which they are named. Roles: `ask`; `maybe`, an asking price if it is near
    the last one; `list`; `off` and `off%` of the list price, `more` and `more%` of the last one; `correct`, which takes
    back those before it.
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
    for cut in range(1, len(words)) if value is None else ():
        thousands, rest = number_of(words[:cut]), number_of(words[cut:])
        hundreds = spoken_hundreds(words[cut:], rest)
        if thousands and 11 <= thousands < 100 and hundreds:
            value = 1000 * thousands + hundreds
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


def spoken_hundreds(words: list[str], value: int | None) -> int | None:
    """What `five`, `five hundred` or `nine ninety-five` adds to thousands that were named before."""
    if value is not None:
        return 100 * value if value < 10 else value if 100 <= value < 1000 and value % 100 == 0 else None
    first, rest = number_of(words[:1]), number_of(words[1:])
    return 100 * first + rest if first and rest and first < 10 <= rest < 100 else None


class Amount(NamedTuple):
    """An amount of a sentence: where it stands, its value, how it is written, and what it is about."""

    start: int
    end: int
    value: float
    percent: bool
    role: str  # see the rows `price` of words.txt


def rewrite(text: str, kind: str) -> str:
    """The text as the rows `spelling` or `rewrite` of words.txt have it."""
    if ANY_OF[kind].search(text):
        for pattern, instead in REWRITES[kind]:
            text = pattern.sub(instead, text)
    return text


@lru_cache(maxsize=32_768)
def amounts_in(masked: str) -> tuple[list[tuple[str, float]], list[int]]:
    """(prices, amounts) of a masked sentence, as in `Line`."""
    text = with_digits(masked)
    found = find_amounts(text)
    prices, money_amounts = [], []
    corrections = [match.start() for match in CONTEXT["correction"].finditer(text)]
    for number, amount in enumerate(found):
        role = amount.role
        if corrections and corrections[0] < amount.start:
            prices.append(("correct", 0.0))
            corrections = [place for place in corrections if place > amount.start]
        if not amount.percent and role not in ("none unit", "none each", "none currency"):
            money_amounts.append(int(abs(amount.value)))
        if role in RANGED and number and is_range(found[number - 1], amount, text):
            prices = prices if found[number - 1].role == "none limit" else prices[:-1]  # a range is no price
        elif not role.startswith("none"):
            prices.append((role + "%" * amount.percent, amount.value))
    return prices + [("correct", 0.0)] * bool(corrections), money_amounts


def is_range(first: Amount, second: Amount, text: str) -> bool:
    """Whether `from $20,000 to $25,000` is said, or the like."""
    between = RANGE.fullmatch(text[first.end : second.start])
    return bool(between) and first.role in (*RANGED, "none limit") and first.value <= second.value


def with_digits(masked: str) -> str:
    """The masked sentence with what is a number as digits."""
    text = rewrite(FREE.sub("it for $0", masked), "rewrite")
    text = AND_A_HALF.sub(r"\1\2.5k", IN_WORDS.sub(digits, text))
    return AND_HUNDREDS.sub(lambda match: match[1] + match[2].replace(" hundred", "00"), text)


def find_amounts(text: str) -> list[Amount]:
    """The amounts that are of money or percent, with their roles."""
    matches = list(islice(AMOUNT.finditer(text), MOST_AMOUNTS))
    foreign = bool(CONTEXT["foreign"].search(text))
    found = [read_amount(match, *around(text, match, matches), foreign) for match in matches]
    return [amount for amount in found if amount]


def read_amount(match: re.Match, sentence: str, clause: str, foreign: bool) -> Amount | None:
    """The amount that a match of AMOUNT is; None if it is a number of something else."""
    sign, money, number, scale, unit = match.groups()
    percent = bool(unit) and unit[0] in "%p"
    value, role = value_of(number, scale), role_of(sentence, clause, percent)
    if percent:
        share = 1 - value / 100 if role == "of" else value / 100
        role = {"of": "off", "off": "off", "more": "more"}.get(role, "none") if value < 100 else "none"
        return Amount(match.start(), match.end(), share, True, role)
    if foreign and not money and unit not in DOLLARS:
        role = "none currency"
    elif sign == "minus " and not role.startswith("none"):
        role = "off"
    if not (money or unit or scale) and 10 <= value <= 150 and CONTEXT["shorthand"].search(clause):
        value *= 1000
    elif scale == "m" and not money or not (money or unit or scale) and not is_likely(number, value, role):
        return None
    value = -value if sign and role in RANGED else value
    return Amount(match.start(), match.end(), value, False, "none" if role == "of" else role)


def is_likely(number: str, value: float, role: str) -> bool:
    """Whether a number that nothing marks as money may be an amount: not a year, and not a small one."""
    if role in ("off", "more"):
        return value >= 50
    year = 1900 <= value < 2100 and number.isdigit()
    return value >= 1000 and value == int(value) and not year


def value_of(number: str, scale: str | None) -> float:
    """The value of a number in digits, with points or commas between its thousands."""
    group = re.fullmatch(r"(\d{1,3}(?:[,.']\d{3})+)(\.\d+)?", number)
    number = re.sub("[,.']", "", group[1]) + (group[2] or "") if group else number
    return min(1e9, float(number) * SCALE.get(scale, 1))


def around(text: str, match: re.Match, matches: list[re.Match]) -> tuple[str, str]:
    """(sentence, clause) of an amount, in which it is # and others are ~; the clause without what is included."""
    pieces, end = [], 0
    for other in matches:
        pieces += [text[end : other.start()], "#" if other is match else "~"]
        end = other.end()
    sentence = "".join(pieces) + text[end:]
    text = CONTEXT["equipped"].sub("", sentence)
    begin, end = clause_around(text, text.index("#"))
    clause = text[begin:end]
    if text[begin - 1 : begin] == "," and CONTEXT["verb"].match(clause):
        clause = text[: CONTEXT["separator"].search(text).start()] + clause  # its subject stands before
    return sentence, CONTEXT["included"].sub("", clause)


def role_of(sentence: str, clause: str, percent: bool) -> str:
    """What an amount is about: the first of the rows that fits."""
    bare = not percent and not {*re.findall(r"[a-z']+", clause)} - FILLERS and not re.search(r"\bnot?\b", clause)
    for role, where, pattern in PRICES:
        if role == "bare" and not bare:
            continue
        if pattern.search(sentence if where == "sentence" else clause):
            return "ask" if role.startswith(("ask", "bare")) else role
    return "none"


@lru_cache(maxsize=32_768)
def understand_sentence(sentence: str) -> Line:
    """What a sentence in lower case says; nothing where it puts words into the buyer's mouth."""
    num_words = len(sentence.split())
    masked, mentions = mask(sentence)
    if CONTEXT["claim"].search(masked):
        return Line(num_words)
    asks = bool(CONTEXT["asks"].search(masked))
    prices, amounts = amounts_in(masked) if NUMERIC.search(masked) else ([], [])
    asked = any(role != "correct" for role, _ in prices)
    intents = intents_of(masked, asks, asked)
    if "?budget" in intents and asked:
        if CONTEXT["fits"].search(masked):
            intents = intents - {"?budget"} | {"close"}
        else:
            prices, asked = [], False
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
    intents = {name for name, pattern in INTENTS.items() if (asks or name[0] != "?") and pattern.search(masked)}
    kinds = intents & {"?brand", "?type", "?features"}
    if len(kinds) > 1 or intents & {"?needs", "?features"} and CONTEXT["everything"].search(masked):
        intents = intents - {"?brand", "?type"} | {"?needs", "?features"}
    elif intents & {"?brand", "?features", "?budget"}:
        intents -= {"?needs"}  # a question for one thing only
    elif "?needs" in intents:
        intents -= {"?type"}
    if CONTEXT["own car"].search(masked):
        intents -= {"?needs", "?brand", "?type"}  # small talk
    for name in ("wished car", "wished features") if "?" not in masked and (asked or not asks) else ():
        if found := CONTEXT[name].search(masked):
            clause = masked[clause_around(masked, found.start())[0] : found.end()]
            intents |= set() if CONTEXT["not wished"].search(clause) else {name}
    return frozenset(intents | {name for name in OTHER_INTENTS if CONTEXT[name].search(masked)})


def names_in(masked: str, mentions: list[tuple[str, int]]) -> dict[str, set[str]]:
    """The names of a masked sentence that are offered, denied, or only mentioned."""
    found: dict[str, set[str]] = {"offered": set(), "denied": set(), "mentioned": set()}
    places: dict[str, int] = {}
    if not mentions:
        return found
    retracted = max((match.start() for match in CONTEXT["retracted"].finditer(masked)), default=0)
    for name, place in mentions:
        said = "denied" if name in FEATURES and place <= retracted else how_named(masked, place)
        found[said].add(name)
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
    pieces, mentions, end, place = [], [], 0, 0
    for match in MENTION.finditer(sentence):
        name = NAMES[int(match.lastgroup[1:])]
        place += match.start() - end + 1
        pieces += [sentence[end : match.start()], "&" if name in FEATURES else "@"]
        both = {name, "heated seats", "leather seats"} if "heated" in match[0] and "leather" in match[0] else {name}
        mentions += [(name, place) for name in both]
        end = match.end()
    return "".join(pieces) + sentence[end:], mentions


@lru_cache(maxsize=32_768)
def how_named(masked: str, place: int) -> str:
    """Whether the name that ends at `place` is `offered`, `denied` or, as a feature in doubt, `mentioned` only."""
    begin = max(masked.rfind(mark, 0, place - 1) for mark in ".;!?:") + 1
    before, clause = masked[begin : place - 1], masked[slice(*clause_around(masked, place - 1))]
    denied = CONTEXT["denied"].search(before)
    if denied and not CONTEXT["resets"].match(denied[0]) or CONTEXT["denied after"].match(masked, place):
        return "denied"
    aside = CONTEXT["aside"].search(clause) or CONTEXT["option"].match(masked)
    if masked[place - 1] == "@":
        return "mentioned" if aside else "offered"
    shown = CONTEXT["has"].search(before) or CONTEXT["there"].match(masked, place)
    shown = shown or CONTEXT["list ends"].match(masked, place) and CONTEXT["listed"].search(before)
    if shown and not aside and not CONTEXT["doubt"].search(clause):
        return "offered"
    return "denied" if CONTEXT["negative"].search(clause) else "mentioned"


def clause_around(text: str, place: int) -> tuple[int, int]:
    """Where the clause of what stands at `place` begins and ends."""
    begin = max((found.end() for found in CONTEXT["separator"].finditer(text, 0, place)), default=0)
    stop = CONTEXT["separator"].search(text, place + 1)
    return begin, stop.start() if stop else len(text)


@lru_cache(maxsize=8192)
def respell(word: str) -> str:
    """The word of a car that is meant by one that is nearly the same."""
    if len(word) < 5 or word in TYPOS or word in NO_TYPOS:
        return word
    near = get_close_matches(word, TYPOS, 1, SLIP)
    return near[0] if near and near[0][0] == word[0] and not word.startswith(near[0]) else word


def plain(text: str) -> str:
    """In lower case, with straight quotes and single spaces."""
    text = text[:HEARD].lower().replace("’", "'").replace("–", "-").replace("—", "-").replace("…", "...")
    return " ".join(text.split())


def sentences_of(text: str) -> list[str]:
    """Of a plain text."""
    return SENTENCE.split(text)


@lru_cache(maxsize=32_768)
def understand(text: str) -> Line:
    """What a line says."""
    text = plain(text)
    text = rewrite(text, "spelling")
    text = re.sub(r"[a-z]{5,}", lambda match: respell(match[0]), text)
    lines = [understand_sentence(part) for sentence in sentences_of(text) for part in parts_of(sentence)]
    for number, line in enumerate(lines):
        if "retracted" in line.intents and not line.denied:  # `It doesn't have those.`, of the sentence before
            before = lines[number - 1] if number else Line()
            lines[number] = line._replace(denied=line.denied | (before.offered | before.mentioned) & {*FEATURES})
    cars: list[list[Line]] = [[]]
    for line in lines:
        if cars[-1] and is_another(joined(cars[-1]), line):
            cars.append([])
        cars[-1].append(line)
    return joined(lines)._replace(cars=tuple(map(joined, cars)) if cars[1:] else ())


def parts_of(sentence: str) -> list[str]:
    """A sentence, or its parts where each has a car and a price: `the Audi is $20,000 and the BMW $30,000`."""
    if len(BRAND.findall(sentence)) < 2:
        return [sentence]
    parts = OTHER_CAR.split(sentence)
    priced = all(re.search(r"\d", part) and BRAND.search(part) for part in parts)
    return parts if parts[1:] and priced and not CONTEXT["asks"].search(sentence) else [sentence]


def is_another(line: Line, other: Line) -> bool:
    """Whether the second line is about another car."""
    if other.intents & {"other version", "with more"} and line.prices and other.prices:
        return True
    for kind in ({*BRANDS}, BODIES):
        before, after = line.offered & kind, other.offered & kind
        if len(before) == len(after) == 1 and before != after:
            return True
    return False


def joined(lines: list[Line]) -> Line:
    """What several lines say."""
    if len(lines) == 1:
        return lines[0]
    return Line(sum(line.num_words for line in lines), *(sum((line[i] for line in lines), ()) for i in (1, 2)),
                *(frozenset().union(*(line[i] for line in lines)) for i in range(3, 8)))


@lru_cache(maxsize=32_768)
def verdict(text: str) -> str:
    """`sale` where the buyer's line accepts, `leave` where it ends the dialogue, else nothing."""
    text = plain(text)
    if output := OUTPUT.search(text):
        return "sale" if output[1] == "accept" else "leave"
    for sentence in sentences_of(text):
        if REJECT.search(sentence):
            return "leave"
        if ACCEPT.search(sentence) and not UNLESS.search(sentence):
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
