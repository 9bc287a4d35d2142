"""Results of format 1, which did not say its number, as results of format 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def from_format_1(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same result with what early runs did not write: values that are unknown are empty or None.

    Early results listed the members of a group as objects {"tensor", "dim", "role"}, and wrote neither the size of a
    frozen axis nor how the machine was disturbed during a timing.
    """
    return {
        **raw,
        "format": 2,
        "sartor": "",
        "latency": _each(raw.get("latency", []), lambda row: {"noisy": "", **row}),
        "groups": _each(raw.get("groups", []), _group),
        "frozen": _each(raw.get("frozen", []), lambda row: {"size": None, **row}),
    }


def with_statuses(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same result with a status in every row of the budget, where early results of format 2 say `met` only."""
    return {**raw, "budget": _each(raw["budget"], _status)} if "budget" in raw else dict(raw)


def _status(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row)
    met = values.pop("met", None)
    return values if met is None or "status" in values else {**values, "status": "met" if met else "missed"}


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "members": [_member(m) for m in row.get("members", ())]}


def _member(member: Any) -> Any:
    if not isinstance(member, Mapping):
        return member
    return f"{member.get('tensor')}:{member.get('dim')} ({member.get('role')})"


def _each(rows: Any, upgrade: Any) -> Any:
    """Every row upgraded; what is not a list of objects is left for the check of the record to refuse."""
    if not isinstance(rows, list):
        return rows
    return [upgrade(row) if isinstance(row, Mapping) else row for row in rows]
