"""The kernels of fla-core (flash-linear-attention, MIT), in Triton, for NVIDIA GPUs.

Install them with `pip install 'attnkit[kernels]'`. Their layout is (B, T, H, X).
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnkit.attention.kernels.outside import OutsideKernel, Request, register

PACKAGE, OLDEST = "fla-core", (0, 4)


class _Fla(OutsideKernel):
    """A function of the package."""

    module: ClassVar[str]
    function: ClassVar[str]

    def version(self) -> str | None:
        return installed()

    def refusal(self, request: Request) -> str | None:
        """Needs a GPU and a supported version."""
        version = installed() or "0"
        if request.device != "cuda":
            return f"{PACKAGE} {version} is installed, but needs a CUDA device"
        number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if number < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            return (
                f"{PACKAGE} {version} is too old; {oldest} or later is needed: "
                "pip install -U 'attnkit[kernels]'"
            )
        return None

    def call(self, heads: list[Tensor], **options: Any) -> tuple[Tensor, Tensor]:
        """Calls the function with tensors (B, H, T, X) in its own layout."""
        function = _function(self.module, self.function)
        q, k, v = (tensor.transpose(1, 2).contiguous() for tensor in heads)
        out, state = function(q, k, v, scale=1.0, output_final_state=True, **options)
        return out.transpose(1, 2), state


@functools.cache
def installed() -> str | None:
    """Returns the version of the package; None: it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def _function(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


class ChunkSimpleGLA(_Fla):
    """Sums without decay, or with one decay for all features: linear, retention."""

    name = "fla.chunk_simple_gla"
    module, function = "simple_gla", "chunk_simple_gla"

    def serves(self, request: Request) -> bool:
        """One decay for all features, or none."""
        return request.operation == "decayed_sums" and request.widths[3:] in ((), (1,))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Takes queries, keys, values and, with decay, log decays (B, H, T, 1)."""
        q, k, v, *decay = inputs
        fading = {"g": _per_token(decay[0], q)} if decay else {}
        return self.call([q, k, v], **fading)


class ChunkGLA(_Fla):
    """Sums with a decay for each feature: gated_linear."""

    name = "fla.chunk_gla"
    module, function = "gla", "chunk_gla"

    def serves(self, request: Request) -> bool:
        """A decay for each feature."""
        wide = request.widths[3:] == request.widths[1:2] != (1,)
        return request.operation == "decayed_sums" and wide

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Takes queries, keys, values, log decays (B, H, T, D)."""
        q, k, v, decay = inputs
        decay = decay.float().expand_as(k).transpose(1, 2).contiguous()
        return self.call([q, k, v], g=decay)


class ChunkDeltaRule(_Fla):
    """Corrected sums: delta_net."""

    name = "fla.chunk_delta_rule"
    module, function = "delta_rule", "chunk_delta_rule"

    def serves(self, request: Request) -> bool:
        """One strength per token."""
        return request.operation == "corrected_sums"

    def refusal(self, request: Request) -> str | None:
        refusal = super().refusal(request)
        if refusal is None and request.dtype == torch.float32:
            return f"{self.name} does not support float32"
        return refusal

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Takes queries, keys, values, strengths (B, H, T, 1)."""
        q, k, v, strength = inputs
        return self.call([q, k, v], beta=_per_token(strength, q, q.dtype))


def _per_token(tensor: Tensor, q: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B or 1, H, T, 1) -> (B, T, H)."""
    return tensor.to(dtype).expand(*q.shape[:3], 1).squeeze(-1).transpose(1, 2).contiguous()


for _kernel in (ChunkSimpleGLA, ChunkGLA, ChunkDeltaRule):
    register(_kernel())
