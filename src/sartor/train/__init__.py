"""Training a cut network back: the loop, distillation from the original, averaged weights, accuracy."""

from sartor.train.batch import first_samples, split
from sartor.train.distill import distillation
from sartor.train.evaluate import accuracy
from sartor.train.loop import History, fine_tune

__all__ = ["History", "accuracy", "distillation", "fine_tune", "first_samples", "split"]
