"""The values that travel between rooms: frozen, checked at construction, with no other behaviour.

Names are imported when they are first used: `sartor --help` needs no torch.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING

from sartor.lazy_names import lazy_names

if TYPE_CHECKING:
    from sartor.types.calibration import Calibration, Loss, Precision, check_precision
    from sartor.types.data import Batches, Data, Judge
    from sartor.types.heal import ClipActivations, Distil, FineTune, FoldMeans, HealStep, RefreshNorms, Ridge
    from sartor.types.limits import METRICS, Bounds, Budget, Counted, Limit
    from sartor.types.listener import SILENT, WARNINGS, Listener, Progress
    from sartor.types.network import Counts, Frozen, Group, Member, Reason, Role, Scores
    from sartor.types.plain import to_plain
    from sartor.types.plan import Plan
    from sartor.types.recipe import (
        Axes,
        Criterion,
        Custom,
        ErdosRenyi,
        Gates,
        Global,
        Knapsack,
        Recipe,
        Rewrite,
        Search,
        Sensitivity,
        Uniform,
    )
    from sartor.types.rewire import GrowAndPrune, Iterative, Reweighted, Rewire
    from sartor.types.scaling import NORMALISATIONS, REDUCTIONS, Among, Normalise, Reduce, Scaling
    from sartor.types.timing import (
        SECTIONS,
        Comparison,
        Effort,
        Latency,
        LimitStatus,
        Target,
        median_interval,
        wide_interval,
    )
    from sartor.types.verdict import Verdict
    from sartor.types.weights import Weights
    from sartor.types.when import Decaying, Gradual, HalfSpace, OneShot, Projected, PruneAndRegrow, Shrink

_HOMES = {
    "calibration": (
        "Calibration",
        "Loss",
        "Precision",
        "check_precision",
    ),
    "data": (
        "Batches",
        "Data",
        "Judge",
    ),
    "heal": (
        "ClipActivations",
        "Distil",
        "FineTune",
        "FoldMeans",
        "HealStep",
        "RefreshNorms",
        "Ridge",
    ),
    "limits": (
        "METRICS",
        "Bounds",
        "Budget",
        "Counted",
        "Limit",
    ),
    "listener": (
        "SILENT",
        "WARNINGS",
        "Listener",
        "Progress",
    ),
    "network": (
        "Counts",
        "Frozen",
        "Group",
        "Member",
        "Reason",
        "Role",
        "Scores",
    ),
    "plain": ("to_plain",),
    "plan": ("Plan",),
    "recipe": (
        "Axes",
        "Criterion",
        "Custom",
        "ErdosRenyi",
        "Gates",
        "Global",
        "Knapsack",
        "Recipe",
        "Rewrite",
        "Search",
        "Sensitivity",
        "Uniform",
    ),
    "rewire": ("GrowAndPrune", "Iterative", "Reweighted", "Rewire"),
    "scaling": (
        "NORMALISATIONS",
        "REDUCTIONS",
        "Among",
        "Normalise",
        "Reduce",
        "Scaling",
    ),
    "timing": (
        "SECTIONS",
        "Comparison",
        "Effort",
        "Latency",
        "LimitStatus",
        "Target",
        "median_interval",
        "wide_interval",
    ),
    "verdict": ("Verdict",),
    "weights": ("Weights",),
    "when": ("Decaying", "Gradual", "HalfSpace", "OneShot", "Projected", "PruneAndRegrow", "Shrink"),
}
__all__ = [
    "Among", "Axes", "Batches", "Bounds", "Budget", "Calibration", "ClipActivations", "Comparison", "Counted", "Counts",
    "Criterion", "Custom", "Data", "Decaying", "Distil", "Effort", "ErdosRenyi", "FineTune", "FoldMeans", "Frozen",
    "Gates", "Global", "Gradual", "Group", "GrowAndPrune", "HalfSpace", "HealStep", "Iterative", "Judge", "Knapsack",
    "Latency", "Limit", "LimitStatus", "Listener", "Loss", "METRICS", "Member", "NORMALISATIONS", "Normalise",
    "OneShot", "Plan", "Precision", "Progress", "Projected", "PruneAndRegrow", "REDUCTIONS", "Reason", "Recipe",
    "Reduce", "RefreshNorms", "Reweighted", "Rewire", "Rewrite", "Ridge", "Role", "SECTIONS", "SILENT", "Scaling",
    "Scores", "Search", "Sensitivity", "Shrink", "Target", "Uniform", "Verdict", "WARNINGS", "Weights", "asdict",
    "check_precision", "median_interval", "to_plain", "wide_interval",
]  # fmt: skip
__getattr__ = lazy_names("sartor.types", _HOMES)  # `sartor --help` needs no torch
