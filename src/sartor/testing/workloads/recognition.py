"""What is in a picture or a clip: one skeleton with three mixers, views of a clip, and a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.pictures import pictures, two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data


class ConvMixer(nn.Module):
    """Positions mixed by a depthwise convolution."""

    def __init__(self, width: int, side: int):
        super().__init__()
        self.norm, self.mix = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))


class AttentionMixer(nn.Module):
    """Positions mixed by attention with two heads."""

    def __init__(self, width: int, side: int, heads: int = 2):
        super().__init__()
        self.heads, self.norm = heads, nn.BatchNorm2d(width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-1, -2).reshape(n, c, h, w))


class MlpMixer(nn.Module):
    """Positions mixed by two linear layers over all of them."""

    def __init__(self, width: int, side: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.up, self.down = nn.Linear(side**2, 2 * side**2), nn.Linear(2 * side**2, side**2)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.down(F.gelu(self.up(self.norm(x).flatten(2))))
        return x + mixed.view_as(x)


class Skeleton(nn.Module):
    """Stages with the same channel MLP and another mixer of positions each."""

    def __init__(self, widths: Sequence[int] = (12, 16, 24), side: int = 8, classes: int = 4):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 2, 2)]
        for i, (width, mixer) in enumerate(zip(widths, (ConvMixer, AttentionMixer, MlpMixer))):
            if i:
                layers.append(nn.Conv2d(widths[i - 1], width, 2, 2))
                side //= 2
            layers += [mixer(width, side), ChannelMlp(width)]
        self.stages, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


class ChannelMlp(nn.Module):
    """Channels mixed by two pointwise convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.up, self.down = (
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def oriented(n: int, seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Stripes of four orientations over a smooth background: pictures and their classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(4, (n,), generator=generator)
    angle = classes * torch.pi / 4
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32),) * 2, indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    stripes = (1.4 * along + 6 * torch.rand(n, 1, 1, generator=generator)).sin()[:, None]
    return pictures(n, size, size, seed=seed) + 0.5 * stripes, classes


@workload("spach", field="vision", source="arXiv:2108.13002", preserves="samples of a batch do not see each other")
class Spach(Workload):
    """Convolution, attention and MLP as mixers of positions inside one skeleton."""

    warm_up = 5
    lr = 5e-3

    def network(self) -> nn.Module:
        return Skeleton()

    def examples(self) -> Sequence[Example]:
        return [oriented(2, 0)[0], oriented(5, 1)[0]]  # the MLP mixer fixes the size of the picture

    def data(self) -> Data:
        return two_parts(oriented, (128, 64), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        batch = self.examples()[1]
        with torch.no_grad():
            return difference(model(batch[1:3]), model(batch)[1:3])


class Views(nn.Module):
    """A part of the channels filtered along time, height and width; the others pass."""

    def __init__(self, width: int, share: float = 0.5):
        super().__init__()
        self.part = int(width * share)
        sizes = ((3, 1, 1), (1, 3, 1), (1, 1, 3))
        self.views = nn.ModuleList(
            nn.Conv3d(self.part, self.part, k, padding=(k[0] // 2, k[1] // 2, k[2] // 2), groups=self.part, bias=False)
            for k in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, time, channels, h, w], likewise."""
        x = x.transpose(1, 2)
        seen, rest = x[:, : self.part], x[:, self.part :]
        seen = seen + sum(view(seen) for view in self.views)
        return torch.cat([seen, rest], 1).transpose(1, 2)


class Clips(nn.Module):
    """A two-dimensional network over the frames of a clip, with views over time before its convolutions."""

    def __init__(self, width: int = 16, classes: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.views = nn.ModuleList(Views(width) for _ in range(2))
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)) for _ in range(2)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, clip: Tensor) -> Tensor:
        """[n, time, 1, h, w] -> [n, classes]."""
        n, time = clip.shape[:2]
        x = self.stem(clip.flatten(0, 1))
        for views, conv in zip(self.views, self.convs):
            y = views(x.unflatten(0, (n, time))).flatten(0, 1)
            x = (x + conv(y)).relu()
        return self.head(x.mean((2, 3)).unflatten(0, (n, time)).mean(1))


def moving(n: int, seed: int, time: int = 4, size: int = 12) -> tuple[Tensor, Tensor]:
    """Clips of a spot that moves in one of four directions, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randint(4, (n,), generator=generator)
    step = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[direction]
    place = torch.randint(3, size - 3, (n, 2), generator=generator)
    clip = 0.3 * torch.randn(n, time, 1, size, size, generator=generator)
    grid = torch.stack(torch.meshgrid(*(torch.arange(size),) * 2, indexing="ij"))
    for t in range(time):
        centre = place + 2 * (t - time // 2) * step
        far = (grid[None] - centre[:, :, None, None]).square().sum(1)
        clip[:, t, 0] += 2 * (-far / 3).exp()
    return clip, direction


@workload(
    "mvfnet", field="vision", source="arXiv:2012.06977", preserves="a clip played backwards turns its views around"
)
class MvfNet(Workload):
    """Multi-view fusion: a part of the channels of a 2-D network is filtered along time, height and width."""

    warm_up = 6
    lr = 1e-2

    def network(self) -> nn.Module:
        return Clips()

    def examples(self) -> Sequence[Example]:
        return [moving(2, 0)[0], moving(1, 1, 6)[0], moving(3, 2, 4, 16)[0]]

    def data(self) -> Data:
        return two_parts(moving, (128, 64), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        """The filters along time turned round see in the clip played backwards what they saw in the clip."""
        clip = self.examples()[0]
        with torch.no_grad():
            forwards = model(clip)
            filters = [m.weight for m in model.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1]
            kept = [w.detach().clone() for w in filters]
            for w, old in zip(filters, kept):
                w.copy_(old.flip(2))
            backwards = model(clip.flip(1))
            for w, old in zip(filters, kept):
                w.copy_(old)
        return difference(backwards, forwards)


class Bottleneck(nn.Module):
    """Inverted bottleneck; the expansion is left out where it would not widen."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int = 1, kernel: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != cin:
            layers += [nn.Conv2d(cin, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden), nn.SiLU(), nn.Conv2d(hidden, cout, 1, bias=False), nn.BatchNorm2d(cout),
        ]  # fmt: skip
        self.layers, self.residual = nn.Sequential(*layers), stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Detector(nn.Module):
    """Inverted bottlenecks, a fast pyramid over three levels, and heads apart for classes and for boxes."""

    def __init__(self, widths: Sequence[int] = (12, 16, 24), classes: int = 2):
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, a, 1)
        )
        self.down = nn.ModuleList(
            [Bottleneck(a, 2 * a, a, 2), Bottleneck(a, 2 * a, b, 2), Bottleneck(b, 2 * b, c, 2, 5)]
        )
        self.top_down = nn.ModuleList([Bottleneck(b + c, b + c, b), Bottleneck(a + b, a + b, a)])
        self.bottom_up = nn.ModuleList([Bottleneck(a, 2 * a, a, 2), Bottleneck(b, 2 * b, b, 2)])
        self.join = nn.ModuleList([Bottleneck(a + b, a + b, b), Bottleneck(b + c, b + c, c)])
        self.classes, self.boxes = (
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(w, w, 1), nn.SiLU(), nn.Conv2d(w, w, 3, padding=1, groups=w), nn.SiLU(),
                    nn.Conv2d(w, out, 1),
                )
                for w in widths
            )
            for out in (classes, 4)
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 3, h, w] -> for each level [n, classes + 4, h, w]: class logits; left, top, right, bottom in cells."""
        p3 = self.down[0](self.stem(x))
        p4 = self.down[1](p3)
        p5 = self.down[2](p4)
        t4 = self.top_down[0](torch.cat([p4, F.interpolate(p5, scale_factor=2)], 1))
        t3 = self.top_down[1](torch.cat([p3, F.interpolate(t4, scale_factor=2)], 1))
        b4 = self.join[0](torch.cat([t4, self.bottom_up[0](t3)], 1))
        b5 = self.join[1](torch.cat([p5, self.bottom_up[1](b4)], 1))
        levels = zip((t3, b4, b5), self.classes, self.boxes)
        return [torch.cat([classes(f), F.softplus(boxes(f))], 1) for f, classes, boxes in levels]


SIZES = (0.0, 9.0, 18.0, float("inf"))  # of the larger side of a box, in pixels: which level it belongs to
STRIDES = (4, 8, 16)


def scenes(n: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures with one bright square or ring each, and [n, 5]: class, left, top, right, bottom in pixels."""
    generator = torch.Generator().manual_seed(seed)
    picture = 0.4 * pictures(n, size, size, seed=seed)
    side = torch.randint(6, 22, (n,), generator=generator)
    corner = (torch.rand(n, 2, generator=generator) * (size - side)[:, None]).long()
    kind = torch.randint(2, (n,), generator=generator)
    for i in range(n):
        x, y, s = int(corner[i, 0]), int(corner[i, 1]), int(side[i])
        picture[i, :, y : y + s, x : x + s] += 0.8
        if kind[i]:
            picture[i, :, y + s // 4 : y + s - s // 4, x + s // 4 : x + s - s // 4] -= 0.8
    return picture, torch.cat([kind[:, None], corner, corner + side[:, None]], 1).float()


def assigned(targets: Tensor, shape: Sequence[int], level: int) -> tuple[Tensor, Tensor]:
    """Class map [n, h, w] (-1: background) and box map [n, 4, h, w] in cells, at the level that fits each box."""
    h, w, stride = shape[-2], shape[-1], STRIDES[level]
    ys, xs = torch.meshgrid((torch.arange(h) + 0.5) * stride, (torch.arange(w) + 0.5) * stride, indexing="ij")
    kind, x0, y0, x1, y1 = (targets[:, i, None, None] for i in range(5))
    sides = torch.stack([xs - x0, ys - y0, x1 - xs, y1 - ys], 1) / stride
    central = ((xs - (x0 + x1) / 2).abs() < stride) & ((ys - (y0 + y1) / 2).abs() < stride)
    larger = torch.maximum(x1 - x0, y1 - y0)
    inside = (sides.amin(1) > 0) & central & (larger >= SIZES[level]) & (larger < SIZES[level + 1])
    return torch.where(inside, kind, -1.0).long(), sides.clamp(min=0)


def detection_loss(output: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Binary cross entropy of the classes at every cell, and one minus the overlap at cells of an object."""
    total = torch.zeros(())
    for level, y in enumerate(output):
        kinds, sides = assigned(targets, y.shape, level)
        logits, boxes = y[:, :-4], y[:, -4:]
        wanted = F.one_hot(kinds.clamp(min=0), logits.shape[1]).movedim(-1, 1) * (kinds >= 0)[:, None]
        loss = F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none")
        total = total + (loss * (1 + 20 * wanted)).mean()
        inside = kinds >= 0
        if bool(inside.any()):
            total = total + (1 - overlap(boxes.movedim(1, -1)[inside], sides.movedim(1, -1)[inside])).mean()
    return total


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes around the same point, each left, top, right, bottom: [n, 4] -> [n]."""
    area = lambda t: (t[:, 0] + t[:, 2]) * (t[:, 1] + t[:, 3])
    both = area(torch.minimum(a, b))
    return both / (area(a) + area(b) - both).clamp(min=1e-6)


def average_precision(output: Sequence[Tensor], targets: Tensor, threshold: float = 0.5) -> float:
    """Area under precision over recall in percent; the ten best boxes of each picture count, one hit an object."""
    rows: list[tuple[float, int, int, list[float]]] = []  # score, picture, class, box
    for level, y in enumerate(output):
        stride = STRIDES[level]
        for i, kind, row, column in (y[:, :-4].sigmoid() > 0.05).nonzero().tolist():
            left, top, right, bottom = (stride * y[i, -4:, row, column]).tolist()
            x, z = (column + 0.5) * stride, (row + 0.5) * stride
            rows.append((float(y[i, kind, row, column]), i, kind, [x - left, z - top, x + right, z + bottom]))
    rows.sort(key=lambda r: -r[0])
    found: set[int] = set()
    hits: list[bool] = []
    shown: dict[int, int] = {}
    for _, i, kind, box in rows:
        shown[i] = shown.get(i, 0) + 1
        if shown[i] > 10:
            continue
        fits = kind == int(targets[i, 0]) and _iou(box, targets[i, 1:].tolist()) >= threshold
        if fits and i in found:
            continue  # a second box on the same object neither helps nor hurts, as after suppression
        hits.append(fits)
        if fits:
            found.add(i)
    good, area = 0, 0.0
    for k, hit in enumerate(hits, 1):
        good += hit
        area += hit * good / k
    return 100 * area / len(targets)


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    area = lambda t: (t[2] - t[0]) * (t[3] - t[1])
    return both / max(area(a) + area(b) - both, 1e-6)


@workload("leyolo", field="vision", source="arXiv:2406.14239", preserves="each level keeps its grid and its outputs")
class LeYolo(Workload):
    """A detector of inverted bottlenecks with a fast pyramid and decoupled heads, three outputs."""

    quality_name = "AP50 (%)"
    warm_up = 5
    lr = 5e-3

    def network(self) -> nn.Module:
        return Detector()

    def examples(self) -> Sequence[Example]:
        return [scenes(2, 0)[0], scenes(1, 1, 48)[0], F.pad(scenes(3, 2)[0], (0, 32))]

    def data(self) -> Data:
        return two_parts(scenes, (128, 48), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return detection_loss

    def score(self, output: Any, targets: Any) -> float:
        return average_precision(output, targets)

    def violation(self, model: nn.Module) -> float:
        """The number of outputs or cells that differ from strides 4, 8 and 16."""
        with torch.no_grad():
            shapes = [tuple(y.shape[1:]) for y in model(self.examples()[2])]
        return float(shapes != [(6, 32 // s, 64 // s) for s in STRIDES])
