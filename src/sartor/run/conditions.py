"""What must hold while a run computes: gradients, one run at a time, a device that works, a seed of 63 bits."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sartor.errors import BadInput
from sartor.measure import environment, parse_target
from sartor.structure import Example
from sartor.structure.example import batch_of, tensors
from sartor.train.batch import split
from sartor.types import Batches, Budget, Recipe
from sartor.units import show_bytes

MOST_SEED = 2**63 - 1  # seeds of parts of a run are derived from it by adding small numbers
_RUNNING = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Inside, gradients are on, whatever surrounds the call, and runs of other threads wait.

    A run seeds the generators of the process, so two at a time would change each other's results.
    """
    with _RUNNING, torch.inference_mode(mode=False), torch.enable_grad():
        yield


def checked_seed(seed: Any) -> int:
    """The seed.

    Raises:
        BadInput: not a whole number of at most 63 bits.
    """
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = None
    if number is None or not -MOST_SEED <= number <= MOST_SEED - 2**32:
        got = f"one of {number.bit_length()} bits" if number is not None else repr(seed)[:80]
        raise BadInput(f"seed: expected a whole number of at most 63 bits; got {got}")
    return number


def usable_device(device: Any) -> torch.device:
    """The device of a name, after a tensor was put there.

    Raises:
        BadInput: there is no such device, or it does not work on this machine.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except Exception as e:  # of every kind: unknown names, missing drivers, indices out of range
        reason = str(e).strip().splitlines()[0][:200]
        raise BadInput(
            f"device: expected one that works here, such as 'cpu' or 'cuda'; got {device!r}: {reason}"
        ) from e
    return found


def check_example(example: Example) -> None:
    """Check that example inputs hold a sample, and that one fits into memory.

    Raises:
        BadInput: they do not.
    """
    count = batch_of(example)
    if not count:
        raise BadInput(
            "example inputs: expected at least one sample; the first batch is empty. Pass example=, or a loader whose "
            "first batch is not"
        )
    needed = sum(t.numel() * t.element_size() for t in tensors(example)) // count
    memory = environment()["memory_bytes"]
    if memory is not None and needed > memory:
        raise BadInput(f"example inputs: one sample takes {show_bytes(needed)}; this machine has {show_bytes(memory)}")


def check_limits(budget: Budget) -> None:
    """Check the targets of a budget, before anything is loaded or computed.

    Raises:
        UnknownName, BadInput: a target does not exist, or quality would not be that of what runs there.
    """
    for limit in budget.limits:
        if limit.target is None:
            continue
        if parse_target(limit.target).dtype == "int8" and budget.max_drop is not None:
            raise BadInput(
                f"budget: drop<={budget.max_drop:g} would be judged on the network in floating point, while "
                f"{limit.target} runs it quantised to int8, which loses more. Limit the time in float32 or float16, or "
                "leave out drop<=... and judge the int8 file yourself"
            )


def check_one_shot(recipe: Recipe) -> None:
    """Check that a recipe can be carried out where nothing is trained.

    Raises:
        BadInput: it prunes while a network trains.
    """
    if recipe.when.kind != "one-shot":
        raise BadInput(
            f"recipe {recipe.name!r} prunes while a network trains (when={recipe.when.kind!r}), and nothing is trained "
            "here: call sartor.fit with train= and epochs=, or use a sartor.Session in a loop of your own"
        )


def check_weights(model: nn.Module) -> None:
    """Check that a model holds weights, which scores read.

    Raises:
        BadInput: its parameters are on the meta device.
    """
    for name, p in model.named_parameters():
        if p.device.type == "meta":
            raise BadInput(
                f"model: expected weights; parameter {name!r} is on the meta device. Load them first, such as with "
                "model.to_empty(device='cpu') and load_state_dict"
            )


def first_inputs(batches: Batches | None) -> Example:
    """The inputs of the first batch.

    Raises:
        BadInput: there is none.
    """
    if batches is None:
        raise BadInput("fit: expected example inputs or data; got neither (pass example=..., or a train or val loader)")
    for batch in batches:
        return split(batch)[0]
    raise BadInput("fit: the data loader gave no batch")


__all__ = [
    "check_example", "check_limits", "check_one_shot", "check_weights", "checked_seed", "first_inputs",
    "one_at_a_time", "usable_device",
]  # fmt: skip
