"""What a kernel is given, and what a kernel is: pure functions of queries, keys and values.

A kernel knows no mechanism. It gets a `Call`, says whether it can compute it and whether it should
here, and computes it:

    normalize(scale q kᵀ + bias, mask) v        or        weights(q, k, mask) v
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnkit.masks import Mask

Bias = Callable[[Tensor, Tensor], Tensor | None]
"""Positions (..., T, 1) of queries and (..., 1, S) of keys -> (..., H, T, S), added to scores."""

DistanceBias = Callable[[Tensor], Tensor]
"""A bias that depends on distances alone: key position minus query position (N,) -> (H, N)."""

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A bias for one score: score, head, query position, key position -> score."""

Weights = Callable[[Tensor, Tensor, Mask], Tensor]
"""A map of its own: q (B, H, T, D), k (B, H_kv, S, D), mask -> (B, H, T, S)."""

RowWeights = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""Some rows of a map of its own: q (B, H, t, D), k (B, H_kv, S, D), bias (H, t, S) or None, allowed
(B or 1, 1, t, S) or None -> (B, H, t, S)."""


@dataclass(frozen=True)
class Call:
    """One attention to compute.

    Attributes:
        q: queries (B, H, T, D).
        k: keys (B, H_kv, S, D).
        v: values (B, H_kv, S, E).
        mask: which query may look at which key; the last query stands at the last key.
        scale: factor of q kᵀ.
        dropout: share of the weights to drop in this call: 0 outside training.
        bias: what is added to the scores by position, or None.
        distance_bias: the same bias, where it depends on distances alone.
        score_mod: the same bias for one score, as FlexAttention takes it; None: there is none.
        weights: computes the whole map, where it is not the softmax of these scores.
        row_weights: computes some rows of `weights`, where a row needs its own query alone.
        why_own: the reason why `weights` is needed, in words.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask
    scale: float
    dropout: float = 0.0
    bias: Bias | None = None
    distance_bias: DistanceBias | None = None
    score_mod: ScoreMod | None = None
    weights: Weights | None = None
    row_weights: RowWeights | None = None
    why_own: str = "it computes its own weights"

    @property
    def has_bias(self) -> bool:
        """True if something is added to the scores."""
        return self.bias is not None or self.distance_bias is not None

    @property
    def num_queries(self) -> int:
        """T."""
        return self.q.shape[2]

    @property
    def num_keys(self) -> int:
        """S."""
        return self.k.shape[2]


@dataclass(frozen=True)
class Where:
    """Where a call runs.

    Attributes:
        device: type of the device: "cpu", "cuda".
        dtype: type of the values.
        compiling: `torch.compile` is tracing.
    """

    device: str
    dtype: torch.dtype
    compiling: bool = False

    @staticmethod
    def of(call: Call) -> Where:
        """The place where the call's tensors are."""
        return Where(call.v.device.type, call.v.dtype, torch.compiler.is_compiling())


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel is taken, and the reason in words."""

    takes: bool
    why: str


class CannotServe(Exception):
    """A kernel found out, while it ran, that it cannot compute a call. Another one is asked."""


class Kernel(ABC):
    """One way to compute a `Call`."""

    name: ClassVar[str]

    outside: ClassVar[bool] = False
    """True where the code is a plugin's or another package's: it runs only once it was certified on
    the card at hand, see `attention/certificate.py`.
    """

    version: ClassVar[str] = ""
    """Of code from outside: with another version it is certified again."""

    any_place: ClassVar[bool] = False
    """True where it asks the mask for the position of the first query, which may be a tensor. The
    others compute calls alone whose last query stands at the last key.
    """

    @abstractmethod
    def refusal(self, call: Call) -> str | None:
        """Why it cannot compute this call, wherever that runs; None: it can."""

    @abstractmethod
    def suits(self, call: Call, where: Where) -> Verdict:
        """Whether a call that it can compute should run on it here, by measurement."""

    @abstractmethod
    def __call__(self, call: Call) -> Tensor:
        """Heads (B, H, T, E)."""


def share_heads(heads: Tensor, num_heads: int) -> Tensor:
    """Repeats keys or values (B, H_kv, S, D) for the heads that share them: (B, H, S, D)."""
    if heads.shape[1] == num_heads:
        return heads
    return heads.repeat_interleave(num_heads // heads.shape[1], dim=1)
