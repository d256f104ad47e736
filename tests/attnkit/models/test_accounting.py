"""Counts: parameters, floating-point operations and cache bytes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention import counted, kernels
from attnkit.attention.base import build_attention
from attnkit.attention.counted import cache_elements, mixing_flops
from attnkit.attention.multi_head import MultiHead
from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.selection import cases_of
from attnkit.masks import Causal
from attnkit.models.accounting import PARTS, cache_bytes, costs, flops_per_token, parameter_counts
from attnkit.models.language_model import LanguageModel
from attnkit.models.shapes_only import shapes_only
from attnkit.registry import ATTENTION, POSITIONS


def built(**options):
    torch.manual_seed(0)
    return LanguageModel(11, **({"max_seq_len": 12, "dim": 16, "num_layers": 2} | options))


@pytest.mark.parametrize("mechanism", ATTENTION.names())
def test_costs_are_counted_on_the_meta_device(mechanism):
    """As `attnkit show` and `ablate --dry-run` count them, before any weight exists."""
    if ATTENTION.get(mechanism).refusal("self", Causal(), "none"):
        return
    with shapes_only():
        model = built(attention=mechanism, position="none")
    assert costs(model)["training_flops_per_token"] > 0


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
        "other": 0,
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


def own_attention(name):
    case = cases_of(ATTENTION.get(name))[0][0]
    return case.build()


@pytest.mark.parametrize("name", ATTENTION.names())
def test_what_is_declared_is_what_would_be_counted(name):
    """For all that decodes from keys and values; a state is declared as its recurrence."""
    attention = own_attention(name)
    if isinstance(attention, ScoreAttention):
        pairs = 40 * 40
        declared = mixing_flops(attention, 40, pairs)
        assert declared == counted.counted_mixing_flops(attention, 40, pairs)
    if type(attention).refusal("self", Causal(), "none") is None:
        assert cache_elements(attention, 9) == counted.counted_cache_elements(attention, 9)


class Wider(MultiHead):
    """Keys that carry a copy of themselves, and scores that read both."""

    def project_context(self, context):
        k, v = super().project_context(context)
        return torch.cat((k, k), dim=-1), v

    def weights(self, q, k, mask):
        return super().weights(q, k[..., : self.head_dim] + k[..., self.head_dim :], mask)


class NeedsNumbers(Wider):
    """Cannot run without numbers."""

    def merge(self, heads, x):
        assert float(heads.detach().sum()) < 1e9
        return super().merge(heads, x)


@pytest.mark.parametrize("mechanism", [Wider, NeedsNumbers])
def test_what_a_subclass_changed_is_counted_anew(mechanism):
    attention = mechanism(16, num_heads=4)
    assert cache_elements(attention, 100) == 3 * 100 * 16
    assert mixing_flops(attention, 100, 5050) == 4 * 5050 * 16


class SaysSo(Wider):
    def mixing_flops(self, num_tokens, pairs):
        return 7

    def cache_elements(self, num_tokens):
        return 5


def test_what_a_class_says_of_its_own_steps_counts():
    assert mixing_flops(SaysSo(16), 100, 5050) == 7
    assert cache_elements(SaysSo(16), 100) == 5


def test_costs_of_a_mechanism_of_limited_length_are_counted_up_to_it():
    limited, unlimited = (
        build_attention({"name": "synthesizer", "max_tokens": most}, 16) for most in (40, 4000)
    )
    assert mixing_flops(limited, 40, 40 * 40) == mixing_flops(unlimited, 40, 40 * 40) > 0
    assert cache_elements(limited, 40) == cache_elements(unlimited, 40)
    with pytest.raises(ValueError, match="set its option max_tokens"):
        cache_elements(limited, 41)
