"""What every task shares: what a batch counts for in its step, and in a validation."""

import copy
import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset

from attnkit.data.pair_batch import IGNORED
from attnkit.recipe import recipe_from_dict
from attnkit.registry import OPTIMIZERS, SCHEDULES, TASKS
from attnkit.runs import experiment
from attnkit.runs.trainer import quiet_lightning
from attnkit.tasks.language_modeling.task import LanguageModelingTask
from attnkit.training.task import Task, total_of


class Rows(Dataset):
    """Batches of 1, 2, 3, ... rows."""

    def __init__(self, stop):
        self.stop = stop

    def __len__(self):
        return self.stop

    def __getitem__(self, index):
        numbers = torch.Generator().manual_seed(index)
        return torch.randn(index + 1, 3, generator=numbers), torch.full((index + 1, 1), index)


class PluginTask(Task):
    """A task as somebody else may write one: no word about accumulation."""

    def losses(self, batch):
        read, answer = batch
        found = self.run_model(read)
        return {"error": mse_loss(found, answer.float()), "size": 0.1 * found.square().mean()}

    def num_tokens(self, batch):
        return len(batch[0])

    def train_batches(self, stop):
        return Rows(stop)

    def val_batches(self):
        return Rows(1)


def plugin_task(small):
    torch.manual_seed(0)
    options = {"max_steps": 2, "accumulate": 3, "gradient_clip": None}
    optimizer, schedule = OPTIMIZERS.build({"name": "adamw"}), SCHEDULES.build({"name": "constant"})
    return PluginTask(nn.Linear(3, 1), None, optimizer, schedule, **options)


def built(recipe):
    data = experiment.build_data(recipe)
    data.prepare()
    return experiment.build_task(recipe, experiment.build_model(recipe, *data.vocab_sizes), data)


def translation_task(small):
    keys = ["trainer.accumulate=3", "trainer.max_steps=2", "trainer.batch_tokens=64"]
    keys += ["translation.average=0"]
    return built(small(*keys, "model.dropout=0", task="translation"))


def synthetic_task(small):
    keys = {
        "name": "s",
        "task": "synthetic",
        "data": {"name": "reverse", "length": 8, "min_length": 4},
    }
    model = {"max_seq_len": 16, "dim": 16, "attention": {"name": "multi_head", "num_heads": 2}}
    trainer = {"max_steps": 2, "accumulate": 3, "batch_size": 4, "precision": 32}
    return built(recipe_from_dict({**keys, "model": model, "trainer": trainer}))


def rows(batch):
    return len(batch[0])


def predicted(batch):
    return int((batch.predicted != IGNORED).sum())


def answers(batch):
    return int((batch.targets != IGNORED).sum())


@pytest.mark.parametrize(
    ("make", "count"),
    [(plugin_task, rows), (translation_task, predicted), (synthetic_task, answers)],
)
def test_the_batches_of_a_step_count_for_as_many_targets_as_they_have(small, make, count):
    """The gradient of the second step is that of the mean over all its targets."""
    task = make(small)
    seen = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append((copy.deepcopy(module.model), gradient_of(module.model)))

    quiet_lightning()
    options = {"max_steps": 2, "accumulate_grad_batches": 3, "limit_val_batches": 0}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(
        accelerator="cpu", callbacks=[Look()], enable_model_summary=False, **options, **quiet
    ).fit(task)

    task.model, found = seen[1]
    task._run[0] = task.model
    task.model.zero_grad()
    batches = [task.train_batches(6)[i] for i in (3, 4, 5)]
    counts = [count(batch) for batch in batches]
    assert len(set(counts)) > 1
    sums = [n * total_of(task.losses(batch)) for n, batch in zip(counts, batches, strict=True)]
    (sum(sums) / sum(counts)).backward()
    torch.testing.assert_close(found, gradient_of(task.model))


def gradient_of(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


class Copies(TorchFunctionMode):
    """Notes for each tensor that is moved whether its copy is one that nothing waits for."""

    def __init__(self):
        self.non_blocking = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to:
            self.non_blocking.append((kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", TASKS.names())
def test_on_a_gpu_batches_are_pinned_and_nothing_waits_for_their_copy(small, monkeypatch, task):
    task = built(small(task=task))
    assert not task.val_dataloader().pin_memory
    monkeypatch.setattr(type(task), "device", torch.device("cuda"))
    loader = task.val_dataloader()
    assert loader.pin_memory
    with Copies() as copies:
        task.transfer_batch_to_device(loader.dataset[0], torch.device("meta"), 0)
    assert len(copies.non_blocking) >= 2
    assert all(copies.non_blocking)


class HostWaits(TorchFunctionMode):
    """Refuses what makes the host wait for a GPU: numbers that it reads, and tensors that are made
    of its numbers.
    """

    READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero")
    MAKES = ("tensor", "as_tensor")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        refused = {getattr(torch.Tensor, name) for name in self.READS}
        refused |= {getattr(torch, name) for name in self.MAKES}
        assert func not in refused, func.__name__
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", TASKS.names())
def test_no_batch_of_a_validation_is_waited_for(small, monkeypatch, task):
    more = ["data.num_val=6"] if task == "speech" else []
    recipe = small("trainer.max_steps=1", *more, task=task)
    kind, watched = type(built(recipe)), []
    step = kind.validation_step

    def watch(self, batch, batch_idx):
        watched.append(batch_idx)
        with HostWaits():
            return step(self, batch, batch_idx)

    monkeypatch.setattr(kind, "validation_step", watch)
    experiment.run(recipe)
    assert watched


def test_a_validation_weights_each_batch_by_its_targets(small, monkeypatch):
    sizes = iter([1, 2, 3] * 9)
    monkeypatch.setattr(
        LanguageModelingTask, "measure", lambda self, batch: {"loss": torch.tensor(self.size)}
    )

    def count(self, batch):
        self.size = float(next(sizes))
        return int(self.size)

    monkeypatch.setattr(LanguageModelingTask, "num_targets", count)
    keys = ["trainer.max_steps=1", "trainer.batch_size=1", "validation.max_tokens=48"]
    result = experiment.run(small(*keys, "validation.final_max_tokens=48"))
    assert result.metrics["loss"] == pytest.approx(14 / 6)


@pytest.mark.parametrize("num_targets", [128, 0])
def test_a_validation_batch_that_is_not_finite_shows_if_it_has_targets(
    small, monkeypatch, num_targets
):
    measure, seen = LanguageModelingTask.measure, []

    def broken(self, batch):
        found = measure(self, batch)
        if self.is_final:
            seen.append(1)
            found["loss"] = found["loss"] * (float("nan") if len(seen) == 1 else 1.0)
        return found

    def counted(self, batch):
        return num_targets if self.is_final and not seen else 128

    monkeypatch.setattr(LanguageModelingTask, "measure", broken)
    monkeypatch.setattr(LanguageModelingTask, "num_targets", counted)
    result = experiment.run(small("trainer.batch_size=2"))
    assert len(seen) > 1
    assert math.isnan(result.metrics["loss"]) == (num_targets > 0)
