"""A prompted model: the rules that it is told, a server that plays, what is asked, kept, counted and refused."""

import asyncio
import gc
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import chess
import llama_server
import numpy as np
import pytest
import torch
from test_simulators import CHATML, Follow, prepare_for_servers, save_causal

import envs.simulators
from algos import prompt_guess_city as script
from algos.prompt_guess_city import Answer, Args, Ledger, chat, choose_seeds, read_action, shorten
from envs import MODULES, SEEDS, EnvId, make, maze, run, statistics, text_nav
from envs.car_dealer import MAX_TURNS
from envs.car_dealer.deal import MAX_PRICE, MIN_PRICE, Offer, hear, is_full
from envs.car_dealer.language import BRANDS, FEATURES, TYPES, understand, verdict
from envs.data import read_file
from envs.guess_city.tables import cities
from envs.guess_city.understanding import understand as understand_city
from envs.instructions import TEXTS, instructions
from envs.run import parse_args
from envs.twenty_questions import OBJECTS, read_question
from envs.wordle import paper_colours, real_colours
from results import collect, report

ROOT = Path(__file__).resolve().parent.parent

# --- The rules ---


def rules(env_id, **options):
    """The text; of chess without an engine."""
    if MODULES[env_id] == "envs.chess":
        return instructions(SimpleNamespace(env_id=env_id, max_turns=400))
    return instructions(make(env_id, **options))


def actions(text):
    """The lines that are actions or forms of them."""
    return re.findall(r"^  (\S.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("env_id", get_args(EnvId))
def test_every_task_has_its_rules(env_id):
    text = rules(env_id)
    assert not re.search(r"[{}]|\n\n\n|[ \t]$", text, re.MULTILINE)
    turns = 400 if MODULES[env_id] == "envs.chess" else make(env_id).max_turns
    assert re.search(rf"\b{turns}\b", text)
    assert set(TEXTS) == set(get_args(EnvId)) and actions(text)


def test_rules_of_maze():
    for env_id in ("maze_fo", "maze_po"):
        assert {action + "\n" for action in actions(rules(env_id))} == set(maze.MOVES)
    directions = {"Up takes 1 from the row": "up", "down adds 1 to it": "down", "left takes 1 from the column": "left",
                  "right adds 1 to it": "right"}
    text = " ".join(rules("maze_fo").split())
    moves = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    assert all(phrase in text and maze.MOVES[f"move {name}\n"] == moves[name] for phrase, name in directions.items())
    assert "Up takes" not in rules("maze_po")
    env = make("maze_po")
    env.reset(0)
    assert env.step("go up\n")[1] == -4 and "costs 4" in text


def form(command):
    """`take bowl from table` as `take X from Y`."""
    command = re.sub(rf"\b({'|'.join(text_nav.THINGS)})\b", "X", command)
    verb, *rest = command.split(" ")
    for holder in set(text_nav.HOLDERS.values()):
        rest = ["X" if word == holder and len(rest) == 1 else "Y" if word == holder else word for word in rest]
    return " ".join([verb, "DIRECTION" if verb == "go" else " ".join(rest)])


def reachable(start):
    """States of the house, by any command, in the order in which they are found."""
    found = {start: None}
    frontier = [start]
    for state in frontier:
        for command in text_nav.admissible_commands(text_nav.view_of(state)):
            state_after = text_nav.perform(state, command)[1]
            if state_after not in found and len(found) < 300:
                found[state_after] = None
                frontier.append(state_after)
    return frontier


@pytest.mark.parametrize("env_id", ["text_nav_fo", "text_nav_po"])
def test_rules_of_text_nav(env_id):
    text = rules(env_id)
    known = {form(command) for room in text_nav.ROOMS for state in reachable(text_nav.start(room))
             for command in text_nav.admissible_commands(text_nav.view_of(state))}
    more = {"examine X"} | ({"look", "inventory"} if env_id == "text_nav_fo" else set())
    assert set(actions(text)) == known | more
    assert {action.split()[0] for action in actions(text)} | {"look", "inventory"} == text_nav.VERBS
    directions = {direction for exits in text_nav.EXITS.values() for direction in exits}
    assert all(f" {direction}" in text for direction in directions)
    env = make(env_id)
    env.reset(0)
    valid = {command: env.step(f"{command}\n")[4]["valid"] for command in ("examine table", "look", "inventory")}
    assert {command for command, right in valid.items() if right} == {
        action.replace("X", "table") for action in more}


@pytest.mark.parametrize("real", ["false", "true"])
def test_rules_of_wordle(real):
    text = rules("wordle", real_duplicates=real)
    env = make("wordle", real_duplicates=real)
    env.reset(0)
    example, = actions(text)
    assert env.step(f"{example}\n")[4]["valid"]
    listed = re.search(r"words are: (.*)\.", text)[1].split(", ")
    assert listed == env.vocabulary.words and f"The {len(listed)} words" in text
    word, guess, answer = re.search('were "(.*?)", the guess "(.*?)" would be answered "(.*?)"',
                                    " ".join(text.split())).groups()
    for colours in (paper_colours, real_colours):
        assert " ".join(colours(guess.replace(" ", ""), word)) == answer
    assert ("never black" in text) == (real == "false")
    assert {letter for letter in "gyb" if f"{letter} (" in text} == {"g", "y", "b"} == set(answer) - {" "}


def test_a_long_list_is_not_told(tmp_path):
    words = [f"{a}{b}{c}aa" for a in "bcdfghjklmn" for b in "aeioubcdfg" for c in "aeioubcdfg"]
    (tmp_path / "words.txt").write_text("\n".join(words))
    text = rules("wordle", vocabulary=str(tmp_path / "words.txt"))
    assert "a list of 1,100" in text and "baeaa" not in text


POSITIONS = {
    "e4": chess.STARTING_FEN, "Nf3": chess.STARTING_FEN,
    "exd5": "rnbqkbnr/ppp1pppp/8/3p4/4P3/8/PPPP1PPP/RNBQKBNR w KQkq - 0 2",
    "Bxc6+": "r1bqkbnr/1pp2ppp/p1n1p3/1B6/4P3/8/PPPP1PPP/RNBQK1NR w KQkq - 0 4",
    "Nbd2": "4k3/8/8/8/8/5N2/8/1N2K3 w - - 0 1", "R1e2": "4R3/k7/8/8/8/8/8/K3R3 w - - 0 1",
    "Qh4xe1": "8/8/8/1K6/4Q2Q/k7/8/4r2Q w - - 0 1", "O-O": "4k3/8/8/8/8/8/8/R3K2R w KQ - 0 1",
    "O-O-O": "4k3/8/8/8/8/8/8/R3K2R w KQ - 0 1", "e8=Q": "8/4P3/8/8/8/8/k7/7K w - - 0 1",
    "Qh7#": "5rk1/8/6K1/8/8/8/8/7Q w - - 0 1",
    "Kd2": "k7/8/8/8/8/8/8/4K2R w - - 0 1", "Qh4+": "7k/8/8/8/8/8/8/K3Q3 w - - 0 1",
    "Ra8#": "4k3/8/4K3/8/8/8/8/R7 w - - 0 1", "R1a3": "R7/8/4k3/8/8/8/8/R3K3 w - - 0 1",
    "Rge6": "8/8/R5R1/8/8/2k5/8/4K3 w - - 0 1",
}


@pytest.mark.parametrize("env_id, symbols", [("chess", "KQRBNabcdefgh12345678x=+#O-"), ("endgames", "KQR+#")])
def test_rules_of_chess(env_id, symbols):
    """Each move is what python-chess writes in some position, and nothing that SAN has is left out."""
    text = rules(env_id)
    for action in actions(text):
        san = action.replace(" ", "")
        board = chess.Board(POSITIONS[san])
        assert action == " ".join(san) and board.san(board.parse_san(san)) == san
    # A move of a piece, of one that the file, the rank tells from another; a check, mate.
    forms = ["[KQR][a-h][1-8][+#]?", "[QRN][a-h][a-h][1-8]", "R[1-8][a-h][1-8]", r".*\+", ".*#"]
    if env_id == "chess":  # a pawn's move, its capture, a piece's, both file and rank; promotion, castling
        forms += ["[a-h][1-8]", "[a-h]x[a-h][1-8]", "[BN]x.*", "Q[a-h][1-8]x.*", ".*=Q", "O-O", "O-O-O"]
    sans = [action.replace(" ", "") for action in actions(text)]
    assert all(any(re.fullmatch(form, san) for san in sans) for form in forms)
    told = text.partition("\n\n")[2].partition("\n\n")[2]
    for symbol in set(symbols) - set("abcdefgh12345678"):  # the names of squares need no words
        assert re.search(rf"(?<!\w){re.escape(symbol)}(?!\w)", told), symbol
    assert ("loss" in text) == (env_id == "chess")


def test_rules_of_twenty_questions():
    text = " ".join(rules("twenty_questions").split())
    assert f"one of these kinds: {', '.join(dict.fromkeys(thing.category for thing in OBJECTS))}." in text
    *questions, guess = [read_question(f"{action}\n") for action in actions(rules("twenty_questions"))]
    assert all(reading.understood and reading.guess < 0 and reading.yes for reading in questions)
    assert guess.guess >= 0


def test_rules_of_guess_city():
    *questions, guess = [understand_city(f"{action}\n") for action in actions(rules("guess_city"))]
    assert all(question.understood for question in questions) and len(cities()) == 100
    assert not any(question.names(city) for question in questions[:3] for city in cities())
    assert sum(map(guess.names, cities())) == 1


def test_rules_of_car_dealer():
    """Every brand, type and feature; the seller's lines mean what is said of them, the buyer's end the game or not."""
    seller, buyer = rules("car_dealer"), rules("car_dealer", side="buyer")
    for name in (*BRANDS, *TYPES, *FEATURES):
        assert re.search(rf"\b{re.escape(name)}\b", seller) and re.search(rf"\b{re.escape(name)}\b", buyer)
    assert f"${MIN_PRICE:,}" in seller and f"${MAX_PRICE:,}" in seller and f"{MAX_TURNS} of your lines" in seller
    lines = [understand(line) for line in actions(seller)]
    assert [next(iter(line.intents & {"?needs", "?features", "?budget", "?discount", "?hurry"})) for line in lines[:5]
            ] == ["?needs", "?features", "?budget", "?discount", "?hurry"]
    offers = [hear(Offer(), lines[5])]
    assert is_full(offers[0]) and offers[0].price == 30_000 == offers[0].list_price
    other = hear(Offer(), lines[6])
    assert is_full(other) and (other.price, other.list_price) == (45_000, 50_000)
    for line in lines[7:11]:
        offers.append(hear(offers[-1], line))
    # $2,000 and 10 % of the list price, then another $500 of the last one.
    assert [offer.price for offer in offers] == [30_000, 27_000, 28_000, 27_000, 26_500]
    assert "close" in lines[11].intents and len(lines) == 12
    verdicts = Counter(map(verdict, actions(buyer)))
    assert verdicts == {"sale": 3, "leave": 3, "": 5}
    assert "mean of budget" in rules("car_dealer", reward="fraction") and "mean of budget" not in seller
    assert "{reward}" not in seller and "in $1,000" in seller


# --- Chats and answers ---


def test_chat():
    texts = ["Wordle:\n", "s h o r e\n", "\n", "a l o n e\n", "b y <|im_end|>g g b\n"]
    messages = chat("Rules.", texts, markov=False)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Rules.\n\n") and messages[0]["content"].endswith("\n\nWordle:")
    assert [message["content"] for message in messages[1:]] == ["s h o r e", "(nothing)", "a l o n e", "b y  g g b"]
    only, = chat("Rules.", texts, markov=True)
    assert only["role"] == "user" and only["content"].startswith("Rules.") and only["content"].endswith("b y  g g b")
    assert shorten(messages, 1) == [messages[0], *messages[3:]] and shorten(messages, 2) == [messages[0]]


@pytest.mark.parametrize("text, reason, action", [
    ("move left", "stop", "move left\n"), ("\n  move left  \nbecause", "stop", "move left\n"),
    ("move le", "length", "move le"), ("move left\nbeca", "length", "move left\n"), ("", "stop", ""),
    ("\n \u200b\n", "stop", ""), ("<think>\nleft?\n</think>\n\nmove up\n", "stop", "move up\n"),
    ("<think>\nleft? Or", "length", ""), ("<think>x</think>", "stop", ""), ("a\rb\x1b[2J\ud800c\n", "stop", "a\n"),
])
def test_read_action(text, reason, action):
    assert read_action(Answer(text, reason, 1, 1)) == action


@pytest.mark.parametrize("env_id", ["maze_fo", "twenty_questions", "wordle"])
def test_seeds(env_id):
    """Of the task's test; more games are the same ones and others; few of them are of many kinds."""
    env = make(env_id)
    few, more, whole, beyond = [choose_seeds(env, Args(num_test_episodes=number))
                                for number in (20, 50, env.num_test_episodes, env.num_test_episodes + 5)]
    assert more[:20] == few and whole[:50] == more and len(set(whole)) == len(whole)
    assert sorted(whole) == list(range(SEEDS["test"], SEEDS["test"] + env.num_test_episodes))
    assert len(beyond) == len(set(beyond)) == len(whole) + 5
    if env_id == "twenty_questions":
        assert len({OBJECTS[seed % len(OBJECTS)].category for seed in few}) > 8


# --- A server that plays ---


class FakeServer(ThreadingHTTPServer):
    """Sends what `reply(body)` returns: a text, a whole choice, or a status with a text."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.reply, self.seen, self.lock, self.running, self.most, self.delay = reply, [], threading.Lock(), 0, 0, 0.0
        self.usage = {"prompt_tokens": 100, "completion_tokens": 3}
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class FakeHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.running += 1
            server.most = max(server.most, server.running)
            server.seen.append(body)
            server.key = self.headers["Authorization"]
            said = server.reply(body)
        time.sleep(server.delay)
        with server.lock:
            server.running -= 1
        if isinstance(said, tuple):
            return self.send(said[0], {"error": said[1]})
        choice = {"message": {"content": said}, "finish_reason": "stop"} if isinstance(said, str) else said
        self.send(200, {"choices": [choice]} | ({"usage": server.usage} if server.usage else {}))


def walk(body):
    """The shortest way through the maze, with an explanation in further lines."""
    row, col = re.findall(r"position ([\d ]+), ([\d ]+)", body["messages"][-1]["content"])[-1]
    row, col = int(row.replace(" ", "")), int(col.replace(" ", ""))
    return maze.SHORTEST[row, col] + "Because it is the shortest way.\n"


@pytest.fixture
def server(tmp_path, monkeypatch):
    prepare_for_servers(tmp_path, monkeypatch)
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(maze, "MAX_MOVES", 6)
    server = FakeServer(walk)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def play(server, monkeypatch):
    """Run the script with flags, as its last lines do; returns its folder, or the sentence that it exits with."""

    def play(*flags, env_id="maze_fo", name="prompt_guess_city", **options):
        given = {"--model": server.url, "--num-test-episodes": "4", "--num-envs": "3", "--device": "cpu"}
        given |= {"--env-id": env_id, "--exp-name": name}
        given |= {f"--{option.replace('_', '-')}": str(value) for option, value in options.items()}
        gc.collect()  # a run that has ended in an error keeps its folder locked
        monkeypatch.setattr(sys, "argv", ["script.py", *[word for pair in given.items() for word in pair], *flags])
        try:
            script.main(parse_args(Args, {}, {}, script.__doc__))
        except SystemExit as stop:
            assert stop.code.startswith("error: ") and "\n" not in stop.code
            return stop.code
        return run.RUNS / f"{env_id}__{name}__{options.get('seed', 1)}"

    return play


def results(folder):
    """The row of the test without what a clock says, and the games."""
    row, = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert row.pop("charts/minutes") >= 0
    return row, list(read_file(make(folder.name.split("__")[0]), folder / "episodes.jsonl"))


def test_a_run(server, play, capsys, monkeypatch):
    """It finds its way in the games of the test; the folder is as that of the other scripts, the table has its row."""
    monkeypatch.setattr(maze, "MAX_MOVES", 100)
    server.delay = 0.01
    folder = play()
    row, games = results(folder)
    env = make("maze_fo")
    seeds = choose_seeds(env, Args(num_test_episodes=4))
    expected = [-(maze.DISTANCE[maze.CELLS[seed % 25]] - 1) for seed in seeds]
    assert [game.episodic_return for game in games] == expected
    assert [game.texts[0] for game in games] == [env.reset(seed)[0] for seed in seeds]
    wanted = {f"test/{name}": value for name, value in statistics(env, games, 0).items()}
    num_turns = sum(len(game.rewards) for game in games)
    assert row == wanted | {"iteration": 0, "global_step": num_turns, "charts/input_tokens": 100 * num_turns,
                            "charts/output_tokens": 3 * num_turns, "charts/cost": 0}
    assert row["test/success"] == 1 and row["test/invalid_actions"] == 0
    shown = capsys.readouterr()
    assert f"episodic_return {row['test/episodic_return']:.4g} ± {row['test/episodic_return_se']:.4g}" in shown.out
    assert len(server.seen) == num_turns and 1 < server.most <= 3
    about = json.loads((folder / "args.json").read_text())
    assert about["args"]["server_model"] == "tiny" and about["args"].keys() == {field.name for field in fields(Args)}
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "args.json", "episodes.jsonl", "metrics.jsonl"]
    collect.main(collect.Args(runs=run.RUNS))
    line, = report.read_lines(run.RUNS / "runs.jsonl")
    assert line["model"] == "tiny" and line["paper_return"] == -39.7 and not line["measure"]
    best = line["games"]["best"]
    assert best["texts"][1] == [[games[best["number"]].texts[1], None]]
    assert line["tokens"] == 103 * num_turns
    assert line["arguments"] == {"model": server.url, "num_test_episodes": 4, "num_envs": 3}


def test_what_is_asked(server, play, monkeypatch):
    """The whole game as a chat; the key, the limit of an answer, the temperature and a number that nobody else has."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.reply = lambda body: "move up"
    monkeypatch.setattr(maze, "MAX_MOVES", 4)
    folder = play(env_id="maze_po", max_answer_tokens=17, temperature=0.5, num_test_episodes=2, num_envs=2)
    games = results(folder)[1]
    assert len(server.seen) == 8 and [len(game.rewards) for game in games] == [4, 4]
    rules = instructions(make("maze_po"))
    chats = [json.dumps(chat(rules, game.texts[: 2 * turn + 1], False)) for game in games for turn in range(4)]
    assert sorted(chats) == sorted(json.dumps(body["messages"]) for body in server.seen)
    for body in server.seen:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 17, 0.5)
    assert len({body["seed"] for body in server.seen}) == 8
    written = [*folder.iterdir(), envs.simulators.CACHE]
    assert server.key == "Bearer sk-secret" and not any(b"secret" in path.read_bytes() for path in written)


def test_server_options(server, play):
    play("--server-options", "max_tokens", "null", "max_completion_tokens", "99", "seed", "null", "reasoning_effort",
         "low", "stop", '["\\n"]', num_test_episodes=1)
    assert all(set(body) == {"model", "messages", "temperature", "max_completion_tokens", "reasoning_effort", "stop"}
               for body in server.seen)
    assert server.seen[0]["max_completion_tokens"] == 99 and server.seen[0]["stop"] == ["\n"]
    assert server.seen[0]["reasoning_effort"] == "low"
    server.seen.clear()
    few = play("--server-options", "max_completion_tokens", "4000", name="few", max_tokens=4000, temperature=0.5)
    assert "would be passed" in few and not server.seen  # what an option allows is what is reserved


def test_games_do_not_share_draws(server, play):
    """At temperature 1 each game's answer is its own, even where all see the same; greedy ones are asked for once."""
    server.reply = lambda body: f"move {['up', 'down', 'left', 'right'][body['seed'] % 4]}"
    games = results(play(num_test_episodes=3, num_envs=1))[1]
    assert len(server.seen) == sum(len(game.rewards) for game in games)
    server.seen.clear()
    server.reply = walk
    games = results(play(name="greedy", temperature=0, num_test_episodes=5, num_envs=1))[1]
    positions = {obs for game in games for obs in game.texts[:-1:2]}
    assert len(server.seen) == len(positions) < sum(len(game.rewards) for game in games)
    assert all(body["seed"] == 0 for body in server.seen)


# --- Whole games ---


def guess_word(body):
    """The first of the words in the rules that could have been answered as the guesses have been."""
    rules, *said = [message["content"] for message in body["messages"]]
    answered = list(zip(said[::2], said[1::2], strict=True))
    for word in re.search(r"words are: (.*)\.", rules)[1].split(", "):
        if all(" ".join(paper_colours(guess.replace(" ", ""), word)) == answer for guess, answer in answered):
            return " ".join(word)


def ask_about_object(body):
    """The questions in the rules, then these; the last is a guess, whatever has been answered."""
    asked = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    more = ["Is it an animal?", "Is it a vehicle?", "Is it a tool?", "Is it a piece of furniture?", "Is it edible?",
            "Is it bigger than a car?", "Does it use electricity?", "Is it worn on the body?", "Does it have wheels?",
            "Is it found outdoors?", "Is it found in an office?", "Is it soft?", "Does it make music?", "Is it red?",
            "Is it made of glass?"]
    questions = [*actions(body["messages"][0]["content"])[:4], *more, "Is it a dog?"]
    return questions[len(asked)]


def test_whole_games(server, play, monkeypatch):
    """A player that knows nothing but what it is shown plays each of these to its end."""
    monkeypatch.setattr(maze, "MAX_MOVES", 100)
    lengths = {}
    for env_id, reply in (("maze_fo", walk), ("wordle", guess_word), ("twenty_questions", ask_about_object)):
        server.reply = reply
        row, (game,) = results(play(env_id=env_id, num_test_episodes=1))
        assert game.terminated
        if env_id != "twenty_questions":  # what its oracle understands is not the matter here
            assert row["test/invalid_actions"] == 0 and row["test/success"] == 1
        lengths[env_id] = len(game.rewards)
    assert lengths["maze_fo"] > 1 and lengths["wordle"] <= 6 and lengths["twenty_questions"] == 20
    assert len(server.seen) == sum(lengths.values())


# --- Resuming ---


def test_resume(server, play, capsys):
    """A run that is interrupted asks for the rest only, and is as one that was not."""
    whole = results(play(name="whole"))
    num_asked = len(server.seen)
    envs.simulators.CACHE.unlink()
    server.seen.clear()
    server.reply = lambda body: walk(body) if len(server.seen) <= 10 else (401, "no more credit")
    sentence = play()
    assert "status 401" in sentence and "no more credit" in sentence
    assert sentence.endswith("the answers so far are kept, and --resume continues from them")
    folder = run.RUNS / "maze_fo__prompt_guess_city__1"
    assert (folder / "metrics.jsonl").read_text() == "" and not (folder / "episodes.jsonl").exists()
    assert "holds a run: continue it with --resume" in play()
    server.reply = walk
    before = len(server.seen)
    assert play("--resume") == folder and results(folder) == whole
    assert len(server.seen) - before == num_asked - 10
    # Of a finished run the test is played again, and nothing is asked or written.
    before, files = len(server.seen), {path: path.read_bytes() for path in folder.iterdir()}
    assert "holds a run" in play()
    capsys.readouterr()
    play("--resume", num_envs=2, num_test_episodes=3)
    assert len(server.seen) == before and files == {path: path.read_bytes() for path in folder.iterdir()}
    assert "episodic_return" in capsys.readouterr().out
    assert "max_answer_tokens was 256, is 9" in play("--resume", max_answer_tokens=9)


def test_more_games_pay_for_the_new_ones(server, play):
    play(num_test_episodes=3)
    before = len(server.seen)
    games = results(play(name="more", num_test_episodes=5))[1]
    assert len(server.seen) - before == sum(len(game.rewards) for game in games[3:])


# --- Trouble ---


@pytest.mark.parametrize("bad", [
    "", " \n", "<think>\nno end", {"message": {"content": None}, "finish_reason": "stop"},
    {"message": {"content": "I cannot", "refusal": "I cannot"}, "finish_reason": "stop"},
    {"message": {"content": "move"}, "finish_reason": "content_filter"}], ids=lambda bad: repr(bad)[:60])
def test_no_action(server, play, bad):
    """Is drawn again with another number, and never kept; at last it is an error."""
    counts = Counter()

    def moody(body):
        counts[json.dumps(body["messages"])] += 1
        return bad if counts.total() % 2 else walk(body)

    server.reply = moody
    games = results(play(num_test_episodes=1, num_envs=1))[1]
    assert set(games[0].rewards) == {-1} and len(server.seen) == 12
    assert len({body["seed"] for body in server.seen}) == len(server.seen)
    row = results(run.RUNS / "maze_fo__prompt_guess_city__1")[0]
    assert row["charts/input_tokens"] == 100 * len(server.seen)  # they are paid for, too
    server.reply = lambda body: bad
    server.seen.clear()
    sentence = play(name="never", num_test_episodes=1, seed=1, temperature=0.9)
    assert "gives no action: 6 answers are empty or refused" in sentence and len(server.seen) == 6
    server.reply = walk
    assert set(results(play("--resume", name="never"))[1][0].rewards) == {-1}


def test_an_answer_that_is_too_long(server, play, monkeypatch):
    server.reply = lambda body: {"message": {"content": ""}, "finish_reason": "length"}
    assert "finish_reason length; raise --max-answer-tokens" in play(num_test_episodes=1)
    monkeypatch.setattr(maze, "MAX_MOVES", 3)
    server.reply = lambda body: {"message": {"content": "move left"}, "finish_reason": "length"}
    game = results(play("--resume"))[1][0]
    assert set(game.texts[1::2]) == {"move left…\n"} and game.episodic_return == -12


def test_trouble_that_passes(server, play):
    """It is asked again, and the games are the same."""
    troubles = [(500, "a"), (429, "b"), {"message": {}}, (503, "c")]
    server.reply = lambda body: troubles.pop() if troubles else walk(body)
    assert results(play())[0]["test/invalid_actions"] == 0 and not troubles


@pytest.mark.parametrize("flags, sentence", [
    (["--model", "http://me:key@127.0.0.1/v1"], "--model: no URL of a server"),
    (["--model", "ftp://127.0.0.1/v1"], "--model: no URL of a server"),
    (["--model", "http://127.0.0.1:9/v1"], "/v1 does not answer"),
    (["--server-model", "tiny", "--max-cost", "1"], "--max-cost needs --price-per-million"),
    (["--server-model", "tiny", "--max-cost", "1", "--price-per-million-input", "1"], "--price-per-million-output"),
    (["--max-answer-tokens", "0"], "--max-answer-tokens must be at least 1"),
    (["--num-test-episodes", "0"], "--num-test-episodes must be at least 1")])
def test_bad_flags(play, flags, sentence, server):
    assert sentence in play(*flags) and not server.seen


def test_a_long_game(server, play, monkeypatch):
    """Where it is too long for the server, the older half is left out, not the rules."""
    monkeypatch.setattr(maze, "MAX_MOVES", 9)
    most = 7

    def short(body):
        if len(body["messages"]) > most:
            return 400, "the context is too long"
        return "move up"

    server.reply = short
    folder = play(env_id="maze_po", num_test_episodes=1)
    game, = results(folder)[1]
    assert len(game.rewards) == 9
    read = [body["messages"] for body in server.seen if len(body["messages"]) <= most]
    for messages in read:
        assert messages[0]["content"].startswith("You walk through a maze")
        assert [message["role"] for message in messages] == [("user", "assistant")[i % 2] for i in range(len(messages))]
    newest = [game.texts[0], *game.texts[2:-1:2]]  # each turn is asked with its own observation, as the last message
    assert [messages[-1]["content"].splitlines()[-1] for messages in read] == [obs.strip() for obs in newest]
    most = 1  # not even the rules and the newest turn fit
    sentence = play(env_id="maze_po", name="other", num_test_episodes=1, temperature=0.5)
    assert "the context is too long" in sentence


def test_limits(server, play):
    """No request is made that might pass them, and those under way are counted."""
    server.delay = 0.02
    server.usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    prices = dict(price_per_million_input=2, price_per_million_output=10)
    sentence = play(max_cost=0.03, name="cheap", **prices)
    cost = len(server.seen) * (2 * 1000 + 10 * 100) / 1e6
    assert "--max-tokens or --max-cost would be passed" in sentence and 0.01 < cost <= 0.03
    before = len(server.seen)
    assert "would be passed" in play("--resume", name="cheap")  # the flags are kept, and the limit is of this start
    assert 0.01 < (len(server.seen) - before) * 0.003 <= 0.03
    row = results(play("--resume", name="cheap", max_cost=1, **prices))[0]
    assert row["charts/cost"] == pytest.approx(len(server.seen) * 0.003)
    server.seen.clear()
    assert "would be passed" in play(max_tokens=20_000, name="few", seed=1, temperature=0.7)
    assert 5 < len(server.seen) <= 20_000 / 1100
    server.seen.clear()
    assert "would be passed" in play(max_tokens=10, name="none", temperature=0.6) and not server.seen


def test_ledger():
    """What is reserved counts until it is settled; what is kept is in the total, but not in the limit."""
    ledger = Ledger(Args(max_tokens=200, price_per_million_input=1e6))
    most = np.array([60, 20])
    ledger.reserve(most)
    ledger.reserve(most)
    with pytest.raises(OSError, match="would be passed, after 0 tokens read, 0 written, cost 0"):
        ledger.reserve(most)
    ledger.settle(most, [6, 2])
    ledger.reserve(most)
    ledger.keep(Answer("", "stop", 500, 7))
    assert list(ledger.reserved) == [120, 40] and ledger.total() == (506, 9, 506)


def test_a_server_that_does_not_say(server, play):
    """How many tokens there were: they are estimated, and the limit holds."""
    server.usage = None
    row = results(play())[0]
    num_turns = row["global_step"]
    assert row["charts/input_tokens"] > 100 * num_turns and row["charts/output_tokens"] > 2 * num_turns


# --- A local model ---


def test_a_local_model(server, play, tmp_path, monkeypatch):
    """It plays, and the same however many games there are beside each other."""
    monkeypatch.setattr(maze, "MAX_MOVES", 2)
    name = save_causal(tmp_path / "chat", CHATML, eos_token="<|im_end|>", max_length=9000).removeprefix("hf:")
    options = dict(model=name, num_test_episodes=2, max_answer_tokens=4)
    row, games = results(play(**options))
    assert row["test/episodic_length"] == 2 and row["test/invalid_actions"] == 1 and not server.seen
    assert len({text for game in games for text in game.texts[1::2]}) > 2
    envs.simulators.CACHE.unlink()
    assert results(play(**options, name="other", num_envs=1)) == (row, games)


def test_what_a_local_model_reads_and_says(server, tmp_path):
    """The template's tokens; its answer ends with its first line, and the oldest turns are left out of a long game."""
    name = save_causal(tmp_path / "chat", CHATML, eos_token="<|im_end|>", max_length=100).removeprefix("hf:")
    model = script.LocalModel(Args(model=name, device="cpu", max_answer_tokens=12), "digest")
    encode, decode, encode_chat = model.tokenizer.encode, model.tokenizer.decode, model.encode_chat
    messages = [{"role": role, "content": text} for role, text in (
        ("user", "Is it alive?"), ("assistant", "Yes."), ("user", "Can it fly?"))]
    assert decode(encode_chat(messages)) == (
        "<|im_start|>user\nIs it alive?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\n"
        "Can it fly?<|im_end|>\n<|im_start|>assistant\n")
    long = messages[:2] * 9 + messages[2:]
    assert decode(encode_chat(long)).startswith("<|im_start|>user\nIs it alive?<|im_end|>\n<|im_start|>assistant\n")
    assert 50 < len(encode_chat(long)) <= 88
    for newest in (messages[:0], messages[1:2] + messages):  # it never answers an older observation instead
        with pytest.raises(OSError, match="has room for 88 tokens, not for"):
            encode_chat([{"role": "user", "content": "alive? " * 99}, *newest[:2]])
    eos = model.tokenizer.eos_token_id
    for said, end, text, reason, action in (("No.\nYes.", [], "No.\n", "length", "No.\n"),
                                            ("\n\nNo.", [eos], "\n\nNo.", "stop", "No.\n"),
                                            ("Yes", [], "Yes" * 12, "length", "Yes" * 12)):
        hook = model.network.lm_head.register_forward_hook(Follow([*encode(said), *end]))
        answer = asyncio.run(model.say(messages, number=1))
        assert (answer.text, answer.reason, read_action(answer)) == (text, reason, action)
        assert answer.num_input == len(encode_chat(messages)) and answer.num_output == len(encode(text)) + len(end)
        hook.remove()
    model.tokenizer.chat_template += "<think>"  # a thought that the template opens and the answer does not end
    model.network.lm_head.register_forward_hook(Follow([*encode("Is it?"), eos]))
    answer = asyncio.run(model.say(messages[:1], number=1))
    assert answer.text == "<think>Is it?" and read_action(answer) == ""


def test_temperature_of_a_local_model(server, tmp_path):
    """How often a token comes first is its probability."""
    name = save_causal(tmp_path / "chat", CHATML, eos_token="<|im_end|>").removeprefix("hf:")
    logits = torch.full((200,), -30.0)
    logits[[5, 6]] = torch.tensor([1.0, 0.0])
    for temperature, expected in ((1.0, 0.731), (0.25, 0.982), (0.0, 1.0)):
        model = script.LocalModel(Args(model=name, device="cpu", max_answer_tokens=1, temperature=temperature), "")
        model.network.lm_head.register_forward_hook(lambda module, args, out: logits[: out.shape[-1]].expand_as(out))
        first = model.tokenizer.decode([5])
        question = [{"role": "user", "content": "Is"}]
        answers = [asyncio.run(model.say(question, number)) for number in range(60)]
        assert sum(answer.text == first for answer in answers) / 60 == pytest.approx(expected, abs=0.15)


def test_no_chat_model(server, play, tmp_path):
    name = save_causal(tmp_path / "plain").removeprefix("hf:")
    assert "has no chat template" in play(model=name)
    assert "cannot load" in play(model=str(tmp_path / "nothing"), name="third")


# --- A real one ---


def test_a_real_server(play, monkeypatch):
    """SmolLM2-135M plays badly, but to the end, and the same again."""
    if reason := llama_server.missing():
        pytest.skip(reason)
    monkeypatch.setattr(maze, "MAX_MOVES", 2)
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "llama_server.py")], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    options = dict(model=process.stdout.readline().strip(), env_id="maze_po", num_test_episodes=2, max_answer_tokens=12)
    row, games = results(play(**options))
    assert row["test/episodic_length"] == 2 and row["charts/input_tokens"] > 400 and row["charts/output_tokens"] >= 4
    process.stdin.close()
    process.wait(20)
    assert all(len(text) > 1 for game in games for text in game.texts[1::2])
