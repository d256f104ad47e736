"""What the machine under us is and can do."""

from __future__ import annotations

import resource
import sys

import torch


class HardwareError(Exception):
    """A recipe asks for an accelerator, devices or a strategy that this machine lacks."""


def has_fast_bfloat16(accelerator: str = "auto") -> bool:
    """True on NVIDIA GPUs from Ampere on, and on CPUs with instructions for bfloat16 products."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    if accelerator not in ("auto", "cpu"):
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def default_device() -> torch.device:
    """The device on which a run with `accelerator: auto` trains."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: allocated on the GPU, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
