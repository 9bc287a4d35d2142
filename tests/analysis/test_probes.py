"""Every probe gives the known answer of a case that can be computed by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from sartor.analysis import PROBES, analyse
from sartor.analysis.data_pass import Features, Outputs, pass_over
from sartor.analysis.probes.attacks import fgsm, pgd
from sartor.analysis.probes.bit_flips import _places, bit_flips, flip
from sartor.analysis.probes.calibration import binned_error, calibration, chance_error
from sartor.analysis.probes.conditioning import conditioning, norm_bound
from sartor.analysis.probes.corruptions import contrast, corruptions, noise
from sartor.analysis.probes.dead_units import dead_units
from sartor.analysis.probes.efficiency import efficiency
from sartor.analysis.probes.lipschitz import lipschitz
from sartor.analysis.probes.neural_collapse import neural_collapse, simplex
from sartor.structure import trace
from sartor.types import Data
from tests.analysis.known import batches, by_name, linear_classifier, subject, two_clouds


def logits_with(confidence: float, right: int, wrong: int) -> Outputs:
    """Two classes; every sample says class 0 with this confidence, `right` of them belong to it."""
    gap = math.log(confidence / (1 - confidence))
    logits = torch.tensor([[gap, 0.0]], dtype=torch.float64).expand(right + wrong, 2)
    return Outputs(logits, torch.tensor([0] * right + [1] * wrong))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    seen = by_name(list(calibration(logits_with(0.8, 60, 40))))
    assert seen["ece"] == pytest.approx(20.0, abs=1e-4) and seen["confidence"] == pytest.approx(80.0)
    assert seen["brier score"] == pytest.approx(0.6 * 0.08 + 0.4 * 1.28)
    assert by_name(list(calibration(logits_with(0.8, 80, 20))))["ece"] == pytest.approx(0.0, abs=1e-4)


def test_the_calibration_error_of_chance_is_that_of_calibrated_samples() -> None:
    """Its definition, by drawing: every sample is right with the probability that it states."""
    generator = torch.Generator().manual_seed(0)
    confidence = 0.5 + torch.rand(500, generator=generator, dtype=torch.float64) / 2
    drawn = []
    for _ in range(40):
        drawn.append(binned_error(confidence, (torch.rand(500, generator=generator) < confidence).double(), 15))
    assert chance_error(confidence, 15) == pytest.approx(sum(drawn) / 40, rel=0.15)


def test_dead_units_are_counted_exactly() -> None:
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    model[0].weight.data[:3] = 0.0
    model[0].bias.data[:3] = -1.0  # never active
    model[0].weight.data[3:] = 0.0
    model[0].weight.data[3:, 0] = 1.0
    model[0].bias.data[3:] = 0.0  # active where the first input is positive: half of the samples
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]).repeat(10, 1)
    seen = pass_over(subject(model, [(x, torch.zeros(20, dtype=torch.int64))]), {"units"})
    values = by_name(list(dead_units(seen["units"])))
    assert values["dead rate"] == pytest.approx(30.0)
    assert values["dynamic dead rate"] == pytest.approx(0.5 * 30 + 0.5 * 100)


def test_collapsed_features_have_no_distance_to_collapse() -> None:
    classes = 4
    means = simplex(classes)
    y = torch.arange(40) % classes
    full = by_name(list(neural_collapse(Features(means[y], 3 * means, torch.zeros(classes).double(), y))))
    assert all(full[f"NC{i}"] == pytest.approx(0.0, abs=1e-6) for i in (1, 2, 3, 4))
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, 8, generator=generator, dtype=torch.float64)
    none = by_name(list(neural_collapse(Features(wide, weight, torch.zeros(classes).double(), y))))
    assert none["NC1"] > 1 and none["NC2"] > 0.3 and none["NC3"] > 0.3


def uniform_features(counts: tuple[int, ...], penalty: float) -> tuple[torch.Tensor, Features]:
    """(lengths of the class means, features) of a model of features and two linear layers without bias, trained.

    The unconstrained-features model: loss |W2 W1 H - Y|^2 / 2n + penalty / 2 * (|W1|^2 + |W2|^2 + |H|^2).
    """
    torch.manual_seed(0)
    n, width, classes = sum(counts), 6, len(counts)
    y = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    target = torch.nn.functional.one_hot(y, classes).double()
    h, w1, w2 = (
        (torch.randn(*s, dtype=torch.float64) * 0.3).requires_grad_()
        for s in ((n, width), (width, width), (classes, width))
    )
    optimizer = torch.optim.LBFGS(
        [h, w1, w2], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        fit = (h @ w1.T @ w2.T - target).square().sum() / (2 * n)
        loss = fit + penalty / 2 * (h.square().sum() + w1.square().sum() + w2.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    means = torch.stack([h[y == k].mean(0) for k in range(classes)]).detach()
    return means.norm(dim=1), Features((h @ w1.T).detach(), w2.detach(), None, y)


def closed_form(count: int, n: int, penalty: float) -> float:
    """Length of a class mean at the minimum: classes are orthogonal, so each is a problem of three numbers.

    With a feature length x and layer gains s1 = s2 = s, balance gives s^2 = count * x^2. What remains is the minimum
    of count / 2n (s^2 x - 1)^2 + penalty / 2 (count x^2 + 2 s^2) over x.
    """
    x = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    s2 = count * x.square()
    loss = count / (2 * n) * (s2 * x - 1).square() + penalty / 2 * (count * x.square() + 2 * s2)
    return float(x[loss.argmin()])


def test_the_deep_linear_model_collapses_to_its_closed_form() -> None:
    counts, penalty = (100, 50, 10), 1e-3
    lengths, features = uniform_features(counts, penalty)
    seen = by_name(list(neural_collapse(features)))
    assert seen["NC1"] < 1e-3 and seen["NC4"] == 0
    expected = [closed_form(c, sum(counts), penalty) for c in counts]
    assert lengths.tolist() == pytest.approx(expected, rel=0.05)


def test_condition_numbers_and_norms_are_those_of_the_matrix() -> None:
    layer = linear_classifier(torch.diag(torch.tensor([8.0, 4.0, 2.0])))
    seen = {r.quantity: r.value for r in conditioning(subject(layer, [(torch.randn(4, 3), torch.zeros(4))]))}
    assert seen["condition number"] == pytest.approx(4.0) and seen["spectral norm"] == pytest.approx(8.0)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_norm_of_a_convolution_is_bounded(stride: int) -> None:
    """Beside the singular values of the matrix that a small convolution is."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, stride=stride, padding=1, bias=False).double()
    eye = torch.eye(3 * 36, dtype=torch.float64).reshape(-1, 3, 6, 6)
    exact = float(torch.linalg.matrix_norm(conv(eye).detach().flatten(1), 2))
    op = next(o for o in trace(conv.float(), torch.zeros(1, 3, 6, 6)).ops if o.kind == "conv")
    assert exact <= norm_bound(op, conv.weight) <= 3 * exact
    point = nn.Conv2d(3, 4, 1, bias=False)
    op = next(o for o in trace(point, torch.zeros(1, 3, 6, 6)).ops if o.kind == "conv")
    assert norm_bound(op, point.weight) == pytest.approx(
        float(torch.linalg.matrix_norm(point.weight.detach().double().flatten(1), 2))
    )


def test_lipschitz_bounds_of_a_linear_network_are_its_norm() -> None:
    weight = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])  # its norm is 3 sqrt(2), along (first - second logit) / sqrt(2)
    seen = by_name(list(lipschitz(subject(linear_classifier(weight), [(torch.randn(8, 2), torch.zeros(8))]))))
    assert seen["lipschitz constant, from above"] == pytest.approx(3 * 2**0.5)
    assert seen["lipschitz constant, from below"] == pytest.approx(3 * 2**0.5)


def test_no_two_inputs_are_steeper_than_the_bound(residual: tuple[nn.Module, torch.Tensor]) -> None:
    model, _ = residual
    model.eval()
    x = torch.randn(8, 3, 8, 8)
    seen = by_name(list(lipschitz(subject(model, [(x, torch.zeros(8))]))))
    with torch.no_grad():
        steepest = ((model(x[1:]) - model(x[:-1])).norm(dim=1) / (x[1:] - x[:-1]).flatten(1).norm(dim=1)).max()
    assert float(steepest) <= seen["lipschitz constant, from above"]
    assert seen["lipschitz constant, from below"] <= seen["lipschitz constant, from above"]


def test_what_has_no_lipschitz_bound_is_named() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x)
            return y * y

    readings = list(lipschitz(subject(Square(), [(torch.randn(4, 4), torch.zeros(4))])))
    assert readings[0].value is None and "mul" in readings[0].note


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=10, restarts=2)])
def test_attacks_on_a_linear_classifier_reach_the_exact_answer(attack: partial) -> None:
    """A box around x of half width e_j changes the margin by at most sum_j e_j |w_j|."""
    x, y = two_clouds()
    eps, weight = 0.05, torch.ones(6)
    model = linear_classifier(torch.stack([-weight, weight]))
    data = batches(x, y)
    low, high = x.amin(0), x.amax(0)
    sign = (2 * y - 1).float()
    worst = torch.minimum(torch.maximum(x - sign[:, None] * eps * (high - low) * weight, low), high)
    expected = 100 * float(((worst @ weight) * sign > 0).double().mean())
    step = {"step": 0.02} if isinstance(attack, partial) else {}
    seen = by_name(list(attack(subject(model, data), eps=eps, **step)))
    assert list(seen.values()) == [pytest.approx(expected, abs=0.26)]
    assert expected < by_name(list(attack(subject(model, data), eps=0.0, **step))).popitem()[1]


def test_attacks_stay_within_their_box_and_leave_the_network_alone() -> None:
    from sartor.analysis.probes.attacks import Steps, ascend

    x, y = two_clouds(100)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    seen = subject(model, [(x, y)])
    before = [p.detach().clone() for p in model.parameters()]
    moved = ascend(seen, x, y, Steps(0.1, 0.05, 5), torch.Generator().manual_seed(0))
    low, high = seen.input_range
    assert bool(((moved - x).abs() <= 0.1 * (high - low) + 1e-6).all())
    assert bool((moved >= low).all()) and bool((moved <= high).all())
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before))


def test_noise_on_a_linear_classifier_costs_what_the_normal_distribution_says() -> None:
    x, y = two_clouds(2000)
    weight = torch.ones(6)
    sign, size = (2 * y - 1).float(), torch.tensor([2.0])
    noisy = noise(x, 0.5, size, torch.Generator().manual_seed(5))
    right = float(((noisy @ weight) * sign > 0).double().mean())
    margin = (x @ weight) * sign / (0.5 * 2.0 * weight.norm())
    expected = float((0.5 * torch.special.erfc(-margin / 2**0.5)).mean())
    assert right == pytest.approx(expected, abs=0.03)


def test_contrast_does_not_change_what_ignores_scale() -> None:
    """Logits that are linear in the difference from the sample's mean only shrink."""
    x, y = two_clouds(100)
    weight = torch.randn(2, 6)
    model = linear_classifier(weight - weight.mean(1, keepdim=True))
    pale = contrast(x, 0.9, torch.ones(1), torch.Generator())
    assert torch.equal(model(pale).argmax(1), model(x).argmax(1))
    seen = {r.quantity: r.value for r in corruptions(subject(model, batches(x, y)))}
    assert seen["accuracy under contrast 0.85"] == pytest.approx(100 * float((model(x).argmax(1) == y).double().mean()))


def test_a_rate_of_one_flips_every_bit_and_two_flips_are_none() -> None:
    torch.manual_seed(0)
    for stored in (torch.randn(7, 3), torch.randint(-128, 128, (40,), dtype=torch.int8), torch.randn(9).double()):
        once = flip(stored, 1.0, torch.Generator())
        assert once.dtype == stored.dtype and once.shape == stored.shape
        assert torch.equal(flip(once, 1.0, torch.Generator()).view(torch.int8), stored.view(torch.int8))
        assert torch.equal(once.view(torch.int8), ~stored.view(torch.int8))
        assert torch.equal(flip(stored, 0.0, torch.Generator()), stored)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.05])
def test_bits_flip_at_their_rate(rate: float) -> None:
    bits, generator = 320_000, torch.Generator().manual_seed(0)
    flipped = flip(torch.zeros(bits // 32, dtype=torch.int32), rate, generator)
    number = sum(int(v & 0xFFFFFFFF).bit_count() for v in flipped.tolist())
    assert abs(number - bits * rate) < 5 * (bits * rate) ** 0.5
    assert len(_places(bits, rate, generator).unique()) == len(_places(bits, rate, generator)) or rate > 0


def test_bit_flips_at_no_rate_cost_nothing_and_at_a_high_rate_everything() -> None:
    x, y = two_clouds()
    model = linear_classifier(torch.stack([-torch.ones(6), torch.ones(6)]))
    clean = 100 * float((model(x).argmax(1) == y).double().mean())
    before = model.weight.detach().clone()
    seen = by_name(list(bit_flips(subject(model, batches(x, y)), rates=(1e-12, 0.5), repeats=5)))
    for form in ("float", "int8"):
        assert seen[f"accuracy at 1e-12 ({form})"] == pytest.approx(clean)
        assert seen[f"accuracy at 0.5 ({form})"] < clean - 10
    assert torch.equal(model.weight, before)


def test_parameter_efficiency_is_right_samples_for_nonzero_parameters() -> None:
    x, y = two_clouds()
    model = linear_classifier(torch.stack([-torch.ones(6), torch.ones(6)]))
    model.weight.data[:, 0] = 0.0
    seen_subject = subject(model, batches(x, y))
    outputs = pass_over(seen_subject, {"outputs"})["outputs"]
    hard = (torch.arange(len(y)) == 3).double()
    seen = by_name(list(efficiency(outputs, seen_subject, hardness=hard.tolist())))
    right = (model(x).argmax(1) == y).double()
    assert seen["nonzero parameters"] == 10 and seen["macs"] == 12
    assert seen["parameter efficiency"] == pytest.approx(float(right.mean()) / 10e-6)
    assert seen["hardness-normalised parameter efficiency"] == pytest.approx(float(right[3]) / 10e-6)


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"exit-cost"}))  # it needs a network with exits
def test_every_probe_runs_on_a_classifier_of_pictures_and_states_its_bias(name: str) -> None:
    """Twice alike, and the network stays as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).train()
    data = batches(torch.randn(30, 1, 8, 8), torch.arange(30) % 3, 16)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = (analyse(model, Data(train=data, val=list(data)), [name], samples=24, seed=1) for _ in range(2))
    assert first.rows and first.rows == second.rows and first.samples == 24
    assert first.probes[0].bias and first.probes[0].source
    for row in first.rows:
        assert row.interval is None or row.value is None or row.interval[0] <= row.value <= row.interval[1]
    assert model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
