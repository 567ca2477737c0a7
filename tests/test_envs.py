"""The maze, and what all tasks share: data files and their cache, vectors of games, scores, the terminal."""

import codecs
import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
import envs.terminal
from envs import MODULES, EnvId, Trajectory, VectorEnv, make, play
from envs.chess import find_engine
from envs.data import fingerprint, load_dataset, load_shuffled, read_file, replace, write_file
from envs.instructions import instructions
from envs.maze import (
    ANYWHERE,
    CELLS,
    DISTANCE,
    GOAL,
    GRID,
    MOVES,
    OBS,
    data_policy,
    describe,
    describe_walls,
    outcomes,
    policy_return,
    random_policy,
    region,
    see,
)

ROOT = Path(__file__).resolve().parent.parent
MAZES = ("maze_fo", "maze_po")
LEFT, RIGHT, UP, DOWN = MOVES
both = pytest.mark.parametrize("env_id", MAZES)
try:
    no_engine = find_engine() and ""
except FileNotFoundError as error:
    no_engine = str(error)
needs_engine = pytest.mark.skipif(bool(no_engine), reason=no_engine)
TASKS = [pytest.param(env_id, marks=needs_engine) if MODULES[env_id] == "envs.chess" else env_id
         for env_id in get_args(EnvId)]
every_task = pytest.mark.parametrize("env_id", TASKS)


def at(env_id, cell):
    env = make(env_id)
    env.reset(CELLS.index(cell))
    return env


def walk(env, *actions):
    """What `step` returns for the last of the actions."""
    return [env.step(action) for action in actions][-1]


# --- Maze: rules ---


def test_grid():
    assert len(GRID) == 10 and {len(row) for row in GRID} == {13}
    assert len(CELLS) == 25 and GRID[GOAL[0]][GOAL[1]] == "G" and GOAL not in CELLS
    assert [row == row[::-1] for row in GRID] == [True] * 10  # the right arm is the mirror image of the left


# Taken from the paper's text of the task, or worked out by hand on the grid.
WALLS = {
    (5, 3): "There are walls to your left, below you.\n",
    (1, 3): "There is a wall above you.\n",
    (5, 6): "There is a wall above you.\n",
    (1, 1): "There are walls to your left, above you, below you.\n",
    (1, 5): "There are walls to your right, above you, below you.\n",
    (5, 9): "There are walls to your right, below you.\n",
    (5, 4): "There are walls above you, below you.\n",
    (7, 6): "There are walls to your right, to your left.\n",
}


@pytest.mark.parametrize("cell", WALLS)
def test_observations(cell):
    row, col = (" ".join(str(number)) for number in cell)
    assert at("maze_po", cell).obs[cell] == WALLS[cell]
    assert make("maze_fo").reset(CELLS.index(cell))[0] == (
        f"The goal is at position 8, 6. Your current position is at position {row}, {col}. {WALLS[cell]}")


def test_observation_verbatim():
    assert describe((5, 3)) == ("The goal is at position 8, 6. Your current position is at position 5, 3. "
                                "There are walls to your left, below you.\n")
    assert describe((1, 10)) == ("The goal is at position 8, 6. Your current position is at position 1, 1 0. "
                                 "There are walls above you, below you.\n")
    assert "position is at position 1, 1 1. There are walls to your right, above" in describe((1, 11))
    assert describe_walls((1, 3)) == "There is a wall above you.\n"


def test_no_walls_near(monkeypatch):
    monkeypatch.setattr("envs.maze.GRID", ["...", "...", "..."])
    assert describe_walls((1, 1)) == "There are no walls near you.\n"


@both
def test_seeds_go_through_the_starts(env_id):
    for first in (0, 7, *envs.SEEDS.values()):
        starts = []
        for seed in range(first, first + 50):
            env = make(env_id)
            obs, info = env.reset(seed)
            starts.append(env.cell)
            assert obs == OBS[env_id][CELLS[seed % 25]] and info == {"success": False, "valid": True}
        assert Counter(starts) == dict.fromkeys(CELLS, 2)


@both
def test_moves_and_rewards(env_id):
    env = at(env_id, (6, 6))
    stays = OBS[env_id][(6, 6)], -1.0, False, False, {"success": False, "valid": True}
    assert env.step(LEFT) == stays and env.step(RIGHT) == stays
    assert walk(env, UP, DOWN) == stays
    assert env.step(DOWN) == (OBS[env_id][(7, 6)], -1.0, False, False, {"success": False, "valid": True})
    assert env.step(DOWN) == (OBS[env_id][GOAL], 0.0, True, False, {"success": True, "valid": True})
    with pytest.raises(RuntimeError):
        env.step(DOWN)
    assert env.reset(3)[0] == OBS[env_id][CELLS[3]] and env.step(LEFT)[1] == -1.0


@both
@pytest.mark.parametrize("actions", [[UP], [""], [UP, "up"]])
def test_truncated_after_100_moves(env_id, actions):
    env = at(env_id, (5, 6))
    steps = [env.step(actions[turn % len(actions)]) for turn in range(100)]
    assert [step[2:4] for step in steps] == [(False, False)] * 99 + [(False, True)]
    assert not steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step(UP)


@both
def test_goal_in_the_last_move(env_id):
    env = at(env_id, (7, 6))
    walk(env, *[LEFT] * 99)
    assert env.step(DOWN)[1:] == (0.0, True, False, {"success": True, "valid": True})


@both
@pytest.mark.parametrize("action", ["", "\n", "move up", "up\n", "Move up\n", "move up\n\n", " move up\n", "move  up\n",
                                    "move up\nmove up\n", "move north\n", "0\n", "\0", "\ud800"])
def test_invalid_action_costs_four_and_changes_nothing(env_id, action):
    env = at(env_id, (5, 3))
    walk(env, RIGHT)
    before = env.cell, list(env.trail)
    assert env.step(action) == (OBS[env_id][(5, 4)], -4.0, False, False, {"success": False, "valid": False})
    assert (env.cell, env.trail) == before
    env = at(env_id, (7, 6))
    walk(env, action)
    assert env.step(DOWN)[1] == 0.0


NEARLY = st.one_of(st.text(), st.sampled_from([*MOVES]), st.text("move leftrighupdown\n", max_size=11),
                   st.builds(lambda move, cut: move[:cut], st.sampled_from([*MOVES]), st.integers(0, 10)))


@given(st.lists(NEARLY, min_size=1, max_size=120), st.integers(), st.sampled_from(MAZES))
@settings(max_examples=200, deadline=None)
def test_any_text_is_answered(actions, seed, env_id):
    env = make(env_id)
    env.reset(seed)
    row, col = CELLS[seed % 25]
    for turn, action in enumerate(actions, 1):
        down, right = {LEFT: (0, -1), RIGHT: (0, 1), UP: (-1, 0), DOWN: (1, 0)}.get(action, (0, 0))
        if GRID[row + down][col + right] != "#":
            row, col = row + down, col + right
        goal, valid = (row, col) == (8, 6), action in MOVES
        reward = -4.0 if not valid else 0.0 if goal else -1.0
        assert env.step(action) == (OBS[env_id][(row, col)], reward, goal, turn == 100 and not goal,
                                    {"success": goal, "valid": valid})
        if goal or turn == 100:
            break


@pytest.mark.filterwarnings("error")
@both
def test_gymnasium_checker(env_id):
    check_with_gymnasium(env_id)


@both
def test_speed(env_id):
    env, actions, best = make(env_id), [*MOVES], 0.0
    for attempt in range(3):  # the best of three: the machine may be busy
        turns, start = 0, time.perf_counter()
        for seed in range(300):
            env.reset(seed)
            over = False
            while not over:
                turns += 1
                _, _, terminated, truncated, _ = env.step(actions[(attempt + 7 * turns + turns // 4) % 4])
                over = terminated or truncated
        best = max(best, turns / (time.perf_counter() - start))
    assert best > 30_000


# --- Maze: reference returns ---


def test_reference_returns():
    fo, po = make("maze_fo"), make("maze_po")
    assert fo.best == fo.best_return() == -6.84 == 1 - sum(DISTANCE[cell] for cell in CELLS) / 25
    assert po.best == po.best_return() == -7.24
    assert fo.worst == po.worst == fo.worst_return() == po.worst_return() == -100
    assert policy_return(data_policy()) == pytest.approx(-48.4, abs=0.05) and fo.data == po.data == -48.4
    assert policy_return(random_policy()) == pytest.approx(-85.14, abs=0.005)


@both
def test_best_player_reaches_the_best_return(env_id):
    env = make(env_id)
    games = [play(env, env.players()["best"], seed) for seed in range(25)]
    assert all(game.success and game.terminated for game in games)
    assert statistics.mean(game.episodic_return for game in games) == env.best


def test_no_player_beats_the_best_of_maze_po():
    """Value iteration from below as well, from -100 per start: both bounds meet."""
    beliefs = {see(ANYWHERE, cell) for cell in CELLS}
    first = list(beliefs)
    frontier = list(beliefs)
    for belief in frontier:
        new = {part for action in MOVES for part in outcomes(belief, action)[1]} - beliefs
        beliefs |= new
        frontier += new
    value = {belief: -100.0 * sum(count for _, count in belief) for belief in beliefs}
    for _ in range(200):
        value = {belief: max(sum(value[part] - sum(count for _, count in part) for part in outcomes(belief, action)[1])
                             for action in MOVES) for belief in beliefs}
    assert sum(value[belief] for belief in first) / 25 == -7.24


@both
def test_exact_return_is_what_play_gives(env_id):
    env = make(env_id)
    for name, policy in (("random", random_policy()), ("data", data_policy())):
        returns = [play(env, env.players()[name], seed).episodic_return for seed in range(1500)]
        error = statistics.stdev(returns) / len(returns) ** 0.5
        assert abs(statistics.mean(returns) - policy_return(policy)) < 4 * error


# --- Maze: data ---


@pytest.fixture(scope="module")
def data():
    return {env_id: list(make(env_id).generate(20_000, 0)) for env_id in MAZES}


@both
def test_data_is_like_the_papers(data, env_id):
    lengths = [len(t.rewards) for t in data[env_id]]
    assert statistics.mean(t.success for t in data[env_id]) == pytest.approx(0.100, abs=0.008)
    assert statistics.mean(lengths) == pytest.approx(23.3, abs=0.7)
    assert statistics.pstdev(lengths) == pytest.approx(24.5, abs=0.7)
    assert max(lengths) == 100


def test_data_stays_in_its_region(data):
    cell_of = {obs: cell for cell, obs in OBS["maze_fo"].items()}
    sizes = Counter(region(cell) for cell in CELLS)
    assert sizes == {"left": 10, "right": 10, "middle": 5}
    starts, ends = Counter(), Counter()
    for trajectory in data["maze_fo"]:
        cells = [cell_of[obs] for obs in trajectory.texts[::2]]
        home, last = region(cells[0]), cells[-1]
        starts[cells[0]] += 1
        assert {region(cell) for cell in cells[:-1]} == {home}
        assert GOAL not in cells[:-1]
        left = region(last) != home
        assert trajectory.terminated == trajectory.success == (last == GOAL)
        assert left + (last == GOAL) + (len(trajectory.rewards) == 100 and last != GOAL and not left) == 1
        assert trajectory.rewards == [-1.0] * (len(cells) - 2) + [0.0 if last == GOAL else -1.0]
        assert make("maze_fo").recognises(trajectory)
        ends["left" if left else "goal" if last == GOAL else "limit"] += 1
    assert min(ends.values()) > 100 and len(ends) == 3
    assert set(starts) == set(CELLS) and max(starts.values()) < 920  # 800 expected


def test_data_replays(data):
    for env_id in MAZES:
        env = make(env_id)
        for trajectory, full in zip(data[env_id][:300], data["maze_fo"], strict=False):
            cell = next(cell for cell, obs in OBS["maze_fo"].items() if obs == full.texts[0])
            obs = [env.reset(CELLS.index(cell))[0], *(env.step(action)[0] for action in trajectory.texts[1::2])]
            assert obs == trajectory.texts[::2]


@pytest.mark.parametrize(("env_id", "pinned"), [
    ("maze_fo", "c3500affae98ed99ab4ae673a58ce76d389d212851e80e701dea7a2ef65c0e9b"),
    ("maze_po", "ec54c19dc45ea35a8cd005d49ab7c369b1302d3f18a95d18f2fa21695ad0416e")])
def test_data_is_pinned(data, env_id, pinned):
    lines = "\n".join(json.dumps(asdict(trajectory)) for trajectory in data[env_id][:100])
    assert hashlib.sha256(lines.encode()).hexdigest() == pinned
    assert data[env_id][:50] == list(make(env_id).generate(50, 0)) != list(make(env_id).generate(50, 1))


def test_generating_leaves_the_game_alone():
    env = at("maze_fo", (5, 6))
    walk(env, RIGHT)
    next(env.generate(1, 0))
    assert (env.cell, env.turns, env.over, len(env.trail)) == ((5, 7), 1, False, 2)


# --- The cache of generated data ---


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    return tmp_path / "data"


def load(number=20, env_id="maze_fo", **options):
    return list(load_dataset(make(env_id, **options), num_trajectories=number, **options))


def left_in(folder):
    """The files there. Beside a cache file may lie its lock, which is empty."""
    locks = [path for path in folder.iterdir() if path.suffix == ".lock"]
    assert all(path.stem.endswith(".jsonl") and not path.read_bytes() for path in locks)
    return sorted({*folder.iterdir()} - {*locks})


def test_cache_is_written_and_reused(folder, monkeypatch):
    first = load()
    (cache,) = left_in(folder)
    assert cache.name.startswith("maze_fo-20-0-") and cache.suffix == ".jsonl" and len(first) == 20
    footer = json.loads(cache.read_text().splitlines()[-1])
    assert footer["count"] == 20 and footer["env_id"] == "maze_fo"
    assert first == list(make("maze_fo").generate(20, 0))

    def fail(*_):
        raise AssertionError("generated again")

    monkeypatch.setattr("envs.maze.Maze.generate", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load() == first
    with pytest.raises(AssertionError):
        load(21)


def test_other_arguments_make_other_data(folder, tmp_path):
    (tmp_path / "words.txt").write_text("crane\nhouse\n")
    everything = [load(3), load(4), load(3, "maze_po"), load(3, "wordle"), load(3, "wordle", real_duplicates="true"),
                  load(3, "wordle", vocabulary=str(tmp_path / "words.txt")),
                  list(load_dataset(make("maze_fo"), num_trajectories=3, seed=1))]
    assert len(left_in(folder)) == len(everything)
    (tmp_path / "words.txt").write_text("crane\nmouse\n")
    load(3, "wordle", vocabulary=str(tmp_path / "words.txt"))
    assert len(left_in(folder)) == len(everything) + 1
    with pytest.raises(ValueError, match="at least 1"):
        load(0)


@pytest.mark.parametrize(("env_id", "options"), [("maze_po", {}), ("wordle", {"real_duplicates": "true"})])
def test_fingerprint_is_the_name_of_generated_data(folder, env_id, options):
    env = make(env_id, **options)
    named = fingerprint(env, num_trajectories=3, seed=2, **options)
    assert not folder.exists()  # known before anything is made
    list(load_dataset(env, num_trajectories=3, seed=2, **options))
    assert [path.name for path in left_in(folder)] == [named]
    others = [fingerprint(env, num_trajectories=3, seed=3, **options), fingerprint(env, **options),
              fingerprint(env, num_trajectories=3, seed=2, other="option", **options)]
    assert len({named, *others}) == 4 and others[1].startswith(f"{env_id}-{env.num_trajectories}-0-")


def test_fingerprint_of_a_file(tmp_path):
    file = tmp_path / "games.jsonl"
    write_file(make("maze_fo"), make("maze_fo").generate(3, 0), file)
    named = fingerprint(make("maze_fo"), str(file))
    assert named == f"games.jsonl {hashlib.sha256(file.read_bytes()).hexdigest()}"
    file.write_bytes(flipped(file.read_bytes()))
    changed = fingerprint(make("maze_fo"), str(file))
    file.rename(tmp_path / "other.jsonl")
    assert len({named, changed, fingerprint(make("maze_fo"), str(tmp_path / "other.jsonl"))}) == 3


@pytest.mark.parametrize("function", [load_dataset, fingerprint])
def test_data_that_cannot_be(folder, tmp_path, function):
    """Is known at the call, before anything is made or read."""
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(FileNotFoundError, match=f"no dataset file {path}"):
            function(make("maze_fo"), str(path))
    for number in (0, -1):
        with pytest.raises(ValueError, match="num_trajectories must be at least 1"):
            function(make("maze_fo"), num_trajectories=number)
    assert not folder.exists()


def test_progress_is_shown_when_generating_takes_long(folder, monkeypatch, capfd):
    generate, seconds = envs.maze.Maze.generate, [0.0]

    def slow(*args):
        for trajectory in generate(*args):
            seconds[0] += 0.1
            yield trajectory

    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    monkeypatch.setattr("envs.maze.Maze.generate", slow)
    for number in (19, 30):
        load(number)
        shown = capfd.readouterr()
        assert not shown.out and ("generating maze_fo" in shown.err) == (number == 30), number
    for _ in load_dataset(make("maze_fo"), num_trajectories=30):  # what is there already
        seconds[0] += 0.1
    assert capfd.readouterr() == ("", "")


def test_data_folder_is_named_by_the_environment(tmp_path):
    """So that the checkout need not be writable; nothing of it needs torch or numpy."""
    code = "import sys, envs, envs.data, envs.terminal; list(envs.data.load_dataset(envs.make('maze_fo'), None, 3));" \
           "print(envs.data.DATA_DIR, {'torch', 'numpy', 'transformers'} & set(sys.modules))"
    for name, expected in ((tmp_path / "there" / "data", tmp_path / "there" / "data"), ("data", tmp_path / "data")):
        environment = os.environ | {"LMRL_DATA": str(name), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert shown.stdout == f"{name} set()\n", shown.stderr
        assert [path.name[:12] for path in left_in(expected)] == ["maze_fo-3-0-"]
    code = "import envs.data; print(envs.data.DATA_DIR)"
    for environment in (os.environ | {"LMRL_DATA": ""}, {k: v for k, v in os.environ.items() if k != "LMRL_DATA"}):
        shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert shown.stdout == f"{ROOT / 'data'}\n"


def test_what_is_told_about_a_task_names_its_data(folder, monkeypatch):
    """Of the same code, an opponent of another version makes other data."""
    names = []
    for about in ({}, {"opponent": "Stockfish 15"}, {"opponent": "Stockfish 16"}, {"opponent": "Stockfish 15"}):
        monkeypatch.setattr("envs.maze.Maze.about", lambda self, about=about: about)
        before = left_in(folder) if folder.exists() else []
        load(3)
        names.append([path.name for path in left_in(folder) if path not in before])
    assert len(set(map(str, names[:3]))) == len(left_in(folder)) == 3 and names[3] == []


def cut(content):
    return content[: len(content) // 2]


def without_footer(content):
    return content[: content[:-1].rindex(b"\n") + 1]


def without_first_line(content):
    return content.partition(b"\n")[2]


def flipped(content):  # still a trajectory
    return content.replace(b"move left", b"move down", 1)


def flipped_bit(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def strange_footer(content):
    return without_footer(content) + b"[1]\n"


def empty(content):
    return b""


DAMAGES = [cut, without_footer, without_first_line, flipped, flipped_bit, strange_footer, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_detected(folder, damage):
    first = load()
    (cache,) = left_in(folder)
    content = cache.read_bytes()
    assert damage(content) != content
    cache.write_bytes(damage(content))
    with pytest.warns(UserWarning, match="damaged; generating it again"):
        assert load() == first
    assert left_in(folder) == [cache] and cache.read_bytes() == content


@pytest.fixture
def whole(folder, monkeypatch):
    """(trajectories, the bytes of their cache file) of a generation that nothing has stopped."""
    trajectories = load()
    (cache,) = left_in(folder)
    content = cache.read_bytes()
    cache.unlink()
    return trajectories, content


def starts_of(monkeypatch, stop_at=None, error=KeyboardInterrupt, then=lambda: None):
    """Note where `generate` starts; raise `error` at the trajectory `stop_at`, after a call of `then`."""
    generate, starts = envs.maze.Maze.generate, []

    def noted(self, num_trajectories, seed, start=0):
        starts.append(start)
        for index, trajectory in enumerate(generate(self, num_trajectories, seed, start), start):
            if index == stop_at:
                then()
                raise error
            yield trajectory

    monkeypatch.setattr("envs.maze.Maze.generate", noted)
    return starts


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_generation_goes_on(folder, monkeypatch, whole, error):
    """What was written is kept under another name, and not generated again; the file is the same to the byte."""
    first, content = whole
    lines = content.splitlines(keepends=True)
    suffixes, before = [], 0
    for stop_at in (0, 7, 16):  # stopped three times
        with monkeypatch.context() as patch:
            starts = starts_of(patch, stop_at, error, lambda: suffixes.extend(path.suffix for path in left_in(folder)))
            with pytest.raises(error):
                load()
        (part,) = left_in(folder)
        assert part.suffix == ".part" and part.read_bytes() == b"".join(lines[:stop_at]) and starts == [before]
        before = stop_at
    assert suffixes == [".part"] * 3
    starts = starts_of(monkeypatch)
    assert load() == first and starts == [16]
    (cache,) = left_in(folder)
    assert cache.suffix == ".jsonl" and cache.read_bytes() == content
    assert load() == first and starts == [16]


@pytest.mark.parametrize(("num_whole", "behind"), [
    (0, lambda line, footer: line[:1]),  # what a killed process may leave: half a line,
    (7, lambda line, footer: line[: len(line) // 2]),
    (7, lambda line, footer: line[:-1]),  # one that lacks its newline alone,
    (20, lambda line, footer: footer[:20]),  # half of the line that closes the file,
    (20, lambda line, footer: footer[:-1]),
    (20, lambda line, footer: footer),  # all of it: stopped right before the file was renamed
    (20, lambda line, footer: b""),
])
def test_half_lines_are_cut_off(folder, monkeypatch, whole, num_whole, behind):
    first, content = whole
    lines = content.splitlines(keepends=True)
    load()
    (cache,) = left_in(folder)
    cache.unlink()
    cache.with_suffix(".part").write_bytes(b"".join(lines[:num_whole]) + behind(lines[num_whole], lines[-1]))
    starts = starts_of(monkeypatch)
    assert load() == first and starts == [num_whole]
    assert left_in(folder) == [cache] and cache.read_bytes() == content


def test_half_of_other_data_is_left_alone(folder, monkeypatch):
    with monkeypatch.context() as patch:
        starts_of(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            load()
    (part,) = left_in(folder)
    content, starts = part.read_bytes(), starts_of(monkeypatch)
    assert load(21) == list(make("maze_fo").generate(21, 0)) and starts[0] == 0
    assert part.read_bytes() == content


AT_ONCE = """
import os, sys, time
from pathlib import Path
import envs, envs.data, envs.maze
folder, generate = Path(sys.argv[1]), envs.maze.Maze.generate

def slow(self, *args):
    (folder / f"generates {os.getpid()}").touch()
    while len(list(folder.glob("ready *"))) < 2:
        time.sleep(0.01)
    time.sleep(0.3)  # the other is on its way into load_dataset
    yield from generate(self, *args)

envs.maze.Maze.generate, envs.data.DATA_DIR = slow, folder / "data"
env = envs.make("maze_fo")
(folder / f"ready {os.getpid()}").touch()
print(*envs.data.load_dataset(env, num_trajectories=20))
"""


def test_two_processes_generate_once(tmp_path):
    """Of two runs that are started together the second waits for the data of the first."""
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shown = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and len(list(tmp_path.glob("generates *"))) == 1
    assert shown == [" ".join(map(str, make("maze_fo").generate(20, 0))) + "\n"] * 2
    assert [path.suffix for path in left_in(tmp_path / "data")] == [".jsonl"]


@every_task
def test_data_from_any_trajectory_on(env_id):
    env = make(env_id)
    data = list(env.generate(4, 3))
    assert len(data) == 4 and all(list(env.generate(4, 3, start)) == data[start:] for start in (0, 1, 3, 4))
    assert list(env.generate(2, 3)) == data[:2]  # the first ones of a larger dataset


# --- Files ---

GAME = [describe(cell) for cell in ((6, 6), (7, 6), GOAL)]
FO = [{"state": obs, "action": DOWN, "reward": reward, "done": not reward}
      for obs, reward in zip(GAME, (-1.0, 0.0), strict=False)]
PO = {"text_history": [describe_walls((6, 6)), DOWN, describe_walls((7, 6)), DOWN, describe_walls(GOAL)],
      "rewards": [-1.0, 0.0], "dones": [False, True]}


def read(path, env_id, *records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return list(load_dataset(make(env_id), str(path)))


def test_original_maze_fo(tmp_path):
    cut_off = [FO[0]]
    limit = [FO[0], FO[1] | {"reward": -1.0, "done": True}]  # `done` by the limit: no end by the rules
    invalid = [FO[0] | {"action": "move\n", "reward": -4.0, "done": True}]
    one, two, three, four = read(tmp_path / "file.jsonl", "maze_fo", FO, cut_off, limit, invalid)
    assert one.texts == [GAME[0], DOWN, GAME[1], DOWN]  # no last observation
    assert (one.rewards, one.terminated, one.success) == ([-1.0, 0.0], True, True)
    assert (two.texts, two.rewards) == ([GAME[0], DOWN], [-1.0])
    assert [(t.terminated, t.success) for t in (two, three, four)] == [(False, False)] * 3


def test_original_maze_po(tmp_path):
    texts = PO["text_history"]
    per_text = PO | {"rewards": [0.0, -1.0, 0.0, 0.0, 0.0], "dones": [False] * 4 + [True]}
    cut_off = {"text_history": texts[:3], "rewards": [-1.0], "dones": [False]}
    limit = cut_off | {"dones": [True]}
    without_last_obs = {"text_history": texts[:4], "rewards": [-1.0, 0.0], "dones": [False, True]}
    games = read(tmp_path / "file.jsonl", "maze_po", PO, per_text, cut_off, limit, without_last_obs)
    assert games[0] == games[1] == Trajectory(texts, [-1.0, 0.0], True, True)
    assert games[2] == games[3] == Trajectory(texts[:3], [-1.0], False, False)
    assert (games[4].texts, games[4].terminated) == (texts[:4], True)


def fo_record(actions, cell, rewards):
    """A game as the original's maze plays and writes it, its rewards as its three functions give them."""
    turns, (move_reward, goal_reward, invalid_reward) = [], rewards
    for action in actions:
        after = envs.maze.NEXT.get(action, {}).get(cell, cell)
        reward = goal_reward if after == GOAL else move_reward if action in MOVES else invalid_reward
        row, col = (" ".join(str(number)) for number in cell)
        here = f"Your current position is at position {row}, {col}."
        state = f"The goal is at position 8, 6. {here} {describe_walls(cell)}"
        turns.append({"state": state, "action": action, "reward": reward, "done": after == GOAL})
        cell = after
    return turns


SCALES = [(-1.0, 0.0, -4.0), (0.0, 1.0, -1.0), (-1.0, 1.0, -100.0)]  # of a move, the goal, anything else


@pytest.mark.parametrize("scale", SCALES)
def test_success_is_read_off_the_goal(tmp_path, scale):
    way = [LEFT, DOWN, "move\n", DOWN, DOWN, DOWN, LEFT, LEFT, LEFT, DOWN, DOWN, DOWN]
    won, started = fo_record(way, (1, 10), scale), fo_record(way[:4], (1, 11), scale)
    limit = [*fo_record(way, (1, 10), scale)[:-1], won[-1] | {"reward": -1.0, "done": True}]  # one move too many
    games = read(tmp_path / "file.jsonl", "maze_fo", won, started, [*started[:-1], started[-1] | {"done": True}], limit)
    assert [(game.success, game.terminated) for game in games] == [(True, True)] + [(False, False)] * 3
    assert games[0].rewards == [turn["reward"] for turn in won] and "position 1, 1 0." in games[0].texts[0]


@pytest.mark.parametrize("scale", SCALES)
def test_success_of_maze_po_is_read_off_the_goal(tmp_path, scale):
    move, goal, invalid = scale
    texts = PO["text_history"]
    won = PO | {"rewards": [move, goal]}
    named = won | {"text_history": [*texts[:4], "Success\n"]}
    without_last_obs = won | {"text_history": texts[:4]}
    games = read(tmp_path / "file.jsonl", "maze_po", won, named, without_last_obs)
    assert games[0] == games[1] == Trajectory(texts, [move, goal], True, True)  # in our words: the walls at the goal
    assert games[2] == Trajectory(texts[:4], [move, goal], True, True)
    walls = describe_walls((5, 6))
    lost = {"text_history": [walls, UP, walls, "up\n", walls], "rewards": [move, invalid], "dones": [False, True]}
    late = {"text_history": [walls, UP, walls, DOWN, "Failure\n"], "rewards": [move, -1.0], "dones": [False, True]}
    by_text = late | {"rewards": [0.0, move, 0.0, -1.0, 0.0], "dones": [False] * 4 + [True]}
    games = read(tmp_path / "file.jsonl", "maze_po", lost, late, by_text)
    assert games[0] == Trajectory(lost["text_history"], [move, invalid], False, False)
    assert games[1] == games[2] == Trajectory([walls, UP, walls, DOWN], [move, -1.0], False, False)
    assert games[1].complete() == Trajectory([walls, UP, walls], [move], False, False)


def test_our_own_file(tmp_path, folder):
    trajectories = load(20, "maze_po")
    assert list(load_dataset(make("maze_po"), str(*left_in(folder)))) == trajectories
    write_file(make("maze_po"), trajectories, tmp_path / "new folder" / "file.jsonl")
    assert list(read_file(make("maze_po"), tmp_path / "new folder" / "file.jsonl")) == trajectories
    lines = [json.dumps(asdict(trajectory)) for trajectory in trajectories]  # written by hand: without the last line
    assert read(tmp_path / "file.jsonl", "maze_po", "", *lines, "") == trajectories
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["file.jsonl"]


def twice(content):
    return content.partition(b"\n")[0] + b"\n" + content


def other_order(content):
    first, second, rest = content.split(b"\n", 2)
    return b"\n".join([second, first, rest])


def one_more(content):
    return content + content.partition(b"\n")[0] + b"\n"


def other_checksum(content):
    return content[:-4] + (b"0" if content[-4:-3] != b"0" else b"1") + content[-3:]


@pytest.mark.parametrize("edit", [without_first_line, flipped, twice, other_order, other_checksum, one_more])
def test_edited_copy_is_refused(tmp_path, edit):
    """A file that ends with a checksum is checked, wherever it came from."""
    path = tmp_path / "copy.jsonl"
    write_file(make("maze_fo"), make("maze_fo").generate(10, 0), path)
    content = path.read_bytes()
    path.write_bytes(edit(content))
    number = edit(content).count(b"\n")
    assert edit(content) != content and number == 11 + (edit in (twice, one_more)) - (edit is without_first_line)
    for stream in (load_dataset(make("maze_fo"), str(path)), read_file(make("maze_fo"), path)):
        with pytest.raises(ValueError, match=rf"copy\.jsonl, line {number}: expected .* found (count|a line)"):
            list(stream)


def test_load_shuffled(tmp_path, folder):
    """All of the data, in an order that the seed determines."""
    (tmp_path / "words.txt").write_text("crane\nhouse\n")
    for env_id, options in (("maze_fo", {}), ("wordle", {"vocabulary": str(tmp_path / "words.txt")})):
        env = make(env_id, **options)
        plain = load(50, env_id, **options)
        assert len({str(t.texts) for t in plain}) > 5
        orders = [load_shuffled(env, None, 50, seed, **options) for seed in (1, 1, 2)]
        assert all(sorted(map(str, order)) == sorted(map(str, plain)) for order in orders)
        assert orders[0] == orders[1] and plain != orders[0] != orders[2] != plain
        write_file(env, plain, tmp_path / f"{env_id}.jsonl")
        assert load_shuffled(env, str(tmp_path / f"{env_id}.jsonl"), None, 1, **options) == orders[0]
    assert len(left_in(folder)) == 2
    with pytest.raises(FileNotFoundError):
        load_shuffled(make("maze_fo"), str(tmp_path / "missing.jsonl"), None, 1)


def write_some(path):
    path.write_text("new")


def write_folder(path):
    path.mkdir()
    (path / "file").write_text("new")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_replace(tmp_path):
    """Files and folders, by their like; what was there stays until the new one is whole."""
    new, old = tmp_path / "new folder" / "file", tmp_path / "old"
    replace(new, write_some)
    assert contents(tmp_path) == {"new folder/file": "new"}
    new.write_text("old")

    def write(path):
        assert path.parent == new.parent and path != new and new.read_text() == "old"
        write_some(path)

    replace(new, write)
    assert contents(tmp_path) == {"new folder/file": "new"}
    for _ in range(2):
        replace(old, write_folder)
        assert contents(tmp_path) == {"new folder/file": "new", "old/file": "new"}
        (old / "file").write_text("old")
        (old / "other").write_text("old")


@pytest.mark.parametrize("write", [write_some, write_folder, lambda path: None])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replace_that_fails(tmp_path, write, error):
    """Leaves what was there, and nothing else."""
    def fail(path):
        write(path)
        raise error

    write_some(tmp_path / "file")
    write_folder(tmp_path / "folder")
    for name in ("file", "folder", "nothing"):
        with pytest.raises(error):
            replace(tmp_path / name, fail)
    assert contents(tmp_path) == {"file": "new", "folder/file": "new"}
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_one_value_that_fills_the_file(tmp_path, monkeypatch):
    """As the original release has it for some tasks, on one line or on many."""
    monkeypatch.setattr("envs.maze.Maze.parse", lambda self, record: [Trajectory(**game) for game in record["games"]])
    record = {"games": [asdict(game) for game in make("maze_fo").generate(3, 0)]}
    for indent in (None, 1):
        assert len(read(tmp_path / "file.json", "maze_fo", json.dumps(record, indent=indent))) == 3


@every_task
def test_packed_marked_and_in_an_array(tmp_path, env_id):
    """What other tools make of our file: gzip, a byte-order mark, Windows' ends of lines, an array of its records."""
    env, path = make(env_id), tmp_path / "file.jsonl"
    games = list(env.generate(3, 0))
    write_file(env, games, path)
    content = path.read_bytes()
    *records, footer = map(json.loads, content.splitlines())
    for other in (gzip.compress(content), codecs.BOM_UTF8 + content, gzip.compress(codecs.BOM_UTF8 + content),
                  b"".join(json.dumps(record).encode() + b"\r\n" for record in records),
                  json.dumps(records).encode(), json.dumps(records, indent=2).encode("utf-8-sig"),
                  json.dumps([*records, footer], indent=2).encode(), gzip.compress(json.dumps(records).encode())):
        (tmp_path / "other").write_bytes(other)
        assert list(read_file(env, tmp_path / "other")) == games


def test_packed_files_of_the_original(tmp_path):
    lines = json.dumps(FO) + "\n" + json.dumps(FO[:1]) + "\n"
    for content in (lines.encode("utf-8-sig"), gzip.compress(lines.encode()), lines.replace("\n", "\r\n").encode()):
        (tmp_path / "file.jsonl.gz").write_bytes(content)
        assert len(list(read_file(make("maze_fo"), tmp_path / "file.jsonl.gz"))) == 2


def test_array_of_other_things(tmp_path):
    own = asdict(next(make("maze_fo").generate(1, 0)))
    for records, what in (([own, 7], "int instead of a list"), ([own, {}], "instead of a list"),
                          ([own, own | {"rewards": []}], "0 rewards"),
                          ([own, {"env_id": "maze_po", "sha256": "", "count": 1}], "a dataset of maze_po")):
        for indent in (None, 1):
            with pytest.raises(ValueError, match=f"file.json, line 1: expected a maze_fo trajectory, found .*{what}"):
                read(tmp_path / "file.json", "maze_fo", json.dumps(records, indent=indent))


def test_damaged_gzip_file(tmp_path):
    lines = "".join(json.dumps(FO + [FO[0]] * i) + "\n" for i in range(200))
    content = gzip.compress(lines.encode())
    path = tmp_path / "file.jsonl.gz"
    for damaged in (content[: len(content) // 2], content[:12], content[:-8] + bytes(8), content[:10] + bytes(50)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"gz, line \d+: expected a maze_fo trajectory, found a damaged gzip file"):
            list(read_file(make("maze_fo"), path))


OURS = {"texts": [GAME[0], DOWN, GAME[1]], "rewards": [-1.0], "terminated": False, "success": False}
BAD = [
    ("maze_fo", FO, "{not json", "a line that is not JSON: '{not json"),
    ("maze_fo", FO, json.dumps(FO)[:-20], "not JSON"),
    ("maze_fo", FO, [], "something else"),
    ("maze_fo", FO, [FO[0], {"state": GAME[1], "action": DOWN, "done": True}], "no 'reward'"),
    ("maze_fo", FO, [FO[0] | {"state": GAME[0].replace("6, 6", "6, 7")}], "observation that is not one of maze_fo"),
    ("maze_fo", FO, [FO[0] | {"state": None}], "list of texts"),
    ("maze_fo", FO, [FO[0] | {"action": ""}], "list of texts, none of them empty"),
    ("maze_fo", FO, [FO[0] | {"action": "move down"}], "the action 'move down' instead of one line with a newline"),
    ("maze_fo", FO, [FO[0] | {"reward": "much"}], "'much'"),
    ("maze_fo", FO, PO, "dict instead of a list of {state, action, reward, done}"),
    ("maze_fo", FO, "7", "int instead of a list"),
    ("maze_fo", OURS, OURS | {"rewards": [-1.0, 0.0]}, "2 rewards for 1 actions instead of one reward per action"),
    ("maze_fo", OURS, {"texts": OURS["texts"]}, "something else .*rewards"),
    ("maze_fo", OURS, OURS | {"texts": [GAME[0], DOWN, "\n"]}, "observation"),
    ("maze_fo", OURS, OURS | {"reward": 1}, "something else .*reward"),
    *(("maze_fo", OURS, OURS | {"rewards": [reward]}, f"{found} instead of a finite number") for reward, found in (
        (float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (10**400, "the reward 10+"),
        (-10**400, "the reward -10+"), (True, "the reward True"), ("-1", "the reward '-1'"), (None, "the reward None"),
        ([-1.0], r"the reward \[-1.0\]"))),
    *(("maze_fo", OURS, json.dumps(OURS).replace("[-1.0]", f"[{reward}]"), "instead of a finite number|digits")
      for reward in ("1e999", "-1e999", "NaN", "1" + "0" * 309, "1" * 5000)),
    ("maze_fo", OURS, OURS | {"texts": [*OURS["texts"], DOWN, GAME[2]], "rewards": [1e308, 1e308]}, "sum is infinite"),
    *(("maze_fo", OURS, OURS | {name: value}, f"`{name}` {value!r} instead of true or false")
      for name in ("terminated", "success") for value in ("false", "true", 0, 1, None, 0.0)),
    ("maze_fo", OURS, OURS | {"rewards": -1.0}, "-1.0 for 1 actions"),
    ("maze_fo", OURS, OURS | {"rewards": {"0": -1.0}}, "instead of one reward per action"),
    ("maze_fo", OURS, OURS | {"rewards": []}, "0 rewards for 1 actions"),
    *(("maze_fo", OURS, OURS | {"texts": texts}, "list of texts")
      for texts in ("abc", None, {"a": 1}, [GAME[0], 7, GAME[1]], [GAME[0], [DOWN], GAME[1]])),
    *(("maze_fo", OURS, OURS | {"texts": [GAME[0], action, GAME[1]]}, "instead of one line with a newline at its end")
      for action in ("move down\nmove up\n", "\nmove down\n", "move down\n\n", "move down\nmove up", "move down\r")),
    *(("maze_fo", OURS, OURS | {"texts": texts}, "a carriage return or half a surrogate pair in .* instead of whole")
      for texts in ([GAME[0], "move down\r\n", GAME[1]], [GAME[0][:-1] + "\r\n", DOWN, GAME[1]],
                    [GAME[0], "move\rdown\n", GAME[1]], [GAME[0], DOWN, "\r" + GAME[1]], ["\ud800", DOWN, GAME[1]],
                    [GAME[0], "move \udfff\n", GAME[1]], [GAME[0], DOWN, "ä\udc80"])),
    ("maze_fo", OURS, "[" * 100_000, "something else|not JSON"),
    ("maze_fo", FO, [FO[0] | {"reward": float("nan")}], "NaN instead of a finite number"),
    ("maze_fo", FO, json.dumps([FO[0]]).replace("-1.0", "1e999"), "the reward inf instead of a finite number"),
    ("maze_fo", FO, [FO[0] | {"reward": 10**400}], "instead of a finite number"),
    ("maze_fo", FO, [FO[0] | {"reward": True}], "the reward True instead of a finite number"),
    ("maze_fo", FO, [FO[0] | {"done": "false"}], "'false' instead of true or false"),
    ("maze_fo", FO, [FO[0] | {"action": "move down\r\n"}], "carriage return"),
    ("maze_fo", FO, [FO[0] | {"action": "move down\nmove up\n"}], "one line"),
    ("maze_fo", FO, [FO[0] | {"state": "\ud800\n"}], "half a surrogate pair"),
    ("maze_po", PO, PO | {"rewards": [-1.0, float("inf")]}, "Infinity instead of a finite number"),
    ("maze_po", PO, PO | {"dones": [False, "false"]}, "'false' instead of true or false"),
    ("maze_po", PO, PO | {"text_history": "abcde"}, "list of texts"),
    ("maze_fo", OURS, OURS | {"texts": [*OURS["texts"][:2], ""]}, "list of texts, none of them empty"),
    ("maze_po", PO, FO, "something else"),
    ("maze_po", PO, PO | {"rewards": [-1.0]}, "one reward per action"),
    ("maze_po", PO, PO | {"dones": []}, "something else"),
    ("maze_po", PO, {"text_history": PO["text_history"], "dones": [True]}, "no 'rewards'"),
    ("maze_po", PO, PO | {"text_history": [*PO["text_history"][:4], GAME[2]]}, "not one of maze_po"),
]


@pytest.mark.parametrize(("env_id", "good", "bad", "what"), BAD)
def test_bad_line_is_named(tmp_path, env_id, good, bad, what):
    with pytest.raises(ValueError, match=rf"file\.jsonl, line 3: expected a {env_id} trajectory, found .*{what}"):
        read(tmp_path / "file.jsonl", env_id, good, "", bad, good)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 1: expected"):
        read(tmp_path / "file.jsonl", env_id, bad, good)


def test_bytes_that_are_no_utf_8(tmp_path):
    """Neither within a file, nor as the code points that Python's own decoder of JSON would let pass."""
    line = json.dumps(OURS).encode()
    for action in (b"move \xff\\n", b"move \xed\xa0\x80\\n", b"move \xe9\\n"):
        (tmp_path / "file.jsonl").write_bytes(line + b"\n" + line.replace(rb"move down\n", action) + b"\n")
        with pytest.raises(ValueError, match=r"file\.jsonl, line 2: expected .* found a (line that is not JSON|carr)"):
            list(load_dataset(make("maze_fo"), str(tmp_path / "file.jsonl")))


def test_numbers_of_any_kind_are_read(tmp_path):
    """Whole ones as well, and the largest; texts in any script."""
    rewards = [-1, 0, -0.5, 1e308, -1e308, 5e-324]
    (game,) = read(tmp_path / "file.jsonl", "maze_fo", OURS | {"texts": [GAME[0], "←🙂\n"] * 6, "rewards": rewards})
    assert game.rewards == rewards and all(isinstance(reward, float) for reward in game.rewards)
    assert game.texts[1] == "←🙂\n"


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04\xff\xfe\n\0")
    with pytest.raises(ValueError, match=r"model\.bin, line 1: expected a maze_fo trajectory, found .*not JSON"):
        list(load_dataset(make("maze_fo"), str(tmp_path / "model.bin")))
    with pytest.raises(FileNotFoundError, match="no dataset file"):
        load_dataset(make("maze_fo"), str(tmp_path))
    with pytest.raises(ValueError, match=r"empty\.jsonl: expected maze_fo trajectories, found none"):
        read(tmp_path / "empty.jsonl", "maze_fo", "")


@every_task
@pytest.mark.parametrize("other", TASKS)
def test_file_of_another_task_is_refused(tmp_path, env_id, other):
    path = tmp_path / "file.jsonl"
    write_file(make(other), make(other).generate(3, 0), path)
    if env_id == other:
        assert len(list(load_dataset(make(env_id), str(path)))) == 3
        return
    observation = rf"line 1: expected a {env_id} trajectory, found an observation that is not one of {env_id} in a game"
    if (other, env_id) == ("endgames", "chess"):
        # A whole game may come to any position of an endgame: only the line that closes the file tells them apart.
        observation = "line 4: expected a chess trajectory, found a dataset of endgames"
    if (other, env_id) == ("twenty_questions", "guess_city"):  # in both, all answers may be yes or no
        observation = "line 4: expected a guess_city trajectory, found a dataset of twenty_questions"
    with pytest.raises(ValueError, match=rf"file\.jsonl, {observation}"):
        list(load_dataset(make(env_id), str(path)))
    write_file(make(other), [], path)  # its last line alone
    with pytest.raises(ValueError, match=rf"line 1: expected a {env_id} trajectory, found a dataset of {other}"):
        list(load_dataset(make(env_id), str(path)))


# --- What all tasks share ---


def assert_replays(env, seed, game, num_invalid):
    """As it is written down, the game of `seed` can be played again."""
    obs = [env.reset(seed)[0]]
    steps = [env.step(action) for action in game.texts[1::2]]
    assert obs + [step[0] for step in steps] == game.texts[::2] and [step[1] for step in steps] == game.rewards
    assert [step[2] or step[3] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert (steps[-1][2], steps[-1][4]["success"]) == (game.terminated, game.success)
    assert sum(not step[4]["valid"] for step in steps) == num_invalid


@every_task
@pytest.mark.parametrize(("num_envs", "num_games"), [(8, 60), (1, 4), (8, 5), (3, 3)])
def test_vector_equals_single_games(env_id, num_envs, num_games):
    """Games that begin and end at any time, some of one seed, are those of single environments, and written down."""
    slow = MODULES[env_id] == "envs.chess"
    num_games = min(num_games, 10) if slow else num_games  # most of them of 400 turns
    vector, rng = VectorEnv(env_id, num_envs), random.Random(0)
    actions = [action for game in make(env_id).generate(4 if slow else 20, 0) for action in game.texts[1::2]]
    # The last two: cut off, otherwise valid; and with more after its newline, which nobody hears.
    actions += ["?", "\n", "", actions[0][:-1], actions[0] + "?\n"] * (len(actions) // 10)
    waiting = rng.sample(range(10**6), num_games)  # the games' numbers
    seeds = {number: rng.randrange(2 * num_games) for number in waiting}
    free, single, texts, rewards, num_invalid, played = [make(env_id) for _ in range(num_envs)], {}, {}, {}, {}, []
    while waiting or single:
        while waiting and free and rng.random() < 0.9:
            number = waiting.pop()
            single[number] = free.pop()
            texts[number], rewards[number], num_invalid[number] = [single[number].reset(seeds[number])[0]], [], 0
            assert vector.reset(number, seeds[number]) == texts[number][0]
        chosen = [number for number in rng.sample(sorted(single), len(single)) if rng.random() < 0.6]
        chosen = {number: rng.choice(actions) for number in chosen}
        steps = vector.step(chosen)
        assert list(steps) == list(chosen)
        for number, action in chosen.items():
            heard, newline, _ = action.partition("\n")
            obs, reward, terminated, truncated, info = single[number].step(heard + (newline or "…"))
            texts[number] += [heard + (newline or "…\n"), obs]
            rewards[number].append(reward)
            num_invalid[number] += not info["valid"]
            if terminated or truncated:
                game = Trajectory(texts[number], rewards[number], terminated, info["success"])
                played.append((seeds[number], game, num_invalid[number]))
                info |= {"trajectory": game, "num_invalid": num_invalid[number]}
                free.append(single.pop(number))
            assert steps[number] == (obs, reward, terminated, truncated, info)
        assert sorted(vector.games) == sorted(single) and len(vector.free) == len(free)
    assert len(played) == num_games and any(game[2] for game in played)
    env = make(env_id)
    for game in played:
        assert_replays(env, *game)


@every_task
def test_reset_without_a_seed(env_id):
    """Starts another game each time, one of training's; Gymnasium's `options` and `close` do nothing."""
    env, games = make(env_id), set()
    for _ in range(20):
        obs, info = env.reset()
        secret = [getattr(env, name, None) for name in ("word", "object", "city", "buyer", "skill", "cell", "state")]
        assert info["valid"] and not info["success"]
        games.add((obs, str(secret)))
    assert len(games) > 3
    first = env.reset(seed=7, options={"init_position": (1, 1)})
    assert first == env.reset(7, None) == env.reset(7) == make(env_id).reset(seed=7) and env.close() is None
    assert all(envs.SEEDS["train"] <= envs.draw_seed() < envs.SEEDS["eval"] for _ in range(100))


@every_task
def test_vector_plays_one_seed_many_times(env_id):
    """At once or one after the other, under any numbers."""
    env, vector = make(env_id), VectorEnv(env_id, 2)
    game = play(env, env.players()["data"], 7)
    for numbers in ((5, 0), (5, 1), (-3, 10**9)):
        assert [vector.reset(number, 7) for number in numbers] == [game.texts[0]] * 2
        for action in game.texts[1::2]:
            steps = vector.step(dict.fromkeys(numbers, action))
        assert [steps[number][-1]["trajectory"] for number in numbers] == [game, game]
        assert [steps[number][-1]["num_invalid"] for number in numbers] == [0, 0]


def test_any_action_can_be_written_down(folder):
    """Carriage returns are no part of a line: both the game and its record have a space in their place."""
    heard = []
    vector = VectorEnv("maze_fo", 1)
    vector.reset(0, 3)
    step = vector.envs[0].step
    vector.envs[0].step = lambda action: heard.append(action) or step(action)
    for action in ("move left\r\n", "\r", "\r\n", "move\rdown\nmove up\n", "move up\n", *["…\n"] * 95):
        (*_, info), = vector.step({0: action}).values()
    assert heard[:5] == ["move left \n", " …", " \n", "move down\n", "move up\n"]
    assert info["trajectory"].texts[1:10:2] == ["move left \n", " …\n", " \n", "move down\n", "move up\n"]
    write_file(make("maze_fo"), [info["trajectory"]], folder / "file.jsonl")
    assert list(read_file(make("maze_fo"), folder / "file.jsonl")) == [info["trajectory"]]


def test_vector_has_room_for_so_many_games():
    vector = VectorEnv("maze_fo", 2)
    vector.reset(0, CELLS.index((7, 6)))
    with pytest.raises(ValueError, match="game 0 is still being played"):
        vector.reset(0, 1)
    vector.reset(1, 1)
    with pytest.raises(ValueError, match="all 2 environments are in use"):
        vector.reset(2, 1)
    with pytest.raises(KeyError):
        vector.step({2: UP})
    assert vector.step({0: DOWN})[0][2] and vector.reset(2, 3) == OBS["maze_fo"][CELLS[3]]
    with pytest.raises(KeyError):
        vector.step({0: UP})
    assert vector.step({1: UP})[1][0] == OBS["maze_fo"][CELLS[1]]


@every_task
def test_cut_off_actions_are_invalid(env_id):
    """What an agent stops before its newline may be the start of another action: `O - O` of `O - O - O`."""
    env = make(env_id)
    game = play(env, env.players()["data"], 4)
    action, vector = game.texts[1], VectorEnv(env_id, 2)
    assert [vector.reset(0, 4), vector.reset(1, 4)] == [game.texts[0]] * 2
    steps = vector.step({0: action, 1: action[:-1]})
    assert steps[0][4]["valid"] and steps[0][:2] == (game.texts[2], game.rewards[0]) and not steps[1][4]["valid"]


def test_vector_steps_all_games_at_once(monkeypatch):
    """Tasks that ask an opponent ask it for all the games together."""
    step_all, calls = envs.maze.Maze.step_all, []

    def noted(cls, games, actions):
        calls.append((games, actions))
        return step_all(games, actions)

    monkeypatch.setattr("envs.maze.Maze.step_all", classmethod(noted))
    vector = VectorEnv("maze_fo", 3)
    for game, seed in enumerate((CELLS.index((7, 6)), 1, 2)):
        vector.reset(game, seed)
    playing = [vector.games[2].env, vector.games[0].env]
    assert list(vector.step({2: UP, 0: DOWN})) == [2, 0] and vector.step({}) == {}
    assert calls == [(playing, [UP, DOWN]), ([], [])]


@every_task
def test_step_all(env_id):
    """`step` of each game, in their order; every game has its action."""
    together, alone = ([make(env_id) for _ in range(3)] for _ in range(2))
    rng, player = random.Random(0), together[0].players()["data"]
    assert [env.reset(seed) for seed, env in enumerate(together)] == [env.reset(i) for i, env in enumerate(alone)]
    for _ in range(4):
        order = [i for i in rng.sample(range(3), 3) if not together[i].over]
        actions = [rng.choice([player(together[i], rng), "?\n"]) for i in order]
        steps = type(together[0]).step_all([together[i] for i in order], actions)
        assert steps == [alone[i].step(action) for i, action in zip(order, actions, strict=True)]
    assert type(together[0]).step_all([], []) == []
    for seed, env in enumerate(together):
        env.reset(seed)
    for num_actions in (2, 4):
        with pytest.raises(ValueError, match="zip"):
            type(together[0]).step_all(together, ["?\n"] * num_actions)


def test_means_over_games():
    """Against numpy, on games of random lengths, one of them alone too."""
    rng, env = np.random.default_rng(0), make("maze_fo")
    for num_games in (7, 1):
        lengths = rng.integers(1, 9, num_games)
        returns, successes = [], rng.random(num_games) < 0.5
        games = []
        for length, success in zip(lengths, successes, strict=True):
            rewards = rng.normal(size=length)
            returns.append(rewards.sum())
            games.append(Trajectory(["a", "b\n"] * length, rewards.tolist(), True, bool(success)))
        assert envs.statistics(env, games, 3) == pytest.approx({
            "episodic_return": np.mean(returns), "episodic_return_se": np.std(returns) / np.sqrt(num_games),
            "episodic_length": np.mean(lengths), "score": env.score(np.mean(returns)),
            "success": np.mean(successes), "invalid_actions": 3 / np.sum(lengths)})


@every_task
def test_means_of_measures(env_id):
    """A task's own measures are behind those of all tasks, under names of their own."""
    env = make(env_id)
    assert env.about() == json.loads(json.dumps(env.about()))
    games = [play(env, env.players()["random"], seed) for seed in range(2)]
    own = [env.measures(game) for game in games]
    found = envs.statistics(env, games, 0)
    assert {"chess": ["draws", "losses"], "endgames": ["draws", "losses"],
            "car_dealer": ["revenue", "discount"]}.get(env_id, []) == list(own[0])
    assert list(found) == ["episodic_return", "episodic_return_se", "episodic_length", "score", "success",
                           "invalid_actions", *own[0]]
    assert all(found[name] == (own[0][name] + own[1][name]) / 2 for name in own[0])


def test_measures_of_one_task(monkeypatch):
    monkeypatch.setattr("envs.maze.Maze.measures",
                        lambda self, game: {"long": len(game.rewards) > 2, "last": game.rewards[-1]})
    games = [Trajectory(["a", "b\n"] * length, [0.5 * length] * length, True, True) for length in (1, 2, 3, 4)]
    found = envs.statistics(make("maze_fo"), games, 0)
    assert (found["long"], found["last"]) == (0.5, 1.25) and found["episodic_length"] == 2.5


def test_trajectory_as_text():
    game = Trajectory(["Where?\n", DOWN, "There.\n"], [-1.5], True, False)
    assert f"{game}" == f"Where?\n{DOWN}There.\n(return -1.5)\n"
    assert str(Trajectory(["Where?\n", DOWN], [-1.0], False, False)) == f"Where?\n{DOWN}(return -1)\n"


def test_env_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        envs.Env("maze_fo")
    assert envs.Env.__abstractmethods__ == {"reset", "step", "generate", "players"}


COIN = """
import random
from envs import Env, Trajectory, finish

class Coin(Env):
    variants = ("coin",)

    def reset(self, seed):
        self.side = random.Random(seed).choice(["heads\\n", "tails\\n"])
        return "Heads or tails?\\n", {}

    def step(self, action):
        right = action == self.side
        return self.side, float(right), True, False, {"success": right, "valid": action in ("heads\\n", "tails\\n")}

    def generate(self, num_trajectories, seed, start=0):
        for i in range(start, num_trajectories):
            yield finish(self, self.players()["random"], random.Random(f"{seed} {i}"), self.reset(i)[0])

    def players(self):
        return {"random": lambda env, rng: rng.choice(["heads\\n", "tails\\n"])}

ENV = Coin

if __name__ == "__main__":
    from envs.terminal import main
    main(Coin)
"""


@pytest.fixture
def coin(tmp_path, monkeypatch):
    """A task that has what each task must have, and nothing else."""
    (tmp_path / "coin.py").write_text(COIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "coin", "coin")
    yield make("coin")
    del sys.modules["coin"]


def test_four_methods_make_a_task(coin, folder, tmp_path):
    assert COIN[COIN.index("class") : COIN.index("ENV")].count("\n    def ") == 4
    data = load(30, "coin")
    assert data == load(30, "coin") == list(coin.generate(30, 0)) and {t.success for t in data} == {True, False}
    write_file(coin, data, tmp_path / "file.jsonl")
    assert list(load_dataset(coin, str(tmp_path / "file.jsonl"))) == data
    with pytest.raises(ValueError, match="line 1: expected a coin trajectory, found .*not a record of coin"):
        read(tmp_path / "file.jsonl", "coin", FO)
    vector = VectorEnv("coin", 2)
    assert [vector.reset(game, seed) for game, seed in ((7, 0), (8, 1))] == ["Heads or tails?\n"] * 2
    games = [step[-1]["trajectory"] for step in vector.step({7: "heads\n", 8: "heads"}).values()]
    assert [game.texts[1] for game in games] == ["heads\n", "heads…\n"] and not games[1].success
    found = envs.statistics(coin, games, 1)
    assert found["episodic_length"] == 1 and found["invalid_actions"] == 0.5 and "score" not in found
    assert (coin.score(1), coin.paper_score(1), coin.worst_return(), coin.best_return()) == (None,) * 4
    assert min(coin.max_turns, coin.num_trajectories, coin.num_test_episodes) > 0


def test_four_methods_make_a_task_in_the_terminal(coin, tmp_path):
    code = f"import envs, runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); envs.MODULES['coin'] = 'coin';" \
           "runpy.run_module('coin', run_name='__main__', alter_sys=True)"
    for arguments, shown in (([], "> heads\nreturn "), (["--player", "random"], " in 1 turns, "),
                             (["--player", "random", "--episodes", "20"], "1.000 ± 0.000   paper: –"),
                             (["--dataset-stats", "--num-trajectories", "20"], "20   paper: –")):
        environment = os.environ | {"LMRL_DATA": str(tmp_path / "data")}
        output = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, input="heads\n",
                                capture_output=True, text=True, timeout=60)
        assert output.returncode == 0, output.stderr
        assert shown in output.stdout or shown.replace("> heads", "> tails") in output.stdout
        assert "score" not in output.stdout
    assert [path.name[:10] for path in left_in(tmp_path / "data")] == ["coin-20-0-"]


@every_task
def test_score(env_id):
    env = make(env_id)
    assert [env.score(r) for r in (env.worst, env.data, env.best)] == [0, 50, 100]
    assert [env.paper_score(env.paper[r]) for r in ("worst", "data", "best")] == [0, 50, 100]
    assert env.score((env.worst + env.data) / 2) == pytest.approx(25)
    assert env.score((env.data + env.best) / 2) == pytest.approx(75)
    assert env.score(2 * env.worst - env.data) == pytest.approx(-50)  # shown as it is
    assert env.worst < env.data < env.best


def test_paper_score():
    assert make("maze_fo").paper_score(-83) == make("maze_po").paper_score(-83) == 50
    assert make("maze_po").paper_score(-101) == 0 and make("maze_po").paper_score(-25.75) == 100
    assert make("maze_fo").paper_score(-101 + 4.5) == pytest.approx(12.5)


def test_seeds_are_disjoint():
    assert list(envs.SEEDS) == ["train", "eval", "test"]
    blocks = sorted(envs.SEEDS.values())
    assert all(later - earlier >= 10**9 for earlier, later in zip(blocks, blocks[1:], strict=False))
    assert all(first % 25 == first % 8 == 0 for first in blocks)  # the starts of the mazes, and of the house


@every_task
def test_play(env_id):
    env = make(env_id)
    most = 90 if env_id == "car_dealer" else max(0, env.best)  # there the best is a mean over budgets
    for name, player in env.players().items():
        game = play(env, player, 5)
        assert game == play(env, player, 5), name
        assert env.recognises(game) and len(game.texts) == 2 * len(game.rewards) + 1
        assert len(game.rewards) <= env.max_turns and env.worst <= game.episodic_return <= most


def test_unknown_task_and_options():
    with pytest.raises(ValueError, match="unknown env_id 'chess960'; there are maze_fo"):
        make("chess960")
    with pytest.raises(ValueError, match="maze_fo has no option 'walls'; it has none"):
        make("maze_fo", walls="none")
    with pytest.raises(ValueError, match="wordle has no option 'words'; it has vocabulary, real_duplicates"):
        make("wordle", words="mine.txt")


# --- Terminal ---


def terminal(*arguments, task="maze", text=""):
    command = [sys.executable, "-m", f"envs.{task}", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize(("arguments", "shown"), [
    (("--env-id", "maze_po", "--player", "best", "--seed", "24"), f"> {DOWN}"),  # starts at (7, 6)
    (("--env-id", "maze_fo", "--player", "best", "--seed", "24"), f"> {DOWN}"),
    (("--player", "best", "--episodes", "25"), "return    -6.840"),
    (("--env-id", "maze_po", "--player", "best", "--episodes", "25"), "return    -7.240"),
])
def test_terminal(arguments, shown):
    output = terminal(*arguments)
    assert output.returncode == 0 and " ".join(shown.split()) in " ".join(output.stdout.split()), output.stderr


def test_typed_game():
    output = terminal("--env-id", "maze_po", "--seed", "24", text="move north\nmove down\n").stdout
    walls = describe_walls((7, 6))
    assert output == f"{walls}> {walls}> {describe_walls(GOAL)}return -4 in 2 turns, score 103.9, success\n"
    assert terminal("--env-id", "maze_po", text="move up\n").returncode == 0  # the end of the input ends it


def in_a_terminal(*arguments, task="maze", lines=(), **environment):
    """What a person sees who types the lines; what is typed is part of it."""
    import pty

    ours, theirs = pty.openpty()
    surroundings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", f"envs.{task}", *arguments], cwd=ROOT, stdin=theirs,
                               stdout=theirs, stderr=theirs, env=surroundings | environment)
    os.close(theirs)
    os.write(ours, "".join(f"{line}\n" for line in lines).encode())
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(("task", "arguments", "lines", "sign"), [
    ("maze", ["--seed", "24"], ["move down"], "\033[1;32m@\033[0m"),
    ("wordle", ["--player", "random"], [], "\033[97;100m "),
])
def test_colours_on_a_terminal_alone(task, arguments, lines, sign):
    """Not in a file or a pipe, nor under NO_COLOR, unless it is empty."""
    colours = re.compile(r"\033\[[\d;]*m")
    assert sign in in_a_terminal(*arguments, task=task, lines=lines, NO_COLOR="")
    plain = in_a_terminal(*arguments, task=task, lines=lines, NO_COLOR="1")
    assert not colours.search(plain) and colours.sub("", sign) in plain
    piped = terminal(*arguments, task=task, text="".join(f"{line}\n" for line in lines)).stdout
    assert not colours.search(piped) and colours.sub("", sign) in piped


def test_a_person_is_told_the_rules():
    shown = in_a_terminal("--seed", "24", "--env-id", "maze_po", lines=["", "?", "up", " ", "move down"])
    assert shown.index("? for the rules") < shown.index(describe_walls((7, 6)))
    assert instructions(make("maze_po")) in shown and shown.count("not a valid action") == 1
    assert "return -4 in 2 turns" in shown  # neither the empty lines nor the question mark were actions
    assert "return -8 in 3 turns" in terminal("--seed", "24", "--env-id", "maze_po", text="\n?\nmove down\n").stdout
    watched = in_a_terminal("--seed", "24", "--player", "best")
    assert "?" not in watched


def test_rules_of_a_task_without_instructions(coin):
    sys.modules["coin"].__doc__ = "Guess the side."
    assert envs.terminal.rules(coin) == "Guess the side."


def in_bytes(env_id, *arguments, text=b"", encoding="ascii"):
    """What `--env-id env_id` shows when the terminal's encoding is another than UTF-8."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-m", MODULES[env_id], *arguments], cwd=ROOT, env=environment, input=text,
                          capture_output=True, timeout=60)


@every_task
def test_terminal_without_utf_8(env_id):
    """What its encoding lacks is shown as a question mark."""
    for arguments in (["--help"], ["--env-id", env_id, "--player", "random"],
                      ["--env-id", env_id, "--player", "random", "--episodes", "11"]):
        output = in_bytes(env_id, *arguments)
        assert output.returncode == 0 and output.stdout.isascii() and b"Traceback" not in output.stderr, output.stderr
    assert b"paper: " in output.stdout and b" ? " in output.stdout  # the sign between mean and deviation


TYPED = b"\n".join([b"", b"\xff\xfe", b"\xc3", "é".encode(), b"\xed\xa0\x80", b"\0", b"half a line \xc3"])


@every_task
def test_typed_bytes_that_are_no_text(env_id):
    """Are no action, and do not end the game; the end of the input does, in the middle of a line as well."""
    output = in_bytes(env_id, "--env-id", env_id, text=TYPED, encoding="utf-8")
    assert output.returncode == 0 and not output.stderr, output.stderr
    assert output.stdout.count(b"> ") == min(8, make(env_id).max_turns) and output.stdout.endswith(b"\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\n", "é\n".encode(), b"move", b"\xc3", TYPED])
def test_end_of_typed_input(text, encoding):
    output = in_bytes("maze_po", "--env-id", "maze_po", text=text, encoding=encoding)
    assert output.returncode == 0 and not output.stderr
    assert output.stdout.count(b"> ") == 1 + len(text.split(b"\n")) - (text[-1:] in b"\n")


def test_statistics(tmp_path):
    read(tmp_path / "file.jsonl", "maze_fo", FO, [FO[0]])
    output = terminal("--dataset-stats", "--dataset", str(tmp_path / "file.jsonl")).stdout.split("\n")
    assert [line.split() for line in output[:2]] == [["trajectories", "2", "paper:", "1240"],
                                                     ["success", "0.500", "±", "0.500", "paper:", "0.11"]]


@pytest.mark.parametrize(("arguments", "what"), [
    (("--player", "nobody"), "no player 'nobody'; there are random, data, best"),
    (("--env-id", "wordle"), "--env-id must be one of maze_fo, maze_po"),
    (("--options", "walls", "none"), "maze_fo has no option 'walls'"),
    (("--dataset-stats", "--dataset", "none.jsonl"), "no dataset file none.jsonl"),
    (("--dataset-stats", "--dataset", "LICENSE"), "LICENSE, line 1: expected a maze_fo trajectory"),
])
def test_terminal_errors(arguments, what):
    output = terminal(*arguments)
    assert output.returncode == 1 and output.stderr.startswith("error: ") and what in output.stderr
