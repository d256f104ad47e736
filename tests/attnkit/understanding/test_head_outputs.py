"""The outputs of heads before the projection, of every mechanism."""

import pytest
import torch
from torch import nn

from attnkit.attention.base import build_attention
from attnkit.masks import Causal
from attnkit.registry import ATTENTION
from attnkit.understanding.head_outputs import on_head_outputs, proposals

DIM, HEADS = 16, 4


class One(nn.Module):
    """A single mechanism."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        heads = {} if name == "single_head" else {"num_heads": HEADS}
        self.attention = build_attention({"name": name, **heads}, DIM).eval()

    def forward(self, x):
        """Self-attention under a causal mask."""
        return self.attention(x, x, Causal())


def of_one(name):
    """The module and its input; the mechanisms that exist for whole models read no stream here."""
    return One(name), torch.randn(2, 12, DIM, generator=torch.Generator().manual_seed(1))


NAMES = [name for name in ATTENTION.names() if not ATTENTION.get(name).reads_stream()]


@pytest.mark.parametrize("name", NAMES)
def test_the_heads_propose_what_the_mechanism_adds(name):
    one, x = of_one(name)
    seen = []
    with torch.no_grad(), on_head_outputs(one, lambda _, heads: seen.append(heads)):
        added = one(x)
    (heads,) = seen
    parts = proposals(one.attention, heads)
    assert parts.shape == (2, 12, one.attention.num_heads, DIM)
    if name != "average":  # its gates act on the sum, after the projection
        torch.testing.assert_close(parts.sum(dim=2), added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_zeros_is_a_head_without_a_projection(name):
    """Known in another way: with zeros in the columns of its weight."""
    one, x = of_one(name)
    H = one.attention.num_heads

    def without(_, heads):
        heads = heads.clone()
        heads[:, :, H - 1] = 0
        return heads

    with torch.no_grad():
        whole = one(x)
        with on_head_outputs(one, without):
            cut = one(x)
        one.attention.output.weight.unflatten(1, (H, -1))[:, H - 1] = 0
        torch.testing.assert_close(one(x), cut)
    assert not torch.equal(whole, cut)
    with torch.no_grad():  # the hooks are gone
        torch.testing.assert_close(one(x), cut)


def test_without_a_projection_the_heads_are_the_output():
    one, x = of_one("multi_head")
    one.attention.output = None
    seen = []
    with torch.no_grad(), on_head_outputs(one, lambda _, heads: seen.append(heads)):
        added = one(x)
    assert torch.equal(seen[0].flatten(-2), added)
    assert torch.equal(proposals(one.attention, seen[0]).sum(dim=2), added)
