"""torch's Muon with the matrices of one shape orthogonalised together: the steps of the
Newton-Schulz iteration are many small products, and a stack of matrices takes one of each.
"""

# torch offers its fused list operations under private names only.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

from attnkit.hardware.devices import fast_dtype


class StackedMuon(Muon):
    """Muon (Jordan 2024): steps along the nearest orthogonal matrix to the momentum.

    Options, state and results are those of `torch.optim.Muon`, up to rounding, with its `original`
    adjustment of the learning rate: times sqrt(max(1, rows / columns)). The iteration computes in
    the number type that is fastest here, see `fast_dtype`. A step changes nothing where `found_inf`
    is 1.

    Attributes:
        compiled: run the iteration through `torch.compile`.
    """

    compiled: bool = False

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Moves all matrices that have a gradient; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_stack(parameters, group)
        return loss

    def _step_stack(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        # Here, since it loads much that checking a recipe does not need.
        from attnkit.models.sharding import shared_like, whole

        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
        own_momenta = [self._momentum(p) for p in parameters]
        taken: float | Tensor = 1.0
        if self.found_inf is not None:
            gradients = gradients.masked_fill(self.found_inf > 0, 0.0)
            taken = 1 - self.found_inf
        momenta = torch.stack(own_momenta).lerp_(gradients, (1 - group["momentum"]) * taken)
        for own, momentum in zip(own_momenta, momenta.unbind(), strict=True):
            own.copy_(momentum)  # a list operation has no rule for weights that are shared out
        updates = gradients.lerp_(momenta, group["momentum"]) if group["nesterov"] else momenta
        rows, columns = parameters[0].shape
        rate = group["lr"] * math.sqrt(max(1, rows / columns))
        stack = whole(updates)
        orthogonalise = _compiled(stack.shape) if self.compiled else orthogonalised
        directions = orthogonalise(
            stack.to(fast_dtype(stack.device)),
            group["ns_steps"],
            group["ns_coefficients"],
            group["eps"],
        ).to(parameters[0].dtype)
        shares = [
            shared_like(d, p) for d, p in zip(directions * (rate * taken), parameters, strict=True)
        ]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"] * taken)
        torch._foreach_sub_(parameters, shares)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


@functools.cache
def _compiled(shape: torch.Size) -> Any:
    # A copy for each shape: torch compiles one function eight times, and then no longer.
    name = f"orthogonalised_{'_'.join(map(str, shape))}"
    code = orthogonalised.__code__.replace(co_name=name)
    return torch.compile(FunctionType(code, orthogonalised.__globals__), dynamic=False)


def orthogonalised(
    matrices: Tensor, steps: int, coefficients: tuple[float, float, float], eps: float
) -> Tensor:
    """The nearest orthogonal matrices, roughly: quintic Newton-Schulz iteration.

    X <- a X + (b A + c A A) X with A = X Xᵀ, which drives all singular values toward 1.

    Args:
        matrices: (N, rows, columns)
        steps: how often to iterate.
        coefficients: a, b and c.
        eps: least norm to divide by.

    Returns:
        (N, rows, columns), in the type of `matrices`.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # A is then the smaller square
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
