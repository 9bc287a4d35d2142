"""Weights as safetensors: all parameters and buffers by name, tied ones once; loading is all or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export.files import atomic_path
from sartor.structure.model_copy import named_tensors
from sartor.version import version

FORMAT = 2  # of the metadata, one entry so that equal weights give equal bytes; format 1 had "tied" alone


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write all parameters and buffers, also those outside the state dict; tied ones once, with their other names."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    tensors = {}
    for *_, name, t in named_tensors(model):
        if id(t) in first:
            tied[name] = first[id(t)]
        else:
            first[id(t)] = name
            tensors[name] = t.detach().cpu().contiguous().clone()
    with atomic_path(path) as temporary:
        save_file(
            tensors, temporary, metadata={"sartor": json.dumps({"format": FORMAT, "version": version(), "tied": tied})}
        )


def load_weights_(model: nn.Module, path: str | Path) -> None:
    """Copy weights into the model exactly, after all names, shapes, dtypes and values were checked.

    Raises:
        CorruptFile: the file is not a safetensors file, or holds values that are not numbers where the model has none.
        BadInput: names, shapes or dtypes differ; the message lists the first few.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    own = {name: t for *_, name, t in named_tensors(model)}
    try:
        with safe_open(str(path), "pt") as f:
            tied = _tied(f.metadata() or {})
            parts = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
            _check_fit(own, {n: (tuple(p.get_shape()), str(p.get_dtype())) for n, p in parts.items()}, tied, path)
            loaded = {name: f.get_tensor(name) for name in parts}
    except (SafetensorError, ValueError, RecursionError, OSError, MemoryError) as e:
        if isinstance(e, SartorError):
            raise
        raise CorruptFile(f"{path}: expected a safetensors file; {e}") from e
    for name, t in loaded.items():
        if t.dtype != own[name].dtype:
            raise BadInput(f"{path}: does not fit the model; {name} is {t.dtype} against {own[name].dtype}")
        _check_values(name, t, own[name], path)
    with torch.no_grad():
        for name, t in loaded.items():
            own[name].copy_(t)


def _tied(metadata: Mapping[str, str]) -> dict[str, str]:
    """Other names of tensors that the file holds once, as its metadata say."""
    about = json.loads(metadata.get("sartor", "{}"))
    tied = about["tied"] if isinstance(about, dict) and "tied" in about else json.loads(metadata.get("tied", "{}"))
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise ValueError("its metadata should list names of tied tensors")
    return tied


def _check_fit(
    own: Mapping[str, Tensor], written: Mapping[str, tuple[Any, str]], tied: Mapping[str, str], path: str | Path
) -> None:
    """Compare names and shapes before any tensor is read."""
    missing = [n for n, t in own.items() if n not in written and own.get(tied.get(n, "")) is not t]
    extra = [n for n in written if n not in own]
    wrong = [
        f"{n} {tuple(own[n].shape)} {own[n].dtype} against {shape} {dtype}"
        for n, (shape, dtype) in written.items()
        if n in own and tuple(own[n].shape) != shape
    ]
    if missing or extra or wrong:
        differences = "; ".join(
            f"{what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
            for what, names in (("not in the file", missing), ("not in the model", extra), ("another shape", wrong))
            if names
        )
        raise BadInput(f"{path}: does not fit the model; {differences}")


def _check_values(name: str, t: Tensor, before: Tensor, path: str | Path) -> None:
    """Refuse NaN, and infinite values of parameters; masks in buffers may be infinite."""
    if not (t.is_floating_point() or t.is_complex()) or before.device.type == "meta":
        return
    bad = torch.isnan if not isinstance(before, nn.Parameter) else _not_finite
    if bool(bad(t).any()) and not bool(bad(before).any()):
        raise CorruptFile(f"{path}: {name} holds NaN or infinite values: the network diverged, or the file was changed")


def _not_finite(t: Tensor) -> Tensor:
    return ~torch.isfinite(t)
