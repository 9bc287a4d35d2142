"""A model from its name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.sources.factory import call_factory, find_factory
from sartor.sources.spec import parse_spec
from sartor.sources.weights import load_weights_

_EXAMPLE = "timm:resnet18, torchvision:resnet18, path/file.py:factory or package.module:factory"


def load_model(spec: str, weights: str | Path | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model and fill it with weights.

    Args:
        spec: 'timm:NAME', 'torchvision:NAME', 'path/file.py:FACTORY' or 'package.module:FACTORY', perhaps with
            '?option=value&...'. A factory is a function or class that returns the module, or a module itself.
        weights: a .safetensors file, or a PyTorch file that holds nothing but tensors; see `load_weights_`.
        options: keyword arguments of the factory or of timm and torchvision; they win over those in `spec`.

    Returns:
        The module, on the CPU unless its factory says otherwise.

    Raises:
        BadInput: the spec, the factory, its result, or weights that do not fit.
        UnknownName: no model or factory of this name.
        MissingExtra: timm or torchvision is not installed.
        CorruptFile: the weights cannot be read.
    """
    found = parse_spec(spec, ("timm", "torchvision"), _EXAMPLE)
    merged = {**found.options, **(options or {})}
    if found.kind == "timm":
        model = _from_timm(found.rest, merged)
    elif found.kind == "torchvision":
        model = _from_torchvision(found.rest, merged)
    else:
        where = f"{found.kind}:{found.rest}"
        factory = find_factory(found.kind, found.rest)
        if isinstance(factory, nn.Module):
            if merged:
                raise BadInput(f"{where} is a module, not a factory: it takes no options; got {merged}")
            model = copy.deepcopy(factory)
        else:
            model = call_factory(factory, merged, found.kind, found.rest)
        if not isinstance(model, nn.Module):
            raise BadInput(f"{where}: expected a factory that returns a torch.nn.Module; got {type(model).__name__}")
    if weights is not None:
        load_weights_(model, weights)
    return model


def _from_timm(name: str, options: Mapping[str, Any]) -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtra("timm", "zoo", f"the model 'timm:{name}'") from None
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    return _built(lambda: timm.create_model(name, **options), f"timm:{name}")


def _from_torchvision(name: str, options: Mapping[str, Any]) -> Any:
    try:
        from torchvision import models
    except ImportError:
        raise MissingExtra("torchvision", "zoo", f"the model 'torchvision:{name}'") from None
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    return _built(lambda: models.get_model(name, **{"weights": None, **options}), f"torchvision:{name}")


def _built(build: Callable[[], Any], where: str) -> Any:
    try:
        return build()
    except Exception as e:
        raise BadInput(f"{where} raised {type(e).__name__}: {e}") from e


def _unknown(library: str, name: str, known: list[str]) -> SartorError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return UnknownName(f"{library} model", name, near)
    return BadInput(f"no {library} model is called {name!r}; it knows {len(known)}, see {library}'s list_models()")
