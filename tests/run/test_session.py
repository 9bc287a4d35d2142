"""Pruning while training: budgets exact at the last step, runs resume bit for bit, the cut is the trained network."""

import copy
import io

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.recipes import RECIPES, find_recipe
from sartor.seed import seeded
from sartor.types import Axes, Criterion, FineTune, Gradual, PruneAndRegrow, Recipe

TOTAL, EXAMPLE = 24, torch.randn(1, 1, 6, 6)
WHILE_TRAINING = [e.name for e in RECIPES.entries() if e.value.when.kind != "one-shot" and e.value.cut.kind == "axes"]


class Net(nn.Module):
    """Two residual blocks with batch norms."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.a = nn.Sequential(
            nn.Conv2d(width, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.b = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU())
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.b(torch.relu(x + self.a(x))).mean((2, 3)))


def batches(n=4, size=16):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 1, 6, 6, generator=g), torch.randint(4, (size,), generator=g)) for _ in range(n)]


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def start(recipe, budget="macs<=50%", total=TOTAL, model=None, **options):
    with seeded(0):
        model = (model or Net()).train()
    optimizer = sgd(model)
    session = sartor.Session(
        model, optimizer, EXAMPLE, budget=budget, recipe=recipe, steps=total, data=batches(1), seed=1, **options
    )
    return model, optimizer, session


def train(model, optimizer, session, first=0, last=TOTAL, after_step=lambda: None):
    data = batches()
    for i in range(first, last):
        x, y = data[i % len(data)]
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        after_step()
        session.step()
        optimizer.zero_grad()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", WHILE_TRAINING)
def test_the_budget_is_exact_the_run_resumes_and_the_cut_is_the_trained_network(name, tmp_path):
    model, optimizer, session = start(name)
    train(model, optimizer, session)

    second = start(name)
    train(*second, last=13)
    torch.save([part.state_dict() for part in second], tmp_path / "state.pt")
    third = start(name)
    for part, state in zip(third, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*third, first=13)
    assert same(third[0], model) and third[2].plan == session.plan and third[2].density == session.density

    fitted = session.finish()
    counted = fitted.result["counted"]["macs"]
    assert fitted.met and counted["fitted"] <= 0.5 * counted["original"] and fitted.proof.status == "exact"
    graph, plan = session._session.subject.graph, session.plan
    one_more = [
        sartor.count(graph, {**plan.counts(), n: plan.counts()[n] + 1}).macs for n in plan.keep
        if plan.counts()[n] < graph.groups[n].units
    ]  # fmt: skip
    assert min(one_more) > 0.5 * counted["original"]  # nothing more fits
    assert session.density == counted["fitted"] / counted["original"]
    x = batches(1)[0][0]
    with torch.no_grad():
        torch.testing.assert_close(fitted.model.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["chex", "gradual"])
def test_weights_loaded_before_the_session_is_made_survive_its_first_decision(name):
    model, optimizer, session = start(name)
    train(model, optimizer, session, last=13)
    saved = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, session)]
    train(model, optimizer, session, first=13)
    again = Net().train()
    again.load_state_dict(saved[0])
    other = sgd(again)
    other.load_state_dict(saved[1])
    resumed = sartor.Session(again, other, EXAMPLE, budget="macs<=50%", recipe=name, steps=TOTAL, seed=1)
    resumed.load_state_dict(saved[2])
    train(again, other, resumed, first=13)
    assert same(model, again)


def test_between_decisions_removed_units_are_zero_after_every_update():
    model, optimizer, session = start("gradual")

    def check():
        plan = session.plan
        if plan is not None:
            graph = session._session.subject.graph
            expected = sartor.silence(model, graph, plan)
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters()))

    train(model, optimizer, session, after_step=check)
    assert session.plan is not None


def test_densities_of_a_gradual_recipe_never_grow_and_those_of_regrowth_come_down_to_the_budget():
    for name, monotone in (("gradual", True), ("chex", False)):
        model, optimizer, session = start(name)
        train(model, optimizer, session)
        densities = [row["density"] for row in session._session.trail]
        assert densities[-1] <= 0.5 and (not monotone or densities == sorted(densities, reverse=True))
        if not monotone:
            assert densities[0] > 0.5 and densities[0] <= 0.5 + 0.2 + 0.1


def test_gradient_scaling_accumulation_and_averages_do_not_disturb():
    model, optimizer, session = start("gradual")
    scaler, data = torch.amp.GradScaler("cpu"), batches()
    average = torch.optim.swa_utils.AveragedModel(model)
    for i in range(TOTAL):
        for half in (0, 1):  # two micro-batches an update
            x, y = (t[half::2] for t in data[i % 4])
            scaler.scale(nn.functional.cross_entropy(model(x), y) / 2).backward()
        if i == 5:
            model.head.weight.grad.fill_(torch.inf)  # the scaler skips this update
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        average.update_parameters(model)
        session.step()
        optimizer.zero_grad()
    fitted = session.finish(average=average)
    assert fitted.met and fitted.proof.status == "exact"
    kept = list(session.plan.keep["b.0"])
    assert torch.equal(fitted.model.head.weight, average.module.head.weight[:, kept])


def test_a_fused_optimizer_unscales_before_the_masks_and_gives_the_same_weights():
    results = []
    for fused in (False, True):
        with seeded(0):
            model = Net().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, fused=fused)
        session = sartor.Session(
            model, optimizer, torch.randn(1, 1, 6, 6), budget="macs<=50%", recipe="gradual", steps=TOTAL
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i in range(TOTAL):
            x, y = batches()[i % 4]
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            session.step()
            optimizer.zero_grad()
        results.append(model)
    for a, b in zip(results[0].parameters(), results[1].parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_nothing_is_drawn_from_the_generators_of_the_process():
    torch.manual_seed(5)
    model, optimizer, session = start(find_recipe("chex"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, optimizer, session)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_work_is_refused_before_the_training():
    with pytest.raises(BadInput, match="cuts once"):
        start("l1")
    with pytest.raises(BudgetNotMet):
        start("gradual", "macs<=0.1%")
    with pytest.raises(NothingToDo):
        start("gradual", "macs<=100%")
    with pytest.raises(BadInput, match="none of the model's parameters"):
        other = torch.optim.SGD(Net().parameters(), 0.1)
        sartor.Session(Net(), other, torch.randn(1, 1, 6, 6), budget="macs<=50%", steps=3)
    with pytest.raises(BadInput, match="steps"):
        start("gradual", total=0)
    with pytest.raises(BadInput, match="absolute latencies"):
        start("gradual", "latency<=1ms @ eager-cpu")
    with pytest.raises(BadInput, match="'gradient'"):
        start(Recipe(when=PruneAndRegrow(grow="gradient"), heal=()))
    with pytest.raises(BadInput, match="fibres"):
        start(Recipe(cut=Axes(fibres=True), when=Gradual(), heal=()))


def test_finishing_early_and_stepping_too_often_are_refused():
    model, optimizer, session = start("gradual")
    with pytest.raises(BadInput, match="after step 18"):
        session.finish()
    train(model, optimizer, session)
    with pytest.raises(BadInput, match="one more"):
        session.step()


def test_a_state_of_another_run_is_refused():
    _, _, session = start("gradual")
    state = session.state_dict()
    for key, value in (("format", 9), ("recipe", "chex"), ("total", 7), ("seed", 3), ("fingerprint", "x")):
        with pytest.raises(BadInput, match=key):
            session.load_state_dict({**state, key: value})


class Normed(nn.Module):
    """A residual stream with layer norms, whose statistics a mask would change, and hidden units."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x))))).mean((1, 2))


def test_groups_whose_units_an_operator_mixes_stay_whole():
    with pytest.warns(UserWarning, match="operators mix units"):
        model, optimizer, session = start("gradual", "macs<=80%", model=Normed())
    train(model, optimizer, session)
    assert set(session.plan.keep) == {"up"}
    assert session.finish().proof.status == "exact"


def test_a_compiled_or_parallel_model_is_trained_as_itself():
    model, optimizer, _ = start("gradual")
    wrapped = nn.DataParallel(model)
    again = sartor.Session(
        wrapped, optimizer, torch.randn(1, 1, 6, 6), budget="macs<=50%", recipe="gradual", steps=TOTAL
    )
    assert again._session.model is model


def test_values_of_regrown_units_are_part_of_the_recipe():
    for values in ("zero", "rewind", "reinitialise"):
        when = PruneAndRegrow(every=4, until=0.75, grow="random", values=values)
        recipe = Recipe("mine", score=Criterion("l1"), when=when, heal=(FineTune(),))
        model, optimizer, session = start(recipe)
        train(model, optimizer, session)
        assert session.density <= 0.5
        buffer = io.BytesIO()
        torch.save(session.state_dict(), buffer)
        assert buffer.tell() > 0
