"""Outside kernels run once they have proved themselves, and not before."""

import json
from types import SimpleNamespace

import pytest
import torch

from attnkit.attention import certificate, kernels
from attnkit.attention.base import build_attention
from attnkit.attention.certificate import certify, certify_model, outlook
from attnkit.attention.kernels import choosing, fla, outside
from attnkit.attention.kernels.call import Verdict
from attnkit.attention.kernels.outside import OPERATIONS, OutsideKernel, Request
from attnkit.callbacks.certificates import Certificates
from attnkit.masks import Causal
from attnkit.models.language_model import LanguageModel

CPU = torch.device("cpu")
NAMES = ["linear", "retention", "gated_linear", "delta_net"]
C, H = 32, 2


class Kernel(OutsideKernel):
    """The plain operation under another name, changed on its way by `spoil`."""

    name = "fake.kernel"

    def __init__(self, spoil=lambda outputs, inputs: outputs, version="1.0"):
        self.spoil, self.installed, self.calls = spoil, version, 0

    def version(self):
        return self.installed

    def serves(self, request):
        self.operation = request.operation
        return True

    def refusal(self, request):
        return None

    def __call__(self, *inputs):
        self.calls += 1
        heads, state = OPERATIONS[self.operation].plain(*(tensor.float() for tensor in inputs))
        heads, state = self.spoil((heads, state), inputs)
        return heads.to(inputs[0].dtype), state


@pytest.fixture
def offered():
    """Registers kernels for one test alone."""
    before = dict(outside.KERNELS)
    outside.KERNELS.clear()
    yield outside.register
    outside.forget()
    outside.KERNELS.clear()
    outside.KERNELS.update(before)


def built(name):
    torch.manual_seed(0)
    return build_attention({"name": name, "num_heads": H}, C)


def certified(attention, folder=None):
    return certify_model(attention, 100, CPU, None, folder)


def results(attention, x, run=None):
    out = (attention if run is None else run)(x, x, Causal())
    return [out, *torch.autograd.grad(out.square().sum(), list(attention.parameters()))]


@pytest.mark.parametrize("name", NAMES)
def test_a_right_kernel_is_taken(name, offered, caplog):
    kernel, attention, x = offered(Kernel()), built(name), torch.randn(3, 70, C)
    expected = results(attention, x)
    assert kernel.calls == 0  # nothing was certified yet
    (made,) = certified(attention)
    assert made.accepted
    assert made.lengths == (1, 63, 100, 200)
    assert "certified: fake.kernel 1.0" in caplog.text
    seen = kernel.calls
    torch.testing.assert_close(results(attention, x), expected)
    assert kernel.calls == seen + 1


@pytest.mark.parametrize("name", ["retention", "delta_net"])
def test_a_compiler_sees_one_node(name, offered):
    kernel, attention, x = offered(Kernel()), built(name), torch.randn(1, 70, C)
    expected = results(attention, x)
    certified(attention)
    seen = kernel.calls
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(attention, x, compiled), expected)
    assert kernel.calls == seen + 2  # the backward pass runs it again


def scaled_gradient(outputs, inputs):
    """Right numbers; the gradient by the values is 5 % too large."""
    heads, state = outputs
    extra = (
        0.05
        * OPERATIONS["decayed_sums"].plain(inputs[0].detach(), inputs[1].detach(), inputs[2])[0]
    )
    return heads + extra - extra.detach(), state


def wrong_at_the_end(outputs, inputs):
    heads, state = outputs
    last = torch.zeros_like(heads)
    last[:, :, 64:] = 0.1 * heads.detach()[:, :, 64:]
    return heads + last, state


def not_a_number(outputs, inputs):
    return outputs[0] * float("nan"), outputs[1]


def without_gradient_by_decay(outputs, inputs):
    plain = OPERATIONS["decayed_sums"].plain
    return plain(*inputs[:3], *(decay.detach() + 0 * decay for decay in inputs[3:]))


def crash(outputs, inputs):
    raise RuntimeError("no kernel image is available\nfor this card")


@pytest.mark.parametrize(
    ("spoil", "name", "says"),
    [
        (scaled_gradient, "linear", "gradient by v 5.4e-02 off (plain torch "),
        (wrong_at_the_end, "retention", "heads 1.0e-01 off (plain torch "),
        (not_a_number, "delta_net", "heads inf off (plain torch "),
        (without_gradient_by_decay, "gated_linear", "gradient by what else a key carries "),
        (crash, "linear", "RuntimeError: no kernel image is available (T 1)"),
    ],
)
def test_a_kernel_that_is_off_is_refused_with_the_numbers(spoil, name, says, offered, caplog):
    kernel, attention, x = offered(Kernel(spoil)), built(name), torch.randn(2, 70, C)
    expected = attention(x, x, Causal())
    (made,) = certified(attention)
    assert not made.accepted
    assert "refused: fake.kernel 1.0" in caplog.text
    assert says in caplog.text
    seen = kernel.calls
    assert torch.equal(attention(x, x, Causal()), expected)
    assert kernel.calls == seen


@pytest.mark.parametrize(("off", "accepted"), [(1.0, True), (1.05, False)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("decayed_sums", (8, 8, 8)),
        ("decayed_sums", (8, 8, 8, 1)),
        ("decayed_sums", (8, 8, 8, 8)),
        ("corrected_sums", (8, 8, 8, 1)),
    ],
)
def test_half_precision_leaves_room_for_rounding_alone(name, widths, dtype, off, accepted):
    """On a CPU as on a GPU the plain operation may compute its products in it."""
    kernel = Kernel(lambda outputs, inputs: (outputs[0] * off, outputs[1]))
    request = Request(name, "cpu", dtype, widths)
    assert kernel.serves(request)
    made = certify(kernel, request, 300, CPU)
    assert made.accepted == accepted, made.words
    assert made.errors["heads"][1] > 1e-4  # it did compute in this dtype


def test_the_next_kernel_is_asked_where_one_is_refused(offered):
    right = offered(Kernel())
    wrong = Kernel(not_a_number)
    wrong.name = "fake.newer"
    offered(wrong)
    assert [made.accepted for made in certified(built("linear"))] == [False, True]
    seen = right.calls
    attention, x = built("linear"), torch.randn(1, 9, C)
    attention(x, x, Causal())
    assert right.calls == seen + 1


def test_a_model_that_needs_no_kernel_forgets_those_of_the_last_one(offered):
    """While one serves, steps are not replayed as CUDA graphs."""
    offered(Kernel())
    certified(built("retention"))
    assert outside.is_any_taken()
    assert certified(built("multi_head")) == []
    assert not outside.is_any_taken()


def test_padding_and_decoding_are_served_as_well(offered):
    kernel, attention = offered(Kernel()), built("retention").eval()
    x = torch.randn(2, 12, C)
    expected = attention(x, x, Causal())
    certified(attention)
    cache, seen = attention.new_cache(), kernel.calls
    first = attention(x[:, :8], x[:, :8], Causal(), cache)
    assert kernel.calls == seen + 1
    rest = attention(x[:, 8:], x[:, 8:], Causal(), cache)
    assert kernel.calls == seen + 1  # it goes on from a state: plain torch
    torch.testing.assert_close(torch.cat((first, rest), dim=1), expected)


def test_a_certificate_is_kept_for_this_version_and_these_sizes(offered, tmp_path):
    kernel = offered(Kernel())
    request = Request("decayed_sums", "cpu", torch.float32, (8, 8, 8, 1))
    kernel.serves(request)
    made = certify(kernel, request, 100, CPU, tmp_path)
    seen = kernel.calls
    assert seen > 0
    assert certify(kernel, request, 100, CPU, tmp_path) == made
    assert kernel.calls == seen
    for changed in (
        {"request": Request("decayed_sums", "cpu", torch.bfloat16, (8, 8, 8, 1))},
        {"request": Request("decayed_sums", "cpu", torch.float32, (8, 8, 4, 1))},
        {"num_tokens": 101},
        {"kernel": Kernel(version="1.1")},
    ):
        arguments = {"kernel": kernel, "request": request, "num_tokens": 100, **changed}
        arguments["kernel"].serves(request)
        before = arguments["kernel"].calls
        certify(**arguments, device=CPU, folder=tmp_path)
        assert arguments["kernel"].calls > before
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"accepted": true, "errors": 3, "words": "x"}', "[]"]
)
def test_a_damaged_certificate_is_made_again(damage, offered, tmp_path):
    kernel = offered(Kernel())
    made = certified(built("linear"), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    seen = kernel.calls
    assert certified(built("linear"), folder=tmp_path) == made
    assert kernel.calls > seen
    assert json.loads(file.read_text())["accepted"] is True


@pytest.mark.parametrize(
    ("version", "device", "says"),
    [
        ("0.6.0", "cpu", "fla-core 0.6.0 is installed, but needs a CUDA device"),
        ("0.3.2", "cuda", "fla-core 0.3.2 is too old; 0.4 or later is needed: pip install -U"),
        ("0.10.1", "cuda", None),
        ("1.0.0rc1", "cuda", None),
    ],
)
def test_fla_says_what_it_lacks(version, device, says, monkeypatch):
    monkeypatch.setattr(fla, "installed", lambda: version)
    for kernel in (fla.ChunkSimpleGLA(), fla.ChunkGLA(), fla.ChunkDeltaRule()):
        refusal = kernel.refusal(Request("", device, torch.bfloat16, ()))
        assert refusal is None if says is None else refusal.startswith(says)


def test_fla_has_no_delta_rule_in_float32(monkeypatch):
    monkeypatch.setattr(fla, "installed", lambda: "0.6.0")
    refusal = fla.ChunkDeltaRule().refusal(Request("corrected_sums", "cuda", torch.float32, ()))
    assert refusal == "fla.chunk_delta_rule does not support float32"


@pytest.mark.parametrize("name", NAMES)
def test_fla_without_a_gpu_is_told_once_a_mechanism_and_plain_torch_runs(name, monkeypatch, caplog):
    monkeypatch.setattr(fla, "installed", lambda: "0.6.0")
    assert certified(built(name)) == []
    (prospect,) = outlook(built(name), CPU, None).values()
    assert prospect == "not: fla-core 0.6.0 is installed, but needs a CUDA device"
    assert caplog.messages == [
        "fla-core 0.6.0 is installed, but needs a CUDA device: plain torch runs instead"
    ]


@pytest.mark.parametrize(
    ("kernel", "function", "inputs"),
    [
        (fla.ChunkSimpleGLA(), "decayed_sums", (8, 8, 4)),
        (fla.ChunkSimpleGLA(), "decayed_sums", (8, 8, 4, 1)),
        (fla.ChunkGLA(), "decayed_sums", (8, 8, 4, 8)),
        (fla.ChunkDeltaRule(), "corrected_sums", (8, 8, 4, 1)),
    ],
)
def test_fla_is_called_in_its_own_layout(kernel, function, inputs, monkeypatch):
    """By functions with its signatures, which compute plainly what its own do."""

    def chunk(q, k, v, g=None, beta=None, scale=None, output_final_state=False):
        heads = [tensor.transpose(1, 2) for tensor in (q, k, v)]
        other = g if beta is None else beta
        if other is not None:
            other = other.unsqueeze(-1) if other.dim() == 3 else other
            heads.append(other.transpose(1, 2))
        out, state = OPERATIONS[function].plain(*(tensor.float() for tensor in heads))
        assert scale == 1.0
        assert output_final_state
        return out.transpose(1, 2).to(v.dtype), state

    monkeypatch.setattr(fla, "_function", lambda module, name: chunk)
    monkeypatch.setattr(fla, "installed", lambda: "0.6.0")
    dtype = torch.bfloat16 if function == "corrected_sums" else torch.float32
    request = Request(function, "cpu", dtype, inputs)
    assert kernel.serves(request)
    made = certify(kernel, request, 20, CPU)
    assert made.accepted, made.words
    others = {fla.ChunkSimpleGLA, fla.ChunkGLA, fla.ChunkDeltaRule} - {type(kernel)}
    assert not any(other().serves(request) for other in others)


def test_a_run_keeps_what_was_certified(offered, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path))
    offered(Kernel())
    model = LanguageModel(5, max_seq_len=40, dim=C, num_layers=2, attention="retention")
    kept = []
    run = SimpleNamespace(precision="32-true", is_global_zero=True)
    Certificates(kept.extend).on_train_start(run, SimpleNamespace(model=model, device=CPU))
    (made,) = kept  # both layers ask for the same
    assert made["kernel"] == "fake.kernel"
    assert made["version"] == "1.0"
    assert made["card"] == "cpu"
    assert made["lengths"] == (1, 40, 63, 200)
    assert json.dumps(made)
    assert len(list((tmp_path / "kernels").iterdir())) == 1


def test_nothing_is_asked_where_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(fla, "installed", lambda: None)
    monkeypatch.setattr(certificate, "certify_model", None)
    model = LanguageModel(5, max_seq_len=40, dim=C, num_layers=1, attention="retention")
    Certificates(pytest.fail).on_train_start(None, SimpleNamespace(model=model))


class OwnKernel(kernels.Kernel):
    """A plugin's way to compute maps of scores: the reference, times `factor`."""

    name, outside, version = "own", True, "2"

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def refusal(self, call):
        return call.why_own if call.weights is not None else None

    def suits(self, call, where):
        return Verdict(True, "as the plugin says")

    def __call__(self, call):
        self.calls += 1
        return kernels.KERNELS["reference"](call) * self.factor


@pytest.fixture
def shelf(monkeypatch):
    """Puts a kernel first on the shelf, for one test alone."""
    monkeypatch.setattr(choosing, "_certified", {})

    before = dict(kernels.KERNELS)
    yield kernels.offer
    kernels.KERNELS.clear()
    kernels.KERNELS.update(before)


def test_a_kernels_name_is_its_own(shelf):
    first, again = shelf(OwnKernel(1.0)), shelf(OwnKernel(1.0))
    assert next(iter(kernels.KERNELS.values())) is again is not first
    again.name = "sdpa"
    with pytest.raises(ValueError, match="kernel name 'sdpa' is taken"):
        shelf(again)


@pytest.mark.parametrize("mask", ["causal", "sliding_window", ["causal", "document"]])
@pytest.mark.parametrize("position", ["none", "alibi"])
@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (1.02, False)])
def test_a_plugins_kernel_on_the_shelf_runs_once_certified(mask, position, factor, accepted, shelf):
    kernel = shelf(OwnKernel(factor))
    model = LanguageModel(
        5, max_seq_len=40, dim=C, num_layers=2, attention="multi_head", mask=mask, position=position
    )
    tokens = torch.randint(5, (2, 40))
    documents = torch.zeros(2, 40, dtype=torch.long)
    expected = model(tokens, documents=documents)
    assert kernel.calls == 0
    call = model.layers[0].attention.call_of_shape(40, 40, Causal(), torch.float32)
    (first, verdict), *_ = kernels.verdicts(call, kernels.Where("cpu", torch.float32))
    assert (first.name, verdict.takes) == ("own", False)
    assert verdict.why == "it was not certified on this machine"
    (made,) = certify_model(model, 40, CPU, None, None)
    assert (made.kernel, made.version, made.accepted) == ("own", "2", accepted)
    assert set(made.errors) == {"heads", "gradient by q", "gradient by k", "gradient by v"}
    assert accepted or "heads 2.0e-02 off (plain torch " in made.words
    seen = kernel.calls
    torch.testing.assert_close(model(tokens, documents=documents), expected)
    assert kernel.calls == seen + 2 * accepted


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_fla_is_certified_or_refused_and_the_numbers_hold(name):
    pytest.importorskip("fla", reason="the extra `kernels` is not installed")
    attention, x = built(name).cuda(), torch.randn(2, 300, C, device="cuda")
    outside.forget()
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            expected = attention(x, x, Causal())
            made = certify_model(attention, 300, x.device, torch.bfloat16, None)
            assert [one.kernel.split(".")[0] for one in made] == ["fla"] * len(made) != []
            error = (attention(x, x, Causal()) - expected).norm() / expected.norm()
        assert error < 0.03, [one.words for one in made]
    finally:
        outside.forget()


def test_each_layer_of_a_pattern_is_certified_under_its_own_mask(shelf):
    """Also where a layer uses the keys of another one, and so cannot be called alone."""
    shelf(OwnKernel(1.0))
    layers = [
        {"mask": {"name": "sliding_window", "window": 3}},
        {"attention": "cross_layer"},
        {"attention": "cross_layer"},
    ]
    model = LanguageModel(5, max_seq_len=40, dim=C, num_layers=3, layers=layers)
    made = certify_model(model, 40, CPU, None, None)
    assert [one.accepted for one in made] == [True, True]
    assert [seat[4] for seat in choosing._certified] == ["sliding_window", "causal"]
