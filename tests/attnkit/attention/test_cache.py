"""What is remembered between decoding steps."""

import itertools

import torch

from attnkit.attention.cache import KeyValueCache, StateCache


def test_keys_and_values_come_back_in_order_while_the_room_grows():
    keys, values = torch.randn(2, 3, 20, 4), torch.randn(2, 3, 20, 4)
    cache = KeyValueCache()
    for start, stop in ((0, 3), (3, 4), (4, 5), (5, 19), (19, 20)):
        seen = cache.append(keys[:, :, start:stop], values[:, :, start:stop])
        assert cache.length == stop
        assert torch.equal(seen[0], keys[:, :, :stop])
        assert torch.equal(seen[1], values[:, :, :stop])
        assert cache.num_bytes() == 2 * 2 * 3 * stop * 4 * 4


def test_the_room_doubles_so_that_most_steps_copy_nothing():
    cache, places = KeyValueCache(), []
    for _ in range(64):
        keys, _ = cache.append(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
        places.append(keys.data_ptr())
    moves = sum(a != b for a, b in itertools.pairwise(places))
    assert moves <= 6


def test_an_empty_cache_takes_no_bytes():
    assert KeyValueCache().num_bytes() == StateCache().num_bytes() == 0


def test_a_state_is_replaced_and_does_not_grow():
    cache = StateCache()
    for _ in range(3):
        cache.update(torch.ones(2, 3, 4, 5), num_tokens=7)
    assert cache.length == 21
    assert cache.num_bytes() == 2 * 3 * 4 * 5 * 4
