"""Where models and data come from: names on the command line become modules and loaders."""

from sartor.sources.data import SOURCES, Data, load_data
from sartor.sources.loader import Loader
from sartor.sources.models import load_model
from sartor.sources.weights import load_weights_, read_weights

__all__ = ["SOURCES", "Data", "Loader", "load_data", "load_model", "load_weights_", "read_weights"]
