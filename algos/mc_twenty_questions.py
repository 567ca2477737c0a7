"""Monte-Carlo returns (MC): offline, value-based RL of a language model on a multi-turn text game.

A game is texts obs_0, action_0, obs_1, action_1, …; each is tokenised on its own and their ids are joined. A
state is a place where the agent chooses a token x; h is the last hidden state there of the critic's own
trunk, and Q (a value for each token) is a head on h. Means are over all n tokens that were chosen in a
minibatch of games:

    G     = r + γ · G_next                                G_next: of the game's next chosen token, or 0
    L_Q   = mean of ½(Q(h)[x] - G)²
    L_CQL = mean of CE(Q(h), x)
    L     = L_Q + cql_weight · L_CQL
    acts by softmax(logits of the frozen BC policy + beta · Q(h))

r is an action's reward on its last token, else 0. γ is gamma there, and 1 on other tokens. G is thus the
discounted sum of the rewards that followed in the data: Q is the value of the players who made the data, not
of a better one. Nothing is bootstrapped. After a game's last token G_next is 0, whether the rules ended the
game or it was cut short; a cut game's G leaves out all that would have come, as in the paper, and is too high
where each turn costs something.

Source: LMRL-Gym (Abdulhai et al., arXiv 2311.18232). Deviations: the discount is per turn, not per token, so
that values do not depend on the tokenizer; the head starts at the data's mean of G, which saves the steps to
get there; the learning rate warms up and falls to 0; beta is chosen on validation games.

    SEEDS=1 bash benchmarks.sh twenty_questions filtered_bc    # the policy to start from
    python algos/mc_twenty_questions.py
    python algos/mc_twenty_questions.py --env-id maze_fo
"""

import copy
import math
import random
import sys
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, StaticLayer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a plain checkout
from envs import Env, EnvId, Trajectory, VectorEnv, devices, statistics
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
    dataset: str | None = None  # file of trajectories, ours or the original's (default: generated and cached)
    num_trajectories: int | None = 300_000  # number of trajectories to generate (None: the task's)
    # --- the algorithm
    num_iterations: int = 6  # number of iterations; after each, metrics are logged and a checkpoint is saved
    steps_per_iteration: int = 200  # gradient steps of an iteration
    minibatch_size: int = 64  # games per gradient step
    learning_rate: float = 1e-3  # learning rate of AdamW
    max_grad_norm: float = 1.0  # the gradient is scaled down to this norm
    gamma: float = 0.99  # discount of a turn
    cql_weight: float = 2.0  # weight of the CQL term
    beta: tuple[float, ...] = (1.0, 2.0, 4.0)  # weights of Q at decoding to choose from
    # --- evaluation
    eval_every: int = 3  # iterations from one evaluation on validation games to the next; 0: none
    num_eval_episodes: int = 200  # validation games
    num_test_episodes: int | None = None  # test games, at the end (default: the task's)
    num_envs: int = 512  # games played side by side
    temperature: float = 1.0  # temperature of sampling in evaluations; 0: greedy


BC = "runs/{env_id}__bc_maze__{seed}/model"  # the BC run of the same task
TUNED = {  # the other tasks' values for the models of envs/tiny, where they differ
    # Most games of the mazes' data are cut short. With less CQL, the bias of their G would decide how to act.
    "maze_fo": dict(model=BC, num_trajectories=None, num_iterations=5, cql_weight=10.0,
                    beta=(1.0, 2.0, 4.0, 8.0)),
    "maze_po": dict(model=BC, num_trajectories=None, learning_rate=3e-4,
                    cql_weight=10.0, beta=(1.0, 2.0, 4.0, 8.0)),
    **dict.fromkeys(("text_nav_fo", "text_nav_po"), dict(
        model=BC, num_trajectories=None, num_iterations=4, minibatch_size=16,
        cql_weight=0.1, beta=(4.0, 16.0, 64.0), eval_every=2)),
    "wordle": dict(num_trajectories=1_000_000, num_iterations=12, steps_per_iteration=500, minibatch_size=128,
                   cql_weight=0.01, beta=(2.0, 4.0, 8.0, 16.0, 32.0), eval_every=6,
                   num_eval_episodes=1024, num_envs=1024),
    "chess": dict(model=BC, num_trajectories=None, num_iterations=3, minibatch_size=4, gamma=0.9,
                  beta=(1.0, 2.0), eval_every=0),
    "endgames": dict(model=BC, num_trajectories=None, num_iterations=12, minibatch_size=16, gamma=0.9,
                     eval_every=6),
    "guess_city": dict(cql_weight=0.05, beta=(2.0, 4.0, 8.0)),
    "car_dealer": dict(model=BC, num_trajectories=50_000, num_iterations=10, cql_weight=10.0,
                       beta=(1.0, 2.0, 4.0, 8.0), eval_every=5),
}
MC_PAPER = dict(num_trajectories=None, learning_rate=1e-4, minibatch_size=128, gamma=0.99,
                cql_weight=0.001)
PAPER = {  # for any other model, in place of TUNED
    **dict.fromkeys(("maze_fo", "maze_po"), dict(MC_PAPER, cql_weight=0.5, beta=(16.0,))),
    **dict.fromkeys(("text_nav_fo", "text_nav_po"), dict(MC_PAPER, beta=(4.0,))),
    "wordle": dict(
        MC_PAPER, learning_rate=3e-5, minibatch_size=32, gamma=1.0, cql_weight=0.01, beta=(64.0,)),
    "chess": dict(MC_PAPER, minibatch_size=64, cql_weight=1e-4, beta=(8.0,)),
    "endgames": dict(MC_PAPER, minibatch_size=64, cql_weight=1.0, beta=(8.0,)),
    **dict.fromkeys(("twenty_questions", "guess_city", "car_dealer"), dict(MC_PAPER, beta=(16.0,))),
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


class QCritic(nn.Module):
    """Q, a value for each token, on a trunk of its own, which starts as a copy of the policy's."""

    def __init__(self, policy: nn.Module, value: float) -> None:
        super().__init__()
        vocab_size, d = policy.get_output_embeddings().weight.shape
        self.trunk = copy.deepcopy(policy.base_model)
        self.q = value_head(d, vocab_size, value)

    def forward(self, batch: "Batch") -> Tensor:
        """Q (n, V) in a minibatch's n states."""
        hidden = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state  # (W, T, d)
        return self.q(hidden.flatten(0, 1)[batch.states])


class ValueHead(nn.Sequential):
    """Layers in float32 even where the rest is in bfloat16: values need more than 8 bits of precision."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def value_head(d: int, num_outputs: int, value: float) -> ValueHead:
    """A head of two layers whose output is `value` before training."""
    head = ValueHead(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, num_outputs))
    nn.init.zeros_(head[2].weight)
    nn.init.constant_(head[2].bias, value)
    return head


# --- Loss ---


class Batch(NamedTuple):
    """Whole games. The n tokens that were chosen in them are numbered in the order of play."""

    ids: Tensor  # (W, T): W distinct windows, padded on the right; causal attention needs no mask for that
    states: Tensor  # (n,): the place, in ids flattened, of the token before each chosen one
    tokens: Tensor  # (n,): the chosen tokens
    returns: Tensor  # (n,): G, the discounted return-to-go from each of them on
    padding: Tensor  # (): share of ids that is padding


def returns_to_go(episode: "Episode", gamma: float) -> list[float]:
    """The discounted return-to-go of each chosen token, summed from the last one back."""
    returns = []
    next_return = 0.0  # after a game's last token, whether it is over or was cut short
    for reward, ends_turn in zip(reversed(episode.rewards), reversed(episode.ends_turn)):
        discount = gamma if ends_turn else 1.0
        next_return = reward + discount * next_return
        returns.append(next_return)
    return returns[::-1]


def mc_loss(q: Tensor, tokens: Tensor, returns: Tensor, args: Args) -> dict[str, Tensor]:
    """The loss and its terms. With gradient: q (n, V); without: tokens and returns (n,)."""
    chosen_q = chosen(q, tokens)  # (n,)
    q_loss = F.mse_loss(chosen_q, returns) / 2
    cql_loss = F.cross_entropy(q, tokens)
    return {
        "loss": q_loss + args.cql_weight * cql_loss,
        "q_loss": q_loss,
        "cql_loss": cql_loss,
        "q": chosen_q.mean(),
    }


def chosen(q: Tensor, tokens: Tensor) -> Tensor:
    """Of q (n, V), the values (n,) of the tokens (n,)."""
    return q.gather(1, tokens[:, None])[:, 0]


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


def encode(games: list[Trajectory], env: Env, text: Text, args: Args) -> list[Episode]:
    """The games of the data as tokens. Sets `max_new_tokens` if it was not given."""
    lengths = (len(text.encode(action)) for game in games for action in game.texts[1::2])
    longest_action = settle_action_length(lengths, args)
    episodes = []
    for game in tqdm(games, "tokenising", leave=False, delay=2):
        episode = Episode(env.markov, args.max_length, longest_action)
        for obs, action, reward in zip(game.texts[::2], game.texts[1::2], game.rewards):
            episode.observe(text.encode(obs))
            episode.act(text.encode(action))
            episode.end_turn(reward, game.terminated, suffix=[])
        if not game.terminated and len(game.texts) % 2:
            episode.observe(text.encode(game.texts[-1]))
        episodes.append(episode)
    return episodes


def collate(episodes: list[Episode], device: str, gamma: float) -> Batch:
    """A minibatch of episodes, and what each of their tokens was followed by."""
    windows = [window for episode in episodes for window in episode.windows if window.chosen]
    length = max(window.chosen[-1] for window in windows)
    row_of = {}  # each distinct window's row in ids; equal ones, common in a maze, are computed once
    lists = Batch(*[[] for _ in Batch._fields])  # each becomes a tensor; those of ids and padding stay empty
    for window in windows:
        read = tuple(window.ids[: window.chosen[-1]])  # up to the last state
        start = length * row_of.setdefault(read, len(row_of))  # where its row starts
        for place in window.chosen:
            lists.states.append(start + place - 1)
            lists.tokens.append(window.ids[place])
    for episode in episodes:
        lists.returns.extend(returns_to_go(episode, gamma))
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
    """Train the critic, choose beta, and play the test."""
    devices.join_processes(args)
    envs = make_envs(args)
    env = envs.envs[0]
    run = Run(args, env)
    torch.manual_seed(args.seed)
    policy, text = load_model(args)
    check_model(policy, text, env, args)
    episodes = encode(run.load_games(), env, text, args)
    lengths = [max(len(window.ids) for window in episode.windows) for episode in episodes]
    num_chosen = [len(episode.rewards) for episode in episodes]
    values = [np.array(returns_to_go(episode, args.gamma)) for episode in episodes] or [[0.0]]
    critic = QCritic(policy, value=np.concatenate(values).mean()).to(args.device)
    optimizer = torch.optim.AdamW(critic.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    beta = torch.tensor(args.beta[len(args.beta) // 2], device=args.device)  # the middle one, at first

    parts = {"critic": critic, "optimizer": optimizer}
    step, done = 0, 0
    if (run.folder / "last.pt").exists():
        state = torch.load(run.folder / "last.pt", map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step, done = state["step"], state["iteration"]
    player = devices.copy_to_play(policy, args)
    player_trunk = devices.copy_to_play(critic.trunk, args)
    devices.checkpoint_gradients(args, critic.trunk)

    def steered_logits(policy_hidden: Tensor, critic_hidden: Tensor) -> Tensor:
        return player.get_output_embeddings()(policy_hidden) + beta * critic.q(critic_hidden)

    reader = Reader([player.base_model, player_trunk], steered_logits, args)
    run.begin(done)

    for iteration in range(done + 1, args.num_iterations + 1):
        order = minibatches(lengths, args.minibatch_size, args.steps_per_iteration, (args.seed, iteration))
        for indices in tqdm(order, "training", leave=False, delay=2):
            step += 1
            warm_up = min(1.0, step / 100)
            decay = 1 - (step - 1) / (args.num_iterations * args.steps_per_iteration)
            optimizer.param_groups[0]["lr"] = args.learning_rate * warm_up * decay
            optimizer.zero_grad()
            for piece, share in devices.pieces(indices, num_chosen, args):
                batch = collate([episodes[i] for i in piece], args.device, args.gamma)
                with devices.precision(args):
                    losses = mc_loss(critic(batch), batch.tokens, batch.returns, args)
                (share * losses["loss"]).backward()
                run.log_piece(losses, share, batch)

            devices.sum_over_processes(parameter.grad for parameter in critic.parameters())
            grad_norm = nn.utils.clip_grad_norm_(critic.parameters(), args.max_grad_norm)
            optimizer.step()
            run.log_step(grad_norm=grad_norm)
        devices.refresh(player_trunk, critic.trunk)

        metrics = {"charts/learning_rate": optimizer.param_groups[0]["lr"]}
        if args.eval_every and iteration % args.eval_every == 0:
            metrics |= play_games(reader, envs, "eval", run.seeds("eval"), text, args)[0]
        run.log(iteration, step, metrics)
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"iteration": iteration, "step": step, "by_beta": None}
        run.write("last.pt", partial(torch.save, state))

    if state["by_beta"] is None:  # validation games with each beta, unless last.pt has them
        state["by_beta"] = {}
        for value in args.beta:
            beta.fill_(value)
            state["by_beta"][value], _ = play_games(reader, envs, "eval", run.seeds("eval"), text, args)
        run.write("last.pt", partial(torch.save, state))
    for value, metrics in state["by_beta"].items():
        run.log(args.num_iterations, step, metrics | {"eval/beta": value})
    returns = {value: metrics["eval/episodic_return"] for value, metrics in state["by_beta"].items()}
    best = max(returns, key=returns.get)
    beta.fill_(best)
    try:
        run.write("critic.pt", partial(torch.save, {"critic": critic.state_dict(), "beta": best}))
        run.save_model(policy, text.tokenizer, args.max_new_tokens)  # as it was: the critic has learned
    finally:  # if saving fails, the test is still played
        metrics, tested = play_games(reader, envs, "test", run.seeds("test"), text, args)
        run.log(args.num_iterations, step, metrics | {"test/beta": best})
        run.save_games(tested)


if __name__ == "__main__":
    main(parse_args(Args, TUNED, PAPER, __doc__))
