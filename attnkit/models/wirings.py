"""Wirings: how the branches of a layer are joined. Each is a `Layer`, registered in `WIRINGS`.

A wiring says which norms a branch has (`norms_of`) and what becomes of the tokens (`forward`); its
keyword-only parameters are the keys of `wiring: {name: ...}`.
"""

from __future__ import annotations

from torch import Tensor

from attnkit.attention.stream import Stream
from attnkit.models.layers import NORM_OF, Layer
from attnkit.registry import WIRINGS


@WIRINGS.register("pre_norm")
class PreNorm(Layer):
    """Each branch reads normalised tokens and adds to what came in."""

    formula = "x = x + branch(norm(x)), one branch after the other"
    paper = "Xiong et al. 2020, arXiv:2002.04745, section 3"

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            x = x + self.branch(name, self.norm(name, x), stream)
        return x


@WIRINGS.register("post_norm")
class PostNorm(Layer):
    """The sum of what came in and what a branch adds is normalised, as in the first Transformer."""

    formula = "x = norm(x + branch(x)), one branch after the other"
    paper = "Vaswani et al. 2017, arXiv:1706.03762, section 3.1"
    is_normalised = True

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            x = self.norm(name, x + self.branch(name, x, stream))
        return x


@WIRINGS.register("sandwich")
class Sandwich(Layer):
    """A norm before each branch and another behind it, before it is added."""

    formula = "x = x + norm'(branch(norm(x))), one branch after the other"
    paper = "Ding et al. 2021, arXiv:2105.13290, section 2.4"

    @classmethod
    def norms_of(cls, branch: str) -> tuple[str, ...]:
        return NORM_OF[branch], f"{NORM_OF[branch]}_behind"

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for name in self.branches:
            behind = getattr(self, self.norms_of(name)[1])
            x = x + behind(self.branch(name, self.norm(name, x), stream))
        return x


@WIRINGS.register("parallel")
class Parallel(Layer):
    """All branches read the same tokens, normalised once, and their sum is added."""

    formula = "x = x + sum of branch(norm(x))"
    paper = "Chowdhery et al. 2022, arXiv:2204.02311, section 2"

    @classmethod
    def norms_of(cls, branch: str) -> tuple[str, ...]:
        return ("norm_of_all",) if branch == "attention" else ()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        tokens = self.norm("attention", x)
        for name in self.branches:
            x = x + self.branch(name, tokens, stream)
        return x
