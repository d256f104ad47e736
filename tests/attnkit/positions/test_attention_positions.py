"""Positions that act inside attention, against the papers' own words."""

import math

import pytest
import torch

from attnkit.attention.base import build_attention
from attnkit.masks import Causal, Grid, NoMask
from attnkit.positions.alibi import Alibi, alibi_slopes
from attnkit.positions.relative_bias import RelativeBias
from attnkit.positions.rotary import Rotary
from attnkit.registry import POSITIONS


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = Rotary(2, 8)
    q, k = torch.randn(2, 1, 2, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        turned = rotary.rotate(q, torch.tensor([i])) * rotary.rotate(k, torch.tensor([j]))
        return turned.sum(dim=-1)

    torch.testing.assert_close(score(5, 2), score(95, 92), atol=1e-4, rtol=0)
    torch.testing.assert_close(score(7, 7), (q * k).sum(dim=-1), atol=1e-5, rtol=0)
    assert not torch.allclose(score(5, 2), score(5, 3), atol=1e-3)
    assert not torch.allclose(score(5, 2), score(2, 5), atol=1e-3)


def test_rotary_turns_each_pair_by_its_own_angle():
    """Features i and i + D/2 are a pair, turned by position / base^(i / (D/2))."""
    ones_then_zeros = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    turned = Rotary(1, 4, base=100.0).rotate(ones_then_zeros, torch.tensor([3])).flatten()
    expected = [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_rotary_keeps_lengths_and_leaves_position_zero():
    heads = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    turned = Rotary(3, 8).rotate(heads, torch.arange(5))
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], heads[:, :, 0])


def test_rotary_angles_stay_exact_in_bfloat16():
    """Position 1001 and 1000 round to one bfloat16 number; their angles must not."""
    heads = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    turned = Rotary(1, 4).rotate(heads, torch.tensor([1000, 1001])).float()
    exact = Rotary(1, 4).rotate(heads.float(), torch.tensor([1000, 1001]))
    torch.testing.assert_close(turned, exact, atol=0.02, rtol=0)


def test_partial_rotary_leaves_the_slowest_pairs():
    q, far = torch.randn(1, 2, 1, 8), torch.tensor([1000])
    turned, all_of_it = Rotary(2, 8, share=0.5).rotate(q, far), Rotary(2, 8).rotate(q, far)
    for pair in (0, 1):
        assert torch.equal(turned[..., pair::4], all_of_it[..., pair::4])
    for pair in (2, 3):
        assert torch.equal(turned[..., pair::4], q[..., pair::4])


def test_yarn_slows_down_what_turns_less_than_once():
    """Speeds of a base of 10,000, read off a rotation by one token; D is 128."""
    rotary = Rotary(1, 128, factor=4.0, trained_tokens=2048)
    one = torch.zeros(1, 1, 1, 128)
    one[..., :64] = 1
    turned = rotary.rotate(one, torch.tensor([1]))[0, 0, 0]
    speed = torch.atan2(turned[64:], turned[:64])
    plain = 10000 ** (-torch.arange(64) / 64)
    turns = 2048 * plain / (2 * math.pi)
    torch.testing.assert_close(speed[turns > 32], plain[turns > 32])
    torch.testing.assert_close(speed[turns < 1], plain[turns < 1] / 4)
    between = (turns > 1) & (turns < 32)
    share = (turns[between] - 1) / 31
    torch.testing.assert_close(speed[between], plain[between] * (share + (1 - share) / 4))
    gain = 0.1 * math.log(4) + 1
    torch.testing.assert_close(turned[:64] ** 2 + turned[64:] ** 2, torch.full((64,), gain**2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"factor": 2.0}, "factor 2.0 needs the length of the training's sequences: set trained"),
    ],
)
def test_rotary_names_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Rotary(2, 8, **options)


def test_rotary_refuses_an_odd_head_dim():
    with pytest.raises(ValueError, match="even head_dim, got 3"):
        build_attention({"name": "multi_head", "num_heads": 2, "head_dim": 3}, 8, position="rotary")


def test_alibi_slopes_of_the_paper():
    """Section 3: 1/2, 1/4, ... 1/256 for 8 heads; for 16 every half power between them."""
    assert alibi_slopes(8) == [1 / 2**n for n in range(1, 9)]
    assert alibi_slopes(16)[:3] == pytest.approx([2**-0.5, 2**-1, 2**-1.5])


def test_alibi_slopes_between_powers_of_two():
    """12 heads: those of 8, then every other one of 16, from the largest."""
    assert alibi_slopes(12)[:8] == alibi_slopes(8)
    assert alibi_slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert alibi_slopes(1) == [2**-8]
    assert alibi_slopes(3) == pytest.approx([2**-4, 2**-8, 2**-2])


def test_alibi_bias_falls_with_the_distance():
    bias = Alibi(8, 4).bias(torch.arange(3, 6).view(-1, 1), torch.arange(6).view(1, -1))
    assert bias.shape == (8, 3, 6)
    assert bias[0, 0].tolist() == [-1.5, -1.0, -0.5, 0.0, -0.5, -1.0]
    assert bias[2, 2].tolist() == [-0.625, -0.5, -0.375, -0.25, -0.125, 0.0]


def test_score_mod_and_bias_are_one():
    alibi = Alibi(3, 4)
    bias = alibi.bias(torch.arange(4).view(-1, 1), torch.arange(4).view(1, -1))
    for head in range(3):
        for query in range(4):
            for key in range(4):
                index = [torch.tensor(i) for i in (head, query, key)]
                modified = alibi.score_mod(torch.tensor(2.0), *index)
                torch.testing.assert_close(modified, 2 + bias[head, query, key])


def slow_bucket(distance: int, num_buckets: int, max_distance: int) -> int:
    """Section 2.1 in words: half the buckets a side; half of those exact, the rest logarithmic."""
    side = num_buckets // 2
    start = side if distance > 0 else 0
    steps = abs(distance)
    exact = side // 2
    if steps < exact:
        return start + steps
    share = math.log(steps / exact) / math.log(max_distance / exact)
    return start + min(exact + int(share * (side - exact) + 1e-6), side - 1)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (64, 128), (8, 20)])
def test_relative_bias_buckets_against_a_slow_loop(num_buckets, max_distance):
    position = RelativeBias(2, 4, num_buckets=num_buckets, max_distance=max_distance)
    distances = torch.arange(-200, 201)
    buckets = position.bucket(distances)
    expected = [slow_bucket(int(d), num_buckets, max_distance) for d in distances]
    edges = [i for i, d in enumerate(distances.tolist()) if abs(d) & (abs(d) - 1) == 0]
    for i, (bucket, slow) in enumerate(zip(buckets.tolist(), expected, strict=True)):
        # a power of two may stand exactly on an edge, where float32 decides
        assert bucket == slow or (i in edges and abs(bucket - slow) == 1)
    assert int(buckets.min()) == 0
    assert int(buckets.max()) == num_buckets - 1


def test_relative_bias_looks_up_its_table():
    position = RelativeBias(2, 4, num_buckets=8, max_distance=20)
    bias = position.bias(torch.tensor([[2]]), torch.tensor([[1, 2, 3]]))
    table = position.table.weight
    assert bias.shape == (2, 1, 3)
    torch.testing.assert_close(bias[:, 0], torch.stack([table[1], table[0], table[5]], dim=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 6}, "multiple of 4, got 6"),
        ({"num_buckets": 32, "max_distance": 8}, "max_distance 8 must exceed the 8 exact"),
    ],
)
def test_relative_bias_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        RelativeBias(2, 4, **options)


def test_shaw_is_a_vector_for_each_distance():
    torch.manual_seed(0)
    position = POSITIONS.build({"name": "shaw", "max_distance": 2}, 3, 4)
    scores, q = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 4)
    grid = Grid(NoMask(), 5, 6, q.device)
    found = position.adjust(scores, q, torch.empty(2, 3, 6, 4), grid)
    for h, i, j in ((0, 0, 0), (1, 2, 5), (2, 4, 1), (0, 3, 4)):
        distance = max(-2, min(2, j - (i + 1)))  # the first query stands at 1
        vector = position.table[h, :, distance + 2]
        expected = scores[:, h, i, j] + q[:, h, i] @ vector / 2
        torch.testing.assert_close(found[:, h, i, j], expected)


def test_cope_counts_what_a_query_chooses_to_count():
    torch.manual_seed(0)
    position = POSITIONS.build({"name": "cope", "max_position": 3}, 2, 4)
    scores, q = 2 * torch.randn(1, 2, 6, 6), torch.randn(1, 2, 6, 4)
    grid = Grid(Causal(), 6, 6, q.device)
    found = position.adjust(scores, q, torch.empty(1, 2, 6, 4), grid)
    for h, i, j in ((0, 0, 0), (1, 5, 0), (0, 4, 2), (1, 3, 3)):
        count = min(3.0, float(scores[0, h, i, j : i + 1].sigmoid().sum()))
        thinks = q[0, h, i] @ position.table
        below = int(count)
        expected = thinks[below]
        if count > below:
            expected = expected + (count - below) * (thinks[below + 1] - thinks[below])
        torch.testing.assert_close(found[0, h, i, j], scores[0, h, i, j] + expected)


@pytest.mark.parametrize("name", ["shaw", "cope"])
@pytest.mark.parametrize("mechanism", ["grouped_query", "sigmoid", "talking_heads"])
def test_positions_that_see_content_decode_as_they_read(name, mechanism):
    torch.manual_seed(0)
    attention = build_attention(mechanism, 16, position=name).double().eval()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    cache = attention.new_cache()
    pieces = [attention(piece, piece, Causal(), cache) for piece in x.split((3, 1, 5), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), attention(x, x, Causal()))
