"""The residual stream of a text, split into what each part of the model added: the embedding, the
proposal of each head, each MLP.

The parts are followed through the model to the logits. A norm divides by a size that depends on
the sum of all parts; that size is fixed to its value in the forward pass, so that the norm is
linear and the parts sum to the logits exactly. What is not linear inside a part (the softmax of a
head, an MLP) is not split: the result shows what a part added, not why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.errors import DataError
from attnkit.models.stack import Stack
from attnkit.norms import LayerNorm, NoNorm, RMSNorm
from attnkit.understanding.head_outputs import on_head_outputs, proposals

Kind = Literal["embedding", "head", "mlp", "constant"]

TOLERANCE = 1e-5
"""Largest difference between the sum of the parts and the logits, relative to the largest logit."""

ROUNDING = 1e-12
"""A part that is smaller than this share of the largest adds nothing."""


@dataclass(frozen=True)
class Part:
    """Something that was added to the residual stream.

    Attributes:
        name: `token`, `position`, `L0H1`, `L0 cross H1`, `L0 MLP`; `L0 bias` is what the layer's
            attention adds besides its heads, `norm bias` the sum of all biases of norms.
        kind: of the part.
        layer: from 0; None: it belongs to no layer.
    """

    name: str
    kind: Kind
    layer: int | None = None


@dataclass(frozen=True)
class SplitStream:
    """The residual stream of one sequence.

    Attributes:
        parts: P parts; those that add nothing are left out.
        added: (P, T, C), what each part added where it joined the stream.
        final: (P, T, C), the same before the head, after all norms with their fixed sizes.
        streams: (L + 1, T, C), the stream before the first layer and after each layer.
        logits: (T, V), of the model.
        head: (V, C), the weight of the head.
        lens: (L + 1, T, V), the logits if the model ended there: the last norm and the head,
            applied to each of `streams` ("logit lens").
    """

    parts: Sequence[Part]
    added: Tensor
    final: Tensor
    streams: Tensor
    logits: Tensor
    head: Tensor
    lens: Tensor

    def to(self, tokens: Tensor) -> Tensor:
        """Returns the direct effect of each part on the logit of one token per position, above the
        mean over the vocabulary: (T,) -> (P, T). The effects sum to that logit minus the mean.
        """
        centred = self.head - self.head.mean(dim=0)
        return torch.einsum("ptc,tc->pt", self.final, centred[tokens])

    def words(self, part: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns the tokens whose logits a part raises most, and by how much, above the mean over
        the vocabulary: (T, count) each.
        """
        raised = self.final[part] @ (self.head - self.head.mean(dim=0)).T
        effects, tokens = raised.topk(min(count, raised.shape[-1]), dim=-1)
        return tokens, effects


@torch.no_grad()
def split_stream(model: nn.Module, stack_name: str, call: Callable[[Any], Any]) -> SplitStream:
    """Runs a model on one sequence, and splits the residual stream of one of its stacks.

    Computes in double precision, on a copy of the model.

    Args:
        model: a model with a head, such as `LanguageModel`.
        stack_name: path of the stack whose output goes to the head; "" for the model itself.
        call: runs the forward pass of the model that it is given, on a batch of one sequence.

    Raises:
        DataError: if a norm is not one of the kit, a wiring does more than add parts, or the
            logits are not finite.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    stack: Any = model.get_submodule(stack_name)
    assert isinstance(stack, Stack)
    logits = call(model)[0]
    if not logits.isfinite().all():
        raise DataError("the logits of this model are not finite, so they have no parts")
    tracker = _Tracker(stack, model.head)  # pyright: ignore[reportArgumentType]
    tracker.run(model, call)
    sizes = tracker.final.abs().amax(dim=(1, 2))
    used = [i for i, size in enumerate(sizes) if size > ROUNDING * sizes.max()]
    weight = tracker.head.weight.detach()
    found = SplitStream(
        parts=[tracker.parts[i] for i in used],
        added=tracker.added[used],
        final=tracker.final[used],
        streams=torch.stack(tracker.streams),
        logits=logits,
        head=weight,
        lens=torch.stack([stack.norm(stream) @ weight.T for stream in tracker.streams]),
    )
    gap = (found.final.sum(dim=0) @ weight.T - logits).abs().max()
    if gap > TOLERANCE * logits.abs().max().clamp(min=1.0):
        names = sorted({type(layer).__name__ for layer in stack.layers})
        raise DataError(
            f"the parts of this model do not sum to its logits (they differ by {float(gap):.2g}): "
            f"its wiring ({', '.join(names)}) does more than add branches to the stream"
        )
    return found


class _Tracker:
    """Runs the stack on all parts at once, stacked along the batch axis: (P, T, C). Norms divide
    each part by the size of the sum; attention and MLPs receive the sum, and their outputs become
    separate rows.
    """

    def __init__(self, stack: Stack, head: nn.Linear) -> None:
        self.stack, self.head = stack, head
        self.parts: list[Part] = [Part("token", "embedding"), Part("position", "embedding")]
        self.parts.append(Part("norm bias", "constant"))
        self.first: dict[nn.Module, int] = {}
        for i, layer in enumerate(stack.layers):
            for branch in layer.branches:
                module = getattr(layer, branch)
                self.first[module] = len(self.parts)
                self.parts += _parts_of(i, branch, module)
        self.position = torch.zeros(())
        self.heads: dict[str, Tensor] = {}
        self.streams: list[Tensor] = []
        self.added = self.final = torch.zeros(())

    def run(self, model: nn.Module, call: Callable[[Any], Any]) -> None:
        """Runs the model, and fills `added`, `final` and `streams`."""
        names = {module: name for name, module in model.named_modules()}
        factor = getattr(model, "position_size", 1.0)
        with on_head_outputs(model, self.heads.__setitem__):  # returns None
            hooks = [*self._hooks(names, factor)]
            try:
                call(model)
            finally:
                for hook in hooks:
                    hook.remove()

    def _hooks(self, names: dict[nn.Module, str], factor: float) -> Iterator[Any]:
        stack = self.stack
        if stack.position is not None:
            yield stack.position.register_forward_hook(
                lambda _, args, output: setattr(self, "position", output * factor)
            )
        yield stack.layers[0].register_forward_pre_hook(self._begin)
        for layer in stack.layers:
            for branch in layer.branches:
                module = getattr(layer, branch)
                yield module.register_forward_pre_hook(_pass_sum, with_kwargs=True)
                yield module.register_forward_hook(self._put(module, names[module]))
                for place in layer.norms_of(branch):
                    yield getattr(layer, place).register_forward_hook(self._norm)
            yield layer.register_forward_hook(
                lambda _, args, output: self.streams.append(output.sum(dim=0))
            )
        yield stack.norm.register_forward_hook(self._norm)
        yield self.head.register_forward_pre_hook(self._end)

    def _begin(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = args
        self.streams.append(x[0])
        rows = x.new_zeros(len(self.parts), *x.shape[1:])
        rows[1] = self.position
        rows[0] = x[0] - self.position
        self.added = rows.clone()
        return rows, *others

    def _end(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (self.final,) = args
        return (self.final.sum(dim=0, keepdim=True),)

    def _norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (rows,) = args
        if isinstance(norm, NoNorm):
            return rows
        whole = rows.sum(dim=0)
        if isinstance(norm, LayerNorm):
            rows = rows - rows.mean(dim=-1, keepdim=True)
            size = (whole.var(dim=-1, correction=0, keepdim=True) + norm.eps).sqrt()
        elif isinstance(norm, RMSNorm):
            eps = torch.finfo(whole.dtype).eps if norm.eps is None else norm.eps
            size = (whole.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        else:
            raise DataError(
                f"the norm {type(norm).__name__} cannot be split into parts; layer_norm, rms_norm "
                "and none can"
            )
        rows = rows / size
        if norm.weight is not None:
            rows = rows * norm.weight
        bias = getattr(norm, "bias", None)
        if bias is not None:
            rows[_NORM_BIAS] += bias
            self.added[_NORM_BIAS] += bias
        return rows

    def _put(self, module: nn.Module, name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            rows = output.new_zeros(len(self.parts), *output.shape[1:])
            first = self.first[module]
            if isinstance(module, Attention):
                heads = proposals(module, self.heads[name])[0].transpose(0, 1)  # (H, T, C)
                rows[first : first + len(heads)] = heads
                rows[first + len(heads)] = output[0] - heads.sum(dim=0)
            else:
                rows[first] = output[0]
            self.added += rows
            return rows

        return hook


_NORM_BIAS = 2
"""The row of `norm bias`."""


def _pass_sum(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows, *others = args
    x = rows.sum(dim=0, keepdim=True)
    return (x, *(x if other is rows else other for other in others)), kwargs


def _parts_of(layer: int, branch: str, module: nn.Module) -> list[Part]:
    if not isinstance(module, Attention):
        return [Part(f"L{layer} MLP", "mlp", layer)]
    place = f"L{layer} cross H" if branch == "cross_attention" else f"L{layer}H"
    heads = [Part(f"{place}{head}", "head", layer) for head in range(module.num_heads)]
    bias = f"L{layer} cross bias" if branch == "cross_attention" else f"L{layer} bias"
    return [*heads, Part(bias, "constant", layer)]
