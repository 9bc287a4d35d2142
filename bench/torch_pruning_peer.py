"""Torch-Pruning on the same weights: its criteria, on inner channels only.

    pip install torch-pruning==1.6.1

Inner channels only, because its graph does not follow the shortcut of these networks (a strided slice padded with
zero channels). Torch-Pruning takes a ratio of channels; bisection finds the ratio whose MACs are closest below the
share. Its Hessian criterion, which needs one backward pass a sample, is left out.
G. Fang et al. 2023, "DepGraph", arXiv:2301.12900.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from sartor.cost import count
from sartor.errors import SartorError
from sartor.structure import trace

_ROUNDS = 7


def torch_pruning(
    model: nn.Module, example: Any, batches: Sequence[Any], share: float
) -> Mapping[str, Callable[[], nn.Module]]:
    """Name -> a function that returns a copy with at most this share of the MACs."""
    try:
        import torch_pruning as tp
    except ImportError as e:
        raise SartorError(
            "this comparison needs another tool: pip install torch-pruning==1.6.1, or add --no-peers"
        ) from e
    made = {
        "random": lambda: tp.importance.RandomImportance(),
        "L1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "BN scale": lambda: tp.importance.BNScaleImportance(),
        "FPGM": lambda: tp.importance.FPGMImportance(),
        "LAMP": lambda: tp.importance.LAMPImportance(),
        "Taylor": lambda: tp.importance.GroupTaylorImportance(),
    }
    variants = [(name, "global") for name in made] + [(name, "uniform") for name in ("L2", "FPGM")]
    peer = _Peer(tp, model, example, batches, share)
    return {
        f"Torch-Pruning {name}, {where}": partial(peer.cut, made[name], whole_network=where == "global")
        for name, where in variants
    }


@dataclass(frozen=True)
class _Peer:
    """Torch-Pruning at one share of the MACs."""

    tp: Any  # the package torch_pruning
    model: nn.Module
    example: Any
    batches: Sequence[Any]
    share: float

    def cut(self, criterion: Callable[[], Any], *, whole_network: bool) -> nn.Module:
        """The largest of the networks that bisection tries whose MACs are within the share.

        Raises:
            ValueError: none is.
        """
        limit = self.share * count(trace(self.model, self.example)).macs
        low, high, best = 0.0, 1.0, None
        for _ in range(_ROUNDS):
            ratio = (low + high) / 2
            smaller = self._at_ratio(ratio, criterion(), whole_network)
            if count(trace(smaller, self.example)).macs <= limit:
                best, high = smaller, ratio
            else:
                low = ratio
        if best is None:
            raise ValueError(f"no ratio of channels leaves {self.share:.0%} of the MACs")
        return best

    def _at_ratio(self, ratio: float, importance: Any, whole_network: bool) -> nn.Module:
        smaller = copy.deepcopy(self.model)
        left_out = [
            m for n, m in smaller.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and not n.endswith(".conv1")
        ]
        pruner = self.tp.pruner.BasePruner(
            smaller, self.example, importance=importance, global_pruning=whole_network, pruning_ratio=ratio,
            ignored_layers=left_out, max_pruning_ratio=0.9,
        )  # fmt: skip
        self._gradients(smaller, importance)
        pruner.step()
        for p in smaller.parameters():
            p.grad = None
        return smaller

    def _gradients(self, model: nn.Module, importance: Any) -> None:
        """The mean gradient, for criteria that read it."""
        if isinstance(importance, self.tp.importance.GroupTaylorImportance):
            model.zero_grad()
            for x, y in self.batches:
                (nn.functional.cross_entropy(model(x), y) / len(self.batches)).backward()
