"""Decisions about the house, as tests: who imports whom, what is loaded when, what names are."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnkit.registry import ATTENTION, POSITIONS, SOURCES, SYNTHETIC

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnkit"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ["torch", "lightning", "torchmetrics", "tensorboard", "omegaconf"]


def named(path):
    return str(path.relative_to(ROOT))


def lint(config):
    """Runs import-linter; in a process of its own, since it silences the loggers of this one."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--config", str(config), "--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_downward():
    """The contracts in pyproject.toml hold: the layers of the package, and who may load what."""
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Imports go downward KEPT" in done.stdout


@pytest.mark.parametrize(
    ("was", "becomes", "expected"),
    [
        (
            '    "attention",\n    "attention_page | data | positions",\n',
            '    "attention_page | data | positions",\n    "attention",\n',
            "attnkit.attention is not allowed to import attnkit.positions",
        ),
        ('    "hardware | registry",\n', '    "hardware",\n', "registry"),
        (
            'forbidden_modules = ["lightning", "tor',
            'forbidden_modules = ["torch", "lightning", "tor',
            "attnkit.models is not allowed to import torch",
        ),
    ],
    ids=["attention below positions", "a module without a place", "no torch in the heart"],
)
def test_the_contracts_can_be_broken(was, becomes, expected, tmp_path):
    """Other rules are not kept, so the linter does look."""
    text = (ROOT / "pyproject.toml").read_text()
    assert was in text
    (tmp_path / "pyproject.toml").write_text(text.replace(was, becomes, 1))
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode == 1
    assert expected in done.stdout


def loaded_by(code):
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    tell = f"import sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    lines = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return json.loads(lines[-1])


HELP = """
import runpy, sys
sys.argv = ["attnkit", *{arguments}]
try:
    runpy.run_module("attnkit", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "code",
    [
        "import attnkit; attnkit.__all__; attnkit.ATTENTION",
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["run", "--help"]),
        HELP.format(arguments=["dashboard", "--help"]),
        HELP.format(arguments=["compare", "--help"]),
    ],
    ids=[
        "import attnkit",
        "attnkit --help",
        "attnkit run --help",
        "attnkit dashboard --help",
        "attnkit compare --help",
    ],
)
def test_what_must_be_quick_loads_nothing_heavy(code):
    assert loaded_by(code) == []


PLAN = """
import os, tempfile
cache = tempfile.TemporaryDirectory()
os.environ["ATTNKIT_CACHE"] = cache.name
from attnkit.ablation.run_study import prepare_study
from attnkit.ablation.plan import load_study
recipe = "recipes/language_modeling/quickstart.yaml"
keys = ["data={name: text, files: README.md, val_fraction: 0.2}", "model.mlp=gelu,swiglu"]
keys += ["ablation.match=parameters", "ablation.budget={tokens: 1e6}"]
prepare_study(load_study(recipe, keys))
"""


def test_a_study_is_planned_without_lightning():
    """Its recipes are checked, its data is prepared, its sizes are matched."""
    loaded = loaded_by(PLAN)
    assert "torch" in loaded
    assert not {"lightning", "tensorboard"} & set(loaded)


def test_the_heart_loads_torch_alone():
    assert loaded_by("import attnkit; attnkit.LanguageModel; attnkit.attention_maps") == ["torch"]


def test_every_public_name_is_there():
    package = importlib.import_module("attnkit")
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_file_is_a_drawer(path):
    """A function lives with the concept that it serves."""
    assert path.stem not in ("utils", "util", "helpers", "common", "misc", "tools")


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=named)
def test_no_logic_in_an_init_file(path):
    """It gathers names, and defines nothing; the package's own loads its names lazily."""
    gathers = (ast.Import, ast.ImportFrom, ast.Assign)
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_lazy = path.parent == PACKAGE and (
            (isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__"))
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        )
        assert is_docstring or is_lazy or isinstance(node, gathers), ast.unparse(node)


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        (registry, name)
        for registry in (ATTENTION, POSITIONS, SOURCES, SYNTHETIC)
        for name in registry.names()
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_a_registered_name_is_its_files_name(registry, name):
    """One mechanism, one encoding, one source: one file."""
    assert Path(inspect.getfile(registry.get(name))).stem == name


SHARED = ("base", "score_attention", "recurrent", "cache", "past", "stream", "kernels")


@pytest.mark.parametrize("name", ATTENTION.names())
def test_a_mechanism_imports_no_mechanism_but_its_parent(name):
    """Templates, kernels and caches are shared; another mechanism is not."""
    mechanism = ATTENTION.get(name)
    parents = {parent.__module__ for parent in mechanism.__bases__}
    shared = {f"attnkit.attention.{module}" for module in SHARED}
    tree = ast.parse(Path(inspect.getfile(mechanism)).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    siblings = {module for module in imported if module and module.startswith("attnkit.attention")}
    assert siblings <= parents | shared


@pytest.mark.parametrize("name", ATTENTION.names())
def test_a_mechanism_names_its_formula_and_its_paper(name):
    mechanism = ATTENTION.get(name)
    assert mechanism.formula
    assert "arXiv:" in mechanism.paper
    assert mechanism.paper.partition(",")[0] in inspect.getmodule(mechanism).__doc__


@pytest.mark.parametrize("name", ATTENTION.names())
def test_every_option_of_a_mechanism_is_explained(name):
    for option in ATTENTION.options(name).values():
        assert option.help, option.name


def _asks_for_a_logger(node):
    """True for `isinstance(logger, ...)`, `isinstance(x, WandbLogger)` and the like."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")):
        return False
    return any(word in ast.unparse(node).lower() for word in ("logger", "listener"))


def test_what_files_hold_is_parsed_in_one_place():
    """`json.loads` meets deep nesting with a RecursionError, which no reader of files expects."""
    direct = [
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if re.search(r"json\.loads?\(.*(read_bytes|read_text|file)", path.read_text())
    ]
    assert not direct, f"use attnkit.storage.files.parse_json: {direct}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nobody_asks_which_logger_it_has(path):
    """Each is a `Listener`; what kinds there are is said once, to `listener_of`."""
    found = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if _asks_for_a_logger(node)
    ]
    assert found == []


def test_that_question_would_be_found():
    for code in ("isinstance(logger, A)", "issubclass(type(x), loggers.CSVLogger)"):
        assert _asks_for_a_logger(ast.parse(code).body[0].value)
    assert not _asks_for_a_logger(ast.parse("isinstance(callback, AtMoments)").body[0].value)


TASK_NAMES = {
    path.parent.name for path in (PACKAGE / "tasks").glob("*/definition.py")
}  # fmt: skip


def compared_words(tree):
    """The texts that code compares something with, by `==`, `in` or `match`."""
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides += [node.value] if isinstance(node, ast.MatchValue) else []
        for side in sides:
            yield from (
                (each.value, node.lineno if hasattr(node, "lineno") else side.lineno)
                for each in ast.walk(side)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


@pytest.mark.parametrize(
    "path", [p for p in FILES if PACKAGE / "tasks" not in p.parents], ids=named
)
def test_nobody_asks_which_task_it_is(path):
    """A task is asked, as an object; its name is compared with nothing outside `tasks/`."""
    found = compared_words(ast.parse(path.read_text()))
    assert [(word, line) for word, line in found if word in TASK_NAMES] == []


@pytest.mark.parametrize(
    "code",
    ['task == "translation"', 'x in ("a", "synthetic")', 'match t:\n case "translation": pass'],
)
def test_a_comparison_with_a_task_is_found(code):
    assert TASK_NAMES & {word for word, _ in compared_words(ast.parse(code))}


RECIPES = """
from attnkit.recipe import load_recipe
for name in {names}:
    recipe = load_recipe(name)
    recipe.definition.sizes(recipe), recipe.definition.build_data(recipe)
"""


def test_a_recipe_of_any_task_is_checked_without_lightning():
    names = ["quickstart", "parity", "translation/reverse"]
    assert set(loaded_by(RECIPES.format(names=names))) <= {"torch", "omegaconf"}


def test_a_trained_run_of_any_task_is_opened_without_lightning():
    code = "from attnkit.registry import TASKS\nfrom attnkit.tasks.definition import loaded\n"
    code += "for name in TASKS.names(): loaded(TASKS.get(name).run_class)"
    assert "lightning" not in loaded_by(code)
