"""`save_pretrained` of a cut network: it writes a folder that loads again, or says what to do instead.

Such a folder holds a configuration from which the network is built. A cut network can be built from one only if the
layers agree about their new sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from sartor.errors import SartorError
from sartor.structure.model_copy import modules_of, named_tensors
from sartor.surgery.kept_numbers import NumbersKept
from sartor.surgery.program import Rewritten

_SAVE = "save_pretrained"


class CannotSavePretrained(SartorError, ValueError):
    """No configuration describes the cut network."""


def guard_pretrained_(model: nn.Module, new_sizes: Mapping[int, set[int]]) -> None:
    """Replace `save_pretrained` of a cut network, and of the networks inside it.

    Args:
        model: cut; its configuration is a copy of the original's.
        new_sizes: size before the cut -> the sizes after it, of all tensors and attributes.
    """
    for module in modules_of(model):
        if callable(getattr(type(module), _SAVE, None)):
            sizes = {old: next(iter(new)) for old, new in new_sizes.items() if len(new) == 1}
            module.__dict__[_SAVE] = partial(save_pretrained, module, sizes)


def is_guard(name: str, value: Any) -> bool:
    """Whether an attribute of a cut network was set by `guard_pretrained_`."""
    return name == _SAVE and isinstance(value, partial) and value.func is save_pretrained


def save_pretrained(model: nn.Module, sizes: Mapping[int, int], *args: Any, **kwargs: Any) -> Any:
    """`model.save_pretrained(*args, **kwargs)` with a configuration that describes the cut network.

    Raises:
        CannotSavePretrained: there is none; says how to save and load instead.
    """
    config = _configuration(model, sizes)
    if config is None:
        raise CannotSavePretrained(
            f"{type(model).__name__} was cut, and no configuration describes its new sizes: from_pretrained could not "
            "build it. Save it with fitted.save(folder) and load it with sartor.load(folder, factory), where factory() "
            "builds the original; or torch.save(model, file) and torch.load(file, weights_only=False)"
        )
    before = model.__dict__.get("config")
    try:
        model.__dict__["config"] = config
        return getattr(type(model), _SAVE)(model, *args, **kwargs)
    finally:
        model.__dict__["config"] = before


def _configuration(model: nn.Module, sizes: Mapping[int, int]) -> Any:
    """A configuration from which the class builds a network like this one; None if none was found."""
    config = model.__dict__.get("config")
    if config is None or any(isinstance(m, Rewritten | NumbersKept) for m in model.modules()):
        return None
    named = [n for n, v in vars(config).items() if type(v) is int and v in sizes and not n.startswith("_")]
    for chosen in (named, *([n] for n in named)):
        changed = copy.deepcopy(config)
        for name in chosen:
            setattr(changed, name, sizes[getattr(config, name)])
        try:
            with torch.device("meta"):
                built = type(model)(changed)
        except Exception:  # the class does not take these sizes
            continue
        if _look(built) == _look(model):
            return changed
    return None


def _look(model: nn.Module) -> Any:
    """Shapes of all tensors, and the numbers that modules hold as attributes."""
    shapes = {name: tuple(t.shape) for *_, name, t in named_tensors(model)}
    numbers = {
        (path, k): v
        for path, module in model.named_modules()
        for k, v in vars(module).items()
        if type(v) in (int, float) and not k.startswith("_")
    }
    return shapes, numbers


__all__ = ["CannotSavePretrained", "guard_pretrained_", "is_guard", "save_pretrained"]
