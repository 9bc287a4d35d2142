"""Scores that are learned or measured on the network as a whole: trained gates, loss against width."""

from sartor.learn.bottleneck import SoftBudget, learn_gates
from sartor.learn.gates import Gated, gate_places
from sartor.learn.sensitivity import CurveOptions, sensitivity_scores

__all__ = ["CurveOptions", "Gated", "SoftBudget", "gate_places", "learn_gates", "sensitivity_scores"]
