"""The results: lines of finished runs, tables, figures and the page made from lines, and what benchmarks.sh runs."""

import importlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from algos import archer_twenty_questions, bc_maze, grpo_wordle, ilql_wordle, mc_twenty_questions, ppo_car_dealer
from envs import EnvId, make, maze, run
from envs.data import read_file
from results import collect, page, report, schedule

ROOT = Path(__file__).resolve().parent.parent


# --- Lines of finished runs ---

SMALL = ["--env-id", "maze_fo", "--device", "cpu", "--max-length", "48", "--num-iterations", "2", "--minibatch-size",
         "8", "--eval-every", "1", "--num-eval-episodes", "3", "--num-test-episodes", "5", "--num-envs", "3"]
OFFLINE = ["--num-trajectories", "50", "--steps-per-iteration", "2"]
RUNS = {  # script: its flags
    bc_maze: OFFLINE,
    mc_twenty_questions: [*OFFLINE, "--beta", "1"],
    ilql_wordle: [*OFFLINE, "--beta", "1"],
    ppo_car_dealer: ["--num-episodes", "8"],
    grpo_wordle: ["--num-groups", "2", "--group-size", "4"],
    archer_twenty_questions: ["--num-episodes", "8", "--critic-steps", "2", "--warmup-iterations", "1"],
}


def name_of(script) -> str:
    return script.__name__.rpartition(".")[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of tiny runs of the scripts, and of one that has another name."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "RUNS", folder)
        patch.setattr("envs.data.DATA_DIR", folder / "data")
        patch.setattr(maze, "MAX_MOVES", 5)
        for script, flags in [*RUNS.items(), (bc_maze, [*OFFLINE, "--exp-name", "my_own"])]:
            patch.setattr(sys, "argv", [f"algos/{name_of(script)}.py", *SMALL, *flags])
            script.main(run.parse_args(script.Args, script.TUNED, script.PAPER, script.__doc__))
    return folder


@pytest.fixture(scope="module")
def lines(finished):
    """The line of each script's run."""
    collect.main(collect.Args(runs=finished))
    found = [json.loads(line) for line in (finished / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["experiment"] for line in found] == [name for name in collect.METHODS if f"algos.{name}" in sys.modules
                                                      and sys.modules[f"algos.{name}"] in RUNS]
    return {line["experiment"]: line for line in found}


def test_a_line(finished, lines):
    for script in RUNS:
        name = name_of(script)
        line, folder = lines[name], finished / f"maze_fo__{name}__1"
        *_, test = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        games = list(read_file(make("maze_fo"), folder / "episodes.jsonl"))
        returns = sorted(game.episodic_return for game in games)
        assert [value for value, number in line["returns"] for _ in range(number)] == returns
        assert line["return"] == pytest.approx(statistics.mean(returns), abs=1e-3)
        assert line["standard_error"] == pytest.approx(test["test/episodic_return_se"], abs=1e-3)
        assert (line["task"], line["seed"], line["script"], line["model"]) == ("maze_fo", 1, f"algos/{name}.py", "tiny")
        assert line["commit"] == json.loads((folder / "args.json").read_text())["commit"]
        assert line["num_games"] == 5 and line["parameters"] == 138560
        assert (line["worst"], line["data"], line["best"]) == (-100, -48.4, -6.84)
        assert line["minutes"] == pytest.approx(test["charts/minutes"], abs=1e-3)
        assert line["starts_from"] == ("" if script is bc_maze else "bc_maze")
        assert [game["return"] for game in line["games"].values()] == [returns[-1], returns[2], returns[0]]
        for game in line["games"].values():
            assert games[game["number"]].episodic_return == game["return"]
            words = ["".join(token for token, _ in part) if isinstance(part, list) else part for part in game["texts"]]
            assert words == games[game["number"]].texts  # nothing is left out of five turns
    assert lines["bc_maze"]["paper_return"] == -72.1 and lines["grpo_wordle"]["paper_return"] is None
    assert lines["bc_maze"]["paper_score"] == pytest.approx(50 * (100 - 72.1) / (100 - 48.4), abs=1e-2)


def test_arguments_and_curves(lines):
    given = {"dtype": "float32", "max_length": 48, "num_iterations": 2, "minibatch_size": 8, "num_eval_episodes": 3,
             "num_envs": 3, "num_trajectories": 50, "steps_per_iteration": 2, "num_test_episodes": 5}
    assert lines["bc_maze"]["arguments"] == given  # eval_every is 1 by default
    assert lines["ilql_wordle"]["arguments"] == given | {"eval_every": 1, "beta": [1.0]}
    assert lines["bc_maze"]["turns"] == 0 and lines["bc_maze"]["gradient_steps"] == 4
    assert [point[0] for point in lines["bc_maze"]["curve"]] == [2, 4]
    assert lines["ppo_car_dealer"]["gradient_steps"] is None
    assert [point[0] for point in lines["ppo_car_dealer"]["curve"]][-1] == lines["ppo_car_dealer"]["turns"] <= 80
    rows = [{"global_step": i, "charts/minutes": i, "losses/grad_norm": 1, "eval/episodic_return": -i}
            for i in range(1, 101)]
    trial = {"global_step": 100, "charts/minutes": 100, "eval/episodic_return": -5, "eval/beta": 1}
    thin = collect.curve([*rows, trial])
    assert 30 < len(thin) <= collect.MAX_POINTS and thin[-1] == [100, 100, -100] and collect.curve([]) == []


def numbers_of(line) -> list[list[float]]:
    return [[number for part in game["texts"] if isinstance(part, list) for _, number in part]
            for game in line["games"].values()]


def own_numbers(script, finished, line, compute) -> None:
    """Check a line's numbers with `compute`(policy, critic's file, batch, args), which uses the script's functions."""
    folder = finished / f"maze_fo__{name_of(script)}__1"
    args = script.Args(**json.loads((folder / "args.json").read_text())["args"] | {"model": str(folder / "model")})
    policy, text = script.load_model(args)
    games = list(read_file(make("maze_fo"), folder / "episodes.jsonl"))
    for game, numbers in zip(line["games"].values(), numbers_of(line), strict=True):
        episode = script.Episode(True, 48, args.max_new_tokens)
        texts = games[game["number"]].texts
        for i, reward in enumerate(games[game["number"]].rewards):
            episode.observe(text.encode(texts[2 * i]))
            episode.act(text.encode(texts[2 * i + 1]))
            episode.end_turn(reward, games[game["number"]].terminated, [])
        if not games[game["number"]].terminated:
            episode.observe(text.encode(texts[-1]))
        with torch.no_grad():
            state = torch.load(folder / "critic.pt", weights_only=True) if (folder / "critic.pt").exists() else None
            expected = compute(policy, state, episode, args)
        assert numbers == pytest.approx(expected.tolist(), rel=6e-3, abs=6e-5)


def test_logprobs(finished, lines):
    """One by one, from bc_loss; from the function of GRPO."""

    def by_bc_loss(policy, state, episode, args):
        batch = bc_maze.collate([episode], "cpu")
        singles = [batch._replace(states=batch.states[i : i + 1], tokens=batch.tokens[i : i + 1])
                   for i in range(len(batch.tokens))]
        return torch.stack([-bc_maze.bc_loss(policy, single) for single in singles])

    def by_grpo(policy, state, episode, args):
        return grpo_wordle.chosen_logprobs(policy, grpo_wordle.collate([episode], "cpu"))[0]

    own_numbers(bc_maze, finished, lines["bc_maze"], by_bc_loss)
    own_numbers(grpo_wordle, finished, lines["grpo_wordle"], by_grpo)
    assert lines["bc_maze"]["measure"] == lines["grpo_wordle"]["measure"] == "log-probability"


def test_values_and_advantages(finished, lines):
    def by_mc(policy, state, episode, args):
        critic = mc_twenty_questions.QCritic(policy, 7.0)
        critic.load_state_dict(state["critic"])
        batch = mc_twenty_questions.collate([episode], "cpu", args.gamma)
        return critic(batch)[range(len(batch.tokens)), batch.tokens]

    def by_ilql(policy, state, episode, args):
        critic = ilql_wordle.Critic(policy, 7.0)
        critic.load_state_dict(state["critic"])
        batch = ilql_wordle.collate([episode], "cpu")
        hidden = critic.hidden(batch)[batch.acted]
        return critic.min_q(hidden)[range(len(batch.tokens)), batch.tokens] - critic.v(hidden)[:, 0]

    def by_ppo(policy, state, episode, args):
        critic = ppo_car_dealer.ValueModel(policy)
        critic.load_state_dict(state)
        args.kl_coef = 0.0
        return ppo_car_dealer.look_back(policy, policy, critic, [episode], args).advantages

    def by_archer(policy, state, episode, args):
        critic = archer_twenty_questions.TurnCritic(policy)
        critic.load_state_dict(state)
        batch = archer_twenty_questions.collate([episode], "cpu")
        q1, q2, v, _ = critic(batch)
        return (torch.minimum(q1, q2) - v)[batch.turns]

    for script, compute in ((mc_twenty_questions, by_mc), (ilql_wordle, by_ilql), (ppo_car_dealer, by_ppo),
                            (archer_twenty_questions, by_archer)):
        own_numbers(script, finished, lines[name_of(script)], compute)


def test_collected_again(finished, lines, tmp_path, capsys):
    """The same bytes; another run of the same name replaces the first, the others stay, and the order is fixed."""
    path = finished / "runs.jsonl"
    before = path.read_bytes()
    collect.main(collect.Args(runs=finished))
    assert path.read_bytes() == before
    own = tmp_path / "lines.jsonl"
    last, first = lines["ppo_car_dealer"], lines["bc_maze"]
    collect.merge(own, [last, first | {"seed": 2}])
    collect.merge(own, [first, first | {"task": "maze_po"}, last | {"return": -1.0}])
    merged = [json.loads(line) for line in own.read_text(encoding="utf-8").splitlines()]
    assert [(line["task"], line["experiment"], line["seed"], line["return"]) for line in merged] == [
        ("maze_fo", "bc_maze", 1, first["return"]), ("maze_fo", "bc_maze", 2, first["return"]),
        ("maze_fo", "ppo_car_dealer", 1, -1.0), ("maze_po", "bc_maze", 1, first["return"])]
    assert ["games" in line for line in merged] == [True, False, True, True]  # those of the first seed
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]

    broken = tmp_path / "runs"
    for name in ("bc_maze", "ilql_wordle"):
        shutil.copytree(finished / f"maze_fo__{name}__1", broken / f"maze_fo__{name}__1")
    (broken / "maze_fo__ilql_wordle__1" / "critic.pt").unlink()
    with pytest.raises(SystemExit, match="maze_fo__ilql_wordle__1: FileNotFoundError"):
        collect.main(collect.Args(runs=broken))
    assert len((broken / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert collect.find_runs(finished, ("maze_po",)) == []


def test_long_games_are_cut():
    parts = [part for i in range(100) for part in (f"obs {i}", [["move", -1.0]])] + ["end"]
    assert collect.shorten(parts, 10**6) == parts
    short = collect.shorten(parts, 1000)
    assert 900 < len(collect.compact(short)) <= 1000
    gap = [isinstance(part, dict) for part in short].index(True)
    assert short[:gap] == parts[:gap] and short[gap + 1 :] == parts[gap - len(short) + 1 :]
    assert short[gap]["left_out"] == 100 - (len(short) - 2) // 2


# --- Tables, figures, page ---


def hand_line(task="maze_fo", method="BC", seed=1, returns=((-50.0, 4),), model="tiny", **changes) -> dict:
    mean = sum(value * number for value, number in returns) / sum(number for _, number in returns)
    experiment = next(name for name, (label, _) in collect.METHODS.items() if label == method)
    games = {name: {"number": 0, "return": -1.0, "turns": 1, "texts": ["A <b>\n", [["go", -0.5], ["\n", 0.25]], "Z\n"]}
             for name in ("best", "median", "worst")}
    return {"task": task, "experiment": experiment, "model": model, "seed": seed, "method": method, "commit": "abc",
            "machine": "EPYC, 2 cores, 1 thread", "versions": {"torch": "2"}, "env": {}, "num_games": 4,
            "returns": [list(pair) for pair in returns], "return": mean, "paper_return": -72.1, "paper_score": 27.0,
            "worst": -100.0, "data": -50.0, "best": -10.0, "success": 0.25, "invalid_actions": 0.015, "minutes": 1.5,
            "turns": 1000, "measure": "advantage", "curve": [[500, 0.5, -60.0], [1000, 1.0, mean]],
            "games": games} | changes


def test_table_by_hand():
    lines = [hand_line(seed=1), hand_line(seed=2, returns=[[-40.0, 2], [-50.0, 2]], minutes=2.5),
             hand_line(method="PPO", returns=[[-12.0, 4]], paper_return=None),
             hand_line(task="endgames", returns=[[0.5, 1]])]
    cells = report.make_cells(lines)
    rows = report.front_table(cells).split("\n")
    assert rows[0] == "| task | BC | PPO |" and len(rows) == 4
    assert rows[2].startswith("| **maze_fo**<br><sub>worst −100<br>data −50.0<br>best −10.0</sub> | −47.5 ²<br><sub>−")
    assert rows[2].endswith("<br>paper −72.1</sub> | **−12.0** ¹<br><sub>−12.0 … −12.0</sub> |")
    assert rows[3].endswith("| **0.500** ¹<br><sub>0.500 … 0.500<br>paper −72.1</sub> |  |")
    table = report.task_table("maze_fo", cells)
    low, high = map(report.show, cells["maze_fo", "BC"].interval)
    assert (f"| BC | −47.5 | {low} … {high} | 1: −50.0, 2: −45.0 | 53.1 | 0.250 | 1.50% | 2.0 | 1,000 | −72.1 |"
            in table.split("\n"))
    assert table.endswith("\n* commit abc, EPYC, 2 cores, 1 thread, torch 2\n")
    assert [report.show(value) for value in (-99.96, -9.996, 0.9996, 0.0001, -165.2, -0.0031, None)] == [
        "−100", "−10.0", "1.00", "0", "−165", "−0.003", ""]


def test_scores():
    line = hand_line()
    for value, expected in ((-100, 0), (-75, 25), (-50, 50), (-30, 75), (-10, 100), (-110, -10)):
        assert report.score(value, line) == expected
        env = make("maze_fo")
        env.worst, env.data, env.best = -100.0, -50.0, -10.0
        assert report.score(value, line) == env.score(value)


def test_intervals():
    """Against a plain version that draws games one by one."""
    seeds = [[[-60.0, 3], [-50.0, 5], [-20.0, 2]], [[-45.0, 10]], [[-40.0, 1], [-30.0, 9]]]
    games = [[value for value, number in pairs for _ in range(number)] for pairs in seeds]
    rng = random.Random(1)
    means = sorted(statistics.mean(statistics.mean(rng.choices(rng.choice(games), k=10)) for _ in games)
                   for _ in range(20_000))
    low, high = report.make_cell([hand_line(seed=i, returns=pairs) for i, pairs in enumerate(seeds)]).interval
    assert low == pytest.approx(means[500], abs=0.8) and high == pytest.approx(means[19_500], abs=0.8)

    one = report.make_cell([hand_line(returns=[[0.0, 50], [1.0, 50]])])  # binomial
    assert one.interval == pytest.approx((0.4, 0.6), abs=0.02) and one.draws.std() == pytest.approx(0.05, abs=0.003)
    same = report.make_cell([hand_line(seed=seed, returns=[[-5.0 * seed, 4]]) for seed in (1, 2)])
    assert set(same.draws) == {-5.0, -7.5, -10.0}
    assert np.mean(same.draws == -7.5) == pytest.approx(0.5, abs=0.05)


def test_summary():
    """The bootstrap takes one draw of each task; the interquartile mean leaves out the best and the worst quarter."""
    returns = {"maze_fo": -100, "maze_po": -50, "wordle": -30, "endgames": -10}
    lines = [hand_line(task=task, returns=[[value, 4]]) for task, value in returns.items()]
    lines.append(hand_line(task="maze_fo", method="PPO", returns=[[-10.0, 50], [-30.0, 50]]))
    summaries = report.summarise(report.make_cells(lines))
    assert summaries["BC"].tasks == list(returns)
    assert summaries["BC"].mean == (0 + 50 + 75 + 100) / 4 and summaries["BC"].middle == (50 + 75) / 2
    assert summaries["BC"].mean_interval == (56.25, 56.25)
    assert summaries["PPO"].mean == 87.5 == summaries["PPO"].middle
    assert summaries["PPO"].mean_interval == pytest.approx((85.0, 90.0), abs=0.5)


def test_other_models_stand_by_themselves():
    lines = [hand_line(), hand_line(model="gpt2", returns=[[-20.0, 4]])]
    assert report.front_table(report.make_cells(lines)).startswith("| task | BC | BC (gpt2) |\n")


def test_files_of_the_checkout():
    """The committed lines give the README's tables byte for byte, and the numbers of its figure."""
    if not report.LINES.exists():
        pytest.skip("no lines are committed")
    for path, text in report.committed(report.make_cells(report.read_lines(report.LINES))).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python results/report.py --write"


def test_lines_of_the_checkout():
    text = report.LINES.read_text(encoding="utf-8").splitlines() if report.LINES.exists() else []
    known = [json.loads(line) for line in text]
    assert all(len(line.encode()) <= collect.MAX_LINE for line in text)
    assert [collect.key(line) for line in known] == sorted({collect.key(line) for line in known})


def test_write_and_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    for name in ("README.md", "results/README.md"):
        (tmp_path / name).write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(hand_line()) + "\n")
    with pytest.raises(SystemExit, match="README.md, results/README.md, results/figures.json; --write"):
        report.main(report.Args(lines=path, check=True))
    report.main(report.Args(lines=path, write=True))
    with pytest.raises(SystemExit) as stop:
        report.main(report.Args(lines=path, check=True))
    assert not stop.value.code
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- results: begin -->\n| task | BC |\n")
    assert text.endswith("|\n<!-- results: end -->\nafter\n") and "old" not in text
    numbers = json.loads((tmp_path / "results" / "figures.json").read_text())
    assert numbers["cells"][0]["return"] == -50.0 and numbers["overall"][0]["mean"] == 50.0
    picture = (tmp_path / "results" / "overview.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and 5000 < len(picture) < 100_000
    path.write_text(json.dumps(hand_line(returns=[[-49.0, 4]])) + "\n")
    with pytest.raises(SystemExit, match="README.md"):
        report.main(report.Args(lines=path, check=True))
    for wrong in ("", "<!-- results: begin -->\n", "<!-- results: end -->\n<!-- results: begin -->\n"):
        with pytest.raises(ValueError, match="once each"):
            report.with_table(wrong, "table")
    with pytest.raises(SystemExit, match="no finished run"):
        report.main(report.Args(lines=tmp_path / "none.jsonl"))


class Page(HTMLParser):
    """What the page refers to, and its ids; the elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.sources, self.tags, self.titles = [], [], [], [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        for name, found in (("href", self.links), ("id", self.ids), ("src", self.sources)):
            if name in attributes:
                found.append(attributes[name])
        if "title" in attributes:
            self.titles.append((attributes["class"], attributes["title"]))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page(tmp_path):
    games = {"best": {"return": -1.0, "turns": 2, "texts": ["A", [["say", None]], {"left_out": 1}, "C"]}}
    lines = [hand_line(), hand_line(method="online filtered BC", measure="log-probability"),
             hand_line(method="prompted LLM", model="gpt-4o", measure="", curve=[], games=games),
             hand_line(task="wordle", measure="value")]
    path = page.write(report.make_cells(lines), tmp_path / "page")
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids) and len(found.ids) == len(set(found.ids))
    assert not {"script", "link", "iframe"} & found.tags and "http" not in text
    assert len(found.sources) == 5 and all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "A &lt;b&gt;" in text and "A <b>" not in text
    assert text.count("<details ") == 4 and text.count('<div class="game">') == 10
    assert '<span class="s0">say</span>' in text and "1 turns left out" in text
    by_measure = {title.split()[0]: [] for _, title in found.titles}
    for shade, title in found.titles:
        by_measure[title.split()[0]].append((shade, title.split()[1]))
    assert by_measure["advantage"][:2] == [("s-5", "-0.5"), ("s2", "0.25")]
    assert by_measure["value"][:2] == [("s-5", "-0.5"), ("s5", "0.25")]
    assert by_measure["log-probability"][0] == ("s0", "-0.5")  # a likely token
    assert page.shade(-9.0, page.scale([], "log-probability")) == -5 and page.shade(None, (0.0, 1.0)) == 0
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        "index.html", "overview.png", "maze_fo_returns.png", "maze_fo_curves.png", "wordle_returns.png",
        "wordle_curves.png"}


def test_dark_text_on_every_shade():
    for red, green, blue in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", page.shade_css()):
        linear = [(int(part) / 255) ** 2.2 for part in (red, green, blue)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        text = (0x1C / 255) ** 2.2
        assert (luminance + 0.05) / (text + 0.05) > 4.5  # WCAG, level AA


# --- benchmarks.sh ---

EXPERIMENTS = tuple(name for name in collect.METHODS if name != "prompt_guess_city")
QUICK = [
    "algos/bc_maze.py --env-id maze_fo --exp-name bc_maze --seed 1",
    "algos/bc_maze.py --env-id maze_fo --exp-name filtered_bc --seed 1 --success-only",
    "algos/ilql_wordle.py --env-id maze_fo --exp-name ilql_wordle --seed 1",
    "algos/ppo_car_dealer.py --env-id maze_fo --exp-name ppo_car_dealer --seed 1",
]


def end(tasks: str, runs: str = "runs") -> list[str]:
    """What benchmarks.sh calls when the runs are over."""
    return [f"results/collect.py --runs {runs} --env-ids {tasks}",
            f"results/report.py --lines {runs}/runs.jsonl --env-ids {tasks}"]


@pytest.fixture
def checkout(tmp_path):
    for name in ("benchmarks.sh", "tests/setup.sh", "results/schedule.py"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


def benchmarks(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    own = ("SEEDS", "DRY_RUN", "WORKERS", "PROFILE", "LMRL_RUNS", "LMRL_DATA")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    environment = {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(["bash", str(checkout / "benchmarks.sh"), *arguments], cwd=checkout.parent, timeout=60,
                          env=inherited | environment, capture_output=True, text=True)


def commands(output: str) -> list[str]:
    assert all(line.startswith((".venv/bin/python ", "# ")) for line in output.splitlines()), output
    return [line.removeprefix(".venv/bin/python ") for line in output.splitlines() if not line.startswith("#")]


def test_dry_run_of_quick(checkout):
    shown = benchmarks(checkout, "quick", DRY_RUN="1")
    assert commands(shown.stdout) == [*QUICK, *end("maze_fo")]
    assert {path.name for path in checkout.iterdir()} == {"benchmarks.sh", "tests", "results"}


def runs_of(commands: list[str]) -> list[tuple[str, ...]]:
    """(task, experiment, seed) of each command but the last two."""
    return [re.fullmatch(r"algos/\w+\.py --env-id (\w+) --exp-name (\w+) --seed (\w+)( .*)?", line).groups()[:3]
            for line in commands[:-2]]


def test_everything_is_run(checkout):
    everything = commands(benchmarks(checkout, DRY_RUN="1").stdout)
    expected = {(task, experiment, seed) for task in get_args(EnvId) for experiment in EXPERIMENTS for seed in "123"}
    assert len(everything) == len(expected) + 2 and set(runs_of(everything)) == expected
    assert set(QUICK) < set(everything)
    assert ("algos/bc_maze.py --env-id wordle --exp-name filtered_bc --seed 3 --top-fraction 0.3 --num-iterations 44"
            in everything)
    assert everything[-2:] == end(" ".join(schedule.TASKS)) and sorted(schedule.TASKS) == sorted(get_args(EnvId))
    order = [EXPERIMENTS.index(experiment) for _, experiment, _ in runs_of(everything)]
    assert order == list(range(len(EXPERIMENTS))) * 30  # what others start from comes first
    scripts = {line.split()[0] for line in everything[:-2]}
    assert scripts == {f"algos/{script}.py" for name, (_, script) in collect.METHODS.items() if name in EXPERIMENTS}


def test_gpu_profile(checkout):
    """GPT-2 in the paper's sizes where nothing comes before; the others are as they are, in a folder of their own."""
    shown = benchmarks(checkout, DRY_RUN="1", PROFILE="gpu", SEEDS="1").stdout.splitlines()
    own = [line.removeprefix("LMRL_RUNS=runs/gpt2 ") for line in shown[:-2]]
    assert all(line.startswith("LMRL_RUNS=runs/gpt2 ") for line in shown[:-2])
    chosen = commands("\n".join([*own, *shown[-2:]]))
    assert set(runs_of(chosen)) == {(task, name, "1") for task in get_args(EnvId) for name in EXPERIMENTS}
    models = [re.search("--model (.*)|$", line)[1] for line in chosen]
    assert [bool(model) for model in models] == [line.startswith("algos/bc_maze") for line in chosen]
    assert set(models) == {None, "gpt2", "gpt2-medium", "gpt2-xl"}
    assert chosen[-2:] == end(" ".join(schedule.TASKS))
    assert benchmarks(checkout, DRY_RUN="1", PROFILE="tpu").returncode == 2


@pytest.mark.parametrize("words, tasks, experiments", [
    ("wordle", "wordle", " ".join(EXPERIMENTS)),
    ("filtered_bc maze_po wordle", "maze_po wordle", "filtered_bc"),
    ("bc_maze chess bc_maze chess", "chess", "bc_maze"),
    ("endgames ilql_wordle", "endgames", "bc_maze ilql_wordle"),  # with the run that it starts from
    ("wordle ilql_wordle", "wordle", "filtered_bc ilql_wordle"),
    ("mc_twenty_questions ilql_wordle maze_po", "maze_po", "bc_maze mc_twenty_questions ilql_wordle"),
    ("ppo_car_dealer guess_city", "guess_city", "filtered_bc ppo_car_dealer"),
    ("online_filtered_bc_text_nav text_nav_fo", "text_nav_fo", "bc_maze online_filtered_bc_text_nav"),
    ("archer_twenty_questions maze_po", "maze_po", "bc_maze archer_twenty_questions"),
    ("grpo_wordle maze_fo", "maze_fo", "bc_maze grpo_wordle"),
])
def test_selection(words, tasks, experiments):
    jobs = schedule.choose(words.split(), "cpu", "4 7")
    assert [job.name for job in jobs] == [f"{task}__{experiment}__{seed}" for task in tasks.split() for seed in "47"
                                          for experiment in experiments.split()]
    assert list(dict.fromkeys(job.task for job in jobs)) == tasks.split()


@pytest.mark.parametrize("name", EXPERIMENTS[2:])
def test_what_others_start_from(name):
    """It is made where it is not there, and is what the script's `--model` is by default."""
    script = importlib.import_module(f"algos.{name}")
    jobs = schedule.choose([name], "cpu", "1")
    made = {job.task: job.experiment for job in jobs if job.experiment != name}
    models = {task: script.TUNED.get(task, {}).get("model", script.Args.model) for task in get_args(EnvId)}
    assert {task: f"runs/{{env_id}}__{experiment}__{{seed}}/model" for task, experiment in made.items()} == models
    assert {job.task: job.start for job in jobs if job.experiment == name} == {
        task: f"{task}__{experiment}__1" for task, experiment in made.items()}


def test_one_experiment_of_all_tasks(checkout):
    chosen = [job.name for job in schedule.choose(["filtered_bc"], "cpu", None)]
    assert sorted(chosen) == sorted(f"{task}__filtered_bc__{seed}" for task in get_args(EnvId) for seed in "123")
    quick = commands(benchmarks(checkout, "quick", "filtered_bc", DRY_RUN="1", SEEDS="1 5").stdout)
    assert quick == [QUICK[1], QUICK[1].replace("--seed 1", "--seed 5"), *end("maze_fo")]


def test_finished_runs_are_skipped_and_others_are_resumed(checkout):
    for folder, environment in ((checkout / "runs", {}), (checkout.parent / "mine", {"LMRL_RUNS": "mine"})):
        for name, row in (("bc_maze", "test/episodic_return"), ("filtered_bc", "eval/episodic_return"), ("my_own", "")):
            (folder / f"maze_fo__{name}__1").mkdir(parents=True)
            (folder / f"maze_fo__{name}__1" / "metrics.jsonl").write_text(json.dumps({row: -48.0}) + "\n")
        (folder / "maze_fo__ilql_wordle__1").mkdir()
        shown = benchmarks(checkout, "quick", DRY_RUN="1", **environment).stdout
        place = str(folder) if environment else "runs"
        assert commands(shown) == [f"{QUICK[1]} --resume", f"{QUICK[2]} --resume", *QUICK[3:], *end("maze_fo", place)]
        assert re.findall("^#.*", shown, re.MULTILINE) == [f"# finished: {place}/maze_fo__bc_maze__1"]


def test_folders_are_where_the_user_is(checkout):
    """A relative LMRL_RUNS, LMRL_DATA: the scripts are started in the checkout."""
    (checkout / "tests" / "setup.sh").write_text('echo "$LMRL_RUNS $LMRL_DATA"; exit\n')
    shown = benchmarks(checkout, LMRL_RUNS="mine", LMRL_DATA="/data").stdout
    assert shown == f"{checkout.parent}/mine /data\n"


@pytest.fixture
def stand_in(checkout):
    """A function that runs benchmarks.sh with a stand-in for the scripts, of which those named `fails` fail.

    Each takes `seconds`. It returns the process, and the (event, command) pairs of starts and ends.
    """
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "requirements.txt").write_text("torch\n")
    (checkout / "constraints.txt").write_text("torch==2\n")
    (checkout / ".venv" / "installed-requirements.txt").write_text("torch==2\ntorch\n")  # nothing to install
    python = checkout / ".venv" / "bin" / "python"

    def call(*words, fails="nothing", seconds=0, **environment):
        python.write_text(f"""#!/usr/bin/env bash
[[ $1 == results/schedule.py ]] && exec {sys.executable} "$@"
echo start "$@" GPU $CUDA_VISIBLE_DEVICES >> events
[[ $1 == results* ]] && exit
folder=runs/$3__$5__$7; mkdir -p $folder
echo "said by $5"
sleep {seconds}
[[ $5 == bc_maze ]] && sleep {2 * seconds}  # the others would have the time to start too early
echo end "$@" >> events
[[ $5 == {fails} ]] && exit 3
echo '{{"test/episodic_return": 1, "charts/minutes": 12.0}}' >> $folder/metrics.jsonl
""")
        python.chmod(0o755)
        (checkout / "events").unlink(missing_ok=True)
        shown = benchmarks(checkout, *words, **environment)
        return shown, [line.strip().partition(" ")[::2] for line in (checkout / "events").read_text().splitlines()]

    return call


def test_a_failing_row_does_not_stop_the_others(stand_in, checkout):
    shown, events = stand_in("quick", fails="filtered_bc")
    started = [command.removesuffix(" GPU") for event, command in events if event == "start"]
    assert started == [*QUICK, *end("maze_fo")]
    assert shown.returncode == 1
    log = checkout / "runs" / "logs" / "maze_fo__filtered_bc__1.log"
    assert f"\nfailed: maze_fo__filtered_bc__1: 3, see {log}\n" in shown.stdout
    assert log.read_text() == "said by filtered_bc\n" and "\nsaid by filtered_bc\n" in shown.stdout
    assert ("# 1 of 4: maze_fo__bc_maze__1: finished, 12.0 minutes; about 0 minutes remain, and 3 runs of unknown "
            "length\n") in shown.stdout

    shown, events = stand_in("quick")  # only what has failed, and the end
    assert [command.removesuffix(" GPU") for event, command in events if event == "start"] == [
        f"{QUICK[1]} --resume", *end("maze_fo")]
    assert shown.returncode == 0 and "failed" not in shown.stdout
    assert "# 1 of 4: maze_fo__bc_maze__1: finished before; " in shown.stdout


def test_what_starts_from_a_failed_run_is_not_started(stand_in):
    shown, events = stand_in("quick", fails="bc_maze", WORKERS="2")
    assert {command.split()[4] for event, command in events if event == "end"} == {"bc_maze", "filtered_bc"}
    for name in ("ilql_wordle", "ppo_car_dealer"):
        assert f"\nfailed: maze_fo__{name}__1: not started, since maze_fo__bc_maze__1 has failed\n" in shown.stdout
    assert shown.returncode == 1


def test_workers(stand_in):
    """Two runs side by side, on a GPU each; what others start from ends before they start."""
    shown, events = stand_in("maze_fo", SEEDS="1", WORKERS="2", seconds=0.2, CUDA_VISIBLE_DEVICES="4,6")
    assert shown.returncode == 0
    events = events[:-2]
    names = [command.split()[4] for _, command in events]
    assert len(names) == 2 * len(EXPERIMENTS)
    first_end = next(i for i, (event, _) in enumerate(events) if event == "end" and names[i] == "bc_maze")
    assert all(names.index(name) > first_end for name in EXPERIMENTS[2:])
    side_by_side = 0
    most = 0
    for event, _ in events:
        side_by_side += 1 if event == "start" else -1
        most = max(most, side_by_side)
    assert most == 2
    assert {command.split()[-1] for event, command in events if event == "start"} == {"4", "6"}
    assert "said by" not in shown.stdout


def test_estimate(tmp_path, monkeypatch):
    """By the committed lines, and by what the same row of another seed took; shared by the workers."""
    jobs = schedule.choose(["maze_fo", "bc_maze", "ppo_car_dealer"], "cpu", "1 2")
    plan = schedule.Schedule(jobs, tmp_path, 2, [], {("maze_fo", "bc_maze"): 10.0})
    assert plan.remaining() == "about 10 minutes remain, and 2 runs of unknown length"
    plan.known["maze_fo", "ppo_car_dealer"] = 4.0
    assert plan.remaining() == "about 14 minutes remain"
    monkeypatch.setattr(schedule, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (
        hand_line(minutes=3.5), hand_line(model="gpt2", minutes=99))))
    assert schedule.known_minutes() == {("maze_fo", "bc_maze"): 3.5}


def test_usage(checkout):
    for arguments in (("-h",), ("wordle", "--help")):
        shown = benchmarks(checkout, *arguments)
        assert shown.returncode == 0 and shown.stderr == ""
        assert shown.stdout.startswith("Reproduces the results.") and shown.stdout.endswith("run it again.\n")
        assert all(word in shown.stdout for word in ("quick", *get_args(EnvId), *EXPERIMENTS))
    for arguments in (("mazes",), ("wordle", "")):
        wrong = benchmarks(checkout, *arguments)
        assert wrong.returncode == 2 and wrong.stdout == ""
        assert wrong.stderr == f"neither a task nor an experiment: {arguments[-1] if '' in arguments else 'mazes'}; " \
                               "bash benchmarks.sh --help\n"
    assert {path.name for path in checkout.iterdir()} == {"benchmarks.sh", "tests", "results"}


def setup(checkout, call, path=""):
    """Call one of the functions of tests/setup.sh with the commands of `path` alone, and a shell's own."""
    bash = shutil.which("bash")
    return subprocess.run([bash, "-c", f"source tests/setup.sh; {call}"], cwd=checkout, capture_output=True, text=True,
                          env={"PATH": path}, timeout=60)


def test_stockfish_is_installed_where_it_is_missing(checkout, tmp_path):
    if Path("/usr/games/stockfish").exists():
        script = checkout / "tests" / "setup.sh"  # as on a machine without it
        script.write_text(script.read_text().replace("/usr/games/stockfish", "/usr/games/no-such-engine"))
    commands = tmp_path / "commands"
    commands.mkdir()

    def command(name, text):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)

    command("id", "echo 1000")
    command("apt-get", f"echo apt-get $* >> {tmp_path}/asked")
    assert setup(checkout, "install_stockfish", str(commands)).returncode == 1 and not (tmp_path / "asked").exists()
    command("id", "echo 0")
    assert setup(checkout, "install_stockfish", str(commands)).returncode == 0
    assert (tmp_path / "asked").read_text() == "apt-get update -qq\napt-get install -y -qq stockfish\n"
    command("stockfish", "exit")
    assert setup(checkout, "install_stockfish", str(commands)).returncode == 0
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_tables_are_not_fetched_twice(checkout):
    assert setup(checkout, "fetch_tables", "/usr/bin:/bin").returncode != 0  # there is no .venv/bin/pip
    assert not (checkout / "data").exists()
    (checkout / "data" / "syzygy").mkdir(parents=True)
    assert setup(checkout, "fetch_tables", "/usr/bin:/bin").returncode == 0


def test_installed_again_when_something_has_changed(checkout):
    """With a stand-in for pip: it is asked when a requirement file or constraints.txt is not as it was."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    pip = checkout / ".venv" / "bin" / "pip"
    pip.write_text('#!/bin/sh\necho "$@" >> asked\n')
    pip.chmod(0o755)
    for name, text in (("requirements.txt", "torch\n"), ("tests/requirements.txt", "pytest\n"),
                       ("constraints.txt", "torch==2\n")):
        (checkout / name).write_text(text)

    def asked(call):
        (checkout / "asked").unlink(missing_ok=True)
        assert setup(checkout, call, "/usr/bin:/bin").returncode == 0
        return (checkout / "asked").read_text().splitlines() if (checkout / "asked").exists() else []

    only, both = "install requirements.txt", "install requirements.txt tests/requirements.txt"
    first = ["install --quiet --constraint constraints.txt -r requirements.txt"]
    all_files = [f"{first[0]} -r tests/requirements.txt"]
    assert [asked(call) for call in (only, only, both, both, only)] == [first, [], all_files, [], []]
    (checkout / "constraints.txt").write_text("torch==3\n")
    assert [asked(call) for call in (only, both, both)] == [first, all_files, []]
    (checkout / "tests" / "requirements.txt").write_text("pytest>=9\n")
    assert [asked(call) for call in (only, both, both)] == [[], all_files, []]


@pytest.mark.parametrize("version", ["2, 7", "3, 9, 18", "3, 10, 0", "3, 14, 1", "4, 0"])
def test_too_old_python_is_refused(checkout, version):
    """With a stand-in for Python that says it is of another version."""
    for name in ("requirements.txt", "constraints.txt"):
        (checkout / name).write_text("")
    python = checkout / "python"
    python.write_text(f'''#!/bin/sh
case $1 in
    -c) exec {sys.executable} -c "import sys; sys.version_info = ({version}); $2" ;;
    -V) echo Python {version} ;;
    results/*) exec {sys.executable} "$@" ;;
    *) echo "made with $*" >&2; exit 7 ;;
esac
''')
    python.chmod(0o755)
    shown = benchmarks(checkout, "quick", PYTHON=str(python))
    if version in ("2, 7", "3, 9, 18"):
        assert shown.returncode == 1 and "Python 3.10 or newer is needed" in shown.stderr
        assert f"is Python {version}" in shown.stderr
    else:
        assert shown.returncode == 7 and shown.stderr == "made with -m venv .venv\n"
    assert not (checkout / ".venv").exists()
