"""The tasks: text games with their offline data and scripted players. Nothing here knows of tokens or torch.

A game is text in, text out, with Gymnasium's signatures:

    env = make("wordle")
    obs, info = env.reset(seed=1)
    obs, reward, terminated, truncated, info = env.step("s h o r e\n")     # info: success, valid

`VectorEnv` plays many games side by side. `envs.data.load_dataset` streams the offline trajectories, generated and
cached or read from a file, and `python -m envs.wordle` plays in the terminal. There is one module or folder per task: a
new one needs `ENV`, a class with `variants` and the four abstract methods of `Env`, and its ids in EnvId and MODULES.
envs/README.md shows how.
"""

import importlib
import inspect
import random
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

EnvId = Literal["maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle", "chess", "endgames",
                "twenty_questions", "guess_city", "car_dealer"]
# Imported when first asked for: python-chess is GPL, and nobody else needs it.
MODULES = {"maze_fo": "envs.maze", "maze_po": "envs.maze", "text_nav_fo": "envs.text_nav",
           "text_nav_po": "envs.text_nav", "wordle": "envs.wordle", "chess": "envs.chess", "endgames": "envs.chess",
           "twenty_questions": "envs.twenty_questions", "guess_city": "envs.guess_city",
           "car_dealer": "envs.car_dealer"}

# The first seed of each kind of game; multiples of 25 and 8: a block goes through the starts of maze and house alike.
SEEDS = {"train": 0, "eval": 1_000_000_000, "test": 2_000_000_000}

Step = tuple[str, float, bool, bool, dict[str, Any]]
Player = Callable[["Env", random.Random], str]


@dataclass
class Trajectory:
    """One game as text: `texts` is obs_0, action_0, obs_1, …, with one reward per action.

    `texts` ends with obs_T; files of the original release may lack it and end with the last action. `terminated` means
    that the rules ended the game; otherwise it was truncated, and its future is unknown rather than worth zero.
    """

    texts: list[str]
    rewards: list[float]
    terminated: bool
    success: bool

    def __post_init__(self) -> None:
        if not isinstance(self.texts, list) or not all(isinstance(text, str) and text for text in self.texts):
            raise ValueError("`texts` other than a list of texts, none of them empty")
        if not isinstance(self.rewards, list) or not self.rewards or len(self.texts) // 2 != len(self.rewards):
            found = f"{len(self.rewards)} rewards" if isinstance(self.rewards, list) else f"{self.rewards!r:.60}"
            raise ValueError(f"{found} for {len(self.texts) // 2} actions instead of one reward per action")
        for reward in self.rewards:
            number = isinstance(reward, (int, float)) and not isinstance(reward, bool)
            if not (number and abs(reward) <= sys.float_info.max):  # NaN is not, nor what float() could not hold
                raise ValueError(f"the reward {reward!r:.60} instead of a finite number")
        for name in ("terminated", "success"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` {getattr(self, name)!r:.60} instead of true or false")
        for action in self.texts[1::2]:
            if action.find("\n") != len(action) - 1:
                raise ValueError(f"the action {action!r:.60} instead of one line with a newline at its end")
        for text in self.texts:
            if "\r" in text or not text.isascii() and re.search("[\ud800-\udfff]", text):
                raise ValueError(f"a carriage return or half a surrogate pair in {text!r:.60} instead of whole "
                                 "characters, and lines that end with a newline alone")
        self.texts = [sys.intern(text) for text in self.texts]  # games repeat themselves: a million fit in memory
        self.rewards = [float(reward) for reward in self.rewards]
        if abs(self.episodic_return) == inf:
            raise ValueError("rewards whose sum is infinite")

    def __str__(self) -> str:
        return f"{''.join(self.texts)}(return {self.episodic_return:g})\n"

    @property
    def episodic_return(self) -> float:
        """Undiscounted sum of the rewards."""
        return sum(self.rewards)

    def complete(self) -> "Trajectory | None":
        """Without a last action whose consequences are not shown; None if nothing is left."""
        if self.terminated or len(self.texts) % 2:
            return self
        return Trajectory(self.texts[:-1], self.rewards[:-1], False, False) if self.rewards[1:] else None


class Env(ABC):
    """A text game. Subclasses set `variants` and write the abstract methods; the rest has defaults."""

    variants: tuple[str, ...]  # the ids that this class plays
    files: tuple[Path, ...] = ()  # what its module reads: the data depends on it
    markov: bool = False  # the newest observation is the whole state: the agent is shown nothing else
    max_turns: int = 100  # a game ends here at the latest, by its rules or by truncation
    num_trajectories: int = 1000  # default size of the offline dataset
    num_test_episodes: int = 400  # size of the final evaluation
    worst: float | None = None  # lowest return over valid actions, as `worst_return` derives it
    data: float | None = None  # mean return of the data's player
    best: float | None = None  # return of the best known player, as `best_return` derives it
    paper: dict[str, Any] = {}  # the paper's worst, data and best return, and its dataset's success and length

    def __init__(self, env_id: str, **options: str) -> None:
        if options:
            known = [name for name in inspect.signature(type(self)).parameters if name not in ("env_id", "options")]
            raise ValueError(f"{env_id} has no option {', '.join(map(repr, options))}; "
                             f"it has {', '.join(known) or 'none'}")
        self.env_id = env_id

    @abstractmethod
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the game that `seed` stands for, without a seed another game each time; returns (obs, info).

        `options` are there because Gymnasium has them, and do nothing: a task's options are given to `make`.
        """

    @abstractmethod
    def step(self, action: str) -> Step:
        """Play `action`, any string; returns (obs, reward, terminated, truncated, info with success and valid)."""

    @classmethod
    def step_all(cls, envs: list["Env"], actions: list[str]) -> list[Step]:
        """`step` of many games. Tasks whose opponent can answer all of them at once override it."""
        return [env.step(action) for env, action in zip(envs, actions, strict=True)]

    @abstractmethod
    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Yield the offline dataset from trajectory `start` on; the same ones for the same seed."""

    @abstractmethod
    def players(self) -> dict[str, Player]:
        """Scripted players by name: each maps (env, rng) to the next action."""

    def close(self) -> None:  # noqa: B027  not abstract: there is nothing to do
        """Gymnasium's; no game holds anything that has to be given back."""

    def recognises(self, trajectory: Trajectory) -> bool:
        """Whether the trajectory's observations can be this task's."""
        return True

    def parse(self, record: Any) -> list[Trajectory]:
        """Read one JSON value of the original LMRL-Gym release; raises ValueError, KeyError, … if it is not one."""
        raise ValueError(f"something that is not a record of {self.env_id}")

    def follows(self, turn: Trajectory, last: Trajectory) -> bool:
        """Whether a record of the original release is the next turn of the game that the record before it is from."""
        return False

    def worst_return(self) -> float | None:
        """Derive `worst`."""
        return self.worst

    def best_return(self) -> float | None:
        """Derive `best`."""
        return self.best

    def about(self) -> dict[str, Any]:
        """What else a result depends on, to be recorded with it: the opponent, its version and settings."""
        return {}

    def measures(self, trajectory: Trajectory) -> dict[str, float]:
        """What else is worth a mean over the games; statistics has return, length, score, success and validity."""
        return {}

    def render(self, text: str) -> str:
        """The text as the terminal shows it, coloured where that helps."""
        return text

    def score(self, episodic_return: float) -> float | None:
        """Normalised return: 0 at `worst`, 50 at `data`, 100 at `best`, linear in between; None without these three."""
        return _score(episodic_return, self.worst, self.data, self.best)

    def paper_score(self, episodic_return: float) -> float | None:
        """`score` with the paper's constants (arXiv 2311.18232, table 2)."""
        return _score(episodic_return, self.paper.get("worst"), self.paper.get("data"), self.paper.get("best"))


def _score(episodic_return: float, worst: float | None, data: float | None, best: float | None) -> float | None:
    if worst is None or data is None or best is None:
        return None
    if episodic_return < data:
        return 50 * (episodic_return - worst) / (data - worst)
    return 50 + 50 * (episodic_return - data) / (best - data)


def draw_seed() -> int:
    """The seed of a game that is started without one: one of training's, another each time."""
    return random.randrange(SEEDS["eval"])


def make_other_side(side: str, name: str, simulator_model: str, device: str) -> Any:
    """The language model `name` that plays a dialogue's other `side` ("an oracle"); None for the scripted one."""
    if name != "scripted":
        from envs.simulators import make_simulator  # only when it is asked for: a local model needs torch

        return make_simulator(name, simulator_model, device)
    if simulator_model or device:
        raise ValueError(f"simulator_model and device are for {side} that is a model")
    return None


def make(env_id: str, **options: str) -> Env:
    """A single game of the variant `env_id`; `options` are the task's own, as text (`vocabulary="words.txt"`)."""
    if env_id not in MODULES:
        raise ValueError(f"unknown env_id {env_id!r}; there are {', '.join(MODULES)}")
    return importlib.import_module(MODULES[env_id]).ENV(env_id, **options)


@dataclass
class Game:
    """A game being played, as it is written down."""

    env: Env
    texts: list[str]
    rewards: list[float] = field(default_factory=list)
    num_invalid: int = 0


class VectorEnv:
    """Up to `num_envs` games side by side, written down. The caller gives each game a number that it is known by."""

    def __init__(self, env_id: str, num_envs: int, **options: str) -> None:
        self.envs = [make(env_id, **options) for _ in range(num_envs)]
        self.free = list(self.envs)
        self.games: dict[int, Game] = {}

    def reset(self, game: int, seed: int) -> str:
        """Start the game of `seed` in a free environment and return its first observation."""
        if game in self.games:
            raise ValueError(f"game {game} is still being played")
        if not self.free:
            raise ValueError(f"all {len(self.envs)} environments are in use")
        env = self.free.pop()
        obs, _ = env.reset(seed)
        self.games[game] = Game(env, [obs])
        return obs

    def step(self, actions: dict[int, str]) -> dict[int, Step]:
        """Play {game: action}, of each action only its first line; returns {game: what `Env.step` returns}.

        The info of a game that ends has `trajectory`, the whole of it, and `num_invalid`, the number of its invalid
        actions; its environment is free again.
        """
        # Of one line, and without carriage returns, so that what is written down can be read and played again. An
        # action that was cut off is marked: without the mark it would read as another, perhaps a valid one.
        actions = {game: (action[: action.find("\n") + 1] or action + "…").replace("\r", " ")
                   for game, action in actions.items()}
        envs = [self.games[game].env for game in actions]
        results = dict(zip(actions, type(self.envs[0]).step_all(envs, list(actions.values())), strict=True))
        for number, (obs, reward, terminated, truncated, info) in results.items():
            game, action = self.games[number], actions[number]
            game.texts += [action if action.endswith("\n") else action + "\n", obs]
            game.rewards.append(reward)
            game.num_invalid += not info["valid"]
            if terminated or truncated:
                info["trajectory"] = Trajectory(game.texts, game.rewards, terminated, info["success"])
                info["num_invalid"] = game.num_invalid
                self.free.append(self.games.pop(number).env)
        return results


def statistics(env: Env, trajectories: list[Trajectory], num_invalid: int) -> dict[str, float]:
    """Mean return with its standard error over the games, length, score, success, invalid actions, `measures`."""
    returns = [trajectory.episodic_return for trajectory in trajectories]
    n, num_turns, mean = len(returns), sum(len(t.rewards) for t in trajectories), sum(returns) / len(returns)
    measures = [env.measures(trajectory) for trajectory in trajectories]
    score = env.score(mean)
    return {
        "episodic_return": mean,
        "episodic_return_se": (sum((r - mean) ** 2 for r in returns) / n) ** 0.5 / n**0.5,
        "episodic_length": num_turns / n,
        **({} if score is None else {"score": score}),
        "success": sum(trajectory.success for trajectory in trajectories) / n,
        "invalid_actions": num_invalid / num_turns,
    } | {name: sum(game[name] for game in measures) / n for name in measures[0]}


def play(env: Env, player: Player, seed: int) -> Trajectory:
    """One whole game of `player`, whose own randomness is drawn from `seed` as well."""
    rng = random.Random(f"player {seed}")  # not `seed` itself: the player would draw what the game draws
    return finish(env, player, rng, env.reset(seed)[0])


def finish(env: Env, player: Player, rng: random.Random, obs: str) -> Trajectory:
    """The game that has begun with `obs`, played to its end."""
    texts, rewards, terminated, truncated = [obs], [], False, False
    while not (terminated or truncated):
        action = player(env, rng)
        obs, reward, terminated, truncated, info = env.step(action)
        texts += [action, obs]
        rewards.append(reward)
    return Trajectory(texts, rewards, terminated, info["success"])


assert tuple(MODULES) == get_args(EnvId)
