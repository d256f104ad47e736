"""Certifies kernels from other packages on the device that trains, before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch

from attnkit.attention.certificate import Certificate, certify_model, is_any_installed
from attnkit.storage.files import cache_folder


class Certificates(L.Callback):
    """Certifies the kernels from other packages that the model's mechanisms could use, and enables
    those that pass. Sharded parameters (fsdp) train in plain torch.

    Args:
        record: called with the certificates in the first process, if there are any.
    """

    def __init__(self, record: Callable[[Sequence[dict[str, Any]]], None]) -> None:
        self._record = record

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model: Any = pl_module.model
        split = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        if split or not is_any_installed():
            return
        half = torch.bfloat16 if "bf16" in str(trainer.precision) else None
        folder = cache_folder("kernels")
        certificates = certify_model(model, model.max_seq_len, pl_module.device, half, folder)
        if certificates and trainer.is_global_zero:
            self._record([_as_json(certificate) for certificate in certificates])


def _as_json(certificate: Certificate) -> dict[str, Any]:
    return dataclasses.asdict(certificate)
