"""Laws that are tested in a separate process: code that would fail on a GPU fails here without one,
and results that depend on the process differ.

A fake device has shapes and devices but no numbers, so it finds tensors that were left on the CPU
and hidden synchronisations. It needs a separate process, since a device cannot be unregistered.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnkit.checks.blame import line_in, shorten
from attnkit.checks.case import Broken, Case, demand_close, require
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, POSITIONS, RegistryError, load_plugin
from attnkit.registry.importing import is_from_file
from attnkit.training.bad_steps import BadSteps
from attnkit.training.optimizers import MuonRecipe

SIZES = {"max_seq_len": 24, "dim": 16, "num_layers": 1, "tied_embeddings": False}


class NoFakeDevice(Exception):
    """This torch has no fake device."""


def training_step_stays_on_its_device(case: Case) -> None:
    """A training step on a fake GPU leaves no tensor on the CPU and does not wait for the GPU."""
    require(case.role == "self", "trained in a language model")
    try:
        trace = _in_another_process(case)["step"].strip()
    except NoFakeDevice as error:
        require(False, str(error))
        return
    if trace:
        line, where = _error_line(trace), line_in(trace)
        raise Broken(f"{line}{where and f', at {where}'}")


def another_process_gives_the_same_numbers(case: Case) -> None:
    """Built with the same seed in another process, which has another hash seed, it gives the same
    output: nothing depends on the order of a set or on `hash`.
    """
    require(case.role == "self", "tested in self-attention")
    numbers = torch.tensor(_in_another_process(case)["numbers"])
    what = "output of another process (PYTHONHASHSEED 1 or 2), against this one's"
    demand_close(numbers.view_as(case.output), case.output, what, atol=1e-6)


def _in_another_process(case: Case) -> dict[str, Any]:
    """Returns the results of another process for a mechanism; one process serves both laws."""
    key = case.mechanism, repr(sorted(case.options.items())), str(case)
    if key not in _OUTCOMES:
        parts = (case.mechanism, POSITIONS.get(case.position), *map(type, case.mask.parts()))
        for part in parts:
            _require_importable(part)
        with ATTENTION.known(case.mechanism) as name:
            spec = {"name": name, **case.options}
        step = {"attention": spec, "mask": case.first_served("causal", "none")}
        _OUTCOMES[key] = outcomes({"step": step | {"position": case.position}}, {"numbers": case})
    return _OUTCOMES[key]


def _require_importable(part: type) -> None:
    """Ends the law if no other process can import a class."""
    name, remedy = part.__name__, "write it at the top level of a file"
    require(part.__module__ != "__main__", f"{name} is in a notebook or script: {remedy}")
    require("<locals>" not in part.__qualname__, f"{name} is defined in a function: {remedy}")


def _home(part: type) -> tuple[str, str]:
    """Returns the module of a class, and its file if the module cannot be imported by name."""
    home = part.__module__
    try:
        by_name = not is_from_file(part) and importlib.util.find_spec(home) is not None
    except (ImportError, ValueError):
        by_name = False
    return home, "" if by_name else str(Path(inspect.getfile(part)).resolve())


_OUTCOMES: dict[Any, dict[str, Any]] = {}


def _error_line(text: str) -> str:
    """Returns the first error of a traceback in one line, without the module of its class and the
    tables of torch's dispatcher.
    """
    found = re.findall(r"^([\w.]+(?:Error|Exception|Exit)\w*): ?(.*)$", text, re.MULTILINE)
    if not found:
        return shorten(text.splitlines()[-1])
    name, words = found[0]
    return shorten(f"{name.rpartition('.')[2]}: {words}")


def outcomes(
    models: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, Case],
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs one training step of each model on a fake device, and computes the outputs of cases, in
    a process with another hash seed. Returns the traceback of each step, empty if it succeeded, and
    the outputs.

    Args:
        models: options of `LanguageModel`.
        numbers: cases, whose mechanisms the other process can import.
        plugins: files that it imports first.

    Raises:
        NoFakeDevice: if this torch has none.
        Broken: if it cannot import a mechanism.
    """
    path = [str(Path(entry).resolve()) for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}\n"
        "from attnkit.checks.devices import main; main(sys.stdin.buffer)"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    parts = {
        part
        for case in numbers.values()
        for part in (case.mechanism, POSITIONS.get(case.position), *map(type, case.mask.parts()))
    }
    homes = {_home(part) for part in parts if not part.__module__.startswith("attnkit.")}
    cases = {}
    for key, case in numbers.items():
        with ATTENTION.known(case.mechanism) as name:
            cases[key] = name, case.resized()  # a copy without cached results
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(([*homes, *(("", file) for file in plugins)], pickle.dumps(cases)))
        + json.dumps(models).encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    if done.returncode:
        errors = done.stderr.decode(errors="replace")
        last = (errors.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"the process with the fake device failed: {last}\n{errors}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        raise NoFakeDevice(f"this torch has no fake device: {found['missing']}")
    if "unknown" in found:
        raise Broken(f"another process cannot import it: {found['unknown']}")
    return found["outcomes"]


def main(request: BinaryIO) -> None:
    """Runs in the separate process: prints the results as JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    homes, pickled = pickle.load(request)
    models = json.load(request)
    try:
        for home, file in homes:
            module = load_plugin(file or home)
            sys.modules[home or module.__name__] = module
        cases: dict[str, tuple[str, Case]] = pickle.loads(pickled)
    except (RegistryError, ImportError, AttributeError) as error:
        sys.stdout.write(json.dumps({"unknown": str(error)}) + "\n")
        return
    found: dict[str, Any] = {}
    for key, (name, case) in cases.items():
        if name not in ATTENTION.names():
            ATTENTION.register(name)(case.mechanism)
        found[key] = case.output.flatten().tolist()
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError as error:
        sys.stdout.write(json.dumps({"missing": str(error)}) + "\n")
        return
    _setup_privateuseone_for_python_backend("fakegpu")
    # called by autocast
    torch.fakegpu.get_amp_supported_dtype = lambda: [torch.bfloat16]  # pyright: ignore
    for name, options in models.items():
        try:
            with _TensorsFromLists():
                train_one_step(options)
            found[name] = ""
        except RegistryError:
            raise
        except Exception:
            found[name] = traceback.format_exc()
    sys.stdout.write(json.dumps({"outcomes": found}) + "\n")


class _TensorsFromLists(TorchFunctionMode):
    """Lets `torch.tensor([...], device=...)` create a tensor on the fake device, which has no
    kernel for it, unlike a real one.
    """

    makers = frozenset((torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self.makers:
            return func(*args, **kwargs)
        of_first = isinstance(args[0], Tensor)
        device = kwargs.pop("device", args[0].device if of_first else None)
        if device is None or torch.device(device).type != "fakegpu":
            return func(*args, **kwargs, **({} if device is None else {"device": device}))
        if func is Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            args = args[1:]
        elif of_first:
            return args[0].to(device, **kwargs)
        # Not `empty_like`, which fake tensors would run on the numbers of a constant.
        made = torch.tensor(*args, **kwargs)
        return torch.empty(made.shape, dtype=made.dtype, device=device)


def train_one_step(options: Mapping[str, Any]) -> None:
    """Runs forward, backward and an optimizer step on the fake device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = _moved(LanguageModel(11, **{**SIZES, **options}))
        with torch.device("fakegpu"):
            tokens, targets = torch.randint(11, (2, 24)), torch.randint(11, (2, 24))
            documents = torch.zeros(2, 24, dtype=torch.long)
        optimizer, bad_steps = MuonRecipe().build(model), BadSteps()  # with AdamW for some weights
        logits = model(tokens, documents)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        bad_steps.leave_out(1, ~(loss + norm).isfinite(), optimizer)
        optimizer.step()
        assert loss.device.type == "fakegpu"
        assert all(p.grad is None or p.grad.device.type == "fakegpu" for p in model.parameters())


def _moved(model: nn.Module) -> nn.Module:
    """Moves a model to the fake device. `model.to` swaps tensors, which fake ones do not allow."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = torch.empty_like(parameter, device="fakegpu")
                module._parameters[name] = nn.Parameter(fresh)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="fakegpu")
    return model
