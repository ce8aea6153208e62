"""Empirical against exact against bound, with the sampling error of each.

Rules of decision, the same everywhere:

* A mean over S repetitions of an N-draw estimate has standard error √(V / (N S)), V exact.  `z` is
  the deviation in standard errors.
* A sample variance over S repetitions of such estimates has relative standard error
  √(2 / (S − 1) + κ / S), κ the excess kurtosis of the N-draw estimate (κ₁ / N from one draw).
* A family of m tests is refused as rarely as one test at 5 standard errors (5.7e-7, two-sided):
  - Tests whose mean is nearly normal, its exact excess kurtosis κ / (N S) within 1e-4, are refused
    when |z| exceeds the normal quantile at 5.7e-7 / m (Bonferroni).
  - Far from the normal law (a label of probability 1e-6 may turn up once in the whole experiment)
    Bernstein's inequality still holds: with n = N S and r the largest deviation of a single draw,
    P(|mean − I| ≥ z SE) ≤ 2 exp(−h), h = (z² / 2) / (1 + z r / (3 √(n V))).  All tests are refused
    when 2 m exp(−h) falls below 5.7e-7 for any of them.
* A bound is broken by a value above (1 + 1e-10) times the bound.  Rounding is below 1e-13 of it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from scipy import stats

from diagfim.bounds import theorem_4_1
from diagfim.mixing import Noise, best_weights, mix_variance

BOUND_SLACK = 1e-10
"""Relative excess over a bound that counts as breaking it."""

BOUNDS = ("theorem 5.2", "true eigenvalue")
"""Theorem 4.1 with Theorem 5.2's bounds on the eigenvalues, and with the eigenvalues themselves."""

QUANTITIES = ("fisher", "variance_1", "variance_2")
"""What Theorem 4.1 bounds."""

NORMAL_KURTOSIS = 1e-4
"""Excess kurtosis up to which the law of a mean counts as normal: the tail of a Poisson law of this
kurtosis is within a fifth of the normal one at the limit for a million tests."""

SINGLE_TEST_LIMIT = 5.0
"""Deviation, in standard errors, at which one test alone is refused."""


@dataclass(frozen=True)
class Agreement:
    """How a set of empirical values agrees with exact ones, in standard errors.

    Attributes
    ----------
    tests : int
        Values with a positive standard error.
    constants : int
        Values without sampling error.
    wrong_constants : int
        Of those, values that differ from the exact one by more than rounding.
    largest : float
        Largest |z|.
    beyond : int
        Tests with |z| > 5.
    within_two : float
        Fraction of the tests with |z| ≤ 2; 0.954 for a normal deviation.
    exponent : float
        Largest exponent h of Bernstein's inequality; NaN where it does not apply.
    normal_tests, normal_beyond : int
        Tests with a nearly normal law, and those of them with |z| > 5.
    normal_largest : float
        Largest |z| of these.
    """

    tests: int
    constants: int
    wrong_constants: int
    largest: float
    beyond: int
    within_two: float
    exponent: float
    normal_tests: int
    normal_beyond: int
    normal_largest: float


def agreement(
    empirical: np.ndarray,
    exact: np.ndarray,
    standard_error: np.ndarray,
    skew: np.ndarray | None = None,
    excess_kurtosis: np.ndarray | None = None,
) -> Agreement:
    """Compare empirical with exact values of known standard error, elementwise.

    Parameters
    ----------
    empirical, exact, standard_error : array
        Of one shape.  Where the standard error is 0 the two values must agree to 1e-12 of the
        largest exact value, the precision of the derivatives.
    skew : array, optional
        r / √(n V), the range of a draw in standard deviations of the sum of n draws; without it the
        exponent is NaN.
    excess_kurtosis : array, optional
        Of the empirical values; without it no law counts as normal.
    """
    # Comparisons are written so that NaN is a deviation, never an agreement.
    random = ~(standard_error == 0)
    deviation = np.abs(empirical - exact)
    z = deviation[random] / standard_error[random]
    rounding = 1e-12 * np.max(np.abs(exact), initial=0.0)
    exponent = float("nan")
    if skew is not None:
        exponent = float(np.max(z**2 / 2 / (1 + z * skew[random] / 3), initial=0.0))
    near_normal = np.zeros(z.shape, dtype=bool)
    if excess_kurtosis is not None:
        near_normal = np.abs(excess_kurtosis[random]) <= NORMAL_KURTOSIS
    return Agreement(
        tests=int(z.size),
        constants=int(deviation.size - z.size),
        wrong_constants=int(np.sum(~(deviation[~random] <= rounding))),
        largest=float(np.max(z, initial=0.0)),
        beyond=int(np.sum(~(z <= SINGLE_TEST_LIMIT))),
        within_two=float(np.mean(z <= 2)) if z.size else float("nan"),
        exponent=exponent,
        normal_tests=int(np.sum(near_normal)),
        normal_beyond=int(np.sum(~(z[near_normal] <= SINGLE_TEST_LIMIT))),
        normal_largest=float(np.max(z[near_normal], initial=0.0)),
    )


def family_limit(tests: int) -> float:
    """Largest |z| that m true normal tests may show together (Bonferroni).

    Examples
    --------
    >>> from diagfim.comparison import family_limit
    >>> round(family_limit(1), 6), round(family_limit(10**6), 2)
    (5.0, 7.21)
    """
    return float(stats.norm.isf(FAMILY_LEVEL / (2 * max(tests, 1))))


def family_probability(tests: int, exponent: float) -> float:
    """Bound on the probability that any of m true tests reaches the exponent: min(1, 2 m e^−h).

    Examples
    --------
    >>> from diagfim.comparison import family_probability
    >>> family_probability(1_000_000, 5.0), round(family_probability(10, 10.0), 6)
    (1.0, 0.000908)
    """
    return float(np.minimum(1.0, 2 * tests * np.exp(-exponent))) if tests else 1.0


FAMILY_LEVEL = float(2 * stats.norm.sf(SINGLE_TEST_LIMIT))
"""Probability below which a family of tests is refused: that of one normal test at 5."""


def mean_error(variance: np.ndarray, draws: int, repetitions: int) -> np.ndarray:
    """Standard error of the mean of S estimates of N draws each, from V per draw."""
    return np.asarray(np.sqrt(variance / (draws * repetitions)))


def relative_range(
    largest_deviation: np.ndarray, variance: np.ndarray, draws: int, repetitions: int
) -> np.ndarray:
    """The ratio r / √(n V) of `agreement`, 0 where V is 0."""
    scale = np.sqrt(variance * draws * repetitions)
    zero = np.zeros_like(scale)
    return np.asarray(np.divide(largest_deviation, scale, out=zero, where=scale > 0))


def variance_error(
    variance: np.ndarray, excess_kurtosis: np.ndarray, repetitions: int
) -> np.ndarray:
    """Standard error of the sample variance of S independent values.

    Parameters
    ----------
    variance, excess_kurtosis : array
        Of one value: for an estimate of N draws, V / N and κ₁ / N.
    repetitions : int
        S, at least 2.
    """
    relative = 2 / (repetitions - 1) + excess_kurtosis / repetitions
    return np.asarray(variance * np.sqrt(np.maximum(relative, 0.0)))


def broken(value: np.ndarray, bound: np.ndarray) -> int:
    """Number of values not within their bound, `BOUND_SLACK` of it allowed; NaN is not within."""
    return int(np.sum(~(value <= bound * (1 + BOUND_SLACK))))


def tightest(value: np.ndarray, bound: np.ndarray) -> float:
    """Largest ratio of a value to its bound, over the bounds that are positive; 0 if none is."""
    positive = bound > 0
    return float(np.max(value[positive] / bound[positive], initial=0.0))


def compare_fixed(
    moments: xr.DataTree, estimates: xr.DataTree, bounds: xr.DataTree, draws: int, repetitions: int
) -> xr.Dataset:
    """Set the estimates at fixed inputs against the exact moments, and these against the bounds.

    Parameters
    ----------
    moments, estimates, bounds : DataTree
        As written by the rules of the same names.
    draws : int
        N of the estimates that are kept parameter by parameter.
    repetitions : int
        S.

    Returns
    -------
    Dataset
        By layer, epoch and input.  Averages over the parameters of a layer: ``fisher``,
        ``exact_variance``, ``bound_fisher`` and ``bound_variance`` (per draw), ``empirical_fisher``
        and ``empirical_variance`` (by N), ``layer_z`` (deviation of the layer's mean estimate in
        standard errors); ``other_labels``, how many draws of another label than the likeliest all
        repetitions are expected to hold.  Counts over its parameters: the fields of `Agreement` for
        the means and the variances, ``bounds_checked``, ``bounds_broken`` and ``tightest``;
        ``score_better`` is the share of the parameters that have a variance for which V1 < V2, and
        ``mixed_variance`` the average over them of the variance of each one's best mix.
    """
    exact, empirical, norms = (one["layers"].to_dataset() for one in (moments, estimates, bounds))
    pairs = [_eigenvalues(bounds, kind) for kind in BOUNDS]
    layer_bounds = [
        theorem_4_1(norms["first_squared"], norms["second_squared"], fisher, tensor)
        for fisher, tensor in pairs
    ]
    # The layer average of ‖∂_i h‖⁴ is not the square of the average of ‖∂_i h‖².
    tensor_bounds = [norms["first_fourth"] * tensor for _, tensor in pairs]
    names = xr.Variable("bound", list(BOUNDS))
    estimator = empirical["estimator"].variable
    average_variance = xr.concat(
        [exact["average_variance_1"], exact["average_variance_2"]], dim=estimator
    )
    layer_error = np.sqrt(average_variance / (empirical["draws"] * repetitions))
    deviation = empirical["layer_mean"] - exact["fisher"]
    averages = xr.Dataset(
        {
            "fisher": exact["fisher"],
            "exact_variance": xr.concat([exact["variance_1"], exact["variance_2"]], dim=estimator),
            "bound_fisher": xr.concat([one[0] for one in layer_bounds], dim=names),
            "bound_variance": xr.concat(
                [
                    xr.concat([tensor, one[2]], dim=estimator)
                    for tensor, one in zip(tensor_bounds, layer_bounds, strict=True)
                ],
                dim=names,
            ),
            "empirical_fisher": empirical["layer_mean"],
            "empirical_variance": empirical["parameter_variance"],
            "layer_z": (deviation / layer_error).where(layer_error > 0, 0.0),
            "other_labels": _other_labels(bounds) * empirical["draws"] * repetitions,
        }
    )
    per_layer = [
        _fixed_checks(moments, estimates, bounds, layer, draws, repetitions)
        for layer in _layers(moments)
    ]
    return averages.merge(xr.concat(per_layer, dim=averages["layer"].variable))


def compare_joint(
    moments: xr.DataTree, estimates: xr.DataTree, draws: int, repetitions: int
) -> xr.Dataset:
    """Set the estimates from joint draws of (x, y) against Theorem 4.7.

    Parameters
    ----------
    moments, estimates : DataTree
        As written by the rules of the same names.
    draws : int
        N of the estimates that are kept parameter by parameter.
    repetitions : int
        S.

    Returns
    -------
    Dataset
        By layer and epoch, as in `compare_fixed`; ``exact_variance`` is Theorem 4.7's for one pair
        (x, y), as is ``mixed_variance``, and ``input_share`` the part of it that stems from x.
    """
    exact, empirical = (one["layers"].to_dataset() for one in (moments, estimates))
    estimator = empirical["estimator"].variable
    label_variance = xr.concat([exact["variance_1"], exact["variance_2"]], dim=estimator)
    total = exact["input_variance"] + label_variance
    # The exact variance of a layer's average is not at hand: its sample variance stands in.
    layer_error = np.sqrt(empirical["layer_variance"] / repetitions)
    deviation = empirical["layer_mean"] - exact["fisher"]
    averages = xr.Dataset(
        {
            "fisher": exact["fisher"],
            "exact_variance": total,
            "input_share": exact["input_variance"] / total,
            "empirical_fisher": empirical["layer_mean"],
            "empirical_variance": empirical["parameter_variance"],
            "layer_z": (deviation / layer_error).where(layer_error > 0, 0.0),
        }
    )
    per_layer = [
        _joint_checks(moments, estimates, layer, draws, repetitions) for layer in _layers(moments)
    ]
    return averages.merge(xr.concat(per_layer, dim=averages["layer"].variable))


def _other_labels(bounds: xr.DataTree) -> xr.DataArray:
    """Probability of all labels but the likeliest, by epoch and input; no 1 − σ, which cancels."""
    sigma: xr.DataArray = bounds.to_dataset()["probabilities"]
    ordered = np.sort(sigma.transpose(..., "label_value").values, axis=-1)
    return sigma.isel(label_value=0, drop=True).copy(data=ordered[..., :-1].sum(axis=-1))


def _layers(tree: xr.DataTree) -> list[list[str]]:
    """Parameter names of each layer, in order."""
    names = list(tree["parameters"].children)
    weights = [name for name in names if name.endswith("weight")]
    return [[name for name in names if name.startswith(w.removesuffix("weight"))] for w in weights]


def _eigenvalues(bounds: xr.DataTree, kind: str) -> tuple[xr.DataArray, xr.DataArray]:
    suffix = "bound" if kind == "theorem 5.2" else "max"
    root = bounds.to_dataset()
    return root[f"fisher_lambda_{suffix}"], root[f"tensor_lambda_{suffix}"]


def _flat(
    tree: xr.DataTree, names: Sequence[str], quantity: str, keep: Sequence[str]
) -> np.ndarray:
    """A quantity of all parameters of a layer: (*keep, parameters)."""
    parts = []
    for name in names:
        array = tree[f"parameters/{name}"][quantity].transpose(*keep, ...).values
        parts.append(array.reshape(*array.shape[: len(keep)], -1))
    return np.concatenate(parts, axis=-1)


def _fixed_checks(
    moments: xr.DataTree,
    estimates: xr.DataTree,
    bounds: xr.DataTree,
    names: Sequence[str],
    draws: int,
    repetitions: int,
) -> xr.Dataset:
    """Checks of one layer, every epoch and input."""
    keep = ("epoch", "input")
    exact = [_flat(moments, names, quantity, keep) for quantity in QUANTITIES]
    kurtosis, ranges = (
        [_flat(moments, names, f"{quantity}_{j}", keep) for j in (1, 2)]
        for quantity in ("excess_kurtosis", "range")
    )
    mean, variance = (
        _flat(estimates, names, quantity, (*keep, "estimator")) for quantity in ("mean", "variance")
    )
    shape = exact[0].shape[:2]
    agreements = np.empty((*shape, 2, 2), dtype=object)
    for where in np.ndindex(*shape):
        for j, per_draw in enumerate((exact[1][where], exact[2][where])):
            of_estimate = per_draw / draws
            agreements[(*where, j, 0)] = agreement(
                mean[where][j],
                exact[0][where],
                mean_error(per_draw, draws, repetitions),
                relative_range(ranges[j][where], per_draw, draws, repetitions),
                kurtosis[j][where] / (draws * repetitions),
            )
            agreements[(*where, j, 1)] = agreement(
                variance[where][j],
                of_estimate,
                variance_error(of_estimate, kurtosis[j][where] / draws, repetitions),
            )
    checks = _agreement_dataset(agreements, (*keep, "estimator", "statistic"))

    norms = [_flat(bounds, names, f"{order}_squared", keep) for order in ("first", "second")]
    over = (*keep, "quantity", "bound")
    found = np.zeros((3, *shape, len(QUANTITIES), len(BOUNDS)))
    for k, kind in enumerate(BOUNDS):
        eigenvalues = [one.values[..., None] for one in _eigenvalues(bounds, kind)]
        for q, (value, limit) in enumerate(
            zip(exact, theorem_4_1(*norms, *eigenvalues), strict=True)
        ):
            for where in np.ndindex(*shape):
                found[(slice(None), *where, q, k)] = (
                    value[where].size,
                    broken(value[where], limit[where]),
                    tightest(value[where], limit[where]),
                )
    moving = (exact[1] > 0) | (exact[2] > 0)
    score_better = np.sum(moving & (exact[1] < exact[2]), axis=-1) / np.sum(moving, axis=-1)
    return checks.assign(
        score_better=(keep, score_better),
        mixed_variance=(keep, _mixed(moments, names, keep).mean(axis=-1)),
        bounds_checked=(over, found[0].astype(np.int64)),
        bounds_broken=(over, found[1].astype(np.int64)),
        tightest=(over, found[2]),
    ).assign_coords(quantity=list(QUANTITIES), bound=list(BOUNDS))


def _joint_checks(
    moments: xr.DataTree,
    estimates: xr.DataTree,
    names: Sequence[str],
    draws: int,
    repetitions: int,
) -> xr.Dataset:
    """Checks of one layer, every epoch."""
    keep = ("epoch",)
    fisher, input_variance = (_flat(moments, names, q, keep) for q in ("fisher", "input_variance"))
    label_variances, kurtosis, ranges = (
        [_flat(moments, names, f"{quantity}_{j}", keep) for j in (1, 2)]
        for quantity in ("variance", "excess_kurtosis", "range")
    )
    mean, variance = (
        _flat(estimates, names, quantity, ("epoch", "estimator"))
        for quantity in ("mean", "variance")
    )
    agreements = np.empty((len(mean), 2, 2), dtype=object)
    for epoch, j in np.ndindex(len(mean), 2):
        # Theorem 4.7 with one label for each input.
        per_draw = input_variance[epoch] + label_variances[j][epoch]
        agreements[epoch, j, 0] = agreement(
            mean[epoch, j],
            fisher[epoch],
            mean_error(per_draw, draws, repetitions),
            relative_range(ranges[j][epoch], per_draw, draws, repetitions),
            kurtosis[j][epoch] / (draws * repetitions),
        )
        agreements[epoch, j, 1] = agreement(
            variance[epoch, j],
            per_draw / draws,
            variance_error(per_draw / draws, kurtosis[j][epoch] / draws, repetitions),
        )
    mixed = input_variance + _mixed(moments, names, keep)
    checks = _agreement_dataset(agreements, (*keep, "estimator", "statistic"))
    return checks.assign(mixed_variance=(keep, mixed.mean(axis=-1)))


def _mixed(moments: xr.DataTree, names: Sequence[str], keep: Sequence[str]) -> np.ndarray:
    """Variance over labels of the best mix at each parameter of a layer: (*keep, parameters)."""
    noise = Noise(*(_flat(moments, names, quantity, keep) for quantity in Noise._fields))
    return np.asarray(mix_variance(best_weights({"": noise})[""], noise))


def _agreement_dataset(agreements: np.ndarray, dimensions: Sequence[str]) -> xr.Dataset:
    values = {
        field: np.vectorize(lambda one, field=field: asdict(one)[field])(agreements)
        for field in asdict(agreements.flat[0])
    }
    return xr.Dataset(
        {field: (dimensions, array) for field, array in values.items()},
        coords={"statistic": ["mean", "variance"]},
    )
