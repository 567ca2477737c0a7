"""Tables, figures and a page with games, from the lines that results/collect.py has made. Nothing else is read.

    python results/report.py                            prints a table of each task, as Markdown
    python results/report.py --env-ids maze_fo          of this one
    python results/report.py --page results/page        writes index.html and its pictures there
    python results/report.py --write                    writes the tables of README.md and results/README.md, the
                                                        README's figure and results/figures.json, its numbers
    python results/report.py --check                    exits with 1 if these are not what the lines give

A cell of a table is an algorithm on a task: the mean over its runs (seeds) of a run's mean return. Its interval holds
95 % of the means that the bootstrap draws: as many seeds as there are, with replacement, and for each of them as many
games as it has played, with replacement. With one seed, only games are drawn: how much seeds differ is not in it. With
two or three the interval is too narrow as well, since so few seeds hardly show how much others would differ.

The score of a return is 0 at the task's worst return, 50 at the data's mean and 100 at the best, linear in between.
"""

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))  # runs from a plain checkout, from anywhere
from envs import EnvId  # noqa: E402

DRAWS = 2000  # of the bootstrap
LINES = ROOT / "results" / "runs.jsonl"
# The algorithms in the order of the tables, as the lines call them.
METHODS = ("BC", "filtered BC", "MC returns", "ILQL", "online filtered BC", "PPO", "GRPO", "ArCHer", "prompted LLM")


@dataclass
class Args:
    env_ids: tuple[EnvId, ...] = ()  # tasks (default: all that have a line)
    lines: Path = LINES  # file that results/collect.py has written
    page: Path | None = None  # folder for the page and its pictures
    write: bool = False  # write the tables and the figure of the checkout
    check: bool = False  # check that the tables and the figure's numbers in the checkout are up to date


# --- Cells ---


class Cell(NamedTuple):
    """An algorithm on a task: its lines (one a seed), their mean return and score, and what the bootstrap draws."""

    lines: list[dict[str, Any]]
    mean: float
    score: float
    draws: np.ndarray  # (DRAWS,): mean returns
    score_draws: np.ndarray  # (DRAWS,)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean return."""
        return interval(self.draws)


Cells = dict[tuple[str, str], Cell]  # by (task, algorithm)


def read_lines(path: Path, env_ids: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The lines of these tasks; of all if there are none."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if not env_ids or line["task"] in env_ids]


def label(line: dict[str, Any]) -> str:
    """The algorithm, and the model where it is not one of the small ones of envs/tiny/."""
    return line["method"] if line["model"] == "tiny" else f"{line['method']} ({line['model']})"


def make_cells(lines: list[dict[str, Any]]) -> Cells:
    """The cells, ordered by task as the lines are, and by METHODS."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["task"], label(line)), []).append(line)
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    order = sorted(groups, key=lambda cell: (tasks.index(cell[0]), METHODS.index(groups[cell][0]["method"]), cell[1]))
    return {cell: make_cell(groups[cell]) for cell in order}


def make_cell(lines: list[dict[str, Any]]) -> Cell:
    """The cell of a task's lines of one algorithm."""
    first = lines[0]
    # RandomState: its numbers are the same in every version of NumPy. A cell's do not depend on the other cells.
    rng = np.random.RandomState(zlib.crc32(f"{first['task']} {label(first)}".encode()))
    draws = bootstrap([line["returns"] for line in lines], rng)
    mean = float(np.mean([line["return"] for line in lines]))
    return Cell(lines, mean, float(score(mean, first)), draws, score(draws, first))


def bootstrap(returns: list[list[list[float]]], rng: np.random.RandomState) -> np.ndarray:
    """Mean returns (DRAWS,) of seeds drawn with replacement and, of each of them, of games drawn with replacement.

    `returns`: of each seed, the (return, number of games) pairs.
    """
    num_seeds = len(returns)
    means = []  # of each seed: as many draws of its games as a draw of seeds may ask for
    for pairs in returns:
        values, counts = np.array(pairs, dtype=float).T
        num_games = int(counts.sum())
        drawn = rng.multinomial(num_games, counts / num_games, size=(DRAWS, num_seeds))  # (DRAWS, S, values)
        means.append(drawn @ values / num_games)
    seeds = rng.randint(num_seeds, size=(DRAWS, num_seeds))
    drawn_means = np.stack(means)[seeds, np.arange(DRAWS)[:, None], np.arange(num_seeds)]  # (DRAWS, S)
    return drawn_means.mean(1)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """What holds 95 % of the draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def score(returns: Any, line: dict[str, Any]) -> Any:
    """Scores of returns, on the scale of the line's task."""
    worst, data, best = line["worst"], line["data"], line["best"]
    below = 50 * (returns - worst) / (data - worst)
    above = 50 + 50 * (returns - data) / (best - data)
    return np.where(np.asarray(returns) < data, below, above)


# --- Over tasks ---


class Summary(NamedTuple):
    """An algorithm over the tasks that it has played: mean and interquartile mean of the tasks' scores."""

    tasks: list[str]
    mean: float
    mean_interval: tuple[float, float]
    middle: float
    middle_interval: tuple[float, float]


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the first axis without its lowest and its highest quarter, rounded down."""
    cut = len(scores) // 4
    return np.sort(scores, axis=0)[cut : len(scores) - cut].mean(0)


def summarise(cells: Cells) -> dict[str, Summary]:
    """By algorithm. A draw takes one draw of each task's cell: the bootstrap is stratified by task, as rliable's."""
    summaries = {}
    for name in labels(cells):
        own = {task: cell for (task, method), cell in cells.items() if method == name}
        scores = np.array([cell.score for cell in own.values()])  # (tasks,)
        draws = np.stack([cell.score_draws for cell in own.values()])  # (tasks, DRAWS)
        summaries[name] = Summary(list(own), float(scores.mean()), interval(draws.mean(0)),
                                  float(interquartile_mean(scores)), interval(interquartile_mean(draws)))
    return summaries


def labels(cells: Cells) -> list[str]:
    """The algorithms, in the order of METHODS."""
    return sorted({method for _, method in cells}, key=lambda name: (METHODS.index(name.partition(" (")[0]), name))


def figure_numbers(cells: Cells) -> dict[str, Any]:
    """What the figures show, but for the curves, which are in the lines as they are drawn."""
    by_cell = [{"task": task, "algorithm": name, "return": round(cell.mean, 4),
                "interval": [round(end, 4) for end in cell.interval], "score": round(cell.score, 2),
                "score_interval": [round(end, 2) for end in interval(cell.score_draws)],
                "paper_return": cell.lines[0]["paper_return"], "paper_score": cell.lines[0]["paper_score"]}
               for (task, name), cell in cells.items()]
    overall = [{"algorithm": name, "tasks": summary.tasks, "mean": round(summary.mean, 2),
                "mean_interval": [round(end, 2) for end in summary.mean_interval],
                "interquartile_mean": round(summary.middle, 2),
                "interquartile_mean_interval": [round(end, 2) for end in summary.middle_interval]}
               for name, summary in summarise(cells).items()]
    return {"cells": by_cell, "overall": overall}


# --- Tables ---


def show(value: float | None) -> str:
    """Three significant digits, but no fourth decimal, with a true minus; empty for None."""
    if value is None:
        return ""
    num_decimals = 3 if abs(value) < 0.9995 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    text = f"{value:.{num_decimals}f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def show_interval(ends: tuple[float, float]) -> str:
    """Both ends, as `show` shows them."""
    return f"{show(ends[0])} … {show(ends[1])}"


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def by_task(cells: Cells) -> Iterator[tuple[str, dict[str, Cell], float, str]]:
    """For each task: its name, its cells by method, the best mean return, and the returns that mark its scale."""
    for task in dict.fromkeys(task for task, _ in cells):
        own = {name: cells[task, name] for name in labels(cells) if (task, name) in cells}
        line = next(iter(own.values())).lines[0]
        scale = f"worst {show(line['worst'])}<br>data {show(line['data'])}<br>best {show(line['best'])}"
        yield task, own, max(cell.mean for cell in own.values()), scale


def front_table(cells: Cells) -> str:
    """The README's table: a row a task, a column an algorithm."""
    names = labels(cells)
    lines = [row(["task", *names]), row(["---"] * (len(names) + 1))]
    for task, own, best, scale in by_task(cells):
        columns = [f"**{task}**<br><sub>{scale}</sub>"]
        for name in names:
            columns.append(front_cell(own[name], own[name].mean == best) if name in own else "")
        lines.append(row(columns))
    return "\n".join(lines)


def front_cell(cell: Cell, is_best: bool) -> str:
    """Mean, interval, the paper's return and how many seeds there are if not three."""
    mean = f"**{show(cell.mean)}**" if is_best else show(cell.mean)
    number = "" if len(cell.lines) == 3 else {1: " ¹", 2: " ²"}.get(len(cell.lines), f" ({len(cell.lines)} seeds)")
    paper = cell.lines[0]["paper_return"]
    paper = "" if paper is None else f"<br>paper {show(paper)}"
    return f"{mean}{number}<br><sub>{show_interval(cell.interval)}{paper}</sub>"


COLUMNS = ("", "return", "95 %", "by seed", "score", "success", "invalid actions", "minutes", "turns played",
           "the paper's return")


def task_table(task: str, cells: Cells) -> str:
    """All about the runs of a task: a row an algorithm, and what ran where."""
    own = {name: cell for (cell_task, name), cell in cells.items() if cell_task == task}
    first = next(iter(own.values())).lines[0]
    scale = f"Worst {show(first['worst'])}, data {show(first['data'])}, best {show(first['best'])}."
    lines = [f"### {task}", "", scale, "", row(list(COLUMNS)), row(["---"] * len(COLUMNS))]
    for name, cell in own.items():
        lines.append(row([name, *task_row(cell)]))
    lines += ["", *sorted({where(line) for cell in own.values() for line in cell.lines})]
    return "\n".join(lines) + "\n"


def task_row(cell: Cell) -> list[str]:
    """A row of `task_table` after the algorithm's name: means over the seeds."""

    def mean(name: str) -> float | None:
        values = [line[name] for line in cell.lines if line[name] is not None]
        return float(np.mean(values)) if values else None

    by_seed = ", ".join(f"{line['seed']}: {show(line['return'])}" for line in cell.lines)
    return [show(cell.mean), show_interval(cell.interval), by_seed, show(cell.score), f"{mean('success'):.3f}",
            f"{mean('invalid_actions'):.2%}", f"{mean('minutes'):.1f}", f"{mean('turns'):,.0f}",
            show(cell.lines[0]["paper_return"])]


def where(line: dict[str, Any]) -> str:
    """What a run's numbers may depend on, as a line of a list."""
    versions = [f"{name} {version}" for name, version in line["versions"].items()]
    env = [f"{name} {value}" for name, value in line["env"].items()]
    return "* " + ", ".join([f"commit {line['commit']}", line["machine"], *versions, *env])


def with_table(text: str, table: str) -> str:
    """The file's text with the table between its two markers. Raises ValueError if it has not both, once."""
    begin, end = "<!-- results: begin -->\n", "<!-- results: end -->\n"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in after:
        raise ValueError(f"expected the lines {begin.strip()} and {end.strip()}, once each and in this order")
    return f"{before}{begin}{table.rstrip()}\n{end}{after}"


def committed(cells: Cells) -> dict[Path, str]:
    """The files of the checkout that are made from the lines, and what they are to be."""
    tasks = dict.fromkeys(task for task, _ in cells)
    tables = {ROOT / "README.md": front_table(cells),
              ROOT / "results" / "README.md": "\n".join(task_table(task, cells) for task in tasks)}
    texts = {path: with_table(path.read_text(encoding="utf-8"), table) for path, table in tables.items()}
    return texts | {ROOT / "results" / "figures.json": json.dumps(figure_numbers(cells), indent=1) + "\n"}


def main(args: Args) -> None:
    """Print the tables, or do what was asked for."""
    cells = make_cells(read_lines(args.lines, args.env_ids)) if args.lines.exists() else {}
    if not cells:
        sys.exit(f"error: there is no finished run in {args.lines}; python results/collect.py collects those of runs/")
    if args.check:
        stale = [str(path.relative_to(ROOT)) for path, text in committed(cells).items()
                 if not path.exists() or path.read_text(encoding="utf-8") != text]
        sys.exit(f"not what {args.lines.name} gives: {', '.join(stale)}; --write writes them" if stale else 0)
    if args.write:
        from results import figures  # only where pictures are drawn

        for path, text in committed(cells).items():
            path.write_text(text, encoding="utf-8")
        figures.save_overview(summarise(cells), cells, ROOT / "results" / "overview.png")
    if args.page:
        from results import page

        print(f"wrote {page.write(cells, args.page)}")
    if not (args.write or args.page):
        for task in dict.fromkeys(task for task, _ in cells):
            print(task_table(task, cells))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main(tyro.cli(Args, description=__doc__))
