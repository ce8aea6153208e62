"""diagfim: the diagonal Fisher information of a network, with its error bars.

`analyze` computes it exactly, with the variances of its two standard estimators; `estimate` draws
labels as everybody does, and says how wrong the result is.  From what `analyze` found, `variance`
tells the variance of every estimator at any number of draws, and `plan` how many of them a wanted
precision takes, and by which estimator at least cost.  Whatever else there is, import by the name
of its module, bottom to top: ``arrays``, ``spectra``, ``families``, ``derivatives``, ``mixing``,
``moments``, ``estimators``, ``variances``, ``planning``, ``matrices``, ``bounds``, ``theory``,
``comparison``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagfim import plot as plot
    from diagfim.analysis import analyze as analyze
    from diagfim.analysis import estimate as estimate
    from diagfim.planning import Cost as Cost
    from diagfim.planning import measure_seconds as measure_seconds
    from diagfim.planning import plan as plan
    from diagfim.planning import plan_parameters as plan_parameters
    from diagfim.summary import summarize as summarize
    from diagfim.tensors import to_state_dict as to_state_dict
    from diagfim.variances import variance as variance

__version__ = "0.4.0"
__all__ = [
    "Cost",
    "__version__",
    "analyze",
    "estimate",
    "measure_seconds",
    "plan",
    "plan_parameters",
    "plot",
    "summarize",
    "to_state_dict",
    "variance",
]

_MODULES = {
    "Cost": "planning",
    "analyze": "analysis",
    "estimate": "analysis",
    "measure_seconds": "planning",
    "plan": "planning",
    "plan_parameters": "planning",
    "summarize": "summary",
    "to_state_dict": "tensors",
    "variance": "variances",
}


def __getattr__(name: str) -> object:
    # Only when asked for, so that a program which only reads arrays never pays for PyTorch.
    if name == "plot":
        return import_module("diagfim.plot")
    if name in _MODULES:
        return getattr(import_module(f"diagfim.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'diagfim' has no attribute {name!r}")
