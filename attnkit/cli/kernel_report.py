"""Kernels in `attnkit show`: which one runs on this machine and why, and how fast each one is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnkit.registry import ATTENTION, MASKS, RegistryError, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnkit.attention.kernels import Call
    from attnkit.attention.score_attention import ScoreAttention
    from attnkit.masks import Mask

HEAD_DIM = 64
"""Head size of the measurements."""


def show_kernels(console: Console, name: str) -> None:
    """Prints the kernel that runs on this machine for some masks and lengths, with the reason."""
    from attnkit.attention.base import build_attention
    from attnkit.attention.certificate import outlook
    from attnkit.attention.kernels import KERNELS, Where, verdicts
    from attnkit.attention.score_attention import ScoreAttention
    from attnkit.hardware.devices import default_device, device_name, fast_dtype
    from attnkit.masks import Causal, NoMask, SlidingWindow

    device = default_device()
    dtype = fast_dtype(device)
    attention = build_attention(name, 128)
    console.print(f"[bold]kernels here[/] [dim]({device_name(device)}, {dtype}, training)[/]")
    if device.type == "cuda":
        console.print(f"[dim]{_float32_products()}[/]")
    if not isinstance(attention, ScoreAttention):
        console.print(Text(f"  its own computation: {inspect.getdoc(type(attention).mix)}"))
        half = dtype if dtype.itemsize < 4 else None
        for kernel, prospect in outlook(attention.to(device), device, half).items():
            console.print(Text(f"  {kernel}  {prospect}"))
        return
    where = Where(device.type, dtype)
    lengths = (64, 512, 4096)
    candidates: tuple[Mask, ...] = (NoMask(), Causal(), SlidingWindow(window=64))
    masks = [mask for mask in candidates if attention.refusal("self", mask, "none") is None]
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("mask")
    for length in lengths:
        table.add_column(f"{length} tokens")
    reasons: dict[str, dict[str, None]] = {}  # kernel -> each of its reasons once
    for mask in masks:
        row = []
        for length in lengths:
            checked = list(verdicts(attention.call_of_shape(length, length, mask, dtype), where))
            row.append(checked[-1][0].name)
            for kernel, verdict in checked:
                note = f"{'' if verdict.takes else 'not: '}{verdict.why}"
                reasons.setdefault(kernel.name, {})[note] = None
        label = f"{MASKS.name_of(type(mask))}{' (64)' if isinstance(mask, SlidingWindow) else ''}"
        table.add_row(label, *row)
    console.print(table)
    console.print("[dim]tried in this order; the first that supports the call runs[/]")
    order = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for kernel in (name for name in KERNELS if name in reasons):
        order.add_row(f"  {kernel}", Text("; ".join(reasons[kernel])))
    console.print(order)


def _float32_products() -> str:
    import torch

    if torch.get_float32_matmul_precision() == "highest":
        return "float32 products are computed in float32 (TF32 is off)"
    return "float32 products are computed in TF32"


def measure_kernels(console: Console, name: str, tokens: Sequence[int]) -> None:
    """Prints time and memory, forward and backward, of each kernel that can compute a mechanism on
    this machine, for some masks and positions.

    Args:
        console: where to print.
        name: name of the mechanism.
        tokens: lengths; empty: two that suit the machine.

    Raises:
        RegistryError: if the mechanism has no kernels.
    """
    import torch

    from attnkit.attention.kernels.measuring import measured
    from attnkit.attention.score_attention import ScoreAttention
    from attnkit.hardware.devices import default_device, device_name, fast_dtype

    if not issubclass(ATTENTION.get(name), ScoreAttention):
        raise RegistryError(f"{name} computes its heads itself, so there are no kernels to compare")
    device = default_device()
    dtype = fast_dtype(device)
    on_gpu = device.type == "cuda"
    lengths = list(tokens) or ([1024, 4096] if on_gpu else [256, 1024])
    heads = 16 if on_gpu else 8
    console.print(
        f"[bold cyan]{name}[/]  [dim]{device_name(device)}, torch {torch.__version__}, {dtype}, "
        f"{heads} heads of {HEAD_DIM}, batch 1, forward and backward[/]"
    )
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("mask and position", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("")
    for length in lengths:
        for label, attention, mask in _cases(name, heads, device, length):
            shape = attention.call_of_shape(length, length, mask, dtype)
            q, k, v = (torch.empty_like(h, device=device) for h in (shape.q, shape.k, shape.v))
            for found in measured(functools.partial(_call, attention, mask), (q, k, v)):
                if found.milliseconds is not None:
                    numbers = f"{found.milliseconds:.2f}", f"{found.mebibytes:.0f}"
                    note = "chosen" if found.chosen else ""
                elif found.chosen:
                    numbers, note = ("-", "-"), f"chosen; not measured: {found.why_not}"
                else:
                    continue
                table.add_row(f"{length}", label, found.kernel, *numbers, Text(note))
            table.add_section()
    console.print(table)


def _call(attention: ScoreAttention, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    return attention.call(q, k, v, mask)


def _cases(
    name: str, heads: int, device: torch.device, length: int
) -> Iterator[tuple[str, ScoreAttention, Mask]]:
    """Yields label, mechanism and mask for each mask and position that the mechanism supports."""
    import torch

    from attnkit.attention.base import build_attention
    from attnkit.attention.score_attention import ScoreAttention
    from attnkit.masks import Causal, Document, NoMask, SlidingWindow, name_of

    options = {"num_heads": heads} if "num_heads" in ATTENTION.options(name) else {}
    documents = Document((torch.arange(length, device=device) * 8 // length).view(1, -1))
    for mask, position in (
        (NoMask(), "none"),
        (Causal(), "none"),
        (SlidingWindow(window=64), "none"),
        (SlidingWindow(window=256), "none"),
        (Causal() & documents, "none"),
        (Causal(), "alibi"),
        (SlidingWindow(window=256), "alibi"),
        (Causal(), "relative_bias"),
    ):
        cls = ATTENTION.get(name)
        window = f" {mask.window}" if isinstance(mask, SlidingWindow) else ""
        if cls.refusal("self", mask, position) is None:
            spec = Spec(name, options)
            attention = build_attention(spec, heads * HEAD_DIM, position=position).to(device)
            assert isinstance(attention, ScoreAttention)
            note = "" if position == "none" else f", {position}"
            yield f"{name_of(mask)}{window}{note}", attention, mask
