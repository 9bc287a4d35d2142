"""The run: a model, data and a budget in; a smaller model, its proof and its record out."""

from sartor.run.fit import run
from sartor.run.folder import load
from sartor.run.outcome import Outcome, group_rows

__all__ = ["Outcome", "group_rows", "load", "run"]
