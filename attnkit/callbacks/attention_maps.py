"""Draws the attention of a fixed example while a model trains. Works with any LightningModule.

The maps come from a forward pass of their own, in evaluation mode, outside the training step: they
are exact under any kernel, and they cost nothing between the logging moments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from attnkit.attention.maps import AttentionMap, attention_maps
from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.images import contact_sheet
from attnkit.tensorboard.map_format import encode
from attnkit.tensorboard.moments import log_moments


class AttentionMaps(L.Callback):
    """Logs the maps of every attnkit mechanism in a module, for one example, at chosen moments.

    TensorBoard gets a contact sheet (rows layers, columns heads) under `attention_maps/...`, and
    the numbers under `attention/...` for the dashboard.

    Args:
        inputs: what the module is called with: one example, with a batch axis of 1.
        query_tokens: texts of the tokens that ask.
        key_tokens: texts of the tokens that answer; None: the same tokens.
        num_moments: how many moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: log at multiples of this instead, and at the last step; needed where the
            run's length is not known in steps.
        example: name of the example, in the tags.
        forward: how to call the module; None: `module(*inputs)`.
        note: what a viewer should know about the example.

    Raises:
        ValueError: when training starts, if the module holds no attnkit mechanism, or if
            `every_n_steps` is needed and missing.
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
    ) -> None:
        self.inputs = tuple(inputs)
        self.query_tokens = list(query_tokens)
        self.key_tokens = self.query_tokens if key_tokens is None else list(key_tokens)
        self.num_moments = num_moments
        self.every_n_steps = every_n_steps
        self.example = example
        self.forward = forward
        self.note = note
        self._moments: set[int] = set()
        self._logged = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settles the moments, and logs the maps of the untrained model."""
        if self.every_n_steps is None and self.num_moments > 1:
            total = trainer.estimated_stepping_batches
            if math.isinf(total):
                raise ValueError(
                    "the number of training steps is not known in advance, so AttentionMaps needs "
                    "every_n_steps (or the Trainer max_steps)"
                )
            self._moments = set(log_moments(int(total), self.num_moments))
        self._log(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs if this step is one of the moments."""
        self._log(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the last step, also where training was stopped early."""
        self._moments.add(trainer.global_step)
        self._log(trainer, pl_module)

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        every = self.every_n_steps
        is_moment = step in self._moments or (every is not None and step % every == 0)
        if not is_moment or step <= self._logged or not trainer.is_global_zero:
            return
        self._logged = step
        for record in self.records(module):
            sheet = contact_sheet(record, step)
            tag = f"attention_maps/{record.example}/{record.site}"
            image = summaries.image(tag, sheet.png, sheet.width, sheet.height)
            numbers = summaries.maps(record.tag, encode(record))
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    writer = logger.experiment._get_file_writer()
                    writer.add_summary(image, step)
                    writer.add_summary(numbers, step)

    def records(self, module: L.LightningModule) -> list[AttentionRecord]:
        """The maps as they are logged: one record a site (say, `self` and `decoder.cross`)."""
        inputs = tuple(tensor.to(module.device) for tensor in self.inputs)
        call = module if self.forward is None else self.forward
        with torch.autocast(module.device.type, enabled=False):
            maps = attention_maps(module, lambda: call(*inputs))
        return [self._record(site, list(of_site)) for site, of_site in _by_site(maps)]

    def _record(self, site: str, maps: list[AttentionMap]) -> AttentionRecord:
        cross = maps[0].role == "cross"
        queries, keys = maps[0].weights.shape[-2:]
        later = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)
        return AttentionRecord(
            example=self.example,
            site=site,
            kind=maps[0].role,
            causal=not any(bool((m.allowed[0, 0] & later).any()) for m in maps),
            query_tokens=self._tokens_of(queries, cross=False),
            key_tokens=self._tokens_of(keys, cross=cross),
            layers=[
                layer_map(f"L{i}", m.weights[0].numpy(), m.allowed[0, 0].numpy())
                for i, m in enumerate(maps)
            ],
            note=self.note,
        )

    def _tokens_of(self, count: int, cross: bool) -> list[str]:
        """The tokens along an axis; an encoder has the key tokens on both."""
        if cross or count != len(self.query_tokens):
            return self.key_tokens
        return self.query_tokens


def _by_site(maps: Iterable[AttentionMap]) -> Iterable[tuple[str, Iterable[AttentionMap]]]:
    """Groups maps whose places in the model differ in layer numbers only."""
    return groupby(sorted(maps, key=_site), key=_site)


def _site(attention: AttentionMap) -> str:
    """`model.decoder.layers.3.cross_attention` -> `decoder.cross`."""
    words = [word for word in attention.name.split(".") if not word.isdigit()]
    place = [word for word in words if not re.search("model|layer|block|attention|attn", word)]
    return ".".join([*place, attention.role])
