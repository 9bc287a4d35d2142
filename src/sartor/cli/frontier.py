"""`sartor frontier`: quality against MACs or latency from calibration alone, for several recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Factory, Force, Input, Quiet, Seed, Subject, Weights
from sartor.cli.output_folder import must_be_replaced
from sartor.cli.progress import Steps, steps
from sartor.errors import BadInput
from sartor.units import parse_shares

RECIPES = "reconstruction,flap,l2"
SHARES = "90,70,50,30"
FILES = ("frontier.html", "frontier.csv", "frontier.json")


@dataclass(frozen=True, kw_only=True)
class FrontierOptions:
    """The options of the command."""

    model: Subject
    data: Annotated[str, typer.Option(help="Calibration and judging data, as for `sartor fit`.")]
    recipes: Annotated[str, typer.Option(help="Names of `sartor list recipes` or criteria, with commas.")] = RECIPES
    shares: Annotated[str, typer.Option(help="Shares of the MACs in percent, with commas.")] = SHARES
    target: Annotated[str | None, typer.Option(help="Time every network there, such as onnxruntime-cpu.")] = None
    weights: Weights = None
    option: Factory = None
    shape: Input = None
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 128
    val: Annotated[float | None, typer.Option(help="Share of the training data kept for validation (0.1).")] = None
    test: Annotated[bool, typer.Option("--test", help="Judge on the data's test part as well.")] = False
    judge: Annotated[int | None, typer.Option(min=1, help="Labelled samples to judge by, at most.")] = 2000
    calibration: Annotated[int, typer.Option(min=2, help="Samples for scores and repairs; no labels needed.")] = 1000
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the page, the CSV and the JSON.")] = None
    seed: Seed = 0
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None
    force: Force = False
    quiet: Quiet = False
    as_json: AsJson = False


def frontier(options: FrontierOptions) -> CommandResult:
    """Show what a network keeps at several sizes, cut and repaired without training, as table and picture."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report.frontier import frontier_table, write_frontier
    from sartor.studies.frontier_rows import FrontierTable

    parse_shares(options.shares)
    if options.out is not None:
        check_room(options.out, force=options.force)
    with steps(quiet=options.quiet) as progress:
        table = FrontierTable(**{**_measured(options, progress), "model": options.model})
        if options.out is not None:
            progress("write", None, str(options.out))
            table = table.model_copy(update={"files": write_frontier(table.to_plain(), options.out)})
        answer = table.to_plain()
    view: list[Any] = [frontier_table(answer)]
    view += [Text(n, style="dim") for n in answer["notes"]]
    view += [Text(f"page: {answer['files']['html']}")] if options.out is not None else []
    return CommandResult(answer, Stack(*view))


def _measured(options: FrontierOptions, progress: Steps) -> dict[str, Any]:
    """The object of `sartor.studies.frontier.frontier` for these options."""
    from sartor.run.context import Context
    from sartor.sources import load_data, load_model
    from sartor.studies.frontier import Sweep
    from sartor.studies.frontier import frontier as sweep
    from sartor.types import Data

    progress("load", None, options.model)
    network = load_model(options.model, options.weights, parse_pairs(options.option, "--option"))
    parts = load_data(options.data, batch=options.batch, seed=options.seed, val=options.val)
    if options.test and parts.test is None:
        raise BadInput(f"--test: {parts.describe} has no test part")
    names = [n.strip() for n in options.recipes.split(",") if n.strip()]
    shape = options.shape
    return sweep(
        network,
        Data(parts.train, parts.val, parts.test if options.test else None, parts.calibration),
        Sweep(names, parse_shares(options.shares), options.judge, options.target, options.calibration),
        example=parts.example if shape is None else example_for(options.model, network, shape=shape),
        context=Context(seed=options.seed, listener=progress),
        device=options.device,
    )


def check_room(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds something else, or an earlier frontier without --force."""
    if must_be_replaced(folder, force=force) and {p.name for p in folder.iterdir()} - set(FILES):
        raise BadInput(f"--out {folder} holds other files than those of a frontier; choose another folder")
