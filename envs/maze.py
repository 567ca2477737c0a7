"""Maze: find the goal by moving left, right, up and down (LMRL-Gym, arXiv 2311.18232).

A turn is one move. `maze_fo` says where the goal and the agent are, and the newest observation is all that the agent
is shown; `maze_po` says only where the walls are, and the agent remembers. -1 per move, 0 for the one that reaches the
goal, -4 for anything that is no move; truncated after 100 moves. As in the original, `at position 1, 1 0` is row 1,
column 10: the digits of a number have a space between them.

The offline data never shows a whole way: each trajectory stays in one of three regions and is truncated at its border,
so the way from the arms to the goal must be stitched together from pieces.

    python -m envs.maze --env-id maze_po          play it
    python -m envs.maze --player best             watch the shortest path
"""

import copy
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from envs import Env, Player, Step, Trajectory, draw_seed
from envs.data import flag

GRID = """\
#############
#.....#.....#
###.#####.###
###.#####.###
###.#####.###
###.......###
######.######
######.######
######G######
#############
""".split()
GOAL = (8, 6)
CELLS = [(row, col) for row, line in enumerate(GRID) for col, char in enumerate(line) if char == "."]  # the 25 starts
MOVES = {"move left\n": (0, -1), "move right\n": (0, 1), "move up\n": (-1, 0), "move down\n": (1, 0)}
MAX_MOVES = 100
SUCCESS, FAILURE = "Success\n", "Failure\n"  # of the original, in place of the last observation
OPTIMAL_PROBABILITY = 0.15  # how often the data's player takes the shortest way

Cell = tuple[int, int]


def is_wall(row: int, col: int) -> bool:
    return GRID[row][col] == "#"


def move(cell: Cell, action: str) -> Cell:
    """The cell behind the move: the same one if a wall is in the way."""
    row, col = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
    return cell if is_wall(row, col) else (row, col)


def describe_walls(cell: Cell) -> str:
    """What `maze_po` shows: the walls around the cell."""
    row, col = cell
    beside = [(is_wall(row, col + 1), "to your right"), (is_wall(row, col - 1), "to your left"),
              (is_wall(row - 1, col), "above you"), (is_wall(row + 1, col), "below you")]
    walls = [where for wall, where in beside if wall]
    if not walls:
        return "There are no walls near you.\n"
    return f"There {'is a wall' if len(walls) == 1 else 'are walls'} {', '.join(walls)}.\n"


def describe(cell: Cell) -> str:
    """What `maze_fo` shows: the goal, the cell and the walls around it."""
    goal, here = (", ".join([" ".join(str(number)) for number in place]) for place in (GOAL, cell))
    return f"The goal is at position {goal}. Your current position is at position {here}. {describe_walls(cell)}"


NEXT = {action: {cell: move(cell, action) for cell in [*CELLS, GOAL]} for action in MOVES}
OBS = {"maze_fo": {cell: describe(cell) for cell in [*CELLS, GOAL]},
       "maze_po": {cell: describe_walls(cell) for cell in [*CELLS, GOAL]}}
CELL = {obs: cell for cell, obs in OBS["maze_fo"].items()}
OPEN_MOVES = {cell: [action for action in MOVES if NEXT[action][cell] != cell] for cell in [*CELLS, GOAL]}


def distances() -> dict[Cell, int]:
    """Moves from each cell to the goal, by breadth-first search."""
    distance, frontier = {GOAL: 0}, [GOAL]
    for cell in frontier:
        for action in OPEN_MOVES[cell]:
            neighbour = NEXT[action][cell]
            if neighbour not in distance:
                distance[neighbour] = distance[cell] + 1
                frontier.append(neighbour)
    return distance


DISTANCE = distances()
SHORTEST = {cell: min(OPEN_MOVES[cell], key=lambda action: DISTANCE[NEXT[action][cell]]) for cell in CELLS}


def region(cell: Cell) -> str:
    """Which of the three regions of the data a cell lies in."""
    row, col = cell
    if row > 5 or (row == 5 and 5 <= col <= 7):
        return "middle"
    return "left" if col < 6 else "right"


class Maze(Env):
    """The maze; `seed` modulo 25 is the number of the start cell, row by row."""

    variants = ("maze_fo", "maze_po")
    max_turns = MAX_MOVES
    num_trajectories = 1240
    num_test_episodes = 800  # 32 from each start
    worst, data = -100.0, -48.4  # data: the data's player without the borders, since the data is cut there

    def __init__(self, env_id: str, **options: str) -> None:
        super().__init__(env_id, **options)
        self.markov = env_id == "maze_fo"
        self.best = -6.84 if self.markov else -7.24
        self.paper = {"worst": -101, "data": -83, "best": -6.84 if self.markov else -25.75,
                      "num_trajectories": 1240, "success": 0.11, "length": "19.7 ± 24.5"}
        self.obs = OBS[env_id]
        self.cell, self.turns, self.over = GOAL, 0, True
        self.trail: list[tuple[str, Cell]] = []  # (valid move, cell behind it) since the start

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        seed = draw_seed() if seed is None else seed
        self.cell, self.turns, self.over = CELLS[seed % len(CELLS)], 0, False
        self.trail = [("", self.cell)]
        return self.obs[self.cell], {"success": False, "valid": True}

    def step(self, action: str) -> Step:
        if self.over:
            raise RuntimeError("the game is over: call reset")
        valid = action in MOVES
        if valid:
            self.cell = NEXT[action][self.cell]
            self.trail.append((action, self.cell))
        self.turns += 1
        terminated = self.cell == GOAL
        truncated = not terminated and self.turns >= MAX_MOVES
        self.over = terminated or truncated
        reward = -4.0 if not valid else 0.0 if terminated else -1.0
        return self.obs[self.cell], reward, terminated, truncated, {"success": terminated, "valid": valid}

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """The data's player, started in a cell drawn uniformly, until it reaches the goal or leaves its region."""
        env = copy.copy(self)  # the caller may play a game of its own between two trajectories
        for index in range(start, num_trajectories):
            rng = random.Random(f"maze {seed} {index}")
            obs, _ = env.reset(rng.randrange(len(CELLS)))
            home, texts, rewards, terminated, truncated = region(env.cell), [obs], [], False, False
            while not (terminated or truncated):
                action = data_player(env, rng)
                obs, reward, terminated, truncated, _ = env.step(action)
                truncated = truncated or region(env.cell) != home
                texts += [action, obs]
                rewards.append(reward)
            yield Trajectory(texts, rewards, terminated, terminated)

    def players(self) -> dict[str, Player]:
        return {"random": random_player, "data": data_player, "best": shortest_path if self.markov else BeliefPlayer()}

    def recognises(self, trajectory: Trajectory) -> bool:
        known = self.obs.values()
        return all(obs in known for obs in trajectory.texts[::2])

    def parse(self, record: Any) -> list[Trajectory]:
        """`maze_fo`: a list of {state, action, reward, done}; `maze_po`: {text_history, rewards, dones}.

        The original has several scales of rewards, so that success is read off the goal. `done` without it is the time
        limit, not an end by the rules.
        """
        return [parse_turns(record) if self.markov else parse_history(record)]

    def worst_return(self) -> float:
        """Every move but the goal's costs 1, and no more than 100 are played."""
        return -1.0 * MAX_MOVES

    def best_return(self) -> float:
        """Mean over the starts: all moves of the shortest path but the last cost 1; `maze_po`: the belief MDP's."""
        if self.markov:
            return -sum(DISTANCE[cell] - 1 for cell in CELLS) / len(CELLS)
        return BeliefPlayer().expected_return()

    def render(self, text: str) -> str:
        rows = [list(line) for line in GRID]
        if self.markov:
            rows[self.cell[0]][self.cell[1]] = "\033[1;32m@\033[0m"
            return "\n".join("".join(row).replace("#", "\033[90m#\033[0m") for row in rows) + "\n" + text
        return text


def parse_turns(record: Any) -> Trajectory:
    """A game of `maze_fo` in the original's format, which lacks the last observation."""
    if not isinstance(record, list):
        raise ValueError(f"{type(record).__name__} instead of a list of {{state, action, reward, done}}")
    texts = [text for turn in record for text in (turn["state"], turn["action"])]
    rewards, done = [turn["reward"] for turn in record], flag(record[-1]["done"])
    cell, action = CELL.get(texts[-2]), texts[-1]
    reaches_goal = cell is not None and action in MOVES and NEXT[action][cell] == GOAL
    success = reaches_goal and rewards[-1] >= 0  # below 0: the time limit came first, and the move is not played
    return Trajectory(texts, rewards, done and success, success)


def parse_history(record: Any) -> Trajectory:
    """A game of `maze_po` in the original's format."""
    texts, rewards, done = record["text_history"], record["rewards"], flag(record["dones"][-1])
    if len(rewards) == len(texts):  # one reward per text: those of the observations are zeros
        rewards = rewards[1::2]
    if len(texts) % 2 == 0:  # without the last observation: no other move has the goal's reward
        success = done and rewards[-1] > max(rewards[:-1], default=-1)
        return Trajectory(texts, rewards, success, success)
    success = texts[-1] in (SUCCESS, describe_walls(GOAL))
    if texts[-1] in (SUCCESS, FAILURE):
        texts = [*texts[:-1], *[describe_walls(GOAL)] * success]
    return Trajectory(texts, rewards, done and success, success)


def random_player(env: Maze, rng: random.Random) -> str:
    """Any of the four moves, walls or not."""
    return rng.choice(list(MOVES))


def data_player(env: Maze, rng: random.Random) -> str:
    """The shortest way with probability 0.15, else any move that is not into a wall."""
    return SHORTEST[env.cell] if rng.random() < OPTIMAL_PROBABILITY else rng.choice(OPEN_MOVES[env.cell])


def shortest_path(env: Maze, rng: random.Random) -> str:
    return SHORTEST[env.cell]


def policy_return(probabilities: dict[Cell, dict[str, float]]) -> float:
    """Exact mean return over the starts of a memoryless policy {cell: {action: probability}}, truncation included."""
    value = dict.fromkeys([*CELLS, GOAL], 0.0)
    for _ in range(MAX_MOVES):
        behind = value
        value = {cell: sum(p * (behind[NEXT[action][cell]] - (NEXT[action][cell] != GOAL))
                           for action, p in probabilities[cell].items()) for cell in CELLS} | {GOAL: 0.0}
    return sum(value[cell] for cell in CELLS) / len(CELLS)


def random_policy() -> dict[Cell, dict[str, float]]:
    """`random_player` as probabilities."""
    return {cell: dict.fromkeys(MOVES, 1 / len(MOVES)) for cell in CELLS}


def data_policy() -> dict[Cell, dict[str, float]]:
    """`data_player` as probabilities."""
    policy = {}
    for cell in CELLS:
        policy[cell] = dict.fromkeys(OPEN_MOVES[cell], (1 - OPTIMAL_PROBABILITY) / len(OPEN_MOVES[cell]))
        policy[cell][SHORTEST[cell]] += OPTIMAL_PROBABILITY
    return policy


# --- The best player of maze_po ---
# What the agent knows is a belief: for each cell, how many of the 25 equally likely starts would have brought it there.
Belief = tuple[tuple[Cell, int], ...]
ANYWHERE: Belief = tuple((cell, 1) for cell in CELLS)


def see(belief: Belief, cell: Cell) -> Belief:
    """What is left of a belief when the walls look as they do from `cell`."""
    walls = OBS["maze_po"][cell]
    return tuple((other, count) for other, count in belief if OBS["maze_po"][other] == walls)


@cache
def outcomes(belief: Belief, action: str) -> tuple[int, tuple[Belief, ...]]:
    """(number of starts that reach the goal by the move, the beliefs that the walls behind it tell apart)."""
    behind = Counter()
    for cell, count in belief:
        behind[NEXT[action][cell]] += count
    reached = behind.pop(GOAL, 0)
    parts: dict[str, list[tuple[Cell, int]]] = {}
    for cell in sorted(behind):
        parts.setdefault(OBS["maze_po"][cell], []).append((cell, behind[cell]))
    return reached, tuple(tuple(part) for part in parts.values())


class BeliefPlayer:
    """Optimal play of `maze_po`: the exact solution of its belief MDP, by value iteration over reachable beliefs."""

    value: dict[Belief, float] = {}  # sum of the future rewards over the belief's starts; shared by all players

    def __init__(self) -> None:
        self.first = list({see(ANYWHERE, cell) for cell in CELLS})

    def solve(self) -> dict[Belief, float]:
        if not self.value:
            frontier = sorted(self.first)
            known = set(frontier)
            for belief in frontier:
                for action in MOVES:
                    new = [part for part in outcomes(belief, action)[1] if part not in known]
                    known.update(new)
                    frontier.extend(new)
            value = dict.fromkeys(frontier, 0.0)
            while True:  # from 0 downwards: converges to the optimum, since every belief has a way to the goal
                change = 0.0
                for belief in reversed(frontier):
                    best = max(self.action_value(value, belief, action) for action in MOVES)
                    change, value[belief] = max(change, value[belief] - best), best
                if change == 0.0:
                    break
            self.value.update(value)
        return self.value

    @staticmethod
    def action_value(value: dict[Belief, float], belief: Belief, action: str) -> float:
        reached, parts = outcomes(belief, action)
        return sum(value[part] for part in parts) - (sum(count for _, count in belief) - reached)

    def expected_return(self) -> float:
        """Mean return over the 25 starts."""
        value = self.solve()
        return sum(value[belief] for belief in self.first) / len(CELLS)

    def __call__(self, env: Maze, rng: random.Random) -> str:
        value = self.solve()
        belief = see(ANYWHERE, env.trail[0][1])
        walls = OBS["maze_po"]
        for action, cell in env.trail[1:]:
            belief = next(part for part in outcomes(belief, action)[1] if walls[part[0][0]] == walls[cell])
        return max(MOVES, key=lambda action: self.action_value(value, belief, action))


ENV = Maze

if __name__ == "__main__":
    from envs.terminal import main

    main(Maze)
