import numpy as np
import torch

from attnkit.data.batch import language_batch

STREAM = np.array([1, 2, 9, 3, 9, 9, 4, 5, 6], np.uint16)


def test_targets_are_the_tokens_one_later() -> None:
    batch = language_batch(STREAM, np.array([0, 4]), 4, None)
    assert batch.tokens.tolist() == [[1, 2, 9, 3], [9, 9, 4, 5]]
    assert batch.targets.tolist() == [[2, 9, 3, 9], [9, 4, 5, 6]]
    assert batch.documents is None
    for tensor in (batch.tokens, batch.targets):
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()


def test_documents_are_numbered_and_own_the_token_that_ends_them() -> None:
    batch = language_batch(STREAM, np.array([0, 2]), 6, 9)
    assert batch.documents is not None
    assert batch.documents.dtype == torch.int64
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 3, 3]]


def test_a_batch_does_not_write_through_to_the_stream() -> None:
    stream = STREAM.astype(np.int64)
    batch = language_batch(stream, np.array([0]), 4, None)
    batch.tokens.zero_()
    batch.targets.zero_()
    assert stream.tolist() == STREAM.tolist()
