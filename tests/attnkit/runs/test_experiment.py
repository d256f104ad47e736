"""A run from recipe to result: what it leaves behind, what it repeats, and how it ends."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import Strategy
from PIL import Image
from tensorboard.backend.event_processing import data_provider, event_accumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from attnkit.callbacks.at_moments import log_moments
from attnkit.errors import DataError
from attnkit.hardware.devices import HardwareError
from attnkit.runs import experiment
from attnkit.runs.early_ends import DivergedError
from attnkit.runs.experiment import build_data, build_model, build_task
from attnkit.runs.report import show_result
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks import building
from attnkit.tensorboard.event_files import event_files
from attnkit.tensorboard.map_format import decode

MAPS, SHEETS = "attention/probe/self", "maps/probe/self"


def events(directory):
    """Everything in a run's event file, by TensorBoard's own reader."""
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    return event_accumulator.EventAccumulator(str(directory), everything).Reload()


def curve(directory, tag):
    return [(event.step, event.value) for event in events(directory).Scalars(tag)]


def hexadecimal(directory):
    """The losses of a run, to the last bit."""
    return [
        (step, value.hex())
        for tag in ("loss/train", "loss/val", "loss/final")
        for step, value in curve(directory, tag)
    ]


def weights(directory, name="last.ckpt"):
    checkpoint = torch.load(directory / "checkpoints" / name, weights_only=True)
    return checkpoint["state_dict"]


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# A real run


@pytest.fixture(scope="session")
def shown(real_run):
    return events(real_run.directory)


def texts(shown, tag):
    return {e.step: e.tensor_proto.string_val[0].decode() for e in shown.Tensors(tag)}


@pytest.mark.slow
def test_it_learns_more_than_counting_pairs(real_run):
    """Seeds 0, 1 and 2 came to 2.10, 2.09 and 2.08 nats per character on Shakespeare (floor of the
    2-grams 2.49), and to 2.15, 2.13 and 2.13 on the standard library (2.63).
    """
    assert real_run.metrics["loss"] < real_run.floors[2] - 0.3
    assert real_run.metrics["loss"] > real_run.floors[5]  # lower would be cheating


def test_the_result_says_what_a_comparison_needs(real_run):
    written = json.loads((real_run.directory / "result.json").read_text())
    assert written == json.loads(json.dumps(real_run.record))
    assert written["status"] == "finished"
    assert written["steps"] == 300
    assert written["tokens"] == 300 * 24 * 64
    assert written["tokens_per_second"] == pytest.approx(
        written["tokens"] / written["seconds"], 0.5
    )
    assert written["loss_is_language_modeling"] is True
    assert written["data"]["source"]
    assert len(written["data"]["sha256"]) == 64
    assert written["unknown_share"] == 0
    assert written["later_influence"]["num_moved"] == 0
    assert written["device"] == "cpu"
    assert written["parameters"] == sum(written["parameters_by_part"].values())
    assert written["metrics"] == real_run.metrics
    assert written["metrics"]["perplexity"] == pytest.approx(math.exp(real_run.metrics["loss"]))
    assert {int(order): loss for order, loss in written["ngram_floors"].items()} == real_run.floors


def test_the_result_is_of_the_device_that_trained(small, monkeypatch):
    """Lightning moves the model to another one where training and validation end."""
    plain = Strategy.teardown

    def move(self):
        plain(self)
        self.lightning_module._device = torch.device("meta")

    monkeypatch.setattr(Strategy, "teardown", move)
    result = experiment.run(small("logging.samples=1"))
    assert result.record["device"] == "cpu"
    assert result.sample


def test_the_directory_holds_what_its_description_names(real_run):
    files = {path.name for path in real_run.directory.iterdir()} - {
        path.name for path in event_files(real_run.directory)
    }
    assert files == {
        "recipe.yaml", "environment.json", "tokenizer.json", "checkpoints", "result.json"
    }  # fmt: skip
    assert {path.name for path in (real_run.directory / "checkpoints").iterdir()} == {
        "best.ckpt", "last.ckpt", "previous.ckpt", "manifest.json", "manifest.copy.json"
    }  # fmt: skip
    assert len(event_files(real_run.directory)) == 1


def test_the_curves_are_few_and_their_steps_rise(shown):
    tags = set(shown.Tags()["scalars"])
    floors = {f"text_floors/{order}-gram" for order in (1, 2, 3, 5)}
    assert tags == floors | {
        "loss/train",
        "loss/val",
        "quality/bits_per_byte",
        "quality/perplexity",
        "optimizer/learning_rate",
        "optimizer/gradient_norm",
        "speed/tokens_per_second",
        "loss/final",
        "quality/final_bits_per_byte",
        "quality/final_perplexity",
    }
    steps = {tag: [event.step for event in shown.Scalars(tag)] for tag in tags}
    assert steps["loss/train"] == steps["speed/tokens_per_second"] == list(range(50, 301, 50))
    assert steps["loss/val"] == steps["quality/bits_per_byte"] == [100, 200, 300]
    assert steps["text_floors/2-gram"] == [0, 300]  # a line across the chart
    assert steps["loss/final"] == [0, 300]
    assert all(e.value > 0 for tag in tags for e in shown.Scalars(tag))


def test_the_loss_falls_to_what_the_result_says(shown, real_run):
    train = [event.value for event in shown.Scalars("loss/train")]
    assert train[0] > 2.4 > train[-1]
    assert shown.Scalars("loss/final")[0].value == pytest.approx(real_run.metrics["loss"])
    val = shown.Scalars("loss/val")[-1].value  # of a part of the split
    assert val == pytest.approx(real_run.metrics["loss"], abs=0.05)


def test_the_learning_rate_rises_and_falls_as_the_recipe_says(shown):
    """Half a cosine from 5e-3 to a tenth of it, after 50 steps of warming up."""
    rates = {e.step: e.value for e in shown.Scalars("optimizer/learning_rate")}
    assert rates[50] == pytest.approx(5e-3 * 50 / 51)
    for step in (100, 200, 300):
        progress = (step - 1 - 50) / 250  # step n was made with the rate of step n - 1, from 0
        expected = 5e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        assert rates[step] == pytest.approx(expected)


def test_the_recipe_and_the_probe_are_shown_letter_by_letter(shown, real_run):
    recipe = (real_run.directory / "recipe.yaml").read_text()
    assert texts(shown, "setup/recipe") == {0: f"```\n{recipe}\n```"}
    (probe,) = texts(shown, "setup/probe").values()
    assert probe.count("```") == 2


def test_samples_are_shown_over_time(shown, real_run):
    samples = texts(shown, "samples")
    assert list(samples) == log_moments(300, 3)
    assert all(text.startswith("```\n") and text.endswith("\n```") for text in samples.values())
    assert len(set(samples.values())) == 3
    last = samples[300].removeprefix("```\n").removesuffix("\n```")
    assert len(real_run.sample) > len(last) > 50
    assert real_run.sample.startswith(last)  # the same seed, and a longer text


def test_maps_are_exact_distributions_over_earlier_tokens(shown):
    moments = {e.step: decode(e.tensor_proto.string_val) for e in shown.Tensors(MAPS)}
    assert list(moments) == log_moments(300, 8)
    for record in moments.values():
        assert record.kind == "self"
        assert record.causal
        assert [layer.name for layer in record.layers] == ["L0", "L1"]
        for layer in record.layers:
            assert layer.weights.shape == (4, 32, 32)
            assert np.allclose(layer.weights.sum(axis=-1), 1, atol=0.03)  # a byte a cell
            assert not np.triu(layer.weights, 1).any()
    first, last = (moments[step].layers[1].weights for step in (0, 300))
    assert abs(last - first).max() > 0.3  # training has changed who looks at whom


def test_maps_are_labelled_with_the_tokens_of_the_probe(shown):
    record = decode(shown.Tensors(MAPS)[0].tensor_proto.string_val)
    assert record.query_tokens == record.key_tokens
    assert f"```\n{''.join(record.query_tokens)}\n```" in texts(shown, "setup/probe").values()


def test_contact_sheets_can_be_looked_at(shown):
    sheets = shown.Images(SHEETS)
    assert [event.step for event in sheets] == log_moments(300, 8)
    pictures = [Image.open(BytesIO(event.encoded_image_string)) for event in sheets]
    for event, picture in zip(sheets, pictures, strict=True):
        picture.load()
        assert picture.size == (event.width, event.height)
    assert pictures[0].tobytes() != pictures[-1].tobytes()


def rows_of_hyperparameters(root, metric="loss/final"):
    """Columns and rows of TensorBoard's table of the runs below a folder."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(root).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, root)
    context = backend_context.Context(SimpleNamespace(data_provider=provider))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    found = context.experiment_from_metadata(request, "", True, metadata, None)
    columns = {info.name for info in found.hparam_infos}
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        aggregation_type=api_pb2.AGGREGATION_AVG,
        col_params=[api_pb2.ColParams(hparam=name) for name in columns]
        + [api_pb2.ColParams(metric=api_pb2.MetricName(group="", tag=metric))],
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
    )
    handler = list_session_groups.Handler(request, context, "", wanted)
    return columns, handler.run().session_groups


def test_final_numbers_of_a_part_say_so(small, small_run):
    recipe = small("validation.final_max_tokens=512")
    result = experiment.run(recipe)
    data = build_data(recipe)
    data.prepare()
    windows = (data.val_store.counts.tokens - 1) // 16
    assert result.record["validation_share"] == (512 // 16) / windows
    assert small_run.record["validation_share"] == 1
    assert result.metrics["loss"] != small_run.metrics["loss"]


def test_runs_of_two_studies_are_not_averaged(small):
    """Seeds of one variant are; variants of one name in two studies are not. Tuning runs have no
    rows.
    """
    for name, seed in (("one", 0), ("one", 1), ("two", 0), ("two.tuning", 0)):
        result = experiment.run(
            small("trainer.max_steps=1", f"name={name}", "variant=base", f"seed={seed}")
        )
    _, rows = rows_of_hyperparameters(str(result.directory.parents[2]))
    assert {row.name: len(row.sessions) for row in rows} == {"one/base": 2, "two/base": 1}


def test_the_hyperparameter_table_has_the_run_with_its_true_status(real_run):
    columns, (row,) = rows_of_hyperparameters(str(real_run.directory.parents[1]))
    assert {"trainer.gradient_clip", "trainer.max_steps", "tokenizer.name"} <= columns
    assert not columns & {"seed", "variant", "runs_dir", "trainer.devices", "logging.samples"}
    assert row.name == "real/base"
    assert row.hparams["model.dim"].number_value == 64
    assert row.hparams["optimizer.lr"].number_value == 5e-3
    metrics = {metric.name.tag: metric.value for metric in row.metric_values}
    assert metrics["loss/final"] == pytest.approx(real_run.metrics["loss"])


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_checkpoints_are_plain_data(real_run, name):
    found = weights(real_run.directory, name)
    assert found["model.embedding.weight"].shape[1] == 64
    assert all(tensor.isfinite().all() for tensor in found.values())


# What is repeated


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(small, tmp_path):
    first = experiment.run(small("runs_dir=" + str(tmp_path / "a")))
    second = experiment.run(small("runs_dir=" + str(tmp_path / "b")))
    third = experiment.run(small("seed=1"))
    assert hexadecimal(first.directory) == hexadecimal(second.directory)
    assert same_weights(weights(first.directory), weights(second.directory))
    assert first.sample == second.sample
    assert not {value for _, value in hexadecimal(first.directory)} & {
        value for _, value in hexadecimal(third.directory)
    }
    assert not same_weights(weights(first.directory), weights(third.directory))


def test_dropout_is_repeated_too(small, tmp_path):
    dropout = ["model.dropout=0.3", "model.attention.dropout=0.2"]
    first = experiment.run(small(*dropout, f"runs_dir={tmp_path / 'a'}"))
    torch.manual_seed(99)
    second = experiment.run(small(*dropout, f"runs_dir={tmp_path / 'b'}"))
    without = experiment.run(small())
    assert hexadecimal(first.directory) == hexadecimal(second.directory)
    assert hexadecimal(first.directory) != hexadecimal(without.directory)


def test_logging_changes_nothing(small, tmp_path):
    quiet = experiment.run(small("model.dropout=0.3", f"runs_dir={tmp_path / 'a'}"))
    loud = experiment.run(
        small("model.dropout=0.3", "logging.attention_maps=5", "logging.samples=5")
    )
    assert hexadecimal(quiet.directory) == hexadecimal(loud.directory)
    assert same_weights(weights(quiet.directory), weights(loud.directory))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, of any loader
def test_who_loads_the_batches_changes_nothing(small, small_run):
    with_workers = experiment.run(small("trainer.num_workers=2"))
    assert hexadecimal(with_workers.directory) == hexadecimal(small_run.directory)


def test_an_accumulated_step_is_one_over_all_its_batches(small):
    """Batches 0 and 1 make step 1: the mean loss, and the norm of the mean gradient."""
    recipe = small("trainer.accumulate=2", "trainer.max_steps=3", "trainer.gradient_clip=null")
    result = experiment.run(recipe)
    data = build_data(recipe)
    data.prepare()
    task = build_task(recipe, build_model(recipe, data.tokenizer.vocab_size), data)
    loss = (
        task.measure(data.train_batch(0))["loss"] + task.measure(data.train_batch(1))["loss"]
    ) / 2
    loss.backward()
    loss = loss.detach()
    norm = torch.stack([p.grad.norm() for p in task.model.parameters()]).norm()
    assert curve(result.directory, "loss/train")[0] == (1, pytest.approx(float(loss), rel=1e-5))
    assert curve(result.directory, "optimizer/gradient_norm")[0] == (
        1, pytest.approx(float(norm), rel=1e-4)
    )  # fmt: skip
    assert [step for step, _ in curve(result.directory, "loss/train")] == [1, 2, 3]
    assert [step for step, _ in curve(result.directory, "loss/val")] == [3]
    assert result.record["tokens"] == 3 * 2 * 8 * 16


def test_bf16_trains_like_float32(small, small_run):
    half = experiment.run(small("trainer.precision=bf16"))
    assert half.record["precision"] == "bf16-mixed"
    assert small_run.record["precision"] == "32-true"
    assert half.metrics["loss"] == pytest.approx(small_run.metrics["loss"], rel=0.02)
    assert half.metrics["loss"] != small_run.metrics["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in weights(half.directory).values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_model_trains_alike(small, small_run):
    compiled = experiment.run(small("trainer.compile=true", "logging.attention_maps=3"))
    assert compiled.metrics["loss"] == pytest.approx(small_run.metrics["loss"], rel=1e-4)
    assert [e.step for e in events(compiled.directory).Images(SHEETS)] == log_moments(6, 3)
    assert weights(compiled.directory).keys() == weights(small_run.directory).keys()


# How it ends


def test_a_directory_is_used_once_unless_it_may_be_overwritten(small):
    first = experiment.run(small("trainer.max_steps=1"))
    (first.directory / "checkpoints" / "old").write_text("")
    with pytest.raises(
        RunDirectoryError, match="contains a finished run; continue it with --resume"
    ):
        experiment.run(small("trainer.max_steps=1"))
    again = experiment.run(small("trainer.max_steps=1"), overwrite=True)
    assert again.directory == first.directory
    assert len(event_files(again.directory)) == 1
    assert not (again.directory / "checkpoints" / "old").exists()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("data.files=none.txt", DataError, "none.txt does not exist"),
        ("model.max_seq_len=5000", DataError, "one window of model.max_seq_len 5000 needs 5001"),
        ("logging.probe=''", DataError, "logging.probe is empty"),
        ("trainer.accelerator=abacus", HardwareError, "trainer: accelerator abacus, devices 1"),
        ("trainer.strategy=luck", HardwareError, "strategy luck do not work here"),
        ("trainer.accelerator=cuda", HardwareError, "accelerator cuda"),
    ],
)
def test_what_cannot_run_leaves_nothing_behind(small, tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        experiment.run(small(override))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_be_redone_keeps_what_was_there(small):
    before = experiment.run(small("trainer.max_steps=1")).directory
    with pytest.raises(DataError):
        experiment.run(small("trainer.max_steps=1", "logging.probe=''"), overwrite=True)
    assert (before / "result.json").is_file()


def test_a_divergence_is_called_one(small):
    with pytest.raises(
        DivergedError,
        match=r"at step [1-6] the loss or its gradient is not finite; there is no chec",
    ):
        experiment.run(small("optimizer.lr=1e38", "trainer.gradient_clip=null"))


def test_a_model_without_attention_is_trained_without_maps(small):
    result = experiment.run(small("model.num_layers=0", "logging.attention_maps=3"))
    assert not events(result.directory).Tags()["images"]
    assert result.record["status"] == "finished"


def test_a_run_without_samples_shows_none(small, read):
    result = experiment.run(small("logging.samples=0"))
    assert "samples" not in events(result.directory).Tags()["tensors"]
    assert result.sample == ""
    show_result(result)
    assert "sample" not in [line.strip() for line in read().splitlines()]


@pytest.mark.parametrize("moments", [1, 2])
def test_few_moments_end_with_the_last_step(small, moments):
    result = experiment.run(
        small(f"logging.attention_maps={moments}", f"logging.samples={moments}")
    )
    shown = events(result.directory)
    expected = [0, 6][-moments:]
    assert [e.step for e in shown.Images(SHEETS)] == expected
    assert [e.step for e in shown.Tensors("samples")] == expected


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "kill"],
)
def test_an_interrupted_run_says_so_and_keeps_its_checkpoints(small, tmp_path, number, code, word):
    (tmp_path / "small.yaml").write_text(small("trainer.max_steps=1000000").to_yaml())
    process = subprocess.Popen(
        [sys.executable, "-m", "attnkit", "run", "small.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.rglob("last.ckpt")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        said, complaint = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code, complaint
    assert said.strip() == ""
    told = [line for line in complaint.splitlines() if line and not line.endswith(" left")]
    first, *between, last = told
    assert "stopping after this step; another signal stops at once" in first
    # The signal may come at a step that validates.
    assert all("a validation is due at this step and comes first" in line for line in between)
    assert len(between) <= 1
    (directory,) = (path.parent for path in tmp_path.rglob("recipe.yaml"))
    step = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    where = rf"{word} at step {step:,}, validation loss \d\.\d+; the last checkpoint is from step "
    assert re.match(f"{where}{step:,}", last)
    assert last.endswith(f"Continue with: attnkit resume {directory}")
    assert not list(tmp_path.rglob("result.json"))
    assert not list(directory.rglob(".*"))


def test_a_model_beyond_this_machine_is_refused_before_it_is_made(small, monkeypatch):
    monkeypatch.setattr(building, "physical_memory_bytes", lambda: 10_000)
    recipe = small()
    with pytest.raises(HardwareError, match=r"parameters take .* GB in float32, but this"):
        experiment.run(recipe)
    assert not recipe.run_dir.exists()
