"""Car dealer: sell a car to a buyer who says what he pleases about himself (LMRL-Gym, arXiv 2311.18232).

A turn is one line of the seller, answered by one line of the buyer. Hidden from the seller are the buyer's persona
(`discount` buys only 10 % below the list price, `picky` only if every wish is met, `impatient` hates long talk), brand,
type, one to four features, and budget. The dealer has every car. The list price is the first asking price, or what the
line with it names as one ("normally $40,000"), at least the price that line asks. A price counts from $1,000 to
$150,000: any other is taken for a joke, so that no car is given away. The buyer sees

    utility = worth - price        worth = budget x (1 - 0.2 per wrong brand or type - 0.1 per missing feature
                                                       - 0.02 per feature not asked for), see `worth`

and accepts what is offered where it is not negative, within the budget, and at the lowest price heard so far at most;
else says what is wrong. Patience wears off with each line that brings him no further, and the buyer leaves when it is
gone, at the latest after 25 lines. Asked for his budget, `impatient` tells it, `discount` names four fifths of it, and
`picky` a range that has it. Only the first line of an action is heard, of that 1,000 characters, and nothing of one
that is cut off (no newline at its end, or `…` before it) or has neither letter nor digit: that alone is invalid.
Sentences that claim what the buyer has said, or give him instructions, are not heard either.

Reward, on the last turn: the price in $1,000, 0 without a sale. Options, all of them text:

    reward fraction            price / mean(budget, list price) when sold, else (list - budget) / list, as in the paper:
                               not to sell at a list price above the budget pays too; 0 where no price was named
    side buyer                 the agent is the buyer of the same dialogues, and a seller of the data's is played: the
                               first observation is the profile in a line and the seller's first line; reward: the
                               utility in $1,000 of the deal. Bluffing is part of the game: the sellers believe
                               any limit that they are told, and the best known player names a low one
    buyer hf:NAME_OR_PATH, buyer http://.../v1 (simulator_model NAME, device NAME)
                               a language model is the buyer, as one trained with `side buyer`. It has accepted where
                               ACCEPT finds it in its line, and left with REJECT; to accept no price, or one above the
                               budget, is no deal and ends the game. The offline data stays that of the scripted buyer

    python -m envs.car_dealer                     sell a car
    python -m envs.car_dealer --player best       watch a seller who knows the buyer (good: one who does not)
"""

import copy
import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from envs import SEEDS, Env, Player, Step, Trajectory, draw_seed, play
from envs.car_dealer_sellers import (
    BUDGETS,
    MIN_PRICE,
    SELLERS,
    best_player,
    data_player,
    good_player,
    player_of,
    random_player,
)
from envs.car_dealer_words import (
    BRANDS,
    FEATURES,
    HEARD,
    LINES,
    LINES_FILE,
    SAID,
    TYPES,
    WORDS_FILE,
    Line,
    as_dollars,
    enumerate_names,
    money,
    say,
    understand,
    verdict,
)
from envs.data import flag

FIRST_OBS, LAST_OBS = "Start\n", "End\n"  # the last one: behind the last line of an agent who is the buyer
MAX_TURNS = 25
PERSONAS = ("discount", "picky", "impatient")
MAX_PRICE = 150_000  # in $
BODIES = {"sedan", "convertible", "truck", "SUV"}  # a car is one of them, and may be luxury or electric besides
PATIENCE = {"discount": 11, "picky": 11, "impatient": 10}
SELLERS_FILE = WORDS_FILE.with_name("car_dealer_sellers.py")
LONG = 30  # words; longer lines cost an impatient buyer's patience

# (worst, data, best) by reward; data: of the default dataset
CONSTANTS = {"revenue": (0.0, 16.44, 50.0), "fraction": (-89.0, 0.314, 0.9824524554691241)}
BUYER_CONSTANTS = -90.0, 9.81, 37.84  # best: of the best known player, who bluffs
PROFILE = re.compile(r"You are a buyer [^\n]*\n[^\n]+\n\Z")
RULES = """You talk to the seller in a car dealer's shop. Answer his last line with one short line, in character.
Do not tell everything at once. To buy at the price that he offered last, say "I accept"; never above your budget.
To leave without a car, say "Goodbye"."""
INTRODUCTION = f"""A customer walks in. You have every car there is, and only the customer knows which one it has to be,
what it may cost, and what it takes to make a deal. Ask, offer, name a price, haggle: the price is what you
earn, in $1,000. After {MAX_TURNS} lines the shop closes; some customers do not wait that long.

  brands    {', '.join(BRANDS)}
  types     {', '.join(TYPES)}
  features  {', '.join(FEATURES[:4])},
            {', '.join(FEATURES[4:])}

"""
QUESTIONS = ("?needs", "?type", "?brand", "?features", "?budget", "?discount", "?hurry")  # in the order of the answers

# --- The deal ---


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
    """The paper's reward; `price` is 0 without a sale."""
    if price:
        return 2 * price / (budget + list_price)
    return (list_price - budget) / list_price if list_price else 0.0


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


class CarDealer(Env):
    """The dialogue. Persona and budget are numbered by `seed` modulo 15, the buyer's wishes drawn with it."""

    variants = ("car_dealer",)
    files = (LINES_FILE, WORDS_FILE, WORDS_FILE.with_suffix(".py"), SELLERS_FILE)
    max_turns = MAX_TURNS
    num_trajectories = 5000
    num_test_episodes = 500
    # The paper tells neither its data's mean nor a best return: here those of its BC and of its best, MC.
    paper = {"worst": 0, "data": 44.5, "best": 57.2, "success": 0.53}

    def __init__(self, env_id: str, reward: str = "revenue", side: str = "seller", buyer: str = "scripted",
                 simulator_model: str = "", device: str = "", **options: str) -> None:
        super().__init__(env_id, **options)
        if reward not in ("revenue", "fraction") or side not in ("seller", "buyer"):
            raise ValueError(f"reward {reward}, side {side}: reward is revenue or fraction, side is seller or buyer")
        if side == "buyer" and (buyer != "scripted" or reward != "revenue"):
            raise ValueError("side buyer: the agent is the buyer; it goes with neither of the options buyer and reward")
        self.reward, self.selling, self.simulator = reward, side == "seller", None
        if buyer != "scripted":
            from envs.simulators import make_simulator  # here alone: the scripted buyer needs no model
            self.simulator = make_simulator(buyer, simulator_model, device)
        elif simulator_model or device:
            raise ValueError("simulator_model and device are for a buyer that is a model")
        self.worst, self.data, self.best = (BUYER_CONSTANTS if not self.selling else CONSTANTS[reward])
        self.over, self.turns = True, 0

    def about(self) -> dict[str, Any]:
        asked = self.simulator
        return {"buyer": asked.name, "simulator_model": asked.model} if asked else {}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        seed = draw_seed() if seed is None else seed
        self.rng = rng = random.Random(f"car_dealer {seed}")
        persona, budget = PERSONAS[seed % 3], BUDGETS[seed // 3 % 5]
        brand, kind = rng.choice(BRANDS), rng.choice(TYPES)
        wished = set(rng.sample(FEATURES, rng.randint(1, 4)))
        shift = rng.choice((-30_000, -10_000))
        limits = {"discount": (budget * 4 // 5, 0), "impatient": (budget, 0),
                  "picky": (max(5000, budget + shift), budget + shift + 40_000)}[persona]
        self.buyer = Buyer(persona, brand, kind, tuple([name for name in FEATURES if name in wished]), budget, limits)
        self.slots = {"brand": SAID[brand], "type": SAID[kind], "features": enumerate_names(self.buyer.features),
                      "budget": money(budget), "low": money(limits[0]), "high": money(limits[1])}
        self.offer, self.line, self.before = Offer(), Line(), Offer()
        self.patience, self.asked, self.again, self.lines = PATIENCE[persona], set(), set(), []
        self.over, self.sold, self.turns, self.valid, self.plan = False, False, 0, True, None
        info = {"success": False, "valid": True}
        if self.selling:
            return FIRST_OBS, info
        self.sellers_rng = random.Random(f"car_dealer seller {seed}")
        return self.profile + self.next_line(), info

    @property
    def profile(self) -> str:
        """The line that tells a buyer who he is."""
        key = f"buyer profile {self.buyer.persona}"
        return LINES[key if key in LINES else "buyer profile"][0].format(**self.slots) + "\n"

    def next_line(self) -> str:
        """A line of the scripted seller, heard."""
        self.listen(text := data_player(self, self.sellers_rng))
        return text

    def listen(self, action: str) -> bool:
        """Hear a line of the seller; whether it is valid."""
        text, self.valid = as_heard(action)
        self.line = understand(text) if self.valid else Line()
        self.before, self.offer = self.offer, hear(self.offer, self.line)
        questions = {name for name in QUESTIONS if name in self.line.intents}
        self.asked, self.again = self.asked | questions, self.asked & questions
        self.turns += 1
        self.lines.append(text)
        return self.valid

    def step(self, action: str) -> Step:
        return self.step_all([self], [action])[0]

    @classmethod
    def step_all(cls, envs: list["CarDealer"], actions: list[str]) -> list[Step]:
        """The agents' lines, then the buyers': a language model answers all of them at once."""
        if any(env.over for env in envs):
            raise RuntimeError("the game is over: call reset")
        for env, action in zip(envs, actions, strict=True):
            env.listen(action) if env.selling else env.answer(action)
        asked = [env for env in envs if env.simulator]
        answers = asked[0].simulator.answer([env.request() for env in asked]) if asked else []
        for env, text in zip(asked, answers, strict=True):
            env.answer(text + "\n")
        for env in envs:
            if env.selling and not env.simulator:
                env.answer(env.reply())
        return [env.report() for env in envs]

    def request(self) -> Any:
        """What a language model is to answer; its prompt is the text that `side buyer` trains on."""
        from envs.simulators import Request

        return Request(f"{self.profile}{RULES}", tuple(self.lines), self.profile + "".join(self.lines))

    def answer(self, action: str) -> None:
        """Note a line of the buyer."""
        text, valid = as_heard(action)
        self.lines.append(text)
        self.outcome = verdict(text) if valid else ""
        self.valid = self.valid if self.selling else valid

    def report(self) -> Step:
        """What `step` returns, behind the buyer's line."""
        self.sold = success = self.outcome == "sale" and 0 < self.offer.price <= self.buyer.budget
        self.over = bool(self.outcome) or self.turns >= MAX_TURNS
        info = {"success": success, "valid": self.valid}
        obs = self.lines[-1] if self.selling else LAST_OBS if self.over else self.next_line()
        return obs, self.reward_of(success) if self.over else 0.0, self.over, False, info

    def reward_of(self, success: bool) -> float:
        """The reward of the last turn."""
        offer, budget = self.offer, self.buyer.budget
        if not self.selling:
            return utility(self.buyer, offer) / 1000 if success else 0.0
        if self.reward == "revenue":
            return offer.price / 1000 if success else 0.0
        return fraction(offer.price if success else 0, budget, offer.list_price)

    def say(self, key: str, names: list[str] | tuple[str, ...] = (), **slots: str) -> str:
        """A line of the scripted buyer."""
        slots |= {"names": enumerate_names(names), **self.slots}
        return say(self.rng, "buyer", f"{key} {self.buyer.persona}", key, **slots)

    def reply(self) -> str:
        """The scripted buyer's answer to the seller's last line."""
        buyer, offer, line, hasty = self.buyer, self.offer, self.line, self.buyer.persona == "impatient"
        named = is_full(offer) and bool(line.prices or "close" in line.intents or offer[:6] != self.before[:6])
        if named and not offer.joke and accepts(buyer, offer):
            return self.say("accept", price=money(offer.price)) + "\n"
        questions, moved = [name for name in QUESTIONS if name in line.intents], offer[:6] != self.before[:6]
        idle = not (moved or line.asked_about or {*questions} - self.again)
        self.patience -= 2 * (named or bool(offer.joke)) + (self.again != set() or idle) + hasty * (1 + idle)
        self.patience -= 2 * (hasty and line.num_words > LONG)
        if self.patience <= 0 or self.turns >= MAX_TURNS:
            return self.say("leave" if self.patience <= 0 else "late") + "\n"
        parts = [self.say("short")] if hasty and line.num_words > LONG else []
        if not self.valid:
            parts = [self.say("unheard")]
        elif offer.joke:
            parts.append(self.say(offer.joke))
        elif named or moved:
            key, names = complaint(buyer, offer) if offer[:3] != ("", frozenset(), frozenset()) else ("which", [])
            parts.append(self.say(key or "price", names, lowest=money(offer.lowest)))
        if self.again:
            parts.append(self.say("again"))
        parts += [self.say(name[1:]) for name in questions[:2]]
        if line.asked_about and not questions:
            mine = {buyer.brand, buyer.type, *buyer.features}
            other = [kind for kind, names in (("brand", BRANDS), ("type", TYPES), ("features", FEATURES))
                     if line.asked_about & {*names} and not line.asked_about & {*names} & mine]
            parts += [self.say("no"), *map(self.say, other)] if other else [self.say("yes")]
        if not parts:
            aside = "?other" in line.intents and "close" not in line.intents
            parts = [self.say("hello" if "greeting" in line.intents and self.turns == 1 else "aside" if aside else
                              "still" if offer.price else "talk")]
        return " ".join(parts) + "\n"

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Dialogues of the data's sellers with the scripted buyer; the same ones for both sides."""
        env = copy.copy(self)  # the caller may play a game of its own between two trajectories
        env.selling, env.simulator = True, None
        for index in range(start, num_trajectories):
            rng = random.Random(f"car_dealer {seed} {index}")
            obs, info = env.reset(rng.randrange(SEEDS["eval"]))
            texts, rewards = [obs], []
            while not env.over:
                obs, reward, _, _, info = env.step(action := data_player(env, rng))
                texts += [action, obs]
                rewards.append(reward)
            if not self.selling:
                texts = [env.profile + texts[1], *texts[2:], LAST_OBS]
                rewards[-1] = utility(env.buyer, env.offer) / 1000 if info["success"] else 0.0
            yield Trajectory(texts, rewards, True, info["success"])

    def players(self) -> dict[str, Player]:
        if not self.selling:
            return {"data": lambda env, rng: env.reply(), "best": bluffer}
        return {"random": random_player, **{kind: player_of(kind) for kind in SELLERS}, "data": data_player,
                "good": good_player, "best": best_player}

    def measures(self, trajectory: Trajectory) -> dict[str, float]:
        """Revenue in $1,000, and the discount on the list price; both 0 without a sale."""
        offer = Offer()
        for text in trajectory.texts[1::2] if self.selling else trajectory.texts[:-1:2]:
            text, valid = as_heard(text.split("\n")[-2] + "\n")  # not the profile before the seller's first line
            offer = hear(offer, understand(text)) if valid else offer
        if not (trajectory.success and offer.price):
            return {"revenue": 0.0, "discount": 0.0}
        return {"revenue": offer.price / 1000, "discount": 1 - offer.price / offer.list_price}

    def recognises(self, trajectory: Trajectory) -> bool:
        first, *later = trajectory.texts[::2]
        if any(not obs.endswith("\n") or obs.count("\n") > 1 for obs in later):
            return False
        return first.startswith(FIRST_OBS) if self.selling else bool(PROFILE.match(first))

    def parse(self, record: Any) -> list[Trajectory]:
        """{persona: [{buyer_info, lines: [{role, text}], output: {car_bought, msrp, buy_price}}, …], …}."""
        if not self.selling:
            raise ValueError("a dialogue of the original release, which is read for the side of the seller only")
        if not isinstance(record, dict) or not all(isinstance(games, list) for games in record.values()):
            raise ValueError("something else than {persona: [dialogue, …], …}")
        return [self.parse_game(game) for games in record.values() for game in games]

    def parse_game(self, game: dict[str, Any]) -> Trajectory:
        """One dialogue; lines of one speaker that follow each other become one, and a buyer may speak first."""
        texts, output = [FIRST_OBS], game["output"]
        for line in game["lines"]:
            role, text = line["role"].strip().lower(), " ".join(line["text"].split()) + "\n"
            if role not in ("seller", "buyer"):
                raise ValueError(f"a line of {role!r} instead of seller or buyer")
            if (role == "seller") == (len(texts) % 2 == 1):
                texts.append(text)
            else:
                texts[-1] = (texts[-1] if len(texts) == 1 else texts[-1][:-1] + " ") + text
        bought, price, listed = flag(output["car_bought"]), output["buy_price"], output["msrp"]
        price, listed = (as_dollars(value) if value is not None else 0.0 for value in (price, listed))
        if bought and not price:
            raise ValueError("a car that is bought without a buy_price")
        reward = price / 1000 if bought else 0.0
        if self.reward == "fraction":
            budget, listed = as_dollars(game["buyer_info"]["budget"]), listed or price
            reward = fraction(price if bought else 0, budget, listed)
        rewards = [0.0] * (len(texts) // 2 - 1) + [reward]
        return Trajectory(texts, rewards, True, bought)

    def worst_return(self) -> float:
        """revenue: no sale; fraction: none at the lowest list price. Buyer: all he has for a car of no use."""
        if not self.selling:
            return -max(BUDGETS) / 1000
        return 0.0 if self.reward == "revenue" else (MIN_PRICE - max(BUDGETS)) / MIN_PRICE

    def best_return(self) -> float:
        """Exact: the mean over personas and budgets of the best deal; for the buyer's side, of 600 games of `best`."""
        if not self.selling:
            return sum(play(self, bluffer, SEEDS["eval"] + seed).episodic_return for seed in range(600)) / 600
        total = 0.0
        for persona, budget in product(PERSONAS, BUDGETS):
            buyer = Buyer(persona, BRANDS[0], TYPES[0], (FEATURES[0],), budget, (0, 0))
            car = Offer(BRANDS[0], frozenset([TYPES[0]]), frozenset([FEATURES[0]]))
            # At a price, of list prices the lowest is the best that will do.
            prices = range(MIN_PRICE, budget + 1, 500)
            lists = {price: (price, -(-10 * price // 9)) for price in prices}
            offers = [car._replace(price=p, list_price=x, lowest=p) for p in prices for x in lists[p] if x <= MAX_PRICE]
            deals = [offer for offer in offers if accepts(buyer, offer)]
            if self.reward == "revenue":
                total += max(offer.price for offer in deals) / 1000
            else:
                unsold = (MAX_PRICE - budget) / MAX_PRICE
                total += max(unsold, *(2 * offer.price / (budget + offer.list_price) for offer in deals))
        return total / len(PERSONAS) / len(BUDGETS)

    def render(self, text: str) -> str:
        if text == FIRST_OBS:
            return INTRODUCTION
        *profile, line = text.rstrip("\n").split("\n")
        shown = "".join(f"{row}\n" for row in profile) + (f"\033[96m{line}\033[0m\n" if text != LAST_OBS else "")
        if not self.over:
            return shown
        result = f"Sold for {money(self.offer.price)}." if self.sold else "No sale."
        return f"{shown}{result} The customer's card: {self.profile}"


def as_heard(action: str) -> tuple[str, bool]:
    """(the line, whether it is valid)."""
    first, newline, _ = action.partition("\n")
    text = (first + ("" if newline or first.endswith("…") else "…"))[:HEARD]
    return text + "\n", bool(newline) and not first.endswith("…") and any(map(str.isalnum, text))


def bluffer(env: CarDealer, rng: random.Random) -> str:
    """Repeats his wishes, a limit far below his budget, and that it is too much, until the deal is good enough."""
    buyer, offer, last = env.buyer, env.offer, env.turns == MAX_TURNS
    enough = 0 if last else buyer.budget * (0.95 - 0.45 * (env.turns / MAX_TURNS) ** 2)
    if is_full(offer) and offer.price <= buyer.budget and utility(buyer, offer) >= enough:
        return env.say("accept", price=money(offer.price)) + "\n"
    if last:
        return env.say("late") + "\n"
    # Nobody goes below MIN_PRICE: for a discount the first price has to be above it.
    slots = env.slots | {"low": money(MIN_PRICE * (3 if buyer.persona == "discount" else 1))}
    keys = "needs impatient", "over", "budget impatient"
    return " ".join(say(env.rng, "buyer", key, **slots) for key in keys) + "\n"


ENV = CarDealer

if __name__ == "__main__":
    from envs.terminal import main

    main(CarDealer)
