"""Queries the hardware of this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from attnkit.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None


class HardwareError(UserError):
    """A recipe requests an accelerator, devices or a strategy that this machine lacks."""


_ISA_WITHOUT_BFLOAT16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}
"""Values of oneDNN's `ONEDNN_MAX_CPU_ISA` without bfloat16 products."""


def fast_dtype(device: torch.device | str = "auto") -> torch.dtype:
    """Returns the dtype with the fastest matrix products.

    It is bfloat16 on hardware with units for it (NVIDIA GPUs since Ampere, some CPUs), else
    float32: without such units torch emulates bfloat16, which is much slower than float32.

    Args:
        device: a device, or the name of an accelerator as in a recipe.
    """
    kind = device if isinstance(device, str) else device.type
    if kind == "auto":
        kind = default_device().type
    if kind in ("cuda", "gpu"):
        fast = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    else:
        fast = kind == "cpu" and _cpu_has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


_LEAST_WORK = 2**15
"""Width times tokens of a batch from which bfloat16 is faster on a CPU. Below it, calls cost more
than products save; see "bfloat16 against float32" in `benchmarks/results.md`."""

_LEAST_WIDTH_WITHOUT_TILES = 128
"""The same for the width alone, on a CPU whose bfloat16 units are vectors and not tiles (AMX)."""


def auto_dtype(device: torch.device | str, width: int | None, tokens: int | None) -> torch.dtype:
    """Returns the dtype in which `precision: auto` computes the matrix products of a model.

    On a GPU it is `fast_dtype`. On a CPU a small model gets float32 even where bfloat16 has units.

    Args:
        device: as in `fast_dtype`.
        width: features of a token in the model; None: unknown, taken as large.
        tokens: tokens of a batch on this device; None: likewise.
    """
    fast = fast_dtype(device)
    kind = device if isinstance(device, str) else device.type
    if kind == "auto":
        kind = default_device().type
    if kind != "cpu" or width is None or tokens is None:
        return fast
    has_tiles = bool(_cpu_capabilities().get("amx_bf16"))
    is_faster = width * tokens >= _LEAST_WORK and (has_tiles or width >= _LEAST_WIDTH_WITHOUT_TILES)
    return fast if is_faster else torch.float32


def _cpu_capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def _cpu_has_bfloat16() -> bool:
    """True if the CPU has bfloat16 units that torch and oneDNN may use: both respect a limit in the
    environment (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`).
    """
    if not torch.backends.mkldnn.is_available():
        return False  # only oneDNN uses these units
    limits = (os.environ.get(f"{prefix}_MAX_CPU_ISA", "") for prefix in ("ONEDNN", "DNNL"))
    if any(limit.upper() in _ISA_WITHOUT_BFLOAT16 for limit in limits):
        return False
    units = _cpu_capabilities()
    if units.get("bf16"):  # ARM
        return True
    is_x86 = units.get("avx512_bf16") or units.get("amx_bf16")
    return bool(is_x86) and torch.backends.cpu.get_cpu_capability() == "AVX512"


_WITH_AUTOCAST = tuple(
    device
    for device in ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia")
    if torch.amp.is_autocast_available(device)
)
"""Computed once, since the compiler of torch 2.11 cannot trace `is_autocast_available`."""


def autocast_dtype(device: str) -> torch.dtype | None:
    """Returns the dtype of matrix products under autocast on a device; None: autocast is off, or
    does not exist for this device (`meta`).
    """
    if has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def has_autocast(device: str) -> bool:
    """True if autocast exists for a device; it does not for `meta`."""
    return device in _WITH_AUTOCAST


def autocast(device: str, *, enabled: bool) -> AbstractContextManager[Any]:
    """Returns `torch.autocast`, or a context without effect if a device has none (`meta`)."""
    return torch.autocast(device, enabled=enabled) if has_autocast(device) else nullcontext()


def compiles(option: str | bool, accelerator: str) -> bool:
    """True if a run compiles its model. `auto` means on a CUDA device, where compilation pays off
    soon.
    """
    if option != "auto":
        return bool(option)
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


@contextmanager
def exactness(*, deterministic: bool, tf32: bool) -> Iterator[None]:
    """Selects deterministic kernels and TF32 products of float32 within the block, if requested."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        torch.set_float32_matmul_precision(precision)


def end_failed_capture() -> None:
    """Restores the stream and the random generators of the GPUs after the capture of a CUDA graph
    failed: torch leaves the stream of the capture, and may still consider the generators captured
    and refuse to draw numbers.
    """
    if torch.cuda.is_initialized():
        torch.cuda.set_stream(torch.cuda.default_stream())
    for generator in torch.cuda.default_generators:
        generator.graphsafe_set_state(generator.clone_state())


def has_several_processes() -> bool:
    """True if this process is one of several that train together. Known without a trainer, too."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def default_device() -> torch.device:
    """Returns the device on which a run with `accelerator: auto` trains."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Returns the GPU's name, or the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor_name() -> str:
    """Returns the model of the processor and the vector instructions that torch uses, such as `AMD
    EPYC, AVX2`. Virtual machines give processors with different instructions the same model.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = next(iter(names), platform.processor() or platform.machine())
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def computing_device(device: torch.device) -> str:
    """Returns the name of what computes: the GPU, or `processor_name` for the CPU. Speeds are
    comparable, and sums equal in their last bits, only on the same one.
    """
    return processor_name() if device.type == "cpu" else device_name(device)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Returns the peak memory so far: allocated on the GPU, or of the whole process; None if
    unknown.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit


def physical_memory_bytes() -> int | None:
    """Returns the memory of the machine; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
