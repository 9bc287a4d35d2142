"""Sentences about a result: headline, verdict, proof."""

from __future__ import annotations

from sartor.report.fields import COUNTED, Result, mapping, number, objects, plural, share_of, show_points
from sartor.report.rows import budget_rows, kept_rows, latency_rows, time_rows
from sartor.units import show_percent, show_seconds


def headline(result: Result) -> str:
    """The result in one sentence.

    >>> headline({"counted": {"macs": {"original": 100, "fitted": 50}},
    ...           "quality": {"metric": "accuracy", "original": 98.06, "final": 97.94}})
    '50.0 % of the MACs, accuracy 98.1 → 97.9'
    """
    parts = [f"{row.ratio:.2f}× the latency" + (f" on {row.target}" if i else "") for i, row in
             enumerate(latency_rows(result))]  # fmt: skip
    asked = [b.get("metric") for b in objects(result, "budget")]
    counted = mapping(result, "counted")
    shown = [m for m in COUNTED if m in asked] or (["macs"] if "macs" in counted else [])
    for metric in shown:
        share = share_of(mapping(counted, metric))
        if share is not None:
            parts.append(f"{show_percent(share)} of the {COUNTED[metric]}")
    quality = mapping(result, "quality")
    before, after = number(quality.get("original")), number(quality.get("final"))
    if before is not None and after is not None:
        parts.append(f"{quality.get('metric') or 'quality'} {show_points(before)} → {show_points(after)}")
    return ", ".join(parts) if parts else "No result was recorded"


def verdict(result: Result) -> tuple[bool, str]:
    """(met, sentence) about the budget as a whole.

    >>> verdict({"status": "met"})
    (True, 'budget met')
    """
    met = result.get("status", "met") == "met"
    missed = [row.clause for row in budget_rows(result) if not row.met]
    if met:
        return True, "budget met"
    return False, "budget not met" + (f": {', '.join(missed)}" if missed else "")


def proof_sentence(result: Result) -> str:
    """The outcome of the proof, in two sentences."""
    proof = mapping(result, "proof")
    if not proof:
        return "No proof was recorded."
    error, tolerance = number(proof.get("max_relative_error")), number(proof.get("tolerance")) or 1e-4
    groups, mixing = int(number(proof.get("groups")) or 0), int(number(proof.get("mixing_groups")) or 0)
    outcome = "equals" if proof.get("passed") else "DOES NOT equal"
    size = "" if error is None else f": max. relative error {error:.1e}, tolerance {tolerance:.0e}"
    text = f"The cut network {outcome} the zero-masked original (removed units set to zero) "
    text += f"in {plural(groups, 'group')}{size}."
    if mixing:
        text += f" Not compared: {plural(mixing, 'further group')} with operators that mix units."
    return text + " The comparison was made before repair and training."


def proved(result: Result) -> bool:
    """Whether the proof passed."""
    return bool(mapping(result, "proof").get("passed"))


def kept_summary(result: Result) -> str:
    """How many units stay, in one sentence."""
    kept = kept_rows(result)
    if not kept:
        return ""
    cut, units = [r for r in kept if r.kept < r.units], sum(r.units for r in kept)
    stays = sum(r.kept for r in kept)
    text = f"{stays} of {units} units stay ({show_percent(stays / units)}), in {plural(len(kept), 'group')}; "
    return text + (f"{len(cut)} of them were cut." if cut else "none of them was cut.")


def recipe_name(result: Result) -> str:
    """The name of the recipe, with its source if it has one."""
    recipe = mapping(mapping(result, "asked"), "recipe")
    name, source = str(result.get("recipe") or recipe.get("name") or ""), recipe.get("source")
    return f"{name} ({source})" if source else name


def asked_budget(result: Result) -> str:
    """The budget as the user wrote it."""
    return str(mapping(result, "asked").get("budget") or ", ".join(row.clause for row in budget_rows(result)))


def run_date(result: Result) -> str:
    """The date of the run; "" if it was not recorded."""
    return str(mapping(result, "environment").get("date") or "")[:10]


def model_name(result: Result) -> str:
    """The name of the network, else of the run folder."""
    return str(result.get("model") or mapping(result, "asked").get("model") or result.get("run") or "a network")


def total_seconds(result: Result) -> str:
    """The duration of the run."""
    given = number(mapping(result, "seconds").get("total"))
    return show_seconds(given if given is not None else sum(row.seconds for row in time_rows(result)))


def quality_name(result: Result) -> str:
    """The name of the quality metric."""
    return str(mapping(result, "quality").get("metric") or "quality")
