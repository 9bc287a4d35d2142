"""Random generators: seeded, and their states read and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

States = dict[str, Any]  # plain values and tensors
_DEPTH, _MOST_OBJECTS, _MOST_ENTRIES = 5, 2000, 64  # how far generators are looked for behind a loader


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators are seeded inside the block, and have their previous state afterwards."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            seed_everything(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def global_states() -> States:
    """The states of the global generators of Python, NumPy and torch, of all devices in use."""
    states = {"python": random.getstate(), "numpy": _of_numpy(np.random.get_state()), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_global_states(states: Mapping[str, Any]) -> None:
    """The inverse of `global_states`.

    Raises:
        ValueError, TypeError, RuntimeError, KeyError: these are not states of these generators.
    """
    random.setstate(_tuples(states["python"]))
    np.random.set_state(_to_numpy(states["numpy"]))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in states["cuda"]])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"].cpu())


@contextmanager
def kept_states() -> Iterator[None]:
    """Global generators have their states of now after the block, also if the body raises."""
    states = global_states()
    try:
        yield
    finally:
        set_global_states(states)


def own_generators(owners: Sequence[Any]) -> dict[str, Any]:
    """Generators of torch, NumPy and Python that objects hold, such as those of loaders, samplers and data sets.

    They are looked for in the attributes of the objects, and in the attributes of those, five deep; lists, tuples and
    dicts of up to 64 entries are looked into. Those of worker processes are not in reach.

    Args:
        owners: loaders and the like; None among them is left out.

    Returns:
        place, such as "0.sampler.generator" -> generator; each once.
    """
    places: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [(str(i), owner, 0) for i, owner in enumerate(owners) if owner is not None]
    while waiting and len(seen) < _MOST_OBJECTS:
        place, thing, depth = waiting.pop(0)
        if id(thing) in seen or isinstance(thing, torch.Tensor | np.ndarray | str | bytes | int | float | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
            places[place] = thing
        elif depth < _DEPTH:
            waiting += [(f"{place}.{name}", value, depth + 1) for name, value in _parts(thing)]
    return places


def own_states(owners: Sequence[Any]) -> States:
    """The states of `own_generators`, by place."""
    states: States = {}
    for place, g in own_generators(owners).items():
        if isinstance(g, torch.Generator):
            states[place] = g.get_state()
        elif isinstance(g, np.random.Generator):
            states[place] = _plain(g.bit_generator.state)
        elif isinstance(g, np.random.RandomState):
            states[place] = _of_numpy(g.get_state())
        else:
            states[place] = g.getstate()
    return states


def set_own_states(owners: Sequence[Any], states: Mapping[str, Any]) -> None:
    """The inverse of `own_states`, for objects that are built alike.

    Raises:
        ValueError, TypeError, RuntimeError, KeyError: these are not states of these generators.
    """
    generators = own_generators(owners)
    if generators.keys() != states.keys():
        raise ValueError(f"expected states of the generators {list(generators)}; got {list(states)}")
    for place, g in generators.items():
        if isinstance(g, torch.Generator):
            g.set_state(states[place].cpu())
        elif isinstance(g, np.random.Generator):
            g.bit_generator.state = _arrays(states[place])
        elif isinstance(g, np.random.RandomState):
            g.set_state(_to_numpy(states[place]))
        else:
            g.setstate(_tuples(states[place]))


def _parts(thing: Any) -> list[tuple[str, Any]]:
    """Named values inside an object: attributes, or entries of a small container."""
    if isinstance(thing, list | tuple):
        return [(str(i), v) for i, v in enumerate(thing)] if len(thing) <= _MOST_ENTRIES else []
    if isinstance(thing, dict):
        return [(str(k), v) for k, v in thing.items()] if len(thing) <= _MOST_ENTRIES else []
    attributes = getattr(thing, "__dict__", None)
    if not isinstance(attributes, dict) or callable(getattr(thing, "named_parameters", None)):
        return []
    return list(attributes.items())


def _of_numpy(state: Any) -> tuple[Any, ...]:
    name, keys, *rest = state
    return name, keys.tolist(), *rest


def _to_numpy(state: Any) -> tuple[Any, ...]:
    name, keys, *rest = state
    return name, np.asarray(keys, dtype=np.uint32), *rest


def _plain(value: Any) -> Any:
    """The state of a bit generator with lists in the place of arrays."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"array", "dtype"}:
        return np.asarray(value["array"], dtype=value["dtype"])
    return {k: _arrays(v) for k, v in value.items()} if isinstance(value, dict) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


__all__ = [
    "global_states", "kept_states", "own_generators", "own_states", "seed_everything", "seeded", "set_global_states",
    "set_own_states",
]  # fmt: skip
