"""Logs, while a model trains, how well its layers separate the senses of a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from attnkit.callbacks.at_moments import AtMoments
from attnkit.data.sources.ambiguous_words import AmbiguousWords, Usage, of_word
from attnkit.listeners.lightning import Listeners
from attnkit.understanding.word_vectors import separation, word_vectors


class SenseCurves(AtMoments):
    """Logs the purity of a word's neighbourhoods by layer, as `attnkit senses` prints it: the
    scalars `senses/<word>/layer<k>`.

    Args:
        word: a word with several senses.
        file: sentences, as for `attnkit senses --data`; null: the validation split of the run's
            data, if it is `ambiguous_words`.
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: log at multiples of this instead, and at the last step.

    Raises:
        DataError: when training starts, if the sentences are missing or too few.
    """

    def __init__(
        self,
        *,
        word: str,
        file: Path | None = None,
        num_moments: int = 12,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(num_moments, every_n_steps)
        self.word = word
        self.file = file
        self._usages: list[Usage] = []

    @property
    def state_key(self) -> str:
        return self._generate_state_key(word=self.word)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task: Any = pl_module
        source = getattr(task.data, "source", None)
        if self.file is not None or not isinstance(source, AmbiguousWords):
            source = AmbiguousWords(file=self.file)
            usages, origin = source.usages(), str(self.file or "the built-in set")
        else:
            usages, origin = source.usages("val"), "the validation split"
        self._usages = of_word(usages, self.word, origin)
        super().on_train_start(trainer, pl_module)

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        task: Any = module
        vectors = word_vectors(task.model, task.data.tokenizer, self._usages)
        senses = [usage.sense for usage in self._usages]
        values = {
            f"senses/{self.word}/layer{number}": separation(layer, senses).purity
            for number, layer in enumerate(vectors)
        }
        Listeners(trainer.loggers).scalars(values, step)
