"""Makes envs/tiny/ENV_ID/: configuration and tokenizer of a small model for each task, to be trained from scratch.

`--model` of the scripts names these folders by default. They have no weights: `AutoModelForCausalLM.from_config` draws
them. Other sizes need no code: copy a folder, edit its config.json, and name the copy with `--model`.

A token is a piece of the task's own texts, as the pattern in TABLE cuts them, so that an action is one token or a few.
Texts made of other pieces are spelled: WordPiece takes the longest token that fits, down to single characters.

    python envs/tiny/make.py                   all of them; generates what is missing of the data, which takes an hour
    python envs/tiny/make.py maze_fo wordle    seconds
"""

import json
import string
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))  # runs from a plain checkout, from anywhere
from envs import EnvId, make  # noqa: E402
from envs.data import load_dataset, replace  # noqa: E402

MAX_PIECES = 20_000
# Part of every vocabulary, for texts that the generated data does not have: those of another file or of a language
# model as opponent, and the mark of an action that was cut off.
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n…"

PHRASES = r"\d|[,.]\n?|[^\d,.\n]+\n?"  # digits one by one, so that coordinates can be compared; the words between them
LINES = r"[^\n]*\n"  # a whole line: there are few, and each is one thing that is seen, guessed, asked or answered
PIECES = r"[^,.:\n]+[,.:]? ?\n?|."  # what stands between two marks: a command, a thing, a sentence
# Boards have a space between any two characters. In endgames, a token is a man or a number with the gap or the row's
# end after it. In chess, it is two squares side by side, with the row's end: `3`, three empty squares, is read as
# `. . .`, so that every square has its place in the window.
MEN = r"(?:\d )?[KQRk] (?:(?:\d )?(?:/ |  +))?|[wb]   -   -   |\d(?: [+#])?\n|\d (?:/ |  +)?|[a-h] |."
BOARD = r"[\w.] [\w.] (?:/ |  )?(?=.*   )|[\w-]   |(?:\d(?: \d)*(?: = \w)?|O - O(?: - O)?)(?: [+#])?\n|[\w=-] |."
EMPTY = {str(count): " ".join("." * count) for count in range(8, 0, -1)}  # how many empty squares, and as squares
IN_BOARD = r"(?= .*   [wb]   )"  # whose turn it is comes after the board
GOODS = r"\$[\d,]*\d| an? [\w-]+|(?:(?! an? )[^,.?!$\n])+|[,.?!]+\n?|."  # a price, a thing for sale, the words between


class Tiny(NamedTuple):
    """A tiny model, and where its tokens come from."""

    pattern: str  # regular expression; a match is a piece, and so is what stands between two matches
    architecture: str  # llama: rotary positions; gpt2: absolute ones, for a text whose columns are squares of a board
    width: int  # of the hidden states
    layers: int
    positions: int  # longest window in tokens
    num_trajectories: int  # of the offline data: their pieces are the vocabulary


TABLE = {
    "maze_fo":          Tiny(PHRASES, "llama",  64, 2, 1024,   1_240),
    "maze_po":          Tiny(LINES,   "llama",  64, 2,    8,   1_240),
    "text_nav_fo":      Tiny(PIECES,  "llama",  64, 2,   96,   2_500),
    "text_nav_po":      Tiny(PIECES,  "llama",  64, 2,   96,   2_500),
    "wordle":           Tiny(LINES,   "llama", 128, 2, 1024,  35_000),
    "chess":            Tiny(BOARD,   "gpt2",   64, 3,  128,   2_000),
    "endgames":         Tiny(MEN,     "gpt2",  128, 4,   64,  40_000),
    "twenty_questions": Tiny(LINES,   "llama", 128, 2, 1024, 300_000),
    "guess_city":       Tiny(LINES,   "llama", 128, 2, 1024, 300_000),
    "car_dealer":       Tiny(GOODS,   "llama",  64, 2,  512,  50_000),
}


def make_config(env_id: str, vocab_size: int) -> dict[str, Any]:
    """What config.json has; what it leaves out is the architecture's default."""
    tiny = TABLE[env_id]
    config = {
        "model_type": tiny.architecture,
        "lmrl_gym_task": env_id,  # saved along with what is trained from it: a model knows its task
        "vocab_size": vocab_size,
        "hidden_size": tiny.width,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": max(1, tiny.width // 16),
        "intermediate_size": 4 * tiny.width,
        "max_position_embeddings": tiny.positions,
        "initializer_range": tiny.width**-0.5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if tiny.architecture == "gpt2":
        config["activation_function"] = "gelu_pytorch_tanh"  # what GPT-2's default computes, but in one kernel
    return config


def make_tokenizer(env_id: str) -> Tokenizer:
    """The tokenizer of the variant's offline data, which is generated if it is not there."""
    tiny = TABLE[env_id]
    env = make(env_id)
    trajectories = load_dataset(env, num_trajectories=tiny.num_trajectories)
    texts = sorted({text for trajectory in trajectories for text in trajectory.texts})
    tables = [file.read_text(encoding="utf-8") for file in env.files if file.suffix == ".txt"]  # they know Bogotá
    split = pre_tokenizers.Split(Regex(tiny.pattern), "isolated")
    normalizer, decoder = None, decoders.Fuse()  # Fuse: no spaces between the tokens
    if tiny.pattern == BOARD:
        spell = [normalizers.Replace(Regex(f"{number}{IN_BOARD}"), dots) for number, dots in EMPTY.items()]
        count = [decoders.Replace(f"{dots} ", f"{number} ") for number, dots in EMPTY.items()]
        normalizer, decoder = normalizers.Sequence(spell), decoders.Sequence([decoder, *count])
        texts = [normalizer.normalize_str(text) for text in texts]
    pieces = Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(text))
    characters = sorted(set(CHARACTERS).union(*texts, *tables))
    known = dict.fromkeys(["<unk>", *characters, *(piece for piece, _ in pieces.most_common(MAX_PIECES))])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(known)}, unk_token="<unk>",
                                           continuing_subword_prefix="", max_input_chars_per_word=100_000))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoder
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def save(config: dict[str, Any], tokenizer: Tokenizer, path: Path) -> None:
    """Write a folder for `from_pretrained`, without weights."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    settings["clean_up_tokenization_spaces"] = False

    def write(temporary: Path) -> None:
        temporary.mkdir()
        tokenizer.save(str(temporary / "tokenizer.json"), pretty=False)
        for name, content in (("config.json", config), ("tokenizer_config.json", settings)):
            (temporary / name).write_text(json.dumps(content, indent=1) + "\n")

    replace(path, write)


def main(env_ids: tyro.conf.Positional[tuple[EnvId, ...]] = tuple(TABLE)) -> None:
    """Write the folders of `env_ids`."""
    for env_id in env_ids:
        tokenizer = make_tokenizer(env_id)
        save(make_config(env_id, tokenizer.get_vocab_size()), tokenizer, HERE / env_id)
        print(f"{env_id}: {tokenizer.get_vocab_size():,} tokens")


if __name__ == "__main__":
    tyro.cli(main)
