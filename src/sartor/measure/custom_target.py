"""A target that a user's Python file defines: a function from an exported model to a callable that runs it once."""

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
from sartor.measure.onnx_runtimes import Loaded, OnnxRuntime, check_agreement, from_file, through_onnx
from sartor.measure.program import capture
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.measure.torch_backends import placed
from sartor.registry import Entry
from sartor.structure.example import call, tensors
from sartor.types import Target

ARTEFACTS = {"onnx": ("float32", "float16", "int8"), "pt2": ("float32", "float16")}  # formats, and their dtypes


def custom_target(path: Path, name: str) -> Entry[Any]:
    """The registry entry of the target that a Python file defines.

    The file must define `load(artefact, inputs, target)`. Its arguments are the `Path` of the model, a list of NumPy
    arrays in the order of the model's inputs, and the `Target` (threads, batch, dtype). It returns a function that runs
    one inference and returns when that is done; arrays that it returns are compared with the outputs of the model. The
    function may have the attributes `seconds`, a function n -> seconds that n inferences took by the target's own
    clock, and `close`, called once at the end.

    The file may define ARTEFACT, "onnx" (the default) or "pt2"; DTYPES, a tuple of those it runs (default
    ("float32",)); `why_not()`, which returns why the target does not work here, or None; and `facts()`, which returns
    the facts of the machine as `sartor.measure.environment` does.

    Raises:
        BadInput: it does not run as Python, lacks `load`, or a name in it has a value of the wrong kind.
    """
    module = _module(path, name)
    artefact, dtypes = getattr(module, "ARTEFACT", "onnx"), getattr(module, "DTYPES", ("float32",))
    if artefact not in ARTEFACTS:
        raise BadInput(f"target {name!r}, ARTEFACT: expected {' or '.join(ARTEFACTS)}; got {artefact!r}")
    allowed = ARTEFACTS[artefact]
    if isinstance(dtypes, str) or not dtypes or not set(dtypes) <= set(allowed):
        raise BadInput(f"target {name!r}, DTYPES: expected some of {', '.join(allowed)} as a tuple; got {dtypes!r}")
    for function in ("load", "why_not", "facts"):
        if not callable(getattr(module, function, None)) and (function == "load" or hasattr(module, function)):
            raise BadInput(f"target {name!r}: expected a function {function!r} in {path}; see docs/targets.md")
    version = f"{path.stem} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    traits: dict[str, Any] = {"dtypes": tuple(dtypes), "runtime": lambda facts: version, "label": path.stem}
    traits |= {k: getattr(module, k) for k in ("why_not", "facts") if hasattr(module, k)}
    if artefact == "onnx":
        load = partial(_load_onnx, module)
        backend: Any = partial(_onnx_backend, load)
        traits["file"] = lambda path, target, inputs: from_file(path, target, partial(load, target), inputs)
    else:
        backend = partial(_pt2_backend, module)
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


def _onnx_backend(load: Any, model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    return through_onnx(model, example, target, OnnxRuntime(partial(load, target), fixed_batch=True), fast=fast)


def _pt2_backend(module: ModuleType, model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    start = time.perf_counter()
    net, inputs = placed(model, example, Target("eager", "cpu", target.threads, target.batch, target.dtype))
    with torch.inference_mode():
        expected = call(net, inputs)
    program = capture(net, inputs, fixed="the target has one batch size").exported
    arrays = [t.numpy() for t in tensors(inputs)]
    name = f"the export of {type(model).__name__}"
    loaded = _load_artefact(module, target, lambda path: torch.export.save(program, path), ".pt2", arrays)
    try:
        check_agreement(expected, loaded.outputs(), target, name)
    except BaseException:
        loaded.runnable.close()
        raise
    loaded.runnable.detail = {"prepare_s": time.perf_counter() - start}
    return loaded.runnable


def _load_onnx(
    module: ModuleType, target: Target, model: bytes | Path, feed: Mapping[str, np.ndarray], name: str
) -> Loaded:
    data = model if isinstance(model, bytes) else model.read_bytes()
    return _load_artefact(module, target, lambda path: path.write_bytes(data), ".onnx", list(feed.values()))


def _load_artefact(
    module: ModuleType, target: Target, write: Callable[[Path], Any], ending: str, arrays: Sequence[np.ndarray]
) -> Loaded:
    """The artefact, loaded from a folder of its own that exists until the runnable is closed."""
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


def _arrays(returned: Any) -> list[np.ndarray] | None:
    """The arrays that the function of a custom target returned: one, several, by name, or none."""
    values = list(returned.values()) if isinstance(returned, Mapping) else returned
    if not isinstance(values, list | tuple):
        values = [values]
    arrays = [v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v for v in values]
    return arrays if arrays and all(isinstance(v, np.ndarray | np.generic) for v in arrays) else None
