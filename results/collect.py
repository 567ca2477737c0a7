"""Finished runs as lines of JSON: everything that the tables, the figures and the page of results/report.py need.

    python results/collect.py                                   all runs, to runs.jsonl in the folder of the runs
    python results/collect.py --env-ids maze_fo wordle          those of these tasks
    python results/collect.py --into results/runs.jsonl         to the lines that are committed

A run counts if its experiment is one of METHODS and its test is over. It has one line, of at most 12,000 bytes: a run
that is in the file already is replaced, the others stay, and the order is fixed. The runs are those under runs/, or
under the folder that the environment variable LMRL_RUNS names, and those of GPT-2 in its subfolder gpt2/.

Three games of the test, the best, the median and the worst, are annotated: each token that the agent chose goes with a
number, which MEASURES names. The run's own script computes it, with the model and the critic that the run has saved,
from the game's text. Of several seeds only the first keeps its games, which the page shows.
"""

import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import tyro
from filelock import FileLock

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))  # runs from a plain checkout, from anywhere
from envs import Env, EnvId, Trajectory, make  # noqa: E402
from envs import data as offline_data  # noqa: E402
from envs.run import RUNS, is_ours  # noqa: E402

# By experiment (`--exp-name`): what the tables call it, and the script that runs it. The tables have this order.
METHODS = {
    "bc_maze": ("BC", "bc_maze"),
    "filtered_bc": ("filtered BC", "bc_maze"),
    "mc_twenty_questions": ("MC returns", "mc_twenty_questions"),
    "ilql_wordle": ("ILQL", "ilql_wordle"),
    "online_filtered_bc_text_nav": ("online filtered BC", "online_filtered_bc_text_nav"),
    "ppo_car_dealer": ("PPO", "ppo_car_dealer"),
    "grpo_wordle": ("GRPO", "grpo_wordle"),
    "archer_twenty_questions": ("ArCHer", "archer_twenty_questions"),
    "prompt_guess_city": ("prompted LLM", "prompt_guess_city"),
}
# The mean returns in table 2 of arXiv 2311.18232, of the tasks in this order. It has neither GRPO nor ArCHer.
PAPER_TASKS = ("maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle", "chess", "endgames", "twenty_questions",
               "guess_city", "car_dealer")
PAPER_RETURNS = {
    "bc_maze": (-72.1, -79.5, 0.39, 0.25, -2.81, -22.3, 0.112, -16.0, -17.0, 44.5),
    "filtered_bc": (-56.4, -82.9, 0.54, 0.49, -2.85, -56.5, -0.439, -14.6, -15.2, 54.8),
    "mc_twenty_questions": (-48.1, -80.3, 0.63, 0.58, -2.16, -28.2, 0.588, -13.9, -11.2, 57.2),
    "ilql_wordle": (-6.97, -52.9, 0.88, 0.76, -2.04, -21.4, 0.452, -14.2, -12.5, 46.3),
    "online_filtered_bc_text_nav": (-71.7, -79.5, 0.62, 0.53, -2.15, -22.3, 0.112, -16.8, -19.2, 40.4),
    "ppo_car_dealer": (-37.7, -91.7, 0.81, 0.80, -2.63, -16.0, 0.814, -14.9, -15.1, 50.5),
    "prompt_guess_city": (-39.7, -88.0, 0.52, 0.21, -5.42, -81.3, -22.87, -13.0, -10.13, 53.5),  # GPT-4
}
MAX_LINE = 12_000  # bytes
MAX_TEXT = 600  # characters of an observation; of a longer one the middle is left out
MAX_POINTS = 40  # of a curve


@dataclass
class Args:
    env_ids: tuple[EnvId, ...] = ()  # tasks (default: all)
    runs: Path = RUNS  # folder of the runs
    into: Path | None = None  # file of the lines (default: runs.jsonl in the folder of the runs)


# --- A run's folder ---


@dataclass
class Run:
    """A finished run: its folder, its args.json, the rows of its metrics.jsonl and the last of them, the test's."""

    folder: Path
    about: dict[str, Any]
    rows: list[dict[str, float]]
    test: dict[str, float]

    @property
    def args(self) -> dict[str, Any]:
        """The arguments as they ran."""
        return self.about["args"]

    @property
    def script(self) -> str:
        """The name of the script that ran."""
        return METHODS[self.args["exp_name"]][1]


def find_runs(folder: Path, env_ids: tuple[str, ...]) -> list[Run]:
    """The finished runs of the experiments that count, in the order of their folders' names."""
    runs = []
    for path in sorted([*folder.glob("*/args.json"), *folder.glob("gpt2/*/args.json")]):
        about = json.loads(path.read_text(encoding="utf-8"))
        wanted = about["args"]["exp_name"] in METHODS and about["args"]["env_id"] in (env_ids or get_args(EnvId))
        metrics = path.with_name("metrics.jsonl")
        if not wanted or not metrics.exists() or not path.with_name("episodes.jsonl").exists():
            continue
        lines = metrics.read_text(encoding="utf-8").split("\n")[:-1]  # a line that is being written is left out
        rows = [json.loads(line) for line in lines]
        tests = [row for row in rows if "test/episodic_return" in row]
        if tests:
            runs.append(Run(path.parent, about, rows, tests[-1]))
    return runs


def model_name(run: Run) -> str:
    """What played: "tiny" for the small models of envs/tiny/, else the kind of model, or what its server calls it."""
    folder = run.folder / "model"
    if not folder.exists():
        return run.args.get("server_model") or run.args["model"]
    if is_ours(folder):
        return "tiny"
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]


def count_parameters(run: Run) -> int | None:
    """The parameters of the policy that the run has saved; None if it has saved none."""
    total = 0
    for path in (run.folder / "model").glob("*.safetensors"):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total or None


def changed_arguments(run: Run, script: ModuleType, env: Env, model: str) -> dict[str, Any]:
    """The run's arguments that are not what the script has for this task by default."""
    config = run.folder / "model" / "config.json"
    limit = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings") if config.exists() else None
    # What a run finds out from its model, its task and its data, and writes down as if it had been given.
    settled = {"max_length": min(limit or 1024, 1024), "num_test_episodes": env.num_test_episodes}
    settled |= {name: run.args[name] for name in ("max_new_tokens", "server_model") if name in run.args}
    table = "TUNED" if model == "tiny" else "PAPER"
    defaults = {field.name: getattr(script.Args(), field.name) for field in fields(script.Args)}
    defaults |= getattr(script, table, {}).get(run.args["env_id"], {})
    defaults |= {name: run.args[name] for name in ("env_id", "exp_name", "seed", "device", "track", "resume")}
    defaults |= {name: value for name, value in settled.items() if not defaults.get(name)}
    defaults = json.loads(json.dumps(defaults))
    return {name: value for name, value in run.args.items() if name not in defaults or defaults[name] != value}


def machine_class(about: dict[str, Any]) -> str:
    """Processor, its cores, the threads that were used, and the device if it is not the processor."""
    machine = about.get("machine", {})
    threads = "1 thread" if machine.get("threads") == "1" else f"{machine.get('threads')} threads"
    parts = [machine.get("processor", ""), f"{machine.get('cores')} cores", threads]
    if about["args"]["device"] != "cpu":
        parts.append(machine.get("gpu") or about["args"]["device"])
    return ", ".join(filter(None, parts))


def curve(rows: list[dict[str, float]]) -> list[list[float]]:
    """(global_step, minutes, mean return) while it learned: in the games that it learned from, else in validation."""
    training = [row for row in rows if "losses/grad_norm" in row]
    played = any("charts/episodic_return" in row for row in training)
    name = "charts/episodic_return" if played else "eval/episodic_return"
    points = [[row["global_step"], rounded(row["charts/minutes"]), rounded(row[name])]
              for row in training if name in row]
    every = math.ceil(len(points) / MAX_POINTS)
    return points[::-1][::every][::-1] if points else []  # the last one stays


def rounded(value: float, digits: int = 4) -> float:
    """The value with so many significant digits, and none after the fourth decimal."""
    return round(float(f"{value:.{digits}g}"), 4) + 0.0  # + 0.0: no minus before a zero


# --- Games, token by token ---


def own_args(run: Run, script: ModuleType) -> Any:
    """The run's arguments, for its script's functions; its model is the one that it has saved."""
    known = {field.name for field in fields(script.Args)}
    given = {name: tuple(value) if isinstance(value, list) else value
             for name, value in run.args.items() if name in known}
    return replace(script.Args(**given), model=str(run.folder / "model"), device="cpu")


def as_episode(script: ModuleType, game: Trajectory, env: Env, text: Any, args: Any) -> Any:
    """The game as tokens. They are those of its text, which may be other ones than were sampled."""
    episode = script.Episode(env.markov, args.max_length, args.max_new_tokens)
    for obs, action, reward in zip(game.texts[::2], game.texts[1::2], game.rewards, strict=False):
        episode.observe(text.encode(obs))
        episode.act(text.encode(action))
        episode.end_turn(reward, game.terminated, suffix=[])
    if not game.terminated:
        episode.observe(text.encode(game.texts[-1]))
    return episode


def logprobs(script: ModuleType, policy: Any, critic: Any, episode: Any, args: Any) -> Any:
    """log π of each chosen token (n,)."""
    if script.__name__.endswith("grpo_wordle"):
        return script.chosen_logprobs(policy, script.collate([episode], "cpu"))[0]
    batch = script.collate([episode], "cpu")
    hidden = policy.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d), as in bc_loss
    logits = policy.get_output_embeddings()(hidden.flatten(0, 1)[batch.states])
    return logits.log_softmax(-1).gather(1, batch.tokens[:, None])[:, 0]


def mc_values(script: ModuleType, policy: Any, critic: Any, episode: Any, args: Any) -> Any:
    """Q of each chosen token (n,)."""
    batch = script.collate([episode], "cpu", args.gamma)
    return script.chosen(critic(batch), batch.tokens)


def ilql_advantages(script: ModuleType, policy: Any, critic: Any, episode: Any, args: Any) -> Any:
    """min(Q1, Q2) - V of each chosen token (n,)."""
    batch = script.collate([episode], "cpu")
    hidden = critic.hidden(batch)[batch.acted]
    return script.chosen(critic.min_q(hidden), batch.tokens) - critic.v(hidden)[:, 0]


def ppo_advantages(script: ModuleType, policy: Any, critic: Any, episode: Any, args: Any) -> Any:
    """The generalised advantage estimate of each chosen token (n,), without the KL term of the rewards."""
    batch = script.collate([episode], "cpu")
    all_values = script.F.pad(critic(batch), (0, 1))  # no state follows the game's end
    next_values = all_values[batch.acted + 1] * ~batch.terminated
    return script.gae(batch.rewards, all_values[batch.acted], next_values, batch, args)


def archer_advantages(script: ModuleType, policy: Any, critic: Any, episode: Any, args: Any) -> Any:
    """min(Q1, Q2) - V of the turn that each chosen token (n,) is part of."""
    batch = script.collate([episode], "cpu")
    q1, q2, v, _ = critic(batch)
    return (q1.minimum(q2) - v)[batch.turns]


# By script: what its numbers are, what computes them, and the class of its critic.
MEASURES: dict[str, tuple[str, Callable, str]] = {
    "bc_maze": ("log-probability", logprobs, ""),
    "online_filtered_bc_text_nav": ("log-probability", logprobs, ""),
    "grpo_wordle": ("log-probability", logprobs, ""),
    "mc_twenty_questions": ("value", mc_values, "QCritic"),
    "ilql_wordle": ("advantage", ilql_advantages, "Critic"),
    "ppo_car_dealer": ("advantage", ppo_advantages, "ValueModel"),
    "archer_twenty_questions": ("advantage", archer_advantages, "TurnCritic"),
}


def load_critic(run: Run, script: ModuleType, policy: Any) -> Any:
    """The critic that the run has saved; None if its algorithm has none."""
    name = MEASURES[run.script][2]
    if not name:
        return None
    state = script.torch.load(run.folder / "critic.pt", map_location="cpu", weights_only=True)
    if "critic" in state:  # with the weight at decoding beside it: the critic starts at a value, which is overwritten
        critic = getattr(script, name)(policy, value=0.0)
        state = state["critic"]
    else:
        critic = getattr(script, name)(policy)
    critic.load_state_dict(state)
    return critic


def annotate(run: Run, script: ModuleType, env: Env, games: list[Trajectory]) -> list[list[Any]]:
    """The games as [obs, [[token, number], …], obs, …]; the number is None where no script of ours has a model."""
    if run.script not in MEASURES:
        actions = [[[[action, None]] for action in game.texts[1::2]] for game in games]
        return [interleaved(game, turns) for game, turns in zip(games, actions, strict=True)]
    args = own_args(run, script)
    policy, text = script.load_model(args)
    critic = load_critic(run, script, policy)
    annotated = []
    for game in games:
        episode = as_episode(script, game, env, text, args)
        with script.torch.no_grad():
            numbers = MEASURES[run.script][1](script, policy, critic, episode, args).tolist()
        turns = []
        for action in game.texts[1::2]:
            ids = text.encode(action)
            pieces = [[text.decode([token]), rounded(number, 3)] for token, number in zip(ids, numbers, strict=False)]
            if "".join(piece for piece, _ in pieces) != action:  # a letter of several tokens
                pieces = [[action, rounded(sum(numbers[: len(ids)]) / len(ids), 3)]]
            turns.append(pieces)
            numbers = numbers[len(ids) :]
        annotated.append(interleaved(game, turns))
    return annotated


def interleaved(game: Trajectory, turns: list[list]) -> list[Any]:
    """obs_0, the tokens of action_0, obs_1, …; of a very long text the middle is left out."""
    parts: list[Any] = []
    for obs, turn in zip(game.texts[::2], turns, strict=False):
        parts += [obs, turn]
    parts += game.texts[2 * len(turns) :]
    half = MAX_TEXT // 2
    return [f"{part[:half]} […] {part[-half:]}" if isinstance(part, str) and len(part) > MAX_TEXT else part
            for part in parts]


def shorten(parts: list[Any], num_bytes: int) -> list[Any]:
    """Leave turns out of the middle until the rest has so many bytes; {"left_out": number} stands in their place."""
    turns = [parts[i : i + 2] for i in range(0, len(parts), 2)]
    sizes = [len(compact(turn)) for turn in turns]
    kept = len(turns)
    while kept > 2 and sum(sizes[: (kept + 1) // 2]) + sum(sizes[len(turns) - kept // 2 :]) + 30 > num_bytes:
        kept -= 1
    if kept == len(turns):
        return parts
    head, tail = turns[: (kept + 1) // 2], turns[len(turns) - kept // 2 :]
    return [*sum(head, []), {"left_out": len(turns) - kept}, *sum(tail, [])]


def compact(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- A line ---


def make_line(run: Run) -> dict[str, Any]:
    """All that is kept of a run."""
    args, test = run.args, run.test
    experiment, task = args["exp_name"], args["env_id"]
    script = importlib.import_module(f"algos.{run.script}")
    env = make(task, **args["env_options"])
    games = list(offline_data.read_file(env, run.folder / "episodes.jsonl"))
    order = sorted(range(len(games)), key=lambda i: games[i].episodic_return)
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    counts = Counter(round(game.episodic_return, 3) for game in games)
    paper = dict(zip(PAPER_TASKS, PAPER_RETURNS.get(experiment, [None] * len(PAPER_TASKS)), strict=True))[task]
    comparable = paper is not None and task != "car_dealer"  # the paper's buyers overspend
    model = model_name(run)
    played = any("charts/episodes" in row for row in run.rows)  # it learned from games of its own
    start = args["model"].removeprefix("runs/").split("__") if args["model"].startswith("runs/") else ["", ""]
    line = {
        "task": task,
        "experiment": experiment,
        "model": model,
        "seed": args["seed"],
        "method": METHODS[experiment][0],
        "script": f"algos/{run.script}.py",
        "commit": run.about.get("commit", ""),
        "machine": machine_class(run.about),
        "versions": {name: run.about["versions"].get(name) for name in ("python", "torch", "transformers")},
        "env": run.about.get("env", {}),
        "parameters": count_parameters(run),
        "starts_from": start[1],
        "arguments": changed_arguments(run, script, env, model),
        "num_games": len(games),
        "return": rounded(test["test/episodic_return"], 6),
        "standard_error": rounded(test["test/episodic_return_se"]),
        "returns": sorted([value, number] for value, number in counts.items()),
        "score": rounded(test["test/score"]) if "test/score" in test else None,
        "paper_return": paper,
        "paper_score": rounded(env.score(paper)) if comparable else None,  # on our scale
        "worst": env.worst,
        "data": env.data,
        "best": rounded(env.best, 6),
        "success": rounded(test["test/success"]),
        "invalid_actions": rounded(test["test/invalid_actions"]),
        "minutes": rounded(test["charts/minutes"]),
        "turns": test["global_step"] if played else 0,
        "gradient_steps": test["global_step"] if run.script in MEASURES and not played else None,
        "tokens": int(sum(test.get(f"charts/{name}_tokens", 0) for name in ("input", "output"))) or None,
        "curve": curve(run.rows),
        "measure": MEASURES.get(run.script, ("",))[0],
    }
    annotated = annotate(run, script, env, [games[i] for i in chosen.values()])
    line["games"] = {
        name: {"number": i, "return": rounded(games[i].episodic_return, 6), "turns": len(games[i].rewards), "texts": []}
        for name, i in chosen.items()}
    room = (MAX_LINE - len(compact(line))) // len(chosen)
    for game, texts in zip(line["games"].values(), annotated, strict=True):
        game["texts"] = shorten(texts, room)
    return line


def key(line: dict[str, Any]) -> tuple:
    """What tells a line from others; lines are ordered by it."""
    return (get_args(EnvId).index(line["task"]), list(METHODS).index(line["experiment"]), line["model"] != "tiny",
            line["model"], line["seed"])


def merge(path: Path, lines: list[dict[str, Any]]) -> None:
    """Put the lines into the file, in place of those with the same key. Games stay with the first seed of a result."""
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    by_key = {key(line): line for line in [*map(json.loads, known), *lines]}
    results = set()  # keys without the seed
    for which in sorted(by_key):
        if which[:-1] in results:
            by_key[which].pop("games", None)
        results.add(which[:-1])
    text = b"".join(compact(by_key[which]) + b"\n" for which in sorted(by_key))
    offline_data.replace(path, lambda temporary: temporary.write_bytes(text))


def main(args: Args) -> None:
    """Collect the runs; one that cannot be read is named and left out, and then the exit status is 1."""
    from transformers.utils import logging  # only here: it takes seconds, and the tables need it not

    logging.disable_progress_bar()
    lines, failed = [], []
    for run in find_runs(args.runs, args.env_ids):
        try:
            lines.append(make_line(run))
        except (Exception, SystemExit) as error:  # of another version of its script, say: the others still count
            failed.append(f"{run.folder}: {type(error).__name__}: {error}")
    if lines:
        with FileLock(args.runs / "collect.lock"):  # several benchmarks.sh may end at the same time
            merge(args.into or args.runs / "runs.jsonl", lines)
    print(f"{len(lines)} finished runs are in {args.into or args.runs / 'runs.jsonl'}")
    if failed:
        sys.exit("\n".join(["These runs were left out:", *failed]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
