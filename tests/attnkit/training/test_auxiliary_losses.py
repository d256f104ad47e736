"""A loss that a mechanism brings: it is trained, has a curve, and is in no validation."""

import pytest

from attnkit.runs import experiment
from attnkit.tensorboard.scalars import read_scalars


def spec(weight):
    return f"model.attention={{name: disagreement, num_heads: 2, weight: {weight}}}"


def curve(result, name):
    return read_scalars(result.directory)[name].values


def test_it_has_a_curve_and_falls(small):
    result = experiment.run(small(spec(2.0), "trainer.max_steps=20"))
    disagreement = curve(result, "loss/train_disagreement")
    assert disagreement[-1] < 0.8 * disagreement[0]
    whole, own = curve(result, "loss/train"), curve(result, "loss/train_cross_entropy")
    for total, *parts in zip(whole, own, disagreement, strict=True):
        assert total == pytest.approx(sum(parts), rel=1e-5)


def test_without_weight_it_changes_nothing(small):
    """And validation knows nothing of it, whatever its weight."""
    plain = experiment.run(small())
    losses = {}
    for weight in (0.0, 5.0):
        result = experiment.run(small(spec(weight), f"variant=weight{weight}"))
        losses[weight] = result.metrics["loss"]
    assert losses[0.0] == pytest.approx(plain.metrics["loss"], abs=1e-6)
    assert losses[5.0] != losses[0.0]
    assert abs(losses[5.0] - losses[0.0]) < 0.5  # the auxiliary loss itself is above 1


def test_it_comes_out_of_a_compiled_model(small, graphs):
    plain = experiment.run(small(spec(2.0)))
    compiled = experiment.run(small(spec(2.0), "trainer.compile=true", "variant=compiled"))
    name = "loss/train_disagreement"
    assert curve(compiled, name) == pytest.approx(curve(plain, name), rel=1e-4)
    assert graphs == [True, False]  # one graph each for training and validation
