"""Schedules: pure functions of progress in [0, 1]."""

from sartor.schedule.cosine import cosine, cosine_with_warmup
from sartor.schedule.curves import CURVES, Curve, between, cubic, linear, one_cycle, one_shot, steps, within
from sartor.schedule.regrowth import cosine_regrow, stage_value

__all__ = [
    "CURVES", "Curve", "between", "cosine", "cosine_regrow", "cosine_with_warmup", "cubic", "linear", "one_cycle",
    "one_shot", "stage_value", "steps", "within",
]  # fmt: skip
