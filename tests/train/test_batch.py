from collections import UserDict

import pytest
import torch

from sartor.errors import BadInput
from sartor.train import first_samples, split


def test_pairs_and_mappings_are_told_apart():
    x, y = torch.ones(2, 3), torch.ones(2)
    assert split((x, y))[1] is y and split([x, y])[0] is x
    inputs, targets = split({"input_ids": x, "mask": x, "label": y})
    assert set(inputs) == {"input_ids", "mask"} and targets is y
    inputs, targets = split(UserDict(input_ids=x, labels=y))  # what tokenizers' collators give
    assert set(inputs) == {"input_ids"} and targets is y


@pytest.mark.parametrize("batch", [torch.ones(2, 3), (torch.ones(2),), (1, 2, 3), {"input_ids": torch.ones(2)}, None])
def test_anything_else_says_what_was_expected(batch):
    with pytest.raises(BadInput, match="labels"):
        split(batch)


@pytest.mark.parametrize(
    "samples, sizes", [(1, [1]), (4, [4]), (6, [4, 2]), (7, [4, 3]), (12, [4, 4, 4]), (100, [4, 4, 4])]
)
def test_first_samples_are_exact(samples, sizes):
    batches = [{"a": torch.full((4, 2), float(i)), "labels": torch.arange(4)} for i in range(3)]
    taken = list(first_samples(batches, samples))
    assert [len(inputs["a"]) for inputs, _ in taken] == sizes == [len(targets) for _, targets in taken]


def test_first_samples_reads_no_batch_too_many():
    def batches():
        yield torch.ones(4, 1), torch.ones(4)
        raise AssertionError("a batch that is not needed was asked for")

    assert len(list(first_samples(batches(), 4))) == 1
