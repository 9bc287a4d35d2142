"""Latency on targets, activation memory, and what they were measured on."""

from sartor.measure.environment import environment
from sartor.measure.latency import compare, compare_afresh, latency
from sartor.measure.memory import measured_memory
from sartor.measure.prepare import prepare, prepare_file
from sartor.measure.runnable import Runnable
from sartor.measure.targets import TARGETS, available, parse_target, show_target

__all__ = [
    "TARGETS", "Runnable", "available", "compare", "compare_afresh", "environment", "latency", "measured_memory",
    "parse_target", "prepare", "prepare_file", "show_target",
]  # fmt: skip
