"""The Fisher diagonal of anyone's network: exact with its variances, or estimated with its error.

Two functions in front of all the rest.  Both take a model and its inputs, choose the fastest exact
way to differentiate it, stream over the inputs and return a tree of labelled arrays, one node per
parameter tensor in its own shape.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from diagfim import __version__, arrays
from diagfim.derivatives.engines import Slow, choose
from diagfim.errors import UserError
from diagfim.estimators import ESTIMATORS
from diagfim.families import Family, family_of
from diagfim.moments import QUANTITIES, Labelled, Population
from diagfim.streams import Batch, pieces, rebatch

log = logging.getLogger("diagfim")

Inputs = Tensor | Iterable[Tensor | tuple[Tensor, Tensor] | list[Tensor]]
"""A tensor (n, ...), or batches of one, alone or with labels, as a DataLoader yields them."""

MEMORY = 2**25
"""Default for the bytes that a batch may take beside the model and the results."""


def analyze(
    model: nn.Module,
    inputs: Inputs,
    family: str | Family = "categorical",
    *,
    method: str = "auto",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Exact Fisher diagonal of a network, and how much either estimator of it varies.

    Nothing is sampled.  For every parameter θ_i that requires a gradient, averaged over the inputs:
    the Fisher information, the variances of the score-based estimator Î1 and of the Hessian-based
    estimator Î2 from one draw of y (Lemma 3.1), their covariance, and the variance over the inputs
    of the information (Theorem 4.7).  With N_x inputs and N draws for each, Î_j has the variance
    ``input_variance / N_x + variance_j / (N_x N)``.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode, on any device; outputs of shape (n, T).
    inputs : tensor, (n, ...), or iterable of tensors or of (tensor, labels)
        Batches stream: memory does not grow with their number, and their size changes nothing.
        They are moved to the model's device, and to its dtype if they are floating point.
    family : {"categorical", "gaussian"} or Family
        What the outputs mean: logits of a label, or means of targets of variance 1.
    method : {"auto", "dense", "graph", "autodiff"}
        How to differentiate; by default the first of these that is exact for the model.
    dtype : torch.dtype, optional
        float32 or float64 to compute in; by default the model's.  Sums are always float64.
    memory : int
        Bytes that a batch may take beside the model and the results.

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, under its name and in its shape, with the float64 variables
        ``fisher``, ``variance_1``, ``variance_2``, ``covariance_12`` and ``input_variance``.

    Raises
    ------
    UserError
        If the model, its weights, the inputs or an option cannot be used; the message says which
        and what to do.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(100, 3))
    >>> tree["0.weight"]["fisher"].shape
    (4, 3)
    >>> bool((tree["2.bias"]["variance_2"] == 0).all())
    True
    """
    data = _Data(inputs, None)
    network = _Network(model, data.example, method, dtype, memory)
    population = Population(family_of(family))
    for batch in data.batches(network, curved=True):
        population.update(network.engine.at(batch.inputs))
    values, _ = population.result()
    title = "Exact Fisher diagonal and estimator variances, per draw of y"
    return network.tree(values, QUANTITIES, title, inputs=population.count)


def estimate(
    model: nn.Module,
    inputs: Inputs,
    estimator: str = "score",
    draws: int = 1,
    seed: int = 0,
    family: str | Family = "categorical",
    *,
    labels: Tensor | None = None,
    errors: bool = True,
    method: str = "auto",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Estimate the Fisher diagonal by one of the usual estimators, with its standard error.

    Parameters
    ----------
    model, inputs, family, method, dtype, memory
        As for `analyze`.
    estimator : {"score", "hessian", "mixed", "exact", "empirical", "hutchinson"}
        "score": Î1, the mean squared gradient of log p at labels drawn from the model.
        "hessian": Î2, the mean diagonal of minus its Hessian at such labels; it may be negative.
        "mixed": w Î1 + (1 − w) Î2 from the same draws, w = (V2 − C12)/(V1 + V2 − 2 C12) from the
        exact moments at these inputs, per parameter.
        "exact": no labels are drawn; the sum over them is taken.
        "empirical": the mean squared gradient at the labels of the data; a different quantity,
        biased as an estimate of the Fisher information (Lemma 6.1).
        "hutchinson": the squared gradient along random signs, (Σ_y √σ_y g_y ξ_y)².
    draws : int
        N, the number of draws for each input; of no effect for "exact" and "empirical".
    seed : int
        What is drawn for an input depends on the seed and on its position alone.
    labels : tensor, (n,) or (n, T), optional
        Labels of the data for "empirical", when `inputs` is a tensor.
    errors : bool
        Whether to compute standard errors; without them a cheap estimate takes half the time.

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, in its shape, with ``fisher`` and ``standard_error``: that of
        ``fisher`` as an estimate of the information over the distribution which the inputs were
        drawn from, from the spread over the inputs (Theorem 4.7: inputs and draws both).  It is NaN
        for a single input.

    Raises
    ------
    UserError
        As `analyze`; and if labels are missing, or do not fit the inputs or the family.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.estimate(model, torch.rand(100, 3), "score", draws=5, seed=1)
    >>> sorted(tree["0.weight"].data_vars)
    ['fisher', 'standard_error']
    """
    if estimator not in ESTIMATORS:
        raise UserError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UserError(f"{name}: {value!r} is not an integer of at least {least}")
    data = _Data(inputs, labels)
    network = _Network(model, data.example, method, dtype, memory)
    stream = ESTIMATORS[estimator](family_of(family), int(draws), int(seed), errors)
    for batch in data.batches(network, stream.curved):
        stream.update(network.engine.at(batch.inputs), batch)
    title = f"Fisher diagonal by the {estimator} estimator"
    settings = {"estimator": estimator, "draws": int(draws), "seed": int(seed)}
    quantities = ("fisher", "standard_error") if errors else ("fisher",)
    return network.tree(stream.result(), quantities, title, inputs=stream.count, **settings)


class _Data:
    """The inputs as given, the first of them looked at."""

    def __init__(self, inputs: Inputs, labels: Tensor | None) -> None:
        self._total = len(inputs) if isinstance(inputs, Tensor) else None
        stream = (piece for piece in pieces(inputs, labels) if len(piece[0]))
        first = next(stream, None)
        if first is None:
            raise UserError("inputs: none were given; pass at least one input")
        self.example = first[0][:2]
        self._stream = chain([first], stream)

    def batches(self, network: "_Network", curved: bool) -> Iterator[Batch]:
        """Batches of the engine's size on the model's device, with progress after some seconds."""
        size = network.engine.batch_size
        with tqdm(total=self._total, unit=" inputs", delay=5, disable=None) as progress:
            for batch in rebatch(self._stream, size):
                moved = Batch(network.prepare(batch.inputs), batch.labels, batch.start)
                if batch.start == 0:
                    self._forecast(network, moved.inputs, curved)
                yield moved
                progress.update(len(batch.inputs))

    def _forecast(self, network: "_Network", first: Tensor, curved: bool) -> None:
        if not isinstance(network.engine, Slow):
            return
        each = network.engine.seconds(first, curved) / len(first)
        if self._total is None:
            if each * 1000 > _LONG:
                log.warning(
                    "diagfim: about %s per 1,000 inputs (%s)", _duration(each * 1000), network
                )
        elif each * self._total > _LONG:
            log.warning("diagfim: about %s (%s)", _duration(each * self._total), network)


_LONG = 60.0
"""Seconds from which on a forecast is given before the work starts."""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


class _Network:
    """A model that was found fit, and the engine that differentiates it."""

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
