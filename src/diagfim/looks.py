"""Colour, marker and line of each estimator, the same in every plot.

Colours are those of Okabe and Ito; markers and lines tell the estimators apart without them.
"""

COLOURS = {
    "score": "#0072B2",
    "hessian": "#D55E00",
    "mixed": "#E69F00",
    "exact": "#009E73",
    "hutchinson": "#56B4E9",
    "empirical": "#CC79A7",
}
MARKERS = {
    "score": "o",
    "hessian": "s",
    "mixed": "D",
    "exact": "^",
    "hutchinson": "v",
    "empirical": "X",
}
LINES = {
    "score": "-",
    "hessian": "--",
    "mixed": "-.",
    "exact": ":",
    "hutchinson": (0, (5, 1)),
    "empirical": (0, (3, 1, 1, 1, 1, 1)),
}
