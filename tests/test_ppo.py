"""PPO: advantages by hand, a bandit in text whose policy gradient is known, the update as `main` makes it, collapse."""

import copy
import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_rollout import Babble, Games, word_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

import envs
from algos import ppo_car_dealer as ppo
from algos.ppo_car_dealer import Args, Batch, Episode, Reader, Text, ValueModel, collate, look_back, policy_logprobs
from envs import Env, Trajectory
from envs.run import Run

# Two turns; an action is one token. What the first earns at once is less than what it makes possible.
ACTIONS = ["a\n", "b\n", "c\n"]
FIRST = {"a\n": 1.0, "b\n": 0.0, "c\n": 0.5}
SECOND = {("a\n", "a\n"): 0.0, ("a\n", "b\n"): -1.0, ("b\n", "a\n"): 3.0, ("b\n", "b\n"): 5.0, ("b\n", "c\n"): 3.0,
          ("c\n", "c\n"): 1.0}
WORDS = ["S\n", *ACTIONS, "a!\n", "b!\n", "c!\n", "?!\n", "\n", "?"]


def first_reward(action):
    return FIRST.get(action, -3.0)


def second_reward(first, second):
    return SECOND.get((first, second), -4.0)


def then(action):
    return action.replace("\n", "!\n") if action in ACTIONS else "?!\n"


class Bandit(Env):
    """`markov_bandit` shows the last observation only, `long_bandit` has six more turns that earn nothing."""

    variants = "bandit", "markov_bandit", "long_bandit"
    num_test_episodes = 8
    players = None

    def __init__(self, env_id):
        super().__init__(env_id)
        self.markov, self.num_turns = env_id == "markov_bandit", 8 if env_id == "long_bandit" else 2

    def reset(self, seed):
        self.actions = []
        return "S\n", {}

    def step(self, action):
        self.actions.append(action)
        turn = len(self.actions)
        reward = first_reward(action) if turn == 1 else second_reward(*self.actions) if turn == 2 else 0.0
        info = {"success": False, "valid": action in ACTIONS}
        return then(action), reward, turn == self.num_turns, False, info

    def generate(self, num_trajectories, seed, start=0):
        rng = random.Random(seed)
        for _ in range(num_trajectories):
            actions = rng.choices(ACTIONS, k=self.num_turns)
            texts = ["S\n", *(text for action in actions for text in (action, then(action)))]
            yield Trajectory(texts, [0.0] * len(actions), True, False)


ENV = Bandit


def tokenizer_and_config():
    tokenizer = word_tokenizer(WORDS)
    return tokenizer, LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                  intermediate_size=16, max_position_embeddings=64, bos_token_id=None,
                                  eos_token_id=None, initializer_range=0.3)


def setting(**options):
    return Args(**dict(device="cpu", max_length=64, max_new_tokens=1, minibatch_size=10_000) | options)


def models(seed=0):
    """(policy, another one, a value model that knows nothing of the rewards, text)."""
    tokenizer, config = tokenizer_and_config()
    torch.manual_seed(seed)
    policy, other = (AutoModelForCausalLM.from_config(config).eval() for _ in range(2))
    value_model = ValueModel(policy)
    nn.init.normal_(value_model.head.weight)
    return policy, other, value_model, Text(tokenizer, len(tokenizer))


def play(policy, games, text, args, num_games):
    """Episodes of the games, played side by side."""
    reader = Reader([policy.base_model], policy.get_output_embeddings(), args)
    return ppo.rollout(reader, Games(games), range(num_games), text, args)


# --- Advantages ---


def test_gae_by_hand():
    """Two windows, a cut game between two that ended; γ and λ act where a turn ends, and there only."""
    args = setting(gamma=0.5, gae_lambda=0.8, kl_coef=0.3)

    def example(terminated):
        episode = Episode(True, 30, 2)
        episode.observe([1, 2])
        episode.act([3, 4])
        episode.end_turn(1.0, False, [])
        episode.observe([5])
        episode.act([6])
        episode.end_turn(2.0, terminated, [7])
        if not terminated:
            episode.observe([8, 9])
        return episode

    values = {(1, 2): 10.0, (1, 2, 3): 20.0, (5,): 30.0, (8, 9): 40.0}

    def value_model(batch):
        rows, length = batch.ids.tolist(), batch.ids.shape[1]
        return torch.tensor([values[tuple(rows[place // length][: place % length + 1])] for place in
                             batch.states.tolist()])

    policy = models()[0]
    policy.resize_token_embeddings(10)
    old = look_back(policy, policy, value_model, [example(True), example(False), example(True)], args)
    # The last token first: its turn ends, so the next value counts half; after the first token nothing is discounted.
    ended = [2 - 30]
    ended.append(1 + 0.5 * 30 - 20 + 0.5 * 0.8 * ended[-1])
    ended.append(20 - 10 + ended[-1])
    cut = [2 + 0.5 * 40 - 30]
    cut.append(1 + 0.5 * 30 - 20 + 0.5 * 0.8 * cut[-1])
    cut.append(20 - 10 + cut[-1])
    assert ended == pytest.approx([-28, -15.2, -5.2]) and cut == pytest.approx([-8, -7.2, 2.8])
    assert old.advantages.tolist() == pytest.approx(ended[::-1] + cut[::-1] + ended[::-1])
    assert old.values.tolist() == [10, 20, 30] * 3
    assert torch.equal(old.logprobs, old.ref_logprobs)  # and so the penalty is 0


@pytest.mark.parametrize("minibatch_size", [1, 3, 100])
def test_looking_back_in_pieces(minibatch_size):
    """Changes nothing, wherever a game has been cut; the penalty is on each token, and the rewards stay."""
    policy, other, value_model, text = models()
    args = setting(max_new_tokens=3, max_length=40, kl_coef=0.3)
    episodes = play(policy, [Babble(False) for _ in range(3)], text, args, 7)
    assert {episode.terminated for episode in episodes} == {False, True}
    whole = look_back(policy, other, value_model, episodes, args)
    pieces = look_back(policy, other, value_model, episodes, replace(args, minibatch_size=minibatch_size))
    for one, two in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)
    batch = collate(episodes, "cpu")
    values, start = value_model(batch).tolist(), 0
    for episode in episodes:  # one game after the other, forwards
        deltas, weights = [], []
        for i in range(start, start + len(episode.rewards)):
            reward = episode.rewards[i - start] - 0.3 * (whole.logprobs[i] - whole.ref_logprobs[i]).item()
            last = i == start + len(episode.rewards) - 1
            follows = 0.0 if last and episode.terminated else values[batch.acted[i] + 1]
            gamma, lam = (args.gamma, args.gae_lambda) if episode.ends_turn[i - start] else (1.0, 1.0)
            deltas.append(reward + gamma * follows - values[batch.acted[i]])
            weights.append(gamma * lam)
        for i in range(len(deltas)):
            advantage, weight = 0.0, 1.0
            for delta, decay in zip(deltas[i:], weights[i:], strict=True):
                advantage += weight * delta
                weight *= decay
            assert whole.advantages[start + i].item() == pytest.approx(advantage, rel=1e-4, abs=1e-3)
        start += len(deltas)


# --- Values ---


def test_rescaling_leaves_the_values_as_they_were():
    """Whatever the returns' size; then an error of one spread is an error of one for the head."""
    policy, _, value_model, text = models()
    batch = collate(play(policy, [Bandit("bandit") for _ in range(8)], text, setting(), 8), "cpu")
    before = value_model(batch)
    assert before.std() > 0.1
    sevens = torch.full((9,), 7.0)
    for returns in (torch.randn(100) * 3e4 + 5e4, torch.tensor([-3.0, -1.0]), sevens, torch.ones(1), torch.randn(50)):
        value_model.rescale(returns)
        torch.testing.assert_close(value_model(batch), before, rtol=1e-4, atol=2e-2)
        assert value_model.mean.item() == pytest.approx(returns.mean().item(), rel=1e-5, abs=1e-6)
        assert value_model.spread.item() == pytest.approx(max(returns.std(correction=0).item(), 1e-2), rel=1e-5)
        head = value_model.head(value_model.trunk(batch.ids).last_hidden_state.flatten(0, 1)[batch.states])[:, 0]
        torch.testing.assert_close(value_model.mean + value_model.spread * head, before, rtol=1e-4, atol=2e-2)


def test_values_start_at_nothing_and_share_nothing():
    policy = models()[0]
    value_model = ValueModel(policy)
    batch = collate(play(policy, [Bandit("bandit")], models()[-1], setting(), 2), "cpu")
    assert not value_model(batch).any()
    value_model(batch).square().sum().backward()
    (value_model(batch) - 1).square().mean().backward()
    assert value_model.head.bias.grad.any() and all(p.grad is None for p in policy.parameters())
    assert not {p.data_ptr() for p in value_model.parameters()} & {p.data_ptr() for p in policy.parameters()}


# --- The policy's gradient ---


def expected_return(policy, reference, text, markov, kl_coef):
    """The exact return of the bandit, less kl_coef times the distance from the reference, with its gradient."""
    def logprobs(model, ids):
        return model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    total, start = 0.0, text.encode("S\n")
    first, first_ref = logprobs(policy, start), logprobs(reference, start)
    for i in range(len(first)):
        one = text.decode([i])
        shown = [] if markov else [*start, i] + ([] if one.endswith("\n") else text.encode("\n"))
        shown += text.encode(then(one))
        second, second_ref = logprobs(policy, shown), logprobs(reference, shown)
        rewards = torch.tensor([second_reward(one, text.decode([j])) for j in range(len(second))])
        later = (second.exp() * (rewards - kl_coef * (second - second_ref))).sum()
        total += first[i].exp() * (first_reward(one) - kl_coef * (first[i] - first_ref[i]) + later)
    return total


def policy_gradient(policy, episodes, advantages, weights=None):
    """Minus the gradient of the loss at π = π_old, as a sum over a game's tokens; `weights`: how often each comes."""
    logprobs, _ = policy_logprobs(policy, collate(episodes, "cpu"))
    losses = ppo.ppo_loss(logprobs, logprobs.detach(), advantages, 0.2)
    assert losses["clipfrac"] == losses["approx_kl"] == 0
    of_logprobs, = torch.autograd.grad(losses["policy_loss"], logprobs, retain_graph=True)
    of_logprobs *= -2 if weights is None else -len(logprobs) * weights.repeat_interleave(2)  # a game has two tokens
    gradients = torch.autograd.grad(logprobs, list(policy.parameters()), of_logprobs)
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit"])
@pytest.mark.parametrize("kl_coef, whitened", [(0.0, False), (0.0, True), (1.0, False), (1.0, True)])
def test_the_gradient_is_that_of_the_expected_return(env_id, kl_coef, whitened):
    """With each game that there can be, weighed by its probability; what V says does not matter."""
    policy, reference, value_model, text = models()
    markov = env_id == "markov_bandit"
    exact = expected_return(policy, reference, text, markov, kl_coef)
    wanted = torch.cat([x.flatten() for x in torch.autograd.grad(exact, list(policy.parameters()))])
    episodes = []
    for tokens in itertools.product(range(len(text.tokenizer)), repeat=2):
        env, episode = Bandit(env_id), Episode(markov, 64, 1)
        episode.observe(text.encode(env.reset(0)[0]))
        for token in tokens:
            obs, reward, terminated, _, _ = env.step(text.decode([token]))
            episode.act([token])
            episode.end_turn(reward, terminated, [] if text.ends_line[token] else text.encode("\n"))
            if not terminated:
                episode.observe(text.encode(obs))
        episodes.append(episode)
    old = look_back(policy, reference, value_model, episodes, setting(gamma=1.0, gae_lambda=1.0, kl_coef=kl_coef))
    weights = old.logprobs.view(-1, 2).sum(1).exp()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    found = policy_gradient(policy, episodes, ppo.whiten(old.advantages) if whitened else old.advantages, weights)
    if whitened:
        found *= old.advantages.std(correction=0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit"])
def test_the_gradient_of_games_that_were_played(env_id):
    """Comes near the exact one, and their mean return near the expected one."""
    policy, reference, value_model, text = models()
    exact = expected_return(policy, reference, text, env_id == "markov_bandit", 0.0)
    wanted = torch.cat([x.flatten() for x in torch.autograd.grad(exact, list(policy.parameters()))])
    args = setting(gamma=1.0, gae_lambda=1.0, kl_coef=0.0)
    episodes = play(policy, [Bandit(env_id) for _ in range(2048)], text, args, 8192)
    returns = torch.tensor([sum(episode.rewards) for episode in episodes])
    assert returns.mean().item() == pytest.approx(exact.item(), abs=4 * returns.std().item() / len(returns) ** 0.5)
    assert {len(episode.windows) for episode in episodes} == {2 if env_id == "markov_bandit" else 1}
    old = look_back(policy, reference, value_model, episodes, args)
    found = policy_gradient(policy, episodes, old.advantages)
    _, entropy = policy_logprobs(policy, collate(episodes[:1], "cpu"))
    first = policy(input_ids=torch.tensor([text.encode("S\n")])).logits[0, -1].softmax(-1)
    assert entropy.shape == (2,) and entropy[0].item() == pytest.approx(-(first * first.log()).sum().item(), abs=1e-5)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.9
    assert found.norm().item() == pytest.approx(wanted.norm().item(), rel=0.2)


# --- The update, as `main` makes it ---


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the whole script on a bandit; returns (its checkpoint, the rows of its log)."""
    for env_id in Bandit.variants:
        monkeypatch.setitem(envs.MODULES, env_id, "bandit")
    monkeypatch.setitem(sys.modules, "bandit", sys.modules[__name__])
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    monkeypatch.setattr("envs.run.RUNS", tmp_path / "runs")
    tokenizer, config = tokenizer_and_config()
    config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("envs.run.is_ours", lambda model: True)  # weights are drawn

    def run(**options):
        options = dict(env_id="bandit", num_iterations=1, num_episodes=32, minibatch_size=8, eval_every=0, num_envs=64,
                       max_length=None, collapse_margin=100.0) | options
        args = setting(model=str(tmp_path / "model"), exp_name=f"run{len(list(tmp_path.glob('runs/*')))}",
                       **options)
        ppo.main(args)
        folder = tmp_path / "runs" / f"{args.env_id}__{args.exp_name}__1"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / "last.pt", weights_only=True), rows

    return run


@pytest.mark.parametrize("env_id, max_length", [("bandit", 64), ("markov_bandit", 64), ("long_bandit", 12)])
def test_the_first_ratio_is_1(env_id, max_length, run, monkeypatch):
    """In each iteration, before any update, in games of several windows as well; later ones are not.

    The advantages are whitened over the iteration, not over a minibatch.
    """
    ratios, advantages, windows = [], [], []

    def ppo_loss(logprobs, old_logprobs, whitened, *rest, function=ppo.ppo_loss):
        ratios.append((logprobs - old_logprobs).exp().detach())
        advantages.append(whitened)
        return function(logprobs, old_logprobs, whitened, *rest)

    def watched(*args, function=ppo.rollout):
        episodes = function(*args)
        windows.extend(len(episode.windows) for episode in episodes)
        return episodes

    monkeypatch.setattr(ppo, "ppo_loss", ppo_loss)
    monkeypatch.setattr(ppo, "rollout", watched)
    _, rows = run(env_id=env_id, max_length=max_length, num_iterations=3, update_epochs=2, learning_rate=1e-2)
    assert len(ratios) == 3 * 2 * 4 and min(windows) == {"bandit": 1}.get(env_id, 2)
    for number, ratio in enumerate(ratios):
        assert (ratio - 1).abs().max() < 1e-5 if number % 8 == 0 else (ratio - 1).abs().max() > 1e-3
    assert rows[0]["losses/approx_kl"] > 0
    for start in range(0, len(ratios), 4):  # an epoch: each token of the iteration once
        of_all = torch.cat(advantages[start : start + 4])
        assert of_all.mean().abs() < 1e-4 and of_all.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_the_value_loss_does_not_reach_the_policy(run):
    """Nor does the size of its gradient: the policy is the same bit for bit, with it and without."""
    (without, _), (with_it, _) = (run(vf_coef=vf_coef) for vf_coef in (0.0, 1000.0))
    for name, value in without["policy"].items():
        assert torch.equal(value, with_it["policy"][name]), name
    after = with_it["value_model"]
    moved = [name for name, value in without["value_model"].items() if not torch.equal(value, after[name])]
    assert "head.weight" in moved and any(name.startswith("trunk.") for name in moved)


def test_the_loss_of_an_update_is_the_reference_s(run, monkeypatch):
    """With the gradients: the policy's and the value loss of a minibatch, as the original's without value clipping.

    A game of as many tokens as a case of the vectors has; what the models say is the case's.
    """
    cases = json.loads((Path(__file__).parent / "reference" / "ppo.json").read_text())["loss"]
    cases = [case for case in cases if case["settings"]["cliprange_value"] >= 1e9]
    assert len(cases) == 2
    for case in cases:
        x = {name: torch.tensor(values) for name, values in case["inputs"].items()}
        mask = (x["attention_mask"] * x["should_take_action"]).bool()
        given = {name: values[mask] for name, values in x.items()}
        logprobs, values = given["logprobs"].requires_grad_(), given["values"].requires_grad_()
        advantages = given["old_advantages"]
        # What is kept as values and advantages adds up to the returns; whitening is not at work here.
        old_values = given["old_returns"] - advantages
        old = ppo.Experience(given["old_logprobs"], given["old_logprobs"], old_values, advantages)
        num_turns = len(advantages)
        with monkeypatch.context() as patch:
            patch.setattr(Bandit, "__init__", lambda self, env_id, turns=num_turns: self.__dict__.update(
                env_id=env_id, num_turns=turns))
            patch.setattr(ppo, "look_back", lambda *args, old=old: old)
            patch.setattr(ppo, "whiten", lambda advantages: advantages)
            patch.setattr(ppo, "policy_logprobs", lambda *args, given=logprobs: (given, torch.zeros(1)))
            patch.setattr(ValueModel, "forward", lambda self, batch, given=values: given)
            patch.setattr(ValueModel, "rescale", lambda self, returns: None)  # the spread stays 1
            settings, expected = case["settings"], case["expected"]
            _, rows = run(num_episodes=1, minibatch_size=1, update_epochs=1, vf_coef=settings["value_loss_coef"],
                          clip_coef=settings["cliprange"], max_grad_norm=1e9)
        near = {"rel": 1e-5, "abs": 1e-5}
        assert rows[0]["losses/policy_loss"] == pytest.approx(expected["policy_loss"], **near)
        assert rows[0]["losses/value_loss"] == pytest.approx(expected["value_loss"], **near)
        for tensor, name in ((logprobs, "grad_logprobs"), (values, "grad_values")):
            torch.testing.assert_close(tensor.grad, torch.tensor(expected[name])[mask], rtol=1e-5, atol=1e-5)


def test_the_values_learn_the_returns(run):
    """From V = 0: the first loss is what the returns and their spread make it, and then it falls."""
    _, (first, *_) = run(update_epochs=1, minibatch_size=32)
    mean, se = first["charts/episodic_return"], first["charts/episodic_return_se"]
    assert se > 0 and abs(mean) > 0.5  # else this tests little
    assert first["losses/value_loss"] > 0.4  # ½ (V - R)² over the spread's square: ½ of 1 and of the mean's share
    _, rows = run(num_iterations=15, learning_rate=1e-2, clip_coef=0.0, update_epochs=4)
    assert rows[14]["losses/value_loss"] < 0.6 * rows[0]["losses/value_loss"]


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit"])
def test_the_best_second_turn_is_found(env_id, run):
    """In seconds, from a random policy, although it is not where the first turn earns most."""
    _, rows = run(env_id=env_id, num_iterations=22, num_episodes=512, minibatch_size=128, learning_rate=5e-3,
                  kl_coef=0.0, gamma=1.0, num_envs=512)
    best = max(first_reward(a) + second_reward(a, b) for a in ACTIONS for b in ACTIONS)
    assert rows[0]["charts/episodic_return"] < 0
    assert rows[21]["charts/episodic_return"] > best - 0.5 and best == 5


def test_a_large_penalty_keeps_the_policy(run):
    """Near the one that it started from."""
    options = dict(num_iterations=6, num_episodes=64, learning_rate=1e-2)
    free, held = (run(kl_coef=kl_coef, **options)[1][5]["losses/kl_ref"] for kl_coef in (0.0, 30.0))
    assert held < free / 3


# --- Collapse ---


def log_returns(run, returns, **signals):
    """Log iterations with these returns until it stops; the signals are lists as well."""
    for number, value in enumerate(returns):
        metrics = {"charts/episodic_return": value, "charts/episodic_return_se": 0.5}
        metrics |= {f"losses/{name}": values[number] for name, values in signals.items()}
        run.log(number + 1, 10 * number, metrics)
        run.stop_if_collapsed(margin=2.0)


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.run.RUNS", tmp_path)
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    run = Run(setting(env_id="bandit"), Bandit("bandit"))
    run.begin()
    return run


def test_a_collapse_stops_the_run(new_run):
    """When five iterations in a row are two standard errors below the first; it says which signal moved first."""
    entropy = [1.0, 1.0, 1.1, 0.9, 0.2, 0.1, 0.1, 0.1]
    grad_norm = [2.0, 2.1, 7.0, 2.0, 2.0, 90.0, 90.0, 90.0]
    clipfrac = [0.1] * 7 + [0.9]
    with pytest.raises(SystemExit, match="^error: .*collapsed.*losses/grad_norm moved first, from 2 to 7 in .*3"):
        log_returns(new_run, [10, 12, 8.9, 8, 7, 0, 0, 0], entropy=entropy, grad_norm=grad_norm, clipfrac=clipfrac)
    assert len(new_run.rows) == 7  # 8.9, 8, 7, 0, 0
    assert sum(1 for _ in (new_run.folder / "metrics.jsonl").open()) == 7, "what it had come to is logged"


def test_a_collapse_that_nothing_foretold(new_run):
    with pytest.raises(SystemExit, match="^error: .*collapsed.*none of the signals"):
        log_returns(new_run, [10, *[0] * 9], entropy=[1.0] * 10)
    assert len(new_run.rows) == 6


@pytest.mark.parametrize("returns", [
    [10, 0, 0, 0, 0, 9.5, 0, 0, 0, 0, 10],  # they recover in time, twice
    [10, *[9.1] * 12],  # within the margin
    [10, 12, 20, *[9.5] * 12],  # below the best, but not below the first
    [-5, *[-5] * 12],
])
def test_no_collapse(returns, new_run):
    log_returns(new_run, returns, entropy=[1.0, *[0.0] * 14])
    assert len(new_run.rows) == len(returns)


def test_a_run_that_collapses_keeps_its_checkpoint(run, monkeypatch):
    """`main` stops, with the policy of the iteration before in last.pt."""
    monkeypatch.setattr(sys.modules[__name__], "first_reward", lambda action: float(-next(counter)))
    counter = iter(range(10**6))
    with pytest.raises(SystemExit, match="collapsed"):
        run(num_iterations=12, num_episodes=8, collapse_margin=1.0)
    folder, = Path(envs.run.RUNS).iterdir()
    assert torch.load(folder / "last.pt", weights_only=True)["iteration"] == 5
    assert not (folder / "model").exists()


def test_a_copy_of_the_policy_is_the_reference():
    """Which stays what it was while the policy learns: `main` copies it, and no optimizer has its parameters."""
    policy, _, value_model, text = models()
    reference = copy.deepcopy(policy)
    episodes = play(policy, [Bandit("bandit") for _ in range(4)], text, setting(), 4)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn_like(p))
    old = look_back(policy, reference, value_model, episodes, setting(kl_coef=0.0))
    assert (old.logprobs - old.ref_logprobs).abs().max() > 1e-3
    assert Batch._fields == type(collate(episodes, "cpu"))._fields
