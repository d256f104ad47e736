from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger

from attnkit.callbacks.at_moments import log_moments
from attnkit.callbacks.samples import Samples
from attnkit.listeners.listener import Listener


class Notebook(Listener):
    """Notes down what would be written."""

    def __init__(self):
        self.notes = []

    def text(self, tag, text, step):
        self.notes.append((tag, text, step))


def run(callback, *loggers, max_steps=20, is_global_zero=True, batches_a_step=1):
    trainer = SimpleNamespace(
        global_step=0,
        estimated_stepping_batches=max_steps,
        is_global_zero=is_global_zero,
        loggers=loggers,
    )
    module = SimpleNamespace(sample=lambda: f"said in step {trainer.global_step}")
    callback.on_train_start(trainer, module)
    for batch in range(max_steps * batches_a_step):
        trainer.global_step = (batch + 1) // batches_a_step
        callback.on_train_batch_end(trainer, module, {}, None, batch)
    callback.on_train_end(trainer, module)


@pytest.mark.parametrize("batches_a_step", [1, 3])
def test_a_sample_is_written_once_at_each_moment(batches_a_step):
    notebook = Notebook()
    run(Samples(num_moments=4), notebook, batches_a_step=batches_a_step)
    steps = log_moments(20, 4)
    assert notebook.notes == [("samples", f"said in step {step}", step) for step in steps]


def test_one_sample_is_the_last_one():
    notebook = Notebook()
    run(Samples(num_moments=1), notebook)
    assert [step for _, _, step in notebook.notes] == [20]


def test_other_loggers_and_other_processes_write_none(tmp_path):
    notebook = Notebook()
    run(Samples(num_moments=4), notebook, CSVLogger(tmp_path), is_global_zero=False)
    assert notebook.notes == []
    run(Samples(num_moments=4), CSVLogger(tmp_path))
