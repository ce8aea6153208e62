"""The result type of every derivative computation: outer-product factors, layer by layer.

For an affine map z = W a + b, the outputs h depend on W_ij only through z_i, so that

    ∂h_t/∂W_ij = (∂h_t/∂z_i) a_j        ∂²h_t/∂W_ij² = (∂²h_t/∂z_i²) a_j²

and the bias is one more column with a = 1.  Every conditional quantity of one sample is therefore
`left_i · a_j^p`, with p = 2 for what is quadratic in a derivative (I, Î1, Î2) and p = 4 for the
variances; a sum over samples is one matrix product, and nothing of size samples × parameters is
ever formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A NumPy array or a torch tensor: the mathematics above `derivatives` is written once for both."""


@dataclass(frozen=True)
class AffineFactors:
    """Derivatives of the outputs with respect to one affine map, as factors.

    Attributes
    ----------
    weight, bias : str or None
        Names of the two parameter tensors; None where the map has no bias.
    inputs : array, (n, fan_in) or (n, fan_in + 1)
        Inputs a of the map, followed by a column of ones when it has a bias.
    first : array, (n, T, units)
        ∂h_t/∂z_i.
    second : array, (n, T, units)
        ∂²h_t/∂z_i².
    """

    weight: str
    bias: str | None
    inputs: Array
    first: Array
    second: Array

    @property
    def fan_in(self) -> int:
        """Number of columns of the weight."""
        return int(self.inputs.shape[1]) - (self.bias is not None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameter tensors of this map."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

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
        return self.split(left[:, :, None] * self.powers(power)[:, None, :])

    def total(self, left: Array, power: int) -> Array:
        """Sum of `expand` over the samples, as one matrix product, before `split`.

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

    def split(self, full: Array) -> dict[str, Array]:
        """Cut (..., units, fan_in + 1) into the weight (..., units, fan_in) and the bias."""
        if self.bias is None:
            return {self.weight: full}
        return {self.weight: full[..., :-1], self.bias: full[..., -1]}


@dataclass(frozen=True)
class Derivatives:
    """Outputs and factored derivatives of a batch.

    Attributes
    ----------
    outputs : array, (n, T)
        Network outputs h, the natural parameters of the family.
    layers : tuple of AffineFactors
        One entry per affine map, from the input to the output.
    """

    outputs: Array
    layers: tuple[AffineFactors, ...]

    def split(self) -> Iterator["Derivatives"]:
        """One `Derivatives` with n = 1 per input."""
        for k in range(self.outputs.shape[0]):
            row = slice(k, k + 1)
            yield Derivatives(
                self.outputs[row],
                tuple(
                    AffineFactors(
                        one.weight, one.bias, one.inputs[row], one.first[row], one.second[row]
                    )
                    for one in self.layers
                ),
            )
