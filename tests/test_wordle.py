"""Wordle: rules in both colourings, data, players, vocabularies, the original release's files."""

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
from collections.abc import Iterator
from dataclasses import asdict
from math import log2
from pathlib import Path

import pytest
from gym_wrapper import check_with_gymnasium
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs import make, play
from envs.data import load_dataset
from envs.wordle import CODES, OBS, WORDS_FILE, Vocabulary, Wordle, paper_colours, real_colours

WORDS = [line for line in WORDS_FILE.read_text().splitlines() if not line.startswith("#")]
ROOT = Path(__file__).resolve().parent.parent


def spaced(word: str) -> str:
    return " ".join(word) + "\n"


def game(word: str, **options: str) -> Wordle:
    env = make("wordle", **options)
    env.reset(0)
    env.word = word
    return env


def write_words(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# --- Rules ---


# Worked by hand: guess, word, the paper's colours, the real game's.
DUPLICATES = [
    ("sheep", "paper", "bbygy", "bbbgy"),
    ("paper", "apple", "yygyb", "yygyb"),
    ("allow", "label", "yyybb", "yyybb"),
    ("allow", "plain", "ygybb", "ygbbb"),
    ("eagle", "every", "gbbby", "gbbby"),
    ("every", "eagle", "gbybb", "gbybb"),
    ("every", "enjoy", "gbybg", "gbbbg"),
    ("sweet", "those", "ybyyy", "ybyby"),
    ("floor", "robot", "bbygy", "bbygy"),
    ("robot", "north", "ygbyy", "ygbby"),
    ("mummy", "human", "yggyb", "bggbb"),
    ("daddy", "dream", "gyyyb", "gybbb"),
    ("geese", "eagle", "yyybg", "yybbg"),
    ("apple", "apple", "ggggg", "ggggg"),
    ("shire", "crane", "bbbyg", "bbbyg"),
]


@pytest.mark.parametrize(("guess", "word", "paper", "real"), DUPLICATES)
def test_colours_of_equal_letters(guess, word, paper, real, tmp_path):
    assert (paper_colours(guess, word), real_colours(guess, word)) == (paper, real)
    vocabulary = write_words(tmp_path / "words.txt", *{guess: 0, word: 0})
    for option, colours in (("false", paper), ("true", real)):
        env = game(word, vocabulary=vocabulary, real_duplicates=option)
        assert env.step(spaced(guess))[0] == spaced(colours)


@pytest.mark.parametrize("colours", [paper_colours, real_colours])
def test_rows_hold_the_answers(colours):
    vocabulary = Vocabulary(WORDS, colours)
    for number, guess in enumerate(WORDS):
        assert list(vocabulary.row(number)) == [CODES[colours(guess, word)] for word in WORDS]
    assert sorted(CODES.values()) == list(range(243))


def test_answers_and_rewards():
    env = make("wordle")
    assert env.reset(7) == ("Wordle:\n", {"success": False, "valid": True})
    env.word = "crane"
    assert env.step("t r a i n\n") == ("b g g b y\n", -1.0, False, False, {"success": False, "valid": True})
    assert env.step("c r a n e\n") == ("g g g g g\n", 0.0, True, False, {"success": True, "valid": True})
    with pytest.raises(RuntimeError):
        env.step("c r a n e\n")


@pytest.mark.parametrize("action", ["crane\n", "crane", "c r a n e", "c r a n e ", " c r a n e\n", "c  r a ne \n",
                                    "crane\r\n", "c r a n e\n\n"])
def test_spaces_and_newline_may_be_missing(action):
    assert game("crane").step(action) == ("g g g g g\n", 0.0, True, False, {"success": True, "valid": True})
    env = game("about")
    assert env.step(action) == (spaced(paper_colours("crane", "about")), -1.0, False, False,
                                {"success": False, "valid": True})
    assert [word for word, _ in env.history] == [WORDS.index("crane")]


@pytest.mark.parametrize(("action", "valid"), [("c r a n e\n", True), ("crane\n", True), ("c r a n e", False),
                                               ("crane", False), ("crane \r\n", True), ("c r a n e…\n", False)])
def test_guess_that_was_cut_off(action, valid):
    """`VectorEnv` marks it, so that it counts as invalid in play and when what is written down is played again."""
    vector = envs.VectorEnv("wordle", 1)
    vector.reset(0, 5)
    for text in (action, *["\n"] * 5):
        (*_, info), = vector.step({0: text}).values()
    game = info["trajectory"]
    assert info["num_invalid"] == 6 - valid and (game.texts[2] != "\n") == valid
    env = make("wordle")
    env.reset(5)
    assert env.step(game.texts[1])[0] == game.texts[2]


INVALID = ["", "\n", "s h i r e", "crane…\n", "c r a n e…", "C R A N E\n", "c-r-a-n-e\n", "c r\na n e\n", "c r a n\n",
           "c r a n e s\n", "z z z z z\n", "c r a n é\n", "b y g g b\n", "\0", "\ud800"]


@pytest.mark.parametrize("action", INVALID)
def test_invalid_guess_costs_one_and_tells_nothing(action):
    env = game("crane")
    assert env.step(action) == ("\n", -1.0, False, False, {"success": False, "valid": False})
    assert env.possible_words() == env.vocabulary.all


@pytest.mark.parametrize("wrong", [["a b o u t\n"] * 6, [""] * 6, ["a b o u t\n", "x"] * 3])
def test_sixth_guess_terminates(wrong):
    env = game("crane")
    steps = [env.step(action) for action in wrong]
    assert [step[1:4] for step in steps] == [(-1.0, False, False)] * 5 + [(-1.0, True, False)]
    assert not steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step("c r a n e\n")


def test_right_in_the_sixth_guess():
    env = game("crane")
    for _ in range(5):
        env.step("a b o u t\n")
    assert env.step("c r a n e\n")[1:] == (0.0, True, False, {"success": True, "valid": True})


NEARLY = st.one_of(st.text(), st.sampled_from(WORDS).map(spaced), st.text("abcdestr \n", max_size=12),
                   st.builds(lambda word, cut: spaced(word)[:cut], st.sampled_from(WORDS), st.integers(0, 10)))


@given(st.lists(NEARLY, min_size=1, max_size=6), st.integers(0, 2**63), st.sampled_from(["false", "true"]))
@settings(max_examples=300, deadline=None)
def test_any_text_is_answered(actions, seed, real_duplicates):
    env = make("wordle", real_duplicates=real_duplicates)
    env.reset(seed)
    for turn, action in enumerate(actions, 1):
        obs, reward, terminated, truncated, info = env.step(action)
        guess = action.strip().replace(" ", "")
        valid = guess in WORDS
        assert info == {"success": guess == env.word, "valid": valid}
        colours = real_colours if real_duplicates == "true" else paper_colours
        assert obs == (spaced(colours(guess, env.word)) if valid else "\n")
        assert (reward, truncated) == (0.0 if info["success"] else -1.0, False)
        assert terminated == (info["success"] or turn == 6)
        if terminated:
            break


def test_seed_draws_the_word():
    words = []
    for _ in range(2):
        env = make("wordle")
        words.append([(env.reset(seed), env.word)[1] for seed in range(5000)])
    assert words[0] == words[1]
    counts = Counter(words[0])
    assert len(counts) == len(WORDS) and max(counts.values()) < 30  # 11.6 expected
    assert [make("wordle").reset(seed)[0] for seed in (-1, 0, envs.SEEDS["test"])] == ["Wordle:\n"] * 3


@pytest.mark.filterwarnings("error")
def test_gymnasium_checker():
    check_with_gymnasium("wordle")


def test_speed():
    env, actions, best = make("wordle"), [spaced(word) for word in WORDS], 0.0
    for attempt in range(3):  # the best of three: the machine may be busy
        turns, start = 0, time.perf_counter()
        for seed in range(3000):
            env.reset(seed)
            over = False
            while not over:
                turns += 1
                over = env.step(actions[(attempt + 7 * turns) % len(actions)])[2]
        best = max(best, turns / (time.perf_counter() - start))
    assert best > 30_000


# --- Data ---


@pytest.fixture(scope="module")
def trajectories():
    return list(make("wordle").generate(20_000, 0))


def test_data_is_like_the_papers(trajectories):
    returns = [t.episodic_return for t in trajectories]
    assert statistics.mean(returns) == pytest.approx(-4.12, abs=0.1)
    assert statistics.pstdev(returns) == pytest.approx(1.59, abs=0.05)
    assert statistics.mean(len(t.rewards) for t in trajectories) == pytest.approx(4.82, abs=0.1)
    assert statistics.mean(t.success for t in trajectories) == pytest.approx(0.70, abs=0.02)
    assert statistics.mean(returns) == pytest.approx(Wordle.data, abs=0.03)


def test_data_replays(trajectories):
    for trajectory in trajectories[:500]:
        assert make("wordle").recognises(trajectory) and trajectory.terminated
        words = [word for word in WORDS if all(
            spaced(paper_colours(action[:-1].replace(" ", ""), word)) == obs
            for action, obs in zip(trajectory.texts[1::2], trajectory.texts[2::2], strict=True))]
        assert words and (trajectory.texts[-1] == "g g g g g\n") == trajectory.success
        assert trajectory.rewards == [-1.0] * (len(trajectory.rewards) - 1) + [0.0 if trajectory.success else -1.0]
        assert len(trajectory.rewards) == 6 or trajectory.success


def test_data_is_pinned(trajectories):
    lines = "\n".join(json.dumps(asdict(trajectory)) for trajectory in trajectories[:100])
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "1adcb5842541a823f20b74154757ab32f0745066b8d36b595d8c80bf1fdf84ae")
    assert trajectories[:50] == list(make("wordle").generate(50, 0))
    assert trajectories[:50] != list(make("wordle").generate(50, 1))


def test_data_streams():
    env = make("wordle")
    obs, _ = env.reset(3)
    word, stream = env.word, env.generate(10**12, 0)
    assert isinstance(stream, Iterator)
    assert len(list(itertools.islice(stream, 3))) == 3
    assert (env.word, env.turns, env.history, env.over) == (word, 0, [], False)  # its own game goes on


def test_a_new_list_of_words_makes_new_data(tmp_path, monkeypatch):
    assert Wordle.files == (WORDS_FILE,)
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    for line in ("crane", "house"):
        monkeypatch.setattr(Wordle, "files", (Path(write_words(tmp_path / "words.txt", line)),))
        assert len(list(load_dataset(make("wordle"), num_trajectories=5))) == 5
    assert len(list((tmp_path / "data").glob("*.jsonl"))) == 2


# --- The original release's files ---

SEQUENCE = [["Wordle:\n", 0.0], ["a b o u t\n", 1.0], ["y b b b b\n", 0.0], ["x y z\n", 1.0], ["\n", 0.0],
            ["c r a n e\n", 1.0], ["g g g g g\n", 0.0]]
RECORD = {"sequence": SEQUENCE, "reward": [-1.0, 0.0, -1.0, 0.0, 0.0, 0.0], "done": True}


def read(tmp_path, *records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    return list(load_dataset(make("wordle"), write_words(tmp_path / "original.jsonl", *lines)))


def test_original_format(tmp_path):
    per_action = RECORD | {"reward": [-1, -1, 0]}
    unfinished = {"sequence": SEQUENCE[:3], "reward": [-1, 0], "done": False}
    without_last_obs = {"sequence": SEQUENCE[:4], "reward": [-1, 0, -1], "done": False}
    one, two, three, four = read(tmp_path, RECORD, per_action, unfinished, without_last_obs)
    assert one == two
    assert one.texts == [text for text, _ in SEQUENCE] and one.rewards == [-1.0, -1.0, 0.0]
    assert one.success and one.terminated
    assert (three.rewards, three.success, three.terminated) == ([-1.0], False, False)
    assert (four.rewards, len(four.texts)) == ([-1.0, -1.0], 4)


@pytest.mark.parametrize(("bad", "what"), [
    ("{not json", "not JSON"),
    (RECORD | {"reward": [-1, 0]}, "one reward per action"),
    (RECORD | {"reward": [-1, -1, -1, 0, 0, 0]}, "reward for an observation"),
    (RECORD | {"reward": []}, "wordle trajectory"),
    ({"sequence": SEQUENCE, "done": True}, "no 'reward'"),
    (RECORD | {"sequence": [SEQUENCE[0], *SEQUENCE[:-1]]}, "alternate"),
    (RECORD | {"sequence": [["Worlde:\n", 0], *SEQUENCE[1:]]}, "observation"),
    (RECORD | {"sequence": [*SEQUENCE[:2], ["y b b b r\n", 0], *SEQUENCE[3:]]}, "observation"),
    (RECORD | {"sequence": [*SEQUENCE[:2], ["y b b b b", 0], *SEQUENCE[3:]]}, "observation"),
    (RECORD | {"sequence": "Wordle:\n"}, "wordle trajectory"),
    ([RECORD], "wordle trajectory"),
    (RECORD | {"done": "false"}, "'false' instead of true or false"),
    (RECORD | {"reward": [-1, 0, float("nan"), 0, 0, 0]}, "NaN instead of a finite number"),
    (json.dumps(RECORD).replace("-1.0", "-1e999", 1), "the reward -inf instead of a finite number"),
    (RECORD | {"sequence": [SEQUENCE[0], [SEQUENCE[1][0] + SEQUENCE[1][0], 1], *SEQUENCE[2:]]}, "instead of one line"),
    (RECORD | {"sequence": [SEQUENCE[0], ["\ud800\n", 1], *SEQUENCE[2:]]}, "half a surrogate pair"),
])
def test_bad_line_is_named(tmp_path, bad, what):
    with pytest.raises(ValueError, match=r"original\.jsonl, line 2: .*" + what):
        read(tmp_path, RECORD, bad)


# --- Vocabularies ---


def test_shipped_words():
    assert 400 <= len(WORDS) <= 460 and WORDS == sorted(set(WORDS))
    assert all(len(word) == 5 and word.isascii() and word.islower() for word in WORDS)
    header = WORDS_FILE.read_text().partition(WORDS[0] + "\n")[0]
    assert "SCOWL" in header and "Permission to use, copy, modify, distribute" in header


def test_vocabulary_option(tmp_path):
    path = write_words(tmp_path / "words.txt", "# mine", "zesty", "", "fuzzy  # yellow", "zippy\r")
    env = make("wordle", vocabulary=path)
    assert env.vocabulary.words == ["zesty", "fuzzy", "zippy"]
    env.reset(0)
    assert env.word in env.vocabulary.words
    assert [env.step(action)[4]["valid"] for action in ("c r a n e\n", "z e s t y\n")] == [False, True]
    assert {text for t in env.generate(50, 0) for text in t.texts[1::2]} == set(map(spaced, env.vocabulary.words))
    assert make("wordle", vocabulary=path, real_duplicates="true").vocabulary is not env.vocabulary
    assert make("wordle", vocabulary=path).vocabulary is env.vocabulary


def test_words_of_other_lengths_are_left_out(tmp_path):
    """As in the original's `10k_words.txt`; how many is said."""
    path = write_words(tmp_path / "words.txt", "a", "crane", "cranes", "don't", "house", "isn't it")
    with pytest.raises(ValueError, match="line 4: .*\"don't\""):
        make("wordle", vocabulary=path)
    path = write_words(tmp_path / "other.txt", "a", "crane", "cranes", "can't've", "house", "a", "ä")
    with pytest.warns(UserWarning, match=r"other\.txt: words of other lengths are left out, 5 in all"):
        assert make("wordle", vocabulary=path).vocabulary.words == ["crane", "house"]


@pytest.mark.filterwarnings("error")
def test_byte_order_mark_in_a_word_list(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / encoding).write_text("crane\nhouse\n", encoding=encoding)
        assert make("wordle", vocabulary=str(tmp_path / encoding)).vocabulary.words == ["crane", "house"]


@pytest.mark.parametrize(("lines", "what"), [
    (["crane", "", "Crane"], r"words\.txt, line 3: .*'Crane'"),
    (["# words", "crane house"], r"words\.txt, line 2: .*'crane house'"),
    (["crané"], r"words\.txt, line 1"),
    (["crane", "house", "crane"], r"words\.txt, line 3: 'crane' .*line 1"),
    (["# none"], r"words\.txt: .*none among 0 words"),
    (["a", "cranes"], r"words\.txt: .*none among 2 words"),
])
def test_bad_vocabulary(tmp_path, lines, what):
    with pytest.raises(ValueError, match=what):
        make("wordle", vocabulary=write_words(tmp_path / "words.txt", *lines))


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="no vocabulary file .*missing.txt"):
        make("wordle", vocabulary=str(tmp_path / "missing.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match="binary: expected words of five letters, found none"):
        make("wordle", vocabulary=str(tmp_path / "binary"))
    with pytest.raises(ValueError, match="real_duplicates must be true or false"):
        make("wordle", real_duplicates="yes")
    with pytest.raises(ValueError, match="'vocab'"):
        make("wordle", vocab="words.txt")


@pytest.mark.parametrize("real_duplicates", ["false", "true"])
def test_long_vocabulary(tmp_path, real_duplicates):
    words = map("".join, itertools.product("abeirst", repeat=5))  # 16,807
    path = write_words(tmp_path / "words.txt", *itertools.islice(words, 12_972))
    env = make("wordle", vocabulary=path, real_duplicates=real_duplicates)
    assert len(env.vocabulary.words) == 12_972
    assert all(t.success or len(t.rewards) == 6 for t in env.generate(20, 0))


# --- Players and reference returns ---


def test_reference_returns():
    env = make("wordle")
    assert env.worst == env.worst_return() == -6
    assert env.best == env.best_return()
    assert env.worst < env.data < env.best
    assert env.vocabulary.mean_return(env.vocabulary.information_gain) > -2.0
    assert (env.score(env.worst), env.score(env.data), env.score(env.best)) == (0, 50, 100)
    assert (env.paper_score(-6), env.paper_score(-4.12), env.paper_score(-1.94)) == (0, 50, 100)


def test_worst_return_is_reached():
    for word in WORDS:
        env = game(word)
        others = [other for other in WORDS if other != word][:6]
        assert sum(env.step(spaced(other))[1] for other in others) == Wordle.worst


@pytest.mark.parametrize("real_duplicates", ["false", "true"])
@pytest.mark.parametrize("name", ["information_gain", "best"])
def test_exact_return_is_what_play_gives(name, real_duplicates):
    env = make("wordle", real_duplicates=real_duplicates)
    player, total = env.players()[name], 0.0
    for word in WORDS:
        env.reset(0)
        env.word, over = word, False
        while not over:
            _, reward, over, _, info = env.step(player(env, random.Random(0)))
            total += reward
        assert info["success"]
    choose = env.vocabulary.information_gain if name == "information_gain" else env.vocabulary.best_guess
    assert total / len(WORDS) == pytest.approx(env.vocabulary.mean_return(choose), abs=1e-12)


def test_no_player_beats_the_best():
    """A bound that leans on none of the search: behind every first guess, and every second, as good as can be."""
    row = {guess: [paper_colours(guess, word) for word in WORDS] for guess in WORDS}

    def parts(words, guess):
        parts = {}
        for word in words:
            parts.setdefault(row[guess][word], []).append(word)
        parts.pop("ggggg", None)
        return list(parts.values())

    def least(words):  # of n words one at most is found at once, and the others cost 1 or more
        def behind(guess):
            return sum(len(part) + len(part) - 1 for part in parts(words, guess))

        return len(words) - 1 if len(words) < 3 else min(map(behind, WORDS))

    everything, best = range(len(WORDS)), round(-Wordle.best * len(WORDS))
    for guess in WORDS:
        cost = len(WORDS) - 1
        after = sorted(parts(everything, guess), key=len, reverse=True)
        bounds = [len(part) - 1 for part in after]
        for index, part in enumerate(after):
            if cost + sum(bounds) >= best:
                break
            bounds[index] = least(part)
        assert cost + sum(bounds) >= best


def brute_force(vocabulary: Vocabulary, words: tuple[int, ...], known: dict[tuple[int, ...], int]) -> int:
    """The least cost over all decision trees."""
    if len(words) < 2:
        return 0
    if words not in known:
        costs = []
        for guess in vocabulary.words:
            groups = {}
            for word in words:
                groups.setdefault(vocabulary.colours(guess, vocabulary.words[word]), []).append(word)
            if len(groups) > 1:
                groups.pop("ggggg", None)
                parts = [tuple(group) for group in groups.values()]
                costs.append(sum(len(part) + brute_force(vocabulary, part, known) for part in parts))
        known[words] = min(costs)
    return known[words]


@given(st.lists(st.text("abcd", min_size=5, max_size=5), min_size=1, max_size=7, unique=True), st.booleans())
@settings(max_examples=100, deadline=None)
def test_search_finds_the_best_tree(words, real):
    vocabulary = Vocabulary(words, real_colours if real else paper_colours)
    cost = brute_force(vocabulary, vocabulary.all, {})
    assert vocabulary.bound(vocabulary.all) <= cost == vocabulary.solve(vocabulary.all)[0]
    if len(words) < 7:  # a sixth wrong guess ends the game
        assert vocabulary.mean_return(vocabulary.best_guess) == -cost / len(words)


@pytest.mark.parametrize("seed", [32, 49, 59, 78, 81, 91])  # samples in which the best first guess is another
def test_search_beats_information_gain(seed):
    vocabulary = Vocabulary(sorted(random.Random(seed).sample(WORDS, 30)), paper_colours)
    cost = brute_force(vocabulary, vocabulary.all, {})
    assert vocabulary.solve(vocabulary.all)[0] == cost
    assert vocabulary.mean_return(vocabulary.best_guess) == -cost / 30
    assert vocabulary.mean_return(vocabulary.information_gain) < -cost / 30


def test_search_passes_by_guesses_that_tell_nothing():
    family = [letter + "ight" for letter in "bdefklmnrst"]
    vocabulary = Vocabulary([*family, "vvvvv", "zzzzz"], paper_colours)
    assert vocabulary.solve(tuple(range(len(family))))[0] == len(family) * (len(family) - 1) // 2


def test_bound_heeds_guesses_that_cannot_be_right():
    family = [letter + "ight" for letter in "bdefklmn"]
    vocabulary = Vocabulary([*family, "bdefk"], paper_colours)  # the last word tells b, d, e, f, k and the rest apart
    words = tuple(range(len(family)))
    assert vocabulary.bound(words) == 2 * 8 - 6
    assert vocabulary.solve(words) == (8 + 0 + 1 + 2, 8) and brute_force(vocabulary, words, {}) == 11


def test_beam_is_no_worse_than_information_gain(monkeypatch):
    monkeypatch.setattr("envs.wordle.EXACT_WORDS", 0)
    for seed in range(5):
        vocabulary = Vocabulary(random.Random(seed).sample(WORDS, 150), paper_colours)
        assert vocabulary.mean_return(vocabulary.best_guess) >= vocabulary.mean_return(vocabulary.information_gain)


def test_information_gain_is_greatest():
    env = make("wordle")

    def entropy(guess, words):
        counts = Counter(paper_colours(WORDS[guess], WORDS[word]) for word in words)
        return -sum(count / len(words) * log2(count / len(words)) for count in counts.values())

    for seed in range(15):
        play(env, env.players()["information_gain"], seed)
        words = tuple(sorted(random.Random(seed).sample(range(len(WORDS)), 3 + 2 * seed)))
        chosen = env.vocabulary.information_gain(words)
        entropies = [entropy(guess, words) for guess in range(len(WORDS))]
        equal = [guess for guess, value in enumerate(entropies) if value > max(entropies) - 1e-9]
        assert chosen == ([guess for guess in equal if guess in words] or equal)[0]


def test_consistent_players():
    env, rng = make("wordle"), random.Random(0)
    for seed in range(50):
        env.reset(seed)
        over, answers = False, []
        while not over:
            action = env.players()["consistent"](env, rng)
            guess = action[:-1].replace(" ", "")
            assert all(OBS[paper_colours(before, guess)] == obs for before, obs in answers)
            obs, _, over, _, _ = env.step(action)
            answers.append((guess, obs))
    means = {name: statistics.mean(play(env, player, seed).episodic_return for seed in range(1000))
             for name, player in env.players().items()}
    assert means["random"] < means["data"] < means["consistent"] < means["best"]
    assert means["data"] == pytest.approx(Wordle.data, abs=0.2)


# --- Terminal ---


def test_render():
    env = game("crane")
    assert env.render(env.step("t r a i n\n")[0]) == (
        "\033[97;100m T \033[0m\033[30;42m R \033[0m\033[30;42m A \033[0m\033[97;100m I \033[0m\033[30;43m N \033[0m\n"
        " b  g  g  b  y\n")
    assert env.render(env.step("cranes")[0]) == "not a word of the list, whose letters are small\n"
    for _ in range(4):
        obs = env.step("")[0]
    assert "the word was crane" in env.render(obs)
    assert "the word was" not in env.render("Wordle:\n")


def prompted(*arguments, text=""):
    command = [sys.executable, "-m", "envs.wordle", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, encoding="utf-8", check=True).stdout


def test_example_is_a_word(tmp_path):
    """What the prompt shows as an example is taken, whatever the list; so are those of the docstrings."""
    words = write_words(tmp_path / "words.txt", "zebra", "house")
    for arguments in ((), ("--options", "vocabulary", words)):
        example = prompted(*arguments).partition("as in `")[2].partition("`")[0]
        shown = prompted(*arguments, text=f"{example}\n")
        assert len(example) == 9 and "not a word" not in shown and f"{'  '.join(example[::2].upper())} \n" in shown
    assert "not a word" in prompted("--options", "vocabulary", words, text="c r a n e\n")
    found = [word for path in ROOT.glob("envs/**/*.py")
             for word in re.findall(r"""["`]((?:[a-z] ){4}[a-z])(?=["`\\])""", path.read_text())]
    examples = [f"{word}\n" for word in found if set(word) - set("byg ")]  # the others are answers
    assert len(examples) >= 2 and set(examples) <= set(make("wordle").vocabulary.actions)


def test_terminal():
    command = [sys.executable, "-m", "envs.wordle", "--player", "best", "--seed", "3"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.startswith("Wordle:\n") and "> c r a n e\n" in output and ", success" in output
