"""The results table, from the finished runs and from games of the scripted players; and learning curves.

    python results/table.py                                       every task that has a finished run, as Markdown
    python results/table.py --env-ids maze_fo --plot results      that one, and its curves as results/maze_fo.png

The runs are those under runs/, or under the folder that the environment variable LMRL_RUNS names.
"""

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))  # runs from a plain checkout, from anywhere
from envs import SEEDS, EnvId, make, play  # noqa: E402
from envs.run import RUNS  # noqa: E402

# What runs are called (`--exp-name`), what the table calls them, and the mean returns in table 2 of arXiv 2311.18232,
# of these tasks.
PAPER = ("maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle", "chess", "endgames", "twenty_questions",
         "guess_city", "car_dealer")
METHODS = {
    "bc_maze": ("BC", (-72.1, -79.5, 0.39, 0.25, -2.81, -22.3, 0.112, -16.0, -17.0, 44.5)),
    "filtered_bc": ("filtered BC", (-56.4, -82.9, 0.54, 0.49, -2.85, -56.5, -0.439, -14.6, -15.2, 54.8)),
    "mc_twenty_questions": ("MC returns", (-48.1, -80.3, 0.63, 0.58, -2.16, -28.2, 0.588, -13.9, -11.2, 57.2)),
    "ilql_wordle": ("ILQL", (-6.97, -52.9, 0.88, 0.76, -2.04, -21.4, 0.452, -14.2, -12.5, 46.3)),
    "online_filtered_bc_text_nav": ("online filtered BC", (-71.7, -79.5, 0.62, 0.53, -2.15, -22.3, 0.112, -16.8, -19.2,
                                                          40.4)),
    "ppo_car_dealer": ("PPO", (-37.7, -91.7, 0.81, 0.8, -2.63, -16, 0.814, -14.9, -15.1, 50.5)),
    "grpo_wordle": ("GRPO", (None,) * 10),  # the paper has neither of these
    "archer_twenty_questions": ("ArCHer", (None,) * 10),
    "prompt_guess_city": ("prompted LLM (paper: GPT-4)", (-39.7, -88.0, 0.52, 0.21, -5.42, -81.3, -22.87, -13.0,
                                                          -10.13, 53.5)),
}
COLUMNS = ("", "return", "by seed", "score", "success", "invalid actions", "minutes", "tokens/s training",
           "tokens/s playing", "paper's return")


@dataclass
class Args:
    env_ids: tuple[EnvId, ...] = ()  # variants of the tasks (default: those that have a finished run)
    runs: Path = RUNS  # folder of the runs
    plot: Path | None = None  # folder for the learning curves, one picture for each task


@dataclass
class Run:
    """A run's folder: its arguments, where it ran, and the rows of its metrics."""

    env_id: str
    exp_name: str
    seed: int
    where: str
    rows: list[dict[str, float]]

    @property
    def test(self) -> dict[str, float]:
        """The final row; empty if the run has not come to it."""
        return next((row for row in reversed(self.rows) if "test/episodic_return" in row), {})

    def mean(self, name: str) -> float | None:
        """Mean of a metric over the rows that have it."""
        values = [row[name] for row in self.rows if name in row]
        return statistics.mean(values) if values else None


def read_run(folder: Path) -> Run:
    """Read a run's folder; a last line that is still being written is left out."""
    run = json.loads((folder / "args.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    args = run["args"]
    about = {"commit": run.get("commit")}
    about |= {name: run.get("versions", {}).get(name) for name in ("python", "torch", "transformers")}
    if "server_model" in args:  # what matters most where nothing is trained
        about |= {"model": args["model"], "server_model": args["server_model"]}
    about |= {"device": args["device"], **run.get("machine", {}), **run.get("env", {})}
    where = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    return Run(args["env_id"], args["exp_name"], args["seed"], where, [json.loads(line) for line in lines if line])


def mean_and_error(values: list[float]) -> str:
    """Mean ± its standard error."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def player_row(env_id: str, name: str) -> list[str]:
    """A scripted player's games on the test seeds."""
    env = make(env_id)
    player = env.players()[name]
    games = [play(env, player, seed) for seed in range(SEEDS["test"], SEEDS["test"] + env.num_test_episodes)]
    returns = [game.episodic_return for game in games]
    # The paper has no such returns for car_dealer: its BC and MC stand in, so that paper_score is defined.
    paper = f"{env.paper[name]:g}" if name in env.paper and env.env_id != "car_dealer" else ""
    success = statistics.mean(game.success for game in games)
    return [f"{name} player", f"{mean_and_error(returns)} ¹", "", f"{env.score(statistics.mean(returns)):.1f}",
            f"{success:.3f}", "", "", "", "", paper]


def method_row(label: str, runs: list[Run], paper: float | None) -> list[str]:
    """One algorithm: means over the seeds."""
    runs = sorted(runs, key=lambda run: run.seed)
    returns = [run.test["test/episodic_return"] for run in runs]
    if len(runs) > 1:
        shown = mean_and_error(returns)
    else:
        shown = f"{returns[0]:.2f} ± {runs[0].test['test/episodic_return_se']:.2f} ¹"

    def mean(values: Iterable[float | None], form: str) -> str:
        known = [value for value in values if value is not None]
        return format(statistics.mean(known), form) if known else ""

    by_seed = ", ".join(f"{value:.2f}" for value in returns)
    return [label, shown, by_seed,
            mean((run.test.get("test/score") for run in runs), ".1f"),
            mean((run.test.get("test/success") for run in runs), ".3f"),
            mean((run.test.get("test/invalid_actions") for run in runs), ".2%"),
            mean((run.test.get("charts/minutes") for run in runs), ".1f"),
            mean((run.mean("perf/train_tokens_per_second") for run in runs), ",.0f"),
            mean((run.test.get("perf/rollout_tokens_per_second") for run in runs), ",.0f"),
            "" if paper is None else f"{paper:g}"]


def table(env_id: str, runs: list[Run]) -> str:
    """A task's table in Markdown: the scripted players, then the algorithms that have finished runs."""
    rows = [player_row(env_id, name) for name in ("random", "data", "best")]
    finished = [run for run in runs if run.env_id == env_id and run.test]
    used = []
    for exp_name, (label, paper) in METHODS.items():
        if chosen := [run for run in finished if run.exp_name == exp_name]:
            rows.append(method_row(label, chosen, dict(zip(PAPER, paper, strict=True)).get(env_id)))
            used += chosen
    lines = [f"### {env_id}", "", *(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))]
    lines += ["", "±: standard error over seeds; ¹ over the episodes of the test."]
    lines += [f"Ran with {where}." for where in sorted({run.where for run in used} - {""})]
    return "\n".join(lines) + "\n"


def plot(env_id: str, runs: list[Run], folder: Path) -> None:
    """Learning curves on validation seeds against minutes: return, success and the share of invalid actions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    env = make(env_id)
    figure, all_axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, axes in zip(("episodic_return", "success", "invalid_actions"), all_axes, strict=True):
        for run in sorted(runs, key=lambda run: (run.exp_name, run.seed)):
            points = [(row["charts/minutes"], row[f"eval/{name}"]) for row in run.rows if f"eval/{name}" in row]
            if run.env_id == env_id and run.exp_name in METHODS and points:
                colour = f"C{list(METHODS).index(run.exp_name)}"
                axes.plot(*zip(*points, strict=True), ".-", color=colour,
                          label=f"{METHODS[run.exp_name][0]}, seed {run.seed}")
        axes.set(title=f"{env_id}: {name.replace('_', ' ')}", xlabel="minutes")
    all_axes[0].axhline(env.best, color="black", linestyle="--", label="best player")
    all_axes[0].axhline(env.data, color="grey", linestyle=":", label="data player")
    all_axes[0].legend(fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{env_id}.png", dpi=110)
    pyplot.close(figure)


def main(args: Args) -> None:
    """Print the tables, and plot the curves if asked for."""
    runs = [read_run(path.parent) for path in sorted(args.runs.glob("*/metrics.jsonl"))]
    with_runs = {run.env_id for run in runs if run.test and run.exp_name in METHODS}
    for env_id in args.env_ids or [env_id for env_id in get_args(EnvId) if env_id in with_runs]:
        print(table(env_id, runs))
        if args.plot:
            plot(env_id, runs, args.plot)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main(tyro.cli(Args, description=__doc__))
