"""The measured influence of later tokens: it finds exactly the leaks that the mask shows."""

import pytest
import torch

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, build_mask
from attnkit.models.influence import allowed_by_masks, measure_later_influence, sees_later_tokens
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION

T = 10
MASKS = {
    "causal": ("causal", 0),
    "none": ("none", 9),
    "window": ({"name": "sliding_window", "window": 3}, 0),
    "centered": ({"name": "sliding_window", "window": 3, "centered": True}, 9),
    "centered but even": ({"name": "sliding_window", "window": 2, "centered": True}, 0),
    "prefix": ({"name": "prefix", "length": 4}, 3),
    "document": ("document", 9),
    "causal & document": (["causal", "document"], 0),
    "dilated": ({"name": "dilated", "dilation": 3}, 0),
    "causal & bigbird": (["causal", {"name": "bigbird", "block_size": 2}], 0),
    "any_of": ({"name": "any_of", "masks": ["causal", {"name": "prefix", "length": 6}]}, 5),
}

CAUSAL = [
    name
    for name in ATTENTION.names()
    if ATTENTION.get(name).refusal("self", Causal(), "none") is None
]
HYBRIDS = [["multi_head_latent", "delta_net"], ["linear", "forgetting"]]  # all kinds of cache


def built(mask, num_layers=2, **options):
    torch.manual_seed(0)
    defaults = {"max_seq_len": T, "dim": 16, "num_layers": num_layers, "mask": mask}
    return LanguageModel(7, **(defaults | options))


@pytest.mark.parametrize("name", MASKS)
def test_the_measurement_agrees_with_the_mask(name):
    mask, leaking = MASKS[name]
    found = measure_later_influence(built(mask))
    declared = sees_later_tokens([build_mask(mask)] * 2, T)
    assert found.num_moved == leaking == int(declared.sum())
    assert found.num_positions == T - 1
    assert (found.change > 1e-3) == (leaking > 0)
    if leaking:
        assert found.moved_output < found.changed_token
        assert declared[found.moved_output]


@pytest.mark.parametrize("mechanism", [*CAUSAL, *HYBRIDS], ids=str)
def test_no_mechanism_leaks_under_a_causal_mask(mechanism):
    found = measure_later_influence(built("causal", attention=mechanism, position="none"))
    assert (found.change, found.num_moved) == (0, 0)


def test_a_start_at_zero_hides_nothing():
    """With zero_init attention adds nothing yet; the leak is there all the same."""
    model = built("none", zero_init=True, tied_embeddings=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    assert measure_later_influence(model).num_moved == T - 1
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Leaks(MultiHead):
    """Its values know the mean of the whole sequence, whatever the mask."""

    def project_context(self, context):
        """Takes the mean off the values."""
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)


def test_a_leak_that_the_mask_denies_is_found():
    model = built("causal")
    model.layers[1].attention = Leaks(16)
    found = measure_later_influence(model)
    assert found.num_moved == T - 1
    assert found.change > 1e-3


def test_a_large_model_is_probed_at_some_tokens(monkeypatch):
    """Also one with fewer tokens than probes."""
    monkeypatch.setattr("attnkit.models.influence.LARGE", 1)
    assert measure_later_influence(built("none", max_seq_len=40)).num_moved == 39
    assert measure_later_influence(built("none", max_seq_len=5)).num_moved == 4


def test_no_layers_and_one_token_have_no_later_influence():
    assert measure_later_influence(built("none", num_layers=0)).num_moved == 0
    assert measure_later_influence(built("none", max_seq_len=1)).num_positions == 0
    assert not sees_later_tokens([], T).any()


@pytest.mark.parametrize(
    ("masks", "leaking"),
    [
        ([{"name": "prefix", "length": 4}, "causal"], 3),
        (["causal", {"name": "prefix", "length": 4}, {"name": "prefix", "length": 6}], 5),
        ([{"name": "sliding_window", "window": 3, "centered": True}, "causal"], 9),
        ([{"name": "sliding_window", "window": 3}, "causal"], 0),
    ],
    ids=str,
)
def test_layers_with_masks_of_their_own_leak_what_these_say(masks, leaking):
    layers = [{"mask": mask} for mask in masks]
    model = built("causal", num_layers=len(masks), layers=layers)
    found = measure_later_influence(model)
    declared = sees_later_tokens(model.layer_masks(), T)
    assert found.num_moved == leaking == int(declared.sum())
    assert allowed_by_masks(model, found)
    assert declared[found.moved_output] or not leaking


def test_more_layers_see_further():
    """A centred window of 3 sees one token ahead; only the last token has none."""
    mask = build_mask({"name": "sliding_window", "window": 3, "centered": True})
    assert sees_later_tokens([mask], 5).tolist() == [True] * 4 + [False]
    mixed = [build_mask("causal"), mask, build_mask("causal"), mask]  # two tokens ahead
    assert sees_later_tokens(mixed, 5).tolist() == [True] * 4 + [False]
    prefix = build_mask({"name": "prefix", "length": 3})
    assert sees_later_tokens([prefix] * 4, 5).tolist() == [True, True] + [False] * 3
