"""Batches joined and taken apart, so that scores do not depend on the size of batches."""

import torch

from sartor.activations.moments import Moments
from sartor.importance.joined_batches import JoinedActivations, JoinedGradients


def calls_of(sizes, batch, memory=2**30, rest=3):
    """What a criterion is called with: (key, activations, labels)."""
    calls = []
    joined = JoinedActivations(batch, lambda key, a, labels: calls.append((key, a, labels)), memory)
    n = sum(sizes)
    a, labels = torch.randn(2, n, rest), torch.arange(n)
    low = 0
    for size in sizes:
        for key in ("a", "b"):
            part = a[:, low : low + size].clone()
            joined.add(key, part, labels[low : low + size])
            part.zero_()  # a forward that goes on writing to what it showed
        low += size
    joined.flush()
    return a, labels, calls


def test_a_criterion_gets_its_number_of_samples_whatever_the_batches():
    for sizes in ([1] * 25, [7, 7, 7, 4], [10, 10, 5], [4, 21]):
        a, labels, calls = calls_of(sizes, 10)
        for key in ("a", "b"):
            mine = [(part, y) for k, part, y in calls if k == key]
            assert [len(y) for _, y in mine] == [10, 10, 5]
            assert torch.equal(torch.cat([y for _, y in mine]), labels)
            if max(sizes) < 10:  # larger ones are shown as they are, without a copy
                assert torch.equal(torch.cat([part for part, _ in mine], 1), a)


def test_what_waits_is_bounded():
    _, labels, calls = calls_of([4] * 6, 20, memory=2 * 2 * 8 * 3 * 4)
    sizes = [len(y) for k, _, y in calls if k == "a"]
    assert sum(sizes) == len(labels) and max(sizes) < 20


def test_activations_of_another_shape_are_not_joined():
    sizes = []
    joined = JoinedActivations(4, lambda key, a, labels: sizes.append(tuple(a.shape)))
    joined.add("a", torch.zeros(2, 3, 5), None)
    joined.add("a", torch.zeros(2, 3, 6), None)
    joined.flush()
    assert sizes == [(2, 3, 5), (2, 3, 6)]


def test_gradients_are_averaged_over_joined_batches():
    grads = [{"w": torch.randn(3)} for _ in range(3)]
    joined = JoinedGradients(5)
    (first,) = [whole for g, n in zip(grads, (2, 4, 1)) for whole in joined.add(g, n)]
    assert first[1] == 6 and torch.allclose(first[0]["w"], (2 * grads[0]["w"] + 4 * grads[1]["w"]) / 6)
    ((last, n),) = joined.flush()
    assert n == 1 and torch.equal(last["w"], grads[2]["w"])
    assert not list(joined.flush())


def test_moments_of_parts_add_up_to_those_of_the_whole():
    x = torch.randn(3, 2, 101, dtype=torch.float64) + 1e6  # the mean is large beside the spread
    parts = [Moments.of(p) for p in x.split([1, 60, 40], 2)]
    whole = parts[0] + parts[1] + parts[2]
    assert whole.n == 101 and torch.allclose(whole.mean, x.mean(2), rtol=1e-14)
    assert torch.allclose(whole.variance, x.var(2, unbiased=False), rtol=1e-8)
    assert torch.allclose(whole.mean_square, x.square().mean(2), rtol=1e-12)
