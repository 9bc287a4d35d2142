"""Repair in closed form: layers refitted, constants folded, batch norms refreshed. No labels, no gradients."""

from sartor.repair.fold import fold_means_
from sartor.repair.norm import refresh_norm, refresh_norm_, refresh_norm_if_better
from sartor.repair.original import Original
from sartor.repair.ridge import RidgeOptions, refit_consumers_

__all__ = [
    "Original", "RidgeOptions", "fold_means_", "refit_consumers_", "refresh_norm", "refresh_norm_",
    "refresh_norm_if_better",
]  # fmt: skip
