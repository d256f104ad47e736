"""Steps that are not taken, and what the host reads from the device meanwhile."""

import traceback

import pytest
import torch
from torch.optim import AdamW
from torch.overrides import TorchFunctionMode

from attnkit.callbacks import progress
from attnkit.callbacks.curves import TrainingCurves
from attnkit.errors import DivergedError
from attnkit.runs import experiment
from attnkit.storage.run_directory import CHECKPOINTS
from attnkit.tasks.language_modeling.task import LanguageModelingTask
from attnkit.training.bad_steps import BadSteps, can_leave_out
from attnkit.training.muon import StackedMuon
from attnkit.training.optimizers import JointOptimizer
from attnkit.training.task import Task

READS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu"}
"""Methods that would have a GPU finish all work first."""

MAKERS = {"tensor", "as_tensor", "asarray"}
"""So would these, which copy a number to it; `full` does not."""


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Runs keep what they find out about a step on the device."""
    monkeypatch.setattr(Task, "waits_each_step", False)


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(2, 5)`: the losses of these batches are NaN."""
    plain = LanguageModelingTask.training_step

    def arrange(*batches):
        def step(self, batch, batch_idx):
            loss = plain(self, batch, batch_idx)
            return loss * float("nan") if batch_idx in batches else loss

        monkeypatch.setattr(LanguageModelingTask, "training_step", step)

    return arrange


def saved(directory):
    checkpoint = torch.load(directory / CHECKPOINTS / "last.ckpt", weights_only=True)
    parts = checkpoint["optimizer_states"][0].get("parts") or checkpoint["optimizer_states"]
    states = [value for part in parts for of in part["state"].values() for value in of.values()]
    return [*checkpoint["state_dict"].values(), *states], checkpoint["training_curves"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_left_out_by_the_device_is_as_one_that_the_host_skips(
    small, spoil, monkeypatch, optimizer
):
    spoil(1, 3)
    recipe = small(
        "trainer.on_nan=skip", f"optimizer={{name: {optimizer}, lr: 0.01}}",
        "logging.every_n_steps=4",
    )  # fmt: skip
    waited = experiment.run(recipe, directory=recipe.run_dir.with_name("waited"))
    monkeypatch.setattr(Task, "waits_each_step", False)
    result = experiment.run(recipe)
    assert result.record["skipped_steps"] == waited.record["skipped_steps"] == 2
    assert result.metrics == waited.metrics
    (here, curves), (there, their_curves) = saved(result.directory), saved(waited.directory)
    assert len(here) == len(there) > 20
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert curves["steps"] == their_curves["steps"]
    assert torch.equal(curves["loss_sums"], their_curves["loss_sums"])


@pytest.mark.parametrize("allowed", [0, 1])
def test_the_error_names_the_step_though_it_comes_later(small, spoil, as_on_a_gpu, caplog, allowed):
    spoil(1, 3)
    skip = ["trainer.on_nan=skip", f"trainer.max_skipped={allowed}"] if allowed else []
    with pytest.raises(DivergedError, match=f"at step {2 + 2 * allowed} the loss or its gradient"):
        experiment.run(small("logging.every_n_steps=5", "validation.every_n_steps=6", *skip))
    told = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(told) == allowed
    assert all(line.startswith("step 2: ") for line in told)


def test_counts_go_on_in_a_resumed_run(small, spoil, as_on_a_gpu):
    spoil(1, 4)
    skip = ["trainer.on_nan=skip", "trainer.max_skipped=1"]
    recipe = small(*skip, "checkpoint.every_n_steps=2", "logging.every_n_steps=6", "variant=base")
    with pytest.raises(DivergedError, match="at step 5 "):
        experiment.run(recipe)
    with pytest.raises(DivergedError, match="at step 5 "):
        experiment.run(recipe, resume="yes")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_after_a_bad_step_too_many_nothing_moves(kind):
    weights = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
    adamw = AdamW(weights[:1], lr=0.1, fused=True)
    muon = StackedMuon(weights[1:], lr=0.1, weight_decay=0.1)
    optimizer = JointOptimizer([adamw, muon])
    assert can_leave_out(optimizer)
    assert not can_leave_out(torch.optim.SGD(weights, lr=0.1))
    bad_steps = BadSteps()

    def moved(step, value):
        before = [w.detach().clone() for w in weights]
        for weight in weights:
            weight.grad = torch.full_like(weight, value)
        is_bad = torch.tensor(value).isfinite().logical_not()
        bad_steps.leave_out(step, is_bad, optimizer)
        optimizer.step()
        return [not torch.equal(a, w) for a, w in zip(before, weights, strict=True)]

    assert moved(1, 1.0) == [True, True]
    assert moved(2, float("nan")) == [False, False]
    assert moved(3, 1.0) == [False, False]  # it is not yet told, and is not to be undone
    assert all(bool(w.isfinite().all()) for w in weights)
    with pytest.raises(DivergedError, match="at step 2 "):
        bad_steps.read()


def test_a_resumed_run_that_may_skip_fewer_steps_than_it_has_goes_on():
    bad_steps = BadSteps()
    bad_steps.max_skipped, bad_steps.num_skipped = 1, 2
    optimizer = AdamW([torch.nn.Parameter(torch.ones(1))], fused=True)
    left_out = [
        bool(bad_steps.leave_out(step, torch.tensor(step == 8), optimizer)) for step in (7, 8, 9)
    ]
    assert left_out == [False, True, True]
    with pytest.raises(DivergedError, match="at step 8 "):
        bad_steps.read()


class Reads(TorchFunctionMode):
    """Counts the calls that read a tensor, but for those that make a batch: it lies on the host."""

    def __init__(self):
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        to_cpu = name == "to" and any(type(x) is str and x == "cpu" for x in args[1:])
        to_gpu = name == "new_tensor" or (name in MAKERS and "device" in (kwargs or {}))
        if name in READS or to_cpu or to_gpu:
            files = {frame.filename for frame in traceback.extract_stack()}
            self.count += not any("/attnkit/data/" in file for file in files)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("language_modeling", []),
        ("language_modeling", ["trainer.accumulate=2", "callbacks=[{name: qk_clip, tau: 0.5}]"]),
        ("language_modeling", ["model.attention=ssmax", "model.mask=none"]),
        ("masked_language_modeling", ["trainer.accumulate=2"]),
        ("synthetic", ["trainer.accumulate=2"]),
        ("translation", ["trainer.accumulate=2"]),
        pytest.param("speech", ["trainer.accumulate=2"], marks=pytest.mark.slow),
    ],
)
def test_between_two_points_nothing_is_read(small, as_on_a_gpu, monkeypatch, task, keys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e9)
    counts = {}
    plain = TrainingCurves.on_train_batch_end
    with Reads() as reads:

        def count(self, trainer, *args):
            plain(self, trainer, *args)
            counts[trainer.global_step] = reads.count

        monkeypatch.setattr(TrainingCurves, "on_train_batch_end", count)
        experiment.run(
            small(
                "logging.every_n_steps=4", "validation.every_n_steps=8", "trainer.max_steps=8",
                *keys, task=task,
            )
        )  # fmt: skip
    assert counts[1] == counts[2] == counts[3] < counts[4] == counts[5] == counts[6] == counts[7]
