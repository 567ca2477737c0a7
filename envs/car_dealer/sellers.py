"""The car dealer's scripted sellers, from unskilled to one who knows the buyer.

The data's sellers draw their lines from a finite bank, and know of the buyer what he has said. `pushy` asks little and
talks much, `generous` asks and then gives the car away, `consultative` asks, offers what is wanted, and asks a price
near the limit that is named or above it.
"""

import random
from math import ceil
from typing import Any, NamedTuple

from envs import Player
from envs.car_dealer.buyer import BUDGETS
from envs.car_dealer.deal import MIN_PRICE, Told
from envs.car_dealer.language import BRANDS, FEATURES, SAID, TYPES, Line, enumerate_names, money, say, understand


class Seller(NamedTuple):
    """A seller of the data: chances to ask, to heed what is said, to chatter; what of a named limit it asks; what of
    its price is left after a refusal."""

    asks: float
    listens: float
    chatter: float
    share: tuple[float, ...]
    lower: tuple[float, ...]


SELLERS = {
    "pushy": Seller(0.25, 0.4, 0.5, (1.2, 1.5, 2.0), (0.95, 0.9, 0.85)),
    "generous": Seller(0.7, 0.85, 0.1, (0.5, 0.6, 0.7, 0.8), (0.85, 0.8, 0.75)),
    "consultative": Seller(0.92, 0.97, 0.0, (0.9, 1.0, 1.0, 1.1, 1.25), (0.95, 0.9, 0.85)),
}
SELLER_WEIGHTS = (0.46, 0.31, 0.23)  # a sale in 53 % of the dialogues, as in the paper
GUESSES = (12_000, 18_000, 25_000, 35_000, 45_000, 60_000, 80_000)  # prices asked without knowing any limit


def told(lines: list[str]) -> Told:
    """Read from the buyer's lines, whoever has written them; every other one of `lines`, from the second on."""
    brand = kind = ""
    features, limits, line = set(), (), Line()
    for line in map(understand, lines[1::2]):
        names = line.offered | line.asked_about | line.mentioned
        brand = next((name for name in BRANDS if name in names), brand)
        kind = next((name for name in TYPES if name in names), kind)
        features |= names & {*FEATURES}
        limits = line.amounts[:2] if "limit" in line.intents and line.amounts else limits
    return Told(brand, kind, tuple([name for name in FEATURES if name in features]), limits, line.intents)


def round_price(price: float) -> int:
    """To $500 below $20,000, else to $1,000."""
    step = 500 if price < 20_000 else 1000
    return max(MIN_PRICE, round(price / step) * step)


def offer_line(rng: random.Random, car: tuple[str, str, tuple[str, ...]], price: int, key: str = "offer") -> str:
    """A car and its price."""
    brand, kind, features = car
    slots = {"brand": SAID[brand], "type": SAID[kind], "features": enumerate_names(features)}
    return say(rng, "seller", key if features else f"plain {key}", **slots) + " " + say(
        rng, "seller", "price", price=money(price))


def lower_line(rng: random.Random, old: float, new: float) -> str:
    """A new price, and maybe by how much it is lower; the old one where it is not."""
    if new >= old:
        return say(rng, "seller", "firm", price=money(old))
    key = rng.choice(("lower", "off"))
    return say(rng, "seller", key, price=money(new), off=money(old - new))


def sell(env: Any, rng: random.Random, seller: Seller) -> str:
    """The next line of a seller of the data, without the newline."""
    known, offer = told(env.lines), env.offer
    greeting: list[str] = []
    if not offer.price:
        missing = [("needs", not (known.brand and known.type)), ("features", not known.features),
                   ("budget", not known.limits)]
        asks = [key for key, unknown in missing
                if unknown and "?" + key not in env.asked and rng.random() < seller.asks]
        greeting = [say(rng, "seller", "hello")] if env.turns == 0 else []
        if rng.random() < seller.chatter:
            return " ".join(greeting + [say(rng, "seller", "talk")])
        if asks:
            return " ".join(greeting + [say(rng, "seller", asks[0])])
        if env.turns == 0 and rng.random() < 0.5:
            greeting = []
    car = (known.brand if known.brand and rng.random() < seller.listens else rng.choice(BRANDS),
           known.type if known.type and rng.random() < seller.listens else rng.choice(TYPES),
           tuple([name for name in known.features if rng.random() < seller.listens]) or (
               tuple(rng.sample(FEATURES, rng.randint(0, 2))) if not known.features else ()))
    if not offer.price:
        limit = rng.choice(known.limits) if known.limits else 0
        price = limit * rng.choice(seller.share) if limit else rng.choice(GUESSES) * seller.share[0]
        return " ".join(greeting + [offer_line(rng, car, round_price(price))])
    wished = {known.brand, known.type, *known.features} - {""}
    new = round_price(offer.lowest * rng.choice(seller.lower))
    if rng.random() < seller.chatter:
        return say(rng, "seller", rng.choice(("talk", "push", "firm")), price=money(offer.price))
    if wished - {offer.brand, *offer.types, *offer.features} and rng.random() < seller.listens:
        return offer_line(rng, car, int(offer.lowest), "instead")
    if known.last & {"over", "cheaper"} and new < offer.price:
        return lower_line(rng, offer.price, new)
    return say(rng, "seller", "close") if rng.random() < 0.5 else lower_line(rng, offer.price, min(new, offer.price))


def player_of(*kinds: str) -> Player:
    """The player of a kind of seller, or of one that is drawn in its first turn, also of a game that it takes over."""
    def player(env: Any, rng: random.Random) -> str:
        if env.turns == 0 or env.plan is None:
            env.plan = SELLERS[rng.choices(kinds, [SELLER_WEIGHTS[[*SELLERS].index(kind)] for kind in kinds])[0]]
        return sell(env, rng, env.plan) + "\n"
    return player


data_player = player_of(*SELLERS)


def random_player(env: Any, rng: random.Random) -> str:
    """Any line of the bank, with any car at any price."""
    car = rng.choice(BRANDS), rng.choice(TYPES), tuple(rng.sample(FEATURES, rng.randint(0, 4)))
    key = rng.choice(("hello", "needs", "features", "budget", "offer", "lower", "off", "close", "talk", "push"))
    price = round_price(rng.choice(GUESSES))
    if key == "offer":
        return offer_line(rng, car, price) + "\n"
    return say(rng, "seller", key, price=money(price), off="$1,000") + "\n"


def good_player(env: Any, rng: random.Random) -> str:
    """Asks for wishes and budget, then works out from the answer which budgets there can be, highest first."""
    known, offer = told(env.lines), env.offer
    for key, unknown in (("needs", not (known.brand and known.type)), ("features", not known.features),
                         ("budget", not known.limits)):
        if unknown and "?" + key not in env.asked:
            return say(rng, "seller", key) + "\n"
    low, high = (*known.limits, 0, 0)[:2]
    bargains = low and not high and low not in BUDGETS  # he names four fifths
    budgets = [budget for budget in BUDGETS if not low or (low <= budget <= high if high else
                                                           budget == low or bargains and 4 * budget == 5 * low)]
    budgets = [budget for budget in budgets or BUDGETS if not offer.price or budget < offer.price or not (
        known.last & {"over"})]
    price = max(budgets, default=BUDGETS[0])
    if not offer.price or {known.brand, known.type, *known.features} - {offer.brand, *offer.types, *offer.features}:
        first = list_price_for(price) if bargains else price
        return offer_line(rng, (known.brand or BRANDS[0], known.type or TYPES[0], known.features), first) + "\n"
    if "cheaper" in known.last:
        price = min(price, int(0.9 * offer.list_price))
    return (lower_line(rng, offer.price, price) if price < offer.price else say(rng, "seller", "close")) + "\n"


def list_price_for(price: int) -> int:
    """The lowest round list price of which `price` is 90 % at most."""
    step = 500 if price < 18_000 else 1000
    return ceil(price / 0.9 / step) * step


def best_player(env: Any, rng: random.Random) -> str:
    """Knows the buyer: his car at his budget, with a discount for him who wants one."""
    buyer, offer = env.buyer, env.offer
    first = list_price_for(buyer.budget) if buyer.persona == "discount" else buyer.budget
    if not offer.price:
        return offer_line(rng, (buyer.brand, buyer.type, buyer.features), first) + "\n"
    return lower_line(rng, offer.price, buyer.budget) + "\n"
