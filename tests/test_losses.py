"""The losses are those of the original LMRL-Gym code, to 1e-5, on vectors that its own functions made (reference/).

reference/bc.json, mc.json, ilql.json and ppo.json hold inputs and outputs of the functions of
github.com/abdulhaim/LMRL-Gym (commit 911d726) and github.com/Sea-Snell/JAXSeq (commit aa6d7f3, its BC loss), in float32
on the CPU; 7 digits.

Conventions there. B rows, T tokens, V ids. Position i of an array with T-1 columns belongs to the pair (state: all
tokens up to i; next token: i+1). `should_take_action` and `attention_mask` say of the next token whether it is an
action's and whether it is no padding; `rewards` stand at an action's last token. Where both masks are 1 is what we call
the chosen tokens: all losses are means over them. A chunk is our window, an episode a list of chunks, and `done` of the
last chunk our `terminated`. The first token of a chunk is never trained on, since no state is before it.

Differences, left out or met here on purpose:
* The original discounts per token of an action; ours per turn. With `ends_turn` all true ours does that, too; ilql_loss
  is given the targets y.
* The original clips the value loss; ours does not. Cases with a huge clip range have none, and test_ppo.py compares
  those, where the update in `main` runs on them. The same for the adaptive coefficient of the KL penalty.
* `all_kls` has the ratio upside down for tokens sampled from the policy; ours (losses/kl_ref) has not. The vectors of
  `seq2seq` (inputs beside targets) and `bc_loss_non_action_weight_*` have no counterpart.
* filter_items keeps all ties at the border, where ours keeps exactly the share; compared where there are none.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from algos import bc_maze, ilql_wordle, mc_twenty_questions, ppo_car_dealer
from envs import Trajectory

REFERENCE = Path(__file__).parent / "reference"


def vectors(name, group):
    cases = json.loads((REFERENCE / f"{name}.json").read_text())[group]
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def tensors(inputs):
    return SimpleNamespace(**{name: torch.tensor(values) for name, values in inputs.items()})


def near(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-5)


def assert_near(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def chosen(x):
    """Where (B, T-1) a token was chosen."""
    return x.should_take_action.bool() & x.attention_mask.bool()


def episode(script, chunks, rewards, terminated):
    """An episode of ours with a window for each (ids, is_action); a chunk's first token is not trained on."""
    made = script.Episode(True, 1000, 10)
    for ids, is_action in chunks:
        made.windows.append(script.Window(list(ids), [i for i, is_one in enumerate(is_action) if is_one and i > 0]))
    made.rewards, made.terminated = rewards, terminated
    made.ends_turn = [True] * len(rewards)  # the discount acts on each token
    return made


class Given(nn.Module):
    """A model whose hidden states (B, T, d) are given, and whose head leaves them as they are."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden
        self.base_model = self

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self.hidden)

    def get_output_embeddings(self):
        return nn.Identity()


# --- BC ---


@vectors("bc", "mask")
def test_bc_loss(case):
    """With the gradient, which is 0 at observations and padding."""
    x, expected = tensors(case["inputs"]), case["expected"]
    logits = x.logits.requires_grad_()
    lengths = x.attention_mask.sum(1).tolist()
    episodes = [episode(bc_maze, [(ids[:n], is_action[:n])], [], True)
                for ids, is_action, n in zip(x.input_ids.tolist(), x.is_action.tolist(), lengths, strict=True)]
    batch = bc_maze.collate(episodes, "cpu")
    length = batch.ids.shape[1]
    acted = [i for i, game in enumerate(episodes) if game.windows[0].chosen]  # the others are not read
    for i, row in zip(acted, batch.ids.tolist(), strict=True):
        last = episodes[i].windows[0].chosen[-1]
        assert row == x.input_ids[i, :last].tolist() + [0] * (length - last)
    loss = bc_maze.bc_loss(Given(logits[acted, :length]), batch)
    loss.backward()
    assert loss.item() == near(expected["loss_fn_mask"])
    assert_near(logits.grad, expected["grad_logits_of_loss_fn_mask"])


@vectors("bc", "filtered_bc_selection")
def test_filtered_bc_selection(case):
    scores, share = case["inputs"]["scores"], case["settings"]["take_top_percent"] / 100
    games = [Trajectory(["obs\n", "action\n", f"{i}\n"], [score], True, True) for i, score in enumerate(scores)]
    kept = [int(game.texts[-1]) for game in bc_maze.keep_best(games, bc_maze.Args(device="cpu", top_fraction=share))]
    theirs = case["expected"]["kept_indices"]
    assert set(kept) <= set(theirs)
    assert len(kept) == round(share * len(scores)) and (len(kept) < len(theirs) or sorted(kept) == theirs)


# --- MC ---


@vectors("mc", "returns_to_go")
def test_returns_to_go(case):
    """Of a game in one window or several, cut short or not; the discount acts on each action token."""
    chunks, rewards, expected = case["inputs"]["chunks"], [], []
    for chunk, returns in zip(chunks, case["expected"]["returns"], strict=True):
        places = [i for i, is_one in enumerate(chunk["is_action"]) if is_one and i > 0]
        rewards += [chunk["reward"][i] for i in places]
        expected += [returns[i - 1] for i in places]
        assert sum(map(bool, returns)) == len(places)
    windows = [(chunk["tokens"], chunk["is_action"]) for chunk in chunks]
    game = episode(mc_twenty_questions, windows, rewards, chunks[-1]["done"])
    batch = mc_twenty_questions.collate([game, game], "cpu", case["settings"]["gamma"])
    assert_near(batch.returns, 2 * expected)


@vectors("mc", "loss")
def test_mc_loss(case):
    """With the gradient, which is 0 at observations and padding."""
    x, expected = tensors(case["inputs"]), case["expected"]
    mask = chosen(x)
    q = x.q_logits.requires_grad_()
    args = mc_twenty_questions.Args(device="cpu", cql_weight=case["settings"]["cql_weight"])
    losses = mc_twenty_questions.mc_loss(q[mask], x.token_ids[mask], x.returns[mask], args)
    losses["loss"].backward()
    assert losses["loss"].item() == near(expected["total_loss"])
    assert losses["q_loss"].item() == near(expected["q_loss"])
    assert losses["cql_loss"].item() == near(expected["q_cql_loss"])
    assert_near(q.grad, expected["grad_q_logits"])


# --- ILQL ---


@vectors("ilql", "cases")
def test_ilql_loss(case):
    """With the gradients; y = rewards + gamma * next value, the discount acting on each action token."""
    x, expected, settings = tensors(case["inputs"]), case["expected"], case["settings"]
    mask = chosen(x)
    q1, q2, v = (tensor.requires_grad_() for tensor in (x.q1_logits, x.q2_logits, x.v))
    next_v = torch.zeros_like(v)
    for row, places in enumerate(mask):
        following = x.v_final[row]
        for place in reversed(places.nonzero()[:, 0].tolist()):
            next_v[row, place] = following
            following = v[row, place].detach()
    y = x.rewards + settings["gamma"] * next_v
    args = ilql_wordle.Args(device="cpu", expectile=settings["tau"], cql_weight=settings["cql_weight"])
    target_q = torch.minimum(x.target_q1, x.target_q2)
    losses = ilql_wordle.ilql_loss(q1[mask], q2[mask], v[mask], target_q[mask], y[mask], x.token_ids[mask], args)
    losses["loss"].backward()
    assert losses["loss"].item() == near(expected["total_loss"])
    assert losses["q_loss"].item() == near(expected["q1_loss"] + expected["q2_loss"])
    assert losses["v_loss"].item() == near(expected["v_loss"])
    assert losses["cql_loss"].item() == near(expected["q1_cql_loss"] + expected["q2_cql_loss"])
    assert next_v[mask].mean().item() == near(expected["vns_mean"])
    for tensor, name in ((q1, "grad_q1_logits"), (q2, "grad_q2_logits"), (v, "grad_v")):
        assert_near(tensor.grad, expected[name])


# --- PPO ---


@vectors("ppo", "gae")
def test_advantages_of_whole_games(case, monkeypatch):
    """From the policy's and V's outputs to the whitened advantages: windows, both kinds of end, a penalty."""
    settings, games = case["settings"], case["inputs"]["episodes"]
    values_of = {}
    episodes, logprobs, initial, expected = [], [], [], {"old_values": [], "old_advantages": [], "old_returns": []}
    for game, results in zip(games, case["expected"]["episodes"], strict=True):
        rewards = []
        for chunk, result in zip(game, results, strict=True):
            places = [i for i, is_one in enumerate(chunk["is_action"]) if is_one and i > 0]
            rewards += [chunk["reward"][i] for i in places]
            logprobs += [chunk["logprobs"][i - 1] for i in places]
            initial += [chunk["initial_logprobs"][i - 1] for i in places]
            for name, values in expected.items():
                values += [result[name][i - 1] for i in places]
        chunks = []
        for chunk in game:  # a name of its own in place of the first token, which is not trained on
            values_of[1000 + len(values_of)] = chunk["values"]
            chunks.append(([999 + len(values_of), *chunk["tokens"][1:]], chunk["is_action"]))
        episodes.append(episode(ppo_car_dealer, chunks, rewards, game[-1]["done"]))

    def value_model(batch):
        rows = [values_of[row[0]] for row in batch.ids.tolist()]
        length = batch.ids.shape[1]
        return torch.tensor([rows[place // length][place % length] for place in batch.states.tolist()])

    def policy_logprobs(policy, batch):
        return torch.tensor(policy), None

    monkeypatch.setattr(ppo_car_dealer, "policy_logprobs", policy_logprobs)
    args = ppo_car_dealer.Args(device="cpu", gamma=settings["gamma"], gae_lambda=settings["lam"],
                               kl_coef=settings["kl_weight"], minibatch_size=99)
    old = ppo_car_dealer.look_back(logprobs, initial, value_model, episodes, args)
    assert_near(old.logprobs, logprobs)
    assert_near(old.ref_logprobs, initial)
    assert_near(old.values, expected["old_values"])
    assert_near(old.advantages + old.values, expected["old_returns"])
    whitened = settings["use_advantage_whitening"]
    assert_near(ppo_car_dealer.whiten(old.advantages) if whitened else old.advantages, expected["old_advantages"])


@vectors("ppo", "advantages_direct")
def test_gae(case):
    """Of several rows one after the other: nothing flows from one to the one before."""
    x, expected = tensors(case["inputs"]), case["expected"]
    rows, n = x.action_rewards.shape
    batch = ppo_car_dealer.Batch(**dict.fromkeys(ppo_car_dealer.Batch._fields))._replace(
        ends_turn=torch.ones(rows * n, dtype=torch.bool), ends_game=(torch.arange(rows * n) + 1) % n == 0)
    args = ppo_car_dealer.Args(device="cpu", gamma=case["settings"]["gamma"], gae_lambda=case["settings"]["lam"])
    flat = [tensor.flatten() for tensor in (x.action_rewards, x.state_values, x.next_state_values)]
    advantages = ppo_car_dealer.gae(*flat, batch, args)
    assert_near(advantages.view(rows, n), expected["advantages"])
    assert_near(advantages.view(rows, n) + x.state_values, expected["returns"])
    assert_near(ppo_car_dealer.whiten(advantages).view(rows, n), expected["advantages_whitened"])


@vectors("ppo", "whiten")
def test_whiten(case):
    """A single value gives 0."""
    assert_near(ppo_car_dealer.whiten(torch.tensor(case["inputs"]["xs"])), case["expected"]["shift_mean"])


@vectors("ppo", "loss")
def test_ppo_loss(case):
    """With the gradient, and what is logged."""
    x, expected = tensors(case["inputs"]), case["expected"]
    mask = chosen(x)
    logprobs = x.logprobs.requires_grad_()
    losses = ppo_car_dealer.ppo_loss(logprobs[mask], x.old_logprobs[mask], x.old_advantages[mask],
                                     case["settings"]["cliprange"])
    losses["policy_loss"].backward()
    assert losses["policy_loss"].item() == near(expected["policy_loss"])
    assert losses["approx_kl"].item() == near(expected["approx_kl"])
    assert losses["clipfrac"].item() == near(expected["policy_clipfrac"])
    assert_near(logprobs.grad, expected["grad_logprobs"])
