"""What a layer is, as a value (`LayerOptions`) and as a module (`Layer`).

A layer has up to three branches: attention over the sequence itself, where tokens look at each
other; cross-attention, where they look at another sequence; and an MLP, where each token is on its
own. How the branches are joined is the layer's wiring, see `wirings.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.attention.stream import Stream
from attnkit.models.mlps import MLP
from attnkit.norms import build_norm
from attnkit.registry import ATTENTION, MASKS, MLPS, NORMS, POSITIONS, WIRINGS, Spec

SpecLike = Spec | str | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """What one layer is.

    Attributes:
        attention: the mechanism over the sequence itself.
        cross: the mechanism that looks at another sequence; None: there is none.
        mask: which token may look at which; a list means that all must allow.
        position: how attention tells the order of the tokens.
        mlp: the MLP.
        mlp_dim: width inside the MLP; None: as the MLP has it by default.
        norm: normalisation of the branches.
        wiring: how the branches are joined.
        dropout: share of each branch's output that training drops.
        bias: bias vectors in MLP and norms.
        entry: place of the pattern's entry that it comes from; None: there is no pattern.
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
    """Some layers of a pattern, by what they have of their own; null: as the section says.

    Args:
        repeat: how many such layers stand in a row.
        attention: the mechanism.
        mask: which token may look at which.
        position: how attention tells the order of the tokens. What is added to the embeddings
            reaches all layers.
        mlp: the MLP; `none` leaves it out.
        mlp_dim: width inside the MLP.
        norm: normalisation of each branch.
        wiring: how a layer joins its branches.
        dropout: share of each branch's output that training drops.
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
    """The same for layers that look at a source.

    Args:
        cross: the mechanism from target to source.
    """

    cross: Annotated[Spec | None, ATTENTION] = None


def layer_options(
    section: Mapping[str, Any],
    num_layers: int,
    pattern: Sequence[LayerEntry | Mapping[str, Any]] | None = None,
    part: str = "",
) -> list[LayerOptions]:
    """What each layer is: the options of a section, in which a pattern changes some.

    Args:
        section: options of every layer by the names of `LayerOptions`; `attention` and `cross` may
            be a list with one for each layer.
        num_layers: layers.
        pattern: what layers have of their own, repeated until all layers are served.
        part: the part of the model, such as `encoder`, for messages.

    Raises:
        ValueError: if a list has another length than `num_layers`, or if the pattern is empty or
            longer.
        RegistryError: if a mapping names nothing.
    """
    section = dict(section)
    dot = f"{part}." if part else ""
    keys = {"attention": f"{dot}attention", "cross": "cross.attention"}
    of_layer = {
        key: one_per_layer(section.pop(key), num_layers, name)
        for key, name in keys.items()
        if section.get(key) is not None
    }
    entries = [
        entry if isinstance(entry, LayerEntry) else DecoderLayerEntry(**entry)
        for entry in pattern or ()
    ]
    if pattern is not None and not entries:
        raise ValueError(f"{dot}layers lists no layer; leave it out, or write an entry")
    places: list[int | None] = [None]
    if entries:
        places = []
        for place, entry in enumerate(entries):
            if entry.repeat < 1:
                where = f"{dot}layers[{place}].repeat"
                raise ValueError(f"{where} must be at least 1, got {entry.repeat}")
            if entry.dropout is not None and not 0 <= entry.dropout < 1:
                where = f"{dot}layers[{place}].dropout"
                raise ValueError(f"{where} must be in [0, 1), got {entry.dropout}")
            places += [place] * entry.repeat
        if len(places) > num_layers:
            raise ValueError(
                f"{dot}layers describes {len(places)} layers, and num_layers is {num_layers}; set "
                f"{dot}num_layers to {len(places)} at least, or shorten the pattern"
            )
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
    """Where a recipe says an option of a layer, below the section `model`.

    Args:
        options: of the layer.
        key: of the option, such as `attention`.
        part: the part of the model, such as `encoder`.
    """
    where = key if options.entry is None else f"layers[{options.entry}].{key}"
    return f"{part}.{where}" if part else where


NORM_OF = {"attention": "attention_norm", "cross_attention": "cross_norm", "mlp": "mlp_norm"}
"""Branch -> the name of its norm, in the order in which a layer has them."""


class Layer(nn.Module, ABC):
    """One layer: its branches, joined by `forward`. Base of all wirings, see `wirings.py`.

    Args:
        branches: name (`attention`, `cross_attention`, `mlp`) -> module.
        norm: makes a normalisation.
        dropout: share of each branch's output that training drops.
    """

    formula: ClassVar[str] = ""
    """The equation, in one line."""

    paper: ClassVar[str] = ""
    """The source: authors, year, arXiv id, section."""

    is_normalised: ClassVar[bool] = False
    """True where what comes out is normalised: a stack then has no norm behind its last layer."""

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
        """Names of the norms that come with a branch. Default: one."""
        return (NORM_OF[branch],)

    @abstractmethod
    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, C) -> (B, T, C), with the help of `norm` and `branch`."""

    def norm(self, branch: str, x: Tensor) -> Tensor:
        """Tokens through the first norm of a branch: (B, T, C)."""
        return getattr(self, self.norms_of(branch)[0])(x)

    def branch(self, name: str, x: Tensor, stream: Stream) -> Tensor:
        """What a branch makes of tokens, dropout included: (B, T, C).

        Args:
            name: one of `branches`.
            x: (B, T, C), normalised if the wiring does so.
            stream: at this layer.
        """
        if name == "attention":
            attention, beside = self.attention, (stream.mask, stream.cache)
            if attention.reads_stream():  # others need not know that there is one
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
    """Makes a layer around mechanisms that are made already.

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
    """Gives all parameters their first values: by the model's rule, and by what each mechanism says
    of its own (`Attention.initialise`).

    Args:
        model: a whole model.
        draw: the rule: what to draw, and whether it lies in a layer.

    Returns:
        Weight that the rule has drawn -> its version then, which grows when it is changed.
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
    """One mechanism a layer: repeats a single one, checks the length of a list.

    Raises:
        ValueError: if a list has another length than `num_layers`.
    """
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        if len(specs) != num_layers:
            raise ValueError(
                f"{key} lists {len(specs)} mechanisms for num_layers {num_layers}; list one for "
                "each layer, or a single one for all"
            )
        return [Spec.of(spec) for spec in specs]
    return [Spec.of(specs)] * num_layers
