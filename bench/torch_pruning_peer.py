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
    both = [(name, "global") for name in made] + [(name, "uniform") for name in ("L2", "FPGM")]
    return {
        f"Torch-Pruning {name}, {where}": partial(
            _cut, tp, model, example, batches, share, made[name], where == "global"
        )
        for name, where in both
    }


def _cut(
    tp: Any, model: nn.Module, example: Any, batches: Sequence[Any], share: float, make: Callable[[], Any], whole: bool
) -> nn.Module:
    limit = share * count(trace(model, example)).macs
    low, high, best = 0.0, 1.0, None
    for _ in range(_ROUNDS):
        ratio = (low + high) / 2
        copied = copy.deepcopy(model)
        importance = make()
        left_out = [
            m for n, m in copied.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and not n.endswith(".conv1")
        ]
        pruner = tp.pruner.BasePruner(
            copied, example, importance=importance, global_pruning=whole, pruning_ratio=ratio, ignored_layers=left_out,
            max_pruning_ratio=0.9,
        )  # fmt: skip
        _gradients(tp, copied, importance, batches)
        pruner.step()
        for p in copied.parameters():
            p.grad = None
        if count(trace(copied, example)).macs <= limit:
            best, high = copied, ratio
        else:
            low = ratio
    if best is None:
        raise ValueError(f"no ratio of channels leaves {share:.0%} of the MACs")
    return best


def _gradients(tp: Any, model: nn.Module, importance: Any, batches: Sequence[Any]) -> None:
    """The mean gradient, for the criteria that read it."""
    if isinstance(importance, tp.importance.GroupTaylorImportance):
        model.zero_grad()
        for x, y in batches:
            (nn.functional.cross_entropy(model(x), y) / len(batches)).backward()
