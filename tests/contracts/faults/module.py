"""Mechanisms that are no good modules, or miscount themselves."""

import torch
from torch import nn
from torch.nn import functional as F

from attnkit.attention.base import ScoreAttention
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, NoMask, Padding


class HasAnIdleParameter(MultiHead):
    """A parameter that nothing reads."""

    caught_by = ("gradients_reach_every_parameter",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.idle = nn.Parameter(torch.ones(3))


class ReadsAParameterAsData(MultiHead):
    """A gain that acts, and is never trained."""

    caught_by = ("gradients_reach_every_parameter",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.gain = nn.Parameter(torch.ones(self.num_heads))

    def scores(self, q, k):
        return super().scores(q, k) * self.gain.data.view(-1, 1, 1)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores):
        return scores.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


class HasAWrongBackward(MultiHead):
    """A backward pass of one's own that forgets a factor."""

    caught_by = ("gradients_agree_with_finite_differences",)

    def scores(self, q, k):
        return _HalfGradient.apply(super().scores(q, k))


class DropsInEvaluation(MultiHead):
    """`F.dropout` without `training=`."""

    caught_by = ("same_seed_gives_the_same_numbers", "dropout_acts_in_training_alone")

    def merge(self, heads, x):
        return super().merge(F.dropout(heads, 0.1), x)


class NeverDrops(MultiHead):
    """Takes the option and forgets it."""

    caught_by = ("dropout_acts_in_training_alone",)

    def __init__(self, dim, *, num_heads=4, dropout=0.0):
        super().__init__(dim, num_heads=num_heads)


class KeepsATensorToItself(MultiHead):
    """A random matrix that is neither a parameter nor a buffer, so it is not saved."""

    caught_by = ("state_dict_round_trip",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.turn = torch.randn(self.head_dim, self.head_dim)

    def project_query(self, x):
        return super().project_query(x) @ self.turn.to(x.dtype)


class MiscountsFlops(ScoreAttention):
    """Leaves the values out of its count."""

    caught_by = ("declared_flops_are_right",)

    def __init__(self, dim):
        super().__init__(dim, num_heads=1)

    def mixing_flops(self, num_tokens, pairs):
        return super().mixing_flops(num_tokens, pairs) // 2


class CountsFlopsLinearly(MultiHead):
    """Claims to be linear in the length."""

    caught_by = ("declared_flops_are_right",)

    def mixing_flops(self, num_tokens, pairs):
        return 4 * num_tokens * 10 * self.num_heads * self.head_dim


class GrowsWhenCalled(MultiHead):
    """Makes a parameter in its first forward pass, after the optimizer has been made."""

    caught_by = ("parameters_are_counted",)

    def scores(self, q, k):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(()))
        return super().scores(q, k) * self.late


class DropsTheSameForAll(MultiHead):
    """One dropout mask serves the whole batch."""

    caught_by = ("dropout_drops_the_declared_share",)

    def mix(self, q, k, v, mask):
        weights = self.weights(q, k, mask)
        if self.training:
            weights = weights * F.dropout(torch.ones_like(weights[:1]), self.dropout)
        return weights @ v


class ForgetsToScaleWhatRemains(MultiHead):
    """Zeros some weights, and does not make the others larger."""

    caught_by = ("dropout_drops_the_declared_share",)

    def mix(self, q, k, v, mask):
        weights = self.weights(q, k, mask)
        if self.training:
            weights = weights * (torch.rand_like(weights) >= self.dropout)
        return weights @ v


class ExponentiatesWithoutCare(MultiHead):
    """A softmax of one's own that does not subtract the largest score."""

    caught_by = ("tokens_of_any_size_give_finite_numbers",)

    def normalize(self, scores, allowed):
        weights = scores.exp() if allowed is None else scores.exp() * allowed
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30)


class DividesByItsLength(MultiHead):
    """Queries of length 1, where a query of zeros has none."""

    caught_by = ("tokens_of_any_size_give_finite_numbers",)

    def project_query(self, x):
        q = super().project_query(x)
        return q / q.norm(dim=-1, keepdim=True)


class MiscountsUnderItsMask(MultiHead):
    """Serves causal masks alone, and leaves the values out of its count."""

    causal_only = True
    caught_by = ("declared_flops_are_right",)

    def mixing_flops(self, num_tokens, pairs):
        return super().mixing_flops(num_tokens, pairs) // 2


class KeepsWhatItShouldDrop(MultiHead):
    """Takes the option for the share that stays."""

    caught_by = ("dropout_drops_the_declared_share",)

    def mix(self, q, k, v, mask):
        weights = self.weights(q, k, mask)
        if self.training and self.dropout:
            weights = F.dropout(weights, 1.0 - self.dropout)
        return weights @ v


class ForgetsItsWindowWhereItDrops(MultiHead):
    """With dropout, training asks for a causal mask, whatever narrower one it was given."""

    caught_by = ("dropout_drops_the_declared_share",)

    def weights(self, q, k, mask):
        dropping = self.training and self.dropout and mask.ahead == 0
        return super().weights(q, k, Causal() if dropping else mask)


class OverflowsInBfloat16(MultiHead):
    """Subtracts the largest score in float32, and trusts in the exponent of bfloat16."""

    caught_by = ("tokens_of_any_size_give_finite_numbers",)

    def normalize(self, scores, allowed):
        if scores.dtype == torch.float32:
            return super().normalize(scores, allowed)
        weights = scores.exp() if allowed is None else scores.exp() * allowed
        return weights / (weights.sum(dim=-1, keepdim=True) + 1e-9)


class AddsAConstantToItsScores(MultiHead):
    """A parameter that every softmax takes away again: its gradient is rounding."""

    caught_by = ("gradients_reach_every_parameter",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.shift = nn.Parameter(torch.zeros(self.num_heads, 1, 1))

    def scores(self, q, k):
        return super().scores(q, k) + self.shift


class DropsTwice(MultiHead):
    """Weights, and then features of what they mixed."""

    caught_by = ("dropout_drops_the_declared_share",)

    def mix(self, q, k, v, mask):
        return F.dropout(super().mix(q, k, v, mask), self.dropout, self.training)


class DropsItsScores(MultiHead):
    """Dropout before the softmax, which makes some weights larger and drops none."""

    caught_by = ("dropout_drops_the_declared_share",)

    def scores(self, q, k):
        return F.dropout(super().scores(q, k), self.dropout, self.training)

    def mix(self, q, k, v, mask):
        return self.weights(q, k, mask) @ v


class ForgetsPaddingWhereItDrops(MultiHead):
    """With dropout, training sees padded keys."""

    caught_by = ("dropout_drops_the_declared_share",)

    def weights(self, q, k, mask):
        if self.training and self.dropout:
            kept = [part for part in mask.parts() if not isinstance(part, Padding)]
            mask = NoMask()
            for part in kept:
                mask = mask & part
        return super().weights(q, k, mask)
