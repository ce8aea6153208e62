"""What every derivative computation returns: outer-product factors, one parameter block at a time.

For an affine map z = W a + b, the outputs h depend on W_ij only through z_i, so that

    ∂h_t/∂W_ij = (∂h_t/∂z_i) a_j        ∂²h_t/∂W_ij² = (∂²h_t/∂z_i²) a_j²

and the bias is one more column with a = 1.  Every conditional quantity of one sample is therefore
`left_i · a_j^p`, with p = 2 for what is quadratic in a derivative (I, Î1, Î2) and p = 4 for the
variances; a sum over samples is one matrix product, and nothing of size samples × parameters is
ever formed.

A parameter that enters otherwise has no such factors.  Its entries, or as many of them at a time as
memory allows, then stand in the place of the units, with ones in the place of the inputs, so that
all that is computed from factors is written once.  How values by unit and column become parameter
tensors again is their layout: `Columns` or `Entries`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from array_api_compat import array_namespace

Array = Any
"""A NumPy array or a torch tensor: the mathematics above `derivatives` is written once for both."""


@dataclass(frozen=True)
class Columns:
    """Layout of an affine map: the bias, where there is one, is one more column of the weight.

    Attributes
    ----------
    weight, bias : str or None
        Names of the two parameter tensors; None where the map has no bias.
    """

    weight: str
    bias: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameter tensors."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def split(self, full: Array) -> dict[str, Array]:
        """Cut (..., units, columns) into the weight and, where there is one, the bias (..., units).

        Parameters
        ----------
        full : array
            The bias is its last column.
        """
        if self.bias is None:
            return {self.weight: full}
        return {self.weight: full[..., :-1], self.bias: full[..., -1]}


@dataclass(frozen=True)
class Entries:
    """Layout of parameter tensors whose entries, one after the other, stand for the units.

    Attributes
    ----------
    shapes : tuple of (str, tuple of int)
        Name and shape of every tensor, in the order of their entries.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameter tensors."""
        return tuple(name for name, _ in self.shapes)

    def split(self, full: Array) -> dict[str, Array]:
        """Cut (..., units, 1) into the tensors, each ``(..., *shape)``."""
        found: dict[str, Array] = {}
        start = 0
        for name, shape in self.shapes:
            stop = start + prod(shape)
            part = full[..., start:stop, 0]
            found[name] = part.reshape((*part.shape[:-1], *shape))
            start = stop
        return found


Layout = Columns | Entries


@dataclass(frozen=True)
class AffineFactors:
    """Derivatives along K directions with respect to one affine map, as factors.

    Attributes
    ----------
    weight, bias : str or None
        Names of the two parameter tensors; None where the map has no bias.
    inputs : array, (n, fan_in) or (n, fan_in + 1)
        Inputs a of the map, followed by a column of ones when it has a bias.
    first : array, (n, K, units)
        Σ_t c_t ∂h_t/∂z_i for each of the directions c; ∂h_t/∂z_i itself when they are the outputs.
    second : array, (n, K, units), or None
        Σ_t c_t ∂²h_t/∂z_i²; None where it was not asked for or is zero for all inputs.
    start : int
        Position of the first unit, where the block holds a part of the parameter.
    entries : Entries or None
        Where the block holds whole tensors entry by entry, which ones; ``weight`` then names what
        they belong to.
    """

    weight: str
    bias: str | None
    inputs: Array
    first: Array
    second: Array
    start: int = 0
    entries: Entries | None = None

    @property
    def fan_in(self) -> int:
        """Number of columns of the weight."""
        return int(self.inputs.shape[1]) - (self.bias is not None)

    @property
    def layout(self) -> Layout:
        """How values by unit and column become parameter tensors."""
        return self.entries or Columns(self.weight, self.bias)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameter tensors of this map."""
        return self.layout.parameters

    def powers(self, power: int) -> Array:
        """Inputs to an even power, by squaring: a general power is tens of times slower."""
        xp = array_namespace(self.inputs)
        square = self.inputs * self.inputs
        result = xp.ones_like(square) if power == 0 else square
        for _ in range(power // 2 - 1):
            result = result * square
        return result

    def expand(self, left: Array, power: int) -> dict[str, Array]:
        """Per-sample values of every parameter from a left factor.

        Parameters
        ----------
        left : array, (n, units); or (k, units) when n is 1
            Left factor of the quantity, per sample and unit.
        power : int
            Power of the inputs that it carries: 2 for I and the estimates, 4 for variances, 0 for
            what does not depend on the fan-in.

        Returns
        -------
        dict of str to array
            ``{weight: (n, units, fan_in), bias: (n, units)}``, k in the place of n.
        """
        return self.layout.split(left[:, :, None] * self.powers(power)[:, None, :])

    def total(self, left: Array, power: int) -> Array:
        """Sum of `expand` over the samples, as one matrix product, before `Layout.split`.

        Parameters
        ----------
        left : array, (..., n, units)
        power : int

        Returns
        -------
        array, (..., units, fan_in + 1)
            The last column is the bias's; there are fan_in columns without one.
        """
        xp = array_namespace(left)
        return xp.matmul(xp.matrix_transpose(left), self.powers(power))

    def average(self, left: Array, power: int) -> Array:
        """Arithmetic mean over all parameters of the map: (..., n, units) to (..., n)."""
        xp = array_namespace(left)
        return xp.mean(left, axis=-1) * xp.mean(self.powers(power), axis=1)


def split_each(layout: Layout, quantities: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Cut several quantities of one layout: by parameter name, then by quantity."""
    found: dict[str, dict[str, Array]] = {name: {} for name in layout.parameters}
    for quantity, full in quantities.items():
        for name, values in layout.split(full).items():
            found[name][quantity] = values
    return found


class Linearised(Protocol):
    """A network at a batch of inputs: its outputs, and their derivatives on demand."""

    outputs: Array

    def pull(self, first: Array, second: Array | None) -> Iterator[AffineFactors]:
        """Derivatives along given directions in the space of the outputs, block by block.

        Parameters
        ----------
        first : array, (n, K, T)
            Directions c of the first derivatives, sample by sample: Σ_t c_t ∂h_t.
        second : array, (n, K', T), or None
            Directions of the second derivatives, Σ_t c_t ∂²h_t; None when they are not needed.

        Yields
        ------
        AffineFactors
            Every entry of every parameter in one block; the blocks are the same for every batch.
        """
        ...


@dataclass(frozen=True)
class Derivatives:
    """Outputs and factored derivatives of a batch, kept; a `Linearised` of what is in memory.

    Attributes
    ----------
    outputs : array, (n, T)
        Network outputs h, the natural parameters of the family.
    layers : tuple of AffineFactors
        One entry per affine map, from the input to the output.
    """

    outputs: Array
    layers: tuple[AffineFactors, ...]

    def pull(self, first: Array, second: Array | None) -> Iterator[AffineFactors]:
        """Contract the derivatives with directions; see `Linearised.pull`."""
        xp = array_namespace(self.outputs)
        for layer in self.layers:
            yield replace(
                layer,
                first=xp.matmul(first, layer.first),
                second=None if second is None else xp.matmul(second, layer.second),
            )

    def split(self) -> Iterator["Derivatives"]:
        """One `Derivatives` with n = 1 per input."""
        for k in range(self.outputs.shape[0]):
            row = slice(k, k + 1)
            yield Derivatives(
                self.outputs[row],
                tuple(
                    replace(
                        one, inputs=one.inputs[row], first=one.first[row], second=one.second[row]
                    )
                    for one in self.layers
                ),
            )
