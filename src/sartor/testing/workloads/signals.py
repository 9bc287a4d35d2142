"""Vibration, radio spectra, wireless channels and network traffic."""

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


class SelectiveKernels(nn.Module):
    """Parallel convolutions of several lengths; attention over them chooses one mixture for each channel."""

    def __init__(self, cin: int, cout: int, kernels: Sequence[int] = (3, 7, 15)):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv1d(cin, cout, k, 2, k // 2, bias=False), nn.BatchNorm1d(cout), nn.ReLU())
            for k in kernels
        )
        self.squeeze = nn.Linear(cout, max(4, cout // 2))
        self.choose = nn.ModuleList(nn.Linear(max(4, cout // 2), cout) for _ in kernels)

    def forward(self, x: Tensor) -> Tensor:
        views = torch.stack([branch(x) for branch in self.branches], 1)  # [n, branches, channels, length]
        z = self.squeeze(views.sum(1).mean(-1)).relu()
        weights = torch.stack([choose(z) for choose in self.choose], 1).softmax(1)
        return (views * weights[..., None]).sum(1)


class MultiScaleKernels(nn.Module):
    """Blocks of selective kernels over a raw signal."""

    def __init__(self, classes: int, widths: Sequence[int] = (12, 16)):
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 16, 2, 8)
        self.blocks = nn.Sequential(*(SelectiveKernels(a, b) for a, b in zip((8, *widths), widths)))
        self.head = nn.Sequential(nn.Linear(widths[-1], 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes))

    def forward(self, signal: Tensor) -> Tensor:
        """[n, 1, length] -> [n, classes]."""
        return self.head(self.blocks(self.stem(signal)).mean(-1))


def vibration(n: int, seed: int, length: int = 192) -> tuple[Tensor, Tensor]:
    """Windows of a rotating machine with one of five states: impulses at a rate that depends on the state, in noise."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(5, (n,), generator=generator)
    period = torch.tensor([0.0, 48.0, 36.0, 27.0, 19.0])[state]
    time = torch.arange(length, dtype=torch.float32)[None] + 48 * torch.rand(n, 1, generator=generator)
    since = torch.where(period[:, None] > 0, time % period[:, None].clamp(min=1), torch.tensor(1e3))
    ring = (-since / 5).exp() * (since * 1.9).sin()
    noise = 0.25 * torch.randn(n, length, generator=generator)
    return (ring * 2 + 0.3 * (time * 0.13).sin() + noise)[:, None], state


@workload(
    "mskacnn",
    field="signals",
    source="Multi-scale kernel attention CNN, bearing faults",
    preserves="branches keep one width",
)
class Mskacnn(Workload):
    """Convolutions of several kernel sizes side by side on a vibration signal, mixed by attention."""

    warm_up = 4
    lr = 5e-3

    def network(self) -> nn.Module:
        return MultiScaleKernels(classes=5)

    def examples(self) -> Sequence[Example]:
        return [vibration(2, 0)[0], vibration(3, 1, 160)[0], vibration(1, 2, 301)[0]]

    def data(self) -> Data:
        return two_parts(vibration, (160, 80), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        """Branches of a block whose widths differ."""
        blocks = [m for m in model.modules() if isinstance(m, SelectiveKernels)]
        return float(sum(len({b[0].out_channels for b in m.branches}) - 1 for m in blocks))  # type: ignore[index,misc]


class ComplexConv(nn.Module):
    """A convolution of complex signals with a real and an imaginary weight."""

    def __init__(self, cin: int, cout: int, kernel: int):
        super().__init__()
        self.real, self.imaginary = (nn.Conv1d(cin, cout, kernel, padding=kernel // 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.real, x.imag
        return torch.complex(self.real(a) - self.imaginary(b), self.real(b) + self.imaginary(a))


class ComplexNorm(nn.Module):
    """Batch norm of real and imaginary parts, then one complex gain a channel."""

    def __init__(self, width: int):
        super().__init__()
        self.real, self.imaginary = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.gain = nn.Parameter(torch.ones(width, 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(self.real(x.real), self.imaginary(x.imag)) * self.gain


def complex_relu(x: Tensor) -> Tensor:
    """ReLU of the real and of the imaginary part."""
    return torch.complex(x.real.relu(), x.imag.relu())


class ComplexResidual(nn.Module):
    """Two complex convolutions and a residual connection."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.first, self.norm1 = ComplexConv(width, hidden, 5), ComplexNorm(hidden)
        self.second, self.norm2 = ComplexConv(hidden, width, 5), ComplexNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return complex_relu(x + self.norm2(self.second(complex_relu(self.norm1(self.first(x))))))


class SpectrumSegmentation(nn.Module):
    """Complex residual blocks over a wideband signal; says of every frequency whether it is occupied."""

    def __init__(self, width: int = 8, blocks: int = 2):
        super().__init__()
        self.stem = ComplexConv(1, width, 7)
        self.blocks = nn.Sequential(*(ComplexResidual(width, 2 * width) for _ in range(blocks)))
        self.head = nn.Conv1d(width, 1, 3, padding=1)

    def forward(self, parts: Tensor) -> Tensor:
        """Real and imaginary parts of the spectrum [n, 2, bins] -> logits [n, bins]."""
        x = torch.complex(parts[:, :1], parts[:, 1:])
        return self.head(self.blocks(self.stem(x)).abs())[:, 0]


def spectra(n: int, seed: int, bins: int = 64) -> tuple[Tensor, Tensor]:
    """Spectra of noise with one to three occupied bands, and which bins are occupied (0 or 1)."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 3, 1, generator=generator) * bins
    half = 2 + 4 * torch.rand(n, 3, 1, generator=generator)
    on = torch.rand(n, 3, 1, generator=generator) < torch.tensor([2.0, 0.6, 0.3])[:, None]
    inside = (((torch.arange(bins) - centre).abs() < half) & on).any(1)
    noise = torch.randn(n, 2, bins, generator=generator)
    return noise * (0.6 + 1.0 * inside[:, None]), inside.float()


@workload(
    "cmusenet", field="signals", source="CMuSeNet, complex-valued multi-signal segmentation",
    preserves="real and imaginary weights are one complex convolution",
)  # fmt: skip
class CMuSeNet(Workload):
    """A complex-valued residual network that marks the occupied frequencies of a spectrum."""

    quality_name = "IoU (%)"

    def network(self) -> nn.Module:
        return SpectrumSegmentation()

    def examples(self) -> Sequence[Example]:
        return [spectra(2, 0)[0], spectra(3, 1, 96)[0], spectra(1, 2, 50)[0]]

    def data(self) -> Data:
        return two_parts(spectra, (96, 48), 8, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return F.binary_cross_entropy_with_logits

    def score(self, output: Any, targets: Any) -> float:
        marked, wanted = output > 0, targets > 0.5
        return 100 * float((marked & wanted).sum() / (marked | wanted).sum().clamp(min=1))

    def violation(self, model: nn.Module) -> float:
        """Each convolution against torch's own of complex numbers."""
        worst = 0.0
        for m in model.modules():
            if isinstance(m, ComplexConv):
                generator = torch.Generator().manual_seed(0)
                x = torch.randn(1, m.real.in_channels, 20, dtype=torch.complex64, generator=generator)
                weight = torch.complex(m.real.weight, m.imaginary.weight)
                with torch.no_grad():
                    expected = F.conv1d(x, weight, padding=m.real.padding)  # type: ignore[arg-type]
                    worst = max(worst, difference(torch.view_as_real(m(x)), torch.view_as_real(expected)))
        return worst


class Interference(nn.Module):
    """Transmitter powers from channel gains: messages along all pairs, their mean and their maximum."""

    def __init__(self, width: int = 16, rounds: int = 2):
        super().__init__()
        self.start = nn.Linear(1, width)
        self.messages = nn.ModuleList(
            nn.Sequential(nn.Linear(width + 2, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(rounds)
        )
        self.updates = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(rounds))
        self.power = nn.Linear(width, 1)

    def forward(self, gains: Tensor) -> Tensor:
        """Gains [n, users, users] from transmitter (last) to receiver -> powers [n, users] in (0, 1)."""
        users = gains.shape[1]
        h = self.start(gains.diagonal(dim1=1, dim2=2)[..., None]).relu()
        pairs = torch.stack([gains, gains.transpose(1, 2)], -1)
        for message, update in zip(self.messages, self.updates):
            sent = message(torch.cat([h[:, None].expand(-1, users, -1, -1), pairs], -1))
            h = update(torch.cat([h, sent.mean(2), sent.amax(2)], -1)).relu()
        return self.power(h)[..., 0].sigmoid()


def sum_rate(powers: Tensor, gains: Tensor) -> Tensor:
    """Mean sum of the users' rates in bits, noise of power 0.1."""
    received = gains.square() * powers[:, None]
    own = received.diagonal(dim1=1, dim2=2)
    return (1 + own / (received.sum(2) - own + 0.1)).log2().sum(1).mean()


def channels(n: int, seed: int, users: int = 6) -> tuple[Tensor, Tensor]:
    """Rayleigh gains of interfering pairs; targets are the gains again."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.randn(n, users, users, 2, generator=generator).square().sum(-1).sqrt()
    return gains, gains


@workload(
    "icgnn",
    field="signals",
    source="ICGNN, wireless interference channels",
    preserves="renumbered users get renumbered powers",
)
class Icgnn(Workload):
    """Powers of interfering transmitters from a graph network without fixed number of users."""

    quality_name = "sum rate (bit)"
    warm_up = 1

    def network(self) -> nn.Module:
        return Interference()

    def examples(self) -> Sequence[Example]:
        return [channels(2, 0)[0], channels(3, 1, 9)[0], channels(1, 2, 4)[0]]

    def data(self) -> Data:
        return two_parts(channels, (128, 64), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: -sum_rate(output, targets)

    def score(self, output: Any, targets: Any) -> float:
        return float(sum_rate(output, targets))

    def violation(self, model: nn.Module) -> float:
        gains = self.examples()[1]
        order = torch.randperm(gains.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return difference(model(gains[:, order][:, :, order]), model(gains)[:, order])


class SelectiveScan(nn.Module):
    """A gated state-space block: the step, what enters the state and what is read from it depend on the input."""

    def __init__(self, width: int, inner: int, states: int, rank: int = 2):
        super().__init__()
        self.states, self.rank = states, rank
        self.norm, self.enter = nn.LayerNorm(width), nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.select, self.step = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip, self.leave = nn.Parameter(torch.ones(inner)), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, length, width], likewise."""
        u, gate = self.enter(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, into, out = torch.split(self.select(u), [self.rank, self.states, self.states], -1)
        step = F.softplus(self.step(step))  # [n, length, inner]
        keep = (step[..., None] * -self.decay.exp()).exp()  # [n, length, inner, states]
        added = (step * u)[..., None] * into[:, :, None]
        state = torch.zeros_like(added[:, 0])
        read = []
        for t in range(x.shape[1]):
            state = state * keep[:, t] + added[:, t]
            read.append((state * out[:, t, None]).sum(-1))
        y = torch.stack(read, 1) + u * self.skip
        return x + self.leave(y * F.silu(gate))


class Traffic(nn.Module):
    """Bytes of a flow in strides, scanned by selective state-space blocks; the last position decides."""

    def __init__(self, width: int = 16, stride: int = 4, classes: int = 4, blocks: int = 2):
        super().__init__()
        self.strides = nn.Conv1d(1, width, stride, stride)
        self.blocks = nn.Sequential(*(SelectiveScan(width, 2 * width, 8) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, flow: Tensor) -> Tensor:
        """Bytes as numbers in [0, 1], [n, length] -> [n, classes]."""
        x = self.strides(flow[:, None]).transpose(1, 2)
        return self.head(self.norm(self.blocks(x))[:, -1])


def flows(n: int, seed: int, length: int = 48) -> tuple[Tensor, Tensor]:
    """Byte sequences with a repeated header of four kinds between random bytes."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (n,), generator=generator)
    flow = torch.rand(n, length, generator=generator)
    header = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    for start in range(4, length - 8, 12):
        flow[:, start : start + 4] = 0.85 * header[kind] + 0.15 * flow[:, start : start + 4]
    return flow, kind


@workload(
    "netmamba", field="signals", source="arXiv:2405.11449", preserves="what is read does not depend on later bytes"
)
class NetMamba(Workload):
    """Traffic classified by selective state-space blocks; inner width and state size lie in six tensors each."""

    lr = 1e-2
    warm_up = 4

    def network(self) -> nn.Module:
        return Traffic()

    def examples(self) -> Sequence[Example]:
        return [flows(2, 0)[0], flows(3, 1, 32)[0], flows(1, 2, 60)[0]]

    def data(self) -> Data:
        return two_parts(flows, (128, 64), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        x = torch.randn(1, 10, model.norm.normalized_shape[0], generator=torch.Generator().manual_seed(0))  # type: ignore
        with torch.no_grad():
            whole, part = model.blocks(x), model.blocks(x[:, :7])  # type: ignore[operator]
        return difference(whole[:, :7], part)
