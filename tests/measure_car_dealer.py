"""How well the scripted buyer understands written dialogues: python tests/measure_car_dealer.py FILE [--failures].

A line of the file is {"buyer": {persona, brand, type, features, budget}, "lines": [line of the seller, …], "expect":
[what is expected after it, …], "kind": …}. Expected is null (nothing) or one of

    {"accept": 30000}      he buys at this price         {"no_sale": true}   he does not buy
    {"price": null}        the line names no price       {"answers": topic}  needs, brand, type, features, budget, …
    {"offer": {…}}         what he takes to be on offer: brand, types, features, price, list_price

A line of several lines is heard as one. A sale where none at this price is expected is a wrong one.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from envs import make
from envs.car_dealer.buyer import slots_of
from envs.car_dealer.language import FEATURES, LINES, understand


def start(wanted, seed):
    """A game with the buyer of the dialogue; what he says of his budget is true in the way of his persona."""
    env = make("car_dealer")
    env.reset(15 * seed + ["discount", "picky", "impatient"].index(wanted["persona"]))
    budget, features = wanted["budget"], tuple(name for name in FEATURES if name in wanted["features"])
    limits = {"discount": (budget * 4 // 5, 0), "impatient": (budget, 0), "picky": (budget - 10_000, budget + 30_000)}
    env.buyer = env.buyer._replace(brand=wanted["brand"], type=wanted["type"], features=features, budget=budget,
                                   limits=limits[wanted["persona"]])
    env.slots = slots_of(env.buyer)
    return env


def answers(env, topic, reply):
    """Whether the buyer's line is an answer to a question about the topic."""
    said = understand(reply)
    names = said.offered | said.asked_about | said.mentioned
    if topic == "budget":
        return bool(said.amounts)
    if topic in ("discount", "hurry"):
        lines = [line for key, bank in LINES.items() if key.startswith(f"buyer {topic}") for line in bank]
        return any(line in reply for line in lines)
    wanted = {"brand": {env.buyer.brand}, "type": {env.buyer.type}, "features": {*env.buyer.features},
              "needs": {env.buyer.brand, env.buyer.type}}[topic]
    plain = topic != "needs" and re.match("(Yes|No|Not really)\\b", reply)
    return wanted <= names or bool(plain)


def is_met(env, expected, before, sold, reply):
    """Whether what happened at a line is what is expected there."""
    kind, value = next(iter(expected.items()))
    if kind == "accept":
        return sold and abs(env.offer.price - value) < 1
    if kind == "answers":
        return not sold and answers(env, value, reply)
    if kind == "price":
        return not sold and env.offer.price == before.price
    if kind == "no_sale":
        return not sold
    found = env.offer._asdict()
    same = [{*(wanted or ())} == {*found[name]} if name == "features" else
            {*(wanted or ())} <= {*found[name]} if name == "types" else (wanted or 0) == (found[name] or 0)
            for name, wanted in value.items()]
    return not sold and all(same)


def judge(dialogue, seed):
    """(line, what was expected, whether it was met, whether it was a wrong sale, what the buyer said) of each line."""
    env = start(dialogue["buyer"], seed)
    for line, expected in zip(dialogue["lines"], dialogue["expect"], strict=True):
        if env.over:
            if expected:
                yield line, expected, False, False, "(the game is over)"
            continue
        before = env.offer
        reply, _, _, _, info = env.step(" ".join(line.split()) + "\n")
        sold = info["success"]
        wrong = sold and not ("accept" in (expected or {}) and abs(env.offer.price - expected["accept"]) < 1)
        met = is_met(env, expected, before, sold, reply) if expected else not wrong
        if expected or wrong:
            yield line, expected, met, wrong, f"{reply.strip()} [{env.offer}]"


def main(path, *options):
    """Measure a file and print it by kind."""
    met, total, wrong_sales = Counter(), Counter(), 0
    for number, row in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        dialogue = json.loads(row)
        for line, expected, right, wrong, shown in judge(dialogue, number):
            kind = dialogue.get("kind", "")
            met[kind] += right
            total[kind] += 1
            wrong_sales += wrong
            if "--failures" in options and (wrong or not right):
                print(f"{number} {kind}{' WRONG SALE' * wrong}: {line}\n    {expected}: {shown}")
    for kind in sorted(total):
        print(f"{kind:28} {met[kind]:4} of {total[kind]:4}")
    share = met.total() / total.total()
    print(f"{'expectations met':28} {met.total():4} of {total.total():4}, {100 * share:.1f} %")
    print(f"{'wrong sales':28} {wrong_sales:4}")
    return share, wrong_sales


if __name__ == "__main__":
    main(*sys.argv[1:])
