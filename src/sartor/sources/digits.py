"""Scikit-learn's handwritten digits: images that are installed with the package."""

from __future__ import annotations

import torch

from sartor.errors import MissingExtra
from sartor.sources.registry import Parts
from sartor.sources.spec import Spec
from sartor.sources.tensors import TensorSamples


def read_digits(spec: Spec) -> Parts:
    """'digits:': 1,797 images [1, 8, 8] of ten digits: 70 % for training, 10 % for validation, 20 % for testing.

    Pixels are scaled to [0, 1] and then standardised by the mean and standard deviation of all images.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn", "demo", "the data source 'digits:'") from None
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(raw.target, dtype=torch.int64)
    return Parts(
        train=TensorSamples(images, labels),
        labels=labels,
        val=None,
        test=None,
        classes=tuple(str(d) for d in range(10)),
        name="digits",
        fractions=(0.7, 0.1, 0.2),
    )
