"""How fast translation trains and decodes, beside a plain loop over torch's own nn.Transformer.

    python benchmarks/translation_speed.py train recipes/translation/multi30k_en_de_cpu.yaml
    python benchmarks/translation_speed.py decode recipes/translation/multi30k_en_de_cpu.yaml

`train` runs both models over the same batches in turns and prints target tokens a second, the
ratio, and the share of padding. `decode` prints the time for 1,000 sentences with a beam of five,
and cached against uncached decoding on some of them. Give it a trained run (--run runs/...): an
untrained model does not end its sentences where a trained one does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from attnkit.data.pair_batch import IGNORED, padded
from attnkit.hardware.devices import fast_dtype
from attnkit.models.beam_search import Search
from attnkit.recipe import load_recipe
from attnkit.runs import experiment
from attnkit.tasks.pair_task import padding_share
from attnkit.tasks.translating import translate_ids
from attnkit.tasks.translation.translator import load_translator


class Plain(nn.Module):
    """The same sizes in torch's own module: pre-norm, tied embeddings, sinusoidal positions."""

    def __init__(self, vocab_size: int, recipe) -> None:
        super().__init__()
        model = recipe.model
        self.dim = model["dim"]
        self.embedding = nn.Embedding(vocab_size, self.dim)
        nn.init.normal_(self.embedding.weight, std=self.dim**-0.5)
        self.transformer = nn.Transformer(
            self.dim,
            model["encoder"].attention.options["num_heads"],
            model["encoder"].num_layers,
            model["decoder"].num_layers,
            model["mlp_dim"] or 4 * self.dim,
            model["dropout"],
            batch_first=True,
            norm_first=True,
        )
        self.dropout = nn.Dropout(model["dropout"])
        place = torch.arange(model["max_seq_len"])[:, None]
        angle = place * 10000.0 ** (-torch.arange(0, self.dim, 2) / self.dim)
        self.register_buffer("places", torch.stack((angle.sin(), angle.cos()), -1).flatten(-2))

    def forward(self, source, keep, target):
        """Logits of every next target token."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.bool)
        out = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=causal,
            src_key_padding_mask=~keep,
            memory_key_padding_mask=~keep,
            tgt_is_causal=True,
        )
        return F.linear(out, self.embedding.weight)

    def _embed(self, tokens):
        x = self.embedding(tokens) * self.dim**0.5 + self.places[: tokens.shape[1]]
        return self.dropout(x)


def train(recipe, rounds: int, steps: int) -> None:
    """Interleaved rounds of training steps of both models on the same batches."""
    data = experiment.build_data(recipe)
    data.prepare()
    models = {
        "attnkit": experiment.build_model(recipe, *data.vocab_sizes),
        "nn.Transformer": Plain(data.vocab_sizes[0], recipe),
    }
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for name, model in models.items()
    }
    batches = data.train_batches(0, rounds * steps)
    for name, model in models.items():
        count = sum(p.numel() for p in model.parameters())
        print(f"{name:<15}{count:,} parameters")
    print(f"padding        {padding_share(batches):.1%} of the tokens of an epoch")
    speeds: dict[str, list[float]] = {name: [] for name in models}
    is_fast = fast_dtype("cpu") == torch.bfloat16
    for turn in range(rounds):
        found = [batches[turn * steps + i] for i in range(steps)]
        for name, model in models.items():
            started = time.process_time()
            for batch in found:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_fast):
                    logits = model(batch.source, batch.source_keep, batch.target)
                    loss = F.cross_entropy(
                        logits.flatten(0, 1).float(),
                        batch.predicted.flatten(),
                        ignore_index=IGNORED,
                        label_smoothing=0.1,
                    )
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizers[name].step()
                optimizers[name].zero_grad()
            seconds = time.process_time() - started
            if turn:  # the first is a warm-up
                speeds[name].append(sum(batch.num_tokens for batch in found) / seconds)
    for name, found in speeds.items():
        print(f"{name:<15}{statistics.median(found):,.0f} target tokens a CPU second")
    ratios = [a / b for a, b in zip(speeds["attnkit"], speeds["nn.Transformer"], strict=True)]
    print(
        f"ratio          {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def decode(recipe, run: str | None, sentences: int) -> None:
    """Beam search over a test set; cached against uncached on 50 sentences."""
    data = experiment.build_data(recipe)
    if run is None:
        data.prepare()
        model, tokenizers = experiment.build_model(recipe, *data.vocab_sizes), data.tokenizers
    else:
        translator = load_translator(run)
        model, tokenizers = translator.model, translator.tokenizers
    pairs = list(data.source.pairs(data.source.test_splits[0]))[:sentences]
    sources = tokenizers[0].encode_batch([pair.source for pair in pairs])
    pad = partial(padded, end=tokenizers[0].end_of_document_id)
    end = tokenizers[1].end_of_document_id

    def seconds(some, **options):
        wall, cpu = time.perf_counter(), time.process_time()
        translate_ids(model, some, pad, end, Search(beam=5, **options))
        return time.perf_counter() - wall, time.process_time() - cpu

    wall, cpu = seconds(sources)
    print(f"{len(sources):,} sentences, beam 5: {wall:.1f} s ({cpu:.1f} CPU s)")
    few = sources[:50]
    cached, plain = seconds(few)[1], seconds(few, cached=False)[1]
    print(
        f"50 sentences, CPU s: cached {cached:.2f}, uncached {plain:.2f}, "
        f"{plain / cached:.1f} times"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["train", "decode"])
    parser.add_argument("recipe")
    parser.add_argument("--run", help="decode with a trained run")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=1000)
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    if given.what == "train":
        train(recipe, given.rounds, given.steps)
    else:
        decode(recipe, given.run, given.sentences)


if __name__ == "__main__":
    main()
