"""QK-Clip: what it bounds, what it leaves alone, and what it refuses."""

import json
import re

import lightning as L
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from attnkit.attention.maps import before_each_mechanism, largest_by_head
from attnkit.callbacks.qk_clip import QKClip
from attnkit.cli.main import app
from attnkit.recipe import RecipeError
from attnkit.runs import experiment
from attnkit.storage.run_directory import PausedError

CLIP = "callbacks=[{name: qk_clip, tau: 0.5}]"
HIGH = "callbacks=[{name: qk_clip, tau: 5.0}]"
"""Above the scores of a new model, below those of a loud head."""
JSONL = "logging.to=[jsonl]"


def attention(name, **options):
    return "model.attention=" + json.dumps({"name": name, "num_heads": 2, **options})


class Watch(L.Callback):
    """Makes head 0 of the lowest layer loud before training, and looks at all heads after a step.

    Attributes:
        largest: for each step, the largest score of each head of each layer on that step's batch.
        before, after: weights of queries and keys by name, loud, and at the end.
    """

    def __init__(self, loud=1.0):
        self.loud = loud
        self.batches = []
        self.largest = []

    def weights(self, task):
        return {
            name: weight.clone()
            for name, weight in task.model.named_parameters()
            if name.endswith(("query.weight", "key.weight"))
        }

    def on_train_start(self, trainer, task):
        with torch.no_grad():
            first = next(m for m in task.model.modules() if hasattr(m, "query"))
            first.query.weight[: len(first.query.weight) // 2] *= self.loud
        self.before = self.weights(task)

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.batches.append(batch)
        if len(self.batches) < trainer.accumulate_grad_batches:
            return
        seen = []

        def look(module, *call):
            seen.append(largest_by_head(module, *call))

        with torch.no_grad(), task.plain_model(), before_each_mechanism(task.model, look):
            for each in self.batches:
                task.losses(each)
        self.batches.clear()
        self.largest.append(torch.stack(seen))
        self.after = self.weights(task)


def points(result):
    lines = (result.directory / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {line["step"]: line for line in found if "scores/largest" in line}


# What it does


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["model.position=rotary", attention("grouped_query", num_kv_heads=1)],
        ["model.position=rotary", attention("multi_head_latent")],
        [attention("differential")],
        [attention("nsa", block=4)],
        ["model.num_layers=1", "trainer.accumulate=2"],
    ],
    ids=["multi_head", "grouped_query", "multi_head_latent", "differential", "nsa", "accumulate"],
)
def test_no_score_exceeds_tau_after_a_step(small, keys):
    free, held = Watch(loud=100.0), Watch(loud=100.0)
    experiment.run(small("trainer.max_steps=3", "name=free", JSONL, *keys), callbacks=[free])
    result = experiment.run(small("trainer.max_steps=3", CLIP, JSONL, *keys), callbacks=[held])
    for loud, quiet in zip(free.largest, held.largest, strict=True):
        assert loud.max() > 0.6
        assert quiet.max() < 0.5 + 1e-5
    assert points(result)[1]["scores/largest"] > 0.6
    assert points(result)[1]["scores/clipped_heads"] >= 1


def test_sentences_and_cross_attention_are_rescaled_too(small):
    held = Watch(loud=100.0)
    experiment.run(small(CLIP, JSONL, task="translation"), callbacks=[held])
    assert {len(layers) for layers in held.largest} == {3}  # encoder, decoder, across
    assert torch.stack(held.largest).max() < 0.5 + 1e-5


def test_other_heads_keep_their_weights_to_the_last_bit(small):
    watch = Watch(loud=100.0)
    still = ["trainer.max_steps=1", "optimizer.lr=1e-30"]
    experiment.run(small(*still, HIGH), callbacks=[watch])
    changed = {}
    for name, before in watch.before.items():
        pairs = zip(before.chunk(2), watch.after[name].chunk(2), strict=True)
        changed[name] = [not torch.equal(*pair) for pair in pairs]
    first = ("layers.0.attention.query.weight", "layers.0.attention.key.weight")
    for name, heads in changed.items():
        assert heads == ([True, False] if name.endswith(first) else [False, False]), name
    query, key = (
        watch.after[name][0] / watch.before[name][0] for name in changed if name.endswith(first)
    )
    torch.testing.assert_close(query, key)  # each takes the square root of the factor


def test_heads_that_share_keys_are_rescaled_by_their_queries(small):
    watch = Watch(loud=100.0)
    keys = ["trainer.max_steps=1", "optimizer.lr=1e-30", attention("multi_query")]
    experiment.run(small(*keys, HIGH), callbacks=[watch])
    for name, before in watch.before.items():
        same = [torch.equal(*pair) for pair in zip(before, watch.after[name], strict=True)]
        loud = "layers.0" in name and "query" in name
        assert same == [not (loud and row < 8) for row in range(len(same))], name


def test_a_high_threshold_changes_nothing_that_is_learnt(small):
    plain, held = Watch(), Watch()
    experiment.run(small("name=plain"), callbacks=[plain])
    result = experiment.run(small("callbacks=[qk_clip]", JSONL), callbacks=[held])
    assert all(torch.equal(plain.after[name], held.after[name]) for name in plain.after)
    assert [*points(result)] == [1, 2, 3, 4, 5, 6]
    assert {point["scores/clipped_heads"] for point in points(result).values()} == {0.0}


def test_a_point_is_of_the_steps_since_the_last_one(small):
    every, some = (
        points(experiment.run(small(CLIP, JSONL, f"logging.every_n_steps={n}", f"name=of{n}")))
        for n in (1, 4)
    )
    assert [*some] == [4, 6]
    for step, steps in ((4, (1, 2, 3, 4)), (6, (5, 6))):
        of = [every[each] for each in steps]
        assert some[step]["scores/largest"] == max(point["scores/largest"] for point in of)
        clipped = sum(point["scores/clipped_heads"] for point in of) / len(of)
        assert some[step]["scores/clipped_heads"] == pytest.approx(clipped)


def test_a_resumed_run_ends_with_the_same_numbers(small):
    keys = [CLIP, JSONL, "logging.every_n_steps=4"]
    whole, rest = Watch(), Watch()
    at_once = experiment.run(small(*keys, "name=at_once"), callbacks=[whole])
    with pytest.raises(PausedError):
        experiment.run(small(*keys), until=3)
    resumed = experiment.run(small(*keys), resume="yes", callbacks=[rest])
    assert all(torch.equal(whole.after[name], rest.after[name]) for name in whole.after)
    assert points(resumed) == points(at_once)
    assert resumed.metrics == at_once.metrics


class NothingIsRead(TorchDispatchMode):
    """Refuses to hand a number to the host, for which a GPU would make it wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not re.search(r"_local_scalar_dense|nonzero|equal\.default", name), name
        return function(*args, **(kwargs or {}))


def test_no_step_between_two_points_reads_a_number(small, monkeypatch):
    plain = QKClip.on_train_batch_end
    watched = []

    def watch(self, trainer, *args):
        if trainer.global_step == 6:
            return plain(self, trainer, *args)
        watched.append(trainer.global_step)
        with NothingIsRead():
            return plain(self, trainer, *args)

    monkeypatch.setattr(QKClip, "on_train_batch_end", watch)
    experiment.run(small(CLIP, "logging.every_n_steps=6"))
    assert watched == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_compiled_model_keeps_its_graphs(small, graphs):
    keys = ["trainer.compile=true", "validation.every_n_steps=6", JSONL]
    result = experiment.run(small(*keys, CLIP))
    assert sorted(graphs) == [False, True]  # one to train, one to evaluate
    assert points(result)[6]["scores/clipped_heads"] > 0


# What is refused


@pytest.mark.parametrize("tau", ["0", "-1.0"])
def test_a_threshold_that_bounds_nothing_is_refused(small, tau):
    recipe = small(f"callbacks=[{{name: qk_clip, tau: {tau}}}]")
    with pytest.raises(RecipeError, match=r"callbacks\[0\]: .*tau must be above 0"):
        experiment.run(recipe)
    assert not recipe.run_dir.exists()


def test_a_threshold_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "quickstart", "callbacks=[{name: qk_clip, tau: high}]"])
    assert done.exit_code == 2
    assert "callbacks[0].tau: expected a number" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("linear", "linear has no scores of queries and keys"),
        ("average", "average has no scores of queries and keys"),
        ("qk_norm", "the scores of qk_norm are not proportional to the query weights"),
    ],
)
def test_a_mechanism_without_such_scores_is_refused(small, name, words):
    recipe = small(CLIP, attention(name))
    with pytest.raises(RecipeError, match=rf"callbacks\[0\]: qk_clip: {words}.*; remove the"):
        experiment.run(recipe)
