"""A network, its weights and its data, each from a file that a user names.

`build_model` calls a Python function, `load_weights` fills the network from safetensors, and
`open_data` reads inputs a piece at a time, so that a data set may be larger than memory.  Nothing
is ever unpickled: a pickle runs whatever its author put into it.
"""

from diagfim.loading.factories import build_model
from diagfim.loading.samples import Batches, Samples, open_data
from diagfim.loading.weights import load_weights

__all__ = ["Batches", "Samples", "build_model", "load_weights", "open_data"]
