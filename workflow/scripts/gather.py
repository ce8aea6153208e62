"""Gather the replicates of one experiment into one file, group by group."""

import xarray as xr
from _job import job

from diagfim import arrays

with job(snakemake) as this:
    parts = [arrays.groups_of(path) for path in snakemake.input]
    with arrays.read(snakemake.input[0]) as tree:
        title = tree.attrs["title"]
    groups = {
        name: xr.concat([part[name].drop_attrs() for part in parts], dim="replicate")
        for name in parts[0]
    }
    settings = {"replicates": len(parts)}
    arrays.write(snakemake.output[0], groups, f"{title}; all replicates", settings, this.about)
