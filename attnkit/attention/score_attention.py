"""The template that most mechanisms fill in: attention by an explicit map.

weights = normalize(scores(q, k) + bias)       (B, H, T, S)
heads = weights @ v                            (B, H, T, D)

A subclass may give `scores`, `normalize` and `weights` one more parameter, `grid`: positions of
queries and keys, the mask, and what earlier tokens carry (see `Grid`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnkit.attention import kernels
from attnkit.attention.base import Attention, Role
from attnkit.attention.cache import Cache, KeyValueCache
from attnkit.attention.kernels import reference
from attnkit.attention.kernels.bias import Block, block_bias
from attnkit.attention.kernels.call import DistanceBias, ScoreMod, share_heads
from attnkit.grid import Grid
from attnkit.masks import Mask, NoMask
from attnkit.registry import ATTENTION, POSITIONS

STEPS = ("scores", "normalize", "weights")
"""The steps of the map."""


class ScoreAttention(Attention):
    """Attention by an explicit map: scores, normalised along the keys. The template.

    As long as a subclass leaves `scores`, `normalize`, `weights` and `reaches` as they are here,
    fused kernels compute `mix`.
    """

    rows_alone: ClassVar[bool] = False
    """True where `scores` and `normalize` compute a row of the map from its own query alone, at any
    place in the sequence. Long maps are then computed in chunks of queries, and a GPU decodes from
    a cache of fixed size.
    """

    _steps_with_grid: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Looked up here and not in each call: `torch.compile` cannot trace `inspect`.
        cls._steps_with_grid = frozenset(
            step for step in STEPS if "grid" in inspect.signature(getattr(cls, step)).parameters
        )

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """How well each key answers each query: q kᵀ / sqrt(D), (B, H, T, S)."""
        return reference.scaled_scores(q, self.share_heads(k), self.scale)

    def bias(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What is added to the scores because of positions: (..., T, 1), (..., 1, S) -> (..., H, T,
        S), or None.
        """
        return None if self.position is None else self.position.bias(query, key)

    @classmethod
    def has_own_bias(cls) -> bool:
        """True if a subclass adds a bias of its own, whatever the position encoding."""
        return cls.bias is not ScoreAttention.bias

    def has_bias(self) -> bool:
        """True if `bias` is not None."""
        if self.has_own_bias():
            return True
        return self.position is not None and self.position.has_bias()

    def _distance_bias(self) -> DistanceBias | None:
        """`bias`, where it is the position's own and depends on distances alone."""
        position = None if self.has_own_bias() else self.position
        return position.by_distance if position is not None and position.has_distances() else None

    def _score_mod(self) -> ScoreMod | None:
        """`bias`, where it is the position's own and has a form for FlexAttention."""
        position = None if self.has_own_bias() else self.position
        return position.score_mod if position is not None and position.has_score_mod() else None

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Turns scores into weights: softmax over the keys that are allowed.

        Args:
            scores: (B, H, T, S)
            allowed: boolean, broadcasts to the scores; None: all keys.
        """
        return reference.softmax(scores, allowed)

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """The attention map (B, H, T, S): how much each query takes from each key. Nothing where
        nothing is allowed.
        """
        return self.normalize_under(self.biased_scores(q, k, Grid.of(q, k, mask)), mask)

    def map(self, q: Tensor, k: Tensor, mask: Mask, carried: Tensor | None = None) -> Tensor:
        """`weights`, given its grid if it names one: (B, H, T, S)."""
        weights: Callable[..., Tensor] = self.weights
        if "weights" in self._steps_with_grid:
            return weights(q, k, mask, grid=Grid.of(q, k, mask, carried))
        if carried is None or "weights" in self.overridden_steps():
            return self.weights(q, k, mask)
        grid = Grid.of(q, k, mask, carried)
        return self.normalize_under(self.biased_scores(q, k, grid), grid)

    def biased_scores(self, q: Tensor, k: Tensor, grid: Grid | None = None) -> Tensor:
        """Scores, with what positions add: (B, H, T, S). Without a grid, there is no mask."""
        grid = Grid.of(q, k, NoMask()) if grid is None else grid
        if "scores" in self._steps_with_grid:
            step: Callable[..., Tensor] = self.scores
            scores = step(q, k, grid=grid)
        else:
            scores = self.scores(q, k)
        own = self.bias if self.has_bias() else None
        T, S = grid.num_queries, grid.num_keys
        bias = block_bias(own, self._distance_bias(), Block(grid.offset, T, 0, S), scores.device)
        scores = scores if bias is None else scores + bias
        if self.position is not None and self.position.acts_on == "content":
            scores = self.position.adjust(scores, q, k, grid)
        return scores

    def _row_weights(
        self, q: Tensor, k: Tensor, bias: Tensor | None, allowed: Tensor | None
    ) -> Tensor:
        """Some rows of `weights`: (B, H, t, S)."""
        scores = self.scores(q, k)
        return self.normalize(scores if bias is None else scores + bias, allowed)

    def normalize_under(self, scores: Tensor, mask: Mask | Grid) -> Tensor:
        """`normalize` under a mask, with zeros where nothing is allowed: (B, H, T, S)."""
        num_queries, num_keys = scores.shape[-2:]
        grid = mask
        if not isinstance(grid, Grid):
            grid = Grid(grid, num_queries, num_keys, scores.device)
        mask = grid.mask
        normalize: Callable[..., Tensor] = self.normalize
        if "normalize" in self._steps_with_grid:
            normalize = functools.partial(normalize, grid=grid)
        reached = self.reaches(grid.query, grid.key)
        if reached is None:
            return reference.normalized_under(normalize, scores, mask)
        allowed = mask.dense(num_queries, num_keys, scores.device) & reached
        return normalize(scores, allowed).masked_fill(~allowed, 0.0)

    def call(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, carried: Tensor | None = None
    ) -> kernels.Call:
        """What a kernel needs to know of this mechanism to compute `weights @ v`."""
        own = self.overridden_steps()
        why_own = f"{type(self).__name__} computes its own {' and '.join(own)}"
        adjusted = self.position is not None and self.position.acts_on == "content"
        rows_alone = self.rows_alone and not (adjusted or self._steps_with_grid)
        if adjusted and not own:
            own, why_own = ["scores"], "the position encoding sees queries and keys"
        if not own:  # norms of queries and keys leave bfloat16; fused kernels want one type
            q, k = q.to(v.dtype), k.to(v.dtype)
        return kernels.Call(
            q,
            k,
            v,
            mask,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            bias=self.bias if self.has_bias() else None,
            distance_bias=self._distance_bias(),
            score_mod=self._score_mod(),
            weights=functools.partial(self.map, carried=carried) if own else None,
            row_weights=self._row_weights if own and rows_alone else None,
            why_own=why_own,
        )

    def call_of_shape(
        self, num_queries: int, num_keys: int, mask: Mask, dtype: torch.dtype
    ) -> kernels.Call:
        """A call without numbers, on the meta device, for a question to the kernels."""

        def heads(count: int, tokens: int) -> Tensor:
            return torch.empty(1, count, tokens, self.head_dim, device="meta", dtype=dtype)

        q, k = heads(self.num_heads, num_queries), heads(self.num_kv_heads, num_keys)
        return self.call(q, k, k, mask)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, carried: Tensor | None = None
    ) -> Tensor:
        """weights @ v by the kernel that `kernels.choose` finds: (B, H, T, D)."""
        return kernels.run(self.call(q, k, v, mask, carried))

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask,
        cache: Cache,
        carried: Tensor | None = None,
    ) -> Tensor:
        """Adds the new keys and values to the cache and mixes over all of them."""
        assert isinstance(cache, KeyValueCache)
        k, v = cache.append(k, v)
        beside = {} if carried is None else {"carried": cache.carry(carried)}
        return self.mix(q, *self.expand(k, v), mask, **beside)

    def new_cache(self) -> Cache:
        """Keys and values."""
        return KeyValueCache()

    @classmethod
    def why_no_fixed_cache(cls) -> str | None:
        if not cls.decodes_as(ScoreAttention):
            return f"{cls.__name__} decodes in its own way"
        if (own := cls.overridden_steps()) and not cls.rows_alone:
            return (
                f"{cls.__name__} computes its own {' and '.join(own)} and does not say rows_alone"
            )
        return None

    def share_heads(self, heads: Tensor) -> Tensor:
        """Repeats keys or values (B, H_kv, S, D) for the heads that share them: (B, H, S, D)."""
        return share_heads(heads, self.num_heads)

    @classmethod
    def overridden_steps(cls) -> list[str]:
        """The steps of the map that a subclass computes in its own way; with any of them no fused
        kernel fits.
        """
        steps = (*STEPS, "reaches")
        return [step for step in steps if getattr(cls, step) is not getattr(ScoreAttention, step)]

    @classmethod
    def refusal(cls, role: Role, mask: Mask, position: str) -> str | None:
        """As of every mechanism; a position encoding that sees the mask must be handed it."""
        sees_mask = getattr(POSITIONS.get(position), "sees_mask", False)
        alone = "weights" in cls.overridden_steps() and "weights" not in cls._steps_with_grid
        if sees_mask and alone:
            return (
                f"{ATTENTION.name_of(cls)} computes its weights without telling position "
                f"{position} what the mask allows; give `weights` a parameter `grid` and hand it "
                "to `biased_scores`"
            )
        return super().refusal(role, mask, position)

    @classmethod
    def memory_order(cls) -> int:
        """2 where the map is formed: with steps of one's own, or a bias."""
        return 2 if cls.overridden_steps() or cls.has_own_bias() else 1

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """q kᵀ and weights @ v: 4 D a pair and head. The softmax is left out, as is usual."""
        return 4 * pairs * self.num_heads * self.head_dim

    def cache_elements(self, num_tokens: int) -> int:
        """Keys and values of all tokens."""
        return 2 * num_tokens * self.num_kv_heads * self.head_dim


def keys_seen(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """How many keys each query may see, 1 at least: broadcasts to (B, H, T, 1)."""
    if allowed is None:
        return scores.new_tensor(scores.shape[-1])
    seen = allowed.expand(*allowed.shape[:-1], scores.shape[-1]).sum(dim=-1, keepdim=True)
    return seen.clamp(min=1).to(scores.dtype)
