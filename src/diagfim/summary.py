"""A network's Fisher diagonal in a table, a row for each layer."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from diagfim.arrays import ALL, layer_sums
from diagfim.planning import plan
from diagfim.variances import draw_variances, inputs_of, tells, values_of

BOTH = ("score", "hessian")
"""The two standard estimators, of which a table names the better one."""


def summarize(
    tree: xr.DataTree, relative_error: float = 0.1, confidence: float = 0.95
) -> pd.DataFrame:
    """The Fisher diagonal by layer: how large, how certain, and how to estimate it.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` or `estimate` returned.
    relative_error, confidence : float
        What ``draws`` is to reach in a layer, as for `plan`.

    Returns
    -------
    pandas.DataFrame
        A row per layer, which is what the parameters of a module make up, and a last one,
        "(every layer)", with the columns

        - ``parameters``, their number;
        - ``fisher``, the root mean square over them of the Fisher information;
        - ``standard_error``, that of the standard errors.  Its share of ``fisher`` is the expected
          relative error in the norm, √(E‖Î − I‖²) / ‖I‖, of the diagonal as an estimate of that
          over the distribution which the inputs were drawn from.  That of an exact diagonal is from
          the inputs alone.  NaN for a single input, absent if `estimate` was not to compute it.

        and for what `analyze` returned, of the score-based and the Hessian-based estimator at the
        analysed inputs,

        - ``better``, the one of smaller variance in the layer, "either" if they are
          equal; in the last row the one that is right in every layer with fewer draws;
        - ``draws``, how many that one takes at each input by the rule "clt" of `plan`.

    Raises
    ------
    UserError
        If the tree is none of those, or an option cannot be used.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> table = diagfim.summarize(diagfim.analyze(model, torch.rand(100, 3)))
    >>> table["parameters"].to_dict()
    {'0': 16, '2': 10, '(every layer)': 26}
    >>> table.loc["2", "better"]
    'hessian'
    """
    fisher = values_of(tree, "fisher")
    parameters = layer_totals({name: np.ones(value.shape) for name, value in fisher.items()})
    found = {
        "parameters": parameters.astype(int),
        "fisher": (layer_totals({n: value**2 for n, value in fisher.items()}) / parameters) ** 0.5,
    }
    squared = squared_errors(tree)
    if squared is not None:
        found["standard_error"] = (layer_totals(squared) / parameters) ** 0.5
    table = pd.DataFrame(found)
    if tells(tree, "variance_1"):
        table = table.join(_better(tree, relative_error, confidence))
    return table.rename_axis("layer")


def squared_errors(tree: xr.DataTree) -> dict[str, np.ndarray] | None:
    """Squared standard errors by parameter, of an exact diagonal from the spread over the inputs.

    None where the tree tells of no error; NaN for a single input.
    """
    if tells(tree, "standard_error"):
        return {name: one**2 for name, one in values_of(tree, "standard_error").items()}
    if not tells(tree, "input_variance"):
        return None
    freedom = inputs_of(tree) - 1
    return {
        name: one / freedom if freedom else np.full_like(one, np.nan)
        for name, one in values_of(tree, "input_variance").items()
    }


def _better(tree: xr.DataTree, relative_error: float, confidence: float) -> pd.DataFrame:
    """The better one of two estimators, and its draws, by layer."""
    planned = plan(tree, relative_error, confidence, estimators=BOTH)
    needed = planned["draws_per_input"].sel(rule="clt").transpose("estimator", "layer").values
    score, hessian = (layer_totals(draw_variances(tree, name)) for name in BOTH)
    better = np.select([score < hessian, hessian < score], BOTH, "either")
    # One estimator for all layers is as good as it is in its worst one.
    if needed[0, -1] != needed[1, -1]:
        better[-1] = BOTH[needed[:, -1].argmin()]
    draws = needed.min(axis=0)
    if np.isfinite(draws).all():
        draws = draws.astype(int)
    return pd.DataFrame({"better": better, "draws": draws}, index=score.index)


def layer_totals(values: Mapping[str, np.ndarray]) -> pd.Series:
    """Sums over the parameters of each layer, and over all."""
    sums = layer_sums(values)
    return pd.Series({**sums, ALL: sum(sums.values())})
