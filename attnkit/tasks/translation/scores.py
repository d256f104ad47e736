"""Scores of translations: BLEU and chrF by sacreBLEU (Post 2018, arXiv:1804.08771), and exact
matches.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attnkit.errors import DataError


@dataclass(frozen=True)
class Scores:
    """Scores of a corpus, in percent.

    Attributes:
        bleu: sacreBLEU, cased, `tok:13a`.
        chrf: chrF2.
        exact_match: share of translations that are identical to the reference.
        signatures: sacreBLEU's signatures of the settings.
    """

    bleu: float
    chrf: float
    exact_match: float
    signatures: dict[str, str]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Scores translations against one reference each.

    Raises:
        ValueError: if their numbers differ, or there are none.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} hypotheses cannot be scored by {len(references)}")
    bleu, chrf = BLEU(), CHRF()
    found = {
        "bleu": bleu.corpus_score(list(hypotheses), [list(references)]).score,
        "chrf": chrf.corpus_score(list(hypotheses), [list(references)]).score,
    }
    same = sum(h == r for h, r in zip(hypotheses, references, strict=True))
    return Scores(
        **found,
        exact_match=100 * same / len(references),
        signatures={"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
    )


def moses_tokenizer(language: str) -> Callable[[str], str]:
    """Returns Moses' tokenizer, as a function from raw text to tokens separated by spaces.

    Args:
        language: Moses' code of the language ("de").

    Raises:
        DataError: if sacremoses is not installed, or does not know the language: it would silently
            use the rules of English.
    """
    try:
        moses: Any = importlib.import_module("sacremoses")
    except ImportError as error:
        raise DataError("the Moses tokenizer is missing: pip install 'attnkit[moses]'") from error
    known = {*moses.corpus.NonbreakingPrefixes().available_langs.values(), "zh", "ja", "ko"}
    if language not in known:
        raise DataError(
            f"Moses knows no language `{language}`; it knows {', '.join(sorted(known))}"
        )
    tokenizer = moses.MosesTokenizer(lang=language)
    return lambda text: tokenizer.tokenize(text, return_str=True, escape=False)


def moses_lowercased_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokenize: Callable[[str], str]
) -> tuple[float, str]:
    """Returns BLEU over lowercased, Moses-tokenised text, as in many older papers, and its
    signature. Not comparable with `tok:13a`.

    Args:
        hypotheses: raw text.
        references: raw text.
        tokenize: from `moses_tokenizer`.
    """
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(lowercase=True, tokenize="none", force=True)
    tokenised = [[tokenize(text) for text in texts] for texts in (hypotheses, references)]
    found = bleu.corpus_score(tokenised[0], [tokenised[1]]).score
    return found, str(bleu.get_signature())
