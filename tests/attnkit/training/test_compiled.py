"""Compiled models: graphs are counted, with a backend that runs them as they are."""

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor
from torch.torch_version import TorchVersion

from attnkit.callbacks.curves import TrainingCurves
from attnkit.masks import build_mask
from attnkit.models.decoding import generate
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import load_recipe
from attnkit.registry import ATTENTION
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.training import compiled
from attnkit.training.compiled import CompileClock, Compiled
from attnkit.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own

LM = "language_modeling"

EVERYTHING = [
    "trainer.compile=true", "trainer.accumulate=2", "trainer.max_steps=4", "trainer.batch_size=6",
    "validation.every_n_steps=2", "logging.attention_maps=2", "logging.samples=2",
]  # fmt: skip
"""Validation with a smaller last batch, maps, samples and accumulated batches."""

CAUSAL = [
    name
    for name in ATTENTION.names()
    if ATTENTION.get(name).refusal("self", build_mask("causal"), "learned") is None
]


def small_one(name):
    heads = {"num_heads": 2} if "num_heads" in ATTENTION.options(name) else {}
    return str({"name": name, **heads})


SOME = [
    *("multi_head", "multi_head_latent", "forgetting", "multi_token", "value_residual"),
    *("cross_layer", "linear", "gated_linear", "delta_net", "mamba2"),
]
REST = [name for name in CAUSAL if name not in SOME]

# Several to a model: what is traced is the sum of its layers.
MODELS = [("causal", SOME), ("none", ["linformer"])]
MODELS += [
    pytest.param(mask, names, marks=pytest.mark.slow)
    for mask, names in (
        *(("causal", REST[i::4]) for i in range(4)),
        *(("none", [name]) for name in ATTENTION.names() if name not in (*CAUSAL, "linformer")),
    )
]


@pytest.mark.parametrize(("mask", "names"), MODELS)
def test_every_mechanism_is_one_graph_to_train_and_one_to_evaluate(
    small, graphs, tiny_samples, mask, names
):
    attention = f"model.attention=[{', '.join(map(small_one, names))}]"
    layers = f"model.num_layers={len(names)}"
    experiment.run(small(*EVERYTHING, layers, attention, f"model.mask={mask}"))
    assert graphs == [True, False], f"one of {names} is compiled anew"


@pytest.mark.parametrize(
    ("num_layers", "keys"),
    [
        (1, ["model.mask={name: sliding_window, window: 3}", "model.position=rotary"]),
        (1, ["model.mask=[causal, document]", "model.position=alibi"]),
        (1, ["model.mask={name: prefix, length: 3}", "model.position=relative_bias"]),
        pytest.param(
            1,
            ["model.mask=[causal, {name: bigbird, block_size: 4}]", "model.position=sinusoidal"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            [
                "model.layers=[{mask: {name: dilated, window: 3}, position: rotary}, "
                "{attention: linear, mask: causal, position: none}]"
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["window", "document", "prefix", "bigbird", "pattern"],
)
def test_masks_and_positions_are_in_the_graph(small, graphs, tiny_samples, num_layers, keys):
    experiment.run(small(*EVERYTHING, f"model.num_layers={num_layers}", *keys))
    assert graphs == [True, False]


@pytest.mark.slow
def test_sentences_of_any_length_share_a_graph(small, graphs):
    keys = ["trainer.compile=true", "data.num_train=200", "data.max_length=12"]
    experiment.run(small(*keys, "trainer.max_steps=12", task="translation"))
    assert graphs == [True, False]


def test_a_model_compiles_after_many_others(graphs):
    """torch counts by code object, and gives up after eight."""
    models = [torch.nn.Linear(4, 1 + i) for i in range(10)]
    for model in models:
        run = Compiled(model, dynamic=False)
        assert torch.equal(run(torch.ones(2, 4)), model(torch.ones(2, 4)))
    assert len(graphs) == 10


@pytest.mark.parametrize(
    "keys",
    [
        {"attention": ["multi_head", "grouped_query"], "position": "rotary"},
        {"attention": ["multi_head_latent", "sink"], "position": "alibi"},
        {"attention": ["gated_linear", "delta_net"]},
        {"attention": ["multi_head"] * 2, "mask": [{"name": "sliding_window", "window": 5},
                                                   "document"]},
    ],
    ids=["rotary", "alibi", "states", "masks"],
)  # fmt: skip
def test_one_graph_decodes_all_tokens(graphs, keys):
    torch.manual_seed(0)
    model = LanguageModel(13, max_seq_len=64, dim=16, num_layers=2, **keys).eval()
    run, prompt = Compiled(model, dynamic=False), torch.tensor([[1, 2, 3], [9, 0, 4]])
    for seed in (1, 2):  # the second text needs no other graph
        drawn = torch.stack(list(generate(model, prompt, 20, seed=seed, end_token=0, run=run)))
        plain = torch.stack(list(generate(model, prompt, 20, seed=seed, end_token=0)))
        assert torch.equal(drawn, plain)
    assert graphs == [False]


PLUGIN = """
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

@ATTENTION.register("{name}")
class Hasty(MultiHead):
    \"\"\"Looks at a number of the device.\"\"\"

    def normalize(self, scores, allowed):
        if float(scores.mean()) > 1e9:
            raise ValueError
        return super().normalize(scores, allowed)
"""


def test_a_mechanism_that_breaks_the_graph_is_told_once_and_runs_plain(
    small, monkeypatch, tmp_path, tiny_samples, caplog
):
    plugin = tmp_path / "hasty.py"
    plugin.write_text(PLUGIN.format(name="hasty"))
    counter = CompileCounter()
    monkeypatch.setattr(compiled, "BACKEND", counter)
    keys = [f"plugins=[{plugin}]", "model.attention={name: hasty, num_heads: 2}"]
    result = experiment.run(small("trainer.compile=true", *keys), check=False)
    plain = experiment.run(small("trainer.compile=false", "variant=plain", *keys), check=False)
    assert result.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
    (told,) = [r.getMessage() for r in caplog.records if "compiled as a whole" in r.getMessage()]
    assert f"{plugin}:10 (if float(scores.mean()) > 1e9:)" in told
    assert "Hasty will run as plain Python; set trainer.compile=false" in told
    assert counter.frame_count > 2  # what stands around it is still compiled
    torch._dynamo.reset()


def test_what_a_backend_cannot_do_is_told_and_done_plain(small, monkeypatch, tiny_samples, caplog):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(compiled, "BACKEND", no_compiler)
    result = experiment.run(small("trainer.compile=true"))
    assert result.record["status"] == "finished"
    (told,) = [r.getMessage() for r in caplog.records if "compiled as a whole" in r.getMessage()]
    assert "no C++ compiler was found" in told
    torch._dynamo.reset()


def test_steps_are_replayed_as_cuda_graphs(small, monkeypatch, tiny_samples):
    asked, left = [], []

    def compile_(function, *, options=None, **_):
        asked.append(options)
        return function

    def look(self, trainer, module, *args):
        left.append([p.grad for p in module.parameters() if p.grad is not None])

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(Task, "why_no_cuda_graphs", lambda self: None)
    monkeypatch.setattr(TrainingCurves, "on_train_batch_start", look)
    experiment.run(small("trainer.compile=true", "trainer.max_steps=3"))
    assert asked == [None, {"triton.cudagraphs": True}]
    assert left == [[], [], []]  # what a replay would overwrite is gone


@pytest.mark.parametrize(
    ("has_gpu", "version", "options"),
    [
        (True, "2.13.0", {"fallback_random": True}),
        (True, "2.12.1", None),
        (False, "2.13.0", None),
    ],
)
def test_dropout_on_a_gpu_is_that_of_torch_where_the_compilers_is_wrong(
    monkeypatch, has_gpu, version, options
):
    asked = []

    def compile_(function, *, options=None, **_):
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    Compiled(torch.nn.Linear(4, 2), dynamic=False)
    assert asked == [options]


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        (LM, []),
        (LM, ["optimizer={name: muon, lr: 0.01}", "trainer.on_nan=skip"]),
        (LM, ["model.attention={name: disagreement, num_heads: 2}"]),  # two losses, two curves
        ("masked_language_modeling", []),
        ("synthetic", []),
        ("translation", ["model.max_seq_len=7"]),  # the longest source
        pytest.param("speech", ["model.dropout=0"], marks=pytest.mark.slow),
    ],
    ids=["adamw", "muon", "losses", "masked", "synthetic", "translation", "speech"],
)
def test_nothing_is_read_after_the_next_call_has_overwritten_it(
    small, monkeypatch, tiny_samples, task, keys
):
    """As CUDA graphs do: each call spoils what the last one returned, and its gradients."""
    returned = []

    def compile_(function, *, options=None, **_):
        def call(model, *args, **named):
            for tensor in returned:
                tensor.data.fill_(float("nan"))
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
            output = function(model, *args, **named)
            returned[:] = [output]
            return output

        return call if options else function

    keys = ["trainer.max_steps=6", "validation.every_n_steps=2", *keys]
    keys += ["logging.every_n_steps=3", "logging.attention_maps=2", "logging.samples=2"]
    plain = experiment.run(small(*keys, "trainer.compile=false", "variant=plain", task=task))
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(Task, "why_no_cuda_graphs", lambda self: None)
    replayed = experiment.run(small(*keys, "trainer.compile=true", task=task))
    assert returned
    assert replayed.metrics == pytest.approx(plain.metrics)
    curves = [load_run(run.directory).curves["loss/train"] for run in (replayed, plain)]
    assert curves[0].values.tolist() == curves[1].values.tolist()


def test_of_batches_of_varying_sizes_some_are_captured(monkeypatch):
    called = []

    def compile_(function, *, options=None, **_):
        def call(model, *args):
            called.append(options is not None)
            return function(model, *args)

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(compiled, "MOST_SIZES", 2)
    monkeypatch.setattr(inductor.triton, "cudagraph_dynamic_shape_warn_limit", 8)
    run = Compiled(torch.nn.Linear(4, 2), dynamic=True)
    run.use_cuda_graphs()
    for rows in (1, 2, 3, 2):
        run(torch.ones(rows, 4))
    with torch.no_grad():
        run(torch.ones(1, 4))
    assert called == [True, True, False, True, False]
    assert inductor.triton.cudagraph_dynamic_shape_warn_limit == 2  # more are not captured


def test_a_step_that_cannot_be_captured_is_launched(monkeypatch, caplog):
    def compile_(function, *, options=None, **_):
        def call(model, *args):
            if options is not None:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            return function(model, *args)

        return call

    class Generator:
        """As of a GPU; a capture that failed leaves it captured, but not its copies."""

        is_captured = True

        def clone_state(self):
            return SimpleNamespace(is_captured=False)

        def graphsafe_set_state(self, other):
            self.is_captured = other.is_captured

    generator = Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch, "compile", compile_)
    run = Compiled(torch.nn.Linear(4, 2), dynamic=False)
    run.use_cuda_graphs()
    assert run(torch.ones(1, 4)).shape == (1, 2)
    assert not generator.is_captured
    assert run(torch.ones(1, 4)).shape == (1, 2)
    (told,) = [r.getMessage() for r in caplog.records]
    assert told.endswith("without CUDA graphs: operation not permitted when stream is capturing")


def test_a_graph_that_fails_where_the_plain_model_does_not_is_left(monkeypatch, caplog):
    calls = []

    def failing(graph, inputs):
        def run(*values):
            calls.append(1)
            raise RuntimeError("attn_bias is not correctly aligned")

        return run

    monkeypatch.setattr(compiled, "BACKEND", failing)
    model = torch.nn.Linear(2, 2)
    called, x = Compiled(model, dynamic=False), torch.ones(1, 2)
    assert all(torch.equal(called(x), model(x)) for _ in range(3))
    assert len(calls) == 1
    assert caplog.text.count("attn_bias is not correctly aligned") == 1

    with pytest.raises(RuntimeError, match="cannot be multiplied"):  # not the compiler's
        called(torch.ones(1, 3))


@pytest.mark.parametrize("precision", [32, "bf16"])
def test_a_step_whose_gradients_cannot_be_captured_is_computed_again(
    precision, small, monkeypatch, tiny_samples, caplog
):
    """With the same dropout and precision: the third step fails at the end of its backward pass."""
    replayed, failing = [], None

    def fail(gradient):
        failing.remove()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def compile_(function, *, options=None, **_):
        def call(model, *args, **named):
            nonlocal failing
            replayed.append(1)
            if len(replayed) == 3:
                failing = model.embedding.weight.register_hook(fail)
            return function(model, *args, **named)

        return call if options else function

    keys = ["model.dropout=0.3", "trainer.max_steps=5", "validation.every_n_steps=5"]
    keys.append(f"trainer.precision={precision}")
    plain = experiment.run(small(*keys, "trainer.compile=false", "variant=plain"))
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(Task, "why_no_cuda_graphs", lambda self: None)
    result = experiment.run(small(*keys, "trainer.compile=true"))
    assert len(replayed) == 3
    assert result.metrics == plain.metrics
    (told,) = [r.getMessage() for r in caplog.records if "CUDA graphs" in r.getMessage()]
    assert told.endswith("without CUDA graphs: operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"device": torch.device("cpu")}, "CUDA device"),
        ({"accumulate": 2}, "outlive"),
        ({"cuda_graphs": False}, "the recipe"),
        ({"trainer": SimpleNamespace(world_size=2)}, "exchange gradients"),
    ],
)
def test_what_cannot_be_replayed(changes, reason):
    task = {"device": torch.device("cuda"), "accumulate": 1, "cuda_graphs": True}
    task |= {"trainer": SimpleNamespace(world_size=1), **changes}
    why = Task.why_no_cuda_graphs(SimpleNamespace(**task))
    assert why is None if reason is None else reason in why


def test_compiling_is_told_and_counts_apart(small, graphs, monkeypatch, tiny_samples, capsys):
    speeds = []
    plain = TrainingCurves._write

    def write(self, *args):
        speeds.append((self.seconds, self._clock.seconds))
        plain(self, *args)

    monkeypatch.setattr(TrainingCurves, "_write", write)
    result = experiment.run(small("trainer.compile=true", "trainer.max_steps=2"))
    told = [line for line in capsys.readouterr().err.splitlines() if "compiling" in line]
    assert told == [
        f"small/{result.directory.parent.name}  compiling the model (trainer.compile); the first "
        "steps wait for it"
    ]
    seconds = result.record["compile_seconds"]
    assert seconds > 0.1
    trained = result.record["tokens"] / result.record["tokens_per_second"]
    assert trained < result.record["seconds"] - speeds[0][1]


def test_a_clock_that_torch_forgot_can_be_stopped():
    clock = CompileClock()
    clock.start()
    torch._dynamo.reset()
    clock.stop()


@pytest.mark.parametrize(
    ("option", "accelerator", "has_gpu", "expected"),
    [
        ("auto", "auto", True, True),
        ("auto", "gpu", True, True),
        ("auto", "cpu", True, False),
        ("auto", "auto", False, False),
        (True, "cpu", False, True),
        (False, "gpu", True, False),
        ("without_cuda_graphs", "gpu", True, True),
    ],
)
def test_it_is_compiled_where_there_is_a_gpu(monkeypatch, option, accelerator, has_gpu, expected):
    from attnkit.hardware.devices import compiles

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert compiles(option, accelerator) is expected


def test_recipes_leave_it_to_the_machine():
    assert load_recipe("recipes/language_modeling/quickstart.yaml").trainer.compile == "auto"
