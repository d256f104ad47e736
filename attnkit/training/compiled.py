"""A model through `torch.compile`: one graph to train, one to evaluate; and how long that takes."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.hardware.devices import end_failed_capture

log = logging.getLogger("attnkit")

BACKEND = "inductor"
"""What makes code of a graph. Tests count graphs with another, which is quick."""


MOST_SIZES = 64
"""Sizes of batches that are captured as CUDA graphs; others are launched kernel by kernel."""


class Compiled:
    """Calls a model compiled, as one graph. What breaks the graph is reported once, with its line:
    a mechanism then runs as plain Python between compiled parts; otherwise the whole model does.

    Args:
        model: the model to compile; it stays callable as plain Python.
        dynamic: compile one graph for inputs of all sizes.
    """

    def __init__(self, model: nn.Module, *, dynamic: bool) -> None:
        self.model = model
        self._dynamic = dynamic
        self._call = self._compile(whole=True)
        self._replay: Callable[..., Any] | None = None
        self._sizes: set[tuple[torch.Size, ...]] = set()

    def use_cuda_graphs(self) -> None:
        """Replays CUDA graphs from now on: the host launches a whole step at once instead of kernel
        by kernel. What a call returns, and the gradients of its backward pass, are valid up to the
        next call. If batch sizes vary, each of the first `MOST_SIZES` sizes has a graph.
        """
        if self._replay is None:
            from torch._inductor import config  # loads the compiler

            # By default torch warns of more than eight sizes.
            config.triton.cudagraph_dynamic_shape_warn_limit = MOST_SIZES
            self._replay = self._compile(whole=True, cuda_graphs=True)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What `model` returns."""
        from torch._dynamo.exc import TorchDynamoException

        args = tuple(map(self._ready, args))
        options = {name: self._ready(value) for name, value in options.items()}
        call = self._call
        if self._replay is not None and self._is_captured((*args, *options.values())):
            call = self._replay
        try:
            return call(*args, **options)
        except TorchDynamoException as error:
            self._call, self._replay = self._without_what_breaks(error), None
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if call is self._replay:
                self.leave_cuda_graphs(error)
            elif call is not self.model:
                return self._without_compiler(error, *args, **options)
            else:
                raise
        return self(*args, **options)

    def _without_compiler(self, error: RuntimeError, *args: Any, **options: Any) -> Any:
        output = self.model(*args, **options)  # raises too, unless the compiler is to blame
        self._call, self._replay = self.model, None
        log.warning(
            "the compiled model failed where the plain one does not: %s. It will run as plain "
            "Python; set trainer.compile=false to silence this message",
            str(error).strip().partition("\n")[0],
        )
        return output

    def leave_cuda_graphs(self, error: RuntimeError) -> None:
        """Launches kernel by kernel from now on, since a step could not be captured; logs why."""
        self._replay = None
        end_failed_capture()
        log.warning(
            "steps are launched kernel by kernel, without CUDA graphs: %s",
            str(error).strip().partition("\n")[0],
        )

    def _is_captured(self, values: tuple[Any, ...]) -> bool:
        """True if calls with tensors of these sizes have a CUDA graph, or get one now."""
        if not self._dynamic:
            return True
        if not torch.is_grad_enabled():
            return False
        sizes = tuple(value.shape for value in values if isinstance(value, Tensor))
        if sizes not in self._sizes and len(self._sizes) < MOST_SIZES:
            self._sizes.add(sizes)
        return sizes in self._sizes

    def _ready(self, value: Any) -> Any:
        """A tensor as the compiler is to see it."""
        if not isinstance(value, Tensor):
            return value
        value = value.clone() if value._is_view() else value  # or its base would be looked at too
        if self._dynamic:
            for dim in range(value.dim()):
                torch._dynamo.maybe_mark_dynamic(value, dim)
        return value

    def _compile(self, *, whole: bool, cuda_graphs: bool = False) -> Callable[..., Any]:
        # Code of its own: torch counts by it how often something is compiled, and a process may
        # train many models.
        code = _call.__code__.replace(co_name=f"call_{id(self)}_{cuda_graphs}")
        options: dict[str, Any] = {}
        if BACKEND == "inductor" and cuda_graphs:
            options["triton.cudagraphs"] = True
        if BACKEND == "inductor" and _may_spoil_dropout():
            options["fallback_random"] = True
        function = FunctionType(code, globals())
        call = torch.compile(function, backend=BACKEND, fullgraph=whole, options=options or None)
        return partial(call, self.model)

    def _without_what_breaks(self, error: Exception) -> Callable[..., Any]:
        reason = re.sub(r":\s*\n", ": ", str(error).strip()).partition("\n")[0].rstrip(".")
        stack = list(getattr(error, "real_stack", None) or ())
        where = f" at {stack[-1].filename}:{stack[-1].lineno} ({stack[-1].line})" if stack else ""
        files = {frame.filename for frame in stack}
        culprits = [
            module
            for module in self.model.modules()
            if isinstance(module, Attention)
            and inspect.getsourcefile(type(module)) in files
            and not isinstance(module.forward, _Plain)
        ]
        kinds = sorted({type(module).__name__ for module in culprits})
        log.warning(
            "the model cannot be compiled as a whole%s: %s. %s as plain Python; set "
            "trainer.compile=false to silence this message",
            where,
            reason,
            f"{', '.join(kinds)} will run" if kinds else "It will run",
        )
        if not culprits:
            return self.model
        for module in culprits:
            module.forward = _Plain(module)
        return self._compile(whole=False)


def _may_spoil_dropout() -> bool:
    """True if the compiler may generate wrong dropout on a GPU of this machine: neighbours that are
    dropped together, or other elements in a recomputed backward pass (pytorch/pytorch#198333, since
    torch 2.13). Dropout is then torch's own call, which is not fused with others.
    """
    return torch.cuda.is_available() and torch.__version__ >= "2.13"


def _call(model: nn.Module, /, *args: Any, **options: Any) -> Any:
    return model(*args, **options)


class _Plain:
    """The `forward` of a module, left out of every graph."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _call_plain(self._module, *args, **options)


@torch.compiler.disable
def _call_plain(module: nn.Module, *args: Any, **options: Any) -> Any:
    return type(module).forward(module, *args, **options)


class CompileClock:
    """Measures how long torch compiles, from `start` to `stop`.

    Attributes:
        seconds: so far.
        tell: called when compilation begins; None: nothing is called.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tell: Callable[[], None] | None = None
        self._began: float | None = None

    def start(self) -> None:
        """Listens to torch's compiler."""
        handler = _callbacks().callback_handler
        handler.register_start_callback(self._on_begin)
        handler.register_end_callback(self._on_end)

    def stop(self) -> None:
        """Stops listening."""
        handler = _callbacks().callback_handler
        with contextlib.suppress(ValueError):  # torch was reset meanwhile
            handler.remove_start_callback(self._on_begin)
            handler.remove_end_callback(self._on_end)

    def _on_begin(self, _: Any) -> None:
        self._began = time.perf_counter()
        if self.tell is not None:
            self.tell()

    def _on_end(self, _: Any) -> None:
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._began = None


def _callbacks() -> ModuleType:
    from torch._dynamo import callback  # half a second, for runs that compile alone

    return callback
