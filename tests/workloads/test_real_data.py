"""The networks on real data: what their readers refuse, and the rows of the study."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.errors import BadInput, CorruptFile
from sartor.studies.workloads_real import Cora, real_workloads


class Harmful:
    """Its pickle calls a function when it is read."""

    def __reduce__(self) -> Any:
        return os.getcwd, ()


def test_a_citation_graph_cannot_run_code(tmp_path: Path) -> None:
    raw = tmp_path / "Planetoid" / "Cora" / "raw"
    raw.mkdir(parents=True)
    for name in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        (raw / f"ind.cora.{name}").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CorruptFile, match="getcwd"):
        Cora(tmp_path)


@pytest.mark.parametrize("name", [n for n in real_workloads(Path(".")) if n != "leyolo-scenes"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        real_workloads(tmp_path)[name].data()


@pytest.mark.slow
@pytest.mark.skipif("SARTOR_DATA" not in os.environ, reason="needs SARTOR_DATA")
def test_cora_is_the_public_split() -> None:
    cora = Cora(Path(os.environ["SARTOR_DATA"]))
    assert cora.features.shape == (2708, 1433) and len(cora.train) == 140 and len(cora.test) == 1000
    assert torch.equal(cora.labels[cora.train].bincount(), torch.full((7,), 20))
    assert int(cora.edges.shape[1]) == 10556  # both directions, without loops and repetitions
