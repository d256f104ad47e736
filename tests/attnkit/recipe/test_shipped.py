"""The recipes that come with the kit: what a name means, and what can be copied."""

from pathlib import Path

import pytest

from attnkit.recipe import RecipeError, load_recipe
from attnkit.recipe.shipped import copy_recipes, located, shipped_folder, shipped_recipes
from attnkit.registry import RegistryError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_no_two_have_one_name():
    """Else their runs would lie in one folder, and a name would mean two recipes."""
    names = {load_recipe(path).name: path for path in shipped_recipes().values()}
    assert len(names) == len(shipped_recipes())
    for name, path in names.items():
        assert name in (path.stem, f"{path.parent.name}_{path.stem}")
        assert located(Path(name)) == path


def test_all_of_the_folder_are_among_them():
    assert shipped_folder() == ROOT / "recipes"
    assert set(shipped_recipes().values()) == set((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize(
    "name",
    ["quickstart", "language_modeling/quickstart", "recipes/language_modeling/quickstart.yaml"],
)
def test_a_recipe_is_found_by_its_name_from_anywhere(name):
    assert located(Path(name)) == ROOT / "recipes/language_modeling/quickstart.yaml"
    assert load_recipe(name, ["model.dim=64"]).run_dir == Path("runs/quickstart/dim=64/seed0")


@pytest.mark.parametrize("name", ["quickstart.yaml", "kickstart", "synthetic/quickstart"])
def test_what_is_none_of_their_names_is_a_file(name):
    assert located(Path(name)) == Path(name)


def test_a_file_of_ones_own_comes_first():
    Path("quickstart").write_text("extends: language_modeling/quickstart\nmodel: {dim: 32}\n")
    assert load_recipe("quickstart").model["dim"] == 32


def test_a_recipe_of_ones_own_extends_one_of_them():
    Path("mine.yaml").write_text("extends: quickstart\nmodel: {dim: 32}\n")
    mine = load_recipe("mine.yaml")
    assert (mine.name, mine.model["dim"], mine.trainer.batch_size) == ("mine", 32, 24)
    Path("mine.yaml").write_text("extends: kickstart\n")
    with pytest.raises(RecipeError, match="there is no recipe file kickstart"):
        load_recipe("mine.yaml")


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(RecipeError, match=r"no such file; did you mean `quickstart`\? \(`attnkit"):
        load_recipe("quikstart")


def test_a_copy_has_all_that_it_extends():
    copied = copy_recipes("positions", Path("mine"))
    assert copied == [
        Path("mine/ablations/positions.yaml"),
        Path("mine/synthetic/multi_query_recall.yaml"),
    ]
    assert load_recipe(copied[0]) == load_recipe("positions")


def test_all_can_be_copied_once():
    copied = copy_recipes(None, Path("all"))
    assert len(copied) == len(shipped_recipes())
    copied[0].write_text("mine")
    with pytest.raises(RegistryError, match=r"heads.yaml exists already; remove it, or choose"):
        copy_recipes("heads", Path("all"))
    assert copied[0].read_text() == "mine"
    Path("taken").write_text("")
    with pytest.raises(RegistryError, match="taken: recipes cannot be written there"):
        copy_recipes("heads", Path("taken"))
