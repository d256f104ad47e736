"""Laws about the attention map: it is what the output was made with."""

import pytest
import torch

from attnkit.attention.maps import attention_map
from attnkit.attention.multi_head import MultiHead
from attnkit.options import options_of


def test_the_map_times_the_values_is_the_mix(case):
    """`map @ values` equals what the mechanism computes, by whichever kernel."""
    with torch.no_grad():
        q, k, v = case.heads()
        weights = attention_map(case.attention, case.x, case.x, case.mask)
        shared = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        mixed = case.attention.mix(q, k, v, case.mask)
    torch.testing.assert_close(weights @ shared, mixed, atol=2e-5, rtol=1e-5)


def test_the_map_is_zero_where_the_mask_forbids(case):
    """A pair that the mask forbids has weight zero, in every head."""
    weights = attention_map(case.attention, case.x, case.x, case.mask)
    assert float((weights * ~case.allowed[:, None]).abs().max()) == 0


def test_the_map_is_what_its_rows_are_declared_to_be(case):
    """`sum to 1`: non-negative rows with total 1 (0 where nothing is allowed); `unnormalised`:
    non-negative; `signed`: anything.
    """
    weights = attention_map(case.attention, case.x, case.x, case.mask)
    assert weights.shape == (case.B, case.attention.num_heads, case.T, case.T)
    assert weights.isfinite().all()
    if case.attention.map_rows != "signed":
        assert float(weights.min()) >= 0
    if case.attention.map_rows == "sum to 1":
        total = case.allowed.any(dim=-1)[:, None].float().expand(weights.shape[:3])
        torch.testing.assert_close(weights.sum(dim=-1), total, atol=1e-5, rtol=0)


def test_a_map_is_taken_before_dropout(module_case):
    """A map taken while training equals the one in evaluation mode, and training goes on."""
    options = {"dropout": 0.5} if "dropout" in options_of(module_case.mechanism) else {}
    attention = module_case.build(**options).train()
    taken = attention_map(attention, module_case.x, module_case.x, module_case.mask)
    assert attention.training
    expected = attention_map(module_case.attention, module_case.x, module_case.x, module_case.mask)
    torch.testing.assert_close(taken, expected, atol=0, rtol=0)


class ShowsAnotherMap(MultiHead):
    """Broken: the map that it shows is not the one that it uses."""

    def mix(self, q, k, v, mask):
        """Mixes by sharper scores."""
        return super().mix(2 * q, k, v, mask)


class LeaksAndOverflows(MultiHead):
    """Broken: later keys keep a little weight, so rows sum to more than 1."""

    def weights(self, q, k, mask):
        """A floor below all weights."""
        return super().weights(q, k, mask) + 1e-3


def test_the_laws_catch_another_map(broken):
    with pytest.raises(AssertionError, match="not close"):
        test_the_map_times_the_values_is_the_mix(broken(ShowsAnotherMap))


@pytest.mark.parametrize(
    "law",
    [
        test_the_map_is_zero_where_the_mask_forbids,
        test_the_map_is_what_its_rows_are_declared_to_be,
    ],
)
def test_the_laws_catch_a_map_with_too_much_weight(broken, law):
    with pytest.raises(AssertionError):
        law(broken(LeaksAndOverflows))
