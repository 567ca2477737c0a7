"""A task in the terminal: play it, watch a scripted player, print the statistics of its offline data."""

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

import tyro
from tqdm import tqdm

from envs import Env, Player, Trajectory, make, play
from envs.data import load_dataset
from envs.instructions import TEXTS, instructions


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
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")  # a character that its encoding lacks must not end the game
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  typed lines can be edited, and recalled with the arrow keys
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
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    player = env.players()[args.player] if args.player else None
    try:
        if args.player and args.episodes > 10:
            games = tqdm(range(args.seed, args.seed + args.episodes), leave=False)
            print_statistics(env, (play(env, player, seed) for seed in games))
        else:
            for seed in range(args.seed, args.seed + args.episodes):
                play_in_terminal(env, player, seed)
    except OSError as error:  # a language model or a chess engine does not answer
        sys.exit(f"error: {error}")
    except (EOFError, KeyboardInterrupt):
        print()


def play_in_terminal(env: Env, player: Player | None, seed: int) -> None:
    """One game, printed turn by turn; without a player the actions are typed."""
    rng = random.Random(f"player {seed}")
    typed_by_hand = not player and sys.stdin.isatty()
    obs, info = env.reset(seed)
    if typed_by_hand:
        print("Type an action, or ? for the rules. Ctrl-D leaves the game.")
    episodic_return, episodic_length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        show(env.render(obs))
        if player:
            action = player(env, rng)
            print(f"> {action}", end="")
        else:
            action = type_action(env, typed_by_hand)
        obs, reward, terminated, truncated, info = env.step(action)
        if typed_by_hand and not info["valid"]:
            print("(That is not a valid action here. ? shows the rules.)")
        episodic_return, episodic_length = episodic_return + reward, episodic_length + 1
    show(env.render(obs))
    score = env.score(episodic_return)
    print(f"return {episodic_return:g} in {episodic_length} turns, {'' if score is None else f'score {score:.1f}, '}"
          f"{'success' if info['success'] else 'no success'}")


def type_action(env: Env, by_hand: bool) -> str:
    """A line of the input. If it is typed by hand, `?` and an empty line are no actions."""
    while True:
        line = input("> ")
        if by_hand and line.strip() == "?":
            print(rules(env))
        elif line.strip() or not by_hand:
            return line + "\n"


def rules(env: Env) -> str:
    """What a prompted model is told of the task; of a task that has no such text, the module's docstring."""
    if env.env_id in TEXTS:
        return instructions(env)
    return sys.modules[type(env).__module__].__doc__ or "No rules are written down."


def show(text: str) -> None:
    """Print it, in colours on a terminal alone, and not if NO_COLOR is set (no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        text = re.sub(r"\033\[[\d;]*m", "", text)
    print(text, end="")


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
