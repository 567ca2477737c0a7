"""Wordle: find a hidden word of five letters in six guesses (LMRL-Gym, arXiv 2311.18232).

A turn is one guess, `s h o r e\\n`, answered by a colour for each letter, `b y g g b\\n`: green for the right place,
yellow for another place, black for a letter that the word has not. -1 per guess, 0 for the right one. Anything but a
word of the list is answered `\\n` and costs a guess as well. The sixth guess ends the game. As in the original, a guess
may come without its spaces or its newline.

As in the paper, a letter that the word has is never black. With the option `real_duplicates` letters are counted as in
the real game: of equal letters in a guess only as many are coloured as the word has. The option `vocabulary` names
another list, guesses and hidden words alike; its words of other lengths are left out. `worst`, `data` and `best` are
those of the shipped list in the paper's colouring; `best_return` searches the best of any list, up to 1,000 words
exhaustively.

    python -m envs.wordle                               play it
    python -m envs.wordle --player best                 watch the best possible play
    python -m envs.wordle --options vocabulary words.txt real_duplicates true
"""

import copy
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from math import fsum, inf, log
from operator import itemgetter
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from tqdm import tqdm

from envs import Env, Player, Step, Trajectory, finish
from envs.data import flag

WORDS_FILE = Path(__file__).with_name("wordle_words.txt")
FIRST_OBS = "Wordle:\n"
MAX_GUESSES = 6
CONSISTENT_PROBABILITY = 0.33  # how often the data's player heeds the answers
CODES = {"".join(colours): code for code, colours in enumerate(product("byg", repeat=5))}
OBS = {colours: " ".join(colours) + "\n" for colours in CODES}
TILES = {"g": "\033[30;42m", "y": "\033[30;43m", "b": "\033[97;100m"}
EXACT_WORDS, BEAM = 1000, 5  # in longer lists the tree search looks at the most promising guesses only

Words = tuple[int, ...]  # numbers of words in the list, in its order


def paper_colours(guess: str, word: str) -> str:
    """The answer in which a letter that the word has is never black."""
    return "".join(["g" if a == b else "y" if a in word else "b" for a, b in zip(guess, word, strict=True)])


def real_colours(guess: str, word: str) -> str:
    """The real game's answer: a letter of the word colours one of the guess, green before yellow, left to right."""
    left = [b for a, b in zip(guess, word, strict=True) if a != b]
    colours = ""
    for a, b in zip(guess, word, strict=True):
        if a != b and a in left:
            left.remove(a)
            colours += "y"
        else:
            colours += "g" if a == b else "b"
    return colours


def read_words(path: str) -> list[str]:
    """The words of five letters of a file that has a word a line, `#` comments skipped.

    Warns of words that are longer or shorter; raises ValueError with the file and the line.
    """
    if not Path(path).is_file():
        raise ValueError(f"no vocabulary file {path}")
    lines: dict[str, int] = {}
    others = 0
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word in lines:
            raise ValueError(f"{path}, line {number}: {word!r} stands in line {lines[word]} already")
        if re.fullmatch("[a-z]{5}", word):
            lines[word] = number
        elif len(word) == 5 or " " in word:
            raise ValueError(f"{path}, line {number}: expected a word of five letters a to z, found {word[:40]!r}")
        elif word:
            others += 1
    if not lines:
        raise ValueError(f"{path}: expected words of five letters, found none among {others} words")
    if others:
        warnings.warn(f"{path}: words of other lengths are left out, {others:,} in all", stacklevel=2)
    return list(lines)


class Vocabulary:
    """A list of words, the answers to guesses, and the best guess for any set of words still possible."""

    def __init__(self, words: list[str], colours: Callable[[str, str], str]) -> None:
        self.words, self.colours = words, colours
        self.actions = [" ".join(word) + "\n" for word in words]
        self.numbers = {action: number for number, action in enumerate(self.actions)}  # by action and by word
        self.numbers |= {word: number for number, word in enumerate(words)}
        self.all: Words = tuple(range(len(words)))
        self.columns = [{letter: self.column(place, letter) for letter in ascii_lowercase} for place in range(5)]
        self.rows: list[bytes | None] = [None] * len(words)
        self.gains: dict[Words, int] = {}
        self.bounds: dict[Words, int] = {}
        self.solved: dict[Words, tuple[int, int]] = {}

    def column(self, place: int, letter: str) -> int:
        """What a guess with this letter in this place adds to the code of its answer: a byte for each hidden word."""
        colours = [2 if word[place] == letter else 1 if letter in word else 0 for word in self.words]
        return int.from_bytes(bytes([colour * 3 ** (4 - place) for colour in colours]), "big")

    def row(self, guess: int) -> bytes:
        """The codes of the answers to `guess`, by hidden word."""
        if self.rows[guess] is None:
            word = self.words[guess]
            if self.colours is paper_colours or len(set(word)) == 5:
                # All hidden words in one addition: no byte overflows, since codes are below 256.
                row = sum(column[letter] for column, letter in zip(self.columns, word, strict=True))
                self.rows[guess] = row.to_bytes(len(self.words), "big")
            else:
                self.rows[guess] = bytes([CODES[self.colours(word, hidden)] for hidden in self.words])
        return self.rows[guess]

    def parts(self, words: Words, guess: int) -> list[Words]:
        """The sets of words that the answers to `guess` tell apart, smallest first, without the guess itself."""
        row, parts = self.row(guess), {}
        for word in words:
            if word != guess:
                parts.setdefault(row[word], []).append(word)
        return sorted(map(tuple, parts.values()), key=len)

    def information_gain(self, words: Words) -> int:
        """The guess whose answer has the highest entropy; among equals a possible word, then the first in the list."""
        if len(words) < 3:
            return words[0]
        if words not in self.gains:
            codes, possible, keys = itemgetter(*words), set(words), []
            for guess in tqdm(self.all, "information gain", leave=False, disable=len(words) * len(self.all) < 1e6):
                # What the answer leaves unknown. Rounded, so that equal ones are equal whatever the order of the sum.
                unknown = round(fsum(n * log(n) for n in Counter(codes(self.row(guess))).values()), 9)
                keys.append((unknown, guess not in possible, guess))
            self.gains[words] = min(keys)[2]
        return self.gains[words]

    # A decision tree's cost is its number of wrong guesses, summed over the possible words. Of n words at most one is
    # found at once, so the cost is at least n - 1; and 2 n - k behind a first guess that has k different answers, one
    # less if the guess is possible itself. These bounds rule out most guesses.

    def num_answers(self, words: Words, guesses: Words) -> list[int]:
        """How many different answers each guess has."""
        codes = itemgetter(*words)
        return [len(set(codes(self.row(guess)))) for guess in guesses]

    def bound(self, words: Words) -> int:
        """A cost that no tree is below."""
        if len(words) < 3:
            return len(words) - 1
        if words not in self.bounds:
            bound = 2 * len(words) - max(self.num_answers(words, words)) - 1
            if bound >= len(words):
                bound = min(bound, 2 * len(words) - max(self.num_answers(words, self.all)))
            self.bounds[words] = bound
        return self.bounds[words]

    def cost(self, words: Words, guess: int, limit: float) -> float:
        """Cost of the best tree with this first guess, or something from `limit` upwards."""
        parts = self.parts(words, guess)
        costs = [len(part) - 1 for part in parts]
        total = sum(costs) + sum(map(len, parts))
        for estimate in (self.bound, lambda part: self.solve(part)[0]):
            for index, part in enumerate(parts):
                if total >= limit:
                    return total
                better = estimate(part)
                total += better - costs[index]
                costs[index] = better
        return total

    def solve(self, words: Words) -> tuple[float, int]:
        """(cost, first guess) of the best decision tree, by branch and bound; no worse than information gain's."""
        if len(words) < 3:
            return len(words) - 1, words[0]
        if words not in self.solved:
            guess, possible = self.information_gain(words), set(words)
            best = self.cost(words, guess, inf), guess
            ranked = sorted((2 * len(words) - count - (guess in possible), guess)
                            for guess, count in zip(self.all, self.num_answers(words, self.all), strict=True)
                            if count > 1)  # a guess that tells nothing would be looked at for ever
            ranked = ranked[:None if len(self.all) <= EXACT_WORDS else BEAM]
            for bound, guess in tqdm(ranked, "best guess", leave=False, disable=words != self.all or len(words) < 500):
                if bound >= best[0]:
                    break
                cost = self.cost(words, guess, best[0])
                if cost < best[0]:  # not `min`: a cost of `limit` is a bound, not that of a tree
                    best = cost, guess
            self.solved[words] = best
        return self.solved[words]

    def best_guess(self, words: Words) -> int:
        return self.solve(words)[1]

    def mean_return(self, choose: Callable[[Words], int]) -> float:
        """Exact mean over the hidden words of the player that guesses `choose(words still possible)`."""
        total, level = 0, [self.all]
        for _ in range(MAX_GUESSES):
            level = [part for words in level for part in self.parts(words, choose(words))]
            total -= sum(map(len, level))
        return total / len(self.all)


@cache
def load_vocabulary(path: str, real_duplicates: bool) -> Vocabulary:
    """One object for all games, since what it has worked out is kept in it."""
    return Vocabulary(read_words(path), real_colours if real_duplicates else paper_colours)


class Wordle(Env):
    """Wordle; the hidden word is drawn with `seed`. Options: `vocabulary`, a file; `real_duplicates`, true or false."""

    variants = ("wordle",)
    files = (WORDS_FILE,)
    max_turns = MAX_GUESSES
    num_trajectories = 50_000
    num_test_episodes = 4096
    worst, data, best = -6.0, -4.083, -812 / 432  # data: of the default dataset
    paper = {"worst": -6, "data": -4.12, "best": -1.94,
             "num_trajectories": 1_000_000, "success": 0.70, "length": "4.82", "return": "-4.12 ± 1.59"}

    def __init__(self, env_id: str, vocabulary: str = str(WORDS_FILE), real_duplicates: str = "false",
                 **options: str) -> None:
        super().__init__(env_id, **options)
        if real_duplicates not in ("true", "false"):
            raise ValueError(f"real_duplicates must be true or false, not {real_duplicates!r}")
        self.vocabulary = load_vocabulary(vocabulary, real_duplicates == "true")
        self.word, self.turns, self.over, self.success = "", 0, True, False
        self.history: list[tuple[int, str]] = []  # (guess, colours) of the valid guesses
        self.possible, self.heeded = self.vocabulary.all, 0  # words that fit the first `heeded` answers

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return self.start(random.Random(seed))

    def start(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        """Start a game whose hidden word is drawn from `rng`."""
        self.word, self.turns, self.over, self.success = rng.choice(self.vocabulary.words), 0, False, False
        self.history, self.possible, self.heeded = [], self.vocabulary.all, 0
        return FIRST_OBS, {"success": False, "valid": True}

    def step(self, action: str) -> Step:
        if self.over:
            raise RuntimeError("the game is over: call reset")
        guess, obs = self.vocabulary.numbers.get(action), "\n"
        if guess is None:  # the word in another spelling, perhaps
            guess = self.vocabulary.numbers.get(action.strip().replace(" ", ""))
        if guess is not None:
            colours = self.vocabulary.colours(self.vocabulary.words[guess], self.word)
            self.history.append((guess, colours))
            obs, self.success = OBS[colours], colours == "ggggg"
        self.turns += 1
        self.over = self.success or self.turns >= MAX_GUESSES
        reward = 0.0 if self.success else -1.0
        return obs, reward, self.over, False, {"success": self.success, "valid": guess is not None}

    def possible_words(self) -> Words:
        """The words that fit all answers so far."""
        for guess, colours in self.history[self.heeded:]:
            row, code = self.vocabulary.row(guess), CODES[colours]
            self.possible = tuple([word for word in self.possible if row[word] == code])
        self.heeded = len(self.history)
        return self.possible

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Games of the data's player."""
        env = copy.copy(self)  # the caller may play a game of its own between two trajectories
        for index in range(start, num_trajectories):
            rng = random.Random(f"wordle {seed} {index}")
            yield finish(env, data_player, rng, env.start(rng)[0])

    def players(self) -> dict[str, Player]:
        return {"random": random_player, "consistent": consistent_player, "data": data_player,
                "information_gain": information_gain_player, "best": best_player}

    def recognises(self, trajectory: Trajectory) -> bool:
        first, *later = trajectory.texts[::2]
        return first == FIRST_OBS and all(re.fullmatch(r"(([byg] ){4}[byg])?\n", obs) for obs in later)

    def parse(self, record: Any) -> list[Trajectory]:
        """{sequence: [[text, is_action], …], reward: one per text behind the first or one per action, done}."""
        texts, rewards = [text for text, _ in record["sequence"]], record["reward"]
        if any(bool(is_action) != index % 2 for index, (_, is_action) in enumerate(record["sequence"])):
            raise ValueError("a sequence in which observations and actions do not alternate")
        if len(rewards) == len(texts) - 1:
            if any(rewards[1::2]):
                raise ValueError("a reward for an observation")
            rewards = rewards[::2]
        return [Trajectory(texts, rewards, flag(record["done"]), rewards[-1] == 0)]

    def worst_return(self) -> float:
        """Every guess but the right one costs 1, and there are six."""
        return -1.0 * MAX_GUESSES

    def best_return(self) -> float:
        """Exact mean over the hidden words of the tree with the fewest wrong guesses; see EXACT_WORDS."""
        return self.vocabulary.mean_return(self.vocabulary.best_guess)

    def render(self, text: str) -> str:
        if text == FIRST_OBS:
            example = self.vocabulary.actions[0].strip()
            return (f"{text}a word of five letters, as in `{example}`; {MAX_GUESSES} guesses\n"
                    "answers: g the right letter, y one of the word in another place, b none of the word\n")
        shown = "not a word of the list, whose letters are small\n"
        if text != "\n":
            guess, colours = self.history[-1]
            letters = zip(self.vocabulary.words[guess].upper(), colours, strict=True)
            tiles = "".join(f"{TILES[colour]} {letter} \033[0m" for letter, colour in letters)
            shown = f"{tiles}\n {'  '.join(colours)}\n"  # in letters as well, for whoever sees no colours
        return shown + (f"the word was {self.word}\n" if self.over and not self.success else "")


def random_player(env: Wordle, rng: random.Random) -> str:
    """Any word of the list."""
    return rng.choice(env.vocabulary.actions)


def consistent_player(env: Wordle, rng: random.Random) -> str:
    """Any word that fits all answers so far."""
    return env.vocabulary.actions[rng.choice(env.possible_words())]


def data_player(env: Wordle, rng: random.Random) -> str:
    """A consistent word with probability 0.33, else any."""
    return consistent_player(env, rng) if rng.random() < CONSISTENT_PROBABILITY else random_player(env, rng)


def information_gain_player(env: Wordle, rng: random.Random) -> str:
    """The word whose answer is expected to say most about the hidden one."""
    return env.vocabulary.actions[env.vocabulary.information_gain(env.possible_words())]


def best_player(env: Wordle, rng: random.Random) -> str:
    """The next guess of the best decision tree."""
    return env.vocabulary.actions[env.vocabulary.best_guess(env.possible_words())]


ENV = Wordle

if __name__ == "__main__":
    from envs.terminal import main

    main(Wordle)
