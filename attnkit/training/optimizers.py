"""Optimizers that a recipe may name. A parameter's role says how they treat it.

| role | weight decay | Muon | by default |
|---|---|---|---|
| `matrix` | yes | yes, inside the layers | weights of `nn.Linear` |
| `decayed` | yes | no | embeddings of tokens and positions |
| `plain` | no | no | all else: norms, gains, biases, a mechanism's own parameters |

A module states another role in the class attribute `optimizer_roles`: name -> role.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from attnkit.attention.base import Attention
from attnkit.registry import OPTIMIZERS
from attnkit.training.bad_steps import can_leave_out
from attnkit.training.muon import StackedMuon

Role = Literal["matrix", "decayed", "plain"]


def roles_of(model: nn.Module) -> dict[nn.Parameter, Role]:
    """The role of each parameter that takes gradients, in the order of the model.

    Raises:
        ValueError: if `optimizer_roles` of a module names an unknown parameter or role.
    """
    roles: dict[nn.Parameter, Role] = {p: "plain" for p in model.parameters() if p.requires_grad}
    stated: dict[nn.Parameter, Role] = {}
    in_attention = {
        part for m in model.modules() if isinstance(m, Attention) for part in m.modules()
    }
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if weight not in roles:
            pass
        elif isinstance(module, nn.Embedding) and module not in in_attention:
            roles[weight] = "decayed"
        # A head that shares the embedding's weights is an embedding.
        elif isinstance(module, nn.Linear) and roles[weight] != "decayed":
            roles[weight] = "matrix"
        own = dict(module.named_parameters())
        for name, role in getattr(module, "optimizer_roles", {}).items():
            if name not in own or role not in get_args(Role):
                raise ValueError(
                    f"{type(module).__name__}.optimizer_roles: {name!r}: {role!r} must be one of "
                    f"its parameters ({', '.join(own)}) and one of {', '.join(get_args(Role))}"
                )
            stated[own[name]] = role
    return {parameter: stated.get(parameter, role) for parameter, role in roles.items()}


class OptimizerRecipe(ABC):
    """Makes a torch optimizer for a model."""

    @abstractmethod
    def build(self, model: nn.Module) -> Optimizer:
        """An optimizer over all parameters of the model that take gradients."""


@OPTIMIZERS.register("adamw")
class AdamWRecipe(OptimizerRecipe):
    """AdamW (arXiv:1711.05101), fused; weight decay on matrices and embeddings only.

    Args:
        lr: highest learning rate.
        betas: decay of the running means of the gradient and of its square.
        weight_decay: share of each matrix that a step removes, times the learning rate.
        eps: added to the denominator.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.1,
        eps: float = 1e-8,
    ) -> None:
        _check_rate("lr", lr)
        self.lr = lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.eps = eps

    def build(self, model: nn.Module) -> Optimizer:
        """Two groups: what decays, and what does not."""
        return self.over(roles_of(model))

    def over(self, roles: dict[nn.Parameter, Role]) -> Optimizer:
        """AdamW over some parameters."""
        groups = [
            {
                "params": [p for p in roles if roles[p] != "plain"],
                "weight_decay": self.weight_decay,
            },
            {"params": [p for p in roles if roles[p] == "plain"], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@OPTIMIZERS.register("muon")
class MuonRecipe(OptimizerRecipe):
    """Muon (Jordan 2024) on the matrices of the layers, AdamW on all else.

    Muon steps along the nearest orthogonal matrix to the momentum, so that no direction of a matrix
    dominates.

    Args:
        lr: highest learning rate of AdamW's part.
        muon_lr_ratio: Muon's learning rate is this many times `lr`.
        momentum: Muon's momentum.
        ns_steps: Newton-Schulz steps toward the orthogonal matrix; fewer are faster and rougher.
        betas: of AdamW's part.
        weight_decay: of both parts.
    """

    def __init__(
        self,
        *,
        lr: float = 6e-3,
        muon_lr_ratio: float = 4.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        _check_rate("lr", lr)
        _check_rate("muon_lr_ratio", muon_lr_ratio)
        self.muon_lr = lr * muon_lr_ratio
        self.momentum = momentum
        self.ns_steps = ns_steps
        self.weight_decay = weight_decay
        self._adamw = AdamWRecipe(lr=lr, betas=betas, weight_decay=weight_decay)

    def build(self, model: nn.Module) -> Optimizer:
        """Both optimizers, as one."""
        roles = roles_of(model)
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if "layers." in name and roles.get(parameter) == "matrix"
        ]
        chosen = set(matrices)
        others: dict[nn.Parameter, Role] = {p: role for p, role in roles.items() if p not in chosen}
        parts: list[Optimizer] = []
        if matrices:
            parts.append(
                StackedMuon(
                    matrices,
                    lr=self.muon_lr,
                    momentum=self.momentum,
                    ns_steps=self.ns_steps,
                    weight_decay=self.weight_decay,
                )
            )
        if others:
            parts.append(self._adamw.over(others))
        return JointOptimizer(parts)


class JointOptimizer(Optimizer):
    """Several optimizers, each over its own parameters, that step as one: Lightning's loop drives a
    single one.
    """

    found_inf: Tensor | None = None
    """1 where the step is to be left out, see `bad_steps.can_leave_out`."""

    def __init__(self, parts: list[Optimizer]) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], defaults={})
        self.parts = parts
        self._step_supports_amp_scaling = all(map(can_leave_out, parts))
        self._share_groups()

    def _share_groups(self) -> None:
        """Holds the parts' own groups, so that a learning rate that is set here reaches them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Runs the closure once, then steps each part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The parts' state dictionaries, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of each part."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def _check_rate(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")
