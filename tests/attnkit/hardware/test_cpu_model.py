"""What a model computes differently on a CPU is the same to the last digits, and happens there
alone.
"""

import pytest
import torch
from torch import nn

from attnkit.hardware.cpu_model import joined, residual


@pytest.mark.parametrize("bias", [False, True])
def test_one_product_is_what_many_are(bias):
    torch.manual_seed(0)
    linears = tuple(nn.Linear(8, width, bias=bias) for width in (8, 4, 4))
    x = torch.randn(2, 3, 8)
    together = joined(x, linears)
    apart = torch.cat([linear(x) for linear in linears], dim=-1)
    torch.testing.assert_close(together, apart)


def test_another_device_and_wide_inputs_keep_their_products():
    linears = (nn.Linear(8, 8), nn.Linear(8, 8))
    assert joined(torch.empty(1, 8, device="meta"), linears) is None
    wide = (nn.Linear(1024, 8), nn.Linear(1024, 8))
    assert joined(torch.zeros(1, 1024), wide) is None


def test_a_layer_that_is_more_than_linear_is_called():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert joined(torch.zeros(1, 8), (nn.Linear(8, 8), Scaled(8, 8))) is None


@pytest.mark.parametrize(
    ("device", "autocast", "expected"),
    [
        ("cpu", torch.bfloat16, torch.bfloat16),
        ("cpu", torch.float16, torch.float32),
        ("cpu", None, torch.float32),
        ("meta", torch.bfloat16, torch.float32),
    ],
)
def test_the_sum_of_the_layers_is_bfloat16_on_a_cpu_alone(device, autocast, expected):
    x = torch.zeros(1, 2, 8, device=device)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        assert residual(x).dtype == expected
