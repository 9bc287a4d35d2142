"""The run: a model, data and a budget in; a smaller model, its proof and its record out."""

from sartor.run.fit import Options, Outcome, run
from sartor.run.folder import load
from sartor.run.record_rows import group_rows

__all__ = ["Options", "Outcome", "group_rows", "load", "run"]
