"""Latency by table: segments timed at their widths on a target, and the latency of whole networks predicted from them.

>>> from sartor.measure.tables import Predictor, Table
"""

from sartor.measure.tables.predict import Correction, Predictor, random_plans
from sartor.measure.tables.segments import Kind, Point, Segment, points, segments
from sartor.measure.tables.store import Store, Where, default_path, where_of
from sartor.measure.tables.table import Table
from sartor.measure.tables.timing import Timer, Timing, Work

__all__ = [
    "Correction", "Kind", "Point", "Predictor", "Segment", "Store", "Table", "Timer", "Timing", "Where", "Work",
    "default_path", "points", "random_plans", "segments", "where_of",
]  # fmt: skip
