"""Which way to differentiate a network: the fastest that is exact for it."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from diagfim.derivatives.autodiff import Autodiff
from diagfim.derivatives.dense import Chain
from diagfim.derivatives.factored import Linearised
from diagfim.derivatives.graph import Graph
from diagfim.errors import UserError


class Engine(Protocol):
    """A network, ready to be differentiated at any batch of inputs."""

    name: str
    batch_size: int
    """Number of inputs at a time that keeps within the memory asked for."""

    def at(self, inputs: Tensor) -> Linearised:
        """Outputs at a batch, and derivatives on demand."""
        ...


@runtime_checkable
class Slow(Protocol):
    """An engine that may take minutes, and says so."""

    def seconds(self, inputs: Tensor, curved: bool = True, directions: int | None = None) -> float:
        """Forecast of the time that the derivatives take at these inputs.

        Parameters
        ----------
        inputs : tensor, (n, ...)
        curved : bool
            Whether second derivatives are wanted at all.
        directions : int, optional
            K, along how many directions the first ones are; by default as many as outputs.
        """
        ...


ENGINES: dict[str, type[Chain] | type[Graph] | type[Autodiff]] = {
    engine.name: engine for engine in (Chain, Graph, Autodiff)
}
"""From the fastest and most particular to the slowest, which knows every network."""


def choose(model: nn.Module, example: Tensor, memory: int, method: str = "auto") -> Engine:
    """Return the first engine of `ENGINES` that is exact for the model, or the one named.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode.
    example : tensor, (n, ...)
        A few inputs of the model's dtype and device, to look at its outputs and to try it.
    memory : int
        Bytes that a batch may take beside the model and the results.
    method : str
        A key of `ENGINES`, or "auto".

    Raises
    ------
    UserError
        If no engine has that name, the one named does not know the model, or none does.
    """
    if method == "auto":
        for engine in (Chain, Graph):
            try:
                return engine(model, example, memory)
            except UserError:
                continue  # the last one says what is wrong with a model that none can take
        return Autodiff(model, example, memory)
    if method not in tuple(ENGINES):  # a list, say, is in no dict
        raise UserError(f"method: {method!r} is not auto, {', '.join(ENGINES)}")
    return ENGINES[method](model, example, memory)
