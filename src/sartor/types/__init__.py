"""The values that travel between rooms: frozen, checked at construction, with no other behaviour."""

from dataclasses import asdict

from sartor.types.data import Batches, Data, Judge
from sartor.types.heal import FineTune, FoldMeans, HealStep, RefreshNorms, Ridge
from sartor.types.limits import METRICS, Bounds, Budget, Counted, Limit
from sartor.types.listener import SILENT, WARNINGS, Listener, Progress
from sartor.types.network import Counts, Frozen, Group, Member, Role, Scores
from sartor.types.plain import to_plain
from sartor.types.plan import Plan
from sartor.types.proof import Proof
from sartor.types.recipe import (
    Axes,
    Criterion,
    Custom,
    Gates,
    Global,
    Knapsack,
    OneShot,
    Recipe,
    Search,
    Sensitivity,
    Uniform,
)
from sartor.types.timing import SECTIONS, Comparison, Effort, Latency, Target, median_interval, wide_interval

__all__ = [
    "Axes", "Batches", "Bounds", "Budget", "Comparison", "Counted", "Counts", "Criterion", "Custom", "Data", "Effort",
    "FineTune", "FoldMeans", "Frozen", "Gates", "Global", "Group", "HealStep", "Judge", "Knapsack", "Latency", "Limit",
    "Listener", "METRICS", "Member", "OneShot", "Plan", "Progress", "Proof", "Recipe", "RefreshNorms", "Ridge", "Role",
    "SECTIONS", "SILENT", "Scores", "Search", "Sensitivity", "Target", "Uniform", "WARNINGS", "asdict",
    "median_interval", "to_plain", "wide_interval",
]  # fmt: skip
