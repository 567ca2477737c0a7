"""Text-Nav: rules, against TextWorld's own where it is installed, texts, data, players, the original's files."""

import hashlib
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs import make, play
from envs.data import load_dataset
from envs.text_nav import (
    ADMISSIBLE,
    CARRIED,
    CONTAINERS,
    EATEN,
    EXITS,
    HOLDERS,
    KNOWN_ROOMS,
    OBJECTIVE,
    ROOMS,
    THINGS,
    TextNav,
    admissible_commands,
    distances,
    enumerate_things,
    next_command,
    perform,
    project,
    view_of,
)

ROOT = Path(__file__).resolve().parent.parent
BOTH = ("text_nav_fo", "text_nav_po")
both = pytest.mark.parametrize("env_id", BOTH)
REVERSE = {"north": "south", "south": "north", "east": "west", "west": "east"}
PLAN = ["take stale food from table", "go west", "go west", "open fridge", "insert stale food into fridge",
        "close fridge"]  # from the living room


def game(room: str, *commands: str, env_id: str = "text_nav_fo") -> TextNav:
    """A game started in `room` in which the commands were played; each must be possible."""
    env = make(env_id)
    env.reset(ROOMS.index(room))
    for command in commands:
        assert env.step(command + "\n")[4]["valid"], command
    return env


def commands_of(env: TextNav) -> tuple[str, ...]:
    return admissible_commands(view_of(env.state))


def wander(num_games: int, seed: int, env_id: str = "text_nav_fo", other: float = 0.0):
    """Games of random admissible commands, yielded in each state; `other`: the share of random words."""
    rng, env = random.Random(seed), make(env_id)
    for number in range(num_games):
        obs, _ = env.reset(number)
        over = False
        while not over:
            yield env, obs
            command = rng.choice(EVERYTHING if rng.random() < other else commands_of(env))
            obs, _, terminated, truncated, _ = env.step(command + "\n")
            over = terminated or truncated
        yield env, obs


NOUNS = [*THINGS, "table", "chest", "fridge", "kitchen", "moon"]
PAIRS = [f"{words[0]} {x} {words[1]} {y}" for words in (("take", "from"), ("put", "on"), ("insert", "into"))
         for x, y in itertools.product(NOUNS, repeat=2)]
EVERYTHING = [*(f"go {word}" for word in (*REVERSE, "up", "home")), *PAIRS,
              *(f"{verb} {x}" for verb in ("open", "close", "take", "drop", "eat", "examine") for x in NOUNS)]


# --- The house ---


def test_house():
    doors = {("bedroom", "west", "living room"), ("living room", "west", "dining room"), ("kitchen", "north", "garden"),
             ("dining room", "west", "kitchen"), ("living room", "south", "office"), ("office", "east", "bathroom"),
             ("bedroom", "south", "bathroom"), ("kitchen", "west", "backyard")}
    exits = {(room, direction, other) for room, ways in EXITS.items() for direction, other in ways.items()}
    assert exits == doors | {(other, REVERSE[direction], room) for room, direction, other in doors}
    assert len(ROOMS) == 8 and all(list(ways) == sorted(ways) for ways in EXITS.values())
    assert set(THINGS.values()) == set(HOLDERS.items())
    assert HOLDERS == {"bedroom": "table", "living room": "table", "dining room": "table", "office": "chest",
                       "kitchen": "fridge"}
    assert {thing for thing, place in THINGS.items() if place[0] == "living room"} == {"stale food", "fresh food"}
    assert [thing for thing, place in THINGS.items() if place[1] in CONTAINERS] == ["fruit", "utensils"]
    assert list(THINGS)[0] == "stale food"  # which the goal and the projection lean on


@both
def test_seeds_go_through_the_rooms(env_id):
    for first in (0, 7, *envs.SEEDS.values()):
        starts = []
        for seed in range(first, first + 16):
            env = make(env_id)
            obs, info = env.reset(seed)
            starts.append(env.state.room)
            assert starts[-1] == ROOMS[seed % 8] and obs.startswith(OBJECTIVE) and info == {
                "success": False, "valid": True}
            assert obs == make(env_id).reset(seed + 8)[0]
        assert Counter(starts) == dict.fromkeys(ROOMS, 2)


# --- Texts ---

GAME = f"""\
{OBJECTIVE}\
-= Office =-
You can see a closed chest.
There is an unblocked exit to the east. There is an unblocked exit to the north.
You are carrying nothing.
Admissible commands: go east, go north, open chest
> Open  Chest
You open the chest, revealing an utensils.
-= Office =-
You are carrying nothing.
Admissible commands: close chest, go east, go north, take utensils from chest
> take utensils
You take the utensils from the chest.
-= Office =-
You are carrying: an utensils.
Admissible commands: close chest, drop utensils, go east, go north, insert utensils into chest
> look
-= Office =-
You can see an opened chest. The chest is empty.
There is an unblocked exit to the east. There is an unblocked exit to the north.
You are carrying: an utensils.
Admissible commands: close chest, drop utensils, go east, go north, insert utensils into chest
> inventory
-= Office =-
You are carrying: an utensils.
Admissible commands: close chest, drop utensils, go east, go north, insert utensils into chest
> go north
-= Living Room =-
You can see a table. On the table you see a stale food and a fresh food.
There is an unblocked exit to the east. There is an unblocked exit to the south. There is an unblocked exit to the west.
You are carrying: an utensils.
Admissible commands: drop utensils, go east, go south, go west, put utensils on table, take fresh food from table, \
take stale food from table
> drop utensils
You drop the utensils on the ground.
-= Living Room =-
You are carrying nothing.
Admissible commands: go east, go south, go west, take fresh food from table, take stale food from table, take utensils
> dance
That's not a verb I recognise.
-= Living Room =-
You are carrying nothing.
Admissible commands: go east, go south, go west, take fresh food from table, take stale food from table, take utensils
> take stale food from table
You take the stale food from the table.
-= Living Room =-
You are carrying: a stale food.
Admissible commands: drop stale food, eat stale food, go east, go south, go west, put stale food on table, \
take fresh food from table, take utensils
> examine table
On the table you see a fresh food.
-= Living Room =-
You are carrying: a stale food.
Admissible commands: drop stale food, eat stale food, go east, go south, go west, put stale food on table, \
take fresh food from table, take utensils
> go west
-= Dining Room =-
You can see a table. On the table you see a coffee cup and a plate.
There is an unblocked exit to the east. There is an unblocked exit to the west.
You are carrying: a stale food.
Admissible commands: drop stale food, eat stale food, go east, go west, put stale food on table, \
take coffee cup from table, take plate from table
> go east
-= Living Room =-
You can see a table. On the table you see a fresh food.
There is an unblocked exit to the east. There is an unblocked exit to the south. There is an unblocked exit to the west.
There is an utensils on the floor.
You are carrying: a stale food.
Admissible commands: drop stale food, eat stale food, go east, go south, go west, put stale food on table, \
take fresh food from table, take utensils
> take utensils
You pick up the utensils from the ground.
-= Living Room =-
You are carrying: a stale food and an utensils.
Admissible commands: drop stale food, drop utensils, eat stale food, go east, go south, go west, \
put stale food on table, put utensils on table, take fresh food from table
> eat stale food
You eat the stale food. Not bad.
*** You lost! ***
-= Living Room =-
You are carrying: an utensils.
Admissible commands: drop utensils, go east, go south, go west, put utensils on table, take fresh food from table
"""


def partial(text: str) -> str:
    """What `text_nav_po` says where `text_nav_fo` says `text`."""
    return re.sub("-= .* =-\n|You are carrying.*\n", "", re.sub("> look\n[^>]*|> inventory\n[^>]*", lambda match: (
        match[0].split("\n")[0] + "\nYou can't do that.\n" + match[0].split("\n")[-2] + "\n"), text))


@both
def test_a_whole_game(env_id):
    commands = re.findall("^> (.*)", GAME, re.MULTILINE)
    env = make(env_id)
    text, seen = env.reset(ROOMS.index("office"))[0], []
    for command in commands:
        obs, reward, *ended, info = env.step(command + "\n")
        text += f"> {command}\n{obs}"
        seen.append((reward, ended, info["success"]))
    assert text == (GAME if env_id == "text_nav_fo" else partial(GAME))
    assert seen == [(0.0, [False, False], False)] * (len(commands) - 1) + [(0.0, [True, False], False)]


def test_a_whole_game_of_text_nav_po():
    env, text = make("text_nav_po"), ""
    obs, _ = env.reset(ROOMS.index("dining room"))
    for command in ["go east", "look", *PLAN[:3], "inventory", *PLAN[3:]]:
        text += f"{obs}> {command}\n"
        obs, reward, terminated, truncated, info = env.step(command + "\n")
    assert (reward, terminated, truncated, info) == (1.0, True, False, {"success": True, "valid": True})
    assert text + obs == f"""\
{OBJECTIVE}\
You can see a table. On the table you see a coffee cup and a plate.
There is an unblocked exit to the east. There is an unblocked exit to the west.
Admissible commands: go east, go west, take coffee cup from table, take plate from table
> go east
You can see a table. On the table you see a stale food and a fresh food.
There is an unblocked exit to the east. There is an unblocked exit to the south. There is an unblocked exit to the west.
Admissible commands: go east, go south, go west, take fresh food from table, take stale food from table
> look
You can't do that.
Admissible commands: go east, go south, go west, take fresh food from table, take stale food from table
> take stale food from table
You take the stale food from the table.
Admissible commands: drop stale food, eat stale food, go east, go south, go west, put stale food on table, \
take fresh food from table
> go west
You can see a table. On the table you see a coffee cup and a plate.
There is an unblocked exit to the east. There is an unblocked exit to the west.
Admissible commands: drop stale food, eat stale food, go east, go west, put stale food on table, \
take coffee cup from table, take plate from table
> go west
You can see a closed fridge.
There is an unblocked exit to the east. There is an unblocked exit to the north. There is an unblocked exit to the west.
Admissible commands: drop stale food, eat stale food, go east, go north, go west, open fridge
> inventory
You can't do that.
Admissible commands: drop stale food, eat stale food, go east, go north, go west, open fridge
> open fridge
You open the fridge, revealing a fruit.
Admissible commands: close fridge, drop stale food, eat stale food, go east, go north, go west, \
insert stale food into fridge, take fruit from fridge
> insert stale food into fridge
You put the stale food into the fridge.
Admissible commands: close fridge, go east, go north, go west, take fruit from fridge, take stale food from fridge
> close fridge
You close the fridge.
*** The End ***
Admissible commands: go east, go north, go west, open fridge
"""


def test_lists():
    assert enumerate_things(("plate",)) == "a plate"
    assert enumerate_things(("bowl", "utensils")) == "a bowl and an utensils"
    assert enumerate_things(("fruit", "bowl", "plate")) == "a fruit, a bowl and a plate"


def test_text_nav_fo_states_room_and_inventory():
    for env, obs in wander(100, seed=1, other=0.2):
        carried = [thing for thing, place in zip(THINGS, env.state.places, strict=True) if place == CARRIED]
        inventory = f"You are carrying: {enumerate_things(carried)}.\n" if carried else "You are carrying nothing.\n"
        assert obs.count(inventory) == obs.count("carrying") == 1
        assert re.findall("-= (.*) =-\n", obs) == [env.state.room.title()]


def test_text_nav_po_tells_neither_room_nor_inventory():
    """Beyond what the admissible commands give away. The objective is the same whatever the room."""
    rooms = re.compile("|".join([*ROOMS, "room", "carr", "inventor", "-=", "=-", "holding"]), re.IGNORECASE)
    for env, obs in wander(200, seed=2, env_id="text_nav_po", other=0.3):
        told = obs.removeprefix(OBJECTIVE)
        assert not rooms.search(told), told
        before = env.state
        if not env.over:
            for command in ("look", "inventory", "LOOK", " inventory "):
                turns = env.turns
                obs, reward, *ended, info = env.step(command + "\n")
                assert obs == f"You can't do that.\n{ADMISSIBLE}{', '.join(commands_of(env))}\n" and env.state == before
                assert (reward, ended[0], info) == (0.0, False, {"success": False, "valid": False})
                env.turns, env.over = turns, False


def test_text_nav_po_replies_alike_in_every_room():
    for command in ("look", "inventory", "go up", "eat moon", "take", "dance", ""):
        replies = {game(room, env_id="text_nav_po").step(f"{command}\n")[0].partition(ADMISSIBLE)[0] for room in ROOMS}
        assert len(replies) == 1


@both
def test_last_line_is_the_admissible_commands(env_id):
    lines = set()
    for env, obs in wander(100, seed=3, env_id=env_id, other=0.2):
        assert obs.endswith(f"\n{ADMISSIBLE}{', '.join(commands_of(env))}\n") and obs.count(ADMISSIBLE) == 1
        assert "\n\n" not in obs and "  " not in obs and " \n" not in obs and obs.isascii() and obs[0] != "\n"
        lines.update(obs.split("\n"))
    assert len(lines) < 1500  # sentences repeat themselves


# --- Rules ---


def test_admissible_commands_change_the_house():
    for env, _ in wander(150, seed=4):
        commands = commands_of(env)
        assert list(commands) == sorted(set(commands)) and set(commands) <= set(EVERYTHING)
        assert not any(re.search("examine|look|inventory", command) for command in commands)
        for command in commands:
            reply, behind, possible = perform(env.state, command)
            assert possible and behind != env.state and (reply or command.startswith("go "))
            # Nothing is lost, and what changes is one thing's place, one container or the room.
            assert sum(a != b for a, b in zip(env.state.places, behind.places, strict=True)) + (
                env.state.room != behind.room) + len(env.state.opened ^ behind.opened) == 1


def test_every_other_command_is_refused():
    """But for `examine`, and `take` without its `from`, which does what the admissible command does."""
    seen = Counter()
    for env, _ in itertools.islice(wander(60, seed=5), 0, None, 7):
        view = view_of(env.state)
        for command in set(EVERYTHING) - set(view_commands := admissible_commands(view)):
            reply, behind, possible = perform(env.state, command)
            verb, _, noun = command.partition(" ")
            if verb == "examine":
                there = {*view.carried, *view.floor, *view.contents, view.holder}
                assert behind is env.state and possible == (noun in there)
            elif verb == "take" and noun in view.contents:
                full = f"{command} from {view.holder}"
                assert full in view_commands and perform(env.state, full) == (reply, behind, possible)
            else:
                assert behind is env.state and not possible and reply.count("\n") == 1, command
            seen[reply] += 1
    assert len(seen) > 60


# Each as TextWorld's interpreter answers it; in the kitchen, with the fridge closed or open.
READY = "take stale food from table", "take fresh food from table", "go west", "take plate", "go west"
REFUSALS = [
    ("go south", "You can't go that way."), ("go up", "You can't go that way."),
    ("go home", "You can't see any such thing."), ("take kitchen", "You can't see any such thing."),
    ("open fresh food", "It isn't something you can open."), ("close plate", "It isn't something you can close."),
    ("close fridge", "That's already closed."), ("open chest", "You can't see any such thing."),
    ("take plate", "You already have that."), ("take fridge", "That's fixed in place."),
    ("take fruit", "You can't see any such thing."), ("take fruit from fridge", "You can't see any such thing."),
    ("take plate from fridge", "You can't see any such thing."), ("drop fridge", "The fridge is already here."),
    ("drop bowl", "You can't see any such thing."), ("eat plate", "That's plainly inedible."),
    ("eat fridge", "That's plainly inedible."), ("eat fruit", "You can't see any such thing."),
    ("put plate on plate", "You can't put something on top of itself."),
    ("put plate on fridge", "Putting things on the fridge would achieve nothing."),
    ("put plate on stale food", "Putting things on the stale food would achieve nothing."),
    ("put fridge on plate", "The fridge is fixed in place."), ("put plate on table", "You can't see any such thing."),
    ("insert plate into plate", "You can't put something inside itself."),
    ("insert plate into stale food", "That can't contain things."),
    ("insert fridge into fridge", "The fridge is fixed in place."),
    ("insert plate into fridge", "The fridge is closed."), ("examine fruit", "You can't see any such thing."),
    ("examine kitchen", "You can't see any such thing."), ("dance", "That's not a verb I recognise."),
    ("", "I beg your pardon?"), ("open", "I didn't understand that sentence."),
    ("put plate", "I didn't understand that sentence."), ("go", "I didn't understand that sentence."),
]
REFUSALS_OPEN = [
    ("open fridge", "That's already open."), ("drop fruit", "You haven't got that."),
    ("eat fruit", "You need to take the fruit first."), ("put fruit on plate", "You need to take the fruit first."),
    ("insert fruit into fridge", "You need to take the fruit first."),
    ("take fruit from plate", "You can't see any such thing."), ("drop fresh food", "The fresh food is already here."),
    ("eat fresh food", "You need to take the fresh food first."),
    ("take fresh food from fridge", "You can't see any such thing."),
]


@both
@pytest.mark.parametrize(("command", "reply", "opened"), [(*row, False) for row in REFUSALS] +
                         [(*row, True) for row in REFUSALS_OPEN])
def test_refusals(env_id, command, reply, opened):
    env = game("living room", *READY, *["open fridge", "drop fresh food"] * opened, env_id=env_id)
    before, turns = env.state, env.turns
    obs, *rest = env.step(command + "\n")
    assert obs.startswith(reply + "\n") and env.state is before and env.turns == turns + 1
    assert rest == [0.0, False, False, {"success": False, "valid": False}]


@both
def test_a_closed_container_keeps_its_things(env_id):
    env = game("office", env_id=env_id)
    for command in ("take utensils", "take utensils from chest", "examine utensils"):
        assert env.step(command + "\n")[0].startswith("You can't see any such thing.\n")
    assert "utensils" not in env.step("examine chest\n")[0]
    assert "utensils" in env.step("open chest\n")[0] and env.step("take utensils from chest\n")[4]["valid"]


def test_examine():
    env = game("living room", "take stale food", "go west", "go west")
    answers = [env.step(f"{command}\n")[0].split("\n")[0] for command in (
        "examine stale food", "examine fridge", "open fridge", "examine fridge", "take fruit", "examine fridge")]
    assert answers == ["That's an ordinary stale food!", "The fridge is closed.",
                       "You open the fridge, revealing a fruit.", "The fridge contains a fruit.",
                       "You take the fruit from the fridge.", "The fridge is empty."]
    assert env.step("close fridge\n")[4]["valid"] and env.step("open fridge\n")[0].startswith("You open the fridge.\n")


@both
@pytest.mark.parametrize("eaten", ["fresh food", "fruit"])
def test_other_food_is_harmless(env_id, eaten):
    env = game("living room", "take fresh food", *PLAN[1:4], "take fruit", env_id=env_id)
    assert env.step(f"eat {eaten}\n")[1:] == (0.0, False, False, {"success": False, "valid": True})
    assert EATEN in env.state.places and env.step(f"take {eaten}\n")[0].startswith("You can't see any such thing.\n")


@both
def test_eating_the_stale_food_ends_the_game(env_id):
    env = game("living room", "take stale food", env_id=env_id)
    obs, *rest = env.step("eat stale food\n")
    assert rest == [0.0, True, False, {"success": False, "valid": True}] and "*** You lost! ***\n" in obs
    with pytest.raises(RuntimeError):
        env.step("look\n")
    assert env.reset(1)[0] == make(env_id).reset(1)[0] and env.step(PLAN[0] + "\n")[4]["valid"]


@both
def test_winning(env_id):
    env = game("living room", *PLAN[:-1], env_id=env_id)
    assert env.step("go east\n")[1:] == env.step("go west\n")[1:] == (0.0, False, False,
                                                                      {"success": False, "valid": True})
    obs, *rest = env.step("close fridge\n")
    assert rest == [1.0, True, False, {"success": True, "valid": True}] and "*** The End ***\n" in obs
    with pytest.raises(RuntimeError):
        env.step("look\n")


def test_only_the_fridge_with_the_stale_food_wins():
    env = game("living room", "take fresh food", *PLAN[1:4], "insert fresh food into fridge", "close fridge",
               "open fridge", "go east", "go east", "take stale food", "go south", "open chest",
               "insert stale food into chest", "close chest", "go north", "go west", "go west", "close fridge")
    assert not env.over and env.state.room == "kitchen"


@both
@pytest.mark.parametrize("command", ["?", "look", "open chest", "examine chest"])
def test_truncated_after_50_turns(env_id, command):
    env = game("office", env_id=env_id)
    steps = [env.step(f"{command}\n") for _ in range(50)]
    assert [step[1:4] for step in steps] == [(0.0, False, False)] * 49 + [(0.0, False, True)]
    assert not steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step("look\n")


@both
@pytest.mark.parametrize(("last", "reward"), [("close fridge", 1.0), ("eat stale food", 0.0)])
def test_an_end_in_the_last_turn(env_id, last, reward):
    env = game("living room", *PLAN[:4], *["insert stale food into fridge"] * int(reward), env_id=env_id)
    while env.turns < 49:
        env.step("wait\n")
    assert env.step(last + "\n")[1:4] == (reward, True, False)


@both
def test_case_and_spaces(env_id):
    for written in ("go  west\n", "GO WEST\n", " Go\tWest \n", "go west\r\n", "go west\n\n", "go\nwest\n"):
        assert game("living room", env_id=env_id).step(written) == game("living room", env_id=env_id).step("go west\n")


@both
@pytest.mark.parametrize("action", ["", "go west", "look", "go west…\n", "go westgo west\n", "go west\ngo west\n",
                                    "go\n", "west\n", "> go west\n", "go west.\n", "\0", "\ud800\n"])
def test_invalid_action_costs_a_turn_and_changes_nothing(env_id, action):
    """One that was cut off before its newline too: it might have become another."""
    env = game("living room", env_id=env_id)
    before = env.state
    _, *rest = env.step(action)
    assert rest == [0.0, False, False, {"success": False, "valid": False}]
    assert env.state is before and env.turns == 1


WORDS = ["go", "take", "put", "insert", "from", "on", "into", "open", "close", "eat", "look", "\n", *NOUNS, *REVERSE]
NEARLY = st.one_of(st.text(), st.sampled_from(EVERYTHING).map(lambda command: command + "\n"),
                   st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: " ".join(words) + "\n"))


@given(st.lists(NEARLY, min_size=1, max_size=60), st.integers(), st.sampled_from(BOTH))
@settings(max_examples=150, deadline=None)
def test_any_text_is_answered(actions, seed, env_id):
    env = make(env_id)
    env.reset(seed)
    for turn, action in enumerate(actions, 1):
        before, commands = env.state, commands_of(env)
        obs, reward, terminated, truncated, info = env.step(action)
        assert obs.endswith(f"\n{ADMISSIBLE}{', '.join(commands_of(env))}\n") and obs[0] != "\n"
        if action[:-1] in commands and action.endswith("\n"):
            assert info["valid"] and env.state != before
        elif not re.fullmatch(r"\s*take\s+.*", action, re.IGNORECASE | re.DOTALL):
            assert env.state == before or " ".join(action.lower().split()) in commands
        assert reward == (1.0 if info["success"] else 0.0) and truncated == (turn == 50 and not terminated)
        if terminated or truncated:
            break


@pytest.mark.filterwarnings("error")
@both
def test_gymnasium_checker(env_id):
    check_with_gymnasium(env_id)


@both
def test_speed(env_id):
    """Of random admissible commands, their choice included; in CPU time, since the machine may be busy."""
    env, best = make(env_id), 0.0
    for attempt in range(3):  # the best of three: the machine may be busy
        turns, rng, begin = 0, random.Random(attempt), time.process_time()
        for seed in range(100):
            env.reset(seed)
            while not env.over:
                env.step(rng.choice(commands_of(env)) + "\n")
                turns += 1
        best = max(best, turns / (time.process_time() - begin))
    assert best > 20_000


# --- TextWorld ---


def build_with_textworld(folder: Path, room: str) -> str:
    """The same house, built and compiled by TextWorld; returns the game's file."""
    from textworld import GameMaker, GameOptions
    from textworld.generator.game import Event, Quest

    options = GameOptions()
    options.seeds, options.path, options.force_recompile = 1, str(folder / f"{ROOMS.index(room)}.z8"), True
    maker = GameMaker(options)
    rooms = {name: maker.new_room(name) for name in ROOMS}
    for name, exits in EXITS.items():
        for direction in {"north", "west"} & set(exits):
            maker.connect(getattr(rooms[name], direction), getattr(rooms[exits[direction]], REVERSE[direction]))
    holders = {}
    for name, holder in HOLDERS.items():
        holders[name] = maker.new(type="c" if holder in CONTAINERS else "s", name=holder)
        rooms[name].add(holders[name])
        if holder in CONTAINERS:
            holders[name].add_property("closed")
    for thing, (name, _) in THINGS.items():
        made = maker.new(type="f" if thing in ("stale food", "fresh food", "fruit") else "o", name=thing)
        holders[name].add(made)
        if thing == "stale food":
            stale_food = made
    maker.set_player(rooms[room])
    win = Event(conditions={maker.new_fact("in", stale_food, holders["kitchen"]),
                            maker.new_fact("closed", holders["kitchen"])})
    maker.quests = [Quest(win_events=[win], fail_events=[Event(conditions={maker.new_fact("eaten", stale_food)})],
                          reward=1)]
    maker.quests[0].desc = OBJECTIVE
    return maker.compile(options.path)


def gist(command: str, text: str) -> list[str]:
    """The reply's words, sorted since TextWorld lists things in another order.

    Of descriptions, whose sentences TextWorld varies: the room, and the things and exits that are named.
    """
    text = re.split(rf"\n>|{ADMISSIBLE}", text)[0].strip()
    first = text.partition("\n")[0]
    if command == "inventory":
        first = re.search("You are carrying.*", text)[0]
    elif first.startswith("-= "):
        text = text.partition("You are carrying")[0]
        return [first, *(name for name in (*THINGS, *REVERSE) if re.search(rf"\b{name}\b", text))]
    elif command.startswith("examine ") and "can't see any such" not in first:
        text = text.partition("-= ")[0]
        return [name for name in THINGS if name in text and name not in command]
    return sorted(re.findall(r"[\w']+", first))


@pytest.mark.parametrize("room", ROOMS)
def test_equals_textworld(room, tmp_path, num_games=40):
    """Random commands in TextWorld and here, most of them admissible: the same commands, replies, score and end."""
    textworld = pytest.importorskip("textworld", reason="textworld is not installed (pip install textworld)")
    infos = textworld.EnvInfos(admissible_commands=True, score=True, won=True, lost=True)
    theirs = textworld.start(build_with_textworld(tmp_path, room), infos)
    ours, rng, counts = make("text_nav_fo"), random.Random(room), Counter()
    for _ in range(num_games):
        state, obs, over = theirs.reset(), ours.reset(ROOMS.index(room))[0], False
        skill = rng.choice([0.0, 0.5, 0.9])
        counts["games"] += 1
        while not over:
            commands = commands_of(ours)
            assert sorted(command for command in state.admissible_commands
                          if not re.match("examine|look|inventory", command)) == list(commands)
            also = [command for command in state.admissible_commands if command not in commands]
            if rng.random() < 0.3:
                command = rng.choice(EVERYTHING + also * 20)
            else:
                command = next_command(project(ours.state)) if rng.random() < skill else rng.choice(commands)
            before = ours.state
            state, _, done = theirs.step(command)
            obs, reward, terminated, truncated, info = ours.step(command + "\n")
            assert (state.score, state.won, state.lost, done) == (reward, info["success"], terminated and not reward,
                                                                  terminated), (command, state.feedback)
            assert info["valid"] or (ours.state is before and command not in also)
            assert gist(command, state.feedback) == gist(command, obs), (command, state.feedback, obs)
            counts["steps"] += 1
            counts["refused"] += not info["valid"]
            counts["won"] += info["success"]
            counts["lost"] += terminated and not info["success"]
            over = terminated or truncated
    theirs.close()
    print(room, dict(counts))
    assert counts["steps"] > 10 * num_games and counts["won"] and counts["lost"]


# --- Players and reference returns ---


def test_shortest_plans():
    moves = {"living room": 6, "bedroom": 7, "dining room": 7, "office": 7, "kitchen": 8, "bathroom": 8, "garden": 9,
             "backyard": 9}
    for env_id in BOTH:
        env = make(env_id)
        for seed, room in enumerate(ROOMS):
            plan = play(env, env.players()["best"], seed)
            assert plan.success and plan.terminated and len(plan.rewards) == moves[room] == distances()[
                project(game(room).state)]


def test_plans_are_shortest_from_anywhere():
    """In any house, no command is nearer to the goal by more than one, and the plan's by one."""
    num_lost = 0
    for env, _ in wander(150, seed=6):
        here = distances().get(project(env.state))
        if env.over or here is None:
            num_lost += here is None
            continue
        behind = {command: distances().get(project(perform(env.state, command)[1]), 99) for command in commands_of(env)}
        assert min(behind.values()) == here - 1 == behind[next_command(project(env.state))]
        assert next_command(project(env.state)) == min(c for c in behind if behind[c] == here - 1)
    assert num_lost > 0 and all(state.places[0] != EATEN for state in distances())


def test_reference_returns():
    env = make("text_nav_fo")
    assert env.best == env.best_return() == 1 and env.worst == env.worst_return() == 0
    assert [env.score(r) for r in (0, env.data, 1)] == [0, 50, 100] == [env.paper_score(r) for r in (0, 0.26, 1)]
    env, num_games = make("text_nav_po"), 3000
    mean = statistics.mean(play(env, env.players()["data"], seed).episodic_return for seed in range(num_games))
    assert mean == pytest.approx(env.data, abs=4 * (env.data * (1 - env.data) / num_games) ** 0.5)


def test_data_player_is_at_home_in_one_half():
    assert set.union(*KNOWN_ROOMS) == set(ROOMS) and not set.intersection(*KNOWN_ROOMS)
    env, rng, optimal, num_turns, homes = make("text_nav_fo"), random.Random(0), Counter(), Counter(), Counter()
    player, expected = env.players()["data"], Counter()
    for seed in range(400):
        env.reset(seed)
        while not env.over:
            action = player(env, rng)
            if env.turns == 0:
                homes[min(env.known_rooms)] += 1
            known, share = env.state.room in env.known_rooms, 1 / len(commands_of(env))
            best = action == next_command(project(env.state)) + "\n"
            assert action[:-1] in commands_of(env)
            expected[known] += 0.75 + 0.25 * share if known else share
            optimal[known] += best
            num_turns[known] += 1
            env.step(action)
    for known in (False, True):
        assert abs(optimal[known] - expected[known]) < 4 * (num_turns[known] / 4) ** 0.5
    assert homes["bedroom"] + homes["backyard"] == 400 and abs(homes["bedroom"] - 200) < 50


# --- Data ---


@pytest.fixture(scope="module")
def data():
    return {env_id: list(make(env_id).generate(5000, 0)) for env_id in BOTH}


@both
def test_data_is_like_the_papers(data, env_id):
    lengths = [len(t.rewards) for t in data[env_id]]
    assert statistics.mean(t.success for t in data[env_id]) == pytest.approx(0.255, abs=0.02)
    assert statistics.mean(lengths) == pytest.approx(12.5, abs=0.4)
    assert statistics.pstdev(lengths) == pytest.approx(8.7, abs=0.4)
    assert max(lengths) == 50 and min(lengths) == 2 and TextNav.num_trajectories == 2500


@both
def test_data_replays(data, env_id):
    env, starts, ends = make(env_id), Counter(), Counter()
    for trajectory in data[env_id]:
        number = next(number for number in range(8) if env.reset(number)[0] == trajectory.texts[0])
        env.reset(number)
        starts[ROOMS[number]] += 1
        steps = [env.step(action) for action in trajectory.texts[1::2]]
        assert [step[0] for step in steps] == trajectory.texts[2::2] and env.recognises(trajectory)
        assert [step[1] for step in steps] == trajectory.rewards and all(step[4]["valid"] for step in steps)
        assert not any(step[2] or step[3] for step in steps[:-1])
        assert trajectory.terminated == steps[-1][2] and trajectory.success == steps[-1][4]["success"]
        ends["won" if trajectory.success else "lost" if trajectory.terminated else len(steps)] += 1
    assert set(starts) == set(ROOMS) and max(starts.values()) < 750  # 625 expected
    assert min(end for end in ends if isinstance(end, int)) == 5  # no game is cut before
    assert ends["lost"] > 500 and ends[50] > 50


def test_cuts(data):
    """Of what goes on, a share of 1 - exp(-1/14) is cut in each turn from the fifth on."""
    lengths = [(len(t.rewards), not t.terminated) for t in data["text_nav_fo"]]
    at_risk = [length for length, _ in lengths if 5 <= length < 50]
    turns = sum(length - 4 for length in at_risk) + 45 * sum(length == 50 for length, _ in lengths)
    cuts = sum(cut for length, cut in lengths if 5 <= length < 50)
    # A game that ends in a turn by the rules is not cut in it: those turns are no trials.
    trials = turns - sum(not cut for length, cut in lengths if 5 <= length < 50)
    assert cuts / trials == pytest.approx(1 - 2.718281828 ** (-1 / 14), abs=0.004)


@pytest.mark.parametrize(("env_id", "pinned"), [
    ("text_nav_fo", "3f24a6bc538f35f6e953a24b70160ebfad7d73571d2678d78a253c558e3c6f94"),
    ("text_nav_po", "4dc7ec67569f4fd3683e70902e920b7272d3a512cefb2195c14ba497546de386")])
def test_data_is_pinned(data, env_id, pinned):
    lines = "\n".join(json.dumps(asdict(trajectory)) for trajectory in data[env_id][:100])
    assert hashlib.sha256(lines.encode()).hexdigest() == pinned
    assert data[env_id][:50] == list(make(env_id).generate(50, 0)) != list(make(env_id).generate(50, 1))


def test_variants_have_the_same_games(data):
    for full, part in zip(data["text_nav_fo"], data["text_nav_po"], strict=True):
        assert full.texts[1::2] == part.texts[1::2] and full.rewards == part.rewards
        assert [partial(text) for text in full.texts[::2]] == part.texts[::2]


def test_data_streams_and_leaves_the_game_alone():
    env = game("living room", "take stale food")
    before = env.state
    assert len(list(itertools.islice(env.generate(10**12, 0), 3))) == 3
    assert (env.state, env.turns, env.over, env.known_rooms) == (before, 1, False, set())


# --- Files ---

# As the original release writes them: without newlines at the end, with `dones` set wherever a game stops.
FO = {"text_history": ["Your objective is …\n\nA kitchen.\n\n>\nAdmissible commands: go east, open fridge", "go east",
                       "A dining room.\n\nYou are carrying nothing.\n\nAdmissible commands: go west", "go west",
                       "A kitchen.\n\nYou are carrying: a bowl.\n\nAdmissible commands: go east"],
      "rewards": [0, 1], "dones": [False, True]}
PO = FO | {"text_history": [re.sub("You are carrying.*\n\n", "", text) for text in FO["text_history"]]}


def read(path: Path, env_id: str, *records):
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records) + "\n")
    return list(load_dataset(make(env_id), str(path)))


@pytest.mark.parametrize(("env_id", "record"), [("text_nav_fo", FO), ("text_nav_po", PO)])
def test_original_format(tmp_path, env_id, record):
    texts = record["text_history"]
    per_text = record | {"rewards": [0, 0, 0, 1, 0], "dones": [False] * 4 + [True]}
    with_newlines = record | {"text_history": [text + "\n" for text in texts]}
    cut_off = record | {"rewards": [0, 0]}
    lost = cut_off | {"text_history": [*texts[:4], "*** You lost! ***\n\n" + texts[4]]}
    without_last_obs = record | {"text_history": texts[:4]}
    games = read(tmp_path / "file.jsonl", env_id, record, per_text, with_newlines, cut_off, lost, without_last_obs)
    assert games[0] == games[1] == games[2] == envs.Trajectory([text + "\n" for text in texts], [0.0, 1.0], True, True)
    assert [(t.terminated, t.success) for t in games[3:]] == [(False, False), (True, False), (True, True)]
    assert len(games[5].texts) == 4
    assert read(tmp_path / "file.json", env_id, json.dumps([record, cut_off], indent=1)) == [games[0], games[3]]


@pytest.mark.parametrize(("bad", "what"), [
    ("{not json", "not JSON"),
    (FO | {"rewards": [0]}, "one reward per action"),
    (FO | {"rewards": []}, "something else"),
    ({"text_history": FO["text_history"], "dones": [True]}, "no 'rewards'"),
    (FO | {"text_history": [*FO["text_history"][:4], "You are carrying nothing."]}, "observation"),
    (FO | {"text_history": ["Admissible commands: go east\nWordle:", *FO["text_history"][1:]]}, "observation"),
    (PO, "observation that is not one of text_nav_fo"),
    ("[7]", "something else"),
    (FO | {"rewards": [0, float("nan")]}, "NaN instead of a finite number"),
    (FO | {"rewards": [0, True]}, "the reward True instead of a finite number"),
    (FO | {"text_history": [FO["text_history"][0], "go east\nlook", *FO["text_history"][2:]]}, "instead of one line"),
    (FO | {"text_history": [FO["text_history"][0], "go\rwest", *FO["text_history"][2:]]}, "carriage return"),
])
def test_bad_line_is_named(tmp_path, bad, what):
    with pytest.raises(ValueError, match=rf"file\.jsonl, line 2: expected a text_nav_fo trajectory, found .*{what}"):
        read(tmp_path / "file.jsonl", "text_nav_fo", FO, bad)


def test_variants_are_told_apart(tmp_path, data):
    with pytest.raises(ValueError, match="line 1: expected a text_nav_po trajectory, found an observation"):
        read(tmp_path / "file.jsonl", "text_nav_po", FO)
    for trajectories, (env_id, other) in zip(data.values(), (BOTH, BOTH[::-1]), strict=True):
        assert all(make(env_id).recognises(t) and not make(other).recognises(t) for t in trajectories[:200])


def test_no_options():
    with pytest.raises(ValueError, match="text_nav_fo has no option 'rooms'"):
        make("text_nav_fo", rooms="9")


# --- Terminal ---


def test_terminal():
    command = [sys.executable, "-m", "envs.text_nav", "--env-id", "text_nav_po", "--seed", "1"]
    text = "".join(f"{command}\n" for command in ["take moon", *PLAN])
    typed = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, encoding="utf-8", timeout=60)
    assert typed.returncode == 0 and typed.stdout.startswith(OBJECTIVE), typed.stderr
    assert "> You can't see any such thing.\n" in typed.stdout
    assert typed.stdout.endswith("\nreturn 1 in 7 turns, score 100.0, success\n")


def test_render():
    assert make("text_nav_fo").render("-= Living Room =-\nAdmissible commands: go west\n") == (
        "\033[1m-= Living Room =-\033[0m\n\033[90mAdmissible commands: \033[0mgo west\n")
