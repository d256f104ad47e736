"""Mechanisms that show another map than the one they use."""

from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.attention.sigmoid import Sigmoid


class ShowsTheMeanOfItsHeads(MultiHead):
    """The map is averaged over the heads; what is computed is not."""

    caught_by = ("map_reproduces_the_output", "fast_path_equals_the_reference")

    def weights(self, q, k, mask):
        return super().weights(q, k, mask).mean(dim=1, keepdim=True).expand(-1, q.shape[1], -1, -1)

    def mix(self, q, k, v, mask):
        return super().weights(q, k, mask) @ v


class ShowsOneMapForAll(MultiHead):
    """The same, with an axis of one head."""

    caught_by = ("map_reproduces_the_output",)

    def weights(self, q, k, mask):
        return super().weights(q, k, mask).mean(dim=1, keepdim=True)

    def mix(self, q, k, v, mask):
        return super().weights(q, k, mask) @ v


class IsSharperThanItsMap(MultiHead):
    """A temperature that the map knows nothing of."""

    caught_by = ("map_reproduces_the_output",)

    def mix(self, q, k, v, mask):
        return super().mix(2 * q, k, v, mask)


class LeavesAFloor(MultiHead):
    """All weights are at least a thousandth, forbidden ones too."""

    caught_by = ("map_is_zero_where_the_mask_forbids", "map_rows_are_what_is_declared")

    def weights(self, q, k, mask):
        return super().weights(q, k, mask) + 1e-3


class SaysItsRowsSumToOne(Sigmoid):
    """Weights that do not compete, declared as a distribution."""

    map_rows = "sum to 1"
    caught_by = ("map_rows_are_what_is_declared",)


class HidesItsSigns(MultiHead):
    """Subtracts a second map and declares non-negative weights."""

    map_rows = "unnormalised"
    caught_by = ("map_rows_are_what_is_declared",)

    def weights(self, q, k, mask):
        return super().weights(q, k, mask) - 0.9 * super().weights(-q, k, mask)


class BendsTheValues(MultiHead):
    """A nonlinearity after the mixing, inside `mix`, undeclared."""

    caught_by = ("values_are_mixed_linearly", "map_reproduces_the_output")

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask).tanh()


class ShowsItsMapAfterDropout(MultiHead):
    """Drops weights inside the map, whatever the mode."""

    caught_by = ("map_is_taken_before_dropout", "dropout_acts_in_training_alone")

    def weights(self, q, k, mask):
        return F.dropout(super().weights(q, k, mask), self.dropout)


class LosesTrackOfTheMode(MultiHead):
    """Remembers that it trains in an attribute of its own, which evaluation mode does not reset."""

    caught_by = ("map_is_taken_before_dropout",)

    def train(self, mode=True):
        self.ever_trained = getattr(self, "ever_trained", False) or mode
        return super().train(mode)

    def weights(self, q, k, mask):
        weights = super().weights(q, k, mask)
        return F.dropout(weights, self.dropout) if getattr(self, "ever_trained", 0) else weights


class ShowsTheFirstSequencesMap(MultiHead):
    """The map of sequence 0 for the whole batch."""

    caught_by = ("map_reproduces_the_output",)

    def weights(self, q, k, mask):
        return super().weights(q, k, mask)[:1].expand(len(q), -1, -1, -1)

    def mix(self, q, k, v, mask):
        return super().weights(q, k, mask) @ v
