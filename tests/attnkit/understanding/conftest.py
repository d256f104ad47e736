"""A model made by hand whose heads have known roles."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attnkit.models.language_model import LanguageModel

SHARP = 60.0
"""Difference of scores that makes a softmax exact in float32."""


@pytest.fixture(scope="session")
def induction_circuit() -> Callable[[int], LanguageModel]:
    """`induction_circuit(V)`: two layers of attention with two heads each.

    L0H0 attends to the previous token and writes which it is; L1H0 looks for a token whose
    predecessor is the token at hand, and raises its logit (arXiv:2209.11895). The second head of
    each layer attends evenly and writes nothing.
    """
    return circuit


def circuit(vocab_size: int, max_seq_len: int = 16) -> LanguageModel:
    V, T = vocab_size, max_seq_len
    width = max(V, T)
    dim = 2 * V + T  # the token, the previous token, the position
    model = LanguageModel(
        V,
        max_seq_len=T,
        dim=dim,
        num_layers=2,
        attention={"name": "multi_head", "num_heads": 2, "head_dim": width},
        position="learned",
        mlp="none",
        norm="none",
        tied_embeddings=False,
    )
    token, previous, place = slice(0, V), slice(V, 2 * V), slice(2 * V, dim)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        model.embedding.weight[:, token] = torch.eye(V)
        model.position.table.weight[:, place] = torch.eye(T)
        model.head.weight[:, token] = torch.eye(V)
        sharp = SHARP * width**0.5
        first, second = (layer.attention for layer in model.layers)
        asks = torch.eye(T).roll(-1, dims=0)  # position t for t - 1
        asks[:, 0] = torch.eye(T)[0]  # and 0 for itself
        first.query.weight[:T, place] = sharp * asks
        first.key.weight[:T, place] = torch.eye(T)
        first.value.weight[:V, token] = torch.eye(V)
        first.output.weight[previous, :V] = torch.eye(V)
        second.query.weight[:V, token] = sharp * torch.eye(V)
        second.key.weight[:V, previous] = torch.eye(V)
        second.key.weight[:V, 2 * V] = -1  # position 0 has no predecessor
        second.value.weight[:V, token] = torch.eye(V)
        second.output.weight[token, :V] = 10 * torch.eye(V)
    return model.eval()
