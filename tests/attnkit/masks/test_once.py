"""A forward pass computes once what all its layers need, and keeps none of it."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.attention import kernels
from attnkit.attention.kernels import flex
from attnkit.masks import Mask
from attnkit.masks import once as once_module
from attnkit.masks.once import once, one_pass
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel

TOKENS = torch.arange(48).view(2, 24) % 7


class Operations(TorchDispatchMode):
    """Counts torch's operations by name."""

    def __init__(self):
        super().__init__()
        self.count = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count[name] = self.count.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def rules(monkeypatch):
    """How often each kind of mask was asked what it allows."""
    asked = {}

    def counted(cls):
        rule = cls.allowed

        def allowed(self, *positions):
            asked[cls.__name__] = asked.get(cls.__name__, 0) + 1
            return rule(self, *positions)

        monkeypatch.setattr(cls, "allowed", allowed)

    for cls in Mask.__subclasses__():
        if "allowed" in vars(cls):
            counted(cls)
    return asked


def model(**options):
    torch.manual_seed(0)
    return LanguageModel(7, max_seq_len=24, dim=16, num_layers=4, **options)


def counted_in_a_pass(run):
    with Operations() as operations:
        run()
    return operations.count


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rotary_tables_are_made_once_for_all_layers(precision):
    language_model = model(position="rotary")
    for grad in (True, False):
        with (
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", precision, enabled=precision != torch.float32),
        ):
            count = counted_in_a_pass(lambda: language_model(TOKENS))
        assert (count["cos"], count["sin"]) == (1, 1)


def test_a_decoding_step_makes_its_tables_once():
    language_model = model(position="rotary").eval()
    cache = language_model.new_cache()
    with torch.no_grad():
        language_model(TOKENS, cache=cache)
        count = counted_in_a_pass(lambda: language_model(TOKENS[:, :1], cache=cache))
    assert (count["cos"], count["sin"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"mask": {"name": "prefix", "length": 3}}, "Prefix"),  # sdpa with a mask tensor
        ({"mask": {"name": "sliding_window", "window": 4}}, "SlidingWindow"),  # windowed
        ({"attention": "sigmoid"}, "Causal"),  # the reference
        ({"attention": "forgetting"}, "Causal"),
        ({"position": "alibi"}, "Causal"),
        ({"mask": ["causal", "document"]}, "Document"),
    ],
)
def test_a_mask_is_written_out_once_for_all_layers(rules, options, asked):
    language_model = model(**options)
    documents = torch.arange(24).expand(2, 24) // 10
    language_model(TOKENS, documents)
    assert rules[asked] == 1
    language_model(TOKENS, documents)
    assert rules[asked] == 2


def test_bfloat16_on_a_cpu_writes_a_mask_out_once(rules):
    with torch.autocast("cpu", torch.bfloat16):
        model()(TOKENS)
    assert rules == {"Causal": 1}


def test_flex_makes_its_block_mask_once_for_all_layers(monkeypatch):
    made, create = [], flex._create
    monkeypatch.setattr(flex, "_create", lambda *given: made.append(given) or create(*given))
    language_model = model(mask={"name": "prefix", "length": 3}).eval()
    with kernels.only("flex"), torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        language_model(TOKENS)
    assert len(made) == 1


def test_flex_and_its_block_mask_are_part_of_a_compiled_model():
    language_model = model(mask={"name": "prefix", "length": 3}, position="alibi").eval()
    del language_model.layers[1:]  # one is compiled as many are, and sooner
    compiled = torch.compile(language_model, backend="eager", fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        with kernels.only("flex"):
            logits = compiled(TOKENS)
        torch.testing.assert_close(logits, language_model(TOKENS))
    torch._dynamo.reset()


def test_a_translation_writes_each_mask_out_once(rules):
    torch.manual_seed(0)
    translator = EncoderDecoder(7, 7, max_seq_len=24, dim=16)
    translator(TOKENS, TOKENS > 0, TOKENS)
    assert rules["Padding"] == 2  # of the encoder, and of what the decoder sees of it


def test_nothing_is_left_from_one_batch_to_the_next():
    """Masks of other documents, other lengths, other types: as in a model of its own."""
    options = {"mask": ["causal", "document"], "position": "rotary"}
    together = model(**options)
    for size in (10, 7, 24):
        documents = torch.arange(24).expand(2, 24) // size
        for tokens in (TOKENS, TOKENS[:, :9]):
            seen = documents[:, : tokens.shape[1]]
            expected = model(**options)(tokens, seen)
            assert together(tokens, seen).equal(expected)
    assert once_module._known.get() is None


def test_a_pass_that_fails_leaves_nothing():
    @one_pass
    def fails():
        once(torch.ones, 3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert once_module._known.get() is None


def test_inference_leaves_no_tensor_for_training():
    """What was made without gradients is made anew where they are needed."""
    seen = []

    @one_pass
    def forward():
        for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
            with mode():
                seen.append(once(torch.ones, 3))

    forward()
    assert [tensor.is_inference() for tensor in seen] == [True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"position": "rotary"},
        {"mask": {"name": "prefix", "length": 3}},
        {"mask": {"name": "sliding_window", "window": 4}},
        {"mask": ["causal", "document"], "position": "alibi"},
        {"position": "relative_bias"},
    ],
)
def test_one_graph_holds_the_whole_pass(options):
    """No break, and no second compilation for a second batch."""
    language_model = model(**options)
    documents = torch.arange(24).expand(2, 24) // 10
    expected = language_model(TOKENS, documents)
    compiled = torch.compile(language_model, backend="eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        for _ in range(2):
            torch.testing.assert_close(compiled(TOKENS, documents), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
