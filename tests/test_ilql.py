"""ILQL: targets, losses and gradients against the equations as loops over tokens, and a task with a known solution."""

import copy
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from algos import bc_maze, ilql_wordle
from algos.ilql_wordle import (
    ACTION,
    CUT,
    LAST,
    OBS,
    Args,
    Codec,
    Critic,
    Episode,
    Segment,
    bc_loss,
    build_model,
    collate,
    critic_losses,
    encode,
    ilql_losses,
    minibatches,
    q_policy,
)
from envs import Trajectory

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


def end(episode, rewards, terminated):
    """Close a game whose texts do not matter."""
    episode.end(Trajectory(["obs\n", "action\n"] * len(rewards) + ["obs\n"], rewards, terminated, False))


def random_episode(rng, markov, terminated=None):
    """(episode, its turns): a game of one to six turns."""
    terminated = rng.random() < 0.5 if terminated is None else terminated
    episode, turns = Episode(markov, MAX_LENGTH, MAX_NEW_TOKENS), list[Turn]()
    num_turns = rng.randint(1, 6)
    for index in range(num_turns + (not terminated)):
        episode.observe(rng.choices(range(NUM_IDS), k=rng.randint(1, 7)))
        context = list(episode.segments[-1].ids)
        if turns:
            turns[-1].next_context = context
        if index < num_turns:
            action, reward = rng.choices(range(NUM_IDS), k=rng.randint(1, MAX_NEW_TOKENS)), rng.uniform(-3, 3)
            turns.append(Turn(context, action, reward, None))
            episode.add(action, ACTION)
            episode.end_action(rng.choice([[], [7]]))
    end(episode, [turn.reward for turn in turns], terminated)
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
    """(critic, target, minibatch, the turns in it, args); some episodes are in the minibatch twice."""
    rng = random.Random(seed)
    games = [random_episode(rng, markov) for _ in range(8)]
    games = rng.sample(games, 6)
    games += [(copy.deepcopy(episode), turns) for episode, turns in games[:2]] + games[2:4]
    assert any(len(episode.segments) > 1 for episode, _ in games), "no episode is long enough"
    turns = [turn for _, turns in games for turn in turns]
    return random_critic(0), random_critic(1), [episode for episode, _ in games], turns, setting(**options)


def read(trunk, ids):
    """The hidden state behind the ids, which are read alone."""
    return trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]


def slow_losses(critic, target, turns, args):
    """The equations, a token at a time: each state is read on its own, without padding, positions and rows."""
    terms = []
    for turn in turns:
        for j, token in enumerate(turn.action):
            state, last = turn.context + turn.action[:j], j == len(turn.action) - 1
            next_state = turn.next_context if last else state + [token]
            reward = turn.reward if last else 0.0
            gamma = args.gamma if last or args.gamma_per == "token" else 1.0
            with torch.no_grad():
                bootstrap = critic if args.bootstrap == "online" else target
                next_v = 0.0 if next_state is None else bootstrap.v(read(bootstrap.trunk, next_state)).item()
                h = read(target.trunk, state)
                target_q = min(target.q1(h)[token].item(), target.q2(h)[token].item())
            y = reward + gamma * next_v
            h = read(critic.trunk, state)
            q1, q2, v = critic.q1(h), critic.q2(h), critic.v(h)[0]
            weight = args.expectile if target_q >= v.item() else 1 - args.expectile
            terms.append([(q1[token] - y) ** 2 / 2 + (q2[token] - y) ** 2 / 2, weight * (v - target_q) ** 2 / 2,
                          -q1.log_softmax(-1)[token] - q2.log_softmax(-1)[token]])
    q_loss, v_loss, cql_loss = (sum(column) / len(terms) for column in zip(*terms, strict=True))
    return {"loss": q_loss + v_loss + args.cql_weight * cql_loss, "q_loss": q_loss, "v_loss": v_loss,
            "cql_loss": cql_loss}


# --- Targets and losses ---


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("markov, options", [
    (False, {}),
    (True, {}),
    (False, dict(gamma_per="token", bootstrap="target")),
    (True, dict(gamma_per="token", expectile=0.5)),
    (True, dict(bootstrap="target", gamma=1.0)),
])
def test_losses_and_gradients_equal_loops_over_tokens(seed, markov, options):
    """On episodes in several segments, cut short or not, with duplicates in the minibatch."""
    options = dict(gamma=0.7, cql_weight=0.3, expectile=0.8) | options
    critic, target, batch, turns, args = random_setting(seed, markov, **options)
    assert {turn.next_context is None for turn in turns} == {False, True}
    slow = slow_losses(critic, target, turns, args)
    slow["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    fast = critic_losses(critic, target, collate(batch, "cpu"), args)
    next(iter(fast.values())).backward()
    for name, value in slow.items():
        assert fast[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name, p in critic.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    assert all(p.grad is None for p in target.parameters())


def transitions_of(batch, monkeypatch, **options):
    """What the losses are made of: (state, token, reward, discount, next state; None where it must not count)."""
    passed = []
    with monkeypatch.context() as patch:
        patch.setattr(ilql_wordle, "ilql_losses", lambda *values: passed.extend(values))
        arrays = collate(batch, "cpu")
        critic_losses(random_critic(0), random_critic(1), arrays, setting(**options))
    ids, row, t, acts = arrays[:4]
    tokens, rewards, discounts = (x.tolist() for x in passed[5:8])
    states = [ids[r, : i + 1].tolist() for r, i in zip(row, t, strict=True)]
    return [(states[i], token, reward, discount, states[i + 1] if discount else None)
            for i, token, reward, discount in zip(acts, tokens, rewards, discounts, strict=True)]


def test_transitions_of_an_example(monkeypatch):
    """Two turns in segments of their own, the first with an action of two tokens; then a cut, or the end."""
    def example(terminated):
        episode = Episode(True, 20, 2)
        episode.observe([1, 2])
        episode.add([3, 4], ACTION)
        episode.end_action([])
        episode.observe([5])
        episode.add([6], ACTION)
        episode.end_action([9])
        if not terminated:
            episode.observe([7, 8])
        end(episode, [-1.0, -2.0], terminated)
        return episode

    def transitions(*batch, **options):
        return transitions_of(batch, monkeypatch, **dict(gamma=0.5) | options)

    ended, cut = example(True), example(False)
    first = [([1, 2], 3, 0.0, 1.0, [1, 2, 3]), ([1, 2, 3], 4, -1.0, 0.5, [5])]
    if_ended, if_cut = [*first, ([5], 6, -2.0, 0.0, None)], [*first, ([5], 6, -2.0, 0.5, [7, 8])]
    assert transitions(ended) == if_ended and transitions(cut) == if_cut
    assert transitions(ended, cut, ended, cut) == 2 * (if_ended + if_cut)
    assert transitions(cut, cut, ended, ended) == 2 * if_cut + 2 * if_ended
    assert [x[3] for x in transitions(cut, gamma_per="token")] == [0.5, 0.5, 0.5]
    assert [x[3] for x in transitions(ended, gamma_per="token")] == [0.5, 0.5, 0.0]


def test_losses_of_an_example():
    q1, q2 = torch.tensor([[1.0, 5.0], [0.0, 0.0]]), torch.tensor([[2.0, 5.0], [0.0, 4.0]])
    v, target_q = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])
    next_v, tokens = torch.tensor([10.0, 99.0]), torch.tensor([0, 1])
    rewards, discounts = torch.tensor([-1.0, 4.0]), torch.tensor([0.5, 0.0])
    losses = ilql_losses(q1, q2, v, target_q, next_v, tokens, rewards, discounts, 0.9, 0.25)
    assert losses["q_loss"].item() == pytest.approx(((1 - 4) ** 2 + (2 - 4) ** 2 + (0 - 4) ** 2 + (4 - 4) ** 2) / 2 / 2)
    assert losses["v_loss"].item() == pytest.approx((0.9 * 1 + 0.1 * 1) / 2 / 2)
    softmax_terms = np.log(1 + np.exp(4)) + np.log(2) + np.log(1 + np.exp(3)) + np.log(1 + np.exp(-4))
    assert losses["cql_loss"].item() == pytest.approx(softmax_terms / 2)
    assert losses["loss"].item() == pytest.approx(29 / 4 + 0.25 + 0.25 * softmax_terms / 2)


@pytest.mark.parametrize("markov", [False, True])
def test_only_action_tokens_are_trained_on(markov):
    """The losses move the hidden states that predict an action token: no others, be they of texts or of padding."""
    critic, target, batch, turns, args = random_setting(5, markov)
    policy = AutoModelForCausalLM.from_config(critic.trunk.config).eval()
    expected = {tuple(turn.context + turn.action[:j]) for turn in turns for j in range(len(turn.action))}
    arrays = collate(batch, "cpu")
    for trunk, loss in ((policy.base_model, lambda: bc_loss(policy, *arrays)),
                        (critic.trunk, lambda: critic_losses(critic, target, arrays, args)["loss"])):
        hidden = []

        def keep(module, inputs, kwargs, output, hidden=hidden):
            output.last_hidden_state.retain_grad()
            hidden.append(output.last_hidden_state)

        hook = trunk.register_forward_hook(keep, with_kwargs=True)
        loss().backward()
        hook.remove()
        assert len(hidden) == 1
        moved = hidden[0].grad.abs().sum(-1).nonzero().tolist()
        assert {tuple(arrays[0][row, : t + 1].tolist()) for row, t in moved} == expected


@pytest.mark.parametrize("terminated", [False, True])
def test_padding_does_not_count(terminated):
    """A longer episode beside a short one changes nothing for it, on whichever side."""
    critic, target, _, _, args = random_setting(0, False)
    rng = random.Random(0)
    games = [random_episode(rng, False, terminated) for _ in range(12)]
    (first, turns), (longest, others) = (choose(games, key=lambda game: len(game[0].segments[0].ids))
                                         for choose in (min, max))
    assert len(first.segments[0].ids) < len(longest.segments[0].ids)
    alone, other, beside, before = (critic_losses(critic, target, collate(batch, "cpu"), args)
                                    for batch in ([first], [longest], [first, longest], [longest, first]))
    n, m = (sum(len(turn.action) for turn in game) for game in (turns, others))
    for name in ("q_loss", "v_loss", "cql_loss"):
        expected = (n * alone[name].item() + m * other[name].item()) / (n + m)
        assert beside[name].item() == pytest.approx(expected, rel=1e-4)
        assert before[name].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("script", [bc_maze, ilql_wordle])
@pytest.mark.parametrize("markov", [False, True])
def test_collate(script, markov):
    """The states in order, what follows each of them, and no row of ids twice."""
    rng = random.Random(0)
    games = [random_episode(rng, markov) for _ in range(20)]
    games += games[::-1]
    segments = [segment for episode, _ in games for segment in episode.segments]
    states, tokens, kinds = [], [], []
    for segment in segments:
        for i, kind in enumerate(segment.kind):
            if kind != OBS:
                states.append(segment.ids[:i])
                kinds.append(kind)
                tokens.append(None if kind == CUT else segment.ids[i])
    ids, row, t, acts, *arrays = script.collate([episode for episode, _ in games], "cpu")
    assert [ids[r, : i + 1].tolist() for r, i in zip(row, t, strict=True)] == states
    assert acts.tolist() == [i for i, kind in enumerate(kinds) if kind != CUT]
    assert CUT in kinds
    assert [x.tolist() for x in arrays[:2]] == [[values[i] for i in acts] for values in (tokens, kinds)]
    rewards = [[0.0] * (len(turn.action) - 1) + [turn.reward] for _, turns in games for turn in turns]
    assert arrays[2].tolist() == pytest.approx(sum(rewards, [])) and arrays[2].dtype == torch.float32
    rows, longest = {tuple(x) for x in ids.tolist()}, max(len(segment.kind) for segment in segments)
    assert len(rows) == len(ids) < len(segments) and ids.shape[1] == longest
    assert rows == {tuple(segment.ids + [0] * (longest - len(segment.ids))) for segment in segments}


def test_the_end_of_a_game_appears_once_an_epoch(monkeypatch):
    """And never with a next value; all other transitions have one, the cut games' last ones too."""
    rng = random.Random(0)
    data = [random_episode(rng, True)[0] for _ in range(200)]
    batches = minibatches(data, 8, 0, 0)
    seen = Counter()
    for batch in (next(batches) for _ in range(25)):
        _, _, t, acts, _, kind, _ = collate(batch, "cpu")
        over = [x[-1] is None for x in transitions_of(batch, monkeypatch)]
        assert over == (kind == LAST).tolist() and sum(over) == sum(e.trajectory.terminated for e in batch)
        seen.update(tokens=len(acts), ends=sum(over), cut=len(t) - len(acts))
    num_ends = sum(episode.trajectory.terminated for episode in data)
    kinds = [kind for episode in data for segment in episode.segments for kind in segment.kind]
    assert seen == {"tokens": sum(kind not in (OBS, CUT) for kind in kinds), "ends": num_ends, "cut": 200 - num_ends}
    assert 50 < num_ends < 150


# --- Minibatches ---


def episodes_of_lengths(lengths):
    """One with each of the lengths, which is that of its longest segment, the first or not."""
    episodes = []
    for number, length in enumerate(map(int, lengths)):
        episodes.append(Episode(True, 200, 1))
        episodes[-1].segments = [Segment([0] * n, [OBS] * n) for n in [length, 1, 1 + length // 2][number % 2 :]]
        if number % 2:
            episodes[-1].segments.append(Segment([0] * length, [OBS] * length))
    return episodes


@pytest.mark.parametrize("script", [bc_maze, ilql_wordle])
@pytest.mark.parametrize("lengths", [[5] * 103, [1 + i * i % 97 for i in range(103)]], ids=["alike", "various"])
@pytest.mark.parametrize("size", [1, 4, 10, 16, 103, 500])
def test_minibatches(script, lengths, size):
    """Same by seed, from any step on; each episode once per epoch, but for a rest that does not fill a minibatch."""
    data = episodes_of_lengths(lengths)
    number = {id(episode): i for i, episode in enumerate(data)}

    def first(n, seed, step=0):
        batches = script.minibatches(data, size, seed, step)
        return [[number[id(episode)] for episode in next(batches)] for _ in range(n)]

    per_batch = min(size, len(data))
    epoch = len(data) // per_batch
    batches = first(2 * epoch + 3, seed=1)
    assert batches == first(2 * epoch + 3, seed=1) != first(2 * epoch + 3, seed=2)
    for step in {0, 1, epoch - 1, epoch, 2 * epoch, 2 * epoch + 1}:
        assert first(2, seed=1, step=step) == batches[step : step + 2]
    for start in (0, epoch):
        assert {len(batch) for batch in batches[start : start + epoch]} == {per_batch}
        assert len(set(sum(batches[start : start + epoch], []))) == epoch * per_batch
    assert batches[:epoch] != batches[epoch : 2 * epoch]
    if len(data) % per_batch:  # the rest is another one each epoch
        assert set(sum(batches[:epoch], [])) != set(sum(batches[epoch : 2 * epoch], []))


@pytest.mark.parametrize("script", [bc_maze, ilql_wordle])
def test_minibatches_spare_padding(script):
    """Episodes of different lengths share minibatches with their like, and short ones come no sooner than long ones."""
    lengths = np.random.default_rng(0).integers(1, 100, 5000)
    batches = script.minibatches(episodes_of_lengths(lengths), 10, 0, 0)
    batches = [[max(len(segment.ids) for segment in episode.segments) for episode in next(batches)]
               for _ in range(500)]
    assert sorted(sum(batches, [])) == sorted(lengths)
    assert sum(sum(batch) for batch in batches) > 0.8 * sum(10 * max(batch) for batch in batches)
    means = np.array([np.mean(batch) for batch in batches])
    assert 0.4 < np.mean(means[1:] > means[:-1]) < 0.6


# --- A task with a known solution ---
# Four cells in a row; behind the last one is the goal. -1 for each move but the one that reaches it.

LEFT, RIGHT = "go left\n", "go right\n"


def move(cell, action):
    """(reward, the cell behind the move; None: the goal)."""
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
                reward, behind = move(cell, action)
                q[cell, action] = reward + gamma * v[behind]
            for _ in range(50):
                weights = [expectile if q[cell, action] >= v[cell] else 1 - expectile for action in chosen[cell]]
                v[cell] = sum(w * q[cell, a] for w, a in zip(weights, chosen[cell], strict=True)) / sum(weights)
    return q


def test_critic_finds_the_solution_of_a_corridor():
    """Pieces of the way are stitched together: Q is the fixed point's, and acting by it is optimal in every cell."""
    args = setting(gamma=0.9, expectile=0.9, cql_weight=0.0, tau=0.1, hidden_size=32, num_layers=1, max_length=16,
                   max_new_tokens=2, token_pattern=r"go |\d|[a-z ]+\n?|\n")
    policy, tokenizer = build_model(args, {text for trajectory in WALKS for text in trajectory.texts})
    codec = Codec(tokenizer)
    assert len(codec.encode(LEFT)) == len(codec.encode(RIGHT)) == 2
    data = encode(WALKS, True, codec, args)
    critic = Critic(policy, -3.0)
    target = copy.deepcopy(critic).requires_grad_(False)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    batches = minibatches(data, len(data), 0, 0)
    for _ in range(900):
        critic_losses(critic, target, collate(next(batches), "cpu"), args)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
    solution, learned = solve(args.gamma, args.expectile), {}
    for cell, action in solution:
        *start, last = codec.encode(f"cell {cell}\n") + codec.encode(action)
        with torch.no_grad():
            learned[cell, action] = critic.min_q(read(critic.trunk, start))[last].item()
    assert learned == pytest.approx(solution, abs=0.3)
    for cell in range(4):
        assert learned[cell, RIGHT] > learned[cell, LEFT] + 0.3
    # Acting: the policy's logits are next to nothing beside β · Q, and the actions share their first token.
    trunks, next_logits = q_policy(policy, critic, 1000.0)
    for cell in range(4):
        ids = codec.encode(f"cell {cell}\n") + codec.encode(LEFT)[:1]
        with torch.no_grad():
            logits = next_logits(*(read(trunk, ids)[None] for trunk in trunks))[0]
        assert logits[codec.encode(RIGHT)[1]] > logits[codec.encode(LEFT)[1]]


def test_critic_starts_as_a_copy():
    """Of the policy's trunk, with the same value everywhere, and shares no weights with it."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=NUM_IDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16, bos_token_id=None, eos_token_id=None)
    policy = AutoModelForCausalLM.from_config(config)
    critic = Critic(policy, -4.5)
    hidden = critic.trunk(torch.tensor([[1, 2, 3]])).last_hidden_state
    torch.testing.assert_close(hidden, policy.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state)
    for head, size in ((critic.q1, NUM_IDS), (critic.q2, NUM_IDS), (critic.v, 1), (critic.min_q, NUM_IDS)):
        assert head(hidden).shape == (1, 3, size) and (head(hidden) == -4.5).all()
    assert not {p.data_ptr() for p in critic.parameters()} & {p.data_ptr() for p in policy.parameters()}
    assert not torch.equal(critic.q1[0].weight, critic.q2[0].weight)
