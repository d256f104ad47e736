"""The loss of a language model: which predictions count, what it is worth in bits, and when it is
none.
"""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from torch.nn import functional as F

from attnkit.data.order import batch_seed
from attnkit.errors import DataError
from attnkit.models.influence import LaterInfluence
from attnkit.runs import experiment
from attnkit.runs.experiment import build_data, build_model, build_task
from attnkit.tasks.language_modeling.task import describe_influence
from attnkit.tasks.trained_run import load_run

UNMASKED = ["model.mask=none", "model.position=rotary"]


@pytest.fixture
def make_task(small):
    def make(*overrides):
        recipe = small(*overrides)
        data = build_data(recipe)
        data.prepare()
        return build_task(recipe, build_model(recipe, data.tokenizer.vocab_size), data)

    return make


def nats(task, batch):
    """The surprise of each target (B, T), written out."""
    probabilities = task.model(batch.tokens, batch.documents).softmax(dim=-1)
    return -probabilities.gather(-1, batch.targets[..., None])[..., 0].log()


def test_the_loss_is_the_mean_surprise_of_the_next_token(make_task):
    task = make_task()
    batch = task.data.train_batch(0)
    assert batch.tokens.shape == (8, 16)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert torch.allclose(task.measure(batch)["loss"], nats(task, batch).mean(), rtol=1e-5)
    assert task.num_tokens(batch) == 8 * 16


@pytest.mark.parametrize("length", [1, 5, 15])
def test_predictions_that_saw_their_answer_are_left_out(make_task, length):
    """The prefix of 5 shows position 0 its answer at 1, and so on to position 3; position 4 has
    not seen token 5.
    """
    task = make_task(f"model.mask={{name: prefix, length: {length}}}")
    assert task.loss_is_honest
    batch = task.data.train_batch(0)
    assert torch.allclose(
        task.measure(batch)["loss"], nats(task, batch)[:, length - 1 :].mean(), rtol=1e-5
    )


def test_what_is_left_out_is_what_leaks(make_task):
    """Changing a later token moves the predictions that are left out, and no other."""
    task = make_task("model.mask={name: prefix, length: 5}")
    tokens = task.data.train_batch(0).tokens[:1]
    tokens = tokens % (task.data.tokenizer.vocab_size - 1)
    with torch.no_grad():
        base, moved = task.model(tokens), set()
        for j in range(1, 16):
            changed = tokens.clone()
            changed[0, j] += 1
            moved |= set(
                ((task.model(changed) - base)[0, :j].abs().amax(-1) > 0).nonzero()[:, 0].tolist()
            )
    assert moved == {0, 1, 2, 3}
    assert set(task._unscored.nonzero().flatten().tolist()) == moved


def test_a_mask_that_shows_everything_leaves_no_honest_prediction(make_task):
    task = make_task(*UNMASKED)
    assert not task.loss_is_honest
    batch = task.data.train_batch(0)
    assert torch.allclose(task.measure(batch)["loss"], nats(task, batch).mean(), rtol=1e-5)


def test_validation_is_the_mean_over_all_windows(small, small_run, text_file):
    """The split's 16-token windows by hand, one by one, with the trained weights."""
    run = load_run(small_run.directory)
    data = build_data(run.recipe)
    data.prepare()
    stream = torch.tensor(data.val_store.tokens.astype("int64"))
    starts = range(0, (len(stream) - 1) // 16 * 16, 16)
    with torch.no_grad():
        losses = [
            F.cross_entropy(run.model(stream[None, s : s + 16])[0], stream[s + 1 : s + 17])
            for s in starts
        ]
    loss = float(torch.stack(losses).mean())
    assert small_run.metrics["loss"] == pytest.approx(loss, rel=1e-5)

    text = "".join(data.source.documents("val"))
    tokens_a_byte = len(stream) / len(text.encode())
    assert len(stream) == len(text)  # a single document
    assert small_run.metrics["bits_per_byte"] == pytest.approx(
        loss / math.log(2) * tokens_a_byte, rel=1e-5
    )
    assert small_run.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_subwords_are_made_comparable_by_bits_a_byte(make_task):
    task = make_task("tokenizer={name: bpe, vocab_size: 280}")
    store = task.data.val_store.counts
    assert store.bytes / store.tokens > 1.5
    seen = {}
    task.log_dict = lambda metrics, **_: seen.update(metrics)
    task.trainer = SimpleNamespace(loggers=[])
    task.validation_step(task.data.val_batches(None)[0], 0)
    loss = float(task.measure(task.data.val_batches(None)[0])["loss"].detach())
    task.on_validation_epoch_end()
    assert seen["loss/val"] == pytest.approx(loss)
    assert seen["quality/bits_per_byte"] == pytest.approx(
        loss / math.log(2) * store.tokens / store.bytes
    )


def test_a_short_last_batch_counts_by_its_tokens(make_task):
    task = make_task("trainer.batch_size=7")
    batches = task.data.val_batches(None)
    first, last = batches[0], batches[len(batches) - 1]
    assert len(last.tokens) < len(first.tokens)
    for batch in (first, last):
        task.validation_step(batch, 0)
    both = torch.cat([nats(task, first), nats(task, last)])
    assert task.means()["loss"] == pytest.approx(float(both.detach().mean()), rel=1e-5)


# The run that sees the future


@pytest.fixture
def cheat(small, caplog):
    with caplog.at_level(logging.WARNING, logger="attnkit"):
        return experiment.run(small(*UNMASKED))


def test_an_unmasked_run_says_that_its_loss_is_none(cheat, caplog):
    written = json.loads((cheat.directory / "result.json").read_text())
    influence = written["later_influence"]
    assert written["loss_is_language_modeling"] is False
    assert influence["num_moved"] == influence["num_positions"] == 15
    assert influence["change"] > 0.01
    assert influence["moved_output"] < influence["changed_token"]
    (said,) = (r.getMessage() for r in caplog.get_records("setup") if r.name == "attnkit")
    assert said.startswith("NOT a language-modeling loss: every prediction can see the token that")
    assert f"by {influence['change']:.2g} standard deviations" in said
    shown = event_accumulator.EventAccumulator(str(cheat.directory), {"tensors": 0}).Reload()
    (warning,) = shown.Tensors("warning")
    assert warning.tensor_proto.string_val[0].decode() == f"```\n{said}\n```"


def test_a_masked_run_warns_of_nothing(small, caplog):
    result = experiment.run(small("trainer.max_steps=1"))
    assert result.record["loss_is_language_modeling"] is True
    assert result.record["later_influence"]["change"] == 0
    assert not [record for record in caplog.records if record.name == "attnkit"]


def test_a_prefix_run_says_what_it_leaves_out(small, caplog):
    with caplog.at_level(logging.WARNING, logger="attnkit"):
        result = experiment.run(
            small("model.mask={name: prefix, length: 5}", "trainer.max_steps=1")
        )
    assert result.record["loss_is_language_modeling"] is True
    assert result.record["later_influence"]["num_moved"] == 4
    (said,) = (record.getMessage() for record in caplog.records if record.name == "attnkit")
    assert said.startswith("4 of 15 predictions see later tokens (changing token ")
    assert said.endswith("as the mask allows; the loss leaves them out.")


def test_an_influence_is_put_into_words():
    all_moved = LaterInfluence(0.5, changed_token=9, moved_output=3, num_moved=15, num_positions=15)
    assert (
        "changing token 9 moved the prediction at position 3 by 0.5 standard deviations"
        in describe_influence(all_moved, True)
    )


# Randomness and probes


def test_each_batch_of_each_process_has_a_seed_of_its_own():
    seeds = {batch_seed(s, r, b) for s in range(5) for r in range(4) for b in range(50)}
    assert len(seeds) == 5 * 4 * 50
    assert batch_seed(1, 0, 7) == batch_seed(1, 0, 7)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_the_probe_is_the_start_of_the_validation_text_or_a_text_of_ones_own(make_task):
    task = make_task()
    text = "".join(task.data.source.documents("val"))
    probe = task.probes(10, None)[0]
    assert "".join(probe.query_tokens) == "".join(probe.key_tokens)
    assert [token if token != "\\n" else "\n" for token in probe.query_tokens] == list(text[:10])
    assert probe.inputs[0].shape == (1, 10)
    assert task.probes(100, None)[0].inputs[0].shape == (1, 16)  # the context is no longer
    assert list(task.probes(10, "the cat")[0].query_tokens) == list("the cat")
    with pytest.raises(DataError, match=r"logging.probe is empty"):
        task.probes(10, "")


def test_the_probe_numbers_its_documents_where_the_mask_needs_them(make_task):
    task = make_task("model.mask=[causal, document]")
    tokens, documents = task.probes(10, None)[0].inputs
    assert documents.shape == tokens.shape
    assert not documents.any()  # one document
    assert task.model(tokens, documents).shape[:2] == (1, 10)


def test_a_sample_leaves_the_model_in_training(make_task):
    task = make_task("model.dropout=0.5")
    task.train()
    assert task.sample() == task.sample()
    assert task.model.training


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0, None])
def test_gradients_are_clipped_as_torch_clips_them(make_task, share):
    """With a limit below their norm, at it, above it, and without one."""
    task = make_task()
    optimizer = task.configure_optimizers()
    parameters = list(task.model.parameters())
    task.measure(task.data.train_batch(0))["loss"].backward()
    before = [p.grad.clone() for p in parameters]
    norm = torch.cat([g.flatten() for g in before]).norm()
    task.gradient_clip = None if share is None else share * float(norm)

    task.configure_gradient_clipping(optimizer)
    clipped = [p.grad for p in parameters]
    torch.testing.assert_close(task.gradient_norm, norm)
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    limit = math.inf if share is None else task.gradient_clip
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    for ours, parameter in zip(clipped, parameters, strict=True):
        assert torch.equal(ours, parameter.grad)
