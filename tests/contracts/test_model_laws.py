"""The laws about whole models over every wiring, norm and MLP, and patterns of layers; and over
planted faults.
"""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from attnkit.attention.cross_layer import CrossLayer
from attnkit.attention.multi_head import MultiHead
from attnkit.attention.value_residual import FIRST, ValueResidual
from attnkit.checks.at_start import LawBrokenError
from attnkit.checks.case import Broken, DoesNotApply
from attnkit.checks.models import MODEL_LAWS
from attnkit.cli.main import app
from attnkit.masks import build_mask
from attnkit.models.accounting import parameter_counts
from attnkit.models.encoder_decoder import (
    CrossOptions,
    DecoderOptions,
    EncoderDecoder,
    EncoderOptions,
)
from attnkit.models.language_model import LanguageModel
from attnkit.models.layers import DecoderLayerEntry, LayerEntry
from attnkit.models.mlps import Relu
from attnkit.models.stack import Stack
from attnkit.models.wirings import PreNorm
from attnkit.recipe import recipe_from_dict
from attnkit.registry import ATTENTION, MLPS, NORMS, WIRINGS, Spec
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run

WINDOW = {"name": "sliding_window", "window": 4}
PARTS = [
    *({"wiring": name} for name in WIRINGS.names()),
    *({"norm": name} for name in NORMS.names()),
    *({"mlp": name} for name in MLPS.names()),
]
PATTERNS = {
    "local and global": [
        {"repeat": 2, "mask": WINDOW, "position": "rotary"},
        {"mask": "causal", "position": "none"},
    ],
    "two windows": [{"mask": WINDOW}, {"mask": {"name": "sliding_window", "window": 9}}],
    "all kinds of cache": [
        {"attention": "linear"},
        {"mask": WINDOW, "attention": "grouped_query", "position": "alibi"},
        {"attention": "multi_head_latent", "mask": WINDOW},
        {"attention": "forgetting", "position": "none"},
    ],
    "positions of all kinds": [
        {"position": "rotary", "mask": WINDOW},
        {"position": "relative_bias", "mask": WINDOW},
        {"position": "cope", "mask": WINDOW},
        {"position": "shaw", "mask": WINDOW},
    ],
    "other masks": [
        {"mask": ["causal", "document"]},
        {"mask": [WINDOW, "document"]},
        {"mask": {"name": "dilated", "dilation": 2, "window": 3}},
    ],
    "all wirings": [{"wiring": name} for name in WIRINGS.names()],
    "norms and MLPs": [{"norm": "rms_norm", "mlp": "swiglu"}, {"mlp": "none", "dropout": 0.5}],
    "value residual": [{"attention": "value_residual"}],
    "value residual in some layers": [
        {"attention": "value_residual", "mask": WINDOW},
        {"attention": "multi_head"},
    ],
    "shared keys and values": [{"attention": "cross_layer"}],
    "shared by layers that look further back": [
        {"attention": {"name": "cross_layer", "share": 3}, "mask": WINDOW, "position": "rotary"},
        {"attention": {"name": "cross_layer", "share": 3}, "position": "rotary"},
        {"attention": {"name": "cross_layer", "share": 3}, "mask": WINDOW, "position": "rotary"},
    ],
    "an auxiliary loss": [{"attention": "disagreement"}, {"mlp": "none"}],
}


def language_model(num_layers=4, **options):
    torch.manual_seed(0)
    sizes = {"max_seq_len": 24, "dim": 8, "num_layers": num_layers}
    return LanguageModel(7, **(sizes | options))


def translator(**options):
    torch.manual_seed(0)
    encoder, decoder = options.pop("encoder", {}), options.pop("decoder", {})
    return EncoderDecoder(
        7,
        max_seq_len=12,
        dim=8,
        encoder=EncoderOptions(num_layers=2, **encoder),
        decoder=DecoderOptions(num_layers=4, **decoder),
        cross=CrossOptions(attention=Spec("multi_head", {"num_heads": 2})),
        **options,
    )


def hold(model):
    for law in MODEL_LAWS:
        try:
            law(model)
        except DoesNotApply as reason:
            pytest.fail(f"{law.__name__} was not asked: {reason}")


@pytest.mark.parametrize("options", PARTS, ids=str)
def test_the_laws_hold_with_every_part(options):
    hold(language_model(num_layers=2, **options))
    hold(translator(**options))


@pytest.mark.parametrize("name", PATTERNS)
def test_the_laws_hold_with_every_pattern(name):
    hold(language_model(position="none", layers=PATTERNS[name]))


@pytest.mark.parametrize(
    "name",
    [name for name in PATTERNS if name not in ("all kinds of cache", "other masks")],
)
def test_the_laws_hold_with_a_pattern_in_a_translator(name):
    """A decoder takes any; an encoder takes what is not causal alone."""
    decoder = {
        "layers": [DecoderLayerEntry(**entry) for entry in PATTERNS[name]],
        "position": Spec("none"),
    }
    encoder = {
        "layers": [
            LayerEntry(mask={"name": "sliding_window", "window": 3, "centered": True}),
            LayerEntry(attention="value_residual"),
        ]
    }
    hold(translator(encoder=encoder, decoder=decoder))


UNDER_A_WINDOW = [
    name
    for name in ATTENTION.names()
    if ATTENTION.get(name).refusal("self", build_mask(WINDOW), "none") is None
]


@pytest.mark.parametrize("name", UNDER_A_WINDOW)
def test_no_mechanism_misses_the_keys_that_a_window_has_dropped(name):
    hold(language_model(num_layers=2, dim=16, attention=name, mask=WINDOW, position="none"))


class Leaks(PreNorm):
    """Leaves the mean of all tokens on the stream, and adds what the layer below has left."""

    caught_by = "no_prediction_sees_more_than_the_masks_say"

    def forward(self, x, stream):
        left = stream.shared.get("mean")
        stream.shared["mean"] = x.mean(dim=1, keepdim=True)
        return super().forward(x if left is None else x + left, stream)


class CountsTheBatch(PreNorm):
    """Its sums know how long the longest sequence of the batch is."""

    caught_by = "padding_changes_nothing"

    def forward(self, x, stream):
        return super().forward(x, stream) * (1 + 0.01 * x.shape[1])


class CountsItsPasses(Relu):
    """An MLP with a number that no prediction needs."""

    caught_by = "calls_write_nothing_to_self"
    passes = 0

    def activated(self, hidden, x):
        self.passes += 1
        return torch.relu(hidden)


class MixesTokens(Relu):
    """An MLP that is not for each token alone."""

    caught_by = "no_prediction_sees_more_than_the_masks_say"

    def activated(self, hidden, x):
        return torch.relu(hidden) + hidden.amax(dim=1, keepdim=True)


class NormOfTheSequence(nn.Module):
    """Normalises a feature over all tokens."""

    caught_by = "no_prediction_sees_more_than_the_masks_say"

    def __init__(self, dim, bias=False):
        super().__init__()

    def forward(self, x):
        return x / (1 + x.square().mean(dim=1, keepdim=True).sqrt())


class KeepsTooFew(MultiHead):
    """Its cache is one key shorter than its window."""

    caught_by = "decoding_equals_the_full_pass"

    def keys_kept(self, mask):
        return None if mask.back is None else mask.back - 1


class LendsTooLittle(CrossLayer):
    """Says that it needs no key, though layers above use those of its window."""

    caught_by = "decoding_equals_the_full_pass"

    def keys_kept(self, mask):
        return 2


class KeepsFirstValues(ValueResidual):
    """Keeps the first values on the module, and hands those of the call before on."""

    caught_by = "decoding_equals_the_full_pass"
    kept = None

    def exchange(self, k, v, stream):
        k, v = super().exchange(k, v, stream)
        if self.shares is None:
            before, self.kept = self.kept, v
            if before is not None and before.shape == v.shape:
                stream.shared[FIRST] = before
        return k, v


FAULTS = {
    Leaks: (WIRINGS, {"wiring": "faulty"}),
    CountsTheBatch: (WIRINGS, {"wiring": "faulty"}),
    CountsItsPasses: (MLPS, {"mlp": "faulty"}),
    MixesTokens: (MLPS, {"mlp": "faulty"}),
    NormOfTheSequence: (NORMS, {"norm": "faulty"}),
    KeepsTooFew: (ATTENTION, {"attention": "faulty", "mask": WINDOW}),
    LendsTooLittle: (ATTENTION, {"attention": "faulty", "mask": WINDOW}),
    KeepsFirstValues: (ATTENTION, {"attention": "faulty"}),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught(fault, monkeypatch):
    registry, options = FAULTS[fault]
    monkeypatch.setitem(registry._classes, "faulty", fault)
    law = next(law for law in MODEL_LAWS if law.__name__ == fault.caught_by)
    model = language_model(num_layers=2, **options)
    with pytest.raises(Broken):
        law(model)


def test_each_law_catches_a_fault():
    assert {fault.caught_by for fault in FAULTS} == {law.__name__ for law in MODEL_LAWS}


def test_a_cache_that_forgets_what_another_layer_still_needs_is_caught(monkeypatch):
    """The layer that lends its keys looks less far back than the one that uses them."""

    def of_itself(self, layer):
        return self.layers[layer].attention.keys_kept(self.layer_mask(layer))

    model = language_model(layers=PATTERNS["shared by layers that look further back"])
    hold(model)
    monkeypatch.setattr(Stack, "keys_kept", of_itself)
    law = next(law for law in MODEL_LAWS if law.__name__ == "decoding_equals_the_full_pass")
    with pytest.raises(Broken):
        law(model)


# Plugins

LEAKS = '''
from attnkit.models.wirings import PreNorm
from attnkit.registry import WIRINGS


@WIRINGS.register("leaks")
class Leaks(PreNorm):
    """Adds the mean of all tokens."""

    def forward(self, x, stream):
        return super().forward(x + x.mean(dim=1, keepdim=True), stream)
'''
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def example():
    """The wiring that CONTRIBUTING shows, as a plugin file."""
    blocks = CONTRIBUTING.read_text(encoding="utf-8").split("```")
    (code,) = (block for block in blocks if "@WIRINGS" in block)
    return code.removeprefix("python\n")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A tiny recipe with the wiring of a plugin file."""
    monkeypatch.chdir(tmp_path)

    def make(code, name):
        (tmp_path / f"{name}.py").write_text(code)
        return recipe_from_dict(
            {
                "name": "plugged",
                "plugins": [f"{name}.py"],
                "task": "synthetic",
                "data": {"name": "parity", "length": 6},
                "model": {"max_seq_len": 8, "dim": 8, "num_layers": 2, "wiring": name},
                "trainer": {"max_steps": 2, "batch_size": 4, "accelerator": "cpu"},
                "logging": {"attention_maps": 0, "samples": 0},
            }
        )

    return make


def test_a_wiring_of_ones_own_is_one_file(recipe):
    trained = recipe(example(), "rezero")
    result = experiment.run(trained)
    run = load_run(result.directory)
    assert [type(layer).__name__ for layer in run.model.layers] == ["ReZero"] * 2
    assert parameter_counts(run.model)["other"] == 2
    hold(run.model)


def test_a_wiring_that_leaks_is_refused_before_it_trains(recipe):
    with pytest.raises(LawBrokenError, match=r"model\.wiring: leaks breaks a law: no prediction"):
        experiment.run(recipe(LEAKS, "leaks"))


def test_a_card_tells_of_a_wiring_what_it_tells_of_a_mechanism(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "leaking.py").write_text(LEAKS.replace('"leaks"', '"leaking"'))
    held, broken = (CliRunner().invoke(app, ["check", what]) for what in ("sandwich", "leaking.py"))
    assert held.exit_code == 0, held.output
    assert held.stdout.count("  holds ") == len(MODEL_LAWS)
    assert "4 laws in 2 models: 4 hold" in held.stdout
    assert broken.exit_code == 1
    assert "BROKEN  no prediction sees more than the masks say" in broken.stdout
    assert "predictions moved, but the masks allow fewer" in broken.stdout
