"""Counted costs: from a graph and kept units by group to numbers, without running anything."""

from sartor.cost.count import bytes_of, count, params
from sartor.cost.macs import by_group, macs, unit_macs
from sartor.cost.memory import peak_memory
from sartor.cost.parts import Cost, Part, counted_cost
from sartor.cost.soft import SoftCost, soft_macs, soft_params

__all__ = [
    "Cost", "Part", "SoftCost", "by_group", "bytes_of", "count", "counted_cost", "macs", "params", "peak_memory",
    "soft_macs", "soft_params", "unit_macs",
]  # fmt: skip
