"""The tiny models: their folders load, their tokenizers lose nothing, and make.py makes what is committed."""

import json
from statistics import median
from typing import get_args

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from envs import EnvId, make, play
from envs.tiny import make as tiny

HERE = tiny.HERE
ACTION_TOKENS = dict.fromkeys(get_args(EnvId), 1) | {"chess": 4, "endgames": 4, "car_dealer": 7}  # at most, usually
variants = pytest.mark.parametrize("env_id", get_args(EnvId))


@pytest.fixture(scope="module")
def games():
    """Games of a variant that its vocabulary was not taken from: of the data's player, and one of mere errors."""
    known = {}

    def games_of(env_id):
        if env_id not in known:
            try:
                env = make(env_id)
            except FileNotFoundError as error:  # no Stockfish
                pytest.skip(str(error))
            known[env_id] = list(env.generate(4, seed=1)), play(env, lambda env, rng: "What?! 5 + 5…\n", seed=1)
        return known[env_id]

    return games_of


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where `main` writes instead of the checkout."""
    monkeypatch.setattr("envs.data.DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(tiny, "HERE", tmp_path / "tiny")
    return tmp_path / "tiny"


def content(path):
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in path.iterdir()}


def test_each_variant_has_a_row():
    assert tuple(tiny.TABLE) == get_args(EnvId)


@variants
def test_folder_is_a_model(env_id, tmp_path):
    assert set(content(HERE / env_id)) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert sum(file.stat().st_size for file in (HERE / env_id).iterdir()) < 500_000
    config, tokenizer = AutoConfig.from_pretrained(HERE / env_id), AutoTokenizer.from_pretrained(HERE / env_id)
    assert config.vocab_size == len(tokenizer)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(config.max_position_embeddings)[None] % config.vocab_size
    logits = model(ids).logits
    assert logits.shape == (*ids.shape, config.vocab_size) and logits.isfinite().all()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert saved.config.lmrl_gym_task == env_id and saved.config.eos_token_id is None
    assert torch.equal(saved(ids).logits, logits)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


@variants
def test_texts_survive(env_id, games):
    tokenizer, (trajectories, errors) = AutoTokenizer.from_pretrained(HERE / env_id), games(env_id)
    for text in {text for game in [*trajectories, errors] for text in game.texts} | {tiny.CHARACTERS, "\n \n  a"}:
        ids = tokenizer.encode(text)
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


@variants
def test_an_action_is_a_few_tokens(env_id, games):
    tokenizer = AutoTokenizer.from_pretrained(HERE / env_id)
    lengths = [len(tokenizer.encode(action)) for game in games(env_id)[0] for action in game.texts[1::2]]
    assert median(lengths) <= ACTION_TOKENS[env_id]  # a rare action that the data lacks is spelled


@pytest.mark.parametrize("env_id", ["maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle"])
def test_main_makes_what_is_committed(env_id, folder):
    tiny.main((env_id,))
    assert content(folder / env_id) == content(HERE / env_id)
