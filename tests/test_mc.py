"""Monte-Carlo returns: G and the loss against loops over tokens, and a game of two turns whose values are known."""

import copy
import json
import random
import sys

import pytest
import torch
from test_ilql import MAX_LENGTH, NUM_IDS, random_episode, read
from test_rollout import word_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import envs
from algos import mc_twenty_questions as mc
from algos.mc_twenty_questions import Args, Episode, QCritic, Text, collate, encode, mc_loss, returns_to_go
from envs import Env, Trajectory


def setting(**options):
    return Args(device="cpu", **options)


def random_critic():
    """A critic with weights so large that its values depend on every token before."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=NUM_IDS, n_positions=MAX_LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=None,
                        eos_token_id=None)
    critic = QCritic(AutoModelForCausalLM.from_config(config), 0.0).eval()
    for p in critic.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return critic


def random_games(seed, markov):
    """[(episode, its turns)] of a minibatch; some are in it twice."""
    rng = random.Random(seed)
    games = [random_episode(rng, markov) for _ in range(8)]
    assert any(len(episode.windows) > 1 for episode, _ in games), "no episode is long enough"
    assert {episode.terminated for episode, _ in games} == {False, True}
    return games + [copy.deepcopy(games[0]), games[1]]


def losses_of(critic, episodes, args):
    batch = collate(episodes, "cpu", args.gamma)
    return mc_loss(critic(batch), batch.tokens, batch.returns, args)


def slow_return(turns, gamma):
    """G of each token of the first turn: each reward, times gamma for each turn that ended on the way to it."""
    return sum(gamma**number * turn.reward for number, turn in enumerate(turns))


def slow_losses(critic, games, args):
    """The equations, a token at a time: each state is read on its own, without padding, places and rows."""
    terms = []
    for _, turns in games:
        for number, turn in enumerate(turns):
            for j, token in enumerate(turn.action):
                q = critic.q(read(critic.trunk, turn.context + turn.action[:j]))
                g = slow_return(turns[number:], args.gamma)
                terms.append([(q[token] - g) ** 2 / 2, -q.log_softmax(-1)[token], q[token]])
    q_loss, cql_loss, q = (sum(column) / len(terms) for column in zip(*terms, strict=True))
    return {"loss": q_loss + args.cql_weight * cql_loss, "q_loss": q_loss, "cql_loss": cql_loss, "q": q}


# --- Returns ---


def example(terminated):
    """Two turns in windows of their own, of two tokens and of one; then the end, or a cut."""
    episode = Episode(True, 20, 2)
    episode.observe([1, 2])
    episode.act([3, 4])
    episode.end_turn(1.0, False, [])
    episode.observe([5])
    episode.act([6])
    episode.end_turn(4.0, terminated, [7])
    if not terminated:
        episode.observe([8, 9])
    return episode


@pytest.mark.parametrize("gamma, expected", [(0.5, [3, 3, 4]), (1.0, [5, 5, 4]), (0.0, [1, 1, 4])])
def test_returns_by_hand(gamma, expected):
    """γ acts after the second token, where the turn ends, and there only; a game that was cut gets nothing more."""
    assert returns_to_go(example(True), gamma) == returns_to_go(example(False), gamma) == expected
    batch = collate([example(True), example(False), example(True)], "cpu", gamma)
    assert batch.returns.tolist() == 3 * expected and batch.returns.dtype == torch.float32
    assert batch.tokens.tolist() == 3 * [3, 4, 6]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9])
def test_returns_of_a_long_game(gamma):
    """Where powers of gamma are 0, or so small that a ratio of them would be none."""
    episode = Episode(True, 20, 2)
    for _ in range(3000):
        episode.observe([1])
        episode.act([2])
        episode.end_turn(-1.0, False, [])
    assert 0.9**3000 < 1e-100 and 0.3**3000 == 0.0
    expected = [-(1 - gamma**n) / (1 - gamma) for n in range(3000, 0, -1)]
    assert returns_to_go(episode, gamma) == pytest.approx(expected, rel=1e-9)


# --- The loss ---


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize("options", [dict(gamma=0.7, cql_weight=0.3), dict(gamma=1.0, cql_weight=0.0)])
def test_losses_and_gradients_equal_loops_over_tokens(seed, markov, options):
    """On episodes in several windows, cut short or not, with duplicates in the minibatch."""
    critic, games, args = random_critic(), random_games(seed, markov), setting(**options)
    slow = slow_losses(critic, games, args)
    slow["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    fast = losses_of(critic, [episode for episode, _ in games], args)
    fast["loss"].backward()
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name
    for name, p in critic.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_loss_of_an_example():
    q = torch.tensor([[1.0, 5.0], [0.0, 4.0]])
    losses = mc_loss(q, torch.tensor([0, 1]), torch.tensor([4.0, 3.0]), setting(cql_weight=0.25))
    cql_loss = (torch.log1p(torch.tensor(4.0).exp()) + torch.log1p(torch.tensor(-4.0).exp())).item() / 2
    assert losses["q_loss"].item() == pytest.approx(((1 - 4) ** 2 + (4 - 3) ** 2) / 2 / 2)
    assert losses["cql_loss"].item() == pytest.approx(cql_loss) and losses["q"].item() == 2.5
    assert losses["loss"].item() == pytest.approx(10 / 4 + 0.25 * cql_loss)


@pytest.mark.parametrize("markov", [False, True])
def test_only_action_tokens_are_trained_on(markov):
    """The loss moves the hidden states that predict an action token: no others, be they of texts or of padding."""
    critic, games = random_critic(), random_games(5, markov)
    hidden = []

    def keep(module, inputs, kwargs, output):
        output.last_hidden_state.retain_grad()
        hidden.append((kwargs["input_ids"], output.last_hidden_state))

    critic.trunk.register_forward_hook(keep, with_kwargs=True)
    losses_of(critic, [episode for episode, _ in games], setting(cql_weight=0.3))["loss"].backward()
    (ids, states), = hidden
    moved = states.grad.abs().sum(-1).nonzero().tolist()
    expected = {tuple(turn.context + turn.action[:j]) for _, turns in games for turn in turns
                for j in range(len(turn.action))}
    assert {tuple(ids[row, : t + 1].tolist()) for row, t in moved} == expected
    assert ids.numel() > len(moved)


def test_padding_does_not_count():
    """A longer episode beside a short one changes nothing for it, on whichever side."""
    critic, games, args = random_critic(), random_games(0, False), setting(gamma=0.7)
    first, longest = (choose((episode for episode, _ in games), key=lambda episode: len(episode.windows[0].ids))
                      for choose in (min, max))
    assert len(first.windows[0].ids) < len(longest.windows[0].ids)
    alone, other, beside, before = (losses_of(critic, episodes, args) for episodes in (
        [first], [longest], [first, longest], [longest, first]))
    n, m = len(first.rewards), len(longest.rewards)
    for name in ("q_loss", "cql_loss", "q"):
        expected = (n * alone[name].item() + m * other[name].item()) / (n + m)
        assert beside[name].item() == pytest.approx(expected, rel=1e-4)
        assert before[name].item() == pytest.approx(expected, rel=1e-4)


# --- A game of two turns whose values are known ---
# What the first move earns at once is less than what it makes possible.

LEFT, RIGHT = "go left\n", "go right\n"
FIRST = {LEFT: 1.0, RIGHT: 0.0}
SECOND = {(LEFT, LEFT): 0.0, (LEFT, RIGHT): 1.0, (RIGHT, LEFT): -1.0, (RIGHT, RIGHT): 6.0}
TIMES = {(LEFT, LEFT): 4, (LEFT, RIGHT): 2, (RIGHT, LEFT): 1, (RIGHT, RIGHT): 1}  # how often the data has each game
GAMMA = 0.9
# By what stands before a token, and the token: the mean of G over the data. Both actions begin with the same token.
AFTER_LEFT, AFTER_RIGHT = 1 + GAMMA * 2 / 6, GAMMA * 5 / 2
VALUES = {("start\n", "go "): (6 * AFTER_LEFT + 2 * AFTER_RIGHT) / 8,
          ("start\ngo ", "left\n"): AFTER_LEFT, ("start\ngo ", "right\n"): AFTER_RIGHT,
          ("start\ngo left\nleft now\n", "go "): 2 / 6, ("start\ngo right\nright now\n", "go "): 5 / 2,
          ("start\ngo left\nleft now\ngo ", "left\n"): 0.0, ("start\ngo left\nleft now\ngo ", "right\n"): 1.0,
          ("start\ngo right\nright now\ngo ", "left\n"): -1.0, ("start\ngo right\nright now\ngo ", "right\n"): 6.0}


def seen_after(action):
    return action.removeprefix("go ").replace("\n", " now\n")


class TwoTurns(Env):
    variants, num_trajectories, num_test_episodes = ("two_turns",), sum(TIMES.values()), 8
    players = None

    def reset(self, seed):
        self.actions = []
        return "start\n", {}

    def step(self, action):
        self.actions.append(action)
        valid = action in FIRST
        if len(self.actions) == 1:
            reward, terminated = FIRST.get(action, -9.0), not valid
        else:
            reward, terminated = SECOND.get(tuple(self.actions), -9.0), True
        return seen_after(action), reward, terminated, False, {"success": False, "valid": valid}

    def generate(self, num_trajectories, seed, start=0):
        games = [actions for actions, times in TIMES.items() for _ in range(times)]
        for first, second in games[start:num_trajectories]:
            yield Trajectory(["start\n", first, seen_after(first), second, seen_after(second)],
                             [FIRST[first], SECOND[first, second]], True, False)


ENV = TwoTurns


def two_turns_tokenizer():
    return word_tokenizer(["start\n", "go ", "left\n", "right\n", "left ", "right ", "now\n", "\n"])


def two_turns_config(vocab_size):
    return LlamaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=64, max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
                       initializer_range=32**-0.5)


def test_q_is_the_mean_of_what_followed_in_the_data():
    """Not of what a better player would get: after the first turn, the second is played as the data plays it."""
    tokenizer = two_turns_tokenizer()
    text = Text(tokenizer, len(tokenizer))
    args = setting(gamma=GAMMA, cql_weight=0.0, max_length=32)
    env = TwoTurns("two_turns")
    torch.manual_seed(1)
    policy = AutoModelForCausalLM.from_config(two_turns_config(len(tokenizer))).eval()
    assert len(text.encode(LEFT)) == len(text.encode(RIGHT)) == 2
    batch = collate(encode(list(env.generate(8, 0)), env, text, args), "cpu", args.gamma)
    critic = QCritic(policy, 1.0)
    optimizer = torch.optim.AdamW(critic.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 300)
        mc_loss(critic(batch), batch.tokens, batch.returns, args)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        learned = {(before, token): critic.q(read(critic.trunk, text.encode(before)))[text.encode(token)[0]].item()
                   for before, token in VALUES}
    assert learned == pytest.approx(VALUES, abs=0.05)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the whole script on the game; returns the rows of its log."""
    monkeypatch.setitem(envs.MODULES, "two_turns", "two_turns")
    monkeypatch.setitem(sys.modules, "two_turns", sys.modules[__name__])
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    monkeypatch.setattr("envs.run.RUNS", tmp_path / "runs")
    tokenizer = two_turns_tokenizer()
    torch.manual_seed(0)
    two_turns_config(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("envs.run.is_ours", lambda model: True)  # weights are drawn

    def run(**options):
        args = setting(env_id="two_turns", model=str(tmp_path / "model"), num_trajectories=None, num_iterations=1,
                       eval_every=0, num_eval_episodes=8, num_envs=8, minibatch_size=8, **options)
        mc.main(args)
        folder = tmp_path / "runs" / f"two_turns__{args.exp_name}__1"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / "last.pt", weights_only=True), rows

    return run


def test_a_run_learns_the_best_play(run):
    """Rare in the data; and it tries each beta on validation games, once, before the test."""
    _, rows = run(steps_per_iteration=200, gamma=GAMMA, cql_weight=0.1, learning_rate=4e-3,
                  beta=(0.0, 100.0), temperature=0.0)
    assert [row["eval/beta"] for row in rows if "eval/beta" in row] == [0.0, 100.0]
    assert rows[-1]["test/beta"] == 100.0 and rows[-1]["test/episodic_return"] == 6.0


def test_the_head_starts_at_the_mean_return(run):
    """Discounted, over the chosen tokens of the data."""
    state, rows = run(steps_per_iteration=1, gamma=GAMMA, beta=(1.0,), learning_rate=1e-30)
    first = (6 * AFTER_LEFT + 2 * AFTER_RIGHT) / 8  # of each of the first turn's two tokens
    second = sum(times * SECOND[game] for game, times in TIMES.items()) / 8
    assert state["critic"]["q.2.bias"].tolist() == pytest.approx([(first + second) / 2] * len(two_turns_tokenizer()))
    assert rows[0]["losses/q"] == pytest.approx((first + second) / 2)


def test_critic_starts_as_a_copy():
    """Of the policy's trunk, with the same value everywhere, and shares no weights with it."""
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(two_turns_config(NUM_IDS))
    critic = QCritic(policy, -4.5)
    ids = torch.tensor([[1, 2, 3]])
    hidden = critic.trunk(ids).last_hidden_state
    torch.testing.assert_close(hidden, policy.base_model(ids).last_hidden_state)
    assert critic.q(hidden).shape == (1, 3, NUM_IDS) and (critic.q(hidden) == -4.5).all()
    assert not {p.data_ptr() for p in critic.parameters()} & {p.data_ptr() for p in policy.parameters()}
