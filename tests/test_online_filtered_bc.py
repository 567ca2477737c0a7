"""Online filtered BC: what is kept, what is learned from it, and a game of two turns that is learned in seconds."""

import json
import math
import random
import sys
from collections import Counter

import pytest
import torch
from test_rollout import Games, word_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

import envs
from algos import bc_maze
from algos import online_filtered_bc_text_nav as online
from algos.online_filtered_bc_text_nav import Args, Episode, Reader, Text, bc_loss, best_games, collate, keep_passing
from envs import Env, Trajectory

WORDS = ["L\n", "R\n", "a\n", "b\n", "Lyes\n", "Ryes\n", "Lno\n", "Rno\n", "a", "\n"]
OPENS = {"L": "b\n", "R": "a\n"}  # at the second turn, if the first action was "a\n"


class Lock(Env):
    """Opened by two actions. The game ends by its rules if it opens, else by a limit on turns, like a maze.

    `markov_lock` shows the last observation only, `long_lock` has six more turns, `shut_lock` never opens.
    """

    variants = "lock", "markov_lock", "long_lock", "shut_lock"
    num_test_episodes = 8
    players = None

    def __init__(self, env_id):
        super().__init__(env_id)
        self.markov, self.num_turns = env_id == "markov_lock", 8 if env_id == "long_lock" else 2

    def reset(self, seed):
        self.side, self.actions = "LR"[seed % 2], []
        return f"{self.side}\n", {}

    def step(self, action):
        self.actions.append(action)
        turn = len(self.actions)
        right = action == ("a\n" if turn == 1 else OPENS[self.side])
        opened = self.actions[:2] == ["a\n", OPENS[self.side]] and self.env_id != "shut_lock"
        reward = 0.25 if turn == 1 and right else 1.0 if turn == 2 and opened else 0.0
        over = turn == self.num_turns
        info = {"success": over and opened, "valid": action in ("a\n", "b\n")}
        return f"{self.side}{'yes' if right else 'no'}\n", reward, over and opened, over and not opened, info

    def generate(self, num_trajectories, seed, start=0):
        for i in range(start, num_trajectories):
            texts = ["L\n", "a\n", "Lyes\n", "a\n", "Lno\n", "b\n", "Lyes\n"] if i % 2 else ["R\n", "b\n", "Rno\n"]
            yield Trajectory(texts, [0.0] * (len(texts) // 2), False, False)


ENV = Lock
KINDS = [("lock", 64), ("markov_lock", 64), ("long_lock", 16)]  # with max_length: a long game has several windows


def tokenizer_and_config():
    tokenizer = word_tokenizer(WORDS)
    return tokenizer, LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                  intermediate_size=16, max_position_embeddings=64, bos_token_id=None,
                                  eos_token_id=None, initializer_range=0.05)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the whole script on a lock; returns the rows of its log."""
    for env_id in Lock.variants:
        monkeypatch.setitem(envs.MODULES, env_id, "lock")
    monkeypatch.setitem(sys.modules, "lock", sys.modules[__name__])
    monkeypatch.setattr("envs.run.RUNS", tmp_path / "runs")
    tokenizer, config = tokenizer_and_config()
    config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("envs.run.is_ours", lambda model: True)  # weights are drawn

    def run(**options):
        options = dict(env_id="lock", num_iterations=1, num_episodes=64, minibatch_size=8, eval_every=0, num_envs=64,
                       max_new_tokens=2, learning_rate=1e-2, collapse_margin=100.0) | options
        args = Args(device="cpu", model=str(tmp_path / "model"), exp_name=f"run{len(list(tmp_path.glob('runs/*')))}",
                    **options)
        online.main(args)
        folder = tmp_path / "runs" / f"{args.env_id}__{args.exp_name}__1"
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.fixture
def watched(monkeypatch):
    """(the training games; by game the (context, token) pairs as they were sampled; the same by gradient step)."""
    played, sampled, trained = [], {}, []
    rollout, act = online.rollout, Episode.act

    def watched_rollout(reader, envs, seeds, *rest):
        episodes = rollout(reader, envs, seeds, *rest)
        if len(seeds) > 8:  # not those of the test
            played.append(episodes)
        return episodes

    def watched_act(episode, ids):
        context = tuple(episode.windows[-1].ids)
        sampled.setdefault(episode, []).append((context, ids[0]))
        act(episode, ids)

    def watched_loss(policy, batch):
        length = batch.ids.shape[1]
        rows = batch.ids.tolist()
        contexts = [tuple(rows[place // length][: place % length + 1]) for place in batch.states.tolist()]
        trained.append(list(zip(contexts, batch.tokens.tolist(), strict=True)))
        return bc_loss(policy, batch)

    monkeypatch.setattr(online, "rollout", watched_rollout)
    monkeypatch.setattr(Episode, "act", watched_act)
    monkeypatch.setattr(online, "bc_loss", watched_loss)
    return played, sampled, trained


# --- What is kept ---


def game(episodic_return, success=False, terminated=True):
    episode = Episode(True, 9, 1)
    episode.trajectory = Trajectory(["L\n", "a\n", "Lno\n"], [episodic_return], terminated, success)
    return episode


def test_keep_passing():
    """Successful games, the top of all games, or the top of the successful ones; a limit on turns changes nothing."""
    episodes = [game(1), game(3, True), game(2), game(3), game(-1, True), game(9, terminated=False), game(3, True)]

    def kept(**options):
        return [episodes.index(episode) for episode in keep_passing(episodes, Args(**options))]

    assert kept(success_only=False) == [0, 1, 2, 3, 4, 5, 6]
    assert kept() == [1, 4, 6]
    assert kept(success_only=False, top_fraction=0.3) == [5, 1]  # of the three with 3 the first one
    assert kept(success_only=False, top_fraction=0.43) == [5, 1, 3]
    assert kept(top_fraction=0.67) == [1, 6]
    assert kept(success_only=False, top_fraction=0.05) == kept(top_fraction=0.1) == []
    assert [episodes.index(episode) for episode in best_games(episodes)] == [5]
    assert [episodes.index(episode) for episode in best_games(episodes[:5])] == [1, 3]


@pytest.mark.parametrize("options", [dict(success_only=True), dict(success_only=False, top_fraction=0.3),
                                     dict(success_only=True, top_fraction=0.5)])
def test_the_filter_is_that_of_filtered_bc(options):
    """Where no game is cut short."""
    rng = random.Random(0)
    episodes = [game(rng.randint(0, 9), rng.random() < 0.5) for _ in range(100)]
    games = bc_maze.keep_best([episode.trajectory for episode in episodes], bc_maze.Args(**options))
    assert [episode.trajectory for episode in keep_passing(episodes, Args(**options))] == games != []


def test_a_round_in_which_nothing_passes(run, watched, capsys):
    """All games with the highest return are learned from, and no others; it is printed and logged."""
    played, sampled, trained = watched
    rows = run(env_id="shut_lock", num_iterations=2, num_episodes=256, update_epochs=1)
    steps = 0
    for row, episodes in zip(rows, played, strict=False):
        best = [episode for episode in episodes if episode.trajectory.rewards == [0.25, 0.0]]
        assert 0 < len(best) < 256 and not any(episode.trajectory.success for episode in episodes)
        assert (row["charts/passed"], row["charts/kept"]) == (0, len(best) / 256)
        step = math.ceil(len(best) / 8)
        learned = Counter(pair for pairs in trained[steps : steps + step] for pair in pairs)
        assert learned == Counter(pair for episode in best for pair in sampled[episode])
        steps += step
    assert steps == len(trained)
    shown = capsys.readouterr().out
    kept = round(rows[1]["charts/kept"] * 256)
    assert f"no game of iteration 2 passes the filter: the best are kept, {kept}\n" in shown
    assert shown.count("passes the filter") == 2


# --- What is learned ---


@pytest.mark.parametrize("env_id, max_length", KINDS)
def test_all_action_tokens_of_what_is_kept(env_id, max_length, run, watched, capsys):
    """In each epoch each one once, after what the policy saw when it chose it: not those of the last turn alone.

    Nothing of the other games. The minibatches of an epoch differ in size by at most one game.
    """
    played, sampled, trained = watched
    row = run(env_id=env_id, max_length=max_length, success_only=False, top_fraction=0.3, update_epochs=3)[0]
    assert (row["charts/passed"], row["charts/kept"], row["charts/episodes"]) == (19 / 64, 19 / 64, 64)
    assert row["global_step"] == 64 * (8 if env_id == "long_lock" else 2)
    assert "passes the filter" not in capsys.readouterr().out
    (episodes,) = played
    kept = sorted(episodes, key=lambda episode: -sum(episode.rewards))[:19]
    num_windows = {len(episode.windows) for episode in kept}
    assert num_windows == {1} if env_id == "lock" else min(num_windows) > 1
    wanted = Counter(pair for episode in kept for pair in sampled[episode])
    chosen = [token for episode in kept for _, token in sampled[episode]]
    turns = sum(len(episode.trajectory.rewards) for episode in kept)
    assert turns == len(kept) * (8 if env_id == "long_lock" else 2) < len(chosen)  # some actions are of two tokens
    assert len(trained) == 3 * 3  # 19 games in minibatches of 7, 6 and 6
    for epoch in (trained[:3], trained[3:6], trained[6:]):
        assert Counter(pair for pairs in epoch for pair in pairs) == wanted
    assert trained[:3] != trained[3:6]


@pytest.mark.parametrize("env_id, max_length", KINDS)
def test_loss_a_token_at_a_time(env_id, max_length):
    """The mean of -log π, each from a pass over its own context; no gradient at texts of the game or at padding."""
    tokenizer, config = tokenizer_and_config()
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config).eval()
    text = Text(tokenizer, len(tokenizer))
    args = Args(device="cpu", max_length=max_length, max_new_tokens=2)
    reader = Reader([policy.base_model], policy.get_output_embeddings(), args)
    episodes = online.rollout(reader, Games([Lock(env_id) for _ in range(6)]), range(12), text, args)
    hidden = []

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        hidden.append(output.last_hidden_state)

    hook = policy.base_model.register_forward_hook(keep)
    batch = collate(episodes, "cpu")
    loss = bc_loss(policy, batch)
    loss.backward()
    hook.remove()
    losses, contexts = [], set()
    for episode in episodes:
        for window in episode.windows:
            for place in window.chosen:
                context = window.ids[:place]
                contexts.add(tuple(context))
                with torch.no_grad():
                    logits = policy(torch.tensor([context])).logits[0, -1].tolist()
                largest = max(logits)
                total = sum(math.exp(logit - largest) for logit in logits)
                losses.append(largest + math.log(total) - logits[window.ids[place]])
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    moved = hidden[0].grad.abs().sum(-1).nonzero().tolist()
    assert {tuple(batch.ids[row, : place + 1].tolist()) for row, place in moved} == contexts
    assert len(moved) < batch.ids.numel()


TOP = dict(success_only=False, top_fraction=0.3)


@pytest.mark.parametrize("env_id, options", [("lock", {}), ("markov_lock", {}), ("lock", TOP)])
def test_the_lock_is_opened(env_id, options, run):
    """From a random policy, in seconds: the second action depends on the side, and is worth it after the first only."""
    rows = run(env_id=env_id, num_iterations=12, num_episodes=512, minibatch_size=32, max_new_tokens=1, num_envs=512,
               **options)
    assert rows[0]["charts/success"] < 0.1
    assert rows[11]["charts/success"] > 0.95
    assert rows[-1]["test/success"] == 1 and rows[-1]["test/episodic_return"] == 1.25
