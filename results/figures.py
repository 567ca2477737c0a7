"""The pictures of results/report.py: scores over tasks, a task's returns against the paper's, learning curves."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import LogLocator, NullLocator  # noqa: E402

from results.report import Cells, Summary  # noqa: E402

# Colours that colour-blind readers can tell apart (Okabe and Ito), without the yellow, which is too light for a line.
COLOURS = {"BC": "#7f7f7f", "filtered BC": "#000000", "MC returns": "#56b4e9", "ILQL": "#0072b2",
           "online filtered BC": "#e69f00", "PPO": "#d55e00", "GRPO": "#cc79a7", "ArCHer": "#009e73",
           "prompted LLM": "#8b5a2b"}
MARKERS = {"BC": "o", "filtered BC": "s", "MC returns": "^", "ILQL": "v", "online filtered BC": "D", "PPO": "P",
           "GRPO": "X", "ArCHer": "*", "prompted LLM": "h"}
TEXT = "#222222"
pyplot.rcParams.update({
    "font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": "#888888", "xtick.color": TEXT,
    "ytick.color": TEXT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
})


def colour(name: str) -> str:
    """The colour of an algorithm; a model in brackets after its name does not change it."""
    return COLOURS[name.partition(" (")[0]]


def marker(name: str) -> str:
    """The marker of an algorithm."""
    return MARKERS[name.partition(" (")[0]]


def add_grid(axes: Axes) -> None:
    """Draw light vertical lines, to read values off the axis."""
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)


def save(figure: Figure, path: Path) -> Path:
    """Write the picture and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # no version in it: the same picture, the same bytes
    pyplot.close(figure)
    return path


def paper_mean(cells: Cells, name: str) -> float | None:
    """The mean score of the paper's returns of an algorithm, on our scale, over the tasks that we have run."""
    scores = [cell.lines[0]["paper_score"] for (_, method), cell in cells.items() if method == name]
    known = [value for value in scores if value is not None]
    return sum(known) / len(known) if known else None


def save_overview(summaries: dict[str, Summary], cells: Cells, path: Path, stacked: bool = False) -> Path:
    """Mean and interquartile mean of the tasks' scores, an algorithm a row, with 95 % intervals.

    The two stand side by side, or, `stacked`, one above the other.
    """
    names = list(summaries)[::-1]  # matplotlib counts from below
    most = max(len(summary.tasks) for summary in summaries.values())
    height = 1.3 + 0.3 * len(names)
    figsize, shape = ((4.8, 2 * height), (2, 1)) if stacked else ((8.2, height), (1, 2))
    figure, both = pyplot.subplots(*shape, figsize=figsize, sharex=True, sharey=True, layout="constrained")
    for y, name in enumerate(names):
        summary = summaries[name]
        fewer = len(summary.tasks) < most
        for axes, value, ends in ((both[0], summary.mean, summary.mean_interval),
                                  (both[1], summary.middle, summary.middle_interval)):
            axes.plot(ends, [y, y], color=colour(name), linewidth=5, alpha=0.45, solid_capstyle="butt")
            axes.plot(value, y, "o", color=colour(name), markersize=8, markerfacecolor="white" if fewer else None,
                      markeredgewidth=2)
        paper = paper_mean(cells, name)
        if paper is not None:
            both[0].plot(paper, y, "D", color=TEXT, markersize=6, markerfacecolor="none")
    for axes, title in zip(both, ("mean over tasks", "interquartile mean over tasks"), strict=True):
        axes.set_title(title, fontsize=10)
        axes.axvline(50, color="#888888", linestyle=":", linewidth=1)
        axes.axvline(100, color="#888888", linestyle="--", linewidth=1)
        add_grid(axes)
        axes.set_xlabel("score: data 50, best 100")
    shown = [name if len(summaries[name].tasks) == most else f"{name} ({len(summaries[name].tasks)} of {most} tasks)"
             for name in names]
    both[0].set_yticks(range(len(names)), shown)
    both[0].set_ylim(-0.6, len(names) - 0.4)
    handles = [Line2D([], [], color=TEXT, marker="o", linewidth=5, alpha=0.6, label="ours, 95 % interval"),
               Line2D([], [], color=TEXT, marker="D", linewidth=0, markerfacecolor="none", label="the paper's (GPT-2)")]
    if any(len(summary.tasks) < most for summary in summaries.values()):
        handles.append(Line2D([], [], color=TEXT, marker="o", linewidth=0, markerfacecolor="white",
                              label="not all tasks yet"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if stacked else 3, frameon=False, fontsize=9)
    return save(figure, path)


def save_bars(task: str, cells: Cells, path: Path) -> Path:
    """A task's raw returns, an algorithm a bar that begins at the data's; with intervals and the paper's returns."""
    own = {name: cell for (cell_task, name), cell in cells.items() if cell_task == task}
    first = next(iter(own.values())).lines[0]
    names = list(own)[::-1]
    better = [own[name].mean - first["data"] for name in names]
    lowest = min(first["data"], *(own[name].interval[0] for name in names))
    highest = max(first["best"], *(own[name].interval[1] for name in names))
    room = 0.04 * (highest - lowest)
    figure, axes = pyplot.subplots(figsize=(4.6, 1.35 + 0.3 * len(names)), layout="constrained")
    axes.barh(range(len(names)), better, left=first["data"], color=[colour(name) for name in names], alpha=0.75,
              height=0.62)
    for y, name in enumerate(names):
        axes.plot(own[name].interval, [y, y], color=TEXT, linewidth=1.5, marker="|", markersize=6)
        paper = own[name].lines[0]["paper_return"]
        if paper is not None:
            inside = min(max(paper, lowest - room), highest + room)
            kind = {-1: "<", 0: "D", 1: ">"}[(paper > inside) - (paper < inside)]  # an arrow: it lies outside
            axes.plot(inside, y, kind, color=TEXT, markerfacecolor="white", markersize=6, markeredgewidth=1.4)
    axes.axvline(first["data"], color="#666666", linestyle=":", linewidth=1.2)
    axes.axvline(first["best"], color="#666666", linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(lowest - 2 * room, highest + 2 * room)
    axes.set_title(task, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel("mean return")
    add_grid(axes)
    handles = [Line2D([], [], color=TEXT, marker="D", linewidth=0, markerfacecolor="white", label="the paper's"),
               Line2D([], [], color="#666666", linestyle=":", label="data, where bars begin"),
               Line2D([], [], color="#666666", linestyle="--", label="best")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return save(figure, path)


def save_curves(task: str, cells: Cells, path: Path) -> Path | None:
    """A task's learning curves, a line a run: by minutes, and by turns if it played to learn. None without curves."""
    own = {name: cell for (cell_task, name), cell in cells.items() if cell_task == task}
    curves = [(name, line) for name, cell in own.items() for line in cell.lines if line["curve"]]
    if not curves:
        return None
    units = {"minutes of training, without those of its start": [(name, line, 1, 1.0) for name, line in curves]}
    if played := [(name, line, 0, 1000.0) for name, line in curves if line["turns"]]:
        units["thousand turns played to learn"] = played
    figure, panels = pyplot.subplots(len(units), 1, figsize=(4.6, 0.9 + 2.2 * len(units)), layout="constrained",
                                     squeeze=False)
    for axes, (unit, drawn) in zip(panels[:, 0], units.items(), strict=True):
        for name, line, column, divisor in drawn:
            x = [point[column] / divisor for point in line["curve"]]
            axes.plot(x, [point[2] for point in line["curve"]], color=colour(name), marker=marker(name), markersize=4,
                      linewidth=1.4, alpha=0.85, markevery=max(1, len(x) // 6))
        axes.axhline(curves[0][1]["data"], color="#666666", linestyle=":", linewidth=1.2)
        axes.axhline(curves[0][1]["best"], color="#666666", linestyle="--", linewidth=1.2)
        axes.set_xlabel(unit)
        axes.set_ylabel("mean return")
        axes.grid(color="#dddddd", linewidth=0.8)
    by_minutes = panels[0, 0]
    by_minutes.set_title(task, fontsize=11, loc="left", fontweight="bold")
    by_minutes.set_xscale("log")
    by_minutes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_minutes.xaxis.set_major_formatter("{x:g}")
    by_minutes.xaxis.set_minor_locator(NullLocator())
    names = dict.fromkeys(name for name, _ in curves)
    handles = [Line2D([], [], color=colour(name), marker=marker(name), markersize=5, label=name) for name in names]
    handles += [Line2D([], [], color="#666666", linestyle=":", label="data"),
                Line2D([], [], color="#666666", linestyle="--", label="best")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, path)
