"""How much where: scores and caps in, kept units out. Pure functions of numbers; nothing here knows a network."""

from sartor.allocate import global_, knapsack, uniform
from sartor.allocate.bundles import floor_counts, ladder, tied_classes
from sartor.allocate.latency import Step, fit_latency
from sartor.allocate.registry import ALLOCATORS, Allocator, Cap, Keep, allocator_of
from sartor.allocate.select import narrowed, select

__all__ = [
    "ALLOCATORS", "Allocator", "Cap", "Keep", "Step", "allocator_of", "fit_latency", "floor_counts", "global_",
    "knapsack", "ladder", "narrowed", "select", "tied_classes", "uniform",
]  # fmt: skip
