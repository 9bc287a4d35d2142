"""Scores that are trained or measured on the network as a whole: gates, and loss against width."""

from sartor.learn.bottleneck import SoftBudget, learn_gates
from sartor.learn.gates import Gated, gate_places
from sartor.learn.sensitivity import CurveOptions, sensitivity_scores

__all__ = ["CurveOptions", "Gated", "SoftBudget", "gate_places", "learn_gates", "sensitivity_scores"]
