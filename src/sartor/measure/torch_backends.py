"""Targets that run in this process with torch: eager, and torch.compile."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import SartorError
from sartor.measure.environment import usable_cores
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line, quiet
from sartor.structure.example import as_args, map_tensors, with_batch
from sartor.torch_internals import dynamo_limits
from sartor.types import Target

COMPILED_AT_MOST = 4096  # compiled variants of one forward; beyond torch's own limit of 8 it would run eager


def eager(model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    """The module as it is, under inference mode."""
    start = time.perf_counter()
    net, inputs = placed(model, example, target)
    args, kwargs = as_args(inputs)
    step = _synchronised(partial(net, *args, **kwargs), target)
    detail = {"prepare_s": time.perf_counter() - start}
    return Runnable(target, step, partial(torch_settings, target), detail=detail, own=target.device == "cpu")


def compiled(model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    """torch.compile with fixed shapes; compiled at once, so that no timed run includes the compilation."""
    return _compiled(model, example, target, "inductor")


def _compiled(model: nn.Module, example: Any, target: Target, backend: str | Callable[..., Any]) -> Runnable:
    start = time.perf_counter()
    net, inputs = placed(model, example, target)
    args, kwargs = as_args(inputs)
    with torch_settings(target):
        net(*args, **kwargs)  # errors of the user's own forward reach the user unchanged
        fast_net = torch.compile(net, dynamic=False, backend=backend)
        try:
            # all cut variants of a class share one code object, so torch would run the ninth uncompiled
            with quiet(), _many_variants():
                fast_net(*args, **kwargs)
        except Exception as e:
            raise SartorError(
                f"target {target.name!r}: torch.compile failed on {type(model).__name__}: {first_line(e)}"
            ) from e
    step = _synchronised(partial(fast_net, *args, **kwargs), target)
    detail = {"prepare_s": time.perf_counter() - start}
    return Runnable(target, step, partial(torch_settings, target), detail=detail, own=target.device == "cpu")


def placed(model: nn.Module, example: Any, target: Target) -> tuple[nn.Module, Any]:
    """A copy of the model in eval mode, and the inputs at the target's batch, both on its device and in its dtype."""
    dtype: torch.dtype = getattr(torch, target.dtype)

    def place(t: Tensor) -> Tensor:
        return t.detach().to(target.device, dtype if t.is_floating_point() else None)

    net = copy.deepcopy(model).eval().requires_grad_(False).to(target.device, dtype)
    return net, map_tensors(place, with_batch(example, target.batch))


@contextmanager
def torch_settings(target: Target) -> Iterator[None]:
    """Inference mode and the target's number of threads; afterwards both are as before."""
    before, threads = torch.get_num_threads(), target.threads or usable_cores()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def _many_variants() -> Iterator[None]:
    names = ("recompile_limit", "accumulated_recompile_limit")
    with dynamo_limits(**dict.fromkeys(names, COMPILED_AT_MOST), fail_on_recompile_limit_hit=True):
        yield


def _synchronised(step: Callable[[], Any], target: Target) -> Callable[[], Any]:
    if target.device == "cpu":
        return step

    def run() -> Any:
        out = step()
        torch.cuda.synchronize()
        return out

    return run


def no_cuda() -> str | None:
    """Why torch cannot use CUDA here; None if it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA; install a CUDA build or choose a -cpu target"
    return "torch finds no CUDA device; choose a -cpu target"


def no_compiler() -> str | None:
    """Why torch.compile cannot generate code for the CPU here; None if it can."""
    names = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl" if sys.platform == "win32" else None]
    if any(name and shutil.which(name) for name in names):
        return None
    return "no C++ compiler was found (tried CXX, g++, clang++, c++); install one or choose eager-cpu"
