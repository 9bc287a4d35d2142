"""Models and data from specs on the command line: modules and loaders."""

from sartor.sources.data import SOURCES, DataSet, load_data
from sartor.sources.loader import Loader
from sartor.sources.models import load_model
from sartor.sources.weights import load_weights_, read_weights

__all__ = ["SOURCES", "DataSet", "Loader", "load_data", "load_model", "load_weights_", "read_weights"]
