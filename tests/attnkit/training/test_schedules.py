"""Learning rates at steps computed by hand."""

import math

import pytest

from attnkit.registry import SCHEDULES


def factors(name, steps, max_steps=100, **options):
    schedule = SCHEDULES.build({"name": name, **options})
    return [schedule.factor(step, max_steps) for step in steps]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_warm_up_rises_in_a_straight_line(name):
    """The first step is not wasted at a rate of zero, and the highest comes right after warm-up."""
    rising = factors(name, range(5), warmup_steps=4)
    assert rising == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_constant_stays():
    assert factors("constant", [0, 50, 99]) == [1, 1, 1]


def test_cosine_by_hand():
    assert factors("cosine", [0, 25, 50, 100], final_ratio=0.0) == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, 0]
    )
    assert factors("cosine", [50, 100], final_ratio=0.1) == pytest.approx([0.55, 0.1])
    # the 20 steps of warm-up do not count: half of the remaining 80 are over at step 60
    assert factors("cosine", [20, 60, 100], warmup_steps=20, final_ratio=0.0) == pytest.approx(
        [1, 0.5, 0]
    )


def test_linear_by_hand():
    assert factors("linear", [0, 25, 99, 100]) == pytest.approx([1, 0.75, 0.01, 0])
    late = factors("linear", [0, 40, 70, 100], decay_share=0.6, final_ratio=0.2)
    assert late == pytest.approx([1, 1, 0.6, 0.2])
    assert factors("linear", [0, 99, 100], decay_share=0.0) == [1, 1, 1]


def test_inverse_sqrt_by_hand():
    """Half of the highest rate at four times the warm-up."""
    assert factors("inverse_sqrt", [99, 399], 1000, warmup_steps=99) == pytest.approx([1, 0.5])


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_past_the_end_it_stays_where_it_ended(name):
    assert factors(name, [100], 100) == factors(name, [150], 100)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_warm_up_longer_than_training_works(name):
    assert factors(name, [0, 1, 2], max_steps=2, warmup_steps=9) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"final_ratio": 1.5}, "final_ratio must be between 0 and 1, got 1.5"),
        ("linear", {"decay_share": -0.1}, "decay_share must be between 0 and 1, got -0.1"),
        ("constant", {"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        factors(name, [0], **options)
