"""Word vectors by layer, and the measures of how they separate senses."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from attnkit.data.sources.ambiguous_words import Usage
from attnkit.data.tokenizers import WordTokenizer
from attnkit.errors import DataError
from attnkit.models.language_model import LanguageModel
from attnkit.understanding.word_vectors import (
    flattened,
    neighbours,
    separation,
    silhouette,
    word_vectors,
)

RANDOM = np.random.default_rng(0)
SENSES = ["animal"] * 12 + ["unit"] * 12
USAGES = [
    Usage("mole", "animal", "The mole digs a tunnel."),
    Usage("mole", "unit", "A flask holds the mole."),
    Usage("mole", "animal", "Look, the mole digs."),
]


@pytest.fixture(scope="module")
def tokenizer():
    words = WordTokenizer()
    words.train(usage.sentence for usage in USAGES)
    return words


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return LanguageModel(
        tokenizer.vocab_size,
        max_seq_len=8,
        dim=16,
        num_layers=2,
        mask="none",
        position="rotary",
        attention="multi_head",
    ).eval()


def test_identical_vectors_are_at_chance_whatever_their_order():
    same = np.ones((24, 8), np.float32)
    found = separation(same, SENSES)
    assert found.purity == pytest.approx(11 / 23)
    assert found.silhouette == 0
    assert not found.is_above_chance
    assert (flattened(same) == 0).all()


def test_two_clusters_are_pure_and_shuffled_senses_are_not():
    vectors = RANDOM.normal(size=(24, 8)) + 100 * np.repeat([[0], [1]], 12, axis=0)
    found = separation(vectors, SENSES)
    assert found.purity == 1
    assert found.interval == (1, 1)
    assert found.is_above_chance
    assert found.chance[0] == pytest.approx(11 / 23, abs=0.03)
    assert found.silhouette > 0.9


def test_noise_is_not_above_chance():
    assert not separation(RANDOM.normal(size=(24, 8)), SENSES).is_above_chance


def test_places_are_shared_among_those_equally_far():
    points = np.array([0.0, 1.0, 1.0, -1.0, 5.0])
    share = neighbours(np.abs(points[:, None] - points), 2)
    np.testing.assert_allclose(share[0], [0, 1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(share[1], [0.5, 0, 0.5, 0, 0])
    np.testing.assert_allclose(share.sum(axis=1), 1)


def test_the_silhouette_is_that_of_scikit_learn():
    vectors = RANDOM.normal(size=(30, 4))
    labels = np.arange(30) % 3
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    assert silhouette(distances, labels) == pytest.approx(silhouette_score(vectors, labels))


def test_vectors_are_those_of_the_word_in_each_layer(model, tokenizer):
    vectors = word_vectors(model, tokenizer, USAGES)
    assert vectors.shape == (3, 3, 16)
    mole = model.embedding.weight[tokenizer.encode(" mole").ids[0]].detach().numpy()
    np.testing.assert_allclose(vectors[0], np.tile(mole, (3, 1)), rtol=1e-6)
    # The second sentence by itself, up to the norm before the head.
    tokens = torch.tensor([tokenizer.encode(USAGES[1].sentence).ids])
    states = []
    hook = model.norm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    model(tokens)
    hook.remove()
    np.testing.assert_allclose(vectors[-1, 1], states[0][0, 4].detach().numpy(), atol=1e-5)


def test_without_attention_the_word_is_the_same_everywhere(model, tokenizer):
    off = word_vectors(model, tokenizer, USAGES, without=(0, 1))
    np.testing.assert_allclose(off[-1], np.tile(off[-1, 0], (3, 1)), atol=1e-6)
    half = word_vectors(model, tokenizer, USAGES, without=(0,))
    assert np.ptp(half[1], axis=0).max() < 1e-6 < np.ptp(half[2], axis=0).max()
    # And is back afterwards.
    assert np.ptp(word_vectors(model, tokenizer, USAGES)[1], axis=0).max() > 1e-4


def test_a_word_that_the_model_cannot_read_is_told(model, tokenizer):
    with pytest.raises(DataError, match="vocabulary lacks the word 'whale'"):
        word_vectors(model, tokenizer, [Usage("whale", "animal", "The whale digs.")])
    long = Usage("mole", "animal", "The mole digs a tunnel, the mole digs a tunnel.")
    with pytest.raises(DataError, match="12 tokens and the model reads 8"):
        word_vectors(model, tokenizer, [long])
