"""The results table on a made-up folder of runs, and what benchmarks.sh would run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envs import SEEDS, make, play

ROOT = Path(__file__).resolve().parent.parent


def fake_run(folder: Path, exp_name: str, seed: int, returns: float | None, env_id: str = "maze_fo") -> None:
    run = folder / f"{env_id}__{exp_name}__{seed}"
    run.mkdir(parents=True)
    args = {"env_id": env_id, "exp_name": exp_name, "seed": seed, "device": "cpu"}
    (run / "args.json").write_text(json.dumps({"commit": "abc123", "torch": "2.9", "args": args}))
    rows = [{"iteration": i, "eval/episodic_return": -90.0 + i, "eval/score": 1.0, "charts/minutes": i / 2,
             "perf/train_tokens_per_second": 1000.0 * i, "perf/rollout_tokens_per_second": 1.0} for i in (1, 2, 3)]
    if returns is not None:
        rows.append({"test/episodic_return": returns, "test/episodic_return_se": 1.5, "test/score": -returns,
                     "test/success": 0.25, "test/invalid_actions": 0.015, "charts/minutes": 1.75 + seed,
                     "perf/rollout_tokens_per_second": 34567.0})
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"half": ')


def table(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "results" / "table.py"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout


def rows(markdown: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.split("\n") if line.startswith("|")]
    assert len({len(row) for row in cells}) == 1 and set(cells[1]) == {"---"}
    return {row[0]: row[1:] for row in cells[2:]}


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed, returns in ((2, -50.0), (10, -47.0), (1, -46.0)):
        fake_run(folder, "bc_maze", seed, returns)
    fake_run(folder, "filtered_bc", 1, -60.0)
    fake_run(folder, "filtered_bc", 2, None)  # not finished
    fake_run(folder, "ilql_wordle", 1, None)
    fake_run(folder, "my_own_try", 1, -20.0)
    fake_run(folder, "bc_maze", 1, -3.0, "wordle")
    return folder


def test_table(runs):
    found = rows(table("--runs", str(runs), "--env-ids", "maze_fo"))
    assert list(found) == ["random player", "data player", "best player", "BC", "filtered BC"]
    assert found["BC"] == [
        "-47.67 ± 1.20", "-46.00, -50.00, -47.00", "47.7", "0.250", "1.50%", "6.1", "2,000", "34,567", "-72.1"]
    assert found["filtered BC"] == [
        "-60.00 ± 1.50 ¹", "-60.00", "60.0", "0.250", "1.50%", "2.8", "2,000", "34,567", "-56.4"]
    env = make("maze_fo")
    games = [play(env, env.players()["data"], SEEDS["test"] + index) for index in range(800)]
    assert found["data player"][0].startswith(f"{sum(game.episodic_return for game in games) / 800:.2f} ± ")
    assert found["best player"] == ["-6.84 ± 0.12 ¹", "", "100.0", "1.000", "", "", "", "", "-6.84"]
    assert float(found["random player"][0].split()[0]) == pytest.approx(-85.14, abs=4)
    assert float(found["data player"][0].split()[0]) == pytest.approx(-48.4, abs=4)
    assert found["random player"][-1] == "" and found["data player"][-1] == "-83"


def test_tasks_with_runs(runs):
    shown = table("--runs", str(runs))
    assert re.findall("^### (.*)", shown, re.MULTILINE) == ["maze_fo", "wordle"]
    assert "Ran with commit abc123, torch 2.9, device cpu.\n" in shown
    assert rows(shown.partition("### wordle")[2])["BC"][0] == "-3.00 ± 1.50 ¹"
    shutil.rmtree(runs)
    assert table("--runs", str(runs)) == ""
    players = ["random player", "data player", "best player"]
    assert list(rows(table("--runs", str(runs), "--env-ids", "maze_po"))) == players


def test_plot(runs, tmp_path):
    table("--runs", str(runs), "--env-ids", "maze_fo", "--plot", str(tmp_path / "plots"))
    (picture,) = (tmp_path / "plots").iterdir()
    assert picture.name == "maze_fo.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 9999


# --- benchmarks.sh ---

QUICK = [
    "algos/bc_maze.py --env-id maze_fo --exp-name bc_maze --seed 1",
    "algos/bc_maze.py --env-id maze_fo --exp-name filtered_bc --seed 1 --success-only",
    "algos/ilql_wordle.py --env-id maze_fo --exp-name ilql_wordle --seed 1 --bc-checkpoint runs/maze_fo__bc_maze__1",
]
TABLE = "results/table.py --env-ids maze_fo"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "checkout" / "tests").mkdir(parents=True)
    for name in ("benchmarks.sh", "tests/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


def benchmarks(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name not in ("SEEDS", "DRY_RUN")}
    return subprocess.run(["bash", str(checkout / "benchmarks.sh"), *arguments], cwd=checkout.parent, timeout=60,
                          env=inherited | environment, capture_output=True, text=True)


def commands(output: str) -> list[str]:
    assert all(line.startswith((".venv/bin/python ", "# ")) for line in output.splitlines()), output
    return [line.removeprefix(".venv/bin/python ") for line in output.splitlines() if not line.startswith("#")]


def test_dry_run_of_quick(checkout):
    shown = benchmarks(checkout, "quick", DRY_RUN="1")
    assert commands(shown.stdout) == [*QUICK, TABLE]
    assert {path.name for path in checkout.iterdir()} == {"benchmarks.sh", "tests"}


def test_dry_run_of_all(checkout):
    everything = commands(benchmarks(checkout, "all", DRY_RUN="1").stdout)
    assert len(everything) == len(set(everything)) == 10 * 3 * 3 + 1 and set(QUICK) < set(everything)
    assert ("algos/bc_maze.py --env-id wordle --exp-name filtered_bc --seed 3 --top-fraction 0.3 --num-iterations 44"
            in everything)
    wordle = commands(benchmarks(checkout, "wordle", DRY_RUN="1", SEEDS="4 7").stdout)
    assert len(wordle) == 7 and all("wordle" in line for line in wordle)
    assert {line.split("--seed ")[1][0] for line in wordle[:-1]} == {"4", "7"}


def test_finished_runs_are_skipped_and_others_go_on(checkout):
    (checkout / "runs" / "maze_fo__bc_maze__1" / "model").mkdir(parents=True)
    (checkout / "runs" / "maze_fo__filtered_bc__1").mkdir()
    assert commands(benchmarks(checkout, "quick", DRY_RUN="1").stdout) == [f"{QUICK[1]} --resume", QUICK[2], TABLE]


def test_a_failure_ends_it(checkout):
    """With a stand-in for Python that fails at the second command: the first is skipped when it is called again."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("requirements.txt", ".venv/installed-requirements.txt"):
        (checkout / name).write_text("torch\n")  # nothing to install
    python = checkout / ".venv" / "bin" / "python"
    for fails, expected in (("filtered_bc", QUICK[:2]), ("nothing", [f"{QUICK[1]} --resume", QUICK[2], TABLE])):
        python.write_text("#!/usr/bin/env bash\necho ran \"$@\" >> ran\n[[ $1 == results* ]] && exit\n"
                          "folder=runs/$3__$5__$7; mkdir -p $folder\n"
                          f"[[ $5 == {fails} ]] && exit 3\nmkdir $folder/model\n")
        python.chmod(0o755)
        (checkout / "ran").unlink(missing_ok=True)
        assert benchmarks(checkout, "quick").returncode == (3 if fails == "filtered_bc" else 0)
        assert (checkout / "ran").read_text() == "".join(f"ran {command}\n" for command in expected)


@pytest.mark.parametrize("arguments", [(), ("mazes",)])
def test_usage(checkout, arguments):
    shown = benchmarks(checkout, *arguments)
    assert shown.returncode == 2 and shown.stdout.startswith("Reproduces the results table.")
    assert {path.name for path in checkout.iterdir()} == {"benchmarks.sh", "tests"}


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


def test_too_old_python_is_refused(checkout):
    (checkout / "requirements.txt").write_text("")
    python = checkout / "python2"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 2.7.18\nexit 1\n')
    python.chmod(0o755)
    shown = benchmarks(checkout, "quick", PYTHON=str(python))
    assert shown.returncode == 1 and "Python 3.10, 3.11 or 3.12 is needed" in shown.stderr
    assert "is Python 2.7.18" in shown.stderr and not (checkout / ".venv").exists()
