"""Laws about lengths: fewer queries than keys, caches, rows with nothing allowed."""

import itertools

import pytest
import torch

from attnkit.attention.cache import StateCache
from attnkit.attention.linear import Linear
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, Padding

EXACT = {"atol": 2e-5, "rtol": 1e-5}


def only(condition):
    """Restricts a law to the cases that it speaks about."""

    def mark(test):
        test.only = condition
        return test

    return mark


@torch.no_grad()
def decoded(case, chunks) -> torch.Tensor:
    """Outputs of all tokens, fed to a cache in chunks of these sizes."""
    cache = case.attention.new_cache()
    outputs = []
    for stop in itertools.accumulate(chunks):
        new = case.x[:, cache.length : stop]
        outputs.append(case.attention(new, new, case.mask_over(stop), cache))
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def full(case) -> torch.Tensor:
    return case.attention(case.x, case.x, case.mask)


@only(lambda case: case.mask.ahead == 0)
def test_decoding_token_by_token_equals_the_full_pass(case):
    """A causal mechanism gives each token the same output from its cache as in one pass."""
    torch.testing.assert_close(decoded(case, [1] * case.T), full(case), **EXACT)


@only(lambda case: case.mask.ahead == 0)
def test_decoding_in_chunks_equals_the_full_pass(case):
    """The same in chunks of any size: a prompt first, then some tokens, then one."""
    torch.testing.assert_close(decoded(case, [9, 1, 4, 2]), full(case), **EXACT)


def test_fewer_queries_than_keys_stand_at_the_end(case):
    """Asked by the last five tokens alone, the context answers them as in the full pass."""
    with torch.no_grad():
        last = case.attention(case.x[:, -5:], case.x, case.mask)
    torch.testing.assert_close(last, full(case)[:, -5:], **EXACT)


def obeys_causal_and_padding(case):
    return case.mask_name == "causal&padding"


@only(obeys_causal_and_padding)
def test_more_queries_than_keys_leave_the_first_rows_empty(case):
    """Queries before the first key of a causal context find nothing."""
    context = case.x[:, :4]
    with torch.no_grad():
        q = case.attention.project_query(case.x)
        k, v = case.attention.project_context(context)
        heads = case.attention.mix(*case.attention.place(q, k), v, Causal())
    assert float(heads[:, :, :-4].abs().max()) == 0
    assert float(heads[:, :, -4:].abs().amin(dim=(1, 3)).min()) > 0


@only(obeys_causal_and_padding)
def test_rows_with_nothing_allowed_give_zeros_and_finite_gradients(case):
    """A sequence of padding alone mixes to zeros before the output projection, its gradients are
    finite, and its neighbour in the batch does not notice.
    """
    attention = case.build()
    keep = torch.ones(case.B, case.T, dtype=torch.bool)
    keep[0] = False
    x = case.x.clone().requires_grad_()
    q = attention.project_query(x)
    k, v = attention.project_context(x)
    heads = attention.mix(*attention.place(q, k), v, Causal() & Padding(keep))
    heads.square().sum().backward()
    assert float(heads[0].detach().abs().max()) == 0
    assert x.grad.isfinite().all()
    assert float(x.grad[0].abs().max()) == 0
    assert all(p.grad.isfinite().all() for p in attention.parameters() if p.grad is not None)
    alone = attention.mix(*attention.place(q, k), v, Causal())
    torch.testing.assert_close(heads[1], alone[1], **EXACT)


@only(lambda case: case.mask.ahead == 0)
@torch.no_grad()
def test_a_cache_holds_what_is_declared(case):
    """`cache_elements` counts the numbers that a cache really keeps for one sequence, and
    `cache_dtype` tells their size.
    """
    cache = case.attention.new_cache()
    case.attention(case.x, case.x, case.mask, cache)
    assert cache.length == case.T
    size = (case.attention.cache_dtype or torch.float32).itemsize
    assert cache.num_bytes() == case.B * case.attention.cache_elements(case.T) * size


class ForgetsWhereItIs(MultiHead):
    """Broken: every token that follows a cache stands one position too far."""

    def place(self, q, k, seen=0):
        """Counts the tokens seen, and one more."""
        return super().place(q, k, seen + 1 if seen else 0)


class KeepsOldKeysFirst(MultiHead):
    """Broken: puts new values before those in the cache."""

    def decode(self, q, k, v, mask, cache):
        """Rolls the values by one."""
        k, v = cache.append(k, v)
        return self.mix(q, k, v.roll(1, dims=2) if k.shape[2] > q.shape[2] else v, mask)


class ForgetsItsState(Linear):
    """Broken: starts each call from an empty state."""

    def decode(self, q, k, v, mask, cache):
        """Ignores the state."""
        assert isinstance(cache, StateCache)
        cache.state = None
        return super().decode(q, k, v, mask, cache)


class AlignsAtTheStart(MultiHead):
    """Broken: causal as torch's own `is_causal` is, aligned at the first key."""

    def mix(self, q, k, v, mask):
        """Lets query t see keys 0 to t."""
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize(
    ("mechanism", "position"),
    [(ForgetsWhereItIs, "rotary"), (KeepsOldKeysFirst, "none"), (ForgetsItsState, "none")],
)
@pytest.mark.parametrize(
    "law",
    [
        test_decoding_token_by_token_equals_the_full_pass,
        test_decoding_in_chunks_equals_the_full_pass,
    ],
)
def test_the_laws_catch_a_wrong_cache(broken, mechanism, position, law):
    with pytest.raises(AssertionError, match="not close"):
        law(broken(mechanism, position=position))


def test_the_laws_catch_a_wrong_alignment(broken):
    with pytest.raises(AssertionError, match="not close"):
        test_fewer_queries_than_keys_stand_at_the_end(broken(AlignsAtTheStart))
    with pytest.raises(AssertionError):
        test_more_queries_than_keys_leave_the_first_rows_empty(broken(AlignsAtTheStart))


def test_the_laws_catch_a_row_that_is_not_zero_when_it_is_empty(broken):
    class SpreadsOverNothing(MultiHead):
        """Broken: a softmax over nothing is uniform."""

        def mix(self, q, k, v, mask):
            """Forgets to empty the row."""
            scores = self.scores(q, k)
            return self.normalize(scores, mask.dense(q.shape[2], k.shape[2])) @ v

    with pytest.raises(AssertionError):
        test_rows_with_nothing_allowed_give_zeros_and_finite_gradients(broken(SpreadsOverNothing))


def test_the_laws_catch_a_cache_that_is_larger_than_declared(broken):
    class Understates(MultiHead):
        """Broken: counts keys alone."""

        def cache_elements(self, num_tokens):
            """Half of it."""
            return super().cache_elements(num_tokens) // 2

    with pytest.raises(AssertionError):
        test_a_cache_holds_what_is_declared(broken(Understates))
