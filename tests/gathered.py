"""A gathered comparison of one network with known properties, to be bent by the tests."""

import numpy as np
import xarray as xr

LAYERS = ["dense1", "dense2", "dense3", "dense4"]
DRAWS = [100, 1000, 5000]
EPOCHS = np.arange(9)


def gathered(replicates=3):
    """Datasets in which every claim of the paper holds, by construction."""
    coords = {
        "replicate": np.arange(replicates),
        "layer": LAYERS,
        "epoch": EPOCHS,
        "input": [0],
        "estimator": ["score", "hessian"],
        "draws": DRAWS,
        "bound": ["theorem 5.2", "true eigenvalue"],
        "quantity": ["fisher", "variance_1", "variance_2"],
        "statistic": ["mean", "variance"],
    }

    def full(value, *dims):
        return xr.DataArray(value, {d: coords[d] for d in dims}, dims) if dims else value

    # Variances rise fast, then hardly; V1 < V2 but in the last layer, where V2 is 0 and V1 largest.
    time = full(np.minimum(EPOCHS, 2) + 0.01 * EPOCHS, "epoch")
    by_layer = full([1.0, 2.0, 3.0, 50.0], "layer")
    score = np.exp(-20.0) * DRAWS[-1] * by_layer * np.exp(time - 2)
    hessian = score * full([4.0, 4.0, 4.0, 0.0], "layer")
    exact = xr.concat([score, hessian], dim="estimator").assign_coords(
        estimator=["score", "hessian"]
    )
    shape = full(1.0 + 0.01 * np.arange(replicates), "replicate") * full([1.0], "input")
    exact = exact * shape
    looseness = full([50.0, 10.0], "estimator") * full([1.0, 0.5], "bound")
    counted = exact.sel(estimator="score", drop=True)
    fisher = counted**0.5 * 0.1
    checks = full(np.ones((2, 2)), "estimator", "statistic") * (counted > 0)
    fixed = xr.Dataset(
        {
            "exact_variance": exact,
            "mixed_variance": exact.min("estimator") / 2,
            "bound_variance": exact * looseness,
            "bound_fisher": fisher * full([3.0, 2.0], "bound"),
            "fisher": fisher,
            "empirical_fisher": fisher * full(np.ones((2, 3)), "estimator", "draws"),
            "empirical_variance": exact / full(np.array(DRAWS, float), "draws"),
            "bounds_checked": full(np.full((3, 2), 10), "quantity", "bound") * (counted > 0),
            "bounds_broken": full(np.zeros((3, 2), int), "quantity", "bound") * (counted > 0),
            "tightest": full(np.full((3, 2), 0.9), "quantity", "bound") * (counted > 0),
            "score_better": full([1.0, 1.0, 1.0, 0.0], "layer") * (counted > 0),
            "tests": (100 * checks).astype(int),
            "constants": (7 * checks).astype(int),
            "wrong_constants": (0 * checks).astype(int),
            "largest": 3.0 * checks,
            "beyond": (0 * checks).astype(int),
            "within_two": 0.95 * checks,
            "exponent": 4.5 * checks,
            "normal_tests": (90 * checks).astype(int),
            "normal_beyond": (0 * checks).astype(int),
            "normal_largest": 3.0 * checks,
            "other_labels": full(np.full((len(EPOCHS), 1, 3), 1e5), "epoch", "input", "draws")
            * (counted.isel(layer=0, drop=True) > 0),
            "position": (("replicate", "input"), 7 + np.arange(replicates)[:, None]),
        }
    )
    joint = fixed.drop_vars(["bound_variance", "bound_fisher", "position"]).isel(input=0, drop=True)
    joint = joint.assign(input_share=joint["exact_variance"] * 0 + 0.25)
    history = xr.Dataset(
        {
            "loss": full(np.ones((replicates, 2, len(EPOCHS))), "replicate", "statistic", "epoch")
            .rename(statistic="set")
            .assign_coords(set=["train", "test"]),
            "accuracy": full(np.full((replicates, len(EPOCHS)), 0.975), "replicate", "epoch"),
        }
    )
    spectrum = xr.DataArray([0.1, 0.2, 0.4, 0.3], dims="input").expand_dims(replicate=replicates)
    spectra = xr.Dataset(
        {
            "fisher_lambda_max": spectrum,
            "fisher_lambda_bound": 2 * spectrum,
            "moment_lambda_max": spectrum,
            "moment_lambda_upper": spectrum,
            "tensor_lambda_max": spectrum / 2,
            "tensor_lambda_upper": spectrum
            / 2
            * xr.DataArray([1.005, 1.0, 1.03, 1.0], dims="input"),
            "tensor_lambda_bound": spectrum * xr.DataArray([1.0, 2.0, 3.0, 10.0], dims="input"),
        }
    )
    return {"fixed": fixed, "joint": joint, "history": history, "spectra": spectra}
