"""The optimizer's part of a task: the learning rate, clipping, and steps that are skipped."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from attnkit.models.sharding import whole
from attnkit.training.bad_steps import BadSteps, can_leave_out, on_any_process
from attnkit.training.muon import StackedMuon
from attnkit.training.optimizers import OptimizerRecipe
from attnkit.training.schedules import Schedule

_CLIP_MARGIN = 1e-6
"""torch adds this to the norm that it divides by, so that it shrinks gradients of norm `limit`."""


class OptimizerSteps(L.LightningModule):
    """Builds the optimizer, sets its learning rate, clips gradients, and handles steps whose loss
    or gradient is not finite.

    Such a step ends training before the weights change; or it is skipped, up to
    `bad_steps.max_skipped` times: weights and optimizer state stay the same, and the next step
    takes the next batches. On a GPU training ends when the host next reads a number; until then the
    weights do not change.

    Args:
        optimizer: builds the optimizer.
        schedule: of the learning rate.
        max_steps: optimizer steps of the whole run.
        gradient_clip: largest norm of the gradient; None: no limit.
        compile_model: compile what the optimizer computes, too.

    Attributes:
        bad_steps: which steps were skipped, and how many may be.
        is_skipped: True if the last step was skipped; a tensor if only the device knows.
        gradient_norm: of the last step, before clipping.
        group_options: options of the optimizer by parameter group, as in the recipe.
    """

    model: nn.Module

    def __init__(
        self,
        optimizer: OptimizerRecipe,
        schedule: Schedule,
        *,
        max_steps: int,
        gradient_clip: float | None,
        compile_model: bool,
    ) -> None:
        super().__init__()
        self.optimizer_recipe = optimizer
        self.schedule = schedule
        self.max_steps = max_steps
        self.gradient_clip = gradient_clip
        self.compile_model = compile_model
        self.bad_steps = BadSteps()
        self.is_skipped: bool | Tensor = False
        self.gradient_norm: Tensor | None = None
        self.group_options: list[dict[str, Any]] = []
        self._step_loss: Tensor | None = None

    def configure_optimizers(self) -> Optimizer:
        """One optimizer; the learning rate is set before each step by `on_train_batch_start`."""
        optimizer = self.optimizer_recipe.build(self.model)
        for part in getattr(optimizer, "parts", [optimizer]):
            if isinstance(part, StackedMuon):
                part.compiled = self.compile_model
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
        self.group_options = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        return optimizer

    def on_train_start(self) -> None:
        """Sets the optimizer's options to those of the recipe; a checkpoint restored its own,
        which may differ if the recipe was changed.
        """
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group, options in zip(optimizer.param_groups, self.group_options, strict=True):
            group.update(options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the count of skipped steps."""
        checkpoint["num_skipped"] = self.bad_steps.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores it."""
        self.bad_steps.num_skipped = checkpoint["num_skipped"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate."""
        factor = self.schedule.factor(self.global_step, self.max_steps)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def on_before_backward(self, loss: Tensor) -> None:
        """Keeps the loss, to be checked once a step."""
        loss = loss.detach()
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of all gradients, and keeps that norm; skips what is not finite.

        Lightning's own clipping refuses bfloat16 with a fused optimizer, though bfloat16 needs no
        gradient scaling; and torch's multiplies all gradients by one where there is nothing to
        clip.

        Raises:
            DivergedError: if the loss or the gradient is not finite, and no more steps may be
                skipped.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = whole(nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None))
        self.gradient_norm = norm
        watched = [norm] if self._step_loss is None else [norm, self._step_loss]
        self._step_loss = None
        numbers = torch.stack([x.float() for x in watched])
        limit, step = self.gradient_clip, self.global_step + 1
        if not self.waits_each_step and can_leave_out(optimizer):
            if limit is not None:
                nn.utils.clip_grads_with_norm_(parameters, limit, norm)
            is_bad = on_any_process(~numbers.isfinite().all())
            self.is_skipped = self.bad_steps.leave_out(step, is_bad, optimizer)
            return
        here = numbers.tolist()
        self.is_skipped = not all(map(math.isfinite, here))
        if self.bad_steps.max_skipped:
            self.is_skipped = bool(
                on_any_process(torch.tensor(self.is_skipped, device=norm.device))
            )
        if self.is_skipped:
            self.bad_steps.skip(step)
            optimizer.zero_grad(set_to_none=True)  # a parameter without a gradient is left alone
        elif limit is not None and here[0] > limit - _CLIP_MARGIN:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    @property
    def waits_each_step(self) -> bool:
        """True where the host reads loss and norm in each step: on a CPU, where that is free."""
        return self.device.type == "cpu"
