"""What a mechanism declares: where it can be used, what its map is, how its parameters are trained.

Class attributes have the values of a plain softmax attention; a mechanism states what differs, and
a law tests it. `refusal` turns them into words.
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
    """False where `mix` does more to the values than to weigh them: its map is then a Jacobian."""

    merges_linearly: ClassVar[bool] = False
    """True where an own `merge` is linear in the heads, but for a bias, and reads nothing of `x`;
    that of the template is so.
    """

    smooth: ClassVar[bool] = True
    """False where its output or its gradient jumps: as a score passes a threshold, or as a signed
    sum that is brought to one size passes zero.
    """

    causal_only: ClassVar[bool] = False
    """True where it has no meaning for a query to see later keys."""

    knows_order: ClassVar[bool] = False
    """True where the mechanism itself tells positions apart, as a decay or a convolution does."""

    has_cache: ClassVar[bool] = True
    """False where an output can only be had from all tokens at once, so that nothing can be kept of
    them: samples and `generate` then read all tokens anew at each step, and `new_cache` and
    `decode` are not asked for.
    """

    cache_dtype: ClassVar[torch.dtype | None] = None
    """What its cache is kept in; None: as the keys and values come."""

    projections: ClassVar[frozenset[str]] = frozenset(("query", "key", "value", "output"))
    """The parts that `__init__` makes; the others are None. Without `query` and `key`, the map asks
    nothing of the tokens.
    """

    optimizer_roles: ClassVar[Mapping[str, str]] = {}
    """Parameter -> how optimizers treat it, where that is not the default: "matrix" decays and is
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
        under a causal one: 1, unless a mechanism says otherwise.
        """
        return 1

    @classmethod
    def refusal(cls, role: Role, mask: Mask, position: str) -> str | None:
        """Says why this mechanism cannot serve a role, mask or position encoding; None: it can."""
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
