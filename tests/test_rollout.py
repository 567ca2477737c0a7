"""Rollouts and offline data as tokens: rollouts are compared with the training pass, and with one without a cache."""

import math
import random

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

from algos import bc_maze, ilql_wordle
from algos.bc_maze import ACTION, ACTION_END, OBS, Args, Codec, bc_loss, build_model, collate, encode, rollout, sample
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
    """Answers of 0 to 40 words that depend on all that was said before; ends by the rules or by a limit."""

    num_test_episodes = 1

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
        lengths = [1, 2, 3, 40] if self.markov else [0, 1, 2, 3, 40] if len(self.said) > 1 else [1, 2, 3]
        words = rng.choices(WORDS, k=rng.choice(lengths))
        self.said.append("".join(words))
        return self.said[-1]


class Games(VectorEnv):
    """Games that no id names."""

    def __init__(self, games):
        self.envs = games


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


def actions_of(episode):
    """[(the ids that the action's first token was sampled behind, the action's ids, its reward)], from the segments."""
    actions = []
    for segment in episode.segments:
        start = None
        for i, who in enumerate(segment.who):
            start = i if who != OBS and start is None else start
            assert segment.rewards[i] == 0 or who == ACTION_END
            if who == ACTION_END:
                actions.append((segment.ids[:start], segment.ids[start : i + 1], segment.rewards[i]))
                start = None
        assert start is None, "an action without an end"
    return actions


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
    segments = [segment for episode in episodes for segment in episode.segments]
    sampled = []
    for segment in segments:
        assert len(segment.ids) == len(segment.who) == len(segment.rewards) == len(segment.logprobs) <= max_length
        with torch.no_grad():
            logprobs = model(torch.tensor([segment.ids])).logits[0].log_softmax(-1)
        for i, (token, who, logprob) in enumerate(zip(segment.ids, segment.who, segment.logprobs, strict=True)):
            if who == OBS:
                assert logprob == 0
            else:
                assert logprob == pytest.approx(logprobs[i - 1, token].item(), abs=1e-4)
                sampled.append(logprob)
    with torch.no_grad():  # all at once, padded, as in training
        assert bc_loss(model, *collate(segments, "cpu")).item() == pytest.approx(-sum(sampled) / len(sampled), abs=1e-4)
    actions = [action for episode in episodes for _, action, _ in actions_of(episode)]
    lengths = {len(action) for action in actions}
    assert len(lengths) > 1 and 4 in lengths and max(sampled) - min(sampled) > 3  # else this tests little
    assert max(len(episode.segments) for episode in episodes) > 1 or max_length > 60


def test_logprobs_at_another_temperature():
    """Are those that the tokens were drawn with."""
    args, codec = setting(temperature=0.5)
    model = random_model("llama", codec, args)
    for episode in play(model, "babble", codec, args)[0]:
        for context, action, _ in actions_of(episode):
            with torch.no_grad():
                logprobs = (model(torch.tensor([context + action])).logits[0] / 0.5).log_softmax(-1)
            segment = next(s for s in episode.segments if s.ids[: len(context + action)] == context + action)
            expected = [logprobs[len(context) + j - 1, token].item() for j, token in enumerate(action)]
            assert segment.logprobs[len(context) : len(context + action)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("env_id, max_length", SETTINGS)
def test_each_action_is_trained_on_once_and_whole(env_id, max_length):
    """However many segments the episode has: what the environment heard is what the segments hold, in this order."""
    args, codec = setting(env_id, max_length)
    episodes, envs = play(random_model("llama", codec, args), env_id, codec, args, num_envs=GAMES)
    for index, episode in enumerate(episodes):
        actions = actions_of(episode)
        assert [codec.decode(action) for _, action, _ in actions] == episode.texts[1::2]
        assert [reward for _, _, reward in actions] == episode.rewards
        if env_id.startswith("babble"):
            assert envs.envs[index].heard == episode.texts[1::2]
        assert [s.next for s in episode.segments] == [*episode.segments[1:], None]
        assert not any(segment.terminated for segment in episode.segments[:-1])
        # Behind the last action: nothing where the rules ended the game, else the last observation.
        last = episode.segments[-1]
        tail = last.ids[max((i + 1 for i, who in enumerate(last.who) if who), default=0) :]
        if last.terminated:
            assert tail in ([], codec.encode("\n"))
        else:
            assert tail[len(tail) - len(seen := codec.encode(episode.texts[-1])) :] == seen
    assert {episode.segments[-1].terminated for episode in episodes} == (
        {True} if env_id == "wordle" else {False, True} if "babble" in env_id else {False})


def test_a_long_episode_goes_on_in_a_new_segment():
    """That opens with the first text and the newest turns that fill half of it."""
    args, codec = setting("babble", 40, 2)
    a, b, c, d = (codec.encode(letter)[0] for letter in "abcd")
    end = codec.encode("\n")[0]
    episode = bc_maze.Episode(False, 40, 2)
    observations = [[a, a], [b] * 10, [c] * 9, [d] * 9, [b] * 3, [c] * 8, [d] * 34]
    for obs in observations:
        episode.observe(list(obs), "")
        episode.segments[-1].add([obs[0], end], ACTION)
        episode.end_action("", 0.0, [])
    turns = [[*obs, obs[0], end] for obs in observations]
    assert [segment.ids for segment in episode.segments] == [
        turns[0] + turns[1] + turns[2] + turns[3],
        # 2 tokens; an action and the observation behind it, 2 + 3; 2 + 9 before; 2 + 9 more would be above 20.
        [a, a] + [c, end] + turns[3] + turns[4] + turns[5],
        [a, a] + turns[6],  # not even one turn fits
    ]
    assert [[i for i, who in enumerate(s.who) if who] for s in episode.segments] == [
        [2, 3, 14, 15, 25, 26, 36, 37], [18, 19, 28, 29], [36, 37]]


def test_long_actions():
    """The context of a new segment leaves room for an action, be it longer than half of the segment."""
    episode = bc_maze.Episode(False, 40, 25)
    for _ in range(9):
        episode.observe([1] * 3, "")
        episode.segments[-1].add([2], ACTION)
        episode.end_action("", 0.0, [])
    assert len(episode.segments) > 1
    assert all(max(i for i, who in enumerate(s.who) if who) <= 40 - 25 - 1 for s in episode.segments)


def test_data_with_longer_actions_than_are_sampled():
    """No action is cut, and no segment is longer than the model can read."""
    args, codec = setting(max_length=20, max_new_tokens=2)
    trajectory = Trajectory(["a\n", "b" * 9 + "\n"] * 4, [0.0] * 4, True, True)
    segments = encode([trajectory], Babble(False), codec, args)
    assert max(len(segment.ids) for segment in segments) <= 20
    assert sum(who != OBS for segment in segments for who in segment.who) == 40


def test_max_length_shorter_than_a_turn():
    for markov in (False, True):
        episode = bc_maze.Episode(markov, 10, 4)
        episode.observe([1] * 5, "")
        with pytest.raises(ValueError, match="--max-length 10 .* 11"):
            bc_maze.Episode(markov, 10, 4).observe([1] * 6, "")


# --- The rollout without a cache ---


def play_slowly(trunks, next_logits, env, codec, seed, args):
    """One game, greedily; all that the model sees is read again for every token. Returns [(context, action)], texts."""
    obs, _ = env.reset(seed)
    texts, parts, actions, over = [obs], [codec.encode(obs)], [], False
    context = parts[0]
    while not over:
        action = []
        while len(action) < args.max_new_tokens and "\n" not in codec.tokenizer.decode(action):
            ids = torch.tensor([context + action])
            with torch.no_grad():
                hidden = [trunk(input_ids=ids, use_cache=False).last_hidden_state[:, -1] for trunk in trunks]
                action = [*action, next_logits(*hidden).argmax().item()]
        actions.append((context, action))
        text = codec.decode(action)
        obs, _, terminated, truncated, _ = env.step(text)
        texts += [text, obs]
        parts += [action if text.endswith("\n") else action + codec.encode("\n"), codec.encode(obs)]
        over = terminated or truncated
        if env.markov:
            context = parts[-1]
        elif len(context + parts[-2] + parts[-1]) + args.max_new_tokens + 1 <= args.max_length:
            context = context + parts[-2] + parts[-1]
        else:
            newest = [parts[0] + sum(parts[len(parts) - n :], []) for n in range(2, len(parts), 2)]
            context = max((c for c in newest if len(c) <= args.max_length // 2), key=len, default=parts[0] + parts[-1])
    return actions, texts


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
        actions, texts = play_slowly([model.base_model], next_logits, envs.envs[0], codec, seed, args)
        assert [(context, action) for context, action, _ in actions_of(episode)] == actions
        assert episode.texts == texts and episode.seed == seed


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
        actions, texts = play_slowly([policy.base_model, critic.trunk], slow_logits, Babble(False), codec, seed, args)
        assert [(context, action) for context, action, _ in actions_of(episode)] == actions and episode.texts == texts
    without = play(policy, "babble", codec, args)[0]
    assert [e.texts for e in played[0.0]] == [e.texts for e in without] != [e.texts for e in played[2.0]]


def test_rows_out_of_step():
    """A long observation is fed in pieces of the mean width while other rows go on; nobody waits for it."""
    args, codec = setting(temperature=0.0)
    model = random_model("llama", codec, args)
    widths, ready = [], []

    class Watched(bc_maze.CachedTrunk):
        def __call__(self, ids, start, count):
            widths.append((ids.shape[1], count.tolist()))
            return super().__call__(ids, start, count)

    def next_logits(hidden):
        ready.append(len(hidden))
        return model.lm_head(hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bc_maze, "CachedTrunk", Watched)
        episodes, envs = play(model, "babble", codec, args, num_envs=4, next_logits=next_logits)
    assert all(width == max(count) for width, count in widths) and min(ready) >= 1
    still_reading = [sum(c > 0 for c in count) - n for n, (_, count) in zip(ready, widths, strict=True)]
    assert min(still_reading) == 0 < max(still_reading)
    assert {len(count) for _, count in widths} >= {4, 2, 1}  # rows that idle are dropped in the end
    for seed, episode in enumerate(episodes):
        assert episode.texts == play_slowly([model.base_model], model.lm_head, envs.envs[0], codec, seed, args)[1]


def test_all_games_are_played_whatever_the_number_of_environments():
    args, codec = setting(temperature=0.0)
    model = random_model("llama", codec, args)
    played = [[(e.seed, e.texts, e.rewards) for e in play(model, "babble", codec, args, n)[0]] for n in (1, 2, 7, 9)]
    assert played == [played[0]] * 4 and [seed for seed, _, _ in played[0]] == list(range(GAMES))


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
    episode, = rollout([model.base_model], always(codec, "a"), envs, codec, [0], args, torch.Generator())
    a, end = codec.encode("a")[0], codec.encode("\n")[0]
    assert set(envs.envs[0].heard) == {"aaa"} == set(episode.texts[1::2])
    ids, who, rewards = [], [], []
    for k, reward in enumerate(episode.rewards):
        obs = codec.encode(episode.texts[2 * k])
        ids += [*obs, a, a, a, end]
        who += [OBS] * len(obs) + [ACTION, ACTION, ACTION_END, OBS]
        rewards += [0] * len(obs) + [0, 0, reward, 0]
    if not episode.segments[-1].terminated:
        ids += codec.encode(episode.texts[-1])
        who, rewards = (x + [0] * (len(ids) - len(x)) for x in (who, rewards))
    assert len(episode.segments) == (len(episode.texts) // 2 + (not episode.segments[-1].terminated) if markov else 1)
    assert sum((s.ids for s in episode.segments), []) == ids and sum((s.who for s in episode.segments), []) == who
    assert sum((s.rewards for s in episode.segments), []) == rewards


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
    assert set(envs.envs[0].heard) <= {"x\n", "ax\n", "aax\n", "aaa"} and len(set(envs.envs[0].heard)) > 1
    for (_, action, _), text in zip(actions_of(episode), episode.texts[1::2], strict=True):
        assert codec.tokenizer.decode(action) == text + "\ny" * text.endswith("\n") and len(action) == len(text.strip())


# --- Token in, token out: offline data ---

LETTERS = dict(token_pattern=r"[\s\S]", hidden_size=8, device="cpu", max_new_tokens=3)
TEXTS = ["ab\n", "x\n", "c\n", "yz\n", "d\n"]


class Read(Env):
    def __init__(self, markov):
        self.markov = markov


def encoded(trajectory, markov, script=bc_maze):
    args = script.Args(**LETTERS)
    codec = Codec(build_model(args, set(TEXTS))[1])
    segments = script.encode([trajectory], Read(markov), codec, args)
    assert [s.next for s in segments] == [*segments[1:], None]
    return [("".join(codec.tokenizer.convert_ids_to_tokens(s.ids)), s.who, s.rewards, s.terminated) for s in segments]


def test_encode_an_episode_in_one_segment():
    who, rewards = [0, 0, 0, 1, 2, 0, 0, 1, 1, 2], [0, 0, 0, 0, -1, 0, 0, 0, 0, -2]
    assert (OBS, ACTION, ACTION_END) == (0, 1, 2)
    for texts in (TEXTS, TEXTS[:-1]):  # of an end by the rules nothing follows
        assert encoded(Trajectory(texts, [-1, -2], True, True), False) == [("ab\nx\nc\nyz\n", who, rewards, True)]
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), False) == [
        ("ab\nx\nc\nyz\nd\n", [*who, 0, 0], [*rewards, 0, 0], False)]
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), False) == [("ab\nx\nc\nyz\n", who, rewards, False)]


def test_encode_a_segment_for_each_turn():
    turns = [("ab\nx\n", [0, 0, 0, 1, 2], [0, 0, 0, 0, -1], False),
             ("c\nyz\n", [0, 0, 1, 1, 2], [0, 0, 0, 0, -2], False)]
    assert encoded(Trajectory(TEXTS, [-1, -2], False, False), True) == [*turns, ("d\n", [0, 0], [0, 0], False)]
    for texts in (TEXTS, TEXTS[:-1]):
        assert encoded(Trajectory(texts, [-1, -2], True, False), True) == [turns[0], (*turns[1][:3], True)]
    assert encoded(Trajectory(TEXTS[:-1], [-1, -2], False, False), True) == turns


def test_complete():
    """A last action without an observation behind it is left out, unless the rules ended the game."""
    for kept in (Trajectory(TEXTS, [-1, -2], False, False), Trajectory(TEXTS, [-1, -2], True, True),
                 Trajectory(TEXTS[:-1], [-1, -2], True, True)):
        assert ilql_wordle.complete(kept) == kept
    cut = ilql_wordle.complete(Trajectory(TEXTS[:-1], [-1, -2], False, False))
    assert cut == Trajectory(TEXTS[:3], [-1], False, False)
    assert encoded(cut, True, ilql_wordle)[-1] == ("c\n", [0, 0], [0, 0], False)
    assert ilql_wordle.complete(Trajectory(TEXTS[:2], [-1], False, False)) is None


@pytest.mark.parametrize("env_id, max_length", [("maze_fo", 64), ("maze_po", 64), ("maze_po", 20)])
def test_data_and_rollout_are_formatted_alike(env_id, max_length, monkeypatch):
    """The texts of a rollout, read as offline data, give the rollout's own segments."""
    monkeypatch.setattr("envs.maze.MAX_MOVES", 30)
    args = Args(env_id=env_id, device="cpu", hidden_size=8, max_length=max_length, max_new_tokens=4,
                token_pattern=bc_maze.PHRASES)
    codec = Codec(build_model(args, texts_of(env_id))[1])
    moves = ["move left\n", "move right\n", "move up\n", "move down\n"]
    episodes = play(random_model("llama", codec, args), env_id, codec, args, next_logits=always(codec, *moves))[0]
    ended = [episode.segments[-1].terminated for episode in episodes]
    data = [Trajectory(e.texts, e.rewards, end, end) for e, end in zip(episodes, ended, strict=True)]
    read = encode(data, make(env_id), codec, args)
    played = [segment for episode in episodes for segment in episode.segments]
    for a, b in zip(read, played, strict=True):
        assert (a.ids, a.who, a.rewards, a.terminated) == (b.ids, b.who, b.rewards, b.terminated)
        assert (a.next and a.next.ids) == (b.next and b.next.ids)


def test_texts_are_tokenised_on_their_own():
    """However they are told apart: no token straddles the border between two speakers."""
    args = Args(device="cpu", hidden_size=8, token_pattern=r"[a-z]+\n?")
    codec = Codec(build_model(args, {"ab", "c\n", "abc\n"})[1])
    assert codec.encode("ab") + codec.encode("c\n") != codec.encode("abc\n")
    trajectory = Trajectory(["ab", "c\n", ""], [0.0], False, False)
    segment, = encode([trajectory], Read(False), codec, Args(max_new_tokens=3))
    assert segment.ids == codec.encode("ab") + codec.encode("c\n")


def test_codec_spells_unknown_words():
    args = Args(device="cpu", hidden_size=8, token_pattern=bc_maze.LINES)
    codec = Codec(build_model(args, {"move up\n", "no\n", "is n't .\n"})[1])
    for text in ("move up\n", "no\n", "up\n", "n o v\n", "up . n't .\n", " move  no\n", "nov"):
        assert codec.tokenizer.decode(codec.encode(text)) == codec.decode(codec.encode(text)) == text
    assert len(codec.encode("move up\n")) == 1 and codec.decode(codec.encode("up\nno\n")) == "up\n"
