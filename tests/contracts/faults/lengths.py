"""Mechanisms that are right in one full pass, and wrong at another length or from a cache."""

import math

import torch
from torch.nn import functional as F

from attnkit.attention.cache import KeyValueCache
from attnkit.attention.linear import Linear
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, NoMask, Padding, SlidingWindow


class CacheIsOnePositionLate(MultiHead):
    """Every token that follows a cache stands one position too far."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def place(self, q, k, seen=0):
        q, k = super().place(q, k, seen)
        return (q.roll(1, dims=-1), k) if seen else (q, k)


class ForgetsTheOffsetInDecoding(MultiHead):
    """Positions start at zero again with each call."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def place(self, q, k, seen=0):
        return super().place(q, k, 0)


class MisplacesOldValues(MultiHead):
    """Values and keys in the cache belong to different tokens."""

    caught_by = (
        "decoding_token_by_token_equals_the_full_pass",
        "decoding_in_chunks_equals_the_full_pass",
    )

    def decode(self, q, k, v, mask, cache):
        k, v = cache.append(k, v)
        return self.mix(q, k, v.roll(1, dims=2) if k.shape[2] > q.shape[2] else v, mask)


class DecodesWithoutAMask(MultiHead):
    """One token at a time needs no causal mask; a chunk does, and so does a window."""

    caught_by = ("decoding_in_chunks_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        return super().decode(q, k, v, NoMask(), cache)


class EvictsTooEarly(MultiHead):
    """Keeps the last four tokens, whatever the mask allows."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        k, v = cache.append(k, v)
        first = max(0, k.shape[2] - max(4, q.shape[2]))
        return self.mix(q, k[:, :, first:], v[:, :, first:], Causal())


class ForgetsItsState(Linear):
    """Starts each call from an empty state."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        cache.state = None
        return super().decode(q, k, v, mask, cache)


class DecodesPaddedKeys(Linear):
    """The state takes up padded tokens too."""

    caught_by = ("decoding_in_chunks_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        return super().decode(q, k, v, Causal(), cache)


class UnderstatesItsCache(MultiHead):
    """Counts keys alone."""

    caught_by = ("cache_holds_what_is_declared",)

    def cache_elements(self, num_tokens):
        return super().cache_elements(num_tokens) // 2


class AlignsAtTheStart(MultiHead):
    """Causal as torch's own `is_causal` is, with query 0 at key 0."""

    caught_by = (
        "fewer_queries_than_keys_stand_at_the_end",
        "more_queries_than_keys_leave_the_first_rows_empty",
    )

    def mix(self, q, k, v, mask):
        if isinstance(mask, Causal):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return super().mix(q, k, v, mask)


class ScalesByTheLength(MultiHead):
    """Scores times log S: what follows a token changes its output, though not by its content."""

    caught_by = ("outputs_do_not_depend_on_the_length",)

    def scores(self, q, k):
        return super().scores(q, k) * math.log(k.shape[2] + 1)


class SpreadsOverNothing(MultiHead):
    """A softmax over nothing is uniform."""

    caught_by = ("rows_with_nothing_allowed_give_zeros_and_finite_gradients",)

    def weights(self, q, k, mask):
        return self.normalize(self.scores(q, k), mask.dense(q.shape[2], k.shape[2]))


class DividesByNothing(MultiHead):
    """A softmax of minus infinities is NaN."""

    caught_by = ("rows_with_nothing_allowed_give_zeros_and_finite_gradients",)

    def weights(self, q, k, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return self.scores(q, k).masked_fill(~allowed, float("-inf")).softmax(dim=-1)


class NeedsTwoTokens(MultiHead):
    """Scales by the spread between tokens, and one token alone has none."""

    caught_by = ("any_batch_size_and_length_works",)

    def project_query(self, x):
        q = super().project_query(x)
        return q / q.std(dim=2, keepdim=True)


class SqueezesTheBatch(MultiHead):
    """`squeeze()` where a batch of one is meant to keep its axis."""

    caught_by = ("any_batch_size_and_length_works",)

    def merge(self, heads, x):
        return super().merge(heads, x).squeeze(0)


class FlipsItsSlopesInDecoding(MultiHead):
    """A position's bias with the wrong sign where there are fewer queries than keys."""

    caught_by = (
        "decoding_token_by_token_equals_the_full_pass",
        "fewer_queries_than_keys_stand_at_the_end",
    )

    def bias(self, query, key):
        bias = super().bias(query, key)
        return -bias if bias is not None and query.numel() < key.numel() else bias


class TurnsOldKeysAgain(MultiHead):
    """Rotates keys that come out of the cache, which were rotated when they went in."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        k, v = cache.append(k, v)
        return self.mix(q, self.place(q, k)[1], v, mask)


class WidensItsWindowInDecoding(MultiHead):
    """A window of W + 1 keys, only where there are fewer queries than keys."""

    caught_by = (
        "decoding_token_by_token_equals_the_full_pass",
        "fewer_queries_than_keys_stand_at_the_end",
    )

    def mix(self, q, k, v, mask):
        if isinstance(mask, SlidingWindow) and q.shape[2] < k.shape[2]:
            mask = SlidingWindow(window=mask.window + 1, centered=mask.centered)
        return super().mix(q, k, v, mask)


class KeepsOneStateForAll(Linear):
    """The state lives in the module: the next sequence goes on where the last one ended."""

    caught_by = ("decoding_in_chunks_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        cache.state = getattr(self, "last", None)
        heads = super().decode(q, k, v, mask, cache)
        self.last = cache.state
        return heads


class ForgetsTheStateBetweenChunks(Linear):
    """Right for as many tokens as one chunk holds."""

    caught_by = ("decoding_far_into_a_sequence_equals_the_full_pass",)

    def mix(self, q, k, v, mask):
        if q.shape[2] != k.shape[2] or mask.ahead != 0:
            return super().mix(q, k, v, mask)
        if any(part.batch_size > 1 for part in mask.parts()):
            return super().mix(q, k, v, mask)
        chunks = zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True)
        return torch.cat([Linear.mix(self, *chunk, mask) for chunk in chunks], dim=2)


class _SlotCache(KeyValueCache):
    def select(self, rows):
        """Takes the hypotheses for the same ones in the same order."""
        super().select(rows.sort().values)


class SortsItsHypotheses(MultiHead):
    """A cache that mixes up the rows that beam search chose."""

    caught_by = ("rows_of_a_cache_go_on_alone",)

    def new_cache(self):
        return _SlotCache()


class WidensLongWindows(MultiHead):
    """Beyond 64 tokens a causal window is rounded up to what a block holds."""

    caught_by = ("long_sequences_obey_the_mask",)

    def mix(self, q, k, v, mask):
        if isinstance(mask, SlidingWindow) and q.shape[2] > 64:
            mask = SlidingWindow(window=mask.window + 1, centered=mask.centered)
        return super().mix(q, k, v, mask)


class LosesAKeyAtTheEdgeOfAChunk(MultiHead):
    """Chunks of 48 queries, the first of which does not see the key furthest back."""

    caught_by = ("long_sequences_are_computed_as_short_ones",)

    def weights(self, q, k, mask):
        weights = super().weights(q, k, mask)
        T, back = q.shape[2], mask.back
        if T < 96 or k.shape[2] != T or not back:
            return weights
        first = torch.arange(T)[:, None] % 48 == 0
        last = torch.arange(T)[:, None] - torch.arange(T) == back
        return weights.masked_fill(first & last, 0.0)

    def mix(self, q, k, v, mask):
        return self.weights(q, k, mask) @ v


class RoundsAnOddLengthDown(MultiHead):
    """Without a causal mask, long odd sequences lose their last key."""

    caught_by = ("long_sequences_are_computed_as_short_ones",)

    def mix(self, q, k, v, mask):
        T = q.shape[2]
        if mask.ahead == 0 or T < 32 or T % 2 == 0 or k.shape[2] != T:
            return super().mix(q, k, v, mask)
        even = mask & Padding((torch.arange(T) < T - 1).repeat(q.shape[0], 1))
        return super().mix(q, k, v, even)


class CountsPaddedKeys(MultiHead):
    """Sharpens by the number of keys, those that fill the batch up included."""

    caught_by = ("padding_at_the_end_changes_nothing",)

    def scores(self, q, k):
        return super().scores(q, k) * (1 + 0.01 * k.shape[2])


class _FirstChunk(KeyValueCache):
    width = 0


class CutsChunksThatAreLongerThanTheFirst(MultiHead):
    """Room for a chunk is what the first one took; a longer one overwrites its own end."""

    caught_by = ("decoding_in_chunks_equals_the_full_pass",)

    def new_cache(self):
        return _FirstChunk()

    def decode(self, q, k, v, mask, cache):
        cache.width = cache.width or k.shape[2]
        if cache.length and k.shape[2] > cache.width > 1:
            v = torch.cat((v[:, :, : cache.width], v[:, :, cache.width :].roll(1, dims=2)), dim=2)
        return super().decode(q, k, v, mask, cache)


class WidensWideWindows(MultiHead):
    """A window of more than 16 keys is one wider."""

    caught_by = ("long_sequences_obey_the_mask",)

    def mix(self, q, k, v, mask):
        if isinstance(mask, SlidingWindow) and mask.window > 16:
            mask = SlidingWindow(window=mask.window + 1, centered=mask.centered)
        return super().mix(q, k, v, mask)


class ForgetsTheMaskOfItsLastChunk(MultiHead):
    """Chunks of 512 queries, of which the last one is not full and sees everything."""

    caught_by = ("long_sequences_obey_the_mask", "long_sequences_are_computed_as_short_ones")

    def mix(self, q, k, v, mask):
        heads = super().mix(q, k, v, mask)
        if q.shape[2] <= 512 or mask.ahead != 0:
            return heads
        last = F.scaled_dot_product_attention(q[:, :, 512:], k, v)
        return torch.cat((heads[:, :, :512], last), dim=2)


class FillsItsLastBlockWithZeros(MultiHead):
    """Without a mask, keys are filled up to blocks of 32, and the filling is looked at."""

    caught_by = ("long_sequences_are_computed_as_short_ones",)

    def mix(self, q, k, v, mask):
        if not isinstance(mask, NoMask) or k.shape[2] < 32:
            return super().mix(q, k, v, mask)
        missing = -k.shape[2] % 32
        return super().mix(q, *(F.pad(heads, (0, 0, 0, missing)) for heads in (k, v)), mask)


class RemembersSixtyFourTokens(MultiHead):
    """What stands further back in the cache is zeros."""

    caught_by = ("decoding_far_into_a_sequence_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        k, v = cache.append(k, v)
        near = torch.arange(k.shape[2]).view(-1, 1) >= k.shape[2] - 64
        return self.mix(q, k * near, v * near, mask)


class SqueezesASingleHead(MultiHead):
    """A `squeeze()` that is right unless there is one head."""

    caught_by = ("any_batch_size_and_length_works",)

    def merge(self, heads, x):
        return super().merge(heads.squeeze(1) if heads.shape[1] == 1 else heads, x)


class WidensWindowsBeyondFifty(MultiHead):
    """A window of more than 50 keys is rounded up to a multiple of 16."""

    caught_by = ("long_sequences_obey_the_mask",)

    def mix(self, q, k, v, mask):
        if isinstance(mask, SlidingWindow) and mask.window > 50:
            mask = SlidingWindow(window=-(-mask.window // 16) * 16, centered=mask.centered)
        return super().mix(q, k, v, mask)


class CutsLongContexts(MultiHead):
    """Reads as much of a context as two sequences of queries would fill."""

    caught_by = ("fewer_queries_than_keys_stand_at_the_end",)

    def mix(self, q, k, v, mask):
        room = 2 * q.shape[2]
        if k.shape[2] <= room or not isinstance(mask, NoMask):
            return super().mix(q, k, v, mask)
        return super().mix(q, k[:, :, :room], v[:, :, :room], mask)


class DecodesOneTokenWithoutPadding(MultiHead):
    """A short path for a single token looks at all of its cache."""

    caught_by = ("decoding_token_by_token_equals_the_full_pass",)

    def decode(self, q, k, v, mask, cache):
        return super().decode(q, k, v, NoMask() if q.shape[2] == 1 else mask, cache)
