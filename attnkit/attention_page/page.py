"""Renders maps as one self-contained page: the Attention page of TensorBoard with embedded maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnkit.pages.offline import offline_page
from attnkit.tensorboard import key_sound
from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap


def page(records: Sequence[AttentionRecord], title: str) -> str:
    """Returns the page as HTML. All tokens are shown as plain text.

    Args:
        records: one per site; at least one.
        title: of the page.
    """
    return offline_page(
        "attnkit.dashboard",
        "offline.js",
        title=f"Attention: {title}",
        data={"title": title, "records": [_record(record) for record in records]},
        body="<noscript>This page needs JavaScript.</noscript>",
    )


def _record(record: AttentionRecord) -> dict[str, Any]:
    return {
        "tag": record.tag,
        "kind": record.kind,
        "causal": record.causal,
        "note": record.note,
        "queries": list(record.query_tokens),
        "keys": list(record.key_tokens),
        "layers": [_layer(layer) for layer in record.layers],
        **({} if record.sound is None else {"sound": key_sound.encode(record.sound)}),
    }


def _layer(layer: LayerMap) -> dict[str, Any]:
    """Returns weights as little-endian float32 and `allowed` as bytes, both in base64."""
    return {
        "name": layer.name,
        "norm": layer.norm,
        "heads": len(layer.weights),
        "weights": _base64(np.asarray(layer.weights, dtype="<f4")),
        "allowed": None
        if layer.allowed is None
        else _base64(np.asarray(layer.allowed, dtype=np.uint8)),
        "lengths": None
        if layer.lengths is None
        else _base64(np.asarray(layer.lengths, dtype="<f4")),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
