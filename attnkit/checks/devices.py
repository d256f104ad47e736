"""The law of the device: code that would fail on a GPU fails here, without one.

A fake device has shapes and places but no numbers, so it finds tensors that were left on the CPU
and hidden synchronisations. It needs a process of its own: a device is registered once and for all.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from attnkit.checks.case import Case, demand, require
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, RegistryError, load_plugin
from attnkit.tasks.bad_steps import BadSteps
from attnkit.tasks.optimizers import MuonRecipe

SIZES = {"max_seq_len": 24, "dim": 16, "num_layers": 1, "tied_embeddings": False}


class NoFakeDevice(Exception):
    """This torch has no fake device."""


def training_step_stays_on_its_device(case: Case) -> None:
    """A training step on a pretended GPU leaves no tensor on the CPU and waits for nothing."""
    require(case.role == "self", "trained in a language model")
    name = ATTENTION.name_of(case.mechanism)
    require(name in ATTENTION.names(), "it is trained under a registered name")
    home = case.mechanism.__module__
    plugins = []
    if not home.startswith("attnkit."):
        is_file = home.startswith("attnkit_plugin_")
        plugins = [inspect.getfile(case.mechanism) if is_file else home]
    spec = {"name": name, **case.options}
    try:
        mask = case.first_served("causal", "none")
        step = {"attention": spec, "mask": mask, "position": case.position}
        outcome = outcomes({"step": step}, plugins)
    except NoFakeDevice as error:
        require(False, str(error))
        return
    told = outcome["step"].strip().splitlines()
    demand(not told, told[-1] if told else "")


def outcomes(
    models: Mapping[str, Mapping[str, Any]], plugins: Sequence[str] = ()
) -> dict[str, str]:
    """What became of one training step of each model (options of `LanguageModel`) on a fake device:
    nothing, or the traceback.

    Raises:
        NoFakeDevice: if this torch has none.
    """
    path = [str(Path(entry).resolve()) for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}\n"
        "from attnkit.checks.devices import main; main(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([models, list(plugins)])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the process with the fake device failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        raise NoFakeDevice(f"this torch has no fake device: {found['missing']}")
    return found["outcomes"]


def main(request: str) -> None:
    """In the process of its own: prints the outcomes as JSON."""
    warnings.simplefilter("ignore")
    models, plugins = json.loads(request)
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError as error:
        sys.stdout.write(json.dumps({"missing": str(error)}) + "\n")
        return
    _setup_privateuseone_for_python_backend("fakegpu")
    # what autocast asks for
    torch.fakegpu.get_amp_supported_dtype = lambda: [torch.bfloat16]  # pyright: ignore
    for plugin in plugins:
        load_plugin(plugin)
    found = {}
    for name, options in models.items():
        try:
            train_one_step(options)
            found[name] = ""
        except RegistryError:
            raise
        except Exception:
            found[name] = traceback.format_exc(limit=-3)
    sys.stdout.write(json.dumps({"outcomes": found}) + "\n")


def train_one_step(options: Mapping[str, Any]) -> None:
    """Forward, backward and an optimizer's step, on the fake device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = _moved(LanguageModel(11, **{**SIZES, **options}))
        with torch.device("fakegpu"):
            tokens, targets = torch.randint(11, (2, 24)), torch.randint(11, (2, 24))
            documents = torch.zeros(2, 24, dtype=torch.long)
        optimizer, bad_steps = MuonRecipe().build(model), BadSteps()  # with AdamW for what is left
        logits = model(tokens, documents)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        bad_steps.leave_out(1, ~(loss + norm).isfinite(), optimizer)
        optimizer.step()
        assert loss.device.type == "fakegpu"
        assert all(p.grad is None or p.grad.device.type == "fakegpu" for p in model.parameters())


def _moved(model: nn.Module) -> nn.Module:
    """What `model.to` does; that one swaps tensors, which fake ones do not allow."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = torch.empty_like(parameter, device="fakegpu")
                module._parameters[name] = nn.Parameter(fresh)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="fakegpu")
    return model
