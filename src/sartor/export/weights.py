"""Weights as safetensors: all parameters and buffers by name, tied ones once; loading is all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sartor.errors import BadInput, CorruptFile
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
    """Copy weights into the model exactly, after all names, shapes and dtypes were checked.

    Raises:
        CorruptFile: the file is not a safetensors file.
        BadInput: names, shapes or dtypes differ; the message lists the first few.
    """
    try:
        with safe_open(str(path), "pt") as f:
            metadata = f.metadata() or {}
            about = json.loads(metadata.get("sartor", "{}"))
            tied = about["tied"] if "tied" in about else json.loads(metadata.get("tied", "{}"))
            loaded = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except FileNotFoundError as e:
        raise BadInput(f"{path}: no such file") from e
    except (SafetensorError, json.JSONDecodeError, OSError) as e:
        raise CorruptFile(f"{path}: expected a safetensors file; {e}") from e
    own = {name: t for *_, name, t in named_tensors(model)}
    missing = [n for n in own if n not in loaded and n not in tied]
    extra = [n for n in loaded if n not in own]
    wrong = [
        f"{n} {tuple(own[n].shape)} {own[n].dtype} against {tuple(t.shape)} {t.dtype}"
        for n, t in loaded.items()
        if n in own and (own[n].shape != t.shape or own[n].dtype != t.dtype)
    ]
    if missing or extra or wrong:
        differences = "; ".join(
            f"{what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
            for what, names in (("not in the file", missing), ("not in the model", extra), ("another shape", wrong))
            if names
        )
        raise BadInput(f"{path}: does not fit the model; {differences}")
    with torch.no_grad():
        for name, t in loaded.items():
            own[name].copy_(t)
