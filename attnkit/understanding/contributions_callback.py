"""What each part of a model adds to its prediction, while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from attnkit.callbacks.at_moments import AtMoments
from attnkit.errors import DataError
from attnkit.storage.files import atomic_write
from attnkit.tensorboard.contributions import FILE, as_json, extended, read_history
from attnkit.tensorboard.untrusted import MapFormatError
from attnkit.understanding.explanation import Explanation


class Contributions(AtMoments):
    """Splits the prediction after each token of a text into what the embedding, each head and each
    MLP add, as `attnkit explain` does, while a model trains.

    Writes `contributions.json` to the run's directory, for the Contributions view of the Attention
    page.

    Args:
        text: the example, as for `logging.probe`; null: the start of the validation data.
        num_tokens: largest number of tokens of the example that are read.
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: write at multiples of this instead, and at the last step.

    Raises:
        ValueError: if a number is below 1.
        DataError: when training starts, if the task cannot read the text or predicts no tokens, or
            the model has no layers.
    """

    def __init__(
        self,
        *,
        text: str | None = None,
        num_tokens: int = 32,
        num_moments: int = 6,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(num_moments, every_n_steps)
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.text = text
        self.num_tokens = num_tokens
        self._steps: list[int] = []
        self._reading: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._steps = list(state_dict["steps"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task: Any = pl_module
        if not task.has_attention:
            raise DataError("the callback contributions needs a model with layers")
        readings = [probe.reading for probe in task.probes(self.num_tokens, self.text)]
        if not any(readings):
            raise DataError(
                "the callback contributions needs a task that predicts tokens of a text; remove it "
                "from callbacks"
            )
        self._reading = next(filter(None, readings))
        super().on_train_start(trainer, pl_module)

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        file = Path(trainer.default_root_dir) / FILE
        task: Any = module
        found = Explanation.of_reading("", task.model, self._reading)
        history = extended(self._earlier(file), found.page_data(), step)
        self._steps = history["steps"]
        with atomic_write(file) as opened:
            opened.write(as_json(history).encode())

    def _earlier(self, file: Path) -> dict[str, Any]:
        """Returns the earlier moments; a resumed run drops those after its checkpoint."""
        try:
            history = read_history(file)
        except (OSError, MapFormatError):
            return {}
        pairs = zip(history["steps"], history["moments"], strict=True)
        known = [(step, moment) for step, moment in pairs if step in self._steps]
        return {"steps": [step for step, _ in known], "moments": [moment for _, moment in known]}
