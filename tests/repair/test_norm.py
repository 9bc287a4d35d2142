import copy

import pytest
import torch
from torch import nn

from sartor.errors import BadInput, NothingToDo
from sartor.repair.norm import refresh_norm, refresh_norm_, refresh_norm_if_better


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3),
    )  # fmt: skip


def batches(sizes=(8, 8, 8), seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 2, 8, 8, generator=g) * 3 + 2 for n in sizes]


def statistics(model):
    return {k: v.clone() for k, v in model.named_buffers()}


def test_equals_momentum_none_for_equal_batches():
    model, plain = network(), network()
    for m in plain:
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
    plain.train()
    plain[3].eval()
    with torch.no_grad():
        for x in batches():
            plain(x)
    refreshed = refresh_norm(model, batches(), samples=1000)
    for name, value in statistics(plain).items():
        torch.testing.assert_close(statistics(refreshed)[name], value)


def test_uneven_batches_weigh_by_their_size():
    x = torch.cat(batches((24,)))
    first = nn.Sequential(nn.BatchNorm2d(2))
    refresh_norm_(first, [x[:20], x[20:]], samples=24)
    torch.testing.assert_close(first[0].running_mean, x.mean((0, 2, 3)))


def test_only_the_asked_samples_are_used():
    x = batches((24,))[0]
    a = refresh_norm(network(), [x[:8], x[8:]], samples=12)
    b = refresh_norm(network(), [x[:8], x[8:12]], samples=100)
    assert all(torch.equal(v, statistics(b)[k]) for k, v in statistics(a).items())


def test_the_old_statistics_do_not_matter_and_the_second_time_changes_nothing():
    one, other = network(), network()
    other[1].running_mean.fill_(100.0)
    other[5].running_var.fill_(float("nan"))
    a, b = (refresh_norm(m, batches(), samples=24) for m in (one, other))
    again = refresh_norm(a, batches(), samples=24)
    for name, value in statistics(a).items():
        assert torch.equal(value, statistics(b)[name]) and torch.equal(value, statistics(again)[name])


def test_nothing_else_changes():
    model = network()
    model[3].eval()
    before = copy.deepcopy(model.state_dict())
    refreshed = refresh_norm(model, batches(), samples=24)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for m in (model, refreshed):
        assert [c.training for c in m] == [True, True, True, False, True, True]
        assert m[1].momentum == 0.1 and not m[1]._forward_pre_hooks
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), refreshed.parameters()))


def test_a_norm_used_twice_averages_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2, affine=False)
            self.unused = nn.BatchNorm1d(5)

        def forward(self, x):
            self.norm(x + 10)
            return self.norm(x)

    model = Twice()
    model.unused.running_mean.fill_(7.0)
    x = torch.randn(16, 2)
    refresh_norm_(model, [x[:8], x[8:]], samples=16)
    torch.testing.assert_close(model.norm.running_mean, x.mean(0) + 5)
    assert (model.unused.running_mean == 7).all()


def test_a_failure_leaves_the_old_statistics():
    model = network()
    before = statistics(model)
    bad = batches()
    bad[1][0] = float("nan")
    with pytest.raises(BadInput, match=r"'1' became NaN"):
        refresh_norm_(model, bad, samples=24)
    with pytest.raises(RuntimeError):
        refresh_norm_(model, [*batches(), torch.randn(2, 5, 8, 8)], samples=100)
    assert all(torch.equal(before[k], v) for k, v in statistics(model).items())
    assert model[1].momentum == 0.1 and model.training


def test_errors():
    with pytest.raises(NothingToDo, match="no batch norm"):
        refresh_norm(nn.Linear(2, 2), [torch.ones(1, 2)], samples=1)
    with pytest.raises(NothingToDo):
        refresh_norm(nn.BatchNorm1d(2, track_running_stats=False), [torch.ones(3, 2)], samples=1)
    with pytest.raises(BadInput, match="got none"):
        refresh_norm(network(), [], samples=1)
    with pytest.raises(BadInput, match="at least 1"):
        refresh_norm(network(), batches(), samples=0)


@pytest.mark.parametrize("scores, kept", [((1.0, 2.0), True), ((2.0, 1.0), False), ((1.0, 1.0), False),
                                          ((float("nan"), 0.0), True), ((1.0, float("nan")), False)])  # fmt: skip
def test_kept_only_if_better(scores, kept):
    model, told = network(), iter(scores)
    before = copy.deepcopy(model.state_dict())
    chosen, report = refresh_norm_if_better(model, batches(), "held out", lambda m, data: next(told), samples=24)
    assert (chosen is not model) == kept == report["kept"]
    assert report["after"] == pytest.approx(scores[1], nan_ok=True)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_no_norm_no_change():
    model = nn.Linear(2, 2)
    assert refresh_norm_if_better(model, [], None, lambda m, d: 1 / 0)[0] is model
