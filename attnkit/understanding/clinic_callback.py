"""The head clinic while a model trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console

from attnkit.callbacks.at_moments import AtMoments
from attnkit.listeners.lightning import Listeners
from attnkit.storage.files import atomic_write
from attnkit.tensorboard.clinic_history import FILE, as_json, extended
from attnkit.understanding.clinic import REPLACEMENTS, Examination, examine
from attnkit.understanding.clinic_table import shown

TABLE_WIDTH = 100


class HeadClinic(AtMoments):
    """Scores every attention head of a model while it trains.

    Logs a few curves `heads/...` (the highest induction score, the share of sinks, ...), a table of
    all heads as text, and writes all scores of all moments to `clinic.json` in the run's directory,
    which `attnkit clinic` reads.

    Args:
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: examine at multiples of this instead, and at the last step.
        knock_outs: also knock each head out at every moment, which costs two forward passes per
            head; false: at the last step only.
        max_tokens: validation tokens of the knock-outs; at least one batch.

    Raises:
        ValueError: when training starts, if the model has no layers.
    """

    def __init__(
        self,
        *,
        num_moments: int = 6,
        every_n_steps: int | None = None,
        knock_outs: bool = False,
        max_tokens: int = 1024,
    ) -> None:
        super().__init__(num_moments, every_n_steps)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.knock_outs = knock_outs
        self.max_tokens = max_tokens
        self._history: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._history = state_dict["history"]

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        # A stopped run may continue: only its planned end counts as the last step.
        replacements = REPLACEMENTS if self.knock_outs or step == trainer.max_steps else ()
        found = examine(module, max_tokens=self.max_tokens, replacements=replacements)
        scores = {head.name: head.scores for head in found.heads}
        self._history = extended(self._history, scores, step)
        listeners = Listeners(trainer.loggers)
        listeners.scalars(found.scalars(), step)
        listeners.text("heads", as_text(found), step)
        with atomic_write(Path(trainer.default_root_dir) / FILE) as file:
            file.write(as_json(self._history).encode())


def as_text(found: Examination) -> str:
    """Returns what `attnkit clinic` prints, as plain text."""
    console = Console(width=TABLE_WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        for part in shown(found, "heads"):
            console.print(part)
    return capture.get()
