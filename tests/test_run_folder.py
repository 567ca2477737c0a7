"""What scripts share besides games: the command line, the folder of a run, and where they can be started."""

import json
import math
import os
import shutil
import subprocess
import sys
import types
from dataclasses import asdict, replace
from typing import get_args

import pytest
import torch

from algos import (
    archer_twenty_questions,
    bc_maze,
    grpo_wordle,
    ilql_wordle,
    mc_twenty_questions,
    online_filtered_bc_text_nav,
    ppo_car_dealer,
)
from envs import EnvId, make, run
from envs.data import load_dataset, minibatches, write_file
from envs.run import ROOT, Run, find_model, is_ours, parse_args, refusing, start_model

SCRIPTS = {"bc_maze": bc_maze, "mc_twenty_questions": mc_twenty_questions, "ilql_wordle": ilql_wordle,
           "online_filtered_bc_text_nav": online_filtered_bc_text_nav, "ppo_car_dealer": ppo_car_dealer,
           "grpo_wordle": grpo_wordle, "archer_twenty_questions": archer_twenty_questions}
scripts = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Where runs and data go instead of the checkout."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    return tmp_path / "runs"


@pytest.fixture
def parse(script, monkeypatch):
    """What the script makes of flags."""

    def parse(*flags):
        monkeypatch.setattr(sys, "argv", ["script.py", *flags])
        return parse_args(script.Args, script.TUNED, script.PAPER, script.__doc__)

    return parse


def refused(function, *args, **kwargs):
    """The sentence that it exits with."""
    try:
        function(*args, **kwargs)
    except SystemExit as stop:
        assert str(stop.code).startswith("error: ") and "\n" not in stop.code
        return stop.code
    pytest.fail("not refused")


def make_run(folder, task="maze_fo", experiment="bc_maze", ours=True, finished=True):
    """A folder like that of a run."""
    place = folder / f"{task}__{experiment}__1"
    (place / "model").mkdir(parents=True)
    (place / "args.json").write_text(json.dumps({"args": {"env_id": task}}))
    (place / "model" / "config.json").write_text(json.dumps({"lmrl_gym_task": task} if ours else {}))
    if not finished:
        shutil.rmtree(place / "model")
    return place


# --- Command line ---


@scripts
@pytest.mark.parametrize("env_id", get_args(EnvId))
def test_the_command_line_wins(script, parse, env_id, monkeypatch):
    """Over TUNED, which is for the models of envs/tiny, and over PAPER, which is for all others."""
    tuned = script.Args(**script.TUNED.get(env_id, {}) | {"env_id": env_id})
    assert parse("--env-id", env_id) == parse(f"--env_id={env_id}") == tuned
    paper = script.Args(env_id=env_id, **{"model": tuned.model} | script.PAPER[env_id])
    assert paper != tuned and parse("--env-id", env_id, "--model", "gpt2") == replace(paper, model="gpt2")
    given = dict(minibatch_size=7, learning_rate=0.5, seed=3, resume=True, max_length=99)
    flags = ["--minibatch-size", "7", "--learning-rate", "0.5", "--seed", "3", "--env-id", env_id, "--resume",
             "--max-length", "99"]
    assert parse(*flags) == replace(tuned, **given)
    assert parse(*flags, "--model", "gpt2") == replace(paper, **given, model="gpt2")


@scripts
def test_the_home_task_is_the_default(script, parse):
    assert parse() == script.Args() and script.Args().env_id == script.__name__.rpartition("_")[2].replace(
        "maze", "maze_fo").replace("nav", "text_nav_fo").replace("dealer", "car_dealer").replace(
        "questions", "twenty_questions")
    with pytest.raises(SystemExit, match="2"):
        parse("--env-id", "no_such_task")


@scripts
def test_tuned_or_paper(script, parse, folder):
    """A run that was trained from a model of envs/tiny is one of ours, one from another is not: default or given."""
    tuned = replace(script.Args(env_id="maze_po"), **script.TUNED.get("maze_po", {}))
    paper = script.Args(env_id="maze_po", **{"model": tuned.model} | script.PAPER["maze_po"])
    template = "runs/{env_id}__mine__{seed}/model"
    place = make_run(folder, "maze_po", "mine")
    for model in (str(place / "model"), "runs/maze_po__mine__1/model", template, "envs/tiny/{env_id}"):
        assert parse("--env-id", "maze_po", "--model", model) == replace(tuned, model=model)
    (place / "model" / "config.json").write_text("{}")
    for model in (str(place / "model"), "runs/maze_po__mine__1/model", template):
        assert parse("--env-id", "maze_po", "--model", model) == replace(paper, model=model)
    if script is not bc_maze:  # whose default is a folder of envs/tiny
        start = make_run(folder, "maze_po", tuned.model.split("__")[1])
        assert parse("--env-id", "maze_po") == tuned
        (start / "model" / "config.json").write_text("{}")
        assert parse("--env-id", "maze_po") == paper


@scripts
@pytest.mark.parametrize("flags, sentence", [
    ("--temperature -1", "--temperature must be at least 0, not -1.0"),
    ("--temperature nan", "--temperature must be at least 0, not nan"),
    ("--temperature inf", "--temperature must be at least 0, not inf"),
    ("--seed -1", "--seed must be at least 0 and at most 4294967295, not -1"),
    ("--seed 4294967296", "--seed must be at least 0 and at most 4294967295, not 4294967296"),
    ("--max-grad-norm 0", "--max-grad-norm must be above 0, not 0.0"),
    ("--learning-rate 0", "--learning-rate must be above 0, not 0.0"),
    ("--learning-rate nan", "--learning-rate must be above 0, not nan"),
    ("--eval-every -1", "--eval-every must be at least 0, not -1"),
    *[(f"--{name} 0", f"--{name} must be at least 1, not 0") for name in (
        "max-length", "max-new-tokens", "num-trajectories", "num-iterations", "minibatch-size", "num-eval-episodes",
        "num-test-episodes", "num-envs")],
    ("--top-fraction 30", "--top-fraction must be above 0 and at most 1, not 30.0"),
    ("--top-fraction 0", "--top-fraction must be above 0 and at most 1, not 0.0"),
    ("--gamma 1.5", "--gamma must be at least 0 and at most 1, not 1.5"),
    ("--gae-lambda -0.1", "--gae-lambda must be at least 0 and at most 1, not -0.1"),
    ("--clip-coef 2", "--clip-coef must be at least 0 and at most 1, not 2.0"),
    ("--expectile nan", "--expectile must be at least 0 and at most 1, not nan"),
    ("--tau 2", "--tau must be at least 0 and at most 1, not 2.0"),
    ("--cql-weight -1", "--cql-weight must be at least 0, not -1.0"),
    ("--beta", "--beta needs a value"),
    ("--beta 1 -2", "--beta must be at least 0, not -2.0"),
    *[(f"--{name} 0", f"--{name} must be at least 1, not 0") for name in (
        "steps-per-iteration", "num-episodes", "update-epochs", "num-groups")],
    ("--group-size 1", "--group-size must be at least 2, not 1"),
    *[(f"--{name} -1", f"--{name} must be at least 0, not -1.0") for name in (
        "vf-coef", "kl-coef", "clip-coef-high", "collapse-margin")],
])
def test_ranges(script, parse, flags, sentence, folder, tmp_path):
    """One sentence, and nothing is written."""
    flags = flags.split()
    if flags[0][2:].replace("-", "_") not in script.Args.__dataclass_fields__:
        pytest.skip("not an argument of this script")
    assert refused(parse, *flags) == f"error: {sentence}"
    assert list(tmp_path.iterdir()) == []


@scripts
def test_every_number_has_a_range(script, parse):
    """Whatever is counted or measured is refused where it is negative or no number."""
    for name, value in asdict(script.Args()).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for bad in ("-3",) if isinstance(value, int) else ("-3", "nan", "inf"):
                assert f"--{name.replace('_', '-')} must be " in refused(parse, f"--{name.replace('_', '-')}", bad)


def test_the_least_and_the_most(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--top-fraction", "1", "--temperature", "0", "--seed", "0", "--eval-every",
                                      "0", "--num-envs", "1", "--max-length", "1"])
    args = parse_args(bc_maze.Args, {}, {}, "")
    assert (args.top_fraction, args.temperature, args.seed, args.eval_every, args.num_envs) == (1, 0, 0, 0, 1)


@scripts
def test_resume_takes_the_arguments_of_the_run(script, parse, folder, monkeypatch):
    """Those that are given win; a damaged file, or that of another script, is said."""
    before = script.Args(env_id="maze_po", minibatch_size=3, max_new_tokens=2, num_iterations=9)
    place = folder / f"maze_po__{before.exp_name}__1"
    place.mkdir(parents=True)
    saved = place / "args.json"
    saved.write_text(json.dumps({"args": asdict(before)}))
    assert parse("--env-id", "maze_po", "--resume") == replace(before, resume=True)
    assert parse("--env-id", "maze_po", "--resume", "--minibatch-size", "5", "--num-iterations", "10") == replace(
        before, resume=True, minibatch_size=5, num_iterations=10)
    assert parse("--env-id", "maze_po").minibatch_size != 3
    saved.write_text(json.dumps({"args": asdict(before) | {"other": 1}}))
    assert "another script" in refused(parse, "--env-id", "maze_po", "--resume")
    for damaged in ("", "{", "{}", "[]", '{"args": 3}'):
        saved.write_text(damaged)
        assert str(place) in refused(parse, "--env-id", "maze_po", "--resume")


# --- The model to start from ---


def test_where_models_are(folder, monkeypatch, tmp_path):
    """runs/ is where LMRL_RUNS says, envs/ in the checkout, from whichever directory; else as given."""
    monkeypatch.chdir(tmp_path)
    args = ppo_car_dealer.Args(env_id="maze_fo", seed=1)
    assert find_model(args) == folder / "maze_fo__bc_maze__1" / "model"
    assert find_model(replace(args, seed=7, env_id="wordle", model="runs/{env_id}__x__{seed}/model")) == (
        folder / "wordle__x__7" / "model")
    assert find_model(replace(args, model="envs/tiny/{env_id}")) == ROOT / "envs" / "tiny" / "maze_fo"
    monkeypatch.setattr(run, "RUNS", tmp_path / "elsewhere")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert str(find_model(replace(args, model="runs/mine"))) == "runs/mine"  # of the directory that one is in
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    assert find_model(replace(args, model="runs/mine")) == tmp_path / "elsewhere" / "mine"
    assert start_model(replace(args, model="gpt2")) == ("gpt2", False)
    assert start_model(replace(args, model="owner/name{x}")) == ("owner/name{x}", False)
    assert start_model(replace(args, model="envs/tiny/{env_id}")) == (str(ROOT / "envs" / "tiny" / "maze_fo"), True)
    for env_id in get_args(EnvId):
        if (ROOT / "envs" / "tiny" / env_id).exists():
            assert is_ours(find_model(replace(args, model="envs/tiny/{env_id}", env_id=env_id)))


@pytest.mark.parametrize("experiment, command", [
    ("bc_maze", "SEEDS=1 bash benchmarks.sh maze_fo bc_maze"),
    ("filtered_bc", "SEEDS=1 bash benchmarks.sh maze_fo filtered_bc"),
    ("mine", "python algos/bc_maze.py --env-id maze_fo --exp-name mine --seed 1"),
])
def test_a_bc_run_that_is_not_there(experiment, command, folder):
    """One sentence with the command that makes it; one that is not finished, or of another task, is no start."""
    args = ppo_car_dealer.Args(env_id="maze_fo", model=f"runs/{{env_id}}__{experiment}__{{seed}}/model")
    place = folder / f"maze_fo__{experiment}__1"
    assert refused(start_model, args) == f"error: there is no model {place / 'model'}; train it first: {command}"
    make_run(folder, experiment=experiment, finished=False)
    command += " --resume" if experiment == "mine" else ""
    assert refused(start_model, args) == (
        f"error: there is no model {place / 'model'}; its run is not finished; resume it: {command}")
    shutil.rmtree(place)
    make_run(folder, experiment=experiment)
    assert start_model(args) == (str(place / "model"), True)
    (place / "model" / "model.safetensors").touch()
    assert start_model(args) == (str(place / "model"), False)
    for ours in (True, False):
        other = make_run(folder, "maze_po", experiment, ours)
        taken = replace(args, model=f"runs/maze_po__{experiment}__1/model")
        assert refused(start_model, taken) == f"error: --model {other / 'model'} is a model of maze_po, not of maze_fo"
        shutil.rmtree(other)
    (place / "args.json").write_text("{")
    assert str(place) in refused(start_model, args)


@scripts
def test_a_missing_bc_run_is_said_before_any_work(script, parse, folder, tmp_path):
    """And of the models of envs/tiny another task's."""
    flags = ["--env-id", "maze_fo", "--device", "cpu"]
    if script is bc_maze:
        flags += ["--model", "envs/tiny/maze_po"]
    sentence = refused(script.main, parse(*flags))
    expected = "is a model of maze_po, not of maze_fo" if script is bc_maze else "benchmarks.sh maze_fo bc_maze"
    assert sentence.endswith(expected) and list(tmp_path.iterdir()) == []


# --- The folder ---


@pytest.fixture
def args():
    return bc_maze.Args(num_trajectories=5, device="cpu", num_iterations=2, num_test_episodes=1, max_length=9)


@pytest.fixture
def begun(args):
    """The folder of a run of which one iteration is trained."""
    return train(args, 1)


def log_steps(started, *steps):
    for losses in steps:
        batch = types.SimpleNamespace(ids=torch.zeros(2, 5), padding=torch.tensor(0.25))
        started.log_piece({name: torch.tensor(value) for name, value in losses.items()}, 1.0, batch)
        started.log_step(grad_norm=torch.tensor(1.0))


def played():
    """An episode, of which only the text matters here."""
    return [types.SimpleNamespace(trajectory=next(load_dataset(make("maze_fo"), None, 1)))]


def train(args, iteration, env=None):
    started = Run(args, env or make("maze_fo"))
    started.begin(iteration - 1)
    log_steps(started, {"a": 1.0})
    started.log(iteration, 5 * iteration, {"charts/x": iteration})
    started.write("last.pt", lambda path: path.write_text(str(iteration)))
    started.file_lock.release(force=True)
    return started.folder


def test_log(args, capsys):
    """The mean over the gradient steps; a line with the run's name, a row in metrics.jsonl, and one to wandb."""
    started = Run(args, make("maze_fo"))
    started.begin()
    tracked = []
    started.wandb = types.SimpleNamespace(log=tracked.append)
    log_steps(started, {"a": 1.0, "b": 0.5}, {"a": 2.0, "b": 0.5})
    started.log(1, 7, {"eval/score": 3})
    started.log(2, 8, {"test/episodic_return": -2.0, "test/episodic_return_se": 0.5, "perf/x": 1.0})
    rows = [json.loads(line) for line in (started.folder / "metrics.jsonl").read_text().splitlines()]
    assert tracked == rows
    assert min(row.pop("charts/minutes") for row in rows) >= 0 and rows[0].pop("charts/SPS") > 0
    assert rows[0].pop("perf/train_tokens_per_second") > 0
    assert rows == [{"iteration": 1, "global_step": 7, "losses/a": 1.5, "losses/b": 0.5, "perf/padding": 0.25,
                     "losses/grad_norm": 1.0, "eval/score": 3.0},
                    {"iteration": 2, "global_step": 8, "test/episodic_return": -2.0, "test/episodic_return_se": 0.5,
                     "perf/x": 1.0}]
    shown = [line.partition("  minutes")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["maze_fo__bc_maze__1: iteration 1  global_step 7  a 1.5  b 0.5  grad_norm 1  eval/score 3",
                     "maze_fo__bc_maze__1: iteration 2  global_step 8  test/episodic_return -2 ± 0.5"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_of_what_is_not_finite(args, value):
    started = Run(args, make("maze_fo"))
    started.begin()
    before = (started.folder / "metrics.jsonl").read_bytes()
    assert refused(started.log, 4, 1, {"eval/score": value}).startswith(f"error: eval/score is {value} in iteration 4;")
    log_steps(started, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": value}, {"a": value})
    assert refused(started.log, 4, 1, {}).startswith(f"error: losses/b is {value} in gradient step 2 of iteration 4;")
    assert (started.folder / "metrics.jsonl").read_bytes() == before and started.rows == []


def test_begin_keeps_what_the_checkpoint_has(args, begun):
    """The log line of an iteration whose checkpoint is missing goes, and what was logged after the training."""
    resumed = Run(replace(args, resume=True), make("maze_fo"))
    rows = resumed.rows
    minutes = rows[0]["charts/minutes"]
    with (begun / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(rows[0] | {"iteration": 2}) + "\n")
        file.write(json.dumps({"iteration": 1, "eval/beta": 2.0}) + "\n")
        file.write(json.dumps({"iteration": 1, "test/episodic_return": 2.0}) + '\n{"iteration": 3, "glo')
    resumed.file_lock.release(force=True)
    resumed = Run(replace(args, resume=True), make("maze_fo"))
    assert len(resumed.rows) == 4 and not resumed.finished
    resumed.begin(1)
    assert [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()] == rows
    resumed.log(2, 10, {})
    assert resumed.rows[-1]["charts/minutes"] >= minutes


def test_a_run_is_not_overwritten(args, begun):
    before = (begun / "metrics.jsonl").read_bytes(), (begun / "last.pt").read_bytes()
    assert refused(Run, args, make("maze_fo")) == (
        f"error: {begun} holds a run: continue it with --resume, name another --exp-name or --seed, "
        "or delete the folder")
    (begun / "model").mkdir()
    (begun / "last.pt").rename(begun / "other.pt")  # its checkpoint is deleted, to save room
    assert "holds a run" in refused(Run, args, make("maze_fo"))
    assert "last.pt" in refused(Run, replace(args, resume=True), make("maze_fo"))
    assert ((begun / "metrics.jsonl").read_bytes(), (begun / "other.pt").read_bytes()) == before


def test_a_folder_without_a_checkpoint_is_used_again(args, begun):
    """With and without --resume: whatever stopped the run before its first checkpoint stands in nobody's way."""
    (begun / "last.pt").unlink()
    (begun / "args.json").write_text("{")
    for resume in (False, True):
        started = Run(replace(args, resume=resume, learning_rate=0.5), make("maze_fo"))
        started.begin()
        assert (begun / "metrics.jsonl").read_text() == "" and not started.finished
        started.file_lock.release(force=True)


@pytest.mark.parametrize("file, content", [("args.json", None), ("args.json", ""), ("args.json", "{}"),
                                           ("args.json", '{"args": {}}'), ("metrics.jsonl", "x\n")])
def test_a_damaged_folder(args, begun, file, content):
    (begun / file).unlink()
    if content is not None:
        (begun / file).write_text(content)
    assert f"{begun} cannot be resumed" in refused(Run, replace(args, resume=True), make("maze_fo"))


def test_two_runs_at_once(args, folder):
    """The second is refused, with and without --resume, and when the first has not begun to write."""
    held = folder / "maze_fo__bc_maze__1"
    held.mkdir(parents=True)
    code = ("import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
            "print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(held / ".lock")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        for resume in (False, True):
            assert "is in use by another process" in refused(Run, replace(args, resume=resume), make("maze_fo"))
        for file in ("last.pt", "args.json", "metrics.jsonl"):
            (held / file).write_text("")
        assert "is in use by another process" in refused(Run, args, make("maze_fo"))
        before = {path: path.read_bytes() for path in held.iterdir()}
        other.stdin.close()
        other.wait()
    assert before == {path: path.read_bytes() for path in held.iterdir()}
    for file in ("last.pt", "args.json", "metrics.jsonl"):
        (held / file).unlink()
    first = Run(args, make("maze_fo"))
    first.begin()
    assert "is in use" in refused(Run, args, make("maze_fo"))


def test_two_new_runs_at_once(args, folder):
    """Neither finds a folder; the first to ask for data has it."""
    first, second = Run(args, make("maze_fo")), Run(args, make("maze_fo"))
    assert not folder.exists()
    assert len(first.load_games()) == 5
    assert "is in use" in refused(second.load_games) and "is in use" in refused(second.begin)


class Engine(make("maze_fo").__class__):
    """A maze with an opponent."""

    __module__ = "envs.maze"

    def __init__(self, opponent):
        super().__init__("maze_fo")
        self.opponent = opponent

    def about(self):
        return {"opponent": self.opponent, "depth": 5}


def finish(args, env=None):
    """A finished run of two iterations."""
    folder = train(args, 1, env)
    train(replace(args, resume=True), 2, env)
    finishing = Run(replace(args, resume=True), env or make("maze_fo"))
    finishing.begin(2)
    finishing.write("model", lambda path: path.mkdir())
    finishing.log(2, 10, {"test/episodic_return": 1.0})
    finishing.save_games(played())
    finishing.file_lock.release(force=True)
    return folder


def test_what_may_change(args, folder):
    """Of a run that is not finished the opponent must be the same, and of each argument it says what has changed."""
    place = train(args, 1, Engine("Stockfish 16"))
    resumed = replace(args, resume=True)
    sentence = refused(Run, resumed, Engine("Stockfish 17"))
    assert "opponent was 'Stockfish 16', is 'Stockfish 17'" in sentence and "depth" not in sentence
    for name, value in dict(device="cuda:1", track=False, num_iterations=7).items():
        Run(replace(resumed, **{name: value}), Engine("Stockfish 16")).file_lock.release(force=True)
    for name, value in dict(learning_rate=0.5, temperature=0.0, env_options={"a": "b"}, num_trajectories=6,
                            model="x").items():
        sentence = refused(Run, replace(resumed, **{name: value}), Engine("Stockfish 16"))
        assert f"{name} was {getattr(args, name)!r}, is {value!r}" in sentence
    assert "num_iterations" not in sentence and place.exists()


def test_a_finished_run_is_read_only(args):
    """Another opponent, other settings of the test: nothing is written, and two may do so at once."""
    folder = finish(args, Engine("Stockfish 16"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    resumed = replace(args, resume=True)
    for name, value in dict(temperature=0.0, num_test_episodes=3, num_envs=2, env_options={"a": "b"}, track=True,
                            device="cuda:3").items():
        again = Run(replace(resumed, **{name: value}), Engine("Stockfish 17"))
        assert again.finished and again.load_games() == []
        again.begin(2)
        again.write("last.pt", lambda path: path.write_text("x"))
        again.log(2, 10, {"test/episodic_return": 3.0})
        again.save_games(played())
    assert "learning_rate was 0.001, is 0.5" in refused(Run, replace(resumed, learning_rate=0.5), make("maze_fo"))
    assert "num_iterations is 1, and there have been 2" in refused(
        Run, replace(resumed, num_iterations=1), Engine("Stockfish 16"))
    more = Run(replace(resumed, num_iterations=3), Engine("Stockfish 16"))
    assert not more.finished
    more.file_lock.release(force=True)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {path: time for path, time in after.items() if path.name != ".lock"} == {
        path: time for path, time in before.items() if path.name != ".lock"}


@pytest.mark.parametrize("missing", ["model", "episodes.jsonl", "metrics.jsonl"])
def test_a_run_that_lost_something_is_not_finished(args, missing):
    folder = finish(args)
    (shutil.rmtree if missing == "model" else os.remove)(folder / missing)
    assert not Run(replace(args, resume=True), make("maze_fo")).finished


def test_a_data_file(args, tmp_path):
    """Is named with its content: of an unfinished run it must not change, and a finished one does without it."""
    path = tmp_path / "games.jsonl"
    games = list(load_dataset(make("maze_fo"), None, 5))
    args = replace(args, dataset=str(path), num_trajectories=None)
    assert refused(Run, args, make("maze_fo")) == f"error: --dataset {path}: no dataset file {path}"
    assert not run.RUNS.exists()
    write_file(make("maze_fo"), games, path)
    folder = train(args, 1)
    assert json.loads((folder / "args.json").read_text())["data"].startswith("games.jsonl ")
    resumed = replace(args, resume=True)
    write_file(make("maze_fo"), games[:4], path)
    assert "something has changed: data was 'games.jsonl " in refused(Run, resumed, make("maze_fo"))
    write_file(make("maze_fo"), games, path)
    shutil.rmtree(folder)
    finish(args)
    path.unlink()
    assert Run(resumed, make("maze_fo")).finished


def test_a_faulty_data_file(args, tmp_path):
    path = tmp_path / "games.jsonl"
    path.write_text('{"texts": 3}\n')
    started = Run(replace(args, dataset=str(path)), make("maze_fo"))
    assert refused(started.load_games).startswith(f"error: --dataset {path}: {path}, line 1: expected a maze_fo ")


def test_refusing(capsys):
    """Says what and the first line of why; a signal and an exit pass."""

    def fail(error):
        with refusing("cannot go on"):
            raise error

    assert refused(fail, ValueError("\n one\n two")) == "error: cannot go on: one"
    assert refused(fail, KeyError()) == "error: cannot go on: KeyError"
    for error in (KeyboardInterrupt, SystemExit(3)):
        with pytest.raises(type(error) if isinstance(error, SystemExit) else error):
            fail(error)
    with pytest.raises(SystemExit) as stop:
        fail(SystemExit(3))
    assert stop.value.code == 3


def test_files_are_written_aside(args):
    """What fails leaves the file that was there."""
    started = Run(args, make("maze_fo"))
    started.begin()
    started.write("last.pt", lambda path: path.write_text("good"))

    def fail(path):
        path.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError):
        started.write("last.pt", fail)
    assert (started.folder / "last.pt").read_text() == "good"
    assert {path.name for path in started.folder.iterdir()} == {"last.pt", "args.json", "metrics.jsonl", ".lock"}


def test_collapse(args):
    """Returns that stay far below the first ones stop the run; the signal that moved first is named."""
    started = Run(args, make("maze_fo"))
    started.begin()

    def log(iteration, value, entropy):
        metrics = {"charts/episodic_return": value, "charts/episodic_return_se": 0.5}
        log_steps(started, {"entropy": float(entropy)})
        started.log(iteration, iteration, metrics)
        started.stop_if_collapsed(2.0, patience=3)

    for iteration, value, entropy in ((1, 10, 2), (2, 8.9, 2), (3, 8.9, 0.5), (4, 9, 0.1), (5, 8.9, 0.1), (6, 8, 0.1)):
        log(iteration, value, entropy)
    assert "losses/entropy moved first, from 2 to 0.5 in 3" in refused(log, 7, 8.9, 0.1)


def test_wandb(args, monkeypatch, folder):
    """--track sends arguments and rows there; without the package, or a login, it says so."""
    calls = []
    fake = types.SimpleNamespace(init=lambda **options: calls.append(options), log=calls.append,
                                 define_metric=lambda name, step_metric: calls.append((name, step_metric)))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    started = Run(replace(args, track=True), make("maze_fo"))
    started.begin()
    started.log(1, 3, {"charts/x": 1.0})
    assert calls[0]["name"] == calls[0]["id"] == "maze_fo__bc_maze__1" and calls[0]["resume"] == "allow"
    assert calls[0]["config"]["num_iterations"] == 2 and calls[0]["dir"] == started.folder
    assert calls[1] == ("*", "global_step") and calls[2]["global_step"] == 3
    started.file_lock.release(force=True)

    def init(**options):
        raise RuntimeError("no API key\nsee wandb login")

    fake.init = init
    assert refused(Run(replace(args, track=True), make("maze_fo")).begin) == "error: --track: no API key"
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "error: --track: " in refused(Run, replace(args, track=True, seed=2), make("maze_fo"))
    assert not (folder / "maze_fo__bc_maze__2").exists()


def test_wandb_offline(args, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    started = Run(replace(args, track=True), make("maze_fo"))
    started.begin()
    started.log(1, 3, {"charts/x": 1.0})
    started.wandb.finish()
    assert list((started.folder / "wandb").glob("offline-run-*"))
    assert not (tmp_path / "wandb").exists()


def test_no_git(monkeypatch, tmp_path):
    assert run.commit() == "" or len(run.commit().removesuffix("-dirty")) == 12
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.commit() == ""


# --- Minibatches ---


@pytest.mark.parametrize("lengths", [[5] * 23, [*range(1, 24)], [1] * 22 + [100]])
def test_minibatches(lengths):
    """None twice before all are used once, but for those that fill no minibatch; a function of the seed."""
    batches = minibatches(lengths, 4, 12, (1, 2))
    assert len(batches) == 12 and {len(batch) for batch in batches} == {4}
    for epoch in (batches[:5], batches[5:10], batches[10:]):
        used = [i for batch in epoch for i in batch]
        assert len(set(used)) == len(used) and set(used) <= set(range(23))
    left_out = [set(range(23)) - {i for batch in epoch for i in batch} for epoch in (batches[:5], batches[5:10])]
    assert left_out[0] != left_out[1] and len(left_out[0]) == len(left_out[1]) == 3
    assert batches == minibatches(lengths, 4, 12, (1, 2)) != minibatches(lengths, 4, 12, (1, 3))
    assert minibatches(lengths, 4, 3, (1, 2)) != batches[:3] or len(set(lengths)) == 1
    assert [sorted(batch) for batch in minibatches(lengths[:3], 4, 2, (1, 2))] == [[0, 1, 2]] * 2


def test_minibatches_spare_padding():
    lengths = [10 * (i % 10) + 1 for i in range(200)]

    def padded(batches):
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    batches = minibatches(lengths, 20, 10, (0, 0))
    assert padded(batches) == sum(lengths)
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))  # in no order that the optimiser would see
    similar = [90 + i % 10 for i in range(200)]
    assert len({similar[i] for i in minibatches(similar, 20, 10, (0, 0))[0]}) > 3


# --- Where scripts can be started ---


def test_a_bare_machine(tmp_path):
    """A read-only checkout, another directory, no git, a terminal that knows ASCII only, no bars; file and module."""
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.jsonl")
    for name in ("algos", "envs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    files = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    for path in files:  # the superuser may write to them nevertheless: that no file has changed is checked as well
        path.chmod(0o555 if path.is_dir() else 0o444)
    checkout.chmod(0o555)
    there = tmp_path / "there"
    there.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LMRL", "PYTHON"))}
    environment |= {"PATH": str(there), "PYTHONIOENCODING": "ascii", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1",
                    "PYTHONDONTWRITEBYTECODE": "1", "LMRL_DATA": str(tmp_path / "data"),
                    "LMRL_RUNS": str(tmp_path / "runs")}
    flags = ["--env-id", "maze_fo", "--device", "cpu", "--num-iterations", "1",
             "--minibatch-size", "4", "--eval-every", "0", "--num-test-episodes", "2", "--num-envs", "2"]

    def start(command, **options):
        result = subprocess.run([sys.executable, *command, *flags], cwd=there, capture_output=True, text=True,
                                env=environment | options)
        assert result.returncode == 0, result.stderr
        assert "episodic_return -3" in result.stdout and " ? " in result.stdout and "±" not in result.stdout
        assert "playing" not in result.stderr

    try:
        start([str(checkout / "algos" / "bc_maze.py"), "--steps-per-iteration", "2", "--num-trajectories", "50"])
        start(["-m", "algos.ppo_car_dealer", "--num-episodes", "4"], PYTHONPATH=str(checkout))
        assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == files and list(there.iterdir()) == []
    finally:
        for path in (checkout, *[path for path in files if path.is_dir()]):
            path.chmod(0o755)
    for name in ("bc_maze", "ppo_car_dealer"):
        about = json.loads((tmp_path / "runs" / f"maze_fo__{name}__1" / "args.json").read_text())
        assert about["commit"] == "" and about["args"]["max_new_tokens"] == 1
