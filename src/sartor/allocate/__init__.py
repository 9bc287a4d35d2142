"""Allocation: from scores and caps to kept units. Pure functions of numbers, without access to a network."""

from sartor.allocate import global_, knapsack, uniform
from sartor.allocate.bundles import alignment, floor_counts, ladder, tied_classes
from sartor.allocate.latency import SearchOptions, Step, fit_latency
from sartor.allocate.registry import ALLOCATORS, Allocator, Cap, Keep, allocator_of
from sartor.allocate.select import narrowed, select

__all__ = [
    "ALLOCATORS", "Allocator", "Cap", "Keep", "SearchOptions", "Step", "alignment", "allocator_of", "fit_latency",
    "floor_counts", "global_", "knapsack", "ladder", "narrowed", "select", "tied_classes", "uniform",
]  # fmt: skip
