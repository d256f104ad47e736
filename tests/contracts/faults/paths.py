"""Mechanisms whose ways of computing the same thing do not compute the same thing."""

import torch
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead


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
