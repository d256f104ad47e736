"""The parts of the residual stream, and what they sum to."""

import copy

import pytest
import torch
from torch import nn

from attnkit.errors import DataError
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel
from attnkit.models.layers import Layer
from attnkit.registry import ATTENTION, WIRINGS
from attnkit.understanding.residual_stream import split_stream

V, T = 11, 7


def model_with(**options):
    torch.manual_seed(0)
    attention = {"name": "multi_head", "num_heads": 2, "bias": True}
    keys = {"attention": attention, "dim": 16, "num_layers": 2, "max_seq_len": 12, "bias": True}
    model = LanguageModel(V, **{**keys, **options})
    with torch.no_grad():  # biases and gains that training would leave
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


TOKENS = torch.tensor([[1, 4, 2, 4, 9, 0, 3]])


def split(model):
    return split_stream(model, "", lambda copy: copy(TOKENS, torch.zeros_like(TOKENS)))


def same(model, found):
    """The parts sum to what the model itself says, within 1e-5 of its largest logit. It says it in
    double precision: in single precision its own rounding is as large.
    """
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(TOKENS, torch.zeros_like(TOKENS))[0]
    scale = logits.abs().max().clamp(min=1)
    summed = (found.final @ found.head.T).sum(dim=0)
    assert float((summed - found.logits).abs().max() / scale) < 1e-5
    assert float((summed - logits).abs().max() / scale) < 1e-5


@pytest.mark.parametrize("wiring", ["pre_norm", "post_norm", "sandwich", "parallel"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "none"])
def test_the_parts_sum_to_the_logits(wiring, norm):
    model = model_with(wiring=wiring, norm=norm)
    found = split(model)
    same(model, found)
    names = [part.name for part in found.parts]
    assert names[:2] == ["token", "position"]
    assert {"L0H0", "L0H1", "L1H0", "L1H1", "L0 MLP", "L1 MLP", "L0 bias"} <= set(names)


@pytest.mark.parametrize("name", ATTENTION.names())
def test_with_any_mechanism(name):
    heads = {} if name == "single_head" else {"num_heads": 2}
    names = ATTENTION.get(name).mask_names
    mask = "causal" if names is None or "causal" in names else "none"
    model = model_with(attention={"name": name, **heads}, position="none", mask=mask)
    same(model, split(model))


def test_a_language_model_without_mlps_or_positions():
    attention = {"name": "multi_head", "num_heads": 2}
    model = model_with(attention=attention, mlp="none", position="rotary", norm="none", bias=False)
    found = split(model)
    same(model, found)
    assert [part.name for part in found.parts] == [*("token", "L0H0", "L0H1", "L1H0", "L1H1")]
    torch.testing.assert_close(found.added, found.final)
    torch.testing.assert_close(found.streams[-1], found.added.sum(dim=0))
    torch.testing.assert_close(found.lens[-1], found.logits)


def test_effects_on_one_token_are_above_the_mean():
    found = split(model_with())
    wanted = torch.tensor([4, 2, 4, 9, 0, 3, 8])
    effects = found.to(wanted)
    above = found.logits - found.logits.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(effects.sum(dim=0), above[torch.arange(T), wanted])
    tokens, raised = found.words(0, 3)
    alone = found.final[0] @ found.head.T
    assert tokens[:, 0].equal(alone.argmax(dim=-1))
    torch.testing.assert_close(raised[:, 0], (alone - alone.mean(-1, keepdim=True)).amax(dim=-1))


def test_the_copying_head_of_a_circuit_raises_the_copied_token(induction_circuit):
    """In `1 2 3 1`, the induction head says 2."""
    tokens = torch.tensor([[1, 2, 3, 1]])
    found = split_stream(induction_circuit(9), "", lambda model: model(tokens))
    names = [part.name for part in found.parts]
    heads, _ = found.words(names.index("L1H0"), 1)
    assert int(heads[-1, 0]) == 2
    assert "L1H1" not in names  # it adds nothing
    assert found.lens[-2, -1].argmax() == 1  # before that layer: the token itself
    assert found.lens[-1, -1].argmax() == 2


def test_a_translation_has_cross_attention_heads():
    torch.manual_seed(0)
    model = EncoderDecoder(9, max_seq_len=12, dim=16).eval()
    source, target = torch.tensor([[3, 1, 2, 0]]), torch.tensor([[0, 5, 6]])
    keep = torch.ones_like(source, dtype=torch.bool)
    found = split_stream(model, "decoder", lambda copy: copy(source, keep, target))
    assert "L0 cross H1" in [part.name for part in found.parts]
    with torch.no_grad():
        logits = model(source, keep, target)[0].double()
    summed = (found.final @ found.head.T).sum(dim=0)
    torch.testing.assert_close(summed, logits, rtol=0, atol=1e-5)


class Gated(Layer):
    """A wiring that multiplies."""

    def forward(self, x, stream):
        """x branch(x), which is no sum."""
        for name in self.branches:
            x = x * self.branch(name, self.norm(name, x), stream).tanh()
        return x


class Cubed(nn.Module):
    """A norm of somebody's own."""

    def forward(self, x):
        """x^3."""
        return x**3


def test_what_is_no_sum_is_refused():
    WIRINGS.register("gated_for_a_test")(Gated)
    try:
        with pytest.raises(DataError, match=r"do not sum to its logits.*Gated"):
            split(model_with(wiring="gated_for_a_test"))
    finally:
        del WIRINGS._classes["gated_for_a_test"]
    model = model_with()
    model.norm = Cubed()
    with pytest.raises(DataError, match="the norm Cubed cannot be split"):
        split(model)
