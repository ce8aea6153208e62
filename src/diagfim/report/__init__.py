"""What the report prints: one module per section, from results to values for the template."""

from types import ModuleType

from diagfim.report import (
    continual,
    descent,
    empirical,
    frontier,
    landscape,
    population,
    regression,
    toy,
)

EXPERIMENTS: dict[str, ModuleType] = {
    "toy": toy,
    "regression": regression,
    "population": population,
    "landscape": landscape,
    "frontier": frontier,
    "empirical": empirical,
    "descent": descent,
    "continual": continual,
}
"""Sections on experiments, in their order; each has ``contents`` and ``claims``."""
