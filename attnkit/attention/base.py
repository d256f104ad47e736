"""The contract of a mechanism.

Shape letters, everywhere: B batch, T queries, S keys, H heads, D width of a head, C width of the
model.

The query of each token is compared with the keys of other tokens. A softmax of these scores is the
attention map, which weights the values:

    q = project_query(x)                 (B, H, T, D)
    k, v = project_context(context)      (B, H, S, D) each
    q, k = place(q, k)                   rotated by their positions
    weights = normalize(scores(q, k))    (B, H, T, S)     the attention map
    heads = mix(q, k, v)                 (B, H, T, D)     equals weights @ v
    output = merge(heads, x)             (B, T, C)

A mechanism overrides one or more of these steps. Further steps do nothing by default: `convolve`
mixes each token with the few before it, `exchange` shares keys and values with other layers,
`carry` keeps more of a token than its key and value, `expand` computes keys and values from
something smaller that is cached, `auxiliary_losses` adds terms to the loss.

`declarations.py` contains what a mechanism declares, `score_attention.py` the template of
mechanisms with scores, `recurrent.py` that of mechanisms with a state. `kernels/` computes the
steps that are not overridden.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnkit import norms
from attnkit.attention import counted
from attnkit.attention.cache import Cache
from attnkit.attention.declarations import Declarations
from attnkit.attention.declarations import Role as Role  # imported from here by others
from attnkit.attention.past import Past
from attnkit.attention.stream import Stream
from attnkit.hardware import cpu_model as cpu
from attnkit.masks import Mask, NoMask
from attnkit.masks.once import one_pass, positions
from attnkit.positions.base import AttentionPosition
from attnkit.registry import ATTENTION, POSITIONS, Initialised, Spec

_NO_CACHE = "write it, or say `has_cache = False`, and all tokens are read anew at each step"


class Attention(Declarations, nn.Module, metaclass=Initialised):
    """Updates each token from its context. Base class of all mechanisms.

    The class attributes declare what a mechanism can do, see `Declarations`.

    Args:
        dim: width C of the model.
        num_heads: number H of heads.
        num_kv_heads: number of heads of keys and values, each shared by `num_heads / num_kv_heads`
            query heads.
        head_dim: width D of a head; None: `dim / num_heads`.
        dropout: share of attention weights that are dropped in training.
        bias: add a bias vector to the four projections.

    Raises:
        ValueError: if the sizes do not divide each other.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1:
            raise ValueError(
                f"num_heads {num_heads} and num_kv_heads {num_kv_heads} must be at least 1"
            )
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads {num_kv_heads} does not divide num_heads {num_heads}")
        if head_dim is None and dim % num_heads:
            raise ValueError(
                f"num_heads {num_heads} does not divide dim {dim}; set head_dim or another number"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        self.dropout = dropout
        self.scale = 1 / math.sqrt(self.head_dim)
        self.position: AttentionPosition | None = None
        self.layer, self.num_layers = 0, 1
        self.lender: int | None = None
        inner, shared = num_heads * self.head_dim, num_kv_heads * self.head_dim

        def linear(name: str, inputs: int, outputs: int) -> nn.Linear:
            made = nn.Linear(inputs, outputs, bias=bias) if name in self.projections else None
            return made  # pyright: ignore[reportReturnType]

        # Typed as present, as they are in nearly all mechanisms.
        self.query = linear("query", dim, inner)
        self.key = linear("key", dim, shared)
        self.value = linear("value", dim, shared)
        self.output = linear("output", inner, dim)

    def with_position(self, position: Spec | str | dict) -> Attention:
        """Adds a position encoding that acts inside attention, sized for the heads of this
        mechanism. Returns itself.

        Raises:
            ValueError: if the encoding acts outside attention, or where this mechanism supports
                none.
        """
        spec = Spec.of(position)
        kind = POSITIONS.get(spec.name).acts_on
        if kind == "embeddings" or kind not in self.position_kinds:
            raise ValueError(
                f"position {spec.name} acts on {kind.replace('_', ' ')}, "
                f"where {type(self).__name__} takes none"
            )
        self.position = POSITIONS.build(spec, self.num_heads, self.head_dim)
        return self

    def at_layer(self, layer: int, num_layers: int) -> Attention:
        """Sets `self.layer` (from 0) and `self.num_layers`. The model calls it once all layers are
        built. Returns itself.
        """
        self.layer, self.num_layers = layer, num_layers
        return self

    def above(self, below: Sequence[Attention]) -> None:
        """Receives the mechanisms of all lower layers, the lowest first; the model calls it after
        `at_layer`. A mechanism that uses the keys and values of another layer sets `self.lender` to
        the number of that layer. Default: does nothing.

        Raises:
            ValueError: if the mechanism does not fit one below.
        """

    def initialise(self, draw: Callable[[nn.Module], None]) -> None:
        """Initialises the parameters. The model calls it once.

        Default: applies `draw`, the model's rule, to every `nn.Linear` and `nn.Embedding` that
        still has torch's initial values. Values that `__init__` sets are kept, and so are bare
        parameters.

        Args:
            draw: sets the weight, and a bias to 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not set_by_hand(module):
                draw(module)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())

    @one_pass
    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Mask | None = None,
        cache: Cache | None = None,
        stream: Stream | None = None,
    ) -> Tensor:
        """Lets `x` (B, T, C) attend to `context` (B, S, C); self-attention passes `x` for both.

        Args:
            x: tokens for the queries.
            context: tokens for the keys and values.
            mask: which query may attend to which key; None: every query to every key.
            cache: memory of earlier calls, from `new_cache`; `x` and `context` are then the tokens
                that follow.
            stream: what layers share in this pass; only passed to a mechanism that `reads_stream`.

        Returns:
            (B, T, C)
        """
        mask = NoMask() if mask is None else mask
        beside = {} if stream is None else {"stream": stream}
        prepared = self.prepare(x, context, mask, cache, **beside)
        heads = self.mixed(prepared, mask, cache)
        if stream is not None and stream.losses is not None:
            for name, term in self.auxiliary_losses(prepared, heads, stream.real).items():
                stream.add_loss(name, term)
        return self.merge(heads, x)

    def prepare(
        self,
        x: Tensor,
        context: Tensor,
        mask: Mask,
        cache: Cache | None = None,
        stream: Stream | None = None,
    ) -> Prepared:
        """Projects, convolves and places the tokens of a call: everything before the mixing."""
        q, k, v = self._project(x, context)
        q, k, v = self.convolve(q, k, v, Past(mask, cache, self))
        q, k = self.place(q, k, seen=0 if cache is None else cache.seen)
        if stream is not None:
            k, v = self.exchange(k, v, stream)
        carried = self.carry(q, x)
        if carried is not None:
            carried = Past(mask, cache, self).real(carried)
        return Prepared(q, k, v, carried)

    def mixed(self, prepared: Prepared, mask: Mask, cache: Cache | None = None) -> Tensor:
        """Mixes the result of `prepare`, with the tokens in the cache if any: (B, H, T, D)."""
        q, k, v, carried = prepared
        # Mechanisms without `carry` do not have this parameter.
        beside = {} if carried is None else {"carried": carried}
        if cache is None:
            return self.mix(q, *self.expand(k, v), mask, **beside)
        return self.decode(q, k, v, mask, cache, **beside)

    def project_query(self, x: Tensor) -> Tensor:
        """Computes the queries: (B, T, C) -> (B, H, T, D), D = 0 without the projection `query`."""
        if self.query is None:
            return x.new_zeros(x.shape[0], self.num_heads, x.shape[1], 0)
        return self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Computes keys and values: (B, S, C) -> (B, H_kv, S, D) each. Without the projection
        `key`, keys have no features; without `value`, the value of a head is its part of the token.
        """
        if self.key is None:
            k = context.new_zeros(context.shape[0], self.num_kv_heads, context.shape[1], 0)
        else:
            k = self.key(context).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        if self.value is None:
            return k, context.unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        v = self.value(context).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        return k, v

    def _project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes queries, keys and values; in one product if nothing of it is overridden and the
        CPU is faster that way.
        """
        cls, together = type(self), None
        if (
            x is context
            and cls.project_query is Attention.project_query
            and cls.project_context is Attention.project_context
            and self.projections >= {"query", "key", "value"}
            and self.query.out_features == self.num_heads * self.head_dim
            and self.key.out_features == self.num_kv_heads * self.head_dim
            and self.value.out_features == self.num_kv_heads * self.head_dim
        ):
            together = cpu.joined(x, (self.query, self.key, self.value))
        if together is None:
            return self.project_query(x), *self.project_context(context)
        heads = together.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=1)
        return q, k, v

    def convolve(
        self, q: Tensor, k: Tensor, v: Tensor, past: Past
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixes queries, keys and values of new tokens with those of the few tokens before them, in
        self-attention, usually by a `ShortConvolution`. Default: returns them unchanged.
        """
        return q, k, v

    def exchange(self, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Writes keys or values to `stream.shared` for later layers, or replaces them by those of
        an earlier layer. Self-attention only. Default: returns them unchanged.

        Args:
            k: keys of the new tokens (B, H_kv, S, D), placed.
            v: values of the new tokens (B, H_kv, S, D).
            stream: what layers share in this pass.
        """
        return k, v

    def auxiliary_losses(
        self, prepared: Prepared, heads: Tensor, real: Tensor | None
    ) -> dict[str, Tensor]:
        """Returns terms that training adds to the loss, name -> (), with their weights. Those of
        all layers are summed by name. Default: none.

        Args:
            prepared: queries, keys and values of the call.
            heads: the result of mixing them (B, H, T, D).
            real: (B, T), False for padding; None: no padding.
        """
        return {}

    @classmethod
    def has_auxiliary_losses(cls) -> bool:
        """Returns True if the mechanism has auxiliary losses."""
        return cls.auxiliary_losses is not Attention.auxiliary_losses

    @classmethod
    def reads_stream(cls) -> bool:
        """Returns True if `forward` takes a `stream`."""
        return cls.exchange is not Attention.exchange or cls.has_auxiliary_losses()

    def carry(self, q: Tensor, x: Tensor) -> Tensor | None:
        """Returns what later queries need of these tokens besides keys and values, such as their
        queries (`q`) or the tokens themselves (`x`). Default: None.

        The template sets it to zero for padding, caches it, counts it in the size of the cache, and
        passes that of all tokens so far to steps with a parameter `grid`, as `grid.carried`.
        Self-attention only.

        Args:
            q: queries of the new tokens (B, H, T, D), placed.
            x: the new tokens (B, T, C).

        Returns:
            (B, H', T, E) for any H' and E, or None.
        """
        return None

    @classmethod
    def looks_back(cls) -> bool:
        """Returns True if a row of the map needs earlier tokens, by `convolve` or `carry`."""
        return cls.convolve is not Attention.convolve or cls.carries()

    @classmethod
    def carries(cls) -> bool:
        """Returns True if it overrides `carry`."""
        return cls.carry is not Attention.carry

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Computes keys and values (B, H_kv, S, D) from what the cache stores, if that is smaller,
        such as factors or a latent vector. Default: returns them unchanged.
        """
        return k, v

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Rotates queries and keys by their positions, if the position encoding does so.

        Args:
            q: (B, H, T, D)
            k: (B, H_kv, S, D), keys of the new tokens; features of a key beyond D, such as a gate,
                are not rotated.
            seen: number of tokens before them, already in the cache; a () tensor for a cache of
                fixed size.
        """
        if self.position is None or q.shape[-1] == 0 or k.shape[-1] == 0:
            return q, k
        T, S = q.shape[2], k.shape[2]
        of_keys = positions(seen, S, q.device)
        of_queries = of_keys if T == S else positions(seen + S - T, T, q.device)
        q = self.position.rotate(q, of_queries)
        features = self.position.rotate(k[..., : self.head_dim], of_keys)
        if k.shape[-1] == self.head_dim:
            return q, features
        return q, torch.cat((features, k[..., self.head_dim :]), dim=-1)

    def over(self, x: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Computes cross-attention over keys and values from an earlier `project_context`.

        Args:
            x: (B n, T, C): n consecutive sequences for each of B contexts.
            k: (B, H_kv, S, D)
            v: (B, H_kv, S, D)
            mask: padding of the contexts.

        Returns:
            (B n, T, C)
        """
        # The sequences of a context share its keys, so they are laid out as its queries.
        asking = x.view(k.shape[0], -1, x.shape[-1])  # (B, n T, C)
        q, k = self.place(self.project_query(asking), k)
        return self.merge(self.mix(q, *self.expand(k, v), mask), asking).view_as(x)

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Mixes the values by the attention map: (B, H, T, D). Linear in `v`, unless
        `linear_in_values` is False.
        """

    def reaches(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Returns the keys that each head attends to, among those that the mask allows, for a
        mechanism with its own sparsity pattern. `ScoreAttention` forbids the others. None: all.

        Args:
            query: absolute positions (T, 1).
            key: absolute positions (1, S).

        Returns:
            (T, S) or (H, T, S) boolean, True where a query attends to a key.
        """
        return None

    def decode(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, cache: Cache) -> Tensor:
        """`mix` for tokens that follow those in the cache, which it updates: (B, H, T, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no `decode`; {_NO_CACHE}")

    def new_cache(self) -> Cache:
        """Returns an empty cache for decoding."""
        raise NotImplementedError(f"{type(self).__name__} has no `new_cache`; {_NO_CACHE}")

    def keys_kept(self, mask: Mask) -> int | None:
        """Returns how many keys before the new tokens a cache must keep under a mask; None: the
        cache is not limited.
        """
        return None

    @classmethod
    def why_no_fixed_cache(cls) -> str | None:
        """Returns why the cache cannot be fixed, see `Cache.fix`; None: it can. It cannot for a
        class that overrides steps that a template does not know to be safe.
        """
        return f"{cls.__name__} decodes in its own way"

    @classmethod
    def decodes_as(cls, template: type[Attention]) -> bool:
        """Returns True if it decodes as `template` does, from the same cache and without
        `convolve` and `carry`.
        """
        steps = ("forward", "prepare", "mixed", "mix", "decode", "new_cache")
        alike = all(getattr(cls, step) is getattr(template, step) for step in steps)
        return alike and not cls.looks_back()

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Concatenates the heads and projects them: (B, H, T, D) -> (B, T, C). `x` is for gates."""
        joined = heads.transpose(1, 2).flatten(-2)
        return joined if self.output is None else self.output(joined)

    def projection_flops(self) -> int:
        """Returns the FLOPs of the four projections for one token, forward (2 per weight)."""
        linears = [module for module in self.modules() if isinstance(module, nn.Linear)]
        return sum(2 * linear.weight.numel() for linear in linears)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Returns the FLOPs between the projections, forward. Counted on the meta device, unless a
        class declares them for its own steps.

        Args:
            num_tokens: tokens of one sequence.
            pairs: (query, key) pairs that the mask allows; `num_tokens ** 2` for what a dense
                kernel computes.
        """
        return counted.counted_mixing_flops(self, num_tokens, pairs)

    def cache_elements(self, num_tokens: int) -> int:
        """Returns the number of elements in the cache for one sequence of `num_tokens` tokens.
        Counted on the meta device, unless a class declares it for its own steps.
        """
        return counted.counted_cache_elements(self, num_tokens)


class Prepared(NamedTuple):
    """The inputs of the mixing in one call.

    Attributes:
        q: queries (B, H, T, D).
        k: keys (B, H_kv, S, D), as a cache stores them.
        v: values (B, H_kv, S, D), as a cache stores them.
        carried: (B, H', T, E), see `Attention.carry`.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    carried: Tensor | None


def set_by_hand(module: nn.Linear | nn.Embedding) -> bool:
    """Returns True if a module has changed since torch initialised it.

    torch counts in-place changes, but not those through `.data`. So values that torch would not
    draw count as a change too.
    """
    parameters = list(module.parameters(recurse=False))
    if any(p._version != _DRAWN_ONCE for p in parameters):
        return True
    without_numbers = module.weight.is_meta or type(module.weight.detach()) is not Tensor
    if isinstance(module, nn.Embedding) or without_numbers:
        return False
    bound = 1.001 * module.in_features**-0.5
    return any(
        bool(p.abs().max() > bound) or (p.numel() > 1 and bool((p == p.flatten()[0]).all()))
        for p in map(torch.detach, parameters)
        if p.numel()
    )


_DRAWN_ONCE = nn.Linear(1, 1).weight._version


def build_attention(
    spec: Spec | str | dict, dim: int, *, position: Spec | str = "none"
) -> Attention:
    """Builds a mechanism, with the position encoding in it if that acts inside attention.

    Raises:
        RegistryError: if a name or an option is unknown.
        ValueError: if sizes do not fit.
    """
    attention = ATTENTION.build(spec, dim)
    position = Spec.of(position)
    if POSITIONS.get(position.name).acts_on != "embeddings":
        attention.with_position(position)
    return attention


def __getattr__(name: str) -> Any:
    """Names that plugins of earlier versions import from here."""
    if name == "ScoreAttention":
        from attnkit.attention.score_attention import ScoreAttention

        return ScoreAttention
    if name in ("HeadNorm", "RMSNorm"):
        return getattr(norms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
