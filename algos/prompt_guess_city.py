"""A prompted language model plays, without any training: the baseline that the paper runs with GPT-4.

The model is told the rules of the task and shown the game so far as a chat: observations are messages of the
user, actions are the model's. The first line of its answer is the action:

    action_t = first line of  answer ~ π(· | rules, obs_0, action_0, obs_1, …, obs_t)     at `temperature`

In a Markov task only the rules and obs_t are shown; a long chat loses its oldest turns. An answer without a
line (empty, refused, an unfinished thought) is drawn again; after six of these the run ends with an error.

The model is served through OpenAI's /chat/completions protocol (the key is read from OPENAI_API_KEY), or it
is a transformers model with a chat template. Each answer that has an action is stored in data/simulators/, by
model, chat, settings and a random number for (seed, game, turn). A resumed run therefore asks again only for
what was never stored, and a larger run pays only for its extra games.

Source: LMRL-Gym (Abdulhai et al., arXiv 2311.18232), which has GPT-4 play, and the scripts released with it.
Deviations: the rules are those of envs/instructions.py, with example actions in place of the paper's few-shot
turns; the game is a chat, not text in a single message; the model answers with the action alone, not with a
thought and an action in JSON; the temperature is 1 everywhere, as for all methods here (the paper: 0 to 1,
by task). By default 20 games are played, drawn from the test's seeds, since the whole test can be expensive.

    python algos/prompt_guess_city.py --model http://localhost:8080/v1
    python algos/prompt_guess_city.py --model https://api.openai.com/v1 --server-model gpt-4o
    python algos/prompt_guess_city.py --model HuggingFaceTB/SmolLM2-360M-Instruct --env-id wordle
    python algos/prompt_guess_city.py --max-answer-tokens 4000     # for a model that thinks first
    python algos/prompt_guess_city.py --resume              # resumes; of a finished run, plays the test again
"""

import json
import random
import re
import sys
from collections.abc import Sequence
from concurrent import futures
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import TemperatureLogitsWarper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a plain checkout
from envs import SEEDS, Env, EnvId, Trajectory, VectorEnv, statistics
from envs.instructions import instructions
from envs.run import Run, make_envs, parse_args, refusing, start_model
from envs.simulators import (
    ATTEMPTS,
    MARKS,
    MAX_TEXT,
    NOTHING,
    Answer,
    Draw,
    EndOfLine,
    LocalSimulator,
    Server,
    cache_key,
    one_line,
    open_cache,
    recall,
    remember,
    shorten,
    start,
)

FORM = "Answer with your next action and nothing else, in one line.\n\n"


@dataclass
class Args:
    exp_name: str = Path(__file__).stem  # experiment's name, in runs/{env_id}__{exp_name}__{seed}
    seed: int = 1  # seed of sampling; the games of the test stay the same
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the model is: cpu, cuda, cuda:1, …
    track: bool = False  # log to Weights & Biases as well
    resume: bool = False  # continue the run of this name; if it is finished, play its test again
    env_id: EnvId = "guess_city"  # variant of the task
    env_options: dict[str, str] = field(default_factory=dict)  # the task's own options, as `name value` pairs
    model: str = "http://localhost:8080/v1"  # a server's URL, or folder or hub name of a chat model
    server_model: str = ""  # what the server calls the model (default: its only one)
    server_options: dict[str, str] = field(default_factory=dict)  # fields of a request, as `name JSON` pairs
    # --- limits
    max_answer_tokens: int = 256  # tokens of an answer at most, thoughts included
    max_tokens: int | None = None  # tokens of all requests together, from this start on (default: no limit)
    max_cost: float | None = None  # cost of all requests together, from this start on (default: no limit)
    price_per_million_input: float = 0.0  # price of a million tokens that the model reads
    price_per_million_output: float = 0.0  # price of a million tokens that it writes
    # --- evaluation
    num_test_episodes: int | None = 20  # test games
    num_envs: int = 8  # games played side by side
    temperature: float = 1.0  # temperature of sampling in evaluations; 0: greedy


# --- Model ---


class ServerModel(Server):
    """A server's model; each request has the fields of `--server-options`."""

    patience = 1800.0  # seconds for all attempts at a request: an answer comes whole, after its thoughts
    hint = "; --server-options NAME null leaves a field out"

    def __init__(self, args: Args) -> None:
        fields = {"max_tokens": args.max_answer_tokens, "temperature": args.temperature}
        fields |= {name: json_or_text(value) for name, value in args.server_options.items()}
        limit = fields.get("max_completion_tokens") or fields["max_tokens"]
        args.max_answer_tokens = limit or args.max_answer_tokens  # what the ledger reserves
        super().__init__(args.model.rstrip("/"), args.server_model, "--server-model", fields)


def json_or_text(value: str) -> Any:
    """The flag's value as JSON, or as plain text if it is not JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return value


class LocalModel(LocalSimulator):
    """A chat model of transformers. It answers one by one: no answer depends on what else is asked."""

    def __init__(self, args: Args, digest: str) -> None:
        name, _ = start_model(args)
        super().__init__(f"hf:{name}", args.device)
        template = self.tokenizer.chat_template
        if not template:
            raise ValueError(f"{name} has no chat template")
        self.load_network(args.max_answer_tokens)
        if "</think>" in template:
            self.newlines = set()  # the first line may be a thought's
        self.name, self.temperature = name, args.temperature
        self.about = [name, digest, [template, args.max_answer_tokens, args.temperature]]
        open_cache()

    async def say(self, messages: list[dict[str, str]], number: int) -> Answer:
        """An answer; generation stops after its first line, unless the model may write thoughts."""
        processors = [TemperatureLogitsWarper(self.temperature), Draw([number])] if self.temperature else []
        ids = torch.tensor([self.encode_chat(messages)], device=self.device)
        opened = "<think>" if self.tokenizer.decode(ids[0]).rstrip().endswith("<think>") else ""
        with torch.inference_mode():
            written = self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                logits_processor=processors,
                stopping_criteria=[EndOfLine(self.newlines, self.blanks)],
            )[0, ids.shape[1] :].tolist()
        reason = "stop" if written[-1] in self.eos else "length"  # also after a newline
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return Answer(opened + text, reason, ids.shape[1], len(written))

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The chat's ids, without the oldest turns if it is too long; OSError if that is not enough."""
        template = dict(tokenize=False, add_generation_prompt=True, enable_thinking=False)
        while True:
            text = self.tokenizer.apply_chat_template(messages, **template)
            ids = self.tokenise(text)
            if len(ids) <= self.max_length:
                return ids
            if len(messages) < 4:  # the rules and the newest turn: nothing more can be left out
                raise OSError(f"{self.name} has room for {self.max_length} tokens, not for {len(ids)}")
            messages = shorten(messages, num_turns=1)


# --- Rollout ---


class Question(NamedTuple):
    """A game that waits for its next action."""

    messages: list[dict[str, str]]  # the chat so far, from a message of the user to one of the user
    game: int  # its seed
    turn: int


def chat(rules: str, texts: Sequence[str], markov: bool) -> list[dict[str, str]]:
    """The rules and the first observation as a message of the user, then actions and observations in turn.

    The rules are not a system message: many chat templates and servers have none.
    """
    shown = texts[-1:] if markov else texts
    contents = [re.sub(MARKS, " ", text).strip() or "(nothing)" for text in shown]
    contents[0] = f"{rules}\n\n{FORM}{contents[0]}"
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def read_action(answer: Answer) -> str:
    """An answer's first line without thoughts; empty if there is none, without newline if it was cut off."""
    line = one_line(answer.text, MAX_TEXT)
    if line == NOTHING:
        return ""
    _, _, text = answer.text.rpartition("</think>")
    cut_off = answer.reason == "length" and "\n" not in text.lstrip()
    return line if cut_off else line + "\n"


class Ledger:
    """Counts tokens as pairs (read, written); refuses a request that might exceed a limit."""

    def __init__(self, args: Args) -> None:
        self.prices = np.array([args.price_per_million_input, args.price_per_million_output]) / 1e6
        self.max_tokens = np.inf if args.max_tokens is None else args.max_tokens
        self.max_cost = np.inf if args.max_cost is None else args.max_cost
        self.kept = np.zeros(2, dtype=int)  # of stored answers: an earlier start has paid for them
        self.used = np.zeros(2, dtype=int)
        self.reserved = np.zeros(2, dtype=int)  # by requests that are under way

    def reserve(self, most: np.ndarray) -> None:
        """Reserve `most` (read, written) tokens for a request; raises OSError if a limit might be passed."""
        expected = self.used + self.reserved + most
        if expected.sum() > self.max_tokens or self.prices @ expected > self.max_cost:
            raise OSError(f"--max-tokens or --max-cost would be passed, after {self}")
        self.reserved += most

    def settle(self, most: np.ndarray, used: list[int]) -> None:
        """Replace what a request had reserved by what it used."""
        self.reserved -= most
        self.used += used

    def keep(self, answer: Answer) -> None:
        """Count a stored answer."""
        self.kept += [answer.num_input, answer.num_output]

    def total(self) -> tuple[int, int, float]:
        """Tokens read, tokens written and their price: stored answers, and all requests of this start."""
        tokens = self.kept + self.used
        return *tokens.tolist(), float(self.prices @ tokens)

    def __str__(self) -> str:
        return "{:,} tokens read, {:,} written, cost {:.4g}".format(*self.total())


class Player:
    """Asks the model for the actions of many games, side by side."""

    def __init__(self, model: ServerModel | LocalModel, ledger: Ledger, args: Args) -> None:
        self.model, self.ledger, self.args = model, ledger, args
        self.asked: dict[futures.Future, int] = {}  # the game of each question that is under way

    def act(self, questions: list[Question]) -> dict[int, str]:
        """Ask these too; wait for at least one action and return all there are, by game. Raises OSError."""
        for question in questions:
            self.asked[start(self.ask(question))] = question.game
        done, _ = futures.wait(self.asked, return_when=futures.FIRST_COMPLETED)
        return {self.asked.pop(future): future.result() for future in done}

    async def ask(self, question: Question) -> str:
        """The action of the stored answer, or else of a new one, which is then stored."""
        key = cache_key(["player", self.model.about, question.messages, self.random_number(question, 0)])
        if kept := recall(key):
            answer = Answer(*json.loads(kept))
            self.ledger.keep(answer)
            return read_action(answer)
        for attempt in range(ATTEMPTS):
            answer = await self.say(question.messages, self.random_number(question, attempt))
            if action := read_action(answer):
                remember(key, self.model.model, question.messages[-1]["content"], json.dumps(answer))
                return action
        hint = "; raise --max-answer-tokens" if answer.reason == "length" else ""
        raise OSError(f"{self.model.name} gives no action: {ATTEMPTS} answers are empty or refused, the last "
                      f"with finish_reason {answer.reason}{hint}")

    def random_number(self, question: Question, attempt: int) -> int:
        """The seed for sampling an answer. At temperature 0 all games share it, and so a stored answer."""
        if self.args.temperature == 0:
            return attempt
        draw = random.Random(f"{self.args.seed} {question.game} {question.turn} {attempt}")
        return draw.getrandbits(31)

    async def say(self, messages: list[dict[str, str]], number: int) -> Answer:
        """The model's answer, counted."""
        most = np.array([len(json.dumps(messages)), self.args.max_answer_tokens])  # a letter or more each
        used = [0, 0]
        self.ledger.reserve(most)
        try:
            answer = await self.model.say(messages, number)
            if not answer.num_input:  # the server does not say: a token has about four letters
                answer = answer._replace(num_input=int(most[0]) // 4, num_output=len(answer.text) // 4 + 1)
            used = [answer.num_input, answer.num_output]
        finally:
            self.ledger.settle(most, used)
        return answer

    def close(self) -> None:
        """Wait up to a minute for answers under way, so that what is paid for is stored."""
        futures.wait(self.asked, timeout=60)
        for future in self.asked:
            future.cancel()


# --- Evaluation ---


class Played(NamedTuple):
    """A finished game."""

    trajectory: Trajectory
    num_invalid: int


def choose_seeds(env: Env, args: Args) -> list[int]:
    """Seeds of the task's test, shuffled; a run of more games also plays those of a smaller one.

    In order, they would begin with only a few kinds of objects, cities and starts.
    """
    seeds = list(range(SEEDS["test"], SEEDS["test"] + max(args.num_test_episodes, env.num_test_episodes)))
    random.Random("seeds of prompted models").shuffle(seeds)
    return seeds[: args.num_test_episodes]


def play_side_by_side(player: Player, envs: VectorEnv, seeds: list[int]) -> list[Played]:
    """Play the game of each seed; `envs` knows it by its seed. Raises OSError."""
    rules, markov = instructions(envs.envs[0]), envs.envs[0].markov
    waiting, played = seeds[::-1], {}
    questions = []
    progress = tqdm(total=len(seeds), desc="playing", leave=False, delay=2)
    while waiting or envs.games:
        # Each free environment takes the next game.
        while waiting and envs.free:
            seed = waiting.pop()
            envs.reset(seed, seed)
            questions.append(Question(chat(rules, envs.games[seed].texts, markov), seed, turn=0))

        actions = player.act(questions)
        questions = []
        progress.set_postfix_str(str(player.ledger))

        # Games with an action move on to the next turn or end.
        for seed, (_, _, terminated, truncated, info) in envs.step(actions).items():
            if terminated or truncated:
                played[seed] = Played(info["trajectory"], info["num_invalid"])
                progress.update()
            else:
                game = envs.games[seed]
                questions.append(Question(chat(rules, game.texts, markov), seed, turn=len(game.rewards)))
    progress.close()
    return [played[seed] for seed in seeds]


def main(args: Args) -> None:
    """Play the games of the test, score and save them."""
    if args.max_cost is not None and not (args.price_per_million_input and args.price_per_million_output):
        sys.exit("error: --max-cost needs --price-per-million-input and --price-per-million-output")
    envs = make_envs(args)
    env = envs.envs[0]
    run = Run(args, env)
    with refusing("--model"):
        model = ServerModel(args) if "://" in args.model else LocalModel(args, run.model_digest)
    args.server_model = model.model
    ledger = Ledger(args)
    run.begin()

    try:
        with closing(Player(model, ledger, args)) as player:
            games = play_side_by_side(player, envs, choose_seeds(env, args))
    except OSError as error:
        sys.exit(f"error: {error}; the answers so far are kept, and --resume continues from them")
    metrics = statistics(env, [game.trajectory for game in games], sum(game.num_invalid for game in games))
    metrics = {f"test/{name}": value for name, value in metrics.items()}
    for name, value in zip(("input_tokens", "output_tokens", "cost"), ledger.total()):
        metrics[f"charts/{name}"] = value
    run.log(0, sum(len(game.trajectory.rewards) for game in games), metrics)
    run.save_games(games)


if __name__ == "__main__":
    main(parse_args(Args, {}, {}, __doc__))
