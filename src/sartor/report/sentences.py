"""Sentences about a record: headline, verdict, proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sartor.report.fields import COUNTED, plural, share_of, show_points
from sartor.report.rows import budget_rows, kept_rows, time_rows
from sartor.run.record import SEVERITY, Record
from sartor.units import show_percent, show_seconds


def headline(result: Record) -> str:
    """The result in one sentence.

    >>> from sartor.run.record import JudgedQuality, Pair
    >>> quality = JudgedQuality(original=98.06, final=97.94)
    >>> counted = {"macs": Pair(original=100, fitted=50)}
    >>> headline(Record.model_construct(counted=counted, quality=quality, budget=[]))
    '50.0 % of the MACs, accuracy 98.1 → 97.9'
    """
    parts = [
        f"{row.ratio:.2f}× the latency" + (f" on {row.target}" if i else "") for i, row in enumerate(result.latency)
    ]
    limited = [b.metric for b in result.budget]
    shown = [m for m in COUNTED if m in limited] or ["macs"]
    for metric in shown:
        share = share_of(result.counted[metric]) if metric in result.counted else None
        if share is not None:
            parts.append(f"{show_percent(share)} of the {COUNTED[metric]}")
    before, after = result.quality.original, result.quality.final
    if before is not None and after is not None:
        parts.append(f"{quality_name(result)} {show_points(before)} → {show_points(after)}")
    return ", ".join(parts) if parts else "No result was recorded"


def verdict(result: Record) -> tuple[bool, str]:
    """(met, sentence) about the budget as a whole.

    >>> verdict(Record.model_construct(status="met", budget=[]))
    (True, 'budget met')
    """
    rows = budget_rows(result)
    clauses = {status: [row.clause for row in rows if row.status == status] for status in SEVERITY}
    if result.status == "met":
        return True, "budget met"
    if result.status == "within noise":
        return True, (
            "budget met within noise: the limit lies inside the 95 % interval of what was measured"
            + _listed(clauses["within noise"])
        )
    unknown = f"; not measured{_listed(clauses['not measured'])}" if clauses["not measured"] else ""
    if result.status == "not measured":
        return False, f"not known whether the budget is met{unknown}"
    return False, f"budget not met{_listed(clauses['missed'])}{unknown}"


def _listed(clauses: list[str]) -> str:
    """
    >>> _listed(["macs ≤ 50 %"]), _listed([])
    (': macs ≤ 50 %', '')
    """
    return f": {', '.join(clauses)}" if clauses else ""


def proof_sentence(result: Record) -> str:
    """The outcome of the proof: what was compared, with which errors, and what was not."""
    proof = result.proof
    parts = []
    if proof.tensors is not None:
        parts.append(f"{plural(proof.tensors, 'tensor')} hold the kept units of the original bit for bit.")
    if proof.groups:
        outcome = "equals" if proof.passed else "DOES NOT equal"
        error = proof.max_relative_error
        size = "" if error is None else f": max. relative error {error:.1e}, tolerance {proof.tolerance:.0e}"
        text = f"The cut network {outcome} the zero-masked original (removed units set to zero) "
        parts.append(f"{text}in {plural(proof.groups, 'group')}{size}.")
    else:
        parts.append("The cut network was NOT COMPARED with the zero-masked original.")
    if proof.redrawn_error is not None and proof.redrawn_tolerance is not None:
        precision = proof.redrawn_precision if proof.redrawn_precision == "float64" else "the network's own precision"
        limit = f"tolerance {proof.redrawn_tolerance:.0e}"
        parts.append(f"With redrawn weights in {precision} the error is {proof.redrawn_error:.1e}, {limit}.")
    if proof.left_out:
        shown = "; ".join(f"{name} ({why})" for name, why in proof.left_out[:3])
        more = f"; and {len(proof.left_out) - 3} more" if len(proof.left_out) > 3 else ""
        parts.append(f"Function not compared: {shown}{more}.")
    elif proof.mixing_groups:
        parts.append(f"Not compared: {plural(proof.mixing_groups, 'further group')} with operators that mix units.")
    if proof.note:
        parts.append(f"{proof.note[0].upper()}{proof.note[1:]}.")
    return " ".join([*parts, "The comparison was made before repair and training."])


def kept_summary(result: Record) -> str:
    """How many units stay, in one sentence."""
    kept = kept_rows(result)
    if not kept:
        return ""
    cut, units = [r for r in kept if r.kept < r.units], sum(r.units for r in kept)
    stays = sum(r.kept for r in kept)
    text = f"{stays} of {units} units stay ({show_percent(stays / units)}), in {plural(len(kept), 'group')}; "
    return text + (f"{len(cut)} of them were cut." if cut else "none of them was cut.")


def recipe_name(result: Record) -> str:
    """The name of the recipe, with its source if it has one."""
    source = result.asked.recipe.get("source")
    return f"{result.recipe} ({source})" if source else result.recipe


def asked_budget(result: Record) -> str:
    """The budget as the user wrote it."""
    return result.asked.budget or ", ".join(row.clause for row in budget_rows(result))


def date_of(environment: Mapping[str, Any]) -> str:
    """The date in the description of a machine; "" if it was not recorded."""
    return str(environment.get("date") or "")[:10]


def model_name(result: Record) -> str:
    """The name of the network, else of the run folder."""
    return result.model or result.run or "a network"


def total_seconds(result: Record) -> str:
    """The duration of the run."""
    return show_seconds(result.seconds.get("total", sum(row.seconds for row in time_rows(result))))


def quality_name(result: Record) -> str:
    """The name of the quality metric."""
    return result.quality.metric or "quality"
