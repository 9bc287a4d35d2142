"""The targets by name, and the little language that says one: "onnxruntime-cpu:threads=1,batch=8"."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.measure.ort_backend import no_provider, onnxruntime
from sartor.measure.runnable import Runnable
from sartor.measure.torch_backends import compiled, eager, no_compiler, no_cuda
from sartor.registry import Registry
from sartor.structure.example import Example
from sartor.types import Target


class Backend(Protocol):
    """Puts a model on a target; registered with the trait `why_not`, a function () -> reason or None.

    Optional traits: `package` and `extra`, what must be installed and how it is called in pip's brackets.
    """

    def __call__(self, model: nn.Module, example: Example, target: Target, *, fast: bool = True) -> Runnable: ...


TARGETS: Registry[Backend] = Registry("target")
DTYPES = ("float32", "float16", "bfloat16")
_TORCH, _COMPILE, _ORT = (
    "https://docs.pytorch.org/docs/stable/notes/inference.html",
    "doi:10.1145/3620665.3640366",
    "https://onnxruntime.ai/docs/performance/",
)


def _always() -> str | None:
    return None


TARGETS.add("eager-cpu", eager, source=_TORCH, summary="the module as it is, on the CPU", why_not=_always)
TARGETS.add("eager-cuda", eager, source=_TORCH, summary="the module as it is, on a CUDA device", why_not=no_cuda)
TARGETS.add("compile-cpu", compiled, source=_COMPILE, summary="torch.compile, on the CPU", why_not=no_compiler)
TARGETS.add("compile-cuda", compiled, source=_COMPILE, summary="torch.compile, on a CUDA device", why_not=no_cuda)
for _device, _where in (("cpu", "the CPU"), ("cuda", "a CUDA device")):
    TARGETS.add(
        f"onnxruntime-{_device}",
        onnxruntime,
        source=_ORT,
        summary=f"ONNX Runtime, on {_where}",
        why_not=partial(no_provider, _device),
        package="onnxruntime",
        extra="onnx",
    )


def parse_target(text: str | Target) -> Target:
    """Read a target; one already made is checked and passes through.

    Args:
        text: "backend-device", optionally ":" and options threads (0: every usable core), batch (>= 1) and dtype
            (float32, float16, bfloat16).

    Raises:
        UnknownName: no such target or option; the message names the nearest.
        BadInput: an option's value is not what it takes.

    >>> parse_target("onnxruntime-cpu:threads=1,batch=8")
    Target(backend='onnxruntime', device='cpu', threads=1, batch=8, dtype='float32')
    """
    if isinstance(text, Target):
        target = text
    elif isinstance(text, str) and text.strip():
        target = _read(text.strip())
    else:
        raise BadInput(f"target: expected text such as 'onnxruntime-cpu' or 'eager-cpu:threads=1'; got {text!r}")
    TARGETS[target.name]  # an unknown name is said here
    if target.dtype not in DTYPES:
        raise BadInput(f"target {target.name!r}, dtype: expected one of {', '.join(DTYPES)}; got {target.dtype!r}")
    for option, least in (("threads", 0), ("batch", 1)):
        if getattr(target, option) < least:
            raise BadInput(
                f"target {target.name!r}, {option}: expected at least {least}; got {getattr(target, option)}"
            )
    return target


def _read(text: str) -> Target:
    name, colon, options = text.partition(":")
    name = name.strip()
    backend, dash, device = name.rpartition("-")
    if not dash or name not in TARGETS:
        raise UnknownName("target", name, TARGETS)
    target = Target(backend, device)
    if colon and not options.strip():
        raise BadInput(f"target {text!r}: expected options after ':', such as 'threads=1'; got nothing")
    seen: set[str] = set()
    for part in filter(str.strip, options.split(",")):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not value:
            raise BadInput(f"target {text!r}: expected 'option=value'; got {part.strip()!r}")
        if key not in ("threads", "batch", "dtype"):
            raise UnknownName("option of a target", key, ("threads", "batch", "dtype"))
        if key in seen:
            raise BadInput(f"target {text!r}: {key} is said twice")
        seen.add(key)
        if key == "dtype":
            target = dataclasses.replace(target, dtype=value)
        elif value.lstrip("-").isdecimal():
            number = int(value)
            target = (
                dataclasses.replace(target, threads=number)
                if key == "threads"
                else dataclasses.replace(target, batch=number)
            )
        else:
            raise BadInput(f"target {text!r}, {key}: expected a whole number; got {value!r}")
    return target


def show_target(target: Target) -> str:
    """The text that reads back to this target.

    >>> show_target(Target("eager", batch=8))
    'eager-cpu:batch=8'
    """
    plain = Target(target.backend, target.device)
    options = [f"{k}={v}" for k in ("threads", "batch", "dtype") if (v := getattr(target, k)) != getattr(plain, k)]
    return target.name + (":" + ",".join(options) if options else "")


def available() -> list[tuple[str, bool, str]]:
    """(name, whether it works here, why not) of every target, by name."""
    return [(e.name, (why := why_not_here(e.name)) is None, why or "") for e in TARGETS.entries()]


def why_not_here(name: str) -> str | None:
    """Why this target does not work on this machine; None when it does."""
    try:
        require(name)
    except SartorError as e:
        return str(e)
    return None


def require(name: str) -> None:
    """Raise what stands in the way of this target on this machine.

    Raises:
        MissingExtra: its package is not installed.
        SartorError: anything else, such as no CUDA device.
    """
    traits = TARGETS[name].traits
    if "package" in traits and importlib.util.find_spec(traits["package"]) is None:
        raise MissingExtra(traits["package"], traits["extra"], f"target {name!r}")
    check: Callable[[], str | None] = traits.get("why_not", _always)
    why = check()
    if why:
        raise SartorError(f"target {name!r} does not work here: {why}")
