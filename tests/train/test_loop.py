import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.activations.augment import crop_flip
from sartor.errors import BadInput, NothingToDo, TrainingDiverged
from sartor.sources.loader import Loader
from sartor.sources.tensors import TensorSamples
from sartor.train import TrainingSetup, accuracy
from sartor.train import fine_tune as fine_tune_with
from sartor.types import Data, FineTune, Judge, Listener


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def images(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 1, 8, 8, generator=g)
    x[y == 0, :, :4] += 1.5
    x[y == 1, :, 4:] += 1.5
    return x, y


def loader(seed=0, n=96):
    samples = TensorSamples(*images(n), augment=lambda x, g: crop_flip(x, g, pad=1))
    return Loader(samples, batch=16, shuffle=True, augment=True, drop_last=True, seed=seed)


def state(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def options(**changes):
    return FineTune(**{"epochs": 2, "lr": 0.1, "distill": 0.5, **changes})


def fine_tune(model, train, *, options, val=None, teacher=None, seed=0, loss=None, evaluate=None, **told):
    setup = TrainingSetup(options, teacher, seed)
    return fine_tune_with(model, Data(train=train, val=val), setup, judge=Judge(loss, evaluate), **told)


VARIANTS = {
    "plain": {},
    "adamw": {"optimizer": "adamw", "lr": 0.003},
    "bfloat16 channels last": {"precision": "bfloat16", "channels_last": True},
    "float16": {"precision": "float16", "lr": 0.02},
    "averaged": {"ema": 0.99},
    "clipped and smoothed": {"clip": 0.5, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_same_seed_gives_the_same_bits_and_learning_happens(changes):
    runs = []
    for noise in (1, 2):  # what ran before does not matter
        model, teacher = network(), network(1)
        torch.manual_seed(noise)
        history = fine_tune(model, loader(), options=options(**changes), val=loader(), teacher=teacher, seed=5)
        runs.append((state(model), history))
    assert equal(runs[0][0], runs[1][0])
    assert [r["loss"] for r in runs[0][1]] == [r["loss"] for r in runs[1][1]]
    assert runs[0][1][1]["loss"] < runs[0][1][0]["loss"]
    assert all(v.is_contiguous() for v in runs[0][0].values())


def test_another_seed_gives_other_weights():
    models = [network(), network()]
    for seed, model in enumerate(models):
        fine_tune(model, loader(), options=options(), seed=seed)
    assert not equal(state(models[0]), state(models[1]))


def test_a_torch_dataloader_repeats_too():
    runs = []
    for _ in range(2):
        model = network()
        data = DataLoader(TensorDataset(*images()), batch_size=16, shuffle=True)
        fine_tune(model, data, options=options(), seed=3)
        runs.append(state(model))
    assert equal(*runs)


def test_epochs_see_different_orders():
    seen = []

    class Spy(nn.Identity):
        def forward(self, x):
            if self.training:
                seen.append(x.sum().item())
            return x

    data = loader()
    fine_tune(nn.Sequential(Spy(), network()), data, options=options())
    assert seen[: len(data)] != seen[len(data) :]


def test_the_generators_of_the_caller_are_untouched():
    model = network()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fine_tune(model, loader(), options=options(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_teacher_is_left_as_it_was_and_modes_come_back():
    teacher, model = network(1), network()
    teacher[3].eval()
    before, modes = state(teacher), [m.training for m in teacher.modules()]
    model.eval()
    fine_tune(model, loader(), options=options(epochs=1, channels_last=True), teacher=teacher)
    fine_tune(model, loader(), options=options(epochs=1), teacher=teacher)
    assert equal(before, state(teacher)) and modes == [m.training for m in teacher.modules()]
    assert not any(m.training for m in model.modules())


def test_full_distillation_needs_no_labels_and_copies_the_teacher():
    teacher, model = network(), network(3)
    fine_tune(teacher, loader(), options=options(epochs=3))
    x, _ = images()
    wrong = Loader(TensorSamples(x, torch.zeros(96, dtype=torch.long)), batch=16, shuffle=True)
    history = fine_tune(model, wrong, options=options(epochs=6, distill=1.0), teacher=teacher)
    assert history.last["loss"] < 0.1 * history[0]["loss"]
    teacher.eval(), model.eval()
    assert (teacher(x).argmax(1) == model(x).argmax(1)).float().mean() > 0.9


def test_without_a_teacher_the_loss_is_the_hard_one():
    a, b = network(), network()
    fine_tune(a, loader(), options=options(distill=0.9))
    fine_tune(b, loader(), options=options(distill=0.0), teacher=network(1))
    assert equal(state(a), state(b))


def test_history_says_what_happened():
    rows = []
    model, data = network(), Loader(TensorSamples(*images()), batch=16)
    history = fine_tune(model, loader(), options=options(epochs=3, warmup=0.0), val=data, on_epoch=rows.append)
    assert rows == list(history) and len(history) == 3 and [r["epoch"] for r in rows] == [1, 2, 3]
    assert set(rows[0]) == {"epoch", "loss", "val", "lr", "seconds"}
    assert 0.1 > rows[0]["lr"] > rows[1]["lr"] > rows[2]["lr"] > 0  # the last step still moves
    assert history.last["val"] == accuracy(model, data)
    best = network()
    best.load_state_dict(history.best_state)
    assert accuracy(best, data) == history.best["val"] == max(r["val"] for r in history)


def test_the_best_state_is_the_first_of_the_highest_and_shares_nothing():
    scores = iter([1.0, 3.0, 3.0])
    model, data = network(), loader()
    states = []
    history = fine_tune(
        model, data, options=options(epochs=3),
        evaluate=lambda m: next(scores), on_epoch=lambda row: states.append(state(model)),
    )  # fmt: skip
    assert history.best_epoch == 2 and equal(history.best_state, states[1])
    assert not equal(history.best_state, state(model))


def test_an_evaluator_that_leaves_eval_mode_does_no_harm():
    def careless(model):
        model.eval()
        return 0.0

    a, b = network(), network()
    fine_tune(a, loader(), options=options(), evaluate=careless)
    fine_tune(b, loader(), options=options())
    assert equal(state(a), state(b))


def test_what_happens_between_epochs_does_not_reach_the_next():
    def draws(model):
        torch.rand(7)
        return 0.0

    a, b = network(), network()
    fine_tune(a, loader(), options=options(), evaluate=draws)
    fine_tune(b, loader(), options=options())
    assert equal(state(a), state(b))


def test_averaged_weights_are_what_is_judged_and_kept():
    model, data = network(), loader()
    judged = []
    fine_tune(model, data, options=options(ema=0.9), evaluate=lambda m: judged.append(state(m)) or 0.0)
    assert equal(judged[-1], state(model))
    plain = network()
    fine_tune(plain, data, options=options())
    assert not equal(state(plain), state(model))


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fine_tune(model, loader(), options=options())
    assert torch.equal(before, model[0].weight)


def test_own_loss_and_dict_batches():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, pixels):
            return {"logits": self.net(pixels)}

    x, y = images()
    data = [{"pixels": x[i : i + 16], "labels": y[i : i + 16]} for i in range(0, 96, 16)]
    history = fine_tune(Scores(), data, options=options(epochs=3), val=data, teacher=Scores())
    assert history.last["val"] > 60
    calls = []

    def own(output, targets):
        calls.append(1)
        return nn.functional.cross_entropy(output["logits"], targets)

    fine_tune(Scores(), data, options=options(epochs=1), loss=own)
    assert len(calls) == len(data)


def test_a_loader_without_length_trains():
    class Stream:
        def __iter__(self):
            return iter(loader())

    history = fine_tune(network(), Stream(), options=options(epochs=2))
    assert history[0]["lr"] > history[1]["lr"]


def test_progress_ends_below_or_at_one():
    told = []
    listener = Listener(lambda *event: told.append(event))
    listener.step = "train"
    fine_tune(network(), loader(), options=options(), listener=listener)
    assert told and all(name == "train" and 0 <= done <= 1 and "loss" in text for name, done, text in told)


def test_nan_in_the_data_stops_with_where():
    x, y = images()
    x[40] = float("nan")
    data = Loader(TensorSamples(x, y), batch=16)
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 1, step 3 \(learning rate 0\.\d+\): the batch holds NaN"):
        fine_tune(network(), data, options=options())


def test_a_rate_far_too_high_stops():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 3))
    with pytest.raises(TrainingDiverged):
        fine_tune(model, loader(), options=options(lr=1e12, epochs=3))


def test_weights_that_break_in_the_last_step_are_noticed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, y = images(16)
    model[1].weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(TrainingDiverged, match=r"'1\.weight' became NaN"):
        fine_tune(model, [(x, y)], options=options(epochs=1))


def test_nothing_to_do():
    with pytest.raises(NothingToDo, match="epoch"):
        fine_tune(network(), loader(), options=FineTune())
    with pytest.raises(NothingToDo, match="gradient"):
        fine_tune(network().requires_grad_(False), loader(), options=options())


def test_loaders_that_run_dry():
    with pytest.raises(BadInput, match="no batch in epoch 1"):
        fine_tune(network(), [], options=options())
    with pytest.raises(BadInput, match="no batch in epoch 2"):
        fine_tune(network(), iter(list(loader())), options=options())


def test_a_model_is_not_its_own_teacher():
    model = network()
    with pytest.raises(BadInput, match="original as teacher"):
        fine_tune(model, loader(), options=options(), teacher=model)


def test_what_forward_raises_is_unchanged():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fine_tune(Broken(), loader(), options=options())


def test_training_equals_a_plain_loop_written_by_hand():
    model, hand, data = network(), network(), loader()
    model[3].p = hand[3].p = 0.0
    o = options(epochs=1, warmup=0.0)
    teacher = network(1)
    fine_tune(model, data, options=o, teacher=teacher)
    teacher.eval()
    hand.train()
    sgd = torch.optim.SGD(hand.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, nesterov=True)
    data.set_epoch(0)
    for i, (x, y) in enumerate(data):
        sgd.param_groups[0]["lr"] = 0.5 * o.lr * (1 + torch.cos(torch.tensor(torch.pi * (i + 0.5) / len(data))).item())
        out = hand(x)
        soft = nn.functional.kl_div(
            (out / o.temperature).log_softmax(1), (teacher(x) / o.temperature).softmax(1), reduction="batchmean"
        )
        loss = 0.5 * nn.functional.cross_entropy(out, y) + 0.5 * o.temperature**2 * soft
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for a, b in zip(model.parameters(), hand.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
