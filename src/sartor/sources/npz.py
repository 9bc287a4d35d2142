"""Arrays in one NumPy .npz file."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sartor.activations.augment import crop_flip
from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.sources.registry import Parts
from sartor.sources.spec import Spec, choice, numbers, whole
from sartor.sources.tensors import TensorSamples

NPZ_OPTIONS = ("mean", "std", "augment", "classes")
MOST_CLASSES = 1_000_000
_ALWAYS_ALLOWED, _PER_BYTE = 2**28, 50  # bytes of arrays; compressed images of few values shrink some 20 times
_EXPECTED = "x_train and y_train; x_val and y_val, x_test and y_test are optional"


def read_npz(spec: Spec) -> Parts:
    """'npz:FILE': inputs x_* [n, ...] as the model takes them, and targets y_* [n, ...].

    Targets with a fraction are continuous numbers, for regression. Whole numbers [n] are classes, [n, height, width]
    classes of pixels; 0 and 1 in [n, labels] say which labels a sample has.

    uint8 values are scaled to [0, 1], other values are not. Options: mean and std, one number or one for every channel
    (dimension 1); augment=crop-flip for images [n, channels, height, width] (default: none); classes, the number of
    classes (default: the largest label of y_train plus one).

    Raises:
        BadInput: keys, lengths, data types or labels are not as expected.
        CorruptFile: the file is damaged, or holds Python objects.
    """
    path = Path(spec.rest)
    arrays = _arrays(path)
    known = {f"{kind}_{part}" for part in ("train", "val", "test") for kind in "xy"}
    unpaired = any((f"x_{part}" in arrays) != (f"y_{part}" in arrays) for part in ("val", "test"))
    if "x_train" not in arrays or "y_train" not in arrays or unpaired or not known >= set(arrays):
        raise BadInput(f"npz {str(path)!r}: expected the arrays {_EXPECTED}; got {', '.join(sorted(arrays)) or 'none'}")
    mean, std = numbers(spec, "mean", None), numbers(spec, "std", None)
    augmented = choice(spec, "augment", ("crop-flip", "none"), "none") != "none"
    train_targets = _targets(arrays["y_train"], "y_train", path)
    of_classes = train_targets.dtype == torch.int64
    classes = whole(spec, "classes", int(train_targets.max()) + 1) if of_classes else 0
    if classes > MOST_CLASSES:
        raise BadInput(
            f"npz {str(path)!r}: expected at most {MOST_CLASSES} classes; the largest label of y_train is {classes - 1}"
        )
    samples: dict[str, TensorSamples] = {}
    for part in ("train", "val", "test"):
        if f"x_{part}" not in arrays:
            continue
        x = _inputs(arrays[f"x_{part}"], f"x_{part}", path)
        y = _targets(arrays[f"y_{part}"], f"y_{part}", path)
        if y.dtype != train_targets.dtype or y.shape[1:] != train_targets.shape[1:]:
            raise BadInput(
                f"npz {str(path)!r}: y_{part} has targets {list(y.shape[1:])} of {y.dtype}; "
                f"expected {list(train_targets.shape[1:])} of {train_targets.dtype} as in y_train"
            )
        if len(x) != len(y):
            raise BadInput(
                f"npz {str(path)!r}: x_{part} has {len(x)} samples and y_{part} {len(y)}; expected equal numbers"
            )
        if part != "train" and x.shape[1:] != samples["train"].inputs.shape[1:]:
            raise BadInput(
                f"npz {str(path)!r}: x_{part} has inputs {list(x.shape[1:])}; "
                f"expected {list(samples['train'].inputs.shape[1:])} as in x_train"
            )
        if of_classes and int(y.max()) >= classes:
            of = "option 'classes'" if "classes" in spec.options else "y_train"
            raise BadInput(
                f"npz {str(path)!r}: y_{part} has the label {int(y.max())}; expected 0 ... {classes - 1}, as {of} says"
            )
        augment = partial(crop_flip, pad=4) if augmented and part == "train" else None
        samples[part] = TensorSamples(x, y, mean=mean, std=std, augment=augment)
    return Parts(
        train=samples["train"],
        labels=train_targets if of_classes and train_targets.dim() == 1 else torch.zeros(len(train_targets)),
        val=samples.get("val"),
        test=samples.get("test"),
        classes=tuple(str(c) for c in range(classes)),
        name=path.name,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BadInput(f"npz: no file {str(path)!r}")
    try:
        _check_members(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except SartorError:
        raise
    except (
        ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError, RuntimeError, MemoryError,
        NotImplementedError, SyntaxError, struct.error, zlib.error,
    ) as e:  # fmt: skip
        if "allow_pickle" in str(e):
            raise CorruptFile(
                f"npz {str(path)!r}: expected arrays of numbers; it holds Python objects or no npz"
            ) from e
        raise CorruptFile(f"npz {str(path)!r}: damaged or no npz file ({type(e).__name__}: {e})") from e


def _check_members(path: Path) -> None:
    """Read the header of every array, and refuse what is no array or would take too much memory."""
    where = f"npz {str(path)!r}"
    most = max(_ALWAYS_ALLOWED, _PER_BYTE * path.stat().st_size)
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise CorruptFile(f"{where}: {member.filename!r} is encrypted; expected arrays as np.savez writes them")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others have no bound
                raise CorruptFile(f"{where}: {member.filename!r} is compressed as np.savez_compressed never does")
            total += member.file_size
            if total > most:
                raise CorruptFile(
                    f"{where}: expected at most {most} bytes of arrays in a file of its size; got {total}"
                )
            with archive.open(member) as f:
                version = np.lib.format.read_magic(f)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(f)
            if dtype.hasobject:
                raise CorruptFile(f"{where}: expected arrays of numbers; {member.filename!r} holds Python objects")
            declared = math.prod(shape) * dtype.itemsize
            if declared > member.file_size:
                raise CorruptFile(
                    f"{where}: {member.filename!r} declares {declared} bytes and holds {member.file_size}"
                )


def _inputs(array: np.ndarray, name: str, path: Path) -> Tensor:
    if array.dtype.kind not in "fiub" or not array.ndim or not len(array):
        raise BadInput(f"npz {str(path)!r}: expected numbers [n, ...] in {name}; got {array.dtype} {list(array.shape)}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise BadInput(f"npz {str(path)!r}: {name} holds NaN or infinite values")
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        array = array.astype(np.int64)  # token numbers, for instance
    return torch.from_numpy(np.ascontiguousarray(array))


def _targets(array: np.ndarray, name: str, path: Path) -> Tensor:
    """Class numbers as int64, [n] or [n, height, width]; everything else as float32."""
    if array.dtype.kind not in "fiub" or not array.ndim or not len(array):
        raise BadInput(
            f"npz {str(path)!r}: expected class numbers [n], or numbers [n, ...], in {name}; "
            f"got {array.dtype} {list(array.shape)}"
        )
    if array.dtype.kind == "f" or array.dtype.kind == "b" or (array.ndim == 2 and set(np.unique(array)) <= {0, 1}):
        if not np.isfinite(array).all():
            raise BadInput(f"npz {str(path)!r}: {name} holds NaN or infinite values")
        return torch.from_numpy(array.astype(np.float32))
    if array.min() < 0:
        raise BadInput(f"npz {str(path)!r}: {name} has the label {int(array.min())}; expected labels from 0")
    return torch.from_numpy(array.astype(np.int64))
