"""Translation from a recipe: sentence pairs, an encoder-decoder, the loss of the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attnkit.assembly.by_task import final_max_tokens, options_of_every_task
from attnkit.data.translation import TranslationData
from attnkit.models.beam_search import Search
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.recipe import Recipe
from attnkit.registry import OPTIMIZERS, PAIRS, SCHEDULES, TOKENIZERS

if TYPE_CHECKING:
    from attnkit.tasks.translation import TranslationTask


def build_data(recipe: Recipe) -> TranslationData:
    """The data that a recipe names; nothing is read yet."""
    own = recipe.target_tokenizer
    return TranslationData(
        PAIRS.build(recipe.data),
        TOKENIZERS.build(recipe.tokenizer),
        None if own is None else TOKENIZERS.build(own),
        max_seq_len=recipe.model["max_seq_len"],
        max_ratio=recipe.translation.max_ratio,
        batch_tokens=recipe.trainer.batch_tokens,
        seed=recipe.seed,
        val_max_tokens=recipe.validation.max_tokens,
        final_max_tokens=final_max_tokens(recipe, recipe.trainer.batch_tokens),
        val_part=recipe.validation.part,
    )


def build_model(recipe: Recipe, *vocab_sizes: int) -> EncoderDecoder:
    """The model that a recipe describes, with weights drawn from its seed."""
    torch.manual_seed(recipe.seed)
    return EncoderDecoder(*vocab_sizes, **recipe.model)


def build_task(recipe: Recipe, model: EncoderDecoder, data: TranslationData) -> TranslationTask:
    """The model with its loss, its data, its optimizer and its search."""
    from attnkit.tasks.translation import TranslationTask

    options = recipe.translation
    return TranslationTask(
        model,
        data,
        OPTIMIZERS.build(recipe.optimizer),
        SCHEDULES.build(recipe.schedule),
        validate_every=recipe.validate_every,
        label_smoothing=options.label_smoothing,
        search=Search(beam=options.beam, length_penalty=options.length_penalty),
        decode_every=options.decode_every,
        decode_sentences=options.decode_sentences,
        average_last=options.average,
        num_probes=options.probes,
        **options_of_every_task(recipe),
    )
