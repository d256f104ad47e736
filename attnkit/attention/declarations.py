"""What a mechanism declares: where it can be used, what its map is, how its parameters are trained.

Class attributes have the values of a plain softmax attention; a mechanism declares what differs,
and a law tests it. `refusal` turns them into messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from attnkit.masks import Mask, name_of
from attnkit.registry import ATTENTION, POSITIONS

Role = Literal["self", "cross"]


class Declarations:
    """The class attributes of every mechanism, and what follows from them."""

    roles: ClassVar[frozenset[Role]] = frozenset(("self", "cross"))
    """Where the context may come from: the same sequence, another one."""

    mask_names: ClassVar[frozenset[str] | None] = None
    """Masks that it can obey, by their registered names and `padding`; None: any."""

    position_kinds: ClassVar[frozenset[str]] = frozenset(
        ("embeddings", "queries_and_keys", "scores", "content")
    )
    """Where a position encoding may act, see `positions/base.py`."""

    map_rows: ClassVar[Literal["sum to 1", "unnormalised", "signed"]] = "sum to 1"
    """What a row of its map is: a distribution, non-negative numbers, or numbers of either sign."""

    linear_in_values: ClassVar[bool] = True
    """False if `mix` does more than weight the values. The map is then a Jacobian."""

    merges_linearly: ClassVar[bool] = False
    """True if the mechanism overrides `merge`, and its `merge` too is linear in the heads, except
    for a bias, and does not use `x`.
    """

    smooth: ClassVar[bool] = True
    """False if its output or its gradient is discontinuous, where a score passes a threshold, or
    where a signed sum that is normalised passes zero.
    """

    causal_only: ClassVar[bool] = False
    """True if the mechanism is not defined for a query that sees later keys."""

    knows_order: ClassVar[bool] = False
    """True if the mechanism itself distinguishes positions, as a decay or a convolution does."""

    has_cache: ClassVar[bool] = True
    """False if an output depends on all tokens at once, so that nothing can be cached. Samples and
    `generate` then read all tokens again at each step, and `new_cache` and `decode` are not called.
    """

    cache_dtype: ClassVar[torch.dtype | None] = None
    """dtype of the cache; None: that of the keys and values."""

    projections: ClassVar[frozenset[str]] = frozenset(("query", "key", "value", "output"))
    """The projections that `__init__` creates; the others are None. Without `query` and `key`, the
    map does not depend on the tokens.
    """

    optimizer_roles: ClassVar[Mapping[str, str]] = {}
    """Parameter -> how optimizers treat it, if not as by default: "matrix" decays and is
    orthogonalised by Muon (weights of `nn.Linear` are), "decayed" decays, "plain" does neither (all
    other parameters of a mechanism). See `training/optimizers.py`.
    """

    formula: ClassVar[str] = ""
    """The equation, in one line."""

    paper: ClassVar[str] = ""
    """The source: authors, year, arXiv id, section."""

    @classmethod
    def carries(cls) -> bool:
        """Returns True if rows need more of earlier tokens than keys and values."""
        return False

    @classmethod
    def memory_order(cls) -> int:
        """Power of the length with which the memory of a training step grows, without a mask or
        under a causal one. Default: 1.
        """
        return 1

    @classmethod
    def refusal(cls, role: Role, mask: Mask, position: str) -> str | None:
        """Returns why this mechanism cannot serve a role, mask or position; None: it can."""
        name = ATTENTION.name_of(cls)
        if role not in cls.roles:
            return (
                f"{name} cannot serve {role}-attention (it serves: {', '.join(sorted(cls.roles))})"
            )
        if role == "cross" and cls.carries():
            return (
                f"{name} carries what it needs of earlier tokens, so it serves self-attention alone"
            )
        if cls.mask_names is not None:
            for part in mask.parts():
                part_name = name_of(part)
                if part_name not in cls.mask_names:
                    known = ", ".join(sorted(cls.mask_names))
                    return f"{name} cannot obey the mask {part_name} (it obeys: {known})"
        if cls.causal_only and mask.ahead != 0:
            return (
                f"{name} goes from left to right and cannot obey the mask {name_of(mask)}, which "
                "shows later tokens"
            )
        kind = POSITIONS.get(position).acts_on
        if kind not in cls.position_kinds:
            acts_on = kind.replace("_", " ")
            return f"{name} has no place for position {position}, which acts on {acts_on}"
        if role == "cross" and kind != "embeddings":
            return (
                f"position {position} compares positions within one sequence, "
                "so it has no meaning in cross-attention"
            )
        return None
