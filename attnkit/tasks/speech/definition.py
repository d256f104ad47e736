"""Speech to text as a task: sounds, an encoder-decoder, the loss of the next letter."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attnkit.recipe.annotations import Range
from attnkit.registry import SPEECH, TASKS, TOKENIZERS, Spec
from attnkit.tasks.building import final_max_tokens
from attnkit.tasks.definition import Row
from attnkit.tasks.language_modeling.definition import unknown_row
from attnkit.tasks.translation.definition import Translation

if TYPE_CHECKING:
    from torch import Tensor

    from attnkit.data.speech_data import SpeechData
    from attnkit.recipe import Recipe
    from attnkit.tasks.speech.transcriber import Transcriber


@TASKS.register("speech")
class Speech(Translation):
    """Transcribe speech.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary; not
            used for the validation loss.
        beam: number of hypotheses of the final beam search; 1: greedy.
        decode_sentences: number of utterances to decode at intervals, for error rates and word
            boundaries; 0: none.
        probes: number of utterances whose attention is drawn.
    """

    sets_itself = ("max_ratio",)
    data = SPEECH
    default_data = Spec("made_speech")
    model = "attnkit.models.speech_model:SpeechModel"
    module = "attnkit.tasks.speech.task:SpeechTask"
    run_class = "attnkit.tasks.speech.transcriber:Transcriber"
    takes = ("tokenizer", "trainer.batch_tokens")
    loads_with = ("model", "tokenizer", "data")

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, Range(min=0, max=0.5)] = 0.0,
        beam: Annotated[int, Range(min=1, max=100)] = 1,
        decode_sentences: Annotated[int, Range(min=0)] = 60,
        probes: Annotated[int, Range(min=1, max=10)] = 1,
        **options,
    ) -> None:
        super().__init__(
            label_smoothing=label_smoothing,
            max_ratio=None,
            beam=beam,
            decode_sentences=decode_sentences,
            probes=probes,
            **options,
        )

    def build_data(self, recipe: Recipe) -> SpeechData:
        """Returns sounds and their texts; reads nothing yet."""
        from attnkit.data.speech_data import SpeechData

        return SpeechData(
            SPEECH.build(recipe.data),
            TOKENIZERS.build(recipe.tokenizer),
            None,
            max_seq_len=recipe.model["max_seq_len"],
            max_ratio=self.max_ratio,
            batch_tokens=recipe.trainer.batch_tokens,
            seed=recipe.seed,
            val_max_tokens=recipe.validation.max_tokens,
            final_max_tokens=final_max_tokens(recipe, recipe.trainer.batch_tokens),
            val_part=recipe.validation.part,
        )

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> Transcriber:
        """Loads a trained run, whose vocabulary is in a folder."""
        from attnkit.data.tokenizer_base import load_tokenizer
        from attnkit.tasks.speech.transcriber import Transcriber
        from attnkit.tasks.trained_run import filled, home_of

        tokenizer = load_tokenizer(folder)
        size = tokenizer.vocab_size
        model = filled(lambda: self.model_class()(size, **recipe.model), weights, origin)
        return Transcriber(recipe, home_of(folder, origin), model, tokenizer)

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields the validation loss, then the error rates of each test set."""
        metrics = record["metrics"]
        yield Row("loss, nats per letter", f"{metrics['loss']:.4f}")
        yield from unknown_row(record)
        yield Row("letter accuracy", f"{metrics['token_accuracy']:.1%}")
        words = {
            "character_error_rate": ("character error rate", "{:.2f} %"),
            "word_error_rate": ("word error rate", "{:.2f} %"),
            "boundary_error_ms": ("word boundaries, median error", "{:.0f} ms"),
        }
        first = "character_error_rate_"
        for split in (name.removeprefix(first) for name in metrics if name.startswith(first)):
            for name, (label, form) in words.items():
                value = metrics.get(f"{name}_{split}")
                if value is not None:
                    begins = f"{name}_" == first
                    yield Row(f"{split}: {label}", form.format(value), begins_section=begins)

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Returns the commands for transcripts and maps."""
        run = shlex.quote(str(directory))
        if not example:
            return {"transcribe": f"attnkit transcribe {run} FILE.wav"}
        sentence = shlex.quote(example)
        return {
            "transcribe": f"attnkit transcribe {run} {sentence}",
            "show maps": f"attnkit attention {run} --text {sentence}",
        }
