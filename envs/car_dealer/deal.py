"""The deal: what the buyer wants, what the seller has on offer, and what that is worth to the buyer."""

from typing import NamedTuple

from envs.car_dealer.language import BODIES, BRANDS, FEATURES, LEAST_LIKELY, OFF, TYPES, Line

MIN_PRICE, MAX_PRICE = 1000, 150_000  # in $; any other price is taken for a joke

ALL_TYPES, ALL_FEATURES = frozenset(TYPES), frozenset(FEATURES)
REFERRING = frozenset(("wished car", "wished features"))  # to what the buyer has said


class Offer(NamedTuple):
    """The car on offer and what it costs, in $; 0: not said yet."""

    brand: str = ""
    types: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    list_price: float = 0
    price: float = 0
    lowest: float = 0  # of all prices of this car so far
    joke: str = ""  # `high` or `low`: the last line asked for a price that does not count
    others: tuple["Offer", ...] = ()  # other cars before, as they were offered last


class Buyer(NamedTuple):
    """What is hidden from the seller; `limits` is what the buyer says of his budget, in $."""

    persona: str
    brand: str
    type: str
    features: tuple[str, ...]
    budget: int
    limits: tuple[int, int]


class Told(NamedTuple):
    """What the buyer has said so far."""

    brand: str = ""
    type: str = ""
    features: tuple[str, ...] = ()
    limits: tuple[int, ...] = ()
    last: frozenset[str] = frozenset()  # intents of his last line


class Asked(NamedTuple):
    """The prices of a line, in $; 0: none."""

    price: float = 0  # the last one
    list_price: float = 0
    all: tuple[float, ...] = ()  # asking prices that count
    joke: str = ""


def hear(offer: Offer, line: Line, told: Told | None = None, wishes: Buyer | None = None) -> Offer:
    """The offer after a line of the seller: of several cars, the one that is most like the buyer's `wishes`.

    Without these, the one most like what he has `told`.
    """
    if not (line.prices or line.offered or line.denied or line.mentioned or line.intents & REFERRING):
        return offer._replace(joke="") if offer.joke else offer
    offers = []
    for car in line.cars or [line]:
        offer = hear_car(offer, car, told or Told())
        offers.append(offer)
    if told:
        best = max(reversed(offers), key=lambda offer: likeness(offer, wishes or told))
        return best._replace(others=tuple(other for other in (*offer.others, offer) if not is_same_car(other, best)))
    return offer


def likeness(offer: Offer, wanted: Told | Buyer) -> tuple:
    """How much a car is like the one that is wanted; those with a price come first."""
    features = offer.features & {*wanted.features}
    return offer.price > 0, offer.brand == wanted.brand, wanted.type in offer.types, len(features)


def hear_car(offer: Offer, line: Line, told: Told) -> Offer:
    """The offer after a line that is about one car."""
    car = describe(offer, line, told)
    named = Offer(car.brand, line.offered & ALL_TYPES)
    known = next((other for other in offer.others if is_same_car(other, named)), Offer())
    before = offer if is_same_car(offer, car) else known
    if before in offer.others and not line.offered - {*BRANDS}:  # back to a car of which only the brand is named
        car = describe(before, line, told)
    asked = prices_of(offer, line)
    price = asked.price or (offer.price if before is offer or "same price" in line.intents else 0)
    list_price = offer.list_price
    if price and not before.list_price:  # the first price of this car
        list_price = max(offer.list_price, asked.list_price or price, price)
    dearer = is_full(offer) and bool(car.features - before.features)  # more of a car may cost more
    lowest = 0 if line.intents & {"withdrawn", "other version"} or before is offer and dearer else before.lowest
    lowest = min([price, lowest or price, *asked.all]) if price else before.lowest
    others = offer.others
    if before is not offer:
        others = (*(other for other in others if other is not known), offer._replace(others=(), joke=""))
    return car._replace(list_price=list_price, price=price, lowest=lowest, joke=asked.joke, others=others)


def describe(offer: Offer, line: Line, told: Told) -> Offer:
    """Brand, types and features of the car on offer after a line."""
    named = [name for name in BRANDS if name in line.offered]
    types, features = line.offered & ALL_TYPES, line.offered & ALL_FEATURES
    wished = line.intents & REFERRING
    is_other = "other version" in line.intents and "same features" not in line.intents
    if not (offer.brand or offer.types):  # the car of which something else was said before
        named = named or [name for name in BRANDS if name in line.mentioned]
        types = types or line.mentioned & ALL_TYPES
    if wished:
        features |= {*told.features}
    if "wished car" in wished or wished and not (named or types or offer.brand or offer.types):
        named = named or [told.brand] * bool(told.brand)
        types |= {told.type} - {""}
    brand = named[0] if len(named) == 1 else offer.brand
    types = types if len(types & BODIES) <= 1 else frozenset()  # all kinds of cars are none
    if is_same_car(offer, Offer(brand, types)):
        types |= offer.types
        features |= frozenset() if is_other and line.prices else offer.features
    return Offer(brand, types or offer.types, features - line.denied)


def is_same_car(offer: Offer, other: Offer) -> bool:
    """Whether nothing speaks against it: what is not known of a car may be anything."""
    if offer.brand and other.brand and offer.brand != other.brand:
        return False
    bodies, other_bodies = offer.types & BODIES, other.types & BODIES
    return not (bodies and other_bodies and bodies != other_bodies)


def prices_of(offer: Offer, line: Line) -> Asked:
    """The prices that a line asks and names, with discounts taken off."""
    asking, listed, asked, past, below, zero, corrected = [], 0.0, 0.0, 0.0, 0.0, False, False
    for role, amount in line.prices:
        base = asked or listed or (offer.price if role in ("more", "maybe") else offer.list_price)
        likely = amount >= ((asked or offer.price) / 2 or LEAST_LIKELY)
        if role == "correct":
            corrected = True
        elif role == "middle":
            asking, asked = [], middle_of(line, asked or offer.price)
        elif role == "was":
            past = amount
        elif role == "below":
            below = amount
        elif role == "list":
            listed = amount if amount >= LEAST_LIKELY else listed
            asked, below = less(amount, below) if below else asked, 0.0
        elif role == "ask" or role in ("maybe", "cut") and likely and (role == "maybe" or amount <= base):
            asked = less(amount, below)
            asking = [asked] if corrected else [*asking, asked]
            below, zero, corrected = 0.0, zero or asked <= 0, False
        elif base and role in OFF and amount <= base:
            asked = less(base, amount)
    asked = round(asked or (0 if offer.price else listed))
    joke = "low" if zero or asked and asked < MIN_PRICE else "high" if asked > MAX_PRICE else ""
    first = next((round(amount) for amount in (listed or past, *asking[:1]) if MIN_PRICE <= amount <= MAX_PRICE), 0)
    counting = tuple(round(amount) for amount in asking if MIN_PRICE <= amount <= MAX_PRICE)
    return Asked(0 if joke else asked, first, counting, joke)


def less(price: float, off: float) -> float:
    """A price with something taken off: an amount, or a share below 1."""
    return price * (1 - off) if off < 1 else price - off


def middle_of(line: Line, price: float) -> float:
    """The price halfway between the last two amounts of a line, or between the only one and the `price` so far."""
    low, high = sorted([price, *line.amounts][-2:] if line.amounts else [0, 0])
    return (low + high) / 2 if low > high / 2 else 0.0


def is_full(offer: Offer) -> bool:
    """Whether it can be accepted: a price, and a car of which brand or type is known."""
    return bool(offer.price and (offer.brand or offer.types))


def worth(buyer: Buyer, offer: Offer) -> float:
    """The price in $ up to which the buyer would rather have the car; 0 where the persona does not buy at all."""
    wrong = (offer.brand != buyer.brand) + (buyer.type not in offer.types)
    lacking, extras = len({*buyer.features} - offer.features), len(offer.features - {*buyer.features})
    if buyer.persona == "picky" and (wrong or lacking):
        return 0.0
    if buyer.persona == "discount" and 10 * offer.price > 9 * offer.list_price:
        return 0.0
    return buyer.budget * max(0, 100 - 20 * wrong - 10 * lacking - 2 * extras) / 100


def utility(buyer: Buyer, offer: Offer) -> float:
    return worth(buyer, offer) - offer.price


def accepts(buyer: Buyer, offer: Offer) -> bool:
    return is_full(offer) and utility(buyer, offer) >= 0 and offer.price <= min(buyer.budget, offer.lowest)


def fraction(price: float, budget: float, list_price: float) -> float:
    """The paper's reward: price / mean(budget, list price) of a sale; without one, (list - budget) / list, or 0."""
    if price:
        return 2 * price / (budget + list_price)
    return (list_price - budget) / list_price if list_price else 0.0
