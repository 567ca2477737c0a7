"""The house rules that a machine can check: layout, lengths, density, sections, update, arguments, imports, --help."""

import ast
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest

import envs

ROOT = Path(__file__).resolve().parent.parent


def tracked() -> list[str] | None:
    """The files of the checkout that git knows; None if there is no git, or it does not know this checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return listed.stdout.split("\0")[:-1] or None


KNOWN = tracked()


def find(pattern: str) -> list[Path]:
    """What matches, without the files that the user keeps in his checkout."""
    return [path for path in sorted(ROOT.glob(pattern)) if KNOWN is None or path.relative_to(ROOT).as_posix() in KNOWN]


SCRIPTS = find("algos/*.py")
TASKS = find("envs/**/*.py")
FILES = [*SCRIPTS, *TASKS, *find("results/*.py"), *find("tests/*.py")]
TOP_LEVEL = {".ci", ".github", ".gitignore", "LICENSE", "README.md", "algos", "benchmarks.sh", "constraints.txt",
             "envs", "pyproject.toml", "requirements.txt", "results", "tests"}
HOMES = ("maze", "text_nav", "wordle", "chess", "twenty_questions", "guess_city", "car_dealer")
SECTIONS = ["Model", "Loss", "Games as tokens", "Rollout", "Evaluation", "Training"]
TRAINED = [path for path in SCRIPTS if path.stem != "prompt_guess_city"]  # the others: a model as it is
PACKAGES = {"torch", "transformers", "numpy", "tyro", "tqdm", "envs"}
TASK_PACKAGES = {"tqdm", "tyro", "envs"}
MORE_PACKAGES = {"data.py": {"filelock"}, "run.py": {"filelock"}, "chess.py": {"chess"},  # GPL-3: nowhere else
                 "twenty_questions/spelling.py": {"rapidfuzz"},
                 "guess_city/understanding.py": {"rapidfuzz"},
                 "tiny/make.py": {"filelock", "tokenizers", "transformers"}}
LOCAL_PACKAGES = {"run.py": {"wandb"}, "devices.py": {"torch", "transformers"},  # only where needed
                  "simulators.py": {"openai", "torch", "transformers"}}
PROPER_NAMES = ("Hugging Face", "Polyak")

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


def read(path: Path) -> tuple[str, ast.Module]:
    source = path.read_text(encoding="utf-8")
    return source, ast.parse(source)


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    """The calls below a node of what a regular expression matches, `(.*[.])?step` say."""
    found = [child for child in ast.walk(node) if isinstance(child, ast.Call)]
    return [call for call in found if re.fullmatch(name, ast.unparse(call.func))]


def function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(node for node in tree.body if isinstance(node, Function) and node.name == name)


def args_fields(tree: ast.Module) -> list[ast.AnnAssign]:
    args = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Args")
    return [node for node in args.body if isinstance(node, ast.AnnAssign)]


# --- Layout ---


def test_top_level():
    if KNOWN is None:
        pytest.skip("git does not know these files")
    assert {name.partition("/")[0] for name in KNOWN} <= TOP_LEVEL
    assert not [name for name in KNOWN if Path(name).name == "utils.py" or "common" in Path(name).parts]


@each(SCRIPTS)
def test_home_task(path):
    """A script is named after an algorithm and its home task, and plays that if nothing else is said."""
    home = next((home for home in HOMES if path.stem.endswith(f"_{home}")), None)
    assert home, f"{path.name} names no task"
    defaults = {field.target.id: ast.unparse(field.value) for field in args_fields(read(path)[1])}
    assert defaults["env_id"].startswith(f"'{home}")
    assert defaults["exp_name"] == "Path(__file__).stem"  # so that a copy has runs of its own


def test_tiny_models():
    """A configuration for each task, no weights, and no large file."""
    wrong = [str(path) for path in find("envs/tiny/**/*")
             if path.is_file() and (path.suffix not in (".json", ".py") or path.stat().st_size > 500_000)]
    assert not wrong
    for env_id in get_args(envs.EnvId):
        config = json.loads((ROOT / "envs" / "tiny" / env_id / "config.json").read_text(encoding="utf-8"))
        assert config["model_type"], env_id


@each([*FILES, *find("*.sh"), *find("tests/*.sh")])
def test_lines(path):
    most = 110 if path in SCRIPTS else 120
    lines = path.read_text(encoding="utf-8").split("\n")
    long = [number for number, line in enumerate(lines, 1) if len(line) > most]
    assert not long, f"{path}: more than {most} columns in lines {long}"
    left = [number for number, line in enumerate(lines, 1) if re.search(r"#.*\b(TODO|FIXME)\b", line)]
    assert path == Path(__file__) or not left, f"{path}: something is left to do in lines {left}"


@each(SCRIPTS)
def test_lengths(path):
    source, tree = read(path)
    too_long = [f"{place(path, node)}: {node.name} has {length} lines of at most {most}"
                for node in ast.walk(tree) if isinstance(node, Function)
                if (length := node.end_lineno - node.lineno + 1) > (most := 100 if node.name == "main" else 60)]
    if (num_lines := source.count("\n")) > 650:
        too_long.append(f"{path.relative_to(ROOT)} has {num_lines} lines, of at most 650")
    assert not too_long, "\n".join(["", *too_long])


def tokens_per_line(source: str) -> float:
    """The mean number of names, operators, numbers and strings in the lines of functions, docstrings left out.

    A token counts in the line where it starts, an f-string as one string, as before Python 3.12.
    """
    in_function: set[int] = set()
    in_docstring: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            in_function.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, (*Function, ast.ClassDef)) and ast.get_docstring(node) is not None:
            in_docstring.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = []
    in_f_string = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        starts, ends = kind.endswith("STRING_START"), kind.endswith("STRING_END")
        if kind in ("NAME", "OP", "NUMBER", "STRING") and not in_f_string or starts and not in_f_string:
            lines.append(token.start[0])
        in_f_string += starts - ends
    lines = [line for line in lines if line in in_function - in_docstring]
    return len(lines) / len(set(lines))


def test_tokens_per_line():
    source = '''\
x = f(1, 2, 3)


class A:
    """Not counted."""

    y: int = 1

    @cache
    def method(self, x):
        """Not
        counted."""
        # neither is this
        return f"{x} and {x + f'{x}'}" + "a" \\
            "b"  # and this


def function(
    x,
):

    return {1: 2.5,
            3: """a
b"""}
'''
    method = [8, 4, 1]  # def method ( self , x ) :    return f-string + "a"    "b"
    function_ = [3, 2, 2, 6, 3, 1]
    assert tokens_per_line(source) == sum(method + function_) / len(method + function_)


@each(SCRIPTS)
def test_density(path):
    density = tokens_per_line(read(path)[0])
    assert density <= 13.5, f"{path.relative_to(ROOT)}: {density:.1f} tokens a line in functions, of at most 13.5"


@each(SCRIPTS)
def test_sections(path):
    source, _ = read(path)
    sections = SECTIONS if path in TRAINED else ["Model", "Rollout", "Evaluation"]
    assert re.findall(r"^# -+ *(.*?) *-+$", source, re.MULTILINE) == sections
    assert all(f"\n\n\n# --- {name} ---\n\n\n" in source for name in sections)


@each(SCRIPTS)
def test_module_body(path):
    """Docstring, imports and the line that puts the checkout on the path, Args, TUNED, PAPER, definitions, main."""
    source, tree = read(path)
    docstring, *body, last = tree.body
    assert isinstance(docstring, ast.Expr) and ast.get_docstring(tree)
    assert "arXiv" in docstring.value.value and f"\n    python algos/{path.name}" in docstring.value.value
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'" and not last.orelse
    assert ast.unparse(last.body[-1]).startswith("main(") and len(last.body) <= 2
    assert isinstance(body[-1], Function) and body[-1].name == "main"
    definitions = ast.Import, ast.ImportFrom, *Function, ast.ClassDef, ast.Assign, ast.AnnAssign
    others = [ast.unparse(node) for node in body if not isinstance(node, definitions)]
    assert len(others) == 1 and others[0].startswith("sys.path.insert(0, ")
    first = source.index("# --- Model ---")
    names = ("Args", "TUNED", "PAPER") if path in TRAINED else ("Args",)
    places = [re.search(rf"^(class )?{name}\b", source, re.MULTILINE).start() for name in names]
    assert places == sorted(places) and places[-1] < first


@each(SCRIPTS + TASKS)
def test_docstrings(path):
    """Of what is public at the top level; a function of a single statement may go without."""
    _, tree = read(path)
    missing = [place(path, node) for node in tree.body if isinstance(node, (*Function, ast.ClassDef))
               and not node.name.startswith("_") and not ast.get_docstring(node)
               and (len(node.body) > 1 or isinstance(node, ast.ClassDef)) and node.name not in ("Args", "PlayArgs")]
    assert ast.get_docstring(tree), f"{path}: no docstring"
    assert not missing, "no docstring: " + ", ".join(missing)


# --- The update ---


def loop_bodies(node: ast.AST):
    """The bodies of the loops below a node, without functions within."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*Function, ast.Lambda)):
            if isinstance(child, (ast.For, ast.While)):
                yield [statement for statement in child.body if not isinstance(statement, Function)]
            yield from loop_bodies(child)


UPDATE = [r"(\w+_)?optimizer\.zero_grad", r".+\.backward", r"(.*\.)?clip_grad_norm_", r"(\w+_)?optimizer\.step"]


@each(TRAINED)
def test_update_is_in_sight(path):
    """The body of a loop of `main` has these four among its statements, in this order, and nothing else updates.

    Of several loops, where several models learn one after the other.
    """
    _, tree = read(path)
    main = function(tree, "main")
    found = []
    for body in loop_bodies(main):
        statements = [statement.value for statement in body if isinstance(statement, (ast.Expr, ast.Assign))]
        zero_grad, backward, clip, step = [[call.lineno for statement in body for call in calls(statement, name)
                                            if call in statements or name in UPDATE[1:3]] for name in UPDATE]
        if zero_grad and backward and clip and step:
            found.append((body, zero_grad[0] < backward[0] < clip[0] < step[0]))
    assert found, "no loop of main has zero_grad, backward, clip_grad_norm_ and step among its statements"
    assert all(in_order for _, in_order in found), "zero_grad, backward, clip_grad_norm_, step is the order"
    statements = [statement for body, _ in found for statement in body]
    waits = [place(path, call) for statement in statements for call in calls(statement, r".*\.(item|tolist|cpu|numpy)")]
    assert not waits, f"this would wait for the GPU in every step: {waits}"
    elsewhere = [place(path, call) for name in (UPDATE[1], UPDATE[3]) for call in calls(tree, name)
                 if call not in [call for statement in statements for call in calls(statement, name)]]
    assert not elsewhere, f"an update in another place: {elsewhere}"


@each(SCRIPTS)
def test_nothing_golfed(path):
    """No optimizer hook, no "first entry of the dict", no lambda longer than a name, no walrus inside a call."""
    _, tree = read(path)
    wrong = [(call, "a hook") for call in calls(tree, r".*register_\w*hook")]
    wrong += [(call, "next(iter(…))") for call in calls(tree, "next") if call.args and calls(call.args[0], "iter")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and not re.fullmatch(r"-?\w+([.]\w+|\[\w+\])*", ast.unparse(node.body)):
            wrong.append((node, "a lambda longer than a name"))
        if isinstance(node, ast.Call) and any(isinstance(child, ast.NamedExpr) for child in ast.walk(node)):
            wrong.append((node, "a walrus inside a call"))
    assert not wrong, "\n".join(["", *(f"{place(path, node)}: {what}" for node, what in wrong)])


# --- Arguments ---


@each(SCRIPTS)
def test_arguments(path):
    """Each has one help text, on its line, that starts in lower case; and it is used, here or in envs/."""
    source, tree = read(path)
    lines = source.split("\n")
    trees = [tree, *(read(ROOT / "envs" / name)[1] for name in ("run.py", "devices.py"))]
    used = {node.attr for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            and ast.unparse(node.value) in ("args", "self.args", "given")}
    wrong = []
    for field in args_fields(tree):
        _, _, help_text = lines[field.end_lineno - 1].encode()[field.end_col_offset :].decode().partition("  # ")
        lower = re.match(r"[^\W\d_A-Z]", help_text) or help_text.startswith(PROPER_NAMES)
        for right, what in ((lower, "no help text that starts in lower case"),
                            (not help_text.endswith("."), "a sentence instead of a phrase"),
                            (field.end_lineno == field.lineno, "more than one line"),
                            (field.value is not None, "no default"),
                            (field.target.id in used, "nothing uses it")):
            if not right:
                wrong.append(f"{place(path, field)}: {field.target.id}: {what}")
    assert not wrong, "\n".join(["", *wrong])


@each(TRAINED)
def test_tuned_values(path):
    """TUNED and PAPER: variant of a task -> names and values of arguments; TUNED only where they differ from Args."""
    script = importlib.import_module(f"algos.{path.stem}")
    defaults = {field.name: field.default if field.default is not MISSING else field.default_factory()
                for field in fields(script.Args)}
    wrong = [f"{name}: {env_id}" for name in ("TUNED", "PAPER") for env_id in getattr(script, name)
             if env_id not in get_args(envs.EnvId) or name == "TUNED" and env_id == defaults["env_id"]]
    for name in ("TUNED", "PAPER"):
        for env_id, values in getattr(script, name).items():
            for argument, value in values.items():
                if argument not in defaults.keys() - {"env_id", "exp_name", "seed"}:
                    wrong.append(f"{name}[{env_id!r}]: there is no argument {argument} to set")
                elif None not in (value, defaults[argument]) and not isinstance(value, type(defaults[argument])):
                    wrong.append(f"{name}[{env_id!r}]: {argument}={value!r} is of another type than in Args")
                elif name == "TUNED" and value == defaults[argument]:
                    wrong.append(f"{name}[{env_id!r}]: {argument}={value!r} is the same in Args")
    assert not wrong, "\n".join(["", *wrong])


@each(SCRIPTS)
def test_no_branch_by_task(path):
    """What differs between tasks stands in TUNED or in envs/. That two ids are the same may be asked."""
    _, tree = read(path)
    for node in ast.walk(tree):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            asked = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = [node.func.value]
        about_task = [bool(re.search(r"\benv_id('\])?$", ast.unparse(side))) for side in asked]
        same = isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)) and all(about_task)
        assert same or not any(about_task), f"{place(path, node)}: asks which task it is"


# --- Imports and safety ---


def imported(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    """(node, top-level package) of each import."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node, "." * node.level + (node.module or "").partition(".")[0]))
    return found


@each(SCRIPTS)
def test_imports_of_scripts(path):
    """None of another script, none inside a function."""
    _, tree = read(path)
    for node, package in imported(tree):
        assert node in tree.body, f"{place(path, node)}: imports {package} inside a function"
        assert package in PACKAGES | set(sys.stdlib_module_names), f"{place(path, node)}: imports {package}"
        assert package not in ("importlib", "runpy", "pickle"), f"{place(path, node)}: imports {package}"


@each(TASKS)
def test_imports_of_tasks(path):
    _, tree = read(path)
    name = path.relative_to(ROOT / "envs").as_posix()
    for node, package in imported(tree):
        allowed = TASK_PACKAGES | MORE_PACKAGES.get(name, set()) | set(sys.stdlib_module_names) - {"pickle"}
        if node not in tree.body:
            allowed |= LOCAL_PACKAGES.get(name, set())
        assert package in allowed, f"{place(path, node)}: imports {package}"


def test_tasks_load_no_torch():
    """Nor numpy; python-chess for chess only."""
    code = ("import sys, envs, envs.data, envs.terminal, envs.run;"
            "rest = [i for i in envs.MODULES if envs.MODULES[i] != 'envs.chess'];"
            "[envs.make(i) for i in rest]; print(*sys.modules); import envs.chess; print(*sys.modules)")
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    without_chess, everything = map(str.split, loaded.splitlines())
    assert set(envs.MODULES.values()) <= set(everything) and "chess" in everything
    assert not {"torch", "transformers", "numpy"} & set(everything) and "chess" not in without_chess


@each([path for path in FILES if path.parent.name != "tests"])
def test_nothing_runs_what_it_reads(path):
    """Checkpoints and models are data: neither code nor pickles are loaded from them."""
    source, tree = read(path)
    assert not re.search(r"trust_remote_code|allow_pickle|\bpickle\b", source)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        assert ast.unparse(call.func) not in ("eval", "exec", "compile", "__import__"), place(path, call)
        if ast.unparse(call.func) == "torch.load":
            assert "weights_only=True" in map(ast.unparse, call.keywords), place(path, call)


# --- Command line ---


@pytest.mark.parametrize("as_module", [False, True], ids=["file", "module"])
@each(SCRIPTS)
def test_help(path, as_module, tmp_path):
    """From any directory, with every argument and its help text; nothing is written."""
    command = ["-m", f"algos.{path.stem}"] if as_module else [str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT) if as_module else "", "COLUMNS": "400", "NO_COLOR": "1",
                                "PYTHONIOENCODING": "utf-8", "LMRL_DATA": str(tmp_path / "data"),
                                "LMRL_RUNS": str(tmp_path / "runs")}
    shown = subprocess.run([sys.executable, *command, "--help"], cwd=tmp_path, env=environment, capture_output=True,
                           text=True, encoding="utf-8", timeout=120)
    assert shown.returncode == 0, shown.stderr
    source, tree = read(path)
    for field in args_fields(tree):
        assert re.search(rf"--{field.target.id.replace('_', '-')}\b", shown.stdout)
        help_text = source.split("\n")[field.end_lineno - 1].rpartition("  # ")[2]
        assert help_text in " ".join(shown.stdout.split()), f"no help text of --{field.target.id}"
    assert not list(tmp_path.iterdir())
