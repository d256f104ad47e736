"""Maps of mechanisms that are not linear in their values."""

import pytest
import torch
from torch import nn

from attnkit.attention.grouped_query import GroupedQuery
from attnkit.attention.maps import attention_map, attention_maps
from attnkit.masks import Causal


class Declared(GroupedQuery):
    """Linear, though it says that it is not: its Jacobian must be its map."""

    linear_in_values = False


class Bent(Declared):
    """Really not linear."""

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask).tanh()


def parts():
    torch.manual_seed(0)
    return GroupedQuery(16).eval(), torch.randn(2, 6, 16)


def test_the_jacobian_of_a_linear_mechanism_is_its_map():
    plain, x = parts()
    other = Declared(16)
    other.load_state_dict(plain.state_dict())
    taken = attention_map(other, x, x, Causal())
    torch.testing.assert_close(taken, attention_map(plain, x, x, Causal()), atol=1e-6, rtol=1e-5)


def test_the_jacobian_of_another_predicts_a_small_change():
    """The heads move by the sum over keys of map times change, for a change of one feature; here
    tanh scales each output feature by 1 - tanh^2, and the map has the mean of that.
    """
    plain, x = parts()
    bent = Bent(16)
    bent.load_state_dict(plain.state_dict())
    with torch.no_grad():
        q, (k, v) = plain.project_query(x), plain.project_context(x)
        slope = 1 - bent.mix(q, k, v, Causal()).square()
    expected = attention_map(plain, x, x, Causal()) * slope.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(attention_map(bent, x, x, Causal()), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("cls", "source"), [(GroupedQuery, "weights"), (Bent, "Jacobian")])
def test_a_map_says_where_it_comes_from(cls, source):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = cls(16)

        def forward(self, x):
            return self.attention(x, x, Causal())

    model = Model()
    (found,) = attention_maps(model, lambda: model(torch.randn(1, 4, 16)))
    assert found.taken_from == source
    assert found.rows == ("sum to 1" if source == "weights" else "signed")
