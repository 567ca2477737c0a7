"""Language models as the other side of a dialogue: the oracle that answers questions, the buyer who haggles.

A task hands over what waits for an answer, in all its games at once, and gets a line for each:

    simulator = make_simulator("http://localhost:8080/v1", model="smollm2")
    request = Request(instructions="You are thinking of a dog. Answer every question with Yes or No.",
                      texts=("Is it alive?\\n", "Yes.\\n", "Can it fly?\\n"),
                      prompt="dog\\nIs it alive?\\nYes.\\nCan it fly?\\n")
    answer, = simulator.answer([request])           # "No."

hf:NAME_OR_PATH, a transformers model of one of three kinds:
    seq2seq: is given `prompt`; greedy.
    with a chat template: is given `instructions`, and `texts` as the user's and the assistant's turns; greedy.
    any other, as the model/ of a run folder: goes on after `prompt` to the first newline, at temperature 1. Each line
        of it is tokenised on its own, without special tokens, as algos/ tokenise each text: train it on texts of one
        line, and it sees the tokens it knows. Its random numbers are drawn from `prompt`, so that the answer depends
        (but for rounding) on the dialogue alone, not on the rest of the batch.
http://HOST:PORT/v1 or https://…, a server with OpenAI's /chat/completions: is given the same turns, at temperature 0.
    A key is taken from OPENAI_API_KEY. Answers are kept in data/simulators/ by URL, model and turns: delete the file
    when a server has got other weights under the old name.

A dialogue that is longer than the model's context loses its oldest turns, never the instructions or the first line of
`prompt`: the secret is there. What a model says is data: `one_line` makes it harmless, the task decides what it means.
"""

import hashlib
import itertools
import json
import os
import random
import re
import sqlite3
import time
import unicodedata
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from typing import Any

from envs.data import DATA_DIR

MAX_ANSWER = 500  # characters
MAX_TEXT = 2000  # characters of a turn that a chat model is shown
MAX_NEW_TOKENS = 128  # of an answer, unless a local model's own settings say how many
MAX_CONTEXT = 8192  # tokens of a dialogue, even if the model could read more
MAX_BATCH = 32_768  # tokens, padding and answers included, that are worked on together

CACHE = DATA_DIR / "simulators" / "answers.sqlite"
CONCURRENCY = 8  # requests to a server at a time
TIMEOUT = 120.0  # seconds without a byte from the server
ATTEMPTS = 6
FIRST_WAIT = 0.5  # seconds before the second attempt; doubled each time, give or take a half
MAX_WAIT = 120.0  # seconds; a server that asks for more patience is given up

URL = re.compile(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[\w./%~-]*)?", re.ASCII)  # of a server; no key in it
TOO_LONG = re.compile("(?i)context|too l|maximum")  # in what a server says when it refuses a dialogue for its length
ESCAPE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*"
                    r"(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?")  # of a terminal: colours, titles, links
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
                       "\U000e0100-\U000e01ef]")  # and yet no control characters to Unicode
# By which models tell turns apart; an agent could say them too.
MARKS = r"<[|｜][^<>]{1,40}[|｜]>|</?s>|<[bep]os>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?think>"


@dataclass(frozen=True)
class Request:
    """A dialogue that waits for the simulator's next line."""

    instructions: str  # for a chat model: who it is, its secret, the rules, the form of the answer
    texts: tuple[str, ...]  # a line each, the agent's and the simulator's in turn, from the agent's first to its last
    prompt: str  # for any other model: what it was trained on, or an instruction, up to where the answer begins


class Simulator(ABC):
    """A language model that says one side's lines; one object for all games of a process."""

    name: str  # as given to `make_simulator`
    model: str = ""  # what a server calls the model

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """A line for each request, as `one_line` leaves it; raises OSError when there is none to be had."""
        asked = list(dict.fromkeys(requests))
        answers = dict(zip(asked, map(one_line, self.ask(asked)), strict=True))
        return [answers[request] for request in requests]

    @abstractmethod
    def ask(self, requests: list[Request]) -> list[str]:
        """What the model says to different requests, as it comes."""


@cache
def make_simulator(name: str, model: str = "", device: str = "") -> Simulator:
    """hf:NAME_OR_PATH on `device` (default: cuda, else cpu), or the server of a URL and its `model` (default: its only
    one). Raises ValueError for a bad name, OSError if model or server is not there.
    """
    if URL.fullmatch(name):
        return ServerSimulator(name.rstrip("/"), model)
    if not name.startswith("hf:") or not name[3:]:
        raise ValueError(f"no simulator {name!r}: there are scripted, hf:NAME_OR_PATH and http://HOST:PORT/v1")
    if model:
        raise ValueError(f"simulator_model {model!r} names a server's model, but the simulator is {name}")
    return LocalSimulator(name, device)


# --- Texts ---


def one_line(text: str, max_length: int = MAX_ANSWER) -> str:
    """The first line that shows anything, in at most `max_length` characters; `…` if there is none.

    Left out: thoughts, escape sequences, control characters, and what no reader sees (zero-width and bidi marks, …).
    """
    for line in ESCAPE.sub("", text.rpartition("</think>")[2][:20_000]).splitlines():
        line = INVISIBLE.sub("", unicodedata.normalize("NFC", line))
        line = "".join(" " if c.isspace() else c for c in line if c.isspace() or unicodedata.category(c)[0] != "C")
        if line := " ".join(line.split())[:max_length].strip():
            return line
    return "…"


def chat_messages(instructions: str, texts: Sequence[str], marks: str = MARKS) -> list[dict[str, str]]:
    """The instructions as system's message, then user (the agent) and assistant (the simulator) in turn."""
    first = 1 - len(texts) % 2  # templates want the user to begin: an opening line of the other side is left out
    said = [one_line(re.sub(marks, " ", text[:20_000]), MAX_TEXT) for text in texts[first:]]
    return [{"role": "system", "content": instructions.strip()},
            *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said))]


# --- transformers ---


class LocalSimulator(Simulator):
    """A transformers model; its weights are loaded when it is first asked."""

    def __init__(self, name: str, device: str) -> None:
        import torch
        from transformers import AutoConfig, AutoTokenizer

        self.name, self.path, self.network = name, name[3:], None
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=self.device)  # raises RuntimeError before any work is lost
        self.seq2seq = self.load(AutoConfig).is_encoder_decoder
        self.tokenizer = self.load(AutoTokenizer)
        self.plain = not self.seq2seq and not self.tokenizer.chat_template
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special and str(token)}
        self.marks = "|".join([*map(re.escape, sorted(special, key=len, reverse=True)), MARKS])
        self.tokenise = lru_cache(100_000)(lambda text: self.tokenizer.encode(text, add_special_tokens=self.seq2seq))

    def load(self, auto: Any, **options: Any) -> Any:
        """A part of the model; raises OSError."""
        try:
            return auto.from_pretrained(self.path, **options)
        except Exception as error:  # what is wrong with a folder shows in errors of many kinds
            raise OSError(f"cannot load the model {self.path!r}: {one_line(str(error))}") from error

    def load_network(self) -> None:
        """Load the weights; see how much may be read and written, and which tokens end a line."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

        dtype = "auto" if self.device.startswith("cuda") else "float32"
        network = self.load(AutoModelForSeq2SeqLM if self.seq2seq else AutoModelForCausalLM, dtype=dtype)
        theirs = network.generation_config
        positions = getattr(network.config.get_text_config(), "max_position_embeddings", None) or MAX_CONTEXT
        self.max_new_tokens = min(theirs.max_new_tokens or MAX_NEW_TOKENS, max(1, positions // 2))
        self.max_length = min(positions, MAX_CONTEXT) - (0 if self.seq2seq else self.max_new_tokens)
        eos = self.tokenizer.eos_token_id if theirs.eos_token_id is None else theirs.eos_token_id
        self.eos = eos if isinstance(eos, list) else [eos] if eos is not None else []
        network.generation_config = GenerationConfig(  # in place of theirs, which may sample or penalise repetition
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=self.eos or None, pad_token_id=0,
            bos_token_id=theirs.bos_token_id, decoder_start_token_id=theirs.decoder_start_token_id)
        pieces = [self.tokenizer.decode([i], skip_special_tokens=True) for i in range(len(self.tokenizer))]
        self.newlines = {i for i, piece in enumerate(pieces) if "\n" in piece}
        self.blanks = set[int]() if self.plain else {i for i, piece in enumerate(pieces) if not piece.strip()}
        self.network = network.to(self.device).eval()

    def ask(self, requests: list[Request]) -> list[str]:
        if self.network is None:
            self.load_network()
        rows, answers = {request: self.encode(request) for request in requests}, dict[Request, str]()
        waiting = sorted(requests, key=lambda request: -len(rows[request]))
        while waiting:
            size = max(1, MAX_BATCH // (len(rows[waiting[0]]) + self.max_new_tokens))
            batch, waiting = waiting[:size], waiting[size:]
            said = self.generate([rows[request] for request in batch], [request.prompt for request in batch])
            answers.update(zip(batch, said, strict=True))
        return [answers[request] for request in requests]

    def encode(self, request: Request) -> list[int]:
        """The request's ids, without as many of its oldest turns as do not fit."""
        prompt = re.sub(self.marks, " ", request.prompt.encode(errors="replace").decode())
        pieces = re.findall(r"[^\n]*\n|[^\n]+", prompt)
        if not (self.plain or self.seq2seq):
            pieces = [request.instructions, *request.texts[1 - len(request.texts) % 2 :]]
        while len(ids := self.encode_pieces(pieces)) > self.max_length and len(pieces) > 3:
            del pieces[1:3]
        return ids[-self.max_length :] or [0]

    def encode_pieces(self, pieces: list[str]) -> list[int]:
        if self.plain:
            return [i for line in pieces for i in self.tokenise(line)]
        if self.seq2seq:
            return self.tokenise("".join(pieces))
        system, *turns = chat_messages(pieces[0], pieces[1:], self.marks)
        template = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            text = self.tokenizer.apply_chat_template([system, *turns], **template)
        except Exception:  # of many kinds; mostly a template without a system role
            text = ""
        if system["content"] not in text:
            turns[0]["content"] = f"{system['content']}\n\n{turns[0]['content']}"
            text = self.tokenizer.apply_chat_template(turns, **template)
        return self.tokenise(text)

    def generate(self, rows: list[list[int]], prompts: list[str]) -> list[str]:
        """What the model says after each of the rows of ids."""
        import torch

        width, side = max(map(len, rows)), 1 if self.seq2seq else -1  # an encoder may count positions from the left
        ids, mask = ([(row + [0] * (width - len(row)))[::side] for row in column]
                     for column in ([row[::side] for row in rows], [[1] * len(row) for row in rows]))
        with torch.inference_mode():
            out = self.network.generate(
                torch.tensor(ids, device=self.device), attention_mask=torch.tensor(mask, device=self.device),
                logits_processor=[Draw(prompts)] if self.plain else [],
                stopping_criteria=[EndOfLine(self.newlines, self.blanks)])
        rows = [list(itertools.takewhile(lambda token: token not in self.eos, row))  # padding is behind it
                for row in out[:, 1 if self.seq2seq else width :].tolist()]
        settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        texts = [self.tokenizer.decode(row, **settings) for row in rows]
        return [text.partition("\n")[0] for text in texts] if self.plain else texts


class EndOfLine:
    """Stopping criterion: a row ends with a newline, once it has a token that is not among `blanks`."""

    def __init__(self, newlines: set[int], blanks: set[int]) -> None:
        self.newlines, self.blanks, self.begun = newlines, blanks, set[int]()

    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        last = ids[:, -1].tolist()
        self.begun |= {row for row, token in enumerate(last) if token not in self.blanks}
        return ids.new_tensor([row in self.begun and token in self.newlines for row, token in enumerate(last)]).bool()


class Draw:
    """Logits processor: leaves of each row the token that the row's own random number falls on."""

    def __init__(self, prompts: list[str]) -> None:
        self.rngs = [random.Random(prompt) for prompt in prompts]

    def __call__(self, ids: Any, scores: Any) -> Any:
        cumulative = scores.double().softmax(-1).cumsum(-1)  # (B, V)
        numbers = cumulative.new_tensor([[rng.random()] for rng in self.rngs])
        tokens = (cumulative <= numbers * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return scores.new_full(scores.shape, -float("inf")).scatter(1, tokens, 0.0)


# --- Servers ---


def sql(statement: str, *values: str) -> list[tuple]:
    """Read or write the answers on disk: at once and whole, whatever else reads, writes or is killed."""
    try:
        with closing(sqlite3.connect(CACHE, timeout=60, isolation_level=None)) as database:
            return database.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise OSError(f"{CACHE}: {error}; delete the file if it is damaged") from error


def cache_key(asked: Any) -> str:
    """What the answer to this question, any JSON, is kept under."""
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def recall(key: str) -> str | None:
    """The answer on disk, if there is one."""
    return next((answer for answer, in sql("SELECT answer FROM answers WHERE key = ?", key)), None)


def remember(key: str, model: str, text: str, answer: str) -> None:
    """Keep an answer; `model` and `text`, the last words before it, are for people who look into the file."""
    sql("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", key, model, text, answer)


def open_cache() -> None:
    """Make the file of answers if there is none; raises OSError."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    sql("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT, text TEXT, answer TEXT)")


class Refused(OSError):
    """The server has understood and will not: there is no use in asking again."""


class AnyStatus(urllib.request.HTTPErrorProcessor):
    """Every status is an answer. Redirections, too, are not followed: the key would go with them."""

    http_response = https_response = staticmethod(lambda request, response: response)


class Server:
    """A client of OpenAI's /chat/completions protocol, safe to use from many threads.

    `model`: the server's name for the model, empty if it has only one; `option`: the option with which the user names
    it. Raises OSError if there is no such model. After `stopped` is set, failed requests are not repeated.
    """

    timeout = 0.0  # seconds to wait for the next byte from the server; 0: TIMEOUT

    def __init__(self, url: str, model: str, option: str = "simulator_model") -> None:
        if not URL.fullmatch(url):
            raise ValueError("no URL of a server, which is http://HOST:PORT/v1, with nothing secret in it")
        self.name, self.key = url, os.environ.get("OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]*", self.key):
            raise OSError("OPENAI_API_KEY has characters that no key has")  # an error of http.client would show it
        self.opener, self.stopped = urllib.request.build_opener(AnyStatus), False
        try:  # asked now: a server that is down is not to end a run when its training is done
            listed = self.fetch("/models", None, lambda reply: [str(entry["id"]) for entry in reply["data"]])
        except Refused as error:
            if not (model and re.search("status 40[45],", str(error))):
                raise
            listed = [model]  # not every server has the list
        if not model and len(listed) != 1:
            raise OSError(f"{url} has {len(listed)} models, {', '.join(listed)[:300]}: choose with {option}")
        self.model = model or listed[0]
        open_cache()

    def fetch(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], Any]) -> Any:
        """What `read` finds in the server's reply; raises OSError, after several attempts unless it is `Refused`."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.name + path, None if body is None else json.dumps(body).encode(), headers)
        for attempt in range(1, ATTEMPTS + 1):
            wait = FIRST_WAIT * 2 ** (attempt - 1) * random.Random().uniform(0.5, 1.5)
            try:
                with self.opener.open(request, timeout=self.timeout or TIMEOUT) as response:
                    status, reply = response.status, response.read(4_000_000)
                if status == 200:
                    return read(json.loads(reply))
                quoted = " ".join(reply[:2000].decode(errors="replace").replace(self.key or "\n", " ").split())
                problem = f"status {status}, {one_line(quoted, 300)}"
                if status < 500 and status not in (408, 425, 429):
                    raise Refused(f"{self.name}{path} refuses: {problem}")
                wait = max(wait, retry_after(response.headers.get("Retry-After") or ""))
            except Refused:
                raise
            except Exception as error:  # a server can fail in any way: connections, HTTP, JSON, what is in it
                problem = f"{type(error).__name__}, {one_line(str(error), 200)}"
            if attempt == ATTEMPTS or wait > MAX_WAIT or self.stopped:
                raise OSError(f"{self.name}{path} does not answer: {problem} (asked {attempt} times)")
            time.sleep(wait)


class ServerSimulator(Server, Simulator):
    """A server's model as the other side of a dialogue."""

    def ask(self, requests: list[Request]) -> list[str]:
        pool, self.stopped = ThreadPoolExecutor(CONCURRENCY), False
        try:
            return list(pool.map(self.ask_one, requests))
        finally:  # after an error or an interrupt, `map` drops what waits; what is under way is not tried again
            self.stopped = True
            pool.shutdown(wait=False)

    def ask_one(self, request: Request) -> str:
        """The answer on disk, or else the server's, which is written there."""
        texts = request.texts
        body = {"model": self.model, "temperature": 0, "max_tokens": MAX_NEW_TOKENS,
                "messages": chat_messages(request.instructions, texts)}
        key = cache_key([self.name, body])
        if (answer := recall(key)) is not None:
            return answer
        while True:
            try:
                answer = self.fetch("/chat/completions", body, lambda reply: one_line(
                    reply["choices"][0]["message"]["content"] or ""))
                break
            except Refused as error:
                if len(texts) < 2 or not TOO_LONG.search(str(error)):
                    raise
                texts = texts[(len(texts) + 1) // 2 :]
                body |= {"messages": chat_messages(request.instructions, texts)}
        remember(key, self.model, one_line(texts[-1]), answer)
        return answer


def retry_after(header: str) -> float:
    """The seconds that a server wants us to wait, which it says in seconds or as a date; 0 if it does not."""
    try:
        date = None if header.isdecimal() else parsedate_to_datetime(header)
        return max(0.0, date.timestamp() - time.time()) if date else float(header)
    except (ValueError, TypeError, OverflowError):
        return 0.0
