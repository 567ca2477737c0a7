"""Proximal policy optimisation (PPO) of a language model on a multi-turn text game, from a BC policy.

A game is texts obs_0, action_0, obs_1, action_1, …; each is tokenised on its own and their ids are joined. A
state is a place where the agent chooses a token x_t. In each iteration the policy plays some games. For the
tokens chosen in them, with π_old the policy that played and π_ref the frozen BC policy:

    r_t = (the action's reward, on its last token) - kl_coef · (log π_old(x_t) - log π_ref(x_t))
    δ_t = r_t + γ_t · V(state_{t+1}) - V(state_t)
    A_t = δ_t + γ_t · λ_t · A_{t+1}               R_t = A_t + V(state_t)

γ_t, λ_t: gamma, gae_lambda on an action's last token, else 1. V is 0 after an end by the rules; a game cut
short has one more state, after its last observation. Then, with ρ = π(x_t) / π_old(x_t) and A whitened:

    L = mean of max(-A·ρ, -A·clip(ρ, 1 ± clip_coef)) + vf_coef · mean of ½((V - R) / spread)²

V = mean + spread · head, on a trunk of its own: on the policy's, V's gradients would swamp the policy's.
mean and spread follow the returns, the head is rescaled (Pop-Art, van Hasselt et al., arXiv 1602.07714).

Source: PPO (Schulman et al., arXiv 1707.06347), LMRL-Gym (Abdulhai et al., arXiv 2311.18232). Deviations: γ
and λ act per turn; V as above, never clipped; kl_coef is fixed; no BC term; the learning rate falls evenly.

    python algos/ppo_car_dealer.py      # after: python algos/bc_maze.py --env-id car_dealer
"""

import copy
import math
import random
import sys
import time
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, StaticLayer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a plain checkout
from envs import SEEDS, Env, EnvId, Trajectory, VectorEnv, devices, statistics
from envs.data import settle_action_length
from envs.run import Run, cache_name, check_texts, make_envs, parse_args, refusing, set_length, start_model


@dataclass
class Args:
    exp_name: str = Path(__file__).stem  # experiment's name, in runs/{env_id}__{exp_name}__{seed}
    seed: int = 1  # seed of the weights, the minibatches and sampling; the games of the test stay the same
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the model is: cpu, cuda, cuda:1, …
    dtype: Literal["float32", "bfloat16"] | None = None  # precision (default: bfloat16 on cuda, else float32)
    micro_batch_size: int | None = None  # games that are computed at once (default: all of a minibatch)
    gradient_checkpointing: bool = False  # compute layers twice, to keep less of them in memory
    track: bool = False  # log to Weights & Biases as well
    resume: bool = False  # continue the run of this name; if it is finished, play its test again
    env_id: EnvId = "car_dealer"  # variant of the task
    env_options: dict[str, str] = field(default_factory=dict)  # the task's own options, as `name value` pairs
    model: str = "runs/{env_id}__bc_maze__{seed}/model"  # folder or hub name of a causal language model
    max_length: int | None = None  # tokens that the model sees at most (default: its own limit, at most 1024)
    max_new_tokens: int | None = None  # tokens of an action at most (default: the data's, online the model's)
    num_iterations: int = 40  # number of iterations; after each, metrics are logged and a checkpoint is saved
    num_episodes: int = 256  # games of an iteration
    update_epochs: int = 2  # how often each game is learned from
    minibatch_size: int = 32  # games per gradient step
    learning_rate: float = 3e-4  # learning rate of AdamW
    max_grad_norm: float = 1.0  # the gradient is scaled down to this norm
    gamma: float = 0.99  # discount of a turn
    gae_lambda: float = 0.95  # λ of a turn
    clip_coef: float = 0.2  # the ratio of probabilities counts from 1 - clip_coef (in PPO: to 1 + clip_coef)
    vf_coef: float = 1.0  # weight of the value loss; matters little, since V has a trunk of its own
    kl_coef: float = 0.01  # weight of the distance from the BC policy
    collapse_margin: float = 1.0  # stop if five iterations are this many standard deviations below the first
    eval_every: int = 10  # iterations from one evaluation on validation games to the next; 0: none
    num_eval_episodes: int = 256  # validation games
    num_test_episodes: int | None = None  # test games, at the end (default: the task's)
    num_envs: int = 512  # games played side by side
    temperature: float = 1.0  # temperature of sampling in evaluations; 0: greedy


FILTERED = "runs/{env_id}__filtered_bc__{seed}/model"
TUNED = {  # the other tasks' values for the models of envs/tiny, where they differ
    **dict.fromkeys(("maze_fo", "maze_po", "text_nav_fo", "text_nav_po"), dict(num_iterations=30)),
    "wordle": dict(model=FILTERED, num_iterations=100, num_episodes=1024, minibatch_size=128, num_envs=1024),
    "chess": dict(num_episodes=64, minibatch_size=8, learning_rate=5e-4, gamma=0.5),
    "endgames": dict(num_iterations=100),
    **dict.fromkeys(("twenty_questions", "guess_city"), dict(model=FILTERED)),
}
PAPER = {  # for any other model, in place of TUNED
    **dict.fromkeys(get_args(EnvId), dict(learning_rate=5e-6, num_episodes=512)),
    **dict.fromkeys(("maze_fo", "maze_po"), dict(learning_rate=1e-6, num_episodes=512, kl_coef=0.1)),
    "chess": dict(learning_rate=1e-5, num_episodes=1024),
    "endgames": dict(learning_rate=1e-5, num_episodes=512),
    "wordle": dict(learning_rate=3e-5, num_episodes=512, kl_coef=0.001),
}


# --- Model ---


def load_model(args: Args) -> tuple[nn.Module, "Text"]:
    """The causal language model `--model` and its tokenizer. Sets `max_length` if it was not given."""
    name, is_new = start_model(args)
    with refusing(f"cannot load {name} to {args.device}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
        if is_new:  # a model of envs/tiny that has not been trained
            policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
        else:
            policy = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        policy = policy.to(args.device).eval()  # no dropout: the loss then sees the model that plays
    set_length(args, name, policy.config)
    return policy, Text(tokenizer, policy.config.vocab_size)


class Text:
    """Text to ids and back. Each text is encoded on its own: no token straddles two speakers' texts."""

    def __init__(self, tokenizer, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.encode = cache(partial(tokenizer.encode, add_special_tokens=False))  # many texts recur
        self.decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        self.ends_line = ["\n" in self.decode([i]) for i in range(vocab_size)]  # by id


@torch.no_grad()
def check_model(policy: nn.Module, text: Text, env: Env, args: Args) -> None:
    """Exit with a message if this model or tokenizer would give wrong results without any error."""
    with refusing(f"{policy.name_or_path} cannot be used"):
        ids = check_texts(env, text, args)
        batch = torch.tensor([ids], device=args.device)
        head = policy.get_output_embeddings()
        own = policy(input_ids=batch, use_cache=False).logits[0]  # (T, V)
        by_head = head(policy.base_model(input_ids=batch, use_cache=False).last_hidden_state)[0]
        reader = Reader([policy.base_model], head, args)
        reader.reset(num_rows=2)
        window = Window(ids[:-1])
        reader.read({0: window})
        window.ids = ids
        _, played = reader.read({0: window, 1: Window(ids[:-1])})  # one new token in row 0, many in row 1
        same = partial(torch.testing.assert_close, rtol=0, atol=1e-4 * max(1.0, own.abs().max().item()))
        same(100 * by_head, 100 * own, msg="its logits are not its head's output")  # 100 times as strict
        same(played[0], own[-1], msg="its logits change when it reads with a cache (sliding window?)")


class ValueModel(nn.Module):
    """V on a trunk of its own that starts as a copy of the policy's: mean + spread · head(h)."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(policy.base_model)
        self.head = nn.Linear(policy.get_output_embeddings().in_features, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(1.0))

    def forward(self, batch: "Batch") -> Tensor:
        """V (m,) of a minibatch's m states."""
        hidden = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d)
        hidden = hidden.flatten(0, 1)[batch.states]  # (m, d)
        with torch.autocast(hidden.device.type, enabled=False):  # values need more than bfloat16's 8 bits
            return self.mean + self.spread * self.head(hidden.float())[:, 0]

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Take mean and spread of `returns` (n,), and let V say what it said before."""
        spread = returns.std(correction=0).clamp(min=1e-2)
        bias = self.spread * self.head.bias + self.mean - returns.mean()
        self.head.weight.mul_(self.spread / spread)
        self.head.bias.copy_(bias / spread)
        self.mean.copy_(returns.mean())
        self.spread.copy_(spread)


def policy_logprobs(policy: nn.Module, batch: "Batch") -> tuple[Tensor, Tensor]:
    """log π of the n chosen tokens, and the entropy of π where they were chosen, (n,) each."""
    hidden = policy.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d)
    hidden = hidden.flatten(0, 1)[batch.states[batch.acted]]  # (n, d)
    logits = policy.get_output_embeddings()(hidden).float()  # (n, V)
    logprobs = F.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()  # it is only watched
    return logprobs.gather(1, batch.tokens[:, None])[:, 0], entropy


# --- Loss ---


class Batch(NamedTuple):
    """Whole games. Their m states and the n tokens that were chosen in them are in the order of play."""

    ids: Tensor  # (W, T): W distinct windows, padded on the right; causal attention needs no mask for that
    states: Tensor  # (m,): their places in ids, flattened; a game that was cut short has one more
    acted: Tensor  # (n,): the state in which each token was chosen; the next state of the game is acted + 1
    tokens: Tensor  # (n,): the chosen tokens
    rewards: Tensor  # (n,)
    ends_turn: Tensor  # (n,) bool
    ends_game: Tensor  # (n,) bool: the last token of a game
    terminated: Tensor  # (n,) bool: the last token of a game that the rules ended
    padding: Tensor  # (): share of ids that is padding


class Experience(NamedTuple):
    """What PPO needs to know of the n tokens that were chosen in the games of an iteration, (n,) each."""
    logprobs: Tensor  # log π_old
    ref_logprobs: Tensor  # log π_ref
    values: Tensor  # V before the update
    advantages: Tensor


@torch.no_grad()
def look_back(policy, reference, value_model, episodes: list["Episode"], args: Args):
    """The `Experience` of the games that the policy has just played, computed by the functions that train."""
    places = token_places(episodes, args)
    table = torch.zeros(4, sum(map(len, places)), device=args.device)  # 0 for other processes' games
    for games in devices.own_pieces(len(episodes), args):
        batch = collate([episodes[i] for i in games], args.device)
        logprobs, _ = policy_logprobs(policy, batch)
        ref_logprobs, _ = policy_logprobs(reference, batch)
        rewards = batch.rewards - args.kl_coef * (logprobs - ref_logprobs)
        all_values = F.pad(value_model(batch), (0, 1))  # (m + 1,): a 0 follows the last state
        values = all_values[batch.acted]
        next_values = all_values[batch.acted + 1] * ~batch.terminated
        advantages = gae(rewards, values, next_values, batch, args)
        at = torch.cat([places[i] for i in games])
        table[:, at] = torch.stack([logprobs, ref_logprobs, values, advantages])
    devices.sum_over_processes([table])
    return Experience(*table)


def token_places(episodes: list["Episode"], args: Args) -> tuple[Tensor, ...]:
    """For each game, where its tokens are among the chosen tokens of all the games."""
    lengths = [len(episode.rewards) for episode in episodes]
    return torch.arange(sum(lengths), device=args.device).split(lengths)


def gae(rewards: Tensor, values: Tensor, next_values: Tensor, batch: Batch, args: Args) -> Tensor:
    """Generalised advantage estimates (n,) of the chosen tokens of whole games, from tensors (n,)."""
    gammas = torch.where(batch.ends_turn, args.gamma, 1.0)
    lambdas = torch.where(batch.ends_turn, args.gae_lambda, 1.0)
    deltas = (rewards + gammas * next_values - values).tolist()
    decays = (gammas * lambdas * ~batch.ends_game).tolist()  # nothing flows from one game to the one before
    advantages = []
    advantage = 0.0
    for delta, decay in zip(deltas[::-1], decays[::-1]):
        advantage = delta + decay * advantage
        advantages.append(advantage)
    return torch.tensor(advantages[::-1], device=rewards.device)


def whiten(advantages: Tensor) -> Tensor:
    """The advantages (n,) with mean 0 and variance 1."""
    return (advantages - advantages.mean()) / (advantages.var(correction=0) + 1e-8).sqrt()


def ppo_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_coef: float):
    """The policy's loss and what to watch, from tensors (n,)."""
    logratio = logprobs - old_logprobs
    ratio = logratio.exp()
    pg_loss1 = -advantages * ratio
    pg_loss2 = -advantages * ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return {
        "policy_loss": torch.maximum(pg_loss1, pg_loss2).mean(),
        "approx_kl": (ratio - 1 - logratio).mean(),  # http://joschu.net/blog/kl-approx.html
        "clipfrac": (pg_loss2 > pg_loss1).float().mean(),
    }


# --- Games as tokens ---


@dataclass
class Window:
    """Tokens that the model sees together."""

    ids: list[int]
    chosen: list[int] = field(default_factory=list)  # the places of the tokens that the agent has chosen
    num_read: int = 0  # how many tokens are in the rollout's key/value cache


class Episode:
    """A game as tokens, in one window or several.

    Where the newest observation is the whole state (`markov`), each turn is a window of its own. Elsewhere a
    window holds the game until it is full; the next one opens with the game's first text and as many of the
    newest turns as half of it holds. Their actions are context: each is trained on once, where it was played.
    """

    def __init__(self, markov: bool, max_length: int, max_new_tokens: int) -> None:
        self.markov = markov
        self.max_length = max_length
        self.room = max_length - max_new_tokens - 1  # for all that comes before an action and its newline
        self.windows: list[Window] = []
        self.parts: list[list[int]] = []  # the tokens of obs_0, action_0, obs_1, …
        self.action: list[int] = []  # the tokens so far of the action that is being chosen
        self.rewards: list[float] = []  # by chosen token: the reward of an action on its last token, else 0
        self.ends_turn: list[bool] = []  # by chosen token; this and `terminated` are for critics
        self.terminated = False
        self.num_cut = 0  # observations that were too long for a window
        self.trajectory: Trajectory | None = None  # the game as text
        self.num_invalid = 0

    def observe(self, obs: list[int]) -> None:
        """Add an observation. If it does not fit beside what opens the window, only its end is read."""
        if self.markov or not self.windows:
            self.windows.append(Window([]))
        elif len(self.windows[-1].ids) + len(obs) > self.room:
            self.windows.append(Window(self.opening(len(obs))))
        window = self.windows[-1]
        space = self.room - len(window.ids)
        self.num_cut += len(obs) > space
        self.parts.append(obs[-space:])
        window.ids += self.parts[-1]

    def opening(self, num_tokens: int) -> list[int]:
        """The first text and the newest turns, which go before `num_tokens` tokens in a new window."""
        first = self.parts[0][: max(self.room - num_tokens, self.room // 2)]
        newest = []
        for i in range(len(self.parts) - 2, 0, -2):
            turn = self.parts[i] + self.parts[i + 1]
            if len(first) + len(turn) + len(newest) + num_tokens > min(self.room, self.max_length // 2):
                break
            newest = turn + newest
        return first + newest

    def act(self, ids: list[int]) -> None:
        """Add tokens of an action."""
        window = self.windows[-1]
        window.chosen += range(len(window.ids), len(window.ids) + len(ids))
        window.ids += ids
        self.action += ids

    def end_turn(self, reward: float, terminated: bool, suffix: list[int]) -> None:
        """Close the action. `suffix`: the newline that is put after one that was cut off; not the agent's."""
        self.rewards += [0.0] * (len(self.action) - 1) + [reward]
        self.ends_turn += [False] * (len(self.action) - 1) + [True]
        self.terminated = terminated
        self.parts.append(self.action + suffix)
        self.windows[-1].ids += suffix
        self.action = []


def collate(episodes: list[Episode], device: str) -> Batch:
    """A minibatch of episodes."""
    length = max(len(window.ids) for episode in episodes for window in episode.windows)
    row_of = {}  # each distinct window's row in ids; equal ones, common in a maze, are computed once
    lists = Batch(*[[] for _ in Batch._fields])  # each becomes a tensor; those of ids and padding stay empty
    for episode in episodes:
        for window in episode.windows:
            is_open = window is episode.windows[-1] and not episode.terminated
            read = tuple(window.ids if is_open else window.ids[: window.chosen[-1]])  # up to the last state
            start = length * row_of.setdefault(read, len(row_of))  # where its row starts
            for place in window.chosen:
                lists.acted.append(len(lists.states))
                lists.states.append(start + place - 1)
                lists.tokens.append(window.ids[place])
        if not episode.terminated:  # cut short: one more state, to bootstrap from
            lists.states.append(start + len(window.ids) - 1)  # of the last window
        before_end = [False] * (len(episode.rewards) - 1)
        lists.rewards.extend(episode.rewards)
        lists.ends_turn.extend(episode.ends_turn)
        lists.ends_game.extend(before_end + [True])
        lists.terminated.extend(before_end + [episode.terminated])
    padded = np.array([ids + (0,) * (length - len(ids)) for ids in row_of])
    padding = 1 - sum(map(len, row_of)) / padded.size
    return Batch(*[torch.tensor(values, device=device) for values in (padded, *lists[1:-1], padding)])


# --- Rollout ---


class RowLayer(StaticLayer):
    """A layer of the key/value cache in which every row has its own length; `reader` says where tokens go."""

    def __init__(self, reader: "Reader") -> None:
        super().__init__(max_cache_len=reader.num_columns)
        self.reader = reader

    def update(self, keys: Tensor, values: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        reader = self.reader
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        more_columns = reader.num_columns - self.keys.shape[2]
        more_rows = reader.num_rows - self.keys.shape[0]
        if more_columns or more_rows:
            padding = 0, 0, 0, more_columns, 0, 0, 0, more_rows  # after d, columns, heads, rows
            self.keys = F.pad(self.keys, padding)
            self.values = F.pad(self.values, padding)
        self.keys[reader.written] = keys.transpose(1, 2)  # (rows, width, heads, d)
        self.values[reader.written] = values.transpose(1, 2)
        return self.keys[reader.shown], self.values[reader.shown]


class Reader:
    """Lets the model read many games side by side, one a row, and keeps the keys and values of what was read.

    A pass appends tokens to each row: the model's attention hands them to RowLayer, and `forward` says where
    they go. The mask hides what follows the end of a row, padding or an older game, until it is overwritten.
    """

    def __init__(self, trunks: list[nn.Module], next_logits, args: Args) -> None:
        self.trunks = trunks
        self.next_logits = next_logits  # from each trunk's last hidden states (rows, d) to logits (rows, V)
        self.args = args

    def reset(self, num_rows: int) -> None:
        """Forget what was read."""
        self.num_rows = num_rows
        self.num_columns = 1  # the last one is for padding
        self.caches = [Cache(layer_class_to_replicate=partial(RowLayer, self)) for _ in self.trunks]
        self.known = {}  # logits (V,) by the window that they follow

    def recall(self, windows: dict[int, Window]) -> tuple[list[int], Tensor]:
        """Like `read`, but windows whose logits are known need not be read again: a maze has few."""
        if len(self.known) > 10_000:  # with GPT-2, one or two gigabytes of logits
            self.known = {}
        names = {row: tuple(window.ids) for row, window in windows.items()}
        row_of = {name: row for row, name in names.items() if name not in self.known}  # one row per window
        if row_of:
            ready, logits = self.read(windows, row_of.values())
            for row, values in zip(ready, logits):
                self.known[names[row]] = values
        ready = [row for row in windows if names[row] in self.known]
        logits = [self.known[names[row]] for row in ready]
        return ready, torch.stack(logits)

    def read(self, windows: dict[int, Window], rows=None) -> tuple[list[int], Tensor]:
        """Let `rows`, or all, read on. Returns those whose whole window is read, and logits (ready, V)."""
        rows = list(rows or windows)
        num_unread = [len(windows[row].ids) - windows[row].num_read for row in rows]
        width = math.ceil(sum(num_unread) / len(rows))  # the mean: rows with more take several passes
        if 2 * len(rows) > self.num_rows:  # then all read on: picking some copies the cache
            rows = range(self.num_rows)

        ids = np.zeros((len(rows), width), dtype=np.int64)
        start = np.zeros((len(rows), 1), dtype=np.int64)
        ready = {}  # by row that has read all of its window: where in `ids` its last token is
        self.length = 0
        for i, row in enumerate(rows):
            window = windows.get(row, Window([]))
            piece = window.ids[window.num_read :][:width]
            ids[i, : len(piece)] = piece
            start[i] = window.num_read
            window.num_read += len(piece)
            self.length = max(self.length, window.num_read)
            if piece and window.num_read == len(window.ids):
                ready[row] = i * width + len(piece) - 1

        hidden = self.forward(rows, torch.from_numpy(ids), torch.from_numpy(start))
        last_states = [states.flatten(0, 1)[list(ready.values())] for states in hidden]
        return list(ready), self.next_logits(*last_states)

    def forward(self, rows: list[int] | range, ids: Tensor, start: Tensor) -> list[Tensor]:
        """Each trunk's hidden states (rows, width, d) of ids (rows, width) after `start` (rows, 1) tokens."""
        ids = ids.to(self.args.device, non_blocking=True)
        positions = start.to(ids.device, non_blocking=True) + torch.arange(ids.shape[1], device=ids.device)
        shown = torch.arange(self.length, device=ids.device) <= positions[:, :, None]
        dtype = self.trunks[0].dtype
        mask = torch.where(shown, 0.0, torch.finfo(dtype).min).to(dtype)  # (rows, width, length)
        if self.length >= self.num_columns:
            self.num_columns = min(2 * self.length, self.args.max_length) + 1

        row_ids = torch.tensor(rows, device=ids.device)
        columns = positions.clamp(max=self.num_columns - 1)
        self.written = row_ids[:, None], slice(None), columns  # where new keys go: (rows, width, heads, d)
        shown_rows = slice(None) if len(rows) == self.num_rows else row_ids
        self.shown = shown_rows, slice(None), slice(self.length)  # the keys that are attended to
        hidden = []
        for trunk, layers in zip(self.trunks, self.caches):
            output = trunk(
                input_ids=ids,
                attention_mask=mask[:, None],
                position_ids=positions.clamp(max=self.args.max_length - 1),
                use_cache=True,
                **{cache_name(type(trunk)): layers},
            )
            hidden.append(output.last_hidden_state)
        return hidden


@torch.inference_mode()
def rollout(reader: Reader, envs: VectorEnv, seeds: range, text: Text, args: Args) -> list[Episode]:
    """Play this process's part of the games, one for each seed, side by side in rows that are not in step."""
    markov = envs.envs[0].markov
    numbers = range(devices.RANK, len(seeds), devices.WORLD_SIZE)  # of this process's games
    episodes = [Episode(markov, args.max_length, args.max_new_tokens) for _ in numbers]
    waiting = list(zip(episodes, numbers))[::-1]
    playing = {}  # the episode in each row; `envs` knows the game by this number, too
    dice = {}  # each row's random numbers, which do not depend on the other games
    rows = range(min(len(envs.envs), len(numbers)))
    reader.reset(len(rows))
    read = reader.recall if markov else reader.read  # with a history, windows hardly ever repeat
    progress = tqdm(total=len(numbers), desc="playing", leave=False, delay=2)
    while waiting or playing:
        # Each free row takes the next game, whose first window overwrites the keys of the previous game.
        for row in rows:
            if row not in playing and waiting:
                playing[row], number = waiting.pop()
                playing[row].observe(text.encode(envs.reset(row, seeds[number])))
                dice[row] = random.Random(f"{args.seed} {seeds[number]} {number}")

        # Each row reads on. Those that have read everything choose one more token.
        windows = {row: playing[row].windows[-1] for row in rows if row in playing}
        ready, logits = read(windows)
        uniform = torch.tensor([dice[row].random() for row in ready], dtype=torch.float64)
        tokens = sample(logits, args.temperature, uniform).tolist()
        actions = {}
        for row, token in zip(ready, tokens):
            episode = playing[row]
            episode.act([token])
            if text.ends_line[token] or len(episode.action) == args.max_new_tokens:
                actions[row] = text.decode(episode.action)

        # Games with a complete action move on to the next turn or end.
        for row, (obs, reward, terminated, truncated, info) in envs.step(actions).items():
            episode = playing[row]
            suffix = [] if "\n" in actions[row] else text.encode("\n")
            episode.end_turn(reward, terminated, suffix)
            if not terminated:  # also after a time limit, where a critic bootstraps from it
                episode.observe(text.encode(obs))
            if terminated or truncated:
                episode.trajectory = info["trajectory"]
                episode.num_invalid = info["num_invalid"]
                del playing[row]
                progress.update()
    reader.reset(0)  # frees the cache before the model learns
    return episodes


def sample(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Tokens (B,) drawn from logits (B, V) by random numbers (B,) between 0 and 1."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = F.softmax(logits.float() / temperature, dim=-1).cumsum(-1, dtype=torch.float64)
    thresholds = uniform.to(logits.device, non_blocking=True) * cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, thresholds[:, None], right=True)[:, 0]
    return tokens.clamp(max=logits.shape[1] - 1)  # logits may be nan; the loss then stops the run


# --- Evaluation ---


def play_games(reader: Reader, envs: VectorEnv, prefix: str, seeds: range, text: Text, args: Args):
    """Play a game for each seed. Returns metrics, named `prefix`/…, and the episodes."""
    start = time.time()
    played = rollout(reader, envs, seeds, text, args)
    episodes = devices.gather(played, (Episode, Window, Trajectory), args)
    games = [episode.trajectory for episode in episodes]
    num_invalid = sum(episode.num_invalid for episode in episodes)
    metrics = statistics(envs.envs[0], games, num_invalid)
    metrics["cut_observations"] = sum(episode.num_cut for episode in episodes)
    metrics = {f"{prefix}/{name}": value for name, value in metrics.items()}
    num_tokens = sum(len(window.ids) for episode in episodes for window in episode.windows)
    metrics["perf/rollout_tokens_per_second"] = num_tokens / (time.time() - start)
    return metrics, episodes


# --- Training ---


def main(args: Args) -> None:
    """Play, look back, learn, and again; then save and test."""
    devices.join_processes(args)
    envs = make_envs(args)
    env = envs.envs[0]
    run = Run(args, env)
    torch.manual_seed(args.seed)
    policy, text = load_model(args)
    check_model(policy, text, env, args)
    args.max_new_tokens = args.max_new_tokens or policy.generation_config.max_new_tokens
    actions = [action for game in env.generate(32, args.seed) for action in game.texts[1::2]]
    settle_action_length((len(text.encode(action)) for action in actions), args)  # if the model has none
    reference = copy.deepcopy(policy)
    value_model = ValueModel(policy).to(args.device)
    parameters = [*policy.parameters(), *value_model.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    parts = {"policy": policy, "value_model": value_model, "optimizer": optimizer}
    num_turns, done = 0, 0
    if (run.folder / "last.pt").exists():
        state = torch.load(run.folder / "last.pt", map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        num_turns, done = state["num_turns"], state["iteration"]
    player = devices.copy_to_play(policy, args)
    reader = Reader([player.base_model], player.get_output_embeddings(), args)
    devices.checkpoint_gradients(args, policy.base_model, value_model.trunk)
    run.begin(done)

    for iteration in range(done + 1, args.num_iterations + 1):
        rng = np.random.default_rng([args.seed, iteration])
        first_seed = rng.integers(SEEDS["train"], SEEDS["eval"] - args.num_episodes)
        seeds = range(first_seed, first_seed + args.num_episodes)
        metrics, episodes = play_games(reader, envs, "charts", seeds, text, replace(args, temperature=1.0))
        metrics["charts/episodes"] = iteration * args.num_episodes
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (iteration - 1) / args.num_iterations)
        metrics["charts/learning_rate"] = optimizer.param_groups[0]["lr"]
        num_turns += sum(len(episode.trajectory.rewards) for episode in episodes)

        with devices.precision(args):
            old = look_back(policy, reference, value_model, episodes, args)
        returns = old.advantages + old.values
        value_model.rescale(returns)
        advantages = whiten(old.advantages)
        metrics["losses/kl_ref"] = (old.logprobs - old.ref_logprobs).mean()

        places = token_places(episodes, args)
        num_chosen = [len(tokens) for tokens in places]
        order = [i for _ in range(args.update_epochs) for i in rng.permutation(len(episodes))]
        for begin in range(0, len(order), args.minibatch_size):
            optimizer.zero_grad()
            for games, share in devices.pieces(order[begin : begin + args.minibatch_size], num_chosen, args):
                batch = collate([episodes[i] for i in games], args.device)
                at = torch.cat([places[i] for i in games])
                with devices.precision(args):
                    logprobs, entropy = policy_logprobs(policy, batch)
                    values = value_model(batch)[batch.acted]
                losses = ppo_loss(logprobs, old.logprobs[at], advantages[at], args.clip_coef)
                losses["value_loss"] = ((values - returns[at]) / value_model.spread).square().mean() / 2
                losses["entropy"] = entropy.mean()
                loss = losses["policy_loss"] + args.vf_coef * losses["value_loss"]
                (share * loss).backward()
                run.log_piece(losses, share, batch)

            devices.sum_over_processes(parameter.grad for parameter in parameters)
            grad_norm = nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            nn.utils.clip_grad_norm_(value_model.parameters(), args.max_grad_norm)
            optimizer.step()
            run.log_step(grad_norm=grad_norm)
        devices.refresh(player, policy)

        if args.eval_every and iteration % args.eval_every == 0:
            metrics = play_games(reader, envs, "eval", run.seeds("eval"), text, args)[0] | metrics
        run.log(iteration, num_turns, metrics)
        run.stop_if_collapsed(args.collapse_margin * args.num_episodes**0.5)  # in standard errors
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"iteration": iteration, "num_turns": num_turns}
        run.write("last.pt", partial(torch.save, state))

    try:
        run.write("critic.pt", partial(torch.save, value_model.state_dict()))
        run.save_model(policy, text.tokenizer, args.max_new_tokens)
    finally:  # if saving fails, the test is still played
        metrics, tested = play_games(reader, envs, "test", run.seeds("test"), text, args)
        run.log(args.num_iterations, num_turns, metrics)
        run.save_games(tested)


if __name__ == "__main__":
    main(parse_args(Args, TUNED, PAPER, __doc__))
