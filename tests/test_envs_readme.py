"""envs/README.md: its example of a new task is played and trained on as it says; its tables name what there is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from envs import MODULES, EnvId

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "envs" / "README.md").read_text(encoding="utf-8")
EXAMPLE = TEXT.partition("## How to add a task")[2]
MODULE, ROW = re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL)
COMMANDS, = re.findall(r"```bash\n(.*?)```", EXAMPLE, re.DOTALL)
FEW = {"--dataset-stats": "--num-trajectories 50",  # what the commands are given here, to be quick
       "algos/bc_maze.py": "--steps-per-iteration 2 --minibatch-size 8 --num-trajectories 50 --eval-every 0 "
                           "--num-test-episodes 8 --num-envs 8 --device cpu"}


def insert(path, before, text):
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, before
    path.write_text(source.replace(before, text + before), encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the example needs, with the new task in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("envs", "algos"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "envs" / "higher.py").write_text(MODULE, encoding="utf-8")
    insert(folder / "envs" / "__init__.py", "]\n# Imported when", ', "higher"')
    insert(folder / "envs" / "__init__.py", "}\n\n# The first seed of", ', "higher": "envs.higher"')
    insert(folder / "envs" / "tiny" / "make.py", "}\n\n\ndef make_config", ROW)
    return folder


def run(checkout, command, text=""):
    environment = os.environ | {"LMRL_DATA": str(checkout / "data"), "LMRL_RUNS": str(checkout / "runs")}
    words = shlex.split(command)
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=checkout, env=environment, input=text, capture_output=True,
                          text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_task(checkout):
    """Forty lines, and the commands one after the other, each with as little work as will do."""
    assert len([line for line in MODULE.splitlines() if line.strip()]) <= 45
    shown = []
    for command in COMMANDS.splitlines():
        shown.append(run(checkout, " ".join([command, *(more for word, more in FEW.items() if word in command)])))
    watched, statistics, made, _ = shown
    assert "Guess a number" in watched and "Right.\n" in watched and ", success" in watched
    assert "turns" in statistics and len(list((checkout / "data").glob("higher-*.jsonl"))) >= 2
    assert made.startswith("higher: ")
    folder = checkout / "runs" / "higher__bc_maze__1"
    games = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len([game for game in games if "texts" in game]) == 8 and (folder / "model" / "config.json").exists()
    typed = run(checkout, "python -m envs.higher", "51\n101\n" + "1\n" * 8)
    assert typed.count("> ") == 10 and "return -" in typed


def test_tables():
    """Each task is in the table of tasks, with its module."""
    tasks = TEXT.partition("| `env_id`")[2].partition("\n\n")[0]
    named = {}
    for row in tasks.splitlines()[2:]:
        ids, module = (re.findall(r"`([\w./]+)`", cell) for cell in row.split("|")[1:3])
        named |= dict.fromkeys(ids, "envs." + module[0].removesuffix(".py").removesuffix("/"))
    assert named == MODULES and list(named) == list(get_args(EnvId))
