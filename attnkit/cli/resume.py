"""attnkit resume."""

from __future__ import annotations

from attnkit.cli.app import Debug, Overrides, RunArgument, TrustPlugins, app, guarded
from attnkit.cli.run import AllowChanges, train


@app.command()
def resume(
    run: RunArgument,
    overrides: Overrides = None,
    allow_changes: AllowChanges = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Continue a stopped or killed run exactly, from its newest valid checkpoint.

    Example: attnkit resume runs/quickstart/base/seed0 trainer.max_steps=3000
    """

    def act() -> None:
        from dataclasses import replace

        from attnkit.recipe.stored import recipe_to_resume, written_recipe

        recipe = recipe_to_resume(
            run, overrides or [], trust_plugins=trust_plugins, allow_changes=allow_changes
        )
        recipe = replace(recipe, variant=written_recipe(run).variant)
        train(recipe, directory=run, resume="yes", allow_changes=allow_changes)

    guarded(act, debug)
