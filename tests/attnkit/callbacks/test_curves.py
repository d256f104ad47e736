from types import SimpleNamespace

import pytest
import torch

from attnkit.callbacks import curves
from attnkit.callbacks.curves import TrainingCurves
from attnkit.errors import DivergedError


class Stage:
    """What a callback sees of Lightning, with a clock that is set by hand."""

    def __init__(self, monkeypatch, every_n_steps=2, accumulate=1, max_steps=5, world_size=1):
        self.points = []
        self.now = 0.0
        self.curves = TrainingCurves(every_n_steps)
        monkeypatch.setattr(curves.time, "perf_counter", lambda: self.now)
        self.module = SimpleNamespace(num_tokens=lambda batch: 100, gradient_norm=None)
        self.trainer = SimpleNamespace(
            global_step=0,
            max_steps=max_steps,
            accumulate_grad_batches=accumulate,
            world_size=world_size,
            strategy=SimpleNamespace(reduce=lambda value, reduce_op: value),
            optimizers=[SimpleNamespace(param_groups=[{"lr": 9.0}, {"lr": 0.5}])],
            loggers=[SimpleNamespace(log_metrics=lambda m, step: self.points.append((step, m)))],
        )
        self.curves.on_train_start(self.trainer, self.module)

    def batch(self, loss, seconds=1.0, steps=True):
        self.now += seconds
        self.trainer.global_step += steps
        outputs = {"loss": torch.tensor(loss) / self.trainer.accumulate_grad_batches}
        self.curves.on_train_batch_end(self.trainer, self.module, outputs, None, 0)


def test_a_point_is_the_mean_since_the_last_one(monkeypatch):
    stage = Stage(monkeypatch)
    for loss in (5.0, 4.0, 3.0, 2.0, 1.0):
        stage.batch(loss)
    assert [(step, point["loss/train"]) for step, point in stage.points] == [
        (2, 4.5),
        (4, 2.5),
        (5, 1.0),  # the last step always
    ]
    assert stage.points[0][1]["optimizer/learning_rate"] == 0.5
    assert "optimizer/gradient_norm" not in stage.points[0][1]


def test_batches_of_one_step_are_averaged(monkeypatch):
    stage = Stage(monkeypatch, every_n_steps=1, accumulate=2)
    stage.batch(4.0, steps=False)
    assert stage.points == []
    stage.batch(2.0)
    ((step, point),) = stage.points
    assert (step, point["loss/train"]) == (1, 3.0)
    assert point["speed/tokens_per_second"] == 100.0


def test_the_gradient_norm_is_written_where_there_is_one(monkeypatch):
    stage = Stage(monkeypatch, every_n_steps=1)
    stage.module.gradient_norm = torch.tensor(2.5)
    stage.batch(1.0)
    assert stage.points[0][1]["optimizer/gradient_norm"] == 2.5


def test_time_in_validation_does_not_count(monkeypatch):
    stage = Stage(monkeypatch, world_size=3)
    stage.batch(1.0, seconds=1.0)
    stage.curves.on_validation_start(stage.trainer, stage.module)
    stage.now += 1000.0
    stage.curves.on_validation_end(stage.trainer, stage.module)
    stage.batch(1.0, seconds=1.0)
    assert stage.points[0][1]["speed/tokens_per_second"] == 3 * 200 / 2
    assert stage.curves.tokens_per_second == 300.0
    assert stage.curves.num_tokens == 600


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(monkeypatch, loss):
    stage = Stage(monkeypatch, every_n_steps=1)
    with pytest.raises(DivergedError, match="at step 1 the training loss is not finite"):
        stage.batch(loss)


def test_after_a_resumption_the_speed_is_that_of_the_session_at_hand(monkeypatch):
    """Before, on a slow machine, a batch took 10 s; now it takes 1 s."""
    slow = Stage(monkeypatch)
    for _ in range(3):
        slow.batch(1.0, seconds=10.0)
    checkpoint = {}
    slow.trainer.world_size = 1
    slow.module.device = "cpu"
    slow.curves.on_save_checkpoint(slow.trainer, slow.module, checkpoint)
    assert slow.curves.tokens_per_second == 10.0

    fast = Stage(monkeypatch)
    fast.trainer.global_rank = 0
    fast.curves.on_load_checkpoint(fast.trainer, fast.module, checkpoint)
    fast.module.device = "cpu"
    fast.trainer.global_step = 3
    fast.curves.on_train_start(fast.trainer, fast.module)
    assert fast.curves.tokens_per_second == 10.0  # nothing better is known yet
    fast.batch(1.0)
    assert fast.curves.tokens_per_second == 100.0
    fast.batch(1.0)
    fast.now += 1000.0
    assert fast.curves.tokens_per_second == 100.0
    assert fast.curves.total_tokens == 500


def test_tokens_behind_the_last_point_count(monkeypatch):
    stage = Stage(monkeypatch, every_n_steps=10, max_steps=20)
    stage.batch(1.0)
    stage.curves.on_train_end(stage.trainer, stage.module)
    assert stage.curves.total_tokens == 100
    assert stage.curves.tokens_per_second == 100.0


def test_before_the_first_point_the_speed_is_zero():
    assert TrainingCurves(5).tokens_per_second == 0.0
