import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.sources.loader import Loader, Subset
from sartor.sources.tensors import TensorSamples


def numbered(n):
    return TensorSamples(torch.arange(float(n)).reshape(n, 1), torch.arange(n))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 3))
def test_every_sample_once_an_epoch(n, batch, shuffle, drop_last, seed, epoch):
    loader = Loader(numbered(n), batch=batch, shuffle=shuffle, drop_last=drop_last, seed=seed)
    loader.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    seen = torch.cat([y for _, y in batches])
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches)
    assert len(seen.unique()) == len(seen)
    if not drop_last or n < batch:
        assert len(seen) == n
    else:
        assert len(seen) > n - batch and all(len(y) == batch for _, y in batches)


def test_a_value_until_the_epoch_changes():
    loader = Loader(numbered(50), batch=7, shuffle=True, seed=1)
    order = lambda: torch.cat([y for _, y in loader]).tolist()
    first = order()
    torch.manual_seed(99)
    assert order() == first
    loader.set_epoch(1)
    assert order() != first
    assert next(y.tolist() for _, y in Loader(numbered(50), batch=7, shuffle=True, seed=2)) != first[:7]


def test_bytes_are_scaled_and_normalised():
    x = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    out, _ = TensorSamples(x, torch.zeros(6), mean=mean, std=std).take(torch.tensor([5, 0]), None)
    shape = (1, 3, 1, 1)
    expected = (x[[5, 0]].float() / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    torch.testing.assert_close(out, expected)


def test_taking_never_changes_what_is_held():
    x = torch.randn(6, 2)
    samples = TensorSamples(x, torch.zeros(6), mean=(1.0,), std=(2.0,))
    before = x.clone()
    out, _ = samples.take(torch.arange(6), None)
    assert torch.equal(x, before)
    torch.testing.assert_close(out, (x - 1) / 2)
    raw, _ = TensorSamples(x, torch.zeros(6)).take(torch.arange(6), None)
    raw.zero_()
    assert torch.equal(x, before)


def test_only_the_chosen_samples_come():
    loader = Loader(Subset(numbered(10), torch.tensor([2, 5, 7, 9])), batch=3, shuffle=True)
    assert sorted(torch.cat([y for _, y in loader]).tolist()) == [2, 5, 7, 9] and loader.count == 4


def test_errors():
    with pytest.raises(BadInput, match="at least 1; got 0"):
        Loader(numbered(3), batch=0)
    with pytest.raises(BadInput, match="got none"):
        Loader(Subset(numbered(3), torch.tensor([], dtype=torch.long)), batch=1)
    with pytest.raises(BadInput, match="as many targets"):
        TensorSamples(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(BadInput, match="1 or 3 numbers"):
        TensorSamples(torch.zeros(3, 3, 2, 2), torch.zeros(3), mean=(0.1, 0.2))
    with pytest.raises(BadInput, match="std: expected numbers > 0"):
        TensorSamples(torch.zeros(3, 1), torch.zeros(3), std=(0.0,))
