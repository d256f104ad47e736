"""Weights in shares: each process holds a part of every weight, and with it of its gradient and of
the optimizer's state (FSDP2, torch's `fully_shard`).

A layer's whole weights are gathered when its `forward` is called, and only then. Whatever reaches
into a model in another way (maps, decoding with a cache, a plugin's own methods) would meet shares;
it is given a plain copy with whole weights instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from attnkit.models.layers import Layer


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Leaves each process its share of the weights of each layer, and of what is outside of them.

    Args:
        model: the same on all processes; it is changed.
        mesh: the processes, in one row.

    Returns:
        The model as it was, but with parameters that have a shape alone (`whole_copy` fills them).
    """
    shapes = {
        id(parameter): nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
        for parameter in model.parameters()
    }
    plain = copy.deepcopy(model, shapes)
    for module in model.modules():
        if isinstance(module, Layer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return plain


@torch.no_grad()
def whole_copy(model: nn.Module, plain: nn.Module) -> nn.Module:
    """A plain copy of a sharded model, with weights of its own. All processes must ask for it.

    Args:
        model: a model after `shard`.
        plain: what `shard` returned.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a validation leaves the outermost weights gathered
    tensors: dict[int, Any] = {
        id(shape): nn.Parameter(whole(share), requires_grad=share.requires_grad)
        for shape, share in zip(plain.parameters(), model.parameters(), strict=True)
    }
    for before, now in zip(plain.buffers(), model.buffers(), strict=True):
        tensors[id(before)] = now.clone()
    return copy.deepcopy(plain, tensors).train(model.training)


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this is a share, on the same device; any other tensor as it is. All
    processes must ask for it.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """This process's part of a tensor in shares, as a plain tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The share of a whole tensor that goes with a share `other`, on its device; the tensor as it
    is where `other` is in no shares.
    """
    if not isinstance(other, DTensor):
        return tensor
    tensor = tensor.to(other.device)
    share = distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
    return share.clone()  # or it would keep the memory of the whole


@torch.no_grad()
def whole_state(state: Any, *, keep: bool) -> Any:
    """A state dictionary of a module or an optimizer with whole tensors, on the CPU, where it has
    shares. All processes must ask for it.

    Args:
        state: of a module with `keep_vars=True`, so that a weight under two names stays one.
        keep: False: take part in the gathering, and return nothing of it.
    """
    done: dict[int, Tensor] = {}

    def of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [of(inner) for inner in value]
        if not isinstance(value, Tensor):
            return value
        if id(value) not in done:
            tensor = whole(value.detach())
            if not keep:
                tensor = tensor.new_empty(0)
            done[id(value)] = tensor.cpu() if isinstance(value, DTensor) else tensor
        return done[id(value)]

    found = of(state)
    return found if keep else {}


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads whole weights into a module that may hold shares: each process takes its own.

    Raises:
        RuntimeError: if names or shapes differ from the module's.
    """
    own = module.state_dict(keep_vars=True)
    module.load_state_dict(
        {name: shared_like(t, own[name]) if name in own else t for name, t in state.items()}
    )
