"""Laws about the costs that a mechanism declares."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention.counted import mixing_flops, says_itself
from attnkit.attention.recurrent import Recurrent
from attnkit.checks.case import Case, demand, require
from attnkit.checks.decoding import decoded
from attnkit.models.accounting import parameter_counts
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, Spec


def declared_flops_are_right(case: Case) -> None:
    """What `projection_flops` and `mixing_flops` declare for all pairs is at least the products
    that torch counts, and at most these with all other arithmetic, at two lengths. A state may be
    counted token by token, as in decoding, or in chunks, as in training. Costs that are not
    declared are counted and cannot be wrong.
    """
    # A chunk of one token has a few products that a recurrence does not have.
    share = 0.75 if issubclass(case.mechanism, Recurrent) else 1.0
    declares = any(says_itself(case.mechanism, c) for c in ("mixing_flops", "projection_flops"))
    require(declares, "it declares no FLOPs, so they are counted")
    require(case.role == "self", "counted in self-attention")
    plain = "causal" if case.mechanism.causal_only else "none"
    require(case.mask_case.name == plain, f"counted under the mask {plain}")
    for length in (case.T, 2 * case.T):
        attention = case.attention
        declared = length * attention.projection_flops()
        declared += mixing_flops(attention, length, length * length)
        least, most = _arithmetic(case, length)
        demand(
            share * least <= declared <= most,
            f"{declared:,} are declared for {length} tokens; torch counts {least:,} in products, "
            f"{most:,} with all other arithmetic",
        )


NOT_COUNTED = (torch.ops.aten._cdist_forward,)
"""Operations as expensive per element as a product, which torch's counter ignores."""


class _AllArithmetic(TorchDispatchMode):
    """Counts one operation for each element that is read or written, whichever are more."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if isinstance(result, Tensor) and not (returns and returns[0].alias_info):
            sizes = [arg.numel() for arg in args if isinstance(arg, Tensor)]
            each = 3 * args[0].shape[-1] if func.overloadpacket in NOT_COUNTED else 1
            self.total += each * max(result.numel(), *sizes, 0)
        return result


@torch.no_grad()
def _arithmetic(case: Case, length: int) -> tuple[int, int]:
    """Returns the products of one sequence, and these with all other arithmetic; for a state, the
    smaller number of both ways, and the larger one.
    """
    ways = [_counted(case.resized(B=1, T=length))]
    if issubclass(case.mechanism, Recurrent):  # each token but the first costs the same
        (one, all_of_one), (two, all_of_two) = (
            _counted(case.resized(B=1, T=count), decoding=True) for count in (1, 2)
        )
        later = length - 1
        ways.append((one + later * (two - one), all_of_one + later * (all_of_two - all_of_one)))
    products, all_of_it = zip(*ways, strict=True)
    return min(products), max(all_of_it)


def _counted(case: Case, decoding: bool = False) -> tuple[int, int]:
    """Returns the products, and these with all other arithmetic, of a forward pass or of decoding
    token by token.
    """
    with FlopCounterMode(display=False) as counter, _AllArithmetic() as more, _math():
        if decoding:
            decoded(case, [1] * case.T)
        else:
            case.run()
    return counter.get_total_flops(), counter.get_total_flops() + more.total


def _math() -> AbstractContextManager[object]:
    """Computes fused attention as products that torch's counter can count (pytorch#195460)."""
    return sdpa_kernel(SDPBackend.MATH)


SHORT, LONG = 128, 512
"""Lengths between which the growth of memory is measured."""


def memory_grows_as_declared(case: Case) -> None:
    """What a training step stores for its backward pass grows with the length to the power that
    `memory_order` declares: 1 for fused and recurrent kernels, 2 for a map.
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
    """Returns the bytes of all tensors that the graph of a forward pass stores."""
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
    """The parts of a model's parameter count sum to its number of parameters, those of attention to
    the parameters of the mechanism, and a forward pass adds none.
    """
    require(case.role == "self", "counted in a language model")
    attention = case.build()
    own = sum(p.numel() for p in attention.parameters())
    with torch.no_grad():
        case.run(attention)
    later = sum(p.numel() for p in attention.parameters())
    demand(later == own, f"{own:,} parameters when built, {later:,} after a forward pass")
    if case.position != "none":
        return
    nothing = Spec("none")
    mask = Spec(case.first_served("none", "causal"))
    with ATTENTION.known(case.mechanism) as name, torch.device("meta"):
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
