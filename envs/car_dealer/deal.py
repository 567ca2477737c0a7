"""The deal: what the buyer wants, what the seller has on offer, and what that is worth to the buyer."""

from typing import NamedTuple

from envs.car_dealer.language import BRANDS, FEATURES, TYPES, Line

MIN_PRICE, MAX_PRICE = 1000, 150_000  # in $; any other price is taken for a joke
BODIES = {"sedan", "convertible", "truck", "SUV"}  # a car is one of them, and may be luxury or electric besides


class Offer(NamedTuple):
    """The car on offer and what it costs, in $; 0: not said yet."""

    brand: str = ""
    types: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    list_price: float = 0
    price: float = 0
    lowest: float = 0  # of all prices so far
    joke: str = ""  # `high` or `low`: the last line asked for a price that does not count


class Buyer(NamedTuple):
    """What is hidden from the seller; `limits` is what the buyer says of his budget, in $."""

    persona: str
    brand: str
    type: str
    features: tuple[str, ...]
    budget: int
    limits: tuple[int, int]


def hear(offer: Offer, line: Line) -> Offer:
    """The offer behind a line of the seller."""
    named = [name for name in BRANDS if name in line.offered]
    types, features = line.offered & {*TYPES}, line.offered & {*FEATURES}
    brand = named[0] if len(named) == 1 else offer.brand
    types = types if len(types & BODIES) <= 1 else frozenset()  # all kinds of cars are none
    other = brand != offer.brand or types & BODIES and offer.types & BODIES and types & BODIES != offer.types & BODIES
    if other and offer.brand:
        types = types or offer.types
    else:
        types, features = types if other and types else types | offer.types, features | offer.features
    first = asked = listed = 0
    for role, amount in line.prices:
        if role == "ask":
            asked, first = amount, first or amount
        elif role == "list":
            listed = amount
        else:
            base = asked or listed or (offer.price if role[:4] == "more" else offer.list_price)
            asked = base - (base * amount if role[-1] == "%" else amount) if base else 0
    zero = any(role == "ask" and amount <= 0 for role, amount in line.prices)
    asked = round(asked or (0 if offer.price else listed))
    joke = "low" if zero or asked and asked < MIN_PRICE else "high" if asked > MAX_PRICE else ""
    price = offer.price if joke else asked or offer.price
    listed = next((round(amount) for amount in (listed, first) if MIN_PRICE <= amount <= MAX_PRICE), price)
    listed = offer.list_price or max(listed, price)
    counting = [round(amount) for role, amount in line.prices if role == "ask" and MIN_PRICE <= amount <= MAX_PRICE]
    heard = [] if joke else counting  # not the last price alone: a line cannot raise its own
    return Offer(brand, types, features - line.denied, listed if price else 0, price,
                 min([price, offer.lowest or price, *heard]), joke)


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
