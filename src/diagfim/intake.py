"""What users hand over, looked at before any work: a model that is fit, and its inputs."""

import copy
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from diagfim import __version__, arrays
from diagfim.derivatives.engines import choose
from diagfim.errors import UserError
from diagfim.moments import Labelled
from diagfim.streams import Batch, pieces, rebatch

Inputs = Tensor | Iterable[Tensor | tuple[Tensor, Tensor] | list[Tensor]]
"""A tensor (n, ...), or batches of one, alone or with labels, as a DataLoader yields them."""


class Data:
    """The inputs as given, the first of them looked at.

    Parameters
    ----------
    inputs : tensor, (n, ...), or iterable of tensors or of (tensor, labels)
    labels : tensor, (n, ...), optional
        Only beside a single tensor of inputs.

    Attributes
    ----------
    total : int or None
        Number of inputs, where it is known.
    example : tensor, (1 or 2, ...)
        The first of them.

    Raises
    ------
    UserError
        If there are none, or they are not what they should be.
    """

    def __init__(self, inputs: Inputs, labels: Tensor | None = None) -> None:
        self.total = len(inputs) if isinstance(inputs, Tensor) else None
        stream = (piece for piece in pieces(inputs, labels) if len(piece[0]))
        first = next(stream, None)
        if first is None:
            raise UserError("inputs: none were given; pass at least one input")
        self.example = first[0][:2]
        self._stream = chain([first], stream)

    def batches(self, network: "Network", size: int) -> Iterator[Batch]:
        """Batches of a size on the model's device, with progress after some seconds; once only."""
        with tqdm(total=self.total, unit=" inputs", delay=5, disable=None) as progress:
            for batch in rebatch(self._stream, size):
                yield Batch(network.prepare(batch.inputs), batch.labels, batch.start)
                progress.update(len(batch.inputs))


class Network:
    """A model that was found fit, and the engine that differentiates it.

    Parameters
    ----------
    model : torch.nn.Module
    example : tensor, (n, ...)
        One or two inputs, to try the model on.
    method : str
        As for `diagfim.analyze`, as are `dtype` and `memory`.
    dtype : torch.dtype, optional
    memory : int

    Raises
    ------
    UserError
        If the model, its weights, the example or an option cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        method: str,
        dtype: torch.dtype | None,
        memory: int,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"model: a {type(model).__name__} is not a torch.nn.Module")
        if dtype not in (None, torch.float32, torch.float64):
            raise UserError(f"dtype: {dtype} is neither torch.float32 nor torch.float64")
        if dtype is not None:
            model = copy.deepcopy(model).to(dtype)
        self._parameters = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        _examine(self._parameters)
        one = next(iter(self._parameters.values()))
        self._device, self._dtype = one.device, one.dtype
        example = self.prepare(example)
        _try(model, example)
        self.engine = choose(model, example, memory, method)

    def __str__(self) -> str:
        """How large it is and how it is differentiated, for a log."""
        number = sum(value.numel() for value in self._parameters.values())
        return f"{number:,} parameters, method {self.engine.name}"

    def prepare(self, inputs: Tensor) -> Tensor:
        """The inputs on the model's device, and in its dtype if they are floating point."""
        if inputs.is_floating_point():
            return inputs.to(self._device, self._dtype)
        return inputs.to(self._device)

    def tree(
        self, values: Labelled, quantities: tuple[str, ...], title: str, **settings: object
    ) -> xr.DataTree:
        """Label the values: a node per parameter, in its shape and in the order of the model."""
        nodes = {}
        for name, parameter in self._parameters.items():
            dimensions = arrays.parameter_dimensions(parameter.ndim)
            nodes[name] = xr.Dataset(
                {
                    quantity: (
                        dimensions,
                        # The outputs do not depend on a parameter that no engine has met.
                        values[name][quantity].reshape(parameter.shape).cpu().numpy()
                        if name in values
                        else np.zeros(parameter.shape),
                        arrays.description(quantity),
                    )
                    for quantity in quantities
                }
            )
        root = xr.Dataset(
            attrs={
                "title": title,
                "source": f"diagfim {__version__}",
                "method": self.engine.name,
                "dtype": str(self._dtype).removeprefix("torch."),
                **settings,
            }
        )
        return xr.DataTree.from_dict({"/": root, **nodes})


@torch.no_grad()
def _examine(parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise UserError("model: no parameter requires a gradient; there is nothing to analyse")
    for name, value in parameters.items():
        if value.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"{name}: dtype {value.dtype}; convert the model to float32 or float64, or pass "
                "dtype=torch.float32"
            )
        # A sum is finite only if its terms are, and ten times cheaper than looking at each.
        if not value.sum().isfinite() and not value.isfinite().all():
            raise UserError(f"{name}: holds NaN or infinity; the network is not usable as it is")


def _try(model: nn.Module, example: Tensor) -> None:
    """Run the model on the example; its own complaints, in a line, are the user's to read."""
    try:
        with torch.no_grad():
            outputs = model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"inputs: the model does not take a batch of shape {tuple(example.shape)} and dtype "
            f"{example.dtype}: {reason}"
        ) from None
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(f"model: its outputs are {found}; expected a tensor (inputs, outputs)")
    if not torch.isfinite(outputs).all():
        raise UserError("model: NaN or infinite outputs at the first inputs; look at the inputs")
