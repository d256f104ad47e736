"""The output of each head, read or replaced while a model runs.

A head's output is its slice of the input of the output projection, after everything that a
mechanism does to its heads: norms, gates, an expansion. What a head adds to the layer's output is
that slice times its columns of the projection, for any mechanism, with a map or with a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention

Act = Callable[[str, Tensor], Tensor | None]


def mechanisms(model: nn.Module) -> dict[str, Attention]:
    """Returns path in the model -> mechanism, in the order of the modules."""
    found = model.named_modules()
    return {name: module for name, module in found if isinstance(module, Attention)}


@contextmanager
def on_head_outputs(model: nn.Module, act: Act) -> Iterator[None]:
    """Calls `act` for each mechanism that runs in the block.

    Args:
        model: any module that contains attnkit mechanisms; not one that `torch.compile` made.
        act: receives the path of the mechanism and the outputs of its heads (B, T, H, D). What it
            returns replaces them; None leaves them unchanged.
    """

    def before(name: str, attention: Attention) -> Callable[..., tuple[Tensor, ...] | None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            replaced = act(name, args[0].unflatten(-1, (attention.num_heads, -1)))
            return None if replaced is None else (replaced.flatten(-2),)

        return hook

    def after(name: str, attention: Attention) -> Callable[..., Tensor | None]:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            replaced = act(name, output.unflatten(-1, (attention.num_heads, -1)))
            return None if replaced is None else replaced.flatten(-2)

        return hook

    hooks = [
        # Without a projection, the output is the concatenation of the heads.
        attention.register_forward_hook(after(name, attention))
        if attention.output is None
        else attention.output.register_forward_pre_hook(before(name, attention))
        for name, attention in mechanisms(model).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def proposals(attention: Attention, heads: Tensor) -> Tensor:
    """Returns what each head adds to the layer's output: (B, T, H, D) -> (B, T, H, C). The bias of
    the projection belongs to no head.
    """
    if attention.output is None:
        return torch.einsum("bthd,hg->bthgd", heads, torch.eye(heads.shape[2])).flatten(-2)
    weight = attention.output.weight.unflatten(1, (attention.num_heads, -1))  # (C, H, D)
    return torch.einsum("bthd,chd->bthc", heads, weight)
