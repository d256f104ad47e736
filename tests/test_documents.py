"""The documents: their tables are what the code says, and the examples of
docs/writing_a_mechanism.md obey the laws.

`ATTNKIT_WRITE_DOCS=1 pytest tests/test_documents.py -n 0` writes the tables anew.
"""

import ast
import dataclasses
import inspect
import os
import re
from pathlib import Path

import pytest

from attnkit.attention import declarations as declared
from attnkit.checks.card import check
from attnkit.checks.laws import LAWS
from attnkit.checks.subjects import subjects_of
from attnkit.cli.name_report import type_words, yaml_words
from attnkit.recipe.annotations import kinds_of
from attnkit.recipe.recipe import RecipeKeys
from attnkit.recipe.sections import BudgetOptions, ClaimOptions, HalvingOptions
from attnkit.registry import (
    ATTENTION,
    CALLBACKS,
    LOGGERS,
    MASKS,
    POSITIONS,
    REQUIRED,
    Spec,
    options_of,
)

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "writing_a_mechanism.md"
KEYS = ROOT / "docs" / "recipe_keys.md"
PLUGIN = re.compile(r"<!-- plugin: (\w+)\.py -->\n```python\n(.*?)```", re.S)


def text():
    return DOCUMENT.read_text(encoding="utf-8")


def one_line(words):
    return " ".join(words.split()).replace("|", "\\|")


def declarations():
    """A row for each class attribute of `Declarations` that has a docstring."""
    (cls,) = [
        node
        for node in ast.parse(inspect.getsource(declared)).body
        if isinstance(node, ast.ClassDef) and node.name == "Declarations"
    ]
    yield "| attribute | default | what it says |\n|---|---|---|"
    for node, after in zip(cls.body, cls.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
            default = re.sub(r"frozenset\(\((.*)\)\)", r"{\1}", one_line(ast.unparse(node.value)))
            words = one_line(inspect.cleandoc(ast.literal_eval(after.value)))
            yield f"| `{node.target.id}` | `{default}` | {words} |"


def laws():
    """A row for each law."""
    yield "| law | what it demands | what would make it legal |\n|---|---|---|"
    for law in LAWS:
        yield f"| {law.words} | {one_line(law.text)} | {one_line(law.remedy)} |"


def keys_of(options):
    """A row for each option."""
    yield "| key | value | default | description |\n|---|---|---|---|"
    for option in options.values():
        has_none = option.default is REQUIRED or dataclasses.is_dataclass(option.default)
        default = (
            ""
            if has_none and not isinstance(option.default, Spec)
            else f"`{yaml_words(option.default)}`"
        )
        words = type_words(option.annotation).replace("|", "\\|")
        yield f"| `{option.name}` | {words} | {default} | {one_line(option.help)} |"


def recipe_keys():
    return keys_of(options_of(RecipeKeys))


def run_keys():
    """The sections of a recipe that configure the run itself."""
    for name, option in options_of(RecipeKeys).items():
        for kind in kinds_of(option.annotation):
            if dataclasses.is_dataclass(kind.type) and kind.type is not Spec:
                yield f"\n## {name}\n"
                yield from keys_of(options_of(kind.type))
    yield "\n## budget (of ablation)\n"
    yield from keys_of(options_of(BudgetOptions))
    yield "\n## halving (of ablation)\n"
    yield from keys_of(options_of(HalvingOptions))
    yield "\n## a claim (of ablation.claims)\n"
    yield from keys_of(options_of(ClaimOptions))


def loggers():
    """The loggers that come with the kit, and their options."""
    return entries(LOGGERS)


def callbacks():
    """The callbacks that come with the kit, and their options."""
    return entries(CALLBACKS)


def entries(registry):
    for name in registry.names():
        if registry.get(name).__module__.startswith("attnkit."):
            words = inspect.getdoc(registry.get(name)).partition("\n\n")[0]
            yield f"\n### {name}\n\n{one_line(words)}\n"
            if options := registry.options(name):
                yield from keys_of(options)


PARTS = {declarations: DOCUMENT, laws: DOCUMENT, recipe_keys: ROOT / "README.md"}
PARTS |= {run_keys: KEYS, loggers: KEYS, callbacks: KEYS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_tables_are_what_the_code_says(part):
    table = "\n".join(part()).strip()
    begin, end = f"<!-- generated: {part.__name__} -->\n", "\n<!-- end -->"
    document = PARTS[part]
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    found, _, after = rest.partition(end)
    assert "<!-- generated" not in found, "a table that is not ended would swallow the next one"
    if os.environ.get("ATTNKIT_WRITE_DOCS"):
        document.write_text(before + begin + table + end + after, encoding="utf-8")
        found = table
    assert found == table, "write the tables anew, see the head of this file"


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """The examples, registered as long as the tests of this file last."""
    tmp_path = tmp_path_factory.mktemp("examples")
    registries = ATTENTION, POSITIONS, MASKS
    for registry in registries:
        registry.names()  # what comes with the kit stays
    before = [dict(registry._classes) for registry in registries]
    found = PLUGIN.findall(text())
    for name, code in found:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    yield [subject for name, _ in found for subject in subjects_of(str(tmp_path / f"{name}.py"))]
    for registry, classes in zip(registries, before, strict=True):
        registry._classes = classes


def broken(subject, laws):
    mechanism, seats = ATTENTION.get(subject.name), {"positions": subject.positions}
    card = check(mechanism, **seats, masks=subject.masks, laws=laws)
    return [line for line in card.lines if line.outcome not in ("holds", "does not apply")]


@pytest.mark.slow
def test_the_examples_obey_the_laws_that_a_run_asks(subjects):
    assert [str(subject) for subject in subjects] == [
        "cosine",
        "distance_bias",
        "neighbours",
        "fading",
        "multi_head with position distance_table",
        "multi_head with mask strided",
    ]
    quick = [law for law in LAWS if law.quick]
    assert {str(s): found for s in subjects if (found := broken(s, quick))} == {}


@pytest.mark.slow
def test_the_examples_obey_every_law(subjects):
    assert {str(s): found for s in subjects if (found := broken(s, LAWS))} == {}
