"""Named parts of a computation in one file: tensors, numbers, texts, lists and dicts, without pickle.

The file is a safetensors file. Its metadata hold everything but the tensors as JSON, and a SHA-256 over all of it, so
damage is seen. Parts have names ("model", "optimizer", "masks", ...) and may be added without a new format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sartor.errors import BadInput, CorruptFile
from sartor.export.files import atomic_path
from sartor.json_file import parse_json
from sartor.version import version

FORMAT = 1
_COMPLEX = {"complex64": torch.complex64, "complex128": torch.complex128, "complex32": torch.complex32}


def write_parts(path: str | Path, parts: Mapping[str, Any]) -> None:
    """Write named parts completely, or leave the file as it was.

    Args:
        path: of the file.
        parts: name -> None, a truth, number, text or tensor, or lists, tuples and dicts of these; keys of dicts are
            texts or whole numbers.

    Raises:
        BadInput: a part holds something else; names it.
        SartorError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({name: _written(value, tensors, name) for name, value in parts.items()})
    metadata = {
        "format": str(FORMAT), "sartor": version(), "parts": text, "sha256": _digest(text, tensors),
    }  # fmt: skip
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_parts(path: str | Path, most: int | None = None) -> dict[str, Any]:
    """The inverse of `write_parts`; tensors lie on the CPU.

    Args:
        path: of the file.
        most: bytes it may have; None: any number.

    Raises:
        BadInput: there is no such file.
        CorruptFile: it is damaged, too large, or of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if most is not None and path.stat().st_size > most:
        raise CorruptFile(f"{path}: expected at most {most} bytes; it has {path.stat().st_size}")
    try:
        with safe_open(str(path), "pt") as f:
            about = f.metadata() or {}
            if about.get("format") != str(FORMAT):
                raise CorruptFile(f"{path}: expected format {FORMAT}; got {str(about.get('format'))[:40]!r}")
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        text = about["parts"]
        if about["sha256"] != _digest(text, tensors):
            raise CorruptFile(f"{path}: damaged: its SHA-256 is another one")
        raw = parse_json(text, str(path))
        return {name: _read(value, tensors) for name, value in raw.items()}
    except CorruptFile:
        raise
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as e:
        raise CorruptFile(f"{path}: expected named parts as Sartor writes them; {type(e).__name__}: {e}") from e


def _written(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """A value as JSON; its tensors are added to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name, dtype = f"{where}#{len(tensors)}", str(value.dtype).removeprefix("torch.")
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise BadInput(f"parts, {where}: expected a dense tensor with values; got {value.layout} on {value.device}")
        plain = value.detach().cpu()
        plain = torch.view_as_real(plain.resolve_conj()) if dtype in _COMPLEX else plain
        tensors[name] = plain.contiguous().clone()
        return {"tensor": name, "complex": dtype} if dtype in _COMPLEX else {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise BadInput(f"parts, {where}: expected texts or whole numbers as keys; got {key!r}")
        return {"dict": [[k, _written(v, tensors, f"{where}.{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_written(v, tensors, f"{where}.{i}") for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise BadInput(f"parts, {where}: expected plain values and tensors; got {type(value).__name__}")


def _read(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_read(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        t = tensors[value["tensor"]]
        return torch.view_as_complex(t) if "complex" in value else t
    if "tuple" in value:
        return tuple(_read(v, tensors) for v in value["tuple"])
    return {k: _read(v, tensors) for k, v in value["dict"]}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {list(t.shape)}".encode())
        add_values(digest, t)
    return digest.hexdigest()


def add_values(digest: Any, t: Tensor) -> None:
    """Update a digest by the bytes of a dense tensor's values."""
    flat = t.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)


__all__ = ["FORMAT", "add_values", "read_parts", "write_parts"]
