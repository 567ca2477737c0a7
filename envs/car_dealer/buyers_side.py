"""The same dialogues from the other side: the agent is the buyer, a seller of the data's is played."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from envs import SEEDS, Player, Step, Trajectory, play
from envs.car_dealer import CarDealer
from envs.car_dealer.buyer import BUDGETS, reply
from envs.car_dealer.deal import MIN_PRICE, is_full, utility
from envs.car_dealer.language import say
from envs.car_dealer.sellers import data_player

LAST_OBS = "End\n"  # after the buyer's last line
PROFILE = re.compile(r"You are a buyer [^\n]*\n[^\n]+\n\Z")


class BuyersSide(CarDealer):
    """Option `side buyer`: the first observation is the profile in a line and the seller's first line."""

    selling = False

    def __init__(self, env_id: str, **options: str) -> None:
        if options.keys() & {"reward", "buyer"}:
            raise ValueError("side buyer: the agent is the buyer; it goes with neither of the options buyer and reward")
        super().__init__(env_id, **options)
        # Lowest return, the data's, and that of the best known player, who bluffs.
        self.worst, self.data, self.best = -90.0, 9.81, 37.84

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        _, info = super().reset(seed, options)
        self.sellers_rng = random.Random(f"car_dealer seller {self.seed}")
        return self.profile + self.next_line(), info

    def next_line(self) -> str:
        """A line of the scripted seller, heard."""
        text = data_player(self, self.sellers_rng)
        self.listen(text)
        return text

    @classmethod
    def step_all(cls, envs: list[CarDealer], actions: list[str]) -> list[Step]:
        return [env.step(action) for env, action in zip(envs, actions, strict=True)]

    def step(self, action: str) -> Step:
        if self.over:
            raise RuntimeError("the game is over: call reset")
        valid = self.answer(action)
        reward = self.reward_of_end() if self.over else 0.0
        obs = LAST_OBS if self.over else self.next_line()
        return obs, reward, self.over, False, {"success": self.sold, "valid": valid}

    def reward_of_end(self) -> float:
        """What the car is worth to him above its price, in $1,000."""
        return utility(self.buyer, self.offer) / 1000 if self.sold else 0.0

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """The dialogues of the seller's data, told from the other side."""
        for env, trajectory in CarDealer(self.env_id).dialogues(num_trajectories, seed, start):
            _, first, *texts = trajectory.texts
            deal = utility(env.buyer, env.offer) / 1000 if trajectory.success else 0.0
            yield replace(trajectory, texts=[env.profile + first, *texts, LAST_OBS],
                          rewards=[*trajectory.rewards[:-1], deal])

    def players(self) -> dict[str, Player]:
        return {"data": lambda env, rng: reply(env), "best": bluffer}

    def recognises(self, trajectory: Trajectory) -> bool:
        first, *later = trajectory.texts[::2]
        return bool(PROFILE.match(first)) and all(obs.endswith("\n") and obs.count("\n") == 1 for obs in later)

    def parse(self, record: Any) -> list[Trajectory]:
        raise ValueError("a dialogue of the original release, which is read for the side of the seller only")

    def worst_return(self) -> float:
        """All he has for a car of no use."""
        return -max(BUDGETS) / 1000

    def best_return(self) -> float:
        """Measured: of 600 games of the best known player."""
        return sum(play(self, bluffer, SEEDS["eval"] + seed).episodic_return for seed in range(600)) / 600

    def render(self, text: str) -> str:
        *profile, line = text.rstrip("\n").split("\n")
        if text == LAST_OBS:
            return self.result()
        return "".join(f"{row}\n" for row in profile) + super().render(line + "\n")


def bluffer(env: BuyersSide, rng: random.Random) -> str:
    """Repeats his wishes, a limit far below his budget, and that it is too much, until the deal is good enough."""
    buyer, offer = env.buyer, env.offer
    last = env.turns == env.max_turns
    enough = 0 if last else buyer.budget * (0.95 - 0.45 * (env.turns / env.max_turns) ** 2)
    if is_full(offer) and offer.price <= buyer.budget and utility(buyer, offer) >= enough:
        return env.say("accept", price=f"${offer.price:,.0f}") + "\n"
    if last:
        return env.say("late") + "\n"
    # Nobody goes below MIN_PRICE: for a discount the first price has to be above it.
    limit = MIN_PRICE * 3 if buyer.persona == "discount" else MIN_PRICE
    slots = env.slots | {"low": f"${limit:,}"}
    keys = "needs impatient", "over", "budget impatient"
    return " ".join(say(env.rng, "buyer", key, **slots) for key in keys) + "\n"
