"""How good translations are: BLEU and chrF by sacreBLEU (Post 2018, arXiv:1804.08771), and exact
matches.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnkit.data.errors import DataError


@dataclass(frozen=True)
class Scores:
    """Scores of a corpus, in percent, with what they depend on.

    Attributes:
        bleu: sacreBLEU, cased, `tok:13a`.
        chrf: chrF2.
        exact_match: translations that are the reference, letter by letter.
        signatures: what sacreBLEU calls the settings of each.
    """

    bleu: float
    chrf: float
    exact_match: float
    signatures: dict[str, str]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Scores translations against one reference each.

    Raises:
        ValueError: if there are not as many of one as of the other, or none.
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


def moses_lowercased_bleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> tuple[float, str]:
    """BLEU over lowercased text that Moses has tokenised, and its signature: how many older papers
    count. Not comparable with `tok:13a`.

    Args:
        hypotheses: raw text.
        references: raw text.
        language: of both, as Moses calls it ("de").

    Raises:
        DataError: if sacremoses is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    try:
        moses: Any = importlib.import_module("sacremoses")
    except ImportError as error:
        raise DataError("the Moses tokenizer is missing: pip install 'attnkit[moses]'") from error
    tokenizer = moses.MosesTokenizer(lang=language)

    def tokenised(texts: Sequence[str]) -> list[str]:
        return [tokenizer.tokenize(text, return_str=True, escape=False) for text in texts]

    bleu = BLEU(lowercase=True, tokenize="none", force=True)
    found = bleu.corpus_score(tokenised(hypotheses), [tokenised(references)]).score
    return found, str(bleu.get_signature())
