"""A data set from its spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import torch

from sartor.errors import BadInput, UnknownName
from sartor.seed import seeded
from sartor.sources.cifar import CIFAR_OPTIONS, read_cifar10
from sartor.sources.digits import read_digits
from sartor.sources.factory import call_factory, find_factory
from sartor.sources.folder import FOLDER_OPTIONS, read_folder
from sartor.sources.loader import Loader, Subset
from sartor.sources.npz import NPZ_OPTIONS, read_npz
from sartor.sources.partition import stratified
from sartor.sources.registry import SOURCES, Parts, Source
from sartor.sources.spec import Spec, choice, known_options, parse_spec, whole
from sartor.structure.example import Example, with_batch
from sartor.types import Batches, Data

_EXAMPLE = "cifar10:DIR, imagefolder:DIR, npz:FILE, digits: or path/file.py:factory"
_SHARED = ("split_seed", "calibration")
SOURCES.add(
    "cifar10", Source(read_cifar10, CIFAR_OPTIONS), source="Krizhevsky 2009, Learning Multiple Layers of Features"
)
SOURCES.add("digits", Source(read_digits, ()), source="scikit-learn load_digits; Alpaydin and Kaynak 1998, UCI")
SOURCES.add("imagefolder", Source(read_folder, FOLDER_OPTIONS), source="the layout of torchvision's ImageFolder")
SOURCES.add("npz", Source(read_npz, NPZ_OPTIONS), source="the keys of Keras' mnist.npz")


@dataclass(frozen=True, kw_only=True)
class DataSet(Data):
    """The loaders of one data set with its description. No sample belongs to two of `train`, `val` and `test`."""

    train: Batches
    val: Batches | None
    test: Batches | None
    calibration: Batches  # the training part in a seeded order, with the last batch if it is smaller
    example: Example  # inputs of one sample
    classes: tuple[str, ...]  # empty: unknown
    describe: str  # name and sizes, one line


def load_data(spec: str, *, batch: int = 128, seed: int = 0, val: float | None = None) -> DataSet:
    """The loaders of a data set.

    Args:
        spec: one of
            'cifar10:DIR' the official Python batches, in DIR or DIR/cifar-10-batches-py;
            'imagefolder:DIR' with DIR/train/CLASS/*, or DIR/CLASS/*; DIR/val and DIR/test if there;
            'npz:FILE' with x_train, y_train, and x_val, y_val, x_test, y_test if there; y are classes, or numbers;
            'digits:' the 1,797 images of scikit-learn;
            'path/file.py:factory' or 'package.module:factory': a function that returns a `DataSet`, a dict with
            "train", "val" and "test", or a tuple (train, val) or (train, val, test) of loaders. It receives `batch` and
            `seed` if it has parameters of these names.
            Options are appended as '?name=value&...': mean, std, augment, ... (see each source). `split_seed` (default
            0) selects another validation part. It is independent of `seed`, so that a network trained with one seed is
            never evaluated on its training samples in a run with another. `calibration=plain` reads calibration images
            without augmentation. By default they are augmented as in training, because batch-norm statistics were
            computed from such images: for a CIFAR-10 ResNet-20, statistics re-estimated from 2,000 augmented images
            keep the accuracy; from images without augmentation it falls by three points.
        batch: samples of a batch.
        seed: of order and augmentation.
        val: share of the training part used for validation if the data set has no validation part; None: 0.1. For
            'digits:', which is one set of images, the share of all (20 % are the test part).

    Returns:
        The loaders.

    Raises:
        BadInput: files, options, labels or the value of a factory are not as expected.
        UnknownName: no such source, option or factory.
        MissingExtra: the source needs a package that is not installed.
        CorruptFile: damaged files.
    """
    if val is not None and not 0 < val < 1:
        raise BadInput(f"validation share: expected a number strictly between 0 and 1; got {val}")
    parsed = parse_spec(spec, SOURCES, _EXAMPLE)
    if parsed.kind not in SOURCES:
        return _from_factory(parsed, batch, seed)
    source = SOURCES[parsed.kind].value
    known_options(parsed, (*source.options, *_SHARED))
    return _loaders(source.read(parsed), parsed, batch=batch, seed=seed, val=val)


def _loaders(parts: Parts, spec: Spec, *, batch: int, seed: int, val: float | None) -> DataSet:
    split_seed = whole(spec, "split_seed", 0, least=0)
    augmented = choice(spec, "calibration", ("augmented", "plain"), "augmented") == "augmented"
    train_samples, val_samples, test_samples = parts.train, parts.val, parts.test
    if parts.fractions is not None:
        first, second, third = parts.fractions
        shares = (first, second, third) if val is None else (first + second - val, val, third)
        subsets = [Subset(parts.train, numbers) for numbers in stratified(parts.labels, shares, split_seed)]
        train_samples, val_samples, test_samples = subsets
    elif val_samples is None:
        share = 0.1 if val is None else val
        subsets = [Subset(parts.train, n) for n in stratified(parts.labels, (1 - share, share), split_seed)]
        train_samples, val_samples = subsets
    train_loader = Loader(train_samples, batch=batch, shuffle=True, augment=True, drop_last=True, seed=seed)
    val_loader = Loader(val_samples, batch=batch)
    test_loader = Loader(test_samples, batch=batch) if test_samples is not None else None
    inputs, _ = train_samples.take(torch.arange(1), None)
    sizes = f"{train_loader.count:,} train, {val_loader.count:,} val"
    sizes += f", {test_loader.count:,} test" if test_loader else ""
    classes = f"{len(parts.classes)} classes, " if parts.classes else ""
    return DataSet(
        train=train_loader,
        val=val_loader,
        test=test_loader,
        calibration=Loader(train_samples, batch=batch, shuffle=True, augment=augmented, seed=seed),
        example=inputs,
        classes=parts.classes,
        describe=f"{parts.name}: {sizes}, {classes}inputs {list(inputs.shape[1:])}",
    )


def _from_factory(spec: Spec, batch: int, seed: int) -> DataSet:
    if not spec.kind.endswith(".py") and "/" not in spec.kind and not _importable(spec.kind):
        raise UnknownName("data source or module", spec.kind, SOURCES)
    where = f"{spec.kind}:{spec.rest}"
    factory = find_factory(spec.kind, spec.rest)
    given = {"batch": batch, "seed": seed}
    with seeded(seed):
        made = call_factory(factory, {**_accepted(factory, given), **spec.options}, spec.kind, spec.rest)
        return made if isinstance(made, DataSet) else _data_set(made, where)


def _importable(name: str) -> bool:
    try:
        return "." in name or find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _accepted(factory: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are parameters of the factory."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return {k: v for k, v in given.items() if k in names}


def _data_set(made: Any, where: str) -> DataSet:
    """What a factory returned as a `DataSet`."""
    expected = "a DataSet, a dict with 'train', 'val', 'test', or a tuple (train, val) or (train, val, test) of loaders"
    if isinstance(made, Mapping):
        if "train" not in made:
            raise BadInput(f"{where}: expected {expected}; got a dict with {', '.join(map(str, made)) or 'nothing'}")
        parts = dict(made)
    elif isinstance(made, tuple | list) and len(made) in (2, 3):
        parts = dict(zip(("train", "val", "test"), made))
    else:
        raise BadInput(f"{where}: expected {expected}; got {type(made).__name__}")
    for name in parts:
        if name not in {f.name for f in fields(DataSet)}:
            raise UnknownName(f"part of the data of {where}", str(name), [f.name for f in fields(DataSet)])
    train = parts["train"]
    if not hasattr(train, "__iter__"):
        raise BadInput(f"{where}: expected an iterable loader as train; got {type(train).__name__}")
    if hasattr(train, "__next__"):
        raise BadInput(f"{where}: expected a train loader that can be iterated again in every epoch; got an iterator")
    example = parts.get("example")
    return DataSet(
        train=train,
        val=parts.get("val"),
        test=parts.get("test"),
        calibration=parts.get("calibration") or train,
        example=example if example is not None else _one_sample(train, where),
        classes=tuple(str(c) for c in parts.get("classes") or ()),
        describe=str(parts.get("describe") or where),
    )


def _one_sample(train: Iterable[Any], where: str) -> Example:
    """Inputs of the first sample of the first batch."""
    for batch in train:
        if isinstance(batch, Mapping):
            return with_batch({k: v for k, v in batch.items() if k not in ("label", "labels")}, 1)
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return with_batch(batch[0], 1)
        raise BadInput(
            f"{where}: expected batches (inputs, targets) or with a key 'labels'; got {type(batch).__name__}"
        )
    raise BadInput(f"{where}: expected at least one batch; the train loader gave none")
