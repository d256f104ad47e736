"""Wirings: how a layer combines its branches. Each is a `Layer`, registered in `WIRINGS`.

A wiring defines the norms of each branch (`norms_of`) and the computation (`forward`); its
keyword-only parameters are the keys of `wiring: {name: ...}`.
"""

from __future__ import annotations

from torch import Tensor

from attnkit.attention.stream import Stream
from attnkit.models.layers import NORM_OF, Layer
from attnkit.registry import WIRINGS


@WIRINGS.register("pre_norm")
class PreNorm(Layer):
    """Normalises the input of each branch and adds the output to the residual stream."""

    formula = "x = x + branch(norm(x)), one branch after the other"
    paper = "Xiong et al. 2020, arXiv:2002.04745"

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            x = x + self.branch(name, self.norm(name, x), stream)
        return x


@WIRINGS.register("post_norm")
class PostNorm(Layer):
    """Normalises the sum after each branch, as in the original Transformer."""

    formula = "x = norm(x + branch(x)), one branch after the other"
    paper = "Vaswani et al. 2017, arXiv:1706.03762"
    is_normalised = True

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            x = self.norm(name, x + self.branch(name, x, stream))
        return x


@WIRINGS.register("sandwich")
class Sandwich(Layer):
    """Normalises both the input and the output of each branch."""

    formula = "x = x + norm'(branch(norm(x))), one branch after the other"
    paper = "Ding et al. 2021, arXiv:2105.13290"

    @classmethod
    def norms_of(cls, branch: str) -> tuple[str, ...]:
        return NORM_OF[branch], f"{NORM_OF[branch]}_after"

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            after = getattr(self, self.norms_of(name)[1])
            x = x + after(self.branch(name, self.norm(name, x), stream))
        return x


@WIRINGS.register("parallel")
class Parallel(Layer):
    """Computes all branches from the same normalised input and adds their sum."""

    formula = "x = x + sum of branch(norm(x))"
    paper = "Chowdhery et al. 2022, arXiv:2204.02311"

    @classmethod
    def norms_of(cls, branch: str) -> tuple[str, ...]:
        return ("norm_of_all",) if branch == "attention" else ()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        tokens = self.norm("attention", x)
        for name in self.branches:
            x = x + self.branch(name, tokens, stream)
        return x
