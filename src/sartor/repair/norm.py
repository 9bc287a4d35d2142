"""Batch-norm statistics, re-estimated on the network as it is now."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.errors import BadInput, NothingToDo
from sartor.structure.example import Example, batch_of, call_in_training, with_batch
from sartor.torch_internals import BatchNorm

H = TypeVar("H")


def refresh_norm(model: nn.Module, batches: Iterable[Example], *, samples: int) -> nn.Module:
    """A copy whose batch-norm layers hold the statistics of these inputs; the model is left as it was.

    See `refresh_norm_` for arguments and errors.
    """
    return refresh_norm_(copy.deepcopy(model), batches, samples=samples)


def refresh_norm_(model: nn.Module, batches: Iterable[Example], *, samples: int) -> nn.Module:
    """Replace the running statistics of every batch norm by their exact average over the calibration inputs.

    Each layer averages the mean and the unbiased variance of each batch, weighted by the number of values the batch
    brought, which for batches of one size is `momentum=None`. Meanwhile only batch norms are in training mode, so
    dropout is off. Layers the inputs do not reach keep their statistics. If anything fails, all of them do.

    Args:
        model: changed in place in nothing but `running_mean`, `running_var` and `num_batches_tracked`.
        batches: inputs only, each a batch the model can be called with, where the model lies.
        samples: how many samples are used at most; the last batch is cut to fit, fewer are taken if there are fewer.

    Returns:
        The same model.

    Raises:
        NothingToDo: there is no batch norm with running statistics.
        BadInput: no inputs, or statistics that became NaN or infinite.

    Source: the adjustment stage of Li et al. 2020, "EagleEye", arXiv:2007.02491.
    """
    if samples < 1:
        raise BadInput(f"batch-norm refresh: expected at least 1 sample; got {samples}")
    norms = _norms(model)
    if not norms:
        raise NothingToDo("batch-norm refresh: the model has no batch norm with running statistics")
    before = {name: [t.clone() for t in _statistics(m)] for name, m in norms.items()}
    momenta = {name: m.momentum for name, m in norms.items()}
    seen: dict[nn.Module, int] = {}

    def weigh(norm: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(norm, BatchNorm)
        values = args[0].numel() // args[0].shape[1]
        seen[norm] = seen.get(norm, 0) + values
        norm.momentum = values / seen[norm]
        if seen[norm] == values:  # the first look: forget the old statistics, NaN included
            for t in _statistics(norm):
                t.zero_()

    try:
        with borrowed(model) as hooks, torch.no_grad():
            for m in norms.values():
                m.training = True
                hooks.append(m.register_forward_pre_hook(weigh))
            _run(model, batches, samples)
        for name, m in norms.items():
            if not all(bool(torch.isfinite(t).all()) for t in _statistics(m)):
                raise BadInput(
                    f"batch-norm refresh: the statistics of {name!r} became NaN or infinite; "
                    "expected finite calibration inputs and activations"
                )
    except BaseException:
        with torch.no_grad():
            for name, m in norms.items():
                for now, old in zip(_statistics(m), before[name]):
                    now.copy_(old)
        raise
    finally:
        for name, m in norms.items():
            m.momentum = momenta[name]
    return model


def refresh_norm_if_better(
    model: nn.Module,
    calibration: Iterable[Example],
    held_out: H,
    score: Callable[[nn.Module, H], float],
    *,
    samples: int = 2000,
) -> tuple[nn.Module, dict[str, Any]]:
    """Refresh the statistics and keep them only if the network is then better on data they were not taken from.

    Args:
        model: left as it was.
        calibration: inputs, as for `refresh_norm_`.
        held_out: handed to `score`.
        score: `score(model, held_out) -> float`, larger is better; `sartor.train.accuracy` fits.
        samples: calibration samples used at most.

    Returns:
        (model, report): a refreshed copy, or the same object when refreshing does not help. The report holds "kept"
        (bool), "before" and "after" (scores; None for a model without batch norm).

    Raises:
        BadInput: as `refresh_norm_`.
    """
    if not _norms(model):
        return model, {"kept": False, "before": None, "after": None}
    refreshed = refresh_norm(model, calibration, samples=samples)
    before, after = float(score(model, held_out)), float(score(refreshed, held_out))
    kept = after > before or (math.isnan(before) and not math.isnan(after))
    return refreshed if kept else model, {"kept": kept, "before": before, "after": after}


def _run(model: nn.Module, batches: Iterable[Example], samples: int) -> None:
    left = samples
    for inputs in batches:
        n = batch_of(inputs)
        call_in_training(model, with_batch(inputs, left) if n > left else inputs)
        left -= n
        if left <= 0:
            return
    if left == samples:
        raise BadInput("batch-norm refresh: expected calibration inputs; got none")


def _norms(model: nn.Module) -> dict[str, BatchNorm]:
    return {n: m for n, m in model.named_modules() if isinstance(m, BatchNorm) and m.running_mean is not None}


def _statistics(norm: BatchNorm) -> list[Tensor]:
    return [t for t in (norm.running_mean, norm.running_var, norm.num_batches_tracked) if t is not None]
