"""The targets by name, and the little language that says one: "onnxruntime-cpu:threads=1,batch=8"."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.measure.openvino_backend import openvino, openvino_file
from sartor.measure.ort_backend import no_provider, onnx_file, onnxruntime, runtime
from sartor.measure.runnable import Runnable
from sartor.measure.target_files import describes, named, read_target, targets_here
from sartor.measure.torch_backends import compiled, eager, no_compiler, no_cuda
from sartor.registry import Entry, Registry
from sartor.structure.example import Example
from sartor.types import Target


class Backend(Protocol):
    """Puts a model on a target; registered with the trait `dtypes`, those it can compute in.

    Optional traits:
        why_not: a function () -> reason why it does not work here, or None.
        package, extra: what must be installed, and how it is called in pip's brackets.
        file: puts an .onnx file on it, see `RunsFile`.
        runtime: a function (facts of the machine) -> name and version of the runtime; the `package`'s, else torch's.
        facts: a function () -> facts of the machine, as `sartor.measure.environment` has them; of this one.
        label: what tables of latency call it; its name.
    """

    def __call__(self, model: nn.Module, example: Example, target: Target, *, fast: bool = True) -> Runnable: ...


class RunsFile(Protocol):
    """Puts an .onnx file on a target; `sizes` are lengths of free dimensions by name."""

    def __call__(self, path: Path, target: Target, sizes: Mapping[str, int]) -> Runnable: ...


TARGETS: Registry[Backend] = Registry("target")
_TORCH, _COMPILE, _ORT, _OPENVINO, _TENSORRT = (
    "https://docs.pytorch.org/docs/stable/notes/inference.html",
    "doi:10.1145/3620665.3640366",
    "https://onnxruntime.ai/docs/performance/",
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference.html",
    "https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html",
)
_TORCH_DTYPES = ("float32", "float16", "bfloat16")


def _always() -> str | None:
    return None


for _name, _backend, _source, _summary, _why in (
    ("eager-cpu", eager, _TORCH, "the module as it is, on the CPU", _always),
    ("eager-cuda", eager, _TORCH, "the module as it is, on a CUDA device", no_cuda),
    ("compile-cpu", compiled, _COMPILE, "torch.compile, on the CPU", no_compiler),
    ("compile-cuda", compiled, _COMPILE, "torch.compile, on a CUDA device", no_cuda),
):
    TARGETS.add(_name, _backend, source=_source, summary=_summary, why_not=_why, dtypes=_TORCH_DTYPES)
for _name, _source, _summary, _dtypes in (
    ("onnxruntime-cpu", _ORT, "ONNX Runtime, on the CPU", ("float32", "float16", "int8")),
    ("onnxruntime-cuda", _ORT, "ONNX Runtime, on a CUDA device", ("float32", "float16")),
    ("tensorrt-cuda", _TENSORRT, "TensorRT through ONNX Runtime, on a CUDA device", ("float32", "float16")),
):
    TARGETS.add(
        _name, onnxruntime, source=_source, summary=_summary, why_not=partial(no_provider, _name), dtypes=_dtypes,
        package="onnxruntime", extra="onnx", runtime=runtime, file=onnx_file,
    )  # fmt: skip
TARGETS.add(
    "openvino-cpu", openvino, source=_OPENVINO, summary="OpenVINO, on the CPU", package="openvino", extra="openvino",
    dtypes=("float32", "float16", "bfloat16", "int8"), file=openvino_file,
)  # fmt: skip


def find_target(name: str) -> Entry[Backend]:
    """What is known of a target: one of TARGETS, or the file of that path or name (see `target_files`).

    Raises:
        UnknownName: there is none; the message names the nearest.
        BadInput: its file is wrong.
    """
    if name in TARGETS:
        return TARGETS[name]
    path = Path(name) if describes(name) else named(name)
    if path is None:
        raise UnknownName("target", name, [*TARGETS, *targets_here()])
    return read_target(path, name)


def parse_target(text: str | Target) -> Target:
    """Read a target; one already made is checked and passes through.

    Args:
        text: "backend-device", or the path of a file that describes a target, or such a file's name without its ending
            where it lies in a folder of targets; optionally ":" and options threads (0: every usable core), batch
            (>= 1) and dtype (what the target offers of float32, float16, bfloat16, int8).

    Raises:
        UnknownName: no such target or option; the message names the nearest.
        BadInput: an option's value is not what it takes, or the target's file is wrong.

    >>> parse_target("onnxruntime-cpu:threads=1,batch=8")
    Target(backend='onnxruntime', device='cpu', threads=1, batch=8, dtype='float32')
    """
    if isinstance(text, Target):
        target = text
    elif isinstance(text, str) and text.strip():
        target = _read(text.strip())
    else:
        raise BadInput(f"target: expected text such as 'onnxruntime-cpu' or 'eager-cpu:threads=1'; got {text!r}")
    dtypes = find_target(target.name).traits["dtypes"]  # an unknown name is said here
    if target.dtype not in dtypes:
        others = [e.name for e in TARGETS.entries() if target.dtype in e.traits["dtypes"]]
        raise BadInput(
            f"target {target.name!r}, dtype: expected {' or '.join(dtypes)}; got {target.dtype!r}"
            + (f", which {', '.join(others)} have" if others else "")
        )
    for option, least in (("threads", 0), ("batch", 1)):
        if getattr(target, option) < least:
            raise BadInput(
                f"target {target.name!r}, {option}: expected at least {least}; got {getattr(target, option)}"
            )
    return target


_TEXT = re.compile(r"(.+?\.(?:py|toml)|[^:]*)(?::(.*))?")  # a path may have a colon of its own


def _read(text: str) -> Target:
    parts = _TEXT.fullmatch(text)
    name, options = (parts[1].strip(), parts[2]) if parts else (text, None)
    if name in TARGETS:
        backend, _, device = name.rpartition("-")
        target = Target(backend, device)
    else:
        find_target(name)
        target = Target(name, "")
    if options is None:
        return target
    if not options.strip():
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


def entries() -> list[Entry[Backend]]:
    """Every target by name: TARGETS, and the files in the folders of targets; what is wrong with one is its why_not."""
    found = TARGETS.entries()
    for name, path in targets_here().items():
        if name in TARGETS:
            continue
        try:
            found.append(read_target(path, name))
        except SartorError as e:
            found.append(Entry(name, onnxruntime, str(path), "", {"dtypes": (), "why_not": partial(str, e)}))
    return sorted(found, key=lambda e: e.name)


def available() -> list[tuple[str, bool, str]]:
    """(name, whether it works here, why not) of every target, by name."""
    return [(e.name, (why := why_not_here(e.name)) is None, why or "") for e in entries()]


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
    traits = find_target(name).traits
    if "package" in traits and importlib.util.find_spec(traits["package"]) is None:
        raise MissingExtra(traits["package"], traits["extra"], f"target {name!r}")
    check: Callable[[], str | None] = traits.get("why_not", _always)
    why = check()
    if why:
        raise SartorError(f"target {name!r} does not work here: {why}")
