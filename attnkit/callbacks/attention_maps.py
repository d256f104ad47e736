"""Draws the attention of a fixed example while a model trains. Works with any LightningModule.

The maps come from a separate forward pass, in evaluation mode, outside the training step. They are
exact under any kernel, and cost nothing between the logging moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from attnkit.attention.maps import attention_maps
from attnkit.callbacks.at_moments import AtMoments
from attnkit.listeners.lightning import Listeners
from attnkit.listeners.map_records import records_of
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.key_sound import KeySound


class AttentionMaps(AtMoments):
    """Logs the maps of every attnkit mechanism in a module, for one example, at chosen moments.

    Every logger of the trainer that shows pictures gets a contact sheet (rows layers, columns
    heads) under `maps/...`; TensorBoard also gets the numbers under `attention/...`, for its
    Attention page, and W&B and MLflow get them as files.

    Args:
        inputs: arguments of the module: one example, with a batch axis of 1.
        query_tokens: texts of the query tokens.
        key_tokens: texts of the key tokens; None: the same as `query_tokens`.
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: log at multiples of this instead, and at the last step; required if the
            number of training steps is unknown.
        example: name of the example, in the tags.
        forward: how to call the module; None: `module(*inputs)`.
        note: a remark for readers of the maps.
        site_tokens: site (`encoder.self`) -> texts of its query tokens and key tokens, if they
            differ from the two above.
        sound: the sound whose positions are the keys of cross-attention, if there is one.

    Raises:
        ValueError: when training starts, if the module contains no attnkit mechanism, or if
            `every_n_steps` is required and missing.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        query_tokens: Sequence[str],
        key_tokens: Sequence[str] | None = None,
        *,
        num_moments: int = 12,
        every_n_steps: int | None = None,
        example: str = "probe",
        forward: Callable[..., Any] | None = None,
        note: str = "",
        site_tokens: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
        sound: KeySound | None = None,
    ) -> None:
        super().__init__(num_moments, every_n_steps)
        self.inputs = tuple(inputs)
        self.query_tokens = list(query_tokens)
        self.key_tokens = self.query_tokens if key_tokens is None else list(key_tokens)
        self.example = example
        self.forward = forward
        self.note = note
        self.site_tokens = dict(site_tokens or {})
        self.sound = sound
        self._state_key = self._generate_state_key(example=example)

    @property
    def state_key(self) -> str:
        """Separates the states of several examples in a checkpoint."""
        return self._state_key

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        listeners = Listeners(trainer.loggers)
        for record in self.records(module):
            listeners.maps(record, step)

    def records(self, module: L.LightningModule) -> list[AttentionRecord]:
        """Returns the maps as they are logged: one record per site (`self`, `decoder.cross`)."""
        inputs = tuple(tensor.to(module.device) for tensor in self.inputs)
        call = module if self.forward is None else self.forward
        with torch.autocast(module.device.type, enabled=False):
            maps = attention_maps(module, lambda: call(*inputs), value_lengths=True)
        return records_of(
            maps,
            self.query_tokens,
            self.key_tokens,
            example=self.example,
            note=self.note,
            site_tokens=self.site_tokens,
            sound=self.sound,
        )
