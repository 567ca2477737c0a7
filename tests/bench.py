"""How fast the scripts play and learn: a benchmark, not a test, since other work on the machine changes its numbers.

    python tests/bench.py                                       what suits the device: some minutes
    python tests/bench.py --sizes tiny --tasks wordle --pairs 5
    python tests/bench.py --sizes gpt2 --tasks maze_fo --device cuda --dtype bfloat16 --num-envs 256 1024
    python tests/bench.py --sizes 16M --tokenizer FOLDER        natural tokens of this tokenizer

Numbers of different runs cannot be compared; ratios within a run can. So everything is measured in pairs, one after
the other in turns, and what is printed is the median of the pairs' ratios, with the lowest and the highest. With
OMP_NUM_THREADS=1 on the CPU a second is one of the process's own, so that other work on the machine matters less.

*The ordinary way*, for playing: one `model.generate` a turn for all games that are not over, on what was said so far,
encoded again and padded on the left. For training: the model's own loss on right-padded rows, with labels.

*The bound*: no one who plays these games side by side, a token a pass, can be faster than this. Each pass reads all
weights, and of each game the keys and values that it has; there are as many passes as the longest game has chosen
tokens; each token that is read or chosen costs its floating-point operations. MBU is the share of the measured copy
rate at which those bytes were read, MFU the share of the measured matmul rate at which those operations were done; the
bound is the slower of the two. Where several games are in the same state, as in a maze, the scripts compute it once, so
that they can be faster. A small model cannot reach the rate of large matrices: *own shapes* is the time of its training
step's matrix products alone, forward and backward, as a share of the step.

*vLLM*, where it is installed and there is a GPU: one call a turn, as above, with its prefix cache. This part has never
been run; it is written after vLLM's documentation.

A policy that talks nonsense would play other games. So each is first taught on some of the data, and kept in
runs/bench/ (or where LMRL_RUNS says). Natural tokens are those of a byte-level BPE that is trained on the task's texts,
a word or a piece of one each; the vocabulary is filled up with tokens that never occur.
"""

import gc
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a plain checkout
from algos import bc_maze as script  # noqa: E402
from envs import EnvId, Trajectory, VectorEnv, make  # noqa: E402
from envs.run import ROOT, RUNS, keep_freed_memory, machine, versions  # noqa: E402

Size = Literal["tiny", "16M", "gpt2", "0.6B"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NONE = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=True)
SHAPES = {  # of the models with natural tokens; weights are drawn
    "16M": LlamaConfig(vocab_size=49_152, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
                       intermediate_size=768, max_position_embeddings=1024, initializer_range=1 / 16, **NONE),
    "gpt2": GPT2Config(**NONE),  # GPT-2 small: 124 M
    "0.6B": LlamaConfig(vocab_size=151_936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                        head_dim=128, num_key_value_heads=8, intermediate_size=3072, max_position_embeddings=1024,
                        **NONE),
}
LEARNING_RATES = {"tiny": 2e-3, "16M": 2e-3, "gpt2": 3e-4, "0.6B": 2e-4}  # of the teaching


@dataclass
class Args:
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the models are
    sizes: tuple[Size, ...] = ()  # of the models (default: on the CPU tiny and 16M, else all)
    tasks: tuple[EnvId, ...] = ()  # default: maze_fo, wordle, twenty_questions; 16M and 0.6B only the last
    num_envs: tuple[int, ...] = ()  # games side by side (default: on the CPU 128, of 16M 64; else 256 and 1024)
    pairs: int = 5  # how often each of the two ways plays, in turns
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if torch.cuda.is_available() else "float32"  # see `Case`
    tokenizer: str | None = None  # folder of a tokenizer for natural tokens (default: trained on the task's texts)
    num_games: int = 1000  # games of the data, to learn from
    teaching_steps: int = 150  # gradient steps, before anything is measured
    training_seconds: float = 3.0  # seconds of training that are timed, for each of the two ways in each pair
    minibatch_tokens: int | None = None  # tokens of a minibatch (default: tiny, the script's minibatch; else by device)
    seed: int = 1  # seed of the weights, the data and the games


# --- Time, memory and the machine ---


def wait(device: str) -> None:
    """Wait until the device has done all it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def clock(device: str) -> float:
    """Seconds: on one thread of the CPU the process's own, so that those when others ran do not count."""
    one_thread = not device.startswith("cuda") and torch.get_num_threads() == 1
    return time.process_time() if one_thread else time.perf_counter()


def seconds(work: Callable[[], Any], device: str) -> float:
    """How long the work takes."""
    wait(device)
    start = clock(device)
    work()
    wait(device)
    return clock(device) - start


def repeated(work: Callable[[], Any], device: str, at_least: float = 0.1) -> float:
    """How long the work takes, as the mean of as many times as fill `at_least` seconds."""
    work()
    number = 1
    while True:
        taken = seconds(lambda number=number: [work() for _ in range(number)], device)
        if taken >= at_least:
            return taken / number
        number *= 2


@torch.no_grad()
def copy_rate(device: str) -> float:
    """Bytes a second, those read and those written together, when a large tensor is copied."""
    source = torch.zeros(2**28 if device.startswith("cuda") else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / repeated(lambda: target.copy_(source), device)


@torch.no_grad()
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second in the product of two large matrices."""
    size = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / repeated(lambda: a @ b, device)


@torch.no_grad()
def own_shapes_seconds(policy: nn.Module, num_tokens: int, num_chosen: int, args: Any, dtype: torch.dtype) -> float:
    """Seconds of a training step's products with weights alone: forward, and backward to inputs and weights."""
    total = 0.0
    for (rows, inputs, outputs), number in weight_shapes(policy, num_tokens, num_chosen).items():
        x = torch.randn(rows, inputs, device=args.device, dtype=dtype)
        weight = torch.randn(outputs, inputs, device=args.device, dtype=dtype)
        grad = torch.randn(rows, outputs, device=args.device, dtype=dtype)

        def products(x=x, weight=weight, grad=grad):
            return x @ weight.T, grad @ weight, grad.T @ x

        total += number * repeated(products, args.device, at_least=0.02)
    return total


def weight_shapes(policy: nn.Module, num_tokens: int, num_chosen: int) -> dict[tuple[int, int, int], int]:
    """How many layers of the policy multiply (rows, inputs) by (inputs, outputs) each, by these three numbers."""
    shapes: dict[tuple[int, int, int], int] = {}
    head = policy.get_output_embeddings()
    for module in [*policy.base_model.modules(), head]:
        if isinstance(module, Conv1D):  # GPT-2's linear layers
            inputs, outputs = module.weight.shape
        elif isinstance(module, nn.Linear):
            outputs, inputs = module.weight.shape
        else:
            continue
        shape = (num_chosen if module is head else num_tokens, inputs, outputs)
        shapes[shape] = shapes.get(shape, 0) + 1
    return shapes


def load() -> str:
    """How busy the machine is: processes that run or want to, as the mean of a minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def peak_memory(work: Callable[[], Any], device: str) -> str:
    """The most memory held on the GPU during the work; on the CPU, by the process up to now."""
    if not device.startswith("cuda"):
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait(device)
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"


# --- What the games must cost ---


@dataclass
class Work:
    """What playing some games must cost at least."""

    turns: int
    tokens: int  # read and chosen
    passes: int
    bytes: float  # of weights, keys and values that the passes read
    operations: float  # floating-point operations

    def bound(self, copy: float, matmul: float) -> float:
        """Seconds at these rates."""
        return max(self.bytes / copy, self.operations / matmul)


def work_of(games: list[Any], policy: nn.Module, num_envs: int, itemsize: int) -> Work:
    """The work of the games (script.Episode), `num_envs` side by side, with numbers of `itemsize` bytes."""
    config = policy.config
    windows = [window for game in games for window in game.windows if window.chosen]
    chosen = [len(game.rewards) for game in games]
    passes = max(max(chosen), -(-sum(chosen) // num_envs))
    weights = sum(number * inputs * outputs for (_, inputs, outputs), number in weight_shapes(policy, 1, 1).items())
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    cache = 2 * config.num_hidden_layers * key_value_heads * head_dim * itemsize  # bytes of a token
    cache_read = cache * sum(place for window in windows for place in window.chosen)
    read = sum(window.chosen[-1] for window in windows)  # the last chosen token is not read
    head = policy.get_output_embeddings().weight.numel()
    attention = 2 * config.num_hidden_layers * heads * head_dim * sum(window.chosen[-1] ** 2 for window in windows)
    operations = 2 * (weights - head) * read + 2 * head * sum(chosen) + attention
    turns = sum(sum(game.ends_turn) for game in games)
    tokens = sum(len(window.ids) for window in windows)
    return Work(turns, tokens, passes, passes * weights * itemsize + cache_read, operations)


# --- The ordinary way ---


@torch.no_grad()
def play_ordinary(policy: nn.Module, tokenizer: Any, ends_line: list[int], envs: VectorEnv, seeds: range,
                  args: Any) -> list[Trajectory]:
    """All games in lock step: a `generate` a turn, on the whole of what was said, encoded again."""
    markov = envs.envs[0].markov
    sampling = dict(do_sample=False) if args.temperature == 0 else dict(
        do_sample=True, temperature=args.temperature, top_k=0, top_p=1.0)
    said = {game: envs.reset(game, seed) for game, seed in enumerate(seeds)}
    trajectories = {}
    while said:
        batch = tokenizer(list(said.values()), return_tensors="pt", padding=True, truncation=True,
                          max_length=args.max_length - args.max_new_tokens, add_special_tokens=False)
        output = policy.generate(
            input_ids=batch["input_ids"].to(args.device),
            attention_mask=batch["attention_mask"].to(args.device),
            max_new_tokens=args.max_new_tokens,
            eos_token_id=ends_line,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
        answers = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True,
                                         clean_up_tokenization_spaces=False)
        answers = [answer[: answer.find("\n") + 1] or answer for answer in answers]  # one line each
        actions = dict(zip(said, answers, strict=True))
        for game, (obs, _, terminated, truncated, info) in envs.step(actions).items():
            action = actions[game] if actions[game].endswith("\n") else actions[game] + "\n"
            said[game] = obs if markov else said[game] + action + obs
            if terminated or truncated:
                trajectories[game] = info["trajectory"]
                del said[game]
    return [trajectories[game] for game in range(len(seeds))]


def ordinary_loss(policy: nn.Module, games: list[Any], device: str) -> Tensor:
    """The model's own loss on the games' windows (script.Episode), padded on the right; labels are the actions."""
    ids, labels = [], []
    for window in [window for game in games for window in game.windows if window.chosen]:
        ids.append(torch.tensor(window.ids))
        label = torch.full_like(ids[-1], -100)
        label[window.chosen] = ids[-1][window.chosen]
        labels.append(label)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return policy(
        input_ids=pad_sequence(ids, batch_first=True).to(device),
        attention_mask=mask.to(device),
        labels=pad_sequence(labels, batch_first=True, padding_value=-100).to(device),
        use_cache=False,
    ).loss


# --- vLLM ---


class VLLM:
    """One call a turn for all games that are not over. Never run: there was no machine with vLLM."""

    def __init__(self, folder: Path, dtype: str, max_length: int) -> None:
        from vllm import LLM, SamplingParams

        self.params = SamplingParams
        self.model = LLM(model=str(folder), dtype=dtype, max_model_len=max_length, enable_prefix_caching=True,
                         gpu_memory_utilization=0.4)

    def play(self, text: Any, ends_line: list[int], envs: VectorEnv, seeds: range, args: Any) -> list[Trajectory]:
        markov = envs.envs[0].markov
        params = self.params(temperature=1.0, max_tokens=args.max_new_tokens, stop_token_ids=ends_line, seed=seeds[0],
                             detokenize=False)
        room = args.max_length - args.max_new_tokens
        said = {game: text.encode(envs.reset(game, seed)) for game, seed in enumerate(seeds)}
        trajectories = {}
        while said:
            prompts = [{"prompt_token_ids": list(ids[-room:])} for ids in said.values()]
            outputs = self.model.generate(prompts, params, use_tqdm=False)
            chosen = {game: list(output.outputs[0].token_ids) for game, output in zip(said, outputs, strict=True)}
            results = envs.step({game: text.decode(ids) for game, ids in chosen.items()})
            for game, (obs, _, terminated, truncated, info) in results.items():
                before = [] if markov else said[game] + chosen[game]
                said[game] = before + text.encode(obs)
                if terminated or truncated:
                    trajectories[game] = info["trajectory"]
                    del said[game]
        return [trajectories[game] for game in range(len(seeds))]


# --- A case: a task and a size ---


def natural_tokenizer(games: list[Trajectory], size: int) -> Any:
    """A byte-level BPE of the games' texts, whose tokens are words and pieces of words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<pad>"],
                                  show_progress=False)
    tokenizer.train_from_iterator((text for game in games for text in game.texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", clean_up_tokenization_spaces=False)


class Case:
    """A policy that has been taught, its games and its data. Raises SystemExit as the scripts do.

    `dtype` bfloat16: both ways play with a copy of the policy in bfloat16, and train under autocast.
    """

    def __init__(self, size: str, task: str, num_envs: int, options: Args) -> None:
        self.size, self.task, self.options = size, task, options
        self.dtype = DTYPES[options.dtype]
        env = make(task)
        data: list[Trajectory] = []
        taken = seconds(lambda: data.extend(env.generate(options.num_games, options.seed)), options.device)
        self.data_rate = len(data) / taken  # games a second
        args = replace(script.Args(), env_id=task, **script.TUNED.get(task, {}))
        self.args = replace(args, device=options.device, num_envs=num_envs, seed=options.seed, temperature=1.0)
        if "dtype" in {field.name for field in fields(args)}:
            self.args.dtype = options.dtype
        name = f"{task}__{size}__{options.seed}__{options.teaching_steps}__{Path(options.tokenizer or 'bpe').name}"
        self.folder = RUNS / "bench" / name
        self.taught = (self.folder / "model.safetensors").exists()
        torch.manual_seed(options.seed)
        self.args.model = str(self.prepare(data))
        self.policy, self.text = script.load_model(self.args)
        self.games = script.encode(data, env, self.text, self.args)
        self.envs = VectorEnv(task, num_envs)
        self.ends_line = [i for i, ends in enumerate(self.text.ends_line) if ends]
        if size != "tiny" or options.minibatch_tokens:
            tokens = options.minibatch_tokens or (16_384 if options.device.startswith("cuda") else 2048)
            mean = sum(len(window.ids) for game in self.games for window in game.windows) / len(self.games)
            self.args.minibatch_size = max(1, round(tokens / mean))
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATES[size], betas=(0.9, 0.95),
                                           weight_decay=0.0)
        self.teach()
        self.batches = self.endless_batches(self.args.minibatch_size)
        # As a user of transformers would load it.
        self.tokenizer = AutoTokenizer.from_pretrained(self.args.model, padding_side="left", truncation_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.unk_token or self.tokenizer.eos_token
        self.player = self.policy
        if self.dtype != torch.float32:
            self.player = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).to(options.device).eval()
        self.reader = script.Reader([self.player.base_model], self.player.get_output_embeddings(), self.args)

    def prepare(self, data: list[Trajectory]) -> Path:
        """The folder that `--model` would name."""
        if self.taught:
            return self.folder
        if self.size == "tiny":
            return ROOT / "envs" / "tiny" / self.task
        config = SHAPES[self.size]
        if self.options.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(self.options.tokenizer)
        else:
            tokenizer = natural_tokenizer(data, config.vocab_size)
        tokenizer.save_pretrained(self.folder)
        AutoModelForCausalLM.from_config(config).save_pretrained(self.folder / "drawn")
        tokenizer.save_pretrained(self.folder / "drawn")
        return self.folder / "drawn"

    def endless_batches(self, size: int) -> Iterator[list[Any]]:
        """Minibatches of `size` games, in the order of main's."""
        lengths = [max(len(window.ids) for window in game.windows) for game in self.games]
        iteration = 0
        while True:
            iteration += 1
            for indices in script.minibatches(lengths, size, 50, (self.options.seed, iteration)):
                yield [self.games[i] for i in indices]

    def teach(self) -> None:
        """Let the policy learn until its actions are like the data's, and keep it."""
        if self.taught:
            return
        batches = self.endless_batches(min(16, max(2, self.args.minibatch_size // 4)))
        for step in range(self.options.teaching_steps):
            self.optimizer.param_groups[0]["lr"] = LEARNING_RATES[self.size] * min(1.0, (step + 1) / 20)
            self.step(next(batches))
        self.policy.save_pretrained(self.folder)
        self.text.tokenizer.save_pretrained(self.folder)

    # The scripts' way and the ordinary way, to play and to learn.

    def play(self, seeds: range) -> list[Any]:
        return script.rollout(self.reader, self.envs, seeds, self.text, self.args)

    def play_ordinary(self, seeds: range) -> list[Trajectory]:
        return play_ordinary(self.player, self.tokenizer, self.ends_line, self.envs, seeds, self.args)

    def step(self, games: list[Any]) -> int:
        """A gradient step, as `main` does it; returns the number of the games' tokens."""
        with self.autocast():
            loss = script.bc_loss(self.policy, script.collate(games, self.args.device))
        return self.update(loss, games)

    def step_ordinary(self, games: list[Any]) -> int:
        with self.autocast():
            loss = ordinary_loss(self.policy, games, self.args.device)
        return self.update(loss, games)

    def update(self, loss: Tensor, games: list[Any]) -> int:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        return sum(len(window.ids) for game in games for window in game.windows)

    def autocast(self) -> Any:
        device = torch.device(self.args.device).type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype != torch.float32)


# --- Measurements ---


@dataclass
class Ratio:
    """Ratios of the pairs."""

    values: list[float]

    def __str__(self) -> str:
        median = statistics.median(self.values)
        low, high = min(self.values), max(self.values)
        return f"**{median:.2f}** ({low:.2f}–{high:.2f})"


def in_turns(number: int, *works: Callable[[], Any]) -> Iterator[list[Any]]:
    """What the works return, `number` times; every other time the last of them comes first."""
    for i in range(number):
        order = list(enumerate(works))[:: 1 if i % 2 == 0 else -1]
        results = {j: work() for j, work in order}
        yield [results[j] for j in range(len(works))]


def median(values: list[float]) -> float:
    return statistics.median(values)


def rollouts(case: Case) -> dict[str, str]:
    """A row of the table of playing."""
    args, pairs = case.args, case.options.pairs
    on_gpu = args.device.startswith("cuda")
    n = args.num_envs
    server = None
    if on_gpu and find_spec("vllm"):
        server = VLLM(case.folder, case.options.dtype, args.max_length)

    def timed(play: Callable[[range], list]) -> Callable[[], tuple[float, range, list]]:
        blocks = (range(i * n, (i + 1) * n) for i in count())  # other games in each pair, the same for each way

        def run() -> tuple[float, range, list]:
            seeds, games = next(blocks), []
            taken = seconds(lambda: games.extend(play(seeds)), args.device)
            return taken, seeds, games
        return run

    def by_server(seeds: range) -> list[Trajectory]:
        return server.play(case.text, case.ends_line, case.envs, seeds, args)

    ways = [case.play, case.play_ordinary, *([by_server] if server else [])]
    peak = peak_memory(lambda: case.play(range(n)), args.device)
    for play in ways[1 if on_gpu else 0 :]:
        play(range(n if on_gpu else min(n, 8)))  # warm up: what a GPU does first takes longer
    turns_per_second: list[list[float]] = [[] for _ in ways]
    tokens_per_second, mbu, mfu, of_bound, environments = [], [], [], [], []
    for results in in_turns(pairs, *map(timed, ways)):
        copy, matmul = copy_rate(args.device), matmul_rate(args.device, case.dtype)
        taken, seeds, games = results[0]
        work = work_of(games, case.policy, n, case.dtype.itemsize)
        tokens_per_second.append(work.tokens / taken)
        mbu.append(work.bytes / copy / taken)
        mfu.append(work.operations / matmul / taken)
        of_bound.append(work.bound(copy, matmul) / taken)
        trajectories = [game.trajectory for game in games]
        alone = seconds(partial(replay, trajectories, case.envs, seeds), args.device)
        environments.append(alone / taken)
        turns_per_second[0].append(work.turns / taken)
        for speeds, (taken, _, others) in zip(turns_per_second[1:], results[1:], strict=True):
            speeds.append(sum(len(game.rewards) for game in others) / taken)
    ratios = [Ratio([ours / theirs for ours, theirs in zip(turns_per_second[0], speeds, strict=True)])
              for speeds in turns_per_second[1:]]
    case.turns_per_second = median(turns_per_second[0])
    case.environments = median(environments)
    lengths = [len(action) for game in games for action in actions_of(game)]
    learned = [len(action) for game in case.games for action in actions_of(game)]
    return {
        "model, task, games": f"{case.size}, {case.task}, {n}",
        "turns/s": f"{case.turns_per_second:,.0f}",
        "tokens/s": f"{median(tokens_per_second):,.0f}",
        "× ordinary": str(ratios[0]),
        "× vLLM": str(ratios[1]) if server else "not run" if find_spec("vllm") else "not installed",
        "MBU": f"{median(mbu):.1%}",
        "MFU": f"{median(mfu):.1%}",
        "of the bound": f"{median(of_bound):.1%}",
        "environments' share": f"{case.environments:.0%}",
        "turns a game": f"{work.turns / n:.1f}",
        "tokens an action (the data's)": f"{statistics.mean(lengths):.1f} ({statistics.mean(learned):.1f})",
        "peak memory": peak,
    }


def actions_of(game: Any) -> Iterator[list[int]]:
    """The tokens of each action of a game (script.Episode)."""
    action = []
    chosen = [window.ids[place] for window in game.windows for place in window.chosen]
    for token, ends in zip(chosen, game.ends_turn, strict=True):
        action.append(token)
        if ends:
            yield action
            action = []


def replay(trajectories: list[Trajectory], envs: VectorEnv, seeds: range) -> None:
    """Play these games of these seeds again, side by side; nobody has to think."""
    for game, seed in enumerate(seeds):
        envs.reset(game, seed)
    turn, left = 0, dict(enumerate(trajectories))
    while left:
        actions = {game: trajectory.texts[2 * turn + 1] for game, trajectory in left.items()}
        results = envs.step(actions)
        left = {game: left[game] for game, (_, _, terminated, truncated, _) in results.items()
                if not (terminated or truncated)}
        turn += 1


def training(case: Case) -> dict[str, str]:
    """A row of the table of training."""
    args, options = case.args, case.options

    def timed(step: Callable[[list[Any]], int]) -> Callable[[], tuple[float, int, list]]:
        def run() -> tuple[float, int, list]:
            wait(args.device)
            start, tokens, batches = clock(args.device), 0, []
            while clock(args.device) - start < options.training_seconds or not batches:
                batches.append(next(case.batches))
                tokens += step(batches[-1])
            wait(args.device)
            return clock(args.device) - start, tokens, batches
        return run

    case.step_ordinary(next(case.batches))  # warm up
    case.step(next(case.batches))
    peak = peak_memory(lambda: case.step(next(case.batches)), args.device)
    speeds, ratios, mfu, own, steps_per_second = [], [], [], [], []
    for (taken, tokens, batches), (ordinary, their_tokens, _) in in_turns(
            options.pairs, timed(case.step), timed(case.step_ordinary)):
        speeds.append(tokens / taken)
        ratios.append(speeds[-1] / (their_tokens / ordinary))
        matmul = matmul_rate(args.device, case.dtype)
        mfu.append(sum(training_operations(case.policy, batch) for batch in batches) / matmul / taken)
        shape = script.collate(batches[-1], "cpu")
        alone = own_shapes_seconds(case.policy, shape.ids.numel(), len(shape.tokens), args, case.dtype)
        again = seconds(lambda batch=batches[-1]: [case.step(batch) for _ in range(3)], args.device) / 3
        own.append(alone / again)
        steps_per_second.append(len(batches) / taken)
    case.steps_per_second = median(steps_per_second)
    return {
        "model, task, games a minibatch": f"{case.size}, {case.task}, {args.minibatch_size}",
        "tokens/s": f"{median(speeds):,.0f}",
        "× ordinary": str(Ratio(ratios)),
        "MFU": f"{median(mfu):.1%}",
        "own shapes": str(Ratio(own)),
        "step, ms": f"{1000 / case.steps_per_second:,.0f}",
        "peak memory": peak,
    }


def training_operations(policy: nn.Module, games: list[Any]) -> float:
    """Floating-point operations that a gradient step on the games needs, without padding; backward counts twice."""
    config = policy.config
    windows = [window for game in games for window in game.windows]
    windows = list({tuple(window.ids): window for window in windows}.values())
    tokens, chosen = sum(len(window.ids) for window in windows), sum(len(game.rewards) for game in games)
    linear = sum(2 * number * rows * inputs * outputs
                 for (rows, inputs, outputs), number in weight_shapes(policy, tokens, chosen).items())
    width = config.num_attention_heads * (getattr(config, "head_dim", None)
                                          or config.hidden_size // config.num_attention_heads)
    attention = 2 * config.num_hidden_layers * width * sum(len(window.ids) ** 2 for window in windows)
    return 3 * (linear + attention)


def environments(case: Case) -> dict[str, str]:
    """A row of the table of what needs no model, beside what the model does with it."""
    learned = case.steps_per_second * case.args.minibatch_size  # games a second
    steps = case.turns_per_second / case.environments
    return {
        "model, task": f"{case.size}, {case.task}",
        "environment steps/s": f"{steps:,.0f}",
        "× turns/s of playing": f"{1 / case.environments:.1f}",
        "games generated/s": f"{case.data_rate:,.0f}",
        "× games/s of training": f"{case.data_rate / learned:.2f}",
    }


# --- The report ---


def markdown(rows: list[dict[str, str]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def in_words(args: Args) -> str:
    """The machine, and what may change the numbers."""
    about, found = machine(), versions()
    where = f"{about['processor']}, {about['cores']} cores, {torch.get_num_threads()} threads"
    if args.device.startswith("cuda"):
        where = f"{torch.cuda.get_device_name(args.device)}; {where}"
    copy, matmul = copy_rate(args.device), matmul_rate(args.device, DTYPES[args.dtype])
    return (f"{where}; load {load()}; copies {copy / 1e9:.1f} GB/s, multiplies {matmul / 1e9:,.0f} GFLOP/s in "
            f"{args.dtype}; " + ", ".join(f"{name} {value}" for name, value in found.items()))


def cases(args: Args) -> Iterator[tuple[str, str, int]]:
    """Size, task and games side by side."""
    on_gpu = args.device.startswith("cuda")
    for size in args.sizes or (("tiny", "16M", "gpt2", "0.6B") if on_gpu else ("tiny", "16M")):
        few = size in ("16M", "0.6B")
        for task in args.tasks or (("twenty_questions",) if few else ("maze_fo", "wordle", "twenty_questions")):
            numbers = (256,) if size == "0.6B" else (256, 1024) if size == "gpt2" else (1024,)
            for num_envs in args.num_envs or (numbers if on_gpu else (64,) if few else (128,)):
                yield size, task, num_envs


@contextmanager
def said_if_it_fails(what: str) -> Iterator[None]:
    """A case that fails, for want of memory say, does not stop the others."""
    try:
        yield
    except (Exception, SystemExit) as error:
        failures.append(what)
        traceback.print_exc()
        print(f"{what}: {type(error).__name__}: {error}", flush=True)


failures: list[str] = []


def main(args: Args) -> None:
    """Measure each case, and print the tables."""
    failures.clear()
    logging.disable_progress_bar()
    script.tqdm = partial(tqdm, disable=True)  # bars would hide the report
    keep_freed_memory()  # as a run does
    print(in_words(args), flush=True)
    tables: list[list[dict[str, str]]] = [[], [], []]
    trained = set()  # the number of games side by side changes nothing in training
    for size, task, num_envs in cases(args):
        with said_if_it_fails(f"{size}, {task}, {num_envs} games"):
            start = time.perf_counter()
            case = Case(size, task, num_envs, args)
            print(f"{size}, {task}: ready after {time.perf_counter() - start:.0f} s", flush=True)
            measures = (rollouts,) if (size, task) in trained else (rollouts, training, environments)
            trained.add((size, task))
            for rows, measure in zip(tables, measures, strict=False):
                rows.append(measure(case))
                print("; ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        case = None
        gc.collect()
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
    print(f"\nload {load()} at the end; medians of {args.pairs} pairs (lowest–highest), seed {args.seed}\n")
    for title, rows in zip(("Playing", "Training (behaviour cloning)", "Without a model"), tables, strict=True):
        if rows:
            print(f"### {title}\n\n{markdown(rows)}")
    if failures:
        sys.exit(f"error: not measured: {'; '.join(failures)}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
