"""Latency from tables: segments are timed at their widths on a target, and whole networks predicted from them.

>>> from sartor.measure.tables import Predictor, Table
"""

from sartor.measure.tables.correction import Correction
from sartor.measure.tables.predictor import Predictor
from sartor.measure.tables.random_plans import random_plans
from sartor.measure.tables.segments import Kind, Point, Segment, points, segments
from sartor.measure.tables.store import Store, Where, default_path, where_of
from sartor.measure.tables.table import Table
from sartor.measure.tables.timing import Timer, Timing, Work

__all__ = [
    "Correction", "Kind", "Point", "Predictor", "Segment", "Store", "Table", "Timer", "Timing", "Where", "Work",
    "default_path", "points", "random_plans", "segments", "where_of",
]  # fmt: skip
