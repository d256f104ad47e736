"""Mechanisms that let somebody look who must not, or keep somebody from looking who may."""

import torch
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Document, NoMask, Padding, SlidingWindow


class InvertsTheMask(MultiHead):
    """Reads True as forbidden, as `nn.MultiheadAttention` does."""

    caught_by = ("forbidden_keys_have_no_influence", "every_allowed_key_has_influence")

    def weights(self, q, k, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return self.normalize(self.scores(q, k), ~allowed).masked_fill(allowed, 0.0)


class MasksAfterTheSoftmax(MultiHead):
    """Later keys are cut from the map, but have already taken part in its total."""

    caught_by = ("later_tokens_have_no_influence", "map_rows_are_what_is_declared")

    def weights(self, q, k, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return self.scores(q, k).softmax(dim=-1).masked_fill(~allowed, 0.0)


class MasksByAWeakNumber(MultiHead):
    """Subtracts 10 from forbidden scores and calls it minus infinity."""

    caught_by = ("later_tokens_have_no_influence", "padded_keys_have_no_influence")

    def normalize(self, scores, allowed):
        return (scores if allowed is None else scores - 10.0 * ~allowed).softmax(dim=-1)


class SeesOneTokenAhead(MultiHead):
    """`tril(diagonal=1)`."""

    caught_by = ("later_tokens_have_no_influence",)

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        if mask.ahead == 0:
            allowed = allowed | allowed.roll(1, dims=-1).tril(1 + k.shape[2] - q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class SeesOnlyEarlierTokens(MultiHead):
    """`<` in the place of `<=`: a token does not see itself."""

    caught_by = ("every_allowed_key_has_influence",)

    def weights(self, q, k, mask):
        T, S = q.shape[2], k.shape[2]
        allowed = mask.dense(T, S)
        if mask.ahead == 0:
            allowed = allowed & torch.ones(T, S, dtype=torch.bool).tril(S - T - 1)
        return self.normalize(self.scores(q, k), allowed).masked_fill(~allowed, 0.0)


class WindowIsOneWider(MultiHead):
    """Counts the window without the token itself: W + 1 keys."""

    caught_by = ("nothing_outside_the_window_has_influence",)

    def mix(self, q, k, v, mask):
        if isinstance(mask, SlidingWindow):
            mask = SlidingWindow(window=mask.window + 1, centered=mask.centered)
        return super().mix(q, k, v, mask)


class SoftmaxOverTheQueries(MultiHead):
    """The wrong axis: each key shares itself out among the queries, later ones included."""

    caught_by = ("later_tokens_have_no_influence", "map_rows_are_what_is_declared")

    def weights(self, q, k, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        scores = self.scores(q, k).masked_fill(~allowed, -1e9)
        return scores.softmax(dim=-2).masked_fill(~allowed, 0.0)


class CentresValuesOverTheSequence(MultiHead):
    """Each value knows the mean of the whole sequence, later and padded tokens included."""

    caught_by = ("later_tokens_have_no_influence", "padded_keys_have_no_influence")

    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)


class CentresQueriesOverTheSequence(MultiHead):
    """Each query knows the other queries: keys are innocent, and still the future is seen."""

    caught_by = (
        "later_tokens_have_no_influence",
        "cross_attention_reads_the_context_and_only_it",
        "decoding_token_by_token_equals_the_full_pass",
    )

    def project_query(self, x):
        q = super().project_query(x)
        return q - q.mean(dim=2, keepdim=True)


class PeeksWithoutAGradient(MultiHead):
    """A temperature is read off the whole sequence, outside of the graph."""

    caught_by = ("later_tokens_have_no_influence",)

    def scores(self, q, k):
        return super().scores(q, k) / (1 + k.detach().abs().amax(dim=(2, 3), keepdim=True))


class IgnoresPaddingOfTheContext(MultiHead):
    """The source's padding is forgotten in cross-attention."""

    caught_by = ("padded_keys_have_no_influence",)

    def forward(self, x, context, mask=None, cache=None):
        if mask is not None and context.shape[1] != x.shape[1] and cache is None:
            parts = [part for part in mask.parts() if not isinstance(part, Padding)]
            mask = NoMask()
            for part in parts:
                mask = mask & part
        return super().forward(x, context, mask, cache)


class TakesTheFirstRowsPadding(MultiHead):
    """One sequence's padding serves the whole batch."""

    caught_by = ("padded_keys_have_no_influence",)

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])[:1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class IgnoresDocuments(MultiHead):
    """Packed documents run into each other."""

    caught_by = ("documents_do_not_see_each_other",)

    def mix(self, q, k, v, mask):
        parts = [part for part in mask.parts() if not isinstance(part, Document)]
        mask = NoMask()
        for part in parts:
            mask = mask & part
        return super().mix(q, k, v, mask)


class ForgetsTheMask(MultiHead):
    """The fused call gets no mask at all."""

    caught_by = ("later_tokens_have_no_influence", "forbidden_keys_have_no_influence")

    def mix(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v)


class MixesValuesAcrossTheBatch(MultiHead):
    """Values are centred over the batch."""

    caught_by = ("batch_entries_do_not_see_each_other",)

    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v - v.mean(dim=0, keepdim=True)


class FoldsHeadsIntoTheWrongAxis(MultiHead):
    """A reshape without a transpose: tokens and heads are shuffled."""

    caught_by = ("every_allowed_key_has_influence", "forbidden_keys_have_no_influence")

    def project_context(self, context):
        k, v = super().project_context(context)
        B, H, S, D = v.shape
        return k, self.value(context).view(B, H, S, D)


class SeesOnlyItself(MultiHead):
    """Never looks at another token, so it cannot leak either."""

    caught_by = ("every_allowed_key_has_influence",)

    def mix(self, q, k, v, mask):
        return q


class ReadsItselfInsteadOfTheContext(MultiHead):
    """Cross-attention whose keys and values come from the queries' own sequence."""

    caught_by = ("cross_attention_reads_the_context_and_only_it",)

    def forward(self, x, context, mask=None, cache=None):
        if context.shape[1] != x.shape[1] and cache is None:
            return super().forward(x, x)
        return super().forward(x, context, mask, cache)


class FavoursTheFirstKey(MultiHead):
    """A bias for key 0 that nobody declared: without positions there is no first key."""

    caught_by = ("order_of_the_keys_does_not_matter",)

    def bias(self, query, key):
        own = 1.0 * (key == 0).expand(*query.shape[:-1], key.shape[-1]).unsqueeze(-3)
        given = super().bias(query, key)
        return own if given is None else own + given


class TakesEqualLengthsForItself(MultiHead):
    """Tells cross- from self-attention by the lengths, and is wrong where they are the same."""

    caught_by = ("cross_attention_reads_the_context_and_only_it",)

    def forward(self, x, context, mask=None, cache=None):
        return super().forward(x, x if x.shape == context.shape else context, mask, cache)


class TakesValuesFromTheQueries(MultiHead):
    """Cross-attention whose keys are the context's, and whose values are its own."""

    caught_by = ("cross_attention_reads_the_context_and_only_it",)

    def forward(self, x, context, mask=None, cache=None):
        if context is x or cache is not None:
            return super().forward(x, context, mask, cache)
        q, (k, _) = self.project_query(x), self.project_context(context)
        repeated = x[:, torch.arange(context.shape[1]) % x.shape[1]]
        return self.merge(self.mix(q, k, self.project_context(repeated)[1], mask), x)


class ComparesDocumentsOneOff(MultiHead):
    """Looks up the document of the key before the key."""

    caught_by = ("documents_do_not_see_each_other", "every_allowed_key_has_influence")

    def mix(self, q, k, v, mask):
        parts = [
            Document(part.documents.roll(1, dims=1), part.documents)
            if isinstance(part, Document) and q.shape[2] == k.shape[2]
            else part
            for part in mask.parts()
        ]
        mask = NoMask()
        for part in parts:
            mask = mask & part
        return super().mix(q, k, v, mask)


class MasksTheBiasInTheirPlace(MultiHead):
    """Masks the position's bias, and adds scores that nothing has masked."""

    caught_by = ("forbidden_keys_have_no_influence",)

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        places = torch.arange(k.shape[2])
        bias = self.bias(places[-q.shape[2] :, None], places[None])
        added = 0.0 if bias is None else bias.masked_fill(~allowed, 0.0)
        return (self.scores(q, k) + added).softmax(dim=-1) @ v


class HidesKeysByAThousand(MultiHead):
    """In bfloat16 a hidden key loses 1,000, which a large score outweighs."""

    caught_by = ("forbidden_keys_have_no_influence_in_bfloat16",)

    def normalize(self, scores, allowed):
        if scores.dtype == torch.float32 or allowed is None:
            return super().normalize(scores, allowed)
        return (scores - 1000.0 * ~allowed).softmax(dim=-1)


class BlindsHeadsBeyondAPowerOfTwo(MultiHead):
    """A decay by distance, whose slopes leave the table where heads are no power of two."""

    knows_order = True
    roles = frozenset(("self",))
    caught_by = ("every_allowed_key_has_influence",)

    def bias(self, query, key):
        known = 2 ** (self.num_heads.bit_length() - 1)
        slopes = [0.1 if head < known else 40.0 for head in range(self.num_heads)]
        own = -torch.tensor(slopes).view(-1, 1, 1) * (query - key).abs().unsqueeze(-3)
        given = super().bias(query, key)
        return own if given is None else own + given


class ReachesFartherThanItSays(MultiHead):
    """Declares three keys, and looks at five."""

    knows_order = True
    roles = frozenset(("self",))
    caught_by = ("nothing_beyond_its_own_reach_has_influence",)

    def reaches(self, query, key):
        return (query - key).abs() < 3

    def normalize_under(self, scores, mask):
        T, S = scores.shape[-2:]
        query, key = torch.arange(S - T, S)[:, None], torch.arange(S)
        allowed = mask.dense(T, S) & ((query - key).abs() < 5)
        return self.normalize(scores, allowed).masked_fill(~allowed, 0.0)


class ForgetsTheTemplatesPlace(MultiHead):
    """Norms queries and keys in `place`, and leaves out what the position does there."""

    caught_by = ("an_accepted_position_has_an_effect",)

    def place(self, q, k, seen=0):
        return 2 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)


class NeedsAsManyKeysAsQueries(MultiHead):
    """Cross-attention that reads nothing where the context is shorter than what asks."""

    caught_by = ("cross_attention_reads_the_context_and_only_it",)

    def mix(self, q, k, v, mask):
        mixed = super().mix(q, k, v, mask)
        return mixed if k.shape[2] >= q.shape[2] else torch.zeros_like(mixed)


class JoinsItsHeadsInTheWrongOrder(MultiHead):
    """A reshape of (B, H, T, D) to (B, T, C) without a transpose."""

    caught_by = ("later_tokens_have_no_influence",)

    def merge(self, heads, x):
        return self.output(heads.reshape(x.shape))


class RotatesItsQueriesAlone(MultiHead):
    """Leaves the keys where they are, so that scores depend on absolute positions."""

    caught_by = ("an_accepted_position_has_an_effect",)

    def place(self, q, k, seen=0):
        return super().place(q, k, seen)[0], k


class HidesKeysByFiveThousand(MultiHead):
    """Subtracts 5,000 from a hidden score, which a larger one outweighs."""

    caught_by = ("forbidden_keys_have_no_influence_in_bfloat16",)

    def normalize(self, scores, allowed):
        return (scores if allowed is None else scores - 5e3 * ~allowed).softmax(dim=-1)


class AveragesItsPadding(MultiHead):
    """Takes the mean score away, padded keys and all: a softmax does not feel it, a sum does."""

    caught_by = ("padded_keys_have_no_influence",)

    def normalize(self, scores, allowed):
        weights = super().normalize(scores, allowed)
        return weights * (1 + 0.1 * scores.mean(dim=-1, keepdim=True).tanh())
