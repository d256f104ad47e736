"""A recipe says which task it is; everything that a task needs is asked of its definition."""

import importlib.metadata
import inspect
import math
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attnkit.ablation.compare import compare_runs
from attnkit.cli.main import app
from attnkit.errors import DivergedError
from attnkit.recipe import RecipeError, load_recipe, recipe_from_dict
from attnkit.recipe.recipe import NOT_IN_EVERY_TASK, RecipeKeys
from attnkit.recipe.stored import written_recipe
from attnkit.registry import TASKS, RegistryError, importing, options_of
from attnkit.runs import experiment, report
from attnkit.storage.plugin_record import made_with
from attnkit.storage.plugin_trust import UntrustedPluginError
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.definition import TaskDefinition, loaded
from attnkit.tasks.trained_run import export_run, load_run
from attnkit.training.task import Task

SHIPPED = [name for name in TASKS.names() if TASKS.get(name).__module__.startswith("attnkit.")]


@pytest.mark.parametrize("name", SHIPPED)
def test_all_of_a_task_is_in_a_folder_of_its_name(name):
    task = TASKS.get(name)
    folder = Path(inspect.getfile(task)).parent
    assert folder.name == name
    for part in (task.module, task.run_class):
        assert Path(inspect.getfile(loaded(part))).parent == folder
    assert issubclass(loaded(task.module), Task)
    assert task.missing_parts() == []
    assert set(task.takes) <= set(NOT_IN_EVERY_TASK)
    assert name not in options_of(RecipeKeys)


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


def test_the_options_of_a_task_stand_in_the_section_of_its_name(small):
    recipe = small("translation.beam=3", "translation.max_ratio=null", task="translation")
    assert recipe.definition.search.beam == 3
    assert recipe.definition.max_ratio is None
    again = recipe_from_dict(recipe.to_dict())
    assert again == recipe
    assert list(recipe.to_dict())[-1] == "translation"


# Plugins


WHOLE = """
from attnkit import TASKS, Task, TaskDefinition
from attnkit.tasks.language_modeling.definition import LanguageModeling
from attnkit.tasks.language_modeling.task import LanguageModelingTask

class MineTask(LanguageModelingTask):
    def losses(self, batch):
        loss = super().losses(batch)["cross_entropy"]
        return {"cross_entropy": loss, "weighted": self.definition.weight * loss}

@TASKS.register("mine")
class Mine(LanguageModeling):
    '''Language modeling with a loss of its own.

    Args:
        weight: of the further loss.
    '''

    module = MineTask

    def __init__(self, *, weight: float = 0.5) -> None:
        self.weight = weight
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch, small_keys):
    """`plugin(code, "key=value")`: a recipe whose task is in a plugin file beside it."""
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))

    def make(code: str, *overrides: str, task: str = "mine", name: str = "mine.py"):
        # A text of its own: one that was imported before registers nothing again.
        (tmp_path / name).write_text(f"{textwrap.dedent(code)}\n# {tmp_path}\n")
        keys = {**small_keys, "task": task, "plugins": [str(tmp_path / name)]}
        return recipe_from_dict({**keys, "runs_dir": str(tmp_path / "runs")}, overrides)

    return make


def test_a_plugin_file_brings_a_task_with_options(plugin):
    recipe = plugin(WHOLE, "mine.weight=2")
    assert recipe.definition.weight == 2.0
    assert recipe.to_dict()["mine"] == {"weight": 2.0}
    with pytest.raises(RecipeError, match=r"mine.weigth: unknown key; did you mean `weight`"):
        plugin(WHOLE, "mine.weigth=2")
    with pytest.raises(RecipeError, match="mine: belongs to `task: mine`, and this is language"):
        plugin(WHOLE, "mine.weight=2", task="language_modeling")


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_plugins_losses_are_summed_weighed_compiled_and_drawn(plugin, graphs):
    result = experiment.run(plugin(WHOLE, "trainer.compile=true", "trainer.accumulate=2"))
    assert graphs == [True, False]
    curves = load_run(result.directory).curves
    total, own, further = (
        curves[name].values
        for name in ("loss/train", "loss/train_cross_entropy", "loss/train_weighted")
    )
    assert further == pytest.approx(0.5 * own, rel=1e-6)
    assert total == pytest.approx(own + further, rel=1e-6)
    assert result.metrics["loss"] == pytest.approx(math.log(result.metrics["perplexity"]))


def test_the_curves_of_several_losses_go_on(plugin, tmp_path, stop_in_step):
    keys = ["trainer.max_steps=8", "logging.every_n_steps=8", "validation.every_n_steps=8"]
    whole = experiment.run(plugin(WHOLE, *keys, f"runs_dir={tmp_path / 'whole'}"))
    stop_in_step(4)
    with pytest.raises(SystemExit):
        experiment.run(plugin(WHOLE, *keys))
    again = experiment.run(plugin(WHOLE, *keys), resume="yes")
    for name in ("loss/train", "loss/train_weighted"):
        values = [load_run(run.directory).curves[name].values for run in (whole, again)]
        assert values[0].tolist() == values[1].tolist()


def test_a_bad_step_of_a_plugin_is_skipped(plugin):
    code = WHOLE.replace("* loss}", "* loss / (self.global_step != 2)}")
    result = experiment.run(plugin(code, "trainer.on_nan=skip"))
    assert result.record["skipped_steps"] == 1
    curve = load_run(result.directory).curves["loss/train_weighted"]
    assert curve.steps.tolist() == [1, 2, 4, 5, 6]
    assert np.isfinite(curve.values).all()
    with pytest.raises(DivergedError, match="step 3"):
        experiment.run(plugin(code, "variant=stops"))


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (
            "return loss",
            "losses must return a dict of losses, name -> .., and at least one; got Ten",
        ),
        ("return {}", "losses must return a dict of losses, name -> .., and at least one; got {}"),
        (
            'return {"a": loss[None]}',
            r"losses must return a .. tensor as `a`, got .1,.; return the m",
        ),
        ('return {"a": 1.0}', "losses must return a .. tensor as `a`, got float"),
        (
            'return {"a": loss}\n    def metrics(self): return {"b": 1.0}',
            "metrics must include `loss`, got b",
        ),
    ],
)
def test_losses_and_metrics_that_are_none_are_named(plugin, instead, message):
    code = re.sub('return {"cross_entropy".*', lambda _: instead, WHOLE)
    with pytest.raises(TypeError, match=f"MineTask.{message}"):
        experiment.run(plugin(code))


def test_an_installed_package_brings_a_task(plugin, tmp_path, monkeypatch):
    """By an entry point, which is imported at the first look-up; the run's record names it."""
    package = tmp_path / "site" / "extra_task"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    point = importlib.metadata.EntryPoint("x", "extra_task", "attnkit.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(importing, "_entry_points_loaded", False)
    monkeypatch.setattr(TASKS, "_discovered", False)
    recipe = plugin("", "plugins=[]", "mine.weight=3")
    assert recipe.definition.weight == 3.0
    assert [plugin.name for plugin in made_with(recipe.to_dict())] == ["extra_task"]


@pytest.fixture
def forget(monkeypatch):
    """`forget()`: as in a process that has imported no plugin."""

    def act():
        for name in [name for name in sys.modules if name.startswith("attnkit_plugin_mine")]:
            monkeypatch.delitem(sys.modules, name)
        TASKS._classes.pop("mine", None)

    return act


def test_a_run_keeps_the_plugin_that_brought_its_task(plugin, forget, tmp_path):
    result = experiment.run(plugin(WHOLE))
    forget()
    (tmp_path / "mine.py").unlink()
    written = written_recipe(result.directory)
    assert (written.task, written.options) == ("mine", {"weight": 0.5})
    run = load_run(result.directory)
    assert run.recipe.definition.weight == 0.5
    assert run.generate("the ", 3)


def test_a_task_from_elsewhere_runs_only_if_it_is_trusted(plugin, forget, tmp_path, monkeypatch):
    result = experiment.run(plugin(WHOLE))
    export_run(result.directory, tmp_path / "mine.safetensors")
    for i, origin in enumerate((result.directory, tmp_path / "mine.safetensors")):
        monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / f"cache{i}"))  # of another account
        forget()
        with pytest.raises(UntrustedPluginError, match=r"(?s)mine\.py .*add --trust-plugins"):
            load_run(origin)
        assert load_run(origin, trust_plugins=True).generate("the ", 3)


OWN_MODEL = """
import torch
from torch import nn
from attnkit import TASKS, Spec, Task, TaskDefinition, build_attention
from attnkit.data.task_data import TensorData
from attnkit.registry import Registry

WAVES = Registry("kind of wave", __name__)

@WAVES.register("sine")
class Sine:
    def read(self):
        x = torch.linspace(0, 50, 330).sin().view(10, 33, 1)
        return (x[:8],), (x[8:],)

class Mixer(nn.Module):
    def __init__(self, size: int, *, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(size, dim), nn.Linear(dim, size)
        self.mix = build_attention({"name": "multi_head", "num_heads": heads}, dim)
        self.max_seq_len = 32

    def forward(self, x):
        h = self.read(x)
        return self.write(h + self.mix(h, h))

class MineTask(Task):
    def losses(self, batch):
        (x,) = batch
        return {"error": (self.run_model(x[:, :-1]) - x[:, 1:]).square().mean()}

    def measure(self, batch):
        found = super().measure(batch)
        return found | {"distance": found["loss"].sqrt()}

@TASKS.register("mine")
class Mine(TaskDefinition):
    '''Waves.'''

    data, default_data, model, module, example_sizes = WAVES, Spec("sine"), Mixer, MineTask, (1,)
    lower_is_better = {"distance": True}

    def build_data(self, recipe):
        wave = WAVES.build(recipe.data)
        return TensorData("sine", wave.read, batch_size=4, seed=0, vocab_sizes=(1,), length=32)
"""


def test_a_task_may_have_any_model_and_data(plugin, tmp_path, read):
    keys = ["~model", "model.dim=4", "data=sine", "~tokenizer"]
    result = experiment.run(plugin(OWN_MODEL, *keys))
    assert set(result.metrics) == {"loss", "distance"}
    assert result.record["training_flops_per_token"] == 6 * result.record["parameters"]
    assert compare_runs([tmp_path / "runs"], metric="distance").lower_is_better
    report.show_result(result)
    assert "loss" in read()
    run = load_run(result.directory)
    assert [type(shown).__name__ for shown in run.evaluate()] == ["Table"]
    with pytest.raises(RunDirectoryError, match="task mine shows no maps of a text"):
        run.attention("a")
    assert compare_runs([tmp_path / "runs"]).rows[0].cache_bytes_per_token == 0
    without = OWN_MODEL.replace("self.max_seq_len = 32", "pass")
    with pytest.raises(
        RecipeError, match=r"model: Mixer of .*mine.py lacks the attribute `max_seq"
    ):
        plugin(without, *keys)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "from attnkit import TASKS\n@TASKS.register('mine')\nclass Mine: pass",
            r"task: `mine` of .*mine.py is a Mine and not a TaskDefinition; derive it from that",
        ),
        (
            """
            from attnkit import TASKS, Task, TaskDefinition
            class MineTask(Task): pass
            @TASKS.register('mine')
            class Mine(TaskDefinition):
                module = MineTask
            """,
            r"task: `mine` of .*mine.py lacks the class attribute `data`, the class attribute "
            r"`default_data`, the class attribute `model`, the method `build_data`, the method "
            r"`losses` of MineTask; see",
        ),
        (
            WHOLE.replace('"mine"', '"trainer"'),
            r"task: `trainer` of .*mine.py has the name of a key that every recipe has",
        ),
        (
            WHOLE.replace('"mine"', '"translation"'),
            r"plugins\[0\]: .*task `translation` is already registered by attnkit.tasks.trans",
        ),
    ],
    ids=["no definition", "parts missing", "a key's name", "a taken name"],
)
def test_a_task_that_cannot_be_is_refused_with_what_it_lacks(plugin, code, message):
    name = re.search(r"register\(.(\w+)", code)[1]
    with pytest.raises(RecipeError, match=message):
        plugin(code, task=name)


def test_two_plugins_cannot_share_a_name(plugin):
    plugin(WHOLE)
    with pytest.raises(RecipeError, match=r"`mine` is already registered by attnkit_plugin_mine_"):
        plugin(WHOLE + "# other", name="other.py")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=mine"], "task: unknown task `mine` .known: .*language_modeling, "),
        (
            ["task=translation", "data=tiny_shakespeare", "model={encoder: {}, decoder: {}}"],
            r"data.name: unknown source of sentence pairs `tiny_shakespeare`.*\n?.*"
            "is data of the task language_modeling",
        ),
        (["data=parity"], r"`parity` is data of the task synthetic"),
        (["data={name: tatoeba}"], r"data.name: unknown data source .* of the task translation"),
    ],
)
def test_a_task_or_data_that_does_not_fit_is_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("quickstart", overrides)


def test_list_and_show_ask_the_tasks(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    listed = CliRunner().invoke(app, ["list", "tasks"]).output
    assert all(name in listed for name in SHIPPED)
    shown = CliRunner().invoke(app, ["show", "translation"]).output
    assert "length_penalty" in shown
    assert "trainer.batch_tokens" in shown
    assert "multi30k" in shown


def test_a_definition_without_options_has_no_section():
    assert options_of(TASKS.get("language_modeling")) == {}
    with pytest.raises(RegistryError, match="has no option `weight`"):
        TASKS.build({"name": "language_modeling", "weight": 1})
    assert issubclass(TASKS.get("language_modeling"), TaskDefinition)
