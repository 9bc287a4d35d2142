"""`sartor advise`: memory access and utilisation of every layer, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.open_model import ModelOptions, open_model
from sartor.cli.options import AsJson, Factory, Input, SubjectOrRun
from sartor.errors import BadInput

if TYPE_CHECKING:
    from sartor.analysis.advice import Advice


def advise(
    model: SubjectOrRun,
    option: Factory = None,
    shape: Input = None,
    array: Annotated[str, typer.Option(help="Rows and columns of an array of multipliers.")] = "32x32",
    as_json: AsJson = False,
) -> CommandResult:
    """Show what makes a network slow beside its MACs: widths, groups, branches, elementwise operators."""
    from sartor.analysis.advice import Limits
    from sartor.analysis.advice import advise as advice_for
    from sartor.structure import trace
    from sartor.structure.example import with_batch

    rows, columns = _sides(array)
    network = open_model(model, ModelOptions(option=option, shape=shape))
    graph = trace(network.module, with_batch(network.example, 1))
    answer = advice_for(graph, model, Limits(rows=rows, columns=columns))
    return CommandResult(answer.to_plain(), _view(answer))


def _sides(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isdigit() and int(s) for s in sides):
        raise BadInput(f"--array: expected two numbers such as 32x32; got {text!r}")
    return int(sides[0]), int(sides[1])


def _view(answer: Advice) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report.text import grid
    from sartor.units import show_count

    table = grid("layer", "inputs", "outputs", "taps", "groups", "MACs", "accesses", "MACs / access", "utilisation")
    for row in answer.layers:
        table.add_row(
            row.layer, str(row.inputs), str(row.outputs), str(row.taps), str(row.groups), show_count(row.macs),
            show_count(row.access), f"{row.intensity:.1f}", f"{100 * row.utilisation:.0f} %",
        )  # fmt: skip
    lines = [Text(f"{a.guideline}, {a.layer or 'the whole network'}: {a.text}") for a in answer.advice]
    commands = dict.fromkeys(a.command for a in answer.advice if a.command)
    return Stack(table, *(lines or [Text("no guideline is violated")]), *(Text(c, style="dim") for c in commands))
