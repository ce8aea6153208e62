"""Beyond the diagonal: Fisher matrices of small networks, by blocks or whole, and their estimators.

For a pair of parameters i and j of one block, with r = t(y) − η the gradient of log p by the
outputs, both estimators of I_ij = ∂_i h_a ∂_j h_b I_ab have per draw of y the values

    Î1_ij = (rᵀ∂_i h)(rᵀ∂_j h)        Î2_ij = I_ij − rᵀ∂²_ij h

and the moments (Lemma 3.1 entry by entry, Appendix C)

    Var Î1_ij = ∂_i h_a ∂_j h_b ∂_i h_c ∂_j h_d M_abcd        Var Î2_ij = ∂²_ij h_a ∂²_ij h_b I_ab
    Cov(Î1_ij, Î2_ij) = −∂_i h_a ∂_j h_b ∂²_ij h_c κ_abc

whose diagonal is what `diagfim.analyze` gives.  There are no factors to go by off the diagonal:
derivatives are those of automatic differentiation, and memory grows with the square of the block.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from diagfim import __version__, arrays
from diagfim.arrays import layer_of
from diagfim.derivatives.autodiff import Autodiff
from diagfim.derivatives.fitness import undisturbed
from diagfim.errors import UserError
from diagfim.estimators import whole
from diagfim.families import Family
from diagfim.intake import Data, Inputs, Network
from diagfim.moments import Running
from diagfim.seeding import InputStreams
from diagfim.streams import Batch

MEMORY = 2**30
"""Default for the bytes that a batch may take beside the model and the results."""

QUANTITIES = ("fisher", "variance_1", "variance_2", "covariance_12", "input_variance")
"""What `analyze` finds of every entry; the three in the middle are per draw of y."""


def analyze(
    model: nn.Module,
    inputs: Inputs,
    family: str | Family = "categorical",
    *,
    blocks: str = "layer",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Exact Fisher matrix, whole or by blocks, and how much either estimator of an entry varies.

    Nothing is sampled; the quantities are those of `diagfim.analyze`, of every pair of parameters
    of a block instead of every parameter, averaged over the inputs likewise (Theorem 4.7).

    Parameters
    ----------
    model, inputs, family, dtype
        As for `diagfim.analyze`.
    blocks : {"layer", "parameter", "unit", "full"}
        Which parameters make a block: those of a module (its weight and bias), a parameter tensor
        by itself, the rows of a module's parameters that belong to one of its units, or all.
    memory : int
        Bytes that a batch may take beside the model and the results; at one input a block of P
        parameters takes about 64 T P² in float64.

    Returns
    -------
    xarray.DataTree
        A node per block, named after the module ("(model)" for the model's own parameters), the
        parameter tensor, the row of the first of them ("0.weight[3]") or "full", with the float64
        variables ``fisher``, ``variance_1``, ``variance_2``, ``covariance_12`` and
        ``input_variance``, (P, P) with dimensions ``row`` and ``column``, labelled by entries of
        parameters such as ``0.weight[1,2]``.

    Raises
    ------
    UserError
        As `diagfim.analyze`; and if a block is too large for the memory.

    Examples
    --------
    >>> import torch
    >>> from diagfim import matrices
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = matrices.analyze(model, torch.rand(10, 3))
    >>> tree["0"]["fisher"].shape
    (16, 16)
    >>> tree["2"]["variance_1"].sel(row="2.weight[0,1]", column="2.bias[1]").shape
    ()
    """

    def moments(block: _Block, batch: Batch, outputs: Tensor) -> Tensor:
        found_of = network.family
        every = torch.eye(outputs.shape[1]).to(outputs).expand(len(outputs), -1, -1)
        first, second = block.first(batch.inputs, every), block.second(batch.inputs, every)
        left, right = first[:, :, block.rows], first[:, :, block.columns]
        bent = second[:, :, block.rows, block.columns]
        variance_1 = found_of.product_covariance(outputs, left, right, left, right)
        return torch.stack(
            [
                found_of.second_moment(outputs, left, right),
                # A sum of cumulants of both signs: rounding may take a zero below it.
                variance_1.clamp(min=0),
                found_of.second_moment(outputs, bent, bent),
                -found_of.third_moment(outputs, left, right, bent),
            ],
            dim=1,
        )

    values = {}
    with undisturbed(model):
        network = _Blocks(model, inputs, family, blocks, dtype, memory)
        network.plan(8 * network.outputs)
        found = network.run(moments)
    for name, sums in found.items():
        spread = np.zeros_like(sums.mean[0])
        if sums.count > 1:
            spread = sums.variance[0] * (sums.count - 1) / sums.count
        values[name] = dict(zip(QUANTITIES, (*sums.mean, spread), strict=True))
    return network.tree(values, "Exact Fisher matrix and estimator variances, per draw of y")


def estimate(
    model: nn.Module,
    inputs: Inputs,
    estimator: str = "score",
    draws: int = 1,
    seed: int = 0,
    family: str | Family = "categorical",
    *,
    blocks: str = "layer",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Estimate the Fisher matrix, whole or by blocks, from draws of y, with standard errors.

    What is drawn is what `diagfim.estimate` draws with the same seed, so that its result is the
    diagonal of this one's.

    Parameters
    ----------
    model, inputs, draws, seed, family, dtype
        As for `diagfim.estimate`.
    estimator : {"score", "hessian"}
        "score": Î1, the mean outer product of the gradient of log p at labels drawn from the model;
        positive semi-definite, of no higher rank than there are draws.  "hessian": Î2, the mean of
        minus its Hessian at such labels, which may have negative eigenvalues.
    blocks, memory
        As for `analyze`.

    Returns
    -------
    xarray.DataTree
        As of `analyze`, with ``fisher`` and ``standard_error``, entry by entry what
        `diagfim.estimate` means by it.

    Raises
    ------
    UserError
        As `analyze`; and if there is no such estimator.

    Examples
    --------
    >>> import torch
    >>> from diagfim import matrices
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = matrices.estimate(model, torch.rand(10, 3), "hessian", draws=5, blocks="full")
    >>> tree["full"]["standard_error"].shape
    (26, 26)
    """
    if estimator not in ("score", "hessian"):
        raise UserError(f"estimator: {estimator!r} is not one of score, hessian")
    draws, seed = whole("draws", draws, 1), whole("seed", seed, 0)

    def estimates(block: _Block, batch: Batch, outputs: Tensor) -> Tensor:
        streams = InputStreams(seed, batch.start, len(batch.inputs))
        drawn = network.family.draw(outputs, draws, streams)
        if estimator == "score":
            first = block.first(batch.inputs, drawn.directions)
            found = (drawn.weights[:, :, None] * first).mT @ first
        else:
            first = block.first(batch.inputs, network.family.root(outputs))
            found = first.mT @ first - block.second(batch.inputs, drawn.mean[:, None])[:, 0]
        return cast(Tensor, found[:, block.rows, block.columns])

    values = {}
    with undisturbed(model):
        network = _Blocks(model, inputs, family, blocks, dtype, memory)
        network.plan(6)
        found = network.run(estimates)
    for name, sums in found.items():
        error = np.full_like(sums.mean, np.nan)  # one input does not tell
        if sums.count > 1:
            error = np.sqrt(sums.variance / sums.count)
        values[name] = {"fisher": sums.mean, "standard_error": error}
    settings = {"estimator": estimator, "draws": draws, "seed": seed}
    return network.tree(values, f"Fisher matrix by the {estimator} estimator", **settings)


@dataclass(frozen=True)
class Derivatives:
    """All first and second derivatives of the outputs, mixed ones included, at n inputs.

    Attributes
    ----------
    names : list of str
        Entries of the parameters, such as ``0.weight[1,2]``: P of them.
    outputs : array, (n, T)
    first : array, (n, T, P)
        ∂_i h_t.
    second : array, (n, T, P, P)
        ∂²_ij h_t.
    """

    names: list[str]
    outputs: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def first_squared(self) -> np.ndarray:
        """‖∂_i h‖², what Theorem C.1 bounds Var Î1_ij by, twice: (n, P)."""
        return np.asarray((self.first**2).sum(axis=1))

    @property
    def second_squared(self) -> np.ndarray:
        """‖∂²_ij h‖², what Theorem C.1 bounds Var Î2_ij by: (n, P, P)."""
        return np.asarray((self.second**2).sum(axis=1))


def derivatives_of(
    model: nn.Module,
    inputs: Inputs,
    *,
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> Derivatives:
    """Every first and second derivative of a small network at given inputs.

    Parameters
    ----------
    model, inputs, dtype
        As for `diagfim.analyze`.
    memory : int
        Bytes that the result may take.

    Returns
    -------
    Derivatives
        In the precision that they were computed in.

    Raises
    ------
    UserError
        As `diagfim.analyze`; and if the result would be larger than the memory.

    Examples
    --------
    >>> import torch
    >>> from diagfim import matrices
    >>> found = matrices.derivatives_of(torch.nn.Linear(3, 2), torch.rand(5, 3))
    >>> found.second.shape, found.first_squared.shape, found.names[-1]
    ((5, 2, 8, 8), (5, 8), 'bias[1]')
    """
    with undisturbed(model):
        # Any numbers can be means: the outputs need not be anything in particular.
        network = _Blocks(model, inputs, "gaussian", "full", dtype, memory)
        network.plan(network.outputs)
        [block] = network.blocks
        parts: list[tuple[Tensor, ...]] = []
        held = 0
        for batch, outputs in network.batches():
            held += outputs.numel() * block.size**2 * outputs.element_size()
            if held > memory:
                raise UserError(
                    f"inputs: second derivatives by {block.size:,} parameters at more than "
                    f"{batch.start:,} of them exceed memory={memory:,} bytes; pass fewer at a "
                    "time, or a larger memory="
                )
            every = torch.eye(outputs.shape[1]).to(outputs).expand(len(outputs), -1, -1)
            parts.append(
                (outputs, block.first(batch.inputs, every), block.second(batch.inputs, every))
            )
    return Derivatives(
        block.names(), *(torch.cat(some).cpu().numpy() for some in zip(*parts, strict=True))
    )


class _Blocks:
    """A model that was found fit, its inputs, and the blocks of its parameters."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        family: str | Family,
        blocks: str,
        dtype: torch.dtype | None,
        memory: int,
    ) -> None:
        if blocks not in _CUTS:
            raise UserError(f"blocks: {blocks!r} is not one of {', '.join(_CUTS)}")
        self._data = Data(inputs)
        self._network = Network(model, self._data.example, family, "autodiff", dtype, memory)
        self.family = self._network.family
        self._engine = cast(Autodiff, self._network.engine)
        self._attributes = {"blocks": blocks}
        example = self._network.prepare(self._data.example[:1])
        self.outputs = int(self._engine.at(example).outputs.shape[1])
        wanted = {name: self._engine.values[name] for name in self._engine.wanted}
        self.blocks = [
            _Block(name, entries, self._engine) for name, entries in _CUTS[blocks](wanted).items()
        ]
        self._memory = memory
        self._size = 1
        self.count = 0

    def plan(self, planes: int) -> None:
        """Inputs at a time, when each takes so many matrices of the size of the largest block."""
        largest = max(self.blocks, key=lambda block: block.size)
        each = planes * largest.size**2 * largest.vector.element_size()
        if each > self._memory:
            raise UserError(
                f"{largest.name}: a block of {largest.size:,} parameters takes {each:,} bytes per "
                f"input, beyond memory={self._memory:,}; freeze parameters, choose smaller blocks "
                f"(of {', '.join(_CUTS)}, the last are the smallest), or pass a larger memory="
            )
        self._size = min(self._engine.batch_size, self._memory // each)

    def batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Batches on the model's device, and their outputs."""
        for batch in self._data.batches(self._network, self._size):
            with torch.no_grad():
                outputs = self._network.at(batch).outputs
            yield batch, outputs
            self.count += len(batch.inputs)

    def run(self, values: Callable[["_Block", Batch, Tensor], Tensor]) -> dict[str, Running]:
        """Moments over the inputs of values (n, ..., pairs), by block."""
        sums = {block.name: Running() for block in self.blocks}
        for batch, outputs in self.batches():
            for block in self.blocks:
                for one in values(block, batch, outputs).cpu().numpy().astype(np.float64):
                    sums[block.name].update(one)
        return sums

    def tree(
        self, values: Mapping[str, Mapping[str, np.ndarray]], title: str, **settings: object
    ) -> xr.DataTree:
        """Label the values of pairs: a node per block, as symmetric matrices."""
        nodes = {}
        for block in self.blocks:
            names = block.names()
            nodes[block.name] = xr.Dataset(
                {
                    quantity: (
                        ("row", "column"),
                        block.matrix(value),
                        arrays.description(quantity),
                    )
                    for quantity, value in values[block.name].items()
                },
                coords={"row": names, "column": names},
            )
        root = xr.Dataset(
            attrs={
                "title": title,
                "source": f"diagfim {__version__}",
                **self._attributes,
                "dtype": str(self.blocks[0].vector.dtype).removeprefix("torch."),
                "inputs": self.count,
                **settings,
            }
        )
        return xr.DataTree.from_dict({"/": root, **nodes})


class _Block:
    """Some entries of the parameters, differentiated together.

    Everything is reverse mode twice.  Inputs and directions go together in one batched pass, whose
    result is compared once with that of a pass for one of them: PyTorch's rules for batching are
    incomplete, and where they fail inputs and directions go one by one.
    """

    def __init__(self, name: str, entries: dict[str, Tensor], engine: Autodiff) -> None:
        self.name = name
        self._entries = entries
        self._engine = engine
        parts = [engine.values[one].flatten()[places] for one, places in entries.items()]
        self.vector = torch.cat(parts)
        self._sizes = [len(part) for part in parts]
        self.size = len(self.vector)
        self.rows, self.columns = torch.triu_indices(
            self.size, self.size, device=self.vector.device
        )
        self._one_by_one: dict[str, bool] = {}

    def names(self) -> list[str]:
        """Labels of the entries, such as ``0.weight[1,2]``."""
        found = []
        for name, places in self._entries.items():
            shape = self._engine.values[name].shape
            for place in places.tolist():
                index = ",".join(str(k) for k in np.unravel_index(place, shape))
                found.append(f"{name}[{index}]" if index else name)
        return found

    def matrix(self, pairs: np.ndarray) -> np.ndarray:
        """From values at the pairs (`rows`, `columns`), the symmetric matrix."""
        found = np.empty((self.size, self.size))
        rows, columns = self.rows.cpu().numpy(), self.columns.cpu().numpy()
        found[rows, columns] = found[columns, rows] = pairs
        return found

    def first(self, inputs: Tensor, directions: Tensor) -> Tensor:
        """∂h along directions (n, K, T), by every entry: (n, K, P)."""
        return self._batched("first", self._gradient, inputs, directions)

    def second(self, inputs: Tensor, directions: Tensor) -> Tensor:
        """∂²h along directions (n, K, T), by every pair of entries: (n, K, P, P)."""
        if self._engine.refusal is not None:
            raise UserError(
                f"model: PyTorch has no second derivatives of it ({self._engine.refusal}); replace "
                "that operation, or estimate by the score alone"
            )
        # As many rows of the Hessians at a time as the passes of all inputs and directions allow.
        chunk = self._engine.chunk(directions[:, :, 0].numel(), self.size)

        def hessian(one: Tensor, along: Tensor) -> Tensor:
            rows = jacrev(lambda vector: self._gradient(one, along, vector), chunk_size=chunk)
            return cast(Tensor, rows(self.vector))

        return self._batched("second", hessian, inputs, directions)

    def _along(self, vector: Tensor, one: Tensor, along: Tensor) -> Tensor:
        """Outputs at one input along a direction, as a function of the entries."""
        moved = {}
        for part, (name, places) in zip(
            vector.split(self._sizes), self._entries.items(), strict=True
        ):
            value = self._engine.values[name]
            moved[name] = value.flatten().scatter(0, places, part).reshape(value.shape)
        return (self._engine.call(moved, {}, one[None])[0] * along).sum()

    def _gradient(self, one: Tensor, along: Tensor, vector: Tensor | None = None) -> Tensor:
        at = self.vector if vector is None else vector
        return cast(Tensor, grad(self._along)(at, one, along))

    @torch.no_grad()
    def _batched(
        self,
        order: str,
        function: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        directions: Tensor,
    ) -> Tensor:
        """A function of an input and a direction for all of them."""
        if not self._one_by_one.get(order, False):
            try:
                found = vmap(vmap(function, (None, 0)))(inputs, directions)
            except RuntimeError:
                self._one_by_one[order] = True
            else:
                assert isinstance(found, Tensor)
                if order not in self._one_by_one:
                    expected = self._plainly(order, inputs[-1], directions[-1, -1])
                    limit = torch.finfo(found.dtype).eps ** 0.5 * expected.abs().max()
                    wrong = not bool(((found[-1, -1] - expected).abs() <= limit).all())
                    self._one_by_one[order] = wrong
                if not self._one_by_one[order]:
                    return found
        rows = [
            torch.stack([self._plainly(order, one, along) for along in several])
            for one, several in zip(inputs, directions, strict=True)
        ]
        return torch.stack(rows)

    @torch.enable_grad()
    def _plainly(self, order: str, one: Tensor, along: Tensor) -> Tensor:
        """Derivatives of an order by autograd alone."""
        vector = self.vector.clone().requires_grad_()
        slope = _gradient(self._along(vector, one, along), vector)
        if order == "first":
            return slope.detach()
        return torch.stack([_gradient(entry, vector).detach() for entry in slope])


def _gradient(value: Tensor, by: Tensor) -> Tensor:
    """Gradient of a scalar, to be differentiated again; zero by what it does not depend on."""
    if not value.requires_grad:
        return torch.zeros_like(by)
    [found] = torch.autograd.grad(value, by, create_graph=True, materialize_grads=True)
    return found


# ------------------------------------------------------------------------------------- blocks

Cut = dict[str, dict[str, Tensor]]
"""By block, then by parameter: which of its entries, flat, belong to the block."""


def _entire(value: Tensor) -> Tensor:
    return torch.arange(value.numel(), device=value.device)


def _full(wanted: Mapping[str, Tensor]) -> Cut:
    return {"full": {name: _entire(value) for name, value in wanted.items()}}


def _by_layer(wanted: Mapping[str, Tensor]) -> Cut:
    found: Cut = {}
    for name, value in wanted.items():
        found.setdefault(layer_of(name), {})[name] = _entire(value)
    return found


def _by_parameter(wanted: Mapping[str, Tensor]) -> Cut:
    return {name: {name: _entire(value)} for name, value in wanted.items()}


def _by_unit(wanted: Mapping[str, Tensor]) -> Cut:
    """Parameters of a module go together row by row where they have as many rows."""
    found: Cut = {}
    for layer in _by_layer(wanted).values():
        by_rows: dict[int, list[str]] = {}
        for name in layer:
            by_rows.setdefault(wanted[name].shape[0] if wanted[name].ndim else 1, []).append(name)
        for rows, names in by_rows.items():
            for unit in range(rows):
                found[f"{names[0]}[{unit}]"] = {
                    name: layer[name].reshape(rows, -1)[unit] for name in names
                }
    return found


_CUTS: dict[str, Callable[[Mapping[str, Tensor]], Cut]] = {
    "full": _full,
    "layer": _by_layer,
    "parameter": _by_parameter,
    "unit": _by_unit,
}
"""By the name of the cut, from the largest blocks to the smallest."""
