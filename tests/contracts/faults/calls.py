"""Mechanisms of which one call is not like the next, or a sequence not as if alone."""

import torch
from torch import nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Document, Padding, SlidingWindow


class DrawsInEveryCall(MultiHead):
    """Random features that are drawn anew, where they should be drawn once."""

    caught_by = ("same_seed_gives_the_same_numbers",)

    def scores(self, q, k):
        return super().scores(q, k) + 0.1 * torch.randn(q.shape[1], 1, 1)


class ScalesItsInputInPlace(MultiHead):
    """`*=` on a tensor that the residual stream still needs."""

    caught_by = ("inputs_are_left_as_they_were",)

    def project_query(self, x):
        with torch.no_grad():
            x *= 1.0 + 1e-3
        return super().project_query(x)


class CountsItsCalls(MultiHead):
    """A buffer that changes with each forward pass, in evaluation too, and changes the output."""

    caught_by = ("calls_write_nothing_to_self",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.register_buffer("calls", torch.zeros(()))

    def merge(self, heads, x):
        self.calls += 1
        return super().merge(heads, x)


class CountsItsSteps(MultiHead):
    """A number that grows with each training step, and sharpens the scores."""

    caught_by = ("calls_write_nothing_to_self",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.steps = 0

    def scores(self, q, k):
        if self.training:
            self.steps += 1
        return super().scores(q, k) * (1 + 0.1 * self.steps)


class KeepsAMovingAverage(MultiHead):
    """Subtracts from each query what queries were before, on average."""

    caught_by = ("calls_write_nothing_to_self",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.running = torch.zeros(())

    def project_query(self, x):
        q = super().project_query(x)
        self.running = 0.9 * self.running + 0.1 * q.detach().mean()
        return q - self.running.to(q.dtype)


class KeepsItsStream(MultiHead):
    """Adds the map of the layer below, which it finds in the stream that `exchange` was given."""

    caught_by = ("calls_write_nothing_to_self",)
    stream = None

    def exchange(self, k, v, stream):
        self.stream = stream
        return k, v

    def weights(self, q, k, mask):
        weights = super().weights(q, k, mask)
        if self.stream is None:
            return weights
        below = self.stream.shared.get("map")
        self.stream.shared["map"] = weights
        return weights if below is None else (weights + below) / 2


class KeepsTheFirstMask(MultiHead):
    """Writes the mask out once for each pair of lengths, though padding differs in each batch."""

    caught_by = ("a_call_leaves_nothing_behind",)

    def mix(self, q, k, v, mask):
        lengths = q.shape[2], k.shape[2]
        if getattr(self, "lengths", None) != lengths:
            self.lengths, self.allowed = lengths, mask.dense(*lengths)
        return self.normalize(self.scores(q, k), self.allowed).masked_fill(~self.allowed, 0.0) @ v


class KeepsItsLastMap(MultiHead):
    """A map as an attribute, for somebody to look at: it keeps the whole graph alive."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def weights(self, q, k, mask):
        self.last_map = super().weights(q, k, mask)
        return self.last_map


class MarksTheLastTokenAsReal(MultiHead):
    """Writes into the padding that it was given, for everybody who reads it later."""

    caught_by = ("inputs_are_left_as_they_were",)

    def mix(self, q, k, v, mask):
        for part in mask.parts():
            if isinstance(part, Padding):
                part.keep[:, -1] = True
        return super().mix(q, k, v, mask)


class HidesItsGainsInADict(MultiHead):
    """A gain for each head that no optimizer is given."""

    caught_by = ("parameters_lie_in_the_module",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.gains = {head: nn.Parameter(torch.ones(())) for head in range(self.num_heads)}

    def project_query(self, x):
        gains = torch.stack([self.gains[head] for head in range(self.num_heads)])
        return super().project_query(x) * gains.view(-1, 1, 1).to(x.dtype)


class HidesANormInAList(MultiHead):
    """A part of its own that `.parameters()` does not reach."""

    caught_by = ("parameters_lie_in_the_module",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.norms = [nn.LayerNorm(dim)]

    def project_query(self, x):
        return super().project_query(self.norms[0].to(x.dtype)(x))


class CountsTheBatchForPlaces(MultiHead):
    """Takes the first axis for the tokens' when it fades the keys."""

    caught_by = ("sequences_of_a_batch_come_out_as_if_alone",)

    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v * (1 - 0.1 * torch.arange(len(v)).view(-1, 1, 1, 1))


class MixesLargeBatches(MultiHead):
    """Works on eight sequences at a time, and shifts those that follow by the first ones."""

    caught_by = ("sequences_of_a_batch_come_out_as_if_alone",)

    def project_context(self, context):
        k, v = super().project_context(context)
        if len(v) > 8:
            v = torch.cat((v[:8], v[8:] + 0.1 * v[:1].mean()))
        return k, v


class KeepsTheFirstDocuments(MultiHead):
    """Writes the mask out once, as long as there are as many documents."""

    caught_by = ("a_call_leaves_nothing_behind",)

    def mix(self, q, k, v, mask):
        known = [part for part in mask.parts() if isinstance(part, Document)]
        if not known or known[0].documents is None:
            return super().mix(q, k, v, mask)
        sizes = (*known[0].documents.shape, q.shape[2], len(mask.parts()))
        if getattr(self, "sizes", None) != sizes:
            self.sizes, self.allowed = sizes, mask.dense(q.shape[2], k.shape[2])
        return self.normalize(self.scores(q, k), self.allowed).masked_fill(~self.allowed, 0.0) @ v


class RemembersTheLastBatch(MultiHead):
    """While it trains, values know the mean of the batch before, which is another text."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def project_context(self, context):
        k, v = super().project_context(context)
        if self.training:
            before = getattr(self, "before", None)
            self.before = v.detach().mean()
            v = v if before is None else v + 0.3 * before
        return k, v


class CollectsItsMaps(MultiHead):
    """A list of all maps, for somebody to look at."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.maps = []

    def weights(self, q, k, mask):
        weights = super().weights(q, k, mask)
        self.maps.append(weights.detach())
        return weights


class KeepsAGraphByName(MultiHead):
    """A dict with the last map, and with it the whole graph."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.seen = {}

    def weights(self, q, k, mask):
        self.seen["last"] = super().weights(q, k, mask)
        return self.seen["last"]


EVERYTHING = []


class KeepsAGraphInItsFile(MultiHead):
    """The same in a variable of the file, which no walk through the module finds."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def weights(self, q, k, mask):
        EVERYTHING[:] = [super().weights(q, k, mask)]
        return EVERYTHING[0]


class FoldsItsWeightsOnce(MultiHead):
    """Multiplies two matrices in the first call, and never again."""

    caught_by = ("new_weights_take_effect_at_once",)

    def project_query(self, x):
        if self.training:
            return super().project_query(x)
        if not hasattr(self, "folded"):
            self.folded = self.query.weight.detach().clone()
        return (x @ self.folded.T.to(x.dtype)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class RenumbersItsDocuments(MultiHead):
    """Lets documents begin at 0 by writing into those that it was given."""

    caught_by = ("inputs_are_left_as_they_were",)

    def mix(self, q, k, v, mask):
        for part in mask.parts():
            if isinstance(part, Document) and part.documents is not None:
                part.documents[:] = part.documents - part.documents[:, -1:]
        return super().mix(q, k, v, mask)


class KeepsATableOfTheFirstLength(MultiHead):
    """Places as shares of the first sequence's length; a shorter one takes a part of that table."""

    knows_order = True
    caught_by = ("a_call_leaves_nothing_behind",)

    def scores(self, q, k):
        count = k.shape[2]
        if getattr(self, "table", torch.empty(0)).numel() < count:
            self.table = torch.arange(count) / count
        return super().scores(q, k) + self.table[:count]


class FoldsItsWeightsWhenItEvaluates(MultiHead):
    """Takes the scale into the queries' weight when `eval()` is called, and never again."""

    caught_by = ("new_weights_take_effect_at_once",)

    def train(self, mode=True):
        super().train(mode)
        self.folded = None if mode else self.query.weight.detach().clone()
        return self

    def project_query(self, x):
        if self.folded is None:
            return super().project_query(x)
        return (x @ self.folded.T.to(x.dtype)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class WidensTheWindowOfItsMask(MultiHead):
    """Writes another width into the window that it was given."""

    caught_by = ("inputs_are_left_as_they_were",)

    def mix(self, q, k, v, mask):
        for part in mask.parts():
            if isinstance(part, SlidingWindow):
                object.__setattr__(part, "window", part.window + 1)
        return super().mix(q, k, v, mask)


MAPS = []


class CollectsItsMapsInItsFile(MultiHead):
    """A list of all maps, without their graphs, in a variable of the file."""

    caught_by = ("a_training_step_leaves_nothing_behind",)

    def weights(self, q, k, mask):
        weights = super().weights(q, k, mask)
        MAPS.append(weights.detach())
        return weights


class KeepsMasksByTheirType(MultiHead):
    """One table for each kind of mask and length, though windows differ."""

    caught_by = ("a_call_leaves_nothing_behind",)

    def mix(self, q, k, v, mask):
        if mask.batch_size > 1 or self.position is not None:
            return super().mix(q, k, v, mask)
        key = type(mask), q.shape[2], k.shape[2]
        self.tables = getattr(self, "tables", {})
        if key not in self.tables:
            self.tables[key] = mask.dense(*key[1:])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.tables[key])


GAIN = nn.Parameter(torch.ones(()))


class HidesAGainInItsFile(MultiHead):
    """A parameter in a variable of the file, shared by all layers, and given to no optimizer."""

    caught_by = ("parameters_lie_in_the_module",)

    def project_query(self, x):
        return super().project_query(x) * GAIN.to(x.dtype)
