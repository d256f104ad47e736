"""The loss of predicted tokens: a head and a cross-entropy, which avoids computing all logits at
once if the vocabulary is large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnkit.hardware.devices import autocast_dtype

IGNORED = -100
"""Target that the loss ignores, as by default in torch."""

LARGE_VOCABULARY = 32_768
"""From this size on, the logits of a batch would be by far the largest tensors of a step."""

CHUNK_ELEMENTS = 1 << 26
"""Number of logits computed at a time for a large vocabulary: 0.25 GiB in float32."""


def token_loss(
    hidden: Tensor, head: nn.Linear, targets: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Returns the mean cross-entropy of the targets that are not `IGNORED`, in nats: ().

    Args:
        hidden: (B, T, C), the input of the head.
        head: C -> V, without a bias.
        targets: (B, T) token ids.
        label_smoothing: share of each target's probability that is spread over the vocabulary
            (arXiv:1706.03762, section 5.4).
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    if head.out_features < LARGE_VOCABULARY:
        return F.cross_entropy(
            head(hidden).float(),
            targets,
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )
    device = hidden.device.type
    hidden = hidden.to(autocast_dtype(device) or hidden.dtype)
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(hidden, head.weight, targets, label_smoothing, CHUNK_ELEMENTS)


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, chunk by chunk, so that no logits are stored
    and none are computed twice. With p = softmax(z) and s the smoothing:

        loss = logsumexp(z) - (1 - s) z_y - s mean(z)      d loss / dz = p - (1 - s) 1_y - s / V

    torch's own `linear_cross_entropy` (2.13) does the same, but sums the loss in bfloat16 and has
    no label smoothing.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, elements: int
    ) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        low = weight.to(hidden.dtype)
        real = targets != IGNORED
        number = real.sum()
        rows = max(elements // weight.shape[0], 1)
        d_weight = torch.zeros_like(weight) if differentiate else None
        d_hidden, losses = [], []
        for h, y, keep in zip(*(x.split(rows) for x in (hidden, targets, real)), strict=True):
            logits = F.linear(h, low).float()
            y = y.clamp(min=0)[:, None]
            total = logits.logsumexp(dim=-1, keepdim=True)
            loss = total - (1 - smoothing) * logits.gather(1, y)
            if smoothing:
                loss = loss - smoothing * logits.mean(dim=-1, keepdim=True)
            losses.append(loss.squeeze(1).masked_fill(~keep, 0.0).sum())
            if d_weight is None:
                continue
            gradient = logits.sub_(total).exp_()
            if smoothing:
                gradient -= smoothing / weight.shape[0]
            gradient.scatter_add_(1, y, torch.full_like(total, smoothing - 1))
            gradient = gradient.mul_((keep / number)[:, None]).to(h.dtype)
            d_hidden.append(gradient @ low)
            d_weight += gradient.T @ h
        if d_weight is not None:
            ctx.save_for_backward(torch.cat(d_hidden), d_weight)
        return torch.stack(losses).sum() / number

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        by_loss = gradients[0]
        return d_hidden * by_loss.to(d_hidden.dtype), d_weight * by_loss, None, None, None
