"""The benchmark: its two ways do the same work, it counts the work rightly, and it runs. Nothing here is timed."""

import sys
from dataclasses import replace

import pytest

from algos import bc_maze
from envs import VectorEnv
from tests import bench

SMALL = ["--device", "cpu", "--dtype", "float32", "--pairs", "1", "--num-envs", "3", "--num-games", "12",
         "--teaching-steps", "2", "--training-seconds", "0", "--minibatch-tokens", "300"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Short mazes, small tensors, and a folder of our own."""
    monkeypatch.setattr(bench, "RUNS", tmp_path)
    monkeypatch.setattr("envs.maze.MAX_MOVES", 6)
    monkeypatch.setattr(bench, "copy_rate", lambda device: 1e9)
    monkeypatch.setattr(bench, "matmul_rate", lambda device, dtype: 1e9)
    monkeypatch.setattr(bc_maze, "tqdm", bc_maze.tqdm)  # `main` replaces it
    monkeypatch.setitem(bench.SHAPES, "16M", bench.LlamaConfig(
        vocab_size=2000, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=512, **bench.NONE))


def options(*flags):
    return bench.tyro.cli(bench.Args, args=[*SMALL, *flags])


@pytest.mark.parametrize("size, task", [("tiny", "maze_fo"), ("tiny", "wordle"), ("16M", "twenty_questions")])
def test_both_ways_play_the_same_games(size, task):
    """Greedily; with natural tokens the ordinary way may cut words otherwise when it encodes again."""
    case = bench.Case(size, task, 3, options("--teaching-steps", "8"))
    case.args.temperature = 0.0
    ours, ordinary = case.play(range(3)), case.play_ordinary(range(3))
    assert [game.trajectory for game in ours] == ordinary
    assert sum(len(game.trajectory.rewards) for game in ours) > 3
    envs = VectorEnv(task, 3)
    bench.replay(ordinary, envs, range(3))
    assert len(envs.free) == 3


@pytest.mark.parametrize("task", ["maze_fo", "wordle"])
def test_both_ways_learn_the_same(task):
    """The same loss, where no window comes twice (the scripts compute equal ones once, but count them as often)."""
    case = bench.Case("tiny", task, 3, options())
    games = next(case.batches)
    ours = bc_maze.bc_loss(case.policy, bc_maze.collate(games, "cpu"))
    assert bench.ordinary_loss(case.policy, games, "cpu").item() == pytest.approx(ours.item(), abs=1e-5)


def test_work():
    """Two games of two turns, counted by hand."""
    case = bench.Case("16M", "wordle", 2, options())
    games = []
    for _ in range(2):
        game = bc_maze.Episode(False, 100, 4)
        for obs in ([1, 2, 3], [4, 5]):
            game.observe(obs)
            game.act([6, 7])
            game.end_turn(0.0, True, suffix=[])
        games.append(game)
    work = bench.work_of(games, case.policy, num_envs=2, itemsize=4)
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # of two layers: q and o, k and v, the MLP
    head = 32 * 2000
    cache = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head's width, bytes
    assert (work.turns, work.tokens, work.passes) == (4, 18, 4)
    assert work.bytes == 4 * 4 * (weights + head) + cache * 2 * (3 + 4 + 7 + 8)
    attention = 2 * 2 * 32 * 8**2  # of each game: two products, two operations, half of them masked
    assert work.operations == 2 * (2 * weights * 8 + 2 * head * 4 + attention)
    assert bench.work_of(games, case.policy, num_envs=1, itemsize=4).passes == 8
    assert work.bound(copy=1.0, matmul=1e99) == work.bytes and work.bound(1e99, 1.0) == work.operations


def test_turns_are_taken():
    said = []
    results = list(bench.in_turns(3, lambda: said.append("a") or 1, lambda: said.append("b") or 2))
    assert said == [*"abbaab"] and results == [[1, 2]] * 3


def test_it_runs(monkeypatch, capsys):
    """And a case that fails does not stop the others."""
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    original = bench.training
    monkeypatch.setattr(bench, "training", lambda case: original(case) if case.task == "wordle" else 1 / 0)
    with pytest.raises(SystemExit, match="^error: not measured: 16M, maze_fo, 3 games$"):
        bench.main(replace(options(), sizes=("16M",), tasks=("maze_fo", "wordle")))
    printed = capsys.readouterr().out
    assert printed.count("| 16M, wordle, 3 |") == 1 and "| 16M, maze_fo, 3 |" in printed
    for title in ("### Playing", "### Training", "### Without a model"):
        assert title in printed
    assert "nan" not in printed
