"""Faults put into a cut network, one at a time: what the proof must refuse.

A fault changes the delivered network alone, never what the proof compares it with. One that changes nothing (two equal
rows swapped) does not count and is drawn again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput, ProofFailed
from sartor.structure.example import Example
from sartor.structure.fibres import Rows
from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import named_tensors
from sartor.surgery import cut, prove
from sartor.types import Plan, Verdict

KINDS = ("wrong slice", "wrong swap", "wrong attribute")
_TRIES = 1000


@dataclass(frozen=True)
class Mutant:
    """A cut network with one fault."""

    network: nn.Module
    what: str


@dataclass(frozen=True)
class Tally:
    """Faults of one kind, and how many of them the proof refused."""

    kind: str
    drawn: int
    refused: int
    passed: tuple[str, ...]  # descriptions of those that it did not refuse


def mutants_refused(model: nn.Module, graph: Graph, plan: Plan, example: Example, drawn: int, seed: int = 0) -> Any:
    """Prove the cut network as it is, then with `drawn` faults of each kind.

    Returns:
        (Verdict of the cut network, a Tally for each kind).

    Raises:
        ProofFailed: the cut network without a fault is refused.
    """
    resolved = graph.resolve(plan)
    network = cut(model, graph, resolved)
    verdict: Verdict = prove(model, graph, resolved, example, smaller=network)
    tallies = []
    for kind in KINDS:
        rng = random.Random(f"{seed} {kind}")
        passed = []
        for _ in range(drawn):
            mutant = mutated(model, resolved, network, kind, rng)
            try:
                prove(model, graph, resolved, example, smaller=mutant.network)
            except ProofFailed:
                continue
            passed.append(mutant.what)
        tallies.append(Tally(kind, drawn, drawn - len(passed), tuple(passed)))
    return verdict, tallies


def mutated(model: nn.Module, resolved: Resolved, network: nn.Module, kind: str, rng: random.Random) -> Mutant:
    """A copy of a cut network with one fault of a kind.

    Raises:
        BadInput: there is no such kind, or nothing in the network can have such a fault.
    """
    if kind not in KINDS:
        raise BadInput(f"fault: expected one of {', '.join(KINDS)}; got {kind!r}")
    new = copy.deepcopy(network)
    for _ in range(_TRIES):
        if kind == "wrong slice":
            what = _wrong_slice(model, resolved, new, rng)
        elif kind == "wrong swap":
            what = rng.choice([_swapped_tensors, _swapped_rows, _repeated_row])(new, rng)
        else:
            what = _wrong_attribute(new, rng)
        if what:
            return Mutant(new, what)
    raise BadInput(f"{type(network).__name__}: no fault of the kind {kind!r} changes it")


def _wrong_slice(model: nn.Module, resolved: Resolved, network: nn.Module, rng: random.Random) -> str:
    """One tensor sliced by other indices along one of its cut dimensions."""
    old = {name: t for *_, name, t in named_tensors(model)}
    new = {name: t for *_, name, t in named_tensors(network)}
    name = rng.choice(sorted(resolved.slices))
    kept = resolved.slices[name]
    plain = [d for d, index in kept.items() if not isinstance(index, Rows)]
    if not plain:
        return ""
    wrong = rng.choice(plain)
    t, size = old[name].detach(), old[name].shape[wrong]
    how, change = rng.choice(list(_SLICES.items()))
    for d, index in kept.items():
        if isinstance(index, Rows):
            t = index.pick(t, d)
    for d in plain:
        index = kept[d]
        assert isinstance(index, Tensor)
        t = t.index_select(d, change(index, size, rng) if d == wrong else index)
    return f"{how} along dimension {wrong} of {name}" if _write(new[name], t) else ""


def _other_index(index: Tensor, size: int, rng: random.Random) -> Tensor:
    new = index.clone()
    new[rng.randrange(len(new))] = rng.choice(sorted(set(range(size)) - set(index.tolist())))
    return new


def _permuted(index: Tensor, size: int, rng: random.Random) -> Tensor:
    order = list(range(len(index)))
    rng.shuffle(order)
    return index[order]


def _shifted(index: Tensor, size: int, rng: random.Random) -> Tensor:
    return (index + rng.choice([1, -1])) % size


_SLICES: dict[str, Callable[[Tensor, int, random.Random], Tensor]] = {
    "another kept index": _other_index, "permuted kept indices": _permuted, "shifted kept indices": _shifted,
}  # fmt: skip


def _swapped_tensors(network: nn.Module, rng: random.Random) -> str:
    tensors = {name: t for *_, name, t in named_tensors(network)}
    name = rng.choice(sorted(tensors))
    t = tensors[name]
    alike = sorted(n for n, o in tensors.items() if o is not t and (o.shape, o.dtype) == (t.shape, t.dtype))
    if not alike:
        return ""
    other = rng.choice(alike)
    before = t.detach().clone()
    changed = _write(t, tensors[other].detach().clone()) and _write(tensors[other], before)
    return f"{name} and {other} swapped" if changed else ""


def _swapped_rows(network: nn.Module, rng: random.Random) -> str:
    name, t, d, (i, j) = _two_rows(network, rng)
    if i == j:
        return ""
    index = torch.arange(t.shape[d])
    index[i], index[j] = j, i
    return f"{i} and {j} along dimension {d} of {name} swapped" if _write(t, t.detach().index_select(d, index)) else ""


def _repeated_row(network: nn.Module, rng: random.Random) -> str:
    name, t, d, (i, j) = _two_rows(network, rng)
    if i == j:
        return ""
    index = torch.arange(t.shape[d])
    index[i] = j
    return (
        f"unit {j} in the place of {i} along dimension {d} of {name}"
        if _write(t, t.detach()[:].index_select(d, index))
        else ""
    )


def _two_rows(network: nn.Module, rng: random.Random) -> tuple[str, Tensor, int, tuple[int, int]]:
    """(name, tensor, dimension, two indices along it); equal indices where the tensor drawn has none to choose from."""
    tensors = {name: t for *_, name, t in named_tensors(network)}
    name = rng.choice(sorted(tensors))
    t = tensors[name]
    if not t.dim():
        return name, t, 0, (0, 0)
    d = rng.randrange(t.dim())
    return name, t, d, (rng.randrange(t.shape[d]), rng.randrange(t.shape[d]))


def _write(t: Tensor, value: Tensor) -> bool:
    """Whether other values were written."""
    if torch.equal(t.detach(), value):
        return False
    with torch.no_grad():
        t.copy_(value)
    return True


def _wrong_attribute(network: nn.Module, rng: random.Random) -> str:
    """One number, text, flag or tuple of one module changed."""
    path, module = rng.choice(list(network.named_modules()))
    names = sorted(k for k, v in vars(module).items() if not k.startswith("_") and _wrong(v, rng) is not None)
    if not names:
        return ""
    name = rng.choice(names)
    old = vars(module)[name]
    new = _wrong(old, rng)
    vars(module)[name] = new
    return f"{name} of {path or 'the model'} is {new!r} instead of {old!r}"


def _wrong(value: Any, rng: random.Random) -> Any:
    """Another value of the same type; None where this does not know one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([1, 2]) if value < 2 else value + rng.choice([1, -1])
    if isinstance(value, float):
        return value * rng.choice([0.5, 2.0, 10.0]) + (0.1 if value == 0 else 0.0)
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, tuple) and value and _wrong(value[0], rng) is not None:
        place = rng.randrange(len(value))
        changed = _wrong(value[place], rng)
        return None if changed is None else (*value[:place], changed, *value[place + 1 :])
    return None


__all__ = ["KINDS", "Mutant", "Tally", "mutants_refused", "mutated"]
