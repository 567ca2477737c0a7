"""Whole runs of the scripts, tiny ones: resuming, replaying, errors, saved models; and behaviour cloning itself."""

import json
import math
import random
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedTokenizerFast

from algos import bc_maze, ilql_wordle
from envs import SEEDS, EnvId, Trajectory, load_dataset, load_shuffled, make, read_file, write_file

SCRIPTS = {"bc_maze": bc_maze, "ilql_wordle": ilql_wordle}
scripts = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


def use_folder(patch, folder):
    """Let runs and data go there, and mazes end soon."""
    for script in SCRIPTS.values():
        patch.setattr(script, "ROOT", folder)
    patch.setattr("envs.DATA_DIR", folder / "data")
    patch.setattr("envs.maze.MAX_MOVES", 5)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    use_folder(monkeypatch, tmp_path)
    return tmp_path


def setting(script, **options):
    """Arguments of a run of a few seconds; that of ILQL has two iterations of BC and two of its own."""
    small = dict(env_id="maze_fo", device="cpu", token_pattern=script.PHRASES, num_trajectories=40, hidden_size=16,
                 num_layers=1, max_length=48, num_iterations=4, steps_per_iteration=3, minibatch_size=16,
                 num_eval_episodes=4, num_test_episodes=6, num_envs=4, max_new_tokens=3)
    if script is ilql_wordle:
        small |= dict(bc_iterations=2, num_iterations=2, bc_learning_rate=2e-3, beta=(1000.0, 3000.0), tau=0.1)
    return script.Args(**small | options)


def run_folder(args):
    return bc_maze.ROOT / "runs" / f"{args.env_id}__{args.exp_name}__{args.seed}"


def timeless(row):
    """What does not depend on the machine's speed."""
    return {name: value for name, value in row.items() if not name.startswith("perf/") and name != "charts/minutes"}


def metrics_of(folder):
    """The rows that a run logged, without the times."""
    return [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(a, b):
    """Two checkpoints, bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(folder, other):
    """Bit for bit, but for the times."""
    assert metrics_of(folder) == metrics_of(other)
    checkpoints = [torch.load(x / "last.pt", weights_only=True) for x in (folder, other)]
    assert min(checkpoint.pop("seconds") for checkpoint in checkpoints) > 0
    names = {"policy", "critic", "target"} if "critic" in checkpoints[0] else {"policy"}
    assert checkpoints[0].keys() >= names and all(checkpoints[0][name] for name in names)
    assert_same(*checkpoints)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of each script: {script: (args, metrics of the test, folder)}."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("finished")
        use_folder(patch, home)
        runs = {}
        for name, script in SCRIPTS.items():
            args = setting(script)
            runs[name] = args, script.main(replace(args)), run_folder(args)
    return runs


@pytest.fixture
def run(script, finished):
    """(args, metrics of the test, folder) of the script's finished run."""
    return finished[script.__name__.rpartition(".")[2]]


# --- Resuming ---


@scripts
def test_the_same_seed_gives_the_same_run(script, run):
    args, _, folder = run
    again, other = args, replace(args, seed=2)
    for x in (again, other):
        script.main(replace(x))
    assert_same_run(folder, run_folder(again))
    rows = metrics_of(folder)
    assert rows != metrics_of(run_folder(other))
    names = {name for row in rows for name in row}
    assert {"iteration", "global_step", "losses/held_out_bc_loss", "eval/score", "test/episodic_return"} <= names
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 4]
    assert [row["global_step"] for row in rows] == [3, 6, 9, 12, 12]
    assert [name.startswith("test/") for name in rows[-1]].count(True) == 6
    assert all(math.isfinite(value) for row in rows for value in row.values())


@scripts
def test_learning_rate_warms_up_once(script, run):
    """Over a hundred gradient steps, not over those of an iteration; ILQL after BC, with a rate of its own."""
    args, _, folder = run
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    optimizers = {name: part for name, part in checkpoint.items() if "optimizer" in name}
    num_steps = 12 // len(optimizers)
    for name, state in optimizers.items():
        rate = args.bc_learning_rate if name == "bc_optimizer" else args.learning_rate
        assert state["param_groups"][0]["lr"] == pytest.approx(rate * num_steps / 100)
        assert {int(x["step"]) for x in state["state"].values()} == {num_steps}
    rates = [args.learning_rate * step / 100 for step in (3, 6, 9, 12)]
    if script is ilql_wordle:
        rates = [rate * step / 100 for rate in (args.bc_learning_rate, args.learning_rate) for step in (3, 6)]
    assert [row["charts/learning_rate"] for row in metrics_of(folder)[:-1]] == pytest.approx(rates)


@scripts
def test_gradient_steps(script):
    """The rate of each step, the norm of what is applied, and the means of what is logged, over the whole iteration."""
    args = setting(script, steps_per_iteration=4, max_grad_norm=0.5)
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer, rates, applied = torch.optim.SGD([weight]), [], []
    optimizer.register_step_pre_hook(lambda *_: applied.append(weight.grad.item()))
    data = [Trajectory(["a\n", "b\n", "a\n"], [float(i)], False, False) for i in range(5)]
    tokenizer = script.build_model(args, {"a\n", "b\n"})[1]
    episodes = script.encode(data, True, script.Codec(tokenizer), args)

    def losses_of(batch):
        collated = script.collate([episodes[len(rates)]], "cpu")
        assert all(torch.equal(x, y) for x, y in zip(batch, collated, strict=True)) and weight.grad is None
        rates.append(optimizer.param_groups[0]["lr"])
        return {"loss": weight.sum() * len(rates), "other": torch.tensor(10.0 * len(rates))}

    batches = iter([[episode] for episode in episodes])
    logged = script.gradient_steps(losses_of, optimizer, 2.0, batches, 97, args)
    assert next(batches) == [episodes[4]]
    assert rates == pytest.approx([1.96, 1.98, 2.0, 2.0]) and applied == pytest.approx([0.5] * 4, rel=1e-4)
    assert logged["losses/other"] == pytest.approx(25) and logged["losses/grad_norm"] == pytest.approx(2.5)
    seen = [1 - 0.5 * sum(rates[:i]) for i in range(4)]
    assert logged["losses/loss"] == pytest.approx(sum((i + 1) * x for i, x in enumerate(seen)) / 4, rel=1e-4)
    assert logged["charts/learning_rate"] == 2.0 and logged["perf/train_tokens_per_second"] > 0
    rates.clear()
    logged = script.gradient_steps(losses_of, optimizer, 2.0, iter([[episode] for episode in episodes]), 0, args)
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08]) and logged["charts/learning_rate"] == rates[-1]


@scripts
def test_log(script, tmp_path, capsys):
    """A line with the run's name, the row in metrics.jsonl, and to wandb; none of the latter two where not wanted."""
    tracked = []

    class Tracker:
        def log(self, row, step):
            tracked.append((row, step))

    row = {"global_step": 7, "losses/bc_loss": torch.tensor(0.25), "eval/score": np.float64(3.0)}
    script.log(tmp_path, row, Tracker())
    script.log(tmp_path, row | {"global_step": 8})
    script.log(tmp_path, {"test/episodic_return": -2.0, "test/episodic_return_se": 0.5}, keep=False)
    plain = {"global_step": 7, "losses/bc_loss": 0.25, "eval/score": 3.0}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [plain, plain | {"global_step": 8}] and tracked == [(plain, 7)]
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"{tmp_path.name}: global_step 7  bc_loss 0.25  score 3",
                     f"{tmp_path.name}: global_step 8  bc_loss 0.25  score 3",
                     f"{tmp_path.name}: episodic_return -2 ± 0.5"]


class Killed(Exception):
    pass


@scripts
@pytest.mark.parametrize("killed_in", [1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(script, run, killed_in, monkeypatch):
    """Wherever it was killed: here, between the log line of an iteration and its checkpoint."""
    args, metrics, folder = run
    log = script.log

    def log_and_die(run, row, *rest):
        log(run, row, *rest)
        if row["iteration"] == killed_in:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(script, "log", log_and_die)
        with pytest.raises(Killed):
            script.main(replace(args))
    assert (run_folder(args) / "last.pt").exists() == (killed_in > 1)
    assert timeless(script.main(replace(args, resume=True))) == timeless(metrics)
    assert_same_run(folder, run_folder(args))


@scripts
def test_a_finished_run_goes_on(script, run):
    """With more iterations, as if they had been asked for at once; with as many, it is only tested again."""
    args, _, folder = run
    script.main(replace(args, num_iterations=args.num_iterations // 2))
    assert metrics_of(run_folder(args))[-1]["iteration"] < 4
    for _ in range(2):
        script.main(replace(args, resume=True))
        assert_same_run(folder, run_folder(args))


# --- Replaying ---


@scripts
def test_evaluate_only_reproduces_the_test(script, run, capsys):
    _, metrics, folder = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    now = script.Args(device="cpu", evaluate_only=str(folder), num_envs=4, num_test_episodes=6)
    assert timeless(script.main(replace(now))) == timeless(metrics)
    shown = capsys.readouterr().out
    assert shown.count("(return ") == 3
    assert f"\n{folder.name}: episodic_return {metrics['test/episodic_return']:.4g} ± " in shown
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    greedy = timeless(script.main(replace(now, temperature=0.0)))
    assert greedy == timeless(script.main(replace(now, temperature=0.0, num_envs=3))) != timeless(metrics)


@scripts
def test_evaluate_only_takes_other_options_of_the_task(script, run):
    now = script.saved_args(run[2], script.Args(device="cpu", env_options={"opponent": "tablebase"}))
    assert now.env_options == {"opponent": "tablebase"} and now.seed == run[0].seed
    with pytest.raises(ValueError, match="no option 'opponent'"):
        script.main(script.Args(device="cpu", evaluate_only=str(run[2]), env_options={"opponent": "tablebase"}))


@scripts
def test_transcripts(script, run):
    """In the format of the data, in the order of the test seeds."""
    _, metrics, folder = run
    env = make("maze_fo")
    games = list(read_file(env, folder / "episodes.jsonl"))
    footer = json.loads((folder / "episodes.jsonl").read_text().splitlines()[-1])
    assert footer["count"] == len(games) == 6 and footer["env_id"] == "maze_fo"
    assert np.mean([game.episodic_return for game in games]) == pytest.approx(metrics["test/episodic_return"])
    assert np.mean([game.success for game in games]) == pytest.approx(metrics["test/success"])
    assert np.mean([len(game.rewards) for game in games]) == pytest.approx(metrics["test/episodic_length"])
    for seed, game in enumerate(games, SEEDS["test"]):
        assert env.reset(seed)[0] == game.texts[0]
        steps = [env.step(action) for action in game.texts[1::2]]
        assert [step[:2] for step in steps] == list(zip(game.texts[2::2], game.rewards, strict=True))
        assert [step[2] or step[3] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert (steps[-1][2], steps[-1][4]["success"]) == (game.terminated, game.success)


@scripts
def test_the_saved_model(script, run):
    """Is the checkpoint's, with a tokenizer that gives the same ids, and loads without the scripts."""
    args, _, folder = run
    saved = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    assert all(torch.equal(p, checkpoint["policy"][name]) for name, p in saved.named_parameters())
    texts = {text for t in load_dataset(make("maze_fo"), None, 40) for text in t.texts}
    tokenizer, loaded = script.build_model(args, texts)[1], AutoTokenizer.from_pretrained(folder / "model")
    a, b = script.Codec(tokenizer), script.Codec(loaded)
    assert a.ends_action == b.ends_action and len(tokenizer) == saved.config.vocab_size and len(texts) > 10
    for text in texts | {"", "xyz\n", "move  up", "up\nmove\n"}:
        assert a.encode(text) == b.encode(text)
        assert tokenizer.decode(a.encode(text)) == loaded.decode(b.encode(text))
    assert all(loaded.decode(b.encode(text)) == text for text in texts)
    files = {"args.json", "episodes.jsonl", "last.pt", "metrics.jsonl", "model"}
    assert {path.name for path in folder.iterdir()} == files | ({"value.pt"} if script is ilql_wordle else set())


def test_bc_checkpoint(finished):
    """ILQL with the policy of a BC run: no BC of its own, and the policy stays as it is."""
    _, _, folder = finished["bc_maze"]
    args = setting(ilql_wordle, bc_checkpoint=str(folder), hidden_size=999)
    ilql_wordle.main(replace(args))
    before, after = (torch.load(x / "last.pt", weights_only=True)["policy"] for x in (folder, run_folder(args)))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    rows = metrics_of(run_folder(args))
    assert [row["iteration"] for row in rows] == [1, 2, 2] and all("losses/q_loss" in row for row in rows[:2])


def test_target_copies(monkeypatch):
    """target ← (1 - tau) · target + tau · online after every step, and no graph grows behind it."""
    args, before, steps = setting(ilql_wordle), [], []
    critic_losses = ilql_wordle.critic_losses

    def watched(critic, target, batch, args):
        now = [{name: p.detach().clone() for name, p in x.named_parameters()} for x in (critic, target)]
        for name, p in target.named_parameters():
            assert not p.requires_grad and p.is_leaf, name
            if before:
                expected = (1 - args.tau) * before[-1][1][name] + args.tau * now[0][name]
                torch.testing.assert_close(now[1][name], expected, rtol=1e-5, atol=1e-7)
            else:
                assert torch.equal(now[0][name], now[1][name])
        before.append(now)
        steps.append(len(batch[0]))
        return critic_losses(critic, target, batch, args)

    monkeypatch.setattr(ilql_wordle, "critic_losses", watched)
    ilql_wordle.main(replace(args))
    assert len(steps) == 6 and not torch.equal(before[0][1]["v.2.weight"], before[-1][1]["v.2.weight"])


def test_beta_is_chosen_on_validation_games(monkeypatch):
    """The best of the last evaluation plays the test, is reported and saved."""
    args, played, returns = setting(ilql_wordle, beta=(1.0, 3.0, 2.0)), [], {0.0: -9, 1.0: -3, 3.0: -1, 2.0: -2}
    q_policy, evaluate = ilql_wordle.q_policy, ilql_wordle.evaluate

    def watched_q_policy(policy, critic, beta):
        played.append(beta)
        return q_policy(policy, critic, beta)

    def watched_evaluate(*rest):
        metrics, episodes = evaluate(*rest)
        played.append(rest[-1])
        return metrics | {f"{rest[-1]}/episodic_return": returns[played[-2]]}, episodes

    monkeypatch.setattr(ilql_wordle, "q_policy", watched_q_policy)
    monkeypatch.setattr(ilql_wordle, "evaluate", watched_evaluate)
    assert ilql_wordle.main(replace(args))["test/episodic_return"] == -1
    assert played == 2 * [0.0, "eval"] + 2 * [1.0, "eval", 3.0, "eval", 2.0, "eval"] + [3.0, "test"]
    folder = run_folder(args)
    assert [row["eval/beta"] for row in metrics_of(folder)] == [0.0, 0.0, 3.0, 3.0, 3.0]
    assert [row.get("eval/episodic_return") for row in metrics_of(folder)] == [-9, -9, -1, -1, None]
    saved = torch.load(folder / "value.pt", weights_only=True)
    assert saved["beta"] == 3.0
    assert_same(saved["critic"], torch.load(folder / "last.pt", weights_only=True)["critic"])


@scripts
def test_a_pretrained_model(script, folder):
    """A folder of GPT-2's making: bytes merged to tokens, positions of its own, no tiny model's tokenizer."""
    texts = sorted({text for t in load_dataset(make("maze_fo"), None, 40) for text in t.texts})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=100, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                        eos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    options = dict(model=str(folder / "gpt2"), max_length=100, steps_per_iteration=1, num_iterations=1)
    args = setting(script, **options | (dict(bc_iterations=1) if script is ilql_wordle else {}))
    metrics = script.main(replace(args))
    assert metrics["test/episodic_length"] > 0
    folders = folder / "gpt2", run_folder(args) / "model"
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in folders)
    assert any(not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True))
    again = script.main(script.Args(device="cpu", evaluate_only=str(run_folder(args)), num_envs=4, num_test_episodes=6))
    assert again["test/episodic_return"] == metrics["test/episodic_return"]
    with pytest.raises(ValueError, match="--max-length 101: .*100"):
        script.main(replace(args, exp_name="long", max_length=101))


# --- Errors ---


@scripts
def test_a_run_is_not_overwritten(script, run, monkeypatch):
    args, _, folder = run
    monkeypatch.setattr(script, "ROOT", folder.parent.parent)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match="holds a run.*--resume"):
        script.main(replace(args))
    for field, before_and_now in (("learning_rate", "0.001, is 0.5"), ("hidden_size", "16, is 17")):
        with pytest.raises(ValueError, match=f"{field} was {before_and_now}$"):
            script.main(replace(args, resume=True, **{field: json.loads(before_and_now.split()[-1])}))
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@scripts
def test_errors_stand_in_nobodys_way(script, run, folder):
    """The next attempt starts in the same folder as if nothing had been, without --resume."""
    write_file(make("maze_po"), load_dataset(make("maze_po"), None, 5), folder / "other.jsonl")
    for error, match, options in (
            (ValueError, "no_such_task", dict(env_id="no_such_task")),
            (ValueError, "no option", dict(env_options={"colour": "red"})),
            (FileNotFoundError, "nowhere", dict(evaluate_only=str(folder / "nowhere"))),
            (FileNotFoundError, "data", dict(evaluate_only=str(folder / "data")))):
        with pytest.raises(error, match=match):
            script.main(setting(script, **options))
        assert not (folder / "runs").exists()
    for error, match, options in (
            (OSError, "nothing", dict(model=str(folder / "nothing"))),
            (ValueError, "--max-length 20 ", dict(max_length=20)),
            (ValueError, "other.jsonl, line 1: expected a maze_fo ", dict(dataset=str(folder / "other.jsonl"))),
            (FileNotFoundError, "missing.jsonl", dict(dataset=str(folder / "missing.jsonl")))):
        with pytest.raises(error, match=match):
            script.main(setting(script, **options))
        assert {path.name for path in (folder / "runs").rglob("*")} == {
            run_folder(run[0]).name, "args.json", "metrics.jsonl"}
        assert not (run_folder(run[0]) / "metrics.jsonl").read_text()
    args, metrics, finished = run
    assert timeless(script.main(replace(args))) == timeless(metrics)
    assert_same_run(finished, run_folder(args))
    saved = [json.loads((x / "args.json").read_text())["args"] for x in (finished, run_folder(args))]
    assert saved[0] == saved[1] == json.loads(json.dumps(asdict(args)))


def test_a_run_of_another_script_is_not_replayed(finished):
    with pytest.raises((FileNotFoundError, TypeError, ValueError)):
        ilql_wordle.main(ilql_wordle.Args(device="cpu", evaluate_only=str(finished["bc_maze"][2])))
    with pytest.raises((FileNotFoundError, TypeError, ValueError)):
        bc_maze.main(bc_maze.Args(device="cpu", evaluate_only=str(finished["ilql_wordle"][2])))


# --- Command line ---


@scripts
@pytest.mark.parametrize("env_id", EnvId.__args__)
def test_command_line_wins_over_task_defaults(script, env_id, monkeypatch):
    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        return script.parse_args()

    table = script.TASK_DEFAULTS.get(env_id, {})
    expected = script.Args(env_id=env_id, **table)
    assert parse("--env-id", env_id) == parse(f"--env_id={env_id}") == expected
    assert asdict(expected) == asdict(script.Args()) | table | {"env_id": env_id}
    given = dict(env_id=env_id, minibatch_size=7, learning_rate=0.5, seed=3, resume=True, max_length=99)
    with pytest.raises(SystemExit):
        parse("--env-id", "no_such_task")
    assert parse("--minibatch-size", "7", "--learning-rate", "0.5", "--seed", "3", "--env-id", env_id, "--resume",
                 "--max-length", "99") == replace(expected, **given)


@scripts
def test_the_home_task_is_the_default(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    home = script.Args.env_id
    assert script.parse_args() == script.Args(env_id=home, **script.TASK_DEFAULTS.get(home, {}))


# --- Behaviour cloning ---


def test_bc_learns_one_batch():
    """The loss falls to the entropy of the actions and no further: three to one after `a`, none after the others."""
    said = [("a\n", "x\n"), ("a\n", "x\n"), ("a\n", "x\n"), ("a\n", "y\n"), ("b\n", "y\n"), ("b b b\n", "x\n")] * 2
    args = setting(bc_maze, hidden_size=32, token_pattern=r"[a-z]\n?|\s")
    trajectories = [Trajectory([obs, action], [0.0], True, True) for obs, action in said]
    policy, tokenizer = bc_maze.build_model(args, {text for pair in said for text in pair})
    arrays = bc_maze.collate(bc_maze.encode(trajectories, True, bc_maze.Codec(tokenizer), args), "cpu")
    assert len(arrays[4]) == 12  # one token an action
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(150):
        loss = bc_maze.bc_loss(policy, *arrays)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    entropy = 4 / 6 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy - 1e-4 < loss.item() < entropy + 0.02


def trajectories(num_episodes):
    """Games with returns of 0 to 9, some successful, some cut short; no two have the same texts."""
    rng = random.Random(0)
    return [Trajectory([f"{i}\n", "a\n"], [rng.randint(0, 9)], rng.random() < 0.7, rng.random() < 0.5)
            for i in range(num_episodes)]


def choose(data, **options):
    before, args = list(data), setting(bc_maze, **options)
    chosen = bc_maze.choose(data, args)
    assert chosen == bc_maze.choose(data, replace(args, seed=2)) and data == before
    return chosen


def test_choose():
    data = trajectories(200)
    assert choose(data) == data
    assert choose(data, success_only=True) == [t for t in data if t.success] != data


@pytest.mark.parametrize("success_only", [False, True])
@pytest.mark.parametrize("top_fraction", [0.1, 0.3, 0.75])
def test_choose_the_best(top_fraction, success_only):
    """Whole games, of those that were not cut short, in their order; of equals at the border the first ones."""
    data, names = trajectories(1000), []
    for _ in range(2):
        kept = choose(data, top_fraction=top_fraction, success_only=success_only)
        candidates = [t for t in data if t.terminated and (t.success or not success_only)]
        returns = sorted((t.episodic_return for t in candidates), reverse=True)[: round(top_fraction * len(candidates))]
        border = min(returns)
        equals = [t for t in candidates if t.episodic_return == border]
        first = equals[: returns.count(border)]
        assert 0 < len(first) < len(equals)
        assert kept == [t for t in candidates if t.episodic_return > border or t in first]
        assert sorted((t.episodic_return for t in kept), reverse=True) == returns
        names.append({t.texts[0] for t in kept})
        random.Random(1).shuffle(data)
    assert names[0] != names[1]


def test_a_filter_that_leaves_nothing():
    failures = [replace(t, success=False) for t in trajectories(30)]
    with pytest.raises(ValueError, match="leaves 0 of 30"):
        bc_maze.choose(failures, setting(bc_maze, success_only=True))
    with pytest.raises(ValueError, match="leaves 1 of 30"):
        bc_maze.choose([*failures[1:], replace(failures[0], success=True)], setting(bc_maze, success_only=True))
    assert len(choose([replace(t, success=i < 2) for i, t in enumerate(failures)], success_only=True)) == 2
    cut = [replace(t, terminated=False) for t in trajectories(30)]
    with pytest.raises(ValueError, match="leaves 0 of 30"):
        bc_maze.choose(cut, setting(bc_maze, top_fraction=0.5))


@pytest.fixture
def watched(monkeypatch):
    """What the scripts tokenise, and what they draw minibatches from."""
    encoded, drawn_from = [], []
    for script in SCRIPTS.values():
        def encode(trajectories, *rest, function=script.encode):
            encoded.append(trajectories)
            return function(trajectories, *rest)

        def minibatches(data, *rest, function=script.minibatches):
            drawn_from.append(data)
            return function(data, *rest)

        monkeypatch.setattr(script, "encode", encode)
        monkeypatch.setattr(script, "minibatches", minibatches)
    return encoded, drawn_from


@scripts
@pytest.mark.parametrize("number", [50, 1300])
def test_held_out_data(script, number, watched):
    """The first tenth of the shuffled games is held out, and never trained on; no more than 128 of them are read."""
    encoded, drawn_from = watched
    script.main(setting(script, steps_per_iteration=1, num_trajectories=number, seed=3))
    train, held_out = encoded
    shuffled = load_shuffled(make("maze_fo"), None, number, 3)
    assert train == shuffled[number // 10 :] and held_out == shuffled[: min(128, number // 10)]
    assert drawn_from and all([episode.trajectory for episode in data] == train for data in drawn_from)
    ends = script.ACTION_END, script.LAST
    assert all(sum(kind in ends for episode in data for segment in episode.segments for kind in segment.kind)
               == sum(len(t.rewards) for t in train) for data in drawn_from)


def test_filtered_data(watched):
    """Both what is trained on and what is held out has passed the filter."""
    args = setting(bc_maze, steps_per_iteration=1, num_trajectories=100, top_fraction=0.5)
    bc_maze.main(replace(args))
    train, held_out = watched[0]
    chosen = bc_maze.choose(load_shuffled(make("maze_fo"), None, 100, args.seed), args)
    assert held_out + train == chosen and len(held_out) == max(1, len(chosen) // 10) and len(chosen) < 50


@scripts
def test_unknown_consequences(script, watched, folder):
    """BC learns from a last action without what came of it; ILQL cannot, and a game of one action is nothing to it."""
    games = [t for t in load_dataset(make("maze_fo"), None, 100) if not t.terminated]
    assert {len(t.rewards) for t in games} == {1, 2, 3, 4, 5}
    write_file(make("maze_fo"), [replace(t, texts=t.texts[:-1]) for t in games], folder / "games.jsonl")
    script.main(setting(script, steps_per_iteration=1, num_trajectories=None, dataset=str(folder / "games.jsonl")))
    expected = [(t.texts[:-1], t.rewards) for t in games]
    if script is ilql_wordle:
        expected = [(t.texts[:-2], t.rewards[:-1]) for t in games if len(t.rewards) > 1]
    assert sorted((t.texts, t.rewards) for part in watched[0] for t in part) == sorted(expected)
