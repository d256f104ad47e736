"""Somebody else's mechanism: from a file, from a module, from an installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

from attnkit import registry
from attnkit.attention.multi_head import MultiHead
from attnkit.checks.at_start import LawBrokenError, refuse_broken_plugins
from attnkit.cli import name_report
from attnkit.recipe import RecipeError, load_recipe
from attnkit.registry import ATTENTION, RegistryError
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run

COSINE = '''\
from torch.nn import functional as F

from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("my_cosine")
class MyCosine(MultiHead):
    """Scores are cosines times a sharpness that the recipe sets.

    Args:
        sharpness: how much a cosine counts.
    """

    formula = "softmax(sharpness cos(q, k)) v"

    def __init__(self, dim: int, *, sharpness: float = 8.0, **options) -> None:
        super().__init__(dim, **options)
        self.sharpness = sharpness

    def scores(self, q, k):
        q, k = F.normalize(q, dim=-1), F.normalize(self.share_heads(k), dim=-1)
        return self.sharpness * q @ k.transpose(-2, -1)
'''

RECIPE = """\
plugins: [my_attention.py]
data: {name: text, files: text.txt}
tokenizer: char
model:
  max_seq_len: 16
  dim: 16
  num_layers: 1
  attention: {name: my_cosine, num_heads: 2, sharpness: 3}
trainer: {max_steps: 2, batch_size: 4, accelerator: cpu}
logging: {attention_maps: 2, samples: 0}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A folder with a recipe and a text; what plugins register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "cache"))
    Path("text.txt").write_text("the cat sat on the mat.\n" * 40)
    Path("recipe.yaml").write_text(RECIPE)
    Path("my_attention.py").write_text(COSINE)
    name_report.show_names(recipes=tmp_path)  # everything that comes with the kit is registered now
    before = {kind: dict(kind._classes) for kind in name_report.REGISTRIES}
    modules = set(sys.modules)
    yield
    for kind, classes in before.items():
        kind._classes = classes
    for name in set(sys.modules) - modules:
        if "plugin" in name or name.startswith("my_"):
            del sys.modules[name]


def test_a_mechanism_of_ones_own_trains_and_talks():
    recipe = load_recipe("recipe.yaml")
    result = experiment.run(recipe)
    run = load_run(result.directory)
    attention = run.model.layers[0].attention
    assert type(attention).__name__ == "MyCosine"
    assert attention.sharpness == 3.0
    assert attention.overridden_steps() == ["scores"]
    assert run.generate("the", 5)


def test_a_plugin_is_found_beside_its_recipe_not_beside_the_user(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe("../recipe.yaml")
    assert recipe.plugins == (str(tmp_path / "my_attention.py"),)
    Path("child.yaml").write_text("extends: ../recipe.yaml\n")
    assert load_recipe("child.yaml").plugins == recipe.plugins


def test_the_options_of_a_plugin_are_checked_like_any_others():
    with pytest.raises(RecipeError, match=r"model.attention.sharpnes: unknown key; did you mean"):
        load_recipe("recipe.yaml", ["model.attention={name: my_cosine, sharpnes: 3}"])
    with pytest.raises(RecipeError, match=r"sharpness: expected a number, got text 'very'"):
        load_recipe("recipe.yaml", ["model.attention.sharpness=very"])


def test_a_plugin_may_be_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("")
    (tmp_path / "my_package/cosine.py").write_text(COSINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = load_recipe("recipe.yaml", ["plugins=my_package.cosine"])
    assert recipe.plugins == ("my_package.cosine",)
    assert recipe.model["attention"].name == "my_cosine"


def test_a_plugin_brings_more_than_mechanisms():
    Path("my_attention.py").write_text(
        COSINE
        + "\n\nfrom dataclasses import dataclass\n"
        + "from attnkit import MASKS, Mask\n\n\n"
        + "@MASKS.register('my_even')\n@dataclass(frozen=True)\n"
        + "class Even(Mask):\n    '''Itself, and earlier even keys.'''\n\n    ahead = 0\n\n"
        + "    def allowed(self, batch, query, key):\n"
        + "        return (key == query) | ((key < query) & (key % 2 == 0))\n"
    )
    result = experiment.run(load_recipe("recipe.yaml", ["model.mask=my_even"]))
    assert result.record["later_influence"]["num_moved"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "plugin file .*my_attention.py does not exist"),
        ("\nprint(", r"my_attention.py:2: SyntaxError: '\(' was never closed"),
        (
            "import no_such_module_x",
            "my_attention.py:1: ModuleNotFoundError: No module named 'no_s",
        ),
        ("\n\n1 / 0", "my_attention.py:3: ZeroDivisionError: division by zero"),
        (
            "from attnkit import POSITIONS\n\n\n@POSITIONS.register('rotary')\nclass Mine: pass\n",
            "`rotary` is already registered by attnkit.positions.rotary.Rotary.*; choose another",
        ),
        (COSINE.replace("my_cosine", "MyCosine"), "name 'MyCosine' is not snake_case"),
    ],
    ids=["missing", "syntax", "import", "raises", "taken name", "bad name"],
)
def test_a_plugin_that_fails_is_one_problem_with_its_place(content, message):
    if content is None:
        Path("my_attention.py").unlink()
    else:
        Path("my_attention.py").write_text(content)
    with pytest.raises(RecipeError, match=message) as refused:
        load_recipe("recipe.yaml")
    (problem,) = refused.value.problems  # not also that `my_cosine` is unknown
    assert str(problem).startswith("recipe.yaml:1:11: plugins[0]: plugin file ")


def test_a_file_may_replace_a_built_in_mechanism_and_it_is_logged(caplog, monkeypatch):
    """A file of before the kit knew the name keeps its meaning; an installed package may not."""
    monkeypatch.setattr(ATTENTION, "_classes", dict(ATTENTION._classes))
    built_in = ATTENTION.get("linear")
    Path("my_attention.py").write_text(COSINE.replace("my_cosine", "linear"))
    recipe = load_recipe("recipe.yaml", ["model.attention=linear"])
    assert ATTENTION.get("linear") is not built_in
    assert "my_attention.py replaces the built-in attention mechanism `linear`" in caplog.text
    with pytest.raises(RegistryError, match="`retention` is already registered by attnkit"):
        ATTENTION.register("retention")(type("Retention", (built_in,), {}))
    assert experiment.run(recipe).record["status"] == "finished"


def test_a_failed_plugin_leaves_no_half_of_itself():
    Path("my_attention.py").write_text(COSINE + "\n1 / 0\n")
    with pytest.raises(RecipeError):
        load_recipe("recipe.yaml")
    Path("my_attention.py").write_text(COSINE)
    assert load_recipe("recipe.yaml").model["attention"].name == "my_cosine"


# Installed packages


def install(site, name, code, group="attnkit.plugins"):
    """What pip leaves behind for a package with one entry point."""
    package, information = site / f"{name}_package", site / f"{name}_package-1.0.dist-info"
    package.mkdir(parents=True)
    information.mkdir()
    (package / "__init__.py").write_text(code)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}_package\n")


COMMANDS = """
import sys
from attnkit.cli.main import app
for command in {commands}:
    try:
        app(command)
    except SystemExit as end:
        print("exit code", end.code)
"""


def attnkit(site, *commands):
    """Runs commands one after the other, where the packages of a folder are installed."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{COMMANDS.format(commands=commands)}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    parts = done.stdout.split("exit code ")
    codes = [int(part.split()[0]) for part in parts[1:]]
    return codes, done.stdout, done.stderr


def test_installed_plugins_are_found_and_a_broken_one_takes_nobody_down(tmp_path):
    site = tmp_path / "site"
    install(site, "good", COSINE)
    install(site, "broken", "import no_such_module_x\n")
    install(site, "stranger", "raise SystemExit('not asked for')\n", group="somebody.elses")
    codes, said, complaints = attnkit(
        site,
        ["list"],
        ["show", "my_cosine"],
        ["run", "recipe.yaml", "~plugins", "--dry-run"],
        ["show", "my_broken"],
        ["run", "recipe.yaml", "~plugins", "model.attention=my_broken", "--dry-run"],
    )
    assert codes == [0, 0, 0, 2, 2], complaints
    listed, shown, resolved, _, _, _ = said.split("exit code ")
    assert "my_cosine" in listed
    assert "multi_head" in listed
    failure = "installed plugin `broken-package` failed to import: "
    assert failure in listed
    assert "sharpness" in shown
    assert "name: my_cosine" in resolved
    assert "nothing is called `my_broken`" in complaints
    assert "unknown attention mechanism `my_broken`" in complaints
    assert complaints.count(failure) == 2
    assert complaints.count("broken_package/__init__.py:1: ModuleNotFoundError: No module") == 2


def test_the_names_that_come_with_the_kit_cannot_be_taken(tmp_path):
    site = tmp_path / "site"
    install(site, "thief", COSINE.replace("my_cosine", "multi_head"))
    codes, said, _ = attnkit(site, ["show", "multi_head"])
    assert codes == [0]
    assert "attnkit.attention.multi_head" in said
    assert "Scores are cosines" not in said


def test_no_plugin_is_loaded_but_the_named_ones(tmp_path):
    """A file beside the recipe is not code to be run because it lies there."""
    Path("sitecustom_plugin.py").write_text("raise RuntimeError('nobody asked')\n")
    load_recipe("recipe.yaml")
    assert registry.installed_plugin_failures() == []


LEAK = '''\
from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("my_leak")
class MyLeak(MultiHead):
    """Keys are centred over the whole sequence: a causal mask cannot help."""

    def scores(self, q, k):
        return super().scores(q, k / (1 + k.mean(dim=2, keepdim=True).abs()))
'''


def test_a_plugin_that_leaks_is_refused_before_it_trains():
    Path("my_leak.py").write_text(LEAK)
    recipe = load_recipe("recipe.yaml", ["plugins=[my_leak.py]", "model.attention=my_leak"])
    evidence = "later tokens have no influence. output [0-9]+ moved by .* when token [0-9]+ of "
    with pytest.raises(LawBrokenError, match=evidence):
        experiment.run(recipe)
    assert not recipe.run_dir.exists()


@pytest.mark.parametrize(
    ("line", "registered", "key"),
    [
        ("self.cap = cap", "ATTENTION, MultiHead", "attention"),
        ("self.cap = nn.Parameter(torch.ones(1))", "ATTENTION, MultiHead", "attention"),
        ("self.cap = nn.Linear(1, 1)", "POSITIONS, AttentionPosition", "position"),
        ("self.cap = cap", "MLPS, MLP", "mlp"),
    ],
)
def test_a_forgotten_call_of_super_is_named_with_its_line(line, registered, key):
    names, base = registered.split(", ")
    Path("forgets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "from attnkit.attention.multi_head import MultiHead\n"
        "from attnkit.models.mlps import MLP\n"
        "from attnkit.positions.base import AttentionPosition\n"
        f"from attnkit.registry import {names}\n"
        f"@{names}.register('forgets')\nclass Forgets({base}):\n    acts_on = 'scores'\n"
        f"    def __init__(self, dim, *arguments, cap: float = 1.0, **options):\n        {line}\n"
        "    def activated(self, x):\n        return x\n"
    )
    overrides = ["plugins=[my_attention.py, forgets.py]", f"model.{key}=forgets"]
    with pytest.raises(RecipeError, match=r"forgets.py:10: Forgets.__init__ must call super\(\)"):
        load_recipe("recipe.yaml", overrides)


def test_a_law_is_asked_in_the_seat_of_the_recipe():
    """Without a mask there is no later token to be hidden from."""
    Path("my_leak.py").write_text(LEAK)
    recipe = load_recipe(
        "recipe.yaml", ["plugins=[my_leak.py]", "model.attention=my_leak", "model.mask=none"]
    )
    assert experiment.run(recipe).record["status"] == "finished"


def test_a_plugin_that_leaks_under_a_causal_mask_is_no_language_model(caplog):
    Path("my_leak.py").write_text(LEAK)
    recipe = load_recipe("recipe.yaml", ["plugins=[my_leak.py]", "model.attention=my_leak"])
    result = experiment.run(recipe, check=False)
    assert result.record["later_influence"]["num_moved"] > 0
    assert result.record["loss_is_language_modeling"] is False
    assert "NOT a language-modeling loss" in caplog.text


def test_a_mechanism_of_a_notebook_is_told_to_be_unloadable_elsewhere(caplog):
    for home in ("__main__", "my_file"):
        mine = type("Mine", (MultiHead,), {"__module__": home})
        ATTENTION.register(f"of_{home.strip('_')}")(mine)
        refuse_broken_plugins({"attention": f"of_{home.strip('_')}", "mask": "causal"})
    (told,) = caplog.messages
    assert told.startswith("of_main is registered in a notebook or script, so no other process can")
    assert told.endswith("move it to a file and list that under `plugins`")
