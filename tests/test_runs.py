"""Whole runs of the scripts, tiny ones: resuming, testing again, what is saved; and behaviour cloning itself."""

import json
import math
import random
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedTokenizerFast

from algos import (
    archer_twenty_questions,
    bc_maze,
    grpo_wordle,
    ilql_wordle,
    mc_twenty_questions,
    online_filtered_bc_text_nav,
    ppo_car_dealer,
)
from envs import SEEDS, Trajectory, make, maze, run
from envs.data import load_dataset, load_shuffled, read_file, write_file
from envs.run import Run

SCRIPTS = {"bc_maze": bc_maze, "mc_twenty_questions": mc_twenty_questions, "ilql_wordle": ilql_wordle,
           "online_filtered_bc_text_nav": online_filtered_bc_text_nav, "ppo_car_dealer": ppo_car_dealer,
           "grpo_wordle": grpo_wordle, "archer_twenty_questions": archer_twenty_questions}
# They learn from games that they play.
ONLINE = ("online_filtered_bc_text_nav", "ppo_car_dealer", "grpo_wordle", "archer_twenty_questions")
CRITIC = ("mc_twenty_questions", "ilql_wordle", "ppo_car_dealer", "archer_twenty_questions")  # they leave one
# One call a gradient step; of ArCHer, a gradient step of the critic.
LOSS = {"bc_maze": "bc_loss", "mc_twenty_questions": "mc_loss", "ilql_wordle": "ilql_losses",
        "online_filtered_bc_text_nav": "bc_loss", "ppo_car_dealer": "ppo_loss",
        "grpo_wordle": "grpo_loss", "archer_twenty_questions": "critic_losses"}
WEIGHTS = {"bc_maze": {"policy"}, "mc_twenty_questions": {"critic"}, "ilql_wordle": {"critic", "target"},
           "online_filtered_bc_text_nav": {"policy"}, "ppo_car_dealer": {"policy", "value_model"},
           "grpo_wordle": {"policy"}, "archer_twenty_questions": {"policy", "critic", "target"}}
SMALL = ["--env-id", "maze_fo", "--device", "cpu", "--max-length", "48", "--num-iterations", "3", "--minibatch-size",
         "8", "--eval-every", "2", "--num-eval-episodes", "3", "--num-test-episodes", "5", "--num-envs", "3"]
OFFLINE = ["--num-trajectories", "50", "--steps-per-iteration", "2"]
PLAYED = ["--num-episodes", "8", "--update-epochs", "2", "--learning-rate", "0.01"]
OWN = {"bc_maze": OFFLINE, "mc_twenty_questions": [*OFFLINE, "--beta", "1", "300"],
       "ilql_wordle": [*OFFLINE, "--beta", "1", "300", "--tau", "0.1"],
       "online_filtered_bc_text_nav": PLAYED, "ppo_car_dealer": PLAYED,
       "grpo_wordle": ["--num-groups", "2", "--group-size", "4", "--update-epochs", "2", "--learning-rate", "0.01"],
       "archer_twenty_questions": ["--num-episodes", "8", "--critic-steps", "2", "--warmup-iterations", "1",
                                   "--buffer-size", "12", "--learning-rate", "0.01"]}
scripts = pytest.mark.parametrize("name", SCRIPTS)
offline_scripts = pytest.mark.parametrize("name", ["bc_maze", "mc_twenty_questions", "ilql_wordle"])  # from data
STEERED = "mc_twenty_questions", "ilql_wordle"  # a critic steers a policy that stays what it was
steered_scripts = pytest.mark.parametrize("name", STEERED)


class Killed(BaseException):
    """Like a signal, it passes all that catches errors."""


def use_folder(patch, folder):
    """Let runs and data go there, and mazes end soon."""
    patch.setattr(run, "RUNS", folder / "runs")
    patch.setattr("envs.data.DATA_DIR", folder / "data")
    patch.setattr(maze, "MAX_MOVES", 5)


def command(patch, name, *flags):
    """Run the script with the flags, as its last lines do; returns the sentence that it exits with, or None."""
    script = SCRIPTS[name]
    patch.setattr(sys, "argv", [f"algos/{name}.py", *flags])
    try:
        script.main(run.parse_args(script.Args, script.TUNED, script.PAPER, script.__doc__))
    except SystemExit as stop:
        return str(stop.code)
    return None


def kill_after(patch, owner, function, condition):
    """Let the process die after a call of the function whose arguments are so."""
    original = getattr(owner, function)

    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        if condition(*args, **kwargs):
            raise Killed
        return result

    patch.setattr(owner, function, call)


def rows_of(folder):
    """The rows that a run logged, without what depends on the machine's speed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items()
             if not key.startswith("perf/") and key not in ("charts/SPS", "charts/minutes")} for row in rows]


def assert_same(a, b):
    """Two checkpoints, bit for bit, but for how long something took."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if not str(key).startswith("perf/"):
                assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(folder, other):
    """Bit for bit, but for the times."""
    assert rows_of(folder) == rows_of(other)
    assert (folder / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    assert names == {path.relative_to(other) for path in other.rglob("*")}
    for name in names:
        if name.suffix == ".pt":
            assert_same(*[torch.load(x / name, weights_only=True) for x in (folder, other)])
        elif name.suffix == ".safetensors":
            assert (folder / name).read_bytes() == (other / name).read_bytes()
    args = [json.loads((x / "args.json").read_text()) for x in (folder, other)]
    assert args[0]["args"].pop("resume") in (True, False) and args[1]["args"].pop("resume") in (True, False)
    assert args[0] == args[1]


def state_of(folder):
    """Content and time of all files."""
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


class Home(NamedTuple):
    """A folder with a finished run of each script."""

    runs: Path
    data: Path
    flags: dict[str, list[str]]  # the runs were started with
    policies: dict[str, nn.Module]  # as they were saved

    def run(self, name):
        return self.runs / f"maze_fo__{name}__1"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    small = folder / "small"
    shutil.copytree(run.ROOT / "envs" / "tiny" / "maze_fo", small)
    config = json.loads((small / "config.json").read_text())
    config |= dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    (small / "config.json").write_text(json.dumps(config))
    home = Home(folder / "runs", folder / "data", {}, {})
    save_model = Run.save_model
    with pytest.MonkeyPatch.context() as patch:
        use_folder(patch, folder)
        for name in SCRIPTS:
            def save(self, policy, *rest, name=name):
                home.policies[name] = policy
                save_model(self, policy, *rest)

            patch.setattr(Run, "save_model", save)
            model = small if name == "bc_maze" else home.run("bc_maze") / "model"
            home.flags[name] = [*SMALL, *OWN[name], "--model", str(model)]
            assert command(patch, name, *home.flags[name]) is None
    return home


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, home):
    """Where this test's runs go; the data is there already."""
    use_folder(monkeypatch, tmp_path)
    monkeypatch.setattr("envs.data.DATA_DIR", home.data)
    return tmp_path / "runs"


@pytest.fixture
def flags(name, home):
    return home.flags[name]


@pytest.fixture
def here(name, folder):
    """Where the script's run goes in this test."""
    return folder / f"maze_fo__{name}__1"


@pytest.fixture
def finished(name, home, here):
    """A copy of the script's finished run."""
    shutil.copytree(home.run(name), here)
    return here


# --- Resuming ---


@scripts
def test_a_resumed_run_equals_an_uninterrupted_one(name, flags, home, here, monkeypatch):
    """Wherever it was killed: one run, killed at each of these places and resumed."""
    script = SCRIPTS[name]
    calls = []
    places = {
        "in the first iteration": (script, LOSS[name], lambda *_: True),
        "between the first log line and its checkpoint": (Run, "log", lambda run, iteration, *_: iteration == 1),
        "after the first checkpoint": (Run, "write", lambda run, file, _: file == "last.pt"),
        "in the second iteration": (script, LOSS[name], lambda *_: calls.append(1) or len(calls) == 2),
        "between the last log line and its checkpoint": (Run, "log", lambda run, iteration, *_: iteration == 3),
        "after the last checkpoint": (Run, "write", lambda run, file, _: file == "last.pt"),
        "after the second trial of beta": (script, "play_games", lambda *args: calls.append(1) or len(calls) == 4),
        "in the test": (script, "rollout", lambda reader, envs, seeds, *_: seeds[0] == SEEDS["test"]),
        "after the test's log line": (Run, "log", lambda run, n, step, metrics, *_: "test/episodic_return" in metrics),
        "after the model": (Run, "save_model", lambda *_: True),  # not quite killed: the test follows nevertheless
    }
    if name not in STEERED:
        del places["after the second trial of beta"]
    for place, (owner, function, condition) in places.items():
        with monkeypatch.context() as patch:
            kill_after(patch, owner, function, condition)
            with pytest.raises(Killed):
                command(patch, name, *flags, "--resume")
                pytest.fail(f"not killed {place}")
    assert command(monkeypatch, name, *flags, "--resume") is None
    assert_same_run(home.run(name), here)


@scripts
def test_more_iterations(name, flags, home, here, monkeypatch):
    """The same seed gives the same run; a finished one that is given more iterations is as if it had had them at once.

    But for the offline scripts: there, the rate falls in each step, by how many there are to be. Not fewer than it has
    had.
    """
    rows = rows_of(home.run(name))
    assert command(monkeypatch, name, *flags, "--seed", "2", "--num-iterations", "1") is None
    other = rows_of(here.with_name(f"maze_fo__{name}__2"))
    assert other[0]["iteration"] == 1 and other[0] != rows[0]
    assert command(monkeypatch, name, *flags, "--num-iterations", "1") is None
    assert (rows_of(here)[0] == rows[0]) == (name in ONLINE) and "test/episodic_return" in rows_of(here)[-1]
    assert command(monkeypatch, name, "--env-id", "maze_fo", "--resume", "--num-iterations", "3") is None
    if name in ONLINE:
        assert_same_run(home.run(name), here)
    else:
        rates = [[row.get("charts/learning_rate") for row in run] for run in (rows, rows_of(here))]
        assert rates[0][1:] == rates[1][1:] and rates[0][0] > rates[1][0]
    before = state_of(here)
    refused = command(monkeypatch, name, "--env-id", "maze_fo", "--resume", "--num-iterations", "2")
    assert "num_iterations is 2, and there have been 3" in refused and before == state_of(here)


class OtherMaze(maze.ENV):
    """A maze that has options."""

    __module__ = maze.__name__

    def __init__(self, env_id, opponent="weak"):
        super().__init__(env_id)
        self.opponent = opponent

    def about(self):
        return {"opponent": self.opponent}


@scripts
def test_a_finished_run_is_tested_again(name, finished, monkeypatch, capsys):
    """With other settings of the test, if asked; whatever it is, no file changes."""
    before = state_of(finished)
    logged = rows_of(finished)[-1]
    resume = ["--env-id", "maze_fo", "--resume"]
    assert command(monkeypatch, name, *resume) is None
    shown = capsys.readouterr().out
    found = f"global_step {logged['global_step']}  test/episodic_return {logged['test/episodic_return']:.4g} ±"
    assert f"iteration 3  {found}" in shown and "The first game of the test:\nThe goal is" in shown
    games = []
    kept = Run.save_games
    monkeypatch.setattr(Run, "save_games", lambda self, found: (
        games.append([episode.trajectory for episode in found]), kept(self, found)))
    other = [*resume, "--temperature", "0", "--num-test-episodes", "7"]
    for flags in (other, [*other, "--num-envs", "2"]):
        assert command(monkeypatch, name, *flags) is None
    assert games[0] == games[1] and len(games[0]) == 7  # greedily, it does not matter how many play side by side
    monkeypatch.setattr(maze, "ENV", OtherMaze)
    assert command(monkeypatch, name, *resume, "--env-options", "opponent", "strong") is None
    assert len(games[2]) == 5
    assert state_of(finished) == before


@scripts
def test_other_arguments(name, finished, monkeypatch):
    """Are refused, each with its name, before anything is written: of a finished run and of one that is not."""
    given = ["--env-id", "maze_fo", "--resume", "--learning-rate", "0.5", "--max-new-tokens", "7"]
    before = state_of(finished)
    refused = command(monkeypatch, name, *given, "--temperature", "0.5")
    was = SCRIPTS[name].Args().learning_rate if name not in ONLINE else 0.01
    assert f"max_new_tokens was 1, is 7; learning_rate was {was}, is 0.5" in refused
    assert "temperature" not in refused and state_of(finished) == before
    (finished / "episodes.jsonl").unlink()
    before = {path: value for path, value in state_of(finished).items() if path.name != ".lock"}
    refused = command(monkeypatch, name, *given, "--temperature", "0.5")
    assert f"max_new_tokens was 1, is 7; learning_rate was {was}, is 0.5; " in refused
    assert "temperature was 1.0, is 0.5" in refused
    monkeypatch.setattr(maze, "ENV", OtherMaze)
    refused = command(monkeypatch, name, "--env-id", "maze_fo", "--resume")
    assert "opponent was None, is 'weak'" in refused
    assert ("data was 'maze_fo-50-0-" in refused) == (name not in ONLINE)
    assert before == {path: value for path, value in state_of(finished).items() if path.name != ".lock"}


@scripts
def test_another_model_to_start_from(name, home, finished, monkeypatch):
    """The run is not resumed with it: what is learned or played would be another thing."""
    before = state_of(finished)
    config = Path(home.flags[name][-1]) / "config.json"
    text = config.read_text()
    try:
        config.write_text(text + "\n")
        refused = command(monkeypatch, name, "--env-id", "maze_fo", "--resume")
    finally:
        config.write_text(text)
    assert re.search("start_model was '[0-9a-f]{16}', is '[0-9a-f]{16}'$", refused) and state_of(finished) == before
    assert command(monkeypatch, name, "--env-id", "maze_fo", "--resume") is None


# --- What is logged and saved ---


@scripts
def test_metrics(name, home):
    """The names are those of all scripts, and the values are finite."""
    rows = [json.loads(line) for line in (home.run(name) / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    trained = [row for row in rows if "losses/grad_norm" in row]
    assert [row["iteration"] for row in trained] == [1, 2, 3] and rows[:3] == trained
    assert ["eval/score" in row for row in trained] == [False, True, False]
    results = {"episodic_return", "episodic_return_se", "episodic_length", "score", "success", "invalid_actions",
               "cut_observations"}
    always = {"iteration", "global_step", "charts/minutes"}
    losses = {"bc_maze": {"bc_loss"}, "mc_twenty_questions": {"loss", "q_loss", "cql_loss", "q"},
              "ilql_wordle": {"loss", "q_loss", "v_loss", "cql_loss", "v"}, "online_filtered_bc_text_nav": {"bc_loss"},
              "ppo_car_dealer": {"policy_loss", "value_loss", "approx_kl", "clipfrac", "entropy", "kl_ref"},
              "grpo_wordle": {"policy_loss", "approx_kl", "clipfrac", "entropy", "kl_ref"},
              "archer_twenty_questions": {"loss", "q_loss", "v_loss", "critic_grad_norm", "policy_loss", "entropy"}}
    training = always | {f"losses/{key}" for key in losses[name] | {"grad_norm"}}
    training |= {"charts/SPS", "charts/learning_rate", "perf/train_tokens_per_second", "perf/padding"}
    if name in ONLINE:
        training |= {f"charts/{key}" for key in results | {"episodes"}}
    if name == "online_filtered_bc_text_nav":
        training |= {"charts/passed", "charts/kept"}
    if name == "grpo_wordle":
        training.add("charts/groups_without_signal")
    assert trained[0].keys() - {"perf/rollout_minutes", "perf/rollout_tokens_per_second"} == training
    assert rows[-1].keys() - {"test/beta"} == (
        always | {f"test/{key}" for key in results} | {"perf/rollout_tokens_per_second"})
    steps = [row["global_step"] for row in trained]
    if name in ONLINE:  # turns
        steps = [round(row["charts/episodic_length"] * 8) for row in trained]
        assert [row["charts/episodes"] for row in trained] == [8, 16, 24]
        assert [row["global_step"] for row in trained] == list(np.cumsum(steps))
    else:
        assert steps == [2, 4, 6]


@scripts
def test_gradient_steps(name, flags, here, monkeypatch):
    """The rate of each step, the norm of what is applied; logged are means over the whole iteration."""
    script = SCRIPTS[name]
    steps, losses = [], []
    step = torch.optim.AdamW.step
    loss_function = getattr(script, LOSS[name])

    def watched_step(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        steps.append((optimizer.param_groups[0]["lr"], norm))
        return step(optimizer)

    def watched_loss(*args):
        loss = loss_function(*args)
        losses.append({"bc_loss": loss} if LOSS[name] == "bc_loss" else loss)
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    monkeypatch.setattr(script, LOSS[name], watched_loss)
    limit = 0.01
    assert command(monkeypatch, name, *flags, "--max-grad-norm", str(limit), "--num-iterations", "2") is None
    if name == "archer_twenty_questions":  # after two steps of the critic comes one of the policy
        of_policy = steps.pop(2), steps.pop(4)  # the first iteration is for warming up
        assert of_policy == ((0.0, pytest.approx(limit)), (0.01, pytest.approx(limit)))
    assert len(steps) == len(losses) == 4
    rates = [rate for rate, _ in steps]
    if name == "archer_twenty_questions":
        assert rates == [script.Args().critic_learning_rate] * 4
        rates = [0.0, 0.0, 0.01, 0.01]  # of the policy
    elif name in ONLINE:
        falls = name == "ppo_car_dealer"  # to 0 after the last iteration
        assert rates == ([0.01, 0.01, 0.005, 0.005] if falls else [0.01] * 4)
        limit *= len(WEIGHTS[name]) ** 0.5  # PPO's two models are clipped apart
    else:
        rate = script.Args().learning_rate
        decay = [1, 3 / 4, 2 / 4, 1 / 4]
        assert rates == pytest.approx([rate * (i + 1) / 100 * decay[i] for i in range(4)])
    assert [norm for _, norm in steps] == pytest.approx([limit] * 4, rel=1e-3)
    for i, row in enumerate(rows_of(here)[:2]):
        assert row["charts/learning_rate"] == pytest.approx(rates[2 * i + 1])
        assert row["losses/grad_norm"] > limit
        for key in losses[0]:
            mean = sum(losses[2 * i + k][key].item() for k in (0, 1)) / 2
            assert row[f"losses/{key}"] == pytest.approx(mean), key


@pytest.mark.parametrize("name", ONLINE)
def test_other_games_are_played_in_each_iteration(name, flags, monkeypatch):
    """Training games, at temperature 1; those of validation and test are fixed, and sampled as asked."""
    played = []
    rollout = SCRIPTS[name].rollout

    def watched(reader, envs, seeds, text, args):
        played.append((seeds, args.temperature))
        return rollout(reader, envs, seeds, text, args)

    monkeypatch.setattr(SCRIPTS[name], "rollout", watched)
    for seed in ("1", "2"):
        given = ["--temperature", "0", "--seed", seed, "--num-iterations", "2"]
        assert command(monkeypatch, name, *flags, *given) is None
    kinds = [None, None, SEEDS["eval"], SEEDS["test"]] * 2
    for (seeds, temperature), start in zip(played, kinds, strict=True):
        if start:
            assert seeds[0] == start and temperature == 0
        else:
            assert len(seeds) == 8 and SEEDS["train"] <= seeds[0] and seeds[-1] < SEEDS["eval"] and temperature == 1
    assert len({seeds[0] for seeds, _ in played}) == 4 + 2


@offline_scripts
def test_other_minibatches_in_each_iteration(name, flags, monkeypatch):
    """And with each seed; they are drawn from all games that were encoded."""
    drawn = []
    minibatches = SCRIPTS[name].minibatches

    def watched(*args):
        drawn.append((args, minibatches(*args)))
        return drawn[-1][1]

    monkeypatch.setattr(SCRIPTS[name], "minibatches", watched)
    for seed in ("1", "2"):
        assert command(monkeypatch, name, *flags, "--seed", seed, "--num-iterations", "2") is None
    assert len({str(batches) for _, batches in drawn}) == len(drawn) == 4
    for (lengths, size, number, seed), _ in drawn:
        assert (len(lengths), size, number) == (50, 8, 2) and seed[0] in (1, 2)


@scripts
def test_games(name, home):
    """Those of the test, in the format of the data and in the order of the seeds; they can be played again."""
    env = make("maze_fo")
    metrics = rows_of(home.run(name))[-1]
    games = list(read_file(env, home.run(name) / "episodes.jsonl"))
    assert len(games) == 5
    assert np.mean([game.episodic_return for game in games]) == pytest.approx(metrics["test/episodic_return"])
    assert np.mean([game.success for game in games]) == pytest.approx(metrics["test/success"])
    assert np.mean([len(game.rewards) for game in games]) == pytest.approx(metrics["test/episodic_length"])
    for seed, game in enumerate(games, SEEDS["test"]):
        assert env.reset(seed)[0] == game.texts[0]
        steps = [env.step(action) for action in game.texts[1::2]]
        assert [step[:2] for step in steps] == list(zip(game.texts[2::2], game.rewards, strict=True))
        assert (steps[-1][2], steps[-1][4]["success"]) == (game.terminated, game.success)


@scripts
def test_the_saved_model(name, home, flags):
    """Loads without the scripts and says the same, with a tokenizer that gives the same ids; and what else is left."""
    folder = home.run(name)
    files = {"args.json", "episodes.jsonl", "last.pt", "metrics.jsonl", "model", ".lock"}
    assert {path.name for path in folder.iterdir()} == files | ({"critic.pt"} if name in CRITIC else set())
    saved = AutoModelForCausalLM.from_pretrained(folder / "model")
    policy = home.policies[name]
    ids = torch.arange(40)[None] % policy.config.vocab_size
    with torch.no_grad():
        assert torch.equal(saved(ids).logits, policy(ids).logits)
    assert (saved.generation_config.max_new_tokens, saved.generation_config.do_sample) == (1, True)
    before, loaded = (AutoTokenizer.from_pretrained(path) for path in (flags[-1], folder / "model"))
    for text in {text for game in load_dataset(make("maze_fo"), None, 50) for text in game.texts} | {"xyz\n", "…"}:
        ids = before.encode(text, add_special_tokens=False)
        assert ids == loaded.encode(text, add_special_tokens=False)
        assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text
    state = torch.load(folder / "last.pt", weights_only=True)
    assert WEIGHTS[name] < state.keys()
    started = AutoModelForCausalLM.from_pretrained(flags[-1]) if name != "bc_maze" else None
    if name in STEERED:
        critic = torch.load(folder / "critic.pt", weights_only=True)
        assert_same(critic["critic"], state["critic"])
        assert critic["beta"] == rows_of(folder)[-1]["test/beta"]
        assert_same(saved.state_dict(), started.state_dict())  # its policy stays what it was
    else:
        assert_same(policy.state_dict(), state["policy"])
    if name in ("ppo_car_dealer", "archer_twenty_questions"):
        critic = state["value_model" if name == "ppo_car_dealer" else "critic"]
        assert_same(torch.load(folder / "critic.pt", weights_only=True), critic)
    if name in ONLINE:
        assert any(not torch.equal(p, q) for p, q in zip(saved.parameters(), started.parameters(), strict=True))


@scripts
def test_arguments_as_they_ran(name, home, flags):
    """What --max-length and --max-new-tokens came to, too; with commit, versions, machine, task and data."""
    about = json.loads((home.run(name) / "args.json").read_text())
    args = about["args"]
    assert (args["max_new_tokens"], args["max_length"], args["model"]) == (1, 48, flags[-1])
    assert args.keys() == SCRIPTS[name].Args.__dataclass_fields__.keys()
    assert about.keys() == {"args", "env", "data", "start_model", "commit", "versions", "machine"}
    assert about["env"] == {}
    assert about["data"] == "" if name in ONLINE else about["data"].startswith("maze_fo-50-0-")
    assert about["versions"]["torch"] == torch.__version__ and about["machine"]["cores"] >= 1


def test_max_length_is_the_models(home, here_of, monkeypatch):
    shutil.copytree(home.runs.parent / "small", home.runs.parent / "short", dirs_exist_ok=True)
    config = home.runs.parent / "short" / "config.json"
    config.write_text(config.read_text().replace("1024", "40"))
    flags = [flag for flag in home.flags["bc_maze"][:-1] if flag not in ("--max-length", "48")]
    assert command(monkeypatch, "bc_maze", *flags, str(config.parent), "--num-iterations", "1") is None
    assert json.loads((here_of("bc_maze") / "args.json").read_text())["args"]["max_length"] == 40


def test_target_follows(home, monkeypatch):
    """target ← (1 - tau) · target + tau · critic after each step, and no graph grows with it."""
    seen = []
    ilql_losses = ilql_wordle.ilql_losses

    def watched(critic, target, batch, args):
        now = [{key: p.detach().clone() for key, p in x.named_parameters()} for x in (critic, target)]
        for key, parameter in target.named_parameters():
            assert parameter.is_leaf and parameter.grad is None
            if seen:
                expected = 0.9 * seen[-1][1][key] + 0.1 * now[0][key]
                torch.testing.assert_close(now[1][key], expected, rtol=1e-5, atol=1e-7)
            else:
                assert torch.equal(now[0][key], now[1][key])
        seen.append(now)
        return ilql_losses(critic, target, batch, args)

    monkeypatch.setattr(ilql_wordle, "ilql_losses", watched)
    assert command(monkeypatch, "ilql_wordle", *home.flags["ilql_wordle"]) is None
    assert len(seen) == 6 and not torch.equal(seen[0][1]["v.2.weight"], seen[-1][1]["v.2.weight"])


@steered_scripts
def test_beta_is_chosen_on_validation_games(name, home, here, monkeypatch):
    """The best one plays the test, is reported and saved; before that, the middle one plays."""
    played = []
    returns = {1.0: -3.0, 3.0: -1.0, 2.0: -2.0}
    play_games = SCRIPTS[name].play_games

    def watched(reader, envs, split, *rest):
        logits = reader.next_logits(torch.zeros(1, 16), torch.zeros(1, 16))
        neutral = logits - reader.trunks[0].get_input_embeddings().weight @ torch.zeros(16)  # beta · Q(0)
        played.append((split, neutral.abs().max().item()))
        metrics, episodes = play_games(reader, envs, split, *rest)
        beta = list(returns)[len(played) - 2] if split == "eval" and len(played) > 1 else None
        return metrics | ({"eval/episodic_return": returns[beta]} if beta else {}), episodes

    monkeypatch.setattr(SCRIPTS[name], "play_games", watched)
    assert command(monkeypatch, name, *home.flags[name], "--beta", "1", "3", "2") is None
    assert [split for split, _ in played] == ["eval"] * 4 + ["test"]
    size = [q for _, q in played]
    assert size[1:] == pytest.approx([size[1], 3 * size[1], 2 * size[1], 3 * size[1]]) and size[1] > 0
    rows = rows_of(here)
    assert [(row["eval/beta"], row["eval/episodic_return"]) for row in rows if "eval/beta" in row] == [
        (1.0, -3.0), (3.0, -1.0), (2.0, -2.0)]
    assert rows[-1]["test/beta"] == torch.load(here / "critic.pt", weights_only=True)["beta"] == 3.0


@pytest.fixture
def here_of(folder):
    return lambda name: folder / f"maze_fo__{name}__1"


@scripts
def test_a_pretrained_model(name, home, here, tmp_path, monkeypatch):
    """A folder of GPT-2's making: bytes merged to tokens, positions of its own; trained, played, saved, resumed.

    Its generation configuration is one of those that transformers loads but, once changed, refuses to save.
    """
    texts = sorted({text for game in load_dataset(make("maze_fo"), None, 50) for text in game.texts})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=100, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                        eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.5}')
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2")
    loaded.generation_config.max_new_tokens = 5
    with pytest.raises(ValueError, match="temperature"):
        loaded.save_pretrained(tmp_path / "refused")
    flags = [*SMALL, *OWN[name], "--model", str(tmp_path / "gpt2"), "--num-iterations", "1", "--max-length", "100"]
    flags += ["--warmup-iterations", "0"] if name == "archer_twenty_questions" else []
    assert command(monkeypatch, name, *flags) is None
    metrics = rows_of(here)[-1]
    assert metrics["test/episodic_length"] > 0
    saved = AutoModelForCausalLM.from_pretrained(here / "model")
    same = all(torch.equal(p, q) for p, q in zip(saved.parameters(), model.parameters(), strict=True))
    if rows_of(here)[0].get("charts/groups_without_signal") != 1:  # GRPO has nothing to compare: no move is valid
        assert same == (name in STEERED)
    with monkeypatch.context() as patch:
        shown = []
        patch.setattr(run.tqdm, "write", shown.append)
        assert command(patch, name, "--env-id", "maze_fo", "--resume") is None
    assert f"episodic_return {metrics['test/episodic_return']:.4g} ±" in shown[-1]


# --- What goes wrong ---


@scripts
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(name, value, flags, home, here, monkeypatch):
    """The run stops, names step and metric, and keeps the checkpoint before; resumed, it is as if nothing had been."""
    script = SCRIPTS[name]
    loss_function = getattr(script, LOSS[name])
    calls = []

    def broken(*args):
        loss = loss_function(*args)
        calls.append(loss)
        if len(calls) != 4:
            return loss
        if LOSS[name] == "bc_loss":
            return loss * value
        return {key: x * value if key in ("loss", "policy_loss") else x for key, x in loss.items()}

    with monkeypatch.context() as patch:
        patch.setattr(script, LOSS[name], broken)
        refused = command(patch, name, *flags)
    key = {"bc_maze": "bc_loss", "online_filtered_bc_text_nav": "bc_loss", "ppo_car_dealer": "policy_loss",
           "grpo_wordle": "policy_loss"}.get(name, "loss")
    assert f"error: losses/{key} is " in refused and refused.count("\n") == 0
    assert " in gradient step 2 of iteration 2;" in refused and ("nan" in refused) == math.isnan(value)
    assert rows_of(here) == rows_of(home.run(name))[:1]
    assert torch.load(here / "last.pt", weights_only=True)["iteration"] == 1 and not (here / "model").exists()
    if math.isnan(value):
        assert command(monkeypatch, name, *flags, "--resume") is None
        assert_same_run(home.run(name), here)


@scripts
def test_a_metric_that_is_not_finite(name, flags, here, monkeypatch):
    script = SCRIPTS[name]
    statistics = script.statistics

    def broken(env, games, *rest, **named):
        return statistics(env, games, *rest, **named) | ({"score": math.inf} if len(games) == 3 else {})

    monkeypatch.setattr(script, "statistics", broken)
    refused = command(monkeypatch, name, *flags)
    assert refused.startswith("error: eval/score is inf in iteration 2;")
    assert torch.load(here / "last.pt", weights_only=True)["iteration"] == 1 and len(rows_of(here)) == 1


@scripts
def test_the_last_step_fails(name, flags, home, here, monkeypatch):
    """If the model cannot be saved the test is played, if the test fails the model is saved; --resume does the rest."""

    def fail(*args):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_model", fail)
        with pytest.raises(OSError, match="no space left"):
            command(patch, name, *flags)
    assert rows_of(here)[-1] == rows_of(home.run(name))[-1] and (here / "episodes.jsonl").exists()
    assert not (here / "model").exists()
    assert command(monkeypatch, name, "--env-id", "maze_fo", "--resume") is None
    assert_same_run(home.run(name), here)
    (here / "episodes.jsonl").unlink()
    shutil.rmtree(here / "model")
    with monkeypatch.context() as patch:
        play_games = SCRIPTS[name].play_games
        patch.setattr(SCRIPTS[name], "play_games", lambda reader, envs, split, *rest: (
            fail() if split == "test" else play_games(reader, envs, split, *rest)))
        with pytest.raises(OSError, match="no space left"):
            command(patch, name, "--env-id", "maze_fo", "--resume")
    assert (here / "model" / "model.safetensors").exists() and "test/episodic_return" not in rows_of(here)[-1]
    assert command(monkeypatch, name, "--env-id", "maze_fo", "--resume") is None
    assert_same_run(home.run(name), here)


@steered_scripts
def test_a_critic_that_cannot_be_saved(name, home, here, monkeypatch):
    """Is not lost either."""
    with monkeypatch.context() as patch:
        write = Run.write
        patch.setattr(Run, "write", lambda self, file, make: write(self, file, None if file == "critic.pt" else make))
        with pytest.raises(TypeError):
            command(patch, name, *home.flags[name])
    assert "test/episodic_return" in rows_of(here)[-1]
    assert command(monkeypatch, name, "--env-id", "maze_fo", "--resume") is None
    assert_same_run(home.run(name), here)


@scripts
@pytest.mark.parametrize("flags_given, sentence", [
    (["--model", "no/such_model"], "cannot load no/such_model to cpu"),
    (["--device", "cuda:7"], "cannot load .* to cuda:7"),
    (["--max-length", "1025"], "--max-length 1025 is beyond the 1024 positions"),
    (["--max-length", "10"], "a turn has \\d+ tokens, --max-length is 10"),
    (["--max-length", "1"], "--max-length is 1"),
    (["--max-new-tokens", "48"], "a turn has \\d+ tokens, --max-length is 48"),
    (["--dataset", "missing.jsonl"], "no dataset file missing.jsonl"),
    (["--env-options", "colour", "red"], "maze_fo has no option 'colour'; it has none"),
], ids=lambda given: "".join(given[:2]) if isinstance(given, list) else "")
def test_what_is_wrong_is_said_before_any_work(name, flags, folder, tmp_path, flags_given, sentence, monkeypatch):
    """In one sentence; nothing is written."""
    if name in ONLINE and "--dataset" in flags_given:
        pytest.skip("it has no offline data")
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    refused = command(monkeypatch, name, *flags, *flags_given)
    assert re.search(sentence, refused) and refused.startswith("error: ") and refused.count("\n") == 0
    assert not folder.exists() and not (tmp_path / "data").exists()


@offline_scripts
def test_a_faulty_file(name, flags, folder, tmp_path, monkeypatch):
    """One sentence with file and line, and the next attempt needs no --resume."""
    write_file(make("maze_po"), load_dataset(make("maze_po"), None, 5), tmp_path / "other.jsonl")
    refused = command(monkeypatch, name, *flags, "--dataset", str(tmp_path / "other.jsonl"))
    assert "other.jsonl, line 1: expected a maze_fo trajectory" in refused and refused.count("\n") == 0
    assert command(monkeypatch, name, *flags, "--num-iterations", "1") is None


# --- Behaviour cloning ---


def tiny_text(folder):
    return bc_maze.Text(AutoTokenizer.from_pretrained(folder), 112)


def test_bc_learns_one_batch(home):
    """The loss falls to the entropy of the actions and no further: three to one after `a`, none after the others."""
    said = [("a\n", "x"), ("a\n", "x"), ("a\n", "x"), ("a\n", "y"), ("b\n", "y"), ("b b b\n", "x")] * 2
    env = make("maze_fo")
    text = tiny_text(run.ROOT / "envs" / "tiny" / "maze_fo")
    args = bc_maze.Args(max_length=48, max_new_tokens=2)
    games = [Trajectory([obs, f"{action}\n"], [0.0], True, True) for obs, action in said]
    assert {len(text.encode(game.texts[1])) for game in games} == {2}
    batch = bc_maze.collate(bc_maze.encode(games, env, text, args), "cpu")
    assert len(batch.tokens) == 24 and len(batch.ids) == 4  # two tokens an action; equal windows once
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(home.policies["bc_maze"].config)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(200):
        loss = bc_maze.bc_loss(policy, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    entropy = 4 / 12 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy - 1e-4 < loss.item() < entropy + 0.01


def games_with_returns(number):
    """Games with returns of 0 to 9, some successful, some cut short; no two have the same texts."""
    rng = random.Random(0)
    return [Trajectory([f"{i}\n", "a\n"], [rng.randint(0, 9)], rng.random() < 0.7, rng.random() < 0.5)
            for i in range(number)]


def keep(games, **options):
    return bc_maze.keep_best(list(games), bc_maze.Args(**options))


def test_keep_successful_games():
    games = games_with_returns(200)
    assert keep(games) == games
    assert keep(games, success_only=True) == [game for game in games if game.success] != games


@pytest.mark.parametrize("success_only", [False, True])
@pytest.mark.parametrize("top_fraction", [0.1, 0.3, 0.75])
def test_keep_the_best(top_fraction, success_only):
    """Of those that were not cut short; of equals at the border the first ones, whichever order they are in."""
    games, names = games_with_returns(1000), []
    for _ in range(2):
        kept = keep(games, top_fraction=top_fraction, success_only=success_only)
        candidates = [game for game in games if game.terminated and (game.success or not success_only)]
        returns = sorted([game.episodic_return for game in candidates], reverse=True)
        returns = returns[: round(top_fraction * len(candidates))]
        border = returns[-1]
        equals = [game for game in candidates if game.episodic_return == border]
        first = equals[: returns.count(border)]
        assert 0 < len(first) < len(equals)
        expected = [game for game in candidates if game.episodic_return > border] + first
        assert {game.texts[0] for game in kept} == {game.texts[0] for game in expected}
        assert sorted([game.episodic_return for game in kept], reverse=True) == returns
        names.append({game.texts[0] for game in kept})
        random.Random(1).shuffle(games)
    assert names[0] != names[1]


@pytest.fixture
def encoded(monkeypatch):
    """The games that the scripts make tokens of."""
    encoded = []
    for script in (bc_maze, mc_twenty_questions, ilql_wordle):
        def encode(games, *rest, function=script.encode):
            encoded.append(list(games))
            return function(games, *rest)

        monkeypatch.setattr(script, "encode", encode)
    return encoded


@pytest.mark.parametrize("flags, options", [(["--success-only"], dict(success_only=True)),
                                            (["--top-fraction", "0.3"], dict(top_fraction=0.3))])
def test_filtered_bc(flags, options, home, encoded, monkeypatch):
    """Trains on what passes the filter."""
    assert command(monkeypatch, "bc_maze", *home.flags["bc_maze"], *flags, "--num-iterations", "1") is None
    kept = keep(load_shuffled(make("maze_fo"), None, 50, 1), **options)
    assert 0 < len(kept) < 50 and encoded == [kept]


@pytest.mark.parametrize("name", ["bc_maze", "ilql_wordle"])
def test_nothing_to_train_on(name, flags, here, tmp_path, monkeypatch):
    """A filter that no game passes; games of a single action whose consequences are not known."""
    games = [replace(game, texts=game.texts[:2], rewards=game.rewards[:1], success=False, terminated=False)
             for game in load_dataset(make("maze_fo"), None, 9)]
    write_file(make("maze_fo"), games, tmp_path / "games.jsonl")
    given = ["--dataset", str(tmp_path / "games.jsonl"), *(["--success-only"] if name == "bc_maze" else [])]
    refused = command(monkeypatch, name, *flags, *given)
    assert refused.startswith("error: ") and refused.count("\n") == 0 and not (here / "last.pt").exists()


@offline_scripts
def test_an_action_that_no_window_holds(name, flags, here, tmp_path, monkeypatch):
    """An action of the data, which the check of the model does not see: it is refused before anything is learned."""
    games = list(load_dataset(make("maze_fo"), None, 9))
    games[4] = replace(games[4], texts=[games[4].texts[0], "x" * 47 + "\n", *games[4].texts[2:]])  # a token a character
    write_file(make("maze_fo"), games, tmp_path / "games.jsonl")
    given = [*flags, "--dataset", str(tmp_path / "games.jsonl")]
    refused = command(monkeypatch, name, *given, "--max-length", "49")
    assert refused == "error: an action may have 48 tokens, --max-length 49 has no room for it"
    assert not (here / "last.pt").exists()
    assert command(monkeypatch, name, *given, "--max-length", "50", "--max-new-tokens", "5") is None


@offline_scripts
def test_unknown_consequences(name, flags, encoded, tmp_path, monkeypatch):
    """BC and MC learn from a last action without what came of it; ILQL cannot, and games of one action are dropped."""
    games = [game for game in load_dataset(make("maze_fo"), None, 50) if not game.terminated]
    short = [replace(game, texts=game.texts[: 2 * n], rewards=game.rewards[:n]) for n, game in enumerate(games[:4], 1)]
    write_file(make("maze_fo"), short, tmp_path / "games.jsonl")
    given = ["--dataset", str(tmp_path / "games.jsonl"), "--num-iterations", "1"]
    assert command(monkeypatch, name, *flags, *given) is None
    expected = [(game.texts, game.rewards) for game in short]
    if name == "ilql_wordle":
        expected = [(game.texts[:-1], game.rewards[:-1]) for game in short[1:]]
    assert sorted((game.texts, game.rewards) for game in encoded[0]) == sorted(expected)
    assert not any(game.terminated for game in encoded[0])
