"""Training that fits the machine: several processes, minibatches in pieces, bfloat16, gradient checkpointing.

    torchrun --standalone --nproc_per_node 2 tests/test_devices.py FOLDER       what `together` starts
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from test_runs import ONLINE, OWN, SCRIPTS, SMALL, command, use_folder  # noqa: E402

from envs import devices  # noqa: E402

# The last minibatch of an iteration of two epochs of eight games has one game: the second process has none.
FLAGS = {name: [*SMALL, *OWN[name], "--learning-rate", "0.0003", "--minibatch-size", "5"] for name in SCRIPTS}
scripts = pytest.mark.parametrize("name", SCRIPTS)


def run_all(folder, model, *flags, names=SCRIPTS):
    """Each script once, from the same model."""
    with pytest.MonkeyPatch.context() as patch:
        use_folder(patch, folder)
        patch.setattr("envs.data.DATA_DIR", Path(model) / "data")
        for name in names:
            assert command(patch, name, *FLAGS[name], "--model", str(model), *flags) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that has not been trained, with weights, of 16 hidden units."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(ROOT / "envs" / "tiny" / "maze_fo", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config |= dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    untrained = AutoModelForCausalLM.from_config(run_config(folder))
    untrained.generation_config.max_new_tokens = 1
    untrained.save_pretrained(folder)
    return folder


def run_config(folder):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run_all(folder, model)
    return folder / "runs"


@pytest.fixture(scope="module")
def resumed(model, tmp_path_factory):
    """The same, stopped after two iterations and then resumed: how many there are to be sets the learning rate."""
    folder = tmp_path_factory.mktemp("resumed")
    for flags in (["--num-iterations", "2"], ["--resume"]):
        run_all(folder, model, *flags)
    return folder / "runs"


@pytest.fixture(scope="module")
def together(model, tmp_path_factory):
    """What two processes print, and the folder of their runs of two iterations; the second process has its own."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    printed = subprocess.run([*command, str(folder), str(model)], env=environment, capture_output=True, text=True,
                             timeout=600)
    assert printed.returncode == 0, printed.stderr[-3000:]
    return printed.stdout, folder


def work(folder, model):
    """What each of the two processes does."""
    joined = []
    join = devices.join_processes
    devices.join_processes = lambda args: joined or joined.append(join(args))  # once for all scripts
    run_all(Path(folder) / str(devices.RANK), model, "--num-iterations", "2")


def rows_of(folder):
    """What was logged, without what depends on the machine's speed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    speed = ("charts/SPS", "charts/minutes", "perf/rollout_tokens_per_second", "perf/train_tokens_per_second")
    return [{name: value for name, value in row.items() if name not in speed} for row in rows]


def assert_close(folder, other, tolerance=1e-5, without=()):
    """Two runs: what was logged, the weights, and the games of the test."""
    rows, other_rows = rows_of(folder), rows_of(other)
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        kept = {name for name in row if name not in without}
        assert kept == {name for name in other_row if name not in without}
        for name in kept:
            assert row[name] == pytest.approx(other_row[name], rel=tolerance, abs=tolerance), (row["iteration"], name)
    for name in ("policy", "critic", "target", "value_model"):
        states = [torch.load(path / "last.pt", weights_only=True).get(name, {}) for path in (folder, other)]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=tolerance, msg=f"{name} {key}")
    assert (folder / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()


# --- Several processes ---


@scripts
def test_two_processes_learn_what_one_learns(name, together, resumed, model, tmp_path):
    """The same games, losses and weights, also of a run that one process then resumes; the first process logs."""
    printed, folder = together
    here = tmp_path / "runs" / f"maze_fo__{name}__1"
    shutil.copytree(folder / "0" / "runs" / here.name, here)
    trained = [row for row in rows_of(here) if "losses/grad_norm" in row]
    assert [row["iteration"] for row in trained] == [1, 2] and "test/episodic_return" in rows_of(here)[-1]
    assert printed.count(f"{here.name}: iteration 1 ") == 1
    assert command_in(tmp_path, model, name, "--resume") is None
    padding = {"perf/padding"}  # of smaller pieces
    assert_close(here, resumed / here.name, without=padding)


def command_in(folder, model, name, *flags):
    with pytest.MonkeyPatch.context() as patch:
        use_folder(patch, folder)
        patch.setattr("envs.data.DATA_DIR", model / "data")
        return command(patch, name, *FLAGS[name], "--model", str(model), *flags)


def test_only_the_first_process_writes(together):
    _, folder = together
    assert not (folder / "1").exists()
    assert {path.name for path in (folder / "0" / "runs").iterdir()} == {f"maze_fo__{name}__1" for name in SCRIPTS}


@scripts
def test_a_checkpoint_belongs_to_no_process(name, alone, together):
    """It is what one process would have written, ArCHer's buffer too: any number of processes resumes it."""
    states = [torch.load(path / f"maze_fo__{name}__1" / "last.pt", weights_only=True)
              for path in (alone, together[1] / "0" / "runs")]
    assert states[0].keys() == states[1].keys()
    if "buffer" in states[0]:
        assert len(json.loads(states[0]["buffer"])) == len(json.loads(states[1]["buffer"])) == 12


@pytest.mark.parametrize("number, world_size, micro_batch_size", [(8, 1, None), (8, 3, None), (8, 3, 2), (2, 3, 1)])
def test_pieces(number, world_size, micro_batch_size, monkeypatch):
    """All games of a minibatch, each once; of a process that has none, one of weight 0."""
    monkeypatch.setattr(devices, "WORLD_SIZE", world_size)
    args = SimpleNamespace(micro_batch_size=micro_batch_size, minibatch_size=8)
    indices, sizes = list(range(10, 10 + number)), [2 * i for i in range(20)]
    games = []
    shares = 0.0
    for rank in range(world_size):
        monkeypatch.setattr(devices, "RANK", rank)
        found = list(devices.pieces(indices, sizes, args))
        assert found and all(len(piece) <= (micro_batch_size or number) for piece, _ in found)
        for piece, share in found:
            assert share == pytest.approx(sum(sizes[i] for i in piece) / sum(sizes[i] for i in indices)) or not share
            games += piece if share else []
            shares += share
        own = [i for piece in devices.own_pieces(number, args) for i in piece]
        assert own == list(range(rank, number, world_size))
    assert sorted(games) == indices and shares == pytest.approx(1.0)


def test_pieces_hold_games_of_like_size():
    """Long games make a piece of their own, so that the short ones are not padded to their length."""
    sizes = [9, 1, 8, 2, 7, 3]
    pieces = devices.pieces([0, 1, 2, 3, 4, 5], sizes, SimpleNamespace(micro_batch_size=3))
    assert [[sizes[i] for i in piece] for piece, _ in pieces] == [[1, 2, 3], [7, 8, 9]]


@scripts
def test_a_game_does_not_depend_on_the_others(name, alone, model, tmp_path):
    """Nor on how many are played side by side: its random numbers are its own."""
    if name not in ("bc_maze", "grpo_wordle"):
        pytest.skip("the rollout is the same in all scripts")
    assert command_in(tmp_path, model, name, "--num-envs", "2") is None
    assert_close(tmp_path / "runs" / f"maze_fo__{name}__1", alone / f"maze_fo__{name}__1")


# --- Minibatches in pieces, gradient checkpointing ---


@scripts
def test_pieces_teach_what_the_whole_minibatch_teaches(name, alone, model, tmp_path):
    assert command_in(tmp_path, model, name, "--micro-batch-size", "2") is None
    here = tmp_path / "runs" / f"maze_fo__{name}__1"
    assert_close(here, alone / here.name, without={"perf/padding"})


@scripts
def test_gradient_checkpointing_changes_nothing(name, alone, model, tmp_path):
    assert command_in(tmp_path, model, name, "--gradient-checkpointing") is None
    here = tmp_path / "runs" / f"maze_fo__{name}__1"
    assert_close(here, alone / here.name)


TINY = dict(vocab_size=40, max_position_embeddings=64)
LLAMA = LlamaConfig(**TINY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
GPT2 = GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.5, attn_pdrop=0.5)
OPT = OPTConfig(**TINY, hidden_size=16, ffn_dim=32, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=2,
                dropout=0.5)  # a layer drops out by its own switch, and has no module for it


@pytest.mark.parametrize("config", [LLAMA, GPT2, OPT], ids=["llama", "gpt2", "opt"])
def test_gradient_checkpointing_acts(config):
    """Layers are computed twice; dropout stays off; the gradients are the same."""
    policy = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(40, (3, 9))
    calls = []
    mlps = [module for name, module in policy.named_modules() if name.endswith((".mlp", ".fc1"))]
    gradients = []
    for flag, times in ((False, 1), (True, 2)):
        devices.checkpoint_gradients(SimpleNamespace(gradient_checkpointing=flag), policy.base_model)
        handles = [module.register_forward_pre_hook(lambda *_: calls.append(1)) for module in mlps]
        policy.zero_grad()
        policy(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in policy.parameters()])
        assert len(calls) == 2 * times
        calls.clear()
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(*gradients)


# --- bfloat16 ---


@scripts
def test_bfloat16(name, alone, model, tmp_path, monkeypatch):
    """A whole run in which a copy plays; weights stay in float32; the first losses are as close as 8 bits allow."""
    copies = []
    original = devices.refresh
    monkeypatch.setattr(devices, "refresh", lambda player, learned: (original(player, learned),
                                                                     copies.append((player, learned))))
    assert command_in(tmp_path, model, name, "--dtype", "bfloat16") is None
    player, learned = copies[-1]
    for played, parameter in zip(player.parameters(), learned.parameters(), strict=True):
        assert played.dtype == torch.bfloat16 and parameter.dtype == torch.float32
        assert torch.equal(played, parameter.bfloat16())
    here = tmp_path / "runs" / f"maze_fo__{name}__1"
    assert {weights.dtype for weights in load_file(here / "model" / "model.safetensors").values()} == {torch.float32}
    if name not in ONLINE:  # the others' games differ
        losses, exact = rows_of(here)[0], rows_of(alone / here.name)[0]
        losses = {loss: value for loss, value in losses.items() if loss.startswith("losses/")}
        assert losses == pytest.approx({loss: exact[loss] for loss in losses}, rel=2e-2, abs=2e-2)
        assert any(losses[loss] != exact[loss] for loss in losses)


def test_a_copy_to_play_keeps_its_positions():
    """The rotary frequencies are buffers: in 8 bits, far tokens would be at other places."""
    policy = AutoModelForCausalLM.from_config(LLAMA)
    args = SimpleNamespace(dtype="bfloat16", gradient_checkpointing=False)
    player = devices.copy_to_play(policy, args)
    assert all(torch.equal(a, b) for a, b in zip(player.buffers(), policy.buffers(), strict=True))
    assert player.dtype == torch.bfloat16 and policy.dtype == torch.float32
    assert devices.copy_to_play(policy, SimpleNamespace(dtype="float32", gradient_checkpointing=False)) is policy


@pytest.mark.parametrize("name, head", [("ilql_wordle", "v"), ("ppo_car_dealer", None)])
def test_values_are_not_rounded(name, head):
    """-60.1 would be -60 in bfloat16."""
    policy = AutoModelForCausalLM.from_config(LLAMA)
    args = SimpleNamespace(dtype="bfloat16", device="cpu")
    ids = torch.randint(40, (3, 9))
    batch = SimpleNamespace(ids=ids, states=torch.tensor([3, 4]))
    script = SCRIPTS[name]
    with devices.precision(args), torch.no_grad():
        if head:
            critic = script.Critic(policy, -60.1)
            values = critic.v(critic.hidden(batch))
        else:
            critic = script.ValueModel(policy)
            critic.mean.fill_(-60.1)
            values = critic(batch)
    assert values.dtype == torch.float32 and torch.all(values == torch.tensor(-60.1))


@pytest.mark.parametrize("flags, sentence", [
    (["--micro-batch-size", "0"], "--micro-batch-size must be at least 1, not 0"),
    (["--dtype", "float16"], None)])
def test_wrong_flags(flags, sentence, model, tmp_path, capsys):
    refused = command_in(tmp_path, model, "bc_maze", *flags)
    assert refused and sentence in refused if sentence else refused == "2"
    assert not (tmp_path / "runs").exists()


if __name__ == "__main__":
    work(*sys.argv[1:])
