"""A target of the user's own: a Python file with a function from an artefact to a callable that runs it once."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from sartor.errors import BadInput, SartorError
from sartor.measure.environment import environment
from sartor.measure.onnx_runtimes import Loaded, check_agreement, from_file, through_onnx
from sartor.measure.program import capture
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.measure.torch_backends import placed
from sartor.registry import Entry
from sartor.structure.example import call, tensors
from sartor.types import Target

ARTEFACTS = {"onnx": ("float32", "float16", "int8"), "pt2": ("float32", "float16")}  # and dtypes there can be


def own_target(path: Path, name: str) -> Entry[Any]:
    """What a Python file says of its target.

    The file has `load(artefact, inputs, target)`: a `Path` to the model, a list of NumPy arrays in the order of its
    inputs, and the `Target` (threads, batch, dtype). It returns a function that runs one inference and returns when
    that is done; arrays it returns are compared with what the model computes. That function may have the attributes
    `seconds`, a function n -> seconds that n inferences took on a clock of the target's own, and `close`, called once.
    The file may also say ARTEFACT, "onnx" (as if unsaid) or "pt2"; DTYPES, those it runs, ("float32",) if unsaid;
    `why_not()`, why it does not work here, or None; and `facts()`, the machine's, as `environment` has them.

    Raises:
        BadInput: it does not run as Python, lacks `load`, or says something of another kind.
    """
    module = _module(path, name)
    artefact, dtypes = getattr(module, "ARTEFACT", "onnx"), getattr(module, "DTYPES", ("float32",))
    if artefact not in ARTEFACTS:
        raise BadInput(f"target {name!r}, ARTEFACT: expected {' or '.join(ARTEFACTS)}; got {artefact!r}")
    fine = ARTEFACTS[artefact]
    if isinstance(dtypes, str) or not dtypes or not set(dtypes) <= set(fine):
        raise BadInput(f"target {name!r}, DTYPES: expected some of {', '.join(fine)} as a tuple; got {dtypes!r}")
    for function in ("load", "why_not", "facts"):
        if not callable(getattr(module, function, None)) and (function == "load" or hasattr(module, function)):
            raise BadInput(f"target {name!r}: expected a function {function!r} in {path}; see docs/targets.md")
    said = f"{path.stem} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    traits: dict[str, Any] = {"dtypes": tuple(dtypes), "runtime": lambda facts: said, "label": path.stem}
    traits |= {k: getattr(module, k) for k in ("why_not", "facts") if hasattr(module, k)}
    if artefact == "onnx":
        load = partial(_load, module)
        backend: Any = partial(_own_onnx, load)
        traits["file"] = lambda path, target, sizes: from_file(path, target, partial(load, target), sizes)
    else:
        backend = partial(_own_pt2, module)
    summary = (module.__doc__ or "a target of your own").strip().split("\n")[0]
    return Entry(name, backend, str(path), summary, traits)


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sartor_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"target {name!r}: {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise BadInput(f"target {name!r}: {path} does not run; {first_line(e)}") from e
    return module


def _own_onnx(load: Any, model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    half = "float16" if target.dtype == "float16" else "float32"
    return through_onnx(model, example, target, partial(load, target), fast=fast, fixed=True, graph_dtype=half)


def _own_pt2(module: ModuleType, model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    start = time.perf_counter()
    net, inputs = placed(model, example, Target("eager", "cpu", target.threads, target.batch, target.dtype))
    with torch.inference_mode():
        expected = call(net, inputs)
    program = capture(net, inputs, fixed="it is the target's").exported
    arrays = [t.numpy() for t in tensors(inputs)]
    name = f"the export of {type(model).__name__}"
    loaded = _put(module, target, lambda path: torch.export.save(program, path), ".pt2", arrays)
    try:
        check_agreement(expected, loaded.outputs(), target, name)
    except BaseException:
        loaded.runnable.close()
        raise
    loaded.runnable.detail = {"prepare_s": time.perf_counter() - start}
    return loaded.runnable


def _load(module: ModuleType, target: Target, model: bytes | Path, feed: Mapping[str, np.ndarray], name: str) -> Loaded:
    data = model if isinstance(model, bytes) else model.read_bytes()
    return _put(module, target, lambda path: path.write_bytes(data), ".onnx", list(feed.values()))


def _put(
    module: ModuleType, target: Target, write: Callable[[Path], Any], ending: str, arrays: Sequence[np.ndarray]
) -> Loaded:
    """The artefact in a folder of its own, which is there until the runnable is closed."""
    folder = Path(tempfile.mkdtemp(prefix="sartor-"))
    try:
        write(folder / f"model{ending}")
        try:
            step = module.load(folder / f"model{ending}", list(arrays), target)
        except SartorError:
            raise
        except Exception as e:
            raise SartorError(f"target {target.name!r}: its load failed; {first_line(e)}") from e
        if not callable(step):
            raise BadInput(
                f"target {target.name!r}: expected 'load' to return a function that runs one inference; got {step!r}"
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def release() -> None:
        try:
            getattr(step, "close", lambda: None)()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    facts = getattr(module, "facts", environment)
    runnable = Runnable(target, step, release=release, seconds=getattr(step, "seconds", None), facts=facts)
    return Loaded(runnable, lambda: _arrays(step()))


def _arrays(got: Any) -> list[np.ndarray] | None:
    """Arrays as a target's own function returns them: one, several, by name, or none."""
    values = list(got.values()) if isinstance(got, Mapping) else got if isinstance(got, list | tuple) else [got]
    arrays = [v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v for v in values]
    return arrays if arrays and all(isinstance(v, np.ndarray | np.generic) for v in arrays) else None
