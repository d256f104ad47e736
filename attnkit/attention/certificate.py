"""Certifies that an outside kernel computes correctly on this GPU.

Compares its outputs and all gradients with those of the plain operation in float64, at the sizes of
the run. Some released kernels have computed wrong gradients on certain GPUs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.attention.kernels import KERNELS as SHELF
from attnkit.attention.kernels import (
    Call,
    Kernel,
    Where,
    fla,  # noqa: F401  (registers its kernels)
)
from attnkit.attention.kernels.choosing import Seat, seat_of, trust
from attnkit.attention.kernels.outside import (
    KERNELS,
    OPERATIONS,
    Operation,
    OutsideKernel,
    Request,
    as_a_node,
    collected_requests,
    forget,
    take,
)
from attnkit.attention.score_attention import ScoreAttention
from attnkit.masks import Causal, Mask, name_of
from attnkit.storage.files import parse_json

log = logging.getLogger("attnkit")

LENGTHS = (1, 63, 200)
"""Lengths of the comparison besides that of the run; none is a multiple of a block size."""

LONGEST = 2048
"""Limit on the run's length in a comparison."""

FLOORS = {torch.bfloat16: 0.02, torch.float16: 0.005, torch.float32: 0.005}
"""Error that is always allowed: one or two roundings of the terms of a product. For float32, those
of products with 10 bits (TF32).
"""

TIMES_PLAIN = 4
"""A larger error is allowed if plain torch in the same dtype has at least a quarter of it."""


@dataclass(frozen=True)
class Certificate:
    """The result of one comparison.

    Attributes:
        kernel: its name.
        version: version of its code.
        operation: what it computes.
        card: name of the device.
        torch: version of torch.
        dtype: dtype of the inputs.
        widths: last size of each input.
        lengths: tokens of each comparison.
        accepted: True if it may run.
        errors: for each output and gradient the largest relative error of a token: that of the
            kernel, and that of plain torch in the same dtype.
        words: the result in one line.
    """

    kernel: str
    version: str
    operation: str
    card: str
    torch: str
    dtype: str
    widths: tuple[int, ...]
    lengths: tuple[int, ...]
    accepted: bool = False
    errors: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    words: str = ""

    @property
    def key(self) -> str:
        """File name that identifies what was compared."""
        asked_for = dataclasses.replace(self, accepted=False, errors={}, words="")
        text = json.dumps(dataclasses.asdict(asked_for), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_any_installed() -> bool:
    """True if there is any kernel to certify."""
    states = any(kernel.version() is not None for kernel in KERNELS.values())
    return states or torch.cuda.is_available() or any(k.outside for k in SHELF.values())


def certify_model(
    model: nn.Module,
    num_tokens: int,
    device: torch.device,
    dtype: torch.dtype | None,
    folder: Path | None,
) -> list[Certificate]:
    """Certifies all outside kernels that a model's mechanisms could use; those that pass are used
    from now on, plain torch otherwise. Forgets those that an earlier model used.

    Args:
        model: on its device.
        num_tokens: length of the run's sequences.
        device: device of the training.
        dtype: dtype of autocast; None: no autocast.
        folder: where certificates are stored; None: nowhere.
    """
    forget()
    certificates = _certify_score_kernels(model, num_tokens, device, dtype, folder)
    for request in _requests(model, device, dtype):
        for kernel in reversed(KERNELS.values()):
            if kernel.version() is None or not kernel.serves(request):
                continue
            refusal = kernel.refusal(request)
            if refusal is not None:
                log.warning("%s: plain torch runs instead", refusal)
                continue
            certificate = certify(kernel, request, num_tokens, device, folder)
            certificates.append(certificate)
            log.warning(certificate.words)
            if certificate.accepted:
                take(request, kernel)
                break
    return certificates


def outlook(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> dict[str, str]:
    """Returns name -> state of each outside kernel that could serve a model."""
    found: dict[str, str] = {}
    for request in _requests(model, device, dtype):
        for kernel in (kernel for kernel in KERNELS.values() if kernel.serves(request)):
            version = kernel.version()
            if version is None:
                found[kernel.name] = "not: it is not installed"
            elif (refusal := kernel.refusal(request)) is not None:
                found[kernel.name] = f"not: {refusal}"
            else:
                found[kernel.name] = f"version {version}, once a run has certified it"
    return found


@torch.no_grad()
def _requests(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> list[Request]:
    """Returns the operations that a model's mechanisms request when they run over a few tokens."""
    found: dict[Request, None] = {}
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        weight = next(attention.parameters())
        if attention.refusal("self", Causal(), "none") or attention.lender is not None:
            continue  # the latter makes the same requests as the layer whose keys it uses
        x = torch.zeros(1, 2, attention.dim, device=device, dtype=weight.dtype)
        autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
        with collected_requests() as requests, autocast, torch.random.fork_rng(devices=[]):
            attention(x, x, Causal())
        found.update(dict.fromkeys(requests))
    return list(found)


class _ScoreKernel:
    """A kernel for score maps in the form that can be certified: q, k, v -> heads."""

    def __init__(self, kernel: Kernel, call: Call) -> None:
        self.kernel, self.call = kernel, call

    @property
    def name(self) -> str:
        return self.kernel.name

    def version(self) -> str | None:
        return self.kernel.version

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.kernel(self._with(*inputs)),)

    def operation(self) -> Operation:
        """Returns the operation to compare with: the reference kernel."""
        return Operation(
            f"attention under {name_of(self.call.mask)}",
            lambda *inputs: (SHELF["reference"](self._with(*inputs)),),
            self._sample,
        )

    def _with(self, q: Tensor, k: Tensor, v: Tensor) -> Call:
        return dataclasses.replace(self.call, q=q, k=k, v=v)

    def _sample(
        self, widths: tuple[int, ...], sizes: tuple[int, int, int], generator: torch.Generator
    ) -> list[Tensor]:
        heads = (self.call.q.shape[1], self.call.k.shape[1], self.call.v.shape[1])
        return [
            torch.randn(1, count, sizes[2], width, generator=generator)
            for count, width in zip(heads, widths, strict=True)
        ]


Subject = OutsideKernel | _ScoreKernel


def _certify_score_kernels(
    model: nn.Module,
    num_tokens: int,
    device: torch.device,
    dtype: torch.dtype | None,
    folder: Path | None,
) -> list[Certificate]:
    """Certifies FlexAttention and plugin kernels for each self-attention of a model that would use
    them; disables those that fail.
    """
    length = min(num_tokens, LONGEST)
    documents = torch.arange(length, device=device).mul(3).div(length).long()[None]
    made: dict[Seat, Certificate] = {}
    for attention, mask in _self_attentions(model):
        mask = mask.bind(documents=documents)
        width = dtype or attention.output.weight.dtype
        where = Where(device.type, width)
        call = attention.call_of_shape(length, length, mask, width)
        call = dataclasses.replace(call, dropout=0.0)
        for kernel in SHELF.values():
            seat = seat_of(kernel, call, where)
            asked_for = kernel.outside or (kernel.name == "flex" and device.type == "cuda")
            if not asked_for or seat in made or kernel.refusal(call) is not None:
                continue
            if not kernel.suits(call, where).takes:
                continue
            subject = _ScoreKernel(kernel, call)
            widths = tuple(heads.shape[-1] for heads in (call.q, call.k, call.v))
            operation = subject.operation()
            request = Request(operation.name, device.type, width, widths)
            found = certify(subject, request, length, device, folder, operation, (length,))
            made[seat] = found
            log.warning(found.words)
            trust(seat, None if found.accepted else found.words)
    return list(made.values())


def _self_attentions(model: nn.Module) -> Iterator[tuple[ScoreAttention, Mask]]:
    """Yields each self-attention with scores of a model's stacks, with the mask of its layer."""
    for module in model.modules():
        for attention, mask in getattr(module, "attentions", tuple)():
            if isinstance(attention, ScoreAttention):
                yield attention, mask


def certify(
    kernel: Subject,
    request: Request,
    num_tokens: int,
    device: torch.device,
    folder: Path | None = None,
    operation: Operation | None = None,
    lengths: Sequence[int] | None = None,
) -> Certificate:
    """Compares a kernel with the plain operation: heads, last state and gradients of all inputs, at
    several lengths. Returns the stored certificate if there is one.

    Args:
        kernel: an installed kernel.
        request: what it computes.
        num_tokens: length of the run's sequences.
        device: device of the comparison.
        folder: where certificates are stored; None: nowhere.
        operation: the plain operation; None: the one named by the request.
        lengths: tokens of each comparison; None: `LENGTHS`, and that of the run.
    """
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    blank = Certificate(
        kernel.name,
        kernel.version() or "",
        request.operation,
        card,
        torch.__version__,
        str(request.dtype).removeprefix("torch."),
        request.widths,
        tuple(lengths or sorted({*LENGTHS, min(num_tokens, LONGEST)})),
    )
    file = None if folder is None else folder / f"{blank.key}.json"
    known = None if file is None else _read(file, blank)
    if known is not None:
        return known
    operation = OPERATIONS[request.operation] if operation is None else operation
    certificate = _compared(blank, kernel, operation, request, device)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(certificate), indent=1), encoding="utf-8")
        part.replace(file)
    return certificate


def _read(file: Path, blank: Certificate) -> Certificate | None:
    """Reads a certificate; None: the file is missing or unreadable."""
    try:
        stored = parse_json(file.read_text(encoding="utf-8"))
        errors = {
            name: (float(own), float(plain)) for name, (own, plain) in stored["errors"].items()
        }
        return dataclasses.replace(
            blank, accepted=bool(stored["accepted"]), errors=errors, words=str(stored["words"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _compared(
    blank: Certificate,
    kernel: Subject,
    operation: Operation,
    request: Request,
    device: torch.device,
) -> Certificate:
    errors: dict[str, tuple[float, float]] = {}
    about = f"{kernel.name} {blank.version} for {request.operation}, {blank.dtype}, on {blank.card}"
    for length in blank.lengths:
        generator = torch.Generator().manual_seed(length)
        inputs = operation.sample(request.widths, (2, 2, length), generator)
        inputs = [tensor.to(device) for tensor in inputs]
        inputs[:3] = [tensor.to(request.dtype) for tensor in inputs[:3]]
        run = functools.partial(_results, inputs, length)
        exact = run(lambda *inputs: operation.plain(*(tensor.double() for tensor in inputs)))
        plain = run(functools.partial(_as_mechanisms_do, operation.plain, request))
        try:
            ways = [run(kernel)]
            if isinstance(kernel, OutsideKernel) and KERNELS.get(kernel.name) is kernel:
                ways.append(run(functools.partial(as_a_node, kernel)))
        except Exception as error:  # plain torch can always run
            words = f"refused: {about}: {type(error).__name__}: {error}".splitlines()[0]
            return dataclasses.replace(blank, errors=errors, words=f"{words} (T {length})")
        for name, true in exact.items():
            pair = max(_error(own[name], true) for own in ways), _error(plain[name], true)
            errors[name] = max(pair, errors.get(name, pair), key=lambda pair: pair[0])
    floor = FLOORS.get(request.dtype, 1e-6)
    wrong = {
        name: pair
        for name, pair in errors.items()
        if not pair[0] <= max(floor, TIMES_PLAIN * pair[1])
    }
    comparisons = ", ".join(
        f"{name} {own:.1e} off (plain torch {plain:.1e})"
        for name, (own, plain) in (wrong or errors).items()
    )
    words = f"{'refused' if wrong else 'certified'}: {about}: {comparisons}"
    return dataclasses.replace(blank, accepted=not wrong, errors=errors, words=words)


def _as_mechanisms_do(
    plain: Callable[..., tuple[Tensor, ...]], request: Request, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Runs the plain operation in the dtype of a request."""
    half = request.dtype != torch.float32
    with torch.autocast(request.device, dtype=request.dtype if half else None, enabled=half):
        heads, *state = plain(*(tensor.float() for tensor in inputs))
    return heads.to(request.dtype), *state


def _results(
    inputs: Sequence[Tensor], seed: int, run: Callable[..., tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """Returns outputs, and gradients of a random sum of them, by name."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        outputs = run(*inputs)
        generator = torch.Generator().manual_seed(seed)
        total = inputs[0].new_zeros((), dtype=torch.float64)
        for output in outputs:
            share = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            total = total + (output.double() * share.to(output.device)).sum()
        gradients = torch.autograd.grad(total, inputs)
    named = dict(zip(("heads", "last state"), outputs, strict=False))
    names = (f"gradient by {name}" for name in ("q", "k", "v", "what else a key carries"))
    return {**named, **dict(zip(names, gradients, strict=False))}


def _error(computed: Tensor, exact: Tensor) -> float:
    """Returns the largest error of a token, relative to its norm or, if that is larger, the typical
    norm.
    """
    if computed.shape != exact.shape:
        return math.inf
    away, length = (
        tensor.detach().transpose(1, 2).flatten(2).norm(dim=-1)
        for tensor in (computed.double() - exact, exact)
    )
    usual = length.square().mean().sqrt()
    share = away / torch.maximum(length, usual).clamp(min=1e-30)
    return float(share.nan_to_num(nan=math.inf).max())
