"""StackedMuon against torch's own Muon."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import Muon

from attnkit.training import muon
from attnkit.training.muon import StackedMuon, orthogonalised

SHAPES = [(16, 16), (16, 16), (48, 16), (16, 48), (16, 16)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def trained(optimizer_class: type[Muon], **options) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    optimizer = optimizer_class(parameters, lr=0.05, **options)
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_torch(nesterov, weight_decay):
    options = {"nesterov": nesterov, "weight_decay": weight_decay, "momentum": 0.9}
    for ours, theirs in zip(trained(StackedMuon, **options), trained(Muon, **options), strict=True):
        # torch's products are in bfloat16: under 1 % of what five steps of 0.05 move.
        torch.testing.assert_close(ours, theirs, atol=0.25 * 0.01, rtol=0)


def test_a_parameter_without_a_gradient_stays():
    still, moved = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    moved.grad = torch.eye(4)
    StackedMuon([still, moved], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moved, torch.ones(4, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 8), (2, 8, 24)])
def test_singular_values_come_near_one(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    orthogonal = orthogonalised(matrices, 5, COEFFICIENTS, 1e-7)
    assert orthogonal.dtype == dtype
    values = torch.linalg.svdvals(orthogonal.float())
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_matrices_of_a_shape_are_one_graph_and_any_number_of_shapes_compile(monkeypatch):
    counter = CompileCounter()
    compile_ = functools.partial(torch.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(muon, "_compiled", functools.cache(muon._compiled.__wrapped__))
    ours, theirs = (
        [torch.nn.Parameter(torch.eye(4, 2 + n % 9)) for n in range(18)] for _ in range(2)
    )
    optimizers = StackedMuon(ours, ns_steps=1), StackedMuon(theirs, ns_steps=1)
    optimizers[0].compiled = True
    for _ in range(2):
        for optimizer, parameters in zip(optimizers, (ours, theirs), strict=True):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    assert counter.frame_count == 9
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain)
    torch._dynamo.reset()
