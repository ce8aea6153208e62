"""What the report prints of the results of the paper, tried on random cases."""

from typing import Any

import xarray as xr

from diagfim.claims import Claim


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


def claims(table: dict[str, Any]) -> list[Claim]:
    """Claims that are theorems, decided on random cases, and the misprints.

    Parameters
    ----------
    table : dict
        What `theory_table` returned.
    """
    units = [row for row in table["rows"] if row["name"].startswith("Remark")]
    true = [row for row in table["rows"] if row["kind"] != "misprint"]
    return [
        _theorem("Every numbered result holds (as corrected).", true, "Secs. 3--6, App."),
        _theorem(
            "V2 = 0 in the last layer; in the one before, 0 at z = 0 of a sigmoid, vanishing with "
            "V1 where it saturates, and without V1 for SoftPlus as z grows.",
            units,
            "Rems. 4.4, 4.5",
        ),
        *(
            Claim(
                f"{one['name']}.",
                f"{one['setting']}: {one['value']:g} against a bound of {one['printed_bound']:g}; "
                f"corrected {one['corrected_bound']:g}",
                "corrected",
                "erratum",
            )
            for one in table["misprints"]
        ),
    ]


def _theorem(statement: str, rows: list[dict[str, Any]], source: str) -> Claim:
    broken = sum(row["violations"] for row in rows)
    cases = sum(row["cases"] for row in rows)
    statistic = f"{broken:,} of {cases:,} random cases beyond rounding"
    return Claim(statement, statistic, "not reproduced" if broken else "reproduced", source)
