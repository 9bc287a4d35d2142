"""Weights pruned while training: exact counts at the last step, runs resume bit for bit, the result is masked."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.recipes import RECIPES, find_recipe
from sartor.run import stages
from sartor.seed import seeded
from sartor.types import (
    Criterion,
    FineTune,
    Global,
    Gradual,
    GrowAndPrune,
    Iterative,
    Knapsack,
    OneShot,
    Recipe,
    Reweighted,
    Rewire,
    Uniform,
    Weights,
)
from sartor.types.rewire import Constant, Falling, Staged
from sartor.types.weights import NM, Blocks, GatherScatter, KernelPatterns

TOTAL = 20
RECIPES_OF_WEIGHTS = [e.name for e in RECIPES.entries() if e.value.cut.kind == "weights"]


class Net(nn.Module):
    """Two convolutions with batch norms and two dense layers; every matrix fits every pattern."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.c, self.d = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.d(torch.relu(self.c(self.b(self.a(x)).mean((2, 3)))))


def batches(n=3, size=16):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 8, 5, 5, generator=g), torch.randint(4, (size,), generator=g)) for _ in range(n)]


def suited(recipe):
    """Hebbian growth connects dense layers."""
    recipe = find_recipe(recipe)
    dense_only = isinstance(recipe.when, Rewire) and recipe.when.grow == "hebbian"
    return replace(recipe, cut=replace(recipe.cut, only=("c",), last=True)) if dense_only else recipe


def start(recipe, budget="weights<=30%", total=TOTAL, optimizer=None, **options):
    with seeded(0):
        model = Net().train()
    made = (optimizer or (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3)))(model.parameters())
    session = sartor.Session(
        model, made, torch.randn(1, 8, 5, 5), budget=budget, recipe=suited(recipe), steps=total, seed=1, **options
    )
    return model, made, session


def train(model, optimizer, session, first=0, last=TOTAL, after_step=lambda i: None):
    data = batches()
    for i in range(first, last):
        x, y = data[i % len(data)]
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        session.step()
        after_step(i)
        optimizer.zero_grad()


def delivered(session, average=None):
    """The network that `finish` delivers, with its proof; without the timing."""
    subject, plan = session._session.finished_subject(average)
    return stages.apply(subject, plan, session._session.masks)


def mechanism(session):
    return session._session.mechanism


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", RECIPES_OF_WEIGHTS)
def test_the_budget_is_exact_the_run_resumes_and_what_is_delivered_is_masked(name, tmp_path):
    model, optimizer, session = start(name)
    train(model, optimizer, session)

    second = start(name)
    train(*second, last=11)
    torch.save([part.state_dict() for part in second], tmp_path / "state.pt")
    third = start(name)
    for part, state in zip(third, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*third, first=11)
    assert same(third[0], model) and third[2].density == session.density

    masks, total = mechanism(session).masks.masks, mechanism(session).total
    live, steps = sum(int(m.sum()) for m in masks.values()), {"gather-scatter": 16}
    assert 0.3 * total - steps.get(name, 1) < live <= 0.3 * total  # nothing more fits
    cut = delivered(session)
    assert cut.verdict.status == "exact" and cut.verdict.passed and same(cut.network, model)
    weights = dict(cut.network.named_parameters())
    assert all(not bool(weights[n][~m].any()) for n, m in masks.items())
    pattern = mechanism(session).pattern
    assert all(pattern.holds(x.view(masks[n])) for n, x in mechanism(session).layers.items())


@pytest.mark.parametrize(
    ("pattern", "budget"),
    [(NM(2, 4), "weights<=50%"), (Blocks(4, 2), "weights<=30%"), (GatherScatter(8, 4), "weights<=30%")],
)
def test_every_pattern_is_reached_step_by_step(pattern, budget):
    recipe = Recipe("mine", score=Criterion("l1"), cut=Weights(pattern, exclude=("d",)), allocate=Uniform(floor=0.0),
                    when=Gradual(start=0.2, end=0.8, every=2), heal=())  # fmt: skip
    model, optimizer, session = start(recipe, budget)
    densities = [1.0]
    train(model, optimizer, session, after_step=lambda i: densities.append(session.density))
    assert densities == sorted(densities, reverse=True) and densities[-1] < 0.6
    found = mechanism(session)
    assert set(found.layers) == {"a.0.weight", "b.0.weight", "c.weight"}
    assert all(found.pattern.holds(x.view(found.masks.masks[n])) for n, x in found.layers.items())
    assert delivered(session).verdict.status == "exact"


def test_kernel_patterns_leave_other_matrices_dense_and_say_so():
    recipe = Recipe("mine", cut=Weights(KernelPatterns()), allocate=Uniform(floor=0.0), when=Gradual(), heal=())
    with pytest.warns(UserWarning, match=r"stays dense.*c\.weight \(its kernel is 1, not 3 x 3\), and 1 more"):
        model, optimizer, session = start(recipe, "weights<=22.5%")
    train(model, optimizer, session)
    assert set(mechanism(session).layers) == {"a.0.weight", "b.0.weight"}
    assert delivered(session).verdict.status == "exact"


@pytest.mark.parametrize(
    "optimizer", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), torch.optim.AdamW]
)
@pytest.mark.parametrize("name", ["rigl", "mest-soft", "gap", "one-cycle", "reweighted"])
def test_dead_weights_have_neither_value_nor_gradient_nor_momentum(name, optimizer):
    model, made, session = start(name, optimizer=optimizer)

    def check(i):
        for n, mask in mechanism(session).masks.masks.items():
            p = dict(model.named_parameters())[n]
            assert not bool(p[~mask].any())
            state = [v for v in made.state[p].values() if isinstance(v, torch.Tensor) and v.shape == p.shape]
            assert state and not any(bool(v[~mask].any()) for v in state)

    train(model, made, session, after_step=check)


def test_a_live_weight_of_exactly_zero_stays_live():
    model, optimizer, session = start("static-random")
    before = {n: m.clone() for n, m in session.masks.items()}
    with torch.no_grad():
        model.d.weight.zero_()
    train(model, optimizer, session)
    assert all(torch.equal(session.masks[n], m) for n, m in before.items())
    assert bool(model.d.weight[before["d.weight"]].any())


@pytest.mark.parametrize("name", ["set", "rigl", "mest", "g2gnet"])
def test_the_live_count_of_every_matrix_is_constant_and_weights_are_exchanged(name):
    recipe = suited(name)
    recipe = replace(recipe, when=replace(recipe.when, every=2))
    model, optimizer, session = start(recipe)
    counts, masks = [mechanism(session).live], [{n: m.clone() for n, m in mechanism(session).masks.masks.items()}]
    train(model, optimizer, session, after_step=lambda i: counts.append(mechanism(session).live))
    assert all(c == counts[0] for c in counts)
    assert any(not torch.equal(m, mechanism(session).masks.masks[n]) for n, m in masks[0].items())


def test_regrown_weights_are_zero_and_those_that_went_do_not_come_back_at_once():
    recipe = replace(suited("set"), when=Rewire(every=4, until=0.9, exchange=Constant(0.4), grow="random"))
    model, optimizer, session = start(recipe)
    found = mechanism(session)
    before = {}

    def check(i):
        if i + 1 in session._session.points and before:
            for n, mask in found.masks.masks.items():
                p, born = dict(model.named_parameters())[n], mask & ~before[n]
                assert bool(born.any()) and not bool(p[born].any())
                assert int((before[n] & ~mask).sum()) == int(born.sum()) == round(0.4 * int(mask.sum()))
        before.update({n: m.clone() for n, m in found.masks.masks.items()})

    train(model, optimizer, session, after_step=check)


def test_what_grows_by_gradient_has_the_largest_dense_gradients():
    recipe = replace(suited("rigl"), when=Rewire(every=5, until=0.25, exchange=Falling(0.5), grow="gradient"))
    model, optimizer, session = start(recipe, total=4 * TOTAL)
    found = mechanism(session)
    old = {n: m.clone() for n, m in found.masks.masks.items()}
    original, seen = found.adopt, []

    def adopt(decision, moment):
        seen.append({n: g.clone() for n, g in found.gradients.items()})
        original(decision, moment)

    found.adopt = adopt
    train(model, optimizer, session, last=5)
    for n, mask in found.masks.masks.items():
        born, still_dead = mask & ~old[n], ~mask & ~old[n]
        assert bool(born.any()) or bool(old[n].all())  # the densest layer is dense
        assert (
            not (still_dead.any() and born.any()) or seen[0][n].abs()[born].min() >= seen[0][n].abs()[still_dead].max()
        )


def test_soft_memory_peaks_at_its_stage_and_ends_at_the_budget():
    when = Rewire(every=2, until=0.75, exchange=Staged((0.25, 0.5), (0.5, 0.25, 0.0)), beyond=True)
    model, optimizer, session = start(replace(suited("mest-soft"), when=when))
    base = sum(mechanism(session).base.values())
    live = [sum(mechanism(session).live.values())]
    train(model, optimizer, session, after_step=lambda i: live.append(sum(mechanism(session).live.values())))
    assert live[0] == pytest.approx(1.5 * base, abs=2) and max(live) == live[0]
    assert any(x == pytest.approx(1.25 * base, abs=2) for x in live) and live[-1] == base


def test_exactly_one_partition_is_dense_and_after_a_cycle_every_weight_had_a_gradient():
    recipe = replace(suited("gap"), when=GrowAndPrune(partitions=3, rounds=6, until=0.9))
    model, optimizer, session = start(recipe)
    found = mechanism(session)
    reached = {n: torch.zeros_like(m) for n, m in found.masks.masks.items()}
    parts = found.partitions()
    assert [n for part in parts for n in part] == list(found.layers) and len(parts) == 3

    def check(i):
        dense = [n for n, m in found.masks.masks.items() if bool(m.all())]
        if session._session.done < max(session._session.points):
            assert dense in parts
            assert all(found.live[n] == found.base[n] for n in found.layers if n not in dense)
        for n, m in found.masks.masks.items():
            reached[n] |= m

    check(0)
    train(model, optimizer, session, after_step=check)
    assert all(bool(m.all()) for m in reached.values()) and found.live == found.base


def test_rounds_prune_the_same_share_and_rewind_bit_for_bit():
    recipe = replace(suited("lottery-ticket"), when=Iterative(rounds=3))
    with seeded(0):
        first = Net().state_dict()
    model, optimizer, session = start(recipe, "weights<=51.2%")
    total, live = mechanism(session).total, []

    def check(i):
        if i + 1 in session._session.points:
            live.append(sum(mechanism(session).live.values()))
            for n, t in model.state_dict().items():
                mask = session.masks.get(n, torch.ones_like(t, dtype=torch.bool))
                assert torch.equal(t, torch.where(mask, first[n], torch.zeros_like(t)))
            assert not optimizer.state

    train(model, optimizer, session, after_step=check)
    assert live == [round(total * (int(0.512 * total) / total) ** (r / 3)) for r in (1, 2)] + [int(0.512 * total)]
    assert [x / total for x in live] == pytest.approx([0.8, 0.64, 0.512], abs=1e-3)


@pytest.mark.parametrize("activate", [0.0, 1.0])
def test_activation_removes_negative_weights_that_moved_least(activate):
    when = Iterative(rounds=1, rewind=False, activate=activate)
    model, optimizer, session = start(replace(suited("activate-while-pruning"), when=when), "weights<=70%")
    began, ended = {n: p.detach().clone() for n, p in model.named_parameters()}, {}
    original = mechanism(session).adopt

    def adopt(decision, moment):
        ended.update({n: p.detach().clone() for n, p in model.named_parameters()})
        original(decision, moment)

    mechanism(session).adopt = adopt
    train(model, optimizer, session)
    masks = session.masks
    gone = torch.cat([ended[n][~m] for n, m in masks.items()])
    assert bool((gone < 0).all()) == (activate == 1.0)
    if activate:
        moved = {n: (ended[n] - began[n]).abs() for n in masks}
        left = torch.cat([moved[n][m & (ended[n] < 0)] for n, m in masks.items()]).sort().values
        most = torch.cat([moved[n][~m] for n, m in masks.items()]).max()
        assert int((left < most).sum()) <= len(masks)  # every matrix keeps its largest weight


def test_without_strength_the_penalty_is_plain_training_until_weights_are_removed():
    with seeded(0):
        plain = Net().train()
    sgd = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    model, optimizer, session = start(replace(suited("reweighted"), when=Reweighted(strength=0.0, end=0.8)))
    train(model, optimizer, session, last=15)
    for i in range(15):
        x, y = batches()[i % 3]
        nn.functional.cross_entropy(plain(x), y).backward()
        sgd.step()
        sgd.zero_grad()
    assert same(plain, model)


def test_an_averaged_network_is_delivered_masked():
    model, optimizer, session = start("one-cycle")
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer, session, after_step=lambda i: average.update_parameters(model))
    network = delivered(session, average).network
    weights, source = dict(network.named_parameters()), dict(average.module.named_parameters())
    for n, m in mechanism(session).masks.masks.items():
        assert not bool(weights[n][~m].any()) and torch.equal(weights[n][m], source[n][m])
    assert bool(source["c.weight"][~mechanism(session).masks.masks["c.weight"]].any())  # the average itself is not


def test_what_cannot_work_is_refused_before_the_training():
    mine = lambda **fields: Recipe("mine", **{"cut": Weights(), "when": Gradual(), "heal": (), **fields})
    with pytest.raises(BadInput, match="such as 'weights<=10%'; got limits on macs"):
        start("rigl", "macs<=50%")
    with pytest.raises(BadInput, match="limits on params"):
        start("rigl", "weights<=50%, params<=50%")
    with pytest.raises(BadInput, match="this one removes units"):
        start("gradual", "weights<=50%")
    with pytest.raises(NothingToDo, match="dense matrices have"):
        start("rigl", "weights<=100%")
    with pytest.raises(BudgetNotMet, match="at least 4"):
        start(mine(allocate=Uniform(floor=0.0)), "weights<=3")
    with pytest.raises(BudgetNotMet, match="floor"):
        start(mine(allocate=Global(floor=0.1)), "weights<=5%")
    with pytest.raises(BadInput, match=r"global, uniform or erdos-renyi .*'knapsack'"):
        start(mine(allocate=Knapsack()))
    with pytest.raises(BadInput, match="'chip' reads activation"):
        start(mine(score=Criterion("chip")))
    with pytest.raises(BadInput, match="names no weight matrix"):
        start(mine(cut=Weights(only=("nowhere",))))
    with pytest.raises(BadInput, match="no weight matrix can have the pattern 'kernel-patterns'"):
        start(mine(cut=Weights(KernelPatterns(), only=("c",))))
    with pytest.raises(BadInput, match="expected weights of linear layers"):
        net = Net()
        sgd, x = torch.optim.SGD(net.parameters(), 0.1), torch.randn(1, 8, 5, 5)
        sartor.Session(net, sgd, x, budget="weights<=50%", recipe=mine(when=Rewire(grow="hebbian")), steps=9)
    with pytest.raises(BadInput, match=r"'when.begin': .* has a kernel"):
        start(replace(RECIPES["g2gnet"].value, when=replace(RECIPES["g2gnet"].value.when, grow="random")))
    with pytest.raises(BadInput, match="expected a schedule"):
        mine(when=OneShot())
    with pytest.raises(BadInput):
        sartor.fit(Net(), budget="weights<=50%", recipe="rigl", example=torch.randn(1, 8, 5, 5), epochs=0)


def test_a_finished_session_is_recorded_and_its_files_give_the_network_back(tmp_path):
    model, optimizer, session = start("rigl")
    train(model, optimizer, session)
    fitted = session.finish(out=tmp_path / "run")
    live, row = sum(int(m.sum()) for m in session.masks.values()), fitted.result["budget"][0]
    assert fitted.met and (row["metric"], row["value"], row["original"]) == ("weights", live, mechanism(session).total)
    assert same(sartor.load(tmp_path / "run", Net), model) and same(fitted.model, model)


def test_fit_trains_with_the_same_masks():
    data = [(x, y) for x, y in batches()]
    fitted = sartor.fit(Net(), data, data, budget="weights<=20%", recipe="rigl", epochs=3)
    live = sum(int((p != 0).sum()) for p in fitted.model.parameters() if p.ndim > 1)
    total = sum(p.numel() for p in fitted.model.parameters() if p.ndim > 1)
    assert fitted.met and fitted.proof.status == "exact" and live == int(0.2 * total)


def test_a_criterion_of_ones_own_may_read_gradients():
    """The score of MEST with the gradient's magnitude."""
    score = Criterion(lambda weight, grad: (weight.abs() + 0.1 * grad.abs()).sum(1), normalise="none")
    recipe = Recipe("mine", score=score, cut=Weights(), allocate=Uniform(floor=0.0), when=Rewire(every=4), heal=())
    model, optimizer, session = start(recipe)
    train(model, optimizer, session)
    assert delivered(session).verdict.status == "exact"
    with pytest.raises(BadInput, match="no update was made yet"):
        start(replace(recipe, when=Gradual(curve="one-cycle", start=0.0)))


@pytest.mark.parametrize("score", [Criterion("l1"), Criterion(lambda weight, grad: (weight * grad).square().sum(1))])
def test_an_update_that_a_scaler_skips_before_a_decision_does_no_harm(score):
    when = Rewire(every=4, until=0.8, exchange=Constant(0.3), grow="gradient")
    recipe = Recipe("mine", score=score, cut=Weights(), allocate=Uniform(floor=0.0), when=when, heal=())
    model, optimizer, session = start(recipe)
    scaler, before = torch.amp.GradScaler("cpu"), {}
    for i in range(TOTAL):
        x, y = batches()[i % 3]
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if i == 7:  # the update before the decision of step 8
            model.d.bias.grad.fill_(torch.inf)
            before = session.masks
        scaler.step(optimizer)
        scaler.update()
        session.step()
        optimizer.zero_grad()
        if i == 7:
            assert all(torch.equal(m, before[n]) for n, m in session.masks.items())
    assert any(not torch.equal(m, before[n]) for n, m in session.masks.items())


def test_training_is_cheaper_by_the_dead_weights():
    """The cost of a run is the mean density, counted in MACs: that of a static mask is the same at every step."""
    model, optimizer, session = start("static-random")
    found = mechanism(session)
    dense = sum(x.macs for x in session._session.layers)
    expected = sum(x.macs * found.live[x.name] / x.size for x in session._session.layers) / dense
    train(model, optimizer, session)
    assert session.density == pytest.approx(expected) and session._session.training_cost == pytest.approx(expected)


def test_a_recipe_of_weights_survives_json():
    recipe = Recipe(
        "mine", cut=Weights(NM(1, 4)), when=Rewire(exchange=Staged()), allocate=Uniform(), heal=(FineTune(),)
    )
    assert Recipe(**sartor.types.asdict(recipe)) == recipe
