"""Chess against an engine: whole games, and endgames against a lone king (LMRL-Gym, arXiv 2311.18232).

The agent is White. A turn is one move: the position in FEN, answered by a move in SAN, both with a space between all
characters, `N f 3\\n`. The position is all that the agent is shown. 1 for a win, -1 for a loss, 0 for a draw and any
other move; -1 for anything but a legal move, which leaves the position as it is. A draw that may be claimed (third
repetition, fifty moves) is claimed. Truncated after 400 turns. In `endgames` White has a queen, a rook, queen and rook
or two rooks, and the games of the test start from 645 positions that the data never shows. Without pawns a game has
seven mirror images that are as good: the data of `endgames` holds each game of the engine in all eight.

Black is a UCI engine at full strength, searched to a fixed depth with its hash table cleared, so that its lines are a
function of the position; what makes it weak is that the line is drawn, with the game's seed, from a softmax over the
scores of the best four. In `endgames` it plays its best one. Options, all of them text:

    engine PATH                 the engine (default: stockfish on the path, or where Debian puts it)
    depth N                     depth of Black's search
    opponent_temperature X      temperature of the softmax, in pawns; 0: always the best line
    opponent tablebase          Black is a perfect defender instead (`endgames` only, needs syzygy)
    syzygy DIR                  Syzygy tables. Those of three and four men are in python-chess's source archive:
        pip download --no-deps --no-binary :all: chess && tar -xzf chess-*.tar.gz     (then chess-*/data/syzygy/regular)

    python -m envs.chess                                       play against it
    python -m envs.chess --env-id endgames --player best       watch the engine win
"""

import asyncio
import atexit
import copy
import os
import random
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

import chess
import chess.engine
import chess.syzygy

from envs import SEEDS, Env, Player, Step, Trajectory, draw_seed
from envs.data import flag

MAX_MOVES = 400
NUM_TEST_POSITIONS = 645  # of endgames
MATERIAL = ("Q", "R", "QR", "RR")  # what White has beside the king in endgames
NUM_LINES = 4  # lines of the engine that a move is drawn from
START_TIME, SEARCH_TIME = 20, 60  # seconds after which an engine is taken to hang
SIDE_BY_SIDE = 64  # games that are generated together, so that all engines have something to do
MOST_RANDOM = 0.6  # share of random moves of the data's weakest player in endgames
WEAKEST, STRONGEST = 3.5, 0.2  # temperatures of the data's players in chess, in pawns
WHITE_DEPTH = {"chess": 3, "endgames": 8}  # of the data's player
BEST_DEPTH = 12
IMAGES = 8  # of a game without pawns: the board mirrored at its three axes
WINDOW = 1024  # no game is begun that is so many games ahead of the next one to be written: bounds the memory
FEN = {env_id: re.compile(rf"(?:[1-8{men}]+/){{7}}[1-8{men}]+ [wb] (?:-|[KQkq]+) (?:-|[a-h][36]) \d+ \d+")
       for env_id, men in (("chess", "pnbrqkPNBRQK"), ("endgames", "kKQR"))}

Line = tuple[chess.Move, float]  # a move and its worth in pawns to the side that plays it


# --- Engines ---


def find_engine(path: str = "") -> str:
    """The engine's file; raises FileNotFoundError."""
    found = shutil.which(path or "stockfish") or (None if path else shutil.which("/usr/games/stockfish"))
    if found is None:
        raise FileNotFoundError(f"no chess engine {path or 'stockfish'}: install one (apt-get install stockfish, brew "
                                "install stockfish) or name one with the option engine, as in `engine /path/to/it`")
    return found


class EnginePool:
    """An engine for each core. Each answers with a function of the position: no clock, no memory of other searches."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.known: dict[tuple[str, int, int], list[Line]] = {}
        self.engines: list[chess.engine.UciProtocol] = []
        self.one_at_a_time = threading.Lock()
        self.loop = asyncio.new_event_loop()  # in a thread of its own: the caller may be in a loop, as in a notebook
        self.loop.set_exception_handler(self._note)
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.engines = self.run(self._start_all(cores))
        self.name = self.engines[0].id.get("name", path)
        atexit.register(lambda: self.run(self._quit_all()))

    @staticmethod
    def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say nothing of the tasks of an engine that died or was stopped: a new one takes its place."""
        if not isinstance(context.get("exception"), (chess.engine.EngineTerminatedError, asyncio.InvalidStateError)):
            loop.default_exception_handler(context)

    def run(self, task: Any) -> Any:
        """What the coroutine returns. If it fails or is interrupted, the engines are stopped; new ones start later."""
        future = asyncio.run_coroutine_threadsafe(task, self.loop)
        try:
            return future.result()
        except BaseException:  # half a search must not be taken for a whole one
            future.cancel()
            for engine in self.engines:
                self.loop.call_soon_threadsafe(engine.transport.close)
            raise

    async def _start(self) -> chess.engine.UciProtocol:
        try:
            _, engine = await asyncio.wait_for(chess.engine.popen_uci(self.path), START_TIME)
            await engine.configure({name: 1 for name in ("Threads", "Hash") if name in engine.options})
            return engine
        except (chess.engine.EngineError, OSError, asyncio.TimeoutError) as error:
            raise OSError(f"{self.path} does not answer as a UCI chess engine does ({error!r})") from error

    async def _start_all(self, number: int) -> list[chess.engine.UciProtocol]:
        return await asyncio.gather(*(self._start() for _ in range(number)))

    async def _quit_all(self) -> None:
        await asyncio.gather(*(asyncio.wait_for(engine.quit(), 2) for engine in self.engines), return_exceptions=True)
        for engine in self.engines:
            engine.transport.close()

    def lines(self, boards: list[chess.Board], depth: int, number: int) -> list[list[Line]]:
        """The best `number` lines of each position, best first."""
        keys = [(board.epd(), depth, number) for board in boards]
        with self.one_at_a_time:
            if len(self.known) > 200_000:
                self.known.clear()  # only to bound the memory: the engines would say the same again
            if asked := deque(dict.fromkeys(key for key in keys if key not in self.known)):
                self.run(self._ask(asked))
            return [self.known[key] for key in keys]

    async def _ask(self, asked: deque[tuple[str, int, int]]) -> None:
        await asyncio.gather(*(self._work(i, asked) for i in range(len(self.engines))))

    async def _work(self, index: int, asked: deque[tuple[str, int, int]]) -> None:
        while asked:
            epd, depth, number = key = asked.popleft()
            for attempt in range(3):
                try:
                    lines = await self._search(self.engines[index], chess.Board(f"{epd} 0 1"), depth, number)
                    if not lines:
                        raise OSError(f"{self.path} names no move with a score on {epd}")
                    self.known[key] = lines
                    break
                except chess.engine.EngineTerminatedError:
                    if attempt == 2:
                        raise OSError(f"{self.path} died, or searched for more than {SEARCH_TIME} seconds, three times "
                                      f"on {epd} at depth {depth}") from None
                    self.engines[index] = await self._start()

    @staticmethod
    async def _search(engine: chess.engine.UciProtocol, board: chess.Board, depth: int, number: int) -> list[Line]:
        search = asyncio.ensure_future(engine.analyse(board, chess.engine.Limit(depth=depth), multipv=number,
                                                      info=chess.engine.INFO_SCORE | chess.engine.INFO_PV,
                                                      game=object()))  # a new game: the hash table is cleared
        # An engine that dies at the wrong moment would leave the search waiting for ever.
        await asyncio.wait({search, engine.returncode}, timeout=SEARCH_TIME, return_when=asyncio.FIRST_COMPLETED)
        if not search.done():
            search.cancel()
            engine.transport.close()
            raise chess.engine.EngineTerminatedError("no answer")
        return [(info["pv"][0], info["score"].relative.score(mate_score=10_000) / 100) for info in search.result()
                if info.get("pv") and "score" in info]


@cache
def engine_pool(path: str) -> EnginePool:
    """The pool of all games in this process."""
    return EnginePool(path)


def draw(lines: list[Line], temperature: float, rng: random.Random) -> chess.Move:
    """A line from the softmax over the scores; temperature in pawns, 0: the best."""
    if not temperature:
        return lines[0][0]
    best = max(score for _, score in lines)
    return rng.choices([move for move, _ in lines], [exp((score - best) / temperature) for _, score in lines])[0]


# --- Positions ---


def spaced(text: str) -> str:
    """FEN or SAN as the agent reads and writes it: `Nf3` as `N f 3\\n`."""
    return " ".join(text) + "\n"


def as_played(text: str) -> str:
    """FEN or SAN of a file of the original, which may lack the spaces or the newline, as in the games."""
    text = text.strip()
    return text + "\n" if text[1:2] == " " else spaced(text)


def leads_to(obs: str, action: str, next_obs: str) -> bool:
    """Whether White's move in the first position and a move of Black lead to the second one."""
    fen, san, next_fen = (text[:-1:2] for text in (obs, action, next_obs))
    try:
        board = chess.Board(fen)
        board.push_san(san)
    except ValueError:
        return fen == next_fen  # an illegal move leaves the position as it is
    men, *_, number = next_fen.split(" ")
    if int(number) != board.fullmove_number + 1:
        return False  # of other games, mostly: spares trying the moves
    for move in board.legal_moves:
        board.push(move)
        reached = board.board_fen() == men
        board.pop()
        if reached:
            return True
    return False


def random_endgame(rng: random.Random) -> chess.Board:
    """White to move, with a queen, a rook, queen and rook or two rooks against a lone king; legal and not over."""
    while True:
        pieces = ["K", "k", *rng.choice(MATERIAL)]
        board = chess.Board(None)
        for piece, square in zip(pieces, rng.sample(chess.SQUARES, len(pieces)), strict=True):
            board.set_piece_at(square, chess.Piece.from_symbol(piece))
        if board.is_valid() and not board.is_game_over():
            return board


def mates_in_one(board: chess.Board) -> bool:
    """Whether a legal move is mate; the board is as it was afterwards."""
    for move in board.legal_moves:
        board.push(move)
        mate = board.is_checkmate()
        board.pop()
        if mate:
            return True
    return False


@cache
def test_positions() -> dict[str, int]:
    """The different positions that the test of `endgames` starts from, none of them mate in one: {EPD: number}."""
    rng, positions = random.Random("endgames test"), {}
    while len(positions) < NUM_TEST_POSITIONS:
        board = random_endgame(rng)
        if board.epd() not in positions and not mates_in_one(board):
            positions[board.epd()] = len(positions)
    return positions


def image(square: int, number: int) -> int:
    """Where the square is in one of the images of the board, from 0, as it is, to 7."""
    square ^= (chess.H1 if number & 1 else 0) ^ (chess.A8 if number & 2 else 0)  # files, ranks the other way round
    return chess.square(chess.square_rank(square), chess.square_file(square)) if number & 4 else square


def mirrored_board(board: chess.Board, number: int) -> chess.Board:
    """An image of a position without pawns and castling."""
    found = chess.Board(None)
    found.set_piece_map({image(square, number): piece for square, piece in board.piece_map().items()})
    found.turn, found.halfmove_clock, found.fullmove_number = board.turn, board.halfmove_clock, board.fullmove_number
    return found


def mirrored(game: Trajectory, board: chess.Board, number: int) -> Trajectory:
    """An image of a game that ended with `board`, in which White made the first and every other move."""
    found, texts = mirrored_board(board.root(), number), []
    for move in board.move_stack:
        move = chess.Move(image(move.from_square, number), image(move.to_square, number))
        if found.turn == chess.WHITE:
            texts += [spaced(found.fen()), spaced(found.san(move))]
        found.push(move)
    return Trajectory([*texts, spaced(found.fen())], game.rewards, game.terminated, game.success)


@cache
def shown_in_test() -> set[str]:
    """The positions of the test and their images, as EPD."""
    boards = [chess.Board(f"{epd} 0 1") for epd in test_positions()]
    return {mirrored_board(board, number).epd() for board in boards for number in range(IMAGES)}


# --- The games ---


class Chess(Env):
    """White against an engine, or against a perfect defender; `endgames` starts from a position that `seed` draws."""

    variants = ("chess", "endgames")
    markov = True
    max_turns = MAX_MOVES
    best = 1.0

    def __init__(self, env_id: str, engine: str = "", depth: str = "", opponent_temperature: str = "",
                 opponent: str = "engine", syzygy: str = "", **options: str) -> None:
        super().__init__(env_id, **options)
        self.endgames = env_id == "endgames"
        self.depth = int(depth or (5 if self.endgames else 3))
        self.temperature = float(opponent_temperature or (0.0 if self.endgames else 1.4))
        if self.depth < 1 or self.temperature < 0:
            raise ValueError("depth must be at least 1, opponent_temperature at least 0")
        if opponent not in ("engine", "tablebase") or opponent == "tablebase" and not (self.endgames and syzygy):
            raise ValueError(f"opponent {opponent}: engine, or in endgames tablebase, which needs syzygy DIR")
        self.tables = open_tables(syzygy) if syzygy else None
        self.tablebase = opponent == "tablebase"
        self.engine = engine
        if not self.tablebase:
            find_engine(engine)  # raises before any work is lost
        self.num_trajectories, self.num_test_episodes = (40_000, NUM_TEST_POSITIONS) if self.endgames else (2000, 200)
        self.worst, self.data = (-1.0, 0.60) if self.endgames else (-400.0, 0.28)
        self.paper = ({"worst": -1, "data": 0.586, "best": 1, "success": 0.59, "length": 12.0} if self.endgames else
                      {"worst": -401, "data": 0.21, "best": 1, "success": 0.60, "length": 47.0})
        self.board, self.turns, self.over = chess.Board(), 0, True

    @property
    def pool(self) -> EnginePool:
        return engine_pool(find_engine(self.engine))

    def about(self) -> dict[str, Any]:
        if self.tablebase:
            return {"opponent": "tablebase"}
        return {"opponent": self.pool.name, "depth": self.depth, "opponent_temperature": self.temperature}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        seed = draw_seed() if seed is None else seed
        self.rng = random.Random(f"{self.env_id} {seed}")
        self.skill = self.rng.random()  # of the data's player in this game
        self.board, self.turns, self.over = chess.Board(), 0, False
        if self.endgames and seed >= SEEDS["test"]:
            self.board = chess.Board(list(test_positions())[(seed - SEEDS["test"]) % NUM_TEST_POSITIONS] + " 0 1")
        elif self.endgames:
            while (board := random_endgame(self.rng)).epd() in shown_in_test():
                pass
            self.board = board
        return spaced(self.board.fen()), {"success": False, "valid": True}

    def step(self, action: str) -> Step:
        return self.step_all([self], [action])[0]

    @classmethod
    def step_all(cls, envs: list["Chess"], actions: list[str]) -> list[Step]:
        """White's moves in all games, then Black's, which the engines find side by side."""
        moved = [env.push(action) for env, action in zip(envs, actions, strict=True)]
        asked = [env for env, valid in zip(envs, moved, strict=True) if valid and env.result() is None]
        for env, move in zip(asked, replies(asked), strict=True):
            env.board.push(move)
        return [env.report(valid) for env, valid in zip(envs, moved, strict=True)]

    def push(self, action: str) -> bool:
        """Play White's move; False if it is none."""
        if self.over:
            raise RuntimeError("the game is over: call reset")
        self.turns += 1
        if not action.endswith("\n"):
            return False  # it was cut off: `O - O` may be the start of `O - O - O`
        try:
            move = self.board.parse_san(action.removesuffix("\n").replace(" ", ""))
        except ValueError:
            return False
        if move:  # a null move is none
            self.board.push(move)
        return bool(move)

    def result(self) -> float | None:
        """1, -1 or 0 to White; None while the game goes on."""
        if self.board.is_checkmate():
            return -1.0 if self.board.turn == chess.WHITE else 1.0
        drawn = (self.board.is_insufficient_material() or self.board.halfmove_clock >= 100
                 or self.board.is_repetition(3) or not any(self.board.generate_legal_moves()))
        return 0.0 if drawn else None

    def report(self, valid: bool) -> Step:
        """What `step` returns, after both sides have moved."""
        result = self.result()
        truncated = result is None and self.turns >= MAX_MOVES
        self.over = truncated or result is not None
        reward = -1.0 if not valid else result or 0.0
        info = {"success": result == 1, "valid": valid}
        return spaced(self.board.fen()), reward, result is not None, truncated, info

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """The data player's games, or their images, one by one; none shows a position of the test or its image."""
        images = IMAGES if self.endgames else 1
        games = self.games(-(-num_trajectories // images), seed, start // images)
        for first, (game, board) in zip(range(start // images * images, num_trajectories, images), games, strict=True):
            for index in range(max(first, start), min(first + images, num_trajectories)):
                yield mirrored(game, board, index - first) if index > first else game

    def games(self, num_games: int, seed: int, start: int) -> Iterator[tuple[Trajectory, chess.Board]]:
        """Games of the data's player, played side by side and yielded in order, each with its last board."""
        waiting, ended, following = deque(range(start, num_games)), dict[int, tuple[Trajectory, chess.Board]](), start
        playing: dict[int, tuple[Chess, random.Random, list[str], list[float]]] = {}

        def begin(index: int, attempt: int = 0) -> None:
            rng, env = random.Random(f"{self.env_id} data {seed} {index} {attempt}"), copy.copy(self)
            obs, _ = env.reset(rng.randrange(SEEDS["eval"]))
            env.attempt = attempt
            playing[index] = env, rng, [obs], []

        while following < num_games:
            while waiting and len(playing) < SIDE_BY_SIDE and waiting[0] < following + WINDOW:
                begin(waiting.popleft())
            envs, rngs, *_ = (list(column) for column in zip(*playing.values(), strict=True))
            actions = data_moves(envs, rngs)
            for index, action, (obs, reward, terminated, truncated, info) in zip(
                    list(playing), actions, self.step_all(envs, actions), strict=True):
                env, _, texts, rewards = playing[index]
                texts += [action, obs]
                rewards.append(reward)
                if terminated or truncated:
                    ended[index] = Trajectory(texts, rewards, terminated, info["success"]), env.board
                    del playing[index]
                elif self.endgames and env.board.epd() in shown_in_test():
                    begin(index, env.attempt + 1)
            while following in ended:
                yield ended.pop(following)
                following += 1

    def players(self) -> dict[str, Player]:
        return {"random": random_player, "data": data_player, "best": best_player}

    def measures(self, trajectory: Trajectory) -> dict[str, float]:
        """Draws and losses; wins are `success`, and the rest was truncated."""
        last = trajectory.rewards[-1] if trajectory.terminated else None
        return {"draws": last == 0, "losses": last == -1}

    def recognises(self, trajectory: Trajectory) -> bool:
        return all(set(obs[1:-1:2]) <= {" "} and obs[-1] == "\n" and FEN[self.env_id].fullmatch(obs[:-1:2])
                   for obs in trajectory.texts[::2])

    def parse(self, record: Any) -> list[Trajectory]:
        """A list of {state, action, reward, done}, or one turn, whose game `follows` finds.

        A turn is {from_state, action, reward, done}, of which the last two may be missing, or {in_text, out_text}.
        """
        if isinstance(record, dict):
            obs, action = ("in_text", "out_text") if "in_text" in record else ("from_state", "action")
            turns = [{"reward": 0, "done": False} | record | {"state": record[obs], "action": record[action]}]
        elif isinstance(record, list):
            turns = record
        else:
            raise ValueError(f"{type(record).__name__} instead of a list of {{state, action, reward, done}}")
        texts = [as_played(text) for turn in turns for text in (turn["state"], turn["action"])]
        rewards, done = [turn["reward"] for turn in turns], flag(turns[-1]["done"])
        return [Trajectory(texts, rewards, done, done and rewards[-1] == 1)]

    def follows(self, turn: Trajectory, last: Trajectory) -> bool:
        """Of two turns on lines of their own. A file that has been shuffled has no two in their order."""
        alone = len(last.texts) == len(turn.texts) == 2
        return alone and not last.terminated and leads_to(*last.texts, turn.texts[0])

    def worst_return(self) -> float:
        """chess: every move is illegal. endgames: one is; a lone king cannot win, so that legal moves never pay -1."""
        return -1.0 if self.endgames else -1.0 * MAX_MOVES

    def best_return(self) -> float:
        """Nothing pays more than a win; with tables, in `endgames`, the share of the test's positions that are won."""
        if not (self.endgames and self.tables):
            return 1.0
        won = [self.tables.probe_wdl(chess.Board(f"{epd} 0 1")) == 2 for epd in test_positions()]
        return sum(won) / len(won)

    def render(self, text: str) -> str:
        rows = self.board.unicode(invert_color=True, empty_square="·").split("\n")
        board = "".join(f"{8 - i} {row}\n" for i, row in enumerate(rows))
        return f"{board}  a b c d e f g h   White: ♚♛♜♝♞♟\n{text}"  # on paper they would be Black's


def replies(envs: list[Chess]) -> list[chess.Move]:
    """Black's move in each game; all have the same options."""
    if not envs:
        return []
    if envs[0].tablebase:
        return [perfect_defence(env.board, env.tables, env.rng) for env in envs]
    number = NUM_LINES if envs[0].temperature else 1
    lines = envs[0].pool.lines([env.board for env in envs], envs[0].depth, number)
    return [draw(found, env.temperature, env.rng) for env, found in zip(envs, lines, strict=True)]


# --- Players ---


def data_moves(envs: list[Chess], rngs: list[random.Random]) -> list[str]:
    """Moves of the data's player, whose skill, drawn for each game, is from 0 to 1.

    chess: a line drawn at a temperature that falls with the skill. endgames: any legal move with a probability that
    falls with it, else the engine's best.
    """
    first, games = envs[0], list(zip(envs, rngs, strict=True))
    random_turn = [first.endgames and rng.random() < (1 - env.skill) * MOST_RANDOM for env, rng in games]
    asked = [env.board for env, anything in zip(envs, random_turn, strict=True) if not anything]
    lines = iter(first.pool.lines(asked, WHITE_DEPTH[first.env_id], 1 if first.endgames else NUM_LINES))
    actions = []
    for (env, rng), anything in zip(games, random_turn, strict=True):
        temperature = 0.0 if first.endgames else WEAKEST * (STRONGEST / WEAKEST) ** env.skill
        move = rng.choice(list(env.board.legal_moves)) if anything else draw(next(lines), temperature, rng)
        actions.append(spaced(env.board.san(move)))
    return actions


def data_player(env: Chess, rng: random.Random) -> str:
    """One game of `data_moves`."""
    return data_moves([env], [rng])[0]


def random_player(env: Chess, rng: random.Random) -> str:
    """Any legal move."""
    return spaced(env.board.san(rng.choice(list(env.board.legal_moves))))


def best_player(env: Chess, rng: random.Random) -> str:
    """With tables the shortest way to the next capture or mate, in `endgames`; else the engine's best at depth 12."""
    if env.endgames and env.tables:
        return spaced(env.board.san(perfect_attack(env.board, env.tables)))
    return spaced(env.board.san(env.pool.lines([env.board], BEST_DEPTH, 1)[0][0][0]))


# --- Tables ---


@cache
def open_tables(folder: str) -> chess.syzygy.Tablebase:
    """The Syzygy tables of a folder; raises FileNotFoundError."""
    if not list(Path(folder).glob("*.rtbw")):
        raise FileNotFoundError(f"no Syzygy tables (*.rtbw, *.rtbz) in {folder}")
    return chess.syzygy.open_tablebase(folder)


def distance(board: chess.Board, tables: chess.syzygy.Tablebase) -> int:
    """Moves of both sides to the next capture or to mate; above 0 where the side to move wins, 0 for a draw."""
    if board.is_checkmate():
        return -1
    drawn = board.is_insufficient_material() or board.is_stalemate()
    return 0 if drawn else tables.probe_dtz(board)


def behind(board: chess.Board, tables: chess.syzygy.Tablebase) -> dict[chess.Move, int]:
    """`distance` behind each legal move, as the other side sees it."""
    found = {}
    for move in board.legal_moves:
        board.push(move)
        found[move] = distance(board, tables)
        board.pop()
    return found


def perfect_defence(board: chess.Board, tables: chess.syzygy.Tablebase, rng: random.Random) -> chess.Move:
    """A move that draws, else one that puts mate off longest; drawn among equals."""
    found = behind(board, tables)
    best = 0 if min(found.values()) <= 0 else max(found.values())
    return rng.choice([move for move, dtz in found.items() if dtz == best])


def perfect_attack(board: chess.Board, tables: chess.syzygy.Tablebase) -> chess.Move:
    """A winning move that brings mate nearest."""
    found = behind(board, tables)
    return max(found, key=lambda move: (found[move] < 0, found[move]))


ENV = Chess

if __name__ == "__main__":
    from envs.terminal import main

    main(Chess)
