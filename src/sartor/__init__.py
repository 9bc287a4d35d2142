"""Neural networks, cut to measure: fit any PyTorch network to a device, with proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sartor.lazy_names import lazy_names

if TYPE_CHECKING:
    from sartor.analysis import Analysis, analyse
    from sartor.api import Fitted, Session, fit, lightning_callback, trainer_callback
    from sartor.budget import parse_budget
    from sartor.cost import count
    from sartor.errors import (
        BadInput,
        BudgetNotMet,
        CannotCut,
        CannotTrace,
        CorruptFile,
        FolderInUse,
        MissingExtra,
        NothingToDo,
        ProofFailed,
        SartorError,
        TargetLost,
        TrainingDiverged,
        UnknownName,
    )
    from sartor.run import load
    from sartor.structure import Graph, explain, trace
    from sartor.surgery import check_cut, cut, probe, prove, silence
    from sartor.types import (
        Budget,
        Data,
        Effort,
        FineTune,
        Group,
        Judge,
        Limit,
        Listener,
        Plan,
        Recipe,
        Target,
        Verdict,
    )

__version__ = "0.1.0"
_HOMES = {
    "analysis": ("Analysis", "analyse"),
    "api": ("Fitted", "Session", "fit", "lightning_callback", "trainer_callback"),
    "budget": ("parse_budget",),
    "cost": ("count",),
    "errors": (
        "BadInput", "BudgetNotMet", "CannotCut", "CannotTrace", "CorruptFile", "FolderInUse", "MissingExtra",
        "NothingToDo", "ProofFailed", "SartorError", "TargetLost", "TrainingDiverged", "UnknownName",
    ),
    "run": ("load",),
    "structure": ("Graph", "explain", "trace"),
    "surgery": ("check_cut", "cut", "probe", "prove", "silence"),
    "types": (
        "Budget", "Data", "Effort", "FineTune", "Group", "Judge", "Limit", "Listener", "Plan", "Recipe", "Target",
        "Verdict",
    ),
}  # fmt: skip
__all__ = [
    "Analysis", "BadInput", "Budget", "BudgetNotMet", "CannotCut", "CannotTrace", "CorruptFile", "Data", "Effort",
    "FineTune",
    "Fitted", "FolderInUse", "Graph", "Group", "Judge", "Limit", "Listener", "MissingExtra", "NothingToDo", "Plan",
    "ProofFailed", "Recipe", "SartorError", "Session", "Target", "TargetLost", "TrainingDiverged", "UnknownName",
    "Verdict", "analyse", "check_cut", "count", "cut", "explain", "fit", "lightning_callback", "load", "parse_budget",
    "probe", "prove", "silence", "trace", "trainer_callback",
]  # fmt: skip
__getattr__ = lazy_names("sartor", _HOMES)  # `sartor --help` needs no torch
