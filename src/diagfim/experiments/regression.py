"""A network with Gaussian outputs, where Theorem 4.1 holds with equality (Proposition 5.1).

Images are rotated, and a network is to tell the angle: y = (cos α, sin α), modelled as N(h, s² 1).
With s = 1, I = ‖∂_i h‖², V1 = 2‖∂_i h‖⁴ and V2 = ‖∂²_i h‖²; they go as s⁻², s⁻⁴ and s⁻², so that
Î2 varies less below the noise s = √2 ‖∂_i h‖² / ‖∂²_i h‖.

In a dense layer both norms are those by the unit, ‖G‖² and ‖S‖², times a² and a⁴, so that at one
input V2/V1 is the same for all weights into a unit, and both relative standard deviations are.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diagfim import analysis, bounds, networks, spectra, training
from diagfim.derivatives import dense, storage
from diagfim.derivatives.factored import AffineFactors, Derivatives
from diagfim.errors import UserError
from diagfim.families import Gaussian
from diagfim.moments import AVERAGED
from diagfim.seeding import InputStreams, integer, stream

BOUNDED = AVERAGED[:3]
"""The quantities that Theorem 4.1 bounds, in its order."""
LEVELS = ("unit", "fitted")
"""Noise of the model: s = 1 as in the paper, and the residuals' own."""
CHI_SQUARED_KURTOSIS = 12.0
"""Excess kurtosis of a squared normal variable."""
AT_ONCE = 2000
"""Images rotated together; bounds the memory."""


def replicate(
    settings: Mapping[str, Any], images: Mapping[str, np.ndarray], number: int
) -> dict[str, xr.Dataset]:
    """Train one network and look at both estimators.

    Parameters
    ----------
    settings : mapping
        Block ``experiments.regression`` of the configuration, with ``seed``.
    images : mapping of str to array
        "train" and "test", (n, rows, columns) of grey levels 0 to 255.
    number : int
        Of the replicate.

    Returns
    -------
    dict of str to Dataset
        Groups "training", "noise", "averages", "equality" and "draws".

    Raises
    ------
    UserError
        If more inputs are wanted than the pool has.
    """
    if settings["inputs"] > settings["pool"]:
        raise UserError(
            f"experiments.regression.inputs: {settings['inputs']} of a pool of {settings['pool']}; "
            "make pool as large at least"
        )
    seed = integer(settings["seed"], "regression", number)
    train_set, pool = (
        rotated_set(images[half][: settings[size]], settings["largest_angle"], seed, half)
        for half, size in (("train", "samples"), ("test", "pool"))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, "initialisation"))
        model = networks.mlp(
            train_set[0].shape[1], settings["hidden"], 2, settings["activation"], 0
        )
    inputs, angles = pool[0].double(), pool[1].numpy()
    options = {key: settings[key] for key in ("batch_size", "learning_rate")}
    history = []
    for _ in train(model, *train_set, epochs=settings["training_epochs"], seed=seed, **options):
        double = copy.deepcopy(model).double().eval()
        derivatives = dense.derivatives(double, inputs)
        fit = residuals(derivatives.outputs.numpy(), angles)
        history.append(fit.merge(comparison(derivatives, float(fit["noise_deviation"]))))
    fitted = float(history[-1]["noise_deviation"])
    some = stream(seed, "inputs").choice(len(inputs), settings["inputs"], replace=False)
    handful = dense.derivatives(double, inputs[torch.from_numpy(some)])
    return {
        "training": xr.concat(
            history, xr.DataArray(range(len(history)), dims="epoch", name="epoch")
        ),
        "noise": against_noise(derivatives, settings["noise"]),
        "averages": averages(double, inputs, derivatives, fitted),
        "equality": equality(handful),
        "draws": agreement(handful, settings["draws"], settings["repetitions"], seed),
    }


# ---------------------------------------------------------------------------------- the network


def rotated_set(images: np.ndarray, largest: float, seed: int, half: str) -> tuple[Tensor, Tensor]:
    """Network inputs (n, features) of randomly rotated images, and their angles (n,) in radians."""
    degrees = stream(seed, half, "angles").uniform(-largest, largest, len(images))
    angles = torch.from_numpy(np.deg2rad(degrees))
    turned = [
        rotate(torch.from_numpy(images[start : start + AT_ONCE]), angles[start : start + AT_ONCE])
        for start in range(0, len(images), AT_ONCE)
    ]
    return training.images_to_inputs(torch.cat(turned), torch.float32), angles


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate counterclockwise about the centre, bilinear, with nothing beyond the borders.

    Parameters
    ----------
    images : tensor, (n, rows, columns)
    angles : tensor, (n,)
        Radians.

    Returns
    -------
    tensor, (n, rows, columns)
        float32.
    """
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = (torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1))
    places = torch.stack(rows, dim=1).float()
    stacked = images[:, None].float()
    grid = nn.functional.affine_grid(places, list(stacked.shape), align_corners=False)
    return nn.functional.grid_sample(stacked, grid, align_corners=False)[:, 0]


def targets(angles: Tensor) -> Tensor:
    """(cos α, sin α): (n,) to (n, 2)."""
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def train(
    model: nn.Module,
    inputs: Tensor,
    angles: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Iterator[int]:
    """Train by Adam on ‖y − h‖²/2, minus the log-likelihood at unit variance but for a constant.

    Yields
    ------
    int
        Epochs done: 0 before the first one, then after each.
    """
    expected = targets(angles).float()
    shuffle = torch.Generator().manual_seed(integer(seed, "order"))
    step = torch.optim.Adam(model.parameters(), lr=learning_rate)
    yield 0
    for number in range(1, epochs + 1):
        for batch in torch.randperm(len(inputs), generator=shuffle).split(batch_size):
            step.zero_grad()
            loss = (model(inputs[batch]) - expected[batch]).square().sum(dim=1).mean() / 2
            loss.backward()
            step.step()
        yield number


def residuals(outputs: np.ndarray, angles: np.ndarray) -> xr.Dataset:
    """Root mean square error of the angle, and the noise s that is likeliest at these residuals.

    Parameters
    ----------
    outputs : array, (n, 2)
    angles : array, (n,)
        Radians.

    Returns
    -------
    Dataset
        ``angle_error`` in degrees and ``noise_deviation``, s² being the mean squared residual.
    """
    expected = targets(torch.from_numpy(angles)).numpy()
    error = np.rad2deg(np.arctan2(outputs[:, 1], outputs[:, 0]) - angles)
    error = (error + 180) % 360 - 180
    return xr.Dataset(
        {
            "angle_error": np.sqrt(np.mean(error**2)),
            "noise_deviation": np.sqrt(np.mean((outputs - expected) ** 2)),
        }
    )


# ------------------------------------------------------------------------- which one varies less


def comparison(derivatives: Derivatives, fitted: float) -> xr.Dataset:
    """V2 against V1 over inputs and units of every layer, at s = 1 and at the fitted s.

    Returns
    -------
    Dataset
        ``variance_ratio`` (layer), the median of V2/V1 at s = 1, and ``hessian_better`` (level,
        layer), the share with V2 < V1.
    """
    ratios: dict[str, list[np.ndarray]] = {level: [] for level in LEVELS}
    for level, deviation in zip(LEVELS, (1.0, fitted), strict=True):
        for layer in derivatives.layers:
            _, variance_1, variance_2 = _unit_moments(derivatives, layer, deviation)
            ratios[level].append(variance_2 / variance_1)
    better = [[np.mean(ratio < 1) for ratio in ratios[level]] for level in LEVELS]
    return xr.Dataset(
        {
            "variance_ratio": ("layer", [np.median(ratio) for ratio in ratios["unit"]]),
            "hessian_better": (("level", "layer"), better),
        },
        coords={"level": list(LEVELS), "layer": _names(derivatives)},
    )


def against_noise(derivatives: Derivatives, noise: Sequence[float]) -> xr.Dataset:
    """Both estimators' relative standard deviations at one draw, by the noise s.

    Returns
    -------
    Dataset
        Over inputs and units of every layer: medians ``relative_deviation_1`` and
        ``relative_deviation_2`` (noise, layer) of √V/I, the share ``hessian_better`` with V2 < V1,
        and the median ``crossing`` (layer) of the s at which V1 = V2; infinite where V2 = 0.
    """
    found = np.empty((3, len(noise), len(derivatives.layers)))
    crossing = []
    for column, layer in enumerate(derivatives.layers):
        for row, deviation in enumerate(noise):
            fisher, variance_1, variance_2 = _unit_moments(derivatives, layer, deviation)
            found[:, row, column] = (
                np.median(np.sqrt(variance_1) / fisher),
                np.median(np.sqrt(variance_2) / fisher),
                np.mean(variance_2 < variance_1),
            )
        _, variance_1, variance_2 = _unit_moments(derivatives, layer, 1.0)
        with np.errstate(divide="ignore"):
            crossing.append(np.median(np.sqrt(variance_1 / variance_2)))
    dims = ("noise", "layer")
    return xr.Dataset(
        {
            "relative_deviation_1": (dims, found[0]),
            "relative_deviation_2": (dims, found[1]),
            "hessian_better": (dims, found[2]),
            "crossing": ("layer", crossing),
        },
        coords={"noise": list(noise), "layer": _names(derivatives)},
    )


def averages(
    model: nn.Module, inputs: Tensor, derivatives: Derivatives, fitted: float
) -> xr.Dataset:
    """Moments averaged over the inputs, parameter by parameter, and their medians by layer.

    Weights on pixels that are dark in every image have no information and are left out.

    Parameters
    ----------
    model : torch.nn.Module
        float64.
    inputs : tensor, (n, features)
    derivatives : Derivatives
        Of the model at these inputs.
    fitted : float
        The fitted s.

    Returns
    -------
    Dataset
        By layer: the number of ``parameters`` with information; medians at s = 1 of ``fisher``,
        ``variance_1`` and ``variance_2`` (E_x V); by level of the noise ``hessian_better``, the
        share with E_x V2 < E_x V1; the median ``input_share`` (level, estimator) that Var_x I has
        in the variance of one draw of (x, y); and of the bound of Lemma 4.8, which Proposition 5.1
        makes E_x‖∂_i h‖⁴: the largest and median ratio of Var_x I to it.
    """
    tree = analysis.analyze(model, inputs, "gaussian")
    rows = []
    for layer in derivatives.layers:
        nodes = [tree[name].dataset for name in layer.parameters]
        values = {
            quantity: np.concatenate([node[quantity].values.ravel() for node in nodes])
            for quantity in (*BOUNDED, "input_variance")
        }
        values["bound"] = _by_parameter(layer, bound_on_input_variance(layer))
        lit = values["fisher"] > 0
        rows.append(_averages_of({key: value[lit] for key, value in values.items()}, fitted))
    index = xr.DataArray(_names(derivatives), dims="layer", name="layer")
    return xr.concat(rows, index)


def bound_on_input_variance(layer: AffineFactors) -> Tensor:
    """Lemma 4.8 with Proposition 5.1 at s = 1, E_x‖∂_i h‖⁴: (units, columns)."""
    norms = layer.first.square().sum(dim=1)
    found: Tensor = layer.total(norms.square(), 4) / len(norms)
    return found


def _averages_of(values: Mapping[str, np.ndarray], fitted: float) -> xr.Dataset:
    """What `averages` finds of one layer, from values by parameter."""
    variance_1, spread = values["variance_1"], values["input_variance"]
    better, shares = [], []
    for deviation in (1.0, fitted):
        # In units of s⁻⁴, which V1 and Var_x I go as.
        variance_2 = values["variance_2"] * deviation**2
        better.append(np.mean(variance_2 < variance_1))
        totals = spread + variance_1, spread + variance_2
        shares.append([_median_share(spread, total) for total in totals])
    ratio = spread / values["bound"]
    return xr.Dataset(
        {
            "parameters": spread.size,
            **{quantity: np.median(values[quantity]) for quantity in BOUNDED},
            "hessian_better": ("level", better),
            "input_share": (("level", "estimator"), shares),
            "lemma_ratio": np.median(ratio),
            "lemma_largest": np.max(ratio),
        },
        coords={"level": list(LEVELS), "estimator": ["score", "hessian"]},
    )


def _median_share(part: np.ndarray, total: np.ndarray) -> float:
    """Median of part/total over the positive totals: some estimates do not vary at all."""
    positive = total > 0
    return float(np.median(part[positive] / total[positive]))


# ------------------------------------------------------------------------------------- equality


def equality(derivatives: Derivatives) -> xr.Dataset:
    """Moments of every parameter against the bounds of Theorem 4.1, at every input.

    With the eigenvalues of Proposition 5.1 the lower and the upper bound are one.

    Parameters
    ----------
    derivatives : Derivatives
        At a handful of inputs.

    Returns
    -------
    Dataset
        ``equality_deviation`` (layer, quantity), the largest |value/bound − 1|, infinite if one
        of the two is zero alone; ``largest_covariance`` (layer), that of |C12|, which is to
        vanish; ``checked`` (layer), how many parameters at how many inputs; and
        ``eigenvalue_deviation``, how far the eigenvalues of the covariance and the tensor of t(y)
        may be from those of Proposition 5.1, relative, by their proven bounds.
    """
    family = Gaussian()
    kept = storage.to_numpy(derivatives)
    expected = bounds.proposition_5_1(np.array(1.0))
    found = np.zeros((len(kept.layers), len(BOUNDED)))
    covariance, checked = np.zeros(len(kept.layers)), np.zeros(len(kept.layers), dtype=int)
    for one in kept.split():
        norms, _ = bounds.squared_norms(one)
        for row, layer in enumerate(one.layers):
            moments = family.moments(one.outputs, layer.first, layer.second)
            covariance[row] = max(covariance[row], np.abs(moments.covariance_12).max())
            for name in layer.parameters:
                first, second = norms[name]["first_squared"], norms[name]["second_squared"]
                checked[row] += first.size
                deviations = [
                    _deviation(layer.expand(getattr(moments, quantity), power)[name], bound)
                    for quantity, power, bound in zip(
                        BOUNDED,
                        (2, 4, 4),
                        bounds.theorem_4_1(first, second, *expected),
                        strict=True,
                    )
                ]
                found[row] = np.maximum(found[row], deviations)
    return xr.Dataset(
        {
            "equality_deviation": (("layer", "quantity"), found),
            "largest_covariance": ("layer", covariance),
            "checked": ("layer", checked),
            "eigenvalue_deviation": _eigenvalue_deviation(family, kept.outputs),
        },
        coords={"layer": _names(derivatives), "quantity": list(BOUNDED)},
    )


def _eigenvalue_deviation(family: Gaussian, outputs: np.ndarray) -> float:
    """Largest relative distance of the eigenvalues' proven bounds from Proposition 5.1."""
    of_fisher = spectra.fisher_eigenvalues(family.covariance(outputs))
    least, largest = family.tensor_eigenvalues(outputs)
    expected = bounds.proposition_5_1(family.variance)
    found = np.array([of_fisher, (least.lower, largest.upper)])
    return float(np.abs(found / np.reshape(expected, (2, 1, 1)) - 1).max())


def _deviation(values: np.ndarray, limits: np.ndarray) -> float:
    """Largest |value/limit − 1|, 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((values == 0) & (limits == 0), 1.0, values / limits)
    return float(np.max(np.abs(ratios - 1)))


# ---------------------------------------------------------------------------------------- draws


def agreement(derivatives: Derivatives, draws: int, repetitions: int, seed: int) -> xr.Dataset:
    """Means and variances of simulated estimates against I, V1/N and V2/N, in standard errors.

    A weight's deviation is that of its unit, since both are multiplied by the same power of a.  The
    excess kurtosis of one draw is 12 for Î1, ‖∂h‖² times a squared normal variable, and 0 for Î2.

    Parameters
    ----------
    derivatives : Derivatives
        At a handful of inputs.
    draws : int
        N of an estimate.
    repetitions : int
        Estimates at each input.
    seed : int

    Returns
    -------
    Dataset
        (layer, estimator, statistic): ``tests``, the number of units at inputs with a positive
        variance; ``within_two``, the share of them within two standard errors; and ``largest``.
    """
    family = Gaussian()
    n = len(derivatives.outputs)
    streams = InputStreams(integer(seed, "draws"), 0, n)
    sampled = family.sample(derivatives.outputs, repetitions * draws, streams)
    noise = sampled.reshape(n, repetitions, draws, -1)
    scatter = torch.einsum("nrkt,nrku->nrtu", noise, noise) / draws
    means = noise.mean(dim=2)
    found = np.zeros((3, len(derivatives.layers), 2, 2))
    for row, layer in enumerate(derivatives.layers):
        moments = family.moments(derivatives.outputs, layer.first, layer.second)
        along = torch.einsum("nrtu,nti->nrui", scatter, layer.first)
        estimates = (
            (along * layer.first[:, None]).sum(dim=2),
            moments.fisher[:, None] - means @ layer.second,
        )
        exact = (moments.variance_1, CHI_SQUARED_KURTOSIS), (moments.variance_2, 0.0)
        for column, (estimate, (variance, kurtosis)) in enumerate(
            zip(estimates, exact, strict=True)
        ):
            deviations = _standard_errors(
                estimate.numpy(), moments.fisher.numpy(), variance.numpy() / draws, kurtosis / draws
            )
            for k, z in enumerate(deviations):
                found[:, row, column, k] = _summary(z)
    dims = ("layer", "estimator", "statistic")
    return xr.Dataset(
        {
            "tests": (dims, found[0].astype(int)),
            "within_two": (dims, found[1]),
            "largest": (dims, found[2]),
        },
        coords={
            "layer": _names(derivatives),
            "estimator": ["score", "hessian"],
            "statistic": ["mean", "variance"],
        },
    )


def _standard_errors(
    estimates: np.ndarray, mean: np.ndarray, variance: np.ndarray, kurtosis: float
) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of sample means and sample variances where the variance is positive.

    Parameters
    ----------
    estimates : array, (n, repetitions, units)
    mean, variance : array, (n, units)
        Exact, of one estimate.
    kurtosis : float
        Excess kurtosis of one estimate.
    """
    number = estimates.shape[1]
    some = variance > 0
    true = variance[some]
    of_mean = (estimates.mean(axis=1) - mean)[some] / np.sqrt(true / number)
    relative = np.sqrt(2 / (number - 1) + kurtosis / number)
    of_variance = (estimates.var(axis=1, ddof=1)[some] / true - 1) / relative
    return of_mean, of_variance


def _summary(z: np.ndarray) -> tuple[float, float, float]:
    size = np.abs(z)
    return z.size, np.mean(size <= 2) if z.size else np.nan, np.max(size, initial=0.0)


# -------------------------------------------------------------------------------------- helpers


def _unit_moments(
    derivatives: Derivatives, layer: AffineFactors, deviation: float
) -> tuple[np.ndarray, ...]:
    """I, V1 and V2 by the sums into the units, at noise s: each (n, units)."""
    moments = Gaussian(deviation**2).moments(derivatives.outputs, layer.first, layer.second)
    return tuple(getattr(moments, quantity).numpy() for quantity in BOUNDED)


def _by_parameter(layer: AffineFactors, full: Tensor) -> np.ndarray:
    """Weights, then biases, flat, from (units, columns)."""
    weights, biases = full[:, : layer.fan_in], full[:, layer.fan_in :]
    return torch.cat([weights.flatten(), biases.flatten()]).numpy()


def _names(derivatives: Derivatives) -> list[str]:
    return [layer.weight.removesuffix(".weight") for layer in derivatives.layers]
