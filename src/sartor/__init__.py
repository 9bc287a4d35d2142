"""Neural networks, cut to measure: fit any PyTorch network to a device, with proof."""

from sartor.api import Fitted, fit
from sartor.budget import parse_budget
from sartor.cost import count
from sartor.errors import SartorError
from sartor.run import load
from sartor.structure import Graph, trace
from sartor.surgery import cut, probe, prove, silence
from sartor.types import Budget, Group, Limit, Plan, Recipe, Target, Training

__version__ = "0.1.0"
__all__ = [
    "Budget", "Fitted", "Graph", "Group", "Limit", "Plan", "Recipe", "SartorError", "Target", "Training", "count",
    "cut", "fit", "load", "parse_budget", "probe", "prove", "silence", "trace",
]  # fmt: skip
