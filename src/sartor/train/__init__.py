"""Training: the loop, distillation from the original, averaged weights, accuracy, callbacks for other loops."""

from sartor.train.batch import first_samples, split
from sartor.train.distill import distillation
from sartor.train.evaluate import accuracy
from sartor.train.loop import History, TrainingSetup, fine_tune

__all__ = ["History", "TrainingSetup", "accuracy", "distillation", "fine_tune", "first_samples", "split"]
