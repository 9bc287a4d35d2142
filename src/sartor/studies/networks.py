"""Networks that studies work on: specs with $VARIABLES, lists of networks in TOML files, weights made on demand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from sartor.errors import BadInput, UnknownName
from sartor.export.files import atomic_write
from sartor.seed import seeded
from sartor.sources import DataSet, load_data, load_model
from sartor.toml_file import known_fields, read_toml
from sartor.train import TrainingSetup, fine_tune
from sartor.train.batch import first_samples
from sartor.types import Data, FineTune, Listener

CIFAR = "cifar10:$SARTOR_DATA?calibration=plain"
RESNET56 = "bench/cifar_resnet.py:resnet56"
RESNET56_WEIGHTS = "$SARTOR_DATA/weights/resnet56-cifar10.safetensors"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A [[network]] of a file. `model`, `weights`, `data` and `peers` may hold $VARIABLES."""

    name: str
    model: str
    data: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the model's factory
    train: dict[str, Any] = field(default_factory=dict)  # fields of FineTune: how missing weights are made
    batch: int = 125
    calibration: int = 1000
    judge: int | None = None  # test samples at most
    recipes: list[str] = field(default_factory=list)  # empty: every recipe
    leave_out: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)  # file.py:function, see `sartor.studies.recipe_rows`


def expanded(text: str) -> str:
    """The text with its $VARIABLES.

    Raises:
        BadInput: one of them is not set.
    """
    path = os.path.expandvars(text)
    if "$" in path:
        raise BadInput(f"{text}: the variable is not set; set it, as in `export SARTOR_DATA=/path/to/data`")
    return path


def open_network(model: str, weights: str | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of a spec with its weights, in evaluation mode.

    Raises:
        BadInput: a $VARIABLE is not set; else as `sartor.sources.load_model`.
    """
    path = None if weights is None else Path(expanded(weights))
    return load_model(expanded(model), path, dict(options or {})).eval()


def open_data(data: str, batch: int, seed: int = 0) -> DataSet:
    """The data of a spec.

    Raises:
        BadInput: a $VARIABLE is not set, or there is no test part; else as `sartor.sources.load_data`.
    """
    parts = load_data(expanded(data), batch=batch, seed=seed)
    if parts.test is None:
        raise BadInput(f"{data}: {parts.describe} has no test part to judge by")
    return parts


def test_batches(data: DataSet, most: int | None) -> list[Any]:
    """The test part, or its first samples."""
    part = data.test or ()
    return list(part) if most is None else list(first_samples(part, most))


def trained(network: Network, data: DataSet, seed: int, listener: Listener) -> nn.Module:
    """The network with its weights. Missing weights are trained and written, if `network.train` says how.

    Raises:
        BadInput: a field of `network.train` is wrong; else as `open_network`.
    """
    path = None if network.weights is None else Path(expanded(network.weights))
    if path is None or path.is_file() or not network.train:
        return open_network(network.model, network.weights, network.options)
    try:
        training = FineTune(**network.train)
    except BadInput as e:
        raise BadInput(f"network {network.name!r}, train: {e}") from e
    with seeded(seed), torch.random.fork_rng(devices=[]):
        model = load_model(expanded(network.model), None, network.options)
        listener.begin("train", network.name)
        fine_tune(model, Data(train=data.train), TrainingSetup(training, seed=seed), listener=listener)
    atomic_write(path, save({k: v.contiguous() for k, v in model.state_dict().items()}))
    return model.eval()


def read_networks(
    path: Path, kind: type[Any], required: tuple[str, ...], fields: tuple[str, ...]
) -> tuple[dict[str, Any], list[Any]]:
    """The other fields of a file, and its networks.

    Args:
        path: a TOML file with one or more [[network]] tables.
        kind: dataclass of a network.
        required: fields of every network that are text.
        fields: names that the file may have besides "network".

    Raises:
        BadInput: no such file, not TOML, no network, or a required field that is not text.
        UnknownName: a field that does not exist.
    """
    values = read_toml(path, f"no bench file {str(path)!r}; pass one, or run this where the repository's bench/ is")
    for name in values:
        if name not in (*fields, "network"):
            raise UnknownName(f"field of {path}", name, (*fields, "network"))
    tables = values.pop("network", None)
    if not isinstance(tables, list) or not tables:
        raise BadInput(f"{path}: expected at least one [[network]]")
    networks = []
    for table in tables:
        known_fields(table, kind, f"a network of {path}")
        for name in required:
            if not isinstance(table.get(name), str):
                raise BadInput(f'{path}: every network needs {name} = "..."; got {table.get(name)!r}')
        networks.append(kind(**table))
    return values, networks
