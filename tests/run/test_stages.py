"""The stages of the pipeline, one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.run import stages
from sartor.structure.example import batch_of


class Stream:
    """Batches without a length, as a DataLoader over an IterableDataset gives them."""

    def __len__(self) -> int:
        raise TypeError("this data has no length")

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))] * 3)


def subject() -> stages.Subject:
    return stages.understand(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 6))


def test_calibration_data_needs_no_length() -> None:
    assert sum(map(batch_of, stages.with_samples(subject(), Stream(), 10).inputs)) == 10
    held_out = stages.with_held_out(subject(), Stream(), 8)
    assert (sum(map(batch_of, held_out.inputs)), sum(map(batch_of, held_out.held_out))) == (8, 2)


def test_held_out_data_needs_a_source() -> None:
    assert stages.with_samples(subject(), None, 8).samples == ()
    with pytest.raises(BadInput, match="at least 2 samples"):
        stages.with_held_out(subject(), None, 8)
