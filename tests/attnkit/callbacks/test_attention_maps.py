"""The callback on a LightningModule that knows nothing of attnkit but the mechanisms it holds."""

from io import BytesIO

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from torch import nn

from attnkit import AttentionMaps, build_attention, build_mask
from attnkit.callbacks.at_moments import log_moments
from attnkit.tensorboard.map_format import decode

SOURCE, TARGET = list("source"), list("aim")


class Translator(nn.Module):
    """An encoder layer, and two decoder layers that look at themselves and at the encoder."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(128, 8)
        self.encoder = build_attention({"name": "single_head"}, 8)
        self.decoder = nn.ModuleDict(
            {
                "self_attention": nn.ModuleList(_two_heads() for _ in range(2)),
                "cross_attention": nn.ModuleList(_two_heads() for _ in range(2)),
            }
        )
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 128)
        self.modes = []

    def forward(self, source, target):
        self.modes.append(self.training)
        source, x = self.embedding(source), self.dropout(self.embedding(target))
        context = source + self.encoder(source, source)
        causal = build_mask("causal")
        for own, cross in zip(*self.decoder.values(), strict=True):
            x = x + own(x, x, causal)
            x = x + cross(x, context)
        return self.head(x)


def _two_heads():
    return build_attention({"name": "multi_head", "num_heads": 2}, 8)


class Plain(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *inputs):
        return self.net(*inputs)

    def training_step(self, batch, batch_idx):
        target = batch[1]
        return nn.functional.cross_entropy(
            self(*batch)[:, :-1].flatten(0, 1), target[:, 1:].flatten()
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def ids(text):
    return torch.tensor([[ord(letter) for letter in text]])


def train(net, callback, folder, num_batches=10, logger=None, **options):
    batches = [(ids("source"), ids("aim"))] * num_batches
    options = {"max_epochs": 1, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=logger or TensorBoardLogger(folder, name="", version="run"),
        callbacks=callback,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(Plain(net), torch.utils.data.DataLoader(batches, batch_size=None))
    return trainer


@pytest.fixture(autouse=True)
def _quiet():
    from attnkit.runs.trainer import quiet_lightning

    quiet_lightning()


@pytest.fixture
def probe():
    return lambda **options: AttentionMaps((ids("source"), ids("aim")), TARGET, SOURCE, **options)


def shown(folder):
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    return event_accumulator.EventAccumulator(str(folder / "run"), everything).Reload()


def records(events, site, example="probe"):
    tag = f"attention/{example}/{site}"
    return {e.step: decode(e.tensor_proto.string_val) for e in events.Tensors(tag)}


def test_self_and_cross_maps_are_recorded_by_site(probe, tmp_path):
    torch.manual_seed(0)
    net = Translator()
    train(net, probe(num_moments=4), tmp_path)
    events = shown(tmp_path)
    sites = {"net.encoder.self", "net.decoder.self", "net.decoder.cross"}
    assert {t for t in events.Tags()["tensors"] if t.startswith("attention/")} == {
        f"attention/probe/{site}" for site in sites
    }
    assert set(events.Tags()["images"]) == {f"maps/probe/{site}" for site in sites}

    own = records(events, "net.decoder.self")
    assert list(own) == log_moments(10, 4)
    for record in own.values():
        assert (record.kind, record.causal) == ("self", True)
        assert list(record.query_tokens) == list(record.key_tokens) == TARGET
        assert [layer.weights.shape for layer in record.layers] == [(2, 3, 3)] * 2
        assert not any(np.triu(layer.weights, 1).any() for layer in record.layers)

    cross = records(events, "net.decoder.cross")[10]
    assert (cross.kind, cross.causal) == ("cross", False)
    assert (list(cross.query_tokens), list(cross.key_tokens)) == (TARGET, SOURCE)
    assert [layer.weights.shape for layer in cross.layers] == [(2, 3, 6)] * 2

    encoder = records(events, "net.encoder.self")[0]
    assert (encoder.kind, encoder.causal) == ("self", False)
    assert list(encoder.query_tokens) == list(encoder.key_tokens) == SOURCE
    assert encoder.layers[0].weights.shape == (1, 6, 6)

    for site in sites:
        for event in events.Images(f"maps/probe/{site}"):
            Image.open(BytesIO(event.encoded_image_string)).verify()


@pytest.mark.parametrize(
    ("name", "norm"), [("multi_head", "rows"), ("sigmoid", "unnormalised"), ("retention", "signed")]
)
def test_the_norm_of_a_map_is_what_the_mechanism_declares_at_every_step(tmp_path, name, norm):
    """Also where the weights of a step would fit a narrower one: its colours do not change."""
    attention = build_attention({"name": name, "num_heads": 2}, 8)

    class Bare(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, build_mask("causal"))

    maps = AttentionMaps([torch.zeros(1, 3, 8)], ["a", "b", "c"])
    (record,) = maps.records(Bare())
    assert [layer.norm for layer in record.layers] == [norm]


def test_the_last_map_is_that_of_the_trained_module(probe, tmp_path):
    torch.manual_seed(0)
    net = Translator()
    train(net, probe(num_moments=2), tmp_path)
    net.eval()
    with torch.no_grad():
        x = net.embedding(ids("aim"))
        own = net.decoder["self_attention"][0]
        q, k = own.project_query(x), own.project_context(x)[0]
        scores = q @ k.transpose(-2, -1) / 2  # heads of width 4
        expected = scores.masked_fill(~torch.ones(3, 3).tril().bool(), -1e9).softmax(-1)[0]
    record = records(shown(tmp_path), "net.decoder.self")[10]
    assert np.allclose(record.layers[0].weights, expected, atol=0.01)


def test_training_goes_on_as_if_nobody_had_looked(probe, tmp_path):
    """Same weights with and without maps, dropout included; the module is in training again."""
    ends = []
    for name, moments in (("with", 10), ("without", 0)):
        torch.manual_seed(0)
        net = Translator()
        callback = probe(num_moments=moments) if moments else L.Callback()
        torch.manual_seed(1)
        train(net, callback, tmp_path / name)
        ends.append([p.detach() for p in net.parameters()])
        if moments:
            looks, steps = net.modes.count(False), net.modes.count(True)
            assert (looks, steps) == (10, 10)
            assert net.modes[0] is False  # step 0 is looked at before the first step
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("options", "run", "expected"),
    [
        ({"num_moments": 1}, {}, [10]),
        ({"num_moments": 2}, {}, [0, 10]),
        ({"num_moments": 100}, {}, list(range(11))),
        ({"every_n_steps": 4}, {}, [0, 4, 8, 10]),
        ({"num_moments": 3}, {"max_epochs": 2}, log_moments(20, 3)),
        ({"num_moments": 3}, {"max_steps": 5, "max_epochs": None}, log_moments(5, 3)),
        ({"num_moments": 2}, {"accumulate_grad_batches": 2}, [0, 5]),
        ({"every_n_steps": 3}, {"accumulate_grad_batches": 2}, [0, 3, 5]),
    ],
)
def test_moments(probe, tmp_path, options, run, expected):
    train(Translator(), probe(**options), tmp_path, **run)
    assert list(records(shown(tmp_path), "net.decoder.self")) == expected


def test_a_run_without_a_known_end_needs_a_distance(probe, tmp_path):
    class StopAt7(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 7

    with pytest.raises(ValueError, match="AttentionMaps needs every_n_steps"):
        train(Translator(), probe(num_moments=3), tmp_path / "none", max_epochs=-1)
    train(Translator(), [probe(every_n_steps=5), StopAt7()], tmp_path, max_epochs=-1)
    assert list(records(shown(tmp_path), "net.decoder.self")) == [0, 5, 7]


def test_examples_have_tags_of_their_own_and_notes(probe, tmp_path):
    train(Translator(), probe(num_moments=2, example="greeting", note="held out"), tmp_path)
    record = records(shown(tmp_path), "net.decoder.self", "greeting")[10]
    assert record.note == "held out"
    assert record.example == "greeting"


def test_a_module_may_be_called_in_another_way(probe, tmp_path):
    net = Translator()
    calls = []

    def forward(source, target):
        calls.append(target.shape)
        return net(source, target)

    train(net, probe(num_moments=2, forward=forward), tmp_path)
    assert calls == [(1, 3)] * 2


def test_a_module_without_mechanisms_is_told_so(probe, tmp_path):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Embedding(128, 128)

        def forward(self, source, target):
            return self.layer(target)

    with pytest.raises(ValueError, match="Plain called no attnkit mechanism, so there is no map"):
        train(Bare(), probe(num_moments=2), tmp_path)


def test_without_tensorboard_nothing_is_written(probe, tmp_path):
    train(Translator(), probe(num_moments=2), tmp_path, logger=CSVLogger(tmp_path))
    assert not list(tmp_path.rglob("*tfevents*"))
