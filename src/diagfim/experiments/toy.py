"""Natural-gradient descent on the two-dimensional toy data of Figures 1 and I to IV.

The model is generalised linear, h_θ(x) = θᵀx in ℝ (Appendix A), so that ∂h = x and ∂²h = 0.  Per
draw of (x, y), with v = F''(h) and δ = t(y) − F'(h), the estimates of the whole 2 × 2 matrix are

    Î1 = δ² x xᵀ        Î2 = v x xᵀ = E[Î1 | x]

and by Theorem 4.7, entry by entry and summed over the four, their variances are

    V2 = E[v² |x|⁴] − ‖E[v x xᵀ]‖²        V1 = V2 + E[Var(δ² | x) |x|⁴]

In one replicate everything is common to both estimators but the estimator: data, start, the points
of every step, and the levels at which y is drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import xarray as xr
from scipy import special

from diagfim.errors import UserError
from diagfim.families import Bernoulli, Gaussian
from diagfim.seeding import stream

ESTIMATORS = ["score", "hessian", "exact"]
"""What the gradient is preconditioned by: Î1, Î2, or the Fisher matrix of the training points."""

READINGS = ["pass", "step"]
"""What an epoch may mean: as many draws as there are training points, or a step."""


@dataclass(frozen=True)
class Model:
    """A family of y in ℝ as the descent needs it; `family` is the package's for everything else.

    The descent has its own F' and F'': it calls them thousands of times on a few numbers each.
    """

    family: Gaussian | Bernoulli
    potential: Callable[[np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray], np.ndarray]
    curvature: Callable[[np.ndarray], np.ndarray]
    base: Callable[[np.ndarray], np.ndarray]

    def loss(self, theta: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Mean negative log-likelihood with all constants, F(h) − y h − ln π(y).

        Parameters
        ----------
        theta : array, (..., 2)
        inputs : array, (n, 2)
        targets : array, (n,)

        Returns
        -------
        array, (...,)
            In nats; infinite where θ is not finite.
        """
        flat = theta.reshape(-1, 2)
        found = np.empty(len(flat))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(flat), _AT_ONCE):
                outputs = flat[start : start + _AT_ONCE] @ inputs.T
                found[start : start + _AT_ONCE] = self.potential(outputs).mean(axis=-1)
            found -= flat @ (targets @ inputs / len(inputs)) + self.base(targets).mean()
        return np.where(np.isfinite(found), found, np.inf).reshape(theta.shape[:-1])


_AT_ONCE = 64
"""Parameters whose losses are found together: what fits into a cache."""


def _bernoulli_curvature(outputs: np.ndarray) -> np.ndarray:
    p = special.expit(outputs)
    return np.asarray(p * (1 - p))


MODELS = {
    "regression": Model(
        Gaussian(),
        potential=lambda h: h * h / 2,
        mean=lambda h: h,
        curvature=np.ones_like,
        base=lambda y: -(y * y + np.log(2 * np.pi)) / 2,
    ),
    "classification": Model(
        Bernoulli(),
        potential=lambda h: np.logaddexp(0, h),
        mean=special.expit,
        curvature=_bernoulli_curvature,
        base=np.zeros_like,
    ),
}
"""The unit Gaussian and the Bernoulli distribution by its log-odds."""


@dataclass(frozen=True)
class Data:
    """What one replicate draws; the same for both models.

    Attributes
    ----------
    train, test : array, (n, 2)
        Inputs, standard normal.
    train_levels, test_levels : array, (n,)
        Levels of the distribution of y at which targets stand.
    chosen : array of int, (steps, batch)
        Training points of every step, drawn with replacement.
    levels : array, (steps, batch)
        Levels at which y is drawn from the model for the estimators.
    """

    train: np.ndarray
    test: np.ndarray
    train_levels: np.ndarray
    test_levels: np.ndarray
    chosen: np.ndarray
    levels: np.ndarray

    def targets(self, model: Model, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels of the training and of the test points, from the model at the truth."""
        return (
            model.family.quantile(self.train @ truth, self.train_levels),
            model.family.quantile(self.test @ truth, self.test_levels),
        )


def draw_data(settings: Mapping[str, Any], replicate: int) -> Data:
    """Draw the points, labels and minibatches of one replicate."""

    def named(name: str) -> np.random.Generator:
        return stream(settings["seed"], "toy", replicate, name)

    points, tests, batch = (settings[key] for key in ("training_points", "test_points", "batch"))
    steps = settings["training_epochs"] * steps_per_epoch(settings)
    return Data(
        train=named("training inputs").standard_normal((points, 2)),
        test=named("test inputs").standard_normal((tests, 2)),
        train_levels=named("training labels").random(points),
        test_levels=named("test labels").random(tests),
        chosen=named("minibatches").integers(points, size=(steps, batch)),
        levels=named("labels of the model").random((steps, batch)),
    )


def steps_per_epoch(settings: Mapping[str, Any]) -> int:
    """Steps that draw as many points as there are.

    Raises
    ------
    UserError
        If the batch does not divide the training points.
    """
    steps, rest = divmod(settings["training_points"], settings["batch"])
    if rest:
        raise UserError(
            f"experiments.toy: batch {settings['batch']} does not divide training_points "
            f"{settings['training_points']}"
        )
    return int(steps)


# ------------------------------------------------------------------------------------- descent


def descend(
    model: Model, data: Data, targets: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Descend with every preconditioner, damping and start at once.

    θ ← θ − η (Î + λ Id)⁻¹ ∇L with L the mean negative log-likelihood of the step's points.

    Returns
    -------
    path : array, (steps + 1, estimators, dampings, starts, 2)
    estimates : array, (steps, 2, 2, 2)
        Î1 and Î2 at the damping and start of the study.
    """
    dampings = np.asarray(settings["dampings"], dtype=np.float64)
    starts = np.asarray(settings["starts"], dtype=np.float64)
    main = dampings.tolist().index(settings["damping"])
    damping = dampings[:, None, None, None] * np.eye(2)
    theta = np.broadcast_to(starts, (len(ESTIMATORS), len(dampings), *starts.shape))
    path = np.empty((len(data.chosen) + 1, *theta.shape))
    path[0] = theta
    estimates = np.empty((len(data.chosen), 2, 2, 2))
    products = _products(data.train)
    with np.errstate(over="ignore", invalid="ignore"):
        for step, (chosen, levels) in enumerate(zip(data.chosen, data.levels, strict=True)):
            inputs = data.train[chosen]
            outputs = theta @ inputs.T
            mean = model.mean(outputs)
            drawn = model.family.quantile(outputs[0], levels) - mean[0]
            weights = np.stack([drawn * drawn, model.curvature(outputs[1])])
            fisher = np.empty((*theta.shape[:-1], 4))
            fisher[:2] = weights @ products[chosen] / len(chosen)
            fisher[2] = model.curvature(theta[2] @ data.train.T) @ products / len(products)
            fisher = fisher.reshape(*theta.shape, 2)
            estimates[step] = fisher[:2, main, 0]
            gradient = (mean - targets[chosen]) @ inputs / len(chosen)
            move = np.linalg.solve(fisher + damping, gradient[..., None])[..., 0]
            theta = theta - settings["learning_rate"] * move
            path[step + 1] = theta
    return path, estimates


def least(model: Model, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """θ of the greatest likelihood, by Newton's method: (2,).

    Raises
    ------
    UserError
        If there is none: labels that a line separates.
    """
    theta = np.zeros(2)
    for _ in range(50):
        outputs = inputs @ theta
        gradient = inputs.T @ (model.mean(outputs) - targets)
        hessian = inputs.T @ (model.curvature(outputs)[:, None] * inputs)
        if np.linalg.cond(hessian) > 1e8:
            break
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-10:
            return theta
    raise UserError(
        f"experiments.toy: the likelihood of {len(inputs)} points has no maximum; take more of them"
    )


# ------------------------------------------------------------------------------------ variances


def variances_over_plane(family: Gaussian | Bernoulli, theta: np.ndarray) -> np.ndarray:
    """V1 and V2 for x ~ N(0, Id) in the plane and one draw of (x, y), summed over the entries.

    In the direction of θ, h = |θ| z with z standard normal; across it |x|⁴ has the mean
    z⁴ + 2z² + 3.  What is left is an integral over z, by the trapezoidal rule in arsinh(h): it
    converges exponentially, also where the curvature of F is a peak of width 1/|θ|.

    Parameters
    ----------
    theta : array, (..., 2)

    Returns
    -------
    array, (2, ...)
    """
    radius = np.linalg.norm(theta, axis=-1)[..., None]
    scale = np.maximum(radius, 1)
    end = np.arcsinh(_REACH * scale.max())
    nodes = np.arange(-end, end + _SPACING, _SPACING)
    z = np.sinh(nodes) / scale
    weights = _SPACING * np.cosh(nodes) / scale * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    moments = family.central(radius * z)
    fourth = weights * (z**4 + 2 * z**2 + 3)
    along, across = ((weights * moments.variance * power).sum(-1) for power in (z * z, 1))
    inputs = (fourth * moments.variance**2).sum(-1) - along**2 - across**2
    return np.stack([inputs + (fourth * moments.square_variance).sum(-1), inputs])


_REACH = 12.0
"""Standard deviations to which the integral runs; beyond it is below 1e-25."""

_SPACING = 0.125


def moments_over_points(
    family: Gaussian | Bernoulli, theta: np.ndarray, inputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fisher matrix, and V1 and V2 summed over the entries, for x uniform on given points.

    Parameters
    ----------
    theta : array, (n, 2)
    inputs : array, (m, 2)

    Returns
    -------
    fisher : array, (n, 2, 2)
    variances : array, (2, n)
        Per draw of (x, y).
    """
    moments = family.central(theta @ inputs.T)
    fisher = (moments.variance @ _products(inputs) / len(inputs)).reshape(-1, 2, 2)
    fourth = (inputs**2).sum(axis=1) ** 2 / len(inputs)
    of_inputs = moments.variance**2 @ fourth - (fisher**2).sum(axis=(1, 2))
    return fisher, np.stack([of_inputs + moments.square_variance @ fourth, of_inputs])


def compare_draws(
    family: Gaussian | Bernoulli,
    path: np.ndarray,
    estimates: np.ndarray,
    inputs: np.ndarray,
    batch: int,
) -> dict[str, np.ndarray]:
    """Set the estimates that were drawn along two paths beside their exact variances there.

    Given θ, the squared distance of an estimate from the Fisher matrix has the summed variance as
    its mean; the sum over the steps of what it has more is a martingale.

    Parameters
    ----------
    path : array, (steps, 2, 2)
        θ before every step, by estimator.
    estimates : array, (steps, 2, 2, 2)
    inputs : array, (m, 2)
        Points of which a step draws `batch`.

    Returns
    -------
    dict of str to array
        ``squared_distance`` and ``expected_distance`` (2, steps), ``z`` (2,): the sum over the
        steps of the difference, in standard errors.
    """
    squared, expected = [], []
    for k in range(2):
        fisher, variances = moments_over_points(family, path[:, k], inputs)
        squared.append(((estimates[:, k] - fisher) ** 2).sum(axis=(1, 2)))
        expected.append(variances[k] / batch)
    found = {"squared_distance": np.stack(squared), "expected_distance": np.stack(expected)}
    excess = found["squared_distance"] - found["expected_distance"]
    return {**found, "z": excess.sum(axis=1) / np.sqrt((excess**2).sum(axis=1))}


def _products(inputs: np.ndarray) -> np.ndarray:
    """Outer product x xᵀ of every input, flat: (n, 4)."""
    return cast(np.ndarray, (inputs[:, :, None] * inputs[:, None, :]).reshape(-1, 4))


# ---------------------------------------------------------------------------------- a replicate


def run(settings: Mapping[str, Any], replicate: int) -> dict[str, xr.Dataset]:
    """One replicate of the experiment.

    Parameters
    ----------
    settings : mapping
        Block ``experiments.toy`` of the configuration, and ``seed``.
    replicate : int

    Returns
    -------
    dict of str to Dataset
        "descent": loss and θ by epoch, at the damping and start of the study, for both meanings
        of an epoch; "variance": both variances along these paths; "draws": the estimates drawn
        along them; "grid": losses at every damping and start; "reference": losses to measure
        them by.

    Raises
    ------
    UserError
        If the damping is not one of the dampings, the batch does not divide the training points,
        there are too few of them, or the descent diverges at the damping of the study.
    """
    if settings["damping"] not in settings["dampings"]:
        raise UserError(
            f"experiments.toy.damping: {settings['damping']} is not one of the dampings, "
            f"{settings['dampings']}"
        )
    data = draw_data(settings, replicate)
    parts = [_run_model(MODELS[name], data, settings) for name in MODELS]
    return {
        group: xr.concat([part[group] for part in parts], dim=xr.Variable("model", list(MODELS)))
        for group in parts[0]
    }


def _run_model(model: Model, data: Data, settings: Mapping[str, Any]) -> dict[str, xr.Dataset]:
    truth = np.asarray(settings["theta_true"], dtype=np.float64)
    train, test = data.targets(model, truth)
    path, estimates = descend(model, data, train, settings)
    every = steps_per_epoch(settings)
    main = list(settings["dampings"]).index(settings["damping"])
    followed = path[:, :, main, 0]
    if not np.isfinite(followed).all():
        raise UserError(
            f"experiments.toy.damping: the descent diverges at {settings['damping']}; take a "
            "greater one, or a smaller learning_rate"
        )
    by_epoch = np.stack([path[::every], path[: settings["training_epochs"] + 1]])
    epochs = np.arange(by_epoch.shape[1])

    def loss(theta: np.ndarray) -> np.ndarray:
        return model.loss(theta, data.test, test)

    return {
        "descent": _descent(by_epoch[:, :, :, main, 0], loss, epochs).assign_coords(
            damping=float(settings["damping"])
        ),
        "variance": _variance(model, by_epoch[:, :, :2, main, 0], data.train, settings, epochs),
        "draws": _draws(
            compare_draws(
                model.family, followed[:-1, :2], estimates, data.train, settings["batch"]
            ),
            every,
        ),
        "grid": _grid(by_epoch, loss, settings),
        "reference": _reference(
            {
                "true": truth,
                "fitted": least(model, data.train, train),
                "least": least(model, data.test, test),
            },
            loss,
        ),
    }


Loss = Callable[[np.ndarray], np.ndarray]


def _descent(path: np.ndarray, loss: Loss, epochs: np.ndarray) -> xr.Dataset:
    """Loss and θ by epoch, of a path (reading, epoch, estimator, 2)."""
    dims = ("reading", "epoch", "estimator")
    return xr.Dataset(
        {"negative_log_likelihood": (dims, loss(path)), "theta": ((*dims, "coordinate"), path)},
        coords={"reading": READINGS, "epoch": epochs, "estimator": ESTIMATORS},
    )


def _variance(
    model: Model,
    path: np.ndarray,
    points: np.ndarray,
    settings: Mapping[str, Any],
    epochs: np.ndarray,
) -> xr.Dataset:
    """Variance of each estimator on its own path (reading, epoch, estimator, 2)."""
    plane = [variances_over_plane(model.family, path[:, :, k])[k] for k in range(2)]
    flat = path.reshape(-1, 2, 2)
    drawn = [
        moments_over_points(model.family, flat[:, k], points)[1][k].reshape(path.shape[:2])
        for k in range(2)
    ]
    dims = ("estimator", "reading", "epoch")
    return xr.Dataset(
        {
            "summed_variance": (dims, np.stack(plane) / settings["batch"]),
            "summed_variance_points": (dims, np.stack(drawn) / settings["batch"]),
        },
        coords={"estimator": ESTIMATORS[:2], "reading": READINGS, "epoch": epochs},
    )


def _draws(found: Mapping[str, np.ndarray], every: int) -> xr.Dataset:
    """Means over the steps of an epoch."""
    by_epoch = {
        name: found[name].reshape(2, -1, every).mean(axis=2)
        for name in ("squared_distance", "expected_distance")
    }
    epochs = np.arange(1, by_epoch["squared_distance"].shape[1] + 1)
    return xr.Dataset(
        {
            **{name: (("estimator", "epoch"), values) for name, values in by_epoch.items()},
            "distance_z": ("estimator", found["z"]),
        },
        coords={"estimator": ESTIMATORS[:2], "epoch": epochs},
    )


def _grid(path: np.ndarray, loss: Loss, settings: Mapping[str, Any]) -> xr.Dataset:
    """What the losses of the last half of the epochs come to, at every damping and start.

    Infinite where the descent diverges.
    """
    late = loss(path[:, path.shape[1] // 2 :])
    quarter = late[:, late.shape[1] // 2 :]
    with np.errstate(over="ignore", invalid="ignore"):
        values = {
            "final_loss": late[:, -1],
            "mean_loss": late.mean(axis=1),
            "loss_deviation": quarter.std(axis=1),
            "loss_change": np.diff(late, axis=1).std(axis=1),
        }
    return xr.Dataset(
        {
            name: (
                ("reading", "estimator", "damping", "start"),
                np.where(np.isnan(one), np.inf, one),
            )
            for name, one in values.items()
        },
        coords={
            "reading": READINGS,
            "estimator": ESTIMATORS,
            "damping": np.asarray(settings["dampings"], dtype=np.float64),
            "start": [f"({first:g}, {second:g})" for first, second in settings["starts"]],
        },
    )


def _reference(points: Mapping[str, np.ndarray], loss: Loss) -> xr.Dataset:
    """Places that losses are measured by, and the losses there."""
    return xr.Dataset(
        {
            "theta_point": (("point", "coordinate"), np.stack(list(points.values()))),
            "point_loss": ("point", loss(np.stack(list(points.values())))),
        },
        coords={"point": list(points)},
    )
