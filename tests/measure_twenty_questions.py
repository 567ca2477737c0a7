"""How well twenty_questions understands questions that people wrote.

    python tests/measure_twenty_questions.py FILE [--verbose]

A line of the file is {question, objects: {object: "yes" or "no"}, kind}, {question, guess} or {question, near_miss}.
"""

import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from envs import make
from envs.twenty_questions import NO, OBJECTS, UNSURE, YES

NUMBERS = {thing.phrase.lower(): number for number, thing in enumerate(OBJECTS)}


def ask(question: str, thing: str) -> tuple[str, bool]:
    """(what a game about the thing answers, whether the question wins it)."""
    env = make("twenty_questions")
    env.reset(NUMBERS[thing.lower()])
    obs, _, _, _, info = env.step(question + "\n")
    return obs, info["success"]


def measure(path: str | Path, verbose: bool = False) -> dict[str, float]:
    """How many questions are understood and answered rightly, as shares; prints them for each kind of question."""
    counts, kinds = Counter(), Counter()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name in ("guess", "near_miss"):
            if name in row:
                obs, won = ask(row["question"], row[name])
                counts.update({name: 1, f"{name} wins": won, f"{name} said yes": obs == YES})
                if verbose and won != (name == "guess"):
                    print(f"{name}: {row['question']} | {row[name]} | {obs.strip()}")
        for thing, said in row.get("objects", {}).items():
            obs, _ = ask(row["question"], thing)
            right = obs == {"yes": YES, "no": NO}[said]
            counts.update({"answers": 1, "understood": obs != UNSURE, "right": right, "yes": said == "yes",
                           "yes right": right and said == "yes"})
            kinds.update({(row["kind"], True): right, (row["kind"], False): not right})
            if verbose and not right:
                print(f"{row['kind']}: {row['question']} | {thing}: {said} | {obs.strip()}")
    for kind in sorted({kind for kind, _ in kinds}):
        print(f"{kind:30} {kinds[kind, True]:4} right, {kinds[kind, False]:4} wrong or not understood")
    return {"understood": counts["understood"] / counts["answers"],
            "right of understood": counts["right"] / counts["understood"],
            "yes answered yes": counts["yes right"] / counts["yes"],
            "guesses that win": counts["guess wins"] / (counts["guess"] or 1),
            "near misses that win": counts["near_miss wins"], "near misses answered yes": counts["near_miss said yes"]}


if __name__ == "__main__":
    for name, value in measure(sys.argv[1], "--verbose" in sys.argv).items():
        print(f"{name:30} {value:.3f}")
