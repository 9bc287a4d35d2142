"""What comes back first: scores of dead weights, larger = grows first. Each is a function of what it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sartor.errors import BadInput


def random_growth(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform random numbers in [0, 1): every dead weight is equally likely to grow.

    Source: Mocanu et al. 2018 (SET), arXiv:1707.04780.
    """
    return torch.rand(shape, generator=generator, device=generator.device)


def gradient_growth(gradient: Tensor) -> Tensor:
    """The magnitude of the dense gradient: what grows first is what would reduce the loss fastest.

    Source: Evci et al. 2020 (RigL), arXiv:1911.11134.

    >>> gradient_growth(torch.tensor([-2.0, 1.0]))
    tensor([2., 1.])
    """
    return gradient.detach().abs()


def hebbian_growth(before: Tensor, after: Tensor) -> Tensor:
    """Cosine similarity of what a layer's inputs and outputs do over a batch: units that are active together connect.

    Args:
        before: [samples, in], activations that the layer reads.
        after: [samples, out], activations that it writes.

    Returns:
        [out, in], in [-1, 1]; 0 where a unit is never active.

    Source: G2GNet, 2025: Hebbian growth, there with the activations of the last batch.

    >>> hebbian_growth(torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[2.0], [4.0]]))
    tensor([[1.0000, 0.8944]])
    """
    return _unit_columns(after.detach().float()).T @ _unit_columns(before.detach().float())


def _unit_columns(t: Tensor) -> Tensor:
    norm = t.norm(dim=0)
    return t / torch.where(norm > 0, norm, 1.0)


class LastActivations:
    """The inputs and outputs of linear layers in the last forward of a network.

    Args:
        model: hooks are put on its layers.
        names: of weights; each belongs to a module that reads [..., in] and writes [..., out].

    Raises:
        BadInput: a weight belongs to no linear layer.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, tuple[int, ...]]):
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks = []
        for name, shape in names.items():
            module = model.get_submodule(name.rpartition(".")[0])
            if len(shape) != 2:
                raise BadInput(_refusal(name, "it has a kernel"))
            self._hooks.append(module.register_forward_hook(self._keeper(name, shape)))

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        """[samples, in] and [samples, out] of the last forward."""
        if name not in self.seen:
            raise BadInput(f"hebbian growth: the layer of {name!r} has not run yet")
        return self.seen[name]

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _keeper(self, name: str, shape: tuple[int, ...]) -> Any:
        def keep(module: nn.Module, args: Any, out: Any) -> None:
            ends = [t.shape[-1] if isinstance(t, Tensor) and t.ndim > 1 else None for t in (*args[:1], out)]
            if ends != [shape[1], shape[0]]:
                raise BadInput(_refusal(name, "its module does not map the last dimension of its input"))
            if module.training:
                self.seen[name] = (args[0].detach().flatten(0, -2), out.detach().flatten(0, -2))

        return keep


def _refusal(name: str, why: str) -> str:
    return (
        f"hebbian growth: expected weights of linear layers; of {name!r}, {why}. Exclude it with 'cut.exclude', or "
        "grow by 'gradient' or 'random'"
    )


__all__ = ["LastActivations", "gradient_growth", "hebbian_growth", "random_growth"]
