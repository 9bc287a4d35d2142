"""Weights from a file into a module; everything is checked before the module is changed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state_dict.

    PyTorch files are read with `weights_only=True`, which executes no code from them. A state_dict inside
    {"state_dict": ...}, {"model_state_dict": ...} or {"model": ...} is unwrapped; a prefix "module." or "_orig_mod." of
    all names is removed.

    Args:
        path: .safetensors, or a file of `torch.save` that holds tensors only.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        BadInput: no such file, or it holds Python objects.
        CorruptFile: the file is damaged, is no state_dict, or has values that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weights file {str(path)!r}")
    state = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    for wrapper in _WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping):
            state = inner
            break
    no_tensor = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if no_tensor or not state:
        holds = f"{no_tensor[0]!r}: {type(state[no_tensor[0]]).__name__}" if no_tensor else "nothing"
        raise CorruptFile(f"weights {str(path)!r}: expected tensors by name (a state_dict); it holds {holds}")
    for name, value in state.items():
        _check_tensor(name, value, path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            raise CorruptFile(f"weights {str(path)!r}: {name!r} holds NaN or infinite values")
    return dict(state)


def _check_tensor(name: Any, t: Tensor, path: Path) -> None:
    """Refuse a tensor that is not the plain values of the file, before anything is computed with it."""
    what = f"weights {str(path)!r}: "
    if not isinstance(name, str):
        raise CorruptFile(f"{what}expected names of tensors (a state_dict); got the key {name!r}")
    if t.layout is not torch.strided or t.is_quantized or t.device.type != "cpu" or t.is_nested:
        kind = "quantised" if t.is_quantized else "nested" if t.is_nested else f"{t.layout} on {t.device}"
        raise BadInput(f"{what}{name!r}: expected a dense tensor with values; it is {kind}")
    if t.numel() * t.element_size() > t.untyped_storage().nbytes():
        raise CorruptFile(
            f"{what}{name!r}: expected {list(t.shape)} numbers of {t.dtype}; the file holds "
            f"{t.untyped_storage().nbytes()} bytes for it"
        )


def load_weights_(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into the model; on an error the model is unchanged.

    `num_batches_tracked` may be missing, because old files lack it.

    Args:
        model: its state_dict defines the expected names and shapes.
        path: as for `read_weights`.

    Raises:
        BadInput: names or shapes do not fit; the message lists the first of each kind.
        CorruptFile: as `read_weights`.
    """
    state, own = read_weights(path), model.state_dict()
    shapes = {name: list(t.shape) for name, t in own.items() if isinstance(t, Tensor)}
    missing = [n for n in shapes if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    misshaped = [
        f"{n} (file {list(state[n].shape)}, model {shapes[n]})"
        for n in shapes
        if n in state and list(state[n].shape) != shapes[n]
    ]
    faults = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if names
    ]
    if faults:
        raise BadInput(
            f"weights {str(path)!r} do not fit {type(model).__name__} ({len(shapes)} tensors); " + "; ".join(faults)
        )
    model.load_state_dict(state, strict=False)


def _first(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as e:
        raise CorruptFile(f"weights {str(path)!r}: damaged or not a safetensors file ({e})") from e


def _torch(path: Path) -> Mapping[str, Any]:
    _check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        refused = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(e))
        if refused:
            raise BadInput(
                f"weights {str(path)!r}: expected tensors only; the file asks for {refused[1]}, and Sartor runs no "
                "code from files. Save it again with torch.save(model.state_dict(), ...) or as safetensors"
            ) from None
        raise CorruptFile(f"weights {str(path)!r}: damaged or not a PyTorch file ({_line(e)})") from e
    except Exception as e:
        raise CorruptFile(
            f"weights {str(path)!r}: damaged or not a PyTorch file ({type(e).__name__}: {_line(e)})"
        ) from e
    if not isinstance(state, Mapping):
        raise CorruptFile(f"weights {str(path)!r}: expected tensors by name (a state_dict); got {type(state).__name__}")
    return state


def _check_archive(path: Path) -> None:
    """PyTorch stores tensors without compression: an archive that grows when it is read was not written by it."""
    if not zipfile.is_zipfile(path):
        return  # the older format
    try:
        with zipfile.ZipFile(path) as archive:
            content = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        raise CorruptFile(f"weights {str(path)!r}: damaged or not a PyTorch file ({_line(e)})") from e
    size = path.stat().st_size
    if content > 2 * size + 2**20:
        raise CorruptFile(
            f"weights {str(path)!r}: expected at most {size} bytes of content, as the file has; got {content}"
        )


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
