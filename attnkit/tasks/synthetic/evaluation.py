"""Counts the right answers of a run of a synthetic task, at any length that it can read. Loads no
Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.console import progress_bar
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.data.synthetic_batches import SyntheticEvalBatches, answer_sums, means
from attnkit.errors import DataError
from attnkit.hardware.devices import default_device
from attnkit.registry import SYNTHETIC
from attnkit.tasks.text_evaluation import Measured, check_reads

if TYPE_CHECKING:
    from attnkit.tasks.synthetic.trained import SyntheticRun


def measure(run: SyntheticRun, names: Sequence[str], lengths: Sequence[int]) -> Iterator[Measured]:
    """Scores a run; reports all errors before it computes anything.

    Args:
        run: run of a synthetic task.
        names: `val` or `test`; empty: the test set.
        lengths: tokens of a sequence; empty: those of the run.

    Raises:
        DataError: if the data does not exist, or the model cannot read this length.
    """
    source: SyntheticSource = SYNTHETIC.build(run.recipe.data)
    own = list(dict.fromkeys((source.length, *source.test_lengths)))
    sets = [_sequences(run, source, name, lengths or own) for name in names or ["test"]]
    for length in lengths:
        check_reads(run.model, length)
    return (act() for act in sets)


def _sequences(
    run: SyntheticRun, source: SyntheticSource, name: str, lengths: Sequence[int]
) -> Callable[[], Measured]:
    """Returns a function that scores the fixed sequences of each length."""
    if name not in ("val", "test"):
        raise DataError(f"--data {name}: a synthetic task has val and test only, and no files")
    for length in lengths:
        if not source.allows(length):
            raise DataError(f"--length {length} does not fit the task: {source.needs}")
    sets = {
        length: SyntheticEvalBatches(
            source,
            name,  # pyright: ignore[reportArgumentType]
            lengths=(length,),
            count=source.num_eval,
            batch_size=run.recipe.trainer.batch_size,
        )
        for length in lengths
    }

    def act() -> Measured:
        device = default_device()
        model = run.model.to(device)
        found = {}
        with torch.inference_mode():
            for length, batches in sets.items():
                sums: list[Tensor] = []
                for number in progress_bar(range(len(batches)), f"{length:,} tokens a sequence"):
                    tokens, targets = (part.to(device) for part in batches[number])
                    sums.append(answer_sums(model(tokens, torch.zeros_like(tokens)), targets))
                found[length] = means(sums)
        return Measured(name, found)

    return act
