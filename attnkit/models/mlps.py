"""MLPs, which act on each token alone.

A subclass of `MLP` is registered in `MLPS`; its keyword-only parameters are the keys of
`mlp: {name: ...}`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.stream import Stream
from attnkit.registry import MLPS, Initialised


class MLP(nn.Module, metaclass=Initialised):
    """Two linear layers with a nonlinearity in between: (B, T, C) -> (B, T, C).

    Args:
        dim: width C of the model.
        hidden_dim: hidden width; None: `default_hidden_dim`.
        bias: add bias vectors.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
        hidden_dim = self.default_hidden_dim(dim) if hidden_dim is None else hidden_dim
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.add_gate(dim, hidden_dim, bias)
        self.down = nn.Linear(hidden_dim, dim, bias=bias)

    @staticmethod
    def default_hidden_dim(dim: int) -> int:
        """Returns the hidden width by default: four times the width of the model."""
        return 4 * dim

    def add_gate(self, dim: int, hidden_dim: int, bias: bool) -> None:
        """Adds layers between `up` and `down`. Default: none."""

    @property
    def output(self) -> nn.Linear | None:
        """The last linear layer, whose weights start small; None: there is none."""
        return self.down

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """down(activated(up(x))).

        Args:
            x: (B, T, C)
            stream: what the layers share; receives the auxiliary loss of an MLP that has one.
        """
        return self.down(self.activated(self.up(x), x))

    def activated(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Applies the nonlinearity: (B, T, hidden_dim) -> (B, T, hidden_dim).

        Args:
            hidden: the output of `up`.
            x: (B, T, C), the input of the MLP, for gates.
        """
        raise NotImplementedError

    def flops(self) -> int:
        """Returns the floating-point operations for one token, forward: 2 per weight."""
        return 2 * sum(p.numel() for p in self.parameters() if p.dim() == 2)


@MLPS.register("gelu")
class Gelu(MLP):
    """GELU, as in GPT-2. arXiv:1606.08415."""

    def activated(self, hidden: Tensor, x: Tensor) -> Tensor:
        return F.gelu(hidden)


@MLPS.register("relu")
class Relu(MLP):
    """ReLU, as in the first Transformer. arXiv:1706.03762, section 3.3."""

    def activated(self, hidden: Tensor, x: Tensor) -> Tensor:
        return F.relu(hidden)


@MLPS.register("squared_relu")
class SquaredRelu(MLP):
    """The square of ReLU. arXiv:2109.08668."""

    def activated(self, hidden: Tensor, x: Tensor) -> Tensor:
        return F.relu(hidden).square()


@MLPS.register("swiglu")
class SwiGLU(MLP):
    """Hidden features are gated by SiLU of a third linear layer. arXiv:2002.05202, section 2."""

    @staticmethod
    def default_hidden_dim(dim: int) -> int:
        """Returns 8/3 of the width: three matrices then have as many weights as two of 4."""
        return 8 * math.ceil(dim / 3)

    def add_gate(self, dim: int, hidden_dim: int, bias: bool) -> None:
        self.gate = nn.Linear(dim, hidden_dim, bias=bias)

    def activated(self, hidden: Tensor, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * hidden


@MLPS.register("none")
class NoMLP(nn.Module):
    """No MLP: the layer has neither this branch nor its norm."""

    def __init__(self, dim: int, hidden_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
