"""`sartor inspect`: what can be cut, what is frozen and why, what each axis costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Data, Factory, Input, Subject, Weights

if TYPE_CHECKING:
    from sartor.structure import Explanation, Graph


def inspect(
    model: Subject,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Explain why two groups, parameters or modules are tied; the same name twice explains it alone.",
        ),
    ] = None,
    dot_file: Annotated[
        Path | None, typer.Option("--dot", metavar="FILE", help="Write the groups as Graphviz text.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the groups as one HTML page.")
    ] = None,
    as_json: AsJson = False,
) -> CommandResult:
    """Show what of a network can be cut, what cannot be cut and why, and what each axis costs."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.cli.describe_graph import coverage_line, describe, rewriting_lines
    from sartor.cli.inspection_rows import Inspection
    from sartor.cost import count
    from sartor.export.files import atomic_write
    from sartor.report.inspection import dot, group_tree, write_page
    from sartor.report.text import frozen_table
    from sartor.sources import load_model
    from sartor.structure import explain, record_variant, trace
    from sartor.structure.other_inputs import other_inputs
    from sartor.surgery import probe
    from sartor.types import to_plain
    from sartor.units import show_bytes, show_count

    network = load_model(model, weights, parse_pairs(option, "--option"))
    example = example_for(model, network, shape=shape, data=data)
    start = time.perf_counter()
    recorded = [record_variant(network, x) for x in other_inputs(network, example)]
    graph = probe(network, trace(network, example, [r for r in recorded if r is not None]))
    description = describe(graph)
    seconds = time.perf_counter() - start
    costs = count(graph)
    explanation = _explanation(graph, why)
    reasons = None if explanation is None else to_plain(explanation)
    answer = Inspection(model=model, **description, seconds=seconds, why=reasons).to_plain()
    size = f"{show_count(costs.macs)} MACs, {show_count(costs.params)} parameters, {show_bytes(costs.memory)} of"
    groups = len(description["groups"])
    head = f"{size} activations at the peak; {groups} groups that can be cut, found in {seconds:.2f} s."
    coverage = coverage_line(description)
    if dot_file is not None:
        atomic_write(dot_file, dot(answer))
    if html_file is not None:
        ties = {n: [str(s) for c in explain(graph, n).chains for s in c.steps] for n in graph.groups}
        write_page(answer, ties, head, coverage, html_file)
    wrote = [Text(f"wrote {file}") for file in (dot_file, html_file) if file is not None]
    if explanation is not None:
        lines = map(Text, rewriting_lines(description["rewritten"]))
        return CommandResult(answer, Stack(Text(str(explanation)), *lines, *wrote))
    parts: list[Any] = [
        Text(f"{model}: {head}", style="bold"),
        group_tree(answer, model),
        frozen_table((f.axis, f.reason) for f in graph.frozen),
        *map(Text, rewriting_lines(description["rewritten"])),
        Text(coverage),
    ]
    return CommandResult(answer, Stack(*parts, *wrote))


def _explanation(graph: Graph, why: tuple[str, str] | None) -> Explanation | None:
    """The answer to --why; None if it was not given."""
    from sartor.structure import explain

    if why is None:
        return None
    a, b = why
    return explain(graph, a) if a == b else explain(graph, a, b)
