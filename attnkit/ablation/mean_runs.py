"""Writes the mean of a variant's seeds as a separate run, for TensorBoard's pages of scalars.

runs/<study>/mean/<variant>/    not a run: event files only
    loss/val, ...               mean over the finished seeds, under the tags of the seeds
    range/loss_val_low, ...     the lowest seed at each step
    range/loss_val_high, ...    the highest one
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from attnkit.ablation.curves import mean_curve
from attnkit.storage.run_directory import RESULT
from attnkit.tensorboard.event_files import event_files
from attnkit.tensorboard.scalars import read_scalars

log = logging.getLogger("attnkit")

FOLDER = "mean"
"""Folder of a study for the mean runs."""

BANDED = ("loss/val", "loss/train")
"""Tags with a chart of mean and range on the Custom Scalars page."""


def write_mean(study: Path, variant: str) -> bool:
    """Writes the mean run of a variant; TensorBoard shows the latest.

    Args:
        study: folder of the study.
        variant: name of the variant.

    Returns:
        True if it was written: at least two seeds are finished and have a tag in common.
    """
    seeds = sorted(path.parent for path in (study / variant).glob(f"seed*/{RESULT}"))
    place = study / FOLDER / variant
    try:
        return len(seeds) > 1 and _write(seeds, place)
    except OSError as error:
        log.warning("the mean run %s cannot be written: %s", place, error.strerror or error)
        return False


def _write(seeds: Sequence[Path], place: Path) -> bool:
    from attnkit.tensorboard import summaries
    from attnkit.tensorboard.event_writer import EventWriter

    of_seeds = [read_scalars(seed) for seed in seeds]
    tags = sorted(set.intersection(*map(set, of_seeds)))
    if not tags:
        return False
    # Adds a file, since an open TensorBoard cannot continue after one was removed. `forget_from`
    # makes it drop what it has read from the earlier files.
    writer = EventWriter(place, forget_from=0 if event_files(place) else None)
    layout = {"mean over seeds": {tag: (tag, *range_tags(tag)) for tag in BANDED if tag in tags}}
    writer.add_summary(summaries.layout({}, bands=layout), 0)
    for tag in tags:
        curve = mean_curve(place.name, [curves[tag] for curves in of_seeds], {})
        if curve is None:
            continue
        low, high = range_tags(tag)
        for name, points in ((tag, curve.mean), (low, curve.low), (high, curve.high)):
            for step, point in zip(curve.steps.tolist(), points.tolist(), strict=True):
                writer.add_summary(summaries.scalar(name, point), step)
    writer.close()
    return True


def range_tags(tag: str) -> tuple[str, str]:
    """Returns the tags of the lowest and the highest seed."""
    name = tag.replace("/", "_")
    return f"range/{name}_low", f"range/{name}_high"
