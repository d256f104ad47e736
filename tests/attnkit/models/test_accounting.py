"""Counts: parameters, floating-point operations and cache bytes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention import kernels
from attnkit.masks import Causal
from attnkit.models.accounting import PARTS, cache_bytes, flops_per_token, parameter_counts
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, POSITIONS


def built(**options):
    torch.manual_seed(0)
    return LanguageModel(11, **({"max_seq_len": 12, "dim": 16, "num_layers": 2} | options))


@pytest.mark.parametrize("mechanism", ATTENTION.names())
@pytest.mark.parametrize("position", POSITIONS.names())
def test_the_parts_sum_to_the_whole(mechanism, position):
    if ATTENTION.get(mechanism).refusal("self", Causal(), position):
        return
    for options in ({"tied_embeddings": False, "bias": True}, {"mlp": "swiglu"}, {"mlp": "none"}):
        model = built(attention=mechanism, position=position, **options)
        counts = parameter_counts(model)
        assert list(counts) == list(PARTS)
        assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_each_part_by_hand():
    counts = parameter_counts(built(tied_embeddings=False, attention="qk_norm"))
    assert counts == {
        "embeddings": 11 * 16,
        "positions": 12 * 16,
        "query": 2 * 256,
        "key": 2 * 256,
        "value": 2 * 256,
        "output": 2 * 256,
        "attention other": 2 * 4,
        "mlp": 2 * 8 * 256,
        "norms": 5 * 16,
        "head": 11 * 16,
    }
    assert parameter_counts(built())["head"] == 0
    assert parameter_counts(built(position="relative_bias"))["positions"] == 2 * 64 * 4


def test_gpt3_has_as_many_attention_weights_as_in_its_paper():
    """96 layers, 96 heads of 128, width 12,288; on the meta device it takes no memory."""
    with torch.device("meta"):
        model = LanguageModel(
            50257,
            max_seq_len=2048,
            dim=12288,
            num_layers=96,
            attention={"name": "multi_head", "num_heads": 96, "head_dim": 128},
        )
    counts = parameter_counts(model)
    assert sum(counts[p] for p in ("query", "key", "value", "output")) == 57_982_058_496
    assert counts["mlp"] == 2 * 57_982_058_496
    assert all(parameter.is_meta for parameter in model.parameters())
    assert cache_bytes(model, 1, torch.bfloat16) == 2 * 2 * 96 * 12288


@pytest.mark.parametrize("mlp", ["gelu", "swiglu", "none"])
@pytest.mark.parametrize("mechanism", ["multi_head", "grouped_query", "talking_heads"])
def test_flops_are_those_that_torch_counts(mechanism, mlp):
    """Unfused and unmasked, all pairs are computed."""
    model = built(attention=mechanism, mlp=mlp, mask="none").eval()
    unfused = kernels.only("reference")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused:
        model(torch.zeros(3, 12, dtype=torch.long))
    flops = flops_per_token(model)
    forward = flops.projections + flops.mixing + flops.mlp + flops.head
    assert counter.get_total_flops() == 3 * 12 * forward
    assert flops.training == 3 * forward


def test_masked_pairs_cost_nothing():
    full, causal = (flops_per_token(built(mask=mask)) for mask in ("none", "causal"))
    assert causal.mixing / full.mixing == pytest.approx(13 / 24)
    window = flops_per_token(built(mask={"name": "sliding_window", "window": 1}), num_tokens=1000)
    assert window.mixing == 2 * 4 * 16


@pytest.mark.parametrize("mechanism", ATTENTION.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_are_those_that_decoding_keeps(mechanism, dtype):
    if ATTENTION.get(mechanism).refusal("self", Causal(), "none"):
        return
    model = built(attention=mechanism, position="none").to(dtype).eval()
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.zeros(1, 9, dtype=torch.long), cache=cache)
    assert cache.num_bytes() == cache_bytes(model, 9, dtype)
