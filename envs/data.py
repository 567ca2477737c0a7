"""The offline data: generated trajectories and their cache, and the files that trajectories are read from."""

import codecs
import gzip
import hashlib
import json
import os
import random
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from tqdm import tqdm

from envs import Env, Trajectory

# Elsewhere by LMRL_DATA, where the checkout is read-only, say.
DATA_DIR = Path(os.environ.get("LMRL_DATA") or Path(__file__).resolve().parent.parent / "data")


def load_dataset(env: Env, path: str | None = None, num_trajectories: int | None = None, seed: int = 0,
                 **options: str) -> Iterator[Trajectory]:
    """Stream the trajectories of a file, or those that `env` generates, cached in DATA_DIR.

    A file is our own JSONL, a JSON array of such records, or a file of the original LMRL-Gym release, recognised by
    content; it may be packed with gzip. Raises FileNotFoundError, or ValueError with the file, the line and what was
    expected there. `options` are those that `env` was made with.
    """
    if path is not None:
        return read_file(env, _existing(path))
    cache = DATA_DIR / _cache_name(env, num_trajectories, seed, options)
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):  # of two runs that need the same data, the second waits for the first
        if cache.exists() and not _is_whole(cache):
            warnings.warn(f"{cache} is damaged; generating it again", stacklevel=2)
            cache.unlink()
        if not cache.exists():
            _generate(env, env.num_trajectories if num_trajectories is None else num_trajectories, seed, cache)
    return read_file(env, cache)


def load_shuffled(env: Env, path: str | None, num_trajectories: int | None, seed: int,
                  **options: str) -> list[Trajectory]:
    """All that `load_dataset` streams, in an order that depends on `seed`."""
    source = load_dataset(env, path, num_trajectories, **options)
    trajectories = list(tqdm(source, "reading", leave=False, delay=2))
    random.Random(seed).shuffle(trajectories)
    return trajectories


def settle_action_length(lengths: Iterable[int], args: Any) -> int:
    """The most tokens of an action in the data (`lengths`) or in play; sets `max_new_tokens` if it was not given.

    Exits with a sentence if a window has no room for such an action, a token before it and a newline after it.
    """
    longest = max(lengths, default=1)
    args.max_new_tokens = args.max_new_tokens or longest
    longest = max(longest, args.max_new_tokens)
    if longest + 2 > args.max_length:
        sys.exit(f"error: an action may have {longest} tokens, --max-length {args.max_length} has no room for it")
    return longest


def minibatches(lengths: list[int], size: int, number: int, seed: tuple[int, ...]) -> list[list[int]]:
    """Indices of the games of `number` minibatches of `size`; no game comes twice before all have come once.

    Where the games' `lengths` differ much, long ones share minibatches with long ones, which spares padding. Exits with
    a sentence if there are no games.
    """
    if not lengths:
        sys.exit("error: no game is left to learn from")
    rng = random.Random(f"minibatches {seed}")
    size = min(size, len(lengths))
    batches: list[list[int]] = []
    while len(batches) < number:
        wanted = min((number - len(batches)) * size, len(lengths) // size * size)
        order = rng.sample(range(len(lengths)), wanted)
        if sum(lengths) < 0.75 * len(lengths) * max(lengths):
            order.sort(key=lengths.__getitem__)
        epoch = [order[i : i + size] for i in range(0, wanted, size)]
        rng.shuffle(epoch)
        batches += epoch
    return batches


def fingerprint(env: Env, path: str | None = None, num_trajectories: int | None = None, seed: int = 0,
                **options: str) -> str:
    """Name and digest of what `load_dataset` would stream, before any of it is generated; raises as it does."""
    if path is None:
        return _cache_name(env, num_trajectories, seed, options)
    return f"{Path(path).name} {digest([_existing(path)])}"


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' contents one after the other, read in blocks: a model may be larger than the memory."""
    sha256 = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            for block in iter(lambda file=file: file.read(1 << 20), b""):
                sha256.update(block)
    return sha256.hexdigest()


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no dataset file {path}")
    return Path(path)


def _cache_name(env: Env, num_trajectories: int | None, seed: int, options: dict[str, str]) -> str:
    """Holds a digest of the code and of the files that make the data: if they change, so does the name."""
    num_trajectories = env.num_trajectories if num_trajectories is None else num_trajectories
    if num_trajectories < 1:
        raise ValueError("num_trajectories must be at least 1")
    module = Path(sys.modules[type(env).__module__].__file__)
    code = sorted(module.parent.glob("*.py")) if module.name == "__init__.py" else [module]
    sources = [file.read_bytes() for file in code]
    sources += [json.dumps(options).encode(), json.dumps(env.about()).encode()]
    files = [*env.files, *(Path(value) for value in options.values() if Path(value).is_file())]
    sources += [file.read_bytes() for file in files]
    mark = hashlib.sha256(b"\0".join(sources)).hexdigest()[:8]
    return f"{env.env_id}-{num_trajectories}-{seed}-{mark}.jsonl"


def flag(value: Any) -> bool:
    """A flag of a file; raises ValueError for anything but true and false: `"false"` would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.60} instead of true or false")
    return value


def _generate(env: Env, num_trajectories: int, seed: int, path: Path) -> None:
    """Write the offline dataset. A process that was stopped has left the first part of it: it resumes there."""
    part, sha256, count, size = path.with_suffix(".part"), hashlib.sha256(), 0, 0
    with part.open("a+b") as file:
        file.seek(0)
        for line in file:
            if not line.endswith(b"\n") or line.startswith(b'{"env_id"'):
                break  # it was stopped within this line, or right after the last one
            sha256.update(line)
            count, size = count + 1, size + len(line)
        file.truncate(size)
        trajectories = env.generate(num_trajectories, seed, count)
        shown = tqdm(trajectories, f"generating {env.env_id}", num_trajectories, initial=count, leave=False, delay=2)
        _write_lines(env, shown, file, sha256, count)
    part.replace(path)


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file or folder under a temporary name, then rename it: nothing is ever half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_file(env: Env, trajectories: Iterable[Trajectory], path: Path) -> None:
    """Write JSONL, closed by a line with count and checksum."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _write_lines(env, trajectories, file, hashlib.sha256(), 0)

    replace(path, write)


def _write_lines(env: Env, trajectories: Iterable[Trajectory], file: BinaryIO, sha256: Any, count: int) -> None:
    """Write the trajectories after `count` others, and the line that closes the file."""
    for trajectory in trajectories:
        line = json.dumps(asdict(trajectory), ensure_ascii=False).encode() + b"\n"
        sha256.update(line)
        file.write(line)
        count += 1
    footer = {"env_id": env.env_id, "count": count, "sha256": sha256.hexdigest()}
    file.write(json.dumps(footer).encode() + b"\n")


def _is_whole(path: Path) -> bool:
    """Whether the file's last line has the count and the checksum of those before it."""
    sha256, count, last = hashlib.sha256(), 0, b""
    with path.open("rb") as file:
        for line in file:
            if last:
                sha256.update(last)
                count += 1
            last = line
    try:
        footer = json.loads(last)
        return footer["count"] == count and footer["sha256"] == sha256.hexdigest()
    except (ValueError, KeyError, TypeError):
        return False


def read_file(env: Env, path: Path) -> Iterator[Trajectory]:
    """Yield a file's trajectories; raises ValueError with the file, the line and what was expected there."""
    turns: list[Trajectory] = []  # of one game
    for trajectory in _read_records(env, path):
        if turns and not env.follows(trajectory, turns[-1]):
            yield _join(turns)
            turns = []
        turns.append(trajectory)
    if not turns:
        raise ValueError(f"{path}: expected {env.env_id} trajectories, found none")
    yield _join(turns)


def _join(turns: list[Trajectory]) -> Trajectory:
    """The game that was read turn by turn, or the only trajectory."""
    if not turns[1:]:
        return turns[0]
    texts = [text for turn in turns for text in turn.texts]
    rewards = [reward for turn in turns for reward in turn.rewards]
    return Trajectory(texts, rewards, turns[-1].terminated, turns[-1].success)


def _read_records(env: Env, path: Path) -> Iterator[Trajectory]:
    """Yield what the records of a file stand for: mostly a game each, or a turn of one."""
    count, sha256, ended, number = 0, hashlib.sha256(), False, 1
    try:
        for line in _lines(path):
            if line.strip():
                if ended:
                    raise ValueError("a line after the one that closes the file")
                record, fills_file = _read_json(line, path if count == 0 else None)
                if ended := isinstance(record, dict) and "sha256" in record:
                    if (record["count"], record["sha256"]) != (count, sha256.hexdigest()):
                        raise ValueError("count and checksum of other lines than those before it")
                for trajectory in _read_record(env, record):
                    _check_observations(env, trajectory)
                    count += 1
                    yield trajectory
                if fills_file:
                    break
                sha256.update(line)
            number += 1
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        found = found if isinstance(error, (ValueError, KeyError)) else f"something else ({error})"
        raise ValueError(f"{path}, line {number}: expected a {env.env_id} trajectory, found {found}") from error


def _check_observations(env: Env, trajectory: Trajectory) -> None:
    if not env.recognises(trajectory):
        raise ValueError(f"an observation that is not one of {env.env_id} in a game that starts with "
                         f"{trajectory.texts[0][:80]!r}")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked if it is packed, without a byte-order mark."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        try:
            yield file.readline().removeprefix(codecs.BOM_UTF8)
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"a damaged gzip file ({error})") from error


def _read_json(line: bytes, path: Path | None) -> tuple[Any, bool]:
    """The JSON value of a line, or the one that fills the file `path`; and whether it was that."""
    try:
        return json.loads(line, parse_constant=_refuse), False
    except (json.JSONDecodeError, UnicodeDecodeError):
        try:
            if path:
                return json.loads(b"".join(_lines(path)), parse_constant=_refuse), True
        except (json.JSONDecodeError, UnicodeDecodeError):
            pass
        raise ValueError(f"a line that is not JSON: {line[:60].decode(errors='replace')!r}") from None


def _refuse(constant: str) -> None:
    """NaN, Infinity or -Infinity, which Python's json would read although they are not JSON."""
    raise ValueError(f"{constant} instead of a finite number")


def _read_record(env: Env, record: Any) -> list[Trajectory]:
    if isinstance(record, dict) and "sha256" in record:
        if record["env_id"] != env.env_id:
            raise ValueError(f"a dataset of {record['env_id']}")
        return []
    if isinstance(record, dict) and "texts" in record:
        return [Trajectory(**record)]
    if isinstance(record, list) and record and isinstance(record[0], dict) and "texts" in record[0]:
        return [trajectory for own in record for trajectory in _read_record(env, own)]
    return env.parse(record)
