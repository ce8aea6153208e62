"""The bounds of the paper on I, V1 and V2 at one input, theorem by theorem.

Every bound is a product of a squared norm of derivatives, which depends on the parameter, and an
eigenvalue of the moments of t(y), which depends on the input alone.
"""

from typing import TypeVar

import numpy as np
import xarray as xr

from diagfim.derivatives.factored import Derivatives
from diagfim.moments import Labelled


def squared_norms(derivatives: Derivatives) -> tuple[Labelled, Labelled]:
    """‖∂_i h‖² and ‖∂²_i h‖² of every parameter at every input.

    Parameters
    ----------
    derivatives : Derivatives
        Of n inputs, as NumPy arrays.

    Returns
    -------
    parameters : dict of str to dict of str to array
        ``first_squared`` and ``second_squared``, each (n, *shape of the parameter tensor).
    layers : dict of str to dict of str to array
        By weight name, (n,) means over the layer's parameters: of ``first_squared``, of its square
        ``first_fourth``, and of ``second_squared``.
    """
    parameters: Labelled = {}
    layers: Labelled = {}
    for layer in derivatives.layers:
        first = np.sum(layer.first**2, axis=1)
        second = np.sum(layer.second**2, axis=1)
        for quantity, left, power in (("first_squared", first, 2), ("second_squared", second, 4)):
            for name, value in layer.expand(left, power).items():
                parameters.setdefault(name, {})[quantity] = value
        layers[layer.weight] = {
            "first_squared": layer.average(first, 2),
            "first_fourth": layer.average(first**2, 4),
            "second_squared": layer.average(second, 4),
        }
    return parameters, layers


ArrayLike = TypeVar("ArrayLike", np.ndarray, xr.DataArray)


def theorem_4_1(
    first_squared: ArrayLike,
    second_squared: ArrayLike,
    fisher_eigenvalue: ArrayLike,
    tensor_eigenvalue: ArrayLike,
) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    """Bounds on I, V1 and V2 per draw of y (Theorem 4.1, Eqs. 7–9).

    With the largest eigenvalues these are upper bounds, with the smallest ones lower bounds.

    Parameters
    ----------
    first_squared, second_squared : array or DataArray
        ‖∂_i h‖² and ‖∂²_i h‖².
    fisher_eigenvalue : array
        λ(I(h|x)), broadcast against the norms.
    tensor_eigenvalue : array
        λ̃(M), likewise.

    Returns
    -------
    fisher, variance_1, variance_2 : array
    """
    return (
        first_squared * fisher_eigenvalue,
        first_squared**2 * tensor_eigenvalue,
        second_squared * fisher_eigenvalue,
    )


def theorem_5_2(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper bounds on λmax(I) and λ̃max(M) of a categorical distribution (Theorem 5.2).

    λmax(I) ≤ m and λ̃max(M) ≤ 2m with m = min(max_k σ_k, 1 − ‖σ‖²).  The corresponding lower bounds
    are 0, and both are attained at u = 1/√C.

    Parameters
    ----------
    probabilities : array, (n, C)
        σ.

    Returns
    -------
    fisher_bound, tensor_bound : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_5_2
    >>> [float(bound[0]) for bound in theorem_5_2(np.full((1, 10), 0.1))]
    [0.1, 0.2]
    """
    # 1 − ‖σ‖² loses all digits near a one-hot σ; Σ_c σ_c (1 − σ_c) with 1 − σ_c summed does not.
    complement = _sum_of_others(probabilities)
    gini = np.sum(probabilities * complement, axis=1)
    m = np.minimum(probabilities.max(axis=1), gini)
    return m, 2 * m


def fisher_lambda_max(probabilities: np.ndarray) -> np.ndarray:
    """Largest eigenvalue of I(h|x) = Diag(σ) − σσᵀ: (n, C) to (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import fisher_lambda_max
    >>> round(float(fisher_lambda_max(np.full((1, 10), 0.1))[0]), 12)
    0.1
    """
    fisher = -probabilities[:, :, None] * probabilities[:, None, :]
    index = np.arange(probabilities.shape[1])
    fisher[:, index, index] = probabilities * _sum_of_others(probabilities)
    return np.linalg.eigvalsh(fisher)[:, -1]


def tensor_lambda_max(
    probabilities: np.ndarray, rtol: float = 1e-13, max_iterations: int = 10_000
) -> np.ndarray:
    """λ̃max(M) = max over unit u of Var_y((uᵀ(t − η))²), of a categorical distribution (Eq. 10).

    Parameters
    ----------
    probabilities : array, (n, C)
        σ.
    rtol : float
        Relative increase below which an ascent has ended.
    max_iterations : int
        Limit on the steps of an ascent.

    Returns
    -------
    array, (n,)
        The largest local maximum found; always a value that some unit u attains, so never above the
        true eigenvalue.

    Notes
    -----
    The objective is a quartic form f on the sphere.  From each of the C + C(C−1)/2 starts e_a and
    (e_a − e_b)/√2, a projected Newton step is taken where it increases f, and otherwise a shifted
    power step u ← ∇f + αu, with α large enough that f cannot decrease (Kolda & Mayo 2014).

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import tensor_lambda_max
    >>> round(float(tensor_lambda_max(np.full((1, 10), 0.1))[0]), 4)
    0.0711
    """
    return np.array([_ascend(sigma, rtol, max_iterations) for sigma in probabilities])


def _ascend(sigma: np.ndarray, rtol: float, max_iterations: int) -> float:
    u = _starts(sigma.size)
    value = _quartic(sigma, u)
    active = np.arange(len(u))
    for _ in range(max_iterations):
        at = u[active]
        gradient, hessian = _quartic_derivatives(sigma, at)
        # f has degree 4, so α ≥ −λmin(∇²f)/3 makes the shifted power step an ascent step.
        shift = np.maximum(0.0, -np.linalg.eigvalsh(hessian)[:, 0]) / 3 + 1e-3 * value[active]
        candidates = np.stack(
            [_unit(gradient + shift[:, None] * at), _newton(at, gradient, hessian)]
        )
        values = np.stack([_quartic(sigma, candidate) for candidate in candidates])
        best = np.argmax(values, axis=0)
        chosen = np.take_along_axis(candidates, best[None, :, None], axis=0)[0]
        reached = np.max(values, axis=0)
        rising = reached > value[active]
        u[active[rising]] = chosen[rising]
        before = value[active]
        value[active] = np.maximum(before, reached)
        active = active[reached > before * (1 + rtol)]
        if active.size == 0:
            break
    return float(value.max())


def _starts(classes: int) -> np.ndarray:
    eye = np.eye(classes)
    first, second = np.triu_indices(classes, k=1)
    return np.concatenate([eye, (eye[first] - eye[second]) / np.sqrt(2)])


def _quartic(sigma: np.ndarray, u: np.ndarray) -> np.ndarray:
    """f(u) = Var_y((u_y − ū)²), centred: (starts, C) to (starts,)."""
    squares = (u - u @ sigma[:, None]) ** 2
    return np.asarray((squares - squares @ sigma[:, None]) ** 2 @ sigma)


def _quartic_derivatives(sigma: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (starts, C) and Hessian (starts, C, C) of `_quartic`.

    With d = u − ū, q = E d² and r = E d³: ∇f = 4 σ (d³ − r − q d).
    """
    d = u - u @ sigma[:, None]
    q = (d**2) @ sigma
    r = (d**3) @ sigma
    gradient = 4 * sigma * (d**3 - r[:, None] - q[:, None] * d)
    # Derivatives of d, q and r by u_b: δ_ab − σ_b, 2 σ_b d_b and 3 σ_b (d_b² − q).
    centring = np.eye(sigma.size) - sigma[None, :]
    hessian = (3 * d**2 - q[:, None])[:, :, None] * centring
    hessian -= 2 * d[:, :, None] * (sigma * d)[:, None, :]
    hessian -= (3 * sigma * (d**2 - q[:, None]))[:, None, :]
    return gradient, 4 * sigma[:, None] * hessian


def _newton(u: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """One Newton step for the stationarity of f on the sphere, ∇f = μu, ‖u‖ = 1."""
    starts, classes = u.shape
    mu = np.sum(gradient * u, axis=1)
    system = np.zeros((starts, classes + 1, classes + 1))
    system[:, :classes, :classes] = hessian - mu[:, None, None] * np.eye(classes)
    system[:, :classes, classes] = system[:, classes, :classes] = -u
    right = np.zeros((starts, classes + 1))
    right[:, :classes] = mu[:, None] * u - gradient
    step = np.matmul(np.linalg.pinv(system, hermitian=True), right[:, :, None])[:, :classes, 0]
    return _unit(u + step)


def _unit(u: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(u, axis=1, keepdims=True)
    return np.asarray(np.divide(u, norm, out=np.zeros_like(u), where=norm > 0))


def _sum_of_others(probabilities: np.ndarray) -> np.ndarray:
    """1 − σ_c as the sum of the other probabilities: exact to rounding when σ_c is near one."""
    classes = probabilities.shape[1]
    return probabilities @ (1 - np.eye(classes))
