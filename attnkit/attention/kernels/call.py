"""The interface of kernels: pure functions of queries, keys and values.

A kernel knows no mechanism. It gets a `Call`, decides if it can and should compute it here, and
computes it:

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
"""Positions (T, 1) of queries and (1, S) of keys -> (H, T, S), added to scores."""

DistanceBias = Callable[[Tensor], Tensor]
"""A bias that only depends on distances: key position minus query position (N,) -> (H, N)."""

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A bias for one score: score, head, query position, key position -> score."""

Weights = Callable[[Tensor, Tensor, Mask], Tensor]
"""A mechanism's own map: q (B, H, T, D), k (B, H_kv, S, D), mask -> (B, H, T, S)."""

RowWeights = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""Rows of a mechanism's own map: q (B, H, t, D), k (B, H_kv, S, D), bias (H, t, S) or None, allowed
(B or 1, 1, t, S) or None -> (B, H, t, S)."""


@dataclass(frozen=True)
class Call:
    """One attention to compute.

    Attributes:
        q: queries (B, H, T, D).
        k: keys (B, H_kv, S, D).
        v: values (B, H_kv, S, E).
        mask: which query may attend to which key; the last query is at the last key.
        scale: factor of q kᵀ.
        dropout: share of the weights to drop in this call: 0 outside of training.
        bias: added to the scores, by position; None: no bias.
        distance_bias: the same bias, if it only depends on distances.
        score_mod: the same bias for one score, as for FlexAttention; None: not available.
        weights: computes the whole map, if it is not the softmax of these scores.
        row_weights: computes some rows of `weights`, if a row only needs its own query.
        why_own: why `weights` is needed, for messages.
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
        """True if there is a bias."""
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
    """The place where a call runs.

    Attributes:
        device: type of the device: "cpu", "cuda".
        dtype: dtype of the values.
        compiling: True while `torch.compile` traces.
    """

    device: str
    dtype: torch.dtype
    compiling: bool = False

    @staticmethod
    def of(call: Call) -> Where:
        """Returns the place of the call's tensors."""
        return Where(call.v.device.type, call.v.dtype, torch.compiler.is_compiling())


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel takes a call, with the reason."""

    takes: bool
    why: str


class CannotServe(Exception):
    """A kernel cannot compute a call, as it found out while running. Another one is used."""


class Kernel(ABC):
    """One way to compute a `Call`."""

    name: ClassVar[str]

    outside: ClassVar[bool] = False
    """True if the code comes from a plugin or another package: it must be certified on this GPU
    before it runs, see `attention/certificate.py`.
    """

    version: ClassVar[str] = ""
    """Version of outside code; another version needs another certificate."""

    any_place: ClassVar[bool] = False
    """True if it asks the mask for the position of the first query, which may be a tensor. Others
    only compute calls whose last query is at the last key.
    """

    @abstractmethod
    def refusal(self, call: Call) -> str | None:
        """Returns why it cannot compute this call on any machine; None: it can."""

    @abstractmethod
    def suits(self, call: Call, where: Where) -> Verdict:
        """Decides whether a call that it can compute should run on it here, by measurement."""

    @abstractmethod
    def __call__(self, call: Call) -> Tensor:
        """Returns the heads (B, H, T, E)."""


def share_heads(heads: Tensor, num_heads: int) -> Tensor:
    """Repeats keys or values (B, H_kv, S, D) for the heads that share them: (B, H, S, D)."""
    if heads.shape[1] == num_heads:
        return heads
    return heads.repeat_interleave(num_heads // heads.shape[1], dim=1)


def positions(num_queries: int, num_keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns positions of queries (T, 1) and keys (1, S) for a step without a `Grid`; the last
    query is at the last key.
    """
    query = torch.arange(num_keys - num_queries, num_keys, device=device)
    return query.view(-1, 1), torch.arange(num_keys, device=device).view(1, -1)
