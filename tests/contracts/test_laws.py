"""The laws over every registered mechanism, mask, position and role; and over planted faults."""

import functools
from collections import defaultdict
from pathlib import Path

import pytest

from attnkit.attention.base import Attention
from attnkit.checks import LAWS
from attnkit.checks.card import cases_of, judge, law
from attnkit.checks.devices import NoFakeDevice, outcomes
from attnkit.registry import ATTENTION, load_plugin

FAULTS = {
    fault.__name__: fault
    for file in sorted((Path(__file__).parent / "faults").glob("*.py"))
    for fault in vars(load_plugin(str(file))).values()
    if isinstance(fault, type) and issubclass(fault, Attention) and "caught_by" in vars(fault)
}
ON_A_DEVICE = "training_step_stays_on_its_device"  # a process each: one for all, below
IN_PROCESS = [law for law in LAWS if law.name != ON_A_DEVICE]


@functools.cache
def cases(mechanism):
    return cases_of(mechanism)[0]


@pytest.mark.parametrize("a_law", IN_PROCESS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", ATTENTION.names())
def test_it_holds(name, a_law):
    """Wherever the mechanism can sit."""
    line = judge(a_law, cases(ATTENTION.get(name)))
    assert line.outcome != "broken", f"{line.words}\n{line.smallest}"


@pytest.mark.parametrize("a_law", LAWS, ids=lambda law: law.name)
def test_it_says_what_it_demands_and_is_broken_by_a_fault(a_law):
    """No law without words, and none that nothing in `faults/` breaks."""
    assert a_law.text.rstrip(")").endswith(".")
    assert a_law.name in {name for fault in FAULTS.values() for name in fault.caught_by}


def planted():
    for fault in FAULTS.values():
        for name in fault.caught_by:
            if name != ON_A_DEVICE:
                yield pytest.param(fault, name, id=f"{fault.__name__}-{name}")


@pytest.mark.parametrize(("fault", "name"), list(planted()))
def test_the_law_that_names_a_fault_catches_it(fault, name):
    line = judge(law(name), cases(fault))
    assert line.outcome == "broken", line
    assert line.words
    assert line.smallest.startswith(f"{fault.__name__}: ")


def test_there_are_faults_enough():
    assert len(FAULTS) >= 25
    by_law = defaultdict(list)
    for fault in FAULTS.values():
        assert fault.__doc__
        for name in fault.caught_by:
            by_law[name].append(fault)
    assert set(by_law) <= {law.name for law in LAWS}


# On a pretended GPU

WINDOW = {"name": "sliding_window", "window": 4}
VARIANTS = {
    **{
        name: {
            "attention": name,
            "position": "none",
            "mask": cases(ATTENTION.get(name))[0].first_served("causal", "none"),
        }
        for name in ATTENTION.names()
    },
    "rotary": {"position": "rotary"},
    "sinusoidal": {"position": "sinusoidal"},
    "relative_bias": {"position": "relative_bias"},
    "windowed, alibi": {"position": "alibi", "mask": WINDOW},
    "documents": {"mask": ["causal", "document"], "position": "alibi"},
    "prefix": {"mask": "prefix"},
}
PLANTED = """\
from attnkit.registry import ATTENTION, load_plugin

FAULTS = load_plugin({file!r})
ATTENTION.register("planted_cpu_mask")(FAULTS.WritesItsMaskOnTheCPU)
ATTENTION.register("planted_synchronisation")(FAULTS.DecidesInPython)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What became of one training step of each variant: nothing, or the error."""
    plugin = tmp_path_factory.mktemp("planted") / "planted.py"
    plugin.write_text(PLANTED.format(file=str(Path(__file__).parent / "faults/paths.py")))
    planted = {n: {"attention": n} for n in ("planted_cpu_mask", "planted_synchronisation")}
    try:
        return outcomes(VARIANTS | planted, [str(plugin)])
    except NoFakeDevice as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_stays_on_its_device(trained, name):
    """No tensor of the step is on the CPU, and nothing waits for the device."""
    assert trained[name] == ""


def test_the_fake_device_catches_what_is_planted(trained):
    assert "on the same device" in trained["planted_cpu_mask"]
    assert "DataDependent" in trained["planted_synchronisation"]
