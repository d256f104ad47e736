"""Blob 0 of a logged attention map, and the checks of untrusted blobs.

`map_format` documents the format. Only the standard library is used, since a TensorBoard plugin
reads the blobs. They are untrusted: sizes are checked before memory is allocated.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnkit.tensorboard import key_sound
from attnkit.tensorboard.untrusted import (
    GZIP,
    ZLIB,
    MapFormatError,
    inflate,
    is_a,
    list_of,
    read_json,
    require,
    typed,
)

VERSION = 1
PLUGIN_NAME = "attention"
KINDS = ("self", "cross")
ENCODINGS = {"rows": "u8sqrt", "unnormalised": "u8sqrt", "signed": "s8sqrt"}
"""Norm of a layer (rows sum to 1; not negative; of both signs) -> meaning of a byte."""

MAX_HEADER_BYTES = 4 * 2**20
MAX_LAYERS = 512
MAX_LAYER_CELLS = 2**24
MAX_CELLS = 2**26
"""Cells (H * Q * K) of a whole record; 12 layers of 12 heads at 512 tokens are 38 million."""

MAX_SCALE = 1e30
"""Restored weights must be finite in float32."""


@dataclass(frozen=True)
class Bitmap:
    """Allowed cells: shape (Q, K) or (H, Q, K), one bit per cell, padded to whole bytes."""

    shape: tuple[int, ...]
    bits: bytes


@dataclass(frozen=True)
class Header:
    """Everything but the weights. The tuples from `shapes` to `masks` have one entry per layer."""

    example: str
    site: str
    kind: str
    causal: bool
    query_tokens: tuple[str, ...]
    key_tokens: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    names: tuple[str, ...]
    norms: tuple[str, ...]
    encodings: tuple[str, ...]
    scales: tuple[float, ...]
    masks: tuple[str | int, ...]
    bitmaps: tuple[Bitmap, ...]
    note: str
    lengths: tuple[bytes | None, ...] | None = None
    """Per layer: H * K little-endian float32, or None if not defined; None: not logged."""
    sound: dict[str, Any] | None = None


def write_header(header: Header) -> bytes:
    """Returns blob 0.

    Raises:
        MapFormatError: if a reader would refuse it.
    """
    bitmaps = [
        {"shape": bitmap.shape, "bits": base64.b64encode(zlib.compress(bitmap.bits)).decode()}
        for bitmap in header.bitmaps
    ]
    content = {
        "v": VERSION,
        "example": header.example,
        "site": header.site,
        "kind": header.kind,
        "causal": header.causal,
        "q": header.query_tokens,
        "k": header.key_tokens,
        "layers": header.shapes,
        "names": header.names,
        "norm": header.norms,
        "enc": header.encodings,
        "scale": header.scales,
        "mask": header.masks,
        "bitmaps": bitmaps,
        "note": header.note,
        **({} if header.sound is None else {"sound": header.sound}),
    }
    if header.lengths is not None:
        content["lengths"] = [
            None if one is None else base64.b64encode(one).decode() for one in header.lengths
        ]
    blob = json.dumps(content, separators=(",", ":")).encode("ascii")
    read_header(blob)
    return blob


def read_header(blob: bytes) -> Header:
    """Reads and checks blob 0.

    Raises:
        MapFormatError: if it is not a header of this version, contradicts itself, or exceeds a
            limit.
    """
    content = read_json(blob, MAX_HEADER_BYTES)
    version = content.get("v")
    require(
        version == VERSION, f"format version {version!r} is unknown; this attnkit reads {VERSION}"
    )
    header = Header(
        example=_name(content, "example"),
        site=_name(content, "site"),
        kind=typed(content, "kind", str),
        causal=typed(content, "causal", bool),
        query_tokens=list_of(content, "q", str),
        key_tokens=list_of(content, "k", str),
        shapes=tuple(_shape(shape) for shape in list_of(content, "layers", list)),
        names=list_of(content, "names", str),
        norms=list_of(content, "norm", str),
        encodings=list_of(content, "enc", str),
        scales=list_of(content, "scale", (int, float)),
        masks=list_of(content, "mask", (int, str)),
        bitmaps=_bitmaps(content),
        note=typed(content, "note", str),
        lengths=_lengths(content),
        sound=typed(content, "sound", dict) if "sound" in content else None,
    )
    if header.sound is not None:
        key_sound.check(header.sound)
    require(header.kind in KINDS, f"kind is {header.kind!r}; expected one of {', '.join(KINDS)}")
    _check_layers(header)
    return header


def inflate_layer(header: Header, index: int, blob: bytes) -> bytes:
    """Returns the H * Q * K bytes of layer `index` from its blob.

    Raises:
        MapFormatError: if the blob is not a gzip stream of exactly that many bytes.
    """
    return inflate(blob, math.prod(header.shapes[index]), GZIP, f"layer {index}")


def _check_layers(header: Header) -> None:
    count = len(header.shapes)
    require(1 <= count <= MAX_LAYERS, f"{count} layers; a record holds 1 to {MAX_LAYERS}")
    for field in ("names", "norms", "encodings", "scales", "masks"):
        entries = len(getattr(header, field))
        require(entries == count, f"{entries} {field} for {count} layers")
    _check_total(header.shapes)
    tokens = (len(header.query_tokens), len(header.key_tokens))
    for index, shape in enumerate(header.shapes):
        layer = f"layer {index}"
        require(
            shape[1:] == tokens,
            f"{layer} is {shape[1]} x {shape[2]}, but there are {tokens[0]} query tokens and "
            f"{tokens[1]} key tokens",
        )
        norm, encoding = header.norms[index], header.encodings[index]
        require(ENCODINGS.get(norm) == encoding, f"{layer}: norm {norm!r}, encoding {encoding!r}")
        scale = header.scales[index]
        require(
            0 < scale < MAX_SCALE, f"{layer}: scale {str(scale)[:20]} is not in 0 to {MAX_SCALE}"
        )
        _check_mask(header, index)
        _check_lengths(header, index)


def _check_total(shapes: Iterable[tuple[int, ...]]) -> None:
    cells = sum(math.prod(shape) for shape in shapes)
    require(cells <= MAX_CELLS, f"{cells} cells in all, {MAX_CELLS} at most: log shorter examples")


def _check_mask(header: Header, index: int) -> None:
    mask, shape = header.masks[index], header.shapes[index]
    if isinstance(mask, str):
        require(mask in ("none", "causal"), f"layer {index} has the unknown mask {mask!r}")
        return
    count = len(header.bitmaps)
    require(0 <= mask < count, f"layer {index} refers to bitmap {mask}, but there are {count}")
    bitmap = header.bitmaps[mask]
    require(
        bitmap.shape in (shape, shape[1:]),
        f"bitmap {mask} has shape {bitmap.shape}, layer {index} has {shape}",
    )


def _check_lengths(header: Header, index: int) -> None:
    if header.lengths is None:
        return
    count = len(header.lengths)
    require(count == len(header.shapes), f"lengths of {count} layers, but {len(header.shapes)}")
    found, (heads, _, keys) = header.lengths[index], header.shapes[index]
    if found is None:
        return
    require(len(found) == 4 * heads * keys, f"layer {index}: {len(found)} bytes of lengths")
    values = struct.unpack(f"<{heads * keys}f", found)
    require(
        all(0 <= value < MAX_SCALE for value in values), f"layer {index} has an impossible length"
    )


def _lengths(content: dict[str, Any]) -> tuple[bytes | None, ...] | None:
    if "lengths" not in content:
        return None
    entries = list_of(content, "lengths", (str, type(None)))
    return tuple(None if one is None else _base64(one, "lengths") for one in entries)


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MapFormatError(f"{what} is not base64: {error}") from error


def _name(content: dict[str, Any], key: str) -> str:
    name = typed(content, key, str)
    valid = re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) is not None
    require(valid, f"{key} {name[:200]!r}: use letters, digits, `.`, `_` and `-` only")
    return name


def _shape(sizes: list[Any]) -> tuple[int, int, int]:
    valid = len(sizes) == 3 and all(is_a(size, int) and size > 0 for size in sizes)
    require(valid, f"a shape is [heads, queries, keys], all positive; got {str(sizes)[:80]}")
    cells = math.prod(sizes)
    require(
        cells <= MAX_LAYER_CELLS,
        f"a layer of {cells} cells; at most {MAX_LAYER_CELLS} are kept: log a shorter example",
    )
    return (sizes[0], sizes[1], sizes[2])


def _bitmaps(content: dict[str, Any]) -> tuple[Bitmap, ...]:
    entries = list_of(content, "bitmaps", dict)
    shapes = [list_of(entry, "shape", int) for entry in entries]
    for shape in shapes:
        _shape([1, *shape] if len(shape) == 2 else list(shape))
    _check_total(shapes)  # before any of them is inflated
    return tuple(_bitmap(shape, entry) for shape, entry in zip(shapes, entries, strict=True))


def _bitmap(shape: tuple[int, ...], entry: dict[str, Any]) -> Bitmap:
    packed = _base64(typed(entry, "bits", str), "a bitmap")
    return Bitmap(shape, inflate(packed, (math.prod(shape) + 7) // 8, ZLIB, "a bitmap"))
