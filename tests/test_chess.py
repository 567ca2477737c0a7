"""Chess and endgames: rules through the spaced text, every end of a game, engines that die, tables, data."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import chess
import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st

import envs.chess
from envs import SEEDS, Trajectory, VectorEnv, make, play
from envs.chess import (
    EnginePool,
    distance,
    draw,
    engine_pool,
    find_engine,
    image,
    mates_in_one,
    mirrored_board,
    shown_in_test,
    spaced,
    test_positions,
)
from envs.data import read_file

test_positions.__test__ = False  # a function of the module, no test
ROOT = Path(__file__).resolve().parent.parent
try:
    find_engine()
except FileNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)
TABLES = Path(os.environ.get("SYZYGY", ROOT / "data" / "syzygy"))  # where tests/run.sh puts them
needs_tables = pytest.mark.skipif(not list(TABLES.glob("*.rtbw")), reason=f"no Syzygy tables in {TABLES}")
both = pytest.mark.parametrize("env_id", ("chess", "endgames"))


def at(fen, env_id="chess", **options):
    env = make(env_id, **options)
    env.reset(0)
    env.board = chess.Board(fen)
    return env


def answer(monkeypatch, *moves):
    """Let Black play `moves`, SAN, instead of the engine's."""
    waiting = iter(moves)
    monkeypatch.setattr(envs.chess, "replies", lambda asked: [env.board.parse_san(next(waiting)) for env in asked])


# --- Rules ---


# Well-known games, from their published scores; with the position that they end in.
GAMES = {
    "opera": ("e4 e5 Nf3 d6 d4 Bg4 dxe5 Bxf3 Qxf3 dxe5 Bc4 Nf6 Qb3 Qe7 Nc3 c6 Bg5 b5 Nxb5 cxb5 Bxb5+ Nbd7 O-O-O Rd8 "
              "Rxd7 Rxd7 Rd1 Qe6 Bxd7+ Nxd7 Qb8+ Nxb8 Rd8#", "1n1Rkb1r/p4ppp/4q3/4p1B1/4P3/8/PPP2PPP/2K5 b k - 1 17"),
    "immortal": ("e4 e5 f4 exf4 Bc4 Qh4+ Kf1 b5 Bxb5 Nf6 Nf3 Qh6 d3 Nh5 Nh4 Qg5 Nf5 c6 g4 Nf6 Rg1 cxb5 h4 Qg6 h5 Qg5 "
                 "Qf3 Ng8 Bxf4 Qf6 Nc3 Bc5 Nd5 Qxb2 Bd6 Bxg1 e5 Qxa1+ Ke2 Na6 Nxg7+ Kd8 Qf6+ Nxf6 Be7#",
                 "r1bk3r/p2pBpNp/n4n2/1p1NP2P/6P1/3P4/P1P1K3/q5b1 b - - 1 23"),
}


@pytest.mark.parametrize("name", GAMES)
def test_known_games(monkeypatch, name):
    moves, end = GAMES[name][0].split(), GAMES[name][1]
    answer(monkeypatch, *moves[1::2])
    env = make("chess")
    obs, _ = env.reset(0)
    assert obs == ("r n b q k b n r / p p p p p p p p / 8 / 8 / 8 / 8 / P P P P P P P P / R N B Q K B N R   w   K Q "
                   "k q   -   0   1\n")
    for i, move in enumerate(moves[::2], 1):
        obs, reward, terminated, truncated, info = env.step(spaced(move))
        assert info["valid"] and not truncated and terminated == (2 * i > len(moves))
    assert obs == spaced(end) and reward == 1 and info["success"]


# Numbers of positions behind two half-moves, from the literature on perft.
PERFT = {chess.STARTING_FEN: 400,
         "r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1": 2039,
         "8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1": 191,
         "rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8": 1486}


@pytest.mark.parametrize("fen", PERFT)
def test_perft_through_the_text(fen):
    total = 0
    for move in chess.Board(fen).legal_moves:
        env = at(fen)
        assert env.push(spaced(env.board.san(move))) and env.board.peek() == move
        total += env.board.legal_moves.count()
    assert total == PERFT[fen]


ILLEGAL = ("", "\n", "N f 3", "N f 4\n", "e 5\n", "- -\n", "0 0 0 0\n", "Z 0\n", "O - O\n", "e 2 e 5\n", "I resign\n",
           "K\n", "♞ f 3\n", "N f 3 N f 6\n", "@ @ @ @\n", "e 4 = Q\n")


@pytest.mark.parametrize("action", ILLEGAL)
def test_illegal_moves(action):
    env = make("chess")
    first, _ = env.reset(0)
    assert env.step(action) == (first, -1.0, False, False, {"success": False, "valid": False})
    assert env.board == chess.Board() and env.turns == 1


def test_unspaced_moves_are_read_too():
    env = make("chess")
    env.reset(0)
    assert env.step("Nf3\n")[4]["valid"]


@pytest.mark.parametrize("fen, action, reply, behind", [
    ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "O - O\n", "O-O-O", "2kr3r/8/8/8/8/8/8/R4RK1 w - - 2 2"),
    ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "O - O - O\n", "Rxh1", "r3k3/8/8/8/8/8/8/2KR3r w q - 0 2"),
    ("4k3/8/8/pP6/8/8/8/4K3 w - a6 0 2", "b x a 6\n", "Kd7", "8/3k4/P7/8/8/8/8/4K3 w - - 1 3"),
    ("8/P7/7k/7p/8/8/8/K7 w - - 0 1", "a 8 = N\n", "Kg7", "N7/6k1/8/7p/8/8/8/K7 w - - 1 2"),
    ("8/P7/7k/8/8/8/8/K7 w - - 0 1", "a 8 = Q\n", "Kg7", "Q7/6k1/8/8/8/8/8/K7 w - - 1 2"),
])
def test_special_moves(monkeypatch, fen, action, reply, behind):
    env = at(fen)
    answer(monkeypatch, reply)
    assert env.step(action)[0] == spaced(behind)


ENDS = {  # position, White's move, Black's, reward
    "mate": ("7k/8/6KQ/8/8/8/8/8 w - - 0 1", "Q g 7 #\n", None, 1.0),
    "mated": ("rnbqkbnr/pppp1ppp/8/4p3/8/5P2/PPPPP1PP/RNBQKBNR w KQkq - 0 2", "g 4\n", "Qh4#", -1.0),
    "stalemate of Black": ("7k/8/6K1/8/8/8/8/5Q2 w - - 0 1", "Q f 7\n", None, 0.0),
    "stalemate of White": ("8/8/8/8/8/1k6/3q4/1K6 w - - 0 1", "K a 1\n", "Qc2", 0.0),
    "insufficient material": ("7k/8/8/8/8/8/6q1/7K w - - 0 1", "K x g 2\n", None, 0.0),
    "Black takes the last piece": ("8/8/8/8/8/2k5/8/KR6 w - - 0 1", "R b 4\n", "Kxb4", 0.0),
    "fifty moves, White's": ("7k/8/8/8/8/8/R7/K7 w - - 99 80", "R b 2\n", None, 0.0),
    "fifty moves, Black's": ("7k/8/8/8/8/8/R7/K7 w - - 98 80", "R b 2\n", "Kg8", 0.0),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(monkeypatch, name):
    fen, action, reply, reward = ENDS[name]
    answer(monkeypatch, *[reply] * (reply is not None))
    env = at(fen)
    obs, got, terminated, truncated, info = env.step(action)
    assert (got, terminated, truncated, info) == (reward, True, False, {"success": reward == 1, "valid": True})
    assert obs == spaced(env.board.fen())
    with pytest.raises(RuntimeError):
        env.step("K a 1\n")


def test_third_repetition(monkeypatch):
    answer(monkeypatch, *["Nf6", "Ng8"] * 2)
    env = make("chess")
    env.reset(0)
    results = [env.step(spaced(move)) for move in ["Nf3", "Ng1"] * 2]
    assert [terminated for _, _, terminated, _, _ in results] == [False, False, False, True]
    assert results[-1][1] == 0.0 and not results[-1][4]["success"]


def test_mate_in_the_last_turn_is_no_truncation():
    env = at("7k/8/6KQ/8/8/8/8/8 w - - 0 1", "endgames")
    env.turns = 399
    assert env.step("Q g 7 #\n")[1:4] == (1.0, True, False)


@both
def test_gymnasium(env_id):
    check_with_gymnasium(env_id)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(st.sampled_from("KQRBNabcdefgh12345678xO-+#= "), max_size=12).map("".join))
def test_any_string(action):
    env = make("chess")
    first, _ = env.reset(0)
    obs, reward, terminated, truncated, info = env.step(action)
    assert not (terminated or truncated) and reward == (0.0 if info["valid"] else -1.0)
    assert (obs == first) != info["valid"]


# --- Opponents ---


def test_draw_is_a_softmax():
    lines = [(chess.Move.from_uci(uci), score) for uci, score in (("e2e4", 1.0), ("d2d4", 0.0), ("a2a3", -100.0))]
    rng = random.Random(0)
    count = Counter(draw(lines, 1.0, rng).uci() for _ in range(20_000))
    assert count["e2e4"] / 20_000 == pytest.approx(0.7311, abs=0.01) and count["a2a3"] == 0
    assert {draw(lines, 0.0, rng).uci() for _ in range(20)} == {"e2e4"}
    assert draw([(chess.Move.null(), 1e5), (chess.Move.null(), -1e5)], 0.01, rng) is not None  # nothing overflows


def test_lines_are_the_best_first():
    (lines,) = engine_pool(find_engine()).lines([chess.Board("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1")], 5, 4)
    assert lines[0][0].uci() == "a1a8" and lines[0][1] > 50 and len(lines) == 4
    assert [score for _, score in lines] == sorted((score for _, score in lines), reverse=True)


def games(env_id, num, num_envs):
    """Games of the random player with illegal moves between them, side by side."""
    vector, waiting, found = VectorEnv(env_id, num_envs), [*range(num)], {}
    rngs = [random.Random(number) for number in waiting]
    while waiting or vector.games:
        while waiting and vector.free:
            vector.reset(waiting[0], waiting.pop(0))
        actions = {}
        for number, game in vector.games.items():
            legal = [spaced(game.env.board.san(move)) for move in game.env.board.legal_moves]
            actions[number] = rngs[number].choice([*legal, "0 - 1\n"])
        for number, (*_, info) in vector.step(actions).items():
            if "trajectory" in info:
                found[number] = info["trajectory"]
    return [found[i] for i in range(num)]


@both
def test_side_by_side_or_alone_the_games_are_the_same(env_id):
    together = games(env_id, 6, 4)
    engine_pool(find_engine()).known.clear()
    assert games(env_id, 6, 1) == together and len({tuple(game.texts) for game in together}) == 6


def test_engines_that_are_killed_lose_no_game():
    expected, pool, over, killed = games("chess", 6, 6), engine_pool(find_engine()), threading.Event(), set()
    pool.known.clear()

    def kill():  # each engine twice: three times would be an engine that always dies
        for engine in [*range(len(pool.engines))] * 2:
            over.wait(0.1)
            process = pool.engines[engine].transport.get_pid()
            while process in killed and not over.wait(0.01):
                process = pool.engines[engine].transport.get_pid()
            if not over.is_set():
                os.kill(process, signal.SIGKILL)
                killed.add(process)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert games("chess", 6, 6) == expected
    finally:
        over.set()
        killer.join()
    assert len(killed) >= len(pool.engines)


def test_an_interrupted_search_is_not_taken_for_a_whole_one():
    pool, boards = engine_pool(find_engine()), [chess.Board(fen) for fen in PERFT]
    pool.known.clear()
    expected = pool.lines(boards, 11, 4)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            pool.known.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            with pytest.raises(KeyboardInterrupt):
                pool.lines(boards, 11, 4)
            pool.lines([chess.Board()], 1, 1)
            assert pool.lines(boards, 11, 4) == expected
    finally:
        signal.signal(signal.SIGALRM, before)


def test_two_threads_ask_one_after_the_other():
    pool, found = engine_pool(find_engine()), {}
    boards = [chess.Board(f"8/8/8/3k4/8/8/8/{king}KQ5 w - - 0 1" if king else "8/8/8/3k4/8/8/8/KQ6 w - - 0 1")
              for king in range(2)]
    expected = pool.lines(boards, 6, 4)
    pool.known.clear()
    threads = [threading.Thread(target=lambda i=i: found.setdefault(i, pool.lines(boards[i % 2:], 6, 4)))
               for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: expected[i % 2:] for i in range(8)}


def fake_engine(path, go, ready="echo readyok", uci="echo uciok"):
    """A shell script that answers to each of the commands like this."""
    option = "echo option name MultiPV type spin default 1 min 1 max 500"
    path.write_text(f"#!/bin/sh\nwhile read line; do case $line in uci) echo id name Fake; {option}; {uci};; "
                    f"isready) {ready};; go*) {go};; esac; done\n")
    path.chmod(0o755)
    return str(path)


def test_an_engine_that_always_dies(tmp_path):
    env = make("chess", engine=fake_engine(tmp_path / "engine", "exit"))
    env.reset(0)
    assert env.about()["opponent"] == "Fake"
    with pytest.raises(OSError, match="died, or searched for more than 60 seconds, three times on .* at depth 3"):
        env.step("e 4\n")


HANG = "exec sleep 30"


@pytest.mark.parametrize("answers", [{"go": HANG}, {"go": "", "ready": HANG}, {"go": "", "uci": HANG}, {
    "go": "while true; do echo info string thinking; sleep 0.1; done"}], ids=["go", "isready", "uci", "endless"])
def test_an_engine_that_hangs(tmp_path, monkeypatch, caplog, answers):
    """There is a message in time, without a traceback of python-chess beside it."""
    monkeypatch.setattr(envs.chess, "START_TIME", 1)
    monkeypatch.setattr(envs.chess, "SEARCH_TIME", 0.5)
    env, start = make("chess", engine=fake_engine(tmp_path / "engine", **answers)), time.monotonic()
    env.reset(0)
    with pytest.raises(OSError, match="searched for more than|does not answer as a UCI chess engine"):
        env.step("e 4\n")
    assert time.monotonic() - start < 20
    time.sleep(0.2)
    assert "InvalidStateError" not in caplog.text


@pytest.mark.parametrize("lines, move", [
    ("info depth 1 multipv 1 score cp 9\ninfo depth 1 multipv 2 score cp 3 pv e7e5 g1f3", "e7e5"),
    ("info depth 1 multipv 1 pv e7e5\ninfo depth 1 multipv 2 score cp 3 pv c7c5", "c7c5"),
    ("info depth 1 score cp 9", ""), ("info depth 1 score cp 3 pv a1a1", ""), ("info string no line", "")])
def test_a_line_without_moves(tmp_path, lines, move):
    """It is left out; if that leaves none, a message says so."""
    go = "".join(f"echo {line}; " for line in lines.split("\n")) + "echo bestmove e7e5"
    pool, board = engine_pool(fake_engine(tmp_path / "engine", go)), chess.Board()
    board.push_san("e4")
    if move:
        assert [line[0].uci() for line in pool.lines([board], 1, 4)[0]] == [move]
    else:
        with pytest.raises(OSError, match="names no move with a score on rnbq"):
            pool.lines([board], 1, 4)


def test_a_hanging_engine_in_the_terminal(tmp_path):
    command = [sys.executable, "-c", "import envs.chess, envs.terminal; envs.chess.SEARCH_TIME = 0.2; "
               "envs.terminal.main(envs.chess.Chess)", "--options", "engine", fake_engine(tmp_path / "engine", HANG)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input="e 4\n", timeout=60)
    assert found.returncode == 1 and found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert "three times" in found.stderr


def test_no_engine(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="no chess engine .*nowhere: install one"):
        make("chess", engine=str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="does not answer as a UCI chess engine"):
        EnginePool("/bin/false")
    found = subprocess.run([sys.executable, "-m", "envs.chess", "--options", "engine", str(tmp_path / "nowhere")],
                           cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.startswith("error: no chess engine") and found.stderr.count("\n") == 1


@pytest.mark.parametrize("options, message", [
    ({"depth": "0"}, "depth"), ({"opponent_temperature": "-1"}, "temperature"), ({"opponent": "human"}, "human"),
    ({"opponent": "tablebase"}, "needs syzygy"), ({"colour": "black"}, "no option 'colour'")])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make("endgames", **options)


def test_wrong_folder_of_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Syzygy tables"):
        make("endgames", syzygy=str(tmp_path))


SAME = """
import sys; from envs import make, play
for env_id in ("chess", "endgames"):
    env = make(env_id)
    print([play(env, env.players()[name], seed).texts for name in ("random", "data") for seed in (3, 2_000_000_003)])
"""


def test_fresh_processes_play_the_same_games():
    outputs = [subprocess.run([sys.executable, "-c", SAME], cwd=ROOT, capture_output=True, text=True, check=True).stdout
               for _ in range(2)]
    assert outputs[0] == outputs[1] and len(outputs[0]) > 5000


def test_about_names_the_engine():
    assert "Stockfish" in make("chess").about()["opponent"] and make("chess").about()["depth"] == 3


# --- Positions and tables ---


def test_positions_of_the_test():
    positions = test_positions()
    assert len(positions) == 645
    boards = [chess.Board(f"{epd} 0 1") for epd in positions]
    assert all(board.is_valid() and board.turn and not board.is_game_over() and not mates_in_one(board)
               for board in boards)
    material = Counter("".join(sorted(piece.symbol() for piece in board.piece_map().values())) for board in boards)
    assert set(material) == {"KQk", "KRk", "KQRk", "KRRk"} and min(material.values()) > 100
    env = make("endgames")
    played = {env.reset(SEEDS["test"] + i)[0] for i in range(env.num_test_episodes)}
    assert played == {spaced(board.fen()) for board in boards}


def test_mates_in_one():
    assert mates_in_one(chess.Board("7k/8/6KQ/8/8/8/8/8 w - - 0 1"))
    assert not mates_in_one(chess.Board("7k/8/5K1Q/8/8/8/8/8 b - - 0 1"))


def test_data_and_training_never_show_a_position_of_the_test(monkeypatch):
    env = make("endgames")
    shown = [epd_of(obs) for game in islice(env.generate(40, 0), 40) for obs in game.texts[::2]]
    assert not set(shown) & set(test_positions()) and set(test_positions()) < shown_in_test()
    # Nor a position with an image in the test: the data would show that one too.
    on_the_way = mirrored_board(chess.Board(next(env.generate(1, 0)).texts[2][:-1:2]), 5).epd()
    first = mirrored_board(chess.Board(env.reset(5)[0][:-1:2]), 3).epd()
    monkeypatch.setattr(envs.chess, "test_positions", lambda: {on_the_way: 0, first: 1})
    shown_in_test.cache_clear()
    monkeypatch.setattr(envs.chess, "shown_in_test", shown_in_test.__wrapped__)
    assert on_the_way not in [epd_of(obs) for game in env.generate(8, 0) for obs in game.texts[::2]]
    assert mirrored_board(chess.Board(env.reset(5)[0][:-1:2]), 3).epd() != first


def test_images_of_the_board():
    squares = [[image(square, number) for square in chess.SQUARES] for number in range(8)]
    assert squares[0] == list(chess.SQUARES) and len({tuple(found) for found in squares}) == 8
    for found in squares:
        assert sorted(found) == list(chess.SQUARES)
        assert all(chess.square_knight_distance(a, b) == chess.square_knight_distance(found[a], found[b])
                   and chess.square_manhattan_distance(a, b) == chess.square_manhattan_distance(found[a], found[b])
                   for a in chess.SQUARES for b in chess.SQUARES)


def test_each_game_comes_in_eight_images():
    env = make("endgames")
    games = list(env.generate(16, 0))
    for first in (0, 8):
        images = games[first : first + 8]
        assert len({game.texts[0] for game in images}) == 8
        assert len({(*game.rewards, game.terminated, game.success) for game in images}) == 1
        for game in images:
            board = chess.Board(game.texts[0][:-1:2])
            for action, obs in zip(game.texts[1::2], game.texts[2::2], strict=True):
                board.push_san(action[:-1:2])
                if board.fen() != obs[:-1:2]:
                    board.push(next(move for move in board.legal_moves if after(board, move) == obs[:-1:2]))
            assert board.is_game_over(claim_draw=True) == game.terminated and board.is_checkmate() == game.success


def after(board, move):
    board = board.copy()
    board.push(move)
    return board.fen()


def epd_of(obs):
    return " ".join(obs[:-1:2].split(" ")[:4])


@needs_tables
def test_every_position_of_the_test_is_won():
    env = make("endgames", syzygy=str(TABLES))
    assert env.best_return() == env.best == 1.0


@needs_tables
@pytest.mark.parametrize("fen, longest", [("8/8/8/3k4/8/8/8/KQ6 w - - 0 1", 10), ("8/8/8/3k4/8/8/8/KR6 w - - 0 1", 16)])
def test_perfect_players(fen, longest):
    env = make("endgames", opponent="tablebase", syzygy=str(TABLES))
    assert env.about() == {"opponent": "tablebase"}
    env.reset(0)
    env.board, expected = chess.Board(fen), (distance(chess.Board(fen), env.tables) + 1) // 2
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.players()["best"](env, random.Random(0)))
        rewards.append(reward)
    assert rewards[-1] == 1.0 and len(rewards) <= longest and abs(len(rewards) - expected) <= 1


@needs_tables
def test_perfect_defence_takes_what_it_can():
    env = make("endgames", opponent="tablebase", syzygy=str(TABLES))
    env.reset(0)
    env.board = chess.Board("8/8/8/3k4/8/8/8/K5R1 w - - 0 1")
    obs, reward, terminated, *_ = env.step("R g 5 +\n")
    assert not terminated and distance(env.board, env.tables) > 0
    env.board = chess.Board("8/8/8/3k4/8/8/8/K3R3 w - - 0 1")
    assert env.step("R e 5 +\n")[:3] == (spaced("8/8/8/4k3/8/8/8/K7 w - - 0 2"), 0.0, True)


# --- Data ---


PINNED = {"chess": (8, "cf526fc302ac60c4"), "endgames": (30, "602e01e298c727d9")}


@both
def test_data_is_pinned(env_id):
    env, (num, digest) = make(env_id), PINNED[env_id]
    if env.about()["opponent"] != "Stockfish 15.1":
        pytest.skip(f"the digest is of Stockfish 15.1, this is {env.about()['opponent']}")
    texts = "".join(text for game in env.generate(num, 0) for text in game.texts)
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("env_id, num, start", [("chess", 5, 2), ("endgames", 19, 3), ("endgames", 19, 8),
                                                ("endgames", 19, 17)])
def test_data_goes_on_where_it_was_stopped(env_id, num, start):
    env = make(env_id)
    assert list(env.generate(num, 7, start)) == list(env.generate(num, 7))[start:]


@both
def test_data(env_id):
    for game in make(env_id).generate(4, 1):
        board = chess.Board(game.texts[0][:-1:2])
        for action, obs in zip(game.texts[1::2], game.texts[2::2], strict=True):
            assert spaced(board.san(board.parse_san(action[:-1:2]))) == action
            board = chess.Board(obs[:-1:2])
        assert game.terminated and game.rewards[:-1] == [0.0] * (len(game.rewards) - 1)
        assert game.rewards[-1] == {"1-0": 1, "0-1": -1}.get(board.result(claim_draw=True), 0)


def test_weaker_opponents_lose_more():
    def mean(temperature):
        env = make("chess", opponent_temperature=temperature)
        return sum(game.rewards[-1] for game in env.generate(8, 0)) / 8

    assert mean("0.1") < mean("20")


def test_measures():
    env = make("chess")
    start = spaced(chess.STARTING_FEN)
    for reward, terminated, expected in ((1, True, (0, 0)), (0, True, (1, 0)), (-1, True, (0, 1)), (-1, False, (0, 0))):
        found = env.measures(Trajectory([start, "e 4\n", start], [reward], terminated, reward == 1))
        assert (found["draws"], found["losses"]) == expected


STATE = spaced("8/8/8/3k4/8/8/8/KQ6 w - - 0 1")


@pytest.mark.parametrize("record, rewards, terminated", [
    ([{"state": STATE, "action": "Q b 2\n", "reward": 0, "done": False},
      {"state": STATE, "action": "Q b 3 +\n", "reward": 1, "done": True}], [0, 1], True),
    ([{"state": STATE, "action": "Q b 2\n", "reward": 0, "done": False}], [0], False),
    ({"from_state": STATE, "action": "Q b 2\n", "reward": 0, "done": True}, [0], True)])
def test_original_formats(tmp_path, record, rewards, terminated):
    path, env = tmp_path / "games.jsonl", make("endgames")
    path.write_text(json.dumps(record) + "\n")
    (game,) = read_file(env, path)
    assert (game.rewards, game.terminated, game.success) == (rewards, terminated, rewards[-1] == 1)
    assert game.texts[0] == STATE and (game.complete() is None) == (len(rewards) == 1 and not terminated)


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


PLAIN = "8/8/8/3k4/8/8/8/KQ6 w - - 0 1"


@pytest.mark.parametrize("state", [PLAIN, PLAIN + "\n", " ".join(PLAIN), STATE])
@pytest.mark.parametrize("action", ["Qb2", "Qb2\n", "Q b 2", "Q b 2\n"])
def test_plain_and_spaced(tmp_path, state, action):
    """FEN and SAN as the original's engines write them, and as its games show them, with and without the newline."""
    records = ([{"state": state, "action": action, "reward": 0, "done": True}],
               {"from_state": state, "action": action, "reward": 0, "done": True, "generated_by": "ppo", "round": 3})
    for record in records:
        (game,) = read_file(make("endgames"), write(tmp_path / "games.jsonl", record))
        assert game == Trajectory([STATE, "Q b 2\n"], [0.0], True, False)


def test_records_without_reward(tmp_path):
    """Those of behaviour cloning: the original's filtered data, and what its script of 2,800 Elo writes."""
    filtered = {"from_state": PLAIN, "action": "Qb2"}
    in_out = {"in_text": STATE, "out_text": "Q b 2\n", "stockfish_actions": ["Q b 2\n", "Q b 3 +\n"]}
    for record in (filtered, in_out):
        (game,) = read_file(make("endgames"), write(tmp_path / "games.jsonl", record))
        assert game == Trajectory([STATE, "Q b 2\n"], [0.0], False, False)


def by_turns(game, plain):
    """A game as the original's `train_unshuffled.jsonl` has it: a turn a line, in order."""
    texts = [text[:-1:2] if plain else text for text in game.texts]
    turns = [{"from_state": obs, "action": action, "reward": reward, "done": False}
             for obs, action, reward in zip(texts[:-1:2], texts[1::2], game.rewards, strict=True)]
    turns[-1]["done"] = game.terminated
    return turns


@pytest.mark.parametrize("plain", [True, False])
@both
def test_turns_in_their_order_are_a_game(tmp_path, env_id, plain):
    env, path = make(env_id), tmp_path / "games.jsonl"
    games = list(env.generate(3 if env_id == "chess" else 24, 1))
    found = list(read_file(env, write(path, *[turn for game in games for turn in by_turns(game, plain)])))
    assert found == [Trajectory(game.texts[:-1], game.rewards, game.terminated, game.success) for game in games]
    assert max(len(game.rewards) for game in found) > 3


def test_illegal_moves_are_turns_of_their_game(tmp_path):
    after = "8/8/8/2k5/8/8/1Q6/K7 w - - 2 2"
    turns = [{"from_state": state, "action": action, "reward": reward, "done": False}
             for state, action, reward in ((PLAIN, "Qh9", -1), (PLAIN, "Qb2", 0), (after, "Q", -1), (after, "Qb3", 0))]
    (game,) = read_file(make("endgames"), write(tmp_path / "games.jsonl", *turns))
    assert game.rewards == [-1, 0, -1, 0] and game.texts[::2] == [spaced(turn["from_state"]) for turn in turns]


@both
def test_shuffled_turns_stay_alone(tmp_path, env_id):
    """As in `train_bc.jsonl`: nothing is taken for a game that was not played so."""
    env, path = make(env_id), tmp_path / "games.jsonl"
    turns = [turn for game in env.generate(3 if env_id == "chess" else 24, 1) for turn in by_turns(game, plain=True)]
    random.Random(0).shuffle(turns)
    games = list(read_file(env, write(path, *turns)))
    assert len(games) > 0.9 * len(turns)
    for game in games:
        board = chess.Board(game.texts[0][:-1:2])
        for action, obs in zip(game.texts[1::2], game.texts[2::2], strict=False):
            board.push_san(action[:-1:2])
            fens = {spaced(next_board.fen()) for next_board in all_next(board)}
            assert obs in fens
            board = chess.Board(obs[:-1:2])


def all_next(board):
    for move in board.legal_moves:
        found = board.copy()
        found.push(move)
        yield found


def test_other_games_are_not_joined():
    first = Trajectory([STATE, "Q b 2\n"], [0.0], False, False)
    after = spaced("8/8/8/2k5/8/8/1Q6/K7 w - - 2 2")
    env = make("endgames")
    assert env.follows(Trajectory([after, "Q b 3\n"], [0.0], False, False), first)
    over = Trajectory([STATE, "Q b 2\n"], [0.0], True, False)
    seen = Trajectory([STATE, "Q b 2\n", after], [0.0], False, False)
    two = Trajectory([after, "Q b 3\n"] * 2, [0.0] * 2, False, False)
    assert not any(env.follows(Trajectory([after, "Q b 3\n"], [0.0], False, False), last) for last in (over, seen, two))
    for state in (STATE, spaced("8/8/8/2k5/8/8/1Q6/K7 w - - 2 3"), spaced("8/8/8/1k6/8/8/1Q6/K7 w - - 2 2")):
        assert not env.follows(Trajectory([state, "Q b 3\n"], [0.0], False, False), first)
    assert not env.follows(two, first)


@pytest.mark.parametrize("record", [{"state": STATE}, [], "chess", [{"state": "Wordle:\n", "action": "a\n", "reward": 0,
                                                                  "done": True}],
                                    *({"from_state": STATE, "action": "Q b 2\n", "reward": 0, "done": True} | wrong
                                      for wrong in ({"done": "false"}, {"done": 1}, {"reward": True}, {"reward": "1"},
                                                    {"reward": float("inf")}, {"action": "Q b 2\nQ b 3\n"}))])
def test_wrong_records(tmp_path, record):
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="games.jsonl, line 1: expected a endgames trajectory"):
        list(read_file(make("endgames"), path))


def test_recognises():
    chess_game, endgame = (next(make(env_id).generate(1, 0)) for env_id in ("chess", "endgames"))
    assert make("chess").recognises(chess_game) and make("endgames").recognises(endgame)
    assert not make("endgames").recognises(chess_game)
    assert not make("chess").recognises(Trajectory(["Wordle:\n", "e 4\n", "\n"], [0.0], True, False))


@both
def test_constants(env_id):
    env = make(env_id)
    assert env.worst_return() == env.worst and env.best_return() == env.best
    assert env.score(env.worst) == 0 and env.score(env.data) == 50 and env.score(env.best) == 100


@both
def test_players(env_id):
    env = make(env_id)
    for name, player in env.players().items():
        game = play(env, player, 1)
        assert game.rewards[:-1] == [0.0] * (len(game.rewards) - 1), name
    if env_id == "endgames":
        assert play(env, env.players()["best"], 1).success


def test_terminal():
    command = [sys.executable, "-m", "envs.chess", "--env-id", "endgames"]
    found = subprocess.run(command, cwd=ROOT, input="nonsense\n", capture_output=True, text=True)
    assert found.returncode == 0 and "♚" in found.stdout and found.stdout.count("   w   -   -   0   1") == 2
