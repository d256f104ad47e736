"""Draws the attention of a given text while a model trains."""

from __future__ import annotations

from typing import Any

import lightning as L

from attnkit.callbacks.at_moments import AtMoments
from attnkit.callbacks.attention_maps import AttentionMaps


class ProbeMaps(AtMoments):
    """Draws the attention maps of a text, in addition to those of `logging.probe`.

    Args:
        text: a text, a sentence, or the tokens of a synthetic task.
        example: name of the text in the tags: letters, digits, `.`, `_` and `-`.
        num_tokens: maximum number of tokens of the text that are drawn.
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: draw at multiples of this instead, and at the last step.

    Raises:
        DataError: when training starts, if the task cannot read the text.
    """

    def __init__(
        self,
        *,
        text: str,
        example: str = "text",
        num_tokens: int = 32,
        num_moments: int = 12,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(num_moments, every_n_steps)
        self.text = text
        self.example = example
        self.num_tokens = num_tokens
        self._maps: list[AttentionMaps] = []

    @property
    def state_key(self) -> str:
        return self._generate_state_key(example=self.example)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task: Any = pl_module
        probes = task.probes(self.num_tokens, self.text)
        several = len(probes) > 1
        self._maps = [
            AttentionMaps(
                probe.inputs,
                probe.query_tokens,
                probe.key_tokens,
                example=f"{self.example}{i}" if several else self.example,
                note=probe.note,
                site_tokens=probe.site_tokens,
                sound=probe.sound,
            )
            for i, probe in enumerate(probes)
        ]
        super().on_train_start(trainer, pl_module)

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        for maps in self._maps:
            maps.write(trainer, module, step)
