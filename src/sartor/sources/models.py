"""A model from its spec."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.registry import Registry
from sartor.sources.factory import call_factory, find_factory
from sartor.sources.spec import parse_spec
from sartor.sources.weights import load_weights_
from sartor.wrappers import innermost

_EXAMPLE = "timm:resnet18, torchvision:resnet18, path/file.py:factory or package.module:factory"


class ModelLibrary(NamedTuple):
    """A library of models that are built by name."""

    build: Callable[[str, Mapping[str, Any]], Any]  # (name, options) -> module
    input_size: Callable[[nn.Module], Sequence[int]]  # module -> size of one input without the batch dimension


MODEL_LIBRARIES: Registry[ModelLibrary] = Registry("model library")


def load_model(spec: str, weights: str | Path | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model and fill it with weights.

    Args:
        spec: 'timm:NAME', 'torchvision:NAME', 'path/file.py:FACTORY' or 'package.module:FACTORY', optionally with
            '?option=value&...'. A factory is a function or class that returns the module, or a module itself.
        weights: a .safetensors file, or a PyTorch file that holds tensors only; see `load_weights_`.
        options: keyword arguments of the factory, or of the library's constructor; they override those in `spec`.

    Returns:
        The module, on the CPU unless its factory moves it elsewhere.

    Raises:
        BadInput: the spec cannot be parsed, the factory fails or returns no module, or the weights do not fit.
        UnknownName: no model or factory of this name.
        MissingExtra: timm or torchvision is not installed.
        CorruptFile: the weights cannot be read.
    """
    parsed = parse_spec(spec, MODEL_LIBRARIES, _EXAMPLE)
    merged = {**parsed.options, **(options or {})}
    if parsed.kind in MODEL_LIBRARIES:
        model = MODEL_LIBRARIES[parsed.kind].value.build(parsed.rest, merged)
    else:
        model = _from_factory(parsed.kind, parsed.rest, merged)
    model = innermost(model)
    if weights is not None:
        load_weights_(model, weights)
    return model


def _from_factory(place: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    factory = find_factory(place, name)
    if isinstance(factory, nn.Module):
        if options:
            raise BadInput(f"{place}:{name} is a module, not a factory: it takes no options; got {dict(options)}")
        return copy.deepcopy(factory)
    model = call_factory(factory, options, place, name)
    if not isinstance(model, nn.Module):
        raise BadInput(f"{place}:{name}: expected a factory that returns a torch.nn.Module; got {type(model).__name__}")
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


def _timm_input_size(model: nn.Module) -> Sequence[int]:
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size: Sequence[int] = config.get("input_size") or (3, 224, 224)
    return size


def _built(build: Callable[[], Any], where: str) -> Any:
    try:
        return build()
    except Exception as e:
        raise BadInput(f"{where} raised {type(e).__name__}: {e}") from e


def _unknown(library: str, name: str, known: list[str]) -> SartorError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return UnknownName(f"{library} model", name, near)
    return BadInput(f"no {library} model is called {name!r}; {library}'s list_models() lists all {len(known)}")


MODEL_LIBRARIES.add(
    "timm", ModelLibrary(_from_timm, _timm_input_size), source="https://github.com/huggingface/pytorch-image-models"
)
MODEL_LIBRARIES.add(
    "torchvision",
    ModelLibrary(_from_torchvision, lambda model: (3, 224, 224)),
    source="https://github.com/pytorch/vision",
)
