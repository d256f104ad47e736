import math

import numpy as np
import pytest

from attnkit.dashboard.head_statistics import StatisticsCache, statistics
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.map_format import decode, encode
from attnkit.tensorboard.untrusted import MapFormatError


def record_of(weights, allowed=None, kind="self"):
    _, queries, keys = weights.shape
    return AttentionRecord(
        example="probe",
        site=kind,
        kind=kind,
        causal=allowed is not None,
        query_tokens=["q"] * queries,
        key_tokens=["k"] * keys,
        layers=[layer_map("L0", weights, allowed)],
    )


def causal_uniform(tokens):
    allowed = np.tri(tokens, dtype=bool)
    return (allowed / allowed.sum(axis=1, keepdims=True))[None], allowed


def test_uniform_causal_attention():
    """Row t has t + 1 keys alike; row 0 has no choice and does not count."""
    numbers = statistics(record_of(*causal_uniform(5)))
    rows = range(1, 5)
    assert numbers["entropy"][0] == [
        pytest.approx(np.mean([math.log(t + 1) for t in rows]), abs=1e-4)
    ]
    assert numbers["distance"][0] == [pytest.approx(np.mean([t / 2 for t in rows]), abs=1e-4)]
    assert numbers["first"][0] == [pytest.approx(np.mean([1 / (t + 1) for t in rows]), abs=1e-4)]


def test_a_head_that_looks_at_itself_and_one_that_looks_at_the_first():
    first = np.zeros((6, 6))
    first[:, 0] = 1
    numbers = statistics(record_of(np.stack([np.eye(6), first])))
    assert numbers["entropy"][0] == [0, 0]
    assert numbers["distance"][0] == [0, 2.5]
    assert numbers["first"][0] == [pytest.approx(1 / 6, abs=1e-4), 1]


def test_queries_and_keys_are_aligned_at_the_end():
    """With two queries and six keys, query 0 stands at key 4."""
    weights = np.zeros((1, 2, 6))
    weights[0, 0, 4] = weights[0, 1, 5] = 1
    assert statistics(record_of(weights))["distance"][0] == [0]


def test_cross_attention_has_no_distance():
    numbers = statistics(record_of(np.full((2, 3, 4), 0.25), kind="cross"))
    assert numbers["distance"] == [None]
    assert numbers["entropy"][0] == [pytest.approx(math.log(4), abs=1e-4)] * 2


def test_signed_weights_count_by_their_size():
    signed = np.array([[[0.5, -0.5], [-1.0, 1.0]]])
    assert statistics(record_of(signed))["entropy"][0] == [pytest.approx(math.log(2), abs=1e-4)]


def test_a_layer_without_a_choice_has_no_numbers():
    numbers = statistics(record_of(np.eye(3)[None], np.eye(3, dtype=bool)))
    assert numbers == {"entropy": [None], "distance": [None], "first": [None]}


def test_quantisation_costs_little(make_record):
    record = make_record(heads=(4, 4), queries=[str(i) for i in range(32)])
    exact, read = statistics(record), statistics(decode(encode(record)))
    for name, tolerance in {"entropy": 0.004, "distance": 0.04, "first": 0.002}.items():
        error = np.subtract(exact[name], read[name])
        assert abs(error).max() < tolerance, name
        assert abs(error).max() > 0, "nothing was quantised"


class Reader:
    """Reads records that are in memory, and counts how often."""

    def __init__(self, records):
        self.records = records
        self.reads = []

    def __call__(self, step):
        self.reads.append(step)
        if self.records[step] is None:
            raise MapFormatError("damaged")
        return encode(self.records[step])


def test_each_step_is_computed_once(make_record):
    cache = StatisticsCache()
    read = Reader({step: make_record(seed=step) for step in range(5)})
    assert cache.curves("run", [0, 1, 2], read)["steps"] == [0, 1, 2]
    read.reads.clear()
    assert cache.curves("run", [0, 1, 2, 3], read)["steps"] == [0, 1, 2, 3]
    assert read.reads == [3]


def test_steps_of_another_model_and_damaged_ones_are_left_out(make_record):
    records = {0: make_record(heads=(2,)), 1: None, 2: make_record(), 3: make_record(seed=3)}
    assert StatisticsCache().curves("run", [0, 1, 2, 3], Reader(records))["steps"] == [2, 3]


def test_a_damaged_last_step_is_told(make_record):
    with pytest.raises(MapFormatError):
        StatisticsCache().curves("run", [0, 1], Reader({0: make_record(), 1: None}))
