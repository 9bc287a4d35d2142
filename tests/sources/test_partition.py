import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.sources.partition import stratified


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 300), st.integers(1, 7), st.integers(0, 1000))
def test_parts_are_disjoint_cover_all_and_hold_every_class(n, classes, seed):
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))
    shares = (0.7, 0.1, 0.2)
    parts = stratified(labels, shares, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    for part, share in zip(parts, shares):
        assert abs(len(part) - share * n) <= 1
        for c in range(classes):
            assert abs(int((labels[part] == c).sum()) - share * int((labels == c).sum())) <= 3


def test_the_seed_decides():
    labels = torch.arange(100) % 10
    a, b, c = (stratified(labels, (0.9, 0.1), seed)[1] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_errors():
    with pytest.raises(BadInput, match="add up to 1"):
        stratified(torch.zeros(10), (0.5, 0.4), 0)
    with pytest.raises(BadInput, match="too few"):
        stratified(torch.zeros(3), (0.99, 0.01), 0)
