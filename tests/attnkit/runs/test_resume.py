"""A run that was stopped or has failed goes on exactly; and what may not go on does not."""

import errno
import hashlib
import importlib.util
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing import event_accumulator

from attnkit.callbacks import progress
from attnkit.errors import CheckpointError, DataError, DivergedError
from attnkit.hardware.devices import HardwareError, computing_device
from attnkit.recipe import load_recipe
from attnkit.runs import experiment
from attnkit.runs.early_ends import OutOfMemoryError
from attnkit.runs.resume import differences
from attnkit.runs.trainer import on_slurm
from attnkit.storage import checkpoint_store
from attnkit.storage.checkpoint_manifest import COPY, MANIFEST, manifest_text, read_manifest
from attnkit.storage.run_directory import FinishedError, RunDirectoryError
from attnkit.tasks.language_modeling.task import LanguageModelingTask
from attnkit.tasks.translation.task import TranslationTask
from attnkit.tensorboard.event_files import event_files
from attnkit.training.task import Task

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}
LOUD = ["logging.every_n_steps=2", "logging.attention_maps=4", "logging.samples=4"]
LOUD += ["logging.to=[tensorboard, csv, jsonl]"]

SYNTHETIC = ["task=synthetic", "~tokenizer", "~data.files", "data.name=sort", "data.length=16"]
SYNTHETIC += ["data.min_length=8", "data.test_lengths=[10]", "data.num_eval=40"]


def left_by(directory):
    """Curves to the last bit, the steps of all that is logged, lines of files, and their names."""
    shown = event_accumulator.EventAccumulator(str(directory), EVERYTHING).Reload()
    curves = {
        tag: [(event.step, event.value.hex()) for event in shown.Scalars(tag)]
        for tag in shown.Tags()["scalars"]
        if not tag.startswith("speed/")
    }
    steps = {tag: [event.step for event in shown.Tensors(tag)] for tag in shown.Tags()["tensors"]}
    own = re.compile("tfevents|plugins")  # named by their time, and by where their files lie
    files = {
        path.name
        for path in directory.rglob("*")
        if not own.search(str(path.relative_to(directory)))
    }
    lines = {
        path.name: re.sub(r"speed/\w+\W+[\d.e+]+", "", path.read_text())
        for path in directory.glob("metrics.*")
    }
    return curves, steps | lines, files


def trained(directory, name="last.ckpt"):
    checkpoint = torch.load(directory / "checkpoints" / name, weights_only=True)
    parts = checkpoint["optimizer_states"][0].get("parts") or checkpoint["optimizer_states"]
    state = [
        part["state"][i][key] for part in parts for i in part["state"] for key in part["state"][i]
    ]
    return [*checkpoint["state_dict"].values(), *state]


def assert_equal(directory, other):
    assert left_by(directory) == left_by(other)
    for name in ("last.ckpt", "best.ckpt"):
        here, there = trained(directory, name), trained(other, name)
        assert len(here) == len(there) > 10
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.fixture
def at_batch(monkeypatch):
    """`at_batch(5, act)`: does something once, in the middle of batch 5."""
    plain = Task.on_before_backward

    def arrange(number, act):
        def hook(self, loss):
            plain(self, loss)
            if self.trainer.fit_loop.epoch_loop.batch_idx == number:
                monkeypatch.setattr(Task, "on_before_backward", plain)
                act()

        monkeypatch.setattr(Task, "on_before_backward", hook)

    return arrange


def crash():
    raise ZeroDivisionError("a crash")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


ENDS = {crash: ZeroDivisionError, terminate: SystemExit, interrupt: KeyboardInterrupt}


# Exactness


@pytest.mark.parametrize(
    ("task", "quality"), [("translation", "bleu"), ("speech", "character_error_rate")]
)
def test_a_task_of_pairs_goes_on_with_its_batches_its_average_and_its_rhythm(
    task, quality, small, tmp_path, at_batch
):
    """It stops after step 5, in its third epoch of 4 batches (of translation), a step after it
    decoded for the first time and a step before a validation without.
    """
    keys = [
        "trainer.max_steps=14", "trainer.accumulate=2", "model.dropout=0.2",
        "validation.every_n_steps=2", f"{task}.decode_every=4",
    ]  # fmt: skip
    whole = experiment.run(small(*keys, f"runs_dir={tmp_path / 'whole'}", task=task))
    assert [step for step, _ in left_by(whole.directory)[0][f"quality/{quality}"]] == [4, 8, 12]
    at_batch(9, terminate)
    recipe = small(*keys, task=task)
    with pytest.raises(SystemExit):
        experiment.run(recipe)
    result = experiment.run(recipe, resume="yes")
    assert_equal(result.directory, whole.directory)
    assert result.metrics == whole.metrics
    assert result.record["averaged_steps"] == whole.record["averaged_steps"] == [12, 14]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def long(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("overrides", "batch", "end"),
    [
        ([], 1, crash),  # before the first checkpoint
        ([], 5, terminate),  # validation is due at this step
        long(["model.dropout=0.3", "trainer.num_workers=2"], 4, interrupt),
        (["trainer.accumulate=3", "model.dropout=0.3"], 13, terminate),  # in the middle of a step
        long(["trainer.precision=bf16", "model.attention.name=linear"], 6, terminate),
        long(["optimizer=muon", "model.dropout=0.3"], 8, crash),
        (SYNTHETIC, 7, crash),  # a length of its own for each batch
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_run_that_ended_early_goes_on_as_if_it_had_not(
    small, tmp_path, at_batch, overrides, batch, end
):
    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2", *LOUD, *overrides]
    whole = experiment.run(small(*keys, f"runs_dir={tmp_path / 'whole'}"))
    at_batch(batch, end)
    with pytest.raises(ENDS[end]):
        experiment.run(small(*keys))
    recipe = small(*keys)
    assert not (recipe.run_dir / "result.json").exists()
    result = experiment.run(recipe, resume="yes")
    assert_equal(result.directory, whole.directory)
    assert result.metrics == whole.metrics
    assert result.sample == whole.sample
    assert result.record["tokens"] == whole.record["tokens"]


def test_a_second_signal_stops_at_once(small, tmp_path, at_batch):
    def insist():
        terminate()
        interrupt()

    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2", *LOUD]
    at_batch(5, insist)
    recipe = small(*keys)
    with pytest.raises(KeyboardInterrupt, match=r"step 5, .*; the last checkpoint is from step 4"):
        experiment.run(recipe)
    assert experiment.run(recipe, resume="yes").record["status"] == "finished"


# What may change, and what may not


@pytest.fixture
def stopped(small, at_batch):
    """A run that crashed at step 5 of 9, with a checkpoint of step 4."""
    recipe = small("trainer.max_steps=9", "checkpoint.every_n_steps=2", "variant=base")
    at_batch(4, crash)
    with pytest.raises(ZeroDivisionError):
        experiment.run(recipe)
    return recipe


def test_a_changed_recipe_is_refused_with_the_keys(stopped):
    changed = stopped.with_overrides("optimizer.lr=0.02", "seed=3")
    with pytest.raises(
        RunDirectoryError,
        match=r"recipe: seed: 0 -> 3; optimizer.lr: 0.01 -> 0.02. Resume .* add --allow-changes",
    ):
        experiment.run(changed, directory=stopped.run_dir, resume="yes")


def test_what_cannot_matter_may_change_and_is_said(stopped, caplog):
    longer = stopped.with_overrides("trainer.max_steps=11", "logging.every_n_steps=5")
    result = experiment.run(longer, directory=stopped.run_dir, resume="yes")
    assert result.record["steps"] == 11
    assert result.record["status"] == "finished"
    said = [record.getMessage() for record in caplog.records if record.name == "attnkit"]
    assert said == [
        f"resuming {stopped.run_dir} after step 4",
        "changed: trainer.max_steps: 9 -> 11",
        "changed: logging.every_n_steps: 1 -> 5",
    ]
    environment = json.loads((result.directory / "environment.json").read_text())
    (resumed,) = environment["resumed"]
    assert (resumed["step"], len(resumed["changes"])) == (4, 2)


def test_a_lower_rate_holds_from_the_checkpoint_on(stopped):
    changed = stopped.with_overrides("optimizer.lr=0.001", "schedule=constant")
    result = experiment.run(changed, directory=stopped.run_dir, resume="yes", allow_changes=True)
    curves, _, _ = left_by(result.directory)
    rates = [float.fromhex(rate) for _, rate in curves["optimizer/learning_rate"]]
    assert rates[:4] != rates[4:8]
    assert rates[4:] == pytest.approx([0.001] * 5)


def test_changed_data_is_refused(stopped, text_file):
    before = text_file.read_text()
    text_file.write_text(before + "a dog sees a cat.\n")
    try:
        with pytest.raises(
            DataError, match=r"the data has changed since the run in .* began \(data"
        ):
            experiment.run(stopped, resume="yes")
    finally:
        text_file.write_text(before)
    assert experiment.run(stopped, resume="yes").record["steps"] == 9


def test_a_finished_run_has_nothing_left_to_do(small_run):
    recipe = load_recipe(small_run.directory / "recipe.yaml")
    with pytest.raises(
        FinishedError, match=r"is finished: 6 steps of 6; to continue, set trainer.max_s"
    ):
        experiment.run(recipe, resume="yes")
    fewer = recipe.with_overrides("trainer.max_steps=3")
    with pytest.raises(
        RunDirectoryError, match=r"already reached step 6, beyond trainer.max_steps=3"
    ):
        experiment.run(fewer, directory=small_run.directory, resume="yes")


def test_automatic_is_to_begin_or_to_go_on(small, stopped):
    fresh = small("trainer.max_steps=1", "variant=fresh")
    with pytest.raises(RunDirectoryError, match="does not exist; give the directory of a run, as"):
        experiment.run(fresh, resume="yes")
    assert experiment.run(fresh, resume="auto").record["steps"] == 1
    assert experiment.run(stopped, resume="auto").record["steps"] == 9


def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, caplog):
    checkpoints = stopped.run_dir / "checkpoints"
    (checkpoints / "last.ckpt").write_bytes(b"rubbish")
    experiment.run(stopped, resume="yes")
    assert "last.ckpt is damaged or missing; best.ckpt is the newest checkpoint that" in caplog.text


def test_without_a_good_checkpoint_nothing_is_resumed(stopped):
    for file in (stopped.run_dir / "checkpoints").glob("*.ckpt"):
        file.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="all checkpoints in"):
        experiment.run(stopped, resume="yes")


def test_one_process_at_a_time_trains_in_a_directory(stopped):
    held = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{held}; print('held', flush=True); time.sleep(600)"]
    other = subprocess.Popen([*command, stopped.run_dir / ".lock"], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunDirectoryError, match="another process is training in"):
            experiment.run(stopped, resume="yes")
        with pytest.raises(RunDirectoryError, match="another process is training in"):
            experiment.run(stopped)  # not "continue with --resume": that would be refused too
    finally:
        other.kill()
        other.communicate()
    assert experiment.run(stopped, resume="yes").record["steps"] == 9


def test_the_start_is_looked_at_again_once_the_directory_is_ours(stopped, monkeypatch):
    """Another process trains it to the end while this one waits for its data."""
    plain, waited = experiment.build_data, []

    def wait(recipe):
        if not waited:
            waited.append(True)
            experiment.run(stopped, resume="yes")
        return plain(recipe)

    monkeypatch.setattr(experiment, "build_data", wait)
    with pytest.raises(FinishedError, match="is finished: 9 steps of 9"):
        experiment.run(stopped, resume="yes")
    curves, _, _ = left_by(stopped.run_dir)
    assert [step for step, _ in curves["loss/train"]] == list(range(1, 10))
    assert (stopped.run_dir / "result.json").is_file()


def test_a_run_that_another_process_began_meanwhile_goes_on(small, at_batch, monkeypatch):
    recipe = small("trainer.max_steps=9", "checkpoint.every_n_steps=2", "variant=base")
    plain, waited = experiment.build_data, []

    def wait(now):
        if not waited:
            waited.append(True)
            at_batch(4, crash)
            with pytest.raises(ZeroDivisionError):
                experiment.run(recipe)
        return plain(now)

    monkeypatch.setattr(experiment, "build_data", wait)
    result = experiment.run(recipe, resume="auto")
    curves, _, _ = left_by(result.directory)
    assert [step for step, _ in curves["loss/train"]] == list(range(1, 10))


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: os.truncate(file, 40)])
def test_a_lost_or_cut_event_file_is_told_once(stopped, caplog, lose):
    (file,) = event_files(stopped.run_dir)
    lose(file)
    experiment.run(stopped, resume="yes")
    assert f"{file} is missing or truncated: its curves and maps are lost" in caplog.text
    caplog.clear()
    longer = stopped.with_overrides("trainer.max_steps=11")
    experiment.run(longer, directory=stopped.run_dir, resume="yes")
    assert f"resuming {stopped.run_dir} after step 9" in caplog.text
    assert "missing or truncated" not in caplog.text


def test_other_versions_and_threads_are_told(stopped, caplog):
    path = stopped.run_dir / "environment.json"
    environment = json.loads(path.read_text())
    assert environment["threads"] == torch.get_num_threads()
    assert environment["precision"] == "32-true"
    here = environment["device"]
    assert here == computing_device(torch.device("cpu"))
    environment["threads"], environment["precision"] = 64, "bf16-mixed"
    environment["device"] = "NVIDIA H100"
    environment["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(environment))
    result = experiment.run(stopped, resume="yes")
    threads = f"threads: 64 -> {torch.get_num_threads()}"
    now = (
        f"{threads}; precision: bf16-mixed -> 32-true; device: NVIDIA H100 -> {here}; "
        f"torch: 1.0 -> {torch.__version__}"
    )
    assert f"no longer bit for bit: {now.partition('+')[0]}" in caplog.text
    (resumed,) = json.loads((result.directory / "environment.json").read_text())["resumed"]
    assert resumed["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"packages": 1}', "{"])
def test_a_damaged_environment_is_told_before_anything_is_touched(stopped, content):
    path = stopped.run_dir / "environment.json"
    path.write_text(content)
    before = held_in(stopped.run_dir)
    with pytest.raises(RunDirectoryError, match=r"environment\.json is missing or damaged"):
        experiment.run(stopped, resume="yes")
    assert held_in(stopped.run_dir) == before


def held_in(directory):
    files = (file for file in directory.rglob("*") if file.is_file() and file.name != ".lock")
    return {file: file.read_bytes() for file in files}


def without_optimizer(checkpoint):
    del checkpoint["optimizer_states"]


def not_finite(checkpoint):
    name = next(name for name in checkpoint["state_dict"] if name.startswith("model."))
    checkpoint["state_dict"][name].view(-1)[0] = float("nan")


def sparse(checkpoint):
    weights = checkpoint["state_dict"]
    weights["model.embedding.weight"] = weights["model.embedding.weight"].to_sparse()


def another_shape(checkpoint):
    name = next(name for name in checkpoint["state_dict"] if name.startswith("model."))
    checkpoint["state_dict"][name] = torch.zeros(3, 2)


def another_lightning(checkpoint):
    checkpoint["pytorch-lightning_version"] = "1.9.0"


def no_loops(checkpoint):
    del checkpoint["loops"]


FAULTS = {
    without_optimizer: "has weights without the state of the optimizer",
    not_finite: "contains weights that are not finite",
    sparse: r"embedding.weight is not a dense tensor of real numbers",
    another_shape: r"is of shape \(3, 2\) in the file, and of shape \(",
    another_lightning: r"written with lightning 1\.9\.0, .*install lightning==1\.9\.0",
    no_loops: "lacks loops",
}


def rewritten(directory, change):
    """Changes the newest checkpoint, and has the manifest vouch for it."""
    for path in sorted((directory / "checkpoints").glob("*.ckpt")):
        checkpoint = torch.load(path, weights_only=True)
        change(checkpoint)
        path.unlink()
        torch.save(checkpoint, path)
        files = read_manifest(path.parent)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files[path.name] = [replace(saved, sha256=digest) for saved in files[path.name]]
        for name in (MANIFEST, COPY):
            (path.parent / name).write_text(manifest_text(files))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_checkpoint_that_cannot_be_resumed_is_told_before_anything_is_touched(stopped, fault):
    rewritten(stopped.run_dir, fault)
    before = held_in(stopped.run_dir)
    with pytest.raises(CheckpointError, match=FAULTS[fault]):
        experiment.run(stopped, resume="yes")
    assert held_in(stopped.run_dir) == before


def misshapen_moment(checkpoint):
    state = checkpoint["optimizer_states"][0]["state"]
    state[0]["exp_avg"] = torch.zeros(3, 2)


def misshapen_callback(checkpoint):
    checkpoint["training_curves"] = {"loss_sums": 3}


def moment_that_is_none(checkpoint):
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = "x"


def no_moments(checkpoint):
    checkpoint["optimizer_states"][0]["state"] = {}


STATE_FAULTS = [misshapen_moment, misshapen_callback, moment_that_is_none, no_moments]


@pytest.mark.parametrize("fault", STATE_FAULTS, ids=lambda fault: fault.__name__)
def test_states_of_another_shape_are_told(stopped, fault):
    rewritten(stopped.run_dir, fault)
    with pytest.raises(CheckpointError, match="does not fit"):
        experiment.run(stopped, resume="yes")


def test_an_interruption_saves_and_does_not_validate(small, at_batch, monkeypatch):
    validated = []
    plain = Task.on_validation_start

    def start(self):
        validated.append(self.trainer.global_step)
        plain(self)

    monkeypatch.setattr(Task, "on_validation_start", start)
    at_batch(4, interrupt)
    recipe = small("trainer.max_steps=9")
    with pytest.raises(KeyboardInterrupt, match=r"at step 5, .*checkpoint is from step 5"):
        experiment.run(recipe)
    assert validated == [3]


def test_a_validation_that_is_due_where_training_is_interrupted_is_announced(
    small, at_batch, caplog
):
    at_batch(5, interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"checkpoint is from step 6"):
        experiment.run(small("trainer.max_steps=9"))
    assert "a validation is due at this step and comes first" in caplog.text


class Full(io.StringIO):
    """A stream on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), None], ids=["full", "closed"])
def test_training_goes_on_where_nothing_can_be_said(small, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(Task, "on_train_batch_end", lambda *_: sys.stdout.write("a plugin says"))
    result = experiment.run(small())
    assert result.record["status"] == "finished"
    assert sys.stderr is stream


def test_differences_are_named_by_their_keys():
    before = {"model": {"dim": 8, "mask": {"name": "causal"}}, "seed": 0, "runs_dir": "a"}
    now = {"model": {"dim": 8, "mask": {"name": "window", "window": 3}}, "seed": 0, "runs_dir": "b"}
    assert differences(before, now) == {
        "model.mask.name": "model.mask.name: causal -> window",
        "model.mask.window": "model.mask.window: nothing -> 3",
    }
    assert differences(now, now) == {}


# Other ends


def test_time_that_is_up_stops_with_a_checkpoint_and_a_result(small):
    recipe = small("trainer.max_time=1e-6", "variant=base")
    result = experiment.run(recipe)
    assert result.record["status"] == "stopped"
    assert result.record["steps"] == 1
    unhurried = recipe.with_overrides("trainer.max_time=null")
    again = experiment.run(unhurried, directory=result.directory, resume="yes")
    assert again.record["status"] == "finished"
    assert (again.directory / "result.json").is_file()


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(2, 5)`: the losses of these batches are no numbers."""

    def arrange(*batches, task=LanguageModelingTask):
        plain = task.training_step

        def step(self, batch, batch_idx):
            loss = plain(self, batch, batch_idx)
            return loss * float("nan") if batch_idx in batches else loss

        monkeypatch.setattr(task, "training_step", step)

    return arrange


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_are_touched(small, spoil):
    recipe = small("checkpoint.every_n_steps=2", "variant=base")
    spoil(5)
    with pytest.raises(
        DivergedError,
        match=r"at step 6 the loss or its gradient is not finite; the last checkpoint is "
        r"from step 4. Lower .* attnkit resume .*seed0 optimizer.lr=0.0033 --allow-changes; or set",
    ):
        experiment.run(recipe)
    assert all(tensor.isfinite().all() for tensor in trained(recipe.run_dir))
    slower = recipe.with_overrides("optimizer.lr=0.0033", "trainer.on_nan=skip")
    result = experiment.run(slower, directory=recipe.run_dir, resume="yes", allow_changes=True)
    assert result.record["status"] == "finished"


class Spoiler(Callback):
    """Sets one weight to NaN after step 4, as a faulty callback might."""

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == 4:
            module.model.embedding.weight.data[0, 0] = float("nan")


def test_weights_that_are_no_numbers_are_never_saved(small):
    recipe = small("checkpoint.every_n_steps=2")
    with pytest.raises(DivergedError, match="at step 4 the weights are not finite; the last check"):
        experiment.run(recipe, callbacks=[Spoiler()])
    checkpoint = torch.load(recipe.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] < 4


def test_a_step_may_be_skipped_and_changes_nothing(small, spoil, monkeypatch, caplog):
    updates = []
    plain = torch.optim.AdamW.step

    def step(self, closure=None):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        result = plain(self, closure)
        after = self.param_groups[0]["params"]
        updates.append(not all(map(torch.equal, before, after)))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    spoil(1, 3)
    result = experiment.run(small("trainer.on_nan=skip"))
    assert updates == [True, False, True, False, True, True]
    assert result.record["skipped_steps"] == 2
    assert result.record["status"] == "finished"
    curves, _, _ = left_by(result.directory)
    assert [step for step, _ in curves["loss/train"]] == [1, 3, 5, 6]
    assert "step 2: the loss or its gradient is not finite; skipped (1 of at most 10)" in (
        caplog.text
    )


def test_only_so_many_steps_may_be_skipped(small, spoil):
    spoil(1, 2, 3)
    with pytest.raises(DivergedError, match="at step 4 the loss"):
        experiment.run(small("trainer.on_nan=skip", "trainer.max_skipped=2"))


def test_a_kernel_that_is_not_deterministic_is_named(small, at_batch):
    def fail():
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but")

    at_batch(4, fail)
    with pytest.raises(
        HardwareError, match=r"trainer.deterministic: cumsum_cuda_kernel has no det"
    ):
        experiment.run(small("trainer.deterministic=true"))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "gpu", "cpu"],
)
def test_a_lack_of_memory_names_batch_length_and_setting(small, at_batch, error):
    def fail():
        raise error

    at_batch(4, fail)
    with pytest.raises(
        OutOfMemoryError,
        match=r"out of memory in batch 4 of 8 sequences of 16 tokens \(step 5\): lower trainer."
        r"batch.* or lower model.max_seq_len; the last checkpoint is from step 3",
    ):
        experiment.run(small())


def test_a_lack_of_memory_beside_cuda_graphs_names_how_to_do_without_them(
    small, at_batch, monkeypatch
):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Task, "replays", property(lambda self: True, lambda self, _: None), False)
    at_batch(4, fail)
    with pytest.raises(OutOfMemoryError, match=r", or set trainer.compile=without_cuda_graphs"):
        experiment.run(small())


@pytest.mark.parametrize(
    ("task", "batch", "length"),
    [
        ("language_modeling", "trainer.batch_size", "model.max_seq_len"),
        ("masked_language_modeling", "trainer.batch_size", "model.max_seq_len"),
        ("translation", "trainer.batch_tokens", "model.max_seq_len"),
        ("speech", "trainer.batch_tokens", "model.max_seq_len"),
        ("synthetic", "trainer.batch_size", "data.length"),
    ],
)
def test_advice_against_a_lack_of_memory_names_keys_that_the_task_reads(
    small, at_batch, task, batch, length
):
    def fail():
        raise MemoryError

    recipe = small("trainer.max_steps=3", task=task)
    resolved = recipe.to_dict()
    for section, key in (batch.split("."), length.split(".")):
        assert key in resolved[section]
    at_batch(1, fail)
    said = rf"lower {batch} and raise trainer.accumulate .* or lower {length}; there is no"
    with pytest.raises(OutOfMemoryError, match=said):
        experiment.run(recipe)


def test_an_error_of_another_kind_stays_what_it_is(small, at_batch):
    def fail():
        raise RuntimeError("connection closed by peer")  # of one process alone

    at_batch(4, fail)
    with pytest.raises(RuntimeError, match="connection closed by peer"):
        experiment.run(small())


# From Python 3.13 on, a buffer that torch still holds tells that it could not be closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_stops_training_with_one_message(small, monkeypatch):
    plain = os.fsync

    def refuse(descriptor):
        if os.fstat(descriptor).st_size > 50_000:
            raise OSError(28, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(checkpoint_store.os, "fsync", refuse)
    recipe = small("checkpoint.every_n_steps=1", "variant=base")
    with pytest.raises(
        CheckpointError, match=r"of step 1 cannot be .*: No space left on device; there"
    ):
        experiment.run(recipe)
    monkeypatch.undo()
    assert experiment.run(recipe, resume="yes").record["steps"] == 6


# Several processes


@pytest.fixture
def kill_and_resume(monkeypatch):
    """The benchmark as a module: it forks, instead of importing everything for each process."""
    script = Path(__file__).parents[3] / "benchmarks" / "kill_and_resume.py"
    spec = importlib.util.spec_from_file_location("kill_and_resume", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_two(kill_and_resume, tmp_path):
    """`in_two("resume", directory)`: what torchrun does with two processes, in forks; returns what
    they said, process by process.
    """

    def run(*arguments):
        logs = [tmp_path / f"said-by-{rank}" for rank in range(2)]
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        children = []
        for rank, log in enumerate(logs):
            log.unlink(missing_ok=True)
            variables = {
                "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": port,
                "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0,
                "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
            }  # fmt: skip
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)
                for name, value in variables.items():
                    patch.setenv(name, str(value))
                children.append(kill_and_resume.forked(arguments, log))
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        said = [log.read_text() for log in logs]
        assert codes == [0, 0], "\n".join(said)
        return said

    return run


WEAK = """
import os, signal
from attnkit.training.task import Task
from attnkit.tasks.language_modeling.task import LanguageModelingTask

plain = Task.on_before_backward

def on_before_backward(self, loss):
    plain(self, loss)
    if f"{self.global_rank}/{self.trainer.global_step}" == os.environ.get("DIES_AT"):
        del os.environ["DIES_AT"]
        os.kill(os.getpid(), int(os.environ.get("DIES_OF", signal.SIGKILL)))

Task.on_before_backward = on_before_backward
"""
"""A plugin: a process of a run dies in a certain step, or hears a signal, if the environment says
so.
"""

SPOILT = """
from attnkit.tasks.translation.task import TranslationTask

plain_step = TranslationTask.training_step

def training_step(self, batch, batch_idx):
    loss = plain_step(self, batch, batch_idx)
    return loss * float("nan") if self.global_rank == 0 and batch_idx == 3 else loss

TranslationTask.training_step = training_step
"""
"""A plugin: in the second step a loss of the first process is no number."""

ALONE = [sys.executable, "-m", "attnkit"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "attnkit"]


def call(command, folder, *arguments, **environment):
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_and_nothing_is_lost_if_one_is_killed(
    small, tmp_path, at_batch, in_two, strategy
):
    """Two go on as two exactly, started by torchrun or by Lightning itself; as one, and one as two,
    with the same data.
    """
    (tmp_path / "weak.py").write_text(WEAK)
    keys = ["trainer.max_steps=9", "checkpoint.every_n_steps=2", "logging.every_n_steps=3"]
    two = ["trainer.devices=2", f"trainer.strategy={strategy}"]
    alone = experiment.run(small(*keys, "variant=alone"))
    (tmp_path / "two.yaml").write_text(small(*keys, *two, "variant=two").to_yaml())
    command = ["run", "two.yaml", "plugins=[weak.py]"]
    command += ["logging.attention_maps=2", "logging.samples=2"]

    said = "".join(in_two(*command, "variant=whole"))
    assert said.count("whole validation split") == 1
    assert "sync_dist" not in said
    runs = alone.directory.parents[1]
    directory = runs / "whole" / "seed0"
    assert len(event_files(directory)) == 1
    one, both = (left_by(path)[0] for path in (alone.directory, directory))
    for tag in ("loss/train", "loss/val", "loss/final", "optimizer/gradient_norm"):
        for (step, loss), (same_step, other) in zip(one[tag], both[tag], strict=True):
            assert step == same_step
            assert float.fromhex(loss) == pytest.approx(float.fromhex(other), rel=1e-4)
    assert all(map(nearly_equal, trained(alone.directory), trained(directory)))

    killed = call(ALONE, tmp_path, *command, "variant=killed", DIES_AT="1/7")
    assert killed.returncode == 1
    assert re.search(
        r"error: another of the 2 processes has ended \(killed, or out of memory\?\) at step 7; "
        r"the last checkpoint is from step 6. Continue with: attnkit resume .*/killed/seed0",
        killed.stderr,
    )
    as_one = shutil.copytree(runs / "killed", runs / "as_one") / "seed0"

    again = ["resume", str(runs / "killed" / "seed0")]
    if strategy == "ddp":
        resumed = call(TORCHRUN, tmp_path, *again)
        assert resumed.returncode == 0, resumed.stderr
    else:
        in_two(*again)
    assert_equal(runs / "killed" / "seed0", directory)

    recipe = load_recipe(as_one / "recipe.yaml", ["trainer.devices=1", "trainer.strategy=auto"])
    experiment.run(recipe, directory=as_one, resume="yes")
    assert all(map(nearly_equal, trained(as_one), trained(directory)))

    as_two = small(*keys, "variant=as_two")
    at_batch(5, crash)
    with pytest.raises(ZeroDivisionError):
        experiment.run(as_two)
    in_two("resume", str(as_two.run_dir), *two)
    environment = json.loads((as_two.run_dir / "environment.json").read_text())
    assert [resumed["step"] for resumed in environment["resumed"]] == [4]
    assert all(map(nearly_equal, trained(as_two.run_dir), trained(directory)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_translation_in_shares_hears_a_signal_and_ends_as_one_process_does(
    small, tmp_path, in_two, spoil
):
    """One process of two hears SIGTERM; before, the other had a loss that was no number."""
    (tmp_path / "weak.py").write_text(WEAK + SPOILT)
    keys = ["trainer.accumulate=2", "trainer.gradient_clip=0.1", "trainer.on_nan=skip"]
    keys += ["model.dropout=0", "translation.average=2", "logging.samples=2", "trainer.max_steps=9"]
    two = ["trainer.devices=2", "trainer.strategy=fsdp", "variant=two"]
    (tmp_path / "two.yaml").write_text(small(*keys, *two, task="translation").to_yaml())
    alone = small(*keys, "variant=alone", task="translation")
    command = ["run", "two.yaml", "plugins=[weak.py]", "variant=two"]

    stopped = call(ALONE, tmp_path, *command, DIES_AT="1/4", DIES_OF=str(int(signal.SIGTERM)))
    assert stopped.returncode == 143, stopped.stderr
    assert "the last checkpoint is from step 5" in stopped.stderr
    directory = alone.run_dir.parents[1] / "two" / "seed0"
    in_two("resume", str(directory))

    spoil(3, task=TranslationTask)
    one = experiment.run(alone)
    record = json.loads((directory / "result.json").read_text())
    assert record["skipped_steps"] == one.record["skipped_steps"] == 1
    assert record["averaged_steps"] == one.record["averaged_steps"] == [6, 9]
    assert record["parameters_by_part"] == one.record["parameters_by_part"]
    assert record["metrics"]["loss"] == pytest.approx(one.metrics["loss"], rel=1e-4)
    curves, moments, files = left_by(directory)
    expected, same_moments, same_files = left_by(one.directory)
    assert (curves.keys(), moments, files) == (expected.keys(), same_moments, same_files)
    for (step, norm), (same_step, other) in zip(
        curves["optimizer/gradient_norm"], expected["optimizer/gradient_norm"], strict=True
    ):
        assert step == same_step
        assert float.fromhex(norm) == pytest.approx(float.fromhex(other), rel=1e-3, nan_ok=True)
    assert all(map(nearly_equal, trained(directory), trained(one.directory)))


def nearly_equal(a, b):
    return torch.allclose(a, b, atol=1e-4)


def test_under_slurm_a_run_stops_and_resumes_like_any_other(small, at_batch, monkeypatch):
    """Lightning would ignore SIGTERM there, and save and requeue by itself on SIGUSR1."""
    for name, value in {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    assert on_slurm()
    handlers = []

    def look():
        handlers.append(signal.getsignal(signal.SIGUSR1))
        terminate()

    at_batch(3, look)
    with pytest.raises(SystemExit) as ended:
        experiment.run(small())
    assert ended.value.code == 143
    assert handlers == [signal.SIG_DFL]
    assert experiment.run(small(), resume="auto").record["status"] == "finished"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_runs_that_are_killed_anywhere_end_as_if_they_had_not_been(
    tmp_path, kill_and_resume, tiny_samples
):
    """The benchmark's own trials, whose forks have imported everything already. Texts are short:
    half of the kills would fall into their making, where nothing is written.
    """
    watched, held = os.pipe()  # held open by all forks, and theirs
    outcome = kill_and_resume.trials(8, [tmp_path], ["workers", "accumulate"], seed=0, steps=20)
    assert (outcome.kills, outcome.failures) == (8, [])
    os.close(held)
    assert select.select([watched], [], [], 30)[0], "a process has outlived its run"
    os.close(watched)
