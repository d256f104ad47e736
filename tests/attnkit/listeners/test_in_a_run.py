"""Loggers and callbacks of a run: by name, by path, from a plugin, from Python; and what becomes of
their files if it is cut off.
"""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import lightning as L
import pytest
from tensorboard.backend.event_processing import event_accumulator
from typer.testing import CliRunner

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.curves import learning_curves
from attnkit.cli.main import app
from attnkit.listeners.listener import Listener
from attnkit.recipe import RecipeError, load_recipe
from attnkit.recipe.listening import build_callbacks, build_loggers
from attnkit.registry import CALLBACKS, LOGGERS
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.tensorboard.event_files import event_files
from attnkit.tensorboard.map_format import decode
from attnkit.tensorboard.scalars import read_scalars
from attnkit.training.task import Task

FILES = "logging.to=[tensorboard, csv, jsonl]"
STOP = "lightning.pytorch.callbacks.EarlyStopping"


def without_speed(directory):
    """The points of both files, exactly as they were written, but for the speeds."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    slow = [{name: x for name, x in line.items() if "speed/" not in name} for line in lines]
    with (directory / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if "speed/" not in row[1]]
    return slow, rows


@pytest.fixture
def crash_at(monkeypatch):
    """`crash_at(5)`: an exception in the middle of batch 5, once."""
    plain = Task.on_before_backward

    def arrange(number):
        def hook(self, loss):
            plain(self, loss)
            if self.trainer.fit_loop.epoch_loop.batch_idx == number:
                monkeypatch.setattr(Task, "on_before_backward", plain)
                raise ZeroDivisionError("a crash")

        monkeypatch.setattr(Task, "on_before_backward", hook)

    return arrange


def test_files_are_read_by_pandas_and_by_compare(small):
    pd = pytest.importorskip("pandas")
    result = experiment.run(small("logging.to=[csv, jsonl]"))
    directory = result.directory
    assert event_files(directory) == []
    lines = pd.read_json(directory / "metrics.jsonl", lines=True)
    losses = lines.dropna(subset="loss/train").set_index("step")["loss/train"]
    assert list(losses.index) == [1, 2, 3, 4, 5, 6]
    wide = pd.read_csv(directory / "metrics.csv").pivot(index="step", columns="name")["value"]
    assert wide["loss/train"].dropna().tolist() == pytest.approx(losses.tolist(), 1e-12)
    assert wide["loss/val"].dropna().index.tolist() == [3, 6]
    assert wide["final/loss"].dropna().tolist() == [pytest.approx(result.metrics["loss"], 1e-12)]

    comparison = compare_runs([directory])
    tag, (curve,) = learning_curves(comparison)
    assert (tag, curve.steps.tolist()) == ("loss/val", [3, 6])
    (directory / "metrics.jsonl").unlink()
    assert load_run(directory).curves["loss/train"].steps.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("batch", [1, 5], ids=["before the first checkpoint", "after it"])
def test_after_a_crash_no_point_is_doubled_or_lost(small, tmp_path, crash_at, batch):
    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2", FILES]
    whole = experiment.run(small(*keys, f"runs_dir={tmp_path / 'whole'}"))
    crash_at(batch)
    with pytest.raises(ZeroDivisionError):
        experiment.run(small(*keys))
    recipe = small(*keys)
    with (recipe.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss/tr')  # as a kill in the middle of a write
    resumed = experiment.run(recipe, resume="yes")
    assert without_speed(resumed.directory) == without_speed(whole.directory)
    steps = read_scalars(resumed.directory)["loss/train"].steps.tolist()
    assert steps == list(range(1, 10))


def test_loggers_may_change_where_a_run_resumes(small, crash_at):
    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2"]
    crash_at(5)
    with pytest.raises(ZeroDivisionError):
        experiment.run(small(*keys, "logging.to=jsonl", "variant=base"))
    crash_at(7)
    with pytest.raises(ZeroDivisionError):
        experiment.run(small(*keys, "logging.to=tensorboard", "variant=base"), resume="yes")
    result = experiment.run(small(*keys, "logging.to=jsonl", "variant=base"), resume="yes")
    text = (result.directory / "metrics.jsonl").read_text()
    steps = [line["step"] for line in map(json.loads, text.splitlines()) if "loss/train" in line]
    assert steps == [1, 2, 3, 4, 7, 8, 9]
    assert read_scalars(result.directory)["loss/train"].steps.tolist() == list(range(1, 10))


def test_a_logger_of_lightning_by_its_path(small, tmp_path):
    path = "lightning.pytorch.loggers.CSVLogger"
    keys = f"logging.to=[{{name: {path}, save_dir: {tmp_path}, version: v}}]"
    result = experiment.run(small(keys))
    with (tmp_path / "lightning_logs/v/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss/train"]] == list("123456")
    assert [float(row["final/loss"]) for row in rows if row["final/loss"]] == [
        result.metrics["loss"]
    ]


def test_nobody_need_listen(small):
    result = experiment.run(small("logging.to=[]", "logging.attention_maps=2"))
    assert {path.name for path in result.directory.iterdir()} == {
        "recipe.yaml", "environment.json", "tokenizer.json", "checkpoints", "result.json"
    }  # fmt: skip


def test_loggers_and_callbacks_from_python(small):
    class Notebook(Listener):
        def __init__(self):
            self.heard = {}

        def begin(self, hyperparameters):
            self.heard["begin"] = hyperparameters["model"]["dim"]

        def scalars(self, values, step):
            self.heard.setdefault("scalars", []).append(step)

        def text(self, tag, text, step):
            self.heard.setdefault("text", []).append((tag, step))

        def maps(self, record, step):
            self.heard.setdefault("maps", []).append((record.tag, step))

        def finish(self, status):
            self.heard["status"] = status

    class Counter(L.Callback):
        steps = 0

        def on_train_batch_end(self, *_):
            self.steps += 1

    notebook, counter = Notebook(), Counter()
    recipe = small("logging.attention_maps=2", "logging.samples=1")
    experiment.run(recipe, loggers=[notebook], callbacks=[counter])
    assert counter.steps == 6
    heard = notebook.heard
    assert (heard["begin"], heard["status"]) == (recipe.model["dim"], "success")
    assert heard["maps"] == [("attention/probe/self", 0), ("attention/probe/self", 6)]
    assert {("setup/recipe", 0), ("samples", 6)} <= set(heard["text"])
    assert set(heard["scalars"]) == set(range(7))
    with pytest.raises(TypeError, match="int is not a logger"):
        experiment.run(recipe, loggers=[3])


def test_a_listener_that_raises_changes_nothing_that_is_learnt(small, tmp_path, caplog):
    class Broken(Listener):
        def scalars(self, values, step):
            raise RuntimeError("no")

        def maps(self, record, step):
            raise RuntimeError("no")

        finish = scalars

    plain = experiment.run(small(f"runs_dir={tmp_path / 'plain'}"))
    recipe = small("logging.attention_maps=3", "logging.samples=2")
    result = experiment.run(recipe, loggers=[Broken()])
    assert result.metrics == plain.metrics
    assert [r.getMessage() for r in caplog.records if "broken" in r.getMessage().lower()] == [
        "the logger Broken failed: RuntimeError: no; training continues, and further failures of "
        "this logger are not reported"
    ]


def test_a_failed_logger_of_a_plugin_is_named_with_its_line(small, tmp_path, caplog):
    plugin = tmp_path / "columns.py"
    plugin.write_text(
        "from attnkit import LOGGERS, Listener\n\n\n@LOGGERS.register('columns')\n"
        "class Columns(Listener):\n    def scalars(self, values, step):\n"
        "        values['no_such_column']\n"
    )
    recipe = small(f"plugins=[{plugin}]", "logging.to=columns")
    assert experiment.run(recipe).record["status"] == "finished"
    assert re.search(r"columns failed: KeyError: 'no_such_column' in .*columns.py:7;", caplog.text)


def test_a_picture_that_cannot_be_drawn_ends_no_run(small, caplog, monkeypatch):
    monkeypatch.setattr(Task, "sample", lambda *_, **__: 1 / 0, raising=False)
    monkeypatch.setattr("attnkit.callbacks.attention_maps.attention_maps", lambda *_, **__: 1 / 0)
    recipe = small("logging.attention_maps=3")
    assert experiment.run(recipe).record["status"] == "finished"
    said = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("AttentionMaps failed at step 0: ZeroDivisionError: division by zero")


# Callbacks


def test_early_stopping_of_lightning(small):
    stop = f"callbacks=[{{name: {STOP}, monitor: loss/val, patience: 1, mode: max}}]"
    result = experiment.run(small("trainer.max_steps=30", stop))
    assert (result.record["status"], result.record["steps"]) == ("stopped", 6)
    written = load_recipe(result.directory / "recipe.yaml")
    assert written.callbacks[0].options == {"monitor": "loss/val", "patience": 1, "mode": "max"}


def test_the_state_of_a_callback_is_resumed(small, crash_at):
    stop = f"callbacks=[{{name: {STOP}, monitor: loss/val, patience: 2, mode: max}}]"
    crash_at(7)
    recipe = small("trainer.max_steps=30", stop)
    with pytest.raises(ZeroDivisionError):
        experiment.run(recipe)
    assert experiment.run(recipe, resume="yes").record["steps"] == 9


def test_the_kits_own_callbacks(small):
    probe = "callbacks=[{name: probe_maps, text: a dog, example: dog, num_moments: 2}, "
    probe += "{name: probe_maps, text: my bird, example: bird, every_n_steps: 3}, samples]"
    result = experiment.run(small(probe))
    shown = event_accumulator.EventAccumulator(str(result.directory), {"tensors": 0}).Reload()
    steps = {
        tag: [event.step for event in shown.Tensors(tag)]
        for tag in ("attention/dog/self", "attention/bird/self", "samples")
    }
    assert [*steps.values()] == [[0, 6], [0, 3, 6], [0, 1, 6]]
    record = decode(shown.Tensors("attention/dog/self")[0].tensor_proto.string_val)
    assert list(record.query_tokens) == list("a dog")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            f"{{name: {STOP}, monitor: nothing}}",
            r"callbacks\[1\]: .*EarlyStopping: Early stopping conditioned on",
        ),
        (
            "{name: lightning.pytorch.callbacks.StochasticWeightAveraging, swa_lrs: 0.1}",
            r"callbacks\[1\]: .*StochasticWeightAveraging: SWA with `swa_epoch_start` as",
        ),
    ],
    ids=["in a step", "before the first"],
)
def test_a_callback_that_raises_is_named(small, callback, message):
    recipe = small(f"callbacks=[samples, {callback}]")
    with pytest.raises(RecipeError, match=message):
        experiment.run(recipe)


def test_a_callback_of_a_plugin_that_raises_names_its_line(small, tmp_path, monkeypatch):
    monkeypatch.setattr(CALLBACKS, "_classes", dict(CALLBACKS._classes))
    (tmp_path / "fails.py").write_text(
        "import lightning as L\nfrom attnkit import CALLBACKS\n\n"
        '@CALLBACKS.register("fails")\nclass Fails(L.Callback):\n    """Fails."""\n\n'
        "    def on_fit_start(self, *_):\n        raise KeyError\n"
    )
    with pytest.raises(RecipeError, match=r"fails: KeyError \(in .*fails\.py:9\)"):
        experiment.run(small(f"plugins=[{tmp_path}/fails.py]", "callbacks=[fails]"))


def test_an_exception_that_no_callback_of_the_recipe_raised_stays_what_it_is(small, crash_at):
    class Own(L.Callback):
        def on_train_start(self, *_):
            raise ZeroDivisionError("of mine")

    with pytest.raises(ZeroDivisionError, match="of mine"):
        experiment.run(small("callbacks=[samples]"), callbacks=[Own()])
    crash_at(2)
    with pytest.raises(ZeroDivisionError, match="a crash"):
        experiment.run(small("callbacks=[samples]", "seed=1"))


CALLBACK = '''\
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import lightning as L

from attnkit.registry import CALLBACKS


@CALLBACKS.register("my_note")
class Note(L.Callback):
    """Writes a word when training ends.

    Args:
        word: which.
    """

    def __init__(self, *, word: str = "done"):
        self.word = word

    def on_train_end(self, trainer, pl_module):
        folder = Path(trainer.default_root_dir)
        (folder / "note.txt").write_text(f"{self.word} {trainer.global_step}")
        trainer.logger.experiment.add_scalar("note", 1.0, trainer.global_step)
'''

LOGGER = '''\
from attnkit.listeners.listener import Listener
from attnkit.registry import LOGGERS


@LOGGERS.register("my_lines")
class Lines(Listener):
    """Writes the training loss, a line a point.

    Args:
        digits: how many.
    """

    files = ("my_lines.txt",)

    def __init__(self, *, digits: int = 3):
        self.digits = digits

    def open(self, run):
        self.file = (run.directory / "my_lines.txt").open("a")
        return self

    def scalars(self, values, step):
        if "loss/train" in values:
            self.file.write(f"{step} {values['loss/train']:.{self.digits}f}\\n")

    def flush(self):
        self.file.flush()

    def finish(self, status):
        self.file.close()
'''


@pytest.fixture
def plugins(tmp_path):
    """Files with a callback and a logger, which are forgotten afterwards."""
    (tmp_path / "listen.py").write_text(LOGGER)
    (tmp_path / "note.py").write_text(CALLBACK)
    before = [(one, dict(one._classes)) for one in (LOGGERS, CALLBACKS)]
    yield f"plugins=[{tmp_path / 'listen.py'}, {tmp_path / 'note.py'}]"
    for registry, classes in before:
        registry._classes = classes


def test_plugins_bring_loggers_and_callbacks(small, crash_at, plugins):
    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2", plugins]
    keys += ["logging.to=[tensorboard, {name: my_lines, digits: 2}]"]
    keys += ["callbacks=[{name: my_note, word: end}]"]
    recipe = small(*keys)
    crash_at(5)
    with pytest.raises(ZeroDivisionError):
        experiment.run(recipe)
    result = experiment.run(recipe, resume="yes")
    lines = (result.directory / "my_lines.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, 10))
    assert (result.directory / "note.txt").read_text() == "end 9"
    assert read_scalars(result.directory)["note"].steps.tolist() == [9]
    kept = {file.name for file in (result.directory / "plugins").iterdir()}
    assert len(kept) == 2
    with pytest.raises(RecipeError, match=r"callbacks\[0\].words: unknown key; did you"):
        small(*keys[:-1], "callbacks=[{name: my_note, words: x}]")


@pytest.mark.slow
def test_an_installed_package_brings_a_logger(tmp_path, small):
    site = tmp_path / "site"
    package, information = site / "lines_package", site / "lines_package-1.0.dist-info"
    package.mkdir(parents=True)
    information.mkdir()
    (package / "__init__.py").write_text(LOGGER)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lines-package\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text("[attnkit.plugins]\nlines = lines_package\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(small("trainer.max_steps=2").to_yaml())
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from attnkit.cli.main import app\n"
        f"app(['run', {str(file)!r}, 'logging.to=my_lines'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (lines,) = tmp_path.rglob("my_lines.txt")
    assert len(lines.read_text().splitlines()) == 2
    (record,) = tmp_path.rglob("plugins.json")
    assert json.loads(record.read_text())[0]["package"] == "lines-package"


@pytest.mark.parametrize("to", ["[csv]", "[csv, tensorboard]"])
def test_the_report_names_tensorboard_only_if_it_has_something_to_show(small, tmp_path, to):
    file = tmp_path / "recipe.yaml"
    file.write_text(small("trainer.max_steps=1").to_yaml())
    done = CliRunner().invoke(app, ["run", str(file), f"logging.to={to}"])
    assert done.exit_code == 0, done.output
    assert ("tensorboard --logdir" in done.stdout) == ("tensorboard" in to)


# Bad input


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("logging: {to: [csv, csv]}", r"bad.yaml:3:21: logging.to\[1\]: csv is listed twice"),
        ("logging: {to: [tensorboad]}", r"3:16: logging.to\[0\]: .*did you mean `tensorboard`"),
        ("logging: {to: [{name: csv, file: x}]}", r"logging.to\[0\].file: unknown key"),
        ("logging: {to: 3}", "logging.to: expected the name of a registered logger"),
        (
            "logging: {to: [nowhere.Logger]}",
            r"logging.to\[0\]: there is no logger at `nowhere.Logger`: pip install nowhere",
        ),
        ("logging: {to: [pathlib.Path]}", "`pathlib.Path` is not a logger: it is not derived from"),
        (
            f"callbacks: [{{name: {STOP}}}]",
            r"callbacks\[0\].monitor: this required key is missing: quantity to be monitored",
        ),
        (
            f"callbacks: [{{name: {STOP}, monitor: a, patience: soon}}]",
            r"callbacks\[0\].patience: expected a whole number, got text 'soon'",
        ),
        (
            f"callbacks: [{{name: {STOP}, monitor: a, mode: up}}]",
            r"bad.yaml:3:13: callbacks\[0\]: .*EarlyStopping: `mode` can be min, max, got up",
        ),
        (
            "callbacks: [lightning.pytorch.callbacks.ModelCheckpoint]",
            r"callbacks\[0\]: .*ModelCheckpoint cannot be a callback of a recipe: a run saves",
        ),
        (
            "callbacks: [lightning.pytorch.callbacks.RichProgressBar]",
            r"callbacks\[0\]: .*RichProgressBar cannot be a callback of a recipe: a run shows",
        ),
        ("callbacks: [sample]", r"unknown callback `sample`; did you mean `samples`.*path of a l"),
        ("callbacks: [lightning.pytorch.callbacks.Nothing]", "there is no callback at"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_before_the_run(tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(f"extends: quickstart\nseed: 1\n{keys}\n")
    for command in (["run", "bad.yaml", "--dry-run"], ["run", "bad.yaml"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert re.search(message, done.stderr), done.stderr
    assert not Path("runs").exists()


def test_a_package_may_be_imported_by_another_name(small, monkeypatch):
    monkeypatch.setattr(LOGGERS.get("jsonl"), "packages", ("PyYAML",), raising=False)
    assert [name for name, _ in build_loggers(small("logging.to=[jsonl]"))] == ["jsonl"]


def test_a_logger_that_is_not_installed_is_told_with_the_pip_line(small, monkeypatch):
    def lacks(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", lacks)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = small("logging.to=[csv, {name: wandb, project: heads}]")
    with pytest.raises(RecipeError, match=r"to\[1\]: wandb is not installed: pip install wandb"):
        experiment.run(recipe)
    assert not recipe.run_dir.exists()


def test_a_study_asks_for_its_loggers_before_the_first_run(small, tmp_path, monkeypatch):
    monkeypatch.setattr("attnkit.recipe.listening._lacks", lambda package: True)
    file = tmp_path / "study.yaml"
    file.write_text(small("logging.to=[wandb]").to_yaml())
    for more in ([], ["--dry-run"]):
        done = CliRunner().invoke(app, ["ablate", str(file), "model.dim=8,16", *more])
        assert done.exit_code == 2
        assert "logging.to[0]: wandb is not installed: pip install wandb" in done.stderr


def test_what_a_stored_run_listened_to_need_not_be_installed_to_use_it(small_run, tmp_path):
    text = (small_run.directory / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(text.replace("name: tensorboard", "name: comet"))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert build_callbacks(recipe) == []
    if importlib.util.find_spec("comet_ml") is None:
        with pytest.raises(RecipeError, match="pip install comet-ml"):
            build_loggers(recipe)
