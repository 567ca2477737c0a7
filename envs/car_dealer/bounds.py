"""What proves the lowest and the highest return of the seller's side."""

from itertools import product

from envs.car_dealer.buyer import BUDGETS, PERSONAS
from envs.car_dealer.deal import MAX_PRICE, MIN_PRICE, Buyer, Offer, accepts, fraction
from envs.car_dealer.language import BRANDS, FEATURES, TYPES


def worst_return(reward: str) -> float:
    """Revenue: no sale. Fraction: no sale either, at the lowest list price to the buyer with the highest budget."""
    return 0.0 if reward == "revenue" else fraction(0, max(BUDGETS), MIN_PRICE)


def best_return(reward: str) -> float:
    """Exact: the mean over personas and budgets of the best deal."""
    buyers = [Buyer(persona, BRANDS[0], TYPES[0], (FEATURES[0],), budget, (0, 0))
              for persona, budget in product(PERSONAS, BUDGETS)]
    return sum(best_deal(buyer, reward) for buyer in buyers) / len(buyers)


def best_deal(buyer: Buyer, reward: str) -> float:
    """The highest reward with this buyer, of the car that he wants."""
    car = Offer(buyer.brand, frozenset([buyer.type]), frozenset(buyer.features))
    offers = []
    for price in range(MIN_PRICE, buyer.budget + 1, 500):
        # At a price, of list prices the lowest is the best that will do.
        for list_price in (price, -(-10 * price // 9)):
            if list_price <= MAX_PRICE:
                offers.append(car._replace(price=price, list_price=list_price, lowest=price))
    deals = [offer for offer in offers if accepts(buyer, offer)]
    if reward == "revenue":
        return max(offer.price for offer in deals) / 1000
    unsold = fraction(0, buyer.budget, MAX_PRICE)
    return max(unsold, *(fraction(offer.price, buyer.budget, offer.list_price) for offer in deals))
