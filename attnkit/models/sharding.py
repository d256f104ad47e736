"""Sharded weights: each process stores a shard of every weight, of its gradient and of the
optimizer's state (FSDP2, torch's `fully_shard`).

A layer's whole weights are gathered only when its `forward` is called. All other access to a model
(maps, decoding with a cache, a plugin's own methods) would find shards, so it uses a plain copy
with whole weights.
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
    """Shards the weights of each layer, and those outside of layers, over the processes.

    Args:
        model: the same on all processes; it is changed.
        mesh: the processes, one-dimensional.

    Returns:
        A copy of the unchanged model with parameters on the meta device, for `whole_copy`.
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
    """Returns a plain copy of a sharded model, with whole weights. All processes must call it.

    Args:
        model: a model after `shard`.
        plain: the result of `shard`.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a validation leaves the outermost weights gathered
    tensors: dict[int, Any] = {
        id(shape): nn.Parameter(whole(shard), requires_grad=shard.requires_grad)
        for shape, shard in zip(plain.parameters(), model.parameters(), strict=True)
    }
    for before, now in zip(plain.buffers(), model.buffers(), strict=True):
        tensors[id(before)] = now.clone()
    return copy.deepcopy(plain, tensors).train(model.training)


def whole(tensor: Tensor) -> Tensor:
    """Returns the tensor of which this is a shard, on the same device, or a tensor that is not
    sharded unchanged. All processes must call it.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """Returns this process's shard as a plain tensor; a tensor that is not sharded unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Returns the shard of a whole tensor that corresponds to the shard `other`, on its device; the
    tensor unchanged if `other` is not sharded.
    """
    if not isinstance(other, DTensor):
        return tensor
    tensor = tensor.to(other.device)
    shard = distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
    return shard.clone()  # otherwise it would keep the memory of the whole tensor


@torch.no_grad()
def whole_state(state: Any, *, keep: bool) -> Any:
    """Returns the state dictionary of a module or an optimizer with whole tensors, on the CPU, in
    place of shards. All processes must call it.

    Args:
        state: state of a module with `keep_vars=True`, so that a shared weight stays one tensor.
        keep: False: take part in the gathering, but return an empty dictionary.
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
    """Loads whole weights into a module that may be sharded: each process takes its own shard.

    Raises:
        RuntimeError: if names or shapes differ from the module's.
    """
    own = module.state_dict(keep_vars=True)
    module.load_state_dict(
        {name: shared_like(t, own[name]) if name in own else t for name, t in state.items()}
    )
