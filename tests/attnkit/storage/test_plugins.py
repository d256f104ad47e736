"""Plugins are part of a run, and code from elsewhere is not run unasked."""

import importlib
import importlib.util
import inspect
import json
import logging
import os
import py_compile
import re
import shutil
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from attnkit.checks.at_start import LawBrokenError
from attnkit.recipe import RecipeError, load_recipe, recipe_from_dict
from attnkit.recipe.stored import recipe_to_resume
from attnkit.registry import ATTENTION
from attnkit.runs import experiment
from attnkit.storage.plugin_record import ChangedPluginError
from attnkit.storage.plugin_trust import UntrustedPluginError
from attnkit.tasks.trained_run import export_run, load_run

MECHANISM = """
import pathlib
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

with pathlib.Path({mark!r}).open("a") as file:
    file.write("run ")


@ATTENTION.register("halved")
class Halved(MultiHead):
    '''Scores are halved.'''

    def scores(self, q, k, *rest):
        return super().scores(q, k, *rest) * {factor}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A user who has run nothing yet; afterwards nothing is registered."""
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "cache"))
    known = {name: ATTENTION.get(name) for name in ATTENTION.names()}
    yield
    ATTENTION._classes = known
    forget()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """`elsewhere()`: from now on it is another user, in another process."""

    def move():
        monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "other-cache"))
        ATTENTION._classes.pop("halved", None)
        forget()

    return move


def forget():
    for name in [name for name in sys.modules if name.startswith("attnkit_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def mark(tmp_path):
    """Where plugins write that they were run."""
    return tmp_path / "mark"


@pytest.fixture
def plugin(tmp_path, mark):
    """`plugin(0.5)`: the file with the mechanism."""
    path = tmp_path / "code" / "halved.py"
    path.parent.mkdir()

    def write(factor=0.5):
        path.write_text(MECHANISM.format(mark=str(mark), factor=factor))
        return path

    write()
    return write


@pytest.fixture
def recipe_of(small_keys, tmp_path):
    """`recipe_of(path)`: a recipe with a plugin."""

    def make(path, *overrides):
        keys = {**small_keys, "plugins": [str(path)], "runs_dir": str(tmp_path / "runs")}
        keys["trainer"] = {**keys["trainer"], "max_steps": 2}
        return recipe_from_dict(keys, ["model.attention.name=halved", "variant=base", *overrides])

    return make


@pytest.fixture
def trained(short_samples, recipe_of, plugin):
    """A run with the plugin."""
    return experiment.run(recipe_of(plugin())).directory


def source_of(run):
    return Path(inspect.getfile(type(run.model.layers[0].attention))).read_text()


# What a run keeps


def test_a_run_keeps_a_digest_and_a_copy_of_each_plugin_file(trained, plugin):
    (entry,) = json.loads((trained / "plugins.json").read_text())
    copy = trained / "plugins" / entry["file"]
    assert copy.read_text() == plugin().read_text()
    assert entry["name"] == str(plugin())
    assert entry["sha256"][:8] in copy.name


def test_what_the_weights_were_made_with_is_loaded_not_what_the_file_is_now(trained, plugin):
    plugin(0.25)
    forget()
    run = load_run(trained)
    assert "* 0.5" in source_of(run)
    plugin().unlink()
    forget()
    assert "* 0.5" in source_of(load_run(trained))


def test_a_run_without_plugins_keeps_none(small_run):
    assert not (small_run.directory / "plugins.json").exists()


# A plugin that changed


def test_a_changed_plugin_is_refused_or_shown(trained, plugin, caplog):
    plugin(0.25)
    longer = ["trainer.max_steps=3"]
    forget()
    with pytest.raises(ChangedPluginError, match=r"plugins have changed since .*halved.py: sha256"):
        recipe_to_resume(trained, longer)
    recipe = load_recipe(trained / "recipe.yaml", longer)
    with pytest.raises(ChangedPluginError, match=r"restore them .*or add --allow-changes"):
        experiment.run(recipe, directory=trained, resume="yes")
    recipe = recipe_to_resume(trained, longer, allow_changes=True)
    experiment.run(recipe, directory=trained, resume="yes", allow_changes=True)
    assert "-        return super().scores(q, k, *rest) * 0.5" in caplog.text
    assert "+        return super().scores(q, k, *rest) * 0.25" in caplog.text
    assert len(list((trained / "plugins").iterdir())) == 2
    forget()
    assert "* 0.25" in source_of(load_run(trained))


def test_the_laws_are_asked_again_about_a_plugin_that_changed(trained, plugin):
    plugin("(1 if q.shape[-2] > 1 else 3)")
    recipe = recipe_to_resume(trained, ["trainer.max_steps=3"], allow_changes=True)
    with pytest.raises(LawBrokenError, match="halved breaks a law"):
        experiment.run(recipe, directory=trained, resume="yes", allow_changes=True)
    assert json.loads((trained / "result.json").read_text())["steps"] == 2


def test_a_plugin_that_moved_is_the_same(trained, plugin, tmp_path):
    moved = plugin().rename(tmp_path / "moved.py")
    recipe = recipe_to_resume(trained, ["trainer.max_steps=3", f"plugins=[{moved}]"])
    assert experiment.run(recipe, directory=trained, resume="yes").record["steps"] == 3


# Code from elsewhere


def test_a_run_from_elsewhere_runs_no_code_unasked(trained, mark, elsewhere, caplog, tmp_path):
    moved = shutil.move(trained, tmp_path / "came")
    elsewhere()
    (tmp_path / "code" / "halved.py").unlink()
    mark.unlink()
    (entry,) = json.loads((moved / "plugins.json").read_text())
    for open_it in (load_run, recipe_to_resume):
        with pytest.raises(UntrustedPluginError, match=entry["sha256"]) as refused:
            open_it(moved)
        assert "halved.py" in str(refused.value)
        assert not mark.exists()
    with caplog.at_level(logging.WARNING):
        load_run(moved, trust_plugins=True)
    assert entry["sha256"] in caplog.text
    assert mark.exists()
    forget()
    load_run(moved)  # by now it has run here


def test_a_mechanism_that_only_a_pattern_names_is_not_run_unasked(
    short_samples, small_keys, plugin, mark, elsewhere, tmp_path
):
    keys = {**small_keys, "plugins": [str(plugin())], "runs_dir": str(tmp_path / "runs")}
    keys["model"] = {**keys["model"], "layers": [{"attention": "halved"}, {"mlp": "relu"}]}
    run = experiment.run(recipe_from_dict(keys, ["trainer.max_steps=2"])).directory
    elsewhere()
    (tmp_path / "code" / "halved.py").unlink()
    mark.unlink()
    with pytest.raises(UntrustedPluginError, match=r"halved\.py"):
        load_run(run)
    assert not mark.exists()
    names = [
        type(layer.attention).__name__ for layer in load_run(run, trust_plugins=True).model.layers
    ]
    assert names == ["Halved", "MultiHead"]


def test_an_exported_file_runs_no_code_unasked(trained, mark, elsewhere, tmp_path, caplog):
    file = tmp_path / "model.safetensors"
    here = export_run(trained, file).generate("the ", 5)
    elsewhere()
    (tmp_path / "code" / "halved.py").unlink()
    mark.unlink()
    with pytest.raises(UntrustedPluginError, match=r"halved\.py \(sha256 [0-9a-f]{64}\)"):
        load_run(file)
    assert not mark.exists()
    run = load_run(file, trust_plugins=True)
    assert mark.read_text() == "run "
    assert run.generate("the ", 5) == here


@pytest.fixture
def forged(small_run, tmp_path):
    """`forged(**texts)`: an exported file of a plain run in which these texts stand too."""

    def forge(recipe, **texts):
        file = tmp_path / "honest.safetensors"
        export_run(small_run.directory, file, overwrite=True)
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header["attnkit/file/recipe.yaml"] = recipe(header["attnkit/file/recipe.yaml"])
        header |= {f"attnkit/file/{name}": text for name, text in texts.items()}
        save_file(tensors, tmp_path / "forged.safetensors", header)
        return tmp_path / "forged.safetensors"

    return forge


@pytest.mark.parametrize("name", ["evil.py", "plugins/evil.py", "source/../evil.py"])
def test_texts_of_an_exported_file_are_not_written_and_not_run(forged, mark, name):
    evil = f"open({str(mark)!r}, 'w')"
    file = forged(lambda text: text.replace("plugins: []", f"plugins: [{name}]"), **{name: evil})
    with pytest.raises(RecipeError, match=r"evil\.py does not exist, and .*has no copy"):
        load_run(file, trust_plugins=True)
    assert not mark.exists()


def test_an_error_in_an_exported_file_names_that_file(forged):
    file = forged(lambda text: re.sub(r"num_layers: \d+", "num_layers: 1000000", text))
    with pytest.raises(RecipeError, match="num_layers") as refused:
        load_run(file)
    assert str(refused.value).startswith(f"{file}: recipe.yaml:")


def test_a_module_that_lies_about_is_code_from_elsewhere(forged, mark, tmp_path, monkeypatch):
    (tmp_path / "lying_about.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    file = forged(lambda text: text.replace("plugins: []", "plugins: [lying_about]"))
    load_run(file)  # the model needs none: its weights are loaded, no more
    assert not mark.exists()
    load_run(file, trust_plugins=True)
    assert mark.exists()


def test_what_only_training_needs_may_be_missing(small_run, tmp_path, elsewhere):
    came = shutil.copytree(small_run.directory, tmp_path / "came")
    text = (came / "recipe.yaml").read_text().replace("name: adamw", "name: own_adamw")
    (came / "recipe.yaml").write_text(text.replace("plugins: []", "plugins: [own.py]"))
    (came / "own.py").write_text("1 / 0")
    run = load_run(came)
    assert run.generate("the ", 5) == load_run(small_run.directory).generate("the ", 5)
    with pytest.raises(UntrustedPluginError, match=r"own\.py"):
        recipe_to_resume(came)
    with pytest.raises(RecipeError, match=r"own\.py:1: ZeroDivisionError"):
        load_run(came, trust_plugins=True)


def test_compiled_code_beside_a_plugin_is_not_taken(trained, plugin, mark):
    """Python's own import takes it if size and time of the source are right."""
    path = plugin()
    before = path.stat()
    content = path.read_text()
    path.write_text("1 / 0".ljust(len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    py_compile.compile(str(path), cfile=importlib.util.cache_from_source(str(path)))
    path.write_text(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    forget()
    recipe_to_resume(trained)
    assert mark.read_text() == "run run "


def test_a_damaged_copy_is_told(trained):
    for copy in (trained / "plugins").iterdir():
        copy.write_text("1 / 0")
    forget()
    with pytest.raises(RecipeError, match=r"copy plugins/halved-.*is damaged"):
        load_run(trained)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"name": 1, "sha256": "a"}]'])
def test_a_damaged_record_is_told(trained, content):
    (trained / "plugins.json").write_text(content)
    with pytest.raises(Exception, match=r"plugins\.json is damaged"):
        load_run(trained)


def test_a_copy_is_a_name_not_a_path(trained, tmp_path):
    (tmp_path / "runs" / "evil.py").write_text("1 / 0")
    record = json.loads((trained / "plugins.json").read_text())
    record[0]["file"] = "../../../../evil.py"
    (trained / "plugins.json").write_text(json.dumps(record))
    with pytest.raises(Exception, match=r"plugins\.json is damaged"):
        load_run(trained)


# Installed packages


@pytest.fixture
def installed(tmp_path, monkeypatch, mark):
    """`installed("1.0")`: a package that offers the mechanism is installed; None: it is not."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)

    def install(version):
        shutil.rmtree(folder, ignore_errors=True)
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.startswith("extra_halved")]:
            del sys.modules[name]
        ATTENTION._classes.pop("halved", None)
        if version is None:
            return
        (folder / "extra_halved").mkdir(parents=True)
        source = MECHANISM.format(mark=str(mark), factor=f"0.5  # {version}")
        (folder / "extra_halved" / "__init__.py").write_text(source)
        info = folder / f"attnkit_extra-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: attnkit-extra\nVersion: {version}\n"
        )
        (info / "RECORD").write_text("extra_halved/__init__.py,,\n")
        (info / "entry_points.txt").write_text("[attnkit.plugins]\nx = extra_halved\n")
        importlib.invalidate_caches()

    return install


@pytest.mark.parametrize("listed", [True, False], ids=["in plugins", "by its entry point"])
def test_an_installed_package_is_known_by_name_and_version(
    short_samples, recipe_of, installed, monkeypatch, listed
):
    installed("1.0")
    if not listed:
        importlib.import_module("extra_halved")
    recipe = recipe_of("extra_halved") if listed else recipe_of("extra_halved", "plugins=[]")
    directory = experiment.run(recipe).directory
    (entry,) = json.loads((directory / "plugins.json").read_text())
    assert (entry["name"], entry["package"], entry["version"]) == (
        "extra_halved", "attnkit-extra", "1.0",
    )  # fmt: skip
    installed("2.0")
    if not listed:
        importlib.import_module("extra_halved")
    with pytest.raises(ChangedPluginError, match=r"extra_halved: 1\.0 sha256 .* -> 2\.0 sha256"):
        experiment.run(recipe_to_resume(directory), directory=directory, resume="yes")
    load_run(directory)
    installed(None)
    with pytest.raises(RecipeError, match=r"package attnkit-extra 1\.0.* is not installed here"):
        load_run(directory)
