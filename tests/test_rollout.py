"""Rollouts, offline data as tokens and the check of a model: compared with whole passes that keep no cache.

    LMRL_TEST_DEVICE=cuda python -m pytest tests/test_rollout.py     the same on a GPU
"""

import io
import json
import math
import os
import random
import re
import string
import types
from functools import partial

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from algos import (
    archer_twenty_questions,
    bc_maze,
    grpo_wordle,
    ilql_wordle,
    mc_twenty_questions,
    online_filtered_bc_text_nav,
    ppo_car_dealer,
)
from algos.bc_maze import Args, Episode, Reader, Text, Window, bc_loss, check_model, encode, load_model, rollout, sample
from envs import Env, Trajectory, VectorEnv, make

DEVICE = os.environ.get("LMRL_TEST_DEVICE", "cpu")
SCRIPTS = [bc_maze, mc_twenty_questions, ilql_wordle, online_filtered_bc_text_nav, ppo_car_dealer, grpo_wordle,
           archer_twenty_questions]
MORE = {mc_twenty_questions: [0.5]}  # what collate is told besides episodes and device: gamma
WORDS = [*"abcdef", "hello", "world", "\n", "yes\n", "no\n"]
GAMES = 7
LLAMA = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, bos_token_id=None,
             eos_token_id=None, pad_token_id=None)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None)
FAMILIES = {
    "gpt2": lambda vocab, length: GPT2Config(vocab_size=vocab, n_positions=length, **GPT2),
    "llama": lambda vocab, length: LlamaConfig(vocab_size=vocab, max_position_embeddings=length, **LLAMA,
                                               num_key_value_heads=2),
    "qwen3": lambda vocab, length: Qwen3Config(vocab_size=vocab, max_position_embeddings=length, **LLAMA,
                                               num_key_value_heads=2, head_dim=8),
    "gpt_neox": lambda vocab, length: GPTNeoXConfig(vocab_size=vocab, max_position_embeddings=length, **LLAMA),
}


def word_tokenizer(words):
    """A tokenizer of these words, of which the longest that fits is taken; characters that it lacks are <unk>."""
    known = dict.fromkeys(["<unk>", *words, *"".join(words)])
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="<unk>",
                                           continuing_subword_prefix="", max_input_chars_per_word=10_000))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Babble(Env):
    """Answers of 1 to 40 words that depend on all that was said before; ends by the rules or by a limit."""

    generate = players = None  # a game that is only played
    lengths = 1, 2, 3, 40

    def __init__(self, markov):
        self.markov, self.heard = markov, []

    def reset(self, seed):
        self.said, self.turns = [str(seed)], 0
        self.limit = random.Random(seed).randint(2, 9)
        return self.speak(), {"success": False, "valid": True}

    def step(self, action):
        self.heard.append(action)
        self.said.append(action)
        self.turns += 1
        rng = random.Random(repr(self.said))
        over = self.turns == self.limit
        terminated = over and rng.random() < 0.5
        info = {"success": terminated, "valid": rng.random() < 0.5}
        return self.speak(), float(rng.randint(-9, 9)), terminated, over and not terminated, info

    def speak(self):
        rng = random.Random(f"speak {self.said}")
        lengths = self.lengths if self.markov or len(self.said) > 1 else self.lengths[:-1]
        words = rng.choices(WORDS, k=rng.choice(lengths))
        self.said.append("".join(words))
        return self.said[-1]


class Echo(Babble):
    """Few observations, so that many games are in the same state at the same time, but not in step."""

    def speak(self):
        kind = hash(len(self.said) // 2 + len(self.said[-1])) % 3
        self.said.append(["hello" * 3, "world" * 11 + "yes\n", "abc\n"][kind])
        return self.said[-1]


class Games(VectorEnv):
    """Games that no id names."""

    def __init__(self, games):
        self.envs, self.free, self.games = games, list(games), {}


KINDS = {"babble": partial(Babble, False), "babble_markov": partial(Babble, True), "echo_markov": partial(Echo, True)}


def games(env_id, num_envs):
    return Games([KINDS[env_id]() for _ in range(num_envs)]) if env_id in KINDS else VectorEnv(env_id, num_envs)


@pytest.fixture(autouse=True)
def short_mazes(monkeypatch):
    monkeypatch.setattr("envs.maze.MAX_MOVES", 6)


def words_of(env_id):
    if env_id in KINDS:
        return WORDS
    if env_id == "wordle":
        return [*string.ascii_lowercase, " ", "\n", "Wordle:\n", "b y g\n", "s h i r e\n"]
    texts = {*make(env_id).obs.values(), "move left\n", "move right\n", "move up\n", "move down\n"}
    return sorted({piece for text in texts for piece in re.findall(r"\d|[,.]\n?|[^\d,.\n]+\n?|\n", text)} | {"\n"})


def setting(env_id="babble", max_length=1024, max_new_tokens=4, temperature=1.0, **options):
    """(args, text) for a game, with a tokenizer of its words."""
    args = Args(device=DEVICE, max_length=max_length, max_new_tokens=max_new_tokens, temperature=temperature, **options)
    tokenizer = word_tokenizer(words_of(env_id))
    return args, Text(tokenizer, len(tokenizer))


def random_model(family, text, args, seed=0):
    """A tiny model with weights so large that its logits depend on every token before."""
    torch.manual_seed(seed)
    config = FAMILIES[family](len(text.tokenizer), args.max_length)
    return enlarge(AutoModelForCausalLM.from_config(config)).to(DEVICE).eval()


def enlarge(model, std=0.3):
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=std)
    return model


class WatchedReader(Reader):
    """Remembers by window the logits that were sampled from, and of each pass how many rows took part or read on."""

    def reset(self, num_rows):
        super().reset(num_rows)
        if num_rows:  # else the rollout is over
            self.logits, self.passes, self.kept = {}, [], []

    def note(self, windows, ready, logits):
        for row, values in zip(ready, logits, strict=True):
            self.logits.setdefault(id(windows[row]), []).append(values)
            self.kept.append(windows[row])  # else its id could be another's

    def recall(self, windows):
        note, self.note = self.note, lambda *_: None  # `recall` calls `read`, whose logits would be noted twice
        ready, logits = super().recall(windows)
        self.note = note
        self.note(windows, ready, logits)
        return ready, logits

    def read(self, windows, rows=None):
        ready, logits = super().read(windows, rows)
        self.note(windows, ready, logits)
        self.passes[-1]["reading"] = len(windows) - len(ready)
        return ready, logits

    def forward(self, rows, ids, start):
        self.passes.append({"rows": len(rows)})
        return super().forward(rows, ids, start)


@torch.no_grad()
def own_logits(model, ids):
    """The model's logits (T, V) of one whole pass over the ids."""
    return model(input_ids=torch.tensor([ids], device=DEVICE), use_cache=False).logits[0]


def play(model, env_id, text, args, num_envs=3, num_games=GAMES, next_logits=None):
    """(episodes, environments, reader) of a rollout with fewer environments than games."""
    envs = games(env_id, num_envs)
    reader = WatchedReader([model.base_model], next_logits or model.lm_head, args)
    return rollout(reader, envs, range(num_games), text, args), envs, reader


def marked(action):
    """The action as the environment hears it: one that was cut off is marked."""
    return action if action.endswith("\n") else action + "…"


def written(action):
    """The action as the trajectory has it."""
    return marked(action).removesuffix("\n") + "\n"


def actions_of(episode):
    """[(the ids that the action's first token was sampled after, the action's ids, its reward)], from the windows."""
    chosen = [(window.ids[:place], window.ids[place]) for window in episode.windows for place in window.chosen]
    assert len(chosen) == len(episode.rewards) == len(episode.ends_turn) and episode.ends_turn[-1]
    actions, start = [], 0
    for i, (reward, ends) in enumerate(zip(episode.rewards, episode.ends_turn, strict=True)):
        assert ends or reward == 0
        if ends:
            actions.append((chosen[start][0], [token for _, token in chosen[start : i + 1]], reward))
            start = i + 1
    return actions


def windows_of(episode):
    return [(window.ids, window.chosen) for window in episode.windows]


# --- The training pass ---

SETTINGS = [("maze_fo", 64), ("maze_po", 512), ("maze_po", 48), ("wordle", 256), ("wordle", 24), ("babble", 1024),
            ("babble", 60), ("babble_markov", 64), ("echo_markov", 64)]


@pytest.mark.parametrize("family, env_id, max_length", [
    *[(family, *setting) for family in ("gpt2", "llama") for setting in SETTINGS],
    *[(family, *setting) for family in ("qwen3", "gpt_neox") for setting in SETTINGS[-3:]],
])
def test_logits_are_those_of_a_pass_without_a_cache(family, env_id, max_length):
    """For each sampled token, with ragged rows, several turns, refilled rows and several windows."""
    args, text = setting(env_id, max_length)
    model = random_model(family, text, args)
    num_envs, num_games = (8, 12) if "markov" in env_id else (3, GAMES)
    episodes, _, reader = play(model, env_id, text, args, num_envs, num_games)
    sampled, seen = [], {}
    for episode in episodes:
        for window in episode.windows:
            assert len(window.ids) <= max_length
            if not window.chosen:  # the last observation of a game that was cut short
                assert window is episode.windows[-1] and not episode.terminated
                continue
            if tuple(window.ids) not in seen:
                seen[tuple(window.ids)] = own_logits(model, window.ids)
            logits, places = seen[tuple(window.ids)], torch.tensor(window.chosen)
            torch.testing.assert_close(torch.stack(reader.logits[id(window)]), logits[places - 1], rtol=0, atol=1e-4)
            sampled += logits.log_softmax(-1)[places - 1, torch.tensor(window.ids)[places]].tolist()
    with torch.no_grad():  # all at once, padded, as in training
        batch = bc_maze.collate(episodes, DEVICE)
        assert bc_loss(model, batch).item() == pytest.approx(-sum(sampled) / len(sampled), abs=1e-4)
    lengths = {len(action) for episode in episodes for _, action, _ in actions_of(episode)}
    assert len(lengths) > 1 and max(sampled) - min(sampled) > 2  # else this tests little
    assert max(len(episode.windows) for episode in episodes) > 1 or max_length > 60


@pytest.mark.parametrize("env_id, max_length", SETTINGS)
def test_each_action_is_trained_on_once_and_whole(env_id, max_length):
    """However many windows the episode has: what the environment heard is what the windows hold, in this order."""
    args, text = setting(env_id, max_length)
    episodes, envs, _ = play(random_model("llama", text, args), env_id, text, args, num_envs=GAMES)
    for episode, env in zip(episodes, reversed(envs.envs), strict=True):
        actions, trajectory = actions_of(episode), episode.trajectory
        heard = [text.decode(action) for _, action, _ in actions]
        assert [written(action) for action in heard] == trajectory.texts[1::2]
        assert [reward for *_, reward in actions] == trajectory.rewards
        assert episode.terminated == trajectory.terminated
        if env_id in KINDS:
            assert env.heard == [marked(action) for action in heard]
        # After the last action: nothing where the rules ended the game, else the last observation.
        last = episode.windows[-1]
        tail = last.ids[last.chosen[-1] + 1 if last.chosen else 0 :]
        if trajectory.terminated:
            assert tail == ([] if heard[-1].endswith("\n") else text.encode("\n"))
        else:
            assert tail[len(tail) - len(seen := text.encode(trajectory.texts[-1])) :] == seen
    assert {episode.terminated for episode in episodes} == (
        {True} if env_id == "wordle" else {False, True} if env_id in KINDS else {False})


def test_a_long_episode_goes_on_in_a_new_window():
    """That opens with the first text and the newest turns that fill half of it."""
    a, b, c, d, end = range(1, 6)
    episode = Episode(False, 40, 2)
    observations = [[a, a], [b] * 10, [c] * 6, [d] * 13, [b] * 3, [c] * 8, [d] * 35]
    for obs in observations:
        episode.observe(list(obs))
        episode.act([obs[0], end])
        episode.end_turn(0.0, False, [])
    turns = [[*obs, obs[0], end] for obs in observations]
    assert [window.ids for window in episode.windows] == [
        turns[0] + turns[1] + turns[2] + turns[3],  # the last action starts at 37: it and a newline just fit
        # 2 tokens and the observation, 3; the turn before, 15, makes 20; the one before that would be above 20.
        [a, a] + turns[3] + turns[4] + turns[5],
        [a, a] + turns[6],  # not even one turn fits, but the observation has to
    ]
    assert [window.chosen for window in episode.windows] == [[2, 3, 14, 15, 22, 23, 37, 38], [20, 21, 30, 31], [37, 38]]
    assert episode.num_cut == 0


def test_long_actions():
    """The opening of a new window leaves room for an action, be it longer than half of the window."""
    episode = Episode(False, 40, 25)
    for _ in range(9):
        episode.observe([1, 2, 3])
        episode.act([4])
        episode.end_turn(0.0, False, [])
    assert len(episode.windows) > 1 and episode.num_cut == 0
    assert all(max(window.chosen) <= 40 - 25 - 1 for window in episode.windows)
    assert all(window.ids[place - 3 : place] == [1, 2, 3] for window in episode.windows for place in window.chosen)


def test_data_with_longer_actions_than_are_sampled():
    """No action is cut, and no window is longer than the model can read."""
    args, text = setting(max_length=24, max_new_tokens=2)
    episode, = encode([Trajectory(["a\n", "b" * 9 + "\n"] * 4, [0.0] * 4, True, True)], Babble(False), text, args)
    assert max(len(window.ids) for window in episode.windows) <= 24
    assert [action for _, action, _ in actions_of(episode)] == [text.encode("b" * 9 + "\n")] * 4
    assert sum(len(window.chosen) for window in episode.windows) == 40


@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize("num_tokens, num_cut", [(15, 0), (16, 1), (60, 1)])
def test_an_observation_longer_than_a_window(markov, num_tokens, num_cut):
    """Its end is read and it is counted; the game's first text, or as much of it as half a window holds, stays."""
    episode = Episode(markov, 20, 4)
    observations = [[1, 2] if not markov else list(range(num_tokens)), list(range(100, 100 + num_tokens))]
    for obs in observations:
        episode.observe(list(obs))
        episode.act([7] * 4)
        episode.end_turn(0.0, False, [8])
    assert all(len(window.ids) <= 20 for window in episode.windows) and len(episode.windows) == 2
    shown = [window.ids[: window.chosen[0]] for window in episode.windows]
    if markov:
        assert shown == [obs[-15:] for obs in observations] and episode.num_cut == 2 * num_cut
    else:
        assert shown == [[1, 2], [1, 2] + observations[1][-13:]] and episode.num_cut == 1
    first = Episode(False, 20, 4)
    first.observe(list(range(num_tokens)))
    first.act([7])
    first.end_turn(0.0, False, [])
    first.observe([9] * 12)
    half = first.windows[0].ids[:7]
    assert first.windows[1].ids == half + [9] * 8 and first.num_cut == num_cut + 1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("markov", [False, True])
def test_a_rollout_with_observations_longer_than_a_window(family, markov, monkeypatch):
    """Does not crash, samples from what it says it has read, and plays all games to their end."""
    monkeypatch.setattr(Babble, "lengths", (1, 30, 9))
    args, text = setting(max_length=16)
    model = random_model(family, text, args)
    episodes, _, reader = play(model, "babble_markov" if markov else "babble", text, args)
    assert sum(episode.num_cut for episode in episodes) >= GAMES
    for window in [window for episode in episodes for window in episode.windows if window.chosen]:
        logits = own_logits(model, window.ids)[torch.tensor(window.chosen) - 1]
        torch.testing.assert_close(torch.stack(reader.logits[id(window)]), logits, rtol=0, atol=1e-4)
    monkeypatch.setattr(bc_maze, "rollout", lambda *_: episodes)
    envs = types.SimpleNamespace(envs=[NoScore("babble")])
    metrics, _ = bc_maze.play_games(reader, envs, "eval", range(GAMES), text, args)
    assert metrics["eval/cut_observations"] == sum(episode.num_cut for episode in episodes)


class NoScore(Babble):
    def __init__(self, env_id):
        self.env_id = env_id


# --- The rollout without a cache ---


def play_slowly(trunks, next_logits, env, text, seed, args):
    """One game, greedily; all that the model sees is read again for every token.

    Returns [(context, action)], the trajectory, and the number of invalid actions.
    """
    obs, _ = env.reset(seed)
    room = args.max_length - args.max_new_tokens - 1
    texts, rewards, parts, actions, num_invalid, over = [obs], [], [text.encode(obs)[-room:]], [], 0, False
    context = parts[0]
    while not over:
        action = []
        while len(action) < args.max_new_tokens and "\n" not in text.tokenizer.decode(action):
            ids = torch.tensor([context + action], device=DEVICE)
            with torch.no_grad():
                hidden = [trunk(input_ids=ids, use_cache=False).last_hidden_state[:, -1] for trunk in trunks]
                action = [*action, next_logits(*hidden).argmax().item()]
        actions.append((context, action))
        said = text.decode(action)
        obs, reward, terminated, truncated, info = env.step(marked(said))
        texts += [written(said), obs]
        rewards.append(reward)
        num_invalid += not info["valid"]
        parts += [action if said.endswith("\n") else action + text.encode("\n"), text.encode(obs)]
        over = terminated or truncated
        if env.markov:
            context = parts[-1]
        elif len(context + parts[-2] + parts[-1]) <= room:
            context = context + parts[-2] + parts[-1]
        else:
            newest = [parts[0] + sum(parts[j:], []) for j in range(2, len(parts), 2)]
            fitting = [c for c in newest if len(c) <= min(args.max_length // 2, room)]
            context = max(fitting, key=len, default=parts[0] + parts[-1])
    return actions, Trajectory(texts, rewards, terminated, info["success"]), num_invalid


def assert_same(episode, slow):
    """The episode is the game that `play_slowly` returned."""
    played = [(context, action) for context, action, _ in actions_of(episode)]
    assert (played, episode.trajectory, episode.num_invalid) == slow


@pytest.mark.parametrize("family, env_id, max_length", [
    *[("llama", *setting) for setting in SETTINGS],
    *[("gpt2", *setting) for setting in SETTINGS[2::2]],
])
def test_rollout_equals_one_without_a_cache(family, env_id, max_length):
    """Greedy, token for token, one game at a time."""
    args, text = setting(env_id, max_length, temperature=0.0)
    model = random_model(family, text, args)
    # What random models repeat is forbidden now and then, so that actions differ in length.
    forbid = 3 * torch.randn(32, len(text.tokenizer), generator=torch.Generator().manual_seed(2)).to(DEVICE)

    def next_logits(hidden):
        return model.lm_head(hidden) + torch.tanh(hidden) @ forbid

    episodes, envs, _ = play(model, env_id, text, args, num_envs=4, next_logits=next_logits)
    for seed, episode in enumerate(episodes):
        assert_same(episode, play_slowly([model.base_model], next_logits, envs.envs[0], text, seed, args))
    assert len(episodes) == GAMES


def test_rollout_with_a_critic_equals_one_without_a_cache():
    """Two trunks, each with a cache of its own; β weighs the smaller of the two Qs."""
    args, text = setting(max_length=60, temperature=0.0)
    policy = random_model("gpt2", text, args)
    critic = ilql_wordle.Critic(random_model("llama", text, args, seed=1), 0.0).to(DEVICE).eval()
    torch.manual_seed(3)
    for head in (critic.q1, critic.q2):
        nn.init.normal_(head[2].weight, std=0.5)

    def steered(beta):
        return lambda hidden, critic_hidden: policy.lm_head(hidden) + beta * critic.min_q(critic_hidden)

    trunks, played = [policy.base_model, critic.trunk], {}
    for beta in (0.0, 2.0):
        reader = ilql_wordle.Reader(trunks, steered(beta), args)
        played[beta] = ilql_wordle.rollout(reader, games("babble", 3), range(GAMES), text, args)
    for seed, episode in enumerate(played[2.0]):
        assert_same(episode, play_slowly(trunks, steered(2.0), Babble(False), text, seed, args))
    played["without"] = play(policy, "babble", text, args)[0]
    texts = {name: [episode.trajectory.texts for episode in episodes] for name, episodes in played.items()}
    assert texts[0.0] == texts["without"] != texts[2.0]


def test_rows_out_of_step():
    """A long observation is read in pieces of the mean width while other rows go on; nobody waits for it."""
    args, text = setting(temperature=0.0)
    model = random_model("llama", text, args)
    episodes, envs, reader = play(model, "babble", text, args, num_envs=4, num_games=GAMES + 1)
    still_reading = [one["reading"] for one in reader.passes]
    assert min(still_reading) == 0 < max(still_reading)
    assert {one["rows"] for one in reader.passes} == {4, 2, 1}  # many rows that idle are left out in the end
    for seed, episode in enumerate(episodes):
        assert_same(episode, play_slowly([model.base_model], model.lm_head, envs.envs[0], text, seed, args))


@torch.no_grad()
def test_rows_that_read_for_one_another():
    """Equal windows are read once, also where the row with the higher number has begun before the other."""
    args, text = setting(max_length=64)
    model = random_model("llama", text, args)
    reader = Reader([model.base_model], model.lm_head, args)
    reader.reset(3)
    state = [1 + i % 7 for i in range(12)]
    windows = {0: Window([3]), 1: Window(list(state)), 2: Window([4])}
    compared = 0
    for number in range(6):
        ready, logits = reader.recall(windows)
        for row, values in zip(ready, logits, strict=True):
            own = own_logits(model, windows[row].ids)[-1]
            torch.testing.assert_close(values, own, rtol=0, atol=1e-4)
            windows[row].ids.append(5 + row)
            compared += len(windows[row].ids) > 12
        if number == 0:
            assert ready == [0, 2] and 0 < windows[1].num_read < 12
            windows[0] = Window(list(state))  # its game comes to the same state
    assert compared >= 4


def test_markov_games_read_a_state_once():
    """Games in the same state cost one row, side by side and later; each token is still sampled for itself."""
    args, text = setting(temperature=1.0)
    model = random_model("llama", text, args)
    episodes, _, reader = play(model, "echo_markov", text, args, num_envs=24, num_games=24)
    assert reader.passes[0]["rows"] <= 3  # of 24
    num_states = len({tuple(window.ids[:place]) for episode in episodes for window in episode.windows
                      for place in window.chosen})
    num_read = sum(one["rows"] for one in reader.passes if one["rows"] < 24)  # in several passes, where one is long
    assert num_read < 1.1 * num_states < len(reader.kept) / 2
    assert len({str(episode.trajectory) for episode in episodes}) > 12


def test_all_games_are_played_whatever_the_number_of_environments():
    """In the order of their seeds, with more rows than games and with fewer; and all environments are free again."""
    args, text = setting(temperature=0.0)
    model = random_model("llama", text, args)
    slow = [play_slowly([model.base_model], model.lm_head, Babble(False), text, seed, args)[1:]
            for seed in range(GAMES)]
    for num_envs in (1, 2, 7, 9):
        episodes, envs, _ = play(model, "babble", text, args, num_envs)
        assert [(episode.trajectory, episode.num_invalid) for episode in episodes] == slow
        assert not envs.games and len(envs.free) == num_envs


def test_a_reader_is_used_again():
    """What an earlier rollout left in it changes nothing; weights that changed in between count."""
    args, text = setting()
    model = random_model("llama", text, args)
    reader = Reader([model.base_model], model.lm_head, args)
    first, again, other = [], [], []
    for seeds, played in ((range(2), other), (range(5), first), (range(3, 9), other), (range(5), again)):
        played.extend(windows_of(episode) for episode in rollout(reader, games("babble", 3), seeds, text, args))
    assert first == again
    enlarge(model, 0.2)
    assert [windows_of(episode) for episode in rollout(reader, games("babble", 3), range(5), text, args)] != first


def test_more_ids_than_tokens():
    """Models have ids that their tokenizer does not know, to fill up the vocabulary; such a token has no text."""
    args, text = setting()
    model = random_model("llama", text, args)
    known = len(text.tokenizer)
    model.resize_token_embeddings(known + 9)
    nn.init.normal_(model.lm_head.weight, std=0.3)
    episodes = play(model, "babble", Text(text.tokenizer, model.config.vocab_size), args)[0]
    sampled = [token for episode in episodes for _, action, _ in actions_of(episode) for token in action]
    assert max(sampled) >= known > min(sampled)
    assert all(len(action) <= 4 for episode in episodes for _, action, _ in actions_of(episode))


# --- Sampling and the ends of actions ---


def test_sampling_is_reproducible(monkeypatch):
    """By the run's seed and the games' seeds, and whether or not there is a progress bar."""
    args, text = setting()
    model = random_model("llama", text, args)

    def windows(args, seeds=range(GAMES)):
        reader = Reader([model.base_model], model.lm_head, args)
        return [windows_of(episode) for episode in rollout(reader, games("babble", 3), seeds, text, args)]

    first = windows(args)
    torch.manual_seed(7)
    assert windows(args) == first
    assert windows(setting(seed=2)[0]) != first and windows(args, range(1, GAMES + 1))[: GAMES - 1] != first[1:]
    for options in (dict(disable=True), dict(disable=False, file=io.StringIO(), delay=0)):
        with monkeypatch.context() as patch:
            patch.setattr(bc_maze, "tqdm", lambda *args, options=options, **rest: tqdm(*args, **rest | options))
            assert windows(args) == first


def test_sample():
    logits = torch.tensor([[1000.0, 1001.0, -1000.0, 999.0]]).repeat(20_000, 1)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = sample(logits, 1.0, uniform).tolist()
    total = sum(math.exp(x) for x in (0, 1, -1))
    probabilities = [1 / total, math.e / total, 0, math.exp(-1) / total]
    assert [tokens.count(i) / 20_000 for i in range(4)] == pytest.approx(probabilities, abs=0.015)
    assert sample(logits[:3], 0.0, uniform[:3]).tolist() == [1, 1, 1]
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)  # all that random() may return
    assert sample(logits[:2], 1.0, edges).tolist() == [0, 3]
    assert sample(logits[:2, [2, 0, 2]], 1.0, edges).tolist() == [1, 1]  # never what has probability 0
    colder = sample(logits, 0.5, uniform).tolist()
    assert colder.count(1) / colder.count(0) == pytest.approx(math.e**2, rel=0.1)
    warmer = sample(logits, 2.0, uniform).tolist()
    assert warmer.count(1) / warmer.count(0) == pytest.approx(math.e**0.5, rel=0.1)


def always(text, *tokens):
    """`next_logits` of a policy that says nothing but these tokens, the first of them most probably."""
    logits = torch.full((len(text.tokenizer),), -100.0, device=DEVICE)
    for rank, token in enumerate(tokens):
        logits[text.tokenizer.convert_tokens_to_ids(token)] = -rank
    return lambda hidden: logits.expand(len(hidden), -1)


@pytest.mark.parametrize("markov", [False, True])
def test_an_action_that_is_cut_off(markov):
    """Goes to the environment with a mark; the newline after it is not the agent's, the reward is on its last token."""
    args, text = setting(max_new_tokens=3)
    model = random_model("llama", text, args)
    env_id = "babble_markov" if markov else "babble"
    episodes, envs, _ = play(model, env_id, text, args, num_envs=1, next_logits=always(text, "a"))
    a, end = text.encode("a")[0], text.encode("\n")[0]
    assert set(envs.envs[0].heard) == {"aaa…"}
    assert {episode.terminated for episode in episodes} == {False, True}
    for episode in episodes:
        trajectory, ids, chosen = episode.trajectory, [], []
        assert set(trajectory.texts[1::2]) == {"aaa…\n"}
        for obs in map(text.encode, trajectory.texts[:-1:2]):
            chosen += range(len(ids) + len(obs), len(ids) + len(obs) + 3)
            ids += [*obs, a, a, a, end]
        ids += [] if trajectory.terminated else text.encode(trajectory.texts[-1])
        num_turns = len(trajectory.rewards)
        assert len(episode.windows) == (num_turns + (not trajectory.terminated) if markov else 1)
        assert sum((window.ids for window in episode.windows), []) == ids
        assert markov or episode.windows[0].chosen == chosen
        assert episode.rewards == [x for reward in trajectory.rewards for x in (0, 0, reward)]
        assert episode.ends_turn == [False, False, True] * num_turns


def test_an_action_is_cut_after_its_newline():
    """A token may hold a newline and more: the environment hears up to the newline, the ids stay as sampled."""
    args, _ = setting(max_new_tokens=3)
    tokenizer = word_tokenizer([*WORDS, "x\n\ny"])
    text = Text(tokenizer, len(tokenizer))
    token = tokenizer.convert_tokens_to_ids("x\n\ny")
    assert text.encode("ax\n\ny")[1:] == [token]
    model = random_model("llama", text, args)
    envs = Games([Babble(False)])
    reader = Reader([model.base_model], always(text, "x\n\ny", "a"), args)
    episodes = rollout(reader, envs, range(GAMES), text, args)
    for episode in episodes:
        heard = [action.replace("…\n", "") for action in episode.trajectory.texts[1::2]]
        assert set(heard) <= {"x\n", "ax\n", "aax\n", "aaa"}
        for (_, action, _), said in zip(actions_of(episode), heard, strict=True):
            assert text.decode(action) == said + "\ny" * said.endswith("\n") and len(action) == len(said.strip())
    assert len({action for episode in episodes for action in episode.trajectory.texts[1::2]}) > 1
    assert set(envs.envs[0].heard) <= {"x\n", "ax\n", "aax\n", "aaa…"}


# --- Token in, token out: offline data ---

TEXTS = ["ab\n", "x\n", "c\n", "yz\n", "d\n"]


def encoded(trajectory, markov, script=bc_maze):
    """([(text, places of the chosen tokens) of each window], rewards, ends_turn, terminated)."""
    args, tokenizer = script.Args(device=DEVICE, max_length=99), word_tokenizer("abcdxyz\n")
    episode, = script.encode([trajectory], Babble(markov), script.Text(tokenizer, len(tokenizer)), args)
    assert args.max_new_tokens == max(map(len, trajectory.texts[1::2]))
    windows = [("".join(tokenizer.convert_ids_to_tokens(window.ids)), window.chosen) for window in episode.windows]
    return windows, episode.rewards, episode.ends_turn, episode.terminated


@pytest.mark.parametrize("script", [bc_maze, mc_twenty_questions, ilql_wordle])
def test_encode_an_episode_in_one_window(script):
    chosen, rest = [3, 4, 7, 8, 9], ([0, -1, 0, 0, -2], [False, True, False, False, True])
    for texts in (TEXTS, TEXTS[:-1]):  # after an end by the rules nothing follows
        assert encoded(Trajectory(texts, [-1, -2], True, True), False, script) == (
            [("ab\nx\nc\nyz\n", chosen)], *rest, True)
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), False, script) == (
        [("ab\nx\nc\nyz\nd\n", chosen)], *rest, False)
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), False, script) == (
        [("ab\nx\nc\nyz\n", chosen)], *rest, False)


@pytest.mark.parametrize("script", [bc_maze, mc_twenty_questions, ilql_wordle])
def test_encode_a_window_for_each_turn(script):
    turns = [("ab\nx\n", [3, 4]), ("c\nyz\n", [2, 3, 4])]
    rest = [0, -1, 0, 0, -2], [False, True, False, False, True]
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), True, script) == ([*turns, ("d\n", [])], *rest, False)
    for texts in (TEXTS, TEXTS[:-1]):
        assert encoded(Trajectory(texts, [-1, -2], True, False), True, script) == (turns, *rest, True)
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), True, script) == (turns, *rest, False)


def test_complete():
    """A last action without an observation after it is left out, unless the rules ended the game."""
    for kept in (Trajectory(TEXTS, [-1, -2], False, False), Trajectory(TEXTS, [-1, -2], True, True),
                 Trajectory(TEXTS[:-1], [-1, -2], True, True)):
        assert kept.complete() == kept
    cut = Trajectory(TEXTS[:-1], [-1, -2], False, False).complete()
    assert cut == Trajectory(TEXTS[:3], [-1], False, False)
    assert encoded(cut, True, ilql_wordle) == ([("ab\nx\n", [3, 4]), ("c\n", [])], [0, -1], [False, True], False)
    assert Trajectory(TEXTS[:2], [-1], False, False).complete() is None


def test_texts_are_tokenised_on_their_own():
    """However they are told apart: no token straddles the border between two speakers."""
    tokenizer = word_tokenizer(["ab", "c\n", "abc\n"])
    text = Text(tokenizer, len(tokenizer))
    assert text.encode("ab") + text.encode("c\n") != text.encode("abc\n")
    trajectory = Trajectory(["ab", "c\n", "ab"], [0.0], False, False)
    episode, = encode([trajectory], Babble(False), text, Args(device=DEVICE, max_length=20))
    assert episode.windows[0].ids == text.encode("ab") + text.encode("c\n") + text.encode("ab")


# --- Minibatches ---


def plain_collate(script, episodes):
    """`collate` a game and a token at a time: by state the ids up to it, and all that a batch has of each token."""
    states, fields = [], {name: [] for name in script.Batch._fields[2:]}
    for episode in episodes:
        for window in episode.windows:
            for place in window.chosen:
                fields.get("acted", []).append(len(states))
                states.append(window.ids[:place])
                fields["tokens"].append(window.ids[place])
        if "acted" in fields and not episode.terminated:  # after its last observation
            states.append(episode.windows[-1].ids)
        last = len(episode.rewards) - 1
        for i in range(last + 1):
            for name, value in (("rewards", episode.rewards[i]), ("ends_turn", episode.ends_turn[i])):
                fields.get(name, []).append(value)
            discounts = [0.5 ** sum(episode.ends_turn[i:j]) for j in range(last + 1)]
            fields.get("returns", []).append(sum(np.multiply(discounts, episode.rewards)[i:]))
            fields.get("terminated", []).append(i == last and episode.terminated)
            fields.get("ends_game", []).append(i == last)
    return states, fields


@pytest.mark.parametrize("script", SCRIPTS[:-1])  # ArCHer's minibatches are of turns: test_archer.py
@pytest.mark.parametrize("env_id, max_length", SETTINGS[2::2])
def test_collate(script, env_id, max_length):
    """A state before each action token and where the game was cut; the reward is on the last token of an action."""
    args, text = setting(env_id, max_length)
    episodes, _, _ = play(random_model("llama", text, args), env_id, text, args)
    episodes += episodes[:2]
    batch = script.collate(episodes, "cpu", *MORE.get(script, []))
    states, fields = plain_collate(script, episodes)
    length = batch.ids.shape[1]
    assert [batch.ids[place // length, : place % length + 1].tolist() for place in batch.states.tolist()] == states
    fields.pop("padding")
    for name, values in fields.items():
        assert getattr(batch, name).tolist() == values, name
    assert {batch.ids.dtype, batch.states.dtype, batch.tokens.dtype} == {torch.int64}
    last_states = {}  # by what a row starts with: how much of it is read
    for state in map(tuple, states):
        row = max((row for row in batch.ids.tolist() if tuple(row[: len(state)]) == state), key=sum)
        last_states[tuple(row)] = max(len(state), last_states.get(tuple(row), 0))
    rows = [tuple(row) for row in batch.ids.tolist()]
    assert len(rows) == len(set(rows)) and set(last_states) <= set(rows)
    assert all(not any(row[read:]) for row, read in last_states.items())  # up to the last state


# --- The check of a model ---


class Talk(Env):
    """Short talks, to be checked with."""

    reset = step = players = None

    def generate(self, num_trajectories, seed, start=0):
        for i in range(start, num_trajectories):
            yield Trajectory(["hello world\n", "yes\n", "a b\n", "No .\n"][i % 2 * 2 :][:2] * 4 + ["b\n"], [0.0] * 4,
                             False, False)


SIZES = dict(LLAMA, num_key_value_heads=2, max_position_embeddings=256)
NEO = dict(hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
           max_position_embeddings=256, bos_token_id=None, eos_token_id=None)
CACHE, HEAD = "its logits change when it reads with a cache", "its logits are not its head's output"
CHECKED = {  # by name: the configuration, max_length, and the reason if it is refused
    "gpt2": (partial(GPT2Config, n_positions=256, **GPT2), 128, None),
    "llama": (partial(LlamaConfig, **SIZES), 128, None),
    "llama as long as it can be": (partial(LlamaConfig, **SIZES), 256, None),
    "llama, a turn long": (partial(LlamaConfig, **SIZES), 9, None),
    "qwen3": (partial(Qwen3Config, head_dim=8, **SIZES), 128, None),
    "gpt_neox": (partial(GPTNeoXConfig, max_position_embeddings=256, **LLAMA), 128, None),
    "mistral within its window": (partial(MistralConfig, sliding_window=64, **SIZES), 48, None),
    "mistral beyond its window": (partial(MistralConfig, sliding_window=64, **SIZES), 128, CACHE),
    "gemma2": (partial(Gemma2Config, head_dim=8, **SIZES), 128, HEAD),  # its last soft cap comes after the head
    "gemma2 beyond its window": (partial(Gemma2Config, head_dim=8, sliding_window=64, final_logit_softcapping=None,
                                         **SIZES), 128, CACHE),
    "gemma2 without the last cap": (partial(Gemma2Config, head_dim=8, final_logit_softcapping=None,
                                            **SIZES), 128, None),
    "gpt_neo": (partial(GPTNeoConfig, **NEO), 128, CACHE),  # its own causal mask wants rows of one length
    "cohere": (partial(CohereConfig, **SIZES), 128, HEAD),  # its logit_scale comes after the head
    "cohere without a scale": (partial(CohereConfig, logit_scale=1.0, **SIZES), 128, None),
    "gpt2, beyond its positions": (partial(GPT2Config, n_positions=256, **GPT2), 257, "beyond the 256 positions"),
}


def saved_model(folder, config, tokenizer, std=0.3):
    """Write a random model; `std` None: its own initialisation."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer)))
    (enlarge(model, std) if std else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Args(model=str(folder), device=DEVICE, max_new_tokens=4)


def check(args):
    policy, text = load_model(args)
    check_model(policy, text, Talk("talk"), args)
    return policy, text


def test_a_model_without_weights(tmp_path):
    """Is drawn if it is one of envs/tiny/; another one has lost its weights, and is not replaced by a random one."""
    args = saved_model(tmp_path, partial(LlamaConfig, **LLAMA), word_tokenizer([*WORDS, *"ehlorwdyNn. "]))
    (tmp_path / "model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(SystemExit, match="^error: cannot load "):
        load_model(args)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"lmrl_gym_task": args.env_id}))
    assert load_model(args)[0].config.hidden_size == LLAMA["hidden_size"]


@pytest.mark.parametrize("name, std", [*[(name, 0.3) for name in CHECKED], ("gemma2", None), ("gpt_neo", None)])
def test_a_model_is_right_or_refused(name, std, tmp_path):
    """Right: training and rollout compute the logits of the model's own pass, wherever a row stands."""
    config, max_length, reason = CHECKED[name]
    args = saved_model(tmp_path, config, word_tokenizer([*WORDS, *"ehlorwdyNn. "]), std)
    args.max_length = max_length
    if reason:
        with pytest.raises(SystemExit, match=f"^error: .*{reason}"):
            check(args)
        return
    policy, text = check(args)
    ids = torch.randint(len(text.tokenizer), (2, max_length), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    reader = Reader([policy.base_model], policy.get_output_embeddings(), args)
    reader.reset(2)
    windows = {0: Window(ids[0, : max_length // 2].tolist()), 1: Window(ids[1, :3].tolist())}
    with torch.no_grad():
        own = policy(input_ids=ids, use_cache=False).logits
        batch = bc_maze.Batch(ids, torch.arange(2 * max_length - 1, device=DEVICE), ids.flatten()[1:],
                              torch.tensor(0.0))
        expected = nn.functional.cross_entropy(own.flatten(0, 1)[:-1], ids.flatten()[1:]).item()
        assert bc_loss(policy, batch).item() == pytest.approx(expected, abs=1e-4)
        while max(window.num_read for window in windows.values()) < max_length:
            ready, played = reader.read(windows)
            for row, logits in zip(ready, played, strict=True):
                place = windows[row].num_read
                torch.testing.assert_close(logits, own[row, place - 1], rtol=0, atol=1e-4)
                windows[row].ids += ids[row, place:].tolist()[: 1 + 10 * row]


def lower_case():
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "hello", "world", "yes", "no", "a", "b", "."]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.mark.parametrize("tokenizer, max_length, reason", [
    (lower_case(), 64, "its tokenizer changes the text of a game"),
    (word_tokenizer([word for word in WORDS if "\n" not in word]), 64, "its tokenizer changes the text of a game"),
    (word_tokenizer([*WORDS, *"ehlorwdyNn. "]), 4, "a turn has [0-9]+ tokens, --max-length is 4"),
])
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, max_length, reason, tmp_path):
    args = saved_model(tmp_path, CHECKED["gpt2"][0], tokenizer)
    args.max_length = max_length
    with pytest.raises(SystemExit, match=f"^error: .* cannot be used: {reason}$"):
        check(args)


def test_more_ids_than_tokens_are_no_fault(tmp_path):
    tokenizer = word_tokenizer([*WORDS, *"ehlorwdyNn. "])
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer) + 9, n_positions=64, **GPT2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, text = check(Args(model=str(tmp_path), device=DEVICE))
    assert len(text.ends_line) == len(tokenizer) + 9 and not any(text.ends_line[-9:])


def test_spaces_stay_as_they_are():
    """Also with a tokenizer that would tidy them up when it decodes."""
    tokenizer = word_tokenizer([*WORDS, "N", "o", " ", "."])
    tokenizer.clean_up_tokenization_spaces = True
    text = Text(tokenizer, len(tokenizer))
    assert tokenizer.decode(text.encode("No .\n")) == "No.\n" and text.decode(text.encode("No .\n")) == "No .\n"


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="^error: cannot load .*nothing"):
        load_model(Args(model=str(tmp_path / "nothing"), device=DEVICE))
