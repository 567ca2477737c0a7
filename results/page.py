"""The page of results/report.py: table, figures and games, in one file that needs no server and no script."""

import base64
import html
from pathlib import Path
from typing import Any

from results import figures
from results.report import Cell, Cells, by_task, labels, show, show_interval, summarise

# What the numbers under the agent's tokens are, by the lines' `measure`.
MEANINGS = {
    "log-probability": ("the logarithm of the probability that the model gives the token",
                        "unlikely", "certain"),
    "value": ("the return that the critic expects from here on, Q of the token", "low in these games", "high"),
    "advantage": ("how much better than usual the critic thinks the token is", "worse than usual", "better"),
}
NUM_SHADES = 5  # on each side of white
ORANGE, BLUE = (230, 145, 0), (60, 140, 215)

STYLE = """
body { margin: 0 auto; max-width: 1340px; padding: 0 16px 48px; background: #fff; color: #1c1c1c;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7em; line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
p, li { max-width: 75ch; }
.wide { overflow-x: auto; border: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 6px 10px; border-bottom: 1px solid #e4e4e4; text-align: right; vertical-align: top; }
th { background: #f5f5f5; } tbody th { text-align: left; position: sticky; left: 0; }
td a { font-weight: 600; color: #0b4f8a; } small { color: #444; } .top { background: #e3f0fb; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 16px;
           align-items: start; }
img { max-width: 100%; height: auto; }
details { margin: 8px 0; border: 1px solid #ccc; border-radius: 4px; padding: 0 12px; }
summary { cursor: pointer; padding: 8px 0; font-weight: 600; }
.games { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 16px;
         align-items: start; margin-bottom: 12px; }
h4 { margin: 8px 0; }
.game { max-height: 30em; overflow-y: auto; border: 1px solid #ddd; padding: 8px;
        font: 13px/1.6 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
.obs { color: #555; } .act { padding-left: 1.2em; } .act span { border-bottom: 2px solid #1c1c1c; }
@media (max-width: 600px) { table { font-size: 12px; } th, td { padding: 4px 6px; } }
.cut { display: block; text-align: center; font-style: italic; color: #444; }
.key span { display: inline-block; padding: 0 8px; } nav a { margin-right: 1em; white-space: nowrap; }
"""


def shade_css() -> str:
    """Classes s-5 … s5: orange below, white at 0, blue above; dark text can be read on each."""
    rules = []
    for level in range(-NUM_SHADES, NUM_SHADES + 1):
        strength = 0.75 * abs(level) / NUM_SHADES
        end = BLUE if level > 0 else ORANGE
        mixed = [round(255 + strength * (part - 255)) for part in end]
        rules.append(f".s{level} {{ background: rgb({mixed[0]}, {mixed[1]}, {mixed[2]}); }}")
    return "\n".join(rules)


def scale(numbers: list[float], measure: str) -> tuple[float, float]:
    """The numbers that have the full orange and the full blue; a twentieth at either end may lie beyond."""
    if measure == "log-probability":  # white is 0, a certain token; one of 1 in 150 has the full orange
        return -5.0, 5.0
    ordered = sorted(numbers) or [0.0]
    beyond = len(ordered) // 20
    lowest, highest = ordered[beyond], ordered[-1 - beyond]
    if measure == "advantage":  # white is 0: as good as usual
        highest = max(abs(lowest), abs(highest))
        lowest = -highest
    return lowest, highest


def shade(number: float | None, ends: tuple[float, float]) -> int:
    """The class of a token's number on a `scale`; white without one."""
    lowest, highest = ends
    if number is None or lowest == highest:
        return 0
    number = min(max(number, lowest), highest)
    return round(NUM_SHADES * (2 * (number - lowest) / (highest - lowest) - 1))


def picture(path: Path, words: str) -> str:
    """The picture as part of the page, with `words` for who cannot see it."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(words)}">'


def anchor(task: str, name: str) -> str:
    """The id of a cell's games."""
    return f"{task}-{name}".replace(" ", "-").replace("(", "").replace(")", "")


def table(cells: Cells) -> str:
    """A row a task, a column an algorithm; each cell leads to its games."""
    names = labels(cells)
    rows = []
    for task, own, best, scale in by_task(cells):
        columns = [f"<th>{task}<br><small>{scale}</small></th>"]
        for name in names:
            columns.append(table_cell(task, name, own[name], best) if name in own else "<td></td>")
        rows.append(f"<tr>{''.join(columns)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["task", *names])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def table_cell(task: str, name: str, cell: Cell, best: float) -> str:
    """Mean, interval, number of seeds and the paper's return."""
    paper = cell.lines[0]["paper_return"]
    paper = "" if paper is None else f"<br>paper {show(paper)}"
    seeds = f"{len(cell.lines)} seed{'s' * (len(cell.lines) > 1)}"
    top = ' class="top"' if cell.mean == best else ""
    return (f'<td{top}><a href="#{anchor(task, name)}">{show(cell.mean)}</a><br>'
            f"<small>{show_interval(cell.interval)}<br>{seeds}{paper}</small></td>")


def games(task: str, name: str, cell: Cell) -> str:
    """Best, median and worst game of the test of the cell's first seed."""
    line = cell.lines[0]
    numbers = [number for game in line["games"].values() for part in game["texts"] if isinstance(part, list)
               for _, number in part if number is not None]
    ends = scale(numbers, line["measure"])
    columns = []
    for which, game in line["games"].items():
        parts = "".join(show_part(part, ends, line["measure"]) for part in game["texts"])
        turns = f"{game['turns']} turn{'s' * (game['turns'] > 1)}"
        title = f"{which}: return {show(game['return'])}, {turns}"
        columns.append(f'<div><h4>{title}</h4><div class="game">{parts}</div></div>')
    summary = f"{name}: {show(cell.mean)} ({show_interval(cell.interval)})"
    about = f"Seed {line['seed']}, {line['num_games']} games, commit {html.escape(line['commit'])}."
    return (f'<details id="{anchor(task, name)}"><summary>{html.escape(summary)}</summary>'
            f"<p>{about} {key(ends, line['measure'])}</p>"
            f'<div class="games">{"".join(columns)}</div></details>')


def key(ends: tuple[float, float], measure: str) -> str:
    """What the colours of a cell's tokens mean."""
    if not measure:
        return "Nothing is known of the model's tokens."
    meaning, low, high = MEANINGS[measure]
    blue = 0 if measure == "log-probability" else NUM_SHADES  # of these none is above 0
    above = "0" if measure == "log-probability" else f"{show(ends[1])} or more"
    return (f'The colour of a token: {meaning}. <span class="key">'
            f'<span class="s{-NUM_SHADES}">{low} ({show(ends[0])} or less)</span> '
            f'<span class="s{blue}">{high} ({above})</span></span>')


def show_part(part: Any, ends: tuple[float, float], measure: str) -> str:
    """An observation, the tokens of an action, or how many turns are left out."""
    if isinstance(part, str):
        return f'<div class="obs">{html.escape(part.rstrip())}</div>'
    if isinstance(part, dict):
        return f'<span class="cut">… {part["left_out"]} turns left out …</span>'
    tokens = []
    for token, number in part:
        told = "" if number is None else f' title="{measure} {number:g}"'
        text = html.escape(token.rstrip("\n") or "↵")
        tokens.append(f'<span class="s{shade(number, ends)}"{told}>{text}</span>')
    return f'<div class="act">{"".join(tokens)}</div>'


def write(cells: Cells, folder: Path) -> Path:
    """Write index.html and the pictures, which are in the page as well, and return the page's path."""
    tasks = list(dict.fromkeys(task for task, _ in cells))
    overview = picture(figures.save_overview(summarise(cells), cells, folder / "overview.png", stacked=True),
                       "Scores of the algorithms over the tasks, with intervals")
    bars = [picture(figures.save_bars(task, cells, folder / f"{task}_returns.png"),
                    f"Returns of the algorithms in {task}, beside the paper's") for task in tasks]
    paths = {task: figures.save_curves(task, cells, folder / f"{task}_curves.png") for task in tasks}
    curves = [picture(path, f"Learning curves in {task}") for task, path in paths.items() if path]
    transcripts = []
    for task in tasks:
        own = [games(task, name, cell) for (cell_task, name), cell in cells.items() if cell_task == task]
        transcripts.append(f'<h3 id="{task}">{task}</h3>{"".join(own)}')
    menu = "".join(f'<a href="#{task}">{task}</a>' for task in tasks)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LMRL-Gym in PyTorch: results</title>
<style>{STYLE}{shade_css()}</style>
</head>
<body>
<h1>LMRL-Gym in PyTorch: results</h1>
<p>Language models learn to play text games. Each number is the mean return of the games of a test, over the runs of
several seeds; below it stand its 95 % bootstrap interval over seeds and games, and the return of the same algorithm in
the paper (arXiv 2311.18232), which is of single runs with GPT-2. The best of a task is on blue. A number leads to
games.</p>
<h2>Returns</h2>
{table(cells)}
<h2>Scores over tasks</h2>
<p>A score is 0 at a task's worst return, 50 at the mean of its data and 100 at the best return. The paper's returns are
on the same scale; car_dealer is left out of them, since the paper's buyers pay other prices. A hollow point: the
algorithm has not been run on all tasks.</p>
{overview}
<h2>Each task beside the paper</h2>
<div class="figures">{"".join(bars)}</div>
<h2>Learning curves</h2>
<p>A line is a run: the games that it learns from, or validation games where it learns from data.</p>
<div class="figures">{"".join(curves)}</div>
<h2>Games</h2>
<p>The best, the median and the worst game of the test, of the first seed. Grey is what the agent reads, underlined what
it says, token by token. Rest the pointer on a token to see its number.</p>
<nav>{menu}</nav>
{"".join(transcripts)}
</body>
</html>
"""
    path = folder / "index.html"
    path.write_text(text, encoding="utf-8")
    return path
