"""Figures of the experiment "frontier"."""

from diagfim.figures.style import Draw

FIGURES: dict[str, Draw] = {}
"""By the names of their files."""
