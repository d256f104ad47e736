"""How good transcripts are: error rates of characters and of words, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence


def error_rates(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns the edits of a corpus in percent of the length of its references: of characters
    (CER) and of words (WER).

    Args:
        hypotheses: what was written.
        references: what was said.
    """
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    arguments = list(hypotheses), list(references)
    return {
        "character_error_rate": 100 * float(char_error_rate(*arguments)),
        "word_error_rate": 100 * float(word_error_rate(*arguments)),
    }
