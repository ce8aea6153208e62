"""Extreme eigenvalues of the moments of t(y) (Eq. 10), each with a certificate.

A certificate is a unit vector that attains a value, and a proof that no other one does better by
more than a stated gap.  The vector comes from an ascent; the proof, whatever the ascent found, is a
branch and bound on Lagrangian relaxations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diagfim.errors import UserError


@dataclass(frozen=True)
class Certified:
    """An extremum over unit vectors that lies between two numbers, for each of n inputs.

    Attributes
    ----------
    lower, upper : array, (n,)
        Of a maximum, a value that is attained and a proven bound; of a minimum, the other way
        round.
    direction : array, (n, T); (n, 2, T) where there are two vectors
        The unit vector that attains.
    """

    lower: np.ndarray
    upper: np.ndarray
    direction: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Relative gap upper / lower − 1, and 0 where the two are equal: (n,)."""
        excess = self.upper - self.lower
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(excess > 0, excess / self.lower, 0.0))


def fisher_eigenvalues(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """λmin and λmax of I(h|x): (n, T, T) to (n,) twice.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.families import Categorical
    >>> from diagfim.spectra import fisher_eigenvalues
    >>> _, largest = fisher_eigenvalues(Categorical().covariance(np.zeros((1, 10))))
    >>> round(float(largest[0]), 12)
    0.1
    """
    eigenvalues = np.linalg.eigvalsh(covariance)
    return eigenvalues[:, 0], eigenvalues[:, -1]


def sum_of_others(probabilities: np.ndarray) -> np.ndarray:
    """1 − σ_c as the sum of the other probabilities, exact to rounding near one: (n, C) to (n, C).

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.spectra import sum_of_others
    >>> sum_of_others(np.array([[1.0, 1e-30]])).tolist()
    [[1e-30, 1.0]]
    """
    return probabilities @ (1 - np.eye(probabilities.shape[1]))


def gamma_max(tensor: np.ndarray, iterations: int = 100) -> Certified:
    """γ̃max(M) = sup over unit u and v of u_a v_b u_c v_d M_abcd (Theorem C.1).

    From below by alternating maximisation over u and v, each an eigenvalue problem; from above by
    the largest eigenvalue of M as a matrix of the pairs (a, b), of which u ⊗ v is one argument.

    Parameters
    ----------
    tensor : array, (n, T, T, T, T)
        M, symmetric in the exchange of its two pairs.
    iterations : int
        Number of alternations.

    Returns
    -------
    Certified
        Its direction holds u and v: (n, 2, T).
    """
    n, size = tensor.shape[:2]
    eigenvalues, vectors = np.linalg.eigh(tensor.reshape(n, size**2, size**2))
    # Rank-one parts of the leading eigenvectors, and what a generator of no account adds.
    leading = np.moveaxis(vectors[:, :, -3:], 2, 1).reshape(n, -1, size, size)
    parts = np.linalg.svd(leading)[2].reshape(n, -1, size)
    others = np.random.default_rng(0).normal(size=(30, size))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    starts = np.concatenate([parts, np.broadcast_to(others, (n, *others.shape))], axis=1)
    of_u = tensor.transpose(0, 2, 4, 1, 3).reshape(n, size**2, size**2)
    of_v = of_u.transpose(0, 2, 1)
    u, v = starts, starts
    for _ in range(iterations):
        u = np.linalg.eigh(_contracted(of_u, v))[1][..., -1]
        v = np.linalg.eigh(_contracted(of_v, u))[1][..., -1]
    values = np.sum(u[..., None, :] * _contracted(of_u, v) * u[..., None], axis=(2, 3))
    rows, best = np.arange(n), values.argmax(axis=1)
    direction = np.stack([u[rows, best], v[rows, best]], axis=1)
    return Certified(values[rows, best], np.maximum(eigenvalues[:, -1], values.max(1)), direction)


def _contracted(matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """v_b v_d M_bd,ac, for v of shape (n, S, T): (n, S, T, T)."""
    n, starts, size = v.shape
    pairs = (v[..., :, None] * v[..., None, :]).reshape(n, starts, size**2)
    return np.asarray((pairs @ matrix).reshape(n, starts, size, size))


# ----------------------------------------------------------------------------------- categorical


def categorical_tensor_eigenvalues(
    probabilities: np.ndarray, tensor: str = "M", rtol: float = 1e-2, nodes: int = 20_000
) -> tuple[Certified, Certified]:
    """λ̃min and λ̃max of M or K of a categorical distribution.

    Parameters
    ----------
    probabilities : array, (n, C)
        σ.
    tensor : {"M", "K"}
        M = K − I⊗I, whose form is Var_y(d_y²) with d = u − σᵀu, or K, whose form is E_y d_y⁴.
    rtol : float
        Relative gap at which the maximum counts as proven.
    nodes : int
        Limit on the nodes of the branch and bound at each input, beyond which its gap stays as wide
        as it then is.

    Returns
    -------
    least, largest : Certified
        The least is 0, at u = 1/√C.

    Notes
    -----
    *From below.*  Both forms are convex in X = uuᵀ, so that maximising their linearisation, an
    eigenvalue problem, increases them: an ascent from the likeliest labels and their differences.

    *From above.*  A maximiser has Σ u = 0, hence with m = σᵀu and d = u − m: Σ σ_c d_c = 0,
    Σ d_c = −C m and Σ d_c² = 1 + C m².  As Var(d²) ≤ Σ_c σ_c (d_c² − p)² for every p, multipliers
    λ, ν and κ of the three give, wherever m and the d_c are confined to intervals,

        f ≤ Σ_c max_d [σ_c (d² − p)² − λ d² − (ν σ_c + κ) d] + λ + max_m (λ C m² − κ C m),

    each maximum over a single number in closed form.  The bound is convex in (λ, ν, p, κ); the
    ellipsoid method with deep cuts finds multipliers that bring it below the target, or else the
    node is split in two: at m, or at the d_c that costs most.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.spectra import categorical_tensor_eigenvalues
    >>> _, largest = categorical_tensor_eigenvalues(np.full((1, 10), 0.1))
    >>> round(float(largest.lower[0]), 4), bool(largest.gap[0] <= 0.01)
    (0.0711, True)
    """
    _check_tensor(tensor)
    n, classes = probabilities.shape
    even = np.full((n, classes), classes**-0.5)
    least = Certified(np.zeros(n), np.zeros(n), even)
    centred = tensor == "M"
    u = _ascend(probabilities, centred)
    value = _form(probabilities, u, centred)
    if classes <= 2:  # no sum is 0 but that of one direction
        return least, Certified(value, value * (1 + 1e-14), u)
    upper = _Prover(probabilities, u, value, centred).bound(rtol, nodes)
    return least, Certified(value, upper, u)


def _check_tensor(tensor: str) -> None:
    if tensor not in ("M", "K"):
        raise UserError(f"tensor: {tensor!r} is neither 'M' nor 'K'")


def _form(sigma: np.ndarray, u: np.ndarray, centred: bool) -> np.ndarray:
    """Var_y(d_y²), or E_y d_y⁴: (..., C) to (...)."""
    squares = (u - np.sum(sigma * u, axis=-1, keepdims=True)) ** 2
    if centred:
        squares = squares - np.sum(sigma * squares, axis=-1, keepdims=True)
    return np.asarray(np.sum(sigma * squares**2, axis=-1))


def _ascend(sigma: np.ndarray, centred: bool) -> np.ndarray:
    """The best direction found from several starts: (n, C) to (n, C)."""
    n, classes = sigma.shape
    likeliest = np.argsort(-sigma, axis=1)[:, :5]
    labels = np.eye(classes)[likeliest]
    k = labels.shape[1]
    starts = [labels[:, a] - 1 / classes for a in range(k)]
    starts += [labels[:, a] - labels[:, b] for a in range(min(k, 3)) for b in range(a + 1, k)]
    u = np.stack(starts, axis=1)
    u /= np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), np.finfo(float).tiny)
    # A race: many starts, few steps; then fewer starts, more steps.
    for kept, steps in ((4, 2), (2, 8), (1, 20)):
        each = np.broadcast_to(sigma[:, None], (n, min(kept, u.shape[1]), classes))
        best = np.argsort(-_form(sigma[:, None], u, centred), axis=1)[:, :kept]
        u = np.take_along_axis(u, best[:, :, None], axis=1)
        for _ in range(steps):
            u = _step(each, u, centred)
    u = u[:, 0]
    value = _form(sigma, u, centred)
    for _ in range(4):  # Newton's method doubles the digits that linear convergence left
        candidate = _newton(sigma, u, centred)
        reached = _form(sigma, candidate, centred)
        better = reached > value
        u, value = np.where(better[:, None], candidate, u), np.where(better, reached, value)
    return np.asarray(u)


def _step(sigma: np.ndarray, u: np.ndarray, centred: bool) -> np.ndarray:
    """Leading eigenvector of Σ_c b_c g_c g_cᵀ, g_c = e_c − σ and b the gradient by the d_c²."""
    squares = (u - np.sum(sigma * u, axis=-1, keepdims=True)) ** 2
    if centred:
        squares = squares - np.sum(sigma * squares, axis=-1, keepdims=True)
    b = sigma * squares
    cross = b[..., :, None] * sigma[..., None, :]
    total = np.sum(b, axis=-1)[..., None, None]
    matrix = total * sigma[..., :, None] * sigma[..., None, :] - cross - np.swapaxes(cross, -1, -2)
    index = np.arange(sigma.shape[-1])
    matrix[..., index, index] += b
    return np.asarray(np.linalg.eigh(matrix)[1][..., -1])


def _newton(sigma: np.ndarray, u: np.ndarray, centred: bool) -> np.ndarray:
    """One Newton step for the stationarity of the form on the sphere, ∇f = μu, ‖u‖ = 1.

    With q = E d² (0 for K) and r = E d³: ∇f = 4 σ (d³ − r − q d).
    """
    n, classes = sigma.shape
    d = u - np.sum(sigma * u, axis=1, keepdims=True)
    q = np.sum(sigma * d**2, axis=1, keepdims=True)
    r = np.sum(sigma * d**3, axis=1, keepdims=True)
    held = q if centred else np.zeros_like(q)
    gradient = 4 * sigma * (d**3 - r - held * d)
    # Derivatives of d, q and r by u_b: δ_ab − σ_b, 2 σ_b d_b and 3 σ_b (d_b² − q).
    hessian = (3 * d**2 - held)[:, :, None] * (np.eye(classes) - sigma[:, None, :])
    if centred:
        hessian -= 2 * d[:, :, None] * (sigma * d)[:, None, :]
    hessian -= (3 * sigma * (d**2 - q))[:, None, :]
    hessian *= 4 * sigma[:, :, None]
    mu = np.sum(gradient * u, axis=1, keepdims=True)
    system = np.zeros((n, classes + 1, classes + 1))
    system[:, :classes, :classes] = hessian - mu[:, :, None] * np.eye(classes)
    system[:, :classes, classes] = system[:, classes, :classes] = -u
    right = np.zeros((n, classes + 1))
    right[:, :classes] = mu * u - gradient
    moved = u + np.matmul(np.linalg.pinv(system), right[:, :, None])[:, :classes, 0]
    norm = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(np.divide(moved, norm, out=u.copy(), where=norm > 0))


@dataclass(frozen=True)
class _Nodes:
    """Nodes of the branch and bound: an input, an interval of m, and one of every d_c.

    The multipliers are in units of the input's scale; see `_Prover`.
    """

    of: np.ndarray
    m: np.ndarray
    d: np.ndarray
    multipliers: np.ndarray

    def take(self, which: np.ndarray | slice) -> "_Nodes":
        return _Nodes(self.of[which], self.m[which], self.d[which], self.multipliers[which])

    def join(self, other: "_Nodes") -> "_Nodes":
        mine, theirs = vars(self).values(), vars(other).values()
        return _Nodes(*(np.concatenate(pair) for pair in zip(mine, theirs, strict=True)))


_CUTS = 30
"""Steps of the ellipsoid method at a node: beyond it, splitting the node pays more."""

_AT_ONCE = 20_000
"""Nodes bounded together: what fits a cache."""

_RADII = np.array([3.0, 4.0, 2.0, 8.0])
"""Semi-axes of the first ellipsoid about (λ, ν, p, κ), in units of the scale of the input."""

_LEAST = 1e-40
"""Below this value of the form nothing is proven by the relaxations."""

_ROUNDING = 1e-12
"""Slack of every interval, and of the bound in units of the sum of its terms."""


class _Prover:
    """Branch and bound on max_u f(u), for n inputs side by side."""

    def __init__(self, sigma: np.ndarray, u: np.ndarray, value: np.ndarray, centred: bool) -> None:
        self.sigma, self.centred = sigma, centred
        self.value = value.copy()
        n, classes = sigma.shape
        spread = sigma - 1 / classes
        self.reach = np.linalg.norm(spread, axis=1)  # |m| is at most this
        square = np.sum(spread**2, axis=1, keepdims=True)
        self._towards = np.divide(spread, square, out=np.zeros_like(spread), where=square > 0)
        within = 1 - 1 / classes - spread * self._towards
        self._radius = np.sqrt(np.maximum(within, 0) + 1e-14)  # it is known to 1e-15
        mean = np.sum(sigma * u, axis=1, keepdims=True)
        d = u - mean
        cube = np.sum(sigma * d**3, axis=1)
        # Of a quantity that is lost in rounding nothing can be proven relative to itself.
        variances = sigma * sum_of_others(sigma)
        coarse = np.max(variances, axis=1)
        # B λmax(I) ≤ 2 (1 − ‖σ‖²) bounds λ̃max(K), and so that of M (Proposition 4.3, Theorem 5.2).
        self._loose = 2 * np.sum(variances, axis=1)
        self.scale = np.maximum(value, 1e-10 * coarse) + np.finfo(float).tiny
        self.p = np.sum(sigma * d**2, axis=1) if centred else np.zeros(n)
        self.nu = 4 * cube / self.scale * np.sign(mean[:, 0])

    def bound(self, rtol: float, nodes: int) -> np.ndarray:
        """Upper bounds on the maxima, proven to `rtol` unless the nodes run out: (n,)."""
        n, classes = self.sigma.shape
        proven = self.value.copy()
        spent = np.zeros(n)
        # Where a label is all but certain, numbers underflow: the bound of the paper must do.
        vast = self.value < _LEAST
        proven[vast] = np.maximum(self._loose, self.value * (1 + _ROUNDING))[vast]
        cells = np.where(self.reach > _ROUNDING, 12, 1) * ~vast
        of = np.repeat(np.arange(n), cells)
        cell = np.arange(len(of)) - np.repeat(np.cumsum(cells) - cells, cells)
        width = self.reach[of] / cells[of] * (1 + _ROUNDING)
        everything = np.array([-np.inf, np.inf])[:, None]
        open_ = _Nodes(
            of,
            np.stack([cell * width, (cell + 1) * width], axis=1),
            np.broadcast_to(everything, (len(of), 2, classes)).copy(),
            np.zeros((len(of), 4)),
        )
        while len(open_.of):
            parts = range(0, len(open_.of), _AT_ONCE)
            found = [self._examine(open_.take(slice(k, k + _AT_ONCE)), rtol) for k in parts]
            examined, bounds, closed = found[0]
            for more, *others in found[1:]:
                examined = examined.join(more)
                bounds, closed = (
                    np.concatenate(pair) for pair in zip((bounds, closed), others, strict=True)
                )
            spent += np.bincount(examined.of, minlength=n)
            done = closed | (spent > nodes)[examined.of]
            np.maximum.at(proven, examined.of[done], bounds[done])
            open_ = self._split(examined.take(~done))
        return proven

    # -------------------------------------------------------------------------------- intervals

    def _intervals(self, nodes: _Nodes) -> np.ndarray:
        """Intervals of every d_c that u of norm 1 and sum 0 with σᵀu = m allows: (nodes, 2, C)."""
        sigma = self.sigma[nodes.of]
        slope = self._towards[nodes.of] - 1
        radius, reach = self._radius[nodes.of], self.reach[nodes.of][:, None]
        classes = sigma.shape[1]
        m0, m1 = nodes.m[:, :1], nodes.m[:, 1:]
        tiny = np.finfo(float).tiny

        def largest(slope: np.ndarray) -> np.ndarray:
            # Of slope · m + radius √(1 − m²/reach²), concave in m.
            top = reach**2 * slope / np.sqrt(np.maximum(radius**2 + (slope * reach) ** 2, tiny))
            m = np.clip(top, m0, m1)
            cosine = np.sqrt(np.maximum(1 - (m / np.maximum(reach, tiny)) ** 2, 0))
            return np.asarray(slope * m + radius * cosine)

        low = np.maximum(nodes.d[:, 0], -largest(-slope) - _ROUNDING)
        high = np.minimum(nodes.d[:, 1], largest(slope) + _ROUNDING)
        for _ in range(2):
            # Σ u² = 1
            below, above = low + m0, high + m1
            least = np.where((below < 0) & (above > 0), 0, np.minimum(below**2, above**2))
            rest = np.sqrt(np.maximum(1 - (least.sum(1, keepdims=True) - least), 0)) + _ROUNDING
            low, high = np.maximum(low, -rest - m1), np.minimum(high, rest - m0)
            # Σ σ d = 0
            down, up = sigma * low, sigma * high
            heavy = np.maximum(sigma, 1e-9)  # a lighter label is not held by it
            most = (down - down.sum(1, keepdims=True) + _ROUNDING) / heavy
            fewest = (up - up.sum(1, keepdims=True) - _ROUNDING) / heavy
            low = np.where(sigma == heavy, np.maximum(low, fewest), low)
            high = np.where(sigma == heavy, np.minimum(high, most), high)
            # Σ d = −C m
            others = low.sum(1, keepdims=True) - low, high.sum(1, keepdims=True) - high
            high = np.minimum(high, -classes * m0 - others[0] + _ROUNDING)
            low = np.maximum(low, -classes * m1 - others[1] - _ROUNDING)
        return np.stack([low, high], axis=1)

    # ----------------------------------------------------------------------------------- bounds

    def _relaxed(
        self, nodes: _Nodes, multipliers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Lagrangian bound in units of the scale, its gradient, and the d that attain it."""
        sigma, scale = self.sigma[nodes.of], self.scale[nodes.of]
        classes = sigma.shape[1]
        lam, nu, kappa = (scale * multipliers[:, k] for k in (0, 1, 3))
        root = np.sqrt(scale)
        p = self.p[nodes.of] + root * multipliers[:, 2]
        low, high = nodes.d[:, 0], nodes.d[:, 1]
        # σ(d² − p)² − λd² − τd has one local maximum inside, if any: the middle root of a cubic.
        slope = 2 * p[:, None] * sigma + lam[:, None]
        tau = nu[:, None] * sigma + kappa[:, None]
        quartic = np.maximum(sigma, 1e-9 * np.abs(slope) + 1e-300)
        k = 2 * np.sqrt(np.maximum(slope, 1e-300) / (6 * quartic))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            sine = np.clip(-tau / (quartic * k**3), -1, 1)
            middle = np.where(slope > 0, k * np.sin(np.arcsin(sine) / 3), 0)
        points = np.stack([low, high, np.clip(np.nan_to_num(middle), low, high)])
        values = sigma * (points**2 - p[:, None]) ** 2 - lam[:, None] * points**2 - tau * points
        which = values.argmax(axis=0)[None]
        d = np.take_along_axis(points, which, axis=0)[0]
        value = np.take_along_axis(values, which, axis=0)[0]
        # λ C m² − κ C m: at an end if convex, else perhaps between.
        with np.errstate(divide="ignore", invalid="ignore"):
            between = np.where(lam < 0, kappa / (2 * lam), nodes.m[:, 0])
        ends = np.column_stack([nodes.m, np.clip(between, nodes.m[:, 0], nodes.m[:, 1])])
        of_m = classes * (lam[:, None] * ends**2 - kappa[:, None] * ends)
        m = np.take_along_axis(ends, of_m.argmax(axis=1)[:, None], axis=1)[:, 0]
        size = np.abs(value).sum(1) + np.abs(lam) + np.abs(of_m).max(1)
        bound = value.sum(1) + lam + of_m.max(1) + _ROUNDING * size
        gradient = np.stack(
            [
                scale * (1 - np.sum(d**2, axis=1) + classes * m**2),
                -scale * np.sum(sigma * d, axis=1),
                -2 * root * np.sum(sigma * (d**2 - p[:, None]), axis=1) * self.centred,
                -scale * (np.sum(d, axis=1) + classes * m),
            ],
            axis=1,
        )
        with np.errstate(over="ignore"):  # where the form is 0, and nothing is to be proven
            return bound / scale, gradient / scale[:, None], d

    def _examine(self, nodes: _Nodes, rtol: float) -> tuple[_Nodes, np.ndarray, np.ndarray]:
        """The nodes with intervals tightened, their bounds, and whether they need no splitting."""
        intervals = self._intervals(nodes)
        empty = np.any(intervals[:, 0] > intervals[:, 1] + 10 * _ROUNDING, axis=1)
        intervals[:, 1] = np.maximum(intervals[:, 0], intervals[:, 1])
        nodes = _Nodes(nodes.of, nodes.m, intervals, nodes.multipliers)
        target = self.value / self.scale + rtol
        bounds, multipliers, d = self._cut(nodes, target[nodes.of], ~empty)
        bounds[empty] = 0
        self._improve(nodes.of, d, nodes.m)
        closed = empty | (bounds <= target[nodes.of])
        return (
            _Nodes(nodes.of, nodes.m, nodes.d, multipliers),
            bounds * self.scale[nodes.of],
            closed,
        )

    def _cut(
        self, nodes: _Nodes, target: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Least bounds found by the ellipsoid method with deep cuts, their multipliers and d."""
        n, dim = len(nodes.of), 4
        best, at = self._relaxed(nodes, nodes.multipliers)[0], nodes.multipliers.copy()
        # Where to begin: as the parent, as at the maximiser, or with no constraint but on p.
        squares = np.sort(nodes.d**2, axis=1)
        crossing = (nodes.d[:, 0] < 0) & (nodes.d[:, 1] > 0)
        middle = (np.where(crossing, 0, squares[:, 0]) + squares[:, 1]) / 2
        mean = np.sum(self.sigma[nodes.of] * middle, axis=1)
        p = (mean - self.p[nodes.of]) / np.sqrt(self.scale[nodes.of]) * self.centred
        zero = np.zeros(n)
        for start in (
            np.stack([zero + 2, self.nu[nodes.of], p, 2 * nodes.m.sum(1)], axis=1),
            np.stack([zero, zero, p, zero], axis=1),
        ):
            bound = self._relaxed(nodes, start)[0]
            lower = bound < best
            best, at = np.where(lower, bound, best), np.where(lower[:, None], start, at)
        size = np.clip(best, 1, 1e50)
        axes = _RADII * np.stack([size, size, np.sqrt(size) * self.centred, size], axis=1)
        shape = np.zeros((n, dim, dim))
        shape[:, range(dim), range(dim)] = axes**2
        centre, d = at.copy(), np.zeros(nodes.d[:, 0].shape)
        active = np.flatnonzero(wanted)
        for _ in range(_CUTS):
            if not len(active):
                break
            part = nodes.take(active)
            bound, gradient, attained = self._relaxed(part, centre[active])
            lower = bound <= best[active]
            best[active[lower]], at[active[lower]] = bound[lower], centre[active[lower]]
            d[active] = attained
            along = np.einsum("nij,nj->ni", shape[active], gradient)
            norm = np.sqrt(np.maximum(np.sum(along * gradient, axis=1), 1e-300))
            depth = (bound - target[active]) / norm
            # Reached, or the ellipsoid holds no multipliers that would.
            on = (bound > target[active]) & (depth < 1)
            active, along = active[on], (along / norm[:, None])[on]
            depth = np.maximum(depth[on], 0)[:, None]
            centre[active] -= (1 + dim * depth) / (dim + 1) * along
            shrink = 2 * (1 + dim * depth) / ((dim + 1) * (1 + depth))
            outer = along[:, :, None] * along[:, None, :]
            shape[active] = (dim**2 / (dim**2 - 1) * (1 - depth**2))[:, :, None] * (
                shape[active] - shrink[:, :, None] * outer
            )
        return best, at, d

    def _improve(self, of: np.ndarray, d: np.ndarray, m: np.ndarray) -> None:
        """Take a better direction where a relaxation happens upon one."""
        u = d + m.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(u, axis=1, keepdims=True)
        u = np.divide(u, norm, out=np.zeros_like(u), where=norm > 0)
        np.maximum.at(self.value, of, _form(self.sigma[of], u, self.centred))

    def _split(self, nodes: _Nodes) -> _Nodes:
        """Halve every node where the relaxation is likely to lose most."""
        sigma, scale = self.sigma[nodes.of], self.scale[nodes.of]
        rows = np.arange(len(nodes.of))
        low, high = nodes.d[:, 0], nodes.d[:, 1]
        squares = np.sort(nodes.d**2, axis=1)
        least = np.where((low < 0) & (high > 0), 0, squares[:, 0])
        loss = 0.05 * sigma * (squares[:, 1] - least) ** 2
        c = loss.argmax(axis=1)
        at_m = 0.25 * sigma.shape[1] * scale * (nodes.m[:, 1] - nodes.m[:, 0]) ** 2 > loss[rows, c]
        middle = np.where(at_m, nodes.m.mean(axis=1), nodes.d[rows, :, c].mean(axis=1))
        halves = []
        for end in (1, 0):
            m, d = nodes.m.copy(), nodes.d.copy()
            m[at_m, end] = middle[at_m]
            d[rows[~at_m], end, c[~at_m]] = middle[~at_m]
            halves.append(_Nodes(nodes.of, m, d, nodes.multipliers))
        return halves[0].join(halves[1])


# ----------------------------------------------------------------------------------- independent


def independent_tensor_eigenvalues(
    variance: np.ndarray, square_variance: np.ndarray, tensor: str = "M", cells: int = 128
) -> tuple[Certified, Certified]:
    """λ̃min and λ̃max of M or K of independent components.

    Both forms are quadratic in the squares v_t = u_t², which lie on the simplex: with κ4 the fourth
    cumulants, Σ κ4_t v_t² + β (Σ_t V_t v_t)², β = 2 for M and 3 for K.

    Parameters
    ----------
    variance, square_variance : array, (n, T)
        V = Var(t) and M_tttt = Var((t − η)²) of the components.
    tensor : {"M", "K"}
    cells : int
        Cells of the range of Σ V v in which its square is bounded; the gap falls with their square.

    Returns
    -------
    least, largest : Certified
        Exact to rounding for up to ten components and wherever the form is convex; beyond ten, a
        relaxation leaves a gap where the fourth cumulants are of both signs.

    Notes
    -----
    A quadratic form attains its maximum over the simplex at a stationary point inside some face, be
    it a vertex: a face that has a line of them has one on its boundary.  For a diagonal and one
    more rank the stationary points of all faces are sums over the components of the face.  Beyond
    ten components c = Σ V v is cut into cells, in each of which its square is bounded.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.spectra import independent_tensor_eigenvalues
    >>> least, largest = independent_tensor_eigenvalues(np.ones((1, 3)), np.full((1, 3), 2.0))
    >>> round(float(least.lower[0]), 6), round(float(largest.upper[0]), 6)  # Proposition 5.1
    (2.0, 2.0)
    """
    _check_tensor(tensor)
    beta = 2.0 if tensor == "M" else 3.0
    fourth = square_variance - 2 * variance**2
    largest = _simplex_maximum(fourth, variance, beta, cells)
    least = _simplex_maximum(-fourth, variance, -beta, cells)
    return Certified(-least.upper, -least.lower, least.direction), largest


def _simplex_maximum(a: np.ndarray, b: np.ndarray, beta: float, cells: int) -> Certified:
    """Maximum over the simplex of Σ a v² + β (Σ b v)², a, b of shape (n, T)."""
    size = np.abs(a).max(axis=1) + abs(beta) * b.max(axis=1) ** 2
    if a.shape[1] <= _FACES:
        v = np.concatenate([_stationary(beta, *some) for some in _parts(a, b, size)])
        value = _quadratic(a, b, beta, v[:, None])[:, 0]
        return Certified(value, value + _FLAT * size, np.sqrt(v))
    relaxed, upper = _relaxed_maximum(a, b, beta, cells)
    v = _climb(a, b, beta, relaxed)
    value = _quadratic(a, b, beta, v[:, None])[:, 0]
    # For a convex form a vertex is exact, and the bound of the cells is no better.
    convex = np.all(a >= 0, axis=1) & (beta > 0)
    upper = np.where(convex, value, np.maximum(upper + _ROUNDING * size, value))
    return Certified(value, upper, np.sqrt(v))


_FACES = 10
"""Components up to which all faces of the simplex are gone through, 2¹⁰ − 1 of them."""

_FLAT = 1e-9
"""Least bend of a component, in units of the form: a flat one is bent by so much."""


def _quadratic(a: np.ndarray, b: np.ndarray, beta: float, v: np.ndarray) -> np.ndarray:
    """Σ a v² + β (Σ b v)²: (n, T) and (n, K, T) to (n, K)."""
    return np.asarray(np.sum(a[:, None] * v**2, 2) + beta * np.sum(b[:, None] * v, 2) ** 2)


def _parts(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """A thousand inputs at a time."""
    for start in range(0, len(arrays[0]), 1000):
        yield tuple(array[start : start + 1000] for array in arrays)


def _stationary(beta: float, a: np.ndarray, b: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The best of the points that are stationary inside a face: (n, T).

    On a face a_t v_t + β c b_t is a constant μ, where c = Σ b v and Σ v = 1.
    """
    components = a.shape[1]
    faces = (np.arange(1, 2**components)[:, None] >> np.arange(components)) % 2 * 1.0
    least = _FLAT * size[:, None]
    bend = np.where(np.abs(a) > least, a, least)
    of_one, of_b, of_square = ((x / bend) @ faces.T for x in (np.ones_like(b), b, b**2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        c = beta * of_b / (1 + beta * of_square)  # βc/μ
        mu = 1 / (of_one - c * of_b)
        v = faces * (mu[:, :, None] - (mu * c)[:, :, None] * b[:, None]) / bend[:, None]
    # What rounding takes off a coordinate at the boundary, a smaller face does not take off.
    inside = np.all(v >= 0, axis=2) & np.all(np.isfinite(v), axis=2)
    v = np.where(inside[:, :, None], v, faces / faces.sum(axis=1, keepdims=True))
    v /= v.sum(axis=2, keepdims=True)
    best = _quadratic(a, b, beta, v).argmax(axis=1)
    return np.asarray(np.take_along_axis(v, best[:, None, None], axis=1)[:, 0])


def _relaxed_maximum(
    a: np.ndarray, b: np.ndarray, beta: float, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points that the bounds of the cells lead to, (n, K, T), and the bound of all cells, (n,)."""
    edges = np.linspace(b.min(1), b.max(1), cells + 1, axis=1)
    if beta > 0:  # c² lies below its chord in every cell: the worst cell counts
        slope, offset = edges[:, :-1] + edges[:, 1:], -edges[:, :-1] * edges[:, 1:]
    else:  # c² lies above each of its tangents: the best tangent counts
        slope, offset = 2 * edges, -(edges**2)
    linear = beta * slope[:, :, None] * b[:, None, :]
    dual, relaxed = _separable_maximum(a[:, None, :], linear)
    bounds = dual + beta * offset
    return relaxed, bounds.max(axis=1) if beta > 0 else bounds.min(axis=1)


def _climb(a: np.ndarray, b: np.ndarray, beta: float, relaxed: np.ndarray) -> np.ndarray:
    """The best point that exchanges between components reach from several starts: (n, T)."""
    n, size = a.shape
    others = np.random.default_rng(0).dirichlet(np.ones(size), 12)
    fixed = np.concatenate([np.eye(size), np.full((1, size), 1 / size), others])
    v = np.concatenate([np.broadcast_to(fixed, (n, *fixed.shape)), relaxed], axis=1)
    for kept, steps in ((16, 20), (4, 200), (1, 0)):  # a race, as for labels
        best = np.argsort(-_quadratic(a, b, beta, v), axis=1)[:, :kept]
        v = np.take_along_axis(v, best[:, :, None], axis=1)
        for _ in range(steps):
            v = _exchange(a, b, beta, v)
    return v[:, 0]


def _exchange(a: np.ndarray, b: np.ndarray, beta: float, v: np.ndarray) -> np.ndarray:
    """Move along the best of all e_i − e_j, as far as pays: (n, K, T) to the same."""
    n, starts, size = v.shape
    gradient = 2 * (a[:, None] * v + beta * np.sum(b[:, None] * v, 2)[:, :, None] * b[:, None])
    slope = gradient[:, :, :, None] - gradient[:, :, None, :]
    bend = a[:, :, None] + a[:, None, :] + beta * (b[:, :, None] - b[:, None, :]) ** 2
    bend = np.broadcast_to(bend[:, None], slope.shape)
    far = np.broadcast_to(v[:, :, None, :], slope.shape)  # what j has to give to i
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(bend < 0, np.clip(-slope / (2 * bend), 0, far), far)
    gain = np.stack([slope * t + bend * t**2 for t in (inside, far)])
    steps = np.where(gain[0] >= gain[1], inside, far)
    flat = gain.max(axis=0).reshape(n, starts, -1)
    best = flat.argmax(axis=2)
    i, j = best // size, best % size
    row, start = np.ogrid[:n, :starts]
    step = np.where(flat[row, start, best] > 0, steps[row, start, i, j], 0)
    moved = v.copy()
    moved[row, start, i] += step
    moved[row, start, j] -= step
    return np.asarray(np.maximum(moved, 0))


def _separable_maximum(a: np.ndarray, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dual bound on max Σ a v² + l v over the simplex, and the v that it leads to.

    Exact where no a is positive; (n, 1, T) and (n, K, T) to (n, K) and (n, K, T).
    """
    bent = np.where(a < 0, -2 * a, 1.0)

    def response(mu: np.ndarray) -> np.ndarray:
        rise = linear - mu[:, :, None]
        return np.asarray(np.where(a < 0, np.clip(rise / bent, 0, 1), (a + rise > 0) * 1.0))

    low = np.min(linear - 2 * np.abs(a), axis=2) - 1e-300
    high = np.max(linear + np.abs(a), axis=2)
    for _ in range(60):
        mu = (low + high) / 2
        over = response(mu).sum(axis=2) > 1
        low, high = np.where(over, mu, low), np.where(over, high, mu)
    v = response(high)
    bound = high + np.sum(a * v**2 + (linear - high[:, :, None]) * v, axis=2)
    total = v.sum(axis=2, keepdims=True)
    even = np.full_like(v, 1 / v.shape[2])
    return bound, np.divide(v, total, out=even, where=total > 0)
