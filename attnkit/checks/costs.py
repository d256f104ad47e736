"""Laws about what a mechanism declares to cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention import kernels
from attnkit.checks.case import Case, demand, require
from attnkit.models.accounting import parameter_counts
from attnkit.models.language_model import LanguageModel
from attnkit.options import Spec
from attnkit.registry import ATTENTION


def flops_are_those_that_torch_counts(case: Case) -> None:
    """`projection_flops` and `mixing_flops` for all pairs are what torch counts where no kernel is
    fused and nothing is masked, at two lengths. (A fused kernel counts as nothing, pytorch#195460;
    a state that trains in chunks may spend more than the recurrence that it declares.)
    """
    require(case.role == "self", "counted in self-attention")
    require(bool(case.allowed.all()), "counted without a mask")
    for length in (case.T, 2 * case.T):
        sized = case.resized(T=length)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), kernels.only("reference"):
            sized.run()
        attention = sized.attention
        one = length * attention.projection_flops()
        one += attention.mixing_flops(length, length * length)
        counted = counter.get_total_flops()
        demand(
            counted == case.B * one,
            f"torch counts {counted:,} for {case.B} x {length} tokens, declared: {case.B * one:,}",
        )


SHORT, LONG = 128, 512
"""Lengths between which the growth of memory is measured."""


def memory_grows_as_declared(case: Case) -> None:
    """What a training step keeps for its backward pass grows with the length to the power that
    `memory_order` declares: 1 for what a fused or a recurrent kernel keeps, 2 for a map.
    """
    require(case.role == "self" and case.position == "none", "measured without positions")
    require(case.mask_case.name in ("none", "causal"), "measured under plain masks")
    held = [_bytes_kept(case.resized(B=1, T=length)) for length in (SHORT, LONG)]
    order = math.log(held[1] / held[0]) / math.log(LONG / SHORT)
    declared = case.mechanism.memory_order()
    demand(
        abs(order - declared) < 0.5,
        f"{held[0]:,} bytes at {SHORT} tokens, {held[1]:,} at {LONG}: the power {order:.2f} of the "
        f"length, declared: {declared}",
    )


def _bytes_kept(case: Case) -> int:
    """Bytes of all tensors that the graph of a forward pass holds, each storage once."""
    storages: dict[int, int] = {}
    kept = []  # alive until all are counted, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        case.run(case.build().train())
    return sum(storages.values())


def parameters_are_counted(case: Case) -> None:
    """The parts of a model's parameter count sum to the parameters that it has, those counted as
    attention are the mechanism's own, and a forward pass adds none.
    """
    require(case.role == "self", "counted in a language model")
    attention = case.build()
    own = sum(p.numel() for p in attention.parameters())
    with torch.no_grad():
        case.run(attention)
    later = sum(p.numel() for p in attention.parameters())
    demand(later == own, f"{own:,} parameters when built, {later:,} after a forward pass")
    name = ATTENTION.name_of(case.mechanism)
    if name not in ATTENTION.names() or case.position != "none":
        return
    nothing = Spec("none")
    mask = Spec(case.first_served("none", "causal"))
    with torch.device("meta"):
        model = LanguageModel(
            7,
            dim=case.C,
            num_layers=1,
            attention=Spec(name, case.options),
            mask=mask,
            position=nothing,
        )
    counted = parameter_counts(model)
    true = sum(p.numel() for p in model.parameters())
    demand(sum(counted.values()) == true, f"counted {sum(counted.values()):,}, there are {true:,}")
    parts = ("query", "key", "value", "output", "attention other")
    counted_own = sum(counted[part] for part in parts)
    demand(counted_own == own, f"attention counted {counted_own:,}, it has {own:,}")
