"""The targets by name, and the text that names one with its options: "onnxruntime-cpu:threads=1,batch=8"."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.measure.onnx_runtimes import Inputs
from sartor.measure.openvino_backend import openvino, openvino_file
from sartor.measure.ort_backend import no_provider, onnx_file, onnxruntime, runtime
from sartor.measure.runnable import Runnable
from sartor.measure.target_files import describes, file_named, read_target, targets_here
from sartor.measure.torch_backends import compiled, eager, no_compiler, no_cuda
from sartor.registry import Entry, Registry
from sartor.structure.example import Example
from sartor.types import Target


class Backend(Protocol):
    """Puts a model on a target; registered with the trait `dtypes`, those it can compute in.

    Optional traits:
        why_not: a function () -> reason why the target does not work here, or None.
        package, extra: the package it needs, and the extra of Sartor that installs it.
        file: puts an .onnx file on the target, see `RunsFile`.
        lowers_precision: whether it converts a float32 file to its dtype itself.
        rehearsal: another backend that runs much the same kernels and is ready at once, for a target that takes long to
            prepare a network; see `rehearsal_target`.
        node_times: dtypes in which ONNX Runtime's profiler can time single operators on it; see `has_node_times`.
        runtime: a function (facts of the machine) -> name and version of the runtime. Default: those of `package`, or
            of torch without a package.
        facts: a function () -> facts of the machine, with the keys of `sartor.measure.environment`. Default: those of
            this machine.
        label: its name in tables of latency. Default: the name of the target.
    """

    def __call__(self, model: nn.Module, example: Example, target: Target, *, fast: bool = True) -> Runnable: ...


class RunsFile(Protocol):
    """Puts an .onnx file on a target; `inputs` makes arrays for the inputs that the file declares."""

    def __call__(self, path: Path, target: Target, inputs: Inputs) -> Runnable: ...


TARGETS: Registry[Backend] = Registry("target")
_TORCH, _COMPILE, _ORT, _OPENVINO, _TENSORRT = (
    "https://docs.pytorch.org/docs/stable/notes/inference.html",
    "doi:10.1145/3620665.3640366",
    "https://onnxruntime.ai/docs/performance/",
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference.html",
    "https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html",
)
_TORCH_DTYPES = ("float32", "float16", "bfloat16")
DEFAULTS = ("onnxruntime-cpu", "eager-cpu")


def _always() -> str | None:
    return None


for _device, _where, _why in (("cpu", "on the CPU", _always), ("cuda", "on a CUDA device", no_cuda)):
    TARGETS.add(
        f"eager-{_device}", eager, source=_TORCH, summary=f"the module as it is, {_where}", why_not=_why,
        dtypes=_TORCH_DTYPES,
    )  # fmt: skip
    TARGETS.add(
        f"compile-{_device}", compiled, source=_COMPILE, summary=f"torch.compile, {_where}",
        why_not=no_compiler if _device == "cpu" else _why, dtypes=_TORCH_DTYPES, rehearsal="eager",
    )  # fmt: skip
for _name, _source, _summary, _traits in (
    (
        "onnxruntime-cpu", _ORT, "ONNX Runtime, on the CPU",
        {"dtypes": ("float32", "float16", "int8"), "node_times": ("float32", "float16")},
    ),
    ("onnxruntime-cuda", _ORT, "ONNX Runtime, on a CUDA device", {"dtypes": ("float32", "float16")}),
    ("tensorrt-cuda", _TENSORRT, "TensorRT through ONNX Runtime, on a CUDA device", {"dtypes": ("float32", "float16")}),
):  # fmt: skip
    TARGETS.add(
        _name, onnxruntime, source=_source, summary=_summary, why_not=partial(no_provider, _name),
        package="onnxruntime", extra="onnx", runtime=runtime, file=onnx_file, **_traits,
    )  # fmt: skip
TARGETS.add(
    "openvino-cpu", openvino, source=_OPENVINO, summary="OpenVINO, on the CPU", package="openvino", extra="openvino",
    dtypes=("float32", "float16", "bfloat16", "int8"), file=openvino_file, lowers_precision=True,
)  # fmt: skip


def find_target(name: str) -> Entry[Backend]:
    """The registry entry of a target: one of TARGETS, or that of a file (see `sartor.measure.target_files`).

    Raises:
        UnknownName: there is none; the message names the nearest.
        BadInput: its file is wrong.
    """
    if name in TARGETS:
        return TARGETS[name]
    path = Path(name) if describes(name) else file_named(name)
    if path is None:
        raise UnknownName("target", name, [*TARGETS, *targets_here()])
    return read_target(path, name)


def parse_target(text: str | Target) -> Target:
    """Read the text of a target; a `Target` is checked and returned.

    Args:
        text: "backend-device", or the path of a file that describes a target, or such a file's name without its ending
            if it is in a folder of targets; optionally ":" and options threads (0: every usable core), batch
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
    dtypes = find_target(target.name).traits["dtypes"]  # raises UnknownName
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
            raise BadInput(f"target {text!r}: {key} is given twice")
        seen.add(key)
        if key == "dtype":
            target = dataclasses.replace(target, dtype=value)
        elif value.removeprefix("-").isdecimal() and len(value) < 12:
            number = int(value)
            target = (
                dataclasses.replace(target, threads=number)
                if key == "threads"
                else dataclasses.replace(target, batch=number)
            )
        else:
            raise BadInput(f"target {text!r}, {key}: expected a whole number; got {value[:80]!r}")
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
    """Every target by name: TARGETS, and the files in the folders of targets; an error in a file is its why_not."""
    known = TARGETS.entries()
    for name, path in targets_here().items():
        if name in TARGETS:
            continue
        try:
            known.append(read_target(path, name))
        except SartorError as e:
            known.append(Entry(name, onnxruntime, str(path), "", {"dtypes": (), "why_not": partial(str, e)}))
    return sorted(known, key=lambda e: e.name)


def rehearsal_target(target: Target) -> Target | None:
    """A target with much the same kernels on which networks are ready at once; None: this one is quick itself.

    >>> rehearsal_target(Target("compile", threads=1))
    Target(backend='eager', device='cpu', threads=1, batch=1, dtype='float32')
    """
    backend = find_target(target.name).traits.get("rehearsal")
    return None if backend is None else dataclasses.replace(target, backend=backend)


def has_node_times(target: Target) -> bool:
    """Whether ONNX Runtime's profiler can time single operators on this target."""
    return target.dtype in find_target(target.name).traits.get("node_times", ())


def runs_files(target: Target) -> bool:
    """Whether .onnx files can be put on this target."""
    return "file" in find_target(target.name).traits


def file_dtype(target: Target) -> str | None:
    """The dtype of the .onnx file that is delivered for a target; None: the target reads modules.

    An int8 target quantises a float32 file when it loads it.

    >>> file_dtype(Target("onnxruntime", dtype="float16")), file_dtype(Target("eager"))
    ('float16', None)
    """
    if not runs_files(target):
        return None
    lowers = find_target(target.name).traits.get("lowers_precision", False)
    return "float16" if target.dtype == "float16" and not lowers else "float32"


def default_target() -> str:
    """Where latency is measured if nobody names a target: the first of DEFAULTS that works on this machine."""
    return next((name for name in DEFAULTS if why_not_here(name) is None), DEFAULTS[-1])


def available() -> list[tuple[str, bool, str]]:
    """(name, whether it works here, the reason if not) of every target, by name."""
    return [(e.name, (why := why_not_here(e.name)) is None, why or "") for e in entries()]


def why_not_here(name: str) -> str | None:
    """Why this target does not work on this machine; None if it does."""
    try:
        require(name)
    except SartorError as e:
        return str(e)
    return None


def require(name: str) -> None:
    """Raise an error if this target does not work on this machine.

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
