"""Same name, same code: what two scripts of algos/ call by one name is the same text in both.

    python tests/test_same_name_same_code.py                           check; exit status 1 and the differing places
    python tests/test_same_name_same_code.py --from algos/bc_maze.py   copy that file's versions over all the others
    python tests/test_same_name_same_code.py --new algos/ilql_wordle.py
                                                                       print what that script has and bc_maze.py has not

That holds for top-level functions, classes and constants, except `Args`, `TUNED`, `PAPER`, `Batch`, `collate` and
`main`. An `Args` field of one name has one type and one help text, the comment on its line; its default may differ.
`--new` leaves out the docstring, `Args`, `TUNED`, `PAPER` and `main`, and ends with the number of lines: what somebody
who knows bc_maze.py still has to read.
"""

import argparse
import ast
import difflib
import io
import subprocess
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = {"Args", "TUNED", "PAPER", "main"}  # of each script
EXEMPT = OWN | {"Batch", "collate"}  # may differ
# Whose meaning is another one where nothing is trained, and the model may be a server's.
OWN_HELP = {"prompt_guess_city.py": {"Args.seed", "Args.model", "Args.num_test_episodes"}}


@dataclass
class Part:
    """Something that has to be the same wherever it is: its text, and where in the script's characters that is."""

    name: str
    text: str
    line: int
    spans: list[tuple[int, int]]  # one of a definition; of an Args field that of the type and that of the help


def names_of(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def read_parts(source: str) -> list[Part]:
    """The script's definitions and the fields of its `Args`, in the order of the file."""
    lines = list(io.StringIO(source))
    line_starts = [0]
    for line in lines:
        line_starts.append(line_starts[-1] + len(line))
    comments = {token.start[0]: token for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}
    parts = []
    for node in ast.parse(source).body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        while first > 1 and lines[first - 2].startswith("#") and not lines[first - 2].startswith("# ---"):
            first -= 1  # a comment right above belongs to it
        span = line_starts[first - 1], line_starts[node.end_lineno]
        parts += [Part(name, source[slice(*span)].rstrip("\n"), first, [span]) for name in names_of(node)]
        if isinstance(node, ast.ClassDef) and node.name == "Args":
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    parts.append(read_field(source, field, lines, line_starts, comments))
    return parts


def read_field(source: str, field: ast.AnnAssign, lines: list[str], line_starts: list[int],
               comments: dict[int, tokenize.TokenInfo]) -> Part:
    """The type and the help of a field of `Args`."""
    def position(line: int, utf8_column: int) -> int:
        return line_starts[line - 1] + len(lines[line - 1].encode()[:utf8_column].decode())

    kind = field.annotation
    type_span = position(kind.lineno, kind.col_offset), position(kind.end_lineno, kind.end_col_offset)
    comment = comments.get(field.end_lineno)
    end = line_starts[field.end_lineno - 1] + (comment.end[1] if comment else len(lines[field.end_lineno - 1].rstrip()))
    help_span = (end - len(comment.string), end) if comment else (end, end)
    text = f"{source[slice(*type_span)]}  {source[slice(*help_span)]}"
    return Part(f"Args.{field.target.id}", text, field.lineno, [type_span, help_span])


def shared_parts(path: Path) -> list[Part]:
    """All that has to be the same as in another script under the same name."""
    exempt = EXEMPT | OWN_HELP.get(path.name, set())
    return [part for part in read_parts(path.read_text(encoding="utf-8")) if part.name not in exempt]


def differences(paths: list[Path]) -> list[str]:
    """For each name, the scripts that differ from the version that most of them have: the places and a diff."""
    versions: dict[str, list[tuple[str, Part]]] = {}
    for path in sorted(paths):
        for part in shared_parts(path):
            versions.setdefault(part.name, []).append((f"{path.parent.name}/{path.name}:{part.line}", part))
    messages = []
    for name, places in versions.items():
        usual = Counter(part.text for _, part in places).most_common(1)[0][0]
        there = next(place for place, part in places if part.text == usual)
        for place, part in places:
            if part.text != usual:
                texts = usual.splitlines(), part.text.splitlines()
                diff = list(difflib.unified_diff(*texts, there, place, n=1, lineterm=""))
                diff[24:] = [f"… {len(diff) - 24} more lines"] * (len(diff) > 24)
                messages.append("\n    ".join([f"{place}: `{name}` is not as in {there}", *diff]))
    return messages


def copy_from(model: Path, folder: Path) -> list[str]:
    """Give the folder's other scripts `model`'s versions of what they have by the same name; returns what changed."""
    model_source = model.read_text(encoding="utf-8")
    wanted = {part.name: part for part in shared_parts(model)}
    changed = []
    for path in sorted(folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        edits: dict[tuple[int, int], str] = {}
        for part in shared_parts(path) if path.resolve() != model.resolve() else []:
            if part.name in wanted and wanted[part.name].text != part.text:
                for span, other in zip(part.spans, wanted[part.name].spans, strict=True):
                    text = model_source[slice(*other)]
                    if edits.setdefault(span, text) != text:
                        raise ValueError(f"{path}:{part.line}: one statement for what are several in {model}")
                changed.append(f"{folder.name}/{path.name}:{part.line}: {part.name}")
        for (start, end), text in sorted(edits.items(), reverse=True):
            space = "  " if start == end and text else ""  # before a help text where there was none
            source = source[:start] + space + text + source[end:]
        ast.parse(source)
        if edits:
            aside = path.with_name(path.name + ".tmp")
            aside.write_text(source, encoding="utf-8")
            aside.chmod(path.stat().st_mode)
            aside.replace(path)
    return changed


def new_parts(path: Path, known: Path) -> list[str]:
    """What is defined in one script and not, or not in these words, in the other: the texts, without `OWN`."""
    known_parts = {(part.name, part.text) for part in read_parts(known.read_text(encoding="utf-8"))}
    parts = [part for part in read_parts(path.read_text(encoding="utf-8"))
             if (part.name, part.text) not in known_parts
             and part.name not in OWN and not part.name.startswith("Args.")]
    return list({part.line: part.text for part in parts}.values())  # one statement may define several names


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--from", dest="model", type=Path, metavar="SCRIPT",
                        help="script whose versions replace those of all the others")
    choice.add_argument("--new", type=Path, metavar="SCRIPT",
                        help="script of which to print what bc_maze.py has not")
    args = parser.parse_args()
    algos = ROOT / "algos"
    for script in (args.model, args.new, args.new and algos / "bc_maze.py"):
        if script and (not script.is_file() or script.resolve().parent != algos):
            parser.error(f"{script} is no script of {algos}")
    if args.new:
        texts = new_parts(args.new, algos / "bc_maze.py")
        print("\n\n\n".join(texts), end="\n\n" if texts else "")
        print(f"{sum(text.count(chr(10)) + 1 for text in texts)} lines")
        return
    if args.model:
        print("\n".join(copy_from(args.model, algos)))
    messages = differences(list(algos.glob("*.py")))
    print("\n".join(messages), end="\n" if messages else "")
    sys.exit(bool(messages))


# --- Tests ---


def test_scripts_agree():
    """Those that git knows: somebody's own script is his own matter, until he adds it."""
    try:
        listed = subprocess.run(["git", "ls-files", "algos/*.py"], cwd=ROOT, capture_output=True, text=True).stdout
    except FileNotFoundError:  # no git
        listed = ""
    paths = [path for path in (ROOT / "algos").glob("*.py") if not listed or f"algos/{path.name}" in listed.split("\n")]
    messages = differences(paths)
    assert not messages, "\n".join(["", *messages])


FIRST = '''\
"""First."""

from dataclasses import dataclass
from functools import cache

SIZE = 1


@dataclass
class Args:
    # --- general
    seed: int = 1  # seed of the größte run
    """not the help"""
    name: str = "ä#b"  # name of the run
    betas: tuple[float, ...] = (
        1.0,
    )  # some weights
    only_first: int = 2  # mine


TUNED = {"maze_fo": dict(seed=1)}
PAPER = dict(seed=2)


# --- Model ---


# Why it is so.
@cache
def double(x):
    """Twice."""
    return 2 * x  # not x + x


OBS, ACTION = 0, 1
ONLY_FIRST = 3


class Net:
    def forward(self):
        return SIZE


# --- Loss ---


# What this one needs.
class Batch:
    ids: int


def collate(games):
    return Batch(games)


def main(args):
    return 1
'''

# What another script may change, and what it may not: (old text, new text, name of what differs then).
ALLOWED = [
    ("seed: int = 1", "seed: int = 7"),
    ('"ä#b"', '"another # name"'),
    ("        1.0,\n", "        2.0,\n        3.0,\n"),
    ("    only_first: int = 2  # mine\n", ""),
    ("# --- general\n", "# --- all\n"),
    ('TUNED = {"maze_fo": dict(seed=1)}', "TUNED = {}"),
    ("PAPER = dict(seed=2)", "PAPER = dict(seed=3)"),
    ('"""First."""', '"""Second."""'),
    ("ONLY_FIRST = 3\n", ""),
    ("# --- Model ---\n", "# --- Model ---\n\n\nONLY_SECOND = 1\n\n\ndef only_second(x):\n    pass\n"),
    ("    ids: int\n", "    ids: int\n    rewards: float\n"),
    ("    return Batch(games)\n", "    return Batch(games[:2])\n"),
    ("    return 1\n", "    return 2\n"),
]
FORBIDDEN = [
    ("return 2 * x", "return x * 2", "double"),
    ("  # not x + x", "", "double"),
    ("@cache\n", "", "double"),
    ("# Why it is so.\n", "", "double"),
    ("Twice.", "Twofold.", "double"),
    ("return SIZE", "return  SIZE", "Net"),
    ("SIZE = 1", "SIZE = 2", "SIZE"),
    ("OBS, ACTION = 0, 1", "OBS, ACTION = 1, 0", "OBS"),
    ("seed: int", "seed: int | None", "Args.seed"),
    ("größte", "kleinste", "Args.seed"),
    ("  # name of the run", "", "Args.name"),
    ("# some weights", "# weights", "Args.betas"),
    ("tuple[float, ...]", "list[float]", "Args.betas"),
]


def scripts(tmp_path: Path, second: str) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "check.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    folder = tmp_path / "algos"
    folder.mkdir()
    (folder / "first.py").write_text(FIRST, encoding="utf-8")
    (folder / "second.py").write_text(second, encoding="utf-8")
    (folder / "third.py").write_text(FIRST, encoding="utf-8")
    return folder


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "utf8", "tests/check.py", *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=60)


def allowed_differences() -> str:
    second = FIRST
    for old, new in ALLOWED:
        assert second.count(old) == 1
        second = second.replace(old, new)
    return second


def test_allowed_differences(tmp_path):
    folder = scripts(tmp_path, allowed_differences())
    assert differences(list(folder.glob("*.py"))) == []
    before = (folder / "second.py").read_text()
    assert copy_from(folder / "first.py", folder) == [] and (folder / "second.py").read_text() == before
    assert command(tmp_path).returncode == 0


def test_every_difference_is_found_and_mended(tmp_path):
    folder, second = scripts(tmp_path, ""), allowed_differences()
    for old, new, name in FORBIDDEN:
        assert second.count(old) == 1
        broken = second.replace(old, new)
        (folder / "second.py").write_text(broken, encoding="utf-8")
        messages = differences(list(folder.glob("*.py")))
        assert [message.split("`")[1] for message in messages][0] == name
        assert all(message.startswith("algos/second.py:") for message in messages)
        assert "algos/first.py:" in messages[0] and "    +" in messages[0] and "    -" in messages[0]
        assert [line.split(": ")[1] for line in copy_from(folder / "first.py", folder)][0] == name
        assert (folder / "second.py").read_text(encoding="utf-8") == second  # its own defaults are kept
    assert sorted(path.name for path in folder.iterdir()) == ["first.py", "second.py", "third.py"]
    assert (folder / "first.py").read_text(encoding="utf-8") == FIRST


def test_command(tmp_path):
    broken = allowed_differences().replace("return 2 * x", "return x + x")
    folder = scripts(tmp_path, broken)
    found = command(tmp_path)
    line = broken[: broken.index("# Why")].count("\n") + 1
    assert found.returncode == 1 and f"algos/second.py:{line}: `double`" in found.stdout
    assert "    -    return 2 * x" in found.stdout and "    +    return x + x" in found.stdout
    mended = command(tmp_path, "--from", "algos/second.py")
    assert mended.returncode == 0, mended.stderr
    assert (folder / "first.py").read_text(encoding="utf-8") == FIRST.replace("return 2 * x", "return x + x")
    assert command(tmp_path, "--from", "algos/none.py").returncode == 2


NEW = '''\
# --- Model ---


LEFT, RIGHT = 4, 5


@cache
def only_second(x):
    """Thrice."""

    return 3 * x

'''


def test_new(tmp_path):
    """What the second script has and bc_maze.py has not: in the words of the file, and nothing that both have."""
    folder = scripts(tmp_path, allowed_differences().replace("# --- Model ---\n", NEW))
    (folder / "first.py").rename(folder / "bc_maze.py")
    found = command(tmp_path, "--new", "algos/second.py")
    new = ["LEFT, RIGHT = 4, 5", '@cache\ndef only_second(x):\n    """Thrice."""\n\n    return 3 * x',
           "ONLY_SECOND = 1", "def only_second(x):\n    pass",
           "# What this one needs.\nclass Batch:\n    ids: int\n    rewards: float",
           "def collate(games):\n    return Batch(games[:2])"]
    assert found.stdout == "\n\n\n".join(new) + "\n\n15 lines\n" and found.returncode == 0
    assert command(tmp_path, "--new", "algos/third.py").stdout == "0 lines\n"
    assert command(tmp_path, "--new", "algos/bc_maze.py").stdout == "0 lines\n"
    (folder / "bc_maze.py").unlink()
    without = command(tmp_path, "--new", "algos/second.py")
    assert without.returncode == 2 and "bc_maze.py is no script" in without.stderr


if __name__ == "__main__":
    main()
