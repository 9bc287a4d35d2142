"""`sartor inspect`: what can be cut, what is pinned and why, what each axis costs."""

from __future__ import annotations

import time

from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Data, Factory, Input, Subject, Weights
from sartor.cli.reply import Reply


def inspect(
    model: Subject,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    as_json: AsJson = False,
) -> Reply:
    """Show what of a network can be cut, what cannot and why, and what each axis costs."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.cli.found import coverage_line, describe
    from sartor.cost import count
    from sartor.report.text import frozen_table, groups_table
    from sartor.sources import load_model
    from sartor.structure import trace
    from sartor.surgery import probe
    from sartor.units import show_bytes, show_count

    network = load_model(model, weights, parse_pairs(option, "--option"))
    example = example_for(model, network, shape=shape, data=data)
    start = time.perf_counter()
    graph = probe(network, trace(network, example))
    found = describe(graph)
    seconds = time.perf_counter() - start
    costs = count(graph)
    answer = {"model": model, **found, "seconds": seconds}
    head = (
        f"{model}: {show_count(costs.macs)} MACs, {show_count(costs.params)} parameters, {show_bytes(costs.memory)} of "
    )
    head += f"activations at the peak; {len(found['groups'])} groups that can be cut, found in {seconds:.2f} s."
    view = Stack(
        Text(head, style="bold"),
        groups_table(found),
        frozen_table(found),
        Text(coverage_line(found["coverage"])),
    )
    return Reply(answer, view)
