"""attnkit resume."""

from __future__ import annotations

from attnkit.cli.app import Debug, Overrides, RunArgument, app, guarded
from attnkit.cli.run import AllowChanges, train


@app.command()
def resume(
    run: RunArgument,
    overrides: Overrides = None,
    allow_changes: AllowChanges = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped or killed, exactly, from its newest good checkpoint.

    Example: attnkit resume runs/quickstart/base/seed0 trainer.max_steps=3000
    """

    def act() -> None:
        from dataclasses import replace

        from attnkit.recipe import load_recipe
        from attnkit.run_directory import recipe_of

        path = recipe_of(run)
        before = load_recipe(path)
        recipe = replace(load_recipe(path, overrides or []), variant=before.variant)
        train(recipe, directory=run, resume="yes", allow_changes=allow_changes)

    guarded(act, debug)
