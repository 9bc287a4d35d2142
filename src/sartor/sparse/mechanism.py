"""What a method that prunes during training does at each point of a step: the protocol, and the registry.

A mechanism is chosen by two choices of a recipe: what may be cut (`cut`) and on what schedule (`when`). The session
(`sartor.run.session`) calls it:

    start                        once, on every rank
    decide -> adopt              before the first update, if 0 is among the steps of the schedule
    for every update of the optimizer:
        before_update            gradients are there, in true scale: add penalties, mask gradients, remember weights
        (the optimizer's update)
        after_update             re-apply masks, project
        decide -> adopt          if `recipe.when.steps(total)` names this step

Under distributed training every rank calls everything but `decide`, which only rank 0 runs; its result is sent to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.sparse.weight_layers import WeightLayer
from sartor.structure import Graph
from sartor.types import Bounds, Criterion, Plan, Recipe, Scores

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Moment:
    """A point of the run."""

    step: int  # updates of the optimizer that are done, in [0, total]; in `before_update` the coming one is not counted
    total: int  # updates of the whole run, at least 1
    decides: bool = False  # whether `decide` follows this update

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / self.total)


@dataclass(frozen=True)
class Units:
    """What a mechanism needs that removes units: the graph, and the decisions of the stages above as functions."""

    graph: Graph  # with the groups that the recipe may cut
    score: Callable[[Criterion | None], Scores]
    # scores of the network as it is now, larger = keep; None: by the recipe's own `score`
    allocate: Callable[[Scores, float], Plan]
    # (scores, strength in [0, 1]) -> the plan that keeps most score. Strength 0: everything stays. 1: every limit of
    # the budget is met. Between: every limit is loosened to original - strength * (original - limit)


@dataclass(frozen=True)
class Training:
    """The training run that a mechanism takes part in."""

    model: nn.Module  # inside its wrappers; its parameters are those that the optimizer updates. Changed in place
    optimizer: Optimizer
    recipe: Recipe
    bounds: Bounds  # the budget beside the costs of the dense network
    total: int  # updates of the optimizer in the whole run
    seed: int = 0
    units: Units | None = None  # None: weights are pruned, not units
    layers: tuple[WeightLayer, ...] = ()  # the weight matrices in the order of the forward, where weights are pruned
    batches: Callable[[], Iterable[tuple[Any, Any]]] | None = None
    # gives batches (inputs, targets) on the model's device, the same ones each time; None: the user gave no data
    loss: Loss | None = None  # (outputs, targets) -> scalar; None: as `sartor.types.Calibration` chooses

    def generator(self, moment: Moment, device: torch.device | str = "cpu") -> Generator:
        """A random generator that depends on the seed and the step alone: alike on all ranks and after a resume."""
        return Generator(device).manual_seed((self.seed * 1_000_003 + moment.step) % 2**63)


class Mechanism(Protocol):
    """One way to prune while training. Everything that it changes in the model, it changes in place.

    Nothing here may draw from global generators: `Training.generator` gives one for each step.
    """

    def start(self, training: Training) -> None:
        """Prepare: look up tensors, precompute indices. The weights stay as they are.

        Raises:
            BadInput: the recipe asks for something that this model, optimizer or data cannot give.
        """

    def before_update(self, moment: Moment) -> None:
        """Gradients of the coming update are in `p.grad`, averaged over ranks and without a loss scale."""

    def after_update(self, moment: Moment) -> None:
        """The optimizer has changed the weights: bring them back to the masks, or project them."""

    def decide(self, moment: Moment) -> Any:
        """What is to be live from now on: a value that can be pickled. Runs on rank 0 only and changes nothing."""

    def adopt(self, decision: Any, moment: Moment) -> None:
        """Carry out a decision: new masks, values of regrown weights, optimizer state of removed ones to zero."""

    def plan(self) -> Plan | None:
        """The units that stay, as adopted last; None: no unit was removed yet, or this prunes weights."""

    def density(self) -> float:
        """MACs of the live part over those of the dense network, in (0, 1]: the cost of a step in a perfect engine."""

    def state_dict(self) -> Mapping[str, Any]:
        """Masks, remembered values and everything else that a resumed run needs to go on bit-identically."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, after `start` on the same model and recipe. The weights come from the user's own checkpoint."""


MECHANISMS: Registry[Callable[[Recipe], Mechanism]] = Registry("mechanism")


def mechanism_of(recipe: Recipe) -> Mechanism:
    """The mechanism that carries out a recipe, not yet started.

    Mechanisms are registered under "<kind of cut>/<kind of when>", such as "axes/gradual".

    Raises:
        BadInput: nothing carries out this combination; says which there are.
    """
    name = f"{recipe.cut.kind}/{recipe.when.kind}"
    if name not in MECHANISMS:
        known = ", ".join(MECHANISMS) or "none"
        raise BadInput(
            f"recipe {recipe.name!r}: no mechanism cuts {recipe.cut.kind!r} on the schedule {recipe.when.kind!r}; "
            f"combinations of cut/when that there are: {known}"
        )
    return MECHANISMS[name].value(recipe)


__all__ = ["MECHANISMS", "Loss", "Mechanism", "Moment", "Training", "Units", "mechanism_of"]
