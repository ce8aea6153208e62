"""Figures of the study: functions from gathered results to Matplotlib figures."""

from diagfim.figures import (
    continual,
    descent,
    empirical,
    frontier,
    landscape,
    networks,
    population,
    regression,
    toy,
)
from diagfim.figures.style import Draw

OF_NETWORKS = networks.FIGURES
"""Figures of every network, by the names of their files."""

OF_EXPERIMENTS: dict[str, dict[str, Draw]] = {
    "toy": toy.FIGURES,
    "regression": regression.FIGURES,
    "population": population.FIGURES,
    "landscape": landscape.FIGURES,
    "frontier": frontier.FIGURES,
    "empirical": empirical.FIGURES,
    "descent": descent.FIGURES,
    "continual": continual.FIGURES,
}
"""Figures of every experiment, by the names of their files."""
