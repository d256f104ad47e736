"""What `attnkit show` prints about a recipe: parameters, FLOPs and cache, in all and per layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from attnkit.console import console


def show_recipe(path: Path, overrides: Sequence[str]) -> None:
    """Prints parameters by part, training FLOPs and cache bytes. Builds the model on the meta
    device; reads no data.
    """
    import torch

    from attnkit.models.accounting import cache_bytes, flops_per_token, parameter_counts
    from attnkit.models.shapes_only import shapes_only
    from attnkit.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    task = recipe.definition
    sizes, origin = task.sizes(recipe)
    with shapes_only():
        model = task.build_model(recipe, *sizes)
    parts = parameter_counts(model)
    attention = sum(parts[part] for part in ("query", "key", "value", "output"))
    total = sum(parts.values())
    console.print(f"[bold cyan]{recipe.name}[/]  [dim]{escape(str(path))}[/]")
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("parameters")
    table.add_column("", justify="right")
    table.add_column("share", justify="right")
    for part, count in parts.items():
        if count:
            table.add_row(part, f"{count:,}", f"{count / total:.1%}")
    table.add_section()
    table.add_row("query + key + value + output", f"{attention:,}", f"{attention / total:.1%}")
    table.add_row("all", f"{total:,}", "")
    console.print(table)
    _show_layers(model)
    flops = flops_per_token(model)
    length = model.max_seq_len
    _line("vocabulary", f"{', '.join(f'{size:,}' for size in sizes)} ({origin})")
    _line("training FLOPs per token", f"{flops.training:,.0f}")
    for name in ("projections", "mixing", "mlp", "head"):
        _line(f"  {name}", f"{3 * getattr(flops, name):,.0f}")
    trainer = recipe.trainer
    batch = task.tokens_per_batch(recipe, length)
    total_flops = flops.training * trainer.max_steps * batch * trainer.accumulate
    _line("training FLOPs in total", f"{total_flops:.3g} ({trainer.max_steps:,} steps)")
    products = "rounded to TF32 on a GPU" if trainer.precision == "tf32" else "exact, no TF32"
    _line("float32 products", f"{products} (trainer.precision {trainer.precision})")
    in_float32 = cache_bytes(model, length, torch.float32)
    per_token = in_float32 - cache_bytes(model, length - 1, torch.float32)
    _line("cache per token", f"{per_token:,} bytes in float32, {per_token // 2:,} in bfloat16")
    in_bfloat16 = cache_bytes(model, length, torch.bfloat16)
    _line(f"  at {length:,} tokens", f"{in_float32:,} and {in_bfloat16:,} bytes")


def _line(label: str, text: str) -> None:
    console.print(f"{label:<26}{text}")


def _show_layers(model: Any) -> None:
    """Prints parts and costs of each layer, if layers differ; equal neighbours share a line."""
    import torch

    from attnkit.masks import build_mask, name_of
    from attnkit.models.accounting import layer_costs, stacks_of

    length = model.max_seq_len
    costs = {each.name: each for each in layer_costs(model)}
    groups: list[tuple[list[str], tuple[str, ...]]] = []
    for part, stack in stacks_of(model):
        for i, options in enumerate(stack.options):
            cost = costs[f"{part}layers.{i}"]
            mask = build_mask(options.mask)
            window = "" if mask.back is None else f" ({mask.back + 1:,})"
            words = (
                options.attention.name + (f", {options.cross.name}" if options.cross else ""),
                name_of(mask) + window,
                options.position.name,
                options.mlp.name,
                options.wiring.name,
                f"{cost.parameters:,}",
                f"{cost.training_flops(length):,.0f}",
                f"{cost.cache_bytes(torch.float32):,}",
            )
            if groups and groups[-1][1] == words and groups[-1][0][0].startswith(part):
                groups[-1][0].append(cost.name)
            else:
                groups.append(([cost.name], words))
    if len(groups) < 2:
        return
    kinds = ("attention", "mask", "position", "MLP", "wiring")
    differing = [i for i in range(len(kinds)) if len({words[i] for _, words in groups}) > 1]
    rows = []
    for names, words in groups:
        first, last = (name.replace("layers.", "") for name in (names[0], names[-1]))
        places = first if len(names) == 1 else f"{first}-{last.rpartition('.')[2]}"
        rows.append((places, [words[i] for i in differing], words[len(kinds) :]))
    headings = [kinds[i] for i in differing]
    table = _layer_table(headings, rows)
    options = console.options.update(max_width=sys.maxsize)
    if Measurement.get(console, options, table).minimum > console.width:
        joined = [(places, [", ".join(parts)], costs) for places, parts, costs in rows]
        table = _layer_table([", ".join(headings)], joined)
    console.print(table)
    same = [f"{kinds[i]} {groups[0][1][i]}" for i in range(len(kinds)) if i not in differing]
    if same:
        _line("all layers", ", ".join(same))
    _line("cache", f"bytes of one layer, in float32, at {length:,} tokens")


def _layer_table(
    headings: Sequence[str], rows: Sequence[tuple[str, Sequence[str], Sequence[str]]]
) -> Table:
    """Returns the table of layers, which breaks lines only between names.

    Args:
        headings: of the parts.
        rows: places of the layers, their parts and their costs.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for i, heading in enumerate(headings):
        longest = max(len(word) for _, parts, _ in rows for word in parts[i].split())
        table.add_column(heading, min_width=longest)
    for heading in ("parameters", "FLOPs/token", "cache"):
        table.add_column(heading, justify="right", no_wrap=True)
    for places, parts, costs in rows:
        table.add_row(places, *map(Text, parts), *costs)
    return table
