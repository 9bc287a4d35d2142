"""The first part of the proof: the cut network holds the intended slices of the original, and nothing else.

What each tensor must hold is computed here from the plan and the solved axes alone; the edits that made the network
are not read. Attributes of modules must be the original's, except those that hold a size which the cut changes.
"""

from __future__ import annotations

import functools
import math
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sartor.errors import ProofFailed
from sartor.structure.axes import Axis, find, leaves, positions
from sartor.structure.fibres import reorder
from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import ATOMS, every_path, modules_by_path, named_tensors
from sartor.structure.picked import picked
from sartor.surgery.attributes import attributes_for
from sartor.surgery.kept_numbers import NumbersKept
from sartor.surgery.pretrained import is_guard
from sartor.surgery.program import Rewritten
from sartor.surgery.zero_clip import plain_class
from sartor.torch_internals import own_parameters

_TABLES = {"_parameters", "_buffers", "_modules", "_compiled_call_impl", "kept_numbers"}
# compared by name, not copied, or compared by what the network computes
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size, for bits
_MISSING = object()
_EMPTY = {dict, OrderedDict, list, set, tuple}
_HOOKS = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}  # compared by number
_REWRITTEN = {"program", "_qkv_same_embed_dim"}  # attributes that another forward sets
_CHANGED = (Rewritten, NumbersKept)  # classes that run another forward than the one they derive from


def check_delivered(model: nn.Module, graph: Graph, resolved: Resolved, network: nn.Module) -> int:
    """Compare every module, tensor and attribute of a cut network with what the plan makes of the original's.

    Tensors on meta are compared in shape and dtype.

    Returns:
        The number of tensors that were compared; a tied tensor counts once.

    Raises:
        ProofFailed: names the first module, tensor or attribute that differs.
    """
    _same_tree(model, network)
    compared = _same_tensors(model, resolved, network)
    expected = attributes_for(model, graph, resolved.masks)
    _same_attributes(model, network, expected)
    return compared


def layout(network: nn.Module) -> dict[str, Any]:
    """What training must leave as it is: class, plain attributes, and names, shapes and dtypes of tensors, by path."""
    found: dict[str, Any] = {f"tensor {name!r}": (tuple(t.shape), t.dtype) for *_, name, t in named_tensors(network)}
    for path, module in network.named_modules(remove_duplicate=False):
        found[f"class of module {path!r}"] = plain_class(type(module))  # a repair may limit its rectifiers
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and _plain(value):
                found[f"attribute {key!r} of module {path!r}"] = value
    return found


def check_layout(before: Mapping[str, Any], network: nn.Module) -> None:
    """Compare a network that was repaired or trained with what `layout` gave when it was proved.

    Raises:
        ProofFailed: a tensor has another shape or dtype, a module another class, or an attribute another value.
    """
    after = layout(network)
    for what in [*before, *(w for w in after if w not in before)]:
        old, new = before.get(what, "nothing"), after.get(what, "nothing")
        if type(old) is not type(new) or not (old == new or old != old):
            raise ProofFailed(
                f"{what} was {old} when the cut network was proved, and is {new} after repair and training"
            )


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return type(value) in (bool, int, float, str, type(None))


def intended(t: Tensor, name: str, resolved: Resolved, known: dict[Axis, Tensor] | None = None) -> Tensor:
    """The slice of one tensor that a plan keeps; the tensor itself where nothing of it is removed.

    Args:
        t: a parameter or buffer of the original, or other values of the same shape.
        name: its name in the graph.
        known: kept indices by axis, filled here; for several tensors of one plan.
    """
    graph, known = resolved.graph, {} if known is None else known
    value = graph.tensors[name]
    t = t.detach()
    for group, order in resolved.orders.items():
        t = reorder(t, value, graph.leaves[group], graph.fibres[group], order)
    kept: dict[int, Tensor] = {}
    for d, a in enumerate(value.axes):
        axis = find(a)
        if axis not in known:
            known[axis] = _kept(axis, resolved.masks)
        if known[axis].numel() < axis.size:
            kept[d] = known[axis]
    return picked(t, kept)


def _kept(axis: Axis, masks: Mapping[Axis, Tensor]) -> Tensor:
    """Indices along an axis that belong to no removed unit, in order."""
    left = torch.ones(axis.size, dtype=torch.bool)
    for leaf in dict.fromkeys(leaves(axis)):
        if leaf in masks:
            left[positions(axis, leaf)[~masks[leaf]].reshape(-1)] = False
    return left.nonzero()[:, 0]


def _same_tree(model: nn.Module, network: nn.Module) -> None:
    old, new = every_path(model), every_path(network)
    for path in [*old, *(p for p in new if p not in old)]:
        if path not in new or path not in old:
            holder = "the cut network" if path not in new else "the original"
            raise ProofFailed(f"module {path!r}: {holder} has no such module; report the model")
        kinds = type(old[path]), type(new[path])
        if all(issubclass(k, GraphModule) for k in kinds):  # torch.fx makes a class for every instance
            continue
        if kinds[0] is not kinds[1] and not (issubclass(kinds[1], _CHANGED) and kinds[1].__mro__[2] is kinds[0]):
            raise ProofFailed(
                f"module {path!r}: expected class {kinds[0].__name__}; the cut network has {kinds[1].__name__}"
            )
    first: dict[int, str] = {}
    again: dict[int, str] = {}
    for path in old:
        if first.setdefault(id(old[path]), path) != again.setdefault(id(new[path]), path):
            raise ProofFailed(f"module {path!r} stands for the same module as another path in only one of the networks")


def _same_tensors(model: nn.Module, resolved: Resolved, network: nn.Module) -> int:
    """The number of tensors that are equal, each once."""
    old = {name: (key in own_parameters(owner), t) for owner, key, name, t in named_tensors(model)}
    new = {name: (key in own_parameters(owner), t) for owner, key, name, t in named_tensors(network)}
    for name in [*old, *(n for n in new if n not in old)]:
        if name not in new or name not in old:
            holder = "the cut network" if name not in new else "the original"
            raise ProofFailed(f"tensor {name!r}: {holder} has no such tensor; report the model")
    first: dict[int, str] = {}
    again: dict[int, str] = {}
    known: dict[Axis, Tensor] = {}
    for name, (parameter, t) in old.items():
        got_parameter, got = new[name]
        one, other = first.setdefault(id(t), name), again.setdefault(id(got), name)
        if one != other:
            raise ProofFailed(f"tensor {name!r}: the original ties it to {one!r}; the cut network to {other!r}")
        if one != name:
            continue
        if (parameter, t.requires_grad, type(t)) != (got_parameter, got.requires_grad, type(got)):
            raise ProofFailed(
                f"tensor {name!r}: expected {type(t).__name__}, requires_grad={t.requires_grad}; the cut network has "
                f"{type(got).__name__}, requires_grad={got.requires_grad}"
            )
        _expect(got, intended(t, name, resolved, known), f"tensor {name!r}")
    return len(first)


def _expect(got: Tensor, expected: Tensor, what: str) -> None:
    facts = [(tuple(t.shape), t.dtype, t.device) for t in (expected, got)]
    if facts[0] != facts[1]:
        raise ProofFailed(f"{what}: expected shape, dtype and device {facts[0]}; the cut network has {facts[1]}")
    if not same_bits(expected, got):
        share = "" if expected.is_sparse else f" in {int((expected != got).sum())} of {got.numel()} elements"
        raise ProofFailed(f"{what}: the cut network does not hold the kept units of the original; it differs{share}")


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits; on meta there are none to differ."""
    a, b = a.detach(), b.detach()
    if a.is_meta:
        return True
    if a.layout is torch.strided and not a.is_quantized:
        if a.is_complex():
            a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
        if a.is_floating_point():
            bits = _INTEGERS[a.element_size()]
            a, b = a.view(bits), b.view(bits)
    return torch.equal(a, b)


def _same_attributes(model: nn.Module, network: nn.Module, expected: Mapping[tuple[str, str], Any]) -> None:
    compare = _Comparison(model, network)
    changes: dict[str, dict[str, Any]] = {}
    for (path, key), value in expected.items():
        changes.setdefault(path, {})[key] = value
    new = modules_by_path(network)
    for path, module in modules_by_path(model).items():
        other = new[path]
        if isinstance(module, GraphModule) and isinstance(other, GraphModule):
            if module.code != other.code:
                raise ProofFailed(f"module {path!r}: the cut network has another forward; report the model")
            continue  # its graph is copied, and what hooks check of inputs is not
        changed = changes.get(path, {})
        rewritten = isinstance(other, _CHANGED) and not isinstance(module, _CHANGED)
        before, after = vars(module), vars(other)
        for key in dict.fromkeys([*_unlike(before, after), *changed]):
            if key in _TABLES or (rewritten and key in _REWRITTEN) or is_guard(key, vars(other).get(key)):
                continue
            where = f"attribute {key!r} of module {path!r}"
            if key in _HOOKS and len(vars(module).get(key) or ()) != len(vars(other).get(key) or ()):
                raise ProofFailed(f"{where}: the cut network has another number of hooks")
            if key.startswith("_") and key not in changed and not _plain(vars(module).get(key)):
                continue  # what a library keeps for itself: the hooks themselves, caches, graphs
            if key not in vars(other):
                if _copies_itself(type(module)):
                    continue
                raise ProofFailed(f"{where}: the cut network has no such attribute")
            if key not in vars(module) and key not in changed:
                raise ProofFailed(f"{where}: the original has no such attribute")
            got = vars(other)[key]
            if key in changed:
                old = getattr(module, key)
                want = type(old)(changed[key]) if isinstance(old, list | tuple) else changed[key]
            else:
                want = vars(module)[key]
            if not compare.same(want, got):
                raise ProofFailed(f"{where}: expected {_shown(want)}; the cut network has {_shown(got)}")


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of attributes that are not plain and equal, or empty containers of one type."""
    if list(before) == list(after):  # as in a copy
        pairs = zip(before, before.values(), after.values())
        return [k for k, a, b in pairs if not (a is b and type(a) in ATOMS) and not _equal(a, b)]
    names = dict.fromkeys([*before, *after])
    return [k for k in names if k not in after or not _equal(before.get(k, _MISSING), after[k])]


def _equal(old: Any, new: Any) -> bool:
    """Whether two values are plain and equal, or empty and of one type; False where that takes a closer look."""
    kind = type(old)
    if kind is not type(new):
        return False
    return bool(old == new) if kind in ATOMS else kind in _EMPTY and not old and not new


def _copies_itself(kind: type) -> bool:
    """Whether a class decides itself what a copy of it holds."""
    base = nn.Module if issubclass(kind, nn.Module) else object
    own = ("__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
    return any(getattr(kind, name, None) is not getattr(base, name, None) for name in own)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, Tensor) else f"a tensor of shape {tuple(value.shape)}"
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Comparison:
    """Compares attribute values of two networks; tensors and modules inside them must be the ones of the same name."""

    def __init__(self, model: nn.Module, network: nn.Module):
        self.names = {id(t): name for *_, name, t in reversed(list(named_tensors(model)))}
        self.tensors = {name: t for *_, name, t in named_tensors(network)}
        self.paths = {id(m): path for path, m in modules_by_path(model).items()}
        self.modules = modules_by_path(network)
        self.seen: set[tuple[int, int]] = set()

    def same(self, old: Any, new: Any) -> bool:
        """Whether two values are equal; other objects than plain data and tensors need the same type only."""
        kind = type(old)
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            if id(old) in self.names:
                return new is self.tensors[self.names[id(old)]]
            alike = (kind, old.shape, old.dtype, old.device) == (type(new), new.shape, new.dtype, new.device)
            return alike and same_bits(old, new)
        if isinstance(old, nn.Module) and id(old) in self.paths:
            place = self.modules[self.paths[id(old)]]
            return new is place or isinstance(place, _CHANGED)
        if kind is not type(new):
            return False
        if kind is float:
            return bool(old == new or (math.isnan(old) and math.isnan(new)))
        if old is new or kind in ATOMS:
            return bool(old is new or old == new)
        if (id(old), id(new)) in self.seen:
            return True
        self.seen.add((id(old), id(new)))
        if isinstance(old, Mapping):
            return list(old) == list(new) and all(self.same(old[k], new[k]) for k in old)
        if isinstance(old, list | tuple):
            return len(old) == len(new) and all(map(self.same, old, new))
        if isinstance(old, set | frozenset):
            return len(old) == len(new) and (old == new or not all(type(x) in ATOMS for x in old))
        if isinstance(old, types.MethodType):
            return old.__func__ is new.__func__
        if isinstance(old, functools.partial):
            return self.same((old.func, old.args, old.keywords), (new.func, new.args, new.keywords))
        return True


__all__ = ["check_delivered", "check_layout", "intended", "layout", "same_bits"]
