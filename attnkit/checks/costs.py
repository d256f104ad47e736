"""Laws about what a mechanism declares to cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
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
        with FlopCounterMode(display=False) as counter, torch.no_grad(), _unfused():
            sized.run()
        attention = sized.attention
        one = length * attention.projection_flops()
        one += attention.mixing_flops(length, length * length)
        counted = counter.get_total_flops()
        demand(
            counted == case.B * one,
            f"torch counts {counted:,} for {case.B} x {length} tokens, declared: {case.B * one:,}",
        )


@contextmanager
def _unfused() -> Iterator[None]:
    """All kernels are the reference, whose products torch can count."""
    fused = {name: getattr(kernels, name) for name in ("sdpa", "windowed")}
    for name in fused:
        setattr(kernels, name, kernels.reference)
    try:
        yield
    finally:
        for name, kernel in fused.items():
            setattr(kernels, name, kernel)


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
    with torch.device("meta"):
        model = LanguageModel(
            7,
            dim=case.C,
            num_layers=1,
            attention=Spec(name, case.options),
            mask=nothing,
            position=nothing,
        )
    counted = parameter_counts(model)
    true = sum(p.numel() for p in model.parameters())
    demand(sum(counted.values()) == true, f"counted {sum(counted.values()):,}, there are {true:,}")
    parts = ("query", "key", "value", "output", "attention other")
    counted_own = sum(counted[part] for part in parts)
    demand(counted_own == own, f"attention counted {counted_own:,}, it has {own:,}")
