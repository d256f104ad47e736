"""Laws about who may influence whom, measured by gradient and by perturbation."""

import pytest
import torch

from attnkit.attention.base import ScoreAttention
from attnkit.attention.multi_head import MultiHead

FORBIDDEN = 1e-6
"""Largest influence that counts as none: rounding; a real one is a thousand times larger."""


def only(condition):
    """Restricts a law to the cases that it speaks about."""

    def mark(test):
        test.only = condition
        return test

    return mark


def assert_no_influence(case, forbidden) -> None:
    """No output feels a key where `forbidden` (B or 1, T, S) is True, however one measures."""
    for how, influence in case.influences.items():
        felt = influence * forbidden
        assert float(felt.max()) <= FORBIDDEN, f"{how}: largest influence {float(felt.max()):.1e}"


def positions(case):
    query = torch.arange(case.T).view(1, -1, 1)
    return query, query.transpose(1, 2)


@only(lambda case: case.mask.ahead == 0)
def test_later_tokens_have_no_influence(case):
    """Under a mask with `ahead == 0` no output depends on a later token."""
    query, key = positions(case)
    assert_no_influence(case, key > query)


@only(lambda case: "padding" in case.mask_name)
def test_padded_keys_have_no_influence(case):
    """No output depends on a padded token, and no gradient reaches it."""
    assert_no_influence(case, ~case.keep[:, None, :])


@only(lambda case: case.mask.back is not None)
def test_nothing_outside_of_the_window_has_influence(case):
    """No output depends on a key further back than `back` or further ahead than `ahead`."""
    query, key = positions(case)
    assert_no_influence(case, (key < query - case.mask.back) | (key > query + case.mask.ahead))


@only(lambda case: "document" in case.mask_name)
def test_documents_do_not_see_each_other(case):
    """No output depends on a token of another document."""
    assert_no_influence(case, case.documents[:, :, None] != case.documents[:, None, :])


def test_exactly_the_allowed_keys_have_influence(case):
    """An output feels each key that the mask allows, and no other."""
    assert_no_influence(case, ~case.allowed)
    for how, influence in case.influences.items():
        least = float(influence[case.allowed].min())
        assert least > 0, f"{how}: a key that is allowed has no influence"


def test_batch_entries_do_not_see_each_other(case):
    """One sequence's output does not depend on another sequence, nor does its gradient."""
    x = case.x.clone().requires_grad_()
    output = case.attention(x, x, case.mask)
    (gradient,) = torch.autograd.grad(output[0].sum(), x)
    assert float(gradient[1].abs().max()) == 0
    other = case.x.clone()
    other[1] = 3 * other[1].flip(0)
    torch.testing.assert_close(
        case.attention(other, other, case.mask)[0], output[0], atol=1e-6, rtol=0
    )


class MasksAfterTheSoftmax(MultiHead):
    """Broken: later keys are cut from the map, but have already taken part in its total."""

    def weights(self, q, k, mask):
        """Softmax over all keys, then the mask."""
        allowed = mask.dense(q.shape[2], k.shape[2])
        return self.scores(q, k).softmax(dim=-1).masked_fill(~allowed, 0.0)


class MixesTheBatch(MultiHead):
    """Broken: values are centred over the batch."""

    def project_context(self, context):
        """Takes the batch's mean off the values."""
        k, v = super().project_context(context)
        return k, v - v.mean(dim=0, keepdim=True)


class CentresOverTheSequence(MultiHead):
    """Broken: each value knows the mean of the whole sequence, padded and later tokens included."""

    def project_context(self, context):
        """Takes the sequence's mean off the values."""
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)


class ForgetsTheMask(MultiHead):
    """Broken: gives the fused kernel no mask."""

    def mix(self, q, k, v, mask):
        """Attends to everything."""
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class SeesOnlyItself(MultiHead):
    """Broken the other way: never looks at another token, so it cannot leak either."""

    def mix(self, q, k, v, mask):
        """Hands each token its own value."""
        return v


@pytest.mark.parametrize(
    "mechanism", [MasksAfterTheSoftmax, CentresOverTheSequence, ForgetsTheMask]
)
@pytest.mark.parametrize(
    ("law", "mask"),
    [
        (test_later_tokens_have_no_influence, "causal"),
        (test_padded_keys_have_no_influence, "padding"),
        (test_nothing_outside_of_the_window_has_influence, "sliding_window-3"),
        (test_documents_do_not_see_each_other, "document"),
        (test_exactly_the_allowed_keys_have_influence, "prefix-3"),
    ],
)
def test_the_laws_catch_a_mechanism_that_leaks(broken, mechanism, law, mask):
    assert issubclass(mechanism, ScoreAttention)
    with pytest.raises(AssertionError, match="largest influence"):
        law(broken(mechanism, mask))


def test_the_laws_catch_a_mechanism_that_mixes_the_batch(broken):
    with pytest.raises(AssertionError):
        test_batch_entries_do_not_see_each_other(broken(MixesTheBatch))


def test_the_laws_catch_a_mechanism_that_sees_too_little(broken):
    with pytest.raises(AssertionError, match="has no influence"):
        test_exactly_the_allowed_keys_have_influence(broken(SeesOnlyItself))
