"""`sartor frontier`: quality against MACs or latency from calibration alone, for several recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Factory, Force, Input, Quiet, Seed, Subject, Weights
from sartor.cli.output_folder import must_be_replaced
from sartor.cli.progress import steps
from sartor.errors import BadInput
from sartor.units import parse_shares

RECIPES = "reconstruction,flap,l2"
SHARES = "90,70,50,30"
FILES = ("frontier.html", "frontier.csv", "frontier.json")


def frontier(
    model: Subject,
    data: Annotated[str, typer.Option(help="Calibration and judging data, as for `sartor fit`.")],
    recipe: Annotated[
        str, typer.Option("--recipes", help="Names of `sartor list recipes` or criteria, with commas.")
    ] = RECIPES,
    share: Annotated[str, typer.Option("--shares", help="Shares of the MACs in percent, with commas.")] = SHARES,
    target: Annotated[str | None, typer.Option(help="Time every network there, such as onnxruntime-cpu.")] = None,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 128,
    val: Annotated[float | None, typer.Option(help="Share of the training data kept for validation (0.1).")] = None,
    test: Annotated[bool, typer.Option("--test", help="Judge on the data's test part as well.")] = False,
    judge: Annotated[int | None, typer.Option(min=1, help="Labelled samples to judge by, at most.")] = 2000,
    calibration: Annotated[int, typer.Option(min=2, help="Samples for scores and repairs; no labels needed.")] = 1000,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the page, the CSV and the JSON.")] = None,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Show what a network keeps at several sizes, cut and repaired without training, as table and picture."""
    from sartor.report.frontier import frontier_table, write_frontier
    from sartor.run.context import Context
    from sartor.sources import load_data, load_model
    from sartor.studies.frontier import Sweep
    from sartor.studies.frontier import frontier as study
    from sartor.types import Data

    shares = parse_shares(share)
    names = [n.strip() for n in recipe.split(",") if n.strip()]
    if out is not None:
        check_room(out, force=force)
    with steps(quiet=quiet) as progress:
        progress("load", None, model)
        network = load_model(model, weights, parse_pairs(option, "--option"))
        parts = load_data(data, batch=batch, seed=seed, val=val)
        if test and parts.test is None:
            raise BadInput(f"--test: {parts.describe} has no test part")
        found: dict[str, Any] = study(
            network,
            Data(parts.train, parts.val, parts.test if test else None, parts.calibration),
            Sweep(names, shares, judge, target, calibration),
            example=parts.example if shape is None else example_for(model, network, shape=shape),
            context=Context(seed=seed, listener=progress),
            device=device,
        )
        found = {"model": model, **found}
        if out is not None:
            progress("write", None, str(out))
            found["files"] = write_frontier(found, out)
    from rich.console import Group as Stack
    from rich.text import Text

    view: list[Any] = [frontier_table(found)]
    view += [Text(n, style="dim") for n in found["notes"]]
    view += [Text(f"page: {found['files']['html']}")] if out is not None else []
    return CommandResult(found, Stack(*view))


def check_room(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds something else, or an earlier frontier without --force."""
    if must_be_replaced(folder, force=force) and {p.name for p in folder.iterdir()} - set(FILES):
        raise BadInput(f"--out {folder} holds other files than those of a frontier; choose another folder")
