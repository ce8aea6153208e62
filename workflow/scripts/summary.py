"""Gather the comparisons of one network, of all its replicates, into one file."""

import xarray as xr
from _job import job

from diagfim import arrays

with job(snakemake) as this:
    parts = [arrays.groups_of(path) for path in snakemake.input.comparisons]
    groups = {}
    for kind in parts[0]:
        some = [part[kind] for part in parts]
        if kind == "fixed":
            # Every replicate has its own inputs: number them, and keep which they are.
            some = [
                one.assign_coords(position=("input", one["input"].values)).drop_vars("input")
                for one in some
            ]
        groups[kind] = xr.concat(some, dim="replicate")
    spectra = []
    for path in snakemake.input.spectra:
        with arrays.read(path) as tree:
            spectra.append(tree.to_dataset().load().drop_attrs())
    if spectra:
        groups["spectra"] = xr.concat(spectra, dim="replicate")
    network = snakemake.wildcards.network
    arrays.write(
        snakemake.output[0],
        groups,
        f"Empirical against exact variances against bounds of {network}, all replicates",
        {"network": network, "replicates": len(parts)},
        this.about,
    )
