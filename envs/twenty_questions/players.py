"""Scripted players of twenty_questions: a random one, the one that makes the data, the best known one and its return.

The data's players ask what is often asked (what stands first in the table of properties) or, with a probability drawn
for each game (SKILLS), a good question; those with skill guess when few objects are left. The best one asks what tells
most about the object, a guess being a question like any other.
"""

import random
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import accumulate
from math import log2
from typing import TYPE_CHECKING

from envs.twenty_questions.tables import EVERYTHING, OBJECTS, PHRASES, Property, load_properties

if TYPE_CHECKING:
    from envs.twenty_questions import TwentyQuestions

MAX_QUESTIONS = 20
GUESSES = "Is it {}?", "Are you thinking of {}?", "Is the object {}?", "Could it be {}?"  # the players' wordings
# Of the data's players. These numbers give the paper's success and return.
SKILLS, SKILL_WEIGHTS = (0.0, 0.4, 0.8), (66, 20, 14)  # share of good questions; share of games
GOOD_QUESTIONS = 3  # a good question is one of the best so many, the better the more likely
MAX_LEFT = 3  # a player guesses when at most so many objects are left, drawn for each game
EARLY_GUESS = 0.05  # how often a random question is a guess
ASKED = tuple([thing for thing in load_properties() if thing.questions])  # what the players ask


def options_of(mask: int) -> list[int]:
    """The numbers of the objects whose bits are set."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


@cache
def weights(count: int) -> list[float]:
    """Cumulative weights of that many choices, of questions or of wordings: the first is the most frequent."""
    return list(accumulate(1 / (number + 1) for number in range(count)))


def word(wordings: tuple[str, ...], rng: random.Random) -> str:
    """One of the wordings, as a line."""
    return rng.choices(wordings, cum_weights=weights(len(wordings)))[0] + "\n"


def guess(number: int, rng: random.Random) -> str:
    """A question for the object itself."""
    return word(GUESSES, rng).format(PHRASES[number])


@lru_cache(maxsize=65_536)
def good_questions(possible: int) -> tuple[Property, ...]:
    """The properties that tell most about which of the possible objects it is, best first."""
    half = possible.bit_count() / 2
    uneven = [(abs((thing.mask & possible).bit_count() - half), number) for number, thing in enumerate(ASKED)]
    return tuple([ASKED[number] for unevenness, number in sorted(uneven)[:GOOD_QUESTIONS] if unevenness < half])


def random_player(env: "TwentyQuestions", rng: random.Random) -> str:
    """Any question, now and then a guess."""
    if rng.random() < EARLY_GUESS:
        return guess(rng.randrange(len(OBJECTS)), rng)
    return word(rng.choice(ASKED).questions, rng)


def data_player(env: "TwentyQuestions", rng: random.Random) -> str:
    """Asks what is often asked or, as often as its skill says, what is good to ask, nothing twice; with any skill it
    guesses when few objects are left."""
    if env.skill is None:  # its first question in this game
        env.skill = rng.choices(SKILLS, SKILL_WEIGHTS)[0]
        env.max_left = rng.randint(1, MAX_LEFT)
    if env.skill and env.possible and env.possible.bit_count() <= env.max_left:
        return guess(rng.choice(options_of(env.possible)), rng)
    if rng.random() < EARLY_GUESS:
        return guess(rng.randrange(len(OBJECTS)), rng)
    good = good_questions(env.possible) if rng.random() < env.skill else ()
    things = [thing for thing in good if thing not in env.asked] or [thing for thing in ASKED if thing not in env.asked]
    thing = rng.choices(things, cum_weights=weights(len(things)))[0]
    env.asked.add(thing)
    return word(thing.questions, rng)


@lru_cache(maxsize=65_536)
def best_question(possible: int) -> tuple[int, int]:
    """(number of a property or -1, number of an object to guess or -1): the question that tells most.

    A guess parts one object from the others and may win besides, so it comes before a property that tells as much.
    """
    count = possible.bit_count()

    def gain(part: int) -> float:
        return -sum(n / count * log2(n / count) for n in (part, count - part) if n)

    number = max(range(len(ASKED)), key=lambda number: gain((ASKED[number].mask & possible).bit_count()))
    if gain((ASKED[number].mask & possible).bit_count()) > gain(1) + 1e-9:
        return number, -1
    return -1, options_of(possible)[0]


def best_player(env: "TwentyQuestions", rng: random.Random) -> str:
    """Greedy information gain, in the first wording of each question."""
    number, thing = best_question(env.possible or EVERYTHING)
    return (ASKED[number].questions[0] if number >= 0 else GUESSES[0].format(PHRASES[thing])) + "\n"


def mean_return(choose: Callable[[int], tuple[int, int]] = best_question) -> float:
    """Exact mean over all objects of the player that asks `choose(objects still possible)`."""
    total, level = 0, [EVERYTHING]
    for _ in range(MAX_QUESTIONS):
        parts = []
        for possible in level:
            number, thing = choose(possible)
            if number >= 0:
                parts += [possible & ASKED[number].mask, possible & ~ASKED[number].mask]
            else:
                parts.append(possible & ~(1 << thing))
        level = [part for part in parts if part]
        total -= sum(part.bit_count() for part in level)
    return total / len(OBJECTS)
