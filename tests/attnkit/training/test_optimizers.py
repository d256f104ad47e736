"""Optimizers: which parameters they treat how, and that they go on as if never stopped."""

import copy
import io
from typing import ClassVar

import pytest
import torch

from attnkit.masks import Causal
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, OPTIMIZERS, POSITIONS
from attnkit.training.optimizers import AdamWRecipe, JointOptimizer, MuonRecipe


def built(**options):
    torch.manual_seed(0)
    return LanguageModel(11, **({"max_seq_len": 8, "dim": 16, "num_layers": 2} | options))


def names_of(parameters, model):
    by_identity = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_identity[id(parameter)] for parameter in parameters}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("position", POSITIONS.names())
@pytest.mark.parametrize("mechanism", ATTENTION.names())
def test_each_parameter_once_and_weight_decay_on_linears_and_embeddings_alone(
    optimizer, position, mechanism
):
    if ATTENTION.get(mechanism).refusal("self", Causal(), position):
        return
    model = built(attention=mechanism, position=position, bias=True, tied_embeddings=False)
    spec = {"name": optimizer, "weight_decay": 0.1}
    groups = OPTIMIZERS.build(spec).build(model).param_groups
    everything = [parameter for group in groups for parameter in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(model.parameters()))
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    tables = {"attention.position.table.weight"}  # of relative_bias: numbers added to scores
    expected = {
        name
        for name, parameter in model.named_parameters()
        if name.endswith(".weight")
        and parameter.dim() == 2
        and name.partition("layers.")[2][2:] not in tables
    }
    own = {"linformer": ("mix_keys", "mix_values"), "multi_head_latent": ("up_key", "up_value")}
    for layer in (0, 1):
        expected |= {f"layers.{layer}.attention.{name}" for name in own.get(mechanism, ())}
    assert names_of(decayed, model) == expected


def test_what_starts_as_the_identity_neither_decays_nor_is_orthogonalised():
    model = built(attention="talking_heads", position="relative_bias")
    ours = ("before", "after", "table.weight")
    for recipe in (AdamWRecipe(weight_decay=0.1), MuonRecipe(weight_decay=0.1)):
        optimizer = recipe.build(model)
        decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
        assert not [name for name in names_of(decayed, model) if name.endswith(ours)]
    (muon, _) = MuonRecipe().build(model).parts
    assert not [n for n in names_of(muon.param_groups[0]["params"], model) if n.endswith(ours)]


def test_a_module_states_the_role_of_its_own_parameters():
    class Gated(torch.nn.Module):
        optimizer_roles: ClassVar = {"mixer": "matrix", "skip.weight": "plain"}

        def __init__(self):
            super().__init__()
            self.mixer = torch.nn.Parameter(torch.eye(3))
            self.skip = torch.nn.Linear(3, 3, bias=False)

    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Gated()])})
    muon, adamw = MuonRecipe().build(model).parts
    assert names_of(muon.param_groups[0]["params"], model) == {"layers.0.mixer"}
    assert names_of(adamw.param_groups[0]["params"], model) == {"layers.0.skip.weight"}
    Gated.optimizer_roles = {"mixr": "matrix"}
    with pytest.raises(ValueError, match=r"Gated.optimizer_roles: 'mixr'.*mixer, skip.weight"):
        AdamWRecipe().build(model)


def test_gains_and_norms_do_not_decay():
    model = built(attention="qk_norm", norm="rms_norm")
    groups = AdamWRecipe(weight_decay=0.1).build(model).param_groups
    free = names_of([p for g in groups if not g["weight_decay"] for p in g["params"]], model)
    assert {name.rpartition(".")[2] for name in free} == {"gain", "weight"}
    assert "layers.0.attention.gain" in free
    assert "norm.weight" in free
    assert len(free) == 2 + 2 * 2 + 1


def test_frozen_parameters_are_left_alone():
    model = built(tied_embeddings=False)
    model.embedding.weight.requires_grad_(False)
    for recipe in (AdamWRecipe(), MuonRecipe()):
        groups = recipe.build(model).param_groups
        chosen = names_of([p for group in groups for p in group["params"]], model)
        assert "embedding.weight" not in chosen
        assert "head.weight" in chosen


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: torch.nn.ModuleDict({"model": m})])
def test_muon_gets_exactly_the_matrices_of_the_layers(wrap):
    """Also inside of a task, where the names of all parameters begin with `model.`."""
    model = built(tied_embeddings=False, mlp="swiglu", attention="qk_norm")
    joint = MuonRecipe(lr=0.01, muon_lr_ratio=3.0).build(wrap(model))
    muon, adamw = joint.parts
    expected = {
        f"layers.{layer}.{matrix}.weight"
        for layer in (0, 1)
        for matrix in (
            "attention.query",
            "attention.key",
            "attention.value",
            "attention.output",
            "mlp.up",
            "mlp.gate",
            "mlp.down",
        )
    }
    assert names_of([p for g in muon.param_groups for p in g["params"]], model) == expected
    assert muon.param_groups[0]["lr"] == pytest.approx(0.03)
    assert {group["lr"] for group in adamw.param_groups} == {0.01}


def test_muon_serves_a_model_without_layers():
    joint = MuonRecipe().build(built(num_layers=0))
    assert [type(part).__name__ for part in joint.parts] == ["AdamW"]


TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))


def train(model, optimizer, steps):
    losses = []
    for _ in range(steps):
        logits = model(TOKENS[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_a_step_lowers_the_loss(name):
    model = built()
    losses = train(model, OPTIMIZERS.build({"name": name, "lr": 3e-3}).build(model), 6)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_what_was_saved_goes_on_bit_for_bit(name):
    model = built(attention="qk_norm")
    optimizer = OPTIMIZERS.build(name).build(model)
    train(model, optimizer, 3)
    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    expected = train(model, optimizer, 3)

    checkpoint = torch.load(saved, weights_only=True)
    again = built(attention="qk_norm")
    again.load_state_dict(checkpoint["model"])
    resumed = OPTIMIZERS.build(name).build(again)
    forgetful = copy.deepcopy(again)
    resumed.load_state_dict(checkpoint["optimizer"])
    assert train(again, resumed, 3) == expected
    for a, b in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert train(forgetful, OPTIMIZERS.build(name).build(forgetful), 3) != expected


def test_a_learning_rate_that_is_set_reaches_all_parts():
    model = built()
    joint = MuonRecipe(lr=0.01, muon_lr_ratio=2.0).build(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(joint, lambda step: 0.5 if step else 1.0)
    train(model, joint, 1)
    schedule.step()
    rates = [[group["lr"] for group in part.param_groups] for part in joint.parts]
    assert rates == [[0.01], [0.005, 0.005]]
    joint.load_state_dict(joint.state_dict())
    for group in joint.param_groups:
        group["lr"] = 0.0
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, joint, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_closure_runs_once():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    bias = torch.nn.Parameter(torch.ones(2))
    joint = JointOptimizer([torch.optim.SGD([weight], lr=1.0), torch.optim.SGD([bias], lr=0.5)])
    calls = []

    def closure():
        calls.append(1)
        joint.zero_grad()
        loss = weight.sum() + bias.sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(joint.step(closure).detach()) == 6
    assert len(calls) == 1
    assert weight.tolist() == [[0, 0], [0, 0]]
    assert bias.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": -1e-3}])
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_a_rate_must_be_above_zero(name, options):
    with pytest.raises(ValueError, match="lr must be above 0"):
        OPTIMIZERS.build({"name": name, **options})
