"""Workloads on real data: Cora, WN18RR, CWRU, Imagenette; and a detector on many generated scenes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.errors import BadInput, CorruptFile, MissingExtra
from sartor.structure.example import Example
from sartor.testing.workloads.graphs import AdaptiveHops, Dagnn
from sartor.testing.workloads.pictures import batched
from sartor.testing.workloads.recognition import Detector, LeYolo, scenes
from sartor.testing.workloads.relations import CommonNeighbours, InteractE, Interaction, Ncn, hits, reciprocal_rank
from sartor.testing.workloads.restoration import Imdn, InformationDistillation
from sartor.testing.workloads.signals import Mskacnn, MultiScaleKernels
from sartor.testing.workloads.workload import Workload
from sartor.types import Data

_CORA = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_ALLOWED = {
    *((m, n) for m in ("numpy.core.multiarray", "numpy._core.multiarray") for n in ("_reconstruct", "scalar")),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "defaultdict"), ("builtins", "list"),
    ("_codecs", "encode"), ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"),
    ("__builtin__", "object"), ("builtins", "object"), ("__builtin__", "list"),
}  # fmt: skip


class _Sparse:
    """What a pickled matrix of SciPy holds; its class is not imported from the file."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray

    def dense(self) -> np.ndarray:
        """[rows, columns]."""
        shape = getattr(self, "_shape", None) or self.__dict__["shape"]
        whole = np.zeros(shape, dtype=np.float32)
        rows = np.repeat(np.arange(shape[0]), np.diff(self.indptr))
        whole[rows, self.indices] = self.data
        return whole


class _Planetoid(pickle.Unpickler):
    """Reads arrays, lists, dicts and sparse matrices, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("scipy.sparse") and name == "csr_matrix":
            return _Sparse
        if (module, name) not in _ALLOWED:
            raise CorruptFile(f"Planetoid: expected arrays, lists and sparse matrices; the file names {module}.{name}")
        return super().find_class(module, name)


class Cora:
    """The citation graph in its public split: 2,708 papers, 140 with labels to train on, 1,000 to judge by.

    Args:
        folder: holds Planetoid/Cora/raw/ind.cora.*.

    Raises:
        BadInput: a file is missing.
        CorruptFile: a file holds something else than arrays.
    """

    def __init__(self, folder: Path):
        raw = folder / "Planetoid" / "Cora" / "raw"
        part = {name: self._read(raw / f"ind.cora.{name}") for name in _CORA}
        places = np.loadtxt(raw / "ind.cora.test.index", dtype=np.int64)
        features = np.concatenate([part["allx"].dense(), part["tx"].dense()])
        labels = np.concatenate([part["ally"], part["ty"]]).argmax(1)
        features[np.sort(places)], labels[np.sort(places)] = features[len(part["ally"]) :], labels[len(part["ally"]) :]
        order = np.arange(len(features))
        order[places] = np.sort(places)
        features, labels = features[order], labels[order]
        self.features = torch.tensor(features / features.sum(1, keepdims=True).clip(1))
        self.labels = torch.tensor(labels)
        pairs = {(a, b) for a, near in part["graph"].items() for b in near if a != b}
        both = sorted(pairs | {(b, a) for a, b in pairs})
        self.edges = torch.tensor(both).T.contiguous()
        self.train = torch.arange(len(part["y"]))
        self.test = torch.tensor(np.sort(places))

    def _read(self, path: Path) -> Any:
        if not path.is_file():
            raise BadInput(f"{path}: no such file; expected the Planetoid files of Cora")
        return _Planetoid(io.BytesIO(path.read_bytes()), encoding="latin1").load()


class OnFolder(Workload):
    """A workload whose data lie in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder


class DagnnOnCora(OnFolder, Dagnn):
    """DAGNN with ten hops on Cora."""

    name, field, source, preserves = "dagnn-cora", "graphs", "arXiv:2007.09296", Dagnn.preserves
    warm_up, lr = 100, 1e-2

    @cached_property
    def cora(self) -> Cora:
        return Cora(self.folder)

    def network(self) -> nn.Module:
        return AdaptiveHops(1433, 64, 7, hops=10)

    def examples(self) -> Sequence[Example]:
        return [(self.cora.features, self.cora.edges)]

    def data(self) -> Data:
        graph = self.cora.features, self.cora.edges
        marked = lambda nodes: torch.full_like(self.cora.labels, -1).scatter(0, nodes, self.cora.labels[nodes])
        train, val = ([(graph, marked(nodes))] for nodes in (self.cora.train, self.cora.test))
        return Data(train=train * 10, val=val)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.cross_entropy(output, targets, ignore_index=-1)

    def score(self, output: Any, targets: Any) -> float:
        known = targets >= 0
        return 100 * float((output.argmax(-1) == targets)[known].double().mean())


class NcnOnCora(OnFolder, Ncn):
    """Neural common neighbours on the links of Cora, a tenth of them hidden."""

    name, field, source, preserves = "ncn-cora", "graphs", "arXiv:2302.00890", Ncn.preserves
    quality_name, warm_up, lr = "HR@100 (%)", 10, 5e-3

    def network(self) -> nn.Module:
        return CommonNeighbours(1433, 64, complete=False)

    @cached_property
    def _split(self) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        cora, generator = Cora(self.folder), torch.Generator().manual_seed(self.seed)
        once = cora.edges[:, cora.edges[0] < cora.edges[1]]
        order = torch.randperm(once.shape[1], generator=generator)
        hidden, seen = once[:, order[: len(order) // 10]], once[:, order[len(order) // 10 :]]
        return (cora.features, torch.cat([seen, seen.flip(0)], 1)), seen, hidden

    def examples(self) -> Sequence[Example]:
        graph, seen, _ = self._split
        return [(*graph, seen[:, :64]), (*graph, seen[:, :33])]

    def data(self) -> Data:
        (features, edges), seen, hidden = self._split
        generator = torch.Generator().manual_seed(self.seed + 1)
        nodes, train = len(features), []
        for part in seen.split(512, dim=1):
            # links that are asked for are taken out of the graph, or the network could look them up
            asked = {(int(a), int(b)) for a, b in part.T}
            left = torch.tensor([(int(a), int(b)) not in asked and (int(b), int(a)) not in asked for a, b in edges.T])
            train.append(self._batch(features, edges[:, left], part, nodes, generator))
        return Data(train=train, val=[self._batch(features, edges, hidden, nodes, generator)])

    def _batch(self, features: Tensor, edges: Tensor, true: Tensor, nodes: int, generator: torch.Generator) -> Any:
        other = torch.randint(nodes, (2, max(1000, true.shape[1])), generator=generator)
        truth = torch.cat([torch.ones(true.shape[1]), torch.zeros(other.shape[1])])
        return (features, edges, torch.cat([true, other], 1)), truth

    def score(self, output: Any, targets: Any) -> float:
        return hits(output, targets, 100)


class InteractEOnWn18rr(OnFolder, InteractE):
    """InteractE on WN18RR, trained and judged against all entities, without leaving out known answers."""

    name, field, source, preserves = "interacte-wn18rr", "knowledge graphs", "arXiv:1911.00219", InteractE.preserves
    quality_name, warm_up, lr = "MRR (%)", 8, 3e-3

    def score(self, output: Any, targets: Any) -> float:
        return reciprocal_rank(output, targets)

    @cached_property
    def _parts(self) -> dict[str, Tensor]:
        rows = {}
        for name in ("train", "valid", "test"):
            path = self.folder / "WN18RR" / f"{name}.txt"
            if not path.is_file():
                raise BadInput(f"{path}: no such file; expected head, relation, tail, separated by tabs")
            rows[name] = [line.split("\t") for line in path.read_text().splitlines()]
        entities = {e: i for i, e in enumerate(sorted({e for r in rows.values() for t in r for e in (t[0], t[2])}))}
        relations = {e: i for i, e in enumerate(sorted({t[1] for r in rows.values() for t in r}))}
        number = lambda r: torch.tensor([[entities[h], relations[k], entities[t]] for h, k, t in r])
        return {name: number(r) for name, r in rows.items()}

    def network(self) -> nn.Module:
        parts = torch.cat(list(self._parts.values()))
        sizes = int(parts[:, ::2].max()) + 1, 2 * (int(parts[:, 1].max()) + 1)
        return Interaction(64, filters=16, rows=8, permutations=1, sizes=sizes)

    def examples(self) -> Sequence[Example]:
        asked = self._parts["valid"]
        return [asked[:8, :2], asked[:3, :2]]

    def data(self) -> Data:
        known, asked = self._parts["train"], self._parts["test"]
        relations = int(known[:, 1].max()) + 1
        backwards = torch.stack([known[:, 2], known[:, 1] + relations, known[:, 0]], 1)
        both = torch.cat([known, backwards])
        both = both[torch.randperm(len(both), generator=torch.Generator().manual_seed(self.seed))]
        train, val = (batched(t[:, :2], t[:, 2], size) for t, size in ((both, 512), (asked, 256)))
        return Data(train=train, val=val)


class MskacnnOnCwru(OnFolder, Mskacnn):
    """Multi-scale kernels on bearing vibration, ten classes, all at 12 kHz, recordings split by time."""

    name, field, source, preserves = "mskacnn-cwru", "signals", Mskacnn.source, Mskacnn.preserves
    warm_up, lr, length = 3, 3e-3, 1024

    def network(self) -> nn.Module:
        return MultiScaleKernels(classes=10, widths=(24, 32, 48))

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        path = self.folder / "CWRU" / "cwru_de_0hp_10class.npz"
        if not path.is_file():
            raise BadInput(f"{path}: no such file; expected arrays signal, offsets and fs_hz")
        with np.load(path, allow_pickle=False) as archive:
            signal, offsets, rates = archive["signal"], archive["offsets"], archive["fs_hz"]
        generator = np.random.default_rng(self.seed)
        parts = {}
        for part, (low, high, step) in {"train": (0.0, 0.6, 512), "val": (0.7, 1.0, 1024)}.items():
            windows = list(self._windows(signal, offsets, rates, (low, high, step)))
            x = np.stack([w for w, _ in windows])
            x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
            x = x + generator.standard_normal(x.shape)  # without noise every network separates the classes
            order = generator.permutation(len(x))
            classes = torch.tensor([c for _, c in windows])
            parts[part] = torch.tensor(x[order], dtype=torch.float32)[:, None], classes[torch.tensor(order)]
        return parts

    def _windows(
        self, signal: np.ndarray, offsets: np.ndarray, rates: np.ndarray, where: tuple[float, float, int]
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Windows of one part of every recording. The one at 48 kHz is brought to the 12 kHz of the others."""
        from scipy.signal import decimate

        low, high, step = where
        for i, rate in enumerate(rates):
            whole = signal[offsets[i] : offsets[i + 1]]
            whole = decimate(whole, 4) if rate == 48_000 else whole
            part = whole[int(low * len(whole)) : int(high * len(whole))]
            for start in range(0, len(part) - self.length + 1, step):
                yield part[start : start + self.length], i

    def examples(self) -> Sequence[Example]:
        x = self._parts["val"][0]
        return [x[:2], x[:3, :, :700]]

    def data(self) -> Data:
        train, val = (batched(*self._parts[p], 32) for p in ("train", "val"))
        return Data(train=train, val=val)


class ImdnOnImagenette(OnFolder, Imdn):
    """Super-resolution by two on crops of photographs."""

    name, field, source, preserves = "imdn-imagenette", "vision", "arXiv:1909.11856", Imdn.preserves
    warm_up, lr = 3, 2e-3

    def network(self) -> nn.Module:
        return InformationDistillation(32, 3)

    def examples(self) -> Sequence[Example]:
        x = self._crops("val", 10, 1)[0]
        return [x[:2], x[:1, :, :20, :17]]

    def _crops(self, part: str, pictures: int, each: int, size: int = 64) -> tuple[Tensor, Tensor]:
        """Small and large crops of the first pictures of every class."""
        try:
            from PIL import Image
        except ImportError as e:
            raise MissingExtra("pillow", "images", "crops of photographs") from e
        folders = sorted((self.folder / "imagenette224-subset" / part).glob("n*"))
        if not folders:
            raise BadInput(f"{self.folder}: expected imagenette224-subset/{part}/<class>/*.JPEG")
        generator, crops = torch.Generator().manual_seed(self.seed), []
        for file in (f for folder in folders for f in sorted(folder.glob("*.JPEG"))[:pictures]):
            with Image.open(file) as image:
                pixels = torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1) / 255
            for _ in range(each):
                y, x = (int(torch.randint(s - size + 1, (), generator=generator)) for s in pixels.shape[1:])
                crops.append(pixels[:, y : y + size, x : x + size])
        large = torch.stack(crops)[torch.randperm(len(crops), generator=generator)]
        return F.interpolate(large, scale_factor=0.5, mode="bilinear", antialias=True), large

    def data(self) -> Data:
        train, val = (batched(*self._crops(*how), 16) for how in (("train", 100, 2), ("val", 20, 1)))
        return Data(train=train, val=val)


class LeYoloOnScenes(OnFolder, LeYolo):
    """The detector on two thousand generated scenes."""

    name, field, source, preserves = "leyolo-scenes", "vision", "arXiv:2406.14239", LeYolo.preserves
    warm_up, lr = 6, 5e-3

    def network(self) -> nn.Module:
        return Detector((16, 24, 32))

    def data(self) -> Data:
        train, val = (batched(*scenes(n, self.seed + i), 32) for i, n in enumerate((2000, 400)))
        return Data(train=train, val=val)


REAL = (DagnnOnCora, NcnOnCora, MskacnnOnCwru, ImdnOnImagenette, LeYoloOnScenes, InteractEOnWn18rr)


def real_workloads(folder: Path) -> Mapping[str, Workload]:
    """The workloads on the data of a folder, by name; data are read when a row needs them."""
    return {made.name: made(folder) for made in REAL}
