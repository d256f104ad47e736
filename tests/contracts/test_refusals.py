"""What a mechanism refuses to serve: it says why, and no model is built."""

import itertools

import pytest

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import NoMask, build_mask
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, MASKS, POSITIONS


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


CROSS = [name for name in ATTENTION.names() if "cross" in ATTENTION.get(name).roles]


@pytest.mark.parametrize("mechanism", CROSS)
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
