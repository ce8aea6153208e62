"""What the report prints of the results of the paper, tried on random cases."""

from typing import Any

import xarray as xr


def theory_table(tree: xr.DataTree) -> dict[str, Any]:
    """How every result of the paper fared on random cases, and the counterexamples to misprints.

    Parameters
    ----------
    tree : DataTree
        The file that rule "theory" writes.
    """
    results, misprints = tree["results"].to_dataset(), tree["misprints"].to_dataset()
    rows = []
    for name in results["result"].values:
        one = results.sel(result=name)
        kind = str(one["kind"].item())
        rows.append(
            {
                "name": str(name),
                "function": str(one["function"].item()),
                "kind": kind,
                "cases": int(one["cases"]),
                "violations": int(one["violations"]),
                "largest": float(one["largest_violation"]),
                "tightest": float(one["tightest"]) if kind in ("bound", "misprint") else None,
            }
        )
    true = [row for row in rows if row["kind"] != "misprint"]
    return {
        "rows": rows,
        "true": len(true),
        "cases": sum(row["cases"] for row in true),
        "broken": [row["name"] for row in true if row["violations"]],
        "allowed": {
            kind: float(results["allowed"].where(results["kind"] == kind).max())
            for kind in ("bound", "simulation")
        },
        "misprints": [
            {
                "name": str(name),
                "setting": str(one["setting"].item()),
                **{key: float(one[key]) for key in ("value", "printed_bound", "corrected_bound")},
            }
            for k, name in enumerate(misprints["misprint"].values)
            for one in [misprints.isel(misprint=k)]
        ],
    }
