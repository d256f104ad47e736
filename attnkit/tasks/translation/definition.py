"""Translation as a task: sentence pairs, an encoder-decoder, the loss of the next target token."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attnkit.models.beam_search import Search
from attnkit.recipe.annotations import Range
from attnkit.registry import PAIRS, TASKS, TOKENIZERS, Spec
from attnkit.tasks.building import final_max_tokens
from attnkit.tasks.definition import Row, TaskDefinition
from attnkit.tasks.language_modeling.definition import size_of_vocabulary, unknown_row

if TYPE_CHECKING:
    from torch import Tensor

    from attnkit.data.translation import TranslationData
    from attnkit.recipe import Recipe
    from attnkit.tasks.trained_run import TrainedRun


@TASKS.register("translation")
class Translation(TaskDefinition):
    """Translate sentences.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary
            (arXiv:1706.03762, section 5.4); not used for the validation loss.
        max_ratio: drop training pairs in which one side has more than this many times the tokens of
            the other; null: drop none.
        beam: number of hypotheses of the final beam search; 1: greedy.
        length_penalty: alpha of the search, see `models/beam_search.py`.
        decode_every: steps between greedy decodings of a part of the validation split; null: with
            each validation.
        decode_sentences: number of sentences to decode then, for BLEU and chrF; 0: none.
        average: number of last weights, one after each validation, that are averaged for the final
            metrics; 0: use the last weights.
        probes: number of sentence pairs whose attention is drawn.
    """

    data = PAIRS
    default_data = Spec("cldr_pairs")
    model = "attnkit.models.encoder_decoder:EncoderDecoder"
    module = "attnkit.tasks.translation.task:TranslationTask"
    run_class = "attnkit.tasks.translation.translator:Translator"
    takes = ("tokenizer", "target_tokenizer", "trainer.batch_tokens")
    loads_with = ("model", "tokenizer", "target_tokenizer")

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, Range(min=0, max=0.5)] = 0.1,
        max_ratio: Annotated[float, Range(min=1)] | None = 9.0,
        beam: Annotated[int, Range(min=1, max=100)] = 5,
        length_penalty: Annotated[float, Range(min=0, max=5)] = 1.0,
        decode_every: Annotated[int, Range(min=1)] | None = None,
        decode_sentences: Annotated[int, Range(min=0)] = 200,
        average: Annotated[int, Range(min=0, max=100)] = 0,
        probes: Annotated[int, Range(min=1, max=10)] = 2,
    ) -> None:
        self.label_smoothing = label_smoothing
        self.max_ratio = max_ratio
        self.search = Search(beam=beam, length_penalty=length_penalty)
        self.decode_every = decode_every
        self.decode_sentences = decode_sentences
        self.average = average
        self.probes = probes

    def check(self, recipe: Recipe) -> Iterable[tuple[str, str]]:
        """Yields a problem if two vocabularies share embeddings."""
        if recipe.target_tokenizer is not None and recipe.model["shared_embeddings"]:
            yield (
                "target_tokenizer",
                "source and target have different tokenizers, so they cannot share embeddings; set "
                "model.shared_embeddings=false, or remove target_tokenizer",
            )

    def build_data(self, recipe: Recipe) -> TranslationData:
        """Returns sentence pairs; reads nothing yet."""
        from attnkit.data.translation import TranslationData

        own = recipe.target_tokenizer
        return TranslationData(
            PAIRS.build(recipe.data),
            TOKENIZERS.build(recipe.tokenizer),
            None if own is None else TOKENIZERS.build(own),
            max_seq_len=recipe.model["max_seq_len"],
            max_ratio=self.max_ratio,
            batch_tokens=recipe.trainer.batch_tokens,
            seed=recipe.seed,
            val_max_tokens=recipe.validation.max_tokens,
            final_max_tokens=final_max_tokens(recipe, recipe.trainer.batch_tokens),
            val_part=recipe.validation.part,
        )

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """Returns the size of a vocabulary that is not trained yet."""
        size, origin = size_of_vocabulary(recipe.tokenizer)
        return (size,), origin

    def module_options(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the options of decoding and averaging."""
        return {
            "validate_every": recipe.validate_every,
            "label_smoothing": self.label_smoothing,
            "search": self.search,
            "decode_every": self.decode_every,
            "decode_sentences": self.decode_sentences,
            "average_last": self.average,
            "num_probes": self.probes,
        }

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> TrainedRun:
        """Loads a trained run, whose vocabularies are in a folder."""
        from attnkit.data.translation import load_vocabularies
        from attnkit.tasks.trained_run import filled, home_of
        from attnkit.tasks.translation.translator import Translator

        separate = recipe.target_tokenizer is not None
        tokenizers = load_vocabularies(folder, separate=separate)
        sizes = [tokenizers[1].vocab_size, *([tokenizers[0].vocab_size] if separate else [])]
        model = filled(lambda: self.model_class()(*sizes, **recipe.model), weights, origin)
        return Translator(recipe, home_of(folder, origin), model, tokenizers)

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields the validation loss, then the scores of each test set."""
        metrics = record["metrics"]
        yield Row("loss, nats per token", f"{metrics['loss']:.4f}")
        yield Row("perplexity", f"{metrics['perplexity']:.3f}")
        yield from unknown_row(record)
        yield Row("token accuracy", f"{metrics['token_accuracy']:.1%}")
        words = {
            "bleu": ("BLEU", "{:.2f}"),
            "chrf": ("chrF", "{:.2f}"),
            "exact_match": ("exact match", "{:.1f} %"),
            "alignment_error_rate_predicting_row": ("alignment error rate", "{:.3f}"),
            "alignment_error_rate_input_row": ("  by the input row", "{:.3f}"),
        }
        splits = [name.removeprefix("bleu_") for name in metrics if name.startswith("bleu_")]
        for split in splits:
            for name, (label, form) in words.items():
                value = metrics.get(f"{name}_{split}")
                if value is not None:
                    text = form.format(value)
                    yield Row(f"{split}: {label}", text, begins_section=name == "bleu")

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Returns the command for translation."""
        command = f"attnkit translate {shlex.quote(str(directory))}"
        return {"translate": f"{command} {shlex.quote(example)}"}
