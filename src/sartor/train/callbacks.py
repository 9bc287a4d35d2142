"""Prune while training inside the loops of Lightning and of Hugging Face's Trainer.

The callbacks are made by `lightning_callback` and `trainer_callback`, so that neither library is needed to import this
file. Both call a session after every update of the optimizer, and never for a micro-batch that only accumulates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sartor.errors import BadInput, MissingExtra
from sartor.train.pruning import MakePruning


def lightning_callback(make: MakePruning, network: Callable[[nn.Module], nn.Module] = lambda module: module) -> Any:
    """A Lightning `Callback` that holds a session; `callback.session` is it, once the training has begun.

    Checkpoints of the trainer contain the session's state, and a resumed `fit(ckpt_path=...)` goes on with it.

    Args:
        make: makes the session when the training begins.
        network: gives the network that is pruned from the LightningModule; by default the module itself.

    Raises:
        MissingExtra: neither lightning nor pytorch_lightning is installed.
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback  # type: ignore[assignment]
        except ImportError:
            raise MissingExtra("lightning", "lightning", "the Lightning callback") from None

    class PruneWhileTraining(Callback):  # type: ignore[misc]
        """Calls a session after every update."""

        def __init__(self) -> None:
            self.session: Any = None
            self._updates = 0
            self._state: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, module: nn.Module) -> None:
            if len(trainer.optimizers) != 1:
                raise BadInput(f"Lightning callback: expected one optimizer; got {len(trainer.optimizers)}")
            steps = trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise BadInput("Lightning callback: the trainer must know its end; pass max_epochs or max_steps")
            self.session = make(network(module), trainer.optimizers[0], int(steps))
            if self._state is not None:
                self.session.load_state_dict(self._state)
            self._updates = trainer.global_step

        def on_train_batch_end(self, trainer: Any, module: nn.Module, outputs: Any, batch: Any, batch_idx: int) -> None:
            for _ in range(trainer.global_step - self._updates):
                self.session.step()
            self._updates = trainer.global_step

        def state_dict(self) -> dict[str, Any]:
            return {} if self.session is None else dict(self.session.state_dict())

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._state = state_dict or None  # it comes before the optimizer is there

    return PruneWhileTraining()


def trainer_callback(make: MakePruning) -> Any:
    """A Hugging Face `TrainerCallback` that holds a session; `callback.session` is it, once the training has begun.

    The Trainer stores no tensors of callbacks: save `callback.session.state_dict()` beside its checkpoint, and pass it
    to `callback.resume(state)` before `trainer.train(resume_from_checkpoint=...)`.

    Args:
        make: makes the session when the training begins.

    Raises:
        MissingExtra: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtra("transformers", "zoo", "the callback of the Hugging Face Trainer") from None

    class PruneWhileTraining(TrainerCallback):  # type: ignore[misc]
        """Calls a session after every update."""

        def __init__(self) -> None:
            self.session: Any = None
            self._state: Mapping[str, Any] | None = None

        def resume(self, state: Mapping[str, Any]) -> None:
            """Go on from this state when the training begins."""
            self._state = state

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.session = make(kwargs["model"], kwargs["optimizer"], int(state.max_steps))
            if self._state is not None:
                self.session.load_state_dict(self._state)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.session.step()

    return PruneWhileTraining()


__all__ = ["lightning_callback", "trainer_callback"]
