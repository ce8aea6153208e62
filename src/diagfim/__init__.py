"""diagfim: the diagonal Fisher information of a network, with its error bars.

`analyze` computes it exactly, with the variances of its two standard estimators; `estimate` draws
labels as everybody does, and says how wrong the result is.  Whatever else there is, import by the
name of its module, bottom to top: ``arrays``, ``families``, ``derivatives``, ``moments``,
``estimators``, ``bounds``, ``comparison``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagfim.analysis import analyze as analyze
    from diagfim.analysis import estimate as estimate

__version__ = "0.1.0"
__all__ = ["__version__", "analyze", "estimate"]


def __getattr__(name: str) -> object:
    # Only when asked for, so that a program which only reads arrays never pays for PyTorch.
    if name in ("analyze", "estimate"):
        return getattr(import_module("diagfim.analysis"), name)
    raise AttributeError(f"module 'diagfim' has no attribute {name!r}")
