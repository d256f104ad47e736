"""Maps taken from anybody's own model."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnkit.attention.base import build_attention
from attnkit.attention.maps import attention_map, attention_maps, handed_over
from attnkit.masks import Causal, NoMask, Padding
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION


class Reader(nn.Module):
    """Somebody's own module: reads itself, then another sequence."""

    def __init__(self):
        super().__init__()
        self.own = build_attention({"name": "multi_head", "num_heads": 2, "dropout": 0.5}, 8)
        self.other = nn.ModuleList([build_attention({"name": "sigmoid", "num_heads": 4}, 8)])
        self.unused = build_attention("single_head", 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x, story):
        """Both mechanisms, called in two ways."""
        x = x + self.own(x, x, Causal())
        x = x + self.other[0](x, context=story)
        return self.out(x)


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader()


def test_one_map_for_each_mechanism_that_was_called(reader):
    x, story = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    maps = attention_maps(reader, lambda: reader(x, story))
    assert [m.name for m in maps] == ["own", "other.0"]
    assert [m.role for m in maps] == ["self", "cross"]
    assert [m.rows for m in maps] == ["sum to 1", "unnormalised"]
    assert [tuple(m.weights.shape) for m in maps] == [(3, 2, 5, 5), (3, 4, 5, 6)]
    assert maps[0].allowed.shape == (1, 1, 5, 5)
    assert maps[0].allowed.tril().equal(maps[0].allowed)
    assert maps[1].allowed.all()
    torch.testing.assert_close(maps[0].weights.sum(-1), torch.ones(3, 2, 5))


class Named(NamedTuple):
    """A batch as a task has it: more than the model asks for."""

    story: torch.Tensor
    targets: torch.Tensor
    x: torch.Tensor


@pytest.mark.parametrize("form", ["tuple", "list", "mapping", "named tuple"])
def test_a_batch_is_handed_to_the_model_in_its_own_form(reader, form):
    x, story = torch.randn(1, 5, 8), torch.randn(1, 6, 8)
    batch = {
        "tuple": (x, story),
        "list": [x, story],
        "mapping": {"story": story, "x": x, "labels": None},
        "named tuple": Named(story, x, x),
    }[form]
    expected = attention_maps(reader, lambda: reader(x, story))
    for taken, known in zip(attention_maps(reader, batch), expected, strict=True):
        assert torch.equal(taken.weights, known.weights)


def test_one_tensor_is_a_batch():
    model = LanguageModel(9, dim=16, num_layers=2, max_seq_len=8)
    maps = attention_maps(model, torch.randint(9, (2, 6)))
    assert [tuple(m.weights.shape) for m in maps] == [(2, 4, 6, 6)] * 2


def test_maps_are_those_that_the_forward_pass_uses(reader):
    """Of the hidden states at that layer, not of the input."""
    x, story = torch.randn(1, 5, 8), torch.randn(1, 6, 8)
    own, other = attention_maps(reader, lambda: reader(x, story))
    reader.eval()
    expected = reader.own.weights(
        reader.own.project_query(x), reader.own.project_context(x)[0], Causal()
    )
    torch.testing.assert_close(own.weights, expected.detach())
    hidden = x + reader.own(x, x, Causal())
    expected = attention_map(reader.other[0], hidden, story)
    torch.testing.assert_close(other.weights, expected)


def test_the_model_is_left_as_it_was(reader):
    reader.train()
    reader.other.eval()
    before = {name: module.training for name, module in reader.named_modules()}
    attention_maps(reader, lambda: reader(torch.randn(1, 5, 8), torch.randn(1, 6, 8)))
    assert {name: module.training for name, module in reader.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in reader.modules())
    assert all(parameter.grad is None for parameter in reader.parameters())


def test_the_model_is_left_as_it_was_after_an_error(reader):
    def fail():
        reader(torch.randn(1, 5, 8), torch.randn(1, 6, 8))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        attention_maps(reader, fail)
    assert reader.training
    assert not any(module._forward_pre_hooks for module in reader.modules())


def test_a_model_without_mechanisms_is_an_error():
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="Linear called no attnkit mechanism"):
        attention_maps(model, lambda: model(torch.ones(1, 3)))


@pytest.mark.parametrize("length", [3, 8, 19])
def test_the_one_hot_map_of_linear_is_its_quadratic_map(length):
    """Fewer keys than the width of a head, as many, and several calls' worth."""
    torch.manual_seed(0)
    linear = build_attention({"name": "linear", "num_heads": 2}, 16)
    x = torch.randn(2, length, 16)
    q, (k, _) = linear.project_query(x), linear.project_context(x)
    products = ((F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)).tril()
    expected = products / products.sum(dim=-1, keepdim=True)
    taken = attention_map(linear, x, x, Causal())
    torch.testing.assert_close(taken, expected.detach(), atol=1e-6, rtol=1e-5)


def test_a_map_under_autocast_is_full_precision():
    torch.manual_seed(0)
    attention = build_attention("multi_head", 16)
    x, mask = torch.randn(2, 6, 16), Causal() & Padding(torch.ones(2, 6, dtype=torch.bool))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taken = attention_map(attention, x.bfloat16().float(), x.bfloat16().float(), mask)
    expected = attention_map(attention, x.bfloat16().float(), x.bfloat16().float(), mask)
    assert taken.dtype == torch.float32
    torch.testing.assert_close(taken, expected, atol=0, rtol=0)


def test_the_largest_score_is_of_an_allowed_pair():
    torch.manual_seed(0)
    model = LanguageModel(7, dim=16, num_layers=1, attention={"name": "multi_head", "num_heads": 2})
    tokens = torch.tensor([[1, 4, 2, 6]])
    seen = []
    attention = model.layers[0].attention
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    (found,) = attention_maps(model, tokens, largest_scores=True)
    hook.remove()
    with torch.no_grad():
        q, k, _, _ = attention.prepare(seen[0], seen[0], Causal())
        scores = attention.scores(q, k)
    wanted = scores.masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf).amax(dim=(-2, -1))
    torch.testing.assert_close(found.largest_score, wanted)
    assert attention_maps(model, tokens)[0].largest_score is None
    other = LanguageModel(7, dim=16, num_layers=1, attention={"name": "linear", "num_heads": 2})
    assert attention_maps(other, tokens, largest_scores=True)[0].largest_score is None


UNDEFINED = {
    *("average", "delta_net", "delta_product", "differential", "gated", "gated_delta_net"),
    *("gated_linear", "hgrn2", "kda", "log_linear", "mamba2", "multi_token", "retention"),
    *("rwkv7", "xsa"),
}
"""They gate, normalise or change a head after mixing; two are not linear in the values."""


NAMES = ATTENTION.names()  # here, before other tests register plugins in this process


def test_what_heads_hand_over_sums_to_what_the_mechanism_adds():
    """Weights times it, summed over keys and heads, is the output, or it is not defined."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    undefined = set()
    for name in NAMES:
        attention = build_attention({"name": name}, 16).eval()
        if attention.reads_stream():
            continue  # needs the layers around it
        mask = Causal() if attention.refusal("self", Causal(), "none") is None else NoMask()
        with torch.no_grad():
            prepared = attention.prepare(x, x, mask)
            found = handed_over(attention, attention.expand(prepared.k, prepared.v)[1], x)
            if found is None:
                undefined.add(name)
                continue
            weights = attention_map(attention, x, x, mask)
            added = torch.einsum("bhts,bhsc->btc", weights, found)
            torch.testing.assert_close(added, attention(x, x, mask), atol=2e-5, rtol=1e-4, msg=name)
    assert undefined == UNDEFINED
