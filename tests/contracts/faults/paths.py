"""Mechanisms whose ways of computing the same thing do not compute the same thing."""

import os

import torch
from torch.nn import functional as F

from attnkit.attention.grouped_query import GroupedQuery
from attnkit.attention.linear import Linear
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal


class ForgetsTheScaleInOnePath(MultiHead):
    """The fused call scales by 1."""

    caught_by = ("fast_path_equals_the_reference", "map_reproduces_the_output")

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=1.0)


class ForgetsTheBiasInOnePath(MultiHead):
    """The fused call gets the mask, and not the position's bias."""

    caught_by = ("fast_path_equals_the_reference",)

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class CutsAGradientInOnePath(MultiHead):
    """The right numbers, and no gradient by the keys."""

    caught_by = ("fast_path_equals_the_reference",)

    def mix(self, q, k, v, mask):
        return super().mix(q, k.detach(), v, mask)


class TrainsDifferently(MultiHead):
    """A shortcut in training mode that is not the same computation."""

    caught_by = ("training_mode_computes_the_same",)

    def scores(self, q, k):
        return super().scores(q, k) * (0.9 if self.training else 1.0)


class LosesBfloat16(MultiHead):
    """Adds a large number and takes it away again: bfloat16 keeps eight bits."""

    caught_by = ("bfloat16_stays_near_float32",)

    def scores(self, q, k):
        return (super().scores(q, k).to(q.dtype) + 300.0) - 300.0


class DecidesInPython(MultiHead):
    """Waits for a number of the device, which a compiled graph cannot."""

    caught_by = ("compiled_equals_eager", "training_step_stays_on_its_device")

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask) if q.max() > 0 else torch.zeros_like(q)


class WritesItsMaskOnTheCPU(MultiHead):
    """A tensor made without a device."""

    caught_by = ("training_step_stays_on_its_device",)

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class ScalesByTheModelsWidth(MultiHead):
    """The fused call divides by the root of the model's width, not of a head's."""

    caught_by = ("fast_path_equals_the_reference", "map_reproduces_the_output")

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=self.dim**-0.5)


class TilesItsGroups(GroupedQuery):
    """Heads 0 and 2 share keys, where the fused kernel lets 0 and 1."""

    caught_by = ("fast_path_equals_the_reference", "map_reproduces_the_output")

    def share_heads(self, heads):
        return heads.repeat(1, self.num_heads // self.num_kv_heads, 1, 1)


class SumsInBfloat16(Linear):
    """A running sum in the type of the values: eight bits lose the small terms."""

    caught_by = ("bfloat16_stays_near_float32",)

    def mix(self, q, k, v, mask):
        if v.dtype != torch.bfloat16 or not isinstance(mask, Causal):
            return super().mix(q, k, v, mask)
        with torch.autocast("cpu", enabled=False):
            q, k = F.elu(q.to(v.dtype)) + 1, F.elu(k.to(v.dtype)) + 1
            sums, total, rows = 0.0, 0.0, []
            for t in range(q.shape[2]):
                sums, total = sums + k[:, :, t, :, None] * v[:, :, t, None], total + k[:, :, t]
                row = (q[:, :, t, None] @ sums)[:, :, 0] / (q[:, :, t] * total).sum(-1, True)
                rows.append(row)
        return torch.stack(rows, dim=2)


class NormalisesOverTheBatchInTraining(MultiHead):
    """Statistics of the batch while it trains, running ones afterwards."""

    caught_by = ("training_mode_computes_the_same",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.norm = torch.nn.BatchNorm1d(dim)

    def merge(self, heads, x):
        return self.norm(super().merge(heads, x).transpose(1, 2)).transpose(1, 2)


class UnderstatesItsMemory(MultiHead):
    """Forms the map in a `mix` of its own and still declares what a fused kernel would keep."""

    caught_by = ("memory_grows_as_declared",)

    def mix(self, q, k, v, mask):
        return self.weights(q, k, mask) @ v


class DetachesItsKeysInTraining(MultiHead):
    """The same numbers in training, and no gradient by the keys."""

    caught_by = ("training_mode_computes_the_same",)

    def mix(self, q, k, v, mask):
        return super().mix(q, k.detach() if self.training else k, v, mask)


class HangsOnAHash(MultiHead):
    """Orders its heads by `hash`, which each process salts anew."""

    caught_by = ("another_process_gives_the_same_numbers",)

    def project_query(self, x):
        gains = [1 + hash(f"head {head}") % 1000 / 1000 for head in range(self.num_heads)]
        q = super().project_query(x)
        return q * q.new_tensor(gains).view(-1, 1, 1)


class TakesTheUsualWidthForItsOwn(MultiHead):
    """The fused call scales by the width of a head that the option `head_dim` has changed."""

    caught_by = ("fast_path_equals_the_reference",)

    def mix(self, q, k, v, mask):
        if self.position is not None:
            return super().mix(q, k, v, mask)
        allowed, usual = mask.dense(q.shape[2], k.shape[2]), self.dim // self.num_heads
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=usual**-0.5)


class DetachesItsKeysWhereItDrops(MultiHead):
    """With dropout, training gives the keys no gradient."""

    caught_by = ("training_mode_computes_the_same",)

    def mix(self, q, k, v, mask):
        return super().mix(q, k.detach() if self.training and self.dropout else k, v, mask)


class LosesBfloat16InAProduct(MultiHead):
    """A constant feature shifts all scores by 300, which is then subtracted."""

    caught_by = ("bfloat16_stays_near_float32",)

    def scores(self, q, k):
        ones = 300**0.5 * torch.ones_like(q[..., :1]), torch.ones_like(k[..., :1]) * 300**0.5
        q, k = torch.cat((q * self.scale, ones[0]), -1), torch.cat((k, ones[1]), -1)
        return (q @ self.share_heads(k).mT) - 300.0


class KeepsARunningMean(MultiHead):
    """Training counts the mean of the values, and evaluation takes it away."""

    caught_by = ("training_mode_computes_the_same",)

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.register_buffer("mean", torch.ones(()))

    def project_context(self, context):
        k, v = super().project_context(context)
        if self.training:
            self.mean.lerp_(v.detach().mean().to(self.mean), 0.1)
            return k, v
        return k, v - self.mean.to(v)


class DrawsByItsProcess(MultiHead):
    """Random gains whose seed is the number of the process."""

    caught_by = ("another_process_gives_the_same_numbers",)

    def project_query(self, x):
        q = super().project_query(x)
        generator = torch.Generator().manual_seed(os.getpid())
        return q * (1 + torch.rand(self.num_heads, 1, 1, generator=generator)).to(q)
