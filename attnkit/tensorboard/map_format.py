"""The format of attention maps in an event file, version 1.

A record is a list of blobs under the tag `attention/<example>/<site>`. Blob 0 is a JSON object:

    v                   1
    example, site       the parts of the tag
    kind                "self" or "cross"
    causal              whether queries cannot attend to later keys
    q, k                token texts of the queries and of the keys
    layers              [H, Q, K] of each layer
    names, norm, enc, scale, mask
                        lists, one entry per layer
    bitmaps             [{shape, bits}], for masks without a name
    note                free text
    lengths             per layer: H * K float32 (little-endian) in base64, the lengths of the
                        vectors that a head adds for a key at a weight of 1; null if not defined.
                        The key is missing if they were not logged
    sound               optional: the sound whose positions are the keys, see `key_sound`

Blob `1 + i` holds layer `i`: one byte per cell, heads first, then queries, compressed with gzip.
`norm` describes the weights: "rows" (each row sums to 1), "unnormalised" (not negative) or
"signed"; a byte u stands for

    u8sqrt (rows, unnormalised)  scale * (u / 255)^2
    s8sqrt (signed)              scale * sign(u - 128) * ((u - 128) / 127)^2

so that small weights, which carry most of a map's entropy, keep their size. `mask` names the
allowed cells: "none" (all), "causal" (aligned at the end: key <= query + K - Q), or the
index of a bitmap of shape [Q, K] or [H, Q, K] whose bits (1 = allowed, the first cell in the
highest bit) are compressed with zlib, in base64.

Importing this module loads only the standard library; its functions load numpy when called.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnkit.tensorboard import key_sound
from attnkit.tensorboard.attention_record import (
    SUM_TOLERANCE,
    AttentionRecord,
    LayerMap,
    check_weights,
    is_signed,
)
from attnkit.tensorboard.map_header import (
    ENCODINGS,
    Bitmap,
    Header,
    inflate_layer,
    read_header,
    write_header,
)
from attnkit.tensorboard.untrusted import MapFormatError

if TYPE_CHECKING:
    import numpy as np


MAX_LENGTHS = 2**19
"""Lengths are omitted if there are more than this, half of the largest header."""


def encode(record: AttentionRecord) -> list[bytes]:
    """Writes a record as blobs: the header, then one per layer.

    A weight w of a layer with scale s comes back with an error of at most 0.004 * sqrt(w * s) plus
    4e-6 * s; of a signed layer, twice and four times that.

    Raises:
        MapFormatError: if weights are not finite or contradict `norm`, shapes do not fit the
            tokens, the example or the site has characters that a tag cannot have, or a limit of
            `map_header` is exceeded.
    """
    bitmaps: list[Bitmap] = []
    scales = [_scale(layer) for layer in record.layers]
    header = Header(
        example=record.example,
        site=record.site,
        kind=record.kind,
        causal=record.causal,
        query_tokens=tuple(record.query_tokens),
        key_tokens=tuple(record.key_tokens),
        shapes=tuple(layer.weights.shape for layer in record.layers),
        names=tuple(layer.name for layer in record.layers),
        norms=tuple(layer.norm for layer in record.layers),
        encodings=tuple(ENCODINGS[layer.norm] for layer in record.layers),
        scales=tuple(scales),
        masks=tuple(_describe_mask(layer, bitmaps) for layer in record.layers),
        bitmaps=tuple(bitmaps),
        note=record.note,
        lengths=_lengths(record),
        sound=None if record.sound is None else key_sound.encode(record.sound),
    )
    blobs = [write_header(header)]
    for layer, scale in zip(record.layers, scales, strict=True):
        blobs.append(gzip.compress(_quantise(layer, scale).tobytes(), compresslevel=1, mtime=0))
    return blobs


def decode(blobs: Sequence[bytes]) -> AttentionRecord:
    """Reads what `encode` wrote; `allowed` comes back as (Q, K) or (H, Q, K) booleans or None.

    Raises:
        MapFormatError: if the blobs are damaged, inconsistent, too large, or of another version.
    """
    if not blobs:
        raise MapFormatError("a record without blobs has no header")
    header = read_header(blobs[0])
    if len(blobs) != 1 + len(header.shapes):
        raise MapFormatError(f"{len(header.shapes)} layers, but {len(blobs) - 1} blobs for them")
    layers = [
        LayerMap(
            header.names[index],
            _restore(header, index, blobs[1 + index]),
            header.norms[index],
            _allowed_cells(header, index),
            _restored_lengths(header, index),
        )
        for index in range(len(header.shapes))
    ]
    return AttentionRecord(
        example=header.example,
        site=header.site,
        kind=header.kind,
        causal=header.causal,
        query_tokens=header.query_tokens,
        key_tokens=header.key_tokens,
        layers=layers,
        note=header.note,
        sound=None if header.sound is None else key_sound.decode(header.sound),
    )


def _lengths(record: AttentionRecord) -> tuple[bytes | None, ...] | None:
    """The lengths per layer, or None if one is not finite; None: too many for a header."""
    import numpy as np

    known = [layer.lengths for layer in record.layers]
    found = [one if one is not None and np.isfinite(one).all() else None for one in known]
    if sum(one.size for one in found if one is not None) > MAX_LENGTHS:
        return None
    return tuple(None if one is None else np.asarray(one, dtype="<f4").tobytes() for one in found)


def _restored_lengths(header: Header, index: int) -> np.ndarray | None:
    import numpy as np

    found = None if header.lengths is None else header.lengths[index]
    if found is None:
        return None
    heads, _, keys = header.shapes[index]
    return np.frombuffer(found, dtype="<f4").reshape(heads, keys)


def _scale(layer: LayerMap) -> float:
    """The weight that the largest byte stands for; 1 for rows of probabilities."""
    check_weights(layer.name, layer.weights)
    if layer.norm not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise MapFormatError(f"layer {layer.name}: unknown norm {layer.norm!r} (known: {known})")
    peak = float(abs(layer.weights).max())
    if layer.norm != "signed" and is_signed(layer.weights):
        raise MapFormatError(f"layer {layer.name}: negative weights in a map called {layer.norm!r}")
    if layer.norm == "rows" and peak > 1 + SUM_TOLERANCE:
        raise MapFormatError(f"layer {layer.name}: a weight of {peak:.3g} in a map called 'rows'")
    return 1.0 if layer.norm == "rows" or peak == 0 else peak


def _quantise(layer: LayerMap, scale: float) -> np.ndarray:
    import numpy as np

    weights = layer.weights / np.float32(scale)
    if layer.norm == "signed":
        return np.rint(128 + 127 * np.copysign(np.sqrt(abs(weights)), weights)).astype(np.uint8)
    return np.rint(255 * np.sqrt(weights.clip(0, 1))).astype(np.uint8)


def _restore(header: Header, index: int, blob: bytes) -> np.ndarray:
    import numpy as np

    codes = np.frombuffer(inflate_layer(header, index, blob), dtype=np.uint8).astype(np.float32)
    signed = header.encodings[index] == "s8sqrt"
    roots = (codes - 128) / 127 if signed else codes / 255
    return (np.float32(header.scales[index]) * roots * abs(roots)).reshape(header.shapes[index])


def _describe_mask(layer: LayerMap, bitmaps: list[Bitmap]) -> str | int:
    """Names the allowed cells, or adds them to `bitmaps` and returns their index."""
    import numpy as np

    allowed = layer.allowed
    if allowed is None or allowed.all():
        return "none"
    if allowed.ndim == 3 and (allowed == allowed[:1]).all():
        allowed = allowed[0]
    if np.array_equal(allowed, _causal_cells(layer.weights.shape)):
        return "causal"
    bitmap = Bitmap(allowed.shape, np.packbits(allowed).tobytes())
    if bitmap not in bitmaps:
        bitmaps.append(bitmap)
    return bitmaps.index(bitmap)


def _allowed_cells(header: Header, index: int) -> np.ndarray | None:
    import numpy as np

    mask = header.masks[index]
    if isinstance(mask, int):
        bitmap = header.bitmaps[mask]
        bits = np.unpackbits(np.frombuffer(bitmap.bits, dtype=np.uint8))
        return bits[: int(np.prod(bitmap.shape))].reshape(bitmap.shape).astype(bool)
    return None if mask == "none" else _causal_cells(header.shapes[index])


def _causal_cells(shape: Sequence[int]) -> np.ndarray:
    import numpy as np

    _, queries, keys = shape
    return np.tri(queries, keys, keys - queries, dtype=bool)
