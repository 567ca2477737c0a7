"""The results table on a made-up folder of runs, and what benchmarks.sh would run."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from envs import SEEDS, EnvId, make, play

ROOT = Path(__file__).resolve().parent.parent


def fake_run(folder: Path, exp_name: str, seed: int, returns: float | None, env_id: str = "maze_fo") -> None:
    run = folder / f"{env_id}__{exp_name}__{seed}"
    run.mkdir(parents=True)
    about = {"args": {"env_id": env_id, "exp_name": exp_name, "seed": seed, "device": "cpu"}, "env": {"engine": "S 15"},
             "commit": "abc123", "versions": {"python": "3.11", "torch": "2.9", "transformers": "5", "numpy": "2"},
             "machine": {"processor": "EPYC", "cores": 2, "threads": "1"}, "data": "maze_fo.jsonl"}
    (run / "args.json").write_text(json.dumps(about))
    rows = [{"iteration": i, "eval/episodic_return": -90.0 + i, "eval/score": 1.0, "charts/minutes": i / 2,
             "perf/train_tokens_per_second": 1000.0 * i, "perf/rollout_tokens_per_second": 1.0} for i in (1, 2, 3)]
    if returns is not None:
        rows.append({"test/episodic_return": returns, "test/episodic_return_se": 1.5, "test/score": -returns,
                     "test/success": 0.25, "test/invalid_actions": 0.015, "charts/minutes": 1.75 + seed,
                     "perf/rollout_tokens_per_second": 34567.0})
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"half": ')


def table(*arguments: str, **environment: str) -> str:
    command = [sys.executable, str(ROOT / "results" / "table.py"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60,
                          env=os.environ | environment).stdout


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
    fake_run(folder, "ppo_car_dealer", 1, -18.0)
    fake_run(folder, "grpo_wordle", 1, -17.0)
    fake_run(folder, "my_own_try", 1, -20.0)
    fake_run(folder, "bc_maze", 1, -3.0, "wordle")
    return folder


def test_table(runs):
    found = rows(table("--runs", str(runs), "--env-ids", "maze_fo"))
    assert list(found) == ["random player", "data player", "best player", "BC", "filtered BC", "PPO", "GRPO"]
    assert found["BC"] == [
        "-47.67 ± 1.20", "-46.00, -50.00, -47.00", "47.7", "0.250", "1.50%", "6.1", "2,000", "34,567", "-72.1"]
    assert found["filtered BC"] == [
        "-60.00 ± 1.50 ¹", "-60.00", "60.0", "0.250", "1.50%", "2.8", "2,000", "34,567", "-56.4"]
    assert found["PPO"][0] == "-18.00 ± 1.50 ¹" and found["PPO"][-1] == "-37.7"
    assert found["GRPO"][0] == "-17.00 ± 1.50 ¹" and found["GRPO"][-1] == ""
    env = make("maze_fo")
    games = [play(env, env.players()["data"], SEEDS["test"] + index) for index in range(800)]
    assert found["data player"][0].startswith(f"{sum(game.episodic_return for game in games) / 800:.2f} ± ")
    assert found["best player"] == ["-6.84 ± 0.12 ¹", "", "100.0", "1.000", "", "", "", "", "-6.84"]
    assert float(found["random player"][0].split()[0]) == pytest.approx(-85.14, abs=4)
    assert float(found["data player"][0].split()[0]) == pytest.approx(-48.4, abs=4)
    assert found["random player"][-1] == "" and found["data player"][-1] == "-83"


def test_tasks_with_runs(runs):
    shown = table(LMRL_RUNS=str(runs))
    assert re.findall("^### (.*)", shown, re.MULTILINE) == ["maze_fo", "wordle"]
    assert ("Ran with commit abc123, python 3.11, torch 2.9, transformers 5, device cpu, processor EPYC, cores 2, "
            "threads 1, engine S 15.\n") in shown
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

EXPERIMENTS = ("bc_maze", "filtered_bc", "mc_twenty_questions", "ilql_wordle", "online_filtered_bc_text_nav",
               "ppo_car_dealer", "grpo_wordle", "archer_twenty_questions")
QUICK = [
    "algos/bc_maze.py --env-id maze_fo --exp-name bc_maze --seed 1",
    "algos/bc_maze.py --env-id maze_fo --exp-name filtered_bc --seed 1 --success-only",
    "algos/ilql_wordle.py --env-id maze_fo --exp-name ilql_wordle --seed 1",
    "algos/ppo_car_dealer.py --env-id maze_fo --exp-name ppo_car_dealer --seed 1",
]
TABLE = "results/table.py --env-ids maze_fo"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "checkout" / "tests").mkdir(parents=True)
    for name in ("benchmarks.sh", "tests/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


def benchmarks(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items()
                 if name not in ("SEEDS", "DRY_RUN", "LMRL_RUNS", "LMRL_DATA")}
    return subprocess.run(["bash", str(checkout / "benchmarks.sh"), *arguments], cwd=checkout.parent, timeout=60,
                          env=inherited | environment, capture_output=True, text=True)


def commands(output: str) -> list[str]:
    assert all(line.startswith((".venv/bin/python ", "# ")) for line in output.splitlines()), output
    return [line.removeprefix(".venv/bin/python ") for line in output.splitlines() if not line.startswith("#")]


def test_dry_run_of_quick(checkout):
    shown = benchmarks(checkout, "quick", DRY_RUN="1")
    assert commands(shown.stdout) == [*QUICK, TABLE]
    assert {path.name for path in checkout.iterdir()} == {"benchmarks.sh", "tests"}


def runs_of(commands: list[str]) -> list[tuple[str, ...]]:
    """(task, experiment, seed) of each command but the last, which prints the table."""
    return [re.fullmatch(r"algos/\w+\.py --env-id (\w+) --exp-name (\w+) --seed (\w+)( .*)?", line).groups()[:3]
            for line in commands[:-1]]


def test_everything_is_run(checkout):
    everything = commands(benchmarks(checkout, DRY_RUN="1").stdout)
    expected = {(task, experiment, seed) for task in get_args(EnvId) for experiment in EXPERIMENTS for seed in "123"}
    assert len(everything) == len(expected) + 1 and set(runs_of(everything)) == expected
    assert set(QUICK) < set(everything)
    assert ("algos/bc_maze.py --env-id wordle --exp-name filtered_bc --seed 3 --top-fraction 0.3 --num-iterations 44"
            in everything)
    assert sorted(everything[-1].split()[2:]) == sorted(get_args(EnvId))
    order = [EXPERIMENTS.index(experiment) for _, experiment, _ in runs_of(everything)]
    assert order == list(range(len(EXPERIMENTS))) * 30  # what others start from comes first


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
def test_selection(checkout, words, tasks, experiments):
    chosen = commands(benchmarks(checkout, *words.split(), DRY_RUN="1", SEEDS="4 7").stdout)
    assert runs_of(chosen) == [(task, experiment, seed) for task in tasks.split() for seed in "47"
                               for experiment in experiments.split()]
    assert chosen[-1] == f"results/table.py --env-ids {tasks}"


@pytest.mark.parametrize("name", EXPERIMENTS[2:])
def test_what_others_start_from(checkout, name):
    """It is made where it is not there, and is what the script's `--model` is by default."""
    script = importlib.import_module(f"algos.{name}")
    chosen = runs_of(commands(benchmarks(checkout, name, DRY_RUN="1", SEEDS="1").stdout))
    made = {task: experiment for task, experiment, _ in chosen if experiment != name}
    models = {task: script.TUNED.get(task, {}).get("model", script.Args.model) for task in get_args(EnvId)}
    assert {task: f"runs/{{env_id}}__{experiment}__{{seed}}/model" for task, experiment in made.items()} == models


def test_one_experiment_of_all_tasks(checkout):
    chosen = runs_of(commands(benchmarks(checkout, "filtered_bc", DRY_RUN="1").stdout))
    assert sorted(chosen) == sorted((task, "filtered_bc", seed) for task in get_args(EnvId) for seed in "123")
    quick = commands(benchmarks(checkout, "quick", "filtered_bc", DRY_RUN="1", SEEDS="1 5").stdout)
    assert quick == [QUICK[1], QUICK[1].replace("--seed 1", "--seed 5"), TABLE]


def test_finished_runs_are_skipped_and_others_are_resumed(checkout):
    for folder, environment in ((checkout / "runs", {}), (checkout.parent / "mine", {"LMRL_RUNS": "mine"})):
        for name, row in (("bc_maze", "test/episodic_return"), ("filtered_bc", "eval/episodic_return"), ("my_own", "")):
            (folder / f"maze_fo__{name}__1").mkdir(parents=True)
            (folder / f"maze_fo__{name}__1" / "metrics.jsonl").write_text(json.dumps({row: -48.0}) + "\n")
        (folder / "maze_fo__ilql_wordle__1").mkdir()
        shown = benchmarks(checkout, "quick", DRY_RUN="1", **environment).stdout
        assert commands(shown) == [f"{QUICK[1]} --resume", f"{QUICK[2]} --resume", *QUICK[3:], TABLE]
        assert re.findall("^#.*", shown, re.MULTILINE) == [
            f"# finished: {folder if environment else 'runs'}/maze_fo__bc_maze__1"]


def test_folders_are_where_the_user_is(checkout):
    """A relative LMRL_RUNS, LMRL_DATA: the scripts are started in the checkout."""
    (checkout / "tests" / "setup.sh").write_text('echo "$LMRL_RUNS $LMRL_DATA"; exit\n')
    shown = benchmarks(checkout, LMRL_RUNS="mine", LMRL_DATA="/data").stdout
    assert shown == f"{checkout.parent}/mine /data\n"


def test_a_failure_ends_it(checkout):
    """With a stand-in for Python that fails at the second command: the first is skipped when it is called again."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "requirements.txt").write_text("torch\n")
    (checkout / "constraints.txt").write_text("torch==2\n")
    (checkout / ".venv" / "installed-requirements.txt").write_text("torch==2\ntorch\n")  # nothing to install
    python = checkout / ".venv" / "bin" / "python"
    for fails, expected in (("filtered_bc", QUICK[:2]), ("nothing", [f"{QUICK[1]} --resume", *QUICK[2:], TABLE])):
        python.write_text("#!/usr/bin/env bash\necho ran \"$@\" >> ran\n[[ $1 == results* ]] && exit\n"
                          "folder=runs/$3__$5__$7; mkdir -p $folder\n"
                          f"[[ $5 == {fails} ]] && exit 3\n"
                          'echo \'{"test/episodic_return": 1}\' >> $folder/metrics.jsonl\n')
        python.chmod(0o755)
        (checkout / "ran").unlink(missing_ok=True)
        assert benchmarks(checkout, "quick").returncode == (3 if fails == "filtered_bc" else 0)
        assert (checkout / "ran").read_text() == "".join(f"ran {command}\n" for command in expected)


def test_usage(checkout):
    for arguments in (("-h",), ("wordle", "--help")):
        shown = benchmarks(checkout, *arguments)
        assert shown.returncode == 0 and shown.stderr == ""
        assert shown.stdout.startswith("Reproduces the results table.") and shown.stdout.endswith("run it again.\n")
        assert all(word in shown.stdout for word in ("quick", *get_args(EnvId), *EXPERIMENTS))
    for arguments in (("mazes",), ("wordle", "mazes", "--help"), ("wordle", "")):
        wrong = benchmarks(checkout, *arguments)
        unknown = [word for word in arguments if word not in ("wordle", "--help")]
        assert wrong.returncode == 2 and wrong.stdout == ""
        assert wrong.stderr == f"neither a task nor an experiment: {unknown[0]}\n{shown.stdout}"
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
