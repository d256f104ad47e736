"""A trained run of a synthetic task. Loads no Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from attnkit.data.symbols import Symbols
from attnkit.registry import SYNTHETIC
from attnkit.tasks import text_evaluation
from attnkit.tasks.synthetic.evaluation import measure
from attnkit.tasks.text_run import TextRun


@dataclass(frozen=True, repr=False)
class SyntheticRun(TextRun):
    """A trained run of a synthetic task."""

    tokenizer: Symbols

    evaluation_options: ClassVar[tuple[str, ...]] = ("--length",)

    def evaluate(
        self, data: Sequence[str] = (), *, length: Sequence[int] = (), **options: Any
    ) -> Iterator[Any]:
        """Yields a table with the share of right answers.

        Args:
            data: `val` or `test`; empty: the test set.
            length: tokens of a sequence; empty: those of the run.
            options: none.
        """
        source = SYNTHETIC.build(self.recipe.data)
        for found in measure(self, data, length):
            yield from text_evaluation.shown(found, source.length)
