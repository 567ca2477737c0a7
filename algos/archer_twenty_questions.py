"""ArCHer: actor-critic on two levels, turns and tokens, of a language model on a multi-turn text game.

A game is texts obs_0, action_0, obs_1, action_1, …; each is tokenised on its own and their ids are joined. In
a turn, s is all that the agent has read and a its action, one or more tokens x. The critic judges turns: on a
trunk of its own, V(s) is a head at the last token of an observation, Q1(s, a) and Q2(s, a) are heads at the
last token of an action; V', Q1' and Q2' are those of a target copy. In each iteration the policy plays some
games. Then the critic takes many steps on a buffer of the newest games, with means over turns:

    y      = r + γ · V'(s_next)                     r alone if the rules ended the game, not if it was cut
    L_Q    = mean of ½(Q1(s, a) - y)² + ½(Q2(s, a) - y)²
    L_V    = mean of ½(V(s) - min(Q1', Q2')(s, a))²
    target ← (1 - tau) · target + tau · critic      after each gradient step

and the policy, after the first iterations, takes a step on each minibatch of the games just played:

    L      = mean over tokens of -A · log π(x)      A = min(Q1, Q2)(s, a) - V(s), whitened over all turns

Values are mean + spread · head; L_Q and L_V are divided by spread², which suits every task. Mean and spread
follow the buffer's returns; the heads are rescaled (Pop-Art, van Hasselt et al., arXiv 1602.07714).

Source: ArCHer (Zhou et al., arXiv 2402.19446). Deviations: V follows Q of the buffer's own actions, since new
ones would have to be drawn and read in every step; the policy learns from its newest games, not from new
actions in the buffer's states; A is whitened; values as above; the critic starts as a copy of the policy.

    SEEDS=1 bash benchmarks.sh twenty_questions filtered_bc     # the policy to start from
    python algos/archer_twenty_questions.py
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
from envs.data import minibatches, settle_action_length
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
    env_id: EnvId = "twenty_questions"  # variant of the task
    env_options: dict[str, str] = field(default_factory=dict)  # the task's own options, as `name value` pairs
    model: str = "runs/{env_id}__filtered_bc__{seed}/model"  # folder or hub name of a causal language model
    max_length: int | None = None  # tokens that the model sees at most (default: its own limit, at most 1024)
    max_new_tokens: int | None = None  # tokens of an action at most (default: the data's, online the model's)
    num_iterations: int = 40  # number of iterations; after each, metrics are logged and a checkpoint is saved
    num_episodes: int = 128  # games of an iteration
    buffer_size: int = 512  # newest games that the critic learns from
    warmup_iterations: int = 5  # first iterations, in which only the critic learns
    critic_steps: int = 50  # gradient steps of the critic in an iteration
    minibatch_size: int = 32  # games per gradient step
    learning_rate: float = 3e-4  # learning rate of AdamW
    critic_learning_rate: float = 1e-3  # learning rate of the critic's AdamW
    max_grad_norm: float = 1.0  # the gradient is scaled down to this norm
    gamma: float = 0.95  # discount of a turn
    tau: float = 0.1  # Polyak rate: target = (1 - tau) * target + tau * critic after every gradient step
    collapse_margin: float = 1.0  # stop if five iterations are this many standard deviations below the first
    eval_every: int = 10  # iterations from one evaluation on validation games to the next; 0: none
    num_eval_episodes: int = 256  # validation games
    num_test_episodes: int | None = None  # test games, at the end (default: the task's)
    num_envs: int = 512  # games played side by side
    temperature: float = 1.0  # temperature of sampling in evaluations; 0: greedy


BC = "runs/{env_id}__bc_maze__{seed}/model"  # the BC run of the same task
TUNED = {  # the other tasks' values for the models of envs/tiny, where they differ
    **dict.fromkeys(("maze_fo", "text_nav_fo", "text_nav_po", "car_dealer"), dict(model=BC, gamma=0.99)),
    "maze_po": dict(model=BC, gamma=0.9),
    "wordle": dict(num_iterations=120, num_episodes=512, buffer_size=2048, minibatch_size=128, gamma=0.99,
                   num_envs=1024),
    "chess": dict(model=BC, num_iterations=10, num_episodes=32, buffer_size=128, minibatch_size=4,
                  learning_rate=1e-4, gamma=0.5),
    "endgames": dict(model=BC, num_iterations=16, learning_rate=1e-4, gamma=0.9),
}
AS_PUBLISHED = dict(learning_rate=1e-5, critic_learning_rate=2e-5, warmup_iterations=10)  # guess_city's
PAPER = dict.fromkeys(get_args(EnvId), AS_PUBLISHED)  # for any other model, in place of TUNED
PAPER["twenty_questions"] = dict(AS_PUBLISHED, learning_rate=1e-6, warmup_iterations=20)


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


class TurnCritic(nn.Module):
    """Q1, Q2 and V of turns, mean + spread · head(h), on a trunk that starts as a copy of the policy's."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(policy.base_model)
        self.heads = nn.Linear(policy.get_output_embeddings().in_features, 3)  # of Q1, Q2 and V
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(0.0))  # 0: no returns are known yet

    def forward(self, batch: "Batch") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q1(s, a), Q2(s, a), V(s) and V(s_next) of a minibatch's turns, (k,) each."""
        hidden = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d)
        with torch.autocast(hidden.device.type, enabled=False):  # values need more than bfloat16's 8 bits
            values = self.mean + self.spread * self.heads(hidden.float()).flatten(0, 1)  # (W·T, 3)
        q1, q2, _ = values[batch.action_ends].unbind(dim=1)
        v = F.pad(values[batch.states, 2], (0, 1))  # (m + 1,): acted + 1 exists for the last state, too
        return q1, q2, v[batch.acted], v[batch.acted + 1] * ~batch.terminated

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Take mean and spread of `returns` (n,), and let the values be what they were before."""
        mean = returns.mean()
        spread = returns.std(correction=0).clamp(min=1e-2)
        if self.spread > 0:
            self.heads.bias.mul_(self.spread).add_(self.mean - mean).div_(spread)
            self.heads.weight.mul_(self.spread / spread)
        self.mean.copy_(mean)
        self.spread.copy_(spread)


def token_logprobs(policy: nn.Module, batch: "Batch") -> tuple[Tensor, Tensor]:
    """log π of the n chosen tokens, and the entropy of π where they were chosen, (n,) each."""
    hidden = policy.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d)
    hidden = hidden.flatten(0, 1)[batch.places]  # (n, d)
    logits = policy.get_output_embeddings()(hidden).float()  # (n, V)
    logprobs = F.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()  # it is only watched
    return logprobs.gather(1, batch.tokens[:, None])[:, 0], entropy


# --- Loss ---


class Batch(NamedTuple):
    """Whole games: their m states, k turns and n chosen tokens. Places are of tokens in `ids` as one row."""

    ids: Tensor  # (W, T): W distinct windows, padded on the right; causal attention needs no mask for that
    states: Tensor  # (m,): places of the observations' last tokens; a game that was cut short has one more
    acted: Tensor  # (k,): the state of each turn; the next state of the game is acted + 1
    action_ends: Tensor  # (k,): places of the actions' last tokens
    rewards: Tensor  # (k,)
    terminated: Tensor  # (k,) bool: the last turn of a game that the rules ended
    places: Tensor  # (n,): place of the token before each chosen one
    tokens: Tensor  # (n,): the chosen tokens
    turns: Tensor  # (n,): the turn that each is part of
    padding: Tensor  # (): share of ids that is padding


def critic_losses(critic: TurnCritic, target: TurnCritic, batch: Batch, args: Args) -> dict[str, Tensor]:
    """The critic's loss and its terms on a minibatch."""
    q1, q2, v, _ = critic(batch)
    with torch.no_grad():
        target_q1, target_q2, _, next_v = target(batch)
        y = batch.rewards + args.gamma * next_v
    q_loss = (F.mse_loss(q1, y) + F.mse_loss(q2, y)) / 2 / critic.spread**2
    v_loss = F.mse_loss(v, torch.minimum(target_q1, target_q2)) / 2 / critic.spread**2
    return {"loss": q_loss + v_loss, "q_loss": q_loss, "v_loss": v_loss}


@torch.no_grad()
def turn_advantages(critic: TurnCritic, episodes: list["Episode"], args: Args) -> tuple[Tensor, ...]:
    """By game, A of its turns, whitened over the turns of all games."""
    num_turns = [sum(episode.ends_turn) for episode in episodes]
    advantages = torch.zeros(sum(num_turns), device=args.device)  # 0 for other processes' games
    by_game = advantages.split(num_turns)
    for games in devices.own_pieces(len(episodes), args):
        batch = collate([episodes[i] for i in games], args.device)
        q1, q2, v, _ = critic(batch)
        found = torch.minimum(q1, q2) - v
        lengths = [num_turns[i] for i in games]
        for i, advantage in zip(games, found.split(lengths)):
            by_game[i].copy_(advantage)
    devices.sum_over_processes([advantages])
    return whiten(advantages).split(num_turns)


def turn_returns(episode: "Episode", gamma: float) -> list[float]:
    """The discounted return-to-go of each turn, summed from the last one back."""
    returns = []
    next_return = 0.0  # after a game's last turn, whether it is over or was cut short
    for reward in reversed(episode.trajectory.rewards):
        next_return = reward + gamma * next_return
        returns.append(next_return)
    return returns[::-1]


def whiten(advantages: Tensor) -> Tensor:
    """The advantages (n,) with mean 0 and variance 1."""
    return (advantages - advantages.mean()) / (advantages.var(correction=0) + 1e-8).sqrt()


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
        turns = zip(episode.ends_turn, episode.rewards)
        ended_turn = True  # the token before
        for window in episode.windows:
            start = length * row_of.setdefault(tuple(window.ids), len(row_of))  # where its row starts
            for place in window.chosen:
                if ended_turn:
                    lists.acted.append(len(lists.states))
                    lists.states.append(start + place - 1)
                lists.places.append(start + place - 1)
                lists.tokens.append(window.ids[place])
                lists.turns.append(len(lists.rewards))  # the turn's number: its reward is appended below
                ended_turn, reward = next(turns)
                if ended_turn:
                    lists.action_ends.append(start + place)
                    lists.rewards.append(reward)
        if not episode.terminated:  # cut short: one more state, to bootstrap from
            lists.states.append(start + len(window.ids) - 1)
        lists.terminated.extend([False] * (sum(episode.ends_turn) - 1) + [episode.terminated])
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
    """Play, let the critic learn, let the policy learn, and again; then save and test."""
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
    critic = TurnCritic(policy).to(args.device)
    target = copy.deepcopy(critic)
    adamw = partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizer = adamw(policy.parameters())  # its rate is set in each iteration
    critic_optimizer = adamw(critic.parameters(), lr=args.critic_learning_rate)
    parts = {"policy": policy, "critic": critic, "target": target}
    parts |= {"optimizer": optimizer, "critic_optimizer": critic_optimizer}
    num_turns, done, buffer = 0, 0, []
    if (run.folder / "last.pt").exists():
        state = torch.load(run.folder / "last.pt", map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        num_turns, done = state["num_turns"], state["iteration"]
        buffer = devices.from_json(state["buffer"], (Episode, Window, Trajectory))
    player = devices.copy_to_play(policy, args)
    reader = Reader([player.base_model], player.get_output_embeddings(), args)
    devices.checkpoint_gradients(args, policy.base_model, critic.trunk)
    run.begin(done)

    for iteration in range(done + 1, args.num_iterations + 1):
        rng = np.random.default_rng([args.seed, iteration])
        first_seed = rng.integers(SEEDS["train"], SEEDS["eval"] - args.num_episodes)
        seeds = range(first_seed, first_seed + args.num_episodes)
        metrics, episodes = play_games(reader, envs, "charts", seeds, text, replace(args, temperature=1.0))
        metrics["charts/episodes"] = iteration * args.num_episodes
        num_turns += sum(len(episode.trajectory.rewards) for episode in episodes)

        buffer = (buffer + episodes)[-args.buffer_size :]
        returns = [value for episode in buffer for value in turn_returns(episode, args.gamma)]
        for network in (critic, target):
            network.rescale(torch.tensor(returns, device=args.device))
        lengths = [max(len(window.ids) for window in episode.windows) for episode in buffer]
        num_critic_turns = [sum(episode.ends_turn) for episode in buffer]
        order = minibatches(lengths, args.minibatch_size, args.critic_steps, (args.seed, iteration))
        for indices in tqdm(order, "training the critic", leave=False, delay=2):
            critic_optimizer.zero_grad()
            for games, share in devices.pieces(indices, num_critic_turns, args):
                batch = collate([buffer[i] for i in games], args.device)
                with devices.precision(args):
                    losses = critic_losses(critic, target, batch, args)
                (share * losses["loss"]).backward()
                run.log_piece(losses, share, batch)
            devices.sum_over_processes(parameter.grad for parameter in critic.parameters())
            critic_grad_norm = nn.utils.clip_grad_norm_(critic.parameters(), args.max_grad_norm)
            critic_optimizer.step()
            with torch.no_grad():
                for parameter, target_parameter in zip(critic.parameters(), target.parameters()):
                    target_parameter.lerp_(parameter, args.tau)
            run.log_step(critic_grad_norm=critic_grad_norm)

        # In the warm-up the rate is 0: the policy stays as it is, and what it would learn is logged.
        optimizer.param_groups[0]["lr"] = args.learning_rate * (iteration > args.warmup_iterations)
        metrics["charts/learning_rate"] = optimizer.param_groups[0]["lr"]
        episodes = [episodes[i] for i in rng.permutation(len(episodes))]
        num_chosen = [len(episode.rewards) for episode in episodes]
        with devices.precision(args):
            advantages = turn_advantages(critic, episodes, args)
        for begin in range(0, len(episodes), args.minibatch_size):
            optimizer.zero_grad()
            indices = range(len(episodes))[begin : begin + args.minibatch_size]
            for games, share in devices.pieces(indices, num_chosen, args):
                batch = collate([episodes[i] for i in games], args.device)
                with devices.precision(args):
                    logprobs, entropy = token_logprobs(policy, batch)
                by_turn = torch.cat([advantages[i] for i in games])
                loss = -(by_turn[batch.turns] * logprobs).mean()
                (share * loss).backward()
                run.log_piece({"policy_loss": loss, "entropy": entropy.mean()}, share, batch)
            devices.sum_over_processes(parameter.grad for parameter in policy.parameters())
            grad_norm = nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optimizer.step()
            run.log_step(grad_norm=grad_norm)
        devices.refresh(player, policy)
        if args.eval_every and iteration % args.eval_every == 0:
            metrics = play_games(reader, envs, "eval", run.seeds("eval"), text, args)[0] | metrics
        run.log(iteration, num_turns, metrics)
        run.stop_if_collapsed(args.collapse_margin * args.num_episodes**0.5)  # in standard errors
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"iteration": iteration, "num_turns": num_turns, "buffer": devices.to_json(buffer)}
        run.write("last.pt", partial(torch.save, state))

    try:
        run.write("critic.pt", partial(torch.save, critic.state_dict()))
        run.save_model(policy, text.tokenizer, args.max_new_tokens)
    finally:  # if saving fails, the test is still played
        metrics, tested = play_games(reader, envs, "test", run.seeds("test"), text, args)
        run.log(args.num_iterations, num_turns, metrics)
        run.save_games(tested)


if __name__ == "__main__":
    main(parse_args(Args, TUNED, PAPER, __doc__))
