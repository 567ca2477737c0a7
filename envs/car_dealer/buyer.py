"""The scripted buyer: who comes into the shop, and what he answers."""

import random
from typing import Any

from envs.car_dealer.deal import Buyer, Offer, accepts, is_full, utility, worth
from envs.car_dealer.language import BRANDS, FEATURES, SAID, TYPES, Line, enumerate_names, money

BUDGETS = (10_000, 30_000, 50_000, 70_000, 90_000)  # in $
PERSONAS = ("discount", "picky", "impatient")
PATIENCE = {"discount": 11, "picky": 11, "impatient": 10}
LONG = 30  # words; longer lines cost an impatient buyer's patience
QUESTIONS = ("?needs", "?type", "?brand", "?features", "?budget", "?discount", "?hurry")  # in the order of the answers


def draw_buyer(rng: random.Random, seed: int) -> Buyer:
    """Persona and budget are numbered by `seed` modulo 15, his wishes are drawn."""
    persona, budget = PERSONAS[seed % 3], BUDGETS[seed // 3 % 5]
    brand, kind = rng.choice(BRANDS), rng.choice(TYPES)
    wished = set(rng.sample(FEATURES, rng.randint(1, 4)))
    shift = rng.choice((-30_000, -10_000))
    limits = {"discount": (budget * 4 // 5, 0), "impatient": (budget, 0),
              "picky": (max(5000, budget + shift), budget + shift + 40_000)}[persona]
    return Buyer(persona, brand, kind, tuple([name for name in FEATURES if name in wished]), budget, limits)


def slots_of(buyer: Buyer) -> dict[str, str]:
    """What his lines may say of him."""
    low, high = buyer.limits
    return {"brand": SAID[buyer.brand], "type": SAID[buyer.type], "features": enumerate_names(buyer.features),
            "budget": money(buyer.budget), "low": money(low), "high": money(high)}


def reply(env: Any) -> str:
    """His answer to the seller's last line."""
    buyer, offer, line = env.buyer, env.offer, env.line
    moved = offer[:6] != env.before[:6]
    named = is_full(offer) and bool(moved or line.prices or "close" in line.intents)
    if named and not offer.joke and not is_unclear(line) and accepts(buyer, offer):
        return env.say("accept", price=money(offer.price)) + "\n"
    env.patience -= lost_patience(env, named, moved)
    if env.patience <= 0:
        return env.say("leave") + "\n"
    if env.turns >= env.max_turns:
        return env.say("late") + "\n"
    parts = [env.say("short")] if buyer.persona == "impatient" and line.num_words > LONG else []
    parts += opinion(env, named or moved)
    if env.again:
        parts.append(env.say("again"))
    parts += answers(env)
    return " ".join(parts or [small_talk(env)]) + "\n"


def is_unclear(line: Line) -> bool:
    """Whether the line names amounts, but it is unclear which of them, if any, is the price."""
    roles = [role for role, _ in line.prices]
    return bool(line.amounts) and (not roles or roles[-1] in ("correct", "doubt"))


def lost_patience(env: Any, named: bool, moved: bool) -> int:
    """What a line costs that does not lead to a deal."""
    asks_more = not env.line.intents & env.asked <= env.again
    idle = not (moved or env.line.asked_about or asks_more)
    lost = 2 * (named or bool(env.offer.joke)) + (bool(env.again) or idle)
    if env.buyer.persona == "impatient":
        lost += 1 + idle + 2 * (env.line.num_words > LONG)
    return lost


def opinion(env: Any, new: bool) -> list[str]:
    """What he thinks of the offer, where there is something `new` about it."""
    offer = env.offer
    if not env.valid:
        return [env.say("unheard")]
    if offer.joke:
        return [env.say(offer.joke)]
    if env.line.prices and is_unclear(env.line):
        return [env.say("doubt")]
    if not new:
        return []
    if not (offer.brand or offer.types or offer.features):
        return [env.say("which")]
    key, names = ("", []) if accepts(env.buyer, offer) else complaint(env.buyer, offer)
    return [env.say(key or "price", names, lowest=money(offer.lowest))]


def complaint(buyer: Buyer, offer: Offer) -> tuple[str, list[str]]:
    """(key of the line that says what is wrong with the offer, the names in it); nothing where all is well."""
    wrong = [("no brand", [buyer.brand])] * (offer.brand != buyer.brand and bool(offer.brand or offer.price))
    wrong += [("no type", [buyer.type])] * (buyer.type not in offer.types and bool(offer.types or offer.price))
    lacking = [name for name in buyer.features if name not in offer.features]
    wrong += [("no features", lacking)] if lacking else []
    if not is_full(offer):
        return wrong[0] if wrong else ("", [])
    if offer.price > buyer.budget:
        costs = ("far" if offer.price > 1.3 * buyer.budget else "over", [])
        return wrong[0] if wrong and buyer.persona == "picky" else costs
    if offer.price > offer.lowest:
        return "raised", []
    if wrong and utility(buyer, offer._replace(list_price=2 * offer.price)) < 0:
        return wrong[0]
    if buyer.persona == "discount" and worth(buyer, offer) == 0:
        return "more" if offer.price < offer.list_price else "bargain", []
    return "extras", [name for name in FEATURES if name in offer.features and name not in buyer.features][:1]


def answers(env: Any) -> list[str]:
    """His answers to questions, two at most; yes or no where one names what he may want."""
    line: Line = env.line
    questions = [name for name in QUESTIONS if name in line.intents]
    if questions or not line.asked_about:
        return [env.say(name[1:]) for name in questions[:2]]
    mine = {env.buyer.brand, env.buyer.type, *env.buyer.features}
    kinds = {"brand": BRANDS, "type": TYPES, "features": FEATURES}
    asked = {kind: line.asked_about & {*names} for kind, names in kinds.items()}
    other = [kind for kind, names in asked.items() if names and not names & mine]
    return [env.say("no"), *map(env.say, other)] if other else [env.say("yes")]


def small_talk(env: Any) -> str:
    """Where there is nothing to answer."""
    intents = env.line.intents
    if "greeting" in intents and env.turns == 1:
        return env.say("hello")
    if "?other" in intents and "close" not in intents:
        return env.say("aside")
    return env.say("still" if env.offer.price else "talk")
