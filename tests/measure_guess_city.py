"""Print what the oracle of guess_city answers to questions that were written without sight of its tables, to be judged.

    python tests/measure_guess_city.py QUESTIONS.jsonl

A line is {"question", "cities", "expect", "kind"}, {"question", "wins"} or {"question", "must_not_win"}. Guesses and
what must not win are counted; whether an answer is to the point and true is for the reader to say.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from envs.guess_city.answers import answers  # noqa: E402
from envs.guess_city.tables import cities  # noqa: E402
from envs.guess_city.understanding import fold, understand  # noqa: E402


def find(name):
    """The listed city of a name; None if it is not among the hundred."""
    return next((city for city in cities() if fold(name) in map(fold, city.names)), None)


def measure(path):
    """Print every question with city, answer and expectation; then the counts."""
    asked = understood = guesses = won = traps = fell = 0
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        action = f"{record['question']}\n"
        question = understand(action)
        for name, expected in zip(record.get("cities", []), record.get("expect", []), strict=True):
            if city := find(name):
                said = answers(city.number, action)[0].strip()
                asked, understood = asked + 1, understood + question.understood
                print(f"{record['kind']} | {record['question']} | {name} | {said} | {expected} | {question.topics}")
        if city := find(record.get("wins", "")):
            guesses, won = guesses + 1, won + question.names(city)
            if not question.names(city):
                print(f"GUESS MISSED | {record['question']} | {city.name} | {question.kind}")
        if city := find(record.get("must_not_win", "")):
            traps, fell = traps + 1, fell + question.names(city)
            said = answers(city.number, action)[0].strip()
            print(f"{'WINS BUT MUST NOT' if question.names(city) else 'trap'} | {record['question']} | {said}")
    print(f"{understood} of {asked} understood, {won} of {guesses} guesses win, {fell} of {traps} win that must not")


if __name__ == "__main__":
    measure(sys.argv[1])
