"""What only a GPU can show: `pytest -m gpu -n 0`. Each test says so and is skipped elsewhere."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from attnkit.attention.kernels.choosing import only
from attnkit.callbacks.curves import TrainingCurves
from attnkit.errors import DivergedError
from attnkit.hardware.devices import end_failed_capture
from attnkit.masks import build_mask
from attnkit.models.decoding import generate
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import load_recipe
from attnkit.registry import ATTENTION
from attnkit.runs import experiment
from attnkit.tasks.language_modeling.task import LanguageModelingTask
from attnkit.training.compiled import Compiled
from attnkit.training.task import Task

# For the deterministic runs: torch reads it once, at the first matrix product of the process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # the compiler's own
]

MASKS = {
    "causal": "causal",
    "window": {"name": "sliding_window", "window": 32},
    "prefix": {"name": "prefix", "length": 16},
    "document": ["causal", "document"],
    "none": "none",
}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
GPU = ["trainer.accelerator=gpu", "trainer.precision=auto"]


def model_of(name, mask="causal", **options):
    heads = {"num_heads": 4} if "num_heads" in ATTENTION.options(name) else {}
    torch.manual_seed(0)
    return LanguageModel(
        64, max_seq_len=128, dim=128, num_layers=1, attention={"name": name, **heads}, mask=mask,
        **options,
    )  # fmt: skip


def loss_and_gradients(model, dtype):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(64, (2, 128), generator=generator).cuda()
    documents = (torch.arange(128).cuda() // 50).expand(2, -1)
    model = copy.deepcopy(model).cuda()
    model = model.double() if dtype == torch.float64 else model
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(tokens, documents)
    loss = F.cross_entropy(logits.flatten(0, 1).to(torch.float64), tokens.flatten())
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]  # dsa learns apart
    gradient = torch.cat([g.flatten().double() for g in gradients])
    return loss.item(), gradient


def assert_alike(model):
    loss, gradient = loss_and_gradients(model, torch.bfloat16)
    exact, expected = loss_and_gradients(model, torch.float64)
    assert loss == pytest.approx(exact, rel=0.02)
    assert F.cosine_similarity(gradient, expected, dim=0) > 0.98


@pytest.mark.parametrize("name", ATTENTION.names())
def test_bfloat16_gives_the_loss_and_gradient_of_float64(name):
    kind = ATTENTION.get(name)
    causal = kind.refusal("self", build_mask("causal"), "learned") is None
    assert_alike(model_of(name, "causal" if causal else "none"))


PAIRS = [(kernel, mask) for kernel in ("flex", "sdpa", "reference") for mask in MASKS]


@pytest.mark.parametrize(("kernel", "mask"), [("windowed", "window"), *PAIRS])
def test_every_kernel_obeys_every_mask(kernel, mask):
    model = model_of("grouped_query", MASKS[mask])
    exact, expected = loss_and_gradients(model, torch.float64)
    with only(kernel):
        loss, gradient = loss_and_gradients(model, torch.bfloat16)
    assert loss == pytest.approx(exact, rel=0.02)
    assert F.cosine_similarity(gradient, expected, dim=0) > 0.98


def test_a_run_is_compiled_and_learns(small):
    result = experiment.run(small(*GPU, "trainer.max_steps=40", "optimizer.lr=0.01"))
    assert result.record["compile_seconds"] > 0
    assert result.record["device"] == torch.cuda.get_device_name()
    assert result.metrics["loss"] < 2.6


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_replayed_steps_train_as_launched_ones_do(small, monkeypatch, optimizer):
    """With validation, maps and samples between them."""
    keys = [*GPU, "trainer.max_steps=30", "validation.every_n_steps=10", "logging.samples=3"]
    keys += ["logging.attention_maps=3", f"optimizer={{name: {optimizer}, lr: 0.01}}"]
    captured = []
    plain = Compiled.use_cuda_graphs
    monkeypatch.setattr(Compiled, "use_cuda_graphs", lambda s: captured.append(plain(s)))
    replayed = experiment.run(small(*keys))
    assert captured
    monkeypatch.setattr(Compiled, "use_cuda_graphs", lambda s: None)
    launched = experiment.run(small(*keys, "variant=launched"))
    assert replayed.metrics["loss"] == pytest.approx(launched.metrics["loss"], rel=0.01)


def test_dropout_differs_from_replay_to_replay():
    torch.manual_seed(0)
    model = model_of("multi_head", dropout=0.5).cuda().train()
    run, tokens = Compiled(model, dynamic=False), torch.randint(64, (2, 64), device="cuda")
    run.use_cuda_graphs()
    losses = []
    for seed in (1, 2, 3, 4, 5, 4):
        torch.cuda.manual_seed(seed)
        loss = run(tokens, targets=tokens)
        losses.append(loss.item())
        loss.backward()
        model.zero_grad(set_to_none=True)
    assert len(set(losses)) == 5
    assert losses[5] == losses[3]


def slope_and_gradient(model, run, tokens):
    """How the loss changes along its gradient, by differences, and what the gradient says; with the
    same dropout in each call.
    """

    def loss():
        torch.cuda.manual_seed(1)
        return run(tokens, targets=tokens)

    for _ in range(3):  # the last one is a replay
        model.zero_grad(set_to_none=True)
        loss().backward()
    parameters = list(model.parameters())
    gradients = [p.grad.clone() for p in parameters]
    model.zero_grad(set_to_none=True)
    norm = torch.nn.utils.get_total_norm(gradients)
    ends = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            torch._foreach_add_(parameters, gradients, alpha=step / norm.item())
            with torch.enable_grad():
                ends.append(loss().item())
    return (ends[0] - ends[1]) / 2e-3, norm.item()


@pytest.mark.parametrize("rows", [2, 64])
def test_a_compiled_step_has_the_gradient_of_the_dropout_that_it_drew(rows):
    options = {"name": "multi_head", "dropout": 0.5}
    model = model_of("multi_head", dropout=0.5, layers=[{"attention": options}]).cuda().train()
    run, tokens = Compiled(model, dynamic=False), torch.randint(64, (rows, 128), device="cuda")
    run.use_cuda_graphs()
    slope, gradient = slope_and_gradient(model, run, tokens)
    assert slope == pytest.approx(gradient, rel=0.05)


def test_dropout_goes_on_after_a_capture_that_failed():
    x = torch.ones(8, device="cuda")
    with pytest.raises(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        F.dropout(x).sum().item()
    end_failed_capture()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    test_dropout_differs_from_replay_to_replay()


@pytest.mark.parametrize(
    ("optimizer", "callbacks"), [("adamw", "[]"), ("muon", "[{name: qk_clip, tau: 0.5}]")]
)
def test_no_step_waits_for_the_device(small, monkeypatch, optimizer, callbacks):
    """Between two points of the curves; torch raises where the host would wait."""
    plain = TrainingCurves.on_train_batch_end

    def watch(self, trainer, *args):
        torch.cuda.set_sync_debug_mode("default")
        plain(self, trainer, *args)
        quiet = 20 <= trainer.global_step < 29
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")

    monkeypatch.setattr(TrainingCurves, "on_train_batch_end", watch)
    keys = ["trainer.max_steps=30", "logging.every_n_steps=10", "validation.every_n_steps=30"]
    keys += [f"optimizer={{name: {optimizer}, lr: 0.01}}", f"callbacks={callbacks}"]
    experiment.run(small(*GPU, *keys))


def test_a_bad_step_is_left_out_and_named(small, monkeypatch):
    plain = LanguageModelingTask.training_step

    def spoil(self, batch, batch_idx):
        loss = plain(self, batch, batch_idx)
        return loss * float("nan") if batch_idx == 4 else loss

    monkeypatch.setattr(LanguageModelingTask, "training_step", spoil)
    result = experiment.run(small(*GPU, "trainer.on_nan=skip", "logging.every_n_steps=3"))
    assert result.record["skipped_steps"] == 1
    with pytest.raises(DivergedError, match="at step 5 "):
        experiment.run(small(*GPU, "logging.every_n_steps=6", "seed=1"))


def test_what_is_generated_is_what_the_model_would_say_without_a_cache():
    model = model_of("multi_head", position="rotary").cuda().eval()
    prompt = torch.randint(64, (3, 10), device="cuda")
    said = torch.stack(list(generate(model, prompt, 20, temperature=0)), dim=1)
    text = torch.cat((prompt, said), dim=1)
    with torch.no_grad():
        assert torch.equal(model(text)[:, 9:-1].argmax(dim=-1), said)


@pytest.mark.parametrize("name", ["multi_head", "multi_head_latent", "sink", "gated_linear"])
def test_a_token_is_one_cuda_graph_and_waits_for_nothing(name, caplog):
    model = model_of(name, position="rotary").cuda().eval()
    prompt = torch.randint(64, (3, 10), device="cuda")
    drawn = generate(model, prompt, 30, temperature=0.8, top_k=20, top_p=0.9, seed=1)
    first = [next(drawn) for _ in range(3)]  # the prompt, the capture, a launch
    torch.cuda.set_sync_debug_mode("error")
    try:
        said = torch.stack(first + list(drawn), dim=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [r for r in caplog.records if "CUDA graph" in r.getMessage()]  # it was captured
    model.why_no_fixed_cache = lambda: "to compare"
    grown = generate(model, prompt, 30, temperature=0.8, top_k=20, top_p=0.9, seed=1)
    assert torch.equal(torch.stack(list(grown), dim=1), said)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_takes_two_steps(path, in_small, tiny_samples):
    recipe = load_recipe(path)
    if recipe.name == "gpt3":
        pytest.skip("too large")
    keys = [*in_small(recipe), "trainer.compile=false", "trainer.accelerator=gpu"]
    assert experiment.run(load_recipe(path, keys)).record["steps"] == 2


def test_deterministic_runs_resume_to_the_last_bit(small, monkeypatch):
    keys = [*GPU, "trainer.deterministic=true", "trainer.compile=false"]
    keys += ["checkpoint.every_n_steps=2", "variant=base"]
    whole = experiment.run(small(*keys), directory=small().run_dir.with_name("whole"))
    plain = Task.on_before_backward

    def die(self, loss):
        if self.global_step == 4:
            raise KeyboardInterrupt
        plain(self, loss)

    recipe = small(*keys)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_before_backward", die)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(recipe)
    again = experiment.run(recipe, resume="yes")
    assert again.metrics == whole.metrics
