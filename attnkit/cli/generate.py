"""attnkit generate."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from attnkit.cli.app import Best, Debug, RunArgument, TrustPlugins, app, guarded


def not_empty(value: str) -> str:
    """Refuses an empty text: a model needs a token to continue."""
    if not value:
        raise typer.BadParameter("it is empty; give it at least one character")
    return value


def above_0_up_to_1(value: float | None) -> float | None:
    """Refuses values that are not a probability above 0."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"it must be above 0 and at most 1, got {value}")
    return value


DEFAULT_PROMPT = "\n"


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[
        str, typer.Option(help="The text to continue.", callback=not_empty)
    ] = DEFAULT_PROMPT,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 300,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: always the most likely token.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from the k most likely tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the most likely tokens with total probability p.",
            callback=above_0_up_to_1,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")
    ] = 0,
    num_samples: Annotated[
        int,
        typer.Option(min=1, help="Texts to generate, as one batch; each is printed when complete."),
    ] = 1,
    best: Best = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt with a trained language model."""

    def act() -> None:
        from attnkit.hardware.devices import default_device
        from attnkit.tasks.trained_run import load_run

        trained = load_run(run, best=best, trust_plugins=trust_plugins)
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        # Raises here if the run cannot generate.
        pieces = trained.stream(prompt, max_new_tokens, **sampling)
        if unknown := trained.unknown_in(prompt):
            lacks = f"the run's vocabulary lacks {', '.join(map(repr, unknown))}"
            if prompt == DEFAULT_PROMPT:
                lacks += ", the default of --prompt; give --prompt TEXT"
            typer.echo(lacks, err=True)
        trained.model.to(default_device())
        if num_samples > 1:
            texts = trained.generate_several(prompt, num_samples, max_new_tokens, **sampling)
            for number, text in enumerate(texts, start=1):
                typer.echo(f"--- {number} of {num_samples} ---\n{text}")
            return
        for piece in pieces:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
        typer.echo()

    guarded(act, debug)
