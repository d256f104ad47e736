"""A recipe says which task it is; everything that a task needs stands under its name."""

import importlib
import inspect
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from attnkit import assembly, experiment, tasks
from attnkit.recipe import recipe
from attnkit.tasks.base import Task


def test_the_tasks_of_a_recipe_are_those_that_can_be_put_together():
    words = get_args(get_type_hints(recipe.RecipeKeys)["task"])
    files = {path.stem for path in Path(assembly.__path__[0]).glob("*.py")} - {
        "__init__",
        "by_task",
    }
    assert set(words) == set(recipe.MODELS) == files


@pytest.mark.parametrize("name", recipe.MODELS)
def test_a_task_is_a_file_of_its_own(name):
    module = importlib.import_module(f"{tasks.__name__}.{name}")
    defined = [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Task)]
    assert [c for c in defined if c.__module__ == module.__name__]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], 65536),
        (["validation.max_tokens=99999"], 99999),
        (["trainer.max_steps=10000"], 262144),  # of 10,000 x 8 x 16 tokens
        (["trainer.max_steps=5000", "trainer.accumulate=2"], 262144),
        (["validation.final_max_tokens=100"], 100),
        (["validation.final_max_tokens=null"], None),
        (["validation.max_tokens=null"], None),
    ],
)
def test_the_last_evaluation_takes_a_tenth_of_the_training_at_the_most(small, keys, expected):
    data = experiment.build_data(small(*keys))
    assert data.final_max_tokens == expected


def test_the_recipes_task_decides_what_is_built(small, monkeypatch):
    module = importlib.import_module("attnkit.assembly.language_modeling")
    monkeypatch.setattr(module, "build_data", lambda found: f"data of {found.name}")
    assert experiment.build_data(small()) == "data of small"
