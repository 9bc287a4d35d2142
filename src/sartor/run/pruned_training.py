"""The training of `fit` for recipes that prune while a network trains: our loop with a session in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sartor.errors import BadInput
from sartor.run.context import Context
from sartor.run.session import SessionOptions, TrainingSession
from sartor.structure import Example
from sartor.train import History, TrainingSetup, fine_tune
from sartor.types import Budget, Data, Recipe


@dataclass(frozen=True)
class PrunedTraining:
    """What is asked of a training that prunes."""

    budget: Budget
    recipe: Recipe
    data: Data
    context: Context

    def run(
        self, network: nn.Module, example: Example, teacher: nn.Module, on_epoch: Callable[[dict[str, Any]], None]
    ) -> tuple[TrainingSession, History]:
        """Train the network in place under the budget; the session at its end, and the history.

        Best epochs are not part of the history: before the last decision the network is larger than the budget.

        Raises:
            BadInput: there are no epochs, or nothing to train on.
            TrainingDiverged: the loss is not finite.
        """
        recipe, context = self.recipe, self.context
        if not recipe.training.epochs or self.data.train is None:
            raise BadInput(
                f"recipe {recipe.name!r} prunes while a network trains (when={recipe.when.kind!r}): pass train=... and "
                "epochs=..., or use a sartor.Session in a loop of your own"
            )
        made: list[TrainingSession] = []

        def prune(model: nn.Module, optimizer: Optimizer, steps: int) -> TrainingSession:
            options = SessionOptions(steps, self.data, context.judge, context.seed, context.listener)
            made.append(TrainingSession(model, optimizer, example, (self.budget, recipe), options))
            return made[0]

        setup = TrainingSetup(recipe.training, teacher, context.seed, context.checkpoints, prune)
        history = fine_tune(
            network, self.data, setup, judge=context.judge, listener=context.listener, on_epoch=on_epoch
        )
        made[0].close()
        return made[0], replace(history, best_epoch=None, best_state=None)


__all__ = ["PrunedTraining"]
