"""The laws over every registered mechanism, mask, position and role; and over planted faults."""

import functools
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from attnkit.attention.base import Attention
from attnkit.checks import LAWS
from attnkit.checks.card import judge, law
from attnkit.checks.case import demand_close
from attnkit.checks.devices import NoFakeDevice, outcomes
from attnkit.checks.selection import cases_of
from attnkit.registry import ATTENTION, load_plugin

FAULTS = {
    fault.__name__: fault
    for file in sorted((Path(__file__).parent / "faults").glob("*.py"))
    for fault in vars(load_plugin(str(file))).values()
    if isinstance(fault, type) and issubclass(fault, Attention) and "caught_by" in vars(fault)
}
IN_PROCESS = [law for law in LAWS if law.topic != "processes"]  # others: one for all, below


@functools.cache
def cases(mechanism):
    return cases_of(mechanism)[0]


@pytest.mark.each_mechanism
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
            if law(name) in IN_PROCESS:
                yield pytest.param(fault, name, id=f"{fault.__name__}-{name}")


@pytest.mark.parametrize(("fault", "name"), list(planted()))
def test_the_law_that_names_a_fault_catches_it(fault, name):
    line = judge(law(name), cases(fault))
    assert line.outcome == "broken", line
    assert line.words
    assert not line.trace
    assert line.smallest.startswith(f"{fault.__name__}: ")


def test_there_are_faults_enough():
    assert len(FAULTS) >= 25
    by_law = defaultdict(list)
    for fault in FAULTS.values():
        assert fault.__doc__
        for name in fault.caught_by:
            by_law[name].append(fault)
    assert set(by_law) <= {law.name for law in LAWS}


# In another process, on a pretended GPU

WINDOW = {"name": "sliding_window", "window": 4}
MECHANISMS = {
    name: {
        "attention": name,
        "position": "none",
        "mask": cases(ATTENTION.get(name))[0].first_served("causal", "none"),
    }
    for name in ATTENTION.names()
}
VARIANTS = {
    "rotary": {"position": "rotary"},
    "sinusoidal": {"position": "sinusoidal"},
    "relative_bias": {"position": "relative_bias"},
    "windowed, alibi": {"position": "alibi", "mask": WINDOW},
    "documents": {"mask": ["causal", "document"], "position": "alibi"},
    "prefix": {"mask": "prefix"},
}
PLANTED = """\
import torch

from attnkit.registry import ATTENTION, load_plugin

FAULTS = load_plugin({file!r})
ATTENTION.register("planted_cpu_mask")(FAULTS.WritesItsMaskOnTheCPU)
ATTENTION.register("planted_synchronisation")(FAULTS.DecidesInPython)


@ATTENTION.register("makes_a_tensor")
class MakesATensor(ATTENTION.get("multi_head")):

    def project_query(self, x):
        q = super().project_query(x)
        gains = torch.tensor([1.0, 2.0, 1.0, 1.0], device=q.device)
        return q * gains.view(-1, 1, 1) * q.new_tensor(2)
"""
NUMBERS = {
    name: next(c for c in cases(ATTENTION.get(name)) if c.role == "self")
    for name in ATTENTION.names()
    if any(c.role == "self" for c in cases(ATTENTION.get(name)))
}


def hashes():
    return cases(FAULTS["HangsOnAHash"])[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What became of one training step of the variants that no mechanism names, and of planted
    faults: nothing, or the error; and the numbers of a planted fault.
    """
    plugin = tmp_path_factory.mktemp("planted") / "planted.py"
    plugin.write_text(PLANTED.format(file=str(Path(__file__).parent / "faults/paths.py")))
    names = ("planted_cpu_mask", "planted_synchronisation", "makes_a_tensor")
    planted = {name: {"attention": name} for name in names}
    return elsewhere(VARIANTS | planted, {"numbers of a hash": hashes()}, [str(plugin)])


def elsewhere(*asked):
    try:
        return outcomes(*asked)
    except NoFakeDevice as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def trained_mechanisms(request):
    """The same of the mechanisms whose tests this lane asks, and their numbers: one process."""
    names = {item.callspec.params["name"] for item in request.session.items if asks_all(item)}
    models = {name: MECHANISMS[name] for name in MECHANISMS if name in names}
    numbers = {f"numbers of {name}": NUMBERS[name] for name in NUMBERS if name in names}
    return elsewhere(models, numbers)


def asks_all(item):
    return "trained_mechanisms" in getattr(item, "fixturenames", ())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_stays_on_its_device(trained, name):
    """No tensor of the step is on the CPU, and nothing waits for the device."""
    assert trained[name] == ""


@pytest.mark.each_mechanism
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanisms_training_step_stays_on_its_device(trained_mechanisms, name):
    assert trained_mechanisms[name] == ""


def test_the_fake_device_catches_what_is_planted(trained):
    assert "on the same device" in trained["planted_cpu_mask"]
    assert "DataDependent" in trained["planted_synchronisation"]


def test_a_list_becomes_a_tensor_on_the_device(trained):
    assert trained["makes_a_tensor"] == ""


@pytest.mark.each_mechanism
@pytest.mark.parametrize("name", NUMBERS)
def test_another_process_computes_the_same(trained_mechanisms, name):
    expected = NUMBERS[name].output
    computed = torch.tensor(trained_mechanisms[f"numbers of {name}"]).view_as(expected)
    demand_close(computed, expected, name, atol=1e-6)


def test_another_process_catches_what_hangs_on_a_hash(trained):
    """By a class that is not registered."""
    expected = hashes().output
    computed = torch.tensor(trained["numbers of a hash"]).view_as(expected)
    assert not torch.allclose(computed, expected, atol=1e-3)
