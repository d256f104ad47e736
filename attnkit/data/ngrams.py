"""The losses of n-gram models, drawn as floors beside a loss curve.

Interpolated Witten-Bell smoothing (Witten and Bell 1991, method C; in this form Chen and Goodman
1999, https://doi.org/10.1006/csla.1999.0128). With c counting in the training tokens, and t(h) the
number of distinct tokens seen after the context h,

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))

where h' is h without its oldest token, and the recursion ends at the uniform distribution.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from attnkit.data.byte_progress import ByteProgress
from attnkit.data.token_store import TokenStore
from attnkit.errors import DataError
from attnkit.storage.files import atomic_write, locked, parse_json

ORDERS = (1, 2, 3, 5)

MAX_TRAIN_TOKENS = 5_000_000
MAX_VAL_TOKENS = 1_000_000
"""Tokens of a split that are counted; bounds the work to about 15 s and 1 GB.

On a larger corpus a floor is the loss of a model that saw less, hence an upper bound.
"""


def ngram_floors(
    train: np.ndarray, val: np.ndarray, vocab_size: int, orders: Sequence[int] = ORDERS
) -> dict[int, float]:
    """Returns the validation loss of n-gram models, in nats per token.

    Args:
        train: (N,) token ids to count.
        val: (M,) token ids to predict, each from those before it in `val`.
        vocab_size: number of tokens of the uniform distribution.
        orders: lengths n of the n-grams, context and token together.

    Returns:
        Order -> mean negative log probability of the tokens of `val`.
    """
    stream = np.concatenate([train, val]).astype(np.int64)
    in_train = len(train)
    probability = np.full(len(val), 1.0 / vocab_size)
    # Dense numbers of the grams that end at each position, and whether they are within one split.
    # The gram of length 0 is the same everywhere.
    context = np.zeros(len(stream), np.int64)
    whole = np.ones(len(stream), bool)
    floors = {}
    work = ByteProgress("counting n-grams", max(orders) * stream.nbytes)
    with work:
        for order in range(1, max(orders) + 1):
            work.advance(0)
            gram = np.unique(context * vocab_size + stream, return_inverse=True)[1]
            work.advance(stream.nbytes // 2)
            probability = _refine(probability, gram, context, whole, in_train)
            work.advance(stream.nbytes - stream.nbytes // 2)
            if order in orders:
                floors[order] = float(-np.log(probability).mean())
            # The context of the next position is the gram that ends here; the first position of
            # each split has none.
            context = np.concatenate([[0], gram[:-1]])
            whole = np.concatenate([[False], whole[:-1]])
            whole[in_train] = False
    return floors


def _refine(
    probability: np.ndarray,
    gram: np.ndarray,
    context: np.ndarray,
    whole: np.ndarray,
    in_train: int,
) -> np.ndarray:
    """Turns p(w | h') into p(w | h) for each validation token that has a whole context."""
    seen = np.flatnonzero(whole[:in_train])
    gram_count = np.bincount(gram[seen], minlength=gram.max() + 1)
    context_count = np.bincount(context[seen], minlength=context.max() + 1)
    _, first = np.unique(gram[seen], return_index=True)
    followers = np.bincount(context[seen][first], minlength=context.max() + 1)

    known = np.flatnonzero(whole[in_train:] & (context_count[context[in_train:]] > 0))
    g, h = gram[in_train:][known], context[in_train:][known]
    refined = probability.copy()
    refined[known] = (gram_count[g] + followers[h] * probability[known]) / (
        context_count[h] + followers[h]
    )
    return refined


def cached_floors(train: TokenStore, val: TokenStore, vocab_size: int) -> dict[int, float]:
    """Returns `ngram_floors` of two stores, cached beside them.

    Raises:
        DataError: if the file in the cache is damaged.
    """
    path = val.path.with_name("floors.json")
    with locked(path):
        if not path.is_file():
            floors = ngram_floors(
                train.tokens[:MAX_TRAIN_TOKENS], val.tokens[:MAX_VAL_TOKENS], vocab_size
            )
            with atomic_write(path) as file:
                file.write(json.dumps(floors).encode())
    try:
        return {int(order): float(nats) for order, nats in parse_json(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged; delete it to create it again") from error
