"""Patching heads between two texts."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.errors import DataError
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.understanding.patching import patch_heads


@pytest.fixture(scope="module")
def circuit_run(small_run, induction_circuit):
    """A run with the model made by hand, and its letters."""
    run = load_run(small_run.directory)
    return replace(run, model=induction_circuit(run.tokenizer.vocab_size))


def test_a_copied_prompt_changes_nothing(circuit_run):
    found = patch_heads(circuit_run, "the dog the", "the dog the")
    assert found.clean == pytest.approx(found.corrupted, abs=1e-6)
    assert all(abs(effect) < 1e-6 for _, effect in found.heads())


def test_the_induction_head_carries_the_difference(circuit_run):
    """`dog d` is followed by `o`, `bog d` by nothing in particular."""
    found = patch_heads(circuit_run, "dog d", "bog d")
    assert found.answer == "o"
    assert found.clean > found.corrupted + 0.5
    effects = dict(found.heads())
    # Either head of the circuit alone brings it back: one is all that the other's text lacks.
    for name in ("L0H0", "L1H0"):
        assert effects[name] == pytest.approx(found.clean - found.corrupted, abs=0.05)
    assert effects["L0H1"] == effects["L1H1"] == 0
    assert any("alone restores" in str(part) for part in found.shown())


def test_it_is_the_forward_pass_with_one_head_exchanged(small_run):
    """Known in another way: the last head of the last layer, by the weights of its projection."""
    run = load_run(small_run.directory)
    found = patch_heads(run, "the dog", "the cat")
    outputs = {}
    last = run.model.layers[1].attention

    def keep(text):
        reading = run.reading(text)
        hook = last.output.register_forward_pre_hook(
            lambda _, args: outputs.__setitem__(text, args[0])
        )
        with torch.no_grad():
            run.model(*reading.inputs)
        hook.remove()

    keep("the dog")
    keep("the cat")
    mixed = outputs["the cat"].clone()
    mixed[..., 8:] = outputs["the dog"][..., 8:]
    hook = last.output.register_forward_pre_hook(lambda _, args: (mixed,))
    with torch.no_grad():
        logits = run.model(*run.reading("the cat").inputs)[0, -1]
    hook.remove()
    answer = run.tokenizer.encode(found.answer).ids[0]
    wanted = float(logits.log_softmax(dim=-1)[answer]) - found.corrupted
    assert found.effects["layers.1.attention"][1] == pytest.approx(wanted, abs=1e-5)


def test_texts_of_different_lengths_are_refused(circuit_run):
    with pytest.raises(DataError, match="--clean has 7 tokens and --corrupted 8"):
        patch_heads(circuit_run, "the dog", "the dogs")
    with pytest.raises(DataError, match="--corrupted is empty"):
        patch_heads(circuit_run, "the dog", "")


def test_the_command(small_run, tmp_path):
    out = tmp_path / "effects.json"
    arguments = ["patch", small_run.directory, "--clean", "the dog", "--corrupted", "the cat"]
    ended = CliRunner().invoke(app, [*map(str, arguments), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "log-probability of" in ended.stdout
    assert sorted(json.loads(out.read_text())["effects"]) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    equal = CliRunner().invoke(app, [*map(str, arguments[:-1]), "the dog"])
    assert equal.exit_code == 2
    assert "error: --clean and --corrupted are equal" in equal.output


def test_a_translation(small):
    result = experiment.run(small(task="translation"))
    run = load_run(result.directory)
    found = patch_heads(run, "a b c ||| c b", "a b d ||| d b")
    assert {name.partition(" L")[0] for name, _ in found.heads()} == {
        *("encoder.self", "decoder.self", "decoder.cross")
    }
