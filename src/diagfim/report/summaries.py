"""Numbers that stand for many: what tables print over the replicates."""

import xarray as xr


def spread(values: xr.DataArray) -> dict[str, float]:
    """Median, least and greatest of all values, as the template prints them."""
    return {
        "median": float(values.median()),
        "least": float(values.min()),
        "greatest": float(values.max()),
    }
