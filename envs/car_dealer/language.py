"""The language of the car dealer's dialogue: what a line says (prices, discounts, cars, questions), and how it is said.

`understand` reads any text, of which it hears the first 1,000 characters, by the regular expressions of
`words.txt`. `say` draws from the lists of `lines.txt`.
"""

import random
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

WORDS_FILE, LINES_FILE = (Path(__file__).with_name(f"{name}.txt") for name in ("words", "lines"))
FILES = tuple(sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".txt")))  # the task's
HEARD = 1000  # characters of a line

# The words that end the dialogue, of scripted buyers and of language models.
ACCEPT = re.compile(r"\b(?:i accept|i(?:'ll| will) take it|it(?:'s| is) a deal|(?:you have|you've got|we have) a deal"
                    r")\b")
REJECT = re.compile(r"\b(?:goodbye|no deal|i(?:'m| am) leaving)\b")
UNLESS = re.compile(r"\b(?:if|unless|would|could|not|never)\b|n't\b|\?")  # no acceptance in such a sentence


def read_words() -> dict[str, dict[str, tuple[str, str]]]:
    """{kind: {name: (how it is said, its regular expression)}}."""
    words: dict[str, dict[str, tuple[str, str]]] = {}
    for row in WORDS_FILE.read_text(encoding="utf-8").splitlines():
        if row and not row.startswith("#"):
            kind, name, said, pattern = (field.strip() for field in row.split(" | ", 3))
            words.setdefault(kind, {})[name] = said, pattern
    return words


def read_lines() -> dict[str, list[str]]:
    """{`who key`: lines}."""
    lines: dict[str, list[str]] = {}
    for row in LINES_FILE.read_text(encoding="utf-8").splitlines():
        if row.startswith("["):
            lines[key := row[1:-1]] = []
        elif row and not row.startswith("#"):
            lines[key].append(row)
    return lines


WORDS, LINES = read_words(), read_lines()
SAID = {name: said for kind in ("brand", "type", "feature") for name, (said, _) in WORDS[kind].items()}
NAMES = list(SAID)
BRANDS, TYPES, FEATURES = (list(WORDS[kind]) for kind in ("brand", "type", "feature"))
MENTION = re.compile(r"\b(?:" + "|".join(
    f"(?P<n{i}>{pattern})" for i, (_, pattern) in enumerate(entry for kind in ("brand", "type", "feature")
                                                            for entry in WORDS[kind].values())) + r")(?!\w)")
INTENTS = {name: re.compile(rf"\b(?:{pattern})" if pattern[0] != "^" else pattern)
           for name, (_, pattern) in WORDS["intent"].items()}
CONTEXT = {name: re.compile(pattern, re.ASCII) for name, (_, pattern) in WORDS["context"].items()}
NUMBERS = {word: value for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split())} | {word: 10 * tens for tens, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
NUMBER = "(?:" + "|".join([*sorted(NUMBERS, key=len, reverse=True), *SCALES]) + ")"
IN_WORDS = re.compile(rf"(?<!\d )\b{NUMBER}(?:[ -](?:and )?{NUMBER})*\b")
AMOUNT = re.compile(  # sign, $, number, scale, dollars or percent
    r"(?:(?<![\w.,/:#'-])(-|minus |negative )?|(?=\$))(us\$|\$|usd)? ?"
    r"(\d{1,3}(?:[,.']\d{3})+(?!\d)(?:\.\d\d?(?!\d))?|\d+(?:\.\d+)?)"
    r"(?: ?-?(k|grand|thousand|million|mil|m|hundred)(?!\w))?(?!\w)"
    r"(?: ?(%|percent\b|per cent\b|dollars?\b|bucks\b|usd\b|\$))?", re.ASCII)
SCALE = {"k": 1000, "grand": 1000, "thousand": 1000, "million": 10**6, "mil": 10**6, "m": 10**6, "hundred": 100}
SPACED = re.compile(r"\b\d{1,3} \d{3}(?= ?(?:dollars|bucks|usd|\$))|(?<=\$)\d{1,3} \d{3}\b", re.ASCII)  # 20 000
FREE = re.compile(  # the car, not what comes with it
    r"\b(?:(?:it|yours|this|(?:this|that) one|car|vehicle|" + "|".join(
        pattern for kind in ("brand", "type") for _, pattern in WORDS[kind].values())
    + r")(?: is)?(?: yours| away| to you)? (?:for free|free of charge|as a gift)"
    r"|(?:it|car|this one) is free|it's free)\b")
RANGE = re.compile(r" ?(?:to|and|or|-) ?")

# --- Understanding ---


class Line(NamedTuple):
    """What a line says; of names those that are offered, denied and asked about. Prices: (`ask`, `list`, `off`, `more`
    (off the last price) or `%`, `more%`; amount) in the order in which they are named."""

    num_words: int = 0
    prices: tuple[tuple[str, float], ...] = ()
    amounts: tuple[int, ...] = ()  # all that are of money
    offered: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    asked_about: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()  # see words.txt; those of questions begin with `?`


def digits(match: re.Match) -> str:
    """A number in words as digits; left as it is where it is none, such as `one two`."""
    total = current = 0
    last = 100
    for word in re.split("[ -]", match[0]):
        if word in SCALES and word != "hundred":
            total, current, last = total + (current or 1) * SCALES[word], 0, 100
        elif word == "hundred":
            current, last = (current or 1) * 100, 100
        elif word != "and":
            if NUMBERS[word] >= last or NUMBERS[word] >= 10 and last < 100:
                return match[0]
            current, last = current + NUMBERS[word], 10 if NUMBERS[word] >= 20 else 1
    return str(total + current)


def amounts_in(sentence: str) -> tuple[list[tuple[str, float]], list[int]]:
    """(prices, amounts) of a sentence in lower case, as in `Line`."""
    text = CONTEXT["no amount"].sub("#", FREE.sub("it for $0", sentence))
    text = SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = re.sub(r"(\d) and a half (?:1000|grand|k)\b", r"\1.5k", IN_WORDS.sub(digits, text))
    text = re.sub(r"\bhalf (?:off|the price|price)\b", "50% off", text)
    prices, amounts, end = [], [], 0
    for match in AMOUNT.finditer(text):
        sign, money, number, scale, unit = match.groups()
        before, behind = text[max(0, match.start() - 45) : match.start()], text[match.end() : match.end() + 30]
        group = re.fullmatch(r"(\d{1,3}(?:[,.']\d{3})+)(\.\d+)?", number)
        number = re.sub("[,.']", "", group[1]) + (group[2] or "") if group else number
        value = min(1e9, float(number) * SCALE.get(scale, 1))
        off = bool(CONTEXT["off behind"].match(behind) or CONTEXT["off before"].search(before))
        further = "more" if CONTEXT["further"].search(before[-20:]) or CONTEXT["further"].match(behind.lstrip()) else ""
        if unit and unit[0] in "%p":
            if off and not CONTEXT["note"].search(before) and value < 100:
                prices.append((f"{further}%", value / 100))
            continue
        bare = not (money or unit or scale and scale != "m")
        if CONTEXT["other unit"].match(behind) or scale == "m" and not money or bare and (
                value < 1000 or value != int(value) or not group and 1900 <= value < 2100):
            continue
        amounts.append(int(value))
        value = -value if sign else value
        if off and not (sign and not money):
            if not CONTEXT["note"].search(before):
                prices.append((further or "off", abs(value)))
        elif sign == "minus ":
            prices.append(("off", abs(value)))
        elif prices and prices[-1][0] in ("ask", "list") and prices[-1][1] <= value and RANGE.fullmatch(
                text[end : match.start()]):
            prices.pop()  # a range is no price
        elif CONTEXT["list before"].search(before):
            prices.append(("list", value))
        elif not CONTEXT["none before"].search(before):
            prices.append(("ask", value))
        end = match.end()
    return prices, amounts


@lru_cache(maxsize=32_768)
def understand_sentence(sentence: str) -> Line:
    """What a sentence in lower case says; nothing where it puts words into the buyer's mouth."""
    num_words = len(sentence.split())
    if CONTEXT["claim"].search(sentence):
        return Line(num_words)
    asks = bool(CONTEXT["asks"].search(sentence))
    intents = {name for name, pattern in INTENTS.items()
               if (asks or name[0] != "?") and pattern.search(sentence)}
    if intents & {"?brand", "?features", "?budget"}:
        intents -= {"?needs"}  # a question for one thing only
    elif "?needs" in intents:
        intents -= {"?type"}
    if CONTEXT["own car"].search(sentence):
        intents -= {"?needs", "?brand", "?type"}  # small talk
    prices, amounts = amounts_in(sentence)
    if "?budget" in intents and prices:
        if CONTEXT["fits"].search(sentence):
            intents = intents - {"?budget"} | {"close"}
        else:
            prices = []
    probing = asks and not prices and CONTEXT["probe"].search(sentence) and not CONTEXT["showing"].search(sentence)
    offered, denied = set(), set()
    for match in MENTION.finditer(sentence):
        name = NAMES[int(match.lastgroup[1:])]
        names = {name, "heated seats"} if name == "leather seats" and "heated" in match[0] else {name}
        names |= {"leather seats"} if name == "heated seats" and "leather" in match[0] else set()
        (denied if CONTEXT["denied"].search(sentence, 0, match.start()) else offered).update(names)
    for kind, names in (("?brand", BRANDS), ("?type", TYPES), ("?features", FEATURES)):
        if probing and " or " in sentence and len(offered & {*names}) > 1:
            intents = intents - {"?needs"} | {kind}  # no question of yes or no
    return Line(num_words, tuple(prices), tuple(amounts), frozenset() if probing else frozenset(offered),
                frozenset(denied), frozenset(offered) if probing else frozenset(), frozenset(intents))


def sentences_of(text: str) -> list[str]:
    """In lower case."""
    text = " ".join(text[:HEARD].lower().replace("’", "'").replace("–", "-").replace("—", "-").split())
    return re.split(r"(?<=[.!?;]) ", text)


@lru_cache(maxsize=32_768)
def understand(text: str) -> Line:
    """What a line says."""
    lines = [understand_sentence(sentence) for sentence in sentences_of(text)]
    return Line(sum(line.num_words for line in lines), *(sum((line[i] for line in lines), ()) for i in (1, 2)),
                *(frozenset().union(*(line[i] for line in lines)) for i in (3, 4, 5, 6)))


def verdict(text: str) -> str:
    """`sale` where the buyer's line accepts, `leave` where it ends the dialogue, else nothing."""
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
