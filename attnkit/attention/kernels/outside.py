"""Kernels of other packages, or of a plugin, for operations that attnkit computes in plain torch.

An operation calls `computed_outside`. A kernel must be certified on this GPU before it runs, see
`attention/certificate.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnkit.hardware.devices import autocast_dtype


@dataclass(frozen=True)
class Operation:
    """A computation that an outside kernel may replace: tensors (B, H, T, X) -> heads (B, H, T, E)
    and the state (B, H, D, E) after them.

    Attributes:
        name: identifies it in requests.
        plain: computes it in plain torch, in any dtype.
        sample: makes its inputs. It gets the widths X of the inputs, B, H, T and a generator, and
            returns float32 tensors on the CPU, similar to those of a trained mechanism.
    """

    name: str
    plain: Callable[..., tuple[Tensor, ...]]
    sample: Callable[[tuple[int, ...], tuple[int, int, int], torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Request:
    """What a mechanism needs computed; the scope of one certificate.

    Attributes:
        operation: its name.
        device: type of the device: "cuda".
        dtype: dtype of queries, keys and values; other inputs are at least float32.
        widths: last size of each input.
    """

    operation: str
    device: str
    dtype: torch.dtype
    widths: tuple[int, ...]


class OutsideKernel(ABC):
    """A kernel that is not part of attnkit. A plugin registers its own with `register`."""

    name: ClassVar[str]
    """Package and function: "fla.chunk_gla"."""

    @abstractmethod
    def version(self) -> str | None:
        """Returns the version of its code; another version needs another certificate. None: it is
        not installed, and is not mentioned.
        """

    @abstractmethod
    def serves(self, request: Request) -> bool:
        """True if it computes this operation with these inputs."""

    @abstractmethod
    def refusal(self, request: Request) -> str | None:
        """Returns why it cannot serve a request on this machine, for messages; None: it can."""

    @abstractmethod
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns heads (B, H, T, E) and the last state (B, H, D, E), float32, with gradients. The
        inputs are those of the operation; queries, keys and values are in the dtype of the request.
        """


OPERATIONS: dict[str, Operation] = {}
KERNELS: dict[str, OutsideKernel] = {}
_taken: dict[Request, OutsideKernel] = {}
_requests: list[Request] | None = None
_EXCLUDED = torch._C._dispatch_tls_local_exclude_set()


def operation(operation: Operation) -> Operation:
    """Registers an operation under its name."""
    return OPERATIONS.setdefault(operation.name, operation)


def register(kernel: OutsideKernel) -> OutsideKernel:
    """Offers a kernel; of several for one operation the last certified one is used."""
    KERNELS[kernel.name] = kernel
    return kernel


def forget() -> None:
    """Forgets all certificates: plain torch computes everything again."""
    _taken.clear()


def is_any_taken() -> bool:
    """True if an outside kernel serves a request."""
    return bool(_taken)


def take(request: Request, kernel: OutsideKernel) -> None:
    """Makes a kernel serve a request from now on."""
    _taken[request] = kernel


@contextmanager
def collected_requests() -> Iterator[list[Request]]:
    """Collects the requests within the block, in which plain torch computes everything."""
    global _requests
    before, _requests = _requests, []
    try:
        yield _requests
    finally:
        _requests = before


def computed_outside(operation: str, *inputs: Tensor) -> tuple[Tensor, Tensor] | None:
    """Computes an operation with a certified kernel; None: there is none.

    Args:
        operation: name of the operation.
        *inputs: (B, H, T, X) each, at least float32; under autocast queries, keys and values are
            cast.
    """
    if _requests is None and not _taken:
        return None
    device = inputs[0].device.type
    dtype = autocast_dtype(device) or inputs[0].dtype
    request = Request(operation, device, dtype, tuple(tensor.shape[-1] for tensor in inputs))
    if _requests is not None:
        _requests.append(request)
        return None
    kernel = _taken.get(request)
    if kernel is None:
        return None
    inputs = (*(tensor.to(dtype) for tensor in inputs[:3]), *inputs[3:])
    with torch.autocast(device, enabled=False):
        return as_a_node(kernel, *inputs) if torch.compiler.is_compiling() else kernel(*inputs)


def as_a_node(kernel: OutsideKernel, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Calls a registered kernel as one opaque node of a compiler's graph."""
    return _opaque(kernel.name, list(inputs))


@torch.library.custom_op("attnkit::outside", mutates_args=())
def _opaque(kernel: str, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    heads, state = KERNELS[kernel](*inputs)
    return heads.contiguous(), state.contiguous()


@_opaque.register_fake
def _(kernel: str, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    k, v = inputs[1], inputs[2]
    state = k.new_empty(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=_exact(k.dtype))
    return torch.empty_like(v, memory_format=torch.contiguous_format), state


@torch.library.custom_op("attnkit::outside_backward", mutates_args=())
def _opaque_backward(
    kernel: str, inputs: list[Tensor], d_heads: Tensor, d_state: Tensor
) -> list[Tensor]:
    """Runs the kernel again, since what it saves for its backward pass cannot leave the node."""
    # Within an operator torch records no gradients; this restores the outer state.
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, _EXCLUDED), torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        outputs = KERNELS[kernel](*inputs)
        gradients = torch.autograd.grad(outputs, inputs, (d_heads, d_state))
    return [gradient.contiguous() for gradient in gradients]


@_opaque_backward.register_fake
def _(kernel: str, inputs: list[Tensor], d_heads: Tensor, d_state: Tensor) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]


def _keep(ctx: Any, inputs: tuple, output: Any) -> None:
    ctx.kernel = inputs[0]
    ctx.save_for_backward(*inputs[1])


def _gradients(ctx: Any, d_heads: Tensor, d_state: Tensor) -> tuple[None, list[Tensor]]:
    return None, _opaque_backward(ctx.kernel, list(ctx.saved_tensors), d_heads, d_state)


_opaque.register_autograd(_gradients, setup_context=_keep)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
