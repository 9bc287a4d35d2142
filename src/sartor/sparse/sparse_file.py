"""A sparse network as one safetensors file: masked matrices in a sparse form, everything else as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.export.files import atomic_path
from sartor.sparse.storage import Form, Packed, pack, smallest, unpack
from sartor.sparse.weight_layers import WeightLayer
from sartor.structure.model_copy import named_tensors
from sartor.types.weights import NM, GatherScatter, Pattern
from sartor.version import version

FORMAT: Literal[1] = 1  # of the metadata
_SPLIT = ":"  # between a parameter's name and the part of its sparse form


class _Matrix(BaseModel):
    """How one matrix is stored."""

    model_config = ConfigDict(extra="forbid")
    form: Literal["bitmap", "csr", "n:m", "packs"]
    rows: Annotated[int, Field(ge=0)]
    columns: Annotated[int, Field(ge=0)]
    order: tuple[int, ...]  # dimensions as [out, in, *kernel]
    pattern: Annotated[NM | GatherScatter, Field(discriminator="kind")] | None = None


class _About(BaseModel):
    """The metadata of the file."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    version: str
    tied: dict[str, str]
    packed: dict[str, _Matrix]


def save_sparse(
    model: nn.Module, masks: Mapping[str, Tensor], layers: Mapping[str, WeightLayer], path: str | Path,
    pattern: Pattern | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write a masked network with the zeros of its dead weights left out.

    Args:
        model: whose dead weights are zero.
        masks: bool, by parameter; `Session` gives them.
        layers: of these parameters.
        path: of the file.
        pattern: of all masks: n:m and gather-scatter have forms of their own; others take the smaller of bitmap and
            compressed rows.

    Returns:
        By parameter, the bytes of its sparse form; they are the bytes that the file holds of it.

    Raises:
        BadInput: a mask is of no parameter or does not fit, or a dead weight is not zero.
    """
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    packed: dict[str, Packed] = {}
    forms: dict[str, Form] = {"n:m": "n:m", "gather-scatter": "packs"}
    for *_, name, t in named_tensors(model):
        if id(t) in first:
            tied[name] = first[id(t)]
            continue
        first[id(t)] = name
        if name not in masks:
            tensors[name] = t.detach().cpu().contiguous().clone()
            continue
        form = forms.get(pattern.kind) if pattern is not None else None
        if form is not None and isinstance(pattern, NM | GatherScatter):
            packed[name] = pack(layers[name], t, masks[name], form, pattern)
        else:
            packed[name] = smallest(layers[name], t, masks[name])
    if missing := masks.keys() - packed.keys():
        raise BadInput(f"sparse file: {sorted(missing)[0]!r} has a mask and is no parameter of the model")
    for name, matrix in packed.items():
        tensors |= {f"{name}{_SPLIT}{part}": t for part, t in matrix.parts.items()}
    rows = {
        n: _Matrix(form=p.form, rows=p.rows, columns=p.columns, order=layers[n].order, pattern=p.pattern)
        for n, p in packed.items()
    }  # fmt: skip
    about = _About(format=FORMAT, version=version(), tied=tied, packed=rows)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"sartor-sparse": about.model_dump_json()})
    return {n: p.nbytes for n, p in packed.items()}


def load_sparse_(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Copy the weights of a sparse file into a model, bit for bit; nothing is copied if anything does not fit.

    Returns:
        The masks, by parameter.

    Raises:
        CorruptFile: the file is damaged or not of this kind.
        BadInput: there is no such file, or it does not fit the model.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    try:
        with safe_open(str(path), "pt") as f:
            about = _About.model_validate_json((f.metadata() or {}).get("sartor-sparse", "{}"))
            read = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError, ValueError, RecursionError, OSError) as e:
        raise CorruptFile(f"{path}: expected a safetensors file of a sparse network; {str(e).splitlines()[0]}") from e
    own: dict[str, Any] = {name: t for *_, name, t in named_tensors(model)}
    weights, masks = dict(read), {}
    for name, how in about.packed.items():
        parts = {k.removeprefix(name + _SPLIT): weights.pop(k) for k in read if k.rpartition(_SPLIT)[0] == name}
        if name not in own or len(how.order) < 2 or sorted(how.order) != list(range(own[name].ndim)):
            raise BadInput(
                f"{path}: does not fit the model; {name!r} is no matrix of it with {len(how.order)} dimensions"
            )
        layer = WeightLayer(name, tuple(own[name].shape), how.order[0], how.order[1], 0)
        weights[name], masks[name] = unpack(layer, Packed(how.form, parts, how.rows, how.columns, how.pattern))
    _check(own, weights, about.tied, path)
    with torch.no_grad():
        for name, t in weights.items():
            own[name].copy_(t)
    return masks


def _check(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], tied: Mapping[str, str], path: str | Path) -> None:
    for name, t in own.items():
        given = weights.get(name)
        if given is None and own.get(tied.get(name, "")) is not t:
            raise BadInput(f"{path}: does not fit the model; {name!r} is not in the file")
        if given is not None and (given.shape != t.shape or given.dtype != t.dtype):
            raise BadInput(
                f"{path}: does not fit the model; {name!r} is {list(t.shape)} {t.dtype} against {list(given.shape)} "
                f"{given.dtype}"
            )
    if extra := weights.keys() - own.keys():
        raise BadInput(f"{path}: does not fit the model; {sorted(extra)[0]!r} is not in it")


__all__ = ["FORMAT", "load_sparse_", "save_sparse"]
