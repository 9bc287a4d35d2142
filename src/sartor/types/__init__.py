"""The values that travel between rooms: frozen, checked at construction, with no other behaviour."""

from dataclasses import asdict

from sartor.types.data import Batches, Data, Judge
from sartor.types.limits import METRICS, Budget, Counted, Limit
from sartor.types.listener import SILENT, WARNINGS, Listener, Progress
from sartor.types.network import Counts, Frozen, Group, Member, Reason, Role, Scores
from sartor.types.plain import to_plain
from sartor.types.plan import Plan
from sartor.types.recipe import Gates, Recipe, Training
from sartor.types.timing import SECTIONS, Comparison, Effort, Latency, Target, median_interval, wide_interval
from sartor.types.verdict import Verdict

__all__ = [
    "Batches", "Budget", "Comparison", "Counted", "Counts", "Data", "Effort", "Frozen", "Gates", "Group", "Judge",
    "Latency", "Limit", "Listener", "METRICS", "Member", "Plan", "Progress", "Reason", "Recipe", "Role", "SECTIONS",
    "SILENT", "Scores", "Target", "Training", "Verdict", "WARNINGS", "asdict", "median_interval", "to_plain",
    "wide_interval",
]  # fmt: skip
