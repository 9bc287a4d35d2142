"""Modules around a network (data parallel, compiled, averaged): the network inside, or a refusal by name.

A wrapper adds a prefix to every name and a forward of its own, and holds nothing that is cut. What cannot be followed
operator by operator, such as TorchScript, is refused with what to pass instead.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sartor.errors import BadInput
from sartor.torch_internals import LazyModule, children_table, compiled_original

_SHARDED = {  # where a class comes from -> its name; looked up only if something has imported that module
    "torch.distributed.fsdp": ("FullyShardedDataParallel", "FSDPModule"),
}


class Unwrapped(NamedTuple):
    """A network without what was around it."""

    module: nn.Module
    wrappers: tuple[str, ...]  # names of the classes that were around it, from the outside


def unwrapped(model: Any) -> Unwrapped:
    """The network inside DataParallel, DistributedDataParallel, AveragedModel and what `torch.compile` returns.

    Args:
        model: what a user calls a model.

    Returns:
        The module inside, which is the user's own, and the names of its wrappers; none for an ordinary module.

    Raises:
        BadInput: not a module; or one that cannot be followed (TorchScript, an `ExportedProgram`, sharded parameters,
            a lazy layer without parameters); the message names it and says what to pass.
    """
    names: list[str] = []
    while isinstance(model, nn.Module) and (inside := _inside(model)) is not None:
        names.append("torch.compile" if compiled_original(model) is inside else type(model).__name__)
        model = inside
    _check(model)
    return Unwrapped(model, tuple(names))


def innermost(model: nn.Module) -> nn.Module:
    """The network inside its wrappers, whether it can be cut or not: what is measured and gets weights."""
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def wrapped_like(network: nn.Module, model: nn.Module) -> nn.Module:
    """The network inside DataParallel if the model is; other wrappers belong to a process or a compiler.

    Args:
        network: a plain module.
        model: what the user passed.
    """
    if not isinstance(model, DataParallel) or _inside(model.module) is not None:
        return network
    if not model.device_ids:  # without devices it only calls the network
        return DataParallel(network)
    return DataParallel(network, model.device_ids, model.output_device, model.dim)


def wrapper_note(wrappers: tuple[str, ...]) -> str:
    """One sentence for the record of a run.

    >>> wrapper_note(("DataParallel",))
    'the model was wrapped in DataParallel; the network inside it was fitted, and names in files have no prefix'
    """
    around = " and ".join(wrappers)
    again = "" if wrappers == ("DataParallel",) else "; wrap the result again"
    fitted = "the network inside it was fitted, and names in files have no prefix"
    return f"the model was wrapped in {around}; {fitted}{again}"


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper is around; None: the module is no wrapper."""
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        inside = model.module
        assert isinstance(inside, nn.Module)
        return inside
    return compiled_original(model)


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        if type(model).__name__ == "ExportedProgram":
            raise BadInput(
                "model: an ExportedProgram is not a module; pass program.module(), or the module it was exported from"
            )
        raise BadInput(f"model: expected a torch.nn.Module; got {type(model).__name__}")
    sharded = tuple(
        getattr(sys.modules[home], name)
        for home, names in _SHARDED.items()
        for name in names
        if home in sys.modules and hasattr(sys.modules[home], name)
    )
    suspects = (ScriptModule, LazyModule, *sharded)
    if not any(issubclass(kind, suspects) for kind in _kinds(model)):
        return
    for path, module in model.named_modules():
        where = f"module {path!r}" if path else "the model"
        if isinstance(module, ScriptModule):
            raise BadInput(
                f"model: {where} is a {type(module).__name__}, that is TorchScript, which cannot be followed "
                "operator by operator; pass the eager module that torch.jit.script or torch.jit.trace was called with"
            )
        if isinstance(module, LazyModule) and module.has_uninitialized_params():  # type: ignore[misc]
            raise BadInput(
                f"model: {where} is a {type(module).__name__} whose parameters have no shape yet; "
                "run the model once, model(*example), and pass it then"
            )
        if sharded and isinstance(module, sharded):
            raise BadInput(
                f"model: {where} is sharded ({type(module).__name__}), so no process holds whole parameters; fit the "
                "model before it is sharded"
            )


def _kinds(model: nn.Module) -> set[type]:
    """The classes of all modules."""
    seen: set[nn.Module] = set()
    todo = [model]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [child for child in children_table(module).values() if child is not None]
    return set(map(type, seen))


__all__ = ["Unwrapped", "innermost", "unwrapped", "wrapped_like", "wrapper_note"]
