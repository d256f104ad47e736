"""Laws about a mechanism as a module: its parameters, seeds, modes, sizes, counts and refusals."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention import kernels
from attnkit.attention.base import ScoreAttention
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import NoMask, build_mask
from attnkit.models.language_model import LanguageModel
from attnkit.options import options_of
from attnkit.registry import ATTENTION, MASKS, POSITIONS


def output_of(attention, case, length=None):
    x = case.x[:, :length]
    return attention(x, x, case.mask_over(x.shape[1]))


def test_state_dict_round_trip_gives_the_same_numbers(module_case):
    """Weights saved and loaded into a fresh mechanism give the same output, bit for bit."""
    torch.manual_seed(9)
    other = module_case.mechanism(module_case.C)
    if POSITIONS.get(module_case.position).acts_on != "embeddings":
        other.with_position(module_case.position)
    other.eval().load_state_dict(module_case.attention.state_dict())
    expected = output_of(module_case.attention, module_case)
    torch.testing.assert_close(output_of(other, module_case), expected, atol=0, rtol=0)


def test_the_same_seed_gives_the_same_mechanism(module_case):
    """Built twice under one seed, all parameters are equal."""
    states = [module_case.build().state_dict() for _ in range(2)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluation_is_deterministic_with_dropout_set(module_case):
    """Dropout acts in training (two passes differ) and not in evaluation (they are equal)."""
    attention = module_case.build(dropout=0.5)
    assert torch.equal(output_of(attention, module_case), output_of(attention, module_case))
    attention.train()
    assert not torch.equal(output_of(attention, module_case), output_of(attention, module_case))


test_evaluation_is_deterministic_with_dropout_set.only = lambda case: (
    "dropout" in options_of(case.mechanism)
)


def test_one_sequence_of_one_token_works(module_case):
    """Batch 1, length 1, and a batch of several sequences of length 1."""
    with torch.no_grad():
        one = module_case.attention(module_case.x[:1, :1], module_case.x[:1, :1], NoMask())
        both = module_case.attention(module_case.x[:, :1], module_case.x[:, :1], NoMask())
    assert one.shape == (1, 1, module_case.C)
    torch.testing.assert_close(one, both[:1], atol=1e-6, rtol=1e-5)


def test_gradients_reach_every_parameter(module_case):
    """No parameter is left out of the computation."""
    attention = module_case.build()
    output_of(attention, module_case).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_flops_are_those_that_torch_counts(module_case, monkeypatch):
    """`projection_flops` and `mixing_flops` for all pairs equal what torch counts when no kernel is
    fused, without a mask. (Under a causal mask linear attention trains in chunks, which cost more
    than the recurrent form that it declares.)
    """
    for kernel in ("sdpa", "windowed"):
        monkeypatch.setattr(kernels, kernel, kernels.reference)
    attention, T = module_case.attention, module_case.T
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(module_case.x, module_case.x, NoMask())
    one = T * attention.projection_flops() + attention.mixing_flops(T, T * T)
    assert counter.get_total_flops() == module_case.B * one


def refused_combinations():
    masks = [name for name in MASKS.names() if name not in ("all_of", "any_of")]
    for mechanism, mask, position in itertools.product(ATTENTION.names(), masks, POSITIONS.names()):
        reason = ATTENTION.get(mechanism).refusal("self", build_mask(mask), position)
        if reason is not None:
            yield pytest.param(
                mechanism, mask, position, reason, id=f"{mechanism}-{mask}-{position}"
            )


@pytest.mark.parametrize(("mechanism", "mask", "position", "reason"), list(refused_combinations()))
def test_what_is_refused_says_why_and_is_not_built(mechanism, mask, position, reason):
    """The reason names the mechanism and what it cannot serve, and no model is built."""
    assert mechanism in reason
    assert mask in reason or position in reason
    with pytest.raises(ValueError, match="attention") as error:
        LanguageModel(
            7,
            dim=32,
            num_layers=1,
            attention=mechanism,
            mask=mask,
            position=position,
            max_seq_len=8,
        )
    assert reason in str(error.value)


@pytest.mark.parametrize("mechanism", ATTENTION.names())
def test_cross_attention_refuses_positions_within_one_sequence(mechanism):
    """Distances between two sequences mean nothing, so encodings of them are refused there."""
    for position in POSITIONS.names():
        reason = ATTENTION.get(mechanism).refusal("cross", NoMask(), position)
        assert (reason is None) == (POSITIONS.get(position).acts_on == "embeddings")


def test_a_role_that_is_not_served_is_refused():
    class SelfOnly(MultiHead):
        """Compares a sequence with itself alone."""

        roles = frozenset({"self"})

    assert SelfOnly.refusal("self", NoMask(), "none") is None
    assert "cannot serve cross-attention (it serves: self)" in SelfOnly.refusal(
        "cross", NoMask(), "none"
    )


@pytest.mark.parametrize(
    ("mechanism", "mask", "refused"),
    [
        ("linear", ["causal", "none"], None),
        ("linear", ["causal", "document"], "document"),
        ("linear", {"name": "any_of", "masks": ["causal", "none"]}, "(causal | none)"),
        ("linear", {"name": "all_of", "masks": ["causal", "prefix"]}, "prefix"),
        ("multi_head", {"name": "any_of", "masks": ["causal", "prefix"]}, None),
    ],
)
def test_each_part_of_a_combined_mask_must_be_served(mechanism, mask, refused):
    reason = ATTENTION.get(mechanism).refusal("self", build_mask(mask), "none")
    assert (reason is None) if refused is None else f"mask {refused} (" in reason


class HasAnIdleParameter(MultiHead):
    """Broken: a parameter that nothing reads."""

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.idle = torch.nn.Parameter(torch.ones(3))


class DropsAlways(MultiHead):
    """Broken: dropout acts in evaluation too."""

    def merge(self, heads, x):
        """Drops a tenth, whatever the mode."""
        return super().merge(torch.nn.functional.dropout(heads, 0.1), x)


class MiscountsFlops(ScoreAttention):
    """Broken: one head by default, and a count that leaves the values out."""

    def __init__(self, dim):
        super().__init__(dim, num_heads=1)

    def mixing_flops(self, num_tokens, pairs):
        """Half of it."""
        return super().mixing_flops(num_tokens, pairs) // 2


def test_the_laws_catch_a_broken_module(broken, monkeypatch):
    with pytest.raises(AssertionError, match="idle"):
        test_gradients_reach_every_parameter(broken(HasAnIdleParameter))
    with pytest.raises(AssertionError):
        test_flops_are_those_that_torch_counts(broken(MiscountsFlops), monkeypatch)
    with pytest.raises(AssertionError):
        test_evaluation_is_deterministic_with_dropout_set(broken(DropsAlways))
