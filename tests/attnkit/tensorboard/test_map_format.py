import json
import subprocess
import sys

import numpy as np
import pytest

from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap, layer_map
from attnkit.tensorboard.map_format import decode, encode
from attnkit.tensorboard.map_header import read_header
from attnkit.tensorboard.untrusted import MapFormatError


def probabilities(heads, queries, keys, allowed=None, seed=0):
    scores = 3 * np.random.default_rng(seed).normal(size=(heads, queries, keys))
    weights = np.exp(scores) * (1 if allowed is None else allowed)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def record_of(*layers, **changes):
    _, queries, keys = layers[0].weights.shape
    fields = {
        "example": "probe0",
        "site": "decoder.self",
        "kind": "self",
        "causal": True,
        "query_tokens": [f"q{i}" for i in range(queries)],
        "key_tokens": [f"k{i}" for i in range(keys)],
        "layers": layers,
    }
    return AttentionRecord(**(fields | changes))


def causal(queries, keys):
    return np.arange(keys) <= np.arange(queries)[:, None] + keys - queries


def test_probabilities_come_back_within_quantisation():
    allowed = causal(12, 12)
    layers = [
        layer_map("L0", probabilities(4, 12, 12, allowed), allowed),
        layer_map("L1", probabilities(1, 12, 12, allowed, seed=1), allowed),
    ]
    record = record_of(*layers, note="step 0", query_tokens=["é", "\n", "\ud800"] * 4)
    back = decode(encode(record))
    for before, after in zip(record.layers, back.layers, strict=True):
        assert after.name == before.name
        assert after.norm == "rows"
        error = abs(after.weights - before.weights)
        assert np.all(error <= 0.004 * np.sqrt(before.weights) + 4e-6)
        assert np.all(after.weights[:, ~allowed] == 0)
        assert np.array_equal(after.allowed, allowed)
    assert list(back.query_tokens) == list(record.query_tokens)
    assert list(back.key_tokens) == list(record.key_tokens)
    assert (back.example, back.site, back.kind) == ("probe0", "decoder.self", "self")
    assert (back.causal, back.note) == (True, "step 0")
    assert back.tag == "attention/probe0/decoder.self"


def test_lengths_come_back_exactly_or_not_at_all():
    rows = probabilities(2, 4, 4)
    lengths = np.random.default_rng(0).random((2, 4)).astype(np.float32)
    broken = lengths * np.float32(np.inf)
    layers = [layer_map("L0", rows, lengths=one) for one in (lengths, None, broken)]
    back = [layer.lengths for layer in decode(encode(record_of(*layers))).layers]
    assert np.array_equal(back[0], lengths)
    assert back[1:] == [None, None]
    # A log of before has none.
    header, *blobs = encode(record_of(*layers))
    old = {key: value for key, value in json.loads(header).items() if key != "lengths"}
    assert decode([json.dumps(old).encode(), *blobs]).layers[0].lengths is None
    for damaged, words in ((["AAAA"], "lengths of 1 layers"), (["AAAA"] * 3, "3 bytes of lengths")):
        header = json.dumps(old | {"lengths": damaged}).encode()
        with pytest.raises(MapFormatError, match=words):
            decode([header, *blobs])


def test_small_weights_keep_their_size():
    """A linear byte would turn 0.001 into zero."""
    weights = np.full((1, 1, 1001), 0.001, dtype=np.float32)
    back = decode(encode(record_of(layer_map("L0", weights))))
    assert back.layers[0].weights == pytest.approx(0.001, rel=0.1)


def test_signed_weights_come_back_with_their_sign():
    weights = 5 * np.random.default_rng(0).normal(size=(2, 6, 9)).astype(np.float32)
    layer = layer_map("L0", weights)
    assert layer.norm == "signed"
    peak = abs(weights).max()
    restored = decode(encode(record_of(layer, kind="cross"))).layers[0].weights
    error = abs(restored - weights)
    assert np.all(error <= 0.008 * np.sqrt(abs(weights) * peak) + 16e-6 * peak)
    large = abs(weights) > 0.001 * peak
    assert np.array_equal(np.sign(restored[large]), np.sign(weights[large]))


def test_unnormalised_weights_beyond_one_come_back():
    weights = np.random.default_rng(0).uniform(0, 40, size=(2, 5, 5)).astype(np.float32)
    layer = layer_map("L0", weights)
    assert layer.norm == "unnormalised"
    blobs = encode(record_of(layer))
    assert read_header(blobs[0]).scales[0] == pytest.approx(weights.max())
    restored = decode(blobs).layers[0].weights
    assert np.all(abs(restored - weights) <= 0.004 * np.sqrt(weights * 40) + 4e-6 * 40)


def test_all_zeros_come_back():
    weights = np.zeros((1, 3, 3), dtype=np.float32)
    assert not decode(encode(record_of(LayerMap("L0", weights, "signed")))).layers[0].weights.any()


def test_rows_without_an_allowed_key_still_count_as_probabilities():
    weights = probabilities(2, 4, 4)
    weights[:, 1] = 0
    assert layer_map("L0", weights).norm == "rows"


def test_rounding_below_zero_is_not_a_sign():
    allowed = causal(4, 4)
    weights = probabilities(2, 4, 4, allowed)
    weights[:, ~allowed] = -1e-6
    layer = layer_map("L0", weights)
    assert layer.norm == "rows"
    assert not decode(encode(record_of(layer))).layers[0].weights[:, ~allowed].any()


@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (3, 8)])
def test_masks_are_exact_and_named_where_they_have_a_name(queries, keys):
    generator = np.random.default_rng(0)
    window = causal(queries, keys) & ~causal(queries, keys + 3)[:, :keys]
    window[:, 0] = True
    per_head = generator.random((2, queries, keys)) < 0.7
    masks = [
        None,
        np.ones((queries, keys), dtype=bool),
        causal(queries, keys),
        np.stack([causal(queries, keys)] * 2),
        window,
        per_head,
        window,
    ]
    weights = np.ones((2, queries, keys), dtype=np.float32)
    layers = [LayerMap("L", weights, "unnormalised", mask) for mask in masks]
    blobs = encode(record_of(*layers))
    header = read_header(blobs[0])
    assert header.masks == ("none", "none", "causal", "causal", 0, 1, 0)
    assert len(header.bitmaps) == 2
    restored = [layer.allowed for layer in decode(blobs).layers]
    assert restored[0] is None
    assert restored[1] is None
    for before, after in zip(masks[2:], restored[2:], strict=True):
        assert np.array_equal(np.broadcast_to(after, before.shape), before)


def test_a_record_is_small_and_always_the_same_bytes():
    allowed = causal(32, 32)
    layers = [layer_map(f"L{i}", probabilities(4, 32, 32, allowed, i), allowed) for i in range(4)]
    blobs = encode(record_of(*layers))
    assert blobs == encode(record_of(*layers))
    assert sum(map(len, blobs)) < 4 * 4 * 32 * 32  # under a byte a cell


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerMap("L0", np.full((1, 2, 2), np.nan, np.float32)), "L0: the map holds NaN"),
        (LayerMap("L0", np.zeros((0, 2, 2), np.float32)), r"got \(0, 2, 2\)"),
        (LayerMap("L0", np.full((1, 2, 2), -1, np.float32)), "negative weights"),
        (LayerMap("L0", np.full((1, 2, 2), 3, np.float32)), "a weight of 3 in"),
        (LayerMap("L0", np.ones((1, 2, 2), np.float32), "odd"), "unknown norm 'odd'"),
        (LayerMap("L0", np.ones((1, 2, 3), np.float32)), "2 x 3, but there are 2 query"),
        (
            LayerMap("L0", np.ones((1, 2, 2), np.float32), "rows", np.eye(3, dtype=bool)),
            r"bitmap 0 has shape \(3, 3\)",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(layer, message):
    with pytest.raises(MapFormatError, match=message):
        encode(record_of(layer, query_tokens=["a", "b"], key_tokens=["a", "b"]))


@pytest.mark.parametrize("changes", [{"example": "a/b"}, {"site": "<b>"}, {"kind": "both"}])
def test_names_that_no_tag_can_hold_are_refused(changes):
    with pytest.raises(MapFormatError, match=next(iter(changes))):
        encode(record_of(layer_map("L0", probabilities(1, 2, 2)), **changes))


def test_importing_the_format_loads_neither_numpy_nor_torch():
    code = (
        "import sys, attnkit.tensorboard.map_format; "
        "assert not {'numpy', 'torch', 'tensorboard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
