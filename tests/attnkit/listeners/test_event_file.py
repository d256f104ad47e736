import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tensorboard.backend.event_processing import data_provider, event_accumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from attnkit.listeners.event_file import EventFile
from attnkit.listeners.guard import RunListeners
from attnkit.listeners.listener import RunInfo
from attnkit.listeners.loggers import TensorBoard
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.event_files import ResumePoint, cut_back, event_files, logged_bytes
from attnkit.tensorboard.images import Image, contact_sheet
from attnkit.tensorboard.map_format import decode, encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the html5lib inside TensorBoard
    from tensorboard import plugin_util

KEEP_ALL = {"scalars": 0, "images": 0, "tensors": 0}


@pytest.fixture
def make_logger(tmp_path):
    made = []

    def make(run="run", trial_id="base", resume=None):
        made.append(EventFile(tmp_path / run, trial_id=trial_id, resume=resume))
        return made[-1]

    yield make
    for logger in made:
        logger.finish(None)


def read(logger):
    logger.flush()
    accumulator = event_accumulator.EventAccumulator(str(logger.directory), KEEP_ALL)
    return accumulator.Reload()


def provider_of(directory):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(directory)).Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(directory))


def hyperparameter_table(directory):
    """Asks TensorBoard's own plugin; returns its columns and its rows."""
    context = backend_context.Context(SimpleNamespace(data_provider=provider_of(directory)))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, metadata, None)
    columns = [api_pb2.ColParams(hparam=info.name) for info in experiment.hparam_infos]
    columns += [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        aggregation_type=api_pb2.AGGREGATION_AVG,
        col_params=columns,
        allowed_statuses=[
            api_pb2.STATUS_UNKNOWN,
            api_pb2.STATUS_SUCCESS,
            api_pb2.STATUS_FAILURE,
            api_pb2.STATUS_RUNNING,
        ],
    )
    response = list_session_groups.Handler(request, context, "", wanted).run()
    return experiment, {group.name: group for group in response.session_groups}


def record_of(step_weight=0.5, site="self"):
    weights = np.array([[[1, 0], [step_weight, 1 - step_weight]]] * 2, dtype=np.float32)
    layers = [layer_map(f"L{i}", weights, np.tri(2, dtype=bool)) for i in range(3)]
    return AttentionRecord("probe0", site, "self", True, ["<b>", "\n"], ["<b>", "\n"], layers)


def test_scalars_lie_in_one_event_file(make_logger, tmp_path):
    logger = make_logger("~odd $HOME")
    for step in range(3):
        logger.scalars({"loss/train": torch.tensor(1.5)}, step)
    accumulator = read(logger)
    assert accumulator.Tags()["scalars"] == ["loss/train"]
    assert [(e.step, e.value) for e in accumulator.Scalars("loss/train")] == [
        (step, 1.5) for step in range(3)
    ]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == event_files(tmp_path / "~odd $HOME")
    assert len(files) == 1


def test_a_directory_with_an_event_file_is_refused(make_logger):
    first = make_logger()
    first.scalars({"loss/train": 1.0}, 0)
    with pytest.raises(FileExistsError, match="a directory holds one run"):
        make_logger().scalars({"loss/train": 2.0}, 1)
    assert len(event_files(first.directory)) == 1


def test_torchs_writer_shares_the_file(make_logger):
    logger = make_logger()
    logger.scalars({"loss/train": 1.0}, 0)
    logger.experiment.add_histogram("weights", np.arange(10), 3)
    logger.experiment.close()
    logger.experiment.add_text("note", "hello", 4)
    logger.scalars({"loss/train": 1.0}, 5)
    accumulator = read(logger)
    assert [event.step for event in accumulator.Scalars("loss/train")] == [0, 5]
    assert [event.step for event in accumulator.Histograms("weights")] == [3]
    assert accumulator.Tags()["tensors"] == ["note/text_summary"]
    assert len(event_files(logger.directory)) == 1


def test_a_resumed_run_has_each_step_once_and_its_own_end(make_logger, tmp_path):
    first = make_logger()
    first.begin({"dim": 8})
    for step in range(6):
        first.scalars({"loss/train": 1.0}, step)
        first.maps(record_of(), step)
        if step == 3:
            first.flush()
            point = ResumePoint(step, logged_bytes(first.directory))
    first.scalars({"loss/val": 1.0}, 3)  # late, but after the checkpoint all the same
    first.finish("failed")

    cut_back(first.directory, point)
    second = make_logger(resume=point)
    second.begin({"dim": 8})
    for step in range(4, 8):
        second.scalars({"loss/train": 2.0}, step)
        second.maps(record_of(), step)
    second.finish("success")

    accumulator = read(second)
    losses = [(event.step, event.value) for event in accumulator.Scalars("loss/train")]
    assert losses == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2)]
    maps = accumulator.Tensors("attention/probe0/self")
    assert [event.step for event in maps] == [*range(8)]
    assert accumulator.Tags()["scalars"] == ["loss/train"]
    _, groups = hyperparameter_table(tmp_path)
    assert [session.status for session in groups["base"].sessions] == [api_pb2.STATUS_SUCCESS]


def test_the_table_has_the_columns_of_all_runs_and_a_row_a_trial(make_logger, tmp_path):
    runs = {
        "base/seed0": ("base", {"model": {"dim": 8, "tied": True}, "seed": 0}, "success", 2.0),
        "base/seed1": ("base", {"model": {"dim": 8, "tied": True}, "seed": 1}, "success", 4.0),
        "wide/seed0": ("wide", {"model": {"dim": 16}, "plugins": ["a.py"]}, "failed", 1.0),
        "late/seed0": ("late", {"window": 7, "mask": None}, "aborted", 3.0),
        "open/seed0": ("open", {"model": {"dim": 4}}, None, 5.0),
    }
    for run, (trial, params, status, loss) in runs.items():
        logger = make_logger(run, trial)
        logger.begin(params)
        logger.scalars({"loss/val": loss}, 10)
        logger.finish(status)
    experiment, groups = hyperparameter_table(tmp_path)
    columns = {info.name: info.type for info in experiment.hparam_infos}
    assert set(columns) >= {"model.dim", "model.tied", "window"}
    assert columns["model.tied"] == api_pb2.DATA_TYPE_BOOL
    assert {info.name.tag for info in experiment.metric_infos} == {"loss/val"}

    assert set(groups) == {"base", "wide", "late", "open"}
    assert len(groups["base"].sessions) == 2
    assert groups["base"].hparams["model.tied"].bool_value is True
    assert groups["base"].metric_values[0].value == 3.0
    assert groups["wide"].hparams["plugins"].string_value == '["a.py"]'
    assert set(groups["late"].hparams) == {"window"}
    statuses = {name: group.sessions[0].status for name, group in groups.items()}
    assert statuses == {
        "base": api_pb2.STATUS_SUCCESS,
        "wide": api_pb2.STATUS_FAILURE,
        "late": api_pb2.STATUS_FAILURE,
        "open": api_pb2.STATUS_UNKNOWN,
    }


def test_a_failure_after_a_success_is_what_counts(tmp_path):
    listeners = RunListeners([("tensorboard", TensorBoard())])
    listeners.open(RunInfo(tmp_path / "run"))
    listeners.begin({"dim": 8})
    listeners.finalize("success")
    listeners.scalars({"test/loss": 1.0}, 1)
    listeners.finalize("failed")
    listeners.finalize("success")
    listeners.close()
    listeners.close()
    _, groups = hyperparameter_table(tmp_path)
    assert groups["run/base"].sessions[0].status == api_pb2.STATUS_FAILURE


def test_an_unknown_ending_is_refused(make_logger):
    with pytest.raises(ValueError, match="'done' is unknown"):
        make_logger().finish("done")


def test_maps_are_blobs_that_tensorboard_serves_one_by_one(make_logger, tmp_path):
    logger = make_logger()
    records = {0: record_of(0.5), 100: record_of(0.25)}
    for step, record in records.items():
        logger.maps(record, step)
    logger.flush()
    provider, request = provider_of(tmp_path), RequestContext()
    tag = "attention/probe0/self"
    listed = provider.list_blob_sequences(request, experiment_id="", plugin_name="attention")
    assert set(listed["run"]) == {tag}
    assert listed["run"][tag].max_length == 4
    series = provider.read_blob_sequences(
        request, experiment_id="", plugin_name="attention", downsample=1000
    )["run"][tag]
    assert [datum.step for datum in series] == [0, 100]
    for datum in series:
        blobs = [
            provider.read_blob(request, blob_key=reference.blob_key) for reference in datum.values
        ]
        assert blobs == encode(records[datum.step])
        assert list(decode(blobs).query_tokens) == ["<b>", "\n"]


def test_images_are_the_bytes_that_were_given(make_logger):
    logger = make_logger()
    image = contact_sheet(record_of(), step=0)
    logger.image("own/picture", image, 0)
    logger.maps(record_of(), 0)
    for tag in ("own/picture", "maps/probe0/self"):
        (event,) = read(logger).Images(tag)
        assert (event.encoded_image_string, event.width, event.height) == image


def test_a_step_that_does_not_increase_is_refused(make_logger):
    logger = make_logger()
    logger.maps(record_of(), 5)
    logger.maps(record_of(site="cross"), 5)
    with pytest.raises(ValueError, match="attention/probe0/self: step 5 comes after step 5"):
        logger.maps(record_of(), 5)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "```\n<script>alert(1)</script>\n# no heading",
        "`````\n~~~~\n* a\n`````",
        "    indented\n\n| a | b |\n| - | - |",
        "`",
        "",
    ],
)
def test_a_fence_shows_any_text_letter_by_letter(make_logger, text):
    logger = make_logger()
    logger.text("samples/text", text, 0)
    (event,) = read(logger).Tensors("samples/text")
    markdown = event.tensor_proto.string_val[0].decode()
    html = plugin_util.markdown_to_safe_html(markdown)
    inside = re.fullmatch(r"<pre><code>(.*)\n?</code></pre>", html, re.DOTALL)
    assert inside is not None
    shown = inside[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown.strip("\n") == text.strip("\n")


def test_the_layout_overlays_curves(make_logger):
    logger = make_logger()
    logger.begin({})
    (event,) = read(logger).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    patterns = {
        chart.title: list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }
    overlaid = [pattern for patterns in patterns.values() for pattern in patterns]
    for tag in ("loss/train", "loss/val", "text_floors/5-gram", "speed/tokens_per_second"):
        assert any(re.match(pattern, tag) for pattern in overlaid), tag
    (alone,) = patterns["validation"]  # variants are overlaid, and nothing else
    assert not any(re.match(alone, tag) for tag in ("loss/train", "loss/value"))
    assert "chart" not in patterns


def test_a_large_moment_warns_once(make_logger):
    logger = make_logger()
    noise = Image(np.random.default_rng(0).bytes(600_000), 1, 1)
    logger.image("a", noise, 0)
    logger.image("a", noise, 1)
    with pytest.warns(UserWarning, match="more than 1 MiB logged at step 1"):
        logger.image("b", noise, 1)
    logger.image("a", noise, 2)
    logger.image("b", noise, 2)


def test_maps_are_weighed(make_logger):
    weights = np.random.default_rng(0).random((4, 500, 500), dtype=np.float32)
    tokens = ["x"] * 500
    layers = [layer_map("L0", weights)]
    record = AttentionRecord("long", "self", "self", False, tokens, tokens, layers)
    with pytest.warns(UserWarning, match="more than 1 MiB logged at step 0"):
        make_logger().maps(record, 0)


class Regression(LightningModule):
    def __init__(self, width=1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def training_step(self, batch):
        loss = self.layer(batch).square().mean()
        self.log("loss/train", loss)
        return loss

    def test_step(self, batch):
        self.log("test/loss", self.layer(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_a_trainer_fits_and_tests_into_one_file_and_writes_nothing_else(tmp_path):
    listeners = RunListeners([("tensorboard", TensorBoard())])
    listeners.open(RunInfo(tmp_path / "run"))
    listeners.begin({"width": 1})
    batches = torch.utils.data.DataLoader(torch.ones(4, 1))
    trainer = Trainer(
        logger=list(listeners.loggers),
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model := Regression(), batches)
    trainer.test(model, batches, verbose=False)
    listeners.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == event_files(tmp_path / "run")
    assert len(files) == 1
    shown = event_accumulator.EventAccumulator(str(tmp_path / "run"), KEEP_ALL).Reload()
    assert set(shown.Tags()["scalars"]) == {"loss/train", "test/loss"}  # and no epoch
    experiment, groups = hyperparameter_table(tmp_path)
    assert [info.name for info in experiment.hparam_infos] == ["width"]
    assert groups["run/base"].sessions[0].status == api_pb2.STATUS_SUCCESS
