"""Losses and metrics by name, as flags and run files give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sartor.errors import BadInput, UnknownName

_CLASSES = (
    "cross_entropy",
    "nll_loss",
    "multi_margin_loss",
)  # losses of class numbers, not of numbers like the outputs


def named_loss(name: str | None) -> Callable[[Any, Any], Any] | None:
    """A loss of (output, targets).

    Args:
        name: of a loss of torch.nn.functional, with or without "_loss"; or "file.py:function", a function of the
            network's output and the targets. Targets take the shape of the output where they have as many entries.

    Raises:
        UnknownName, BadInput: there is none.

    >>> import torch
    >>> named_loss("mse")(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    if name is None:
        return None
    if ":" in name:
        return _function(name, "--loss")
    import torch

    from sartor.structure.example import first_tensor
    from sartor.train.metrics import matched

    losses = torch.nn.functional
    known = [n for n in dir(losses) if n.endswith("_loss") or "cross_entropy" in n]
    full = name if name in known else f"{name}_loss"
    if full not in known:
        raise UnknownName("loss", name, [n.removesuffix("_loss") for n in known])
    function = getattr(losses, full)
    if full in _CLASSES:
        return lambda output, targets: function(first_tensor(output), targets)
    return lambda output, targets: function(*matched(output, targets))


def named_metric(name: str | None) -> str | Callable[[Any, Any], float] | None:
    """The name of a metric as `sartor.fit` takes it, or the function that "file.py:function" names.

    Raises:
        UnknownName, BadInput: there is none.
    """
    if name is None:
        return None
    if ":" in name:
        return _function(name, "--metric")
    from sartor.train.metrics import METRICS

    return METRICS[name].name


def _function(place: str, flag: str) -> Callable[..., Any]:
    from sartor.sources.factory import find_factory

    module, _, name = place.rpartition(":")
    function = find_factory(module, name)
    if not callable(function):
        raise BadInput(f"{flag} {place}: expected a function; got {type(function).__name__}")
    return function  # type: ignore[no-any-return]
