"""A traced graph as plain objects: what `inspect --json` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sartor.structure import Graph


def describe(graph: Graph) -> dict[str, Any]:
    """Groups with their shares of the cost, frozen axes with reasons, and the share of the network that can be cut.

    Returns:
        {"groups": [{"name", "kind", "units", "mixes", "members", "macs_share", "params_share", "writes", "reads"}],
        "frozen": [{"axis", "reason"}], "coverage": {"params_on_cuttable_axis", "macs_on_cuttable_axis"},
        "kinds": {kind: number of groups}, "ties": [[groups that must keep equal counts]],
        "rewritten": [{"module", "fixed": [sentence]}]}. "writes" and "reads" list
        the modules whose parameters write or read the group's units. A share counts every parameter or MAC on the
        group's axis; shares of groups overlap, because a weight has an input axis and an output axis.
    """
    from sartor.cost import macs
    from sartor.run.record_rows import group_rows, plain_rows
    from sartor.studies.examination import coverage

    rows = [{k: v for k, v in row.items() if k != "kept"} for row in plain_rows(group_rows(graph))]
    for row in rows:
        members = graph.groups[row["name"]].members
        for verb, roles in (("writes", ("out",)), ("reads", ("in",))):
            row[verb] = list(dict.fromkeys(m.tensor.rpartition(".")[0] for m in members if m.role in roles))
    return {
        "groups": rows,
        "frozen": [{"axis": f.axis, "reason": f.reason} for f in graph.frozen],
        "coverage": {
            "params_on_cuttable_axis": coverage(graph),
            "macs_on_cuttable_axis": _cuttable_macs(graph) / (macs(graph) or 1),
        },
        "kinds": dict(Counter(g.kind for g in graph.groups.values())),
        "ties": [list(t) for t in graph.ties],
        "rewritten": [{"module": p, "fixed": list(sentences)} for p, sentences in graph.rewritten.items()],
    }


def _cuttable_macs(graph: Graph) -> int:
    """MACs of the operators with at least one axis that can be cut."""
    from sartor.cost.macs import evaluate, terms
    from sartor.structure.axes import find, leaves

    own = {find(leaf) for leaf in graph.leaves.values()}
    return evaluate([(n, axes) for n, axes in terms(graph) if any(a in own for x in axes for a in leaves(x))], {})


def rewriting_lines(rewritten: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which forwards are rewritten, and what each no longer takes; modules alike in one line."""
    by_limits: dict[tuple[str, ...], list[str]] = {}
    for row in rewritten:
        by_limits.setdefault(tuple(row["fixed"]), []).append(row["module"] or "the model itself")
    return [
        f"The forward of {', '.join(paths[:3])}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''} is rewritten "
        f"when it is cut: {'; '.join(limits) or 'it takes what it took before'}."
        for limits, paths in by_limits.items()
    ]


def coverage_line(description: Mapping[str, Any]) -> str:
    """The coverage, and groups that a run leaves whole unless they are named, in one or two sentences."""
    from sartor.run.allowed_groups import CUT_IF_NAMED

    coverage = description["coverage"]
    params, counted = coverage["params_on_cuttable_axis"], coverage["macs_on_cuttable_axis"]
    sentence = (
        f"{100 * params:.1f} % of the parameters and {100 * counted:.1f} % of the MACs lie on an axis that can be cut."
    )
    named = [g["name"] for g in description["groups"] if g["kind"] == CUT_IF_NAMED]
    if named:
        sentence += f" A run leaves {CUT_IF_NAMED} whole ({', '.join(named)}) unless --cut names them."
    return sentence
