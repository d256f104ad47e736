"""An encoder-decoder whose source is sound, with two strided convolutions instead of an embedding,
as in Whisper (arXiv:2212.04356, section 2.2).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.models.encoder_decoder import EncoderDecoder


class SoundEmbedding(nn.Module):
    """Embeds features of sound as vectors: (B, S, F) -> (B, S, C).

    The features of a position are those of `stack` frames. Two strided convolutions of width 3
    over the frames turn them into one vector.

    Args:
        features: number F of features per position.
        dim: width C.
        stack: number of frames per position, the product of the strides.
    """

    def __init__(self, features: int, dim: int, *, stack: int = 4) -> None:
        super().__init__()
        if features % stack or stack % 2:
            raise ValueError(f"{features} features of a position are not {stack} frames")
        self.stack = stack
        self.first = nn.Conv1d(features // stack, dim, 3, stride=2, padding=1)
        self.second = nn.Conv1d(dim, dim, 3, stride=stack // 2, padding=1)

    def forward(self, source: Tensor, keep: Tensor) -> Tensor:
        """Embeds features; those where `keep` (B, S) is False have no effect."""
        # The model may be a copy in float64.
        source = source.to(self.first.weight.dtype) * keep[..., None]
        frames = source.unflatten(2, (self.stack, -1)).flatten(1, 2)  # (B, S stack, F / stack)
        x = F.gelu(self.first(frames.transpose(1, 2)))  # (B, C, 2 S)
        # The bias is not zero beyond the end either, and the next convolution would read it.
        x = x * keep.repeat_interleave(self.stack // 2, dim=1)[:, None]
        return F.gelu(self.second(x)).transpose(1, 2)


class SpeechModel(EncoderDecoder):
    """Transcribes speech: (B, S, F) features, (B, T) tokens -> (B, T, V) logits.

    Args:
        vocab_size: number V of target tokens.
        features: number F of features per position of the source.
        options: those of `EncoderDecoder` except `shared_embeddings`, since sound has no tokens.
    """

    sets_itself = ("shared_embeddings",)

    def __init__(self, vocab_size: int, features: int = 160, **options: Any) -> None:
        super().__init__(vocab_size, shared_embeddings=True, **options)
        self.source_embedding = SoundEmbedding(features, self.dim)

    def embed_source(self, source: Tensor, source_keep: Tensor) -> Tensor:
        return self.source_embedding(source, source_keep)
