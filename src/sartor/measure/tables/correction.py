"""The correction of predicted latency: weights of five features, learned from a few complete networks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

FEATURES = ("segments", "conversions", "weights", "activations", "steps")
_PRIOR = (1.0, 1.0, 0.0, 0.0, 0.0)
_STRENGTH = (0.1, 0.3, 0.6, 0.6, 0.6)  # of the prior, in measurements: correlated features stay near their prior


@dataclass(frozen=True)
class Correction:
    """Weights of the features, and the error of prediction on networks that were held out."""

    weights: tuple[float, ...] = _PRIOR
    error: float | None = None  # median relative error, each plan predicted from all others; None: too few measured
    plans: int = 0  # complete networks it was learned from


def fitted_correction(features: np.ndarray, ratios: Sequence[float], whole: np.ndarray) -> Correction:
    """The correction that predicts the measured ratios best.

    Args:
        features: one row a plan, [plans, len(FEATURES)], in seconds of the table.
        ratios: measured latency of each plan as a share of the original's.
        whole: the features of the original.
    """
    seconds = np.array(ratios) * whole[0]
    errors = []
    for i in range(len(ratios)):
        others = [k for k in range(len(ratios)) if k != i]
        weights = _weights(features[others], seconds[others], whole)
        errors.append(abs((features[i] @ weights) / seconds[i] - 1))
    error = statistics.median(errors) if len(ratios) > 2 else None
    return Correction(tuple(_weights(features, seconds, whole)), error, len(ratios))


def _weights(x: np.ndarray, y: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Nonnegative least squares of relative errors, regularised towards the prior; the original is one of the rows."""
    prior, strength = np.array(_PRIOR), np.array(_STRENGTH)
    rows = [x / y[:, None], whole[None] / whole[0], np.diag(strength)]
    goal = [np.ones(len(y)), np.ones(1), strength * prior]
    solution, _ = nnls(np.concatenate(rows), np.concatenate(goal))
    weights: np.ndarray = solution
    return weights
