"""What a layer is, as a value (`LayerOptions`) and as a module (`Layer`).

A layer has up to three branches: self-attention, cross-attention, and an MLP, which acts on each
token alone. Its wiring defines how the branches are combined; see `wirings.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.attention.stream import Stream
from attnkit.models.mlps import MLP
from attnkit.norms import build_norm
from attnkit.registry import ATTENTION, MASKS, MLPS, NORMS, POSITIONS, WIRINGS, Initialised, Spec

SpecLike = Spec | str | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """The options of one layer.

    Attributes:
        attention: the self-attention mechanism.
        cross: the cross-attention mechanism; None: no cross-attention.
        mask: mask of the self-attention; all masks of a list must allow a pair.
        position: the position encoding.
        mlp: the MLP.
        mlp_dim: hidden width of the MLP; None: the default of the MLP.
        norm: the normalisation of the branches.
        wiring: how the branches are combined.
        dropout: share of each branch's output that is dropped in training.
        bias: bias vectors in MLP and norms.
        entry: index of the pattern entry that the layer comes from; None: no pattern.
    """

    attention: Spec
    cross: Spec | None = None
    mask: Spec | list[Spec]
    position: Spec
    mlp: Spec
    mlp_dim: int | None = None
    norm: Spec
    wiring: Spec
    dropout: float = 0.0
    bias: bool = False
    entry: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerEntry:
    """An entry of a pattern of layers. A key that is null is taken from the section.

    Args:
        repeat: number of consecutive layers.
        attention: the mechanism.
        mask: the mask; all masks of a list must allow a pair.
        position: the position encoding. One that is added to the embeddings acts on all layers.
        mlp: the MLP; `none`: no MLP.
        mlp_dim: hidden width of the MLP.
        norm: the normalisation of each branch.
        wiring: how the branches are combined.
        dropout: share of each branch's output that is dropped in training.
        bias: bias vectors in MLP and norms.
    """

    repeat: int = 1
    attention: Annotated[Spec | None, ATTENTION] = None
    mask: Annotated[Spec | list[Spec] | None, MASKS] = None
    position: Annotated[Spec | None, POSITIONS] = None
    mlp: Annotated[Spec | None, MLPS] = None
    mlp_dim: int | None = None
    norm: Annotated[Spec | None, NORMS] = None
    wiring: Annotated[Spec | None, WIRINGS] = None
    dropout: float | None = None
    bias: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderLayerEntry(LayerEntry):
    """An entry of a pattern of decoder layers.

    Args:
        cross: the cross-attention mechanism.
    """

    cross: Annotated[Spec | None, ATTENTION] = None


MAX_LAYERS = 2048
"""Largest number of layers of a stack."""


def layer_options(
    section: Mapping[str, Any],
    num_layers: int,
    pattern: Sequence[LayerEntry | Mapping[str, Any]] | None = None,
    part: str = "",
) -> list[LayerOptions]:
    """Returns the options of each layer: those of a section, overridden by a pattern.

    Args:
        section: values for the fields of `LayerOptions`; `attention` and `cross` may be lists with
            one mechanism per layer.
        num_layers: number of layers.
        pattern: entries, repeated over the layers; None: all layers have the section's values.
        part: the part of the model, such as `encoder`, for messages.

    Raises:
        ValueError: if a list does not have `num_layers` mechanisms, if the pattern is empty or
            longer than `num_layers`, or if there are more than `MAX_LAYERS`.
        RegistryError: if a mapping has no name.
    """
    section = dict(section)
    dot = f"{part}." if part else ""
    entries = [
        entry if isinstance(entry, LayerEntry) else DecoderLayerEntry(**entry)
        for entry in pattern or ()
    ]
    if pattern is not None and not entries:
        raise ValueError(f"{dot}layers lists no layer; leave it out, or write an entry")
    for place, entry in enumerate(entries):
        if entry.repeat < 1:
            where = f"{dot}layers[{place}].repeat"
            raise ValueError(f"{where} must be at least 1, got {entry.repeat}")
        if entry.dropout is not None and not 0 <= entry.dropout < 1:
            where = f"{dot}layers[{place}].dropout"
            raise ValueError(f"{where} must be in [0, 1), got {entry.dropout}")
    described = sum(entry.repeat for entry in entries)
    for key, count in (("num_layers", num_layers), ("layers", described)):
        if count > MAX_LAYERS:  # checked before any layer is built
            raise ValueError(f"{dot}{key} must give at most {MAX_LAYERS:,} layers, got {count:,}")
    if described > num_layers:
        raise ValueError(
            f"{dot}layers describes {described} layers, but num_layers is {num_layers}; set "
            f"{dot}num_layers to at least {described}, or shorten the pattern"
        )
    keys = {"attention": f"{dot}attention", "cross": "cross.attention"}
    of_layer = {
        key: one_per_layer(section.pop(key), num_layers, name)
        for key, name in keys.items()
        if section.get(key) is not None
    }
    repeated = [place for place, entry in enumerate(entries) for _ in range(entry.repeat)]
    places: list[int | None] = [*repeated] or [None]
    found, made = [], {}
    for i in range(num_layers):
        place = places[i % len(places)]
        kind = (place, *(id(listed[i]) for listed in of_layer.values()))
        if kind in made:  # equal layers are one value
            found.append(made[kind])
            continue
        keys = {**section, **{key: listed[i] for key, listed in of_layer.items()}}
        if place is not None:
            own = vars(entries[place]).items()
            keys |= {key: value for key, value in own if key != "repeat" and value is not None}
        for key in _NAMED:
            keys[key] = Spec.of(keys[key])
        if keys.get("cross") is not None:
            keys["cross"] = Spec.of(keys["cross"])
        made[kind] = LayerOptions(**keys, entry=place)
        found.append(made[kind])
    return found


_NAMED = ("attention", "position", "mlp", "norm", "wiring")


def key_of(options: LayerOptions, key: str, part: str = "") -> str:
    """Returns the recipe key of an option of a layer, without `model`.

    Args:
        options: options of the layer.
        key: key of the option, such as `attention`.
        part: the part of the model, such as `encoder`.
    """
    where = key if options.entry is None else f"layers[{options.entry}].{key}"
    return f"{part}.{where}" if part else where


NORM_OF = {"attention": "attention_norm", "cross_attention": "cross_norm", "mlp": "mlp_norm"}
"""Branch -> name of its norm, in the order of the parameters."""


class Layer(nn.Module, metaclass=Initialised):
    """A layer. Base class of all wirings, which combine the branches in `forward`.

    Args:
        branches: `attention`, `cross_attention` and `mlp`, those that the layer has.
        norm: makes a normalisation.
        dropout: share of each branch's output that is dropped in training.
    """

    formula: ClassVar[str] = ""
    """The equation, in one line."""

    paper: ClassVar[str] = ""
    """The source: authors, year, arXiv id, section."""

    is_normalised: ClassVar[bool] = False
    """True if the output is normalised: a stack then has no norm after its last layer."""

    attention: Attention
    cross_attention: Attention | None
    mlp: MLP | None

    def __init__(
        self, branches: Mapping[str, nn.Module], norm: Callable[[], nn.Module], dropout: float
    ) -> None:
        super().__init__()
        self.branches = tuple(name for name in NORM_OF if name in branches)
        for name in NORM_OF:
            for place in self.norms_of(name):
                self.register_module(place, norm() if name in self.branches else None)
            self.register_module(name, branches.get(name))
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def norms_of(cls, branch: str) -> tuple[str, ...]:
        """Returns the names of the norms of a branch. Default: one norm."""
        return (NORM_OF[branch],)

    @abstractmethod
    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Combines the branches: (B, T, C) -> (B, T, C). Calls `norm` and `branch`."""

    def norm(self, branch: str, x: Tensor) -> Tensor:
        """Applies the first norm of a branch: (B, T, C) -> (B, T, C)."""
        return getattr(self, self.norms_of(branch)[0])(x)

    def branch(self, name: str, x: Tensor, stream: Stream) -> Tensor:
        """Computes a branch, with dropout: (B, T, C) -> (B, T, C).

        Args:
            name: one of `branches`.
            x: (B, T, C)
            stream: stream of this layer.
        """
        if name == "attention":
            attention, beside = self.attention, (stream.mask, stream.cache)
            if attention.reads_stream():  # others may have a `forward` without it
                beside = (*beside, stream)
            return self.dropout(attention(x, x, *beside))
        if name == "mlp":
            assert self.mlp is not None
            return self.dropout(self.mlp(x, stream))
        cross = self.cross_attention
        assert cross is not None
        assert stream.context_mask is not None
        if stream.source is not None:
            return self.dropout(cross.over(x, *stream.source, stream.context_mask))
        assert stream.context is not None
        return self.dropout(cross(x, stream.context, stream.context_mask))


def build_layer(
    options: LayerOptions, dim: int, attention: Attention, cross: Attention | None = None
) -> Layer:
    """Makes a layer from its mechanisms.

    Raises:
        RegistryError: if a name or an option is unknown.
        ValueError: if sizes do not fit.
    """
    branches: dict[str, nn.Module] = {"attention": attention}
    if cross is not None:
        branches["cross_attention"] = cross
    mlp = Spec.of(options.mlp)
    if mlp.name != "none":
        branches["mlp"] = MLPS.build(mlp, dim, options.mlp_dim, options.bias)
    return WIRINGS.build(
        options.wiring,
        branches,
        lambda: build_norm(options.norm, dim, bias=options.bias),
        options.dropout,
    )


def draw_parameters(
    model: nn.Module, draw: Callable[[nn.Linear | nn.Embedding, bool], None]
) -> dict[Tensor, int]:
    """Initialises all parameters: by the model's rule, or as each mechanism does for its own
    (`Attention.initialise`).

    Args:
        model: a whole model.
        draw: the rule, called with a module and True if it is in a layer.

    Returns:
        Weight drawn by the rule -> its version, which increases when the weight is changed.
    """
    drawn: dict[Tensor, int] = {}
    seen: set[nn.Module] = set()

    def by_rule(module: nn.Module, in_layer: bool = True) -> None:
        assert isinstance(module, nn.Linear | nn.Embedding)
        draw(module, in_layer)
        drawn[module.weight] = module.weight._version

    for name, module in model.named_modules():
        if module in seen:
            continue
        if isinstance(module, Attention):
            seen.update(module.modules())
            module.initialise(by_rule)
        elif isinstance(module, nn.Linear | nn.Embedding):
            by_rule(module, "layers." in name)
    return drawn


def one_per_layer(
    specs: SpecLike | Sequence[SpecLike], num_layers: int, key: str = "attention"
) -> list[Spec]:
    """Returns one mechanism per layer: repeats a single one, checks the length of a list.

    Raises:
        ValueError: if a list does not have `num_layers` mechanisms.
    """
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        if len(specs) != num_layers:
            raise ValueError(
                f"{key} lists {len(specs)} mechanisms for num_layers {num_layers}; list one for "
                "each layer, or a single one for all"
            )
        return [Spec.of(spec) for spec in specs]
    return [Spec.of(specs)] * num_layers
