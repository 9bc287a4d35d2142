"""CIFAR-10 from the official Python batches, unpickled without executing code from the files."""

from __future__ import annotations

import io
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sartor.activations.augment import crop_flip
from sartor.errors import BadInput, CorruptFile
from sartor.sources.registry import Parts
from sartor.sources.spec import Spec, choice, numbers
from sartor.sources.tensors import TensorSamples

CIFAR_OPTIONS = ("mean", "std", "augment")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_cifar10(spec: Spec) -> Parts:
    """'cifar10:DIR': 50,000 images for training and 10,000 for testing.

    Options: mean and std after scaling to [0, 1], three numbers each (default: those of ImageNet, which published
    checkpoints expect); augment=crop-flip (default: random crop after padding by 4 pixels, horizontal flip) or none.

    Raises:
        BadInput: files are missing.
        CorruptFile: a file is damaged, or does not have the contents of an official batch.
    """
    folder = _folder(Path(spec.rest))
    parts = [_read(folder / name) for name in _TRAIN]
    train_x, train_y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    mean, std = numbers(spec, "mean", IMAGENET_MEAN), numbers(spec, "std", IMAGENET_STD)
    augment = (
        partial(crop_flip, pad=4) if choice(spec, "augment", ("crop-flip", "none"), "crop-flip") != "none" else None
    )
    return Parts(
        train=TensorSamples(train_x, train_y, mean=mean, std=std, augment=augment),
        labels=train_y,
        val=None,
        test=TensorSamples(*_read(folder / "test_batch"), mean=mean, std=std),
        classes=_CLASSES,
        name="CIFAR-10",
    )


def _folder(path: Path) -> Path:
    for folder in (path, path / "cifar-10-batches-py"):
        if (folder / _TRAIN[0]).is_file():
            lacking = [name for name in (*_TRAIN, "test_batch") if not (folder / name).is_file()]
            if lacking:
                raise BadInput(f"cifar10: {folder} lacks {', '.join(lacking)}")
            return folder
    raise BadInput(
        f"cifar10: expected the official Python batches (data_batch_1 ... data_batch_5, test_batch) in {str(path)!r} "
        "or its folder cifar-10-batches-py; found none"
    )


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """(images uint8 [n, 3, 32, 32], labels int64 [n])."""
    try:
        contents = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        data, labels = np.asarray(contents["data"]), np.asarray(contents["labels"])
    except CorruptFile:
        raise
    except Exception as e:
        raise CorruptFile(f"cifar10: {path} is damaged or in another format ({type(e).__name__}: {e})") from e
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1]:
        raise CorruptFile(
            f"cifar10: {path} should hold bytes [n, 3072] and labels [n]; got {data.dtype} {list(data.shape)} "
            f"and {list(labels.shape)}"
        )
    if labels.dtype.kind != "i" or not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise CorruptFile(f"cifar10: {path} should hold labels 0 ... 9")
    return torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels.astype(np.int64))


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and built-in types only, so that a file cannot execute code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CorruptFile(f"cifar10: expected arrays and lists only; a batch file asks for {module}.{name}")
        return super().find_class(module, name)
