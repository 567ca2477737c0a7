"""Implicit language Q-learning (ILQL): offline value-based RL of a language model on a multi-turn text game.

An episode is one game: texts obs_0, action_0, obs_1, action_1, …, each tokenised on its own, their ids simply joined.
A turn is one observation and the agent's answer to it, the action: all its tokens up to the newline. ILQL decides token
by token: the state at t is all tokens up to t, h_t its hidden state. A: the positions t whose next token is an action
token, n = |A|; Q', V', h': a target copy of the critic, target ← (1 - tau)·target + tau·online after every step.

    y_t   = r_t + γ_t · V(h_t')                 t': the next position in A, also of a later segment; 0 at the end
    L_Q   = Σ_A ½(Q1(h_t)[x_{t+1}] - y_t)² + ½(Q2(h_t)[x_{t+1}] - y_t)² / n
    L_V   = Σ_A w_t · ½(V(h_t) - q_t)² / n      q_t = min(Q1', Q2')(h'_t)[x_{t+1}]; w_t = expectile, 1 - it if q_t < V
    L_CQL = Σ_A CE(Q1(h_t), x_{t+1}) + CE(Q2(h_t), x_{t+1}) / n
    L     = L_Q + L_V + cql_weight · L_CQL
    acts by softmax(logits of the BC policy + β · min(Q1, Q2)(h_t))

A BC policy is trained first (or taken: `--bc-checkpoint`), then frozen; the critic's trunk is a second network that
starts as its copy. γ_t is gamma on the last token of an action and 1 on others: values do not depend on the tokenizer.
A truncated episode bootstraps from the state behind its last observation; a terminated one from nothing.
Source: LMRL-Gym (Abdulhai et al., arXiv 2311.18232); ILQL (Snell et al., arXiv 2206.11871). Unlike there: the discount
is per turn (`--gamma-per token`: the paper's), a time limit is no termination, the heads start at the data's mean
return-to-go, β is chosen on validation seeds, and `--bootstrap target` takes V' for V in y_t (maze_fo, one seed: both
reach the optimum, with q_loss .01 for V' and .6 for the online V).

    python algos/ilql_wordle.py
    python algos/ilql_wordle.py --env-id maze_fo --bc-checkpoint runs/maze_fo__bc_maze__1      -6.84, the optimum
    python algos/ilql_wordle.py --evaluate-only runs/wordle__ilql_wordle__1
"""

import argparse
import copy
import ctypes
import json
import shutil
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, StaticLayer

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))  # runs from a plain checkout, from anywhere
from envs import TEST_SEED, VALIDATION_SEED, Env, EnvId, Trajectory, VectorEnv, load_dataset, make  # noqa: E402


@dataclass
class Args:
    # --- general
    exp_name: str = "ilql_wordle"  # name of the experiment; a run goes to runs/{env_id}__{exp_name}__{seed}
    seed: int = 1  # seed of the model, the order of the data and sampling; the games of the test are always the same
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the model is: cpu, cuda, cuda:1, …
    track: bool = False  # log to Weights & Biases too
    resume: bool = False  # go on from the run folder's checkpoint
    evaluate_only: str | None = None  # run folder to replay instead of training: prints transcripts and the score
    # --- task and model
    env_id: EnvId = "wordle"  # variant of the task
    env_options: dict[str, str] = field(default_factory=dict)  # the task's own options, as `name value` pairs
    model: str = "tiny"  # Hugging Face name or folder of a causal LM; tiny: a small Llama from scratch, no download
    hidden_size: int = 64  # width of the tiny model
    num_layers: int = 2  # layers of the tiny model
    token_pattern: str = r" ?[A-Za-z]+\n?| ?\d|[^A-Za-z\d ]\n?"  # regular expression of the tiny model's tokens
    max_length: int = 1024  # longest segment in tokens; a longer episode goes on in a new segment
    # --- data
    dataset: str | None = None  # file of trajectories, ours or the original release's (default: generated and cached)
    num_trajectories: int | None = None  # number of trajectories to generate (default: the task's)
    # --- the algorithm
    num_iterations: int = 5  # number of iterations; after each, results are logged and a checkpoint is saved
    steps_per_iteration: int = 200  # gradient steps of an iteration
    minibatch_size: int = 64  # segments per gradient step
    learning_rate: float = 1e-3  # learning rate of AdamW: linear warm-up over 100 steps, then constant
    max_grad_norm: float = 1.0  # the gradient is scaled down to this norm
    bc_checkpoint: str | None = None  # run folder of bc_maze.py to take the policy from (default: train one first)
    bc_iterations: int = 5  # iterations of behaviour cloning that come first
    bc_learning_rate: float = 1e-3  # learning rate of behaviour cloning
    gamma: float = 0.99  # discount
    gamma_per: Literal["turn", "token"] = "turn"  # what is discounted: turns; or tokens, as in the paper
    tau: float = 0.005  # Polyak rate: target = (1 - tau) * target + tau * online after every gradient step
    expectile: float = 0.7  # expectile of Q that V stands for; 0.5 is the mean, 1 the maximum
    cql_weight: float = 0.01  # weight of the CQL term
    bootstrap: Literal["online", "target"] = "online"  # whose V the Q targets are made of, as in the paper, or its copy
    beta: tuple[float, ...] = (4.0, 16.0, 64.0)  # weights of Q at decoding: the best on validation seeds is kept
    # --- evaluation
    eval_every: int = 1  # iterations from one evaluation on validation seeds to the next; 0: none
    num_eval_episodes: int = 200  # games of an evaluation on validation seeds
    num_test_episodes: int | None = None  # games of the final test (default: the task's)
    num_envs: int = 512  # games played side by side
    temperature: float = 1.0  # temperature of sampling; 0: greedy
    max_new_tokens: int | None = None  # longest action in tokens (default: the longest of the data)


PHRASES = r"\d|[,.]\n?|[^\d,.\n]+\n?"  # digits one by one, and what stands between digits and punctuation
LINES = r"[^\n]*\n"  # a whole line: the walls around, a guess, an answer
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "maze_fo": dict(token_pattern=PHRASES, minibatch_size=512, num_iterations=12, expectile=0.9, cql_weight=0.1,
                    tau=0.1, bootstrap="target", beta=(4.0, 16.0, 64.0), eval_every=4),
    "maze_po": dict(token_pattern=LINES, max_length=8, minibatch_size=512, learning_rate=3e-4, num_iterations=8,
                    expectile=0.7, gamma=0.9, cql_weight=0.1, tau=0.1, bootstrap="target", beta=(1.0, 2.0, 4.0, 8.0),
                    eval_every=2),
    "wordle": dict(token_pattern=LINES, hidden_size=128, num_trajectories=300_000, minibatch_size=128,
                   learning_rate=1e-3, bc_learning_rate=2e-3, bc_iterations=15, num_iterations=15,
                   steps_per_iteration=500, eval_every=5, expectile=0.8, bootstrap="target", tau=0.02,
                   num_eval_episodes=1024, num_envs=1024),
}


# --- Model ---


def build_model(args: Args, texts: set[str]) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """The policy and its tokenizer: pretrained, or tiny and random. Always in eval mode: nothing uses dropout."""
    torch.manual_seed(args.seed)
    if args.model != "tiny":
        policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(args.device).eval()
        if args.max_length > policy.config.max_position_embeddings:
            raise ValueError(f"--max-length {args.max_length}: the model has {policy.config.max_position_embeddings}")
        return policy, AutoTokenizer.from_pretrained(args.model)
    # A piece of the task's own text is one token; WordPiece takes the longest match, so that others are spelled.
    split = pre_tokenizers.Split(Regex(args.token_pattern), "isolated")
    pieces = Counter(piece for text in sorted(texts) for piece, _ in split.pre_tokenize_str(text))
    known = dict.fromkeys(["<unk>", *sorted(set("".join(texts))), *(piece for piece, _ in pieces.most_common(20_000))])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(known)}, unk_token="<unk>",
                                           continuing_subword_prefix="", max_input_chars_per_word=100_000))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.Fuse()
    config = LlamaConfig(vocab_size=len(known), hidden_size=args.hidden_size, num_hidden_layers=args.num_layers,
                         intermediate_size=4 * args.hidden_size, num_attention_heads=max(1, args.hidden_size // 32),
                         max_position_embeddings=args.max_length, tie_word_embeddings=True, bos_token_id=None,
                         eos_token_id=None)
    policy = AutoModelForCausalLM.from_config(config).to(args.device).eval()
    return policy, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Codec:
    """Text to ids and back, each text on its own, so that no token straddles the border between two speakers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.known = tokenizer, dict[str, list[int]]()
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
        # A set: a model may have more ids than its tokenizer. Many vocabularies have ".\n" as one token.
        self.ends_action = {i for i, piece in enumerate(pieces) if "\n" in piece}

    def encode(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.known[text]

    def decode(self, ids: list[int]) -> str:
        """The text of an action, cut behind its newline."""
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text[: text.find("\n") + 1] or text


class Critic(nn.Module):
    """Twin Q heads, a value for each id, and a V head, on a trunk of their own that starts as the policy's."""

    def __init__(self, policy: nn.Module, bias: float) -> None:
        super().__init__()
        self.trunk, (num_ids, d) = copy.deepcopy(policy.base_model), policy.lm_head.weight.shape
        heads = [nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, n)) for n in (num_ids, num_ids, 1)]
        for head in heads:
            nn.init.zeros_(head[2].weight)
            nn.init.constant_(head[2].bias, bias)
        self.q1, self.q2, self.v = heads

    def min_q(self, hidden: Tensor) -> Tensor:
        """min(Q1, Q2) (…, vocabulary) of hidden states (…, d)."""
        return torch.minimum(self.q1(hidden), self.q2(hidden))


class RowLayer(StaticLayer):
    """A layer of the key/value cache that writes each row at the row's own positions, and grows with them."""

    def update(self, keys: Tensor, values: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        if self.room > self.keys.shape[2]:
            more = (0, 0, 0, 2 * self.room - self.keys.shape[2])
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)
        self.keys[self.rows, :, self.positions] = keys.transpose(1, 2)  # (B, W, heads, d)
        self.values[self.rows, :, self.positions] = values.transpose(1, 2)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class CachedTrunk:
    """A transformer that is fed piece by piece, its key/value cache kept; every row has a length of its own."""

    def __init__(self, trunk: nn.Module, max_length: int) -> None:
        self.trunk, self.max_length = trunk, max_length
        self.cache = Cache(layers=[RowLayer(64) for _ in range(trunk.config.num_hidden_layers)])

    def __call__(self, ids: Tensor, start: Tensor, count: Tensor) -> Tensor:
        """Append `count` (B,) of `ids` (B, W) to rows `start` (B,) long; returns the last one's hidden state (B, d)."""
        positions = start[:, None] + torch.arange(ids.shape[1], device=ids.device)  # (B, W)
        length, room = int((start + count).max()), int(positions.max()) + 1
        # What is behind a row's end is padding or an older game; it is overwritten before the row can see it.
        mask = torch.arange(length, device=ids.device) <= positions[:, :, None]  # (B, W, length)
        rows = torch.arange(len(ids), device=ids.device)
        for layer in self.cache.layers:
            layer.rows, layer.positions, layer.length, layer.room = rows[:, None], positions, length, room
        hidden = self.trunk(input_ids=ids, attention_mask=mask[:, None], past_key_values=self.cache, use_cache=True,
                            position_ids=positions.clamp(max=self.max_length - 1)).last_hidden_state
        return hidden[rows, (count - 1).clamp(min=0)]

    def select(self, rows: list[int]) -> None:
        """Keep these rows only."""
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


# --- Rollout ---

OBS, ACTION, ACTION_END = 0, 1, 2  # whose a token is; the last one of an action carries its reward and its discount


class Segment:
    """Tokens that the model sees together."""

    def __init__(self) -> None:
        self.ids, self.who = list[int](), list[int]()
        self.rewards, self.logprobs = list[float](), list[float]()  # the latter as sampled; 0 where nothing was
        self.next: Segment | None = None  # where the episode goes on
        self.terminated = False  # the rules ended the episode here

    def add(self, ids: list[int], who: int, logprobs: list[float] | None = None) -> None:
        self.ids += ids
        self.who += [who] * len(ids)
        self.rewards += [0.0] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)


class Episode:
    """One game as tokens, in segments: offline data and rollouts are built by the same three calls."""

    def __init__(self, markov: bool, max_length: int, max_new_tokens: int, seed: int = 0) -> None:
        self.markov, self.max_length, self.seed = markov, max_length, seed
        self.room = max_length - max_new_tokens - 1  # before an action and the newline behind one that is cut off
        self.segments, self.parts = list[Segment](), list[list[int]]()  # parts: obs_0, action_0, obs_1, …
        self.texts, self.rewards, self.success, self.num_invalid = list[str](), list[float](), False, 0
        self.fed = self.action_start = 0  # tokens of the last segment that the model has seen; that precede the action

    def observe(self, ids: list[int], text: str) -> None:
        """Append an observation: in a new segment if the task is Markov, or if the next action would not fit otherwise.

        The new segment of a long episode opens with its first text and the newest turns that fill half of it. The
        actions among them are context: each is trained on once, where it was played.
        """
        self.texts.append(text)
        self.parts.append(ids)
        if self.markov or not self.segments or len(self.segments[-1].ids) + len(ids) > self.room:
            if self.segments and not self.markov:
                first, newest = self.parts[0], list[int]()
                for i in range(len(self.parts) - 2, 0, -2):
                    turn = self.parts[i] + self.parts[i + 1]
                    if len(first) + len(newest) + len(turn) > min(self.max_length // 2, self.room):
                        break
                    newest = turn + newest
                ids = first + (newest or ids)
            if len(ids) > self.room:
                needed = len(ids) + self.max_length - self.room
                raise ValueError(f"--max-length {self.max_length} is shorter than one turn needs: {needed} tokens")
            self.segments.append(Segment())
            self.fed = 0
            if len(self.segments) > 1:
                self.segments[-2].next = self.segments[-1]
        self.segments[-1].add(ids, OBS)
        self.action_start = len(self.segments[-1].ids)

    def end_action(self, text: str, reward: float, suffix: list[int]) -> None:
        """Close an action whose tokens were added; `suffix`: the newline, not the agent's, behind one cut off."""
        segment = self.segments[-1]
        segment.who[-1], segment.rewards[-1] = ACTION_END, reward
        segment.add(suffix, OBS)
        self.parts.append(segment.ids[self.action_start :])
        self.texts.append(text)
        self.rewards.append(reward)


def sample(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[list[int], list[float]]:
    """Tokens (B,) drawn from logits (B, V), and the log-probabilities that they were drawn with."""
    logprobs = F.log_softmax(logits.float() / (temperature or 1.0), -1)
    tokens = torch.multinomial(logprobs.exp(), 1, generator=generator) if temperature else logprobs.argmax(-1, True)
    return tokens[:, 0].tolist(), logprobs.gather(-1, tokens)[:, 0].tolist()


@torch.inference_mode()
def rollout(trunks: list[nn.Module], next_logits: Callable[..., Tensor], envs: VectorEnv, codec: Codec,
            seeds: Iterable[int], args: Args, generator: torch.Generator) -> list[Episode]:
    """Play a game for each seed, many side by side, by sampling from `next_logits(hidden states of each trunk)`.

    A pass feeds each row what it has not seen: a token, an observation. Rows are not in step; ended ones are refilled.
    """
    device, caches = trunks[0].device, [CachedTrunk(trunk, args.max_length) for trunk in trunks]
    episodes = [Episode(envs.envs[0].markov, args.max_length, args.max_new_tokens, seed) for seed in seeds]
    waiting, progress = deque(episodes), tqdm(total=len(episodes), desc="playing", leave=False, delay=2)
    playing: dict[int, Episode] = {}  # by the index of the environment

    def begin(indices: Iterable[int]) -> None:
        playing.update({index: waiting.popleft() for index in list(indices)[: len(waiting)]})
        seeds = {index: playing[index].seed for index in indices if index in playing}
        for index, (obs, _) in envs.reset(seeds).items():
            playing[index].observe(codec.encode(obs), obs)

    begin(range(len(envs.envs)))
    rows = list(playing)  # the environment of each row
    while playing:
        if len(playing) <= len(rows) // 2:  # the last games: drop the rows that idle
            for cache in caches:
                cache.select([i for i, index in enumerate(rows) if index in playing])
            rows = [index for index in rows if index in playing]
        games = [playing.get(index) for index in rows]
        pending = [game.segments[-1].ids[game.fed :] if game else [] for game in games]
        # The mean, not the longest: one row with much to read must not pad all others to its width.
        width = -(-sum(map(len, pending)) // len(playing))
        count = [min(len(ids), width) for ids in pending]
        ids = [ids[:n] + [0] * (max(count) - n) for ids, n in zip(pending, count, strict=True)]
        inputs = [torch.tensor(x, device=device) for x in (ids, [game.fed if game else 0 for game in games], count)]
        hidden = [cache(*inputs) for cache in caches]
        for game, n in zip(games, count, strict=True):
            if game:
                game.fed += n
        ready = [i for i, ids in enumerate(pending) if ids and count[i] == len(ids)]
        tokens, logprobs = sample(next_logits(*(h[ready] for h in hidden)), args.temperature, generator)
        actions = {}
        for i, token, logprob in zip(ready, tokens, logprobs, strict=True):
            segment = games[i].segments[-1]
            segment.add([token], ACTION, [logprob])
            if token in codec.ends_action or len(segment.ids) - games[i].action_start == args.max_new_tokens:
                actions[rows[i]] = codec.decode(segment.ids[games[i].action_start :])
        finished = []
        for index, (obs, reward, terminated, truncated, info) in envs.step(actions).items():
            game = playing[index]
            game.end_action(actions[index], reward, [] if actions[index].endswith("\n") else codec.encode("\n"))
            game.segments[-1].terminated, game.success = terminated, info["success"]
            game.num_invalid += not info["valid"]
            if terminated:
                game.texts.append(obs)  # read by people only: a state without a future
            else:
                game.observe(codec.encode(obs), obs)
            if terminated or truncated:
                finished.append(index)
                del playing[index]
                progress.update()
        begin(finished)
    progress.close()
    return episodes


# --- Data ---


def complete(trajectory: Trajectory) -> Trajectory | None:
    """Without a last action whose consequences the data does not show; None if nothing is left."""
    if trajectory.terminated or len(trajectory.texts) % 2:
        return trajectory
    texts, rewards = trajectory.texts[:-1], trajectory.rewards[:-1]
    return Trajectory(texts, rewards, False, False) if rewards else None


def encode(trajectories: list[Trajectory], env: Env, codec: Codec, args: Args) -> list[Segment]:
    """Offline trajectories as segments, in their order."""
    segments: list[Segment] = []
    for trajectory in tqdm(trajectories, "tokenising", leave=False, delay=2):
        longest = max([args.max_new_tokens, *(len(codec.encode(action)) for action in trajectory.texts[1::2])])
        episode = Episode(env.markov, args.max_length, longest)
        for i, text in enumerate(trajectory.texts):
            if i % 2 == 0 and (i < 2 * len(trajectory.rewards) or not trajectory.terminated):
                episode.observe(codec.encode(text), text)
            elif i % 2:
                episode.segments[-1].add(codec.encode(text), ACTION)
                episode.end_action(text, trajectory.rewards[i // 2], [])
        episode.segments[-1].terminated = trajectory.terminated
        segments += episode.segments
    return segments


def minibatches(data: list[Segment], size: int, block: int, seed: int, step: int) -> Iterator[list[Segment]]:
    """Minibatches from gradient step `step` on, epoch after epoch, as (seed, epoch) says.

    Runs of `block` consecutive segments stay together. Long segments share minibatches with long ones: less padding.
    """
    runs = [data[i : i + block] for i in range(0, len(data), block)]
    longest = np.array([max(len(segment.ids) for segment in run) for run in runs])
    per_batch = max(1, min(size // block, len(runs)))
    epoch, skip = divmod(step, num_batches := len(runs) // per_batch)
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(runs))[: num_batches * per_batch]
        if longest.mean() < 0.75 * longest.max():  # not for little: segments of one length are often of one kind
            for chunk in np.array_split(order, max(1, len(order) // (50 * per_batch))):
                chunk[:] = chunk[np.argsort(longest[chunk], kind="stable")]
        for batch in rng.permutation(order.reshape(num_batches, per_batch))[skip:]:
            yield [segment for i in batch for segment in runs[i]]
        epoch, skip = epoch + 1, 0


def collate(batch: list[Segment], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segments, padded on the right, which a causal model needs no mask for: ids (B, T); and for each of their n action
    tokens the row and the position that predict it, and the token: row, t, tokens (n,)."""
    ids = np.zeros((2, len(batch), max(len(segment.ids) for segment in batch)), dtype=np.int64)
    for i, segment in enumerate(batch):
        ids[:, i, : len(segment.ids)] = segment.ids, segment.who
    row, t = (ids[1, :, 1:] != OBS).nonzero()  # the shift: position t predicts token t + 1
    ids, place, tokens = *distinct_rows(ids[0]), ids[0, row, t + 1]
    return tuple(torch.from_numpy(x).to(device) for x in (ids, place[row], t, tokens))


def distinct_rows(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the rows without repetitions, which of them each row is): equal segments pass through the model once."""
    place: dict[bytes, int] = {}
    index = np.array([place.setdefault(row.tobytes(), len(place)) for row in ids])
    return np.stack([np.frombuffer(row, ids.dtype) for row in place]), index


def collate_transitions(batch: list[Segment], args: Args) -> tuple[Tensor, ...]:
    """As `collate`, and what follows each of the n action tokens: rewards, discounts (0 where the game is over), and
    the row and position of the next state, next_row and next_t; all (n,)."""
    after = [segment.next for segment in batch if segment.next]
    rows = batch + after  # most of `after` is in the batch already: equal rows are merged below
    ids = np.zeros((2, len(rows), max(len(segment.ids) for segment in rows)), dtype=np.int64)
    rewards = np.zeros(ids.shape[1:], dtype=np.float32)
    for i, segment in enumerate(rows):
        ids[:, i, : len(segment.ids)] = segment.ids, segment.who
        rewards[i, : len(segment.ids)] = segment.rewards
    acts = ids[1, :, 1:] != OBS
    # Where a row's first action token is predicted; without an action, where the next one would be.
    first_t = np.where(acts.any(1), acts.argmax(1), np.array([len(segment.ids) for segment in rows]) - 1)
    row, t = acts[: len(batch)].nonzero()  # the shift: position t predicts token t + 1
    last = np.append(row[1:] != row[:-1], True)  # no action token behind it in its row
    next_row, next_t = np.append(row[1:], 0), np.append(t[1:], 0)
    link = np.arange(len(batch))
    link[[segment.next is not None for segment in batch]] = np.arange(len(batch), len(rows))
    next_row[last] = link[row[last]]
    # Linked: the first state there. Not linked, but cut short: behind the last observation of its own row.
    ends = np.array([len(segment.ids) - 1 for segment in batch])
    next_t[last] = np.where(next_row[last] != row[last], first_t[next_row[last]], ends[row[last]])
    over = last & np.array([segment.terminated for segment in batch])[row]
    counts = (ids[1, row, t + 1] == ACTION_END) | (args.gamma_per == "token")
    discounts = np.where(over, 0.0, np.where(counts, args.gamma, 1.0)).astype(np.float32)
    tokens, rewards = ids[0, row, t + 1], rewards[row, t + 1]
    ids, place = distinct_rows(ids[0])
    arrays = ids, place[row], t, tokens, rewards, discounts, place[next_row], next_t
    return tuple(torch.from_numpy(x).to(args.device) for x in arrays)


# --- Targets and loss ---


def bc_loss(policy: nn.Module, ids: Tensor, row: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
    """-log π of the action tokens, their mean over the minibatch; arguments as `collate` returns them."""
    hidden = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, d)
    return F.cross_entropy(policy.lm_head(hidden[row, t]).float(), tokens)


def ilql_losses(q1: Tensor, q2: Tensor, v: Tensor, target_q: Tensor, next_v: Tensor, tokens: Tensor, rewards: Tensor,
                discounts: Tensor, expectile: float, cql_weight: float) -> dict[str, Tensor]:
    """The loss and its terms; q1, q2: (n, vocabulary), all others (n,); target_q and next_v without gradient."""
    y = rewards + discounts * next_v
    q_loss = sum(F.mse_loss(q.gather(1, tokens[:, None])[:, 0], y) / 2 for q in (q1, q2))
    v_loss = (torch.where(target_q >= v, expectile, 1 - expectile) * (v - target_q) ** 2 / 2).mean()
    cql_loss = F.cross_entropy(q1, tokens) + F.cross_entropy(q2, tokens)
    return {"loss": q_loss + v_loss + cql_weight * cql_loss, "q_loss": q_loss, "v_loss": v_loss, "cql_loss": cql_loss,
            "v": v.detach().mean()}


def critic_losses(critic: Critic, target: Critic, batch: list[Segment], args: Args) -> dict[str, Tensor]:
    """`ilql_losses` of a minibatch."""
    ids, row, t, tokens, rewards, discounts, next_row, next_t = collate_transitions(batch, args)
    hidden = critic.trunk(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, d)
    with torch.no_grad():
        target_hidden = target.trunk(input_ids=ids, use_cache=False).last_hidden_state
        target_q = target.min_q(target_hidden[row, t]).gather(1, tokens[:, None])[:, 0]
        if args.bootstrap == "online":
            next_v = critic.v(hidden[next_row, next_t])[:, 0]
        else:
            next_v = target.v(target_hidden[next_row, next_t])[:, 0]
    h = hidden[row, t]
    return ilql_losses(critic.q1(h), critic.q2(h), critic.v(h)[:, 0], target_q, next_v, tokens, rewards, discounts,
                       args.expectile, args.cql_weight)


# --- Evaluation ---


def q_policy(policy: nn.Module, critic: Critic, beta: float) -> tuple[list[nn.Module], Callable[..., Tensor]]:
    """The trunks and the logits for `rollout`: those of the BC policy + β · min(Q1, Q2)."""
    return [policy.base_model, critic.trunk], lambda hidden, value_hidden: (
        policy.lm_head(hidden) + beta * critic.min_q(value_hidden))


def evaluate(trunks: list[nn.Module], next_logits: Callable[..., Tensor], envs: VectorEnv, codec: Codec, args: Args,
             prefix: str) -> tuple[dict[str, float], list[Episode]]:
    """Play the games of the validation (`prefix` "eval") or of the "test", the same every time."""
    first, num_episodes = VALIDATION_SEED, args.num_eval_episodes
    if prefix == "test":
        first, num_episodes = TEST_SEED, args.num_test_episodes or envs.envs[0].num_test_episodes
    generator, start = torch.Generator(args.device).manual_seed(2 * args.seed + (prefix == "test")), time.time()
    episodes = rollout(trunks, next_logits, envs, codec, range(first, first + num_episodes), args, generator)
    returns = np.array([sum(episode.rewards) for episode in episodes])
    num_turns = sum(len(episode.rewards) for episode in episodes)
    num_tokens = sum(len(segment.ids) for episode in episodes for segment in episode.segments)
    return {
        f"{prefix}/episodic_return": returns.mean(),
        f"{prefix}/episodic_return_se": returns.std() / len(returns) ** 0.5,
        f"{prefix}/episodic_length": num_turns / len(episodes),
        f"{prefix}/score": envs.envs[0].score(returns.mean()),
        f"{prefix}/success": np.mean([episode.success for episode in episodes]),
        f"{prefix}/invalid_actions": sum(episode.num_invalid for episode in episodes) / num_turns,
        "perf/rollout_tokens_per_second": num_tokens / (time.time() - start),
        "perf/minutes": (time.time() - start) / 60,
    }, episodes


# --- Bookkeeping ---


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file or folder aside, then rename it: nothing is ever half there."""
    aside = path.with_name(path.name + ".tmp")
    write(aside)
    if path.is_dir():
        shutil.rmtree(path)
    aside.replace(path)


def open_run(args: Args) -> tuple[Path, dict[str, Any]]:
    """The run's folder and the checkpoint to resume from, or {}; raises ValueError rather than overwrite a run."""
    run = ROOT / "runs" / f"{args.env_id}__{args.exp_name}__{args.seed}"
    if not (run / "args.json").exists():
        return run, {}
    if not args.resume:
        raise ValueError(f"{run} holds a run: go on with --resume, name another --exp-name or --seed, or delete it")
    before, now = json.loads((run / "args.json").read_text())["args"], json.loads(json.dumps(asdict(args)))
    free = ("num_iterations", "track", "device", "resume")
    changed = [f"{k} was {before.get(k)!r}, is {v!r}" for k, v in now.items() if k not in free and before.get(k) != v]
    if changed:
        raise ValueError(f"--resume of {run} with other arguments: {'; '.join(changed)}")
    last = run / "last.pt"
    return run, torch.load(last, map_location=args.device, weights_only=True) if last.exists() else {}


def begin_run(run: Path, args: Args, checkpoint: dict[str, Any]) -> Any:
    """Write args.json, drop what was logged after the checkpoint; returns the wandb run, if one is wanted."""
    run.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"args": asdict(args), "commit": commit, "torch": torch.__version__, "threads": torch.get_num_threads()}
    replace(run / "args.json", lambda path: path.write_text(json.dumps(about, indent=1)))
    lines = (run / "metrics.jsonl").read_text().splitlines() if checkpoint else []
    lines = [line for line in lines if "test/" not in line and json.loads(line)["iteration"] <= checkpoint["iteration"]]
    replace(run / "metrics.jsonl", lambda path: path.write_text("".join(line + "\n" for line in lines)))
    if args.track:
        import wandb  # only here: nothing else needs it

        return wandb.init(project="lmrl-gym", name=run.name, id=run.name, config=asdict(args), resume="allow")


def log(run: Path, tracker: Any, row: dict[str, Any]) -> None:
    """Append a row to metrics.jsonl, print it, track it."""
    row = {name: value if isinstance(value, int) else float(value) for name, value in row.items()}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    tqdm.write("  ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in row.items() if "perf" not in name))
    if tracker:
        tracker.log(row, step=row["global_step"])


def report(args: Args, metrics: dict[str, float], minutes: float) -> None:
    """Print the line with the result."""
    print(f"{args.env_id} {args.exp_name} seed {args.seed}: return {metrics['test/episodic_return']:.3f} ± "
          f"{metrics['test/episodic_return_se']:.3f} (s.e. over games), score {metrics['test/score']:.1f}, success "
          f"{metrics['test/success']:.3f}, invalid {metrics['test/invalid_actions']:.4f}, {minutes:.1f} minutes")


def saved_args(args: Args) -> Args:
    """The arguments of the finished run `args.evaluate_only`, but those of playing as they are given now."""
    run = Path(args.evaluate_only)
    if not (run / "model").is_dir():
        raise FileNotFoundError(f"{run} is not the folder of a finished run")
    saved = json.loads((run / "args.json").read_text())["args"]
    if saved.keys() != asdict(args).keys():
        raise ValueError(f"{run} is a run of another script")
    now = {name: getattr(args, name) for name in ("device", "temperature", "num_test_episodes")}
    return Args(**saved | now | {"model": str(run / "model")})


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks: else each temporary of each step is page-faulted anew, at half the speed."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**31 - 1)


def save_episodes(run: Path, episodes: list[Episode]) -> None:
    """Write the transcripts, a game a line."""
    games = ({"seed": e.seed, "texts": e.texts, "rewards": e.rewards, "success": e.success} for e in episodes)
    lines = [json.dumps(game, ensure_ascii=False) for game in games]
    replace(run / "episodes.jsonl", lambda path: path.write_text("\n".join(lines) + "\n"))


# --- Training ---


def gradient_steps(losses_of: Callable[[list[Segment]], dict[str, Tensor]], optimizer: torch.optim.Optimizer, lr: float,
                   batches: Iterator[list[Segment]], step: int, args: Args) -> dict[str, float]:
    """One iteration, from gradient step `step` on: descend the first of `losses_of(minibatch)`; returns their means."""
    sums, num_tokens, start = Counter(), 0, time.time()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i in trange(args.steps_per_iteration, desc="training", leave=False, delay=2):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + i + 1) / 100)
        losses = losses_of(batch := next(batches))
        next(iter(losses.values())).backward()
        losses["grad_norm"] = nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        sums.update({f"losses/{name}": value.item() / args.steps_per_iteration for name, value in losses.items()})
        num_tokens += sum(len(segment.ids) for segment in batch)
    return sums | {"charts/learning_rate": lr, "perf/train_tokens_per_second": num_tokens / (time.time() - start)}


def parse_args() -> Args:
    """The command line; what it leaves out is as TASK_DEFAULTS has it for the task, else as Args has it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--env-id", "--env_id", default=Args.env_id)
    env_id = parser.parse_known_args()[0].env_id
    return tyro.cli(Args, description=__doc__, default=Args(env_id=env_id, **TASK_DEFAULTS.get(env_id, {})))


def main(args: Args) -> dict[str, float]:
    """Train (or with `evaluate_only` load), test and save; returns the metrics of the test."""
    if args.evaluate_only:
        run, args = Path(args.evaluate_only), saved_args(args)
        policy, tokenizer = build_model(args, set())
        saved = torch.load(run / "value.pt", map_location=args.device, weights_only=True)
        critic, args.max_new_tokens = Critic(policy, 0.0).to(args.device), policy.generation_config.max_new_tokens
        critic.load_state_dict(saved["critic"])
        envs = VectorEnv(args.env_id, args.num_envs, **args.env_options)
        metrics, episodes = evaluate(*q_policy(policy, critic, saved["beta"]), envs, Codec(tokenizer), args, "test")
        for episode in episodes[:3]:
            print(*episode.texts, f"(return {sum(episode.rewards):g})\n\n", sep="", end="")
        report(args, metrics, metrics["perf/minutes"])
        return metrics
    keep_freed_memory()
    run, checkpoint = open_run(args)
    given, start = copy.copy(args), time.time() - checkpoint.get("seconds", 0.0)
    if args.bc_checkpoint:
        args.model, args.bc_iterations = str(Path(args.bc_checkpoint) / "model"), 0
    if args.model != "tiny":
        AutoConfig.from_pretrained(args.model)  # raises OSError for an unknown model before any work is done
    env, envs = make(args.env_id, **args.env_options), VectorEnv(args.env_id, args.num_envs, **args.env_options)
    source = load_dataset(env, args.dataset, args.num_trajectories, **args.env_options)
    trajectories = [t for t in tqdm(map(complete, source), "reading", leave=False, delay=2) if t]
    policy, tokenizer = build_model(args, {text for trajectory in trajectories for text in trajectory.texts})
    codec = Codec(tokenizer)
    actions = {text for trajectory in trajectories for text in trajectory.texts[1::2]}
    args.max_new_tokens = args.max_new_tokens or max(len(codec.encode(action)) for action in actions)
    policy.generation_config.max_new_tokens = args.max_new_tokens  # saved with the model
    shuffled = [trajectories[i] for i in np.random.default_rng(args.seed).permutation(len(trajectories))]
    held_out, train = shuffled[: (cut := max(1, len(shuffled) // 10))], shuffled[cut:]
    data, held_out_batch = encode(train, env, codec, args), encode(held_out[:256], env, codec, args)[:256]
    returns_to_go = np.concatenate([np.cumsum(trajectory.rewards[::-1]) for trajectory in train])
    critic = Critic(policy, float(returns_to_go.mean())).to(args.device)
    target = copy.deepcopy(critic).requires_grad_(False)
    bc_optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    optimizer = torch.optim.AdamW(critic.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    pairs = list(target.parameters()), list(critic.parameters())
    optimizer.register_step_post_hook(torch.no_grad()(lambda *_: torch._foreach_lerp_(*pairs, args.tau)))
    parts = dict(policy=policy, critic=critic, target=target, bc_optimizer=bc_optimizer, optimizer=optimizer)
    for name in parts if checkpoint else ():
        parts[name].load_state_dict(checkpoint[name])
    done, beta = checkpoint.get("iteration", 0), checkpoint.get("beta", args.beta[0])
    tracker = begin_run(run, given, checkpoint)

    steps, last = args.steps_per_iteration, args.bc_iterations + args.num_iterations
    step, block = max(0, done - args.bc_iterations) * steps, 8 if env.markov else 1  # a block's next states are its own
    bc_batches = minibatches(data, args.minibatch_size, 1, args.seed, done * steps)
    batches = minibatches(data, args.minibatch_size, block, args.seed, step)
    for iteration in range(done + 1, last + 1):
        row = {"iteration": iteration, "global_step": iteration * steps}
        if iteration <= args.bc_iterations:
            row |= gradient_steps(lambda batch: {"bc_loss": bc_loss(policy, *collate(batch, args.device))},
                                  bc_optimizer, args.bc_learning_rate, bc_batches, (iteration - 1) * steps, args)
            critic.trunk.load_state_dict(policy.base_model.state_dict())
            target.trunk.load_state_dict(policy.base_model.state_dict())
            betas = (0.0,)
        else:
            row |= gradient_steps(lambda batch: critic_losses(critic, target, batch, args), optimizer,
                                  args.learning_rate, batches, (iteration - 1 - args.bc_iterations) * steps, args)
            betas = args.beta
        if iteration == args.bc_iterations:
            with torch.no_grad():
                row["losses/held_out_bc_loss"] = bc_loss(policy, *collate(held_out_batch, args.device))
        if args.eval_every and iteration % args.eval_every == 0 or iteration == last:
            results = [evaluate(*q_policy(policy, critic, b), envs, codec, args, "eval")[0] for b in betas]
            best = int(np.argmax([result["eval/episodic_return"] for result in results]))
            beta, row = betas[best], row | results[best] | {"eval/beta": betas[best]}
        log(run, tracker, row | {"charts/minutes": (time.time() - start) / 60})
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"beta": beta, "iteration": iteration, "seconds": time.time() - start}
        replace(run / "last.pt", lambda path, state=state: torch.save(state, path))

    metrics, episodes = evaluate(*q_policy(policy, critic, beta), envs, codec, args, "test")
    minutes = (time.time() - start) / 60
    row = {"iteration": last, "global_step": last * steps, "eval/beta": beta, "charts/minutes": minutes}
    log(run, tracker, row | metrics)
    save_episodes(run, episodes)
    replace(run / "value.pt", lambda path: torch.save({"critic": critic.state_dict(), "beta": beta}, path))
    replace(run / "model", lambda path: (policy.save_pretrained(path), tokenizer.save_pretrained(path)))
    report(args, metrics, minutes)
    return metrics


if __name__ == "__main__":
    main(parse_args())
