"""What the worst and the best known player of twenty_questions return, worked out exactly."""

from collections.abc import Callable

from envs.twenty_questions.players import ASKED, best_question
from envs.twenty_questions.tables import EVERYTHING, OBJECTS

MAX_QUESTIONS = 20


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
