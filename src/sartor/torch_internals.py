"""Every private name of PyTorch that Sartor uses, in one place, with what would replace it.

No other file may use a private name of torch; `tests/test_torch_internals.py` reads the source. A new version of
PyTorch that moves one of them is answered here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin as LazyModule
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# OpOverload: the class of `torch.ops.aten.add.Tensor`. Public replacement: none; `type(torch.ops.aten.add.Tensor)`.
# BatchNorm: the base class of every batch norm. Public replacement: the tuple of BatchNorm1d, 2d, 3d, SyncBatchNorm.
# LazyModule: the base class of layers whose parameters get their shapes in the first forward. Public replacement: none.
# TorchDispatchMode: sees every operator that runs inside it. Documented by torch, without a public path.

TENSOR_BASE: Any = torch._C.TensorBase
"""The class in C++ that `torch.Tensor` derives from. Public replacement: `torch.Tensor.__base__`."""

MODULE_CALL = nn.Module._wrapped_call_impl.__code__
"""The code that runs for `module(...)`, as frames on the stack hold it. Public replacement: forward hooks."""


def schema(func: Any) -> Any:
    """The schema of an operator overload: its name and arguments. Public replacement: none."""
    return func._schema


def argument_types(argument: Any) -> tuple[str, str]:
    """The type of an argument of a schema as ("int", "ScalarType"): how it is passed, and what it means.

    Public replacement: none.
    """
    return str(argument.type), str(argument.real_type)


def overload_name(func: OpOverload) -> str:
    """ "Tensor" for `torch.ops.aten.add.Tensor`. Public replacement: the end of `str(func)`."""
    return str(func._overloadname)


def outside_modes() -> AbstractContextManager[Any]:
    """No dispatch mode is active inside. Public replacement: none."""
    return _disable_current_modes()


def own_parameters(module: nn.Module) -> dict[str, Any]:
    """Parameters that a module itself holds, by name, None among them; the table itself, not a copy.

    Public replacement: `named_parameters(recurse=False, remove_duplicate=False)`, which leaves None out.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Any]:
    """Buffers that a module itself holds, as `own_parameters`; public replacement: `named_buffers`."""
    return module._buffers


def children_table(module: nn.Module) -> dict[str, nn.Module | None]:
    """Children of a module by name; the table itself, so that a child can be replaced whatever `__setattr__` does.

    Public replacements: `named_children`, which leaves None and repetitions out, and `set_submodule`.
    """
    return module._modules


def storage_address(t: Tensor) -> int:
    """A number equal for all tensors that share a storage, meta tensors too. Public replacement: none on meta."""
    return int(t.untyped_storage()._cdata)


def is_view(t: Tensor) -> bool:
    """Whether a tensor is a view of another one. Public replacement: `torch.Tensor.is_view` is not documented."""
    return t._base is not None


def dispatch_keys(names: Sequence[str]) -> list[Any]:
    """The dispatch keys of these names that this version of PyTorch has. Public replacement: none."""
    return [getattr(torch._C.DispatchKey, n) for n in names if hasattr(torch._C.DispatchKey, n)]


def is_excluded(key: Any) -> bool:
    """Whether this thread leaves a dispatch key out. Public replacement: none."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded(key)


def set_excluded(key: Any, excluded: bool) -> None:
    """Leave a dispatch key out in this thread, or take it in again. Public replacement: none."""
    torch._C._dispatch_tls_set_dispatch_key_excluded(key, excluded)


def compiled_original(module: nn.Module) -> nn.Module | None:
    """The module that `torch.compile` was called with, if this one is its result. Public replacement: none."""
    frame = sys.modules.get("torch._dynamo.eval_frame")  # importing it takes a second
    if frame is None or not isinstance(module, frame.OptimizedModule):
        return None
    original: nn.Module = module._orig_mod
    return original


def dynamo_limits(**limits: Any) -> AbstractContextManager[Any]:
    """Options of `torch.compile` that hold inside, such as `recompile_limit`. Public replacement: none."""
    import torch._dynamo.config as config

    patched: AbstractContextManager[Any] = config.patch(limits)  # type: ignore[attr-defined]
    return patched


__all__ = [
    "BatchNorm", "LazyModule", "MODULE_CALL", "OpOverload", "TENSOR_BASE", "TorchDispatchMode", "argument_types",
    "children_table", "compiled_original", "dispatch_keys", "dynamo_limits", "is_excluded", "is_view", "outside_modes",
    "overload_name", "own_buffers", "own_parameters", "schema", "set_excluded", "storage_address",
]  # fmt: skip
