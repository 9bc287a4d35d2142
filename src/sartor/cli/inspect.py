"""`sartor inspect`: what can be cut, what is pinned and why, what each axis costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import Reply
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
            metavar="A B", help="Why two groups, parameters or modules are tied; one of them twice: about it."
        ),
    ] = None,
    dot_file: Annotated[Path | None, typer.Option("--dot", metavar="FILE", help="Write it as Graphviz text.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as one HTML page.")] = None,
    as_json: AsJson = False,
) -> Reply:
    """Show what of a network can be cut, what cannot and why, and what each axis costs."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.cli.describe_graph import coverage_line, describe
    from sartor.cost import count
    from sartor.export.files import atomic_write
    from sartor.report.inspection import dot, group_tree, write_page
    from sartor.report.text import frozen_table
    from sartor.sources import load_model
    from sartor.structure import explain, trace
    from sartor.surgery import probe
    from sartor.units import show_bytes, show_count

    network = load_model(model, weights, parse_pairs(option, "--option"))
    example = example_for(model, network, shape=shape, data=data)
    start = time.perf_counter()
    graph = probe(network, trace(network, example))
    found = describe(graph)
    seconds = time.perf_counter() - start
    costs = count(graph)
    answer: dict[str, Any] = {"model": model, **found, "seconds": seconds}
    told = _told(graph, why)
    if told is not None:
        answer["why"] = told[0]
    size = f"{show_count(costs.macs)} MACs, {show_count(costs.params)} parameters, {show_bytes(costs.memory)} of"
    head = f"{size} activations at the peak; {len(found['groups'])} groups that can be cut, found in {seconds:.2f} s."
    coverage = coverage_line(found["coverage"])
    if dot_file is not None:
        atomic_write(dot_file, dot(answer))
    if html_file is not None:
        ties = {n: [str(s) for c in explain(graph, n).chains for s in c.steps] for n in graph.groups}
        write_page(answer, ties, head, coverage, html_file)
    wrote = [Text(f"wrote {file}") for file in (dot_file, html_file) if file is not None]
    if told is not None:
        return Reply(answer, Stack(Text(told[1]), *wrote))
    parts: list[Any] = [
        Text(f"{model}: {head}", style="bold"),
        group_tree(answer, model),
        frozen_table(found),
        Text(coverage),
    ]
    return Reply(answer, Stack(*parts, *wrote))


def _told(graph: Graph, why: tuple[str, str] | None) -> tuple[dict[str, Any], str] | None:
    """The answer to --why, as objects and in words."""
    from sartor.structure import explain
    from sartor.types import to_plain

    if why is None:
        return None
    a, b = why
    found: Explanation = explain(graph, a) if a == b else explain(graph, a, b)
    return to_plain(found), str(found)
