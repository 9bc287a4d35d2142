"""Budgets as text, parsed and formatted.

Example: latency<=60% @ onnxruntime-cpu, macs<=50%, params<=200k, bytes<=1MB, memory<=80%, drop<=0.5
"""

from __future__ import annotations

import re

from sartor.errors import BadInput, UnknownName
from sartor.types import METRICS, Budget, Limit
from sartor.units import parse_quantity, show_bytes, show_count, show_seconds

_CLAUSE = re.compile(r"^\s*([a-zA-Z_]+)\s*(<=|≤|=<|<|>=|=>|>|==?)\s*([^@]+?)\s*(?:@\s*(\S+))?\s*$")
_KIND = {
    "macs": "count",
    "flops": "count",
    "params": "count",
    "bytes": "bytes",
    "memory": "bytes",
    "weights": "count",
    "latency": "seconds",
}


def parse_budget(text: str | Budget) -> Budget:
    """Parse a budget; a `Budget` is returned as it is.

    Raises:
        BadInput: the text is no budget, or limits one cost twice.
        UnknownName: a metric that does not exist.

    >>> parse_budget("macs<=50%, drop<=0.5")
    Budget(limits=(Limit(metric='macs', at_most=0.5, relative=True, target=None),), max_drop=0.5)
    >>> parse_budget("latency<=4ms @ eager-cpu").limits[0].at_most
    0.004
    """
    if isinstance(text, Budget):
        return text
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"budget: expected text such as 'macs<=50%, drop<=0.5'; got {text!r}")
    limits: list[Limit] = []
    drop: float | None = None
    for clause in _clauses(text):
        m = _CLAUSE.match(clause)
        if not m:
            raise BadInput(f"budget clause {clause.strip()!r}: expected 'metric<=limit', such as 'macs<=50%'")
        metric, sign, amount, target = m[1].lower(), m[2], m[3], m[4]
        if sign not in ("<=", "≤"):
            raise BadInput(f"budget clause {clause.strip()!r}: limits are upper bounds, write '{metric}<={amount}'")
        if metric == "drop":
            if drop is not None:
                raise BadInput("budget: drop is limited twice; keep the stricter limit")
            drop = _points(amount, clause)
            continue
        if metric == "energy":
            raise BadInput(
                f"budget clause {clause.strip()!r}: energy can be measured, but not limited; limit latency on the same "
                "target and compare both networks with 'sartor measure --energy'"
            )
        if metric not in METRICS:
            raise UnknownName("budget metric", metric, [*METRICS, "drop"])
        if metric == "latency" and target is None:
            raise BadInput(f"budget clause {clause.strip()!r}: add the target: 'latency<={amount} @ onnxruntime-cpu'")
        if metric != "latency" and target is not None:
            raise BadInput(
                f"budget clause {clause.strip()!r}: only latency is measured on a target; remove '@ {target}'"
            )
        try:
            value, relative = parse_quantity(amount, _KIND[metric])
        except BadInput as e:
            raise BadInput(f"budget clause {clause.strip()!r}: {e}") from None
        if any(seen.metric == metric and seen.target == target for seen in limits):
            raise BadInput(f"budget: {metric} is limited twice; keep the stricter limit")
        limits.append(Limit(metric, value, relative, target))
    return Budget(tuple(limits), drop)


def _clauses(text: str) -> list[str]:
    """The clauses between commas; commas between options of a target ("eager-cpu:threads=1,batch=8") separate none."""
    parts: list[str] = []
    for piece in text.split(","):
        option = re.match(r"^\s*[a-z_]+=[^=]+$", piece) and parts and "@" in parts[-1]
        if option:
            parts[-1] += "," + piece.strip()
        elif piece.strip():
            parts.append(piece)
    return parts


def _points(amount: str, clause: str) -> float:
    try:
        return float(amount.strip().rstrip("%"))
    except ValueError:
        raise BadInput(f"budget clause {clause.strip()!r}: expected points of quality, such as 'drop<=0.5'") from None


def show_limit(limit: Limit) -> str:
    """The limit as a clause; absolute values are rounded.

    >>> show_limit(Limit("macs", 0.5, True))
    'macs<=50%'
    """
    if limit.relative:
        amount = f"{100 * limit.at_most:g}%"
    else:
        show = {"count": show_count, "bytes": show_bytes, "seconds": show_seconds}[_KIND[limit.metric]]
        amount = show(limit.at_most).replace(" ", "")
    return f"{limit.metric}<={amount}" + (f" @ {limit.target}" if limit.target else "")


def show_budget(budget: Budget) -> str:
    """The budget as text, in the order of its limits.

    >>> show_budget(parse_budget("latency<=60%@onnxruntime-cpu,drop<=1"))
    'latency<=60% @ onnxruntime-cpu, drop<=1'
    """
    clauses = [show_limit(limit) for limit in budget.limits]
    if budget.max_drop is not None:
        clauses.append(f"drop<={budget.max_drop:g}")
    return ", ".join(clauses)
