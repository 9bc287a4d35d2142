"""The run: a model, data and a budget in; a smaller model, its proof and its record out."""

from sartor.run.finish import finish
from sartor.run.fit import Options, Outcome, run
from sartor.run.folder import load
from sartor.run.record_rows import group_rows
from sartor.run.session import SessionOptions, TrainingSession

__all__ = [
    "Options", "Outcome", "SessionOptions", "TrainingSession", "finish", "group_rows", "load", "run",
]  # fmt: skip
