"""Loops of others: masks and weights are those of a plain loop, bit for bit."""

import logging
import warnings

import pytest
import torch
from torch import nn

import sartor
from sartor.seed import seeded

EXAMPLE, BUDGET, UPDATES = torch.randn(1, 6), "macs<=50%", 12


class Net(nn.Module):
    """Takes what a Trainer passes by name, and returns the loss with the outputs where it gets labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x, labels=None):
        out = self.head(self.body(x))
        return out if labels is None else (nn.functional.cross_entropy(out, labels), out)


def rows():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(6, generator=g), int(torch.randint(3, (), generator=g))) for _ in range(UPDATES * 8)]


def fresh():
    with seeded(0):
        return Net().train()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


@pytest.fixture(scope="module", params=["gradual", "chex"])
def plain(request):
    model = fresh()
    optimizer, data = sgd(model), rows()
    session = sartor.Session(model, optimizer, EXAMPLE, budget=BUDGET, recipe=request.param, steps=UPDATES, seed=3)
    for i in range(UPDATES):
        batch = data[8 * i : 8 * i + 8]
        x, y = torch.stack([b[0] for b in batch]), torch.tensor([b[1] for b in batch])
        model(x, y)[0].backward()
        optimizer.step()
        session.step()
        optimizer.zero_grad()
    return request.param, model, session.plan


def check(model, session, plain):
    _, expected, plan = plain
    assert session.plan == plan
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values()))
    assert session.finish().proof.status == "exact"


def test_lightning_gives_the_masks_and_weights_of_a_plain_loop(plain, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = fresh()

        def training_step(self, batch, _):
            return self.net(*batch)[0]

        def configure_optimizers(self):
            return sgd(self.net)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callback = sartor.lightning_callback(
        EXAMPLE, budget=BUDGET, recipe=plain[0], seed=3, network=lambda module: module.net
    )
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(rows(), batch_size=8))
    check(module.net, callback.session, plain)


def test_the_hugging_face_trainer_gives_the_masks_and_weights_of_a_plain_loop(plain, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = fresh()
    callback = sartor.trainer_callback(EXAMPLE, budget=BUDGET, recipe=plain[0], seed=3)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], save_strategy="no",
        max_grad_norm=0.0, disable_tqdm=True, use_cpu=True, lr_scheduler_type="constant", logging_strategy="no",
        remove_unused_columns=False,
    )  # fmt: skip

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self):
            data = [{"x": x, "labels": torch.tensor(y)} for x, y in rows()]
            return torch.utils.data.DataLoader(data, batch_size=8)

    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    data = [{"x": x, "labels": y} for x, y in rows()]
    InOrder(model, arguments, train_dataset=data, callbacks=[callback], optimizers=(optimizer, constant)).train()
    check(model, callback.session, plain)
