"""QK-Clip: rescales the weights of queries and keys whose scores grow too large. Kimi Team 2025,
arXiv:2507.20534, section 2.1 (with Muon: MuonClip).

S_h = max q_h kᵀ / sqrt(D), over the allowed pairs of a batch
f_h = min(1, tau / S_h)
W_q,h <- sqrt(f_h) W_q,h        W_k,h <- sqrt(f_h) W_k,h
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.attention.maps import before_each_mechanism, largest_by_head
from attnkit.attention.score_attention import ScoreAttention
from attnkit.attention.stream import Stream
from attnkit.hardware.devices import has_several_processes
from attnkit.listeners.lightning import Listeners
from attnkit.masks import Causal, Mask, NoMask
from attnkit.registry import ATTENTION

_TOKENS = 8
"""Length of the sequence on which a mechanism is tested."""

_REMEDY = "remove the callback, or choose another mechanism"


class QKClip(L.Callback):
    """After each optimizer step, scales down the query and key weights of every head with a score
    above `tau` (QK-Clip, arXiv:2507.20534), with any optimizer.

    The scores are those of the step's batch with the new weights, so a step needs another forward
    pass, without gradients and without `torch.compile`; the paper takes the scores of the step
    itself, with the weights before it. Each layer is rescaled before it runs, so the layers above
    see its new output. Keys that heads share (grouped, latent) are not scaled: each head's queries
    take the whole factor, as with the paper's shared rotary keys. Terms that positions or gates add
    to the scores are not counted. The host waits for the device only where a point is logged.

    Logs `scores/largest`, the largest score before rescaling since the last point, and
    `scores/clipped_heads`, the mean number of heads rescaled in a step; with gradient accumulation,
    a head counts once for each batch.

    Args:
        tau: the largest score allowed.

    Raises:
        ValueError: if `tau` is not positive; when training starts, if a mechanism has no scores
            that are proportional to its query weights, or weights are sharded.
    """

    def __init__(self, *, tau: float = 100.0) -> None:
        if tau <= 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        self.tau = tau
        self._scaled: dict[nn.Module, tuple[nn.Linear, ...]] = {}
        self._batches: list[Any] = []  # of the current step
        self._last_step = 0
        self._steps = 0
        self._largest: Tensor | float = -math.inf
        self._clipped: Tensor | float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Statistics since the last point."""
        return {
            "largest": float(self._largest),
            "clipped": float(self._clipped),
            "steps": self._steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._largest, self._clipped = state_dict["largest"], state_dict["clipped"]
        self._steps = state_dict["steps"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the weights to scale."""
        model: Any = pl_module.model
        if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            raise ValueError(
                "each process needs whole weights to rescale; set trainer.strategy to ddp"
            )
        mechanisms = [module for module in model.modules() if isinstance(module, Attention)]
        self._scaled = {module: scaled_parts(module) for module in mechanisms}
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Rescales after a step, with all of its batches, and logs a point if one is due."""
        self._batches.append(batch)
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        task: Any = pl_module
        skipped = getattr(task, "is_skipped", False)
        if skipped is not True:
            with (
                torch.no_grad(),
                task.plain_model(),
                before_each_mechanism(task.model, self._rescaling(skipped)),
            ):
                for micro_batch in self._batches:
                    task.losses(micro_batch)
            self._steps += 1
        self._batches.clear()
        if step % trainer.log_every_n_steps == 0 or step == trainer.max_steps:  # pyright: ignore
            self._write(trainer, step)

    def _rescaling(self, skipped: bool | Tensor) -> Any:
        """Returns a hook that rescales a mechanism before it runs, unless the step was skipped."""

        def rescale(
            attention: Attention,
            x: Tensor,
            context: Tensor,
            mask: Mask | None,
            stream: Stream | None,
        ) -> None:
            assert isinstance(attention, ScoreAttention)
            largest = largest_by_head(attention, x, context, mask, stream)
            assert largest is not None
            if has_several_processes():
                torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
            above = (largest > self.tau) & largest.isfinite()
            if isinstance(skipped, Tensor):
                above = above & ~skipped
            parts = self._scaled[attention]
            factor = torch.where(above, self.tau / largest, 1.0) ** (1 / len(parts))
            for part in parts:
                scale(part, factor)
            self._largest = largest.max().clamp(min=self._largest)
            self._clipped = self._clipped + above.sum()

        return rescale

    def _write(self, trainer: L.Trainer, step: int) -> None:
        if self._steps:
            points = {
                "scores/largest": float(self._largest),
                "scores/clipped_heads": float(self._clipped) / self._steps,
            }
            Listeners(trainer.loggers).scalars(points, step)
        self._largest, self._clipped, self._steps = -math.inf, 0.0, 0


@torch.no_grad()
def scale(part: nn.Linear, factor: Tensor) -> None:
    """Multiplies the outputs of a linear layer, head by head, by changing its weights.

    Args:
        part: its outputs are those of the heads, one after the other.
        factor: (H,)
    """
    for weights in (part.weight, part.bias):
        if weights is not None:
            heads = weights.view(len(factor), -1)
            heads.mul_(factor.to(weights.dtype).unsqueeze(1))


def scaled_parts(attention: Attention) -> tuple[nn.Linear, ...]:
    """Returns the linear layers that share a factor of the scores: those of queries and keys, or of
    queries alone where heads share keys.

    Each choice is tested in a copy with random weights: scaling one head must change the scores of
    only that head, by that factor.

    Raises:
        ValueError: if neither passes.
    """
    name = ATTENTION.name_of(type(attention))
    if not isinstance(attention, ScoreAttention) or attention.query is None:
        raise ValueError(f"{name} has no scores of queries and keys to bound; {_REMEDY}")
    for parts in ((attention.query, attention.key), (attention.query,)):
        if all(_has_heads(part, attention.num_heads) for part in parts) and _scales(
            attention, [child for child, part in attention.named_children() if part in parts]
        ):
            return parts
    raise ValueError(
        f"the scores of {name} are not proportional to the query weights of each head, so that no "
        f"factor brings them down to tau; {_REMEDY}"
    )


def _has_heads(part: nn.Module | None, num_heads: int) -> bool:
    return isinstance(part, nn.Linear) and part.out_features % num_heads == 0


@torch.no_grad()
def _scales(attention: ScoreAttention, parts: list[str]) -> bool:
    trial = copy.deepcopy(attention).float()
    device = next(trial.parameters()).device
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    for parameter in trial.parameters():
        parameter.copy_(0.3 * random(*parameter.shape))
    x = random(2, _TOKENS, attention.dim)
    mask = Causal() if attention.causal_only else NoMask()
    original = largest_by_head(trial, x, x, mask)
    factor = torch.ones(attention.num_heads, device=device)
    factor[0] = 0.25
    for part in parts:
        scale(getattr(trial, part), factor ** (1 / len(parts)))
    scaled = largest_by_head(trial, x, x, mask)
    if original is None or scaled is None or original.shape != factor.shape:
        return False
    return torch.allclose(scaled, original * factor, rtol=1e-4, atol=1e-5)
