"""Car dealer: sell a car to a buyer who says what he pleases about himself (LMRL-Gym, arXiv 2311.18232).

A turn is one line of the seller, answered by one line of the buyer. Hidden from the seller are the buyer's persona
(`discount` buys only 10 % below the list price, `picky` only if every wish is met, `impatient` hates long talk), brand,
type, one to four features, and budget. The dealer has every car. The list price is the first asking price, or what the
line with it names as one ("normally $40,000"), at least the price that line asks; a dearer car raises it. A price
counts from $1,000 to $150,000: any other is taken for a joke, so that no car is given away. An amount is a price only
if it is asked for the car, in dollars, once and for all: not a commission, an option, a trade-in, a price that is past,
refused, conditional or another's, a monthly rate, or one before tax. In the clause of a price stand words of offers
alone: with another word, or below half of what was asked for the same car, it is none. A line sells nothing if none of
its amounts is a price, or if it is unclear whether the last one is: then the buyer asks, and a yes makes it the price.
Of several cars the buyer takes the one that he wants.
A feature counts where a line shows that the car has it, and what is said last counts. The buyer sees

    utility = worth - price        worth = budget x (1 - 0.2 per wrong brand or type - 0.1 per missing feature
                                                       - 0.02 per feature not asked for), see `worth`

and accepts what is offered where it is not negative, within the budget, and at most at the lowest price heard so far
for this car, unless that was corrected or the car has more features now; else he says what is wrong. "Exactly that car"
is the one that he has described so far. Patience wears off with each line that brings him no further, and the buyer
leaves when it is gone, at the latest after 25 lines. Asked for his budget, `impatient` tells it, `discount` names four
fifths of it, and `picky` a range that has it. Only the first line of an action is heard, of that 1,000 characters, and
nothing of one that is cut off (no newline at its end, or `…` before it) or has neither letter nor digit: that alone is
invalid. Of sentences that claim what the buyer has said, or give him instructions, no price is heard.

Reward, on the last turn: the price in $1,000, 0 without a sale. Options, all of them text:

    reward fraction            price / mean(budget, list price) when sold, else (list - budget) / list, as in the paper:
                               not to sell at a list price above the budget pays too; 0 where no price was named
    side buyer                 the agent is the buyer of the same dialogues, and a seller of the data's is played: the
                               first observation is the profile in a line and the seller's first line; reward: the
                               utility in $1,000 of the deal. Bluffing is part of the game: the sellers believe
                               any limit that they are told, and the best known player names a low one
    buyer hf:NAME_OR_PATH, buyer http://.../v1 (simulator_model NAME, device NAME)
                               a language model is the buyer, as one trained with `side buyer`. It has accepted where
                               ACCEPT finds it in its line, and left with REJECT, or with the original's
                               `Output: Decision=Accept MSRP=$30,000 Buy Price=$28,000`; to accept no price, or
                               one above the budget, is no deal and ends the game. The offline data stays that
                               of the scripted buyer

    python -m envs.car_dealer                     sell a car
    python -m envs.car_dealer --player best       watch a seller who knows the buyer (good: one who does not)
"""

import random
from collections.abc import Iterator
from typing import Any

from envs import SEEDS, Env, Player, Step, Trajectory, draw_seed, make_other_side
from envs.car_dealer import bounds
from envs.car_dealer.buyer import PATIENCE, QUESTIONS, draw_buyer, reply, slots_of
from envs.car_dealer.deal import REFERRING, Buyer, Offer, fraction, hear
from envs.car_dealer.language import (
    BRANDS,
    FEATURES,
    FILES,
    LINES,
    TYPES,
    Line,
    as_dollars,
    as_heard,
    enumerate_names,
    money,
    say,
    understand,
    verdict,
)
from envs.car_dealer.sellers import SELLERS, best_player, data_player, good_player, player_of, random_player, told
from envs.data import flag

ALL_QUESTIONS = frozenset(QUESTIONS)
FIRST_OBS = "Start\n"
MAX_TURNS = 25
# (worst, data, best) by reward; data: of the default dataset
CONSTANTS = {"revenue": (0.0, 16.44, 50.0), "fraction": (-89.0, 0.314, 0.9824524554691241)}
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


class CarDealer(Env):
    """The seller's side. Persona and budget are numbered by `seed` modulo 15, the buyer's wishes drawn with it."""

    variants = ("car_dealer",)
    files = FILES
    max_turns = MAX_TURNS
    num_trajectories = 5000
    num_test_episodes = 500
    # The paper tells neither its data's mean nor a best return: here those of its BC and of its best, MC.
    paper = {"worst": 0, "data": 44.5, "best": 57.2, "success": 0.53}
    selling = True  # the agent is the seller; see buyers_side.py

    def __init__(self, env_id: str, reward: str = "revenue", buyer: str = "scripted", simulator_model: str = "",
                 device: str = "", **options: str) -> None:
        super().__init__(env_id, **options)
        if reward not in CONSTANTS:
            raise ValueError(f"reward {reward} instead of {' or '.join(CONSTANTS)}")
        self.reward = reward
        self.simulator = make_other_side("a buyer", buyer, simulator_model, device)
        self.worst, self.data, self.best = CONSTANTS[reward]
        self.over, self.turns = True, 0

    def about(self) -> dict[str, Any]:
        asked = self.simulator
        return {"buyer": asked.name, "simulator_model": asked.model} if asked else {}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the game of `seed`, or of a random one; `options` are there for Gymnasium's signature alone."""
        self.seed = draw_seed() if seed is None else seed
        self.rng = random.Random(f"car_dealer {self.seed}")
        self.buyer = draw_buyer(self.rng, self.seed)
        self.slots, self.patience = slots_of(self.buyer), PATIENCE[self.buyer.persona]
        self.offer, self.before, self.line = Offer(), Offer(), Line()  # the last offer and line, and the offer before
        self.asked, self.again = frozenset(), frozenset()  # questions so far; of the last line, those repeated
        self.lines, self.turns, self.plan = [], 0, None
        self.over, self.sold, self.outcome, self.valid = False, False, "", True
        return FIRST_OBS, {"success": False, "valid": True}

    @property
    def profile(self) -> str:
        """The line that tells a buyer who he is."""
        key = f"buyer profile {self.buyer.persona}"
        return LINES[key if key in LINES else "buyer profile"][0].format(**self.slots) + "\n"

    def step(self, action: str) -> Step:
        return self.step_all([self], [action])[0]

    @classmethod
    def step_all(cls, envs: list["CarDealer"], actions: list[str]) -> list[Step]:
        """The sellers' lines, then the buyers': a language model answers all of them at once."""
        if any(env.over for env in envs):
            raise RuntimeError("the game is over: call reset")
        for env, action in zip(envs, actions, strict=True):
            env.listen(action)
        asked = [env for env in envs if env.simulator]
        answers = asked[0].simulator.answer([env.request() for env in asked]) if asked else []
        for env, text in zip(asked, answers, strict=True):
            env.answer(text + "\n")
        for env in envs:
            if not env.simulator:
                env.answer(reply(env))
        return [env.report() for env in envs]

    def listen(self, action: str) -> None:
        """Hear a line of the seller."""
        text, self.valid = as_heard(action)
        self.line = in_answer(understand(text), self.lines) if self.valid else Line()
        self.before, self.offer = self.offer, heard(self.offer, self.line, self.lines, self.buyer)
        questions = self.line.intents & ALL_QUESTIONS
        self.asked, self.again = self.asked | questions, self.asked & questions
        self.turns += 1
        self.lines.append(text)

    def request(self) -> Any:
        """What a language model is to answer; its prompt is the text that `side buyer` trains on."""
        from envs.simulators import Request

        return Request(f"{self.profile}{RULES}", tuple(self.lines), self.profile + "".join(self.lines))

    def answer(self, action: str) -> bool:
        """Note a line of the buyer, and whether it ends the game; returns whether it is valid."""
        text, valid = as_heard(action)
        self.lines.append(text)
        self.outcome = verdict(text) if valid else ""
        self.sold = self.outcome == "sale" and 0 < self.offer.price <= self.buyer.budget
        self.over = bool(self.outcome) or self.turns >= MAX_TURNS
        return valid

    def report(self) -> Step:
        """What `step` returns, after the buyer's line."""
        reward = self.reward_of_end() if self.over else 0.0
        return self.lines[-1], reward, self.over, False, {"success": self.sold, "valid": self.valid}

    def reward_of_end(self) -> float:
        """The reward of the last turn."""
        price = self.offer.price if self.sold else 0
        if self.reward == "revenue":
            return price / 1000
        return fraction(price, self.buyer.budget, self.offer.list_price)

    def say(self, key: str, names: list[str] | tuple[str, ...] = (), **slots: str) -> str:
        """A line of the scripted buyer."""
        slots |= {"names": enumerate_names(names), **self.slots}
        return say(self.rng, "buyer", f"{key} {self.buyer.persona}", key, **slots)

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Dialogues of the data's sellers with the scripted buyer."""
        for _, trajectory in self.dialogues(num_trajectories, seed, start):
            yield trajectory

    def dialogues(self, num_trajectories: int, seed: int, start: int) -> Iterator[tuple["CarDealer", Trajectory]]:
        """(the game at its end, its trajectory); the same ones for both sides."""
        env = CarDealer(self.env_id, self.reward)  # the caller may play a game of its own between two trajectories
        for index in range(start, num_trajectories):
            rng = random.Random(f"car_dealer {seed} {index}")
            obs, _ = env.reset(rng.randrange(SEEDS["eval"]))
            texts, rewards = [obs], []
            while not env.over:
                action = data_player(env, rng)
                obs, reward, _, _, info = env.step(action)
                texts += [action, obs]
                rewards.append(reward)
            yield env, Trajectory(texts, rewards, True, info["success"])

    def players(self) -> dict[str, Player]:
        return {"random": random_player, **{kind: player_of(kind) for kind in SELLERS}, "data": data_player,
                "good": good_player, "best": best_player}

    def measures(self, trajectory: Trajectory) -> dict[str, float]:
        """Revenue in $1,000, and the discount on the list price; both 0 without a sale."""
        offer = Offer()
        lines = conversation(trajectory)
        for number in range(0, len(lines), 2):
            text, valid = as_heard(lines[number])
            offer = heard(offer, in_answer(understand(text), lines[:number]), lines[:number]) if valid else offer
        if not (trajectory.success and offer.price):
            return {"revenue": 0.0, "discount": 0.0}
        return {"revenue": offer.price / 1000, "discount": 1 - offer.price / offer.list_price}

    def recognises(self, trajectory: Trajectory) -> bool:
        first, *later = trajectory.texts[::2]
        return first.startswith(FIRST_OBS) and all(obs.endswith("\n") and obs.count("\n") == 1 for obs in later)

    def parse(self, record: Any) -> list[Trajectory]:
        """{persona: [dialogue, …], …}, [dialogue, …] or a dialogue, which is {buyer_info, lines, output}."""
        if isinstance(record, dict) and not {"lines", "output"} & record.keys():
            groups = list(record.values())
        else:
            groups = [record if isinstance(record, list) else [record]]
        if not all(isinstance(games, list) for games in groups):
            raise ValueError("something else than {persona: [dialogue, …], …}, [dialogue, …] or a dialogue")
        return [self.parse_game(game) for games in groups for game in games]

    def parse_game(self, game: dict[str, Any]) -> Trajectory:
        """One dialogue: {buyer_info: {budget}, lines: [{role, text}], output: {car_bought, msrp, buy_price}}.

        Lines of one speaker that follow each other become one, and a buyer may speak first.
        """
        texts, output = [FIRST_OBS], game["output"]
        for line in game["lines"]:
            role, text = line["role"].strip().lower(), " ".join(line["text"].split()) + "\n"
            if role not in ("seller", "dealer", "buyer"):
                raise ValueError(f"a line of {role!r} instead of seller or buyer")
            if (role != "buyer") == (len(texts) % 2 == 1):
                texts.append(text)
            else:
                texts[-1] = (texts[-1] if len(texts) == 1 else texts[-1][:-1] + " ") + text
        bought, price, listed = flag(output["car_bought"]), output["buy_price"], output["msrp"]
        price, listed = (as_dollars(value) if value is not None else None for value in (price, listed))
        if bought and not price:
            raise ValueError("a car that is bought without a buy_price")
        reward = price / 1000 if bought else 0.0
        if self.reward == "fraction":
            reward = 0.0 if listed == 0 else fraction(
                price if bought else 0, as_dollars(game["buyer_info"]["budget"]), listed or price or 0)
        rewards = [0.0] * (len(texts) // 2 - 1) + [reward]
        return Trajectory(texts, rewards, True, bought)

    def worst_return(self) -> float:
        return bounds.worst_return(self.reward)

    def best_return(self) -> float:
        return bounds.best_return(self.reward)

    def render(self, text: str) -> str:
        if text == FIRST_OBS:
            return INTRODUCTION
        return f"\033[96m{text}\033[0m" + (self.result() if self.over else "")

    def result(self) -> str:
        """The line after the last one."""
        result = f"Sold for {money(self.offer.price)}." if self.sold else "No sale."
        return f"{result} The customer's card: {self.profile}"


def in_answer(line: Line, lines: list[str]) -> Line:
    """What a line says after those before it: `Yes.` makes a price of the amount that the buyer was in doubt about."""
    if "yes" in line.intents and not line.amounts and len(lines) > 1:
        role, amount = (("", 0), *understand(lines[-2]).prices)[-1]
        if role == "doubt" and amount:
            return line._replace(prices=(("ask", amount),), amounts=(int(amount),))
    return line


def heard(offer: Offer, line: Line, lines: list[str], wishes: Buyer | None = None) -> Offer:
    """The offer after a line of the seller; `lines` are those before it, of both."""
    return hear(offer, line, told(lines) if line.cars or line.intents & REFERRING else None, wishes)


def conversation(trajectory: Trajectory) -> list[str]:
    """The lines of seller and buyer in turns, from the seller's first on, of either side's trajectory."""
    first, *texts = trajectory.texts
    if first.startswith(FIRST_OBS):
        return texts
    return [first.split("\n")[-2] + "\n", *texts[:-1]]


def make_side(env_id: str, side: str = "seller", **options: str) -> CarDealer:
    """The game of the side that the agent is on."""
    from envs.car_dealer.buyers_side import BuyersSide  # here: it is made of CarDealer

    sides = {"seller": CarDealer, "buyer": BuyersSide}
    if side not in sides:
        raise ValueError(f"side {side} instead of seller or buyer")
    return sides[side](env_id, **options)


ENV = make_side
