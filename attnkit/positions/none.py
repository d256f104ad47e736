"""No position encoding: the model sees a set of tokens, whose order only the mask reveals."""

import torch
from torch import Tensor

from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("none")
class NoPosition(EmbeddingPosition):
    """Adds nothing. A causal model still learns some order: later tokens see more keys
    (arXiv:2305.19466).
    """

    def forward(self, positions: Tensor) -> Tensor:
        """Returns zeros (1, C), which broadcast."""
        return torch.zeros(1, self.dim, device=positions.device)
