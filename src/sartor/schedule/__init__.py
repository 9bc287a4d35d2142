"""Schedules: pure functions of progress in [0, 1]."""

from sartor.schedule.cosine import cosine, cosine_with_warmup

__all__ = ["cosine", "cosine_with_warmup"]
