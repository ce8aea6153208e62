"""What the report prints of the networks of the study: tables and pooled tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from diagfim import claims
from diagfim.arrays import short_layer
from diagfim.latex import Tex


def layer_table(fixed: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer at the last epoch: medians over replicates and inputs."""
    last = fixed.isel(epoch=-1)
    middle = last.median([dim for dim in ("replicate", "input") if dim in last.dims])
    rows = []
    for layer in fixed["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": short_layer(str(layer)),
            "fisher": float(one["fisher"]),
            "score_better": float(one["score_better"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            exact = float(of["exact_variance"])
            row[name] = {
                "std": np.sqrt(exact / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                **{
                    kind: float(of["bound_variance"].sel(bound=bound)) / exact
                    if exact
                    else float("nan")
                    for kind, bound in (("theorem", "theorem 5.2"), ("true", "true eigenvalue"))
                },
            }
        rows.append(row)
    return rows


def joint_table(joint: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer over the test set, at the last epoch."""
    middle = joint.isel(epoch=-1).median("replicate")
    rows = []
    for layer in joint["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": short_layer(str(layer)),
            "fisher": float(one["fisher"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            row[name] = {
                "std": np.sqrt(float(of["exact_variance"]) / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                "share": float(of["input_share"]),
            }
        rows.append(row)
    return rows


def contents(
    datasets: Mapping[str, Mapping[str, xr.Dataset]],
    draws: Mapping[str, int],
    activations: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    """What the template prints of each network.

    Parameters
    ----------
    datasets : mapping of str to mapping of str to Dataset
        By network, then "history", "fixed" and, for some, "joint" and "spectra".
    draws : mapping of str to int
        Recorded N of "fixed" and "joint".
    activations : mapping of str to str or None
        Activation of each network of the study, None for a user's own.
    """
    found = []
    for network, one in datasets.items():
        accuracy = one["history"]["accuracy"].isel(epoch=-1)
        fixed = one["fixed"]
        checked = fixed["bounds_checked"].isel(quantity=0, bound=0, replicate=0, epoch=0, input=0)
        found.append(
            {
                "name": network,
                "own": activations[network] is None,
                "parameters": int(checked.sum()),
                "stages": fixed.sizes["epoch"],
                "labelled": bool(accuracy.notnull().all()),
                "accuracy": {
                    "mean": float(accuracy.mean()),
                    "least": float(accuracy.min()),
                    "greatest": float(accuracy.max()),
                },
                "replicates": accuracy.size,
                "positions": sorted(int(p) for p in fixed["position"].values.ravel()),
                "layers": layer_table(fixed, draws["fixed"]),
                "joint": joint_table(one["joint"], draws["joint"]) if "joint" in one else [],
                "claims": claims.decide(dict(one), draws["fixed"], activations[network]),
                "bounds": bound_table(fixed),
                "spectra": spectra_table(one["spectra"]) if "spectra" in one else [],
                "pool": one["spectra"].sizes["input"] if "spectra" in one else 0,
                "agreement": [
                    {
                        "where": where,
                        "what": statistic,
                        "normal_limit": pooled.normal_limit,
                        "probability": pooled.probability,
                        **vars(pooled),
                    }
                    for kind, where in (("fixed", "one input"), ("joint", "test set"))
                    if kind in one
                    for statistic in ("mean", "variance")
                    for pooled in [claims.family(one[kind], statistic)]
                ],
            }
        )
    return found


def bound_table(fixed: xr.Dataset) -> list[dict[str, Any]]:
    """Bounds checked and broken, and the tightest, by quantity and kind of bound."""
    names = {"fisher": r"\(I\)", "variance_1": r"\(V_1\)", "variance_2": r"\(V_2\)"}
    over = [dim for dim in fixed["tightest"].dims if dim not in ("quantity", "bound")]
    return [
        {
            "key": quantity,
            "quantity": Tex(names[quantity]),
            "bound": "Theorem 5.2" if bound == "theorem 5.2" else "largest eigenvalue",
            "checked": int(fixed["bounds_checked"].sel(quantity=quantity, bound=bound).sum()),
            "broken": int(fixed["bounds_broken"].sel(quantity=quantity, bound=bound).sum()),
            "tightest": float(fixed["tightest"].max(over).sel(quantity=quantity, bound=bound)),
        }
        for quantity in names
        for bound in fixed["bound"].values
    ]


def spectra_table(spectra: xr.Dataset) -> list[dict[str, Any]]:
    """Rows by eigenvalue: its median, how loose Theorem 5.2 is, and how well it is proven."""
    names = {
        "fisher": r"\(\lambda_{\max}(I)\)",
        "moment": r"\(\tilde\lambda_{\max}(K)\)",
        "tensor": r"\(\tilde\lambda_{\max}(M)\)",
    }
    rows = []
    for prefix, name in names.items():
        value = spectra[f"{prefix}_lambda_max"]
        row: dict[str, Any] = {
            "key": f"{prefix}_lambda_max",
            "name": Tex(name),
            "median": float(value.median()),
            "slack": None,
            "gap": None,
        }
        if f"{prefix}_lambda_bound" in spectra:
            slack = spectra[f"{prefix}_lambda_bound"] / value
            row["slack"] = {"median": float(slack.median()), "largest": float(slack.max())}
        if f"{prefix}_lambda_upper" in spectra:
            gap = spectra[f"{prefix}_lambda_upper"] / value - 1
            row["gap"] = {"largest": float(gap.max()), "wide": int((gap > 0.01).sum())}
        rows.append(row)
    return rows
