"""GRPO: advantages, k3 and both clips by hand, a bandit in text whose gradient is known, the update of `main`."""

import copy
import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import test_ppo
import test_rollout
import torch
from test_ppo import ACTIONS, Bandit, expected_return, first_reward, models, second_reward, tokenizer_and_config
from test_rollout import Babble, Games, random_model

import envs
from algos import grpo_wordle as grpo
from algos import ppo_car_dealer as ppo
from algos.grpo_wordle import Args, Episode, Reader, all_logprobs, chosen_logprobs, collate, group_advantages, grpo_loss
from envs import SEEDS


def setting(**options):
    return Args(**dict(device="cpu", max_length=64, max_new_tokens=1, minibatch_size=10_000) | options)


def play(policy, games, seeds, text, args):
    """Episodes of the games, played side by side."""
    reader = Reader([policy.base_model], policy.get_output_embeddings(), args)
    return grpo.rollout(reader, Games(games), seeds, text, args)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


# --- Advantages ---


def test_advantages_by_hand():
    """Of a small group: mean 3, squares of the deviations 4, 1, 0, 9; and of one whose returns are all equal."""
    returns = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    given = returns.clone()
    spread = math.sqrt(14 / 4) + 1e-4
    found = group_advantages(returns, normalise_std=True).tolist()
    assert found[0] == pytest.approx([-2 / spread, -1 / spread, 0, 3 / spread]) and found[1] == [0, 0, 0, 0]
    assert group_advantages(returns, normalise_std=False).tolist() == [[-2, -1, 0, 3], [0, 0, 0, 0]]
    assert torch.equal(returns, given)


def test_a_constant_added_to_a_group_changes_nothing():
    """And the size of its returns does not, if the division is made."""
    returns = torch.randn(5, 7, dtype=torch.float64)
    moved = 1000 * torch.rand(5, 1, dtype=torch.float64) * returns + 1e5 * torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(group_advantages(moved, True), group_advantages(returns, True), rtol=0, atol=1e-3)
    torch.testing.assert_close(group_advantages(returns + 1e5, False), group_advantages(returns, False))
    assert group_advantages(torch.full((1, 7), 45123.7, dtype=torch.float64), True).abs().max() < 1e-6


# --- Loss ---


def losses_of(ratios, advantages, ref_ratios=None, **options):
    """The losses of tokens with these π / π_old and π_ref / π, and the gradient of each term for each log π."""
    logprobs = torch.full((len(ratios),), -1.5, requires_grad=True)
    old_logprobs = logprobs.detach() - torch.tensor(ratios).log()
    ref_logprobs = logprobs.detach() + torch.tensor(ref_ratios or [1.0] * len(ratios)).log()
    losses = grpo_loss(logprobs, old_logprobs, ref_logprobs, torch.tensor(advantages), setting(**options))
    gradients = [torch.autograd.grad(losses[name], logprobs, retain_graph=True)[0].tolist()
                 for name in ("policy_loss", "kl_ref")]
    return losses, *gradients


@pytest.mark.parametrize("ratio, advantage, loss, clipped", [
    (1.50, 2.0, -2 * 1.28, True),  # what is good already grew beyond the upper clip
    (1.25, 2.0, -2 * 1.25, False),  # beyond PPO's, but not beyond its own
    (0.50, 2.0, -2 * 0.5, False),  # what is good has become rare
    (1.00, 2.0, -2.0, False),
    (0.50, -2.0, 2 * 0.8, True),  # what is bad already fell below the lower clip
    (0.75, -2.0, 2 * 0.8, True),  # which is not as far away as the upper one
    (0.85, -2.0, 2 * 0.85, False),
    (1.50, -2.0, 2 * 1.5, False),  # what is bad has become frequent
])
def test_both_clips_by_hand(ratio, advantage, loss, clipped):
    """Alone, and as one of three tokens, of which the others are at 1 with an advantage of 0."""
    options = dict(clip_coef=0.2, clip_coef_high=0.28)
    losses, gradient, _ = losses_of([ratio], [advantage], **options)
    assert losses["policy_loss"].item() == pytest.approx(loss, rel=1e-5)
    assert gradient == pytest.approx([0.0 if clipped else -advantage * ratio], rel=1e-5)
    assert losses["clipfrac"].item() == clipped
    assert losses["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-5)
    losses, gradient, _ = losses_of([1.0, ratio, 1.0], [0.0, advantage, 0.0], **options)
    assert losses["policy_loss"].item() == pytest.approx(loss / 3, rel=1e-5)
    assert gradient == pytest.approx([0, 0.0 if clipped else -advantage * ratio / 3, 0], rel=1e-5)


def test_k3_by_hand():
    """Its mean, and a gradient of 1 - π_ref / π for each token, whatever the advantages are."""
    ref_ratios = [1.0, 2.0, 0.5, 3.0]
    losses, _, gradient = losses_of([1.0, 0.5, 1.5, 1.0], [0.0, 3.0, -3.0, 1.0], ref_ratios)
    assert losses["kl_ref"].item() == pytest.approx(
        (0 + 2 - 1 - math.log(2) + 0.5 - 1 + math.log(2) + 3 - 1 - math.log(3)) / 4, rel=1e-5)
    assert gradient == pytest.approx([0, -1 / 4, 0.5 / 4, -2 / 4], abs=1e-6)


def test_with_equal_clips_it_is_the_loss_of_ppo():
    torch.manual_seed(0)
    logprobs, old_logprobs, ref_logprobs, advantages = torch.randn(4, 500)
    losses = grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, setting(clip_coef=0.3, clip_coef_high=0.3))
    expected = ppo.ppo_loss(logprobs, old_logprobs, advantages, 0.3)
    assert 0.2 < losses["clipfrac"] < 0.8
    assert {name: losses[name].item() for name in expected} == {name: x.item() for name, x in expected.items()}


# --- log π ---


def babbled(markov):
    """(a policy, another one, groups of games that the policy has played, arguments); the windows are short."""
    args = setting(max_new_tokens=3, max_length=60)
    _, text = test_rollout.setting("babble", args.max_length)
    policy, other = (random_model("llama", text, args, seed) for seed in (0, 1))
    episodes = play(policy, [Babble(markov) for _ in range(3)], [0, 0, 6], text, args)
    assert max(len(episode.windows) for episode in episodes) > 1
    return policy, other, episodes, args


@pytest.mark.parametrize("markov", [False, True])
def test_logprobs_are_those_of_whole_passes(markov):
    """Of each chosen token, in the order of play, in games of several windows with actions that were cut off."""
    policy, _, episodes, _ = babbled(markov)
    expected, entropies = [], []
    with torch.no_grad():
        for episode in episodes:
            for window in episode.windows:
                for place in window.chosen:
                    logits = policy(input_ids=torch.tensor([window.ids[:place]])).logits[0, -1]
                    values = logits.log_softmax(-1).tolist()
                    expected.append(values[window.ids[place]])
                    entropies.append(-sum(math.exp(value) * value for value in values))
    assert len(expected) == sum(len(episode.rewards) for episode in episodes)
    logprobs, entropy = chosen_logprobs(policy, collate(episodes, "cpu"))
    assert logprobs.tolist() == pytest.approx(expected, abs=1e-3)
    assert entropy.tolist() == pytest.approx(entropies, abs=1e-3)
    for minibatch_size in (1, 2, 100):
        pieces = all_logprobs(policy, episodes, setting(minibatch_size=minibatch_size))
        assert pieces.tolist() == pytest.approx(expected, abs=1e-3) and not pieces.requires_grad


@pytest.mark.parametrize("markov", [False, True])
def test_only_chosen_tokens_are_trained_on(markov):
    """Both terms move the hidden states that predict a chosen token: no others, be they of texts or of padding."""
    policy, other, episodes, args = babbled(markov)
    reference = all_logprobs(other, episodes, args)
    expected = {tuple(window.ids[:place]) for episode in episodes for window in episode.windows
                for place in window.chosen}
    batch = collate(episodes, "cpu")
    assert 0 in batch.ids[:, -1], "no padding"
    for term in ("policy_loss", "kl_ref"):
        hidden = []

        def keep(module, inputs, kwargs, output, hidden=hidden):
            output.last_hidden_state.retain_grad()
            hidden.append(output.last_hidden_state)

        hook = policy.base_model.register_forward_hook(keep, with_kwargs=True)
        logprobs, _ = chosen_logprobs(policy, batch)
        hook.remove()
        losses = grpo_loss(logprobs, logprobs.detach(), reference, torch.ones_like(logprobs), args)
        losses[term].backward()
        moved = hidden[0].grad.abs().sum(-1).nonzero().tolist()
        assert {tuple(batch.ids[row, : place + 1].tolist()) for row, place in moved} == expected, term


# --- The policy's gradient ---


def every_game(env_id, text):
    """An episode of each game that there can be, and their returns (N,)."""
    episodes, returns = [], []
    for tokens in itertools.product(range(len(text.tokenizer)), repeat=2):
        env, episode = Bandit(env_id), Episode(env_id == "markov_bandit", 64, 1)
        episode.observe(text.encode(env.reset(0)[0]))
        for token in tokens:
            obs, reward, terminated, _, _ = env.step(text.decode([token]))
            episode.act([token])
            episode.end_turn(reward, terminated, [] if text.ends_line[token] else text.encode("\n"))
            if not terminated:
                episode.observe(text.encode(obs))
        episodes.append(episode)
        returns.append(sum(episode.rewards))
    return episodes, torch.tensor(returns, dtype=torch.float64)


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit"])
def test_the_gradient_is_that_of_the_expected_return(env_id):
    """With each group of two that there can be, weighed by its probability, and no division: half of it.

    A game is a part of the mean that it is compared with, and so 1 - 1 / group_size is left.
    """
    policy, reference, _, text = models()
    exact = expected_return(policy, reference, text, env_id == "markov_bandit", kl_coef=0.0)
    wanted = flat(torch.autograd.grad(exact, list(policy.parameters())))
    episodes, returns = every_game(env_id, text)
    logprobs, _ = chosen_logprobs(policy, collate(episodes, "cpu"))
    weights = logprobs.detach().double().view(-1, 2).sum(1).exp()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    pairs = torch.cartesian_prod(torch.arange(len(returns)), torch.arange(len(returns)))
    advantages = group_advantages(returns[pairs], normalise_std=False)
    advantages = (advantages[:, 0].view(len(returns), -1) * weights).sum(1)  # of a game, in all its groups
    advantages = (weights * advantages).float().repeat_interleave(2) * len(logprobs)  # a sum, not a mean
    losses = grpo_loss(logprobs, logprobs.detach(), logprobs.detach(), advantages, setting())
    assert losses["clipfrac"] == losses["approx_kl"] == losses["kl_ref"] == 0
    found = -flat(torch.autograd.grad(losses["policy_loss"], list(policy.parameters())))
    torch.testing.assert_close(found, wanted / 2, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize("env_id, normalise_std", [("bandit", False), ("markov_bandit", True)])
def test_the_gradient_of_games_that_were_played(env_id, normalise_std):
    """Points where the exact one does, and without division is as long; the games of a group are not all the same."""
    policy, reference, _, text = models()
    exact = expected_return(policy, reference, text, env_id == "markov_bandit", kl_coef=0.0)
    wanted = flat(torch.autograd.grad(exact, list(policy.parameters())))
    seeds = [seed for seed in range(512) for _ in range(8)]
    episodes = play(policy, [Bandit(env_id) for _ in range(2048)], seeds, text, setting())
    returns = torch.tensor([sum(episode.rewards) for episode in episodes], dtype=torch.float64).view(-1, 8)
    assert (returns.amax(1) > returns.amin(1)).double().mean() > 0.9
    advantages = group_advantages(returns, normalise_std).flatten().float().repeat_interleave(2)
    logprobs, _ = chosen_logprobs(policy, collate(episodes, "cpu"))
    losses = grpo_loss(logprobs, logprobs.detach(), logprobs.detach(), advantages, setting())
    found = -2 * flat(torch.autograd.grad(losses["policy_loss"], list(policy.parameters())))  # two tokens a game
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.9
    if not normalise_std:
        assert found.norm().item() == pytest.approx(7 / 8 * wanted.norm().item(), rel=0.2)


# --- The update, as `main` makes it ---


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the whole script on a bandit; returns (its checkpoint, the rows of its log)."""
    for env_id in Bandit.variants:
        monkeypatch.setitem(envs.MODULES, env_id, "bandit")
    monkeypatch.setitem(sys.modules, "bandit", test_ppo)
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    monkeypatch.setattr("envs.run.RUNS", tmp_path / "runs")
    tokenizer, config = tokenizer_and_config()
    config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("envs.run.is_ours", lambda model: True)  # weights are drawn

    def run(**options):
        options = dict(env_id="bandit", num_iterations=1, num_groups=8, group_size=4, minibatch_size=8, eval_every=0,
                       num_envs=64, max_length=None, collapse_margin=100.0) | options
        args = setting(model=str(tmp_path / "model"), exp_name=f"run{len(list(tmp_path.glob('runs/*')))}", **options)
        grpo.main(args)
        folder = tmp_path / "runs" / f"{args.env_id}__{args.exp_name}__1"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / "last.pt", weights_only=True), rows

    return run


@pytest.fixture
def watched(monkeypatch):
    """What `main` gave to rollout, what it returned, and each minibatch of games with what its loss was made of."""
    played, batches, collated = [], [], []

    def rollout(reader, envs, seeds, text, args, function=grpo.rollout):
        episodes = function(reader, envs, seeds, text, args)
        played.append((seeds, args.temperature, episodes))
        return episodes

    def collate(episodes, device, function=grpo.collate):
        collated.append(episodes)
        return function(episodes, device)

    def loss(*tensors_and_args, function=grpo.grpo_loss):
        losses = function(*tensors_and_args)
        tensors = [tensor.detach() for tensor in tensors_and_args[:4]]
        batches.append((collated[-1], *tensors, {name: value.item() for name, value in losses.items()}))
        return losses

    for name, function in (("rollout", rollout), ("collate", collate), ("grpo_loss", loss)):
        monkeypatch.setattr(grpo, name, function)
    return played, batches


def test_the_games_of_training(run, watched):
    """Groups of the same game, other ones in each iteration, played at temperature 1; the test is played as asked."""
    run(num_iterations=3, num_groups=3, group_size=5, temperature=0.0)
    played, _ = watched
    assert [temperature for _, temperature, _ in played] == [1, 1, 1, 0]
    starts = [seeds[0] for seeds, _, _ in played[:3]]
    for (seeds, _, _), start in zip(played, starts, strict=False):
        assert SEEDS["train"] <= start and start + 2 < SEEDS["eval"] and isinstance(start, int)
        assert seeds == [start] * 5 + [start + 1] * 5 + [start + 2] * 5
    assert len(set(starts)) == 3 and played[3][0] == range(SEEDS["test"], SEEDS["test"] + 8)


@pytest.mark.parametrize("normalise_std", [False, True])
def test_every_token_of_a_game_has_its_advantage(normalise_std, run, watched, monkeypatch):
    """That of its own group, in actions of one to three tokens; each game comes once an epoch."""
    counter = itertools.count()
    monkeypatch.setattr(test_ppo, "first_reward", lambda action: next(counter) ** 1.5)
    run(num_groups=6, group_size=4, max_new_tokens=3, minibatch_size=7, update_epochs=2, normalise_std=normalise_std)
    played, batches = watched
    episodes = played[0][2]
    advantages = {}
    for start in range(0, 24, 4):
        group = episodes[start : start + 4]
        returns = [episode.trajectory.episodic_return for episode in group]
        mean = sum(returns) / 4
        spread = math.sqrt(sum((value - mean) ** 2 for value in returns) / 4) + 1e-4 if normalise_std else 1.0
        for episode, value in zip(group, returns, strict=True):
            advantages[id(episode)] = (value - mean) / spread
    assert len({len(episode.rewards) for episode in episodes}) > 2 and len(set(advantages.values())) == 24
    for games, *_, found, _ in batches:
        expected = [advantages[id(game)] for game in games for _ in game.rewards]
        assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(batches) == 2 * 4 - 1  # 48 games, seven at a time
    order = [id(game) for games, *_ in batches for game in games]
    assert sorted(order) == sorted(2 * [id(episode) for episode in episodes])
    assert len(set(order[:21])) == 21 and len(set(order[28:])) == 20  # the batch between is of both epochs


@pytest.mark.parametrize("env_id, max_length", [("bandit", 64), ("markov_bandit", 64), ("long_bandit", 12)])
def test_the_first_ratio_is_1(env_id, max_length, run, watched):
    """In each iteration, before any update, in games of several windows as well; later ones are not.

    The reference is the policy that the run started from, in all iterations.
    """
    _, rows = run(env_id=env_id, max_length=max_length, num_iterations=3, learning_rate=1e-2)
    played, batches = watched
    windows = [len(episode.windows) for _, _, episodes in played for episode in episodes]
    assert len(batches) == 3 * 2 * 4 and min(windows) == {"bandit": 1}.get(env_id, 2)
    for number, (_, logprobs, old_logprobs, ref_logprobs, _, losses) in enumerate(batches):
        ratio = (logprobs - old_logprobs).exp()
        assert (ratio - 1).abs().max() < 1e-5 if number % 8 == 0 else (ratio - 1).abs().max() > 1e-3
        if number < 8:
            torch.testing.assert_close(ref_logprobs, old_logprobs)
        else:
            assert (ref_logprobs - old_logprobs).abs().max() > 1e-2
        assert losses["kl_ref"] < 1e-5 if number == 0 else losses["kl_ref"] > 1e-6
    for start, row in zip(range(0, 24, 8), rows, strict=False):
        for name in ("policy_loss", "kl_ref", "approx_kl", "clipfrac"):
            mean = sum(batch[-1][name] for batch in batches[start : start + 8]) / 8
            assert row[f"losses/{name}"] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_groups_without_signal(run, monkeypatch, watched):
    """Are counted, and teach nothing: where all are so, the policy stays as it was, but for the KL term."""
    _, (row, *_) = run(num_groups=16, group_size=2)
    returns = [episode.trajectory.episodic_return for episode in watched[0][0][2]]
    pairs = list(zip(returns[::2], returns[1::2], strict=True))
    without = sum(one == two for one, two in pairs)
    assert 0 < without < 16 and row["charts/groups_without_signal"] == pytest.approx(without / 16)
    watched[1].clear()
    monkeypatch.setattr(test_ppo, "first_reward", lambda action: 1.3)
    monkeypatch.setattr(test_ppo, "second_reward", lambda *actions: -0.2)
    for kl_coef in (0.0, 1.0):
        torch.manual_seed(1)
        start = grpo.AutoModelForCausalLM.from_config(tokenizer_and_config()[1]).state_dict()
        state, rows = run(kl_coef=kl_coef, learning_rate=1e-2)
        assert rows[0]["charts/groups_without_signal"] == 1 and rows[0]["losses/policy_loss"] == 0
        if kl_coef == 0:
            assert all(torch.equal(value, state["policy"][name]) for name, value in start.items())
    assert all(not advantages.any() for *_, advantages, _ in watched[1])


@pytest.mark.parametrize("env_id, normalise_std", [("bandit", True), ("markov_bandit", False)])
def test_the_best_second_turn_is_found(env_id, normalise_std, run):
    """In seconds, from a random policy, although it is not where the first turn earns most."""
    _, rows = run(env_id=env_id, num_iterations=10, num_groups=16, group_size=16, minibatch_size=64, num_envs=256,
                  learning_rate=1e-2, kl_coef=0.0, normalise_std=normalise_std)
    best = max(first_reward(a) + second_reward(a, b) for a in ACTIONS for b in ACTIONS)
    assert rows[0]["charts/episodic_return"] < 0
    assert rows[9]["charts/episodic_return"] > best - 0.5 and best == 5
    assert rows[9]["charts/groups_without_signal"] > rows[0]["charts/groups_without_signal"]


def test_a_large_penalty_keeps_the_policy(run):
    """Near the one that it started from."""
    options = dict(num_iterations=2, learning_rate=2e-2)
    free, held = (run(kl_coef=kl_coef, **options)[1][1]["losses/kl_ref"] for kl_coef in (0.0, 30.0))
    assert held < free / 3


def test_a_run_that_collapses_keeps_its_checkpoint(run, monkeypatch):
    """`main` stops, with the policy of the iteration before in last.pt; the margin is one standard deviation."""
    counter = itertools.count()
    margins = []

    def stop_if_collapsed(self, margin, function=grpo.Run.stop_if_collapsed):
        margins.append(margin)
        function(self, margin)

    monkeypatch.setattr(grpo.Run, "stop_if_collapsed", stop_if_collapsed)
    monkeypatch.setattr(test_ppo, "first_reward", lambda action: float(-next(counter)))
    with pytest.raises(SystemExit, match="collapsed"):
        run(num_iterations=12, num_groups=3, group_size=3, collapse_margin=2.0)
    folder, = Path(envs.run.RUNS).iterdir()
    assert margins == [6.0] * 6
    assert torch.load(folder / "last.pt", weights_only=True)["iteration"] == 5
    assert not (folder / "model").exists()


def test_a_copy_of_the_policy_is_the_reference():
    """Which stays what it was while the policy learns: `main` copies it, and no optimizer has its parameters."""
    policy, _, _, text = models()
    reference = copy.deepcopy(policy)
    episodes = play(policy, [Bandit("bandit") for _ in range(4)], range(4), text, setting())
    before = all_logprobs(reference, episodes, setting())
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(all_logprobs(reference, episodes, setting()), before)
    assert (all_logprobs(policy, episodes, setting()) - before).abs().max() > 1e-3
