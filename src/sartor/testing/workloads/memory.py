"""Networks that remember: a memory beside the network, and graphs that change with every event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.pictures import two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data


class FastSlowMemory(nn.Module):
    """A fast controller writes one slot a step; a slow one revises all slots every few steps."""

    def __init__(
        self, width: int = 6, hidden: int = 24, slots: int = 6, cell: int = 12, every: int = 3, classes: int = 6
    ):
        super().__init__()
        self.slots, self.cell, self.every = slots, cell, every
        self.fast, self.key, self.value = (
            nn.Linear(width + cell, hidden),
            nn.Linear(hidden, cell),
            nn.Linear(hidden, cell),
        )
        self.slow, self.revise = nn.Linear(cell, hidden), nn.Linear(hidden, cell)
        self.place = nn.Parameter(torch.randn(slots, cell))
        self.out = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[n, time, width], memory [n, slots, cell] or none -> [n, time, classes], memory."""
        if memory is None:
            memory = x.new_zeros(x.shape[0], self.slots, self.cell)
        read, outputs = memory.mean(1), []
        for t in range(x.shape[1]):
            h = self.fast(torch.cat([x[:, t], read], -1)).relu()
            at = ((memory + self.place) @ self.key(h)[..., None]).softmax(1)  # [n, slots, 1]
            memory = memory * (1 - 0.5 * at) + at * self.value(h)[:, None]
            if t % self.every == self.every - 1:
                memory = memory + 0.1 * self.revise(self.slow(memory).relu())
            read = memory.mean(1)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1), memory


def recall(n: int, seed: int, time: int = 6) -> tuple[Tensor, Tensor]:
    """One-hot symbols; the answer at each step is the symbol two steps before, at first the symbol itself."""
    generator = torch.Generator().manual_seed(seed)
    symbol = torch.randint(6, (n, time), generator=generator)
    earlier = torch.cat([symbol[:, :2], symbol[:, :-2]], 1)
    return F.one_hot(symbol, 6).float(), earlier


@workload(
    "fast-slow-memory", field="memory", source="Fast and slow neural memory controllers",
    preserves="a sequence in two pieces with the memory handed over gives what the whole gives",
)  # fmt: skip
class FastSlow(Workload):
    """Two controllers of one external memory, which is a value that goes in and out, never a constant."""

    lr = 1e-2
    warm_up = 3

    def network(self) -> nn.Module:
        return FastSlowMemory()

    def examples(self) -> Sequence[Example]:
        return [recall(2, 0)[0], recall(1, 1, 9)[0], recall(3, 2, 4)[0]]

    def data(self) -> Data:
        return two_parts(recall, (192, 64), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.cross_entropy(output[0].flatten(0, 1), targets.flatten())

    def violation(self, model: nn.Module) -> float:
        x = self.examples()[1]
        with torch.no_grad():
            whole = model(x)[0]
            _, memory = model(x[:, :6])
            handed, fresh = model(x[:, 6:], memory)[0], model(x[:, 6:])[0]
        if difference(fresh, handed) < 1e-3:
            return float("inf")  # the memory has no influence
        return difference(handed, whole[:, 6:])


class EventMemory(nn.Module):
    """A memory for every node, changed by each batch of events: a predicted state corrected by the measured one."""

    memory: Tensor
    drift: Tensor

    def __init__(self, nodes: int = 40, width: int = 16, hidden: int = 24):
        super().__init__()
        self.update = nn.GRUCell(hidden, width)
        self.message = nn.Sequential(nn.Linear(2 * width + 1, hidden), nn.ReLU())
        self.trust, self.start = nn.Parameter(torch.zeros(width)), nn.Embedding(nodes, width)
        self.judge = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.register_buffer("memory", torch.zeros(nodes, width))
        self.register_buffer("drift", torch.zeros(nodes, width))

    def reset(self) -> None:
        """Forget all events."""
        self.memory.zero_()
        self.drift.zero_()

    def forward(self, past: tuple[Tensor, Tensor, Tensor], source: Tensor, target: Tensor, other: Tensor) -> Tensor:
        """The last events (sources [m], targets [m], time since then [m]), nodes of new events [n] -> logits [n, 2].

        Each new event is asked about with its target and with another one.
        """
        seen, met, gap = past
        old = self.memory
        state = old + self.start.weight
        message = self.message(torch.cat([state[seen], state[met], gap[:, None]], -1))
        measured = self.update(message, old[seen])
        predicted = old[seen] + self.drift[seen] * gap[:, None]
        gain = self.trust.sigmoid()
        new = gain * measured + (1 - gain) * predicted
        step = 0.9 * self.drift[seen] + 0.1 * (new - old[seen]).detach()
        memory = old.index_copy(0, seen, new)
        self.drift = self.drift.index_copy(0, seen, step)
        self.memory = memory.detach()
        state = memory + self.start.weight
        asked = state[source]
        pairs = (torch.cat([asked, state[node]], -1) for node in (target, other))
        return torch.cat([self.judge(pair) for pair in pairs], -1)


def events(batches: int, seed: int, users: int = 20) -> list[tuple[tuple[Any, ...], Tensor]]:
    """Batches of events of every user, with those before: each user moves on through the items; targets are 0."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(users, (users,), generator=generator)
    rows = []
    for _ in range(batches):
        before, order = torch.randperm(users, generator=generator), torch.randperm(users, generator=generator)
        past = before, users + place[before], torch.ones(users)
        place = (place + 1) % users
        other = (place + torch.randint(1, users, (users,), generator=generator)) % users
        new = order, users + place[order], users + other[order]
        rows.append(((past, *new), torch.zeros(users, dtype=torch.int64)))
    return rows


@workload(
    "pres", field="dynamic graphs", source="arXiv:2402.04284",
    preserves="events change the memory, and after a reset the same events give the same answers",
)  # fmt: skip
class Pres(Workload):
    """A memory-based dynamic graph network; the memory is a buffer that every forward replaces."""

    warm_up = 10
    lr = 1e-2

    def network(self) -> nn.Module:
        return EventMemory()

    def examples(self) -> Sequence[Example]:
        return [events(1, i)[0][0] for i in range(2)]

    def data(self) -> Data:
        return Data(train=events(24, self.seed), val=events(12, self.seed + 1))

    def begin(self, model: nn.Module) -> None:
        model.reset()  # type: ignore[operator]

    def violation(self, model: nn.Module) -> float:
        stream = [inputs for inputs, _ in events(3, 0)]
        with torch.no_grad():
            model.reset()  # type: ignore[operator]
            first = [model(*x) for x in stream]
            again = model(*stream[0])
            model.reset()  # type: ignore[operator]
            second = [model(*x) for x in stream]
            model.reset()  # type: ignore[operator]
        if difference(again, first[0]) < 1e-6:
            return float("inf")  # events leave no trace in the memory
        return max(difference(a, b) for a, b in zip(second, first))


class SignedMemory(nn.Module):
    """Two states of every node, of friends and of foes; a negative event swaps whose state a node takes up."""

    def __init__(self, width: int = 8, hidden: int = 24):
        super().__init__()
        self.message = nn.Sequential(nn.Linear(2 * width + 1, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.keep = nn.Linear(2 * width, width)
        self.judge = nn.Sequential(nn.Linear(4 * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, state: Tensor, source: Tensor, target: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """State [nodes, 2, width], events [n], their signs [n] (1 or -1) -> logits of the signs [n], new state."""
        a, b = state[source], state[target]  # [n, 2, width]
        logits = self.judge(torch.cat([a, b], -1).flatten(1))[:, 0]
        balanced = torch.where(sign[:, None, None] > 0, b, b.flip(1))
        sent = self.message(torch.cat([a, balanced, sign[:, None, None].expand(-1, 2, 1)], -1))
        gate = self.keep(torch.cat([a, sent], -1)).sigmoid()
        new = gate * a + (1 - gate) * sent.tanh()
        return logits, state.index_copy(0, source, new)


def signed_events(n: int, seed: int, nodes: int = 16) -> tuple[tuple[Tensor, ...], Tensor]:
    """Two camps: events inside a camp are positive. The state starts with the camp, noisily; targets are the signs."""
    generator = torch.Generator().manual_seed(seed)
    camp = torch.arange(nodes) % 2
    state = 0.7 * torch.randn(nodes, 2, 8, generator=generator)
    state[:, 0, 0] += 2.0 * camp - 1
    source = torch.randperm(nodes, generator=generator)[:n]
    target = torch.randint(nodes, (n,), generator=generator)
    positive = (camp[source] == camp[target]).float()
    return (state, source, target, 2 * positive - 1), positive


@workload(
    "semba", field="dynamic graphs", source="Representation learning in continuous-time dynamic signed networks",
    preserves="the state that goes out depends on the state that came in",
)  # fmt: skip
class Semba(Workload):
    """Signed interactions: the state is a value that goes in and out with every batch of events."""

    lr = 1e-2
    warm_up = 2

    def network(self) -> nn.Module:
        return SignedMemory()

    def examples(self) -> Sequence[Example]:
        return [signed_events(12, 0)[0], signed_events(5, 1)[0], signed_events(20, 2, 30)[0]]

    def data(self) -> Data:
        train, val = ([signed_events(16, self.seed + i) for i in r] for r in (range(40), range(100, 120)))
        return Data(train=train, val=val)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.binary_cross_entropy_with_logits(output[0], targets)

    def score(self, output: Any, targets: Any) -> float:
        return 100 * float(((output[0] > 0) == (targets > 0.5)).double().mean())

    def violation(self, model: nn.Module) -> float:
        """Nodes without an event keep their state; the others' depends on it."""
        state, source, target, sign = self.examples()[1]
        with torch.no_grad():
            new = model(state, source, target, sign)[1]
            other = model(state + 0.5, source, target, sign)[1]
        idle = torch.ones(len(state), dtype=torch.bool).index_fill(0, source, False)
        if difference(other[source], new[source]) < 1e-4:
            return float("inf")  # the state has no influence
        return float((new[idle] - state[idle]).abs().max())
