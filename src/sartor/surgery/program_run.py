"""Running the steps of a program, on values or, to learn how much memory they take, on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput
from sartor.structure.rules.registry import facts
from sartor.surgery.program_steps import Step
from sartor.surgery.size_formula import evaluated
from sartor.torch_internals import TorchDispatchMode, outside_modes, schema, storage_address
from sartor.units import show_bytes

ALWAYS_ALLOWED = 512 * 2**20  # bytes that the values of one call may take at a time, whatever the module is
PER_WEIGHT_BYTE = 16  # and in addition, for each byte of the module's parameters and buffers
PER_INPUT_BYTE = 1024  # and for each byte of its inputs: attention makes a value for each pair of positions
_META = torch.device("meta")
Named = Callable[[str], Tensor]  # name of a parameter or buffer -> the tensor


def run_steps(steps: Sequence[Step], module: nn.Module, given: Sequence[Tensor]) -> dict[int, Any]:
    """The values that are left after the last step, by slot."""
    env: dict[int, Any] = dict(enumerate(given))
    where = given[0].device if given else next(module.parameters()).device
    real = partial(_real, env, partial(_tensor, module), where, module.training)
    for step in steps:
        _run_step(step, env, real)
    return env


def _run_step(step: Step, env: dict[int, Any], real: Callable[[Any], Any]) -> None:
    func, a, k, outs, drop = step
    out = func(*[real(v) for v in a], **{key: real(v) for key, v in k.items()})
    if len(outs) == 1 and not isinstance(out, list | tuple):
        env[outs[0]] = out
    elif outs:
        if len(out) < len(outs):
            raise BadInput(f"rewritten forward: {schema(func).name} gave {len(out)} tensors, expected {len(outs)}")
        env.update(zip(outs, out))
    del out  # otherwise it would live through the next step
    for slot in drop:
        env.pop(slot, None)


def _real(env: Mapping[int, Any], named: Named, where: torch.device, training: bool, x: Any) -> Any:
    """The value of an argument. Not a closure: its reference cycle would keep activations alive."""
    if isinstance(x, list):
        return [_real(env, named, where, training, v) for v in x]
    if not isinstance(x, dict):
        return x
    (kind, v), *_ = x.items()
    if kind == "slot":
        return env[v]
    if kind == "tensor":
        return named(v)
    if kind == "size":
        return size_of(env, v)
    if kind == "modes":
        return _real(env, named, where, training, v[training])
    if kind == "device":
        return where
    return float(v) if kind == "float" else getattr(torch, v)


def size_of(tensors: Any, formula: Mapping[str, Any]) -> int:
    """The number that a formula gives for these tensors."""
    return evaluated(formula, lambda slot, d: tensors[slot].shape[d])


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, key = name.rpartition(".")
    found: Tensor = getattr(module.get_submodule(path), key)
    return found


def computes_values(given: Sequence[Tensor]) -> bool:
    """Whether a call with these tensors takes memory: it is not recorded, exported or compiled, nor run on meta."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(type(t) in (Tensor, nn.Parameter) and t.device.type != "meta" for t in given)


def check_memory(steps: Sequence[Step], module: nn.Module, given: Sequence[Tensor]) -> None:
    """Run the steps on meta tensors, and refuse them if their values would take too much memory at a time.

    Raises:
        BadInput: a step takes more than `ALWAYS_ALLOWED` and the shares of module and inputs, or cannot run.
    """
    weights = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    allowed = ALWAYS_ALLOWED + PER_WEIGHT_BYTE * weights + PER_INPUT_BYTE * sum(t.nbytes for t in given)
    env: dict[int, Any] = {i: _on_meta(t) for i, t in enumerate(given)}
    known: dict[str, Tensor] = {}
    real = partial(_real, env, partial(_named_on_meta, module, known), _META, module.training)
    with outside_modes(), torch.no_grad(), _Largest(allowed):
        for i, step in enumerate(steps):
            if not step[3] and not schema(step[0]).is_mutable:
                continue  # asks for a value, which meta tensors do not have
            place = f"rewritten forward of {type(module).__name__}, step {i}, {schema(step[0]).name}"
            try:
                _run_step(step, env, real)
            except _TooLarge as e:
                raise _refusal(place, e.args[0], allowed) from None
            except Exception as e:
                raise BadInput(f"{place}: does not run with these inputs: {str(e).strip().splitlines()[0]}") from e
            held = {storage_address(t): t.untyped_storage().nbytes() for t in env.values() if isinstance(t, Tensor)}
            if sum(held.values()) > allowed:
                raise _refusal(place, sum(held.values()), allowed)


def _refusal(place: str, size: int, allowed: int) -> BadInput:
    return BadInput(
        f"{place}: would take {show_bytes(size)}; a network from a file may take {show_bytes(allowed)} for inputs of "
        "this size. If you trust the file: sartor.load(..., trust=True)"
    )


def _on_meta(t: Tensor) -> Tensor:
    """Of the same shape. Under autocast, operators accept mixed dtypes, which they do not on meta."""
    mixed = torch.is_autocast_enabled(t.device.type) and t.is_floating_point()
    return torch.empty(t.shape, dtype=torch.float32 if mixed else t.dtype, device=_META)


def _named_on_meta(module: nn.Module, known: dict[str, Tensor], name: str) -> Tensor:
    if name not in known:
        known[name] = _on_meta(_tensor(module, name))
    return known[name]


class _TooLarge(Exception):
    """A value takes more bytes than are allowed."""


class _Largest(TorchDispatchMode):
    """Raises when an operator, or a part of one, makes a value of more than `allowed` bytes."""

    def __init__(self, allowed: int):
        super().__init__()
        self.allowed = allowed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if facts(func).takes_device:
            kwargs["device"] = _META
        out = func(*args, **kwargs)
        for t in out if isinstance(out, list | tuple) else (out,):
            if isinstance(t, Tensor) and t.untyped_storage().nbytes() > self.allowed:
                raise _TooLarge(t.untyped_storage().nbytes())
        return out


__all__ = ["check_memory", "computes_values", "run_steps", "size_of"]
