"""The costs of a model, counted and not measured: parameters by part, floating-point operations
(FLOPs) and cache bytes.

FLOPs are analytic, since torch's counter finds none in fused attention on a CPU (pytorch#195460).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnkit.attention.counted import cache_elements, mixing_flops
from attnkit.models.stack import Stack

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
    "other",
    "head",
)


def parameter_counts(model: Any) -> dict[str, int]:
    """Returns the number of parameters of each part, in the order of `PARTS`. A tied head counts
    once, as embeddings.
    """
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[_part_of(name)] += parameter.numel()
    return counts


def _part_of(name: str) -> str:
    """Returns the part to which a parameter belongs, by its path in the model."""
    first, *rest = name.removeprefix("encoder.").removeprefix("decoder.").split(".")
    if first.endswith("embedding"):
        return "embeddings"
    if first != "layers":
        part = {"position": "positions", "norm": "norms"}.get(first, first)
        return part if part in PARTS else "other"
    branch, *inner = rest[1:]
    if branch in ("attention", "cross_attention"):
        if inner[0] in ("query", "key", "value", "output"):
            return inner[0]
        return "positions" if inner[0] == "position" else "attention other"
    if branch == "mlp":
        return "mlp"
    return "norms" if inner else "other"


@dataclass(frozen=True)
class Flops:
    """FLOPs of the forward pass for one token, by part. Training takes three times the sum
    (arXiv:2001.08361).

    Attributes:
        projections: query, key, value and output.
        mixing: scores and the mixing of values, for the pairs that the mask allows.
        mlp: the MLPs.
        head: the prediction over the vocabulary.
    """

    projections: float
    mixing: float
    mlp: float
    head: float

    @property
    def training(self) -> float:
        """FLOPs forward and backward: three times those of the forward pass."""
        return 3 * (self.projections + self.mixing + self.mlp + self.head)


@dataclass(frozen=True)
class LayerCosts:
    """The costs of one layer, for sequences of some length.

    Attributes:
        name: path in the model, such as `layers.0`.
        parameters: number of parameters.
        projections: FLOPs of the projections of its attention, for one token.
        mixing: FLOPs between the projections, for a whole sequence.
        mlp: FLOPs of its MLP, for one token.
        cache_elements: elements that its self-attention caches for one sequence.
        cache_dtype: dtype of these elements; None: that of keys and values.
        source_elements: elements that its cross-attention caches for a source of equal length.
    """

    name: str
    parameters: int
    projections: float
    mixing: float
    mlp: float
    cache_elements: int
    cache_dtype: torch.dtype | None
    source_elements: int

    def training_flops(self, num_tokens: int) -> float:
        """Returns the FLOPs for one token, forward and backward, in sequences of this length."""
        return 3 * (self.projections + self.mixing / num_tokens + self.mlp)

    def cache_bytes(self, dtype: torch.dtype) -> int:
        """Returns the bytes of its cache, with keys and values in `dtype`."""
        own = self.cache_elements * (self.cache_dtype or dtype).itemsize
        return own + self.source_elements * dtype.itemsize


def layer_costs(model: Any, num_tokens: int | None = None) -> list[LayerCosts]:
    """Returns the costs of each layer, the lowest first, for sequences of `num_tokens` tokens
    (default: `max_seq_len`). The layers of an encoder come before those of its decoder, and sources
    are as long as targets.
    """
    num_tokens = int(model.max_seq_len) if num_tokens is None else num_tokens
    return [
        costs for part, stack in stacks_of(model) for costs in _of_stack(part, stack, num_tokens)
    ]


def stacks_of(model: nn.Module) -> list[tuple[str, Stack]]:
    """Returns the stacks of a model, each after the prefix of its `layers` in parameter names."""
    return [
        (f"{name}." if name else "", module)
        for name, module in model.named_modules()
        if isinstance(module, Stack)
    ]


def _of_stack(part: str, stack: Stack, num_tokens: int) -> Iterator[LayerCosts]:
    decodes = part != "encoder."
    pairs = [mask.pairs(num_tokens) for mask in stack.masks]
    for i, layer in enumerate(stack.layers):
        own, cross = layer.attention, layer.cross_attention
        mixing = mixing_flops(own, num_tokens, pairs[stack.mask_of[i]])
        source = 0
        if cross is not None:
            mixing += mixing_flops(cross, num_tokens, num_tokens * num_tokens)
            source = 2 * num_tokens * cross.num_kv_heads * cross.head_dim
        yield LayerCosts(
            name=f"{part}layers.{i}",
            parameters=sum(parameter.numel() for parameter in layer.parameters()),
            projections=sum(a.projection_flops() for a in (own, cross) if a is not None),
            mixing=mixing,
            mlp=0 if layer.mlp is None else layer.mlp.flops(),
            cache_elements=_cached(stack, i, num_tokens) if decodes else 0,
            cache_dtype=own.cache_dtype,
            source_elements=source,
        )


def _cached(stack: Stack, layer: int, num_tokens: int) -> int:
    """Returns the elements in the cache of a layer: only those of its window if it has one."""
    attention = stack.layers[layer].attention
    if attention.lender is not None:
        return 0
    before = stack.keys_kept(layer)
    return cache_elements(attention, num_tokens if before is None else min(num_tokens, before + 1))


def flops_per_token(model: Any, num_tokens: int | None = None) -> Flops:
    """Returns the analytic FLOPs per token for sequences of `num_tokens` tokens (default: the
    model's `max_seq_len`). For an encoder-decoder they include one source and one target token, for
    a model without a `Stack` two FLOPs per weight.
    """
    num_tokens = int(model.max_seq_len) if num_tokens is None else num_tokens
    return _flops_of(model, layer_costs(model, num_tokens), num_tokens)


def _flops_of(model: Any, layers: Sequence[LayerCosts], num_tokens: int) -> Flops:
    if not layers and not stacks_of(model):
        return Flops(0, 0, 2 * sum(p.numel() for p in model.parameters()), 0)
    head = getattr(model, "head", None)
    return Flops(
        projections=sum(layer.projections for layer in layers),
        mixing=sum(layer.mixing for layer in layers) / num_tokens,
        mlp=sum(layer.mlp for layer in layers),
        head=2 * sum(p.numel() for p in head.parameters()) if isinstance(head, nn.Linear) else 0,
    )


def cache_bytes(model: Any, num_tokens: int, dtype: torch.dtype) -> int:
    """Returns the bytes of the cache for one sequence of `num_tokens` tokens, with keys and values
    in `dtype`; a state has its own dtype. An encoder-decoder also caches the keys and values of a
    source of the same length.
    """
    return sum(layer.cache_bytes(dtype) for layer in layer_costs(model, num_tokens))


def costs(model: Any) -> dict[str, Any]:
    """Returns the costs for the record of a run: parameters, training FLOPs per token, cache bytes
    of a full context.
    """
    parts = parameter_counts(model)
    layers = layer_costs(model)  # once: counting undeclared costs takes a forward pass
    return {
        "parameters": sum(parts.values()),
        "parameters_by_part": parts,
        "training_flops_per_token": _flops_of(model, layers, int(model.max_seq_len)).training,
        "cache_bytes": sum(layer.cache_bytes(torch.float32) for layer in layers),
        "max_seq_len": model.max_seq_len,
    }
