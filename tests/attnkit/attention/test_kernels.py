"""Which kernel is chosen, and that what is slow says so once."""

import logging
import warnings

import pytest
import torch

import attnkit
from attnkit.attention import kernels
from attnkit.attention.base import build_attention
from attnkit.attention.counted import counted_mixing_flops
from attnkit.attention.kernels import choosing, flex
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, Document, NoMask, Padding, Prefix, SlidingWindow

CPU, GPU = "cpu", "cuda"
WINDOW, PADDING = SlidingWindow(window=16), Padding(torch.ones(2, 8, dtype=torch.bool))
fp32, bf16 = torch.float32, torch.bfloat16

TABLE = [
    # mechanism, position, queries, keys, mask, device, dtype -> kernel, a word of the reason
    ("multi_head", "none", 64, 64, Causal(), CPU, fp32, "sdpa", "plain causal"),
    ("multi_head", "rotary", 64, 64, Causal(), CPU, fp32, "sdpa", "plain causal"),
    ("multi_head", "alibi", 64, 64, Causal(), CPU, fp32, "sdpa", "fused"),
    ("multi_head", "none", 1, 64, Causal(), CPU, fp32, "sdpa", "fused"),
    ("multi_head", "none", 64, 64, NoMask(), CPU, fp32, "sdpa", "fused"),
    ("qk_norm", "none", 64, 64, Causal(), CPU, fp32, "sdpa", "plain causal"),
    ("sigmoid", "none", 64, 64, Causal(), CPU, fp32, "reference", "Sigmoid computes its own norm"),
    ("talking_heads", "none", 64, 64, Causal(), GPU, fp32, "reference", "scores and weights"),
    ("multi_head", "none", 256, 256, Causal(), CPU, bf16, "cpu_bf16", "bfloat16 on a CPU"),
    ("multi_head", "alibi", 64, 64, Causal(), CPU, bf16, "reference", "bfloat16 on a CPU"),
    ("multi_head", "none", 257, 257, Causal(), CPU, bf16, "sdpa", "plain causal"),
    ("multi_head", "none", 64, 64, Causal(), GPU, bf16, "sdpa", "plain causal"),
    ("multi_head", "none", 63, 63, WINDOW, CPU, fp32, "sdpa", "fused"),
    ("multi_head", "none", 64, 64, WINDOW, CPU, fp32, "windowed", "reaches 16 of 64"),
    ("multi_head", "none", 1, 64, WINDOW, CPU, fp32, "sdpa", "fused"),
    ("multi_head", "alibi", 2048, 2048, WINDOW, GPU, bf16, "windowed", "reaches 16 of 2048"),
    ("multi_head", "none", 64, 64, WINDOW, GPU, bf16, "sdpa", "fused"),
    ("multi_head", "relative_bias", 32768, 32768, Causal(), CPU, bf16, "chunked", "8.0 GiB"),
    ("multi_head", "none", 2048, 2048, PADDING, GPU, bf16, "flex", "padding on a GPU"),
    ("multi_head", "alibi", 2048, 2048, Causal(), GPU, bf16, "flex", "causal on a GPU"),
    ("multi_head", "relative_bias", 2048, 2048, Causal(), GPU, bf16, "sdpa", "fused"),
    ("multi_head", "none", 2048, 2048, Causal(), GPU, bf16, "sdpa", "plain causal"),
    ("multi_head", "none", 512, 512, PADDING, GPU, bf16, "sdpa", "fused"),
    ("multi_head", "none", 1, 2048, PADDING, GPU, bf16, "sdpa", "fused"),
    ("multi_head", "none", 2048, 2048, PADDING, CPU, fp32, "sdpa", "fused"),
]


@pytest.mark.parametrize(
    ("name", "position", "queries", "keys", "mask", "device", "dtype", "kernel", "why"), TABLE
)
def test_the_kernel_and_the_reason(name, position, queries, keys, mask, device, dtype, kernel, why):
    attention = build_attention(name, 64, position=position)
    choice = chosen(attention, queries, keys, mask, device, dtype)
    assert choice.kernel.name == kernel
    assert why in choice.why


DOCUMENTS = Causal() & Document(torch.zeros(1, 1, dtype=torch.long))
MEASURED = [
    # One H200, 16 heads of 64, batch 1: tokens, mask, position, milliseconds of each kernel. At
    # 16,384 tokens FlexAttention ran uncompiled, so it has no number there; where it is chosen
    # nevertheless (None), it skips the blocks that made it the fastest at 4,096.
    (4096, Causal(), "none", {"sdpa": 0.56, "flex": 0.92}),
    (4096, SlidingWindow(window=256), "none", {"sdpa": 1.43, "flex": 1.14, "windowed": 1.87}),
    (4096, SlidingWindow(window=64), "none", {"sdpa": 1.35, "flex": 0.86, "windowed": 1.96}),
    (4096, DOCUMENTS, "none", {"sdpa": 1.33, "flex": 0.62}),
    (4096, Causal(), "alibi", {"sdpa": 3.95, "flex": 1.24}),
    (4096, Causal(), "relative_bias", {"sdpa": 34.5}),
    (4096, Prefix(length=512), "none", {"sdpa": 1.25, "flex": 1.17}),
    (4096, SlidingWindow(window=256), "alibi", {"sdpa": 3.90, "windowed": 2.03}),
    (16384, Causal(), "none", {"sdpa": 4.41, "flex": 9.17}),
    (16384, SlidingWindow(window=256), "none", {"sdpa": 16.8, "windowed": 2.21}),
    (16384, DOCUMENTS, "none", {"sdpa": 16.7, "flex": None}),
    (16384, Causal(), "alibi", {"sdpa": 57.0, "flex": None}),
    # Not measured: the whole bias takes 45 GiB there.
    (16384, Causal(), "relative_bias", {"sdpa": 576.0, "chunked": None}),
]


@pytest.mark.parametrize(("tokens", "mask", "position", "times"), MEASURED)
def test_on_a_gpu_the_fastest_that_was_measured_is_chosen(tokens, mask, position, times):
    attention = build_attention({"name": "multi_head", "num_heads": 16}, 1024, position=position)
    fastest = min(times, key=lambda name: times[name] or 0.0)
    assert chosen(attention, tokens, tokens, mask, GPU, bf16).kernel.name == fastest


def test_a_kernel_that_fails_is_named_once_and_another_one_computes(monkeypatch, caplog):
    """FlexAttention that does not compile: the same rule is never tried again."""

    def broken(graph, inputs):
        raise RuntimeError("no such tile")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend=broken))
    monkeypatch.setattr(flex, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(flex.Flex, "suits", lambda *_: kernels.call.Verdict(True, "wanted"))
    monkeypatch.setattr(flex, "_functions", {})
    monkeypatch.setattr(flex, "_refused", {})
    attention = build_attention("multi_head", 64, position="alibi").eval()
    x = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # FlexAttention has no backward pass on a CPU
        q, (k, v) = attention.project_query(x), attention.project_context(x)
    expected = attention.weights(q, k, NoMask()) @ v
    with caplog.at_level(logging.WARNING, "attnkit"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        for _ in range(2):
            heads = attention.mix(q, k, v, NoMask())
            torch.testing.assert_close(heads, expected, atol=1e-5, rtol=1e-5)
    assert len(caplog.records) == 1
    assert "flex kernel cannot serve here: it does not compile" in caplog.text
    assert "no such tile" in caplog.text
    call = attention.call(q, k, v, NoMask())
    assert "does not compile" in kernels.KERNELS["flex"].refusal(call)
    torch._dynamo.reset()


def test_each_rule_has_a_function_of_its_own_to_compile(monkeypatch):
    """More rules than torch compiles one function for; their numbers never become variables, and
    another length or batch is no other rule.
    """
    graphs = []
    compile_ = torch.compile

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda f, **options: compile_(f, backend=count, **options)
    )
    monkeypatch.setattr(flex, "_functions", {})
    attention = build_attention("multi_head", 64)

    def attend(x, window):
        return x * window

    for window in range(12):
        for size in (5, 6, 7):
            masks = SlidingWindow(window=window + 1), Padding(torch.ones(size, 9) > 0)
            calls = attention.call_of_shape(9, 9, masks[0] & masks[1], fp32)
            x = torch.ones(size)
            torch._dynamo.maybe_mark_dynamic(x, 0)
            assert flex._compiled(attend, flex._rule(calls))(x, window).equal(x * window)
    assert len(flex._functions) == len(graphs) == 12
    torch._dynamo.reset()


def chosen(attention, queries, keys, mask, device, dtype):
    """What would run on a machine with this device."""
    call = attention.call_of_shape(queries, keys, mask, dtype)
    return kernels.choose(call, kernels.Where(device, dtype))


def test_dropout_keeps_training_off_flex():
    """FlexAttention has no dropout: to choose it would train without, silently."""
    attention = build_attention({"name": "multi_head", "dropout": 0.1}, 64)
    arguments = (attention, 2048, 2048, PADDING, GPU, bf16)
    assert chosen(*arguments).kernel.name == "sdpa"
    attention.eval()
    assert chosen(*arguments).kernel.name == "flex"


class OwnBias(MultiHead):
    """Adds a bias of its own to that of the position."""

    def bias(self, query, key):
        """One more for the key at hand."""
        own = (query == key).float().unsqueeze(-3)
        inherited = super().bias(query, key)
        return own if inherited is None else own + inherited


def test_dropout_keeps_training_off_the_explicit_kernel():
    attention = build_attention({"name": "multi_head", "dropout": 0.1}, 64)
    arguments = (attention, 64, 64, Causal(), CPU, bf16)
    assert chosen(*arguments).kernel.name == "reference"
    attention.eval()
    assert chosen(*arguments).kernel.name == "cpu_bf16"


def test_what_the_explicit_kernel_computes_can_be_compiled():
    """In bfloat16, in one graph, near the numbers of plain Python."""
    attention = build_attention("multi_head", 32)
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (attention, compiled):
        with torch.autocast("cpu", dtype=bf16):
            output = run(x, x, Causal())
        gradients.append(torch.autograd.grad(output.float().sin().sum(), x)[0])
    torch._dynamo.reset()
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.02, rtol=0.02)


def test_anyones_queries_keys_and_values_are_served():
    """No mechanism is needed: grouped heads, a mask, a scale and a bias of one's own."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 70, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, 70, 8, generator=generator)

    def bias(query, key):
        return (-0.1 * (query - key).abs()).unsqueeze(-3)

    for mask in (None, Causal(), WINDOW):
        scores = 0.3 * q @ k.repeat_interleave(2, 1).mT
        scores = scores + bias(torch.arange(70).view(-1, 1), torch.arange(70).view(1, -1))
        if mask is not None:
            scores = scores.masked_fill(~mask.dense(70, 70), float("-inf"))
        expected = scores.softmax(-1) @ v.repeat_interleave(2, 1)
        heads = attnkit.attend(q, k, v, mask, scale=0.3, bias=bias)
        torch.testing.assert_close(heads, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", [Causal(), WINDOW, NoMask()])
def test_a_bias_is_asked_for_blocks_of_positions_that_exist(mask):
    """A table of 70 rows serves 70 keys, whatever chunks a kernel makes of them."""
    table = torch.randn(4, 70, generator=torch.Generator().manual_seed(1))

    def bias(query, key):
        assert query.shape[1:] == key.shape[:1] == (1,)
        return table[:, key.flatten()].unsqueeze(1) + 0.1 * query

    q, k, v = torch.randn(3, 2, 4, 70, 8, generator=torch.Generator().manual_seed(0))
    with kernels.only("reference"):
        expected = attnkit.attend(q, k, v, mask, bias=bias)
    computed = attnkit.attend(q, k, v, mask, bias=bias)
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", [None, "alibi"])
def test_a_mechanisms_own_bias_keeps_it_off_flex(position):
    """FlexAttention takes the position's score_mod alone: a mechanism's own bias would be lost."""
    attention = OwnBias(32)
    if position is not None:
        attention.with_position(position)
    assert attention.has_bias()
    assert chosen(attention, 2048, 2048, PADDING, GPU, bf16).kernel.name == "sdpa"


@pytest.mark.parametrize("mask", [Causal(), WINDOW, NoMask()])
def test_a_mechanisms_own_bias_reaches_the_fast_kernels(mask):
    attention = OwnBias(32).with_position("alibi").eval()
    x = torch.randn(2, 70, 32, generator=torch.Generator().manual_seed(0))
    q, (k, v) = attention.project_query(x), attention.project_context(x)
    expected = attention.weights(q, k, mask) @ v
    torch.testing.assert_close(attention.mix(q, k, v, mask), expected, atol=1e-5, rtol=1e-5)


def test_what_is_chosen_runs(monkeypatch):
    """And where one kernel alone is asked for, that one."""
    x = torch.randn(1, 70, 32)
    attention = build_attention("multi_head", 32)
    q, (k, v) = attention.project_query(x), attention.project_context(x)
    for name, kernel in kernels.KERNELS.items():
        monkeypatch.setattr(type(kernel), "__call__", lambda self, call: self.name)
        with kernels.only(name):
            assert attention.mix(q, k, v, WINDOW) == name
    assert attention.mix(q, k, v, WINDOW) == "windowed"


def test_a_long_reference_says_once_that_it_is_slow(caplog):
    choosing._warn_slow.cache_clear()
    attention = build_attention({"name": "sigmoid", "num_heads": 1, "head_dim": 2}, 4)
    x = torch.zeros(1, choosing.LONG_REFERENCE_KEYS, 4)
    with caplog.at_level(logging.WARNING, "attnkit"):
        counted_mixing_flops(
            attention, x.shape[1], 1
        )  # on the meta device, where it takes no memory
        assert not caplog.records
        for _ in range(2):
            attention(x[:, :1], x, Causal())
        attention(x[:, :1], x[:, 1:], Causal())
    assert len(caplog.records) == 1
    assert "Sigmoid computes its own normalize" in caplog.text


def test_queries_and_keys_in_float32_meet_values_in_bfloat16():
    """Under autocast the norms of qk_norm come in float32; fused kernels want one dtype."""
    attention = build_attention("qk_norm", 32)
    x = torch.randn(1, 300, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=bf16):
        low = attention(x, x, Causal())
    torch.testing.assert_close(low.float(), attention(x, x, Causal()), atol=0.02, rtol=0.05)
