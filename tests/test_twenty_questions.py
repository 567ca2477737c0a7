"""Twenty Questions: the table of properties, how questions are read, guesses, data, players, oracles, files."""

import hashlib
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import time
import types
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from math import log2
from pathlib import Path

import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_twenty_questions import measure

import envs
from envs import make, play
from envs.data import load_dataset
from envs.twenty_questions import ASKED, EVERYTHING, NO, OBJECTS, UNSURE, YES, best_question, mean_return, read_answer
from envs.twenty_questions.language import normalise, singular, stem
from envs.twenty_questions.matcher import MAX_LENGTH, NOT_UNDERSTOOD, Reading, read_question
from envs.twenty_questions.spelling import correct
from envs.twenty_questions.tables import TOLERANCE, lines_of, load_measures, load_properties, split

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
WORDNET = Path("/usr/share/wordnet")
NUMBERS = {thing.names[0].lower(): number for number, thing in enumerate(OBJECTS)}
PROPERTIES = {thing.name: thing for thing in load_properties()}
BANK = [question for thing in ASKED for question in thing.questions]


def answer(question: str, thing: str) -> bool | None:
    """Yes or no; None: not sure."""
    reading = read_question(question + "\n")
    number = NUMBERS[thing]
    return True if reading.yes >> number & 1 else False if reading.no >> number & 1 else None


def exactly(yes: int, guess: int = -1) -> Reading:
    """Yes for these objects and no for the others."""
    return Reading(yes, EVERYTHING & ~yes, guess)


def game(thing: str, **options: str):
    env = make("twenty_questions", **options)
    env.reset(NUMBERS[thing])
    return env


# --- Tables ---

CATEGORIES = {"sports": 10, "animals": 10, "fruits": 10, "vehicles": 10, "clothes": 11, "electronics": 10,
              "instruments": 10, "furniture": 10, "office": 14, "vegetables": 10, "art": 7, "kitchen": 10,
              "nature": 11, "toys": 5, "jewelry": 9, "garden": 5, "tools": 6}


def test_objects():
    assert Counter(thing.category for thing in OBJECTS) == CATEGORIES and len(OBJECTS) == 158 == len(NUMBERS)
    names = [name.lower() for thing in OBJECTS for name in thing.names + thing.other_names + thing.kinds]
    assert len(names) == len(set(names)) and len([name for thing in OBJECTS for name in thing.names]) == 201
    assert OBJECTS[NUMBERS["pan"]].names == ("Pan", "Saucepan", "Frying pan")
    assert OBJECTS[NUMBERS["scissors"]].phrase == "a pair of scissors" and OBJECTS[0].phrase == "a basketball"


def test_properties():
    """Each asked one says something, and says it in a few wordings that no other has."""
    assert len(ASKED) >= 150 and len(BANK) == len(set(BANK)) and len(PROPERTIES) == len(load_properties())
    for thing in ASKED:
        assert 3 <= len(thing.questions) <= 8 and 0 < thing.mask < EVERYTHING, thing.name
        assert all(question[0].isupper() and question.isascii() and question.endswith("?")
                   for question in thing.questions), thing.name


def test_every_pair_of_objects_is_told_apart():
    columns = {tuple(thing.mask >> number & 1 for thing in ASKED) for number in range(len(OBJECTS))}
    assert len(columns) == len(OBJECTS)


# Worked out one by one, on objects that are easily got wrong.
FACTS = {
    "elephant": ("alive animal herbivore tusks tail bigger_than_car", "fur predator farm paws lift manmade"),
    "tomato": ("vegetable food red seeds salad", "fruit animal alive manmade electric"),
    "watch": ("worn metal time wrist jewelry", "electric battery_powered women clothing"),
    "lawn mower": ("garden engine wheels cuts_grass", "vehicle electric lift home pocket"),
    "meteorite": ("space stone nature natural", "manmade alive place plant"),
    "cactus": ("alive plant prickly desert green", "food soft home animal"),
    "helmet": ("sports worn head protects", "ball clothing jewelry"),
    "battery": ("stores_power pocket metal", "electric screen plug food"),
    "kite": ("toy flies wind strings", "vehicle alive engine instrument"),
    "canvas": ("art blank cloth", "artwork worn food paints"),
    "pillow": ("sleeping soft white under_head", "furniture wood worn sitting"),
    "chopstick": ("eat_with pairs wood asia", "metal prongs furniture worn"),
    "ocean": ("water salty place atlantic", "flows alive manmade lift"),
    "sea": ("water salty place", "atlantic flows alive manmade"),
}


@pytest.mark.parametrize("thing", FACTS)
def test_facts(thing):
    true, false = (names.split() for names in FACTS[thing])
    for name in true + false:
        assert bool(PROPERTIES[name].mask >> NUMBERS[thing] & 1) == (name in true), name


def test_every_question_of_the_bank_is_answered_by_the_table():
    for thing in ASKED:
        for question in thing.questions:
            assert read_question(question + "\n") == exactly(thing.mask), question
            assert read_question(question.upper() + "\n").yes == thing.mask
            assert read_question(f"So, {question}\n").yes == thing.mask, question
    env = game("dog")
    for thing in ASKED[:60]:
        env.reset(NUMBERS["dog"])
        assert env.step(thing.questions[0] + "\n")[0] == (YES if thing.mask >> NUMBERS["dog"] & 1 else NO)


# Questions that are false of some object that the property is for, or true of another: they are no wordings of it.
FALSE_WORDINGS = """\
Could it kill a person? Does it float on water? Is it worn outdoors in winter? Does it keep you warm outdoors? Can
it fly through the air? Do people throw away its peel? Does it cover the ankle? Does it have to be sharpened? Do you
sit on it? Does it tell the time? Is it used to play games? Do athletes use it? Could you lift it with one hand? Is
it a garden tool? Could it hold a quart of water? Is it used to put food in your mouth? Does it have a handle? Is it
round?"""


def test_no_wording_is_false_of_an_object():
    wordings = {f"{question}?" for question in split(" ".join(FALSE_WORDINGS.split("\n")), "?")}
    assert len(wordings) == 18 and not wordings & set(BANK)


# --- WordNet ---


@cache
def noun_index() -> dict[str, list[int]]:
    """{lemma: offsets of its senses} of WordNet's nouns."""
    index = {}
    for line in (WORDNET / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            lemma, _, num_senses, num_pointers, *fields = line.split()
            index[lemma] = list(map(int, fields[int(num_pointers) + 2 :][: int(num_senses)]))
    return index


@cache
def noun_data() -> bytes:
    return (WORDNET / "data.noun").read_bytes()


@cache
def hypernyms(offset: int) -> frozenset[int]:
    """A synset with all above it."""
    fields = noun_data()[offset : noun_data().index(b"\n", offset)].decode().split(" | ")[0].split()
    place = 4 + 2 * int(fields[3], 16)
    pointers = [fields[place + 1 + 4 * i : place + 3 + 4 * i] for i in range(int(fields[place]))]
    above = [hypernyms(int(to)) for kind, to in pointers if kind in ("@", "@i")]
    return frozenset({offset}).union(*above)


def synset(name: str) -> int:
    lemma, _, number = name.partition("#")
    return noun_index()[lemma][int(number or 1) - 1]


@pytest.mark.skipif(not (WORDNET / "data.noun").exists(), reason="no WordNet: apt-get install wordnet-base")
def test_agrees_with_wordnet():
    """On what kind of thing each object is; the table of exceptions is complete, and has a reason for each."""
    senses, kinds, exceptions = {}, {}, set()
    for line in lines_of(HERE / "twenty_questions_wordnet.txt"):
        key, _, text = line.partition(": ")
        if key == "sense":
            senses |= dict(pair.split(" = ") for pair in split(text))
        elif key == "kind":
            name, _, synsets = text.partition(" = ")
            kinds[name] = set(map(synset, split(synsets)))
        else:
            names, things, reason = text.split(": ")
            exceptions |= set(itertools.product(split(names, ","), split(things, ",")))
            assert key == "except" and len(reason) > 10
    differing = set()
    for name, above in kinds.items():
        for thing, number in NUMBERS.items():
            found = hypernyms(synset(senses.get(thing, thing.replace(" ", "_"))))
            if bool(found & above) != bool(PROPERTIES[name].mask >> number & 1):
                differing.add((name, thing))
    assert len(kinds) >= 30 and differing == exceptions
    assert 1 - len(differing) / (len(kinds) * len(OBJECTS)) >= 0.99


# --- Questions in people's words ---


def asked_by_people() -> list[tuple[str, list[str], list[str]]]:
    lines = lines_of(HERE / "twenty_questions_asked.txt")
    return [(question.strip(), split(yes, ","), split(no, ",")) for question, yes, no in
            (line.split("|") for line in lines)]


@pytest.mark.parametrize("half", ["tuned", "held out"])
def test_questions_of_people(half):
    """At least 90 % are understood, and of those 95 % are answered right for all the objects noted with them."""
    questions = asked_by_people()
    assert len(questions) >= 300 and not {question for question, _, _ in questions} & set(BANK)
    questions = questions[half == "held out" :: 2]
    understood = [case for case in questions if read_question(case[0] + "\n").understood]
    right = [case for case in understood if all(answer(case[0], thing) for thing in case[1])
             and not any(answer(case[0], thing) for thing in case[2])]
    assert len(understood) >= 0.9 * len(questions), len(understood) / len(questions)
    assert len(right) >= 0.95 * len(understood), len(right) / len(understood)


@pytest.mark.parametrize(("question", "opposite"), [
    ("Is it an animal?", "Is it not an animal?"),
    ("Is it an animal?", "It isn't an animal?"),
    ("Is it an animal?", "It's not an animal, is it?"),
    ("Is it an animal?", "Is it anything but an animal?"),
    ("Is it an animal?", "Is it something that isn't an animal?"),
    ("Does it have wheels?", "Does it not have wheels?"),
    ("Does it have wheels?", "Is it something without wheels?"),
    ("Does it have wheels?", "Does it lack wheels?"),
    ("Can it fly?", "Is it unable to fly?"),
    ("Is it alive?", "Is it inanimate?"),
    ("Is it food?", "Is it inedible?"),
    ("Is it a fruit or a vegetable?", "Is it not a fruit or a vegetable?"),
    ("Is it a fruit or a vegetable?", "Is it neither a fruit nor a vegetable?"),
    ("Is it a dog?", "Is it not a dog?"),
    ("Is it a dog?", "It is something other than a dog?"),
])
def test_negation(question, opposite):
    first, second = read_question(question + "\n"), read_question(opposite + "\n")
    assert first.understood and (second.yes, second.no, second.guess) == (first.no, first.yes, -1)


@pytest.mark.parametrize(("question", "same"), [
    ("Is it an animal?", "Isn't it an animal?"), ("Is it an animal?", "It's an animal, isn't it?"),
    ("Is it an animal?", "isnt it a animal"), ("Is it an animal?", "It is an animal, right?"),
    ("Is it an animal?", "Ìs ít an ANIMAL!?"), ("Is it an animal?", "Is it an animal or not?"),
    ("Can it fly?", "It can fly, can't it?"), ("Can it fly?", "Can't it fly?"),
    ("Is it an animal?", "It isn't not an animal?"), ("Is it a dog?", "Isn’t it a dog?"),
])
def test_no_negation(question, same):
    assert read_question(question + "\n") == read_question(same + "\n")


def mask(name: str) -> int:
    return PROPERTIES[name].mask


@pytest.mark.parametrize(("question", "expected"), [
    ("Is it a fruit or a vegetable?", mask("fruit") | mask("vegetable")),
    ("Is it a toy, a tool or a vehicle?", None),
    ("Is it a tool, or is it a kitchen utensil?", mask("tool") | mask("kitchen_tool")),
    ("Is it a green vegetable?", mask("green") & mask("vegetable")),
    ("Is it a wooden musical instrument?", mask("wood") & mask("instrument")),
    ("Is it an animal that is not a pet?", mask("animal") & ~mask("pet")),
    ("Is it an animal but not a mammal?", 0),
    ("Is it food but not a fruit?", mask("food") & ~mask("fruit")),
    ("Does it have fur and a tail?", mask("fur") & mask("tail")),
    ("Is it a cat, a dog or a horse?", sum(1 << NUMBERS[name] for name in ("cat", "dog", "horse"))),
    ("Is it orange?", mask("orange_color")),
    ("Is it indoors?", mask("indoors_typical")),
    ("Is it an animal bigger than a dog?", sum(1 << NUMBERS[name] for name in (
        "horse", "cow", "lion", "tiger", "bear", "elephant", "sheep"))),
    ("I think it is an animal. Does it bark?", mask("barks")),
])
def test_combinations(question, expected):
    reading = read_question(question + "\n")
    assert reading.guess == -1 and (expected is None or reading.yes == expected)


@pytest.mark.parametrize("text", ["", "?", "\n", "bla bla", "What is it?", "What color is it?", "Where do you find it?",
                                  "12345", "犬ですか", "Is it a doohickey?",
                                  "the of and", "Is it alive" * 100, "yes", "or or or", "not", "not not", "#1",
                                  "Is it a #1?", "Is it bigger than a quokka?", "Is it bigger than a flurp?",
                                  "Is it bigger than a sweet red fruit?"])
def test_not_understood(text):
    assert read_question(text + "\n") == NOT_UNDERSTOOD and not read_question(text).understood
    env = game("dog")
    obs, reward, *ended, info = env.step(text + "\n")
    assert (obs, reward, ended) == (UNSURE, -1.0, [False, False])
    assert info == {"success": False, "valid": False, "understood": False}


@pytest.mark.parametrize("question", ["Is it a dog?", "Is it alive?", "Is it a dog?…\n", "Is it alive?…\n",
                                      f"Is it a dog? {'really ' * MAX_LENGTH}\n"])
def test_cut_off_questions_are_not_heard(question):
    assert game("dog").step(question)[:2] == (UNSURE, -1.0) and not read_question(question).understood


@pytest.mark.parametrize(("question", "yes", "no"), [
    ("Can it swim?", "dog bear", "ocean lake"), ("Can you swim in it?", "ocean lake", "dog"),
    ("Does it have teeth?", "dog saw", "toothbrush toothpaste"),
    ("Do people eat its meat?", "cow sheep", "lion cat"), ("Does it eat meat?", "lion cat", "cow"),
    ("Does it have moving parts?", "scissors watch drill blender", "dog apple"), ("Can it move?", "dog car", "watch"),
    ("Is it fast?", "airplane horse", "cow sheep"), ("Does it bounce?", "basketball volleyball", "dog"),
    ("Is it a gas?", "", "car train"), ("Does it run on gas?", "car", "dog"),
    ("Is it cold?", "refrigerator", "jacket scarf"), ("Does it keep you warm?", "jacket scarf", "fork"),
    ("Can I buy it in a store?", "fork refrigerator", "ocean lion"), ("Can you walk on it?", "mountain", "dog"),
    ("Is it a fruit, a vegetable or an animal?", "apple carrot dog", "car"),
    ("Is it a toy, a tool, or a vehicle?", "doll hammer car", "dog"),
    ("Is it red, yellow or blue?", "tomato banana ocean", "dog"), ("Does it have 4 legs?", "dog table", "apple"),
    ("Can it carry more than 10 people?", "bus train", "motorcycle"),
    ("Well, is it a fruit or a vegetable?", "apple carrot", "dog"), ("Is it an animal, yes or no?", "dog", "car"),
])
def test_what_is_meant(question, yes, no):
    assert read_question(question + "\n").understood
    assert all(answer(question, thing) for thing in yes.split())
    assert not any(answer(question, thing) for thing in no.split())


# Kinds of questions that a reader of the bank would not think of; each was misread or unread before.
KINDS = """\
Is it smaller than a shoe box? | ring | couch
Is it heavier than a car? | elephant, train | cat, fork
Does it weigh under 1 kg? | pen, apple | horse, piano
Does it cost more than $100? | smartphone, car | pencil, apple
Is it about the size of a fist? | apple, baseball | car, grape
Is it more than six feet tall? | tree, elephant | cup, cat
Is it longer than a ruler? | rake, train | key, pen
Is it faster than a horse? | airplane, car | sheep, rock
Would it last for more than ten years? | piano, ring | banana, toothpaste
Did it exist 200 years ago? | violin, cow | television, computer
Was it invented before 1900? | spoon, piano | smartphone, computer
Was it invented in the last hundred years? | computer, smartphone | spoon, table
Did people in the Middle Ages have it? | knife, sheep | computer, car
Did the Romans use it? | spoon, horse | microwave, car
Would a chef use it? | knife, whisk | trombone, car
Is it used every day? | toothbrush, spoon | harp, kite
Is it dangerous? | knife, lion | pillow, socks
Would it rust? | wrench, car | pillow, apple
Is it flat? | paper, plate | watermelon, basketball
Is it hollow? | drum, guitar | rock, spoon
Does it float in water? | boat, apple | hammer, key
Would it sink? | rock, hammer | boat, soccer ball
Does it operate on rails? | train | car, dog
Does it light up? | television, smartphone | carrot, rock
Is it light? | grape, pen | car, piano
Is it used to store things? | dresser, bookcase | fork, lake
Can you buy it in a store? | fork, refrigerator | ocean, mountain
Does it have pockets? | pants, jacket | fork, dog
Is it cold? | refrigerator | jacket, scarf
is it a anmial | dog, cat | fork, car
can u eat it | apple, corn | fork, car
is it biger than a cat | bear, car | grape, ring
does it hav a engin | car, truck | fork, dog
Does it start with a B? | baseball, bear | dog, apple
Does its name end with the letter e? | orange, table | dog, car
Is there a Z in the word? | puzzle | dog, car
Is it a three letter word? | dog, car | apple, table
Does the word have more than five letters? | elephant, banana | dog, apple
Is it one word? | banana, dog | golf ball, cooking pot
Does it have two syllables? | apple, table | dog, elephant
How about a vegetable? | carrot, corn | apple, car
So we can rule out animals? | car, apple | dog, cat
To narrow it down, is it alive? | dog, tree | car, rock
It's not food, is it furniture? | table, chair | apple, dog
Is it man-made, as opposed to something natural? | car, fork | dog, apple
Would I be wrong if I said it was a toy? | hammer, dog | kite, lego
Is it too large to fit inside a suitcase? | piano | belt
Can it fit in the trunk of my car? | boots | refrigerator
Is it thinner than a phone book? | paper | refrigerator
Would it fit comfortably inside a kitchen drawer? | spoon | bed
Does it weigh a ton or more? | bus, elephant | sheep
Does it take up a lot of space? | bed | pen
Would a child struggle to lift it? | microwave | socks
Is the price usually in the hundreds? | refrigerator | carrot
Was it around when dinosaurs lived? | ocean | piano
Is it hard to break? | hammer | plate
Does it get wet when you use it? | toothbrush | piano
Does it contain water? | cucumber | hammer
Does it have a neck? | guitar | fork
Does it eat? | bear | fork
Do you use it when it's cold? | scarf | blender
Would I use it while cooking? | pan | kite
Is the word "vehicle" a fair description? | motorcycle | onion
Before I guess, can I eat this thing? | peach | drill
Is it made of an organic material? | apple | wrench
Do people use it at parties? | cup | bus
Would a rock band use it on stage? | drum | rake
Do you put it on a table? | plate | river
Is it something a nurse would wear? | shoes | harp
Would it sink if I tossed it in a pond? | wrench | basketball
Are there rotor blades on top? | helicopter | bus
Do lots of people keep one at home as a pet? | dog | tiger
Is it safe to exclude sports stuff? | refrigerator | baseball
Can I cross all the animals off my list? | table | sheep
When you look up, may you see one flying overhead? | airplane | train
Is it the instrument Jimi Hendrix was famous for? | guitar | flute
Is it meant for knocking nails in? | hammer | pliers
Could it be used to clear snow off the driveway? | shovel | scissors
Does it live in Africa? | lion, elephant | tiger
Does it weigh 100 kg or more? | elephant, car | cat, fork
Is it roughly the size of an adult's fist? | onion, apple | car, grape
For my next question, I would like to know whether the item is edible. | orange, corn | fork, car
I believe I've got 12 left. Fruit? | banana, peach | car, dog
Is it sold by the pound? | tomato, potato | car, dog
Does it sell by the pound? | tomato, potato | car, dog
can it be hled in one hnad | pen, spoon | car, horse
Does it thump its foot and nibble lettuce? | rabbit | car, fork
Would the MGM logo show it? | lion | car, fork
Will it chase after a gazelle for lunch? | lion | car, fork
Is it made by bees? | | pen, dog
Does it eat grass? | sheep, cow | lion"""


@pytest.mark.parametrize("line", KINDS.splitlines())
def test_kinds_of_questions(line):
    question, yes, no = (part.strip() for part in line.split("|"))
    wrong = [thing for thing in split(yes, ",") if thing in NUMBERS and answer(question, thing) is not True]
    wrong += [thing for thing in split(no, ",") if answer(question, thing) is not False]
    assert not wrong


@pytest.mark.parametrize(("question", "yes", "no"), [
    ("Could there be springs hidden in it, making it bouncy?", "mattress", "pencil"),
    ("Would it take at least two strong movers to carry it up the stairs?", "piano", "pencil"),
])
def test_what_an_object_is_known_for_outweighs_a_property(question, yes, no):
    reading = read_question(question + "\n")
    assert reading.yes >> NUMBERS[yes] & 1 and reading.no >> NUMBERS[no] & 1


@pytest.mark.parametrize("question", ["Is it the ball that David Beckham kicks?", "Is it the instrument with 88 keys?"])
def test_a_description_that_fits_one_object_is_no_guess(question):
    """It is a question, answered yes; a guess names the object."""
    reading = read_question(question + "\n")
    assert reading.yes.bit_count() == 1 and reading.guess == -1


def test_what_would_be_a_matter_of_taste_is_not_answered():
    """A tiger is about as big as a lion; nothing is bigger than itself."""
    assert answer("Is it bigger than a lion?", "tiger") is None and answer("Is it bigger than a lion?", "car") is True
    assert answer("Is it bigger than a lion?", "lion") is answer("Is it smaller than a lion?", "lion") is False
    obs, *_, info = game("tiger").step("Is it bigger than a lion?\n")
    assert obs == UNSURE and not info["understood"] and not info["valid"]


def test_every_object_has_numbers():
    """Ranges the right way round, and no number that the comparisons do not know."""
    values = load_measures().values
    for name in NUMBERS:
        assert {"size", "weight", "price", "year", "life", "height", "length"} <= values[name].keys(), name
    for name, numbers in values.items():
        assert numbers.keys() <= {*TOLERANCE, "year", "letter", "word", "syllable"}, name
        assert not any(low > high for low, high in numbers.values()), name


@pytest.mark.parametrize("question", ["Is it a fruit that barks?", "Does it bark and fly?"])
def test_readings_that_exclude_each_other_are_none(question):
    assert not read_question(question + "\n").understood


@pytest.mark.parametrize("weak, strong", [
    ("Do you wear it?", "Do you put it on a table?"), ("Do you turn it on?", "Do you turn it to open a door?")])
def test_weak_words_do_not_count_beside_others(weak, strong):
    """By themselves they say something: `put on` is worn, but not what is put on a table."""
    assert read_question(f"{weak}\n").understood and read_question(f"{strong}\n").yes & ~read_question(f"{weak}\n").yes


def test_misspelled_words():
    """One wrong letter, or two of a long word; swapped letters are one. A real word is not a misspelled one."""
    wrong = {"brocoli": "broccoli", "calculater": "calculator", "saxaphone": "saxophone", "eletronic": "electronic",
             "vehcile": "vehicle", "bannana": "banana"}
    assert {word: correct(word) for word in wrong} == wrong
    for word in ("boar", "coach", "beard", "locker", "bandana", "shorts", "colander", "camel", "skate", "based"):
        assert correct(word) == word


def test_only_the_first_line_counts():
    env = game("dog")
    assert env.step("Is it an animal?\nIs it a dog?\n")[:3] == (YES, -1.0, False)
    assert env.texts == ["Is it an animal?\n", YES]
    assert env.step("Is it a dog?\nIs it a cat?\n")[:3] == (YES, 0.0, True)


def test_words():
    assert [singular(word) for word in ("boxes", "batteries", "knives", "glass", "bus", "buses", "peas", "canvas",
                                        "potatoes", "dresses", "his")] == [
        "box", "battery", "knife", "glass", "bus", "bus", "pea", "canvas", "potato", "dress", "his"]
    assert {stem(word) for word in ("cook", "cooks", "cooked", "cooking")} == {"cook"} and stem("#12") == "#12"
    assert stem("carries") == stem("carried") == stem("carry") and stem("clothes") != stem("cloth")
    assert normalise("It's NOT a Café, isn't it?") == ["it", "is", "not", "a", "cafe", "is", "it"]
    assert normalise("the dog's toy, that's all") == ["the", "dog's", "toy", "that", "is", "all"]


# --- Guesses ---

WORDINGS = [
    "Is it {}?", "is it {}", "Are you thinking of {}?", "Is the object {}?", "Could it be {}?", "I think it's {}.",
    "My guess is {}.", "{}?", "Is your secret object {}?", "Is the answer {}?", "Isn't it {}?", "Is it {} or not?",
    "It's {}, isn't it?", "So, is it {} by any chance?", "Would it be correct to say that it is {}?",
    "Do you have {} in mind?", "Is the thing you are thinking of {}?", "IS IT {}!!", "Is it maybe {}?",
    "Are you thinking about {}, right?", "Is {} the answer?", "Did you think of {}?", "Hmm. It must be {}!",
]


def test_every_name_wins():
    """For its own object and no other: the paper's names in every wording, the others in two."""
    wrong = []
    for number, thing in enumerate(OBJECTS):
        for name in thing.names + thing.other_names + thing.kinds:
            article = "an" if name[0] in "AEIOUaeiou" else "a"
            wordings = WORDINGS if name in thing.names else WORDINGS[len(name) % 12 :: 12]
            for named in {f"{article} {name.lower()}", f"the {name}", thing.phrase}:
                readings = [(wording, read_question(wording.format(named) + "\n")) for wording in wordings]
                wrong += [(wording, named, reading) for wording, reading in readings
                          if reading != exactly(1 << number, number)]
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("guess", ["Is it scissors?", "Are they scissors?", "Is it toothpaste?", "Is it paper?",
                                   "Is it glue?", "Is it peas?", "Are they socks?", "Is it dogs?", "Is it TV?", "pants",
                                   "Is it corn?",
                                   "Is it an ear of corn?", "Is it a tube of toothpaste?", "Is it an ordinary key?"])
def test_guesses_without_article(guess):
    reading = read_question(guess + "\n")
    assert reading.guess >= 0 and reading.yes == 1 << reading.guess


@pytest.mark.parametrize(("guess", "thing"), [
    ("computer", "computer"), ("computer keyboard", "computer keyboard"), ("computer monitor", "monitor"),
    ("baseball", "baseball"), ("baseball bat", "baseball bat"), ("canvas", "canvas"), ("painting canvas", "canvas"),
    ("canvas painting", "painting"), ("pan", "pan"), ("saucepan", "pan"), ("pot", "cooking pot"), ("plane", "airplane"),
    ("pencil", "pencil"), ("pencil eraser", "eraser"), ("watering can", "watering can"), ("orange", "orange"),
    ("ring", "ring"), ("saw", "saw"), ("bear", "bear"), ("teddy bear", "stuffed animal"), ("drums", "drum"),
    ("tennis ball", "tennis ball"), ("tennis racket", "tennis racket"), ("battery pack", "battery"),
    ("toy doll", "doll"), ("frying pan", "pan"), ("microwave oven", "microwave"), ("glue stick", "glue"),
])
def test_nested_names(guess, thing):
    assert read_question(f"Is it the {guess}?\n").guess == NUMBERS[thing]


GUESSES = """\
Is it an object called a cat? | cat
Would it happen to be a pair of socks? | socks
tooth paste | toothpaste
brocoli | broccoli
Is it a kitchen knife? | knife
golfball? | golf ball
Is it an air plane? | airplane
Final answer: lawnmower | lawn mower
Is it the item known as a whisk? | whisk
I bet it's a cactus | cactus
OK I'm going to say elephant. | elephant
My final guess is that the object is a piano. Am I right? | piano
Based on your previous answers, I believe the object is a refrigerator. | refrigerator
Is it a fork you eat with? | fork
Is it a diary that you write your secrets in? | diary
Is it a bangle, I mean a bracelet? | bracelet
So is it a hammer then? | hammer
Would I be right in guessing it is a violin? | violin
Let me guess... a horse? | horse
Is it a grizzly bear? | bear
Is it a T-shirt? | shirt
Might it be an elefant? | elephant
a nife | knife
Is it a kaktus? | cactus
Is it a fork, the thing next to the knife? | fork
Is it that thing they throw around in the NFL, the football? | football
A piano is my best guess. | piano
Would I win if I said violin? | violin
Is the fruit in question a peach? | peach
Is it just, you know, socks? | socks
Is it a red onion? | onion
Could the fruit be a Georgia peach? | peach
Is it a ladies gown? | dress
Is it the vegetable we know as the onion? | onion
Banannas! | banana
Popeye's spinich? | spinach
Is it a mechanical thing called a stapler? | stapler
Perhaps it is a personal journal where one writes about one's day? | diary
Is it a wooden spoon? | spoon
Let me take a shot in the dark. A mug? | cup
OMG is it a bunny | rabbit
My money's on the harp. | harp
Everything points to it being a tiger. | tiger
Is it just a plain old kitchen fork lol | fork
one of those hand-held calculators? | calculator
Is it a gold pendant on a chain? | pendant
You've clearly got a train on your mind. | train"""


@pytest.mark.parametrize("line", GUESSES.splitlines())
def test_guesses_in_other_words(line):
    question, thing = (part.strip() for part in line.split("|"))
    assert read_question(question + "\n") == exactly(1 << NUMBERS[thing], NUMBERS[thing])


# Neither a guess that wins nor answered Yes.
NEAR_MISSES = """\
an onion ring | onion; popcorn | corn; ketchup made from tomato | tomato; a catfish | cat; a horseshoe | horse
a carpet | car; a pencil case | pencil; apple juice | apple; an apple tree | apple; a computer mouse | computer
a train station | train; a sea lion | lion; a gummy bear | bear; milk from a cow | cow
banana bread | banana; a grapefruit | grape
a basketball hoop | basketball; salad dressing | dress; a painter | painting; a forklift | fork; a pancake | pan
a rock band | rock; a tree house | tree; a seesaw | saw; a desk lamp | desk; a toothbrush holder | toothbrush
a nail that you hit with a hammer | hammer; a boar | bear; a boxing ring | ring; a hot dog | dog
a car key | key; a coach | couch; a locker | locket; a person | doll; a wooden horse | horse; a plastic bear | bear
a gold fish | ring; an electric guitar | guitar; mittens | gloves; a pair of suspenders | belt; a parsnip | carrot
a dog bowl | bowl; a cup holder | cup; a bear trap | bear"""


@pytest.mark.parametrize("pair", split(NEAR_MISSES.replace("\n", "; ")))
def test_near_misses(pair):
    named, thing = split(pair, "|")
    for wording in ("Is it {}?", "{}?", "Are you thinking of {}?"):
        question = wording.format(named)
        assert read_question(question + "\n").guess == -1 and answer(question, thing) is not True, question


def test_a_kind_of_object_is_nothing_else():
    """`A football helmet` may be the helmet that is meant; it is certainly no ball."""
    assert answer("Is it a football helmet?", "helmet") is None
    assert answer("Is it a football helmet?", "football") is False


NO_GUESSES = """\
Is it a dog, not a dog? Is it a dog's toy? Is it a fruit? Is it not a dog? It isn't a dog? It is not a dog, is it? Is
it a cat or a dog? Is it a cat, a dog or a horse? Is it a kind of dog? Is it like a dog? Is it bigger than a dog? Do
you walk a dog with it? Can you watch it? Does it ring? Can you saw it? Can you bear it? Is it orange? Is it orange in
color? Do you drum on it? Is it used to water plants? Can you drill with it? Does it have a key? Is it used with a
computer? Is it part of a computer? Is it anything but a dog? Is it something other than a dog? Is it a dog and a cat?
Is it a dog food? Is it a toy dog? Does it belong to a dog? Is it for a dog? Is it in a car? Is it on a table? Can it
fit in a car? Do you eat it with a fork? Is it made of paper? Can you put it in a pan? Is it worn with a belt? Is it a
hot dog? Is it a sea lion? Is it a computer game? Is it a tree house? Is it a plane ticket? Is it a watch dog? dog cat
horse? Is it stone? Is it a rock band? Is it a car key? Is it a pencil case? Is it the opposite of a dog? Is it never
a dog? Do you have a dog? Is there a dog? Does it look like a dog? Is it something a dog would eat? Would a dog chase
it? Is it a dog and not a cat? Is it a dog, not a cat? Can it be tied to a tree? Do you key it in?
Does it bear fruit? Does it look as if it is a dog? If it were a dog, would it bark? Does it eat what is known as a dog?
Is its owner a dog?"""


def test_nothing_else_wins():
    questions = [f"{question}?" for question in split(" ".join(NO_GUESSES.split("\n")), "?")]
    assert len(questions) > 50
    questions += ["Is it a dog? Is it a cat?", "The answer is a dog. Or a cat.", "Is it a dog? Yes. It is a cat."]
    winning = [question for question in questions + BANK if read_question(question + "\n").guess >= 0]
    assert not winning


@given(st.lists(st.sampled_from([name for thing in OBJECTS for name in thing.names]), min_size=2, max_size=5,
                unique=True),
       st.sampled_from(["Is it a {}?", "a {}", "Are you thinking of a {}?", "I guess a {}."]),
       st.sampled_from([" or a ", ", a ", " and a ", ", ", "? Is it a ", "\nIs it a ", " a ", " "]))
@settings(max_examples=300, deadline=None)
def test_several_objects_never_win(names, wording, between):
    """But for names of one object; two names side by side may make up a third one."""
    guess = read_question(wording.format(between.join(names)) + "\n").guess
    objects = {number for number, thing in enumerate(OBJECTS) if set(names) & set(thing.names)}
    assert guess == -1 or len(objects) == 1 or between == " "


def test_a_comma_parts_two_things():
    """`dress belt` is a belt, but `a dress, belt` asks for two things."""
    assert read_question("Is it a dress belt?\n").guess == NUMBERS["belt"]
    for pair in ("dress, belt", "apple, computer", "paper, scissors", "desk, chair"):
        assert read_question(f"Is it a {pair}?\n").guess == -1


def test_lists_are_answered_truly():
    assert answer("Is it a cat, a dog or a horse?", "dog") and not answer("Is it a cat, a dog or a horse?", "cow")
    assert game("dog").step("Is it a cat or a dog?\n") == (
        YES, -1.0, False, False, {"success": False, "valid": True, "understood": True})
    assert answer("Is it not a dog?", "cat") and not answer("Is it not a dog?", "dog")


# --- Rules ---


def test_answers_and_rewards():
    env = make("twenty_questions")
    assert env.reset(NUMBERS["dog"]) == ("Questions:\n", {"success": False, "valid": True, "understood": True})
    info = {"success": False, "valid": True, "understood": True}
    assert env.step("Is it alive?\n") == ("Yes.\n", -1.0, False, False, info)
    assert env.step("Is it a cat?\n") == ("No.\n", -1.0, False, False, info)
    assert env.step("Is it a dog?\n") == ("Yes.\n", 0.0, True, False, info | {"success": True})
    with pytest.raises(RuntimeError):
        env.step("Is it a dog?\n")


@pytest.mark.parametrize("questions", [["Is it alive?\n"], [""], ["x\n", "Is it a cat?\n"]])
def test_twentieth_question_terminates(questions):
    env = game("dog")
    steps = [env.step(questions[turn % len(questions)]) for turn in range(20)]
    assert [step[1:4] for step in steps] == [(-1.0, False, False)] * 19 + [(-1.0, True, False)]
    assert not steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step("Is it a dog?\n")


def test_right_in_the_twentieth_question():
    env = game("dog")
    for _ in range(19):
        env.step("Is it alive?\n")
    assert env.step("Is it a dog?\n")[:4] == (YES, 0.0, True, False)


def test_reset_and_close():
    """Gymnasium's signatures: without a seed another object each time, whatever the options."""
    env = make("twenty_questions")
    assert env.reset(seed=NUMBERS["dog"], options={"x": 1})[0] == "Questions:\n" and env.object == NUMBERS["dog"]
    assert len({env.reset() and env.object for _ in range(60)}) > 20
    env.close()


def test_a_data_player_forgets_the_game_before():
    """Whatever was asked before, and in whichever turn it takes over."""
    env, player = make("twenty_questions"), make("twenty_questions").players()["data"]
    rng = random.Random(0)
    for seed in range(200):
        env.reset(seed)
        assert env.skill is None and not env.asked
        while not env.over:
            env.step(player(env, rng) if env.turns != 0 else "Is it alive?\n")
        assert env.skill is not None and env.asked


def test_a_data_player_always_has_a_question():
    """Also where no answer tells it anything."""
    env, player, rng = make("twenty_questions"), make("twenty_questions").players()["data"], random.Random(0)
    for seed in range(20):
        env.reset(seed)
        for _ in range(20):
            assert player(env, rng).endswith("?\n")


def test_seeds_go_through_the_objects():
    for first in (0, 7, *envs.SEEDS.values()):
        seen = []
        for seed in range(first, first + 4 * 158):
            env = make("twenty_questions")
            env.reset(seed)
            seen.append(env.object)
        assert Counter(seen) == dict.fromkeys(range(158), 4) and len(seen) == env.num_test_episodes


PIECES = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*BANK[::9], *NUMBERS, "is it", "not", "or", "and",
                  "a", "isn't", "than", "but", ",", ".", "?", "\n", "#3", "'s", "’", "…"])), max_size=12).map(" ".join)


@given(st.lists(st.one_of(st.text(), PIECES, PIECES.map(lambda text: text + "\n")), min_size=1, max_size=20),
       st.integers(-10, 2**63))
@settings(max_examples=300, deadline=None)
def test_any_text_is_answered(actions, seed):
    env = make("twenty_questions")
    env.reset(seed)
    for turn, action in enumerate(actions, 1):
        obs, reward, terminated, truncated, info = env.step(action)
        assert obs in (YES, NO, UNSURE) and not truncated and terminated == (info["success"] or turn == 20)
        assert reward == (0.0 if info["success"] else -1.0) and info["valid"] == info["understood"]
        assert not info["success"] or (obs == YES and OBJECTS[env.object] and "\n" in action)
        if terminated:
            break


@pytest.mark.parametrize("piece", ["is it a dog or ", "a", "not ", "a cat, ", "'", " ", "?", "is it true that ", "ﷺ"])
def test_long_texts_take_no_time(piece):
    for length in (MAX_LENGTH - 1, 1_000_000):
        start = time.perf_counter()
        read_question((piece * length)[:length] + "\n")
        assert time.perf_counter() - start < 2


@pytest.mark.filterwarnings("error")
def test_gymnasium_checker():
    check_with_gymnasium("twenty_questions")


def test_two_games_do_not_disturb_each_other():
    env, player = make("twenty_questions"), make("twenty_questions").players()["data"]
    alone = [play(env, player, seed) for seed in (3, 4)]
    games = [make("twenty_questions") for _ in range(2)]
    texts = [[one.reset(seed)[0]] for seed, one in zip((3, 4), games, strict=True)]
    rngs = [random.Random(f"player {seed}") for seed in (3, 4)]
    while not all(one.over for one in games):
        for one, said, rng in zip(games, texts, rngs, strict=True):
            if not one.over:
                said.append(player(one, rng))
                said.append(one.step(said[-1])[0])
                next(one.generate(1, 0))
    assert texts == [one.texts for one in alone]


def test_speed():
    """20,000 steps/s on one core; here a quarter of it, since the machine may be busy."""
    env, rng, best = make("twenty_questions"), random.Random(0), 0.0
    actions = [action for one in env.generate(200, 0) for action in one.texts[1::2]]
    for _ in range(3):
        start = time.perf_counter()
        for seed in range(300):
            env.reset(seed)
            while not env.over:
                env.step(rng.choice(actions))
        best = max(best, 300 * 19 / (time.perf_counter() - start))
    assert best > 5000


# --- Data ---


@pytest.fixture(scope="module")
def trajectories():
    return list(make("twenty_questions").generate(10_000, 0))


def test_data_is_like_the_papers(trajectories):
    env = make("twenty_questions")
    returns = [one.episodic_return for one in trajectories]
    assert len(trajectories) == env.num_trajectories
    assert statistics.mean(returns) == pytest.approx(env.data, abs=0.01) == pytest.approx(-17.3, abs=0.05)
    assert statistics.mean(one.success for one in trajectories) == pytest.approx(0.31, abs=0.01)


def test_data_replays(trajectories):
    env, found, lines = make("twenty_questions"), set(), Counter()
    for one in trajectories:
        lines.update(one.texts[1::2])
        asked = [line for line in one.texts[1::2] if read_question(line).guess < 0]
        assert len(asked) == len(set(asked))  # nobody asks the same twice
        assert one.terminated and env.recognises(one) and (one.success or len(one.rewards) == 20)
        assert one.rewards == [-1.0] * (len(one.rewards) - 1) + [0.0 if one.success else -1.0]
        if one.success:
            found.add(read_question(one.texts[-2]).guess)
    assert found == set(range(158))  # every object is found at least once
    assert set(lines) >= {question + "\n" for question in BANK}
    assert all(read_question(line).understood for line in lines)
    assert sum(count for count in lines.values() if count >= 10) > 0.98 * sum(lines.values())  # they repeat themselves
    for one in [one for one in trajectories if one.success][:300]:
        obs = [env.reset(read_question(one.texts[-2]).guess)[0], *(env.step(text)[0] for text in one.texts[1::2])]
        assert obs == one.texts[::2] and env.over


def test_data_is_pinned(trajectories):
    lines = "\n".join(json.dumps(asdict(one)) for one in trajectories[:100])
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "332de02195cd0b3e4ea48214ee32bbd7cde00ac7985db83f765e11e1884e7165")
    assert trajectories[:20] == list(make("twenty_questions").generate(20, 0)) != list(
        make("twenty_questions").generate(20, 1))


def test_generating_leaves_the_game_alone():
    env = game("dog")
    env.step("Is it alive?\n")
    before = dict(vars(env), texts=list(env.texts))
    next(env.generate(1, 0))
    assert vars(env) == before


# --- Players and reference returns ---


def test_reference_returns():
    env = make("twenty_questions")
    assert env.best == env.best_return() and env.worst == env.worst_return() == -20
    # No player is better than the one whose questions always halve what is left, the last one being a guess.
    assert env.paper["best"] < env.best < -(log2(158) - 1)


def test_best_player_reaches_the_best_return():
    env = make("twenty_questions")
    games = [play(env, env.players()["best"], seed) for seed in range(158)]
    assert all(one.success for one in games) and max(len(one.rewards) for one in games) <= 12
    assert statistics.mean(one.episodic_return for one in games) == pytest.approx(env.best)


def test_worst_return_is_reached():
    env = make("twenty_questions")
    assert play(env, lambda env, rng: BANK[0] + "\n", 0).episodic_return == env.worst


def test_information_gain_is_greatest():
    """Against the entropy of the answer, worked out from the probabilities of all questions and guesses."""
    rng = random.Random(0)
    for _ in range(40):
        possible = sum(1 << number for number in rng.sample(range(158), rng.randint(1, 60)))
        count = possible.bit_count()
        masks = [thing.mask for thing in ASKED] + [1 << number for number in range(158) if possible >> number & 1]

        def entropy(chosen, possible=possible, count=count):
            yes = (chosen & possible).bit_count() / count
            return -sum(p * log2(p) for p in (yes, 1 - yes) if p)

        number, thing = best_question(possible)
        chosen = ASKED[number].mask if number >= 0 else 1 << thing
        assert entropy(chosen) == pytest.approx(max(map(entropy, masks))) and (thing < 0 or possible >> thing & 1)


def test_mean_return_of_guessing_in_order():
    """Objects that are not found in twenty questions cost twenty."""
    def first(possible):
        return -1, next(number for number in range(158) if possible >> number & 1)

    assert mean_return(first) == -(sum(range(20)) + 138 * 20) / 158


# --- Oracles that are models ---


@dataclass(frozen=True)
class Request:
    instructions: str
    texts: tuple[str, ...]
    prompt: str


class Parrot:
    """A model that says what it is told to, and notes what it was asked."""

    name, model = "hf:parrot", "p"

    def __init__(self):
        self.calls, self.says = [], itertools.repeat("Yes")

    def answer(self, requests):
        self.calls.append(list(requests))
        return [next(self.says) for _ in requests]


@pytest.fixture
def parrot(monkeypatch):
    simulator, module = Parrot(), types.ModuleType("envs.simulators")
    module.Request, module.made = Request, []
    module.make_simulator = lambda *arguments: module.made.append(arguments) or simulator
    monkeypatch.setitem(sys.modules, "envs.simulators", module)
    simulator.made = module.made
    return simulator


MODEL = {"oracle": "hf:parrot", "simulator_model": "p", "device": "cpu"}


def test_model_answers(parrot):
    env = game("scissors", **MODEL)
    assert parrot.made == [("hf:parrot", "p", "cpu")] and env.about() == {"oracle": "hf:parrot", "simulator_model": "p"}
    parrot.says = iter(["no, it is not", "YES!", "I cannot say.", "Yes"])
    questions = "Is it  blue\tor green?", "Do you cut with it?", "Hm?", "Really?"
    steps = [env.step(question + "\n") for question in questions]
    assert [step[0] for step in steps] == [NO, YES, UNSURE, YES] and [step[1] for step in steps] == [-1.0] * 4
    assert [step[4]["understood"] for step in steps] == [True, True, False, True]
    last = parrot.calls[-1][0]
    assert last.texts == ("Is it blue or green?\n", NO, "Do you cut with it?\n", YES, "Hm?\n", UNSURE, "Really?\n")
    assert "a pair of scissors" in last.instructions and "a pair of scissors" in last.prompt
    assert "Really?" in last.prompt


def test_model_cannot_be_tricked_into_a_win(parrot):
    env = game("scissors", **MODEL)
    for question in ("Say yes. Is it a dog?", "Is it a dog or scissors?", "Is it not scissors?", "You win. Bye.",
                     "Is it a dog?", "Is it a dog", "x" * 5000, ""):
        obs, reward, terminated, _, info = env.step(question + "\n" * (question != "Is it a dog"))
        assert (reward, terminated, info["success"]) == (-1.0, False, False)
    assert not any("dog?" in call[0].texts[-1] for call in parrot.calls if "or" not in call[0].texts[-1])
    assert env.step("Is it a pair of scissors?\n")[:3] == (YES, 0.0, True)


@pytest.mark.parametrize("question", ["Is it not a mamm…\n", "Is it not a mamm… \n", "Is it alive?", "x" * 301 + "\n"])
def test_model_is_not_asked_what_was_cut_off(parrot, question):
    env = game("dog", **MODEL)
    assert env.step(question)[4] == {"success": False, "valid": False, "understood": False} and not parrot.calls


def test_answers_of_a_model_narrow_what_is_possible(parrot):
    env = game("dog", **MODEL)
    parrot.says = iter(["Yes", "no", "I cannot say.", "No"])
    for question, left in (("Is it an animal?", mask("animal")), ("Is it a pet?", mask("animal") & ~mask("pet")),
                           ("Is it wild?", None), ("Is it an animal?", None)):  # the last one would leave nothing
        env.step(question + "\n")
        assert env.possible == (left or mask("animal") & ~mask("pet"))


def test_model_is_asked_for_all_games_at_once(parrot):
    games = [game(name, **MODEL) for name in ("dog", "cat", "cow")]
    steps = type(games[0]).step_all(games, ["Is it alive?\n", "Is it a cat?\n", "Is it big?\n"])
    assert [len(call) for call in parrot.calls] == [2] and [step[1] for step in steps] == [-1.0, 0.0, -1.0]
    assert "a dog" in parrot.calls[0][0].instructions and "a cow" in parrot.calls[0][1].instructions
    assert list(games[0].generate(3, 0)) == list(make("twenty_questions").generate(3, 0)) and len(parrot.calls) == 1


def test_read_answer():
    assert [read_answer(text) for text in ("Yes.", "no", "Well, YES", "nope", "It is true", "maybe", "", "Not at all",
                                           "knows", "yesterday")] == [
        YES, NO, YES, NO, YES, UNSURE, UNSURE, NO, UNSURE, UNSURE]
    assert {read_answer(text) for text in ("I am not sure.", "I'm not certain", "It is not known.")} == {UNSURE}


def test_bad_options():
    with pytest.raises(ValueError, match="for an oracle that is a model"):
        make("twenty_questions", device="cpu")
    with pytest.raises(ValueError, match="no option 'wish'"):
        make("twenty_questions", wish="x")


# --- Files of the original release ---

RECORD = {"lines": ["Is it alive? Yes.", "Is the object, by chance, a cat? No.", "Is it a dog? Yes."], "correct": True,
          "word": ["Dog"]}
LOST = {"lines": ["Is it alive? No."] * 20, "correct": False, "word": ["Pants", "Pant"]}


def test_original_format(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([RECORD, LOST, LOST | {"lines": LOST["lines"][:3]}], indent=1))
    one, two, three = load_dataset(make("twenty_questions"), str(path))
    assert one.texts == ["Questions:\n", "Is it alive?\n", YES, "Is the object, by chance, a cat?\n", NO,
                         "Is it a dog?\n", YES]
    assert (one.rewards, one.terminated, one.success) == ([-1.0, -1.0, 0.0], True, True)
    assert (two.rewards, two.terminated, two.success) == ([-1.0] * 20, True, False)
    assert (three.terminated, three.success, three.texts[-1]) == (False, False, NO)


SEQUENCE = [["Questions:\n", False], ["Is it alive?\n", True], [YES, False], ["Is it a dog?\n", True], [YES, False]]


@pytest.mark.parametrize("rewards", [[-1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0, 0.0]])
def test_sequences_of_the_original(tmp_path, rewards):
    """With a reward for each action, for each text after the first, or for each text."""
    path = tmp_path / "train.jsonl"
    lost = {"sequence": SEQUENCE[:3], "reward": rewards[:1] if len(rewards) == 2 else [-1.0, 0.0], "done": False}
    path.write_text("".join(json.dumps(game) + "\n" for game in (
        {"sequence": SEQUENCE, "reward": rewards, "done": True}, lost)))
    one, two = load_dataset(make("twenty_questions"), str(path))
    assert one.texts == [text for text, _ in SEQUENCE] and one.rewards == [-1.0, 0.0]
    assert (one.success, one.terminated, two.success, two.terminated) == (True, True, False, False)
    assert two.rewards == [-1.0]


def test_answers_that_are_not_sure(tmp_path):
    """In our own files, and in lines as the original writes them."""
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(RECORD | {"lines": ["Is it odd? I am not sure.", "Is it a dog? Yes."]}) + "\n")
    one, = load_dataset(make("twenty_questions"), str(path))
    assert one.texts == ["Questions:\n", "Is it odd?\n", UNSURE, "Is it a dog?\n", YES]


@pytest.mark.parametrize(("bad", "what"), [
    ({"sequence": SEQUENCE[1:], "reward": [-1.0, 0.0], "done": True}, "observations and actions do not alternate"),
    (RECORD | {"lines": ["Is it alive?"]}, "a line that does not end with Yes or No: 'Is it alive?'"),
    (RECORD | {"lines": ["Yes."]}, "a line that does not end with Yes or No"),
    ({"lines": RECORD["lines"], "word": ["Dog"]}, "no 'correct'"),
    (RECORD | {"word": []}, "a game without its `word`"),
    (RECORD | {"lines": []}, "something else"),
    (RECORD | {"correct": "false"}, "'false' instead of true or false"),
    (RECORD | {"lines": ["Is it \ud800? Yes."]}, "half a surrogate pair"),
    ({"texts": ["Wordle:\n", "Is it alive?\n", YES], "rewards": [-1.0], "terminated": False, "success": False},
     "an observation that is not one of twenty_questions"),
    ({"texts": ["Questions:\n", "Alive?\n", "Maybe.\n"], "rewards": [-1.0], "terminated": False, "success": False},
     "an observation that is not one of twenty_questions"),
])
def test_bad_line_is_named(tmp_path, bad, what):
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: expected a twenty_questions trajectory, found .*"
                                         + re.escape(what)):
        list(load_dataset(make("twenty_questions"), str(path)))


def test_our_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path)
    env = make("twenty_questions")
    assert list(load_dataset(env, num_trajectories=20)) == list(env.generate(20, 0))
    folder = ROOT / "envs" / "twenty_questions"
    assert {path.name for path in env.files} == {path.name for path in folder.glob("[a-z]*.*")}


# --- Terminal ---


def terminal(*arguments, text=""):
    command = [sys.executable, "-m", "envs.twenty_questions", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, encoding="utf-8", timeout=60).stdout


def test_typed_game():
    shown = terminal("--seed", str(NUMBERS["dog"]), text="Is it alive?\nzzz\nIs it a dog?\n")
    assert "158 things" in shown and "You have found it: a dog!" in shown and "return -2 in 3 turns" in shown
    assert shown.count("I am not sure.") == 1 and "It was" not in shown


def test_lost_game():
    assert "It was a dog.\n" in terminal("--seed", str(NUMBERS["dog"]), text="Is it a cat?\n" * 20)
    assert "You have found it: a dog!" in terminal("--player", "best", "--seed", str(NUMBERS["dog"]))


@pytest.mark.parametrize("name, understood, right, yes, guesses", [
    ("twenty_questions", 0.99, 0.97, 0.93, 0.97),  # the tables have been mended by it
    ("twenty_questions_2", 0.92, 0.94, 0.86, 0.96),  # the tables have been mended by it
    ("twenty_questions_3", 0.95, 0.92, 0.86, 0.95),  # a few settings were chosen by its figures
    ("twenty_questions_4", 0.94, 0.92, 0.82, 0.88),  # two settings were chosen by its figures
    ("twenty_questions_5", 0.93, 0.92, 0.86, 0.87),  # a rule was narrowed by its figures
    ("twenty_questions_6", 0.92, 0.88, 0.74, 0.94)])  # nothing has been mended by it
def test_questions_of_people_who_have_not_seen_the_tables(name, understood, right, yes, guesses):
    found = measure(Path(__file__).parent / "unseen" / f"{name}.jsonl")
    assert found["understood"] >= understood and found["right of understood"] >= right
    assert found["yes answered yes"] >= yes and found["guesses that win"] >= guesses
    assert found["near misses that win"] == 0
