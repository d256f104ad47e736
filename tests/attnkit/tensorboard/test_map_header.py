import base64
import gzip
import json
import zlib

import numpy as np
import pytest

from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap
from attnkit.tensorboard.map_format import decode, encode
from attnkit.tensorboard.map_header import MAX_HEADER_BYTES, read_header
from attnkit.tensorboard.untrusted import MapFormatError

BITS = base64.b64encode(zlib.compress(b"\x80")).decode()


@pytest.fixture
def blobs():
    layer = LayerMap("L0", np.full((2, 3, 4), 0.25, dtype=np.float32))
    return encode(AttentionRecord("probe0", "self", "self", False, "abc", "abcd", [layer]))


def changed(blobs, **changes):
    content = json.loads(blobs[0]) | changes
    kept = {key: value for key, value in content.items() if value != "absent"}
    return [json.dumps(kept).encode(), *blobs[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": 2}, "version 2 is unknown; this attnkit reads 1"),
        ({"v": "absent"}, "version None is unknown"),
        ({"q": "absent"}, "`q` is missing"),
        ({"q": "abc"}, "`q` is missing or a str"),
        ({"q": [1, 2, 3]}, "`q` holds an entry of the wrong type"),
        ({"q": ["a"]}, "1 query tokens"),
        ({"causal": 1}, "`causal`"),
        ({"kind": "up"}, "'up'; expected one of self, cross"),
        ({"example": "../x"}, "use letters"),
        ({"layers": []}, "0 layers"),
        ({"layers": [[2, 3]]}, "heads, queries, keys"),
        ({"layers": [[2, 3, 4.0]]}, "all positive"),
        ({"layers": [[True, 3, 4]]}, "all positive"),
        ({"layers": [[0, 3, 4]]}, "all positive"),
        ({"layers": [[-2, -3, 4]]}, "all positive"),
        ({"layers": [[10**9, 3, 4]]}, "at most 16777216"),
        ({"layers": [[2, 3, 4]] * 2}, "1 names for 2 layers"),
        ({"layers": [[2**20, 4, 4]] * 5}, "1 names for 5 layers"),
        ({"norm": ["signed"]}, "encoding 'u8sqrt'"),
        ({"enc": ["pickle"]}, "'pickle'"),
        ({"scale": [0]}, "scale 0"),
        ({"scale": [float("nan")]}, "scale nan"),
        ({"scale": [10**400]}, "scale 1000"),
        ({"scale": ["1"]}, "`scale`"),
        ({"mask": ["odd"]}, "unknown mask 'odd'"),
        ({"mask": [0]}, "bitmap 0, but there are 0"),
        ({"mask": [-1], "bitmaps": [{"shape": [2, 4], "bits": BITS}]}, "bitmap -1"),
        ({"mask": [0], "bitmaps": [{"shape": [2, 4], "bits": BITS}]}, r"shape \(2, 4\)"),
        ({"bitmaps": [{"shape": [3, 4], "bits": BITS}]}, "exactly the 2 bytes"),
        ({"bitmaps": [{"shape": [2, 4], "bits": "%%"}]}, "not base64"),
        ({"bitmaps": [{"shape": [2, 4], "bits": "QUFB"}]}, "damaged"),
        ({"bitmaps": [{"shape": [4096, 4096], "bits": BITS}] * 5}, "cells in all"),
        ({"bitmaps": [{"shape": [8], "bits": BITS}]}, "all positive"),
        ({"bitmaps": [7]}, "`bitmaps`"),
    ],
)
def test_hostile_headers_are_refused(blobs, changes, message):
    with pytest.raises(MapFormatError, match=message):
        decode(changed(blobs, **changes))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"v": 1',
        b"[" * 100_000,
        b"1" * 10_000,
        b" " * (MAX_HEADER_BYTES + 1),
    ],
    ids=["empty", "binary", "list", "null", "cut", "deep", "digits", "large"],
)
def test_what_is_no_header_is_refused(header):
    with pytest.raises(MapFormatError, match=r"header|version"):
        read_header(header)


def test_the_total_of_cells_is_limited(blobs):
    layers = 5
    header = changed(
        blobs,
        layers=[[1, 4096, 4096]] * layers,
        q=["a"] * 4096,
        k=["a"] * 4096,
        **{key: json.loads(blobs[0])[key] * layers for key in ("names", "norm", "enc", "scale")},
        mask=["none"] * layers,
    )
    with pytest.raises(MapFormatError, match="83886080 cells in all"):
        read_header(header[0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (gzip.compress(bytes(23)), "exactly the 24 bytes"),
        (gzip.compress(bytes(25)), "exactly the 24 bytes"),
        (gzip.compress(bytes(24)) + b"more", "exactly the 24 bytes"),
        (gzip.compress(bytes(24))[:-1], "exactly the 24 bytes"),
        (zlib.compress(bytes(24)), "damaged"),
        (b"", "exactly the 24 bytes"),
        (bytes(24), "damaged"),
    ],
    ids=["short", "long", "trailing", "cut", "zlib", "empty", "raw"],
)
def test_hostile_layers_are_refused(blobs, layer, message):
    with pytest.raises(MapFormatError, match=message):
        decode([blobs[0], layer])


def test_a_flipped_bit_is_noticed(blobs):
    damaged = bytearray(blobs[1])
    damaged[-6] ^= 1  # in the checksum
    with pytest.raises(MapFormatError, match="damaged"):
        decode([blobs[0], bytes(damaged)])


def test_a_bomb_is_not_inflated(blobs):
    import tracemalloc

    bomb = gzip.compress(bytes(50 * 2**20))
    tracemalloc.start()
    with pytest.raises(MapFormatError, match="exactly the 24 bytes"):
        decode([blobs[0], bomb])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_the_number_of_blobs_must_fit(blobs):
    with pytest.raises(MapFormatError, match="no header"):
        decode([])
    with pytest.raises(MapFormatError, match="1 layers, but 2 blobs"):
        decode([*blobs, blobs[1]])
