"""Renders maps as one self-contained page: style, script and data in one file, without network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnkit.offline_page import offline_page
from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap
from attnkit.tensorboard.palettes import (
    DIVERGING_REACH,
    DIVERGING_ZERO,
    PALETTE,
    SEQUENTIAL_LEVELS,
)


def page(records: Sequence[AttentionRecord], title: str) -> str:
    """Returns the page as HTML. All tokens are shown as plain text.

    Args:
        records: one per site; at least one.
        title: of the page.
    """
    data = {
        "title": title,
        "sites": [_site(record) for record in records],
        "sequential": _colours(0, SEQUENTIAL_LEVELS),
        "diverging": _colours(DIVERGING_ZERO - DIVERGING_REACH, 2 * DIVERGING_REACH + 1),
    }
    return offline_page("attnkit.attention_page", title=title, data=data)


def _site(record: AttentionRecord) -> dict[str, Any]:
    return {
        "name": record.site,
        "kind": record.kind,
        "note": record.note,
        "queries": list(record.query_tokens),
        "keys": list(record.key_tokens),
        "layers": [_layer(layer) for layer in record.layers],
    }


def _layer(layer: LayerMap) -> dict[str, Any]:
    """Returns weights as little-endian float32 and `allowed` as bytes, both in base64."""
    allowed = None if layer.allowed is None else np.asarray(layer.allowed, dtype=np.uint8)
    if allowed is not None and allowed.ndim == 3:
        allowed = allowed.max(axis=0)
    return {
        "name": layer.name,
        "norm": layer.norm,
        "heads": len(layer.weights),
        "weights": _base64(np.asarray(layer.weights, dtype="<f4")),
        "allowed": None if allowed is None else _base64(allowed),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _colours(first: int, count: int) -> list[str]:
    return [bytes(rgb).hex() for rgb in PALETTE[first : first + count].astype(np.uint8)]
