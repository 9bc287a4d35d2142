"""Networks of many fields, each with data, training, quality and what a cut must preserve.

    for entry in WORKLOADS.entries():
        check_workload(entry.value)

One file a field. A new network is one subclass of `Workload` with the decorator `workload`.
"""

from __future__ import annotations

from sartor.testing.workloads import (  # noqa: F401
    adapters,
    graphs,
    invertible,
    memory,
    policies,
    recognition,
    recommendation,
    relations,
    restoration,
    signals,
    text,
)
from sartor.testing.workloads.contract import ContractBroken, WorkloadCheck, check_workload
from sartor.testing.workloads.workload import WORKLOADS, Workload, difference, train_, workload

__all__ = [
    "WORKLOADS", "ContractBroken", "Workload", "WorkloadCheck", "check_workload", "difference", "train_", "workload",
]  # fmt: skip
