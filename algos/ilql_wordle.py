"""Implicit language Q-learning (ILQL): offline value-based RL of a language model on a multi-turn text game.

An episode is one game: texts obs_0, action_0, obs_1, action_1, …, each tokenised on its own, their ids simply joined.
A turn is one observation and the agent's answer to it, the action: all its tokens up to the newline. ILQL decides token
by token: the state at t is all tokens up to t, h_t its hidden state. A: the positions t whose next token is an action
token, n = |A|; Q', h': a target copy of the critic, target ← (1 - tau)·target + tau·online after every step.

    y_t   = r_t + γ_t · V(h_t')                 t': the next position in A, also of a later segment; 0 at the end
    L_Q   = Σ_A ½(Q1(h_t)[x_{t+1}] - y_t)² + ½(Q2(h_t)[x_{t+1}] - y_t)² / n
    L_V   = Σ_A w_t · ½(V(h_t) - q_t)² / n      q_t = min(Q1', Q2')(h'_t)[x_{t+1}]; w_t = expectile, 1 - it if q_t < V
    L_CQL = Σ_A CE(Q1(h_t), x_{t+1}) + CE(Q2(h_t), x_{t+1}) / n
    L     = L_Q + L_V + cql_weight · L_CQL
    acts by softmax(logits of the BC policy + β · min(Q1, Q2)(h_t))

A BC policy is trained first (or taken: `--bc-checkpoint`), then frozen; the critic's trunk starts as its copy. γ_t is
gamma on the last token of an action and 1 on others: values do not depend on the tokenizer. A truncated episode
bootstraps from the state behind its last observation, a terminated one from nothing. Source: LMRL-Gym (Abdulhai et al.,
arXiv 2311.18232); ILQL (Snell et al., arXiv 2206.11871). Unlike there: the discount is per turn (`--gamma-per token`:
the paper's), a time limit is no termination, the heads start at the data's mean return-to-go, β is chosen on validation
seeds, and `--bootstrap target` takes the target's V in y_t. maze_fo: -6.84, the optimum.
"""

import copy
import ctypes
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, StaticLayer

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))  # runs from a plain checkout, from anywhere
from envs import SEEDS, EnvId, Trajectory, VectorEnv, load_shuffled, replace, statistics, write_file  # noqa: E402


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
    architecture: Literal["llama", "gpt2"] = "llama"  # of the tiny model: with rotary or with absolute positions
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
    minibatch_size: int = 64  # episodes per gradient step
    learning_rate: float = 1e-3  # learning rate of AdamW, after a linear warm-up over 100 steps
    decay_from: int | None = None  # gradient step from which on the learning rate falls as 1 / √step (default: never)
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
PIECES = r"[^,.:\n]+[,.:]? ?\n?|."  # what stands between two marks: a command, a thing, a sentence
MEN = r"(?:\d )?[KQRk] (?:(?:\d )?(?:/ |  +))?|[wb]   -   -   |\d(?: [+#])?\n|\d (?:/ |  +)?|[a-h] |."  # and its gaps
BOARD = r"(?:\d )?[KQRBNPkqrbnp] (?:(?:\d )?(?:/ |  +))?|[w-]   |\w(?: [+#])?\n|\d (?:/ |  +)?|[a-hxO=-] |."
GOODS = r"\$[\d,]*\d| an? [\w-]+|(?:(?! an? )[^,.?!$\n])+|[,.?!]+\n?|."  # a price, a thing, the rest
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "maze_fo": dict(token_pattern=PHRASES, minibatch_size=64, num_iterations=12, expectile=0.9, cql_weight=0.1,
                    tau=0.1, bootstrap="target", beta=(4.0, 16.0, 64.0), eval_every=4),
    "maze_po": dict(token_pattern=LINES, max_length=8, minibatch_size=64, learning_rate=3e-4, num_iterations=4,
                    expectile=0.9, gamma=0.9, cql_weight=0.1, tau=0.1, beta=(4.0, 8.0, 16.0, 32.0), eval_every=2),
    **dict.fromkeys(("text_nav_fo", "text_nav_po"), dict(
        token_pattern=PIECES, max_length=96, minibatch_size=16, num_iterations=4, expectile=0.8, cql_weight=0.1,
        tau=0.02, eval_every=2)),
    "wordle": dict(token_pattern=LINES, hidden_size=128, num_trajectories=1_000_000, minibatch_size=128,
                   bc_learning_rate=2e-3, decay_from=4000, bc_iterations=15, num_iterations=18, steps_per_iteration=500,
                   expectile=0.8, tau=0.02, beta=(2.0, 4.0, 8.0, 16.0, 32.0), eval_every=6, num_eval_episodes=1024,
                   num_envs=1024),
    "chess": dict(token_pattern=BOARD, architecture="gpt2", num_layers=3, max_length=128, minibatch_size=4,
                  decay_from=1000, bc_learning_rate=2e-3, bc_iterations=15, num_iterations=5, gamma=0.9,
                  cql_weight=2.0, tau=0.02, bootstrap="target", beta=(1.0, 2.0), eval_every=5, num_eval_episodes=48),
    "endgames": dict(
        token_pattern=MEN, architecture="gpt2", num_layers=3, max_length=64, minibatch_size=16, decay_from=1000,
        bc_learning_rate=2e-3, bc_iterations=35, num_iterations=22, gamma=0.9, cql_weight=2.0, tau=0.02,
        bootstrap="target", beta=(1.0, 2.0, 4.0), eval_every=11, num_eval_episodes=256),
    "twenty_questions": dict(token_pattern=LINES, hidden_size=128, num_trajectories=300_000, decay_from=1000,
                             bc_learning_rate=2e-3, bc_iterations=15, num_iterations=6, expectile=0.8, cql_weight=2.0,
                             tau=0.02, beta=(1.0, 2.0, 4.0), eval_every=3),
    "guess_city": dict(token_pattern=LINES, hidden_size=128, num_trajectories=300_000, decay_from=1000,
                       bc_learning_rate=2e-3, bc_iterations=15, num_iterations=6, expectile=0.8, cql_weight=0.1,
                       tau=0.02, beta=(2.0, 4.0, 8.0), eval_every=3),
    "car_dealer": dict(token_pattern=GOODS, max_length=512, num_trajectories=50_000, decay_from=1000,
                       bc_learning_rate=2e-3, bc_iterations=10, num_iterations=10, expectile=0.8, cql_weight=10.0,
                       tau=0.02, beta=(2.0, 4.0, 8.0), eval_every=5),
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
    config = AutoConfig.for_model(
        args.architecture, vocab_size=len(known), hidden_size=args.hidden_size, num_hidden_layers=args.num_layers,
        intermediate_size=4 * args.hidden_size, num_attention_heads=max(1, args.hidden_size // 16),
        max_position_embeddings=args.max_length, initializer_range=args.hidden_size**-0.5, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, activation_function="gelu_pytorch_tanh")  # GPT-2's own, in one kernel
    policy = AutoModelForCausalLM.from_config(config).to(args.device).eval()
    return policy, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Codec:
    """Text to ids and back, each text on its own, so that no token straddles the border between two speakers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.encode = tokenizer, lru_cache(None)(partial(tokenizer.encode, add_special_tokens=False))
        self.decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        # A set: a model may have more ids than its tokenizer. Many vocabularies have ".\n" as one token.
        self.ends_action = {i for i in range(len(tokenizer)) if "\n" in self.decode([i])}


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
        if (needed := int(self.positions.max()) + 1) > self.keys.shape[2]:
            more = (0, 0, 0, 2 * needed - self.keys.shape[2])
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)
        self.keys[self.rows, :, self.positions] = keys.transpose(1, 2)  # (B, W, heads, d)
        self.values[self.rows, :, self.positions] = values.transpose(1, 2)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def feed(trunk: nn.Module, cache: Cache, ids: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Append `count` (B,) of `ids` (B, W) to the rows, `start` (B,) long; returns each row's last hidden state (B, d).

    What is behind a row's end is padding or an older game; it is overwritten before the row can see it.
    """
    rows, columns = (torch.arange(n, device=ids.device) for n in ids.shape)
    positions, length = start[:, None] + columns, int((start + count).max())  # (B, W)
    mask = torch.arange(length, device=ids.device) <= positions[:, :, None]  # (B, W, length)
    for layer in cache.layers:
        layer.rows, layer.positions, layer.length = rows[:, None], positions, length
    hidden = trunk(input_ids=ids, attention_mask=mask[:, None], past_key_values=cache, use_cache=True,
                   position_ids=positions.clamp(max=length - 1)).last_hidden_state  # clamp: padding may go too far
    return hidden[rows, (count - 1).clamp(min=0)]


# --- Rollout ---

# What a token is, `kind`. The last one of an action carries its reward; LAST: of the game, ended by its rules. CUT is
# not a token: the place behind a game that was cut short, where its next action would be.
OBS, ACTION, ACTION_END, LAST, CUT = range(5)


@dataclass
class Segment:
    """Tokens that the model sees together, and what each is."""

    ids: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    fed: int = 0  # how many of them the model has seen in the rollout


class Episode:
    """One game as tokens, in segments: offline data and rollouts are built by the same calls."""

    def __init__(self, markov: bool, max_length: int, max_new_tokens: int) -> None:
        self.markov, self.max_length = markov, max_length
        self.room = max_length - max_new_tokens - 1  # before an action and the newline behind one that is cut off
        self.segments, self.parts = list[Segment](), list[list[int]]()  # parts: obs_0, action_0, obs_1, …
        self.logprobs = list[float]()  # of the tokens of all actions, as sampled

    def observe(self, ids: list[int]) -> None:
        """Append an observation: in a new segment if the task is Markov, or if the next action would not fit otherwise.

        The new segment of a long episode opens with its first text and the newest turns that fill half of it. The
        actions among them are context: each is trained on once, where it was played.
        """
        self.parts += ids, []
        if self.markov or not self.segments or len(self.segments[-1].ids) + len(ids) > self.room:
            if self.segments and not self.markov:
                i, most = len(self.parts) - 2, min(self.max_length // 2, self.room)
                while i > 2 and len(self.parts[0]) + sum(map(len, self.parts[i - 2 :])) <= most:
                    i -= 2  # one turn earlier
                ids = sum(self.parts[i:], self.parts[0])
            if len(ids) > self.room:
                needed = len(ids) + self.max_length - self.room
                raise ValueError(f"--max-length {self.max_length} is shorter than one turn needs: {needed} tokens")
            self.segments.append(Segment())
        self.add(ids, OBS)

    def add(self, ids: list[int], kind: int) -> None:
        self.segments[-1].ids += ids
        self.segments[-1].kind += [kind] * len(ids)
        self.parts[-1] += ids if kind == ACTION else []

    def end_action(self, suffix: list[int]) -> None:
        """Close an action; `suffix`: the newline, not the agent's, behind one cut off."""
        self.segments[-1].kind[-1] = ACTION_END
        self.parts[-1] += suffix
        self.add(suffix, OBS)

    def end(self, trajectory: Trajectory, num_invalid: int = 0) -> None:
        """Close the game; `trajectory` is the whole of it as text."""
        self.trajectory, self.num_invalid, kind = trajectory, num_invalid, self.segments[-1].kind
        if trajectory.terminated:
            kind[len(kind) - 1 - kind[::-1].index(ACTION_END)] = LAST
        else:
            kind.append(CUT)


def sample(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[list[int], list[float]]:
    """Tokens (B,) drawn from logits (B, V), and the log-probabilities that they were drawn with."""
    logprobs = F.log_softmax(logits.float() / (temperature or 1.0), -1)
    tokens = torch.multinomial(logprobs.exp(), 1, generator=generator) if temperature else logprobs.argmax(-1, True)
    return tokens[:, 0].tolist(), logprobs.gather(-1, tokens)[:, 0].tolist()


@torch.inference_mode()
def rollout(trunks: list[nn.Module], next_logits: Callable[..., Tensor], envs: VectorEnv, codec: Codec,
            seeds: range, args: Args, generator: torch.Generator) -> list[Episode]:
    """Play a game for each seed, many side by side, by sampling from `next_logits(hidden states of each trunk)`.

    A pass feeds each row what it has not seen: a token, an observation. Rows are not in step; ended ones are refilled.
    """
    caches = [Cache(layers=[RowLayer(64) for _ in range(trunk.config.num_hidden_layers)]) for trunk in trunks]
    episodes, playing = list[Episode](), dict[int, Episode]()  # playing: by the index of the environment
    rows = list(begun := envs.reset(seeds))  # the environment of each row
    progress = tqdm(total=len(seeds), desc="playing", leave=False, delay=2)
    while begun or playing:
        for index, obs in begun.items():
            playing[index] = Episode(envs.envs[0].markov, args.max_length, args.max_new_tokens)
            playing[index].observe(codec.encode(obs))
            episodes.append(playing[index])
        if len(playing) <= len(rows) // 2:  # the last games: drop the rows that idle
            kept = [i for i, index in enumerate(rows) if index in playing]
            for layer in (layer for cache in caches for layer in cache.layers):
                layer.keys, layer.values = layer.keys[kept], layer.values[kept]
            rows = [rows[i] for i in kept]
        segments = [playing[index].segments[-1] if index in playing else Segment() for index in rows]
        # The mean, not the longest: one row with much to read must not pad all others to its width.
        width = -(-sum(len(segment.ids) - segment.fed for segment in segments) // len(playing))
        pieces = [segment.ids[segment.fed : segment.fed + width] for segment in segments]
        start, count = [segment.fed for segment in segments], [len(piece) for piece in pieces]
        ids = [piece + [0] * (width - len(piece)) for piece in pieces]
        inputs = [torch.tensor(x, device=args.device) for x in (ids, start, count)]
        hidden = [feed(*pair, *inputs) for pair in zip(trunks, caches, strict=True)]
        for segment, n in zip(segments, count, strict=True):
            segment.fed += n
        ready = [i for i, segment in enumerate(segments) if 0 < segment.fed == len(segment.ids)]
        tokens, logprobs = sample(next_logits(*(h[ready] for h in hidden)), args.temperature, generator)
        actions = {}
        for i, token, logprob in zip(ready, tokens, logprobs, strict=True):
            game = playing[rows[i]]
            game.add([token], ACTION)
            game.logprobs.append(logprob)
            if token in codec.ends_action or len(game.parts[-1]) == args.max_new_tokens:
                actions[rows[i]] = codec.decode(game.parts[-1])
        steps, begun = envs.step(actions)
        for index, (obs, _, terminated, truncated, info) in steps.items():
            game = playing[index]
            game.end_action([] if "\n" in actions[index] else codec.encode("\n"))
            if not terminated:  # the state behind the last observation of a truncated game has a value too
                game.observe(codec.encode(obs))
            if terminated or truncated:
                playing.pop(index).end(info["trajectory"], info["num_invalid"])
                progress.update()
    progress.close()
    return episodes


# --- Data ---


def encode(trajectories: list[Trajectory], markov: bool, codec: Codec, args: Args) -> list[Episode]:
    """Offline trajectories as tokens."""
    episodes = []
    for trajectory in tqdm(trajectories, "tokenising", leave=False, delay=2):
        parts = [codec.encode(text) for text in trajectory.texts]
        episodes.append(episode := Episode(markov, args.max_length, max(args.max_new_tokens, *map(len, parts[1::2]))))
        for i, ids in enumerate(parts[: 2 * len(trajectory.rewards) + (not trajectory.terminated)]):
            if i % 2:
                episode.add(ids, ACTION)
                episode.end_action([])
            else:
                episode.observe(ids)
        episode.end(trajectory)
    return episodes


def minibatches(episodes: list[Episode], size: int, seed: int, step: int) -> Iterator[list[Episode]]:
    """Minibatches of `size` episodes from gradient step `step` on, epoch after epoch, as (seed, epoch) says."""
    longest = np.array([max(len(segment.ids) for segment in episode.segments) for episode in episodes])
    size = min(size, len(episodes))
    epoch, skip = divmod(step, num_batches := len(episodes) // size)
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(episodes))[: num_batches * size]
        # Long ones share minibatches with long ones where it spares much padding: those of one length are of one kind.
        if longest.mean() < 0.75 * longest.max():
            for chunk in np.array_split(order, max(1, num_batches // 50)):
                chunk[:] = chunk[np.argsort(longest[chunk], kind="stable")]
        for batch in rng.permutation(order.reshape(num_batches, size))[skip:]:
            yield [episodes[i] for i in batch]
        epoch, skip = epoch + 1, 0


def collate(episodes: list[Episode], device: str) -> tuple[Tensor, ...]:
    """A minibatch: ids (B, T) of its different segments, padded on the right, which a causal model needs no mask for;
    row, t (m,): the states, i.e. the places behind which an action's token comes, or would where the game was cut;
    acts (n,): which states a token follows, the next state being acts + 1; tokens, kind, rewards (n,) of that token."""
    segments = [segment for episode in episodes for segment in episode.segments]
    ids, kind = np.zeros((2, len(segments), max(len(segment.kind) for segment in segments)), dtype=np.int64)
    for i, segment in enumerate(segments):
        ids[i, : len(segment.ids)], kind[i, : len(segment.kind)] = segment.ids, segment.kind
    row, t = (kind[:, 1:] != OBS).nonzero()  # the shift: position t predicts token t + 1
    tokens, kind = ids[row, t + 1], kind[row, t + 1]
    (acts,) = (kind != CUT).nonzero()
    tokens, kind, rewards = tokens[acts], kind[acts], np.zeros(len(acts), dtype=np.float32)
    rewards[kind != ACTION] = [reward for episode in episodes for reward in episode.trajectory.rewards]
    ids, place = np.unique(ids, axis=0, return_inverse=True)  # equal segments pass through the model once
    return tuple(torch.from_numpy(x).to(device) for x in (ids, place.reshape(-1)[row], t, acts, tokens, kind, rewards))


# --- Targets and loss ---


def bc_loss(policy: nn.Module, ids: Tensor, row: Tensor, t: Tensor, acts: Tensor, tokens: Tensor, *_: Tensor) -> Tensor:
    """-log π of the action tokens, their mean over the minibatch; arguments as `collate` returns them."""
    hidden = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, d)
    return F.cross_entropy(policy.lm_head(hidden[row[acts], t[acts]]).float(), tokens)


def ilql_losses(q1: Tensor, q2: Tensor, v: Tensor, target_q: Tensor, next_v: Tensor, tokens: Tensor, rewards: Tensor,
                discounts: Tensor, expectile: float, cql_weight: float) -> dict[str, Tensor]:
    """The loss and its terms; q1, q2: (n, vocabulary), all others (n,); target_q and next_v without gradient."""
    y = rewards + discounts * next_v
    q_loss = sum(F.mse_loss(q.gather(1, tokens[:, None])[:, 0], y) / 2 for q in (q1, q2))
    v_loss = (torch.where(target_q >= v, expectile, 1 - expectile) * (v - target_q) ** 2 / 2).mean()
    cql_loss = F.cross_entropy(q1, tokens) + F.cross_entropy(q2, tokens)
    return {"loss": q_loss + v_loss + cql_weight * cql_loss, "q_loss": q_loss, "v_loss": v_loss, "cql_loss": cql_loss,
            "v": v.detach().mean()}


def critic_losses(critic: Critic, target: Critic, batch: tuple[Tensor, ...], args: Args) -> dict[str, Tensor]:
    """`ilql_losses` of a minibatch as `collate` returns it."""
    ids, row, t, acts, tokens, kind, rewards = batch
    h = critic.trunk(input_ids=ids, use_cache=False).last_hidden_state[row, t]  # (m, d)
    v = critic.v(h)[:, 0]
    with torch.no_grad():
        target_h = target.trunk(input_ids=ids, use_cache=False).last_hidden_state[row, t]
        target_q = target.min_q(target_h[acts]).gather(1, tokens[:, None])[:, 0]
        next_v = v if args.bootstrap == "online" else target.v(target_h)[:, 0]
        next_v = F.pad(next_v, (0, 1))[acts + 1]  # behind the last state of all comes none: the game is over
    # By the token's kind. The game is over behind LAST; what comes next in the row of states is another game.
    discount = torch.tensor([0.0, args.gamma if args.gamma_per == "token" else 1.0, args.gamma, 0.0], device=ids.device)
    return ilql_losses(critic.q1(h[acts]), critic.q2(h[acts]), v[acts], target_q, next_v.detach(), tokens, rewards,
                       discount[kind], args.expectile, args.cql_weight)


# --- Evaluation ---


def evaluate(trunks: list[nn.Module], next_logits: Callable[..., Tensor], envs: VectorEnv, codec: Codec, args: Args,
             prefix: str) -> tuple[dict[str, float], list[Trajectory]]:
    """Play the games of the validation (`prefix` "eval") or of the "test", the same every time."""
    num_games = {"eval": args.num_eval_episodes, "test": args.num_test_episodes or envs.envs[0].num_test_episodes}
    seeds = range(SEEDS[prefix], SEEDS[prefix] + num_games[prefix])
    generator, start = torch.Generator(args.device).manual_seed(2 * args.seed + (prefix == "test")), time.time()
    episodes = rollout(trunks, next_logits, envs, codec, seeds, args, generator)
    games, num_invalid = [game.trajectory for game in episodes], sum(game.num_invalid for game in episodes)
    metrics = {f"{prefix}/{name}": x for name, x in statistics(envs.envs[0], games, num_invalid).items()}
    num_tokens, seconds = sum(len(s.ids) for game in episodes for s in game.segments), time.time() - start
    return metrics | {"perf/rollout_tokens_per_second": num_tokens / seconds, "perf/minutes": seconds / 60}, games


def q_policy(policy: nn.Module, critic: Critic, beta: float) -> tuple[list[nn.Module], Callable[..., Tensor]]:
    """The trunks and the logits for `rollout`: those of the BC policy + β · min(Q1, Q2)."""
    return [policy.base_model, critic.trunk], lambda h, value_h: policy.lm_head(h) + beta * critic.min_q(value_h)


# --- Bookkeeping ---


def open_run(args: Args, envs: VectorEnv) -> tuple[Path, dict[str, Any], Any]:
    """The run's folder, the checkpoint to go on from (of iteration 0 where there is none), and the wandb run or None;
    raises ValueError rather than overwrite a run, or go on with one of other arguments."""
    run, now = ROOT / "runs" / f"{args.env_id}__{args.exp_name}__{args.seed}", json.loads(json.dumps(asdict(args)))
    checkpoint, lines = {"iteration": 0, "seconds": 0.0}, []
    if (run / "last.pt").exists():
        if not args.resume:
            raise ValueError(f"{run} holds a run: go on with --resume, name another --exp-name or --seed, or delete it")
        before = json.loads((run / "args.json").read_text())["args"]
        changed = [f"{name} was {before.get(name)!r}, is {value!r}" for name, value in now.items()
                   if name not in ("num_iterations", "track", "device", "resume") and before.get(name) != value]
        if changed:
            raise ValueError(f"--resume of {run} with other arguments: {'; '.join(changed)}")
        checkpoint = torch.load(run / "last.pt", map_location=args.device, weights_only=True)
        lines = [line for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]  # what the checkpoint knows of
                 if "test/" not in line and json.loads(line)["iteration"] <= checkpoint["iteration"]]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"args": now, "env": envs.envs[0].about(), "commit": commit, "torch": torch.__version__,
             "threads": torch.get_num_threads()}
    replace(run / "args.json", lambda path: path.write_text(json.dumps(about, indent=1)))
    replace(run / "metrics.jsonl", lambda path: path.write_text("".join(line + "\n" for line in lines)))
    if args.track:
        import wandb  # only here: nothing else needs it

        return run, checkpoint, wandb.init(project="lmrl-gym", name=run.name, id=run.name, config=now, resume="allow")
    return run, checkpoint, None


def log(run: Path, row: dict[str, Any], tracker: Any = None, keep: bool = True) -> None:
    """Print a row of metrics; append it to metrics.jsonl, if it is to be kept there, and track it."""
    row = {name: value if isinstance(value, int) else float(value) for name, value in row.items()}
    shown = "  ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in row.items() if "perf" not in name)
    tqdm.write(f"{run.name}: {shown.replace('  episodic_return_se', ' ±')}")
    if keep:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    if tracker:
        tracker.log(row, step=row["global_step"])


def saved_args(run: Path, args: Args) -> Args:
    """The arguments of a finished run, but those of playing as they are given now."""
    if not (run / "model").is_dir():
        raise FileNotFoundError(f"{run} is not the folder of a finished run")
    saved = json.loads((run / "args.json").read_text())["args"]
    if saved.keys() != asdict(args).keys():
        raise ValueError(f"{run} is a run of another script")
    now = {name: getattr(args, name) for name in ("device", "temperature", "num_test_episodes")}
    now |= {"model": str(run / "model"), "env_options": saved["env_options"] | args.env_options}
    return Args(**saved | now)


def parse_args() -> Args:
    """The command line; what it leaves out is as TASK_DEFAULTS has it for the task, else as Args has it."""
    env_id = tyro.cli(Args, add_help=False, return_unknown_args=True)[0].env_id
    return tyro.cli(Args, description=__doc__, default=Args(env_id=env_id, **TASK_DEFAULTS.get(env_id, {})))


# --- Training ---


def gradient_steps(losses_of: Callable[[tuple[Tensor, ...]], dict[str, Tensor]], optimizer: torch.optim.Optimizer,
                   lr: float, batches: Iterator[list[Episode]], step: int, args: Args) -> dict[str, float]:
    """One iteration, from gradient step `step` on: descend the first of `losses_of(minibatch)`; returns their means."""
    group, sums, num_tokens, start = optimizer.param_groups[0], Counter(), 0, time.time()
    for i in trange(step, step + args.steps_per_iteration, desc="training", leave=False, delay=2):
        group["lr"] = lr * min(1.0, (i + 1) / 100, ((args.decay_from or i + 1) / (i + 1)) ** 0.5)
        losses = losses_of(batch := collate(next(batches), args.device))
        next(iter(losses.values())).backward()
        losses["grad_norm"] = nn.utils.clip_grad_norm_(group["params"], args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        sums.update({f"losses/{name}": value.item() / args.steps_per_iteration for name, value in losses.items()})
        num_tokens += batch[0].numel()
    speed = num_tokens / (time.time() - start)
    return sums | {"charts/learning_rate": group["lr"], "perf/train_tokens_per_second": speed}


def main(args: Args) -> dict[str, float]:
    """Train (or with `evaluate_only` load), test and save; returns the metrics of the test."""
    start, replayed = time.time(), Path(args.evaluate_only) if args.evaluate_only else None
    args = saved_args(replayed, args) if replayed else args
    envs = VectorEnv(args.env_id, args.num_envs, **args.env_options)
    if replayed:
        policy, tokenizer = build_model(args, set())
        args.max_new_tokens, critic = policy.generation_config.max_new_tokens, Critic(policy, 0.0).to(args.device)
        saved = torch.load(replayed / "value.pt", map_location=args.device, weights_only=True)
        critic.load_state_dict(saved["critic"])
        metrics, games = evaluate(*q_policy(policy, critic, saved["beta"]), envs, Codec(tokenizer), args, "test")
        print(*games[:3], sep="\n")
        log(replayed, metrics, keep=False)
        return metrics

    run, checkpoint, tracker = open_run(args, envs)
    done, start, beta = checkpoint["iteration"], start - checkpoint["seconds"], checkpoint.get("beta", args.beta[0])
    if args.bc_checkpoint:
        args.model, args.bc_iterations = str(Path(args.bc_checkpoint) / "model"), 0
    if args.model != "tiny":
        AutoConfig.from_pretrained(args.model)  # raises OSError for an unknown model before any work is done
    for option in (-1, -3) if sys.platform == "linux" else ():  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: glibc is to keep
        ctypes.CDLL(None).mallopt(option, 2**31 - 1)  # freed blocks, else half of the time goes into faulting in others
    source = load_shuffled(envs.envs[0], args.dataset, args.num_trajectories, args.seed, **args.env_options)
    trajectories = [trajectory for trajectory in map(Trajectory.complete, source) if trajectory]
    if len(trajectories) < 2:
        raise ValueError(f"{len(trajectories)} complete episodes are too few")
    policy, tokenizer = build_model(args, {text for trajectory in trajectories for text in trajectory.texts})
    codec = Codec(tokenizer)
    args.max_new_tokens = args.max_new_tokens or max(len(codec.encode(a)) for t in trajectories for a in t.texts[1::2])
    policy.generation_config.max_new_tokens = args.max_new_tokens  # saved with the model
    num_held_out = max(1, len(trajectories) // 10)
    data = encode(trajectories[num_held_out:], envs.envs[0].markov, codec, args)
    held_out = collate(encode(trajectories[:num_held_out][:128], envs.envs[0].markov, codec, args), args.device)
    returns_to_go = np.concatenate([np.cumsum(episode.trajectory.rewards[::-1]) for episode in data])
    critic = Critic(policy, float(returns_to_go.mean())).to(args.device)
    target = copy.deepcopy(critic).requires_grad_(False)
    bc_optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    optimizer = torch.optim.AdamW(critic.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    pairs = list(target.parameters()), list(critic.parameters())
    optimizer.register_step_post_hook(torch.no_grad()(lambda *_: torch._foreach_lerp_(*pairs, args.tau)))
    parts = dict(policy=policy, critic=critic, target=target, bc_optimizer=bc_optimizer, optimizer=optimizer)
    for name in parts if done else ():
        parts[name].load_state_dict(checkpoint[name])

    steps, num_bc, last = args.steps_per_iteration, args.bc_iterations, args.bc_iterations + args.num_iterations
    bc_batches = minibatches(data, args.minibatch_size, args.seed, done * steps)
    batches = minibatches(data, args.minibatch_size, args.seed, max(0, done - num_bc) * steps)
    for iteration in range(done + 1, last + 1):
        row = {"iteration": iteration, "global_step": iteration * steps}
        if iteration <= num_bc:
            row |= gradient_steps(lambda batch: {"bc_loss": bc_loss(policy, *batch)}, bc_optimizer,
                                  args.bc_learning_rate, bc_batches, (iteration - 1) * steps, args)
            row["losses/held_out_bc_loss"] = bc_loss(policy, *held_out).detach()
            critic.trunk.load_state_dict(policy.base_model.state_dict())
            target.trunk.load_state_dict(policy.base_model.state_dict())
        else:
            row |= gradient_steps(lambda batch: critic_losses(critic, target, batch, args), optimizer,
                                  args.learning_rate, batches, (iteration - 1 - num_bc) * steps, args)
        if args.eval_every and iteration % args.eval_every == 0 or iteration == last:
            betas = args.beta if iteration > num_bc else (0.0,)
            results = [evaluate(*q_policy(policy, critic, b), envs, codec, args, "eval")[0] for b in betas]
            best = int(np.argmax([result["eval/episodic_return"] for result in results]))
            beta, row = betas[best], row | results[best] | {"eval/beta": betas[best]}
        log(run, row | {"charts/minutes": (time.time() - start) / 60}, tracker)
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"beta": beta, "iteration": iteration, "seconds": time.time() - start}
        replace(run / "last.pt", partial(torch.save, state))

    metrics, games = evaluate(*q_policy(policy, critic, beta), envs, codec, args, "test")
    write_file(envs.envs[0], games, run / "episodes.jsonl")
    replace(run / "value.pt", partial(torch.save, {"critic": critic.state_dict(), "beta": beta}))
    replace(run / "model", lambda path: (policy.save_pretrained(path), tokenizer.save_pretrained(path)))
    log(run, {"iteration": last, "global_step": last * steps, "eval/beta": beta} | metrics
        | {"charts/minutes": (time.time() - start) / 60}, tracker)
    return metrics


if __name__ == "__main__":
    main(parse_args())
