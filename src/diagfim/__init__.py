"""diagfim: the diagonal Fisher information of a network, with its error bars.

Import the modules by name, bottom to top: ``arrays``, ``networks``, ``families``,
``derivatives``, ``moments``, ``estimators``, ``bounds``, ``comparison``.  Nothing is imported
here, so that a program which only reads arrays never pays for PyTorch.
"""

__version__ = "0.1.0"
