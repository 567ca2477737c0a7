"""The tasks: text games with their offline data and scripted players. Nothing here knows of tokens or torch.

A game is text in, text out, with Gymnasium's signatures:

    env = make("wordle")
    obs, info = env.reset(seed=1)
    obs, reward, terminated, truncated, info = env.step("s h i r e\n")     # info: success, valid

`VectorEnv` plays many games side by side, `load_dataset` gives the offline trajectories (generated and cached under
`data/`, or read from a file), and `python -m envs.wordle` plays in the terminal. One module per task.
"""

import hashlib
import importlib
import json
import os
import random
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import tyro
from filelock import FileLock
from tqdm import tqdm

EnvId = Literal["maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle", "chess", "endgames",
                "twenty_questions", "guess_city", "car_dealer"]
# Imported when first asked for: python-chess is GPL, and nobody else needs it.
MODULES = {"maze_fo": "envs.maze", "maze_po": "envs.maze", "text_nav_fo": "envs.text_nav",
           "text_nav_po": "envs.text_nav", "wordle": "envs.wordle", "chess": "envs.chess", "endgames": "envs.chess",
           "twenty_questions": "envs.twenty_questions", "guess_city": "envs.guess_city",
           "car_dealer": "envs.car_dealer"}
DATA_DIR = Path(__file__).resolve().parent.parent / "data"

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
        if not all(isinstance(text, str) and text for text in self.texts):
            raise ValueError("expected `texts` to be a list of texts, none of them empty")
        if not self.rewards or len(self.texts) // 2 != len(self.rewards):
            raise ValueError(f"expected one reward per action, found {len(self.rewards)} rewards for "
                             f"{len(self.texts) // 2} actions")
        if not all(action.endswith("\n") for action in self.texts[1::2]):
            raise ValueError("expected every action to end with a newline")
        self.texts = [sys.intern(text) for text in self.texts]  # games repeat themselves: a million fit in memory
        self.rewards = [float(reward) for reward in self.rewards]

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
    """A text game. Subclasses set the fields below and write the abstract methods."""

    variants: tuple[str, ...]  # the ids that this class plays
    files: tuple[Path, ...] = ()  # what its module reads: the data depends on it
    markov: bool = False  # the newest observation is the whole state: the agent is shown nothing else
    max_turns: int  # a game ends here at the latest, by its rules or by truncation
    num_trajectories: int  # default size of the offline dataset
    num_test_episodes: int  # size of the final evaluation
    worst: float  # lowest return over valid actions, as `worst_return` derives it
    data: float  # mean return of the data's player
    best: float  # return of the best known player, as `best_return` derives it
    paper: dict[str, float]  # the paper's worst, data and best return, and its dataset's success and length

    def __init__(self, env_id: str, **options: str) -> None:
        if options:
            raise ValueError(f"{env_id} has no option {', '.join(map(repr, options))}")
        self.env_id = env_id

    @abstractmethod
    def reset(self, seed: int) -> tuple[str, dict[str, Any]]:
        """Start the game that `seed` stands for; returns (obs, info)."""

    @abstractmethod
    def step(self, action: str) -> Step:
        """Play `action`, any string; returns (obs, reward, terminated, truncated, info with success and valid)."""

    @classmethod
    def step_all(cls, envs: list["Env"], actions: list[str]) -> list[Step]:
        """`step` of many games. Tasks whose opponent can answer all at once write it anew."""
        return [env.step(action) for env, action in zip(envs, actions, strict=True)]

    @abstractmethod
    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Yield the offline dataset from trajectory `start` on; the same ones for the same seed."""

    @abstractmethod
    def players(self) -> dict[str, Player]:
        """Scripted players by name: each maps (env, rng) to the next action."""

    @abstractmethod
    def recognises(self, trajectory: Trajectory) -> bool:
        """Whether the trajectory's observations can be this task's."""

    @abstractmethod
    def parse(self, record: Any) -> list[Trajectory]:
        """Read one JSON value of the original LMRL-Gym release; raises ValueError, KeyError, … where it is none."""

    @abstractmethod
    def worst_return(self) -> float:
        """Derive `worst`."""

    @abstractmethod
    def best_return(self) -> float:
        """Derive `best`."""

    def about(self) -> dict[str, Any]:
        """What else a result depends on, to be recorded with it: the opponent, its version and settings."""
        return {}

    def measures(self, trajectory: Trajectory) -> dict[str, float]:
        """What else is worth a mean over the games; statistics has return, length, score, success and validity."""
        return {}

    def render(self, text: str) -> str:
        """The text as the terminal shows it, coloured where that helps."""
        return text

    def score(self, episodic_return: float) -> float:
        """Normalised return: 0 at `worst`, 50 at `data`, 100 at `best`; linear between, below 0 under `worst`."""
        return _score(episodic_return, self.worst, self.data, self.best)

    def paper_score(self, episodic_return: float) -> float:
        """`score` with the paper's constants (arXiv 2311.18232, table 2)."""
        return _score(episodic_return, self.paper["worst"], self.paper["data"], self.paper["best"])


def _score(episodic_return: float, worst: float, data: float, best: float) -> float:
    if episodic_return < data:
        return 50 * (episodic_return - worst) / (data - worst)
    return 50 + 50 * (episodic_return - data) / (best - data)


def make(env_id: str, **options: str) -> Env:
    """A single game of the variant `env_id`; `options` are the task's own, as text (`vocabulary="words.txt"`)."""
    if env_id not in MODULES:
        raise ValueError(f"unknown env_id {env_id!r}; there are {', '.join(MODULES)}")
    return importlib.import_module(MODULES[env_id]).ENV(env_id, **options)


class VectorEnv:
    """`num_envs` games side by side, written down; a game that ends makes room for the next."""

    def __init__(self, env_id: str, num_envs: int, **options: str) -> None:
        self.envs = [make(env_id, **options) for _ in range(num_envs)]
        self.waiting = deque[int]()  # seeds of games that are still to be played
        self.games: dict[int, tuple[list[str], list[float], list[bool]]] = {}  # texts, rewards, valid

    def reset(self, seeds: Iterable[int]) -> dict[int, str]:
        """Start the first of the games `seeds`, one in each environment; returns {index: obs}."""
        self.waiting = deque(seeds)
        return self._begin(range(len(self.envs)))

    def _begin(self, indices: Iterable[int]) -> dict[int, str]:
        obs: dict[int, str] = {}
        for index in list(indices)[: len(self.waiting)]:
            obs[index], _ = self.envs[index].reset(self.waiting.popleft())
            self.games[index] = [obs[index]], [], []
        return obs

    def step(self, actions: dict[int, str]) -> tuple[dict[int, Step], dict[int, str]]:
        """Play {index: action} in the games still running; returns {index: what `Env.step` returns}, and {index: obs}
        of the games that begin in the place of those that ended. What is behind an action's first newline is left out.

        The info of a game that ends has `trajectory`, the whole of it, and `num_invalid`, the number of its invalid
        actions.
        """
        actions = {index: action[: action.find("\n") + 1] or action for index, action in actions.items()}
        steps = type(self.envs[0]).step_all([self.envs[index] for index in actions], list(actions.values()))
        results = dict(zip(actions, steps, strict=True))
        for index, (obs, reward, terminated, truncated, info) in results.items():
            texts, rewards, valid = self.games[index]
            # An action that was cut off is marked: with a mere newline it would read as another, perhaps a valid one.
            texts += [actions[index] if actions[index].endswith("\n") else actions[index] + "…\n", obs]
            rewards.append(reward)
            valid.append(info["valid"])
            if terminated or truncated:
                info["trajectory"] = Trajectory(texts, rewards, terminated, info["success"])
                info["num_invalid"] = valid.count(False)
        return results, self._begin(index for index, step in results.items() if "trajectory" in step[-1])


def statistics(env: Env, trajectories: list[Trajectory], num_invalid: int) -> dict[str, float]:
    """Mean return with its standard error over the games, length, score, success, invalid actions, `measures`."""
    returns = [trajectory.episodic_return for trajectory in trajectories]
    n, num_turns, mean = len(returns), sum(len(t.rewards) for t in trajectories), sum(returns) / len(returns)
    measures = [env.measures(trajectory) for trajectory in trajectories]
    return {
        "episodic_return": mean,
        "episodic_return_se": (sum((r - mean) ** 2 for r in returns) / n) ** 0.5 / n**0.5,
        "episodic_length": num_turns / n,
        "score": env.score(mean),
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


# --- Offline data ---


def load_dataset(env: Env, path: str | None = None, num_trajectories: int | None = None, seed: int = 0,
                 **options: str) -> Iterator[Trajectory]:
    """Stream the trajectories of a file, or those that `env` generates, cached under `data/`.

    A file is our own JSONL or one of the original LMRL-Gym release, recognised by content. Raises FileNotFoundError, or
    ValueError with the file, the line and what was expected there. `options` are those that `env` was made with.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no dataset file {path}")
        return read_file(env, Path(path))
    num_trajectories = env.num_trajectories if num_trajectories is None else num_trajectories
    if num_trajectories < 1:
        raise ValueError("num_trajectories must be at least 1")
    # The name holds a digest of the code and of the files that made the data: neither can change behind it.
    sources = [Path(sys.modules[type(env).__module__].__file__).read_bytes()]
    sources += [json.dumps(options).encode(), json.dumps(env.about()).encode()]
    files = [*env.files, *(Path(value) for value in options.values() if Path(value).is_file())]
    sources += [file.read_bytes() for file in files]
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()[:8]
    cache = DATA_DIR / f"{env.env_id}-{num_trajectories}-{seed}-{digest}.jsonl"
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):  # of two runs that need the same data, the second waits for the first
        if cache.exists() and not _is_whole(cache):
            warnings.warn(f"{cache} is damaged; generating it again", stacklevel=2)
            cache.unlink()
        if not cache.exists():
            _generate(env, num_trajectories, seed, cache)
    return read_file(env, cache)


def _generate(env: Env, num_trajectories: int, seed: int, path: Path) -> None:
    """Write the offline dataset. What a process that was stopped has left of it is gone on with."""
    part, sha256, count, size = path.with_suffix(".part"), hashlib.sha256(), 0, 0
    with part.open("a+b") as file:
        file.seek(0)
        for line in file:
            if not line.endswith(b"\n") or line.startswith(b'{"env_id"'):
                break  # it was stopped within this line, or right after the last one
            sha256.update(line)
            count, size = count + 1, size + len(line)
        file.truncate(size)
        trajectories = env.generate(num_trajectories, seed, count)
        _write_lines(env, tqdm(trajectories, f"generating {env.env_id}", num_trajectories, initial=count, leave=False),
                     file, sha256, count)
    part.replace(path)


def load_shuffled(env: Env, path: str | None, num_trajectories: int | None, seed: int,
                  **options: str) -> list[Trajectory]:
    """All that `load_dataset` streams, in an order that depends on `seed`."""
    source = load_dataset(env, path, num_trajectories, **options)
    trajectories = list(tqdm(source, "reading", leave=False, delay=2))
    random.Random(seed).shuffle(trajectories)
    return trajectories


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file or folder under a temporary name, then rename it: nothing is ever half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_file(env: Env, trajectories: Iterable[Trajectory], path: Path) -> None:
    """Write JSONL, closed by a line with count and checksum."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _write_lines(env, trajectories, file, hashlib.sha256(), 0)

    replace(path, write)


def _write_lines(env: Env, trajectories: Iterable[Trajectory], file: BinaryIO, sha256: Any, count: int) -> None:
    """Write the trajectories behind `count` others, and the line that closes the file."""
    for trajectory in trajectories:
        line = json.dumps(asdict(trajectory), ensure_ascii=False).encode() + b"\n"
        sha256.update(line)
        file.write(line)
        count += 1
    footer = {"env_id": env.env_id, "count": count, "sha256": sha256.hexdigest()}
    file.write(json.dumps(footer).encode() + b"\n")


def _is_whole(path: Path) -> bool:
    """Whether the file's last line has the count and the checksum of those before it."""
    sha256, count, last = hashlib.sha256(), 0, b""
    with path.open("rb") as file:
        for line in file:
            if last:
                sha256.update(last)
                count += 1
            last = line
    try:
        footer = json.loads(last)
        return footer["count"] == count and footer["sha256"] == sha256.hexdigest()
    except (ValueError, KeyError, TypeError):
        return False


def read_file(env: Env, path: Path) -> Iterator[Trajectory]:
    """Yield a file's trajectories; raises ValueError with the file, the line and what was expected there."""
    with path.open("rb") as file:
        count, sha256, ended = 0, hashlib.sha256(), False
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                if ended:
                    raise ValueError("a line behind the one that closes the file")
                record, fills_file = _read_json(line, path if count == 0 else None)
                if ended := isinstance(record, dict) and "sha256" in record:
                    if (record["count"], record["sha256"]) != (count, sha256.hexdigest()):
                        raise ValueError("count and checksum of other lines than those before it")
                for trajectory in _read_record(env, record):
                    if not env.recognises(trajectory):
                        raise ValueError(f"an observation that is not one of {env.env_id} in a game that starts with "
                                         f"{trajectory.texts[0][:80]!r}")
                    count += 1
                    yield trajectory
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                found = f"no {error}" if isinstance(error, KeyError) else error
                found = found if isinstance(error, (ValueError, KeyError)) else f"something else ({error})"
                raise ValueError(f"{path}, line {number}: expected a {env.env_id} trajectory, found {found}") from error
            if fills_file:
                break
            sha256.update(line)
    if count == 0:
        raise ValueError(f"{path}: expected {env.env_id} trajectories, found none")


def _read_json(line: bytes, path: Path | None) -> tuple[Any, bool]:
    """The JSON value of a line, or the one that fills the file `path`; and whether it was that."""
    try:
        return json.loads(line), False
    except ValueError:
        try:
            if path:
                return json.loads(path.read_bytes()), True
        except ValueError:
            pass
        raise ValueError(f"a line that is not JSON: {line[:60].decode(errors='replace')!r}") from None


def _read_record(env: Env, record: Any) -> list[Trajectory]:
    if isinstance(record, dict) and "sha256" in record:
        if record["env_id"] != env.env_id:
            raise ValueError(f"a dataset of {record['env_id']}")
        return []
    if isinstance(record, dict) and "texts" in record:
        return [Trajectory(**record)]
    return env.parse(record)


# --- Terminal ---


@dataclass
class PlayArgs:
    env_id: str = ""
    """variant of the task (default: its first)"""
    player: str = ""
    """scripted player to watch (default: you play)"""
    episodes: int = 1
    """number of games; more than ten of a scripted player are summed up, not shown"""
    seed: int = 0
    """seed of the first game; the next game has the next seed"""
    dataset_stats: bool = False
    """print the statistics of the offline data next to the paper's"""
    dataset: str | None = None
    """file to take the statistics from (default: the generated data)"""
    num_trajectories: int | None = None
    """number of trajectories to generate for the statistics (default: the task's)"""
    options: dict[str, str] = field(default_factory=dict)
    """the task's own options, as `name value` pairs"""


def main(env_class: type[Env]) -> None:
    """`python -m envs.TASK`: play a game, watch a scripted player, or print the statistics of the offline data."""
    args = tyro.cli(PlayArgs, description=sys.modules["__main__"].__doc__)
    try:
        env_id = args.env_id or env_class.variants[0]
        if env_id not in env_class.variants:
            raise ValueError(f"--env-id must be one of {', '.join(env_class.variants)}")
        env = make(env_id, **args.options)
        if args.dataset_stats:
            print_statistics(env, load_dataset(env, args.dataset, args.num_trajectories, args.seed, **args.options))
            return
        if args.player and args.player not in env.players():
            raise ValueError(f"no player {args.player!r}; there are {', '.join(env.players())}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    player = env.players()[args.player] if args.player else None
    try:
        if args.player and args.episodes > 10:
            games = tqdm(range(args.seed, args.seed + args.episodes), leave=False)
            print_statistics(env, (play(env, player, seed) for seed in games))
        else:
            for seed in range(args.seed, args.seed + args.episodes):
                play_in_terminal(env, player, seed)
    except (EOFError, KeyboardInterrupt):
        print()


def play_in_terminal(env: Env, player: Player | None, seed: int) -> None:
    """One game, printed turn by turn; without a player the actions are typed."""
    rng = random.Random(f"player {seed}")
    obs, info = env.reset(seed)
    episodic_return, episodic_length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        print(env.render(obs), end="")
        if player:
            print(f"> {(action := player(env, rng))}", end="")
        else:
            action = input("> ") + "\n"
        obs, reward, terminated, truncated, info = env.step(action)
        episodic_return, episodic_length = episodic_return + reward, episodic_length + 1
    print(env.render(obs), end="")
    print(f"return {episodic_return:g} in {episodic_length} turns, score {env.score(episodic_return):.1f}, "
          f"{'success' if info['success'] else 'no success'}")


def print_statistics(env: Env, trajectories: Iterable[Trajectory]) -> None:
    """Count, success, length and return of the trajectories (mean ± standard deviation) next to the paper's data."""
    rows = [(t.success, len(t.rewards), t.episodic_return, t.terminated) for t in trajectories]

    def mean_std(values: list[float]) -> str:
        mean = sum(values) / len(values)
        return f"{mean:.3f} ± {(sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5:.3f}"

    success, lengths, returns, terminated = (list(map(float, column)) for column in zip(*rows, strict=True))
    paper = {name: env.paper.get(name, "") for name in ("num_trajectories", "success", "length", "return")}
    for name, ours, theirs in (("trajectories", str(len(rows)), paper["num_trajectories"]),
                               ("success", mean_std(success), paper["success"]),
                               ("turns", mean_std(lengths), paper["length"]),
                               ("return", mean_std(returns), paper["return"]),
                               ("terminated", mean_std(terminated), "")):
        print(f"{name:>12}  {ours:>18}   paper: {theirs or '–'}")


assert tuple(MODULES) == get_args(EnvId)
