"""Repair in closed form: constants folded into biases, batch-norm statistics refreshed. No labels, no gradients."""

from sartor.repair.fold import fold_means_
from sartor.repair.norm import refresh_norm, refresh_norm_, refresh_norm_if_better

__all__ = ["fold_means_", "refresh_norm", "refresh_norm_", "refresh_norm_if_better"]
