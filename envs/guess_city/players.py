"""The scripted players of guess_city, and the return of the best one, which is derived here.

The data's players ask more often about what tells much, about nothing twice, and guess late: as in the paper, half of
the games are won, most of them in the last turns.
"""

import random
from functools import cache, lru_cache
from math import log

from envs import Env
from envs.guess_city.answers import answers
from envs.guess_city.tables import cities, topics

MAX_QUESTIONS = 20
GUESSES = ("Is it {}?\n", "Is it {}?\n", "Is it {}?\n", "Is the city {}?\n", "I think it is {}.\n")

# The data's players: share of the games; share of the answers that they heed; share of their questions that are chosen
# for what they tell.
SKILLS = ((0.36, 0.0, 0.0), (0.34, 0.2, 0.0), (0.30, 0.9, 0.2))
NEVER = 0.1  # share of the games in which they never come to a guess
USUAL = 8  # mean rank of the topic that is asked about, from the most telling on
# The turn in which they begin to guess is uniform over the one range or, in a share EARLY of the games, over the other.
FIRST_GUESS, EARLY_GUESS, EARLY = (16, 20), (4, 15), 0.15


@cache
def usual() -> list[tuple[str, ...]]:
    """The questions of the data's players, by topic: first the topic that tells most about a city."""
    lines = [tuple([f"{text}\n" for text in topic.ask + topic.test]) for topic in topics().values()]
    everything = (1 << len(cities())) - 1
    return sorted(filter(None, lines), key=lambda some: -max(round(gain(action, everything), 9) for action in some))


@cache
def bank() -> tuple[str, ...]:
    """All of them, in the order of the file of topics."""
    return tuple([f"{text}\n" for topic in topics().values() for text in topic.ask + topic.test])


@lru_cache(maxsize=20_000)
def meaning(action: str) -> dict[str, int]:
    """The cities (a bit each) that may give an answer to an action, by answer."""
    said: dict[str, int] = {}
    for city in cities():
        for line in answers(city.number, action):
            said[line] = said.get(line, 0) | 1 << city.number
    return said


@lru_cache(maxsize=20_000)
def tells(action: str) -> tuple[int, ...]:
    """The sets of cities that an action tells apart, whatever form its answers take."""
    return tuple(dict.fromkeys(meaning(action)[answers(city.number, action)[0]] for city in cities()))


def partition(action: str, possible: int) -> list[int]:
    """The sets of still possible cities that an action tells apart, without empty ones."""
    return [part & possible for part in tells(action) if part & possible]


def gain(action: str, possible: int) -> float:
    """Entropy of the answer over the possible cities, up to a factor and a term that all actions share."""
    return -sum(n * log(n) for part in partition(action, possible) if (n := part.bit_count()))


def numbers(possible: int) -> list[int]:
    return [number for number in range(len(cities())) if possible >> number & 1]


@lru_cache(maxsize=100_000)
def best_question(possible: int) -> tuple[str, int]:
    """(action, number of the city it names or -1): the most telling question, or a guess if two cities are left."""
    left = numbers(possible)
    if len(left) > 2:
        # Rounded, so that equal ones are equal whatever the order of the sum; then the first in the bank.
        action = max(bank(), key=lambda action: round(gain(action, possible), 9))
        if len(partition(action, possible)) > 1:
            return action, -1
    return GUESSES[0].format(cities()[left[0]].name), left[0]


def possible_cities(env: Env, heeded: list[bool] | None = None) -> int:
    """The cities that fit the answers so far, or those of them that are heeded; all of them if none fits."""
    everything = possible = (1 << len(cities())) - 1
    for turn, (action, obs) in enumerate(zip(env.texts[::2], env.texts[1::2], strict=True)):
        if heeded is None or heeded[turn]:
            possible &= meaning(action).get(obs, everything)  # a language model says what no table has
    return possible or everything


def guess(number: int, rng: random.Random) -> str:
    return rng.choice(GUESSES).format(cities()[number].name)


def random_player(env: Env, rng: random.Random) -> str:
    """Any question of the data's, in the last turn any city."""
    return rng.choice(bank()) if env.turns < MAX_QUESTIONS - 1 else guess(rng.randrange(len(cities())), rng)


def usual_question(asked: set[str], rng: random.Random) -> str:
    """A question about a topic that is not asked yet; topics that tell much come more often."""
    left = [lines for lines in usual() if asked.isdisjoint(lines)]
    return rng.choice(left[min(int(rng.expovariate(1 / USUAL)), len(left) - 1)])


def data_player(env: Env, rng: random.Random) -> str:
    """A player of the game's own skill, drawn in its first turn: it asks, heeds some of the answers, then guesses."""
    if env.turns == 0:
        _, heeds, telling = rng.choices(SKILLS, [skill[0] for skill in SKILLS])[0]
        begin = rng.randint(*(EARLY_GUESS if rng.random() < EARLY else FIRST_GUESS)) - 1
        begin = MAX_QUESTIONS if rng.random() < NEVER else begin
        env.skill = [rng.random() < heeds for _ in range(MAX_QUESTIONS)], telling, begin
    heeded, telling, begin = env.skill
    for turn in range(begin, env.turns):
        heeded[turn] = True  # it does not guess what it has guessed
    if env.turns >= begin:
        return guess(rng.choice(numbers(possible_cities(env, heeded))), rng)
    asked = set(env.texts[::2])
    if rng.random() < telling:
        possible = possible_cities(env, heeded)
        return max([usual_question(asked, rng) for _ in range(8)], key=lambda action: gain(action, possible))
    return usual_question(asked, rng)


def information_gain_player(env: Env, rng: random.Random) -> str:
    """The most telling question, until two cities are left: then either of them."""
    return best_question(possible_cities(env))[0]


def best_return() -> float:
    """Exact mean over the cities of the information-gain player in the scripted oracle's games."""
    total, level = 0, [(1 << len(cities())) - 1]
    for _ in range(MAX_QUESTIONS):
        parts: list[int] = []
        for possible in level:
            action, guess = best_question(possible)
            parts += partition(action, possible & ~(1 << guess) if guess >= 0 else possible)
        level = parts
        total -= sum(possible.bit_count() for possible in level)
    return total / len(cities())
