"""Laws about whole models, with any wirings, norms, MLPs, masks and mechanisms in their layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attnkit.attention.stream import Stream
from attnkit.checks.card import Card, Line
from attnkit.checks.case import NOISE, Broken, DoesNotApply, demand, demand_close, require
from attnkit.checks.contents import writes_nothing
from attnkit.checks.subjects import PARTS
from attnkit.models.encoder_decoder import DecoderOptions, EncoderDecoder, EncoderOptions
from attnkit.models.influence import allowed_by_masks, measure_later_influence
from attnkit.models.language_model import LanguageModel
from attnkit.registry import Spec

M = TypeVar("M", bound=nn.Module)
Law = Callable[[LanguageModel | EncoderDecoder], None]

CHUNKS = ((1,), (4, 1, 3), (2, 5, 1), (7, 1))
"""Numbers of tokens that are decoded at a time, repeated to the end of a sequence."""


def calls_write_nothing_to_self(model: LanguageModel | EncoderDecoder) -> None:
    """A pass, in evaluation, in training or from a cache, changes no attribute and no buffer of the
    model and its parts.
    """
    model = shaken(model)
    inputs = _tokens(model) if isinstance(model, LanguageModel) else _pairs(model)
    for training in (False, True):
        model.train(training)
        with torch.random.fork_rng(devices=[]), writes_nothing(model, " in training" * training):
            model(*inputs, stream=Stream())
    if not model.can_cache:
        return
    model.eval()
    with torch.no_grad(), writes_nothing(model, " with a cache"):
        tokens, _, start = _reading(model)
        read = start()
        for a, b in _steps(CHUNKS[1], tokens.shape[1]):
            read(a, b)


def no_prediction_sees_more_than_the_masks_say(model: LanguageModel | EncoderDecoder) -> None:
    """A later token changes no prediction that the masks hide it from."""
    if isinstance(model, LanguageModel):
        found = measure_later_influence(model)
        demand(
            allowed_by_masks(model, found),
            f"{found.num_moved} of {found.num_positions} predictions moved, but the masks allow "
            f"fewer; token {found.changed_token} moved prediction {found.moved_output} by "
            f"{found.change:.1e}",
        )
        return
    model = shaken(model)
    source, keep, target = _pairs(model)
    with torch.no_grad():
        before = model(source, keep, target)
        for place in range(1, target.shape[1]):
            changed = target.clone()
            changed[:, place] = (changed[:, place] + 1) % model.head.out_features
            moved = float((model(source, keep, changed) - before)[:, :place].abs().max())
            demand(moved == 0, f"target token {place} moved an earlier prediction by {moved:.1e}")


def decoding_equals_the_full_pass(model: LanguageModel | EncoderDecoder) -> None:
    """Decoding token by token, and in chunks of any size, gives the predictions of one pass."""
    require(model.can_cache, "it cannot decode from a cache")
    model = shaken(model)
    with torch.no_grad():
        tokens, full, start = _reading(model)
        for sizes in CHUNKS:
            read = start()
            parts = [read(a, b) for a, b in _steps(sizes, tokens.shape[1])]
            demand_close(torch.cat(parts, dim=1), full, f"decoded in chunks of {sizes}", atol=1e-9)


def _reading(
    model: LanguageModel | EncoderDecoder,
) -> tuple[Tensor, Tensor, Callable[[], Callable[[int, int], Tensor]]]:
    """Returns tokens, the predictions of one pass, and a function that starts decoding: it returns
    a function of the first and the last position of a step.
    """
    if isinstance(model, LanguageModel):
        tokens, documents = _tokens(model)

        def start() -> Callable[[int, int], Tensor]:
            cache = model.new_cache()
            return lambda a, b: model(tokens[:, a:b], documents[:, :b], cache)

        return tokens, model(tokens, documents), start
    source, keep, target = _pairs(model)

    def start_decoder() -> Callable[[int, int], Tensor]:
        cache = model.new_cache(source, keep)
        return lambda a, b: model.decode(target[:, a:b], cache)

    return target, model(source, keep, target), start_decoder


def padding_changes_nothing(model: LanguageModel | EncoderDecoder) -> None:
    """A sequence gives the same predictions alone and in a batch with longer ones; padded tokens
    change nothing.
    """
    model = shaken(model)
    with torch.no_grad():
        if isinstance(model, LanguageModel):
            require(all(mask.ahead == 0 for mask in model.masks), "its tokens see later ones")
            tokens, documents = _tokens(model)
            whole, half = model(tokens, documents), tokens.shape[1] // 2
            alone = model(tokens[:1, :half], documents[:1, :half])
            demand_close(whole[:1, :half], alone, "beside a longer sequence", atol=1e-9)
            return
        source, keep, target = _pairs(model)
        together = model(source, keep, target)
        other = torch.where(keep, source, (source + 1) % model.source_embedding.num_embeddings)
        demand_close(model(other, keep, target), together, "with other padding", atol=1e-9)
        for row, length in enumerate(keep.sum(dim=1).tolist()):
            one = slice(row, row + 1)
            alone = model(source[one, :length], keep[one, :length], target[one])
            demand_close(together[one], alone, "beside a longer source", atol=1e-9)


MODEL_LAWS: tuple[Law, ...] = (
    calls_write_nothing_to_self,
    no_prediction_sees_more_than_the_masks_say,
    decoding_equals_the_full_pass,
    padding_changes_nothing,
)

DIM, LENGTH = 32, 24
"""Width and length of the models in which a part is tested."""


def models_with(key: str, spec: Spec) -> list[LanguageModel | EncoderDecoder]:
    """Makes small models with one part: a language model and, for a part of every layer, an
    encoder-decoder.

    Args:
        key: key of the model, such as `wiring`.
        spec: the part.

    Raises:
        ValueError: if the part does not support this size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options: dict[str, Any] = {"max_seq_len": LENGTH, "dim": DIM, key: spec}
        alone = LanguageModel(7, num_layers=2, position=Spec("none"), **options)
        if key not in PARTS:
            return [alone]
        encoder, decoder = EncoderOptions(num_layers=1), DecoderOptions(num_layers=2)
        return [alone, EncoderDecoder(7, encoder=encoder, decoder=decoder, **options)]


def check_part(key: str, spec: Spec, on_line: Callable[[Line], None] = lambda line: None) -> Card:
    """Tests the laws about whole models on small models with one part.

    Args:
        key: key of the model, such as `wiring`.
        spec: the part.
        on_line: called with each line as soon as it is known.
    """
    models = models_with(key, spec)
    card = Card(spec.name, len(models))
    for law in MODEL_LAWS:
        num_tested, line = 0, None
        for model in models:
            about = f"{type(model).__name__} of width {DIM}"
            try:
                law(model)
                num_tested += 1
            except DoesNotApply:
                continue
            except Broken as error:
                line = Line(law.__name__, "models", "broken", num_tested, str(error), about)
                break
            except Exception as error:
                words = f"{type(error).__name__}: {error}"
                line = Line(law.__name__, "models", "crashed", num_tested, words, about)
                break
        card.lines.append(line or Line(law.__name__, "models", "holds", num_tested))
        on_line(card.lines[-1])
    return card


def shaken(model: M, seed: int = 0) -> M:
    """Returns a copy in float64 and evaluation mode, with noise on all parameters, so that zeros at
    the start of training hide nothing.
    """
    model = copy.deepcopy(model).eval().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(NOISE * noise)
    return model


def _tokens(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Returns tokens (2, T) and their documents."""
    generator, length = torch.Generator().manual_seed(1), min(model.max_seq_len, 24)
    tokens = torch.randint(model.head.out_features, (2, length), generator=generator)
    return tokens, (torch.arange(length) // 9).expand(2, -1)


def _pairs(model: EncoderDecoder) -> tuple[Tensor, Tensor, Tensor]:
    """Returns sources (3, S), True for real tokens (3, S), and targets (3, T)."""
    generator, length = torch.Generator().manual_seed(1), min(model.max_seq_len, 12)
    source = torch.randint(model.source_embedding.num_embeddings, (3, length), generator=generator)
    target = torch.randint(model.head.out_features, (3, length), generator=generator)
    lengths = torch.tensor([length, max(length // 2, 1), max(length // 3, 1)])
    return source, torch.arange(length) < lengths[:, None], target


def _steps(sizes: tuple[int, ...], length: int) -> Iterator[tuple[int, int]]:
    """Yields the first and the last position of each step."""
    start, turn = 0, 0
    while start < length:
        stop = min(start + sizes[turn % len(sizes)], length)
        yield start, stop
        start, turn = stop, turn + 1
