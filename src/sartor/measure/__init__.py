"""Artefacts, the targets that they run on, their latency and activation memory, and the machine's facts."""

from sartor.measure.artefact import Artefact, compare_artefacts, prepare, prepare_file
from sartor.measure.environment import environment
from sartor.measure.latency import compare, compare_afresh, latency
from sartor.measure.memory import measured_memory
from sartor.measure.runnable import Runnable
from sartor.measure.targets import TARGETS, available, default_target, parse_target, rehearsal_target, show_target

__all__ = [
    "Artefact", "Runnable", "TARGETS", "available", "compare", "compare_afresh", "compare_artefacts", "default_target",
    "environment", "latency", "measured_memory", "parse_target", "prepare", "prepare_file", "rehearsal_target",
    "show_target",
]  # fmt: skip
