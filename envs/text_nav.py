"""Text-Nav: put the stale food in the fridge of a house of eight rooms (LMRL-Gym, arXiv 2311.18232).

A turn is one command, answered in TextWorld's manner. `text_nav_fo` says in each observation which room the player is
in and what the player carries; `text_nav_po` says neither. Both list the admissible commands. Reward 1 when the stale
food is in the closed fridge; eating it ends the game with 0; truncated after 50 turns.

The rules are those of the house built with TextWorld (Côté et al., arXiv 1806.11532) and played by its interpreter,
without its synonyms and abbreviations. Its sentences are TextWorld's, in one wording each, and things are listed in a
fixed order. Any other command than those below is refused and costs a turn:

    go DIRECTION, open X, close X, take X [from Y], drop X, put X on Y, insert X into Y, eat X
    look, inventory, examine X

The offline data is played by two players, each at home in one half of the house, and cut short: the whole way must be
stitched together.

    python -m envs.text_nav --env-id text_nav_po     play it
    python -m envs.text_nav --player best            watch a shortest plan
"""

import copy
import random
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

from envs import Env, Player, Step, Trajectory, draw_seed

Place = tuple[str, str]  # a room, and "floor" or the room's holder; or one of the two that follow

EXITS = {
    "bedroom": {"south": "bathroom", "west": "living room"},
    "living room": {"east": "bedroom", "south": "office", "west": "dining room"},
    "dining room": {"east": "living room", "west": "kitchen"},
    "kitchen": {"east": "dining room", "north": "garden", "west": "backyard"},
    "office": {"east": "bathroom", "north": "living room"},
    "bathroom": {"north": "bedroom", "west": "office"},
    "garden": {"south": "kitchen"},
    "backyard": {"east": "kitchen"},
}
ROOMS = list(EXITS)  # the starts
HOLDERS = {"bedroom": "table", "living room": "table", "dining room": "table", "kitchen": "fridge", "office": "chest"}
CARRIED, EATEN = ("", "carried"), ("", "eaten")
THINGS: dict[str, Place] = {  # in the order in which they are listed, and where they are at first
    "stale food": ("living room", "table"),
    "fresh food": ("living room", "table"),
    "fruit": ("kitchen", "fridge"),
    "bowl": ("bedroom", "table"),
    "coffee cup": ("dining room", "table"),
    "plate": ("dining room", "table"),
    "utensils": ("office", "chest"),
}
FOOD, CONTAINERS = {"stale food", "fresh food", "fruit"}, {"chest", "fridge"}  # containers are closed at first
OBJECTIVE = "Your objective is to put the stale food on the table in the living room into the fridge in the kitchen.\n"
ADMISSIBLE = "Admissible commands: "
MAX_TURNS = 50
KNOWN_ROOMS = ({"kitchen", "dining room", "living room", "bedroom"}, {"office", "bathroom", "garden", "backyard"})
OPTIMAL_PROBABILITY = 0.75  # how often the data's player, in a room it knows, plays a shortest plan's command
MIN_CUT, MEAN_CUT = 5, 14.0  # its games are cut after MIN_CUT turns and an exponentially distributed number of others

# The groups of a match that are not empty: verb, noun and, where there is one, second noun.
COMMAND = re.compile("(go|open|close|drop|eat|examine) (.+)|(take) (.+?)(?: from (.+))?|(put) (.+?) on (.+)|"
                     "(insert) (.+?) into (.+)")
VERBS = {"go", "open", "close", "take", "drop", "put", "insert", "eat", "examine", "look", "inventory"}
DIRECTIONS = {"north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest", "up", "down"}
UNSEEN = "You can't see any such thing.\n"
DONE = {
    "pick up": "You pick up the {} from the ground.\n",
    "take": "You take the {} from the {}.\n",
    "drop": "You drop the {} on the ground.\n",
    "put": "You put the {} on the {}.\n",
    "insert": "You put the {} into the {}.\n",
    "eat": "You eat the {}. Not bad.\n",
}


class State(NamedTuple):
    """The house: where the player is, where each of THINGS is, and which containers are open."""

    room: str
    places: tuple[Place, ...]
    opened: frozenset[str]


class View(NamedTuple):
    """What the player sees and reaches: what it carries, and what is on the floor and on or in the room's holder."""

    room: str
    holder: str  # a supporter or a container; empty where there is none
    shut: bool  # the holder is a closed container
    carried: tuple[str, ...]
    floor: tuple[str, ...]
    contents: tuple[str, ...]


@lru_cache(maxsize=16_384)
def view_of(state: State) -> View:
    """The part of the house that the player is in; what a closed container holds is not in it."""
    holder = HOLDERS.get(state.room, "")
    shut = holder in CONTAINERS and holder not in state.opened
    places = CARRIED, (state.room, "floor"), (state.room, "" if shut else holder)
    return View(state.room, holder, shut, *[
        tuple([thing for thing, there in zip(THINGS, state.places, strict=True) if there == place])
        for place in places])


@lru_cache(maxsize=16_384)
def admissible_commands(view: View) -> tuple[str, ...]:
    """All that change the house, in TextWorld's wording, sorted."""
    holder = view.holder
    commands = [f"go {direction}" for direction in EXITS[view.room]]
    commands += [f"take {thing}" for thing in view.floor] + [f"take {thing} from {holder}" for thing in view.contents]
    commands += [f"drop {thing}" for thing in view.carried]
    commands += [f"eat {thing}" for thing in view.carried if thing in FOOD]
    if holder in CONTAINERS:
        commands.append(f"{'open' if view.shut else 'close'} {holder}")
    if holder and not view.shut:
        words = ("insert", "into") if holder in CONTAINERS else ("put", "on")
        commands += [f"{words[0]} {thing} {words[1]} {holder}" for thing in view.carried]
    return tuple(sorted(commands))


# --- Texts ---


def enumerate_things(things: tuple[str, ...]) -> str:
    """`a bowl, a plate and an utensils`, as TextWorld has it."""
    named = [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
    return " and ".join([", ".join(named[:-1]), named[-1]] if named[1:] else named)


def describe_holder(view: View) -> str:
    """What is on or in the holder."""
    if view.shut:
        return f"The {view.holder} is closed."
    if not view.contents:
        return f"The {view.holder} is empty."
    things = enumerate_things(view.contents)
    if view.holder in CONTAINERS:
        return f"The {view.holder} contains {things}."
    return f"On the {view.holder} you see {things}."


@lru_cache(maxsize=16_384)
def describe_room(view: View) -> str:
    """The room without its name: holder, exits, floor."""
    text = ""
    if view.shut:
        text = f"You can see a closed {view.holder}.\n"
    elif view.holder:
        named = f"{'an opened' if view.holder in CONTAINERS else 'a'} {view.holder}"
        text = f"You can see {named}. {describe_holder(view)}\n"
    text += " ".join([f"There is an unblocked exit to the {direction}." for direction in EXITS[view.room]]) + "\n"
    return text + (f"There is {enumerate_things(view.floor)} on the floor.\n" if view.floor else "")


@lru_cache(maxsize=16_384)
def describe_always(view: View) -> tuple[str, str, str]:
    """(name of the room, inventory, admissible commands): of each observation, the first two in `text_nav_fo` only."""
    inventory = f": {enumerate_things(view.carried)}" if view.carried else " nothing"
    return (f"-= {view.room.title()} =-\n", f"You are carrying{inventory}.\n",
            f"{ADMISSIBLE}{', '.join(admissible_commands(view))}\n")


# --- Rules ---


@lru_cache(maxsize=16_384)
def refusal(view: View, verb: str, noun: str, second: str) -> str:
    """Why the command is not possible, or nothing if it is."""
    holder, fixed, carried = view.holder, noun == view.holder, noun in view.carried
    if not {noun, second or noun} <= {*view.carried, *view.floor, *view.contents, holder}:
        return UNSEEN
    reasons = {  # the first that holds
        "open": ((noun not in CONTAINERS, "It isn't something you can open.\n"),
                 (not view.shut, "That's already open.\n")),
        "close": ((noun not in CONTAINERS, "It isn't something you can close.\n"),
                  (view.shut, "That's already closed.\n")),
        "take": ((second and not (second == holder and noun in view.contents), UNSEEN),
                 (carried, "You already have that.\n"),
                 (fixed, "That's fixed in place.\n")),
        "drop": ((noun in view.contents, "You haven't got that.\n"),
                 (not carried, f"The {noun} is already here.\n")),
        "eat": ((noun not in FOOD, "That's plainly inedible.\n"),
                (not carried, f"You need to take the {noun} first.\n")),
        "put": ((fixed, f"The {noun} is fixed in place.\n"),
                (not carried, f"You need to take the {noun} first.\n"),
                (noun == second, "You can't put something on top of itself.\n"),
                (second != holder or holder in CONTAINERS, f"Putting things on the {second} would achieve nothing.\n")),
        "insert": ((fixed, f"The {noun} is fixed in place.\n"),
                   (not carried, f"You need to take the {noun} first.\n"),
                   (noun == second, "You can't put something inside itself.\n"),
                   (second not in CONTAINERS, "That can't contain things.\n"),
                   (view.shut, f"The {second} is closed.\n")),
        "examine": (),
    }
    return next((reason for applies, reason in reasons[verb] if applies), "")


def perform(state: State, command: str) -> tuple[str, State, bool]:
    """(reply, the house behind the command, whether it was possible); `look` and `inventory` are not answered here."""
    view = view_of(state)
    if not (match := COMMAND.fullmatch(command)):
        known = command.partition(" ")[0] in VERBS
        return "I didn't understand that sentence.\n" if known else "That's not a verb I recognise.\n", state, False
    verb, noun, second = ([group for group in match.groups() if group] + [""])[:3]
    if verb == "go":
        if noun not in EXITS[view.room]:
            return "You can't go that way.\n" if noun in DIRECTIONS else UNSEEN, state, False
        return "", state._replace(room=EXITS[view.room][noun]), True  # the new room is described instead
    if reason := refusal(view, verb, noun, second):
        return reason, state, False
    if verb == "examine":
        return f"{describe_holder(view)}\n" if noun == view.holder else f"That's an ordinary {noun}!\n", state, True
    if verb in ("open", "close"):
        state = state._replace(opened=state.opened ^ {noun})
        contents = view_of(state).contents
        revealing = f", revealing {enumerate_things(contents)}" if verb == "open" and contents else ""
        return f"You {verb} the {noun}{revealing}.\n", state, True
    place = {"take": CARRIED, "drop": (view.room, "floor"), "eat": EATEN}.get(verb, (view.room, second))
    places = tuple([place if thing == noun else there for thing, there in zip(THINGS, state.places, strict=True)])
    reply = DONE["pick up" if verb == "take" and noun in view.floor else verb].format(noun, view.holder)
    return reply, state._replace(places=places), True


def is_won(state: State) -> bool:
    return state.places[0] == ("kitchen", "fridge") and "fridge" not in state.opened


def is_lost(state: State) -> bool:
    return state.places[0] == EATEN


class TextNav(Env):
    """The house; `seed` modulo 8 is the number of the room to start in, in the order of ROOMS."""

    variants = ("text_nav_fo", "text_nav_po")
    max_turns = MAX_TURNS
    num_trajectories = 2500
    num_test_episodes = 400  # 50 from each room
    worst, data, best = 0.0, 0.38, 1.0  # data: the data's players in whole games, since the data is cut short
    paper = {"worst": 0, "data": 0.26, "best": 1, "num_trajectories": 2500, "success": 0.26, "length": "12.2 ± 8.77"}

    def __init__(self, env_id: str, **options: str) -> None:
        super().__init__(env_id, **options)
        self.full = env_id == "text_nav_fo"
        self.state, self.turns, self.over = start(ROOMS[0]), 0, True
        self.known_rooms: set[str] = set()  # to the data's player, which draws them in its first turn

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        seed = draw_seed() if seed is None else seed
        self.state, self.turns, self.over = start(ROOMS[seed % len(ROOMS)]), 0, False
        return self.observe(OBJECTIVE, describe=True), {"success": False, "valid": True}

    def observe(self, reply: str, describe: bool) -> str:
        """The observation; `describe`: with the description of the room."""
        view = view_of(self.state)
        room, inventory, admissible = describe_always(view)
        description = describe_room(view) if describe else ""
        return reply + (room + description + inventory if self.full else description) + admissible

    def step(self, action: str) -> Step:
        if self.over:
            raise RuntimeError("the game is over: call reset")
        # What was cut off before its newline is no command: it would read as another, perhaps a valid one.
        command = " ".join((action if action.endswith("\n") else action + "…").lower().split())
        room = self.state.room
        if not command:
            reply, valid = "I beg your pardon?\n", False
        elif command in ("look", "inventory"):
            reply, valid = "" if self.full else "You can't do that.\n", self.full  # the inventory is told in any case
        else:
            reply, self.state, valid = perform(self.state, command)
        self.turns += 1
        won, lost = is_won(self.state), is_lost(self.state)
        reply += "*** The End ***\n" if won else "*** You lost! ***\n" if lost else ""
        truncated = not (won or lost) and self.turns >= MAX_TURNS
        self.over = won or lost or truncated
        obs = self.observe(reply, describe=self.state.room != room or (command == "look" and valid))
        return obs, float(won), won or lost, truncated, {"success": won, "valid": valid}

    def generate(self, num_trajectories: int, seed: int, start: int = 0) -> Iterator[Trajectory]:
        """Games of the data's players, each from a room and cut after a number of turns that are drawn as well."""
        env = copy.copy(self)  # the caller may play a game of its own between two trajectories
        for index in range(start, num_trajectories):
            rng = random.Random(f"text_nav {seed} {index}")
            obs, _ = env.reset(rng.randrange(len(ROOMS)))
            cut = MIN_CUT + int(rng.expovariate(1 / MEAN_CUT))
            texts, rewards, terminated, truncated = [obs], [], False, False
            while not (terminated or truncated):
                action = data_player(env, rng)
                obs, reward, terminated, truncated, info = env.step(action)
                truncated = truncated or env.turns >= cut
                texts += [action, obs]
                rewards.append(reward)
            yield Trajectory(texts, rewards, terminated, info["success"])

    def players(self) -> dict[str, Player]:
        return {"random": random_player, "data": data_player, "best": shortest_plan}

    def recognises(self, trajectory: Trajectory) -> bool:
        """By the admissible commands at the end, and by whether the inventory is shown."""
        observations = trajectory.texts[::2]
        last_line = re.compile(rf"^{ADMISSIBLE.strip()}.*\n\Z", re.MULTILINE)
        return (any("You are carrying" in obs for obs in observations) == self.full
                and all(last_line.search(obs) for obs in observations))

    def parse(self, record: Any) -> list[Trajectory]:
        """{text_history, rewards, dones}, or a list of them; texts may lack the newline at their end."""
        trajectories = []
        for game in record if isinstance(record, list) else [record]:
            texts, rewards = [text.strip() + "\n" for text in game["text_history"]], game["rewards"]
            if len(rewards) == len(texts):  # one reward per text: those of the observations are zeros
                rewards = rewards[1::2]
            # `dones` says nothing: it is set in games that were cut as well.
            success, lost = rewards[-1] > 0, len(texts) % 2 == 1 and "You lost!" in texts[-1]
            trajectories.append(Trajectory(texts, rewards, success or lost, success))
        return trajectories

    def worst_return(self) -> float:
        """No reward is negative, and eating the stale food ends the game without one."""
        return 0.0

    def best_return(self) -> float:
        """The share of the rooms from which a plan wins in time."""
        distance = distances()
        return sum(distance[project(start(room))] <= MAX_TURNS for room in ROOMS) / len(ROOMS)

    def render(self, text: str) -> str:
        return re.sub("(-= .* =-)", "\033[1m\\1\033[0m", text.replace(ADMISSIBLE, f"\033[90m{ADMISSIBLE}\033[0m"))


def start(room: str) -> State:
    """The house at the start of a game."""
    return State(room, tuple(THINGS.values()), frozenset())


# --- Players ---


def project(state: State) -> State:
    """The house with the stale food alone: no other thing can help or hinder."""
    return state._replace(places=(state.places[0], *[EATEN] * (len(THINGS) - 1)))


@cache
def distances() -> dict[State, int]:
    """Commands from each projected state to the goal, by breadth-first search from the goal backwards."""
    frontier = [project(start(room)) for room in ROOMS]
    before: dict[State, list[State]] = {state: [] for state in frontier}
    for state in frontier:
        if not (is_won(state) or is_lost(state)):
            for command in admissible_commands(view_of(state)):
                behind = perform(state, command)[1]
                if behind not in before:
                    before[behind] = []
                    frontier.append(behind)
                before[behind].append(state)
    distance = {state: 0 for state in frontier if is_won(state)}
    queue = list(distance)
    for state in queue:
        new = [other for other in before[state] if other not in distance]
        distance.update(dict.fromkeys(new, distance[state] + 1))
        queue += dict.fromkeys(new)
    return distance


@cache
def next_command(state: State) -> str:
    """The first command, in alphabetical order, of a shortest plan in a projected state."""
    distance = distances()
    return min(admissible_commands(view_of(state)),
               key=lambda command: distance.get(perform(state, command)[1], len(distance)))


def random_player(env: TextNav, rng: random.Random) -> str:
    """Any admissible command."""
    return rng.choice(admissible_commands(view_of(env.state))) + "\n"


def data_player(env: TextNav, rng: random.Random) -> str:
    """In the rooms that it knows a shortest plan's command with probability 0.75, else any admissible one."""
    if env.turns == 0:
        env.known_rooms = rng.choice(KNOWN_ROOMS)
    if env.state.room in env.known_rooms and rng.random() < OPTIMAL_PROBABILITY:
        return shortest_plan(env, rng)
    return random_player(env, rng)


def shortest_plan(env: TextNav, rng: random.Random) -> str:
    return next_command(project(env.state)) + "\n"


ENV = TextNav

if __name__ == "__main__":
    from envs.terminal import main

    main(TextNav)
