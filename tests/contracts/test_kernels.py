"""Each fast kernel computes what the reference computes, forward and backward, at lengths and in
windows that are awkward for it; `test_laws.py` asks the same of every mechanism, mask and position.
"""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attnkit.attention.base import build_attention
from attnkit.attention.kernels import KERNELS, thresholds
from attnkit.attention.kernels.measuring import LiveTensors
from attnkit.attention.score_attention import ScoreAttention
from attnkit.masks import NoMask, Padding, SlidingWindow, build_mask
from attnkit.registry import ATTENTION, POSITIONS

POSITION_CASES = ["none", *(n for n in POSITIONS.names() if POSITIONS.get(n).acts_on == "scores")]
FUSED = [
    name
    for name in ATTENTION.names()
    if issubclass(ATTENTION.get(name), ScoreAttention)
    and not ATTENTION.get(name).overridden_steps()
]
WINDOWS = {
    "causal": {"name": "sliding_window", "window": 5},
    "itself": {"name": "sliding_window", "window": 1},
    "centered": {"name": "sliding_window", "window": 20, "centered": True},
    "ahead only": {"name": "sliding_window", "window": 2, "centered": True},
    "dilated": {"name": "dilated", "dilation": 3, "window": 4},
    "wider than a chunk": {"name": "sliding_window", "window": 23},
    "either": {
        "name": "any_of",
        "masks": [{"name": "sliding_window", "window": 3}, {"name": "dilated", "window": 5}],
    },
}


def rows_alone(name):
    """True for a mechanism whose rows stand alone, and ask something: of its query."""
    mechanism = ATTENTION.get(name)
    return getattr(mechanism, "rows_alone", False) and "query" in mechanism.projections


def inputs(attention, T, dtype=torch.float32):
    torch.manual_seed(4)
    H, G, D = attention.num_heads, attention.num_kv_heads, attention.head_dim
    shapes = [(2, H, T, D), (2, G, T, D), (2, G, T, D)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def mechanism(name, position):
    torch.manual_seed(2)
    attention = build_attention(name, 32, position=position)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.eval()


def computed_by(kernel, attention, q, k, v, mask):
    if isinstance(kernel, str):
        return KERNELS[kernel](attention.call(q, k, v, mask))
    return kernel(attention, q, k, v, mask)


def results(kernel, attention, heads, mask):
    """The output and its gradients by queries, keys, values and the position's own parameters."""
    position = [] if attention.position is None else list(attention.position.parameters())
    output = computed_by(kernel, attention, *heads, mask)
    # weighted by a fixed wave, so that no sum over a row hides an error
    wave = torch.arange(output.numel(), device=output.device).view(output.shape).sin()
    gradients = torch.autograd.grad((output.float() * wave).sum(), [*heads, *position])
    return [output.detach(), *gradients]


def assert_equals_reference(kernel, attention, mask, T, tolerance=2e-5, dtype=torch.float32):
    """The largest error, relative to the largest number (or to 1, where that is less), stays below
    the tolerance; the reference computes in float32.
    """
    heads = inputs(attention, T, dtype)
    fast = results(kernel, attention, heads, mask)
    exact = [h.detach().float().requires_grad_() for h in heads]
    slow = results("reference", attention, exact, mask)
    for computed, expected in zip(fast, slow, strict=True):
        assert computed.isfinite().all()
        scale = expected.abs().max().clamp(min=1)
        error = float((computed.float() - expected).abs().max() / scale)
        assert error < tolerance, f"relative error {error:.1e}"


@pytest.mark.parametrize("position", POSITION_CASES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", FUSED)
def test_windowed_equals_the_reference(name, window, position):
    """Chunks and their neighbours give the reference's numbers, for a length that fills its last
    chunk, and for one that does not.
    """
    attention, mask = mechanism(name, position), build_mask(WINDOWS[window])
    for T in (64, 37):
        assert_equals_reference("windowed", attention, mask, T)


@pytest.mark.parametrize("position", POSITION_CASES)
@pytest.mark.parametrize("name", FUSED)
def test_windowed_serves_padding_and_documents(name, position):
    """Masks that differ within the batch work inside the window, empty rows included."""
    attention = mechanism(name, position)
    documents = torch.arange(70).expand(2, 70) // torch.tensor([[11], [17]])
    keep = torch.ones(2, 70, dtype=torch.bool)
    keep[1, :30] = False
    for window in ("causal", "centered"):
        mask = build_mask([WINDOWS[window], "document"]).bind(documents=documents) & Padding(keep)
        assert_equals_reference("windowed", attention, mask, 70)


CHUNKED_MASKS = {
    "none": NoMask(),
    "causal": build_mask("causal"),
    "window": SlidingWindow(window=9),
    "centered": SlidingWindow(window=20, centered=True),
    "padding": build_mask("causal") & Padding(torch.arange(70).expand(2, 70) > 5),
}


@pytest.mark.parametrize("position", POSITION_CASES)
@pytest.mark.parametrize("mask", CHUNKED_MASKS.values(), ids=CHUNKED_MASKS)
def test_chunked_equals_the_reference(monkeypatch, mask, position):
    """Chunks of a few queries, each with the keys that it can reach."""
    monkeypatch.setattr(thresholds, "CHUNK_BYTES", 2**13)
    attention = mechanism("grouped_query", position)
    assert_equals_reference("chunked", attention, mask, 70)
    q, k, v = (h.detach() for h in inputs(attention, 70))
    with torch.no_grad():
        some = attention, q[:, :, -33:], k, v, mask
        torch.testing.assert_close(
            computed_by("chunked", *some), computed_by("reference", *some), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", [name for name in ATTENTION.names() if rows_alone(name)])
@pytest.mark.parametrize("position", ["none", "relative_bias"])
def test_maps_of_a_mechanisms_own_are_computed_in_chunks(monkeypatch, name, position):
    monkeypatch.setattr(thresholds, "CHUNK_BYTES", 2**13)
    assert_equals_reference("chunked", mechanism(name, position), CHUNKED_MASKS["padding"], 70)


def test_dropout_in_chunks_is_computed_again_as_it_was(monkeypatch):
    """The same weights are dropped in the backward pass: the gradient by the values is the map."""
    monkeypatch.setattr(thresholds, "CHUNK_BYTES", 2**13)
    attention = mechanism("multi_head", "alibi").train()
    attention.dropout = 0.5
    q, k, v = inputs(attention, 40)
    heads = computed_by("chunked", attention, q, k, v, build_mask("causal"))
    (gradient,) = torch.autograd.grad(heads.sum(), v)
    torch.testing.assert_close((gradient * v).sum(), heads.sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_learned_bias_over_16384_tokens_takes_less_than_two_gibibytes():
    """Forward and backward, 16 heads of 64: the whole bias alone would be 8 GiB."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        attention = build_attention(
            {"name": "multi_head", "num_heads": 16}, 1024, position="relative_bias"
        )
        with LiveTensors() as memory:
            shape = (1, 16, 16384, 64)
            q, k, v = (
                torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
            )
            attention.mix(q, k, v, build_mask("causal")).sum().backward()
    assert memory.peak < 1.5 * 2**30


EXPLICIT_MASKS = {
    "none": NoMask(),
    "causal": build_mask("causal"),
    "documents": build_mask(["causal", "document"]).bind(
        documents=torch.arange(24).expand(1, 24) // 10
    ),
    "padding": Padding(torch.arange(24).expand(2, 24) > torch.tensor([[5], [-1]])),
    "rows with nothing": Padding(torch.arange(24).expand(2, 24) > torch.tensor([[30], [5]])),
}


@pytest.mark.parametrize("mask", EXPLICIT_MASKS.values(), ids=EXPLICIT_MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_explicit_equals_the_reference(name, dtype, mask):
    """The backward pass that is written by hand gives what automatic differentiation gives, also
    for shared heads and for rows in which nothing is allowed.
    """
    tolerance = 2e-5 if dtype == torch.float32 else 0.03
    assert_equals_reference(
        "cpu_bf16", mechanism(name, "none"), mask, 24, tolerance=tolerance, dtype=dtype
    )


def test_explicit_serves_queries_that_stand_at_the_end():
    """Fewer queries than keys, as in decoding."""
    attention = mechanism("grouped_query", "none")
    q, k, v = (h.detach() for h in inputs(attention, 24))
    for num_queries in (1, 7):
        some = attention, q[:, :, -num_queries:], k, v, build_mask("causal")
        torch.testing.assert_close(
            computed_by("cpu_bf16", *some), computed_by("reference", *some), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("position", POSITION_CASES)
@pytest.mark.parametrize("kernel", ["sdpa", "windowed", "reference"])
@pytest.mark.parametrize("name", ["multi_head", "grouped_query"])
def test_bfloat16_stays_near_float32(name, kernel, position):
    """In bfloat16, whose numbers are 2^-8 apart, errors stay below 3 of 100 of the largest number,
    gradients included.
    """
    attention = mechanism(name, position)
    mask = build_mask(WINDOWS["causal"])
    assert_equals_reference(kernel, attention, mask, 70, tolerance=0.03, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "mask",
    [
        SlidingWindow(window=5),
        build_mask(["causal", "document"]).bind(documents=torch.arange(24).expand(1, 24) // 10),
        Padding(torch.arange(24).expand(2, 24) > torch.tensor([[5], [-1]])),
    ],
    ids=["window", "one row of documents for all", "padding"],
)
@pytest.mark.parametrize("position", ["none", "alibi"])
def test_flex_equals_the_reference(mask, position):
    """The mask_mod and the score_mod that FlexAttention gets mean what the mask and the bias mean;
    queries stand at the end. Uncompiled and forward alone: a CPU has no more.
    """
    attention = mechanism("grouped_query", position)
    q, k, v = (h.detach() for h in inputs(attention, 24))
    for queries in (q, q[:, :, -7:]):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            flexible = computed_by("flex", attention, queries, k, v, mask)
            expected = computed_by("reference", attention, queries, k, v, mask)
        torch.testing.assert_close(flexible, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("position", ["none", "alibi"])
def test_compiled_flex_equals_the_reference_on_a_gpu(position):
    """Compiled for the mask, forward and backward."""
    attention = build_attention("grouped_query", 128, position=position).eval().cuda()
    heads = [h.detach().cuda().requires_grad_() for h in inputs(attention, 256)]
    mask = SlidingWindow(window=40)
    fast = results("flex", attention, heads, mask)
    slow = results("reference", attention, heads, mask)
    for computed, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(computed, expected, atol=1e-2, rtol=1e-2)  # TF32 products


def test_the_laws_catch_a_kernel_that_is_a_little_off():
    """A window one key too narrow, and a missing bias, are both seen."""

    def too_narrow(attention, q, k, v, mask):
        narrow = SlidingWindow(window=mask.window - 1)
        return computed_by("windowed", attention, q, k, v, narrow)

    def without_bias(attention, q, k, v, mask):
        return computed_by("sdpa", build_attention("multi_head", 32), q, k, v, mask)

    for kernel, position in ((too_narrow, "none"), (without_bias, "alibi")):
        with pytest.raises(AssertionError, match="relative error"):
            assert_equals_reference(
                kernel, mechanism("multi_head", position), SlidingWindow(window=5), 37
            )
