"""A run of a script: its arguments, its folder and its log. Nothing here imports torch.

The folder `runs/{env_id}__{exp_name}__{seed}` holds args.json (the arguments as they ran, with commit, versions and
machine), metrics.jsonl, last.pt (what `--resume` needs), model/, critic.pt where there is a critic, and episodes.jsonl
(the games of the test). A script without `num_iterations` trains nothing and leaves neither last.pt nor model/: its
model's answers are kept elsewhere, so that it can play from the start again when it is resumed. The environment
variable LMRL_RUNS names another folder than runs/.
"""

import ctypes
import inspect
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cache, partialmethod
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import tyro
from filelock import FileLock, Timeout
from tqdm import tqdm

from envs import SEEDS, Env, Trajectory, VectorEnv
from envs import data as offline_data
from envs.devices import RANK, WORLD_SIZE, sum_over_processes

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(os.environ.get("LMRL_RUNS") or ROOT / "runs")

# The values that an argument may have: at least and at most; of an argument that is not named here, at least 0.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_length", "max_new_tokens", "num_trajectories", "num_iterations"), (1, math.inf)),
    **dict.fromkeys(("max_answer_tokens", "max_tokens"), (1, math.inf)),
    **dict.fromkeys(("steps_per_iteration", "minibatch_size", "num_episodes"), (1, math.inf)),
    **dict.fromkeys(("update_epochs", "num_envs", "num_eval_episodes", "num_test_episodes"), (1, math.inf)),
    **dict.fromkeys(("buffer_size", "critic_steps", "num_groups", "micro_batch_size"), (1, math.inf)),
    "group_size": (2, math.inf),  # a game is compared with the others of its group
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "expectile", "clip_coef", "top_fraction"), (0, 1)),
    "seed": (0, 2**32 - 1),
}
POSITIVE = ("learning_rate", "critic_learning_rate", "max_grad_norm", "top_fraction")  # 0 is out of their range as well
# What may differ when a run is resumed; of a finished one also how the test is played.
FREE = {"resume", "device", "track", "num_iterations", "micro_batch_size", "gradient_checkpointing", "max_tokens",
        "max_cost", "price_per_million_input", "price_per_million_output"}
FREE_IN_TEST = FREE | {"dtype", "temperature", "num_test_episodes", "num_envs", "env_options"}

# What may tell why returns collapsed: one of them moves first.
SIGNALS = {"losses/entropy", "losses/grad_norm", "losses/clipfrac", "losses/kl_ref", "charts/invalid_actions",
           "charts/episodic_return_se"}

ArgsType = TypeVar("ArgsType")


def parse_args(args_class: type[ArgsType], tuned: dict[str, dict], paper: dict[str, dict], doc: str) -> ArgsType:
    """Read the command line; exits with a sentence where a value is out of range.

    What is not given is as `tuned` has it for the task, or as `paper` has it if the model is not one of ours; else as
    the class has it. Of a run that is resumed it is as it was.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal may know fewer letters than our texts have; a file is to show each line at once.
        stream.reconfigure(errors="replace", line_buffering=True)
    if RANK > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    given, _ = tyro.cli(args_class, add_help=False, return_unknown_args=True)
    defaults = replace(args_class(), env_id=given.env_id, **tuned.get(given.env_id, {}))
    asked = given.model != args_class().model
    model = find_model(given if asked else replace(defaults, seed=given.seed))
    if (asked or model.exists()) and not is_ours(model):
        defaults = replace(args_class(), env_id=given.env_id, model=defaults.model, **paper.get(given.env_id, {}))
    saved = run_folder(given) / "args.json"
    if given.resume and saved.exists():
        with refusing(f"cannot read {saved}"):
            known = json.loads(saved.read_text(encoding="utf-8"))["args"]
            lists = {name for name, value in asdict(defaults).items() if isinstance(value, tuple)}
            known = {name: tuple(value) if name in lists else value for name, value in known.items()}
        if known.keys() != asdict(defaults).keys():
            sys.exit(f"error: {saved.parent} is a run of another script, or of another version of this one")
        defaults = args_class(**known)
    args = tyro.cli(args_class, description=doc, default=defaults)
    check_ranges(args)
    return args


def check_ranges(args: Any) -> None:
    """Exit with a sentence that names the first argument that is out of its range."""
    for name, values in asdict(args).items():
        flag = f"--{name.replace('_', '-')}"
        if values == ():
            sys.exit(f"error: {flag} needs a value")
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            low, high = RANGES.get(name, (0, math.inf))
            if not low <= value <= high or math.isinf(value) or name in POSITIVE and value == 0:
                allowed = f"above {low}" if name in POSITIVE else f"at least {low}"
                allowed += "" if math.isinf(high) else f" and at most {high}"
                sys.exit(f"error: {flag} must be {allowed}, not {value}")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Exit with one sentence, `what` and the reason, if anything goes wrong inside: it is the user's to mend."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        sys.exit(f"error: {what}: {reason or type(error).__name__}")


def run_folder(args: Any) -> Path:
    """Where the run's files are."""
    return RUNS / f"{args.env_id}__{args.exp_name}__{args.seed}"


def is_ours(model: Path) -> bool:
    """Whether this is one of the models of envs/tiny/, trained or not: for them, TUNED has the hyper-parameters."""
    config = model / "config.json"
    return config.is_file() and "lmrl_gym_task" in json.loads(config.read_text(encoding="utf-8"))


def find_model(args: Any) -> Path:
    """The folder that `--model` names: runs/ is where LMRL_RUNS says, envs/ is in the checkout."""
    model = args.model.replace("{env_id}", args.env_id).replace("{seed}", str(args.seed))
    for start, place in (("runs/", RUNS), ("envs/", ROOT / "envs")):
        folder = place / model.removeprefix(start)
        if model.startswith(start) and (folder.exists() or not Path(model).exists()):
            return folder
    return Path(model)


def start_model(args: Any) -> tuple[str, bool]:
    """The name or folder to load the model from, and whether it is one of envs/tiny/ that has no weights yet.

    Exits with a sentence where it is the model of a run that is not there, is not finished or is of another task.
    """
    folder = find_model(args)
    run = folder.parent
    name = run.name.split("__")
    if folder.name == "model" and len(name) == 3 and not folder.is_dir():
        task, exp_name, seed = name
        begun = (run / "args.json").exists()
        command = f"SEEDS={seed} bash benchmarks.sh {task} {exp_name}"
        if exp_name not in ("bc_maze", "filtered_bc"):
            command = f"python algos/bc_maze.py --env-id {task} --exp-name {exp_name} --seed {seed}"
            command += " --resume" if begun else ""
        hint = "its run is not finished; resume it" if begun else "train it first"
        sys.exit(f"error: there is no model {folder}; {hint}: {command}")
    config = folder / "config.json"
    if not config.is_file():
        return folder.as_posix(), False
    with refusing(f"cannot read the task of {folder}"):
        task = json.loads(config.read_text(encoding="utf-8")).get("lmrl_gym_task", args.env_id)
        if (run / "args.json").exists():
            task = json.loads((run / "args.json").read_text(encoding="utf-8"))["args"]["env_id"]
    if task != args.env_id:
        sys.exit(f"error: --model {folder} is a model of {task}, not of {args.env_id}")
    return folder.as_posix(), is_ours(folder) and not list(folder.glob("*.safetensors"))


def model_digest(args: Any) -> str:
    """Digest of the files in the folder that `--model` names; empty if it names no folder."""
    files = [path for path in sorted(find_model(args).glob("*")) if path.suffix in (".json", ".safetensors")]
    return offline_data.digest(files)[:16] if files else ""


def make_envs(args: Any) -> VectorEnv:
    """The games to play; exits with a sentence if an option of the task is wrong or its opponent is not there."""
    with refusing(f"cannot play {args.env_id}"):
        return VectorEnv(args.env_id, args.num_envs, **args.env_options)


def set_length(args: Any, name: str, config: Any) -> None:
    """Set `max_length` if it was not given; exits with a sentence if the model `name` has fewer positions."""
    limit = getattr(config, "max_position_embeddings", None) or 1024
    args.max_length = args.max_length or min(limit, 1024)
    if args.max_length > limit:
        sys.exit(f"error: --max-length {args.max_length} is beyond the {limit} positions of {name}")


@cache
def cache_name(model_class: Any) -> str:
    """What the model's `forward` calls its key/value cache: transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(model_class.forward).parameters else "past_key_values"


def check_texts(env: Env, text: Any, args: Any) -> list[int]:
    """`max_length` tokens: those of a game, repeated. Raises ValueError if the tokenizer does not suit such games."""
    game = next(env.generate(1, args.seed))
    parts = [text.encode(words) for words in game.texts]
    if [text.decode(part) for part in parts] != game.texts:
        raise ValueError("its tokenizer changes the text of a game")
    if not any(text.ends_line):
        raise ValueError("none of its tokens ends a line, and so an action")
    action = args.max_new_tokens or max(map(len, parts[1::2]))
    turn = max(map(len, parts[::2])) + action + 1
    if turn > args.max_length:
        raise ValueError(f"a turn has {turn} tokens, --max-length is {args.max_length}")
    return (sum(parts, []) * args.max_length)[: args.max_length]


class Run:
    """The folder and the log of a run. Exits with a sentence where another run is in the way.

    `finished`: its test is over; playing it again changes none of its files.
    """

    def __init__(self, args: Any, env: Env) -> None:
        self.args, self.env = args, env
        args.num_test_episodes = args.num_test_episodes or env.num_test_episodes
        if getattr(args, "dtype", "") is None:
            args.dtype = "bfloat16" if args.device.startswith("cuda") else "float32"
        self.folder = run_folder(args)
        self.file_lock = FileLock(self.folder / ".lock")
        self.rows: list[dict[str, float]] = []
        self.steps: list[dict[str, Any]] = []  # of the iteration: the losses of each gradient step
        self.step_ends: list[tuple[float, int]] = []  # and when it ended, with its number of tokens
        self.losses: dict[str, Any] = {}  # of the gradient step's pieces until now
        self.num_tokens = 0  # in them
        self.finished, self.data, self.wandb = False, "", None
        self.model_digest = model_digest(args)
        before: dict[str, Any] = {}
        self.trains = hasattr(args, "num_iterations")
        begun = ("last.pt", "model") if self.trains else ("args.json",)  # what there is of a run to be resumed
        if any((self.folder / name).exists() for name in begun):
            if not args.resume:
                self.lock()
                sys.exit(f"error: {self.folder} holds a run: continue it with --resume, name another --exp-name or "
                         "--seed, or delete the folder")
            with refusing(f"{self.folder} cannot be resumed, it is damaged"):
                (self.folder / begun[0]).stat()
                before = json.loads((self.folder / "args.json").read_text(encoding="utf-8"))
                self.rows = self.read_rows()
                self.finished = self.is_finished(before["args"]["num_iterations"] if self.trains else None)
        elif args.resume:
            print(f"{self.folder.name}: there is no such run to be resumed; it begins now", flush=True)
        if not self.finished:
            if hasattr(args, "dataset"):  # the scripts that learn from games that they play have none
                with refusing(f"--dataset {args.dataset}" if args.dataset else "the data cannot be generated"):
                    self.data = offline_data.fingerprint(env, args.dataset, args.num_trajectories, **args.env_options)
            if self.folder.exists():
                self.lock()
        if before:
            self.check_unchanged(before)
        self.writes = RANK == 0 and not self.finished
        if args.track and self.writes:
            with refusing("--track"):
                import wandb  # only here: nothing else needs it

                self.wandb = wandb
        self.start = time.time()
        keep_freed_memory()

    def lock(self) -> None:
        """Make the folder and keep other runs out of it; exits with a sentence if one is in it."""
        if RANK > 0:
            return
        with refusing(f"cannot write to {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.file_lock.acquire(timeout=0)
            except Timeout:
                sys.exit(f"error: {self.folder} is in use by another process; name another --exp-name or --seed")

    def is_finished(self, num_iterations: int | None) -> bool:
        """Whether all that the run was to leave is there, and no more iterations are wanted than it had."""
        tested = any("test/episodic_return" in row for row in self.rows)
        names = ("model", "episodes.jsonl") if self.trains else ("episodes.jsonl",)
        saved = all((self.folder / name).exists() for name in names)
        return tested and saved and getattr(self.args, "num_iterations", None) == num_iterations

    def check_unchanged(self, before: dict[str, Any]) -> None:
        """Exit with a sentence if the run was another one `before`, as its args.json has it."""
        old, new, free = before["args"], asdict(self.args), FREE_IN_TEST
        if not self.finished:
            old = old | before["env"] | {"data": before["data"]}
            new = new | self.env.about() | {"data": self.data}
            free = FREE if self.trains else FREE_IN_TEST
        old, new = old | {"start_model": before.get("start_model")}, new | {"start_model": self.model_digest}
        new = json.loads(json.dumps(new))
        changed = [f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in old | new
                   if old.get(name) != new.get(name) and name not in free]
        trained = max((row["iteration"] for row in self.rows), default=0)
        if self.trains and self.args.num_iterations < trained:
            changed.append(f"num_iterations is {new['num_iterations']}, and there have been {trained}")
        if changed:
            sys.exit(f"error: {self.folder} cannot be resumed, something has changed: {'; '.join(changed)}")

    def read_rows(self) -> list[dict[str, float]]:
        """The rows of metrics.jsonl; a last line that was being written is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def about(self) -> dict[str, Any]:
        """What a result depends on."""
        return {"args": asdict(self.args), "env": self.env.about(), "data": self.data,
                "start_model": self.model_digest, "commit": commit(),
                "versions": versions(), "machine": machine()}

    def begin(self, iteration: int = 0) -> None:
        """Start to write, when all arguments have their values: args.json, and what was logged up to `iteration`."""
        # What follows the training is logged again.
        self.rows = [row for row in self.rows if row["iteration"] <= iteration and "losses/grad_norm" in row]
        minutes = self.rows[-1]["charts/minutes"] if self.rows else 0.0
        self.start = time.time() - 60 * minutes
        if not self.writes:
            return
        self.lock()
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        self.write("metrics.jsonl", lambda path: path.write_text(text, encoding="utf-8"))
        self.write("args.json", lambda path: path.write_text(json.dumps(self.about(), indent=1), encoding="utf-8"))
        if self.wandb:
            name = self.folder.name
            with refusing("--track"):
                self.wandb.init(project="lmrl-gym", name=name, id=name, config=asdict(self.args), resume="allow",
                                dir=self.folder)
                self.wandb.define_metric("*", step_metric="global_step")  # several rows may have one

    def seeds(self, split: str) -> range:
        """The seeds of the validation games (`split` "eval") or of the test games ("test")."""
        number = self.args.num_eval_episodes if split == "eval" else self.args.num_test_episodes
        return range(SEEDS[split], SEEDS[split] + number)

    def load_games(self) -> list[Trajectory]:
        """The offline data, shuffled; none if the run is finished and there is nothing to learn."""
        if self.finished:
            return []
        self.lock()
        args = self.args
        with refusing(f"--dataset {args.dataset}") if args.dataset else nullcontext():
            return offline_data.load_shuffled(self.env, args.dataset, args.num_trajectories, args.seed,
                                              **args.env_options)

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Let `write` make a file or folder of the run under a temporary name, then rename it."""
        if self.writes:
            offline_data.replace(self.folder / name, write)

    def save_model(self, policy: Any, tokenizer: Any, max_new_tokens: int) -> None:
        """Write model/, which `AutoModelForCausalLM.from_pretrained` reads."""

        def write(folder: Path) -> None:
            policy.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        # A new configuration: transformers refuses to save some of those that it has loaded.
        policy.generation_config = type(policy.generation_config)(max_new_tokens=max_new_tokens, do_sample=True)
        self.write("model", write)

    def save_games(self, episodes: list[Any]) -> None:
        """Write the test's games to episodes.jsonl, in the format that `--dataset` reads; show one."""
        games = [episode.trajectory for episode in episodes]
        lines = str(games[0]).split("\n")
        if len(lines) > 40:
            lines[20:-19] = [f"… ({len(lines) - 39} more lines)"]
        print("\nThe first game of the test:", *lines, sep="\n", flush=True)
        if self.writes:
            offline_data.write_file(self.env, games, self.folder / "episodes.jsonl")

    def log_piece(self, losses: dict[str, Any], share: float, batch: Any) -> None:
        """Keep the losses of a piece of a minibatch, which is that `share` of it in all processes."""
        for name, value in (losses | {"padding": batch.padding}).items():
            self.losses[name] = self.losses.get(name, 0.0) + share * value.detach()
        self.num_tokens += batch.ids.numel()

    def log_step(self, **norms: Any) -> None:
        """The pieces until now made a gradient step, with these `norms`; `log` logs means over steps, and their speed.

        The norms are the same in all processes.
        """
        self.steps.append(self.losses | {name: norm.detach() / WORLD_SIZE for name, norm in norms.items()})
        self.step_ends.append((time.time(), self.num_tokens * WORLD_SIZE))
        self.losses, self.num_tokens = {}, 0

    def log(self, iteration: int, global_step: int, metrics: dict[str, Any]) -> None:
        """Print the metrics, append them to metrics.jsonl and send them to wandb.

        With them goes the mean over the gradient steps since the last call, as losses/…. Values are numbers or tensors
        of one. Exits with a sentence, before anything is written, if one of them is not finite.
        """
        sum_over_processes(value for losses in self.steps for value in losses.values())
        steps = [{"perf/padding" if name == "padding" else f"losses/{name}": float(value)
                  for name, value in losses.items()} for losses in self.steps]
        metrics = {name: float(value) for name, value in metrics.items()}
        for number, values in enumerate([*steps, metrics], 1):
            for name, value in values.items():
                if not math.isfinite(value):
                    step = f"gradient step {number} of " if number <= len(steps) else ""
                    sys.exit(f"error: {name} is {value} in {step}iteration {iteration}; the files of the iteration "
                             "before are kept")
        row = {"iteration": iteration, "global_step": global_step}
        for name in dict.fromkeys(name for step in steps for name in step):  # steps may be of two models
            values = [step[name] for step in steps if name in step]
            row[name] = sum(values) / len(values)
        row |= metrics | {"charts/minutes": (time.time() - self.start) / 60}
        if steps:
            (start, _), (end, _) = self.step_ends[0], self.step_ends[-1]
            num_tokens = sum(tokens for _, tokens in self.step_ends[1:])
            row["perf/train_tokens_per_second"] = num_tokens / max(end - start, 1e-9)
            before = self.rows[-1] if self.rows else {"global_step": 0, "charts/minutes": 0.0}
            seconds = 60 * (row["charts/minutes"] - before["charts/minutes"])
            row["charts/SPS"] = (global_step - before["global_step"]) / max(seconds, 1e-9)
        self.steps, self.step_ends = [], []
        shown = "  ".join(f"{name} {value if isinstance(value, int) else f'{value:.4g}'}"
                          for name, value in row.items() if "perf/" not in name)
        shown = re.sub(r"  \w+/episodic_return_se", " ±", shown)
        tqdm.write(f"{self.folder.name}: {re.sub('(charts|losses)/', '', shown)}")
        self.rows.append(row)
        if not self.writes:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.wandb:
            self.wandb.log(row)

    def stop_if_collapsed(self, margin: float, patience: int = 5) -> None:
        """Exit if the newest returns are all below the first by `margin` of its standard errors; say what moved first.

        A signal has moved when it is three times as large or as small as in the first iteration.
        """
        rows = [row for row in self.rows if "charts/episodic_return" in row]
        floor = rows[0]["charts/episodic_return"] - margin * rows[0]["charts/episodic_return_se"]
        if len(rows) <= patience or any(row["charts/episodic_return"] >= floor for row in rows[-patience:]):
            return
        moved = "none of the signals has moved much"
        for row in reversed(rows):
            for name in sorted(SIGNALS & row.keys()):
                if not 1 / 3 < (row[name] + 1e-3) / (rows[0][name] + 1e-3) < 3:
                    moved = f"{name} moved first, from {rows[0][name]:.3g} to {row[name]:.3g} in {row['iteration']}"
        sys.exit(f"error: the returns have collapsed, and the run stops; {moved}")


def commit() -> str:
    """The commit of the checkout, with a mark if files were changed since; empty where git does not know."""
    try:
        described = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=ROOT,
                                   capture_output=True, text=True)
    except OSError:
        return ""
    return described.stdout.strip()


def versions() -> dict[str, str]:
    """The versions that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, and how many threads it was told to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    processor = names[0] if names else platform.processor()
    return {"processor": processor, "cores": cores, "threads": os.environ.get("OMP_NUM_THREADS", str(cores))}


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks: half of the time of a small model goes into asking the system for others."""
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3
        for option in (m_trim_threshold, m_mmap_threshold):
            ctypes.CDLL(None).mallopt(option, 2**31 - 1)
