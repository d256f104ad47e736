"""What all tasks share: the optimizer's step, the learning rate, and randomness that a resumed run
repeats.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from attnkit.tasks.optimizers import OptimizerRecipe
from attnkit.tasks.schedules import Schedule


@dataclass(frozen=True)
class Probe:
    """One example that is looked at again and again while a model trains.

    Attributes:
        name: letters, digits, `.`, `_` and `-`.
        inputs: what the module is called with, each with a batch axis of 1.
        query_tokens: texts of the tokens that ask.
        key_tokens: texts of the tokens that answer.
        note: what a viewer should know about it.
    """

    name: str
    inputs: tuple[Tensor, ...]
    query_tokens: Sequence[str]
    key_tokens: Sequence[str]
    note: str = ""


class Task(L.LightningModule, ABC):
    """A model with its loss and its optimizer.

    Nothing is logged from `training_step`: a `self.log` there costs 0.4 ms a call even in steps
    that write nothing. Callbacks read `last_loss` and `gradient_norm` when they need them.

    Args:
        model: the network.
        optimizer: makes the optimizer.
        schedule: the learning rate's shape.
        max_steps: optimizer steps of the whole run.
        seed: of the run.
        gradient_clip: largest norm of the gradient; None: no limit.
        compile_model: run the model through `torch.compile`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerRecipe,
        schedule: Schedule,
        *,
        max_steps: int,
        seed: int,
        gradient_clip: float | None = 1.0,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_recipe = optimizer
        self.schedule = schedule
        self.max_steps = max_steps
        self.seed = seed
        self.gradient_clip = gradient_clip
        # Kept outside the module tree: its parameters are the model's, and hooks on the plain model
        # must keep working.
        self._run: list[Callable[..., Any]] = [torch.compile(model) if compile_model else model]
        self.gradient_norm: Tensor | None = None

    def run_model(self, *args: Any) -> Any:
        """Calls the model, compiled if the recipe says so."""
        return self._run[0](*args)

    def forward(self, *args: Any) -> Any:
        """Calls the plain model: what maps and samples are taken from."""
        return self.model(*args)

    @abstractmethod
    def num_tokens(self, batch: Any) -> int:
        """Tokens of a batch that are predicted: what tokens per second counts."""

    @abstractmethod
    def probe(self, num_tokens: int, text: str | None) -> Probe:
        """The example whose attention is drawn.

        Args:
            num_tokens: how many tokens of it, at the most.
            text: what it says; None: the beginning of the validation data.
        """

    @abstractmethod
    def sample(self, final: bool = False) -> str:
        """What the model makes of itself, for a person to read."""

    def configure_optimizers(self) -> Optimizer:
        """One optimizer; the learning rate is set before each step by `on_train_batch_start`."""
        optimizer = self.optimizer_recipe.build(self.model)
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate, and seeds dropout from (seed, rank, batch number) so that a
        resumed run repeats it.
        """
        seed = batch_seed(self.seed, self.global_rank, batch_idx)
        # Not torch.manual_seed: without a GPU it keeps a stack trace of every call, 1 ms each.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        factor = self.schedule.factor(self.global_step, self.max_steps)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of all gradients, and keeps that norm.

        Lightning's own clipping refuses bfloat16 with a fused optimizer, though bfloat16 needs no
        gradient scaling.
        """
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gradient_norm = nn.utils.clip_grad_norm_(parameters, limit)


def batch_seed(seed: int, rank: int, batch: int) -> int:
    """A seed for one batch on one process: different for each, the same in every run."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{rank}/{batch}".encode(), digest_size=8).digest()
    )
