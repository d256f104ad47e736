"""Convolutions over the last few tokens, and the tokens that they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import Cache
from attnkit.masks import Document, Mask, Padding


def real_keys(mask: Mask, k: Tensor) -> Tensor | None:
    """Returns (B, 1, S, 1): 1 for real keys, 0 for padding; None: all are real. `k` may be the last
    keys of those in the mask.
    """
    keeps = [part.keep for part in mask.parts() if isinstance(part, Padding)]
    if not keeps:
        return None
    keep = torch.stack(keeps).all(dim=0) if len(keeps) > 1 else keeps[0]
    return keep[:, None, -k.shape[2] :, None].to(k.dtype)


@dataclass(frozen=True)
class Past:
    """The tokens before the new ones, for the step `convolve`.

    Attributes:
        mask: mask of the call, which provides padding and documents.
        cache: stores the last tokens between calls; None: the call begins a sequence.
        owner: the mechanism, whose parts the cache distinguishes by name.
    """

    mask: Mask
    cache: Cache | None
    owner: nn.Module

    def before(self, part: nn.Module, heads: Tensor, count: int) -> Tensor:
        """Prepends the previous `count` tokens to new tokens, zeros where there are none, and
        stores the last ones for the next call.

        Args:
            part: the calling part of the mechanism.
            heads: (B, H, T, D)
            count: number of previous tokens.

        Returns:
            (B, H, count + T, D)
        """
        if self.cache is None:
            return F.pad(heads, (0, 0, count, 0))
        name = next(name for name, module in self.owner.named_modules() if module is part)
        tail = self.cache.tails.get(name)
        heads = F.pad(heads, (0, 0, count, 0)) if tail is None else torch.cat((tail, heads), dim=2)
        self.cache.tails[name] = heads[:, :, heads.shape[2] - count :]
        return heads

    def real(self, heads: Tensor) -> Tensor:
        """Returns new tokens (B, H, T, D) with padding set to zero."""
        real = real_keys(self.mask, heads)
        return heads if real is None else heads * real

    def same_document(self, num_tokens: int, count: int) -> Tensor | None:
        """Returns (B, T, count + 1), True where a token belongs to the document of the new one,
        which is the last; None: there are no documents.
        """
        for part in self.mask.parts():
            if isinstance(part, Document) and part.documents is not None:
                documents = F.pad(part.documents, (count, 0), value=-1)[:, -num_tokens - count :]
                windows = documents.unfold(1, count + 1, 1)
                return windows == windows[..., -1:]
        return None


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over the last few tokens, as used before the states of Mamba-2
    (arXiv:2405.21060, section 7) and Gated DeltaNet (arXiv:2412.06464, section 3.3). It does not
    cross document boundaries, and padding is zero.

    Use it in the step `convolve`, in self-attention.

    Args:
        num_heads: number H of heads.
        width_of_head: features D of a head.
        width: tokens in the window, including the token itself.
        activation: applied to the result.
    """

    def __init__(
        self,
        num_heads: int,
        width_of_head: int,
        *,
        width: int = 4,
        activation: Literal["silu", "none"] = "silu",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.activation = activation
        bound = width**-0.5
        self.weight = nn.Parameter(
            torch.empty(num_heads, width_of_head, width).uniform_(-bound, bound)
        )

    def forward(self, heads: Tensor, past: Past) -> Tensor:
        """(B, H, T, D) -> (B, H, T, D)."""
        T, count = heads.shape[2], self.weight.shape[-1] - 1
        tokens = past.before(self, past.real(heads), count)
        together = past.same_document(T, count)
        weight = self.weight.to(heads.dtype)
        if together is None:
            features = tokens.transpose(-2, -1).flatten(1, 2)  # (B, H D, count + T)
            mixed = F.conv1d(features, weight.flatten(0, 1).unsqueeze(1), groups=features.shape[1])
            # Fused kernels need the features of a token to be contiguous.
            mixed = mixed.unflatten(1, heads.shape[1::2]).transpose(-2, -1).contiguous()
        else:
            windows = tokens.unfold(2, count + 1, 1)  # (B, H, T, D, count + 1)
            windows = windows * together[:, None, :, None].to(windows.dtype)
            mixed = (windows * weight.unsqueeze(1)).sum(dim=-1)
        return F.silu(mixed) if self.activation == "silu" else mixed
