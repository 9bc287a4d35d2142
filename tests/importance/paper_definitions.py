"""Every criterion as its paper defines it, written plainly: loops, float64, nothing shared with the implementation.

Each function takes what a network showed (`Seen`) and where the units of a group lie (`Units`), and returns one number
a unit, added up over the tensors or places that the criterion reads.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Units:
    """A group by hand: which rows, inputs and scales of the network each of its units is."""

    writers: dict  # weight -> the rows of each unit
    readers: dict  # module -> the input channels of each unit
    norms: dict = field(default_factory=dict)  # weight of a norm -> its element for each unit
    passes: dict = field(default_factory=dict)  # module that reads and passes each unit on by itself -> input channels
    behind: dict = field(default_factory=dict)  # module -> the batch norm that alone reads its result

    @property
    def count(self):
        return len(next(iter(self.writers.values())))

    @property
    def places(self):
        return {**self.passes, **self.readers}


@dataclass
class Seen:
    """What a network and its data showed."""

    model: nn.Module
    inputs: dict  # module -> [channels, samples, positions]
    outputs: dict
    grads: list  # of each sample's loss: weight -> gradient
    gates: list  # of each sample: module -> derivative of its loss by a gate on every input channel
    x: torch.Tensor
    labels: torch.Tensor

    @property
    def weights(self):
        return dict(self.model.named_parameters())

    @property
    def n(self):
        return len(self.labels)

    def mean_grad(self, name):
        return sum(g[name] for g in self.grads) / self.n


def seen(model, x, labels, units):
    """Run the network on all samples, and on each alone, with hooks of its own."""
    modules = dict(model.named_modules())
    reading = sorted({m for u in units for m in u.places})
    writing = sorted({name.removesuffix(".weight") for u in units for name in u.writers})
    inputs, outputs = {}, {}
    hooks = [modules[m].register_forward_pre_hook(lambda _, a, m=m: inputs.update({m: a[0]})) for m in reading]
    hooks += [modules[m].register_forward_hook(lambda _, a, y, m=m: outputs.update({m: y})) for m in writing]
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    grads, gates = [], []
    names, parameters = zip(*model.named_parameters())
    for i in range(len(x)):
        strength = {}

        def gated(_, args, m, strength=strength):
            a = args[0]
            channels = a.shape[1] if a.dim() == 4 else a.shape[-1]
            strength[m] = torch.ones(channels, dtype=a.dtype, requires_grad=True)
            return (a * strength[m].reshape(-1, *[1] * (a.dim() - 2)) if a.dim() == 4 else a * strength[m],)

        hooks = [modules[m].register_forward_pre_hook(lambda mod, a, m=m: gated(mod, a, m)) for m in reading]
        loss = nn.functional.cross_entropy(model(x[i : i + 1]), labels[i : i + 1])
        for h in hooks:
            h.remove()
        found = torch.autograd.grad(loss, [*parameters, *strength.values()])
        grads.append(dict(zip(names, found)))
        gates.append(dict(zip(strength, found[len(names) :])))
    by_channel = lambda a: (a.movedim(1, 0) if a.dim() == 4 else a.movedim(-1, 0)).flatten(2)
    one = lambda a: a[:, :, None] if a.dim() == 2 else a
    shown = lambda values: {m: one(by_channel(a) if a.dim() > 2 else a.T) for m, a in values.items()}
    return Seen(model, shown(inputs), shown(outputs), grads, gates, x, labels)


def rows_of(weight, rows):
    return weight.detach()[rows].flatten()


def layer_of(weight, units):
    """The units of a layer: its filters, or where several filters are one unit, these units."""
    rows = units if len(units[0]) > 1 else [[r] for r in range(len(weight))]
    vectors = [rows_of(weight, r) for r in rows]
    return vectors, [rows.index(list(u)) for u in units]


def over_writers(score):
    """Adds score(weight of one unit, name, rows) over the tensors that write a unit."""

    def added(s, u):
        return torch.stack(
            [
                sum(score(s, name, rows[i], rows_of(s.weights[name], rows[i])) for name, rows in u.writers.items())
                for i in range(u.count)
            ]
        )

    return added


def over_layers(score):
    """Adds what a list of all filters of a layer gives each, over the tensors that write a unit."""

    def added(s, u):
        total = torch.zeros(u.count, dtype=torch.float64)
        for name, units in u.writers.items():
            vectors, mine = layer_of(s.weights[name], units)
            of_layer = score(s, name, units, vectors)
            total += torch.stack([torch.as_tensor(of_layer[j], dtype=torch.float64) for j in mine])
        return total

    return added


def over_maps(score, which="places"):
    """Adds score(maps of one unit [samples, columns * positions], ...) over the places that read a unit."""

    def added(s, u):
        return torch.stack(
            [
                sum(score(s.inputs[m][c[i]].movedim(1, 0).flatten(1)) for m, c in getattr(u, which).items())
                for i in range(u.count)
            ]
        )

    return added


l1 = over_writers(lambda s, name, rows, w: w.abs().sum())
l2 = over_writers(lambda s, name, rows, w: (w**2).sum() ** 0.5)


def bn_scale(s, u):
    return torch.stack([sum(s.weights[n].detach()[e[i]].abs() for n, e in u.norms.items()) for i in range(u.count)])


@over_layers
def lamp(s, name, units, vectors):
    squares = [float(v @ v) for v in vectors]
    return [a / sum(b for b in squares if b >= a) for a in squares]


@over_layers
def fpgm(s, name, units, vectors):
    return [sum((a - b).norm() for b in vectors) for a in vectors]


@over_layers
def median(s, name, units, vectors):
    points = torch.stack(vectors)
    m = points.mean(0)
    for _ in range(20_000):  # Weiszfeld
        weights = 1 / (points - m).norm(dim=1)
        new = weights @ points / weights.sum()
        if float((new - m).norm()) < 1e-13:
            break
        m = new
    return [(p - m).norm() for p in points]


@over_layers
def chex_leverage(s, name, units, vectors):
    columns = torch.stack(vectors, 1)  # [rest, filters]
    if columns.shape[0] < columns.shape[1]:
        return [v.abs().sum() for v in vectors]
    k = math.ceil(columns.shape[1] / 2)
    right = torch.linalg.svd(columns, full_matrices=False).Vh.T
    return [sum(right[j, i] ** 2 for i in range(k)) for j in range(columns.shape[1])]


@over_layers
def chex_residual(s, name, units, vectors):
    """Distance to the span of the others, at a ridge of 0.01."""
    mu = 0.01 * sum(float(v @ v) for v in vectors) / len(vectors)
    out = []
    for j, w in enumerate(vectors):
        a = torch.stack([v for i, v in enumerate(vectors) if i != j], 1)
        tall = torch.cat([a, math.sqrt(mu) * torch.eye(a.shape[1], dtype=a.dtype)])
        target = torch.cat([w, torch.zeros(a.shape[1], dtype=a.dtype)])
        solution = torch.linalg.lstsq(tall, target[:, None]).solution
        out.append((tall @ solution - target[:, None]).norm())
    return out


def gradient_vectors(grad, units, count):
    rows = units if len(units[0]) > 1 else [[r] for r in range(len(grad))]
    return [rows_of(grad, r) for r in rows][:count]


@over_layers
def oto(s, name, units, vectors):
    grads = gradient_vectors(s.mean_grad(name), units, len(vectors))
    cosines = [cosine(a, g) for a, g in zip(vectors, grads)]
    inverse = [1 / a.abs().mean() for a in vectors]
    return [1 - 0.5 * c - 0.5 * i for c, i in zip(divided(cosines), divided(inverse))]


@over_layers
def hesso(s, name, units, vectors):
    grads = gradient_vectors(s.mean_grad(name), units, len(vectors))
    inner = [a @ g for a, g in zip(vectors, grads)]
    five = [
        [a.norm() for a in vectors],
        [a.norm() / len(a) for a in vectors],
        [cosine(a, g) + 1 for a, g in zip(vectors, grads)],
        [abs(i) for i in inner],
        [0.5 * i * i for i in inner],
    ]
    return [0.2 * sum(term) for term in zip(*map(divided, five))]


def cosine(a, b):
    """0 where one of the two is zero, as the gradient of a unit that never fires."""
    size = a.norm() * b.norm()
    return a @ b / size if size > 0 else size


def divided(values):
    size = sum(v * v for v in values) ** 0.5
    return [v / size for v in values]


@over_writers
def taylor(s, name, rows, w):
    return (rows_of(s.mean_grad(name), rows) @ w) ** 2  # all samples are one mini-batch


@over_writers
def fisher(s, name, rows, w):
    return 0.5 * (w**2 * sum(rows_of(g[name], rows) ** 2 for g in s.grads) / s.n).sum()


@over_writers
def taylor2(s, name, rows, w):
    of_samples = [rows_of(g[name], rows) for g in s.grads]
    return (-w * sum(of_samples) / s.n + 0.5 * w**2 * sum(g**2 for g in of_samples) / s.n).abs().sum()


def movement(s, u):
    """Each tensor's scores are counted from its lowest unit."""
    total = torch.zeros(u.count, dtype=torch.float64)
    for name, rows in u.writers.items():
        moved = [-(rows_of(s.mean_grad(name), r) @ rows_of(s.weights[name], r)) for r in rows]
        total += torch.stack([m - min(moved) for m in moved])
    return total


def group_fisher(s, u):
    scores = []
    for i in range(u.count):
        each = [sum(sum(g[m][c] for c in columns[i]) for m, columns in u.readers.items()) for g in s.gates]
        scores.append(0.5 * sum(g * g for g in each) / s.n)
    return torch.stack(scores)


activation = over_maps(lambda maps: sum(a.norm() for a in maps) / len(maps))
apoz = over_maps(lambda maps: 1 - (maps == 0).sum().double() / maps.numel())


@over_maps
def hrank(maps):
    h = max(d for d in range(1, math.isqrt(maps.shape[1]) + 1) if maps.shape[1] % d == 0)
    return sum(torch.linalg.matrix_rank(a.reshape(h, -1)).double() for a in maps) / len(maps)


def chip(s, u):
    total = torch.zeros(u.count, dtype=torch.float64)
    for m, columns in u.places.items():
        maps = s.inputs[m]
        rows = columns if len(columns[0]) > 1 else [[c] for c in range(len(maps))]
        for n in range(s.n):
            a = torch.stack([maps[r, n].flatten() for r in rows])
            whole = torch.linalg.svdvals(a).sum()
            for i, mine in enumerate(columns):
                without = a.clone()
                without[rows.index(list(mine))] = 0
                total[i] += (whole - torch.linalg.svdvals(without).sum()) / s.n
    return total


def hrel(s, u):
    total = torch.zeros(u.count, dtype=torch.float64)
    same = (s.labels[:, None] == s.labels).double()
    for name, units in u.writers.items():
        maps = s.outputs[name.removesuffix(".weight")]
        rows = units if len(units[0]) > 1 else [[r] for r in range(len(maps))]
        layer = torch.cat([maps[r].movedim(1, 0).flatten(1) for r in rows], 1)
        apart = squared_distances(layer)
        grid = torch.linspace(0.3, 10 * float(apart.sqrt().mean()), 100, dtype=torch.float64)
        aligned = [float((k := torch.exp(-apart / w**2)).mul(same).sum() / (k.norm() * same.norm())) for w in grid]
        sigma = grid[aligned.index(max(aligned))]
        for i, mine in enumerate(units):
            k = torch.exp(-squared_distances(maps[mine].movedim(1, 0).flatten(1)) / sigma**2)
            total[i] += entropy(k) + entropy(same) - entropy(k * same)
    return total


def squared_distances(x):
    return torch.stack([torch.stack([(a - b).square().sum() for b in x]) for a in x])


def entropy(kernel):
    p = torch.linalg.eigvalsh(kernel / kernel.trace())
    return -sum(v * v.log2() for v in p if v > 1e-300)


def reading_weight(s, u, m):
    """[input channels, outputs * taps] of a module, its outputs scaled by the batch norm behind."""
    modules = dict(s.model.named_modules())
    layer = modules[m]
    weight = layer.weight.detach()
    if m in u.behind:
        norm = modules[u.behind[m]]
        gain = norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()
        weight = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    if getattr(layer, "groups", 1) > 1:  # depthwise
        return weight.flatten(1)
    return weight.movedim(1, 0).flatten(1)


def over_columns(score):
    """Adds score(values of one column, weights that read it) over the columns of a unit and the places that read it."""

    def added(s, u):
        total = torch.zeros(u.count, dtype=torch.float64)
        for m, columns in u.places.items():
            weight = reading_weight(s, u, m)
            for i, mine in enumerate(columns):
                total[i] += sum(score(s.inputs[m][c].flatten(), weight[c]) for c in mine)
        return total

    return added


@over_columns
def flap(x, w):
    return ((x - x.mean()) ** 2).sum() / len(x) * (w**2).sum()


@over_columns
def wanda(x, w):
    return (w.abs() * x.norm()).sum() / len(x) ** 0.5


def ablation(s, u):
    """Squared distance of the outputs, relative to their size, with the unit's channels zero wherever they are read."""
    modules = dict(s.model.named_modules())
    with torch.no_grad():
        whole = s.model(s.x)
        scores = []
        for i in range(u.count):

            def zeroed(_, args, columns):
                a = args[0].clone()
                a[(slice(None), columns) if a.dim() == 4 else (..., columns)] = 0
                return (a,)

            hooks = [
                modules[m].register_forward_pre_hook(lambda mod, a, c=c[i]: zeroed(mod, a, c))
                for m, c in u.readers.items()
            ]
            scores.append((s.model(s.x) - whole).square().sum() / whole.square().sum())
            for h in hooks:
                h.remove()
    return torch.stack(scores)


def reconstruction(s, u):
    """Backward elimination on the covariance of what the one reader takes in; each step solves from the start."""
    (m, columns), *more = u.readers.items()
    assert not more
    layer = dict(s.model.named_modules())[m]
    x = s.inputs[m]
    taps = 1
    if isinstance(layer, nn.Conv2d):
        taps = layer.weight[0, 0].numel()
        side = math.isqrt(x.shape[2])
        images = x.movedim(1, 0).reshape(s.n, -1, side, side)
        x = nn.functional.unfold(images, layer.kernel_size, padding=layer.padding, stride=layer.stride).movedim(0, 1)
    rows = x.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    gram = rows @ rows.T / rows.shape[1]
    gram = gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = reading_weight(s, u, m).reshape(x.shape[0] // taps, -1, taps).permute(1, 0, 2).flatten(1)
    inputs = [[c * taps + t for c in mine for t in range(taps)] for mine in columns]

    def error(units):
        gone = list(itertools.chain(*(inputs[i] for i in units)))
        kept = [j for j in range(len(gram)) if j not in set(gone)]
        lost = gram[gone][:, gone]
        if kept:
            lost = lost - gram[gone][:, kept] @ torch.linalg.solve(gram[kept][:, kept], gram[kept][:, gone])
        return float((weight[:, gone] @ lost @ weight[:, gone].T).trace())

    scores, removed, before, highest = torch.zeros(u.count, dtype=torch.float64), [], 0.0, 0.0
    for _ in range(u.count):
        errors = {i: error([*removed, i]) for i in range(u.count) if i not in removed}
        cheapest = min(errors, key=errors.get)
        highest = max(highest, errors[cheapest] - before)
        scores[cheapest], before = highest, errors[cheapest]
        removed.append(cheapest)
    return scores / scores.max()
