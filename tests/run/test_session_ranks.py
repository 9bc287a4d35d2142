"""Two processes train together: rank 0 decides, and both have the same masks and weights."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import sartor
from sartor.errors import BadInput, SartorError
from sartor.run.first_rank import on_first_rank

STEPS = 8


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        model = nn.parallel.DistributedDataParallel(net)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        torch.manual_seed(100 + rank)  # every rank draws its own data, and its own global numbers
        session = sartor.Session(
            model, optimizer, torch.randn(1, 6), budget="macs<=50%", recipe="chex", steps=STEPS, seed=1
        )
        for _ in range(STEPS):
            nn.functional.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,))).backward()
            optimizer.step()
            session.step()
            optimizer.zero_grad()
        refused = ""
        try:
            on_first_rank(lambda: (_ for _ in ()).throw(BadInput("no")))
        except SartorError as e:
            refused = str(e)
        plan = None if session.plan is None else session.plan.to_json()
        trail = [row["kept"] for row in session._session.trail]
        torch.save({"plan": plan, "trail": trail, "net": dict(net.named_parameters()), "refused": refused},
                   f"{folder}/{rank}.pt")  # fmt: skip
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not part of this torch")
def test_two_ranks_have_the_same_masks_and_weights(tmp_path):
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["plan"] is not None and first["plan"] == second["plan"] and first["trail"] == second["trail"]
    assert all(torch.equal(a, second["net"][n]) for n, a in first["net"].items())
    assert "no" in first["refused"] and "rank 0" in second["refused"]
