"""attnkit compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, OverwriteFiles, app, guarded


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, variants or studies.", show_default=False),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="The variant to compare with. Default: the study's, or `base`, or the first.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A key of result.json's metrics, a logged curve (loss/train: its last point), or "
            "a number taken from a curve: area:loss, best:accuracy, steps_to:loss:2.5 (also "
            "tokens_to, seconds_to, flops_to). May be repeated. Default: the study's, or `loss`.",
            show_default=False,
        ),
    ] = None,
    higher_is_better: Annotated[
        bool | None,
        typer.Option(
            "--higher-is-better/--lower-is-better", help="Direction of --metric, if it is unknown."
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="An output file: .html (a page with curves), .png, .md, .csv, .json, .tex; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    to_pandas: Annotated[
        Path | None,
        typer.Option(
            "--to-pandas",
            metavar="FOLDER",
            help="A folder for runs.csv, curves.csv and variants.csv, for pandas.read_csv.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteFiles = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs: means over seeds, differences to a base, verdicts, costs."""

    def act() -> None:
        from attnkit.ablation.compare import compare_runs
        from attnkit.ablation.output import FORMS, export, show_comparison
        from attnkit.ablation.tidy import TABLES, write_tidy
        from attnkit.errors import DataError
        from attnkit.storage.files import check_outs

        outs = out or []
        check_outs(outs, FORMS, overwrite=overwrite)
        tables = [to_pandas / f"{name}.csv" for name in TABLES] if to_pandas else []
        if not overwrite and (existing := [file for file in tables if file.exists()]):
            raise DataError(
                f"--to-pandas: {existing[0]} exists; choose another folder, or add --overwrite"
            )
        comparison = compare_runs(runs, base=base, metric=metric, higher_is_better=higher_is_better)
        show_comparison(comparison)
        export(comparison, outs)
        if to_pandas:
            to_pandas.mkdir(parents=True, exist_ok=True)
            write_tidy(comparison, to_pandas)
        for file in (*outs, *tables):
            typer.echo(f"wrote {file}", err=True)

    guarded(act, debug)
