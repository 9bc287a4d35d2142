"""Sparse weights as files: only live weights and where they are, bit for bit, with bytes that are counted.

| form | holds | bytes of a matrix with L live of S weights, b bytes each |
|---|---|---|
| `bitmap` | live values in order, one bit a weight | L b + ceil(S / 8) |
| `csr` | live values by row, their columns, where rows begin | L (b + column) + 4 (rows + 1) |
| `n:m` | live values in order, the place of each among its M inputs | L b + ceil(L bits / 8), bits = ceil(log2 M) |
| `packs` | values and columns of gather-scatter packs, where groups begin | L (b + column) + 4 (groups + 1) |

A column takes 1, 2 or 4 bytes. Rows are outputs; columns are [kernel position, in], the inputs fastest. No kernel here
computes with these forms: they make files smaller, nothing faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sartor.errors import BadInput, CorruptFile
from sartor.sparse.patterns.gather_scatter import packs
from sartor.sparse.weight_layers import WeightLayer
from sartor.types.weights import NM, GatherScatter

Form = Literal["bitmap", "csr", "n:m", "packs"]
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Packed:
    """One matrix in a sparse form."""

    form: Form
    parts: Parts  # by part: "values", "bits", "columns", "starts", "places"
    rows: int
    columns: int
    pattern: NM | GatherScatter | None = None  # of "n:m" and "packs"

    @property
    def nbytes(self) -> int:
        """Bytes of all parts: what the file holds of them."""
        return sum(t.numel() * t.element_size() for t in self.parts.values())


def pack(
    layer: WeightLayer, weight: Tensor, mask: Tensor, form: Form, pattern: NM | GatherScatter | None = None
) -> Packed:
    """A masked weight in a sparse form.

    Args:
        layer: which dimension is which.
        weight: in its own shape, zero where it is dead.
        mask: bool, True = live; live weights may be zero.
        form: see the module.
        pattern: of the mask, for "n:m" and "packs".

    Raises:
        BadInput: a dead weight is not zero, or the mask does not have the pattern.
    """
    w, live = _matrix(layer, weight.detach().cpu()), _matrix(layer, mask.cpu())
    if bool(w.masked_fill(live, 0).any()):
        raise BadInput(f"sparse storage of {layer.name!r}: expected zeros where the mask is dead; a dead weight is not")
    made = _PACKERS[form](w, live.numpy(), pattern, layer.name)
    return Packed(form, {n: t.contiguous() for n, t in made.items()}, w.shape[0], w.shape[1], pattern)


def smallest(layer: WeightLayer, weight: Tensor, mask: Tensor) -> Packed:
    """The bitmap or the compressed rows, whichever takes fewer bytes."""
    forms: tuple[Form, ...] = ("bitmap", "csr")
    return min((pack(layer, weight, mask, form) for form in forms), key=lambda p: p.nbytes)


def unpack(layer: WeightLayer, packed: Packed) -> tuple[Tensor, Tensor]:
    """The inverse: weight and mask in the parameter's shape, bit for bit.

    Raises:
        CorruptFile: parts are missing, have other lengths, or point outside the matrix.
    """
    rows, columns = packed.rows, packed.columns
    if rows * columns != layer.size or rows != layer.shape[layer.out_dim]:
        raise CorruptFile(
            f"sparse weights {layer.name!r}: {rows} x {columns} does not fit the shape {list(layer.shape)}"
        )
    try:
        flat = _UNPACKERS[packed.form](packed)
        values = packed.parts["values"].flatten()
    except KeyError as e:
        raise CorruptFile(f"sparse weights {layer.name!r} as {packed.form!r}: the part {e} is missing") from None
    inside = len(flat) == len(values) and (not len(flat) or (flat.min() >= 0 and flat.max() < layer.size))
    if not inside or len(np.unique(flat)) != len(flat):
        raise CorruptFile(
            f"sparse weights {layer.name!r} as {packed.form!r}: {len(values)} values and {len(flat)} places, of which "
            "some may be outside the matrix or twice"
        )
    where = torch.from_numpy(flat)
    weight = torch.zeros(layer.size, dtype=values.dtype).index_copy_(0, where, values)
    mask = torch.zeros(layer.size, dtype=torch.bool).index_fill_(0, where, True)
    return _unmatrix(layer, weight), _unmatrix(layer, mask)


# one pair of functions a form: parts from a matrix, and the flat places of the values from parts


def _pack_bitmap(w: Tensor, live: np.ndarray, pattern: object, name: str) -> Parts:
    return {"values": w.flatten()[live.ravel()], "bits": torch.from_numpy(np.packbits(live.ravel()))}


def _unpack_bitmap(packed: Packed) -> np.ndarray:
    size = packed.rows * packed.columns
    bits = packed.parts["bits"].numpy()
    return np.nonzero(np.unpackbits(bits)[:size])[0] if len(bits) == math.ceil(size / 8) else np.full(0, -1)


def _pack_csr(w: Tensor, live: np.ndarray, pattern: object, name: str) -> Parts:
    starts = np.r_[0, np.cumsum(live.sum(1))].astype(np.int32)
    columns = _small(np.nonzero(live)[1], live.shape[1])
    return {"values": w.flatten()[live.ravel()], "columns": columns, "starts": torch.from_numpy(starts)}


def _unpack_csr(packed: Packed) -> np.ndarray:
    starts, columns = packed.parts["starts"].numpy().astype(np.int64), _places(packed.parts["columns"])
    if len(starts) != packed.rows + 1 or starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        return np.full(0, -1)
    if len(columns) and (columns.min() < 0 or columns.max() >= packed.columns):
        return np.full(len(columns), -1)
    return np.repeat(np.arange(packed.rows), np.diff(starts)) * packed.columns + columns


def _pack_nm(w: Tensor, live: np.ndarray, pattern: object, name: str) -> Parts:
    if not isinstance(pattern, NM) or live.size % pattern.m:
        raise BadInput(f"sparse storage of {name!r} as 'n:m': expected the pattern of its mask; got {pattern!r}")
    groups = live.reshape(-1, pattern.m)
    if not (groups.sum(1) == pattern.n).all():
        raise BadInput(
            f"sparse storage of {name!r}: the mask does not have {pattern.n} live of every {pattern.m} inputs"
        )
    places = np.nonzero(groups)[1].astype(np.uint32)
    bits = (places[:, None] >> np.arange(_width(pattern.m), dtype=np.uint32) & 1).astype(np.uint8)
    return {"values": w.flatten()[live.ravel()], "places": torch.from_numpy(np.packbits(bits.ravel()))}


def _unpack_nm(packed: Packed) -> np.ndarray:
    pattern, size = packed.pattern, packed.rows * packed.columns
    if not isinstance(pattern, NM) or size % pattern.m:
        return np.full(0, -1)
    count, width = size // pattern.m * pattern.n, _width(pattern.m)
    packed_bits = packed.parts["places"].numpy()
    if len(packed_bits) != math.ceil(count * width / 8):
        return np.full(0, -1)
    bits = np.unpackbits(packed_bits)[: count * width].reshape(count, width).astype(np.int64)
    places = (bits << np.arange(width)).sum(1)
    outside = places >= pattern.m
    return np.where(outside, -1, np.arange(count) // pattern.n * pattern.m + places)


def _pack_packs(w: Tensor, live: np.ndarray, pattern: object, name: str) -> Parts:
    if not isinstance(pattern, GatherScatter):
        raise BadInput(f"sparse storage of {name!r} as 'packs': expected the pattern of its mask; got {pattern!r}")
    rows = pattern.banks // pattern.each
    if live.shape[0] % rows or live.shape[1] % pattern.banks:
        raise BadInput(
            f"sparse storage of {name!r} as 'packs': a matrix {list(live.shape)} has no groups of {rows} rows"
        )
    groups = [packs(g, pattern) for g in live.reshape(-1, rows, live.shape[1])]
    by_row = [np.take_along_axis(g, g[:, :, :1].argsort(1, kind="stable"), 1) for g in groups]  # a row's lie together
    row = np.concatenate([g[:, :, 0] + i * rows for i, g in enumerate(by_row)])
    column = np.concatenate([g[:, :, 1] for g in by_row])
    starts = np.r_[0, np.cumsum([len(g) for g in groups])].astype(np.int32)
    values = w[torch.from_numpy(row), torch.from_numpy(column)]
    return {"values": values, "columns": _small(column, live.shape[1]), "starts": torch.from_numpy(starts)}


def _unpack_packs(packed: Packed) -> np.ndarray:
    pattern = packed.pattern
    columns, starts = _places(packed.parts["columns"]), packed.parts["starts"].numpy().astype(np.int64)
    if not isinstance(pattern, GatherScatter) or columns.ndim != 2 or columns.shape[1] != pattern.banks:
        return np.full(0, -1)
    rows = pattern.banks // pattern.each
    if len(starts) != packed.rows // rows + 1 or starts[0] != 0 or starts[-1] != len(columns):
        return np.full(0, -1)
    if (np.diff(starts) < 0).any() or (columns.size and (columns.min() < 0 or columns.max() >= packed.columns)):
        return np.full(columns.size, -1)
    group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    row = group[:, None] * rows + np.arange(pattern.banks)[None, :] // pattern.each
    return (row * packed.columns + columns).ravel()


_PACKERS: Mapping[str, Callable[[Tensor, np.ndarray, object, str], Parts]] = {
    "bitmap": _pack_bitmap, "csr": _pack_csr, "n:m": _pack_nm, "packs": _pack_packs,
}  # fmt: skip
_UNPACKERS: Mapping[str, Callable[[Packed], np.ndarray]] = {
    "bitmap": _unpack_bitmap, "csr": _unpack_csr, "n:m": _unpack_nm, "packs": _unpack_packs,
}  # fmt: skip


def _matrix(layer: WeightLayer, t: Tensor) -> Tensor:
    """[out, kernel positions * in], the inputs fastest."""
    viewed = layer.view(t)
    return viewed.movedim(1, -1).reshape(viewed.shape[0], -1)


def _unmatrix(layer: WeightLayer, flat: Tensor) -> Tensor:
    shape = [layer.shape[d] for d in layer.order]
    viewed = flat.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return layer.unview(viewed).contiguous()


def _width(m: int) -> int:
    """Bits of a number below m."""
    return max(1, (m - 1).bit_length())


def _small(places: np.ndarray, end: int) -> Tensor:
    """Numbers below `end` in one, two or four bytes."""
    kind = np.uint8 if end <= 2**8 else np.int16 if end <= 2**15 else np.int32
    return torch.from_numpy(places.astype(kind))


def _places(t: Tensor) -> np.ndarray:
    places: np.ndarray = t.numpy().astype(np.int64)
    return places


__all__ = ["Form", "Packed", "Parts", "pack", "smallest", "unpack"]
