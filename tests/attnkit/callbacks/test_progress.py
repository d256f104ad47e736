import io
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from attnkit.callbacks import progress
from attnkit.callbacks.progress import LINE_SECONDS, TrainingProgress

MODULE = SimpleNamespace()


@pytest.fixture
def stage(monkeypatch):
    """A callback and a trainer whose clock is set by hand: `stage.step(loss, seconds)`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    callback = TrainingProgress(SimpleNamespace(tokens_per_second=1234.5), "name/variant")
    trainer = SimpleNamespace(
        global_step=0,
        max_steps=1000,
        is_global_zero=True,
        accumulate_grad_batches=2,
        callback_metrics={},
    )

    def step(loss, seconds, count=1):
        clock.now += seconds
        trainer.global_step += count
        outputs = {"loss": torch.tensor(loss / 2)}
        callback.on_train_batch_end(trainer, MODULE, outputs, None, 0)

    def evaluate(batch, seconds):
        clock.now += seconds
        callback.on_validation_batch_end(trainer, MODULE, None, None, batch)

    return SimpleNamespace(callback=callback, trainer=trainer, step=step, evaluate=evaluate)


def test_a_log_gets_a_line_now_and_then(stage, capsys):
    stage.callback.on_train_start(stage.trainer, MODULE)
    stage.step(4.0, LINE_SECONDS / 2)
    assert capsys.readouterr().err == ""
    stage.step(3.0, LINE_SECONDS / 2)
    said = capsys.readouterr().err
    assert said == "name/variant  2/1,000  loss 3.000  1,234 tokens/s  1:23:10 left\n"
    stage.step(2.0, LINE_SECONDS / 2)
    assert capsys.readouterr().err == ""


def test_the_last_step_is_always_told_and_the_validation_loss_is_there(stage, capsys):
    stage.callback.on_train_start(stage.trainer, MODULE)
    stage.trainer.callback_metrics["loss/val"] = torch.tensor(2.5)
    stage.callback.on_validation_end(stage.trainer, MODULE)
    stage.step(2.0, 1.0, count=1000)
    assert capsys.readouterr().err == (
        "name/variant  1,000/1,000  loss 2.000  val 2.500  1,234 tokens/s  0:00:00 left\n"
    )


def test_the_last_evaluation_says_how_far_it_is(stage, capsys):
    """A large validation split takes minutes after training has said that nothing is left."""
    stage.trainer.state = SimpleNamespace(fn=TrainerFn.FITTING)
    stage.trainer.num_val_batches = [400]
    stage.callback.on_train_start(stage.trainer, MODULE)
    stage.evaluate(0, LINE_SECONDS)
    assert capsys.readouterr().err == ""  # of a validation while training nobody hears
    stage.trainer.state.fn = TrainerFn.VALIDATING
    stage.callback.on_validation_start(stage.trainer, MODULE)
    stage.evaluate(0, LINE_SECONDS / 2)
    stage.evaluate(1, LINE_SECONDS / 2)
    stage.evaluate(2, LINE_SECONDS / 2)
    said = capsys.readouterr().err
    assert said == "name/variant, last evaluation  2/400 batches  0:33:10 left\n"


def test_one_process_of_several_speaks(stage, capsys):
    stage.trainer.is_global_zero = False
    stage.callback.on_train_start(stage.trainer, MODULE)
    stage.step(2.0, 100.0, count=1000)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_bar_that_ends(stage):
    screen = io.StringIO()
    stage.callback.console = Console(file=screen, force_terminal=True, width=100)
    stage.callback.on_train_start(stage.trainer, MODULE)
    for _ in range(4):
        stage.step(3.0, 1.0, count=250)
    stage.callback.teardown(stage.trainer, MODULE, "fit")
    stage.callback.teardown(stage.trainer, MODULE, "validate")
    shown = screen.getvalue()
    assert "1,000/1,000  loss 3.000  1,234 tokens/s  0:00:00 left" in shown
    assert "━" in shown
    assert shown.count("\n") == 1
