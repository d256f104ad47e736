"""Numbers of a trained run's attention maps: means over the validation data, layers and heads."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from attnkit.attention.maps import attention_maps
from attnkit.errors import DataError
from attnkit.tasks.building import build_data
from attnkit.tasks.trained_run import load_run

MAP_NUMBERS = ("first_token_mass", "zero_share", "entropy")
"""The weight of a row on the first key, the share of allowed weights that are exactly 0, and the
entropy of a row in nats. All use absolute weights; the first and the last divide each row by its
sum. Rows with one allowed key do not count.
"""

TOKENS = 1024
"""Tokens of the validation data whose maps are computed."""


def map_number(directory: Path, name: str) -> float:
    """Returns one of `MAP_NUMBERS` of a finished run.

    Raises:
        DataError: if no row has two allowed keys.
    """
    return _numbers(directory)[name]


@functools.lru_cache(maxsize=256)
def _numbers(directory: Path) -> dict[str, float]:
    run = load_run(directory)
    data = build_data(run.recipe)
    data.prepare()
    sums, rows = torch.zeros(len(MAP_NUMBERS)), 0
    for batch in data.val_batches(TOKENS):
        for of_layer in attention_maps(run.model, batch):
            added, count = row_sums(of_layer.weights, of_layer.allowed)
            sums, rows = sums + added, rows + count
    if not rows:
        raise DataError(f"no row of the maps of {directory} has two allowed keys")
    return dict(zip(MAP_NUMBERS, (sums / rows).tolist(), strict=True))


def row_sums(weights: Tensor, allowed: Tensor) -> tuple[Tensor, int]:
    """Sums the numbers over the rows of a map with at least two allowed keys.

    Args:
        weights: (B, H, T, S)
        allowed: (B or 1, 1, T, S) boolean.

    Returns:
        The sum of each of `MAP_NUMBERS` (3,), and the number of rows.
    """
    allowed = allowed.expand(weights.shape)
    counted = allowed.sum(dim=-1) > 1
    weights, allowed = weights[counted].abs(), allowed[counted]  # (N, S)
    weights = weights * allowed
    zeros = ((weights == 0) & allowed).sum(dim=-1) / allowed.sum(dim=-1).clamp(min=1)
    total = weights.sum(dim=-1, keepdim=True)
    shares = weights / total.where(total > 0, torch.ones_like(total))
    first, entropy = shares[:, 0], torch.special.entr(shares).sum(dim=-1)
    return torch.stack([part.sum() for part in (first, zeros, entropy)]), len(weights)
