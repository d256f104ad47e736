"""Each mechanism against its formula, written out plainly and slowly here."""

import math

import pytest
import torch
from torch.nn import functional as F

from attnkit.attention.base import build_attention
from attnkit.masks import Causal, NoMask, Padding

B, T, S, C, H = 2, 5, 7, 12, 3
D = C // H


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(B, T, C), torch.randn(B, S, C)


def built(name, **options):
    torch.manual_seed(1)
    attention = build_attention({"name": name, **options}, C).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return attention


def split(projected, num_heads=H):
    """(B, T, H D) -> (B, H, T, D)"""
    return projected.view(*projected.shape[:2], num_heads, -1).transpose(1, 2)


def joined(heads, attention):
    """(B, H, T, D) -> (B, T, C)"""
    return heads.transpose(1, 2).reshape(B, T, -1) @ attention.output.weight.T


def projected(attention, x, context, num_kv_heads=H):
    q = split(x @ attention.query.weight.T, attention.num_heads)
    k = split(context @ attention.key.weight.T, num_kv_heads)
    return q, k, split(context @ attention.value.weight.T, num_kv_heads)


CAUSAL = torch.ones(T, S).tril(S - T) > 0


def softmax(scores):
    return scores.masked_fill(~CAUSAL, -math.inf).softmax(dim=-1)


def test_multi_head(inputs):
    attention = built("multi_head", num_heads=H)
    q, k, v = projected(attention, *inputs)
    expected = joined(softmax(q @ k.transpose(-2, -1) / D**0.5) @ v, attention)
    torch.testing.assert_close(attention(*inputs, Causal()), expected)


def test_single_head_is_as_wide_as_the_model(inputs):
    attention = built("single_head")
    q, k, v = (heads[:, 0] for heads in projected(attention, *inputs, 1))
    expected = softmax(q @ k.transpose(-2, -1) / C**0.5) @ v @ attention.output.weight.T
    torch.testing.assert_close(attention(*inputs, Causal()), expected)


def test_bias_vectors_are_added_to_all_four_projections(inputs):
    attention = built("multi_head", num_heads=H, bias=True)
    x, context = inputs
    q = split(F.linear(x, attention.query.weight, attention.query.bias))
    k = split(F.linear(context, attention.key.weight, attention.key.bias))
    v = split(F.linear(context, attention.value.weight, attention.value.bias))
    mixed = (q @ k.transpose(-2, -1) / D**0.5).softmax(dim=-1) @ v
    expected = joined(mixed, attention) + attention.output.bias
    torch.testing.assert_close(attention(x, context, NoMask()), expected)


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("grouped_query", {"num_heads": 6, "num_kv_heads": 2}, [0, 0, 0, 1, 1, 1]),
        ("multi_query", {"num_heads": 6}, [0] * 6),
    ],
)
def test_heads_of_a_group_share_keys_and_values(inputs, name, options, groups):
    attention = built(name, **options)
    q, k, v = projected(attention, *inputs, len(set(groups)))
    heads = [
        softmax(q[:, h] @ k[:, g].transpose(-2, -1) / q.shape[-1] ** 0.5) @ v[:, g]
        for h, g in enumerate(groups)
    ]
    expected = joined(torch.stack(heads, dim=1), attention)
    torch.testing.assert_close(attention(*inputs, Causal()), expected)


def test_qk_norm_scores_are_cosines(inputs):
    attention = built("qk_norm", num_heads=H)
    q, k, v = projected(attention, *inputs)
    cosines = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    scores = cosines * attention.gain.view(H, 1, 1) * D**0.5
    expected = joined(softmax(scores) @ v, attention)
    torch.testing.assert_close(attention(*inputs, Causal()), expected, atol=1e-4, rtol=1e-4)


def test_qk_norm_by_layer_norm_takes_the_mean_out_first(inputs):
    attention = built("qk_norm", num_heads=H, norm="layer_norm")
    q, k, v = projected(attention, *inputs)
    q, k = (heads - heads.mean(dim=-1, keepdim=True) for heads in (q, k))
    cosines = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    scores = cosines * attention.gain.view(H, 1, 1) * D**0.5
    expected = joined(softmax(scores) @ v, attention)
    torch.testing.assert_close(attention(*inputs, Causal()), expected, atol=1e-3, rtol=1e-3)


def test_qk_norm_without_a_gain_has_none(inputs):
    attention = built("qk_norm", num_heads=H, learned_gain=False)
    assert attention.gain is None
    q, k, _ = projected(attention, *inputs)
    cosines = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    q, k = attention.project_query(inputs[0]), attention.project_context(inputs[1])[0]
    q, k = attention.place(q, k)
    torch.testing.assert_close(attention.scores(q, k), cosines * D**0.5, atol=1e-4, rtol=1e-4)


def test_sigmoid_counts_the_keys_that_each_query_sees(inputs):
    attention = built("sigmoid", num_heads=H)
    q, k, v = projected(attention, *inputs)
    scores = q @ k.transpose(-2, -1) / D**0.5
    seen = torch.tensor([3.0, 4, 5, 6, 7]).view(T, 1)
    weights = torch.sigmoid(scores - seen.log()) * CAUSAL
    torch.testing.assert_close(attention(*inputs, Causal()), joined(weights @ v, attention))
    everything = joined(torch.sigmoid(scores - math.log(S)) @ v, attention)
    torch.testing.assert_close(attention(*inputs, NoMask()), everything)


def test_sigmoid_does_not_count_padding(inputs):
    attention = built("sigmoid", num_heads=H)
    x, context = inputs
    keep = torch.arange(S).expand(B, S) < 4
    padded = attention(x, context, Padding(keep))
    torch.testing.assert_close(padded, attention(x, context[:, :4], NoMask()))


def test_talking_heads_mix_before_and_after_the_softmax(inputs):
    attention = built("talking_heads", num_heads=H)
    q, k, v = projected(attention, *inputs)
    scores = q @ k.transpose(-2, -1) / D**0.5
    weights = torch.zeros(B, H, T, S)
    for g in range(H):
        mixed = [
            softmax(sum(attention.before[h, f] * scores[:, f] for f in range(H))) for h in range(H)
        ]
        weights[:, g] = sum(attention.after[g, h] * mixed[h] for h in range(H))
    expected = joined(weights @ v, attention)
    torch.testing.assert_close(attention(*inputs, Causal()), expected, atol=1e-5, rtol=1e-4)


def test_talking_heads_start_as_multi_head(inputs):
    torch.manual_seed(1)
    talking = build_attention({"name": "talking_heads", "num_heads": H}, C)
    torch.manual_seed(1)
    plain = build_attention({"name": "multi_head", "num_heads": H}, C)
    torch.testing.assert_close(talking(*inputs, Causal()), plain(*inputs, Causal()))


@pytest.mark.parametrize("length", [1, 5, 64, 65, 150])
@pytest.mark.parametrize("causal", [True, False])
def test_linear_against_the_quadratic_form(length, causal):
    """Across the edges of the chunks in which it is computed."""
    attention = built("linear", num_heads=H)
    x = torch.randn(B, length, C, generator=torch.Generator().manual_seed(3))
    q, k, v = projected(attention, x, x)
    products = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
    if causal:
        products = products.tril()
    heads = products / products.sum(dim=-1, keepdim=True) @ v
    expected = heads.transpose(1, 2).reshape(B, length, C) @ attention.output.weight.T
    computed = attention(x, x, Causal() if causal else NoMask())
    torch.testing.assert_close(computed, expected, atol=1e-4, rtol=1e-4)


def test_linear_keeps_its_sums_in_float32():
    """In bfloat16 a sum of 4,096 terms of 1 would stop at 256."""
    attention = built("linear", num_heads=H).bfloat16()
    ones = torch.ones(1, H, 4096, D, dtype=torch.bfloat16)
    steps = torch.arange(4096).view(1, 1, -1, 1).expand(1, H, -1, D).bfloat16()
    mean = attention.mix(ones, ones, steps, NoMask())
    torch.testing.assert_close(mean, torch.full_like(mean, 2047.5), atol=8, rtol=0)
    assert mean.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide dim 12"),
        ({"num_heads": 0}, "must be at least 1"),
        ({"num_heads": 4, "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_attention({"name": "multi_head", **options}, C)


def test_groups_must_divide_the_heads():
    with pytest.raises(ValueError, match="num_kv_heads 4 does not divide num_heads 6"):
        build_attention({"name": "grouped_query", "num_heads": 6, "num_kv_heads": 4}, C)


def test_a_position_where_a_mechanism_has_no_place_for_it():
    with pytest.raises(ValueError, match="alibi acts on scores, where Linear takes none"):
        built("linear").with_position("alibi")
    with pytest.raises(ValueError, match="learned acts on embeddings"):
        built("multi_head", num_heads=H).with_position("learned")
