"""ILQL: targets, losses and gradients against the equations as loops over tokens, and a task with a known solution."""

import copy
import json
import random
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_rollout import word_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import envs
from algos import bc_maze, grpo_wordle, ilql_wordle, ppo_car_dealer
from algos.ilql_wordle import Args, Critic, Episode, Text, collate, encode, ilql_loss, ilql_losses
from envs import Env, Trajectory
from envs.data import minibatches

NUM_IDS, MAX_LENGTH, MAX_NEW_TOKENS = 13, 40, 4


def setting(**options):
    return Args(device="cpu", **options)


@dataclass
class Turn:
    """A turn as the model sees it; `next_context` is what it sees before the next action, None if the game is over."""

    context: list[int]
    action: list[int]
    reward: float
    next_context: list[int] | None


def random_episode(rng, markov, terminated=None):
    """(episode, its turns): a game of one to six turns."""
    terminated = rng.random() < 0.5 if terminated is None else terminated
    episode, turns = Episode(markov, MAX_LENGTH, MAX_NEW_TOKENS), list[Turn]()
    num_turns = rng.randint(1, 6)
    for index in range(num_turns + (not terminated)):
        episode.observe(rng.choices(range(NUM_IDS), k=rng.randint(1, 7)))
        context = list(episode.windows[-1].ids)
        if turns:
            turns[-1].next_context = context
        if index < num_turns:
            action, reward = rng.choices(range(NUM_IDS), k=rng.randint(1, MAX_NEW_TOKENS)), rng.uniform(-3, 3)
            turns.append(Turn(context, action, reward, None))
            episode.act(action)
            episode.end_turn(reward, terminated and index == num_turns - 1, rng.choice([[], [7]]))
    return episode, turns


def random_critic(seed):
    """A critic with weights so large that its values depend on every token before."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=NUM_IDS, n_positions=MAX_LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=None,
                        eos_token_id=None)
    critic = Critic(AutoModelForCausalLM.from_config(config), 0.0).eval()
    for p in critic.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return critic


def random_setting(seed, markov, **options):
    """(critic, target, episodes of a minibatch, the turns in it, args); some episodes are in the minibatch twice."""
    rng = random.Random(seed)
    games = [random_episode(rng, markov) for _ in range(8)]
    games = rng.sample(games, 6)
    games += [(copy.deepcopy(episode), turns) for episode, turns in games[:2]] + games[2:4]
    assert any(len(episode.windows) > 1 for episode, _ in games), "no episode is long enough"
    turns = [turn for _, turns in games for turn in turns]
    return random_critic(0), random_critic(1), [episode for episode, _ in games], turns, setting(**options)


def read(trunk, ids):
    """The hidden state after the ids, which are read alone."""
    return trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]


def slow_losses(critic, target, turns, args, per_token):
    """The equations, a token at a time: each state is read on its own, without padding, places and rows."""
    terms, values = [], []
    for turn in turns:
        for j, token in enumerate(turn.action):
            state, last = turn.context + turn.action[:j], j == len(turn.action) - 1
            next_state = turn.next_context if last else state + [token]
            reward = turn.reward if last else 0.0
            gamma = args.gamma if last or per_token else 1.0
            with torch.no_grad():
                bootstrap = target if args.target_v else critic
                next_v = 0.0 if next_state is None else bootstrap.v(read(bootstrap.trunk, next_state)).item()
                h = read(target.trunk, state)
                target_q = min(target.q1(h)[token].item(), target.q2(h)[token].item())
            y = reward + gamma * next_v
            h = read(critic.trunk, state)
            q1, q2, v = critic.q1(h), critic.q2(h), critic.v(h)[0]
            weight = args.expectile if target_q >= v.item() else 1 - args.expectile
            terms.append([(q1[token] - y) ** 2 / 2 + (q2[token] - y) ** 2 / 2, weight * (v - target_q) ** 2 / 2,
                          -q1.log_softmax(-1)[token] - q2.log_softmax(-1)[token]])
            values.append(v.detach())
    q_loss, v_loss, cql_loss = (sum(column) / len(terms) for column in zip(*terms, strict=True))
    return {"loss": q_loss + v_loss + args.cql_weight * cql_loss, "q_loss": q_loss, "v_loss": v_loss,
            "cql_loss": cql_loss, "v": sum(values) / len(values)}


# --- Targets and losses ---


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("markov, per_token, options", [
    (False, False, {}),
    (True, False, {}),
    (False, True, dict(target_v=True)),
    (True, True, dict(expectile=0.5)),
    (True, False, dict(target_v=True, gamma=1.0)),
])
def test_losses_and_gradients_equal_loops_over_tokens(seed, markov, per_token, options):
    """On episodes in several windows, cut short or not, with duplicates in the minibatch."""
    options = dict(gamma=0.7, cql_weight=0.3, expectile=0.8) | options
    critic, target, episodes, turns, args = random_setting(seed, markov, **options)
    assert {turn.next_context is None for turn in turns} == {False, True}
    slow = slow_losses(critic, target, turns, args, per_token)
    slow["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    batch = collate(episodes, "cpu")
    if per_token:
        batch = batch._replace(ends_turn=torch.ones_like(batch.ends_turn))
    fast = ilql_losses(critic, target, batch, args)
    fast["loss"].backward()
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name
    for name, p in critic.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    assert all(p.grad is None for p in target.parameters())


class Probe:
    """A critic whose V is 1000 for the first state of a minibatch, 2000 for the second and so on."""

    def hidden(self, batch):
        return 1000.0 * (1 + torch.arange(len(batch.states)))[:, None]

    def v(self, hidden):
        return hidden

    def q1(self, hidden):
        return torch.zeros(len(hidden), NUM_IDS)

    q2 = min_q = q1


def transitions_of(episodes, monkeypatch, **options):
    """What the losses are made of: (state, token, reward, discount, next state; None where it must not count)."""
    passed = []
    batch = collate(episodes, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(ilql_wordle, "ilql_loss", lambda *values: passed.extend(values))
        ilql_losses(Probe(), Probe(), batch, setting(**options))
    v, y, tokens = passed[2].tolist(), passed[4].tolist(), passed[5].tolist()
    length = batch.ids.shape[1]
    states = [batch.ids[place // length, : place % length + 1].tolist() for place in batch.states.tolist()]
    transitions = []
    for value, target, token in zip(v, y, tokens, strict=True):
        state = round(value / 1000) - 1
        reward = (target + 250) % 500 - 250  # V of the next state, discounted or not, is a multiple of 500
        discount = (target - reward) / (1000 * (state + 2))
        assert discount in (0, 0.5, 1), "another state than the next one"
        transitions.append((states[state], token, reward, discount, states[state + 1] if discount else None))
    return transitions


def test_transitions_of_an_example(monkeypatch):
    """Two turns in windows of their own, the first with an action of two tokens; then a cut, or the end."""
    def example(terminated):
        episode = Episode(True, 20, 2)
        episode.observe([1, 2])
        episode.act([3, 4])
        episode.end_turn(-1.0, False, [])
        episode.observe([5])
        episode.act([6])
        episode.end_turn(-2.0, terminated, [9])
        if not terminated:
            episode.observe([7, 8])
        return episode

    def transitions(*episodes, **options):
        return transitions_of(episodes, monkeypatch, **dict(gamma=0.5) | options)

    ended, cut = example(True), example(False)
    first = [([1, 2], 3, 0.0, 1.0, [1, 2, 3]), ([1, 2, 3], 4, -1.0, 0.5, [5])]
    if_ended, if_cut = [*first, ([5], 6, -2.0, 0.0, None)], [*first, ([5], 6, -2.0, 0.5, [7, 8])]
    assert transitions(ended) == if_ended and transitions(cut) == if_cut
    assert transitions(ended, cut, ended, cut) == 2 * (if_ended + if_cut)
    assert transitions(cut, cut, ended, ended) == 2 * if_cut + 2 * if_ended
    assert [x[3] for x in transitions(cut, gamma=1.0)] == [1.0, 1.0, 1.0]
    assert [x[3] for x in transitions(ended, gamma=1.0)] == [1.0, 1.0, 0.0]


def test_losses_of_an_example():
    q1, q2 = torch.tensor([[1.0, 5.0], [0.0, 0.0]]), torch.tensor([[2.0, 5.0], [0.0, 4.0]])
    v, target_q = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])
    y, tokens = torch.tensor([4.0, 4.0]), torch.tensor([0, 1])
    losses = ilql_loss(q1, q2, v, target_q, y, tokens, setting(expectile=0.9, cql_weight=0.25))
    assert losses["q_loss"].item() == pytest.approx(((1 - 4) ** 2 + (2 - 4) ** 2 + (0 - 4) ** 2 + (4 - 4) ** 2) / 2 / 2)
    assert losses["v_loss"].item() == pytest.approx((0.9 * 1 + 0.1 * 1) / 2 / 2)
    softmax_terms = np.log(1 + np.exp(4)) + np.log(2) + np.log(1 + np.exp(3)) + np.log(1 + np.exp(-4))
    assert losses["cql_loss"].item() == pytest.approx(softmax_terms / 2)
    assert losses["loss"].item() == pytest.approx(29 / 4 + 0.25 + 0.25 * softmax_terms / 2)


@pytest.mark.parametrize("markov", [False, True])
def test_only_action_tokens_are_trained_on(markov):
    """The losses move the hidden states that predict an action token: no others, be they of texts or of padding."""
    critic, target, episodes, turns, args = random_setting(5, markov)
    policy = AutoModelForCausalLM.from_config(critic.trunk.config).eval()
    value_model = ppo_car_dealer.ValueModel(policy)
    nn.init.normal_(value_model.head.weight)
    expected = {tuple(turn.context + turn.action[:j]) for turn in turns for j in range(len(turn.action))}
    ppo_batch = ppo_car_dealer.collate(episodes, "cpu")
    grpo_batch = grpo_wordle.collate(episodes, "cpu")
    losses = {
        "bc": (policy.base_model, lambda: bc_maze.bc_loss(policy, bc_maze.collate(episodes, "cpu"))),
        "ilql": (critic.trunk, lambda: ilql_losses(critic, target, collate(episodes, "cpu"), args)["loss"]),
        "ppo": (policy.base_model, lambda: ppo_car_dealer.policy_logprobs(policy, ppo_batch)[0].exp().mean()),
        "grpo": (policy.base_model, lambda: grpo_wordle.chosen_logprobs(policy, grpo_batch)[0].exp().mean()),
        "values": (value_model.trunk, lambda: value_model(ppo_batch)[ppo_batch.acted].square().mean()),
    }
    for name, (trunk, loss) in losses.items():
        hidden = []

        def keep(module, inputs, kwargs, output, hidden=hidden):
            output.last_hidden_state.retain_grad()
            hidden.append((kwargs["input_ids"], output.last_hidden_state))

        hook = trunk.register_forward_hook(keep, with_kwargs=True)
        loss().backward()
        hook.remove()
        (ids, states), = hidden
        moved = states.grad.abs().sum(-1).nonzero().tolist()
        assert {tuple(ids[row, : t + 1].tolist()) for row, t in moved} == expected, name


@pytest.mark.parametrize("terminated", [False, True])
def test_padding_does_not_count(terminated):
    """A longer episode beside a short one changes nothing for it, on whichever side."""
    critic, target, _, _, args = random_setting(0, False)
    rng = random.Random(0)
    games = [random_episode(rng, False, terminated) for _ in range(12)]
    (first, turns), (longest, others) = (choose(games, key=lambda game: len(game[0].windows[0].ids))
                                         for choose in (min, max))
    assert len(first.windows[0].ids) < len(longest.windows[0].ids)
    alone, other, beside, before = (ilql_losses(critic, target, collate(episodes, "cpu"), args)
                                    for episodes in ([first], [longest], [first, longest], [longest, first]))
    n, m = (sum(len(turn.action) for turn in game) for game in (turns, others))
    for name in ("q_loss", "v_loss", "cql_loss"):
        expected = (n * alone[name].item() + m * other[name].item()) / (n + m)
        assert beside[name].item() == pytest.approx(expected, rel=1e-4)
        assert before[name].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("script", [bc_maze, ilql_wordle, ppo_car_dealer])
@pytest.mark.parametrize("markov", [False, True])
def test_collate(script, markov):
    """The states in order, what follows each of them, and no row of ids twice."""
    rng = random.Random(0)
    games = [random_episode(rng, markov) for _ in range(20)]
    games += games[::-1]
    states, tokens, acted, ends, over = [], [], [], [], []
    for episode, turns in games:
        for turn in turns:
            for j, token in enumerate(turn.action):
                acted.append(len(states))
                states.append(turn.context + turn.action[:j])
                tokens.append(token)
                ends.append(j == len(turn.action) - 1)
                over.append(ends[-1] and turn.next_context is None)
        if turns[-1].next_context is not None and script is not bc_maze:  # a game that was cut, after its last text
            assert not episode.terminated
            states.append(turns[-1].next_context)
    batch = script.collate([episode for episode, _ in games], "cpu")
    length = batch.ids.shape[1]
    assert [batch.ids[place // length, : place % length + 1].tolist() for place in batch.states.tolist()] == states
    assert batch.tokens.tolist() == tokens
    if script is not bc_maze:
        rewards = [[0.0] * (len(turn.action) - 1) + [turn.reward] for _, turns in games for turn in turns]
        assert batch.rewards.tolist() == pytest.approx(sum(rewards, [])) and batch.rewards.dtype == torch.float32
        assert (batch.acted.tolist(), batch.ends_turn.tolist()) == (acted, ends)
        assert batch.terminated.tolist() == over
        assert any(over) and over.count(True) < len(games)
    if script is ppo_car_dealer:
        assert batch.ends_game.tolist() == sum(([False] * (sum(len(turn.action) for turn in turns) - 1) + [True]
                                                for _, turns in games), [])
    windows = set()  # up to their last states
    for episode, _ in games:
        for window in episode.windows:
            cut = window is episode.windows[-1] and not episode.terminated and script is not bc_maze
            if cut or window.chosen:
                windows.add(tuple(window.ids if cut else window.ids[: window.chosen[-1]]))
    assert sorted(batch.ids.tolist()) == sorted([*window, *[0] * (length - len(window))] for window in windows)
    assert batch.padding.item() == pytest.approx(1 - sum(map(len, windows)) / batch.ids.numel())


# --- Minibatches ---


@pytest.mark.parametrize("lengths", [[5] * 103, [1 + i * i % 97 for i in range(103)]], ids=["alike", "various"])
@pytest.mark.parametrize("size", [1, 4, 10, 16, 103, 500])
def test_minibatches(lengths, size):
    """Same by seed; each episode once per epoch, but for a rest that does not fill a minibatch."""
    per_batch = min(size, len(lengths))
    epoch = len(lengths) // per_batch
    batches = minibatches(lengths, size, 2 * epoch + 3, (1, 1))
    assert batches == minibatches(lengths, size, 2 * epoch + 3, (1, 1)) != minibatches(lengths, size, 2 * epoch + 3,
                                                                                      (1, 2))
    assert len(batches) == 2 * epoch + 3 and {len(batch) for batch in batches} == {per_batch}
    for start in (0, epoch):
        assert len(set(sum(batches[start : start + epoch], []))) == epoch * per_batch
    assert batches[:epoch] != batches[epoch : 2 * epoch]
    if len(lengths) % per_batch:  # the rest is another one each epoch
        assert set(sum(batches[:epoch], [])) != set(sum(batches[epoch : 2 * epoch], []))
    few = minibatches(lengths, size, 1, (1, 1))
    assert len(few) == 1 and len(set(few[0])) == per_batch


def test_minibatches_spare_padding():
    """Episodes of different lengths share minibatches with their like, and short ones come no sooner than long ones."""
    lengths = np.random.default_rng(0).integers(1, 100, 5000).tolist()
    batches = [[lengths[i] for i in indices] for indices in minibatches(lengths, 10, 500, (0,))]
    assert sorted(sum(batches, [])) == sorted(lengths)
    assert sum(sum(batch) for batch in batches) > 0.8 * sum(10 * max(batch) for batch in batches)
    means = np.array([np.mean(batch) for batch in batches])
    assert 0.4 < np.mean(means[1:] > means[:-1]) < 0.6


# --- A task with a known solution ---
# Four cells in a row; after the last one is the goal. -1 for each move but the one that reaches it.

LEFT, RIGHT = "go left\n", "go right\n"


def move(cell, action):
    """(reward, the cell after the move; None: the goal)."""
    if action == RIGHT:
        return (-1.0, cell + 1) if cell < 3 else (0.0, None)
    return -1.0, max(cell - 1, 0)


def walk(cell, *actions):
    """A trajectory, cut short unless it reaches the goal."""
    texts, rewards = [f"cell {cell}\n"], []
    for action in actions:
        reward, cell = move(cell, action)
        rewards.append(reward)
        texts += [action, "goal\n" if cell is None else f"cell {cell}\n"]
    return Trajectory(texts, rewards, cell is None, cell is None)


# Nobody goes all the way, and each cell is left to the left more often than to the right.
WALKS = [walk(0, LEFT, LEFT, RIGHT), walk(1, LEFT, LEFT), walk(1, LEFT), walk(1, RIGHT), walk(2, LEFT), walk(2, LEFT),
         walk(2, RIGHT), walk(3, LEFT), walk(3, LEFT), walk(3, RIGHT), walk(0, LEFT), walk(2, LEFT)]


class Corridor(Env):
    variants, markov, num_trajectories = ("corridor",), True, len(WALKS)
    players = None

    def reset(self, seed):
        self.cell, self.turns = seed % 4, 0
        return f"cell {self.cell}\n", {}

    def step(self, action):
        self.turns += 1
        reward, self.cell = move(self.cell, action)
        info = {"success": self.cell is None, "valid": action in (LEFT, RIGHT)}
        obs = "goal\n" if self.cell is None else f"cell {self.cell}\n"
        return obs, reward, self.cell is None, self.turns == 6 and self.cell is not None, info

    def generate(self, num_trajectories, seed, start=0):
        yield from WALKS[start:num_trajectories]


ENV = Corridor


def solve(gamma, expectile):
    """{(cell, action): Q} for the data of `WALKS`, by iteration: V is the expectile of Q over the data's actions."""
    chosen = {cell: [] for cell in range(4)}
    for trajectory in WALKS:
        for obs, action in zip(trajectory.texts[::2], trajectory.texts[1::2], strict=False):
            chosen[int(obs.split()[1])].append(action)
    v = dict.fromkeys(range(4), 0.0) | {None: 0.0}
    q = {}
    for _ in range(200):
        for cell in range(4):
            for action in (LEFT, RIGHT):
                reward, after = move(cell, action)
                q[cell, action] = reward + gamma * v[after]
            for _ in range(50):
                weights = [expectile if q[cell, action] >= v[cell] else 1 - expectile for action in chosen[cell]]
                v[cell] = sum(w * q[cell, a] for w, a in zip(weights, chosen[cell], strict=True)) / sum(weights)
    return q


def corridor_tokenizer():
    return word_tokenizer(["cell ", *"0123", "\n", "go ", "left\n", "right\n", "goal\n"])


def corridor_config(vocab_size):
    return LlamaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=64, max_position_embeddings=16, bos_token_id=None, eos_token_id=None,
                       initializer_range=32**-0.5)


def test_critic_finds_the_solution_of_a_corridor():
    """Pieces of the way are stitched together: Q is the fixed point's, and acting by it is optimal in every cell."""
    args = setting(gamma=0.9, expectile=0.9, cql_weight=0.0, tau=0.1, max_length=16)
    tokenizer = corridor_tokenizer()
    text = Text(tokenizer, len(tokenizer))
    torch.manual_seed(1)
    policy = AutoModelForCausalLM.from_config(corridor_config(len(tokenizer))).eval()
    assert len(text.encode(LEFT)) == len(text.encode(RIGHT)) == 2
    batch = collate(encode(WALKS, SimpleNamespace(markov=True), text, args), "cpu")
    critic = Critic(policy, -3.0)
    target = copy.deepcopy(critic)
    optimizer = torch.optim.AdamW(critic.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 500)
        ilql_losses(critic, target, batch, args)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
    solution, learned = solve(args.gamma, args.expectile), {}
    for cell, action in solution:
        *start, last = text.encode(f"cell {cell}\n") + text.encode(action)
        with torch.no_grad():
            learned[cell, action] = critic.min_q(read(critic.trunk, start))[last].item()
    assert learned == pytest.approx(solution, abs=0.25)
    for cell in range(4):
        assert learned[cell, RIGHT] > learned[cell, LEFT] + 0.3
    # Acting: the policy's logits are next to nothing beside β · Q, and the actions share their first token.
    for cell in range(4):
        ids = text.encode(f"cell {cell}\n") + text.encode(LEFT)[:1]
        with torch.no_grad():
            logits = policy.get_output_embeddings()(read(policy.base_model, ids))
            logits += 1000.0 * critic.min_q(read(critic.trunk, ids))
        assert logits[text.encode(RIGHT)[1]] > logits[text.encode(LEFT)[1]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the whole script on the corridor; returns (its checkpoint, the rows of its log)."""
    monkeypatch.setitem(envs.MODULES, "corridor", "corridor")
    monkeypatch.setitem(sys.modules, "corridor", sys.modules[__name__])
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    monkeypatch.setattr("envs.run.RUNS", tmp_path / "runs")
    tokenizer = corridor_tokenizer()
    corridor_config(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("envs.run.is_ours", lambda model: True)  # weights are drawn

    def run(**options):
        options = dict(num_iterations=1, steps_per_iteration=1, eval_every=0, num_eval_episodes=4, num_test_episodes=4,
                       num_envs=4, num_trajectories=None, beta=(1.0,), minibatch_size=12) | options
        number = len(list(tmp_path.glob("runs/*")))
        args = setting(env_id="corridor", model=str(tmp_path / "model"), exp_name=f"run{number}", **options)
        ilql_wordle.main(args)
        folder = tmp_path / "runs" / f"corridor__{args.exp_name}__1"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / "last.pt", weights_only=True), rows

    return run


def test_the_target_follows_the_critic(run):
    """After each step it is (1 - tau) * target + tau * critic: here after one, where the critic is the same."""
    (still, _), (half, _), (copied, _) = (run(tau=tau) for tau in (0.0, 0.25, 1.0))
    moved = 0
    for name, critic in copied["critic"].items():
        assert torch.equal(copied["target"][name], critic) and torch.equal(half["critic"][name], critic)
        expected = 0.75 * still["target"][name] + 0.25 * critic
        torch.testing.assert_close(half["target"][name], expected, rtol=0, atol=1e-6)
        moved += not torch.equal(still["target"][name], critic)
    assert moved > 3


def test_a_run_solves_the_corridor(run):
    """And tries each beta on validation games, once, before the test."""
    beta = (0.0, 100.0)
    _, rows = run(steps_per_iteration=250, gamma=0.9, expectile=0.9, cql_weight=0.1, tau=0.1, learning_rate=4e-3,
                  beta=beta, target_v=True, temperature=0.0)
    assert [row["eval/beta"] for row in rows if "eval/beta" in row] == list(beta)
    assert rows[-1]["test/beta"] == 100.0
    assert rows[-1]["test/episodic_return"] >= -2.25  # the optimum is -1.5, and staying where one is -6


def test_critic_starts_as_a_copy():
    """Of the policy's trunk, with the same value everywhere, and shares no weights with it."""
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(corridor_config(NUM_IDS))
    critic = Critic(policy, -4.5)
    hidden = critic.trunk(torch.tensor([[1, 2, 3]])).last_hidden_state
    torch.testing.assert_close(hidden, policy.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state)
    for head, size in ((critic.q1, NUM_IDS), (critic.q2, NUM_IDS), (critic.v, 1), (critic.min_q, NUM_IDS)):
        assert head(hidden).shape == (1, 3, size) and (head(hidden) == -4.5).all()
    assert not {p.data_ptr() for p in critic.parameters()} & {p.data_ptr() for p in policy.parameters()}
    assert not torch.equal(critic.q1[0].weight, critic.q2[0].weight)
