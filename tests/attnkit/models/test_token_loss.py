"""The loss against torch's own cross-entropy, with and without all logits at once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.data import pair_batch
from attnkit.models import token_loss as module
from attnkit.models.token_loss import IGNORED, token_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own

V, C, B, T = 503, 16, 4, 32


@pytest.fixture
def large(monkeypatch):
    """A vocabulary of 500 counts as large; 24 rows a chunk."""
    monkeypatch.setattr(module, "LARGE_VOCABULARY", 500)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 24 * V)


def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, C, generator=generator, requires_grad=True)
    head = nn.Linear(C, V, bias=False)
    nn.init.normal_(head.weight, generator=generator)
    targets = torch.randint(V, (B, T), generator=generator)
    targets[0, :7] = IGNORED
    return hidden, head, targets


def written_out(hidden, head, targets, smoothing=0.0):
    logits = head(hidden.flatten(0, 1)).float()
    return F.cross_entropy(logits, targets.flatten(), label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("compiled", [False, True])
def test_in_chunks_it_is_the_loss_with_its_gradients(large, smoothing, compiled):
    hidden, head, targets = inputs()
    run = torch.compile(token_loss, backend="aot_eager", fullgraph=True) if compiled else token_loss
    loss, right = run(hidden, head, targets, smoothing), written_out(*inputs(), smoothing)
    torch.testing.assert_close(loss, right)
    theirs = inputs()
    ours = torch.autograd.grad(3 * loss, (hidden, head.weight))
    right = torch.autograd.grad(3 * written_out(*theirs, smoothing), (theirs[0], theirs[1].weight))
    torch.testing.assert_close(ours, right)
    with torch.no_grad():
        torch.testing.assert_close(token_loss(hidden, head, targets, smoothing), loss)


def test_in_bfloat16_it_is_as_exact_as_with_all_logits(large):
    hidden, head, targets = inputs()
    exact = written_out(hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss, plain = token_loss(hidden, head, targets), written_out(hidden, head, targets)
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 2 * abs(plain - exact) + 1e-4


class Peak(TorchDispatchMode):
    """Bytes of what is alive, as calls return it."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = storage._weak_ref(), storage.nbytes()
        gone = [at for at, (ref, _) in self.alive.items() if torch.UntypedStorage._expired(ref)]
        for at in gone:
            torch.UntypedStorage._free_weak_ref(self.alive.pop(at)[0])
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def test_a_large_vocabulary_takes_less_than_half_the_memory(monkeypatch):
    """In the proportions of GPT-2's, at a hundredth of the tokens: logits are what is large."""

    def most(loss):
        hidden = torch.randn(2, 80, 32, requires_grad=True)
        head = nn.Linear(32, 50_304, bias=False)
        targets = torch.randint(50_304, (2, 80))
        with Peak() as peak, torch.autocast("cpu", torch.bfloat16):
            value = loss(hidden, head, targets)
            value.backward()
        return peak.most

    monkeypatch.setattr(module, "CHUNK_ELEMENTS", module.CHUNK_ELEMENTS // 100)
    assert most(token_loss) < 0.5 * most(written_out)


def test_what_is_ignored_has_one_number():
    assert IGNORED == pair_batch.IGNORED
