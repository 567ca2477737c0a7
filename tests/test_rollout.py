"""Rollouts and offline data as tokens: rollouts are compared with the training pass, and with one without a cache."""

import math
import random
from collections import deque

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

from algos import bc_maze, ilql_wordle
from algos.bc_maze import (
    ACTION,
    ACTION_END,
    CUT,
    LAST,
    OBS,
    Args,
    Codec,
    Episode,
    bc_loss,
    build_model,
    collate,
    encode,
    rollout,
    sample,
)
from envs import Env, Trajectory, VectorEnv, make

WORDS = [*"abcdef", "hello", "world", "\n", "yes\n", "no\n"]
GAMES = 7
SIZES = dict(vocab_size=0, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
             bos_token_id=None, eos_token_id=None)
CONFIGS = {
    "gpt2": lambda vocab, length: GPT2Config(vocab_size=vocab, n_positions=length, n_embd=32, n_layer=2, n_head=2,
                                             bos_token_id=None, eos_token_id=None),
    "llama": lambda vocab, length: LlamaConfig(**SIZES | dict(vocab_size=vocab, max_position_embeddings=length),
                                               num_key_value_heads=2),
    "qwen3": lambda vocab, length: Qwen3Config(**SIZES | dict(vocab_size=vocab, max_position_embeddings=length),
                                               num_key_value_heads=2, head_dim=8),
    "gpt_neox": lambda vocab, length: GPTNeoXConfig(**SIZES | dict(vocab_size=vocab, max_position_embeddings=length)),
}
families = pytest.mark.parametrize("family", CONFIGS)


class Babble(Env):
    """Answers of 1 to 40 words that depend on all that was said before; ends by the rules or by a limit."""

    generate = players = recognises = parse = worst_return = best_return = None  # a game that is only played

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
        lengths = [1, 2, 3, 40] if self.markov or len(self.said) > 1 else [1, 2, 3]
        words = rng.choices(WORDS, k=rng.choice(lengths))
        self.said.append("".join(words))
        return self.said[-1]


class Games(VectorEnv):
    """Games that no id names."""

    def __init__(self, games):
        self.envs, self.waiting, self.games = games, deque(), {}


def games(env_id, num_envs):
    if env_id.startswith("babble"):
        return Games([Babble(env_id.endswith("markov")) for _ in range(num_envs)])
    return VectorEnv(env_id, num_envs)


@pytest.fixture(autouse=True)
def short_mazes(monkeypatch):
    monkeypatch.setattr("envs.maze.MAX_MOVES", 12)


def texts_of(env_id):
    if env_id.startswith("babble"):
        return set(WORDS)
    env = make(env_id)
    if env_id == "wordle":
        return {"Wordle:\n", "b y g\n", "s h i r e\n"}
    return {*env.obs.values(), "move left\n", "move right\n", "move up\n", "move down\n"}


def setting(env_id="babble", max_length=1024, max_new_tokens=4, temperature=1.0, **options):
    """(args, codec) for a game; the tokenizer is the script's own."""
    args = Args(env_id=env_id, device="cpu", hidden_size=8, max_length=max_length, max_new_tokens=max_new_tokens,
                temperature=temperature, **options)
    return args, Codec(build_model(args, texts_of(env_id))[1])


def random_model(family, codec, args, seed=0):
    """A tiny model with weights so large that its logits depend on every token before."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](len(codec.tokenizer), args.max_length)).eval()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return model


def play(model, env_id, codec, args, num_envs=3, seed=0, next_logits=None):
    """(episodes, environments) of a rollout with fewer environments than games."""
    envs = games(env_id, num_envs)
    generator = torch.Generator().manual_seed(seed)
    return rollout([model.base_model], next_logits or model.lm_head, envs, codec, range(GAMES), args, generator), envs


def written(action):
    """The action as the trajectory has it: one that was cut off is marked."""
    return action if action.endswith("\n") else action + "…\n"


def actions_of(episode):
    """[(the ids that the action's first token was sampled behind, the action's ids, its reward)], from the segments."""
    actions, ends, terminated = [], [], episode.trajectory.terminated
    for segment in episode.segments:
        start, kinds = None, segment.kind[: len(segment.ids)]
        behind = [CUT] if segment is episode.segments[-1] and not terminated else []
        assert segment.kind == kinds + behind and len(kinds) == len(segment.ids) and CUT not in kinds
        for i, kind in enumerate(kinds):
            start = i if kind != OBS and start is None else start
            if kind in (ACTION_END, LAST):
                actions.append((segment.ids[:start], segment.ids[start : i + 1]))
                ends.append(kind)
                start = None
        assert start is None, "an action without an end"
    assert ends == [ACTION_END] * (len(ends) - 1) + [LAST if terminated else ACTION_END]
    return [(*action, reward) for action, reward in zip(actions, episode.trajectory.rewards, strict=True)]


# --- The training pass ---

SETTINGS = [("maze_fo", 64), ("maze_po", 512), ("maze_po", 48), ("wordle", 256), ("wordle", 30), ("babble", 1024),
            ("babble", 60), ("babble_markov", 64)]


@families
@pytest.mark.parametrize("env_id, max_length", SETTINGS)
def test_logprobs_are_those_of_the_training_pass(family, env_id, max_length):
    """For each sampled token, with ragged batches, several turns, refilled rows, and episodes in several segments."""
    args, codec = setting(env_id, max_length)
    model = random_model(family, codec, args)
    episodes, _ = play(model, env_id, codec, args)
    sampled = []
    for episode in episodes:
        expected = []
        for segment in episode.segments:
            assert len(segment.ids) <= max_length
            with torch.no_grad():
                logprobs = model(torch.tensor([segment.ids])).logits[0].log_softmax(-1)
            expected += [logprobs[i - 1, token].item() for i, token in enumerate(segment.ids) if segment.kind[i] != OBS]
        assert episode.logprobs == pytest.approx(expected, abs=1e-4)
        sampled += episode.logprobs
    with torch.no_grad():  # all at once, padded, as in training
        assert bc_loss(model, *collate(episodes, "cpu")).item() == pytest.approx(-sum(sampled) / len(sampled), abs=1e-4)
    actions = [action for episode in episodes for _, action, _ in actions_of(episode)]
    lengths = {len(action) for action in actions}
    assert len(lengths) > 1 and 4 in lengths and max(sampled) - min(sampled) > 3  # else this tests little
    assert max(len(episode.segments) for episode in episodes) > 1 or max_length > 60


def test_logprobs_at_another_temperature():
    """Are those that the tokens were drawn with."""
    args, codec = setting(temperature=0.5)
    model = random_model("llama", codec, args)
    for episode in play(model, "babble", codec, args)[0]:
        expected = []
        for context, action, _ in actions_of(episode):
            with torch.no_grad():
                logprobs = (model(torch.tensor([context + action])).logits[0] / 0.5).log_softmax(-1)
            expected += [logprobs[len(context) + j - 1, token].item() for j, token in enumerate(action)]
        assert episode.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("env_id, max_length", SETTINGS)
def test_each_action_is_trained_on_once_and_whole(env_id, max_length):
    """However many segments the episode has: what the environment heard is what the segments hold, in this order."""
    args, codec = setting(env_id, max_length)
    episodes, envs = play(random_model("llama", codec, args), env_id, codec, args, num_envs=GAMES)
    for index, episode in enumerate(episodes):
        actions, trajectory = actions_of(episode), episode.trajectory
        heard = [codec.decode(action) for _, action, _ in actions]
        assert [written(action) for action in heard] == trajectory.texts[1::2]
        if env_id.startswith("babble"):
            assert envs.envs[index].heard == heard
        # Behind the last action: nothing where the rules ended the game, else the last observation.
        last = episode.segments[-1]
        tail = last.ids[max((i + 1 for i, kind in enumerate(last.kind) if kind not in (OBS, CUT)), default=0) :]
        if trajectory.terminated:
            assert tail == ([] if heard[-1].endswith("\n") else codec.encode("\n"))
        else:
            assert tail[len(tail) - len(seen := codec.encode(trajectory.texts[-1])) :] == seen
    assert {episode.trajectory.terminated for episode in episodes} == (
        {True} if env_id == "wordle" else {False, True} if "babble" in env_id else {False})


@pytest.mark.parametrize("env_id, max_length", SETTINGS)
def test_collate(env_id, max_length):
    """A state before each action token and where the game was cut; the reward is on the last token of an action."""
    args, codec = setting(env_id, max_length)
    episodes, _ = play(random_model("llama", codec, args), env_id, codec, args)
    states, acts, tokens, kinds, rewards = [], [], [], [], []
    for episode in episodes:
        actions = actions_of(episode)
        for number, (context, action, reward) in enumerate(actions, 1):
            acts += range(len(states), len(states) + len(action))
            states += [context + action[:j] for j in range(len(action))]
            tokens += action
            last = LAST if number == len(actions) and episode.trajectory.terminated else ACTION_END
            kinds += [ACTION] * (len(action) - 1) + [last]
            rewards += [0.0] * (len(action) - 1) + [reward]
        if not episode.trajectory.terminated:
            states.append(episode.segments[-1].ids)
    ids, row, t, *rest = collate(episodes, "cpu")
    assert [ids[i, : j + 1].tolist() for i, j in zip(row.tolist(), t.tolist(), strict=True)] == states
    assert [x.tolist() for x in rest] == [acts, tokens, kinds, rewards]
    different = {tuple(segment.ids) for episode in episodes for segment in episode.segments}
    assert len(ids) <= len(different) and ids.shape[1] <= max_length + 1


def test_a_long_episode_goes_on_in_a_new_segment():
    """That opens with the first text and the newest turns that fill half of it."""
    args, codec = setting("babble", 40, 2)
    a, b, c, d = (codec.encode(letter)[0] for letter in "abcd")
    end = codec.encode("\n")[0]
    episode = Episode(False, 40, 2)
    observations = [[a, a], [b] * 10, [c] * 6, [d] * 13, [b] * 3, [c] * 8, [d] * 35]
    for obs in observations:
        episode.observe(list(obs))
        episode.add([obs[0], end], ACTION)
        episode.end_action([])
    turns = [[*obs, obs[0], end] for obs in observations]
    assert [segment.ids for segment in episode.segments] == [
        turns[0] + turns[1] + turns[2] + turns[3],  # the last action starts at 37: it and a newline just fit
        # 2 tokens and the observation, 3; the turn before, 15, makes 20; the one before that would be above 20.
        [a, a] + turns[3] + turns[4] + turns[5],
        [a, a] + turns[6],  # not even one turn fits, but the observation has to
    ]
    assert [[(i, kind) for i, kind in enumerate(s.kind) if kind != OBS] for s in episode.segments] == [
        [(i + j, kind) for i in starts for j, kind in enumerate([ACTION, ACTION_END])]
        for starts in ([2, 14, 22, 37], [20, 30], [37])]


def test_long_actions():
    """The context of a new segment leaves room for an action, be it longer than half of the segment."""
    episode = Episode(False, 40, 25)
    for _ in range(9):
        episode.observe([1] * 3)
        episode.add([2], ACTION)
        episode.end_action([])
    assert len(episode.segments) > 1
    assert all(max(i for i, kind in enumerate(s.kind) if kind != OBS) <= 40 - 25 - 1 for s in episode.segments)


def test_data_with_longer_actions_than_are_sampled():
    """No action is cut, and no segment is longer than the model can read."""
    args, codec = setting(max_length=20, max_new_tokens=2)
    episode, = encode([Trajectory(["a\n", "b" * 9 + "\n"] * 4, [0.0] * 4, True, True)], False, codec, args)
    assert max(len(segment.ids) for segment in episode.segments) <= 20
    assert [action for _, action, _ in actions_of(episode)] == [codec.encode("b" * 9 + "\n")] * 4
    assert sum(kind != OBS for segment in episode.segments for kind in segment.kind) == 40


def test_max_length_shorter_than_a_turn():
    for markov in (False, True):
        Episode(markov, 10, 4).observe([1] * 5)
        with pytest.raises(ValueError, match="--max-length 10 .* 11"):
            Episode(markov, 10, 4).observe([1] * 6)


# --- The rollout without a cache ---


def play_slowly(trunks, next_logits, env, codec, seed, args):
    """One game, greedily; all that the model sees is read again for every token.

    Returns [(context, action)], the trajectory, and the number of invalid actions.
    """
    obs, _ = env.reset(seed)
    texts, rewards, parts, actions, num_invalid, over = [obs], [], [codec.encode(obs)], [], 0, False
    context, room = parts[0], args.max_length - args.max_new_tokens - 1
    while not over:
        action = []
        while len(action) < args.max_new_tokens and "\n" not in codec.tokenizer.decode(action):
            ids = torch.tensor([context + action])
            with torch.no_grad():
                hidden = [trunk(input_ids=ids, use_cache=False).last_hidden_state[:, -1] for trunk in trunks]
                action = [*action, next_logits(*hidden).argmax().item()]
        actions.append((context, action))
        text = codec.decode(action)
        obs, reward, terminated, truncated, info = env.step(text)
        texts += [written(text), obs]
        rewards.append(reward)
        num_invalid += not info["valid"]
        parts += [action if text.endswith("\n") else action + codec.encode("\n"), codec.encode(obs)]
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


@pytest.mark.parametrize("env_id, max_length", SETTINGS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rollout_equals_one_without_a_cache(family, env_id, max_length):
    """Greedy, token for token, one game at a time."""
    args, codec = setting(env_id, max_length, temperature=0.0)
    model = random_model(family, codec, args)
    # What random models repeat is forbidden now and then, so that actions differ in length.
    forbid = torch.randn(32, len(codec.tokenizer), generator=torch.Generator().manual_seed(2)) * 3

    def next_logits(hidden):
        return model.lm_head(hidden) + torch.tanh(hidden) @ forbid

    episodes, envs = play(model, env_id, codec, args, num_envs=4, next_logits=next_logits)
    for seed, episode in enumerate(episodes):
        assert_same(episode, play_slowly([model.base_model], next_logits, envs.envs[0], codec, seed, args))
    assert len(episodes) == GAMES


def test_rollout_with_a_critic_equals_one_without_a_cache():
    """Two trunks, each with a cache of its own; β weighs the smaller of the two Qs."""
    args, codec = setting(max_length=60, temperature=0.0)
    policy = random_model("gpt2", codec, args)
    critic = ilql_wordle.Critic(random_model("gpt2", codec, args, seed=1), 0.0).eval()
    torch.manual_seed(3)
    for head in (critic.q1, critic.q2):
        nn.init.normal_(head[2].weight, std=0.5)

    def slow_logits(hidden, value_hidden):
        return policy.lm_head(hidden) + 2.0 * torch.minimum(critic.q1(value_hidden), critic.q2(value_hidden))

    played = {}
    for beta in (0.0, 2.0):
        trunks, next_logits = ilql_wordle.q_policy(policy, critic, beta)
        envs = games("babble", 3)
        played[beta] = rollout(trunks, next_logits, envs, codec, range(GAMES), args, torch.Generator().manual_seed(0))
    for seed, episode in enumerate(played[2.0]):
        slow = play_slowly([policy.base_model, critic.trunk], slow_logits, Babble(False), codec, seed, args)
        assert_same(episode, slow)
    played["without"] = play(policy, "babble", codec, args)[0]
    texts = {name: [episode.trajectory.texts for episode in episodes] for name, episodes in played.items()}
    assert texts[0.0] == texts["without"] != texts[2.0]


def test_rows_out_of_step():
    """A long observation is fed in pieces of the mean width while other rows go on; nobody waits for it."""
    args, codec = setting(temperature=0.0)
    model = random_model("llama", codec, args)
    widths, ready = [], []

    def watched(trunk, cache, ids, start, count, feed=bc_maze.feed):
        widths.append((ids.shape[1], count.tolist()))
        return feed(trunk, cache, ids, start, count)

    def next_logits(hidden):
        ready.append(len(hidden))
        return model.lm_head(hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bc_maze, "feed", watched)
        episodes, envs = play(model, "babble", codec, args, num_envs=4, next_logits=next_logits)
    assert all(width == max(count) for width, count in widths) and min(ready) >= 1
    still_reading = [sum(c > 0 for c in count) - n for n, (_, count) in zip(ready, widths, strict=True)]
    assert min(still_reading) == 0 < max(still_reading)
    assert {len(count) for _, count in widths} >= {4, 2, 1}  # rows that idle are dropped in the end
    for seed, episode in enumerate(episodes):
        assert_same(episode, play_slowly([model.base_model], model.lm_head, envs.envs[0], codec, seed, args))


def test_all_games_are_played_whatever_the_number_of_environments():
    """In the order of their seeds."""
    args, codec = setting(temperature=0.0)
    model = random_model("llama", codec, args)
    slow = [play_slowly([model.base_model], model.lm_head, Babble(False), codec, seed, args)[1:]
            for seed in range(GAMES)]
    for num_envs in (1, 2, 7, 9):
        episodes, _ = play(model, "babble", codec, args, num_envs)
        assert [(episode.trajectory, episode.num_invalid) for episode in episodes] == slow


def test_more_ids_than_tokens():
    """Models have ids that their tokenizer does not know, to fill up the vocabulary; such a token has no text."""
    args, codec = setting()
    model = random_model("llama", codec, args)
    model.resize_token_embeddings(len(codec.tokenizer) + 9)
    nn.init.normal_(model.lm_head.weight, std=0.3)
    episodes = play(model, "babble", codec, args)[0]
    sampled = [token for episode in episodes for _, action, _ in actions_of(episode) for token in action]
    assert max(sampled) >= len(codec.tokenizer) > min(sampled)


# --- Sampling and the ends of actions ---


def test_sampling_is_reproducible():
    args, codec = setting()
    model = random_model("llama", codec, args)
    first, again, other = ([[s.ids for s in e.segments] for e in play(model, "babble", codec, args, seed=seed)[0]]
                           for seed in (0, 0, 1))
    assert first == again != other


def test_sample():
    logits = torch.tensor([[1000.0, 1001.0, -1000.0, 999.0]]).repeat(20_000, 1)
    tokens, logprobs = sample(logits, 1.0, torch.Generator().manual_seed(0))
    total = sum(math.exp(x) for x in (0, 1, -1))
    probabilities = [1 / total, math.e / total, 0, math.exp(-1) / total]
    assert [tokens.count(i) / 20_000 for i in range(4)] == pytest.approx(probabilities, abs=0.015)
    assert logprobs == pytest.approx([math.log(probabilities[token]) for token in tokens], abs=1e-4)
    assert sample(logits[:3], 0.0, torch.Generator()) == ([1, 1, 1], pytest.approx([math.log(math.e / total)] * 3))
    colder, _ = sample(logits, 0.5, torch.Generator().manual_seed(0))
    assert colder.count(1) / colder.count(0) == pytest.approx(math.e**2, rel=0.1)


def always(codec, *tokens):
    """`next_logits` of a policy that says nothing but these tokens, the first of them most probably."""
    logits = torch.full((len(codec.tokenizer),), -100.0)
    for rank, token in enumerate(tokens):
        logits[codec.tokenizer.convert_tokens_to_ids(token)] = -rank
    return lambda hidden: logits.expand(len(hidden), -1)


@pytest.mark.parametrize("markov", [False, True])
def test_an_action_that_is_cut_off(markov):
    """Goes to the environment as it is; the newline behind it is not the agent's, the reward is on its last token."""
    args, codec = setting("babble", max_new_tokens=3)
    envs = Games([Babble(markov)])
    model = random_model("llama", codec, args)
    episodes = rollout([model.base_model], always(codec, "a"), envs, codec, range(GAMES), args, torch.Generator())
    a, end = codec.encode("a")[0], codec.encode("\n")[0]
    assert set(envs.envs[0].heard) == {"aaa"}
    assert {episode.trajectory.terminated for episode in episodes} == {False, True}
    for episode in episodes:
        trajectory, ids, kind = episode.trajectory, [], []
        assert set(trajectory.texts[1::2]) == {written("aaa")} == {"aaa…\n"}
        for text in trajectory.texts[:-1:2]:
            obs = codec.encode(text)
            ids += [*obs, a, a, a, end]
            kind += [OBS] * len(obs) + [ACTION, ACTION, ACTION_END, OBS]
        if trajectory.terminated:
            kind[-2] = LAST
        else:
            ids += (obs := codec.encode(trajectory.texts[-1]))
            kind += [OBS] * len(obs) + [CUT]
        num_turns = len(trajectory.rewards)
        assert len(episode.segments) == (num_turns + (not trajectory.terminated) if markov else 1)
        assert sum((s.ids for s in episode.segments), []) == ids and sum((s.kind for s in episode.segments), []) == kind
        rewards = [x for reward in trajectory.rewards for x in (0, 0, reward)]
        assert collate([episode], "cpu")[-1].tolist() == rewards and len(episode.logprobs) == 3 * num_turns


def test_an_action_is_cut_behind_its_newline():
    """A token may hold a newline and more: the environment hears up to the newline, the ids stay as sampled."""
    args = Args(device="cpu", hidden_size=8, max_new_tokens=3, token_pattern=r"a|x\n\ny|[\s\S]")
    codec = Codec(build_model(args, {"x\n\ny", *WORDS})[1])
    token = codec.tokenizer.convert_tokens_to_ids("x\n\ny")
    assert codec.encode("ax\n\ny")[1:] == [token]
    model = random_model("llama", codec, args)
    envs = Games([Babble(False)])
    episode, = rollout([model.base_model], always(codec, "x\n\ny", "a"), envs, codec, [0], args,
                       torch.Generator().manual_seed(1))
    heard = envs.envs[0].heard
    assert set(heard) <= {"x\n", "ax\n", "aax\n", "aaa"} and len(set(heard)) > 1
    assert episode.trajectory.texts[1::2] == [written(text) for text in heard]
    for (_, action, _), text in zip(actions_of(episode), heard, strict=True):
        assert codec.tokenizer.decode(action) == text + "\ny" * text.endswith("\n") and len(action) == len(text.strip())


# --- Token in, token out: offline data ---

LETTERS = dict(token_pattern=r"[\s\S]", hidden_size=8, device="cpu", max_new_tokens=3)
TEXTS = ["ab\n", "x\n", "c\n", "yz\n", "d\n"]


def encoded(trajectory, markov, script=bc_maze):
    """([(text, kind) of each segment], [reward of each action token])."""
    args = script.Args(**LETTERS)
    codec = Codec(build_model(args, set(TEXTS))[1])
    episode, = script.encode([trajectory], markov, codec, args)
    assert episode.trajectory == trajectory and episode.num_invalid == 0
    segments = [("".join(codec.tokenizer.convert_ids_to_tokens(s.ids)), s.kind) for s in episode.segments]
    return segments, script.collate([episode], "cpu")[-1].tolist()


def test_encode_an_episode_in_one_segment():
    kind, rewards = [0, 0, 0, 1, 2, 0, 0, 1, 1, 2], [0, -1, 0, 0, -2]
    assert (OBS, ACTION, ACTION_END, LAST, CUT) == (0, 1, 2, 3, 4)
    for texts in (TEXTS, TEXTS[:-1]):  # of an end by the rules nothing follows
        assert encoded(Trajectory(texts, [-1, -2], True, True), False) == (
            [("ab\nx\nc\nyz\n", [*kind[:-1], LAST])], rewards)
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), False) == (
        [("ab\nx\nc\nyz\nd\n", [*kind, 0, 0, CUT])], rewards)
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), False) == (
        [("ab\nx\nc\nyz\n", [*kind, CUT])], rewards)


def test_encode_a_segment_for_each_turn():
    first, second, kind, rewards = ("ab\nx\n", [0, 0, 0, 1, 2]), "c\nyz\n", [0, 0, 1, 1, 2], [0, -1, 0, 0, -2]
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), True) == (
        [first, (second, kind), ("d\n", [0, 0, CUT])], rewards)
    for texts in (TEXTS, TEXTS[:-1]):
        assert encoded(Trajectory(texts, [-1, -2], True, False), True) == (
            [first, (second, [0, 0, 1, 1, LAST])], rewards)
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), True) == ([first, (second, [*kind, CUT])], rewards)


def test_complete():
    """A last action without an observation behind it is left out, unless the rules ended the game."""
    for kept in (Trajectory(TEXTS, [-1, -2], False, False), Trajectory(TEXTS, [-1, -2], True, True),
                 Trajectory(TEXTS[:-1], [-1, -2], True, True)):
        assert kept.complete() == kept
    cut = Trajectory(TEXTS[:-1], [-1, -2], False, False).complete()
    assert cut == Trajectory(TEXTS[:3], [-1], False, False)
    assert encoded(cut, True, ilql_wordle) == ([("ab\nx\n", [0, 0, 0, 1, 2]), ("c\n", [0, 0, CUT])], [0, -1])
    assert Trajectory(TEXTS[:2], [-1], False, False).complete() is None


@pytest.mark.parametrize("env_id, max_length", [("maze_fo", 64), ("maze_po", 64), ("maze_po", 20)])
def test_data_and_rollout_are_formatted_alike(env_id, max_length, monkeypatch):
    """The texts of a rollout, read as offline data, give the rollout's own segments."""
    monkeypatch.setattr("envs.maze.MAX_MOVES", 30)
    args = Args(env_id=env_id, device="cpu", hidden_size=8, max_length=max_length, max_new_tokens=4,
                token_pattern=bc_maze.PHRASES)
    codec = Codec(build_model(args, texts_of(env_id))[1])
    moves = ["move left\n", "move right\n", "move up\n", "move down\n"]
    episodes = play(random_model("llama", codec, args), env_id, codec, args, next_logits=always(codec, *moves))[0]
    read = encode([episode.trajectory for episode in episodes], make(env_id).markov, codec, args)
    for a, b in zip(read, episodes, strict=True):
        assert [(s.ids, s.kind) for s in a.segments] == [(s.ids, s.kind) for s in b.segments]
        assert a.trajectory == b.trajectory
    for a, b in zip(collate(read, "cpu"), collate(episodes, "cpu"), strict=True):
        assert torch.equal(a, b)


def test_texts_are_tokenised_on_their_own():
    """However they are told apart: no token straddles the border between two speakers."""
    args = Args(device="cpu", hidden_size=8, token_pattern=r"[a-z]+\n?")
    codec = Codec(build_model(args, {"ab", "c\n", "abc\n"})[1])
    assert codec.encode("ab") + codec.encode("c\n") != codec.encode("abc\n")
    trajectory = Trajectory(["ab", "c\n", "ab"], [0.0], False, False)
    episode, = encode([trajectory], False, codec, Args(max_new_tokens=3))
    assert [s.ids for s in episode.segments] == [codec.encode("ab") + codec.encode("c\n") + codec.encode("ab")]


def test_codec_spells_unknown_words():
    args = Args(device="cpu", hidden_size=8, token_pattern=bc_maze.LINES)
    codec = Codec(build_model(args, {"move up\n", "no\n", "is n't .\n"})[1])
    for text in ("move up\n", "no\n", "up\n", "n o v\n", "up . n't .\n", " move  no\n", "nov"):
        assert codec.tokenizer.decode(codec.encode(text)) == codec.decode(codec.encode(text)) == text
    assert len(codec.encode("move up\n")) == 1 and codec.decode(codec.encode("up\nno\n")) == "up\nno\n"
