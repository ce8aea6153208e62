"""What the report prints of more networks than have a section each: a row for each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr


def contents(
    networks: Sequence[Mapping[str, Any]],
    datasets: Mapping[str, Mapping[str, xr.Dataset]],
    draws: int,
) -> dict[str, Any]:
    """What the template prints of all networks together.

    Parameters
    ----------
    networks : sequence of mapping
        What it prints of each, as `diagfim.report.networks.contents` has it.
    datasets : mapping of str to mapping of str to Dataset
        By network; of each, "fixed".
    draws : int
        N at which standard deviations are quoted.
    """
    return {
        "rows": [{**one, **noise(datasets[one["name"]]["fixed"], draws)} for one in networks],
        "claims": verdicts(networks),
    }


def noise(fixed: xr.Dataset, draws: int) -> dict[str, Any]:
    """Errors over all parameters of a network at the last epoch, median over replicates and inputs.

    Of each estimator the root of the mean variance, in units of the mean information; the share of
    the parameters for which the score-based one varies less; how many bounds are broken, and the
    bound of Theorem 5.2 on either variance in units of it.
    """
    last = fixed.isel(epoch=-1)
    size = last["bounds_checked"].isel(quantity=0, bound=0)
    share = size / size.sum("layer")
    total = {
        name: (share * last[name]).sum("layer")
        for name in ("fisher", "exact_variance", "score_better")
    }
    relative = (total["exact_variance"] / draws) ** 0.5 / total["fisher"]
    bound = (share * last["bound_variance"].sel(bound="theorem 5.2")).sum("layer")
    loose = bound / total["exact_variance"]
    return {
        "broken": int(fixed["bounds_broken"].sum()),
        "score_better": float(total["score_better"].median()),
        **{
            name: {
                "noise": float(relative.sel(estimator=name).median()),
                "loose": float(loose.sel(estimator=name).median()),
            }
            for name in ("score", "hessian")
        },
    }


def verdicts(networks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Claims by the number of networks in which they are reproduced, of those they are about."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in networks:
        for claim in one["claims"]:
            found.setdefault((claim.source, claim.statement), []).append(claim.verdict)
    return [
        {
            "source": source,
            "statement": statement,
            "reproduced": some.count("reproduced"),
            "networks": len(some),
        }
        for (source, statement), some in found.items()
    ]
