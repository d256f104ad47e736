"""A file system that refuses event files: one warning, and the run goes on."""

import shutil

from tensorboard.backend.event_processing import event_accumulator

from attnkit.tensorboard.logger import RunLogger


def test_a_directory_that_has_gone_costs_the_curves_and_not_the_run(tmp_path, caplog):
    logger = RunLogger(tmp_path / "run", trial_id="base")
    logger.log_metrics({"loss/train": 1.0}, 0)
    logger.save()
    (tmp_path / "run").rename(tmp_path / "away")
    for step in range(1, 5):
        logger.log_metrics({"loss/train": 1.0}, step)
        logger.save()
    logger.finalize("success")
    logger.close()
    (record,) = caplog.records
    assert "cannot be written: No such file or directory; training goes on" in record.getMessage()
    shown = event_accumulator.EventAccumulator(str(tmp_path / "away")).Reload()
    assert [event.step for event in shown.Scalars("loss/train")] == [0]
    shutil.rmtree(tmp_path / "away")
