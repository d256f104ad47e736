"""The base class of mechanisms with an explicit map.

weights = normalize(scores(q, k) + bias)       (B, H, T, S)
heads = weights @ v                            (B, H, T, D)

In a subclass, `scores`, `normalize` and `weights` may take one more parameter, `grid`: positions of
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
from attnkit.masks import Grid, Mask, NoMask, Recent
from attnkit.registry import ATTENTION, POSITIONS

STEPS = ("scores", "normalize", "weights")
"""The steps of the map."""


class ScoreAttention(Attention):
    """Attention with an explicit map: scores, normalised along the keys.

    Fused kernels compute `mix` for subclasses that override none of `scores`, `normalize`,
    `weights` and `reaches`.
    """

    rows_alone: ClassVar[bool] = False
    """True if `scores` and `normalize` compute a row of the map from its own query only, at any
    position in the sequence. Long maps are then computed in chunks of queries, and a GPU decodes
    from a cache of fixed size.
    """

    _steps_with_grid: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Inspected once per class: `torch.compile` cannot trace `inspect`.
        cls._steps_with_grid = frozenset(
            step for step in STEPS if "grid" in inspect.signature(getattr(cls, step)).parameters
        )

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Returns the scores q kᵀ / sqrt(D), (B, H, T, S)."""
        return reference.scaled_scores(q, self.share_heads(k), self.scale)

    def bias(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Returns the bias that positions add to the scores, or None: (T, 1), (1, S) -> (H, T, S),
        where 1 in place of H, T or S broadcasts.
        """
        return None if self.position is None else self.position.bias(query, key)

    @classmethod
    def has_own_bias(cls) -> bool:
        """True if a subclass adds its own bias, independent of the position encoding."""
        return cls.bias is not ScoreAttention.bias

    def has_bias(self) -> bool:
        """True if `bias` is not None."""
        if self.has_own_bias():
            return True
        return self.position is not None and self.position.has_bias()

    def _distance_bias(self) -> DistanceBias | None:
        """The `bias`, if it comes from the position encoding and only depends on distances."""
        position = None if self.has_own_bias() else self.position
        return position.by_distance if position is not None and position.has_distances() else None

    def _score_mod(self) -> ScoreMod | None:
        """The `bias`, if it comes from the position encoding and has a form for FlexAttention."""
        position = None if self.has_own_bias() else self.position
        return position.score_mod if position is not None and position.has_score_mod() else None

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Turns scores into weights: softmax over the allowed keys.

        Args:
            scores: (B, H, T, S)
            allowed: boolean, broadcasts to the scores; None: all keys.
        """
        return reference.softmax(scores, allowed)

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """Returns the attention map (B, H, T, S); rows without an allowed key are zero."""
        return self.normalize_under(self.biased_scores(q, k, Grid.of(q, k, mask)), mask)

    def map(self, q: Tensor, k: Tensor, mask: Mask, carried: Tensor | None = None) -> Tensor:
        """Calls `weights`, with its grid if it takes one: (B, H, T, S)."""
        weights: Callable[..., Tensor] = self.weights
        if "weights" in self._steps_with_grid:
            return weights(q, k, mask, grid=Grid.of(q, k, mask, carried))
        if carried is None or "weights" in self.overridden_steps():
            return self.weights(q, k, mask)
        grid = Grid.of(q, k, mask, carried)
        return self.normalize_under(self.biased_scores(q, k, grid), grid)

    def biased_scores(self, q: Tensor, k: Tensor, grid: Grid | None = None) -> Tensor:
        """Returns the scores with the positions' bias: (B, H, T, S). Without a grid there is no
        mask.
        """
        grid = Grid.of(q, k, NoMask()) if grid is None else grid
        if "scores" in self._steps_with_grid:
            step: Callable[..., Tensor] = self.scores
            scores = step(q, k, grid=grid)
        else:
            scores = self.scores(q, k)
        own = self.bias if self.has_bias() else None
        T, S = grid.num_queries, grid.num_keys
        bias = block_bias(
            own, self._distance_bias(), Block(grid.offset, T, grid.mask.first_key, S), scores.device
        )
        scores = scores if bias is None else scores + bias
        if self.position is not None and self.position.acts_on == "content":
            scores = self.position.adjust(scores, q, k, grid)
        return scores

    def _row_weights(
        self, q: Tensor, k: Tensor, bias: Tensor | None, allowed: Tensor | None
    ) -> Tensor:
        """Computes some rows of `weights`: (B, H, t, S)."""
        scores = self.scores(q, k)
        return self.normalize(scores if bias is None else scores + bias, allowed)

    def normalize_under(self, scores: Tensor, mask: Mask | Grid) -> Tensor:
        """Applies `normalize` under a mask, with zeros where nothing is allowed: (B, H, T, S)."""
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
        """Returns the inputs of a kernel that computes `weights @ v` for this mechanism."""
        own = self.overridden_steps()
        why_own = f"{type(self).__name__} computes its own {' and '.join(own)}"
        adjusted = self.position is not None and self.position.acts_on == "content"
        rows_alone = self.rows_alone and not (adjusted or self._steps_with_grid)
        if adjusted and not own:
            own, why_own = ["scores"], "the position encoding sees queries and keys"
        if not own:  # norms change bfloat16 to float32; fused kernels need one dtype
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
        """Returns a call on the meta device, without data, to query the kernels."""

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
        """Appends the new keys and values to the cache and attends to all of them."""
        assert isinstance(cache, KeyValueCache)
        count = k.shape[2]
        k, v = cache.append(k, v)
        if cache.has_dropped:
            mask = Recent(mask, cache.first_key(count))
        beside = {} if carried is None else {"carried": cache.carry(carried)}
        return self.mix(q, *self.expand(k, v), mask, **beside)

    def new_cache(self) -> Cache:
        return KeyValueCache()

    def keys_kept(self, mask: Mask) -> int | None:
        # As for a fixed cache: other overridden steps may depend on the first key's position.
        return mask.back if self.why_no_fixed_cache() is None else None

    @classmethod
    def why_no_fixed_cache(cls) -> str | None:
        if not cls.decodes_as(ScoreAttention):
            return f"{cls.__name__} has its own way of decoding"
        if (own := cls.overridden_steps()) and not cls.rows_alone:
            steps = " and ".join(own)
            return f"{cls.__name__} computes its own {steps} and does not declare rows_alone"
        return None

    def share_heads(self, heads: Tensor) -> Tensor:
        """Repeats keys or values (B, H_kv, S, D) for the heads that share them: (B, H, S, D)."""
        return share_heads(heads, self.num_heads)

    @classmethod
    def overridden_steps(cls) -> list[str]:
        """Returns the steps of the map that a subclass overrides; with any of them no fused kernel
        applies.
        """
        steps = (*STEPS, "reaches")
        return [step for step in steps if getattr(cls, step) is not getattr(ScoreAttention, step)]

    @classmethod
    def refusal(cls, role: Role, mask: Mask, position: str) -> str | None:
        """As in `Attention`; also refuses a position encoding that needs the mask but does not get
        it.
        """
        sees_mask = getattr(POSITIONS.get(position), "sees_mask", False)
        alone = "weights" in cls.overridden_steps() and "weights" not in cls._steps_with_grid
        if sees_mask and alone:
            return (
                f"{ATTENTION.name_of(cls)} computes its weights without passing the mask to "
                f"position {position}; give `weights` a parameter `grid` and pass it "
                "to `biased_scores`"
            )
        return super().refusal(role, mask, position)

    @classmethod
    def memory_order(cls) -> int:
        """2 if the map is formed: with overridden steps, or a bias."""
        return 2 if cls.overridden_steps() or cls.has_own_bias() else 1

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """q kᵀ and weights @ v: 4 D per pair and head, without the softmax, as is usual."""
        return 4 * pairs * self.num_heads * self.head_dim

    def cache_elements(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_kv_heads * self.head_dim


def keys_seen(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Returns the number of keys that each query may see, at least 1, for (B, H, T, 1)."""
    if allowed is None:
        return scores.new_full((), scores.shape[-1])
    seen = allowed.expand(*allowed.shape[:-1], scores.shape[-1]).sum(dim=-1, keepdim=True)
    return seen.clamp(min=1).to(scores.dtype)
