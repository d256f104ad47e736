"""What the machine can do, and that whatever chooses a number type asks for it."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.hardware import devices
from attnkit.hardware.devices import (
    auto_dtype,
    autocast_dtype,
    computing_device,
    exactness,
    fast_dtype,
    has_autocast,
    processor_name,
)
from attnkit.recipe import load_recipe
from attnkit.registry import OPTIMIZERS
from attnkit.runs import experiment
from attnkit.runs.trainer import resolve_precision
from attnkit.training.muon import StackedMuon

HALF = {torch.bfloat16, torch.float16}


@pytest.fixture
def pretend(monkeypatch):
    """`pretend("AVX512", amx_bf16=True)`: a CPU with these units, and torch's own limit."""

    def set_processor(capability: str, **units: bool) -> None:
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)

    return set_processor


class HalfPrecision(TorchDispatchMode):
    """Counts the operations that take or give numbers of 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.dtype in HALF:
                self.found[str(func.overloadpacket)] += 1
                break
        return result


@pytest.mark.parametrize(
    ("capability", "units", "is_fast"),
    [
        ("AVX512", {"avx512_bf16": True}, True),
        ("AVX512", {"amx_bf16": True}, True),
        ("AVX512", {"avx512_f": True, "avx512_bf16": False}, False),
        ("AVX2", {"avx2": True}, False),
        ("AVX2", {"avx2": True, "amx_bf16": True}, False),  # ATEN_CPU_CAPABILITY=avx2
        ("DEFAULT", {"bf16": True}, True),  # ARM
        ("DEFAULT", {}, False),
    ],
)
def test_a_cpu_without_bfloat16_units_computes_in_float32(pretend, capability, units, is_fast):
    pretend(capability, **units)
    expected = torch.bfloat16 if is_fast else torch.float32
    assert fast_dtype("cpu") == fast_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("units", "width", "tokens", "is_half"),
    [
        (("avx512_bf16", "amx_bf16"), 64, 24 * 64, True),
        (("avx512_bf16", "amx_bf16"), 64, 4 * 64, False),
        (("avx512_bf16", "amx_bf16"), 128, 4 * 64, True),
        (("avx512_bf16",), 64, 64 * 64, False),
        (("avx512_bf16",), 128, 12 * 64, True),
        (("avx512_bf16",), None, None, True),
        ((), 1024, 2**20, False),
    ],
)
def test_a_small_model_computes_in_float32_on_a_cpu(pretend, units, width, tokens, is_half):
    pretend("AVX512", **dict.fromkeys(units, True))
    expected = torch.bfloat16 if is_half else torch.float32
    assert auto_dtype("cpu", width, tokens) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shakespeare_char", "bf16-mixed"),
        ("characters", "bf16-mixed"),
        ("multi30k_en_de_cpu", "bf16-mixed"),
        ("induction", "32-true"),
        ("parity", "32-true"),
    ],
)
def test_each_recipe_takes_what_is_faster_on_a_cpu_without_tiles(pretend, name, expected):
    pretend("AVX512", avx512_bf16=True)
    assert resolve_precision(load_recipe(name, ["trainer.accelerator=cpu"])) == expected


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "is_fast"),
    [("AVX2", False), ("avx512_core_vnni", False), ("AVX512_CORE_BF16", True), ("ALL", True)],
)
def test_a_limit_of_onednn_counts(pretend, monkeypatch, name, limit, is_fast):
    pretend("AVX512", avx512_bf16=True, amx_bf16=True)
    monkeypatch.setenv(name, limit)
    assert (fast_dtype("cpu") == torch.bfloat16) == is_fast


def test_without_onednn_bfloat16_is_emulated(pretend, monkeypatch):
    pretend("DEFAULT", bf16=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fast_dtype("cpu") == torch.float32


@pytest.mark.parametrize(("major", "is_fast"), [(7, False), (8, True), (9, True)])
def test_gpus_compute_in_bfloat16_from_ampere_on(monkeypatch, major, is_fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    expected = torch.bfloat16 if is_fast else torch.float32
    assert fast_dtype(torch.device("cuda", 0)) == fast_dtype("gpu") == fast_dtype() == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("task", ["language_modeling", "translation"])
def test_a_run_computes_in_the_type_that_is_fast(small, pretend, monkeypatch, task, optimizer):
    """A step, validation and samples: without units for bfloat16 no number has 16 bits."""
    overrides = [
        "trainer.max_steps=1",
        "trainer.precision=auto",
        f"optimizer={{name: {optimizer}}}",
    ]
    pretend("AVX2", avx2=True)
    with HalfPrecision() as slow:
        experiment.run(small(*overrides, task=task))
    assert not slow.found
    pretend("AVX512", amx_bf16=True)
    monkeypatch.setattr(devices, "_LEAST_WORK", 1)  # these models are small
    with HalfPrecision() as fast:
        experiment.run(small(*overrides, task=task), overwrite=True)
    assert fast.found["aten.mm"] + fast.found["aten.addmm"] > 0


@pytest.mark.parametrize("is_fast", [True, False])
def test_muon_iterates_in_the_type_that_is_fast(pretend, is_fast):
    pretend("AVX512", avx512_bf16=is_fast)
    weight = torch.nn.Parameter(torch.ones(8, 4))
    weight.grad = torch.eye(8, 4)
    with HalfPrecision() as half:
        StackedMuon([weight]).step()
    assert half.found["aten.baddbmm"] == (10 if is_fast else 0)


def test_bfloat16_that_is_asked_for_is_given_and_its_price_is_said(small, pretend, caplog):
    pretend("AVX2", avx2=True)
    result = experiment.run(small("trainer.max_steps=1", "trainer.precision=bf16"))
    assert result.record["precision"] == "bf16-mixed"
    assert "bfloat16 is slow on this machine" in caplog.text


@pytest.mark.parametrize(("tf32", "expected"), [(True, "high"), (False, "highest")])
def test_tf32_is_used_where_a_recipe_says_so(monkeypatch, tf32, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    with exactness(deterministic=False, tf32=tf32):
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == before


def test_the_dtype_of_autocast():
    assert autocast_dtype("cpu") is None
    assert autocast_dtype("meta") is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_dtype("cpu") == torch.bfloat16
        assert autocast_dtype("cuda") is None
    assert has_autocast("cuda")
    assert not has_autocast("meta")


def test_a_processor_is_named_with_the_vector_instructions_that_torch_uses(monkeypatch):
    here = processor_name()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX1024")
    assert processor_name() == f"{here.rpartition(', ')[0]}, AVX1024"
    assert computing_device(torch.device("cpu")) == processor_name()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert computing_device(torch.device("cuda")) == "NVIDIA H100"
