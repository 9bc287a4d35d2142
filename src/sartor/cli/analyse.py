"""`sartor analyse`: probes on one network, or on two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import is_run
from sartor.cli.open_model import ModelOptions, open_model
from sartor.cli.options import AsJson, Factory, Input, Quiet, RunFactory, Seed, Trust, Weights
from sartor.cli.progress import Steps, steps
from sartor.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from sartor.analysis import Analysis

ALL = "all"
PARTS = ("train", "val", "test", "calibration")


@dataclass(frozen=True, kw_only=True)
class AnalyseOptions:
    """The options of the command."""

    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, file.py:factory or a run folder.")
    ]
    data: Annotated[str, typer.Option(help="Labelled data, as for `sartor fit`.")]
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="A run folder or model spec to show beside MODEL.")
    ] = None
    probes: Annotated[
        str | None, typer.Option(help="Names of `sartor list probes`, with commas; `all` for every one.")
    ] = None
    part: Annotated[str, typer.Option(help="Part of the data: train, val, test or calibration.")] = "val"
    samples: Annotated[int, typer.Option(min=2, help="Samples that are looked at, at most.")] = 1000
    weights: Weights = None
    option: Factory = None
    shape: Input = None
    factory: RunFactory = None
    trust: Trust = False
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 128
    layers: Annotated[bool, typer.Option("--layers", help="Show the rows of single layers as well.")] = False
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one HTML page with pictures.")] = (
        None
    )
    seed: Seed = 0
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None
    quiet: Quiet = False
    as_json: AsJson = False


def analyse(options: AnalyseOptions) -> CommandResult:
    """Show what a network is besides accurate: calibration, robustness, faults, dead units and more."""
    with steps(quiet=options.quiet) as progress:
        answer = _analysed(options, progress)
    if options.html is not None:
        from sartor.report.analysis import write_analysis

        write_analysis(answer, options.html)
    return CommandResult(answer.to_plain(), _view(answer, layers=options.layers))


def _analysed(options: AnalyseOptions, progress: Steps) -> Analysis:
    from sartor.analysis import PROBES, find_probe

    if options.part not in PARTS:
        raise UnknownName("part of the data", options.part, PARTS)
    names = _names(options.probes, list(PROBES))
    for name in names or ():
        find_probe(name)
    first = _one(options.model, options, names, progress)
    if options.against is None:
        return first
    other = _one(options.against, options, names, progress)
    notes = [*first.notes, *(f"{options.against}: {n}" for n in other.notes if n not in first.notes)]
    return first.model_copy(update={"against": options.against, "against_rows": other.rows, "notes": notes})


def _names(text: str | None, known: list[str]) -> list[str] | None:
    if text is None:
        return None
    return known if text == ALL else [n.strip() for n in text.split(",") if n.strip()]


def _one(name: str, options: AnalyseOptions, names: list[str] | None, progress: Steps) -> Analysis:
    """The analysis of one of the networks."""
    from sartor.analysis.analyse import analysis_of, beside_training, subject_of
    from sartor.sources import load_data

    progress("load", None, name)
    mine = name == _owner(options)
    given = ModelOptions(
        weights=options.weights if mine else None, option=options.option if mine else None,
        shape=options.shape, data=options.data if options.shape is None else None,
        factory=options.factory if is_run(name) else None, trust=options.trust,
    )  # fmt: skip
    network = open_model(name, given)
    parts = load_data(options.data, batch=options.batch, seed=options.seed)
    batches = getattr(parts, options.part)
    if batches is None:
        raise BadInput(f"--part {options.part}: {parts.describe} has no such part")
    module = network.module if options.device is None else network.module.to(options.device)
    subject = subject_of(module, batches, network.example, options.samples, options.seed)
    if options.part in ("val", "test"):
        subject = beside_training(subject, parts.calibration, options.samples)
    strict = None if options.probes != ALL else False  # not every probe can be computed for every network
    return analysis_of(subject, names, name, progress, strict=strict)


def _owner(options: AnalyseOptions) -> str:
    """The network that --weights and --option are of: MODEL, or OTHER if that is the only model spec."""
    if options.against is not None and is_run(options.model) and not is_run(options.against):
        return options.against
    return options.model


def _view(answer: Analysis, *, layers: bool) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.analysis.rows import Pairing
    from sartor.report.analysis import difference, reading
    from sartor.report.text import grid

    two = answer.against_rows is not None
    heads = ["probe", "quantity", answer.model, *([str(answer.against), "difference"] if two else [])]
    table = grid(*heads, left=2)
    pairs = Pairing(answer.rows, answer.against_rows or ()).pairs()
    hidden = 0
    for row, other in pairs:
        of = row or other
        assert of is not None
        if of.layer and not layers:
            hidden += 1
            continue
        name = f"{of.quantity} of {of.layer}" if of.layer else of.quantity
        cells = [Text(of.probe, style="bold"), Text(name), Text(reading(row))]
        if two:
            cells += [Text(reading(other)), Text(difference(row, other))]
        table.add_row(*cells)
    lines = [f"{answer.samples} samples; in brackets, the 95 % confidence interval."]
    if hidden:
        lines.append(f"{hidden} rows of single layers are not shown; add --layers")
    lines += [f"{r.quantity}: {r.note}" for r in answer.rows if r.note and not r.layer]
    lines += answer.notes
    return Stack(table, *(Text(line, style="dim") for line in lines))
