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
http://HOST:PORT/v1 or https://…, a server with OpenAI's /chat/completions: is given the same turns, at temperature 0
    (or at the server's own, if it refuses ours). It is asked through the package `openai`, with the key in
    OPENAI_API_KEY. Answers are kept in data/simulators/ by URL, model and turns: delete the file when a server has got
    other weights under the old name. An empty or refused answer is none: after several attempts it is an error.

A dialogue that is longer than the model's context loses its oldest turns, never the instructions or the first line of
`prompt`: the secret is there. What a model says is data: `one_line` makes it harmless, the task decides what it means.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import sqlite3
import threading
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from envs.data import DATA_DIR

MAX_ANSWER = 500  # characters
MAX_TEXT = 2000  # characters of a turn that a chat model is shown
MAX_NEW_TOKENS = 128  # of an answer, unless a local model's own settings say how many
MAX_CONTEXT = 8192  # tokens of a dialogue, even if the model could read more
MAX_BATCH = 32_768  # tokens, padding and answers included, that are worked on together

CACHE = DATA_DIR / "simulators" / "answers.sqlite"
CONCURRENCY = 8  # requests to a server at a time
ATTEMPTS = 6
PAUSE = 1.0  # seconds after a reply that cannot be read
UNREADABLE = AttributeError, LookupError, TypeError, ValueError, RecursionError  # of replies that are none

URL = re.compile(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[\w./%~-]*)?", re.ASCII)  # of a server; no key in it
NOTHING = "…"  # stands for an answer that shows nothing
# What a server says when it refuses a dialogue for its length; a message of the system's.
TOO_LONG = re.compile("(?i)context|too l|maximum")
ROLES = re.compile(r"(?i)\broles?\b|(system|developer) (message|prompt|instruction)")
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
        fields = {"temperature": 0, "max_tokens": MAX_NEW_TOKENS}
        return ServerSimulator(name.rstrip("/"), model, "simulator_model", fields)
    if not name.startswith("hf:") or not name[3:]:
        raise ValueError(f"no simulator {name!r}: there are scripted, hf:NAME_OR_PATH and http://HOST:PORT/v1")
    if model:
        raise ValueError(f"simulator_model {model!r} names a server's model, but the simulator is {name}")
    return LocalSimulator(name, device)


# --- Texts ---


def one_line(text: str, max_length: int = MAX_ANSWER) -> str:
    """The first line that shows anything, in at most `max_length` characters; NOTHING if there is none.

    Left out: thoughts, escape sequences, control characters, and what no reader sees (zero-width and bidi marks, …).
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    for line in ESCAPE.sub("", text[:20_000]).splitlines():
        line = INVISIBLE.sub("", unicodedata.normalize("NFC", line))
        line = "".join(" " if c.isspace() else c for c in line if c.isspace() or unicodedata.category(c)[0] != "C")
        if line := " ".join(line.split())[:max_length].strip():
            return line
    return NOTHING


def chat_messages(instructions: str, texts: Sequence[str], marks: str = MARKS) -> list[dict[str, str]]:
    """The instructions as system's message, then user (the agent) and assistant (the simulator) in turn."""
    first = 1 - len(texts) % 2  # templates want the user to begin: an opening line of the other side is left out
    said = [one_line(re.sub(marks, " ", text[:20_000]), MAX_TEXT) for text in texts[first:]]
    return [{"role": "system", "content": instructions.strip()},
            *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said))]


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same chat for a model that knows no system: the first message of the user begins with the instructions."""
    system, first, *others = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *others]


def shorten(messages: list[dict[str, str]], num_turns: int) -> list[dict[str, str]]:
    """The chat without its oldest turns, but with its first message, which has the instructions."""
    return messages[:1] + messages[1 + 2 * num_turns :]


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

    def load_network(self, max_new_tokens: int | None = None) -> None:
        """Load the weights; see how much may be read and written (unless that is given), which tokens end a line."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

        dtype = "auto" if self.device.startswith("cuda") else "float32"
        network = self.load(AutoModelForSeq2SeqLM if self.seq2seq else AutoModelForCausalLM, dtype=dtype)
        theirs = network.generation_config
        positions = getattr(network.config.get_text_config(), "max_position_embeddings", None) or MAX_CONTEXT
        most = min(theirs.max_new_tokens or MAX_NEW_TOKENS, max(1, positions // 2))
        self.max_new_tokens = max_new_tokens or most
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
        messages = chat_messages(pieces[0], pieces[1:], self.marks)
        template = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            text = self.tokenizer.apply_chat_template(messages, **template)
        except Exception:  # of many kinds; mostly a template without a system role
            text = ""
        if messages[0]["content"] not in text:
            text = self.tokenizer.apply_chat_template(without_system(messages), **template)
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


class Answer(NamedTuple):
    """What a model says."""

    text: str
    reason: str  # why it ends there: "length" if it was cut off
    num_input: int  # tokens read
    num_output: int  # tokens written


def read_answer(reply: Any) -> Answer:
    """The answer in a server's reply, without text if it is a refusal; raises AttributeError, … if there is none."""
    choice, usage = reply.choices[0], reply.usage
    text, reason = choice.message.content or "", choice.finish_reason or "stop"
    if isinstance(text, list):  # of parts; those without `text` are thoughts, pictures, …
        text = "".join(part.get("text") or "" for part in text)
    if choice.message.refusal or reason == "content_filter":
        text, reason = "", "refusal"
    num_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Answer(text.strip(), reason, *(int(number or 0) for number in num_tokens))


class Refused(OSError):
    """The server has understood and will not: there is no use in asking the same again."""


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: the caller may be in a loop already, as in a notebook."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def start(task: Coroutine) -> Future:
    """Let the coroutine run beside the caller, who may wait for it and cancel it."""
    return asyncio.run_coroutine_threadsafe(task, event_loop())


class Server:
    """A client of OpenAI's /chat/completions protocol.

    `model`: the server's name for the model, empty if it has only one; `option`: the option with which the user names
    it; `fields`: of each request. Raises OSError if the server does not answer or the model has to be named.
    """

    patience = 600.0  # seconds to wait for an answer, with all attempts; a fifth for each of them
    hint = ""  # what to do if the server refuses a request
    knows_system = True  # as far as is known

    def __init__(self, url: str, model: str, option: str, fields: dict[str, Any]) -> None:
        if not URL.fullmatch(url):
            raise ValueError("no URL of a server, which is http://HOST:PORT/v1, with nothing secret in it")
        import openai  # only here: nothing else needs it

        self.name, self.key = url, os.environ.get("OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]*", self.key):
            raise OSError("OPENAI_API_KEY has characters that no key has")  # an error of the package would show it
        self.client = openai.AsyncOpenAI(
            base_url=url, api_key=self.key or "none", timeout=self.patience / 5, max_retries=ATTEMPTS - 1,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False))  # the key would go with them
        try:  # asked now: a server that is down is not to end a run when its training is done
            models = [entry.id for entry in start(self.fetch(self.client.models.list)).result().data]
            found = f"{url} has {len(models)} models, {', '.join(models)[:300]}"
        except (Refused, *UNREADABLE) as error:  # not every server has the list
            if re.search("status (401|5..),", str(error)):
                raise
            models, found = [], f"{url} does not list its models, {one_line(str(error), 200)}"
        if not model and len(models) != 1:
            raise OSError(f"{found}: name one with {option}")
        self.model = model or models[0]
        self.fields = {"model": self.model} | fields  # as the server wants them, as far as that is known
        self.about = [url, self.fields]  # what an answer depends on, besides the chat and the random number
        open_cache()

    async def fetch(self, call: Callable[..., Any], **request: Any) -> Any:
        """The server's reply; raises OSError, after several attempts unless it is `Refused`, and UNREADABLE."""
        import openai

        try:
            return await asyncio.wait_for(call(**request), self.patience)
        except openai.APIStatusError as error:
            said = " ".join(error.response.text[:2000].replace(self.key or "\n", " ").split())
            hint = self.hint if error.status_code in (400, 422) else ""
            status = f"status {error.status_code}, {one_line(said, 500)}{hint}"
            raise Refused(f"{error.request.url} answers with {status}") from None
        except asyncio.TimeoutError:
            raise OSError(f"{self.name} does not answer within {self.patience:g} seconds") from None
        except openai.APIConnectionError as error:
            reason = f"{type(error.__cause__).__name__} {error.__cause__}"
            raise OSError(f"{self.name} does not answer: {one_line(reason, 200)}") from None

    async def say(self, messages: list[dict[str, str]], number: int | None = None) -> Answer:
        """The model's answer, without text if it cannot be read. Raises OSError.

        What the server refuses is put in another way; if it finds the chat too long, the older half of the turns is
        left out. `number`: from which an answer is drawn at our temperature; without it the server's own will do.
        """
        while True:
            sent = messages if self.knows_system else without_system(messages)
            fields = {name: value for name, value in ({"seed": number} | self.fields).items() if value is not None}
            try:
                create = self.client.chat.completions.create
                return read_answer(await self.fetch(create, model=self.model, messages=sent, extra_body=fields))
            except UNREADABLE as error:
                await asyncio.sleep(PAUSE)
                return Answer("", f"{type(error).__name__} {one_line(str(error), 100)}", 0, 0)
            except Refused as error:
                said = str(error)
                if "max_completion_tokens" in said and "max_tokens" in fields:
                    self.fields = self.fields | {"max_tokens": None, "max_completion_tokens": fields["max_tokens"]}
                elif "temperature" in said and "temperature" in fields and number is None:
                    self.fields = self.fields | {"temperature": None}
                elif ROLES.search(said) and sent[0]["role"] == "system":
                    self.knows_system = False
                elif TOO_LONG.search(said) and len(messages) > 3:
                    messages = shorten(messages, num_turns=(len(messages) + 1) // 4)
                else:
                    raise


class ServerSimulator(Server, Simulator):
    """A server's model as the other side of a dialogue."""

    def ask(self, requests: list[Request]) -> list[str]:
        gate = asyncio.Semaphore(CONCURRENCY)
        asked = [start(self.ask_one(request, gate)) for request in requests]
        try:
            return [answer.result() for answer in asked]
        finally:  # after an error or an interrupt nothing goes on
            for answer in asked:
                answer.cancel()

    async def ask_one(self, request: Request, gate: asyncio.Semaphore) -> str:
        """The answer on disk, or else the server's, which is written there."""
        messages = chat_messages(request.instructions, request.texts)
        key = cache_key([self.name, self.about[1] | {"messages": messages}])
        if (kept := recall(key)) not in (None, NOTHING):  # older versions kept answers of nothing
            return kept
        async with gate:
            for _ in range(ATTEMPTS):
                answer = await self.say(messages)
                if (line := one_line(answer.text)) != NOTHING:
                    remember(key, self.model, messages[-1]["content"], line)
                    return line
        raise OSError(f"{self.name} gives no answer: {ATTEMPTS} were empty, refused or a thought that does not end in "
                      f"{MAX_NEW_TOKENS} tokens, the last with finish_reason {answer.reason}")
