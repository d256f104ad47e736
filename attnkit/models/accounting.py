"""What a model costs: parameters by part, floating-point operations and cache bytes a token.
Counted, not measured.

FLOPs are analytic, since torch's counter sees none inside fused attention on a CPU
(pytorch#195460).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnkit.attention.counted import cache_elements, mixing_flops
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel

PARTS = (
    "embeddings",
    "positions",
    "query",
    "key",
    "value",
    "output",
    "attention other",
    "mlp",
    "norms",
    "head",
)


Model = LanguageModel | EncoderDecoder


def parameter_counts(model: Model) -> dict[str, int]:
    """Parameters by part, in the order of `PARTS`; a tied head counts as embeddings, once."""
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[_part_of(name)] += parameter.numel()
    return counts


def _part_of(name: str) -> str:
    """The part to which a parameter belongs, by its path in the model."""
    first, *rest = name.removeprefix("encoder.").removeprefix("decoder.").split(".")
    if first.endswith("embedding"):
        return "embeddings"
    if first != "layers":
        return {"position": "positions", "norm": "norms"}.get(first, first)
    branch, inner = rest[1], rest[2]
    if branch in ("attention", "cross_attention"):
        if inner in ("query", "key", "value", "output"):
            return inner
        return "positions" if inner == "position" else "attention other"
    return "mlp" if branch == "mlp" else "norms"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for one token, forward, by part. Training takes three times the sum
    (arXiv:2001.08361).

    Attributes:
        projections: query, key, value and output.
        mixing: between them: scores and the mixing of values, for the pairs that the mask allows.
        mlp: the MLPs.
        head: the prediction over the vocabulary.
    """

    projections: float
    mixing: float
    mlp: float
    head: float

    @property
    def training(self) -> float:
        """Forward and backward: three times the forward pass."""
        return 3 * (self.projections + self.mixing + self.mlp + self.head)


def flops_per_token(model: Model, num_tokens: int | None = None) -> Flops:
    """Analytic FLOPs a token for sequences of `num_tokens` tokens (default: the model's
    `max_seq_len`); of an encoder-decoder, for one source and one target token.
    """
    num_tokens = model.max_seq_len if num_tokens is None else num_tokens
    if isinstance(model, EncoderDecoder):
        return _flops_of_pair(model, num_tokens)
    pairs = model.mask.pairs(num_tokens)
    attentions = [layer.attention for layer in model.layers]
    return Flops(
        projections=sum(attention.projection_flops() for attention in attentions),
        mixing=sum(mixing_flops(attention, num_tokens, pairs) for attention in attentions)
        / num_tokens,
        mlp=sum(2 * _matrix_weights(layer.mlp) for layer in model.layers if layer.mlp is not None),
        head=2 * model.head.weight.numel(),
    )


def _flops_of_pair(model: EncoderDecoder, num_tokens: int) -> Flops:
    """For one source and one target token, both sides of `num_tokens` tokens."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    cross = [layer.cross_attention for layer in model.decoder.layers]
    pairs = num_tokens * num_tokens
    mixing = sum(mixing_flops(attention, num_tokens, pairs) for attention in cross)
    for stack in (model.encoder, model.decoder):
        allowed = stack.mask.pairs(num_tokens)
        mixing += sum(mixing_flops(layer.attention, num_tokens, allowed) for layer in stack.layers)
    own = [layer.attention for layer in layers]
    return Flops(
        projections=sum(attention.projection_flops() for attention in (*own, *cross)),
        mixing=mixing / num_tokens,
        mlp=sum(2 * _matrix_weights(layer.mlp) for layer in layers if layer.mlp is not None),
        head=2 * model.head.weight.numel(),
    )


def _matrix_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


def cache_bytes(model: Model, num_tokens: int, dtype: torch.dtype) -> int:
    """Bytes that decoding keeps for one sequence of `num_tokens` tokens, with keys and values in
    `dtype`; a state has a dtype of its own. An encoder-decoder keeps keys and values of a source of
    as many tokens too.
    """
    of_source = 0
    if isinstance(model, EncoderDecoder):
        layers = model.decoder.layers
        cross = [layer.cross_attention for layer in layers]
        of_source = (
            sum(2 * num_tokens * a.num_kv_heads * a.head_dim for a in cross) * dtype.itemsize
        )
    else:
        layers = model.layers
    attentions = [layer.attention for layer in layers]
    return of_source + sum(
        cache_elements(attention, num_tokens) * (attention.cache_dtype or dtype).itemsize
        for attention in attentions
    )


def costs(model: Model) -> dict[str, Any]:
    """All of it, for the record of a run: parameters, training FLOPs a token, cache bytes of a full
    context.
    """
    parts = parameter_counts(model)
    return {
        "parameters": sum(parts.values()),
        "parameters_by_part": parts,
        "training_flops_per_token": flops_per_token(model).training,
        "cache_bytes": cache_bytes(model, model.max_seq_len, torch.float32),
    }
