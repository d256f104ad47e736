"""Builds modules on the meta device: parameters have shapes, but take no memory and no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode


class _NoDrawing(TorchFunctionMode):
    """Skips the initialisation of weights. On the meta device it changes nothing but loads torch's
    compiler: two seconds for a model of 96 layers.
    """

    skipped = frozenset(
        (
            torch.nn.init.normal_,
            torch.nn.init.uniform_,
            torch.nn.init.kaiming_uniform_,
            Tensor.normal_,
            Tensor.uniform_,
        )
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


MAX_MODULES = 30_000
"""Largest number of modules of a model, enough for some 2,000 layers."""


@contextmanager
def shapes_only() -> Iterator[None]:
    """Builds the modules created in the block on the meta device.

    Raises:
        ValueError: as soon as there are more than `MAX_MODULES`.
    """
    count = 0

    def counted(module: nn.Module, name: str, child: nn.Module) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES:,} modules; lower the number of layers")

    hook = register_module_module_registration_hook(counted)
    try:
        with torch.device("meta"), _NoDrawing():
            yield
    finally:
        hook.remove()
