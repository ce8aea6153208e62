"""What users hand over, looked at before any work: a model that is fit, and its inputs."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from diagfim import __version__, arrays
from diagfim.derivatives.engines import choose
from diagfim.derivatives.factored import Linearised
from diagfim.derivatives.fitness import (
    FLOATS,
    examine,
    given_by,
    line,
    look_at_module,
    look_at_outputs,
    look_at_values,
    named,
)
from diagfim.errors import UserError
from diagfim.estimators import whole
from diagfim.families import Family, family_of
from diagfim.moments import Labelled
from diagfim.streams import Batch, pieces, rebatch

Array = Tensor | np.ndarray
Inputs = Array | Iterable[Array | tuple[Array, Array | None] | list[Array]]
"""An array (n, ...), or batches of one, alone or with labels, as a DataLoader yields them."""


class Data:
    """The inputs as given, the first of them looked at.

    Parameters
    ----------
    inputs : tensor or array, (n, ...), or iterable of them, alone or as (inputs, labels)
    labels : tensor or array, (n, ...), optional
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

    def __init__(self, inputs: Inputs, labels: Array | None = None) -> None:
        # An iterable may say how many it yields, as diagfim.loading.Batches does.
        self.total: int | None = getattr(inputs, "total", None)
        if isinstance(inputs, Tensor | np.ndarray) and inputs.ndim:
            self.total = len(inputs)
        stream = (piece for piece in pieces(inputs, labels) if len(piece[0]))
        held: list[tuple[Tensor, Tensor | None]] = []
        # Two of them, to see whether inputs act on each other: batches may be of one.
        while sum(len(one) for one, _ in held) < 2 and (piece := next(stream, None)) is not None:
            held.append(piece)
        if not held:
            raise UserError(
                "inputs: none were given; pass at least one input, and a generator no second time"
            )
        self.example = torch.cat([one[:2] for one, _ in held])[:2]
        self._stream = chain(held, stream)

    def batches(self, network: "Network", size: int) -> Iterator[Batch]:
        """Batches of a size on the model's device, with progress after some seconds; once only."""
        with tqdm(total=self.total, unit=" inputs", delay=5, disable=None) as progress:
            for batch in rebatch(self._stream, size):
                yield replace(batch, inputs=network.prepare(batch.inputs))
                progress.update(len(batch.inputs))


class Network:
    """A model that was found fit, and the engine that differentiates it.

    Parameters
    ----------
    model : torch.nn.Module
    example : tensor, (n, ...)
        One or two inputs, to try the model on.
    family : str or Family
        As for `diagfim.analyze`, as are `method`, `dtype` and `memory`.
    method : str
    dtype : torch.dtype, optional
    memory : int

    Attributes
    ----------
    family : Family
    engine : Engine

    Raises
    ------
    UserError
        If the model, its weights, the example or an option cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        family: str | Family,
        method: str,
        dtype: torch.dtype | None,
        memory: int,
    ) -> None:
        self.family = family_of(family)
        if dtype not in (None, *FLOATS):
            raise UserError(f"dtype: {dtype!r} is neither torch.float32 nor torch.float64")
        memory = whole("memory", memory, 1)
        look_at_module(model)
        look_at_values(model)
        self._model = model if dtype is None else _converted(model, dtype)
        self._parameters = {
            name: value for name, value in self._model.named_parameters() if value.requires_grad
        }
        one = next(iter(self._parameters.values()))
        self._device, self._dtype = one.device, one.dtype
        example = self.prepare(example)
        outputs = examine(self._model, example)
        _look_at_family(self.family, self._model, example, outputs)
        self.engine = choose(self._model, example, memory, method)

    def __str__(self) -> str:
        """How large it is and how it is differentiated, for a log."""
        number = sum(value.numel() for value in self._parameters.values())
        return f"{number:,} parameters, method {self.engine.name}"

    def prepare(self, inputs: Tensor) -> Tensor:
        """The inputs on the model's device, and in its dtype if they are floating point."""
        if inputs.is_floating_point():
            return inputs.to(self._device, self._dtype)
        return inputs.to(self._device)

    def at(self, batch: Batch) -> Linearised:
        """Outputs at a batch, found to be finite, and derivatives on demand.

        Raises
        ------
        UserError
            If the model does not take the inputs, or gives NaN or infinity; the message says where.
        """
        with named(self._model, batch.inputs, batch.start):
            at = self.engine.at(batch.inputs)
        look_at_outputs(self._model, batch.inputs, at.outputs, batch.start)
        return at

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


def _converted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model in another precision."""
    try:
        return copy.deepcopy(model).to(dtype)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"dtype: the model cannot be copied ({line(error)}); convert it, model.to({dtype}), "
            "and leave dtype= out"
        ) from error


def _look_at_family(family: Family, model: nn.Module, example: Tensor, outputs: Tensor) -> None:
    """Refuse outputs that cannot be what the family takes them for."""
    culprit = given_by(model, example, family.links)
    if culprit is not None:
        raise UserError(
            f"family: {family.name} expects {family.outputs}, but {culprit} gives means; leave it "
            "out"
        )
    misfit = family.misfit(outputs)
    if misfit is not None:
        raise UserError(f"family: {family.name} expects {family.outputs}, but {misfit}")
    family.mean(outputs)  # complains by itself
