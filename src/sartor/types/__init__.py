"""The values that travel between rooms: frozen, checked at construction, with no other behaviour."""

from dataclasses import asdict

from sartor.types.calibration import Calibration, Loss, Precision, check_precision
from sartor.types.data import Batches, Data, Judge
from sartor.types.heal import FoldMeans, RefreshNorms, Ridge
from sartor.types.limits import METRICS, Budget, Counted, Limit
from sartor.types.listener import SILENT, WARNINGS, Listener, Progress
from sartor.types.network import Counts, Frozen, Group, Member, Role, Scores
from sartor.types.plain import to_plain
from sartor.types.plan import Plan
from sartor.types.proof import Proof
from sartor.types.recipe import Gates, Recipe, Training
from sartor.types.scaling import NORMALISATIONS, REDUCTIONS, Normalisation, Reduction, Scaling
from sartor.types.timing import SECTIONS, Comparison, Effort, Latency, Target, median_interval, wide_interval

__all__ = [
    "Batches", "Budget", "Calibration", "Comparison", "Counted", "Counts", "Data", "Effort", "FoldMeans", "Frozen",
    "Gates", "Group", "Judge", "Latency", "Limit", "Listener", "Loss", "METRICS", "Member", "NORMALISATIONS",
    "Normalisation", "Plan", "Precision", "Progress", "Proof", "REDUCTIONS", "Recipe", "Reduction", "RefreshNorms",
    "Ridge", "Role", "SECTIONS", "SILENT", "Scaling", "Scores", "Target", "Training", "WARNINGS", "asdict",
    "check_precision", "median_interval", "to_plain", "wide_interval",
]  # fmt: skip
