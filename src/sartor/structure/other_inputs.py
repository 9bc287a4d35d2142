"""Inputs like the example, but of other sizes, padded, with a mask or without: what a network is used with later.

They are proposals. Only those that the original takes count.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.structure.example import Example, as_args, map_tensors, tensors
from sartor.structure.recorder import record_variant
from sartor.structure.recording import Recording

_SIZES = 3  # sizes of input dimensions that are varied, at most
_LEAST = 4  # a shorter dimension is not shortened
_TOKENS = ("input_ids", "inputs_embeds")


def other_inputs(model: nn.Module, example: Example) -> Iterator[Example]:
    """Proposals: padded masks, a mask added or left out, each size of an input dimension shortened.

    Args:
        model: whose forward's signature says whether it takes an `attention_mask`.
        example: inputs on any device; the proposals lie there too.
    """
    if not any(t.dim() for t in tensors(example)):
        return
    yield from other_masks(model, example)
    sizes = dict.fromkeys(n for t in tensors(example) for n in t.shape[1:] if n >= _LEAST)
    images = any(t.dim() >= 4 for t in tensors(example))
    for n in list(sizes)[:_SIZES]:
        shorter = n // 2 if images else n - n // 3
        yield map_tensors(lambda t, n=n, shorter=shorter: _shortened(t, n, shorter), example)  # type: ignore[misc]


def other_masks(model: nn.Module, example: Example) -> Iterator[Example]:
    """The proposals of `other_inputs` that differ in masks: padded, left out, or added. Most networks have none."""
    named = _named(model, example)
    masked = {k: v for k, v in named.items() if "mask" in k and isinstance(v, Tensor) and _all_ones(v)}
    if masked:
        yield _replaced(example, named, {k: _padded(v) for k, v in masked.items()})
    if isinstance(named.get("attention_mask"), Tensor):
        if isinstance(example, Mapping):
            yield {k: v for k, v in example.items() if k != "attention_mask"}
    elif (sequence := _sequence(named)) is not None and _takes_mask(model):
        ones = torch.ones(sequence.shape[:2], dtype=torch.int64, device=sequence.device)
        yield {**named, "attention_mask": _padded(ones)}


def _sequence(named: Mapping[str, Any]) -> Tensor | None:
    """The input that an attention mask would be for: token numbers [n, length], or features [n, length, width]."""
    known = next((named[k] for k in _TOKENS if k in named), None)
    first = next((v for v in named.values() if isinstance(v, Tensor)), None)
    found = first if known is None else known
    return found if isinstance(found, Tensor) and found.dim() in (2, 3) else None


def masked_variants(model: nn.Module, example: Example) -> Iterator[Recording]:
    """The forward recorded with other masks, where the model takes them."""
    found = (record_variant(model, x) for x in other_masks(model, example))
    return (recording for recording in found if recording is not None)


def several_examples(model: nn.Module, example: Example) -> tuple[Example, tuple[Example, ...], str]:
    """The example to trace, further ones, and how a list was understood where more than one reading is possible.

    A tuple holds positional arguments, a dict keyword arguments. A list holds several examples if the model takes each
    element alone; otherwise it is one argument if the model takes it so; otherwise it holds positional arguments.
    """
    if type(example) is not list or not example:
        return example, (), ""
    whole = (example,)
    if all(isinstance(x, Tensor | tuple | Mapping) and _taken(model, x) for x in example):
        return example[0], tuple(example[1:]), "" if len(example) == 1 else f"{len(example)} examples were given"
    if _taken(model, whole):
        return whole, (), "the list was passed to the forward as one argument"
    return tuple(example), (), "the list was passed to the forward as positional arguments"


def _taken(model: nn.Module, example: Example) -> bool:
    return record_variant(model, example) is not None


def _named(model: nn.Module, example: Example) -> dict[str, Any]:
    """Arguments by the names that the forward's signature gives them."""
    args, kwargs = as_args(example)
    return {**dict(zip(_parameters(model), args)), **kwargs}


def _replaced(example: Example, named: Mapping[str, Any], new: Mapping[str, Tensor]) -> Example:
    by_id = {id(named[k]): v for k, v in new.items()}
    return map_tensors(lambda t: by_id.get(id(t), t), example)


def _parameters(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return []


def _takes_mask(model: nn.Module) -> bool:
    """Whether the forward names an `attention_mask`, or passes any keyword on."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "attention_mask" or p.kind == p.VAR_KEYWORD for p in parameters)


def _all_ones(t: Tensor) -> bool:
    return t.dim() >= 2 and t.device.type != "meta" and bool((t == 1).all())


def _padded(mask: Tensor) -> Tensor:
    """The last quarter of every row zero."""
    new = mask.clone()
    new[..., -max(1, mask.shape[-1] // 4) :] = 0
    return new


def _shortened(t: Tensor, n: int, shorter: int) -> Tensor:
    for d in range(1, t.dim()):
        if t.shape[d] == n:
            t = t.narrow(d, 0, shorter)
    return t


__all__ = ["masked_variants", "other_inputs", "other_masks", "several_examples"]
