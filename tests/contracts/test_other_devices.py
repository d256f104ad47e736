"""Code that would fail on a GPU fails here, without one: a training step on a pretended device.

A fake device has shapes and places but no numbers, so it finds tensors that were left on the CPU
and hidden synchronisations. It needs a process of its own: a device is registered once and for all.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnkit.registry import ATTENTION

STEP = '''
import json, sys, traceback, warnings

import torch
from torch.nn import functional as F

warnings.simplefilter("ignore")
try:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit()
_setup_privateuseone_for_python_backend("fakegpu")
torch.fakegpu.get_amp_supported_dtype = lambda: [torch.bfloat16]  # what autocast asks for

from attnkit.attention.multi_head import MultiHead
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION


@ATTENTION.register("planted_cpu_mask")
class PlantedCPUMask(MultiHead):
    """Broken: writes its mask out on the CPU."""

    def mix(self, q, k, v, mask):
        allowed = mask.dense(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


@ATTENTION.register("planted_synchronisation")
class PlantedSynchronisation(MultiHead):
    """Broken: waits for the device to decide something in Python."""

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask) if q.max() > 0 else v


def move(model):
    """What `model.to` does; that one swaps tensors, which fake ones do not allow."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = torch.empty_like(parameter, device="fakegpu")
                module._parameters[name] = torch.nn.Parameter(fresh)
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device="fakegpu")
    return model


def train_one_step(options):
    sizes = {"max_seq_len": 24, "dim": 16, "num_layers": 1, "tied_embeddings": False}
    with FakeTensorMode():
        model = move(LanguageModel(11, **sizes, **options))
        with torch.device("fakegpu"):
            tokens, targets = torch.randint(11, (2, 24)), torch.randint(11, (2, 24))
            documents = torch.zeros(2, 24, dtype=torch.long)
        optimizer = torch.optim.AdamW(model.parameters())
        logits = model(tokens, documents)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        assert loss.device.type == "fakegpu"
        assert all(p.grad.device.type == "fakegpu" for p in model.parameters())


results = {}
for name, options in json.loads(sys.argv[1]).items():
    try:
        train_one_step(options)
        results[name] = ""
    except Exception:
        results[name] = traceback.format_exc(limit=-3)
print(json.dumps(results))
'''

WINDOW = {"name": "sliding_window", "window": 4}
VARIANTS = {
    **{name: {"attention": name, "position": "none"} for name in ATTENTION.names()},
    "rotary": {"position": "rotary"},
    "sinusoidal": {"position": "sinusoidal"},
    "relative_bias": {"position": "relative_bias"},
    "windowed, alibi": {"position": "alibi", "mask": WINDOW},
    "documents": {"mask": ["causal", "document"], "position": "alibi"},
    "prefix": {"mask": "prefix"},
}
PLANTED = {name: {"attention": name} for name in ("planted_cpu_mask", "planted_synchronisation")}


@pytest.fixture(scope="module")
def outcomes():
    """What became of one training step of each variant: nothing, or the error."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(VARIANTS | PLANTED)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        pytest.skip(f"this torch has no fake device: {found['missing']}")
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_stays_on_its_device(outcomes, name):
    """No tensor of the step is on the CPU, and nothing waits for the device."""
    assert outcomes[name] == ""


def test_the_fake_device_catches_what_is_planted(outcomes):
    assert "on the same device" in outcomes["planted_cpu_mask"]
    assert "DataDependent" in outcomes["planted_synchronisation"]
